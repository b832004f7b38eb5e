//! Names: a name's way through cluster DNS as a pod's resolver would go it, by the records that nodes would serve. Pure.
//!
//! A pod has the search list `NAMESPACE.svc.DOMAIN`, `svc.DOMAIN`, `DOMAIN` and `ndots:5` (dnsPolicy ClusterFirst). What
//! is no name of the cluster is forwarded, and what upstream would answer cannot be known here; but nobody out there has a
//! name of one label, or one that ends in a namespace of ours.

use std::net::IpAddr;

use portolan_dns::rdata::Rdata;
use portolan_dns::records::Found;
use portolan_dns::{Name, Records, Rtype};
use portolan_model::{Family, Snapshot};
use portolan_story::evidence::{DnsQuery, DnsTold};

use crate::failure::Failure;

/// Dots from which a name is tried as it is first (`ndots`).
const NDOTS: usize = 5;
/// CNAMEs in a row.
const MOST_ALIASES: usize = 8;

/// What the cluster's DNS knows.
pub struct Zones<'a> {
    /// Names that nodes answer for.
    pub records: &'a Records,
    /// The cluster: its namespaces.
    pub snapshot: &'a Snapshot,
}

impl Zones<'_> {
    /// No server out there has such a name.
    fn is_ours_alone(&self, full: &str) -> bool {
        let last = full.rsplit('.').next().unwrap_or_default();
        !full.contains('.') || last == "svc" || self.snapshot.namespaces.contains(last)
    }
}

/// What a query gives.
enum Answer {
    /// Addresses, perhaps none, with the names that aliases led through and the lowest TTL.
    Here { addresses: Vec<IpAddr>, aliases: Vec<String>, ttl_secs: Option<u32> },
    /// No such name.
    Nothing,
    /// Upstream is asked.
    Elsewhere,
}

/// Asks for `name` as a pod in `namespace` would, of the server at `server`.
///
/// # Errors
/// It is forwarded, so nobody knows the answer here.
pub fn asked(
    name: &str,
    namespace: &str,
    server: IpAddr,
    zones: &Zones<'_>,
    families: &[Family],
) -> Result<DnsTold, Failure> {
    let records = zones.records;
    let mut told = DnsTold { name: name.to_owned(), ..DnsTold::default() };
    for full in candidates(name, namespace, records) {
        let mut addresses = Vec::new();
        for family in families {
            let rtype = if *family == Family::V4 { Rtype::A } else { Rtype::AAAA };
            let (query, found) = one(&full, rtype, server, zones).ok_or_else(|| elsewhere(name, &full))?;
            told.queries.push(query);
            addresses.extend(found);
        }
        if !addresses.is_empty() {
            told.addresses = addresses;
            break;
        }
    }
    Ok(told)
}

fn elsewhere(name: &str, full: &str) -> Failure {
    let asked = if name.trim_end_matches('.') == full { String::new() } else { format!(" (asked for as {full})") };
    Failure::no(format!(
        "{name}{asked} is no name of the cluster, and what other servers answer cannot be foreseen; give its ADDRESS:PORT, or `portolan trace` it"
    ))
}

/// `None`: upstream is asked.
fn one(full: &str, rtype: Rtype, server: IpAddr, zones: &Zones<'_>) -> Option<(DnsQuery, Vec<IpAddr>)> {
    let answer = answer(full, rtype, zones.records);
    let (code, addresses, aliases, ttl_secs) = match answer {
        Answer::Elsewhere if !zones.is_ours_alone(full) => return None,
        Answer::Elsewhere | Answer::Nothing => ("NXDOMAIN", Vec::new(), Vec::new(), None),
        Answer::Here { addresses, aliases, ttl_secs } => ("NOERROR", addresses, aliases, ttl_secs),
    };
    let record = if rtype == Rtype::A { "A" } else { "AAAA" };
    let query = DnsQuery {
        name: full.to_owned(),
        record: record.to_owned(),
        server,
        answer: code.to_owned(),
        aliases,
        addresses: addresses.clone(),
        ttl_secs,
        took_us: 0,
    };
    Some((query, addresses))
}

/// Full names in the order in which they are tried, without the final dot.
fn candidates(name: &str, namespace: &str, records: &Records) -> Vec<String> {
    if let Some(full) = name.strip_suffix('.') {
        return vec![full.to_owned()];
    }
    let zone = records.config().zone.to_string();
    let domain = zone.trim_end_matches('.');
    let search = [format!("{namespace}.svc.{domain}"), format!("svc.{domain}"), domain.to_owned()];
    let mut all: Vec<String> = search.iter().map(|suffix| format!("{name}.{suffix}")).collect();
    let at = if name.matches('.').count() >= NDOTS { 0 } else { all.len() };
    all.insert(at, name.to_owned());
    all
}

fn answer(full: &str, rtype: Rtype, records: &Records) -> Answer {
    let mut name = full.to_owned();
    let mut aliases = Vec::new();
    let mut lowest: Option<u32> = None;
    for _ in 0..MOST_ALIASES {
        let Ok(parsed) = Name::parse(&name) else { return Answer::Nothing };
        if !records.is_in_zone(&parsed) {
            return Answer::Elsewhere;
        }
        let node = match records.find(&parsed) {
            Found::Node(node) => node,
            Found::Pod(addr, _) => {
                let fits = Rtype::of_addr(addr) == rtype;
                return Answer::Here {
                    addresses: fits.then_some(addr).into_iter().collect(),
                    aliases,
                    ttl_secs: lowest,
                };
            }
            Found::Below(_) => return Answer::Here { addresses: Vec::new(), aliases, ttl_secs: None },
            Found::Nothing => return Answer::Nothing,
        };
        if let Some(set) = node.set(rtype) {
            let addresses = set.data.iter().filter_map(address).collect();
            let ttl_secs = Some(lowest.map_or(set.ttl_secs, |ttl| ttl.min(set.ttl_secs)));
            return Answer::Here { addresses, aliases, ttl_secs };
        }
        let Some(set) = node.set(Rtype::CNAME) else {
            return Answer::Here { addresses: Vec::new(), aliases, ttl_secs: None };
        };
        let Some(Rdata::Cname(target)) = set.data.first() else { return Answer::Nothing };
        lowest = Some(lowest.map_or(set.ttl_secs, |ttl| ttl.min(set.ttl_secs)));
        name = target.to_string().trim_end_matches('.').to_owned();
        aliases.push(name.clone());
    }
    Answer::Nothing
}

fn address(data: &Rdata) -> Option<IpAddr> {
    match data {
        Rdata::A(addr) => Some(IpAddr::V4(*addr)),
        Rdata::Aaaa(addr) => Some(IpAddr::V6(*addr)),
        _ => None,
    }
}
