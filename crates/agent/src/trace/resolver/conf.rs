//! What resolv.conf and hosts say to a program, as the C library reads them.

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use portolan_dns::resolvconf;

/// `MAXNS`: servers after these are not asked.
const MAX_SERVERS: usize = 3;
/// `RES_MAXNDOTS`, `RES_TIMEOUT`, `RES_MAXRETRANS` of resolv.h.
const MAX_NDOTS: usize = 15;
const TIMEOUT_SECS: u64 = 5;
const MAX_TIMEOUT_SECS: u64 = 30;

/// A resolv.conf.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::trace) struct Conf {
    /// Asked in turn; the local host if the file names none.
    pub(in crate::trace) servers: Vec<IpAddr>,
    search: Vec<String>,
    ndots: usize,
    /// How long one server has.
    pub(in crate::trace) timeout: Duration,
}

impl Conf {
    pub(in crate::trace) fn parse(text: &str) -> Conf {
        let (mut file, _) = resolvconf::parse(text);
        file.nameservers.truncate(MAX_SERVERS);
        if file.nameservers.is_empty() {
            file.nameservers.push(Ipv4Addr::LOCALHOST.into());
        }
        let number = |key: &str| {
            let values = file.options.iter().filter_map(|option| option.strip_prefix(key)?.strip_prefix(':'));
            values.filter_map(|value| value.parse::<u64>().ok()).next_back()
        };
        let ndots = number("ndots").map_or(1, |ndots| usize::try_from(ndots).unwrap_or(MAX_NDOTS).min(MAX_NDOTS));
        let timeout = Duration::from_secs(number("timeout").unwrap_or(TIMEOUT_SECS).clamp(1, MAX_TIMEOUT_SECS));
        Conf { servers: file.nameservers, search: file.search, ndots, timeout }
    }

    /// The full names to ask for, in order, no final dots: the name itself first if it has enough dots, else last.
    pub(super) fn candidates(&self, name: &str) -> Vec<String> {
        if name.trim_end_matches('.').is_empty() {
            return Vec::new();
        }
        if let Some(whole) = name.strip_suffix('.') {
            return vec![whole.to_owned()];
        }
        let below = |domain: &String| match domain.trim_end_matches('.') {
            "" => name.to_owned(),
            domain => format!("{name}.{domain}"),
        };
        let mut candidates: Vec<String> = Vec::new();
        let searched = self.search.iter().map(below);
        let bare = std::iter::once(name.to_owned());
        let has_dots = name.matches('.').count() >= self.ndots;
        let ordered: Vec<String> =
            if has_dots { bare.chain(searched).collect() } else { searched.chain(bare).collect() };
        for candidate in ordered {
            if !candidates.contains(&candidate) {
                candidates.push(candidate);
            }
        }
        candidates
    }
}

/// Addresses of a name in a hosts file, in its order; the whole name, in any case.
pub(super) fn in_hosts(text: &str, name: &str) -> Vec<IpAddr> {
    let name = name.trim_end_matches('.');
    let address_of = |line: &str| {
        let mut words = line.split('#').next()?.split_whitespace();
        let address = words.next()?.parse().ok()?;
        words.any(|word| word.eq_ignore_ascii_case(name)).then_some(address)
    };
    text.lines().filter_map(address_of).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_order_of_candidates_follows_ndots_search_and_a_final_dot() {
        let pod = "search default.svc.cluster.local svc.cluster.local cluster.local\nnameserver 10.96.0.10\noptions ndots:5\n";
        let node = "nameserver 192.0.2.1\nnameserver 192.0.2.2\nsearch lan.example .\n";
        let rows: [(&str, &str, &[&str]); 6] = [
            (pod, "web", &["web.default.svc.cluster.local", "web.svc.cluster.local", "web.cluster.local", "web"]),
            (
                pod,
                "web.shop.svc.cluster.local",
                &[
                    "web.shop.svc.cluster.local.default.svc.cluster.local",
                    "web.shop.svc.cluster.local.svc.cluster.local",
                    "web.shop.svc.cluster.local.cluster.local",
                    "web.shop.svc.cluster.local",
                ],
            ),
            (pod, "web.shop.", &["web.shop"]),
            (node, "web", &["web.lan.example", "web"]),
            (node, "www.example", &["www.example", "www.example.lan.example"]),
            ("", "web", &["web"]),
        ];
        for (file, name, expected) in rows {
            assert_eq!(Conf::parse(file).candidates(name), expected, "{name}");
        }
    }

    #[test]
    fn a_file_gives_servers_and_time_within_the_c_librarys_limits() {
        let conf = Conf::parse("nameserver 10.96.0.10\noptions ndots:99 timeout:2\noptions ndots:bad\n");
        assert_eq!((conf.ndots, conf.timeout), (15, Duration::from_secs(2)));
        let many = Conf::parse("nameserver ::1\nnameserver 192.0.2.1\nnameserver 192.0.2.2\nnameserver 192.0.2.3\n");
        assert_eq!(many.servers.len(), 3);
        let none = Conf::parse("");
        assert_eq!((none.servers, none.timeout), (vec![IpAddr::from([127, 0, 0, 1])], Duration::from_secs(5)));
    }

    #[test]
    fn a_hosts_file_is_read_by_whole_names_in_any_case() {
        let text = "127.0.0.1\tlocalhost\n::1 localhost # web\n10.244.0.5\tweb-1.s web-1\nnonsense web-1\n";
        let found = |name: &str| in_hosts(text, name).iter().map(IpAddr::to_string).collect::<Vec<_>>();
        assert_eq!(found("localhost"), ["127.0.0.1", "::1"]);
        assert_eq!(found("WEB-1."), ["10.244.0.5"]);
        assert!(found("web").is_empty() && found("").is_empty());
    }
}
