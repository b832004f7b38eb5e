//! `hosts`: names and addresses as /etc/hosts writes them, from a file, from the block, or both.
//!
//! A, AAAA and PTR. A name that is there without the asked type is absent without an SOA, as there is no zone; one that is
//! not there falls through, or is SERVFAIL, since nobody can say that it does not exist. `*.example.org` stands for the
//! names one label below.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::net::IpAddr;

use super::{Said, Zones};
use crate::build::{Reply, Rr};
use crate::corefile::config::{Fallthrough, HostsConfig};
use crate::name::{Key, MAX_NAME, Name, key_into, labels};
use crate::rdata::{Rdata, Rtype};
use crate::wire::{Query, Rcode};

/// A block's hosts, by name and by address.
#[derive(Clone, Debug)]
pub struct Hosts {
    zones: Zones,
    fallthrough: Fallthrough,
    ttl_secs: u32,
    names: BTreeMap<Key, Vec<IpAddr>>,
    /// By the name that `*.` stands before.
    wild: BTreeMap<Key, Vec<IpAddr>>,
    /// By the key of the reverse name.
    pointers: BTreeMap<Key, Vec<Name>>,
}

impl Hosts {
    /// `file` is the text of the file that the configuration names, if it could be read.
    pub fn prepare(config: &HostsConfig, zones: &[Name], file: Option<&str>) -> Self {
        let mut hosts = Self {
            zones: Zones::of(&config.zones, zones),
            fallthrough: config.fallthrough.clone(),
            ttl_secs: config.ttl_secs,
            names: BTreeMap::new(),
            wild: BTreeMap::new(),
            pointers: BTreeMap::new(),
        };
        let inline = config.inline.iter().map(String::as_str);
        for line in file.into_iter().flat_map(str::lines).chain(inline) {
            hosts.add(line, config.no_reverse);
        }
        hosts
    }

    /// How many entries it has: addresses of names, and names of addresses.
    pub fn len(&self) -> usize {
        let addresses = self.names.values().chain(self.wild.values()).map(Vec::len);
        addresses.sum::<usize>() + self.pointers.values().map(Vec::len).sum::<usize>()
    }

    /// Whether there is no entry.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The answer, or that the query goes on.
    pub fn say(&self, query: &Query<'_>) -> Said<'static> {
        let mut buffer = [0; MAX_NAME];
        let key = key_into(query.name, &mut buffer);
        let Some(owner) = Name::from_wire(query.name) else { return Said::Next };
        if query.rtype == Rtype::PTR {
            // Reverse names need no zone of their own; one that is not there is always another's.
            return match self.pointers.get(key) {
                Some(names) => self.reply(&owner, Rtype::PTR, names.iter().map(|name| Rdata::Ptr(name.clone()))),
                None => Said::Next,
            };
        }
        if self.zones.holding(key).is_none() {
            return Said::Next;
        }
        match self.addresses(key, query.name) {
            Some(found) => {
                let fitting = found.iter().filter(|addr| Rtype::of_addr(**addr) == query.rtype);
                self.reply(&owner, query.rtype, fitting.map(|addr| Rdata::addr(*addr)))
            }
            None if self.fallthrough.lets(query.name) => Said::Next,
            None => Said::Reply(Reply::new(Rcode::SERVFAIL)),
        }
    }

    fn addresses(&self, key: &[u8], name: &[u8]) -> Option<&[IpAddr]> {
        let exact = self.names.get(key);
        // The key of the parent is that of the name without its last label and that label's length.
        let wild = || {
            let first = labels(name).next()?;
            self.wild.get(&key[..key.len() - first.len() - 1])
        };
        exact.or_else(wild).map(Vec::as_slice)
    }

    fn reply(&self, owner: &Name, rtype: Rtype, data: impl Iterator<Item = Rdata>) -> Said<'static> {
        let mut reply = Reply { authoritative: true, recursion_available: true, ..Reply::new(Rcode::NOERROR) };
        reply.answers = data.map(|data| Rr::internet(owner, rtype, self.ttl_secs, Cow::Owned(data))).collect();
        Said::Reply(reply)
    }

    /// One line; one that is no address with names is skipped, as the C library does.
    fn add(&mut self, line: &str, no_reverse: bool) {
        let mut words = line.split('#').next().unwrap_or_default().split_whitespace();
        let addr = words.next().and_then(|word| word.split('%').next()).and_then(|word| word.parse().ok());
        let Some(addr) = addr.map(|addr: IpAddr| addr.to_canonical()) else { return };
        for name in words.filter_map(|word| Name::parse(&word.to_ascii_lowercase()).ok()) {
            let key = name.key();
            if self.zones.holding(key.as_bytes()).is_none() {
                continue;
            }
            let first = labels(name.as_wire()).next().unwrap_or_default();
            if first == b"*" {
                let parent = Key::of(&name.as_wire()[2..]);
                push_new(self.wild.entry(parent).or_default(), addr);
                continue;
            }
            push_new(self.names.entry(key).or_default(), addr);
            if !no_reverse {
                push_new(self.pointers.entry(Name::reverse(addr).key()).or_default(), name);
            }
        }
    }
}

fn push_new<T: PartialEq>(list: &mut Vec<T>, item: T) {
    if !list.contains(&item) {
        list.push(item);
    }
}
