//! `local`: names that mean the client's own machine are answered here and never asked of others: `localhost`, all below it,
//! names that begin with `localhost.` (a search list makes those), and the reverse zones of 0/8, 127/8 and 255/8.
//!
//! Spec: RFC 6761 §6.3, RFC 6303; TTLs and the legacy prefix as CoreDNS has them.

use std::borrow::Cow;
use std::net::{Ipv4Addr, Ipv6Addr};

use super::Said;
use crate::build::{Reply, Rr};
use crate::name::{Name, labels};
use crate::rdata::{Rdata, Rtype, Soa};
use crate::wire::{Query, Rcode};

/// A week.
const TTL_SECS: u32 = 604_800;

/// The answer for a local name; anything else goes on.
pub fn say(query: &Query<'_>) -> Said<'static> {
    let name: Vec<Vec<u8>> = labels(query.name).map(<[u8]>::to_ascii_lowercase).collect();
    let name: Vec<&[u8]> = name.iter().map(Vec::as_slice).collect();
    let Some(owner) = Name::from_wire(query.name) else { return Said::Next };
    let of = |rtype, data| Said::Reply(answer(&owner, rtype, data));
    match (name.as_slice(), query.rtype) {
        ([b"localhost"] | [b"0" | b"127" | b"255", b"in-addr", b"arpa"], Rtype::SOA) => of(Rtype::SOA, soa()),
        ([b"localhost"] | [b"0" | b"127" | b"255", b"in-addr", b"arpa"], Rtype::NS) => {
            of(Rtype::NS, Rdata::Ns(localhost()))
        }
        ([b"localhost", ..] | [.., b"localhost"], Rtype::A) => of(Rtype::A, Rdata::A(Ipv4Addr::LOCALHOST)),
        ([b"localhost", ..] | [.., b"localhost"], Rtype::AAAA) => of(Rtype::AAAA, Rdata::Aaaa(Ipv6Addr::LOCALHOST)),
        ([b"localhost", ..] | [.., b"localhost"], _) => absent(&owner, Rcode::NOERROR),
        ([b"0" | b"127" | b"255", b"in-addr", b"arpa"], _) => absent(&owner, Rcode::NOERROR),
        ([b"1", b"0", b"0", b"127", b"in-addr", b"arpa"], Rtype::PTR) => of(Rtype::PTR, Rdata::Ptr(localhost())),
        ([b"1", b"0", b"0", b"127", b"in-addr", b"arpa"], _) => absent(&apex(&name), Rcode::NOERROR),
        ([.., b"0" | b"127" | b"255", b"in-addr", b"arpa"], _) => absent(&apex(&name), Rcode::NXDOMAIN),
        _ => Said::Next,
    }
}

/// The last three labels of a reverse name.
fn apex(name: &[&[u8]]) -> Name {
    let labels = name[name.len() - 3..].iter().map(|label| String::from_utf8_lossy(label).into_owned());
    Name::parse(&labels.collect::<Vec<_>>().join(".")).expect("a reverse zone of ours")
}

fn localhost() -> Name {
    Name::parse("localhost").expect("one label")
}

fn answer(owner: &Name, rtype: Rtype, data: Rdata) -> Reply<'static> {
    let mut reply = reply(Rcode::NOERROR);
    reply.answers.push(Rr::internet(owner, rtype, TTL_SECS, Cow::Owned(data)));
    reply
}

fn absent(zone: &Name, rcode: Rcode) -> Said<'static> {
    let mut reply = reply(rcode);
    reply.authority.push(Rr::internet(zone, Rtype::SOA, TTL_SECS, Cow::Owned(soa())));
    Said::Reply(reply)
}

fn reply(rcode: Rcode) -> Reply<'static> {
    Reply { authoritative: true, recursion_available: true, ..Reply::new(rcode) }
}

fn soa() -> Rdata {
    Rdata::Soa(Soa {
        mname: localhost(),
        rname: Name::parse("root.localhost").expect("two labels"),
        serial: 1,
        refresh_secs: 0,
        retry_secs: 0,
        expire_secs: 0,
        minimum_secs: TTL_SECS,
    })
}
