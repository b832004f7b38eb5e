//! What a bridge forwards from port to port: one nf_tables table of family `bridge`, written whole.
//!
//! ```text
//!  table bridge NAME { chain forward { type filter hook forward priority -200;
//!      iifname "a" oifname "b" drop
//!      iifname "b" oifname "a" drop } }
//! ```
//!
//! A flooded frame passes the hook once for each port it would leave by, so a rule by names of ports stops unicast, ARP
//! and neighbour discovery alike. Ports need not exist: a rule waits for a port of that name. Spec: nf_tables.h; the
//! table is replaced in one transaction, so no frame sees half of it.

use std::io;

use netlink_sys::protocols::NETLINK_NETFILTER;
use netlink_sys::{Socket, SocketAddr};

/// Why the table was not written.
#[derive(Debug, thiserror::Error)]
pub enum BridgeError {
    #[error("netlink socket: {step}: {source}")]
    Socket { step: &'static str, source: io::Error },
    #[error("the kernel takes no rules for its bridge: {source}; they need CONFIG_NF_TABLES_BRIDGE")]
    Refused { source: io::Error },
}

/// Makes `table` drop what goes between the two ports of each pair, in both directions, and nothing else. No pairs: no table.
///
/// In the network namespace of the calling thread.
pub fn drop_between(table: &str, pairs: &[(String, String)]) -> Result<(), BridgeError> {
    let failed = |step| move |source| BridgeError::Socket { step, source };
    let mut socket = Socket::new(NETLINK_NETFILTER).map_err(failed("open"))?;
    socket.bind_auto().map_err(failed("bind"))?;
    socket.connect(&SocketAddr::new(0, 0)).map_err(failed("connect"))?;
    let (bytes, last) = transaction(table, pairs);
    let sent = socket.send(&bytes, 0).map_err(failed("send"))?;
    if sent != bytes.len() {
        return Err(failed("send")(io::ErrorKind::WriteZero.into()));
    }
    loop {
        let (answer, _) = socket.recv_from_full().map_err(failed("receive"))?;
        for (sequence, code) in errors(&answer) {
            if code != 0 {
                return Err(BridgeError::Refused { source: io::Error::from_raw_os_error(-code) });
            }
            if sequence == last {
                return Ok(());
            }
        }
    }
}

const NFPROTO_UNSPEC: u8 = 0;
const NFPROTO_BRIDGE: u8 = 7;
const SUBSYS_NFTABLES: u16 = 10;
const BATCH_BEGIN: u16 = 0x10;
const BATCH_END: u16 = 0x11;
const NEW_TABLE: u16 = SUBSYS_NFTABLES << 8;
const DELETE_TABLE: u16 = SUBSYS_NFTABLES << 8 | 2;
const NEW_CHAIN: u16 = SUBSYS_NFTABLES << 8 | 3;
const NEW_RULE: u16 = SUBSYS_NFTABLES << 8 | 6;

const REQUEST: u16 = 0x1;
const ACK: u16 = 0x4;
const CREATE: u16 = 0x400;
const APPEND: u16 = 0x800;

const CHAIN: &str = "forward";
const HOOK_FORWARD: u32 = 2;
/// `NF_BR_PRI_FILTER_BRIDGED`, as ebtables' filter table.
const PRIORITY: i32 = -200;
/// Names of links are compared with all their bytes.
const NAME_BYTES: usize = 16;

/// The messages, and the number of the one that is acknowledged.
fn transaction(table: &str, pairs: &[(String, String)]) -> (Vec<u8>, u32) {
    let named = Attributes::default().text(1, table);
    // Deleting needs something to be there.
    let mut steps = vec![(NEW_TABLE, CREATE, named.clone()), (DELETE_TABLE, 0, named.clone())];
    if !pairs.is_empty() {
        steps.push((NEW_TABLE, CREATE, named));
        steps.push((NEW_CHAIN, CREATE, chain(table)));
        let both = pairs.iter().flat_map(|(a, b)| [(a, b), (b, a)]);
        steps.extend(both.map(|(from, to)| (NEW_RULE, CREATE | APPEND, rule(table, from, to))));
    }
    let last = steps.len() as u32;
    let mut bytes = Vec::new();
    message(&mut bytes, BATCH_BEGIN, REQUEST, 0, &Attributes::default());
    for (sequence, (kind, flags, attributes)) in (1..).zip(steps) {
        // The end of a batch is acknowledged by new kernels only, a message in it by all.
        let ack = if sequence == last { ACK } else { 0 };
        message(&mut bytes, kind, REQUEST | flags | ack, sequence, &attributes);
    }
    message(&mut bytes, BATCH_END, REQUEST, last + 1, &Attributes::default());
    (bytes, last)
}

fn chain(table: &str) -> Attributes {
    let hook = Attributes::default().number(1, HOOK_FORWARD).number(2, PRIORITY.cast_unsigned());
    Attributes::default().text(1, table).text(3, CHAIN).nested(4, &hook).text(7, "filter")
}

fn rule(table: &str, from: &str, to: &str) -> Attributes {
    const IIFNAME: u32 = 6;
    const OIFNAME: u32 = 7;
    let verdict = Attributes::default().number(1, 0); // NF_DROP
    let drop = Attributes::default().number(1, 0).nested(2, &Attributes::default().nested(2, &verdict));
    let expressions = [
        expression("meta", &load(IIFNAME)),
        expression("cmp", &equals(from)),
        expression("meta", &load(OIFNAME)),
        expression("cmp", &equals(to)),
        expression("immediate", &drop),
    ];
    let list = expressions.iter().fold(Attributes::default(), |list, one| list.nested(1, one));
    Attributes::default().text(1, table).text(2, CHAIN).nested(4, &list)
}

const REGISTER_1: u32 = 1;

fn load(key: u32) -> Attributes {
    Attributes::default().number(1, REGISTER_1).number(2, key)
}

fn equals(name: &str) -> Attributes {
    let mut padded = [0; NAME_BYTES];
    let length = name.len().min(NAME_BYTES - 1); // the kernel takes no longer names for links
    padded[..length].copy_from_slice(&name.as_bytes()[..length]);
    let value = Attributes::default().bytes(1, &padded);
    Attributes::default().number(1, REGISTER_1).number(2, 0).nested(3, &value)
}

fn expression(name: &str, data: &Attributes) -> Attributes {
    Attributes::default().text(1, name).nested(2, data)
}

/// Netlink attributes, one after another. Numbers are big-endian, as nf_tables has them.
#[derive(Clone, Debug, Default, PartialEq)]
struct Attributes(Vec<u8>);

impl Attributes {
    fn bytes(mut self, kind: u16, value: &[u8]) -> Attributes {
        self.0.extend((value.len() as u16 + 4).to_ne_bytes());
        self.0.extend(kind.to_ne_bytes());
        self.0.extend(value);
        self.0.resize(self.0.len().next_multiple_of(4), 0);
        self
    }

    fn number(self, kind: u16, value: u32) -> Attributes {
        self.bytes(kind, &value.to_be_bytes())
    }

    fn text(self, kind: u16, value: &str) -> Attributes {
        self.bytes(kind, &[value.as_bytes(), &[0]].concat())
    }

    fn nested(self, kind: u16, inner: &Attributes) -> Attributes {
        const NESTED: u16 = 0x8000;
        self.bytes(kind | NESTED, &inner.0)
    }
}

/// Appends `struct nlmsghdr`, `struct nfgenmsg` and the attributes.
fn message(bytes: &mut Vec<u8>, kind: u16, flags: u16, sequence: u32, attributes: &Attributes) {
    let is_bound = matches!(kind, BATCH_BEGIN | BATCH_END);
    let (family, resource) = if is_bound { (NFPROTO_UNSPEC, SUBSYS_NFTABLES) } else { (NFPROTO_BRIDGE, 0) };
    bytes.extend((20 + attributes.0.len() as u32).to_ne_bytes());
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(flags.to_ne_bytes());
    bytes.extend(sequence.to_ne_bytes());
    bytes.extend([0; 4]);
    bytes.extend([family, 0]);
    bytes.extend(resource.to_be_bytes());
    bytes.extend(&attributes.0);
}

/// Sequence number and code of each acknowledgement in a datagram; 0 is success.
fn errors(datagram: &[u8]) -> Vec<(u32, i32)> {
    const ERROR: u16 = 2;
    let word = |at: usize| datagram.get(at..at + 4).map(|b| u32::from_ne_bytes(b.try_into().expect("four bytes")));
    let mut found = Vec::new();
    let mut at = 0;
    while let (Some(length), Some(kind), Some(sequence)) = (word(at), word(at + 4), word(at + 8)) {
        if kind as u16 == ERROR
            && let Some(code) = word(at + 16)
        {
            found.push((sequence, code.cast_signed()));
        }
        at += (length as usize).max(16).next_multiple_of(4);
    }
    found
}

#[cfg(test)]
mod tests {
    use std::net::{SocketAddr, UdpSocket};
    use std::os::fd::{AsFd, OwnedFd};
    use std::time::Duration;

    use super::*;
    use crate::netlink::{Netlink, VethSpec};
    use crate::netns;

    /// A bridge with three hosts, 192.0.2.1 to .3, ports `p1` to `p3`.
    struct Lan {
        bridge: OwnedFd,
        hosts: Vec<OwnedFd>,
    }

    impl Lan {
        fn new() -> Lan {
            let bridge = netns::create().unwrap();
            let hosts: Vec<OwnedFd> = (0..3).map(|_| netns::create().unwrap()).collect();
            netns::run_in(bridge.as_fd(), || {
                let mut netlink = Netlink::open().unwrap();
                netlink.create_bridge("lan0").unwrap();
                let lan = netlink.link("lan0").unwrap().index;
                netlink.set_up(lan).unwrap();
                for (number, host) in (1..).zip(&hosts) {
                    let name = format!("p{number}");
                    let spec = VethSpec {
                        name: &name,
                        peer_name: "eth0",
                        peer_netns: Some(host.as_fd()),
                        mac: None,
                        peer_mac: None,
                        mtu_bytes: 1500,
                    };
                    netlink.create_veth(&spec).unwrap();
                    let port = netlink.link(&name).unwrap().index;
                    netlink.set_master(port, lan).unwrap();
                    netlink.set_up(port).unwrap();
                }
            })
            .unwrap();
            for (number, host) in (1..).zip(&hosts) {
                netns::run_in(host.as_fd(), || {
                    let mut netlink = Netlink::open().unwrap();
                    let eth0 = netlink.link("eth0").unwrap().index;
                    netlink.set_up(eth0).unwrap();
                    netlink.add_addr(eth0, format!("192.0.2.{number}/24").parse().unwrap()).unwrap();
                })
                .unwrap();
            }
            Lan { bridge, hosts }
        }

        fn socket(&self, number: usize) -> UdpSocket {
            let address: SocketAddr = format!("192.0.2.{number}:0").parse().unwrap();
            netns::run_in(self.hosts[number - 1].as_fd(), || UdpSocket::bind(address).unwrap()).unwrap()
        }

        /// Whether one of some datagrams arrives; each waits a little.
        fn passes(&self, from: usize, to: usize, tries: usize) -> bool {
            let (sender, receiver) = (self.socket(from), self.socket(to));
            receiver.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
            (0..tries).any(|_| {
                // A host whose neighbour does not answer ARP is told so by the next send.
                let _ = sender.send_to(b"x", receiver.local_addr().unwrap());
                receiver.recv(&mut [0; 8]).is_ok()
            })
        }

        fn drop_between(&self, pairs: &[(&str, &str)]) {
            let pairs: Vec<_> = pairs.iter().map(|(a, b)| ((*a).to_owned(), (*b).to_owned())).collect();
            netns::run_in(self.bridge.as_fd(), || drop_between("ptl-test", &pairs).unwrap()).unwrap();
        }
    }

    const PATIENT: usize = 50;
    const SHORT: usize = 5;

    #[test]
    fn only_the_pairs_named_are_cut_both_ways_and_all_is_as_before_without_pairs() {
        let lan = Lan::new();
        assert!(lan.passes(1, 2, PATIENT) && lan.passes(2, 3, PATIENT));
        lan.drop_between(&[("p1", "p2")]);
        assert!(!lan.passes(1, 2, SHORT) && !lan.passes(2, 1, SHORT));
        assert!(lan.passes(1, 3, PATIENT) && lan.passes(3, 2, PATIENT));
        // Written whole: the new pairs take the place of the old ones.
        lan.drop_between(&[("p2", "p3"), ("p3", "p9")]);
        assert!(lan.passes(1, 2, PATIENT) && !lan.passes(2, 3, SHORT));
        lan.drop_between(&[]);
        lan.drop_between(&[]);
        assert!(lan.passes(2, 3, PATIENT));
    }

    #[test]
    fn hundreds_of_pairs_are_one_transaction() {
        let lan = Lan::new();
        let pairs: Vec<(String, String)> = (0..100).map(|n| ("p1".to_owned(), format!("q{n}"))).collect();
        let all: Vec<_> = pairs.iter().map(|(a, b)| (a.as_str(), b.as_str())).chain([("p1", "p2")]).collect();
        lan.drop_between(&all);
        assert!(!lan.passes(1, 2, SHORT) && lan.passes(1, 3, PATIENT));
    }

    #[test]
    fn attributes_are_padded_and_their_length_is_without_the_padding() {
        let made = Attributes::default().text(3, "ab").number(1, 7).nested(4, &Attributes::default().number(2, 1));
        let length = |n: u16| n.to_ne_bytes();
        let expected = [
            &length(7)[..],
            &length(3),
            b"ab\0\0",
            &length(8),
            &length(1),
            &[0, 0, 0, 7],
            &length(12),
            &length(0x8004),
            &length(8),
            &length(2),
            &[0, 0, 0, 1],
        ]
        .concat();
        assert_eq!(made.0, expected);
    }
}
