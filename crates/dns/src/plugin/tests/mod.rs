//! Each room asked by itself; configurations are written as Corefiles.

mod hosts;
mod law;
mod rewrite;
mod rrl;
mod small;
mod template;
mod told;

use std::net::IpAddr;

use super::Said;
use crate::build::{Reply, Rr};
use crate::corefile::{Block, Sources, read};
use crate::master;
use crate::name::Name;
use crate::rdata::Rtype;
use crate::wire::{Query, ask, question};

pub fn name(text: &str) -> Name {
    master::name(text).expect("a name in a test")
}

pub fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address in a test")
}

/// A block for `zones` with these lines.
pub fn block(zones: &str, lines: &str) -> Block {
    let text = format!("{zones} {{\n{lines}\n}}\n");
    let mut blocks = read(&text, &Sources::none()).unwrap_or_else(|found| panic!("{text}{found:?}")).blocks;
    blocks.remove(0)
}

/// Asks `room` for `name` and a type.
pub fn asked<T>(asked: &str, rtype: &str, room: impl FnOnce(&Query<'_>) -> T) -> T {
    let packet = ask(7, &question(&name(asked), Rtype::parse(rtype).expect("a type in a test")), false, None);
    room(&Query::parse(&packet).expect("a query of ours"))
}

/// A record as a zone file writes it.
pub fn record(text: &str) -> Rr<'static> {
    let record = master::record(text).unwrap_or_else(|error| panic!("{text}: {error}"));
    Rr::internet(&record.owner, record.rtype, record.ttl_secs, std::borrow::Cow::Owned(record.data))
}

/// What was said, in short: the code and all records, or a word.
pub fn short(said: &Said<'_>) -> String {
    match said {
        Said::Reply(reply) => lines(reply),
        Said::Alias(links) => {
            let links = links.iter().map(|link| format!("{} {} -> {}", link.owner, link.ttl_secs, link.target));
            format!("ALIAS; {}", links.collect::<Vec<_>>().join("; "))
        }
        Said::Silence => "SILENCE".into(),
        Said::Next => "NEXT".into(),
    }
}

/// A reply's code and records: answers, then `/` and authority, then `+` and additional.
pub fn lines(reply: &Reply<'_>) -> String {
    let section = |mark: &str, records: &[Rr<'_>]| -> Vec<String> {
        let line = |rr: &Rr<'_>| format!("{mark}{} {} {} {}", rr.owner, rr.ttl_secs, rr.rtype, rr.data);
        records.iter().map(line).collect()
    };
    let all = [
        vec![reply.rcode.to_string()],
        section("", &reply.answers),
        section("/", &reply.authority),
        section("+", &reply.additional),
    ];
    all.concat().join("; ")
}
