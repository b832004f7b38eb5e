//! How a program on this network finds a name: its hosts file, then DNS with the search list, as the C library does it.
//!
//! ```text
//!  name ──► /etc/hosts ──► address, nobody asked
//!      └──► candidates (search list, ndots) ──► A and AAAA together, server after server ──► DnsTold
//! ```
//!
//! Every query is written down, also those that led nowhere. Each server is asked once where a C library would ask twice: a
//! second silence tells nothing new. [`find`] decides and [`ask`] does. Sources: resolv.conf(5), hosts(5); glibc's
//! `res_search` for what ends a search.

mod answer;
mod ask;
mod conf;

use std::net::IpAddr;

use portolan_dns::name::Name;
use portolan_model::Family;
use portolan_story::evidence::{DnsQuery, DnsTold};

pub(super) use ask::ask;
pub(super) use conf::Conf;

/// What a program there reads before it asks.
#[derive(Clone, Debug)]
pub(super) struct Files {
    /// Text of its `/etc/hosts`.
    pub(super) hosts: String,
    /// Its `/etc/resolv.conf`.
    pub(super) conf: Conf,
}

/// What the answers to one candidate mean for the search.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Round {
    Found,
    /// No such name, or no address of it: the next domain may have it.
    Elsewhere,
    /// No server said anything: the rest of the list is passed over.
    Failed,
}

/// Finds `name`. Addresses come in the order of `families`; empty means IPv4, then IPv6. `ask` asks one server for a name's
/// addresses, and answers with a query a family.
pub(super) fn find(
    name: &str,
    families: &[Family],
    files: &Files,
    mut ask: impl FnMut(IpAddr, &Name, &[Family]) -> Vec<DnsQuery>,
) -> DnsTold {
    let families = if families.is_empty() { &Family::BOTH } else { families };
    let mut told = DnsTold { name: name.to_owned(), ..DnsTold::default() };
    told.addresses = in_order(families, &conf::in_hosts(&files.hosts, name));
    told.hosts = !told.addresses.is_empty();
    if told.hosts {
        return told;
    }
    let mut given_up = false;
    for candidate in files.conf.candidates(name) {
        // Where servers failed, the name as it was given is tried all the same.
        if given_up && candidate != name {
            continue;
        }
        let Ok(wire) = Name::parse(&candidate) else { continue };
        match ask_servers(&files.conf.servers, &mut told.queries, |server| ask(server, &wire, families)) {
            Round::Found => {
                told.addresses = in_order(families, &addresses_of(&told.queries, &candidate));
                break;
            }
            Round::Elsewhere => {}
            Round::Failed => given_up = true,
        }
    }
    told
}

/// Asks until one server says something; all that was asked is added to `queries`.
fn ask_servers(servers: &[IpAddr], queries: &mut Vec<DnsQuery>, mut ask: impl FnMut(IpAddr) -> Vec<DnsQuery>) -> Round {
    let before = queries.len();
    for server in servers {
        let asked = ask(*server);
        let round = round_of(&asked);
        queries.extend(asked);
        if round != Round::Failed {
            return round;
        }
    }
    // A server that is in trouble answered all the same: it ends no search.
    let is_in_trouble = queries[before..].iter().any(|query| query.answer == "SERVFAIL");
    if is_in_trouble { Round::Elsewhere } else { Round::Failed }
}

fn round_of(queries: &[DnsQuery]) -> Round {
    if queries.iter().any(|query| !query.addresses.is_empty()) {
        return Round::Found;
    }
    let has_said = queries.iter().any(|query| matches!(query.answer.as_str(), "NOERROR" | "NXDOMAIN"));
    if has_said { Round::Elsewhere } else { Round::Failed }
}

fn addresses_of(queries: &[DnsQuery], candidate: &str) -> Vec<IpAddr> {
    let of_it = queries.iter().filter(|query| query.name.eq_ignore_ascii_case(candidate));
    of_it.flat_map(|query| query.addresses.iter().copied()).collect()
}

fn in_order(families: &[Family], addresses: &[IpAddr]) -> Vec<IpAddr> {
    let of = |family: &Family| {
        let family = *family;
        addresses.iter().copied().filter(move |address| Family::of(*address) == family)
    };
    families.iter().flat_map(of).collect()
}

#[cfg(test)]
mod tests;
