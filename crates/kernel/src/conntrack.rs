//! Flows as conntrack knows them, with both tuples, and their deletion.
//!
//! NAT rules see only a flow's first packet; what happens to the rest stands here: the original
//! tuple is what the client sent, the reply tuple what answers look like, and where the two are no
//! mirror images, an address was rewritten. Spec: `nfnetlink_conntrack.h`.

use std::net::IpAddr;

use netlink_packet_netfilter::conntrack::{
    ConntrackAttribute, ConntrackMessage, IPTuple, ProtoTuple, Status, Tuple as TupleAttribute,
};
use netlink_packet_netfilter::{NetfilterHeader, NetfilterMessage, NetfilterMessageInner, NetfilterProtoFamily};
use netlink_sys::protocols::NETLINK_NETFILTER;

use crate::nlsock::{Refused, Socket, SocketError};

/// One direction of a flow. Ports are 0 for protocols without ports.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Tuple {
    pub src: IpAddr,
    pub dst: IpAddr,
    pub src_port: u16,
    pub dst_port: u16,
}

/// One flow.
#[derive(Debug, Clone)]
pub struct Entry {
    /// IP protocol number: 6 TCP, 17 UDP, 1 ICMP.
    pub protocol: u8,
    /// As the first packet came.
    pub original: Tuple,
    /// As answers come.
    pub reply: Tuple,
    /// `IPS_*` bits.
    pub status: u32,
    pub mark: u32,
    /// Seconds until the entry is forgotten.
    pub timeout_secs: u32,
    /// The kernel's own form of the original tuple, to delete by.
    key: ConntrackAttribute,
}

impl Entry {
    pub fn is_source_rewritten(&self) -> bool {
        self.status & Status::SrcNat.bits() != 0
    }

    pub fn is_destination_rewritten(&self) -> bool {
        self.status & Status::DstNat.bits() != 0
    }

    pub fn has_seen_reply(&self) -> bool {
        self.status & Status::SeenReply.bits() != 0
    }
}

impl std::fmt::Display for Entry {
    /// As `conntrack -L` prints the tuples, for people who know that.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let name = match self.protocol {
            6 => "tcp".to_owned(),
            17 => "udp".to_owned(),
            1 => "icmp".to_owned(),
            58 => "icmpv6".to_owned(),
            132 => "sctp".to_owned(),
            other => other.to_string(),
        };
        write!(f, "{name} {} {} mark={}", self.original, self.reply, self.mark)
    }
}

impl std::fmt::Display for Tuple {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Tuple { src, dst, src_port, dst_port } = self;
        write!(f, "src={src} dst={dst} sport={src_port} dport={dst_port}")
    }
}

#[derive(Debug, thiserror::Error)]
#[error("conntrack: cannot {what}: {source}")]
pub struct ConntrackError {
    what: &'static str,
    source: SocketError,
}

/// A socket to the conntrack table of one network namespace.
pub struct Conntrack {
    socket: Socket,
}

impl Conntrack {
    /// In the network namespace of the calling thread.
    pub fn open() -> Result<Conntrack, ConntrackError> {
        let socket = Socket::open(NETLINK_NETFILTER).map_err(failed("open the table"))?;
        Ok(Conntrack { socket })
    }

    /// Every flow of both families.
    pub fn list(&mut self) -> Result<Vec<Entry>, ConntrackError> {
        let mut entries = Vec::new();
        for family in [NetfilterProtoFamily::IPv4, NetfilterProtoFamily::IPv6] {
            let request = message(family, ConntrackMessage::Get(Vec::new()));
            let answer = self.socket.dump(request).map_err(failed("list the flows"))?;
            entries.extend(answer.into_iter().filter_map(entry_of));
        }
        Ok(entries)
    }

    /// Deletes the flows the filter picks; returns how many went. One that ended meanwhile counts not.
    pub fn delete(&mut self, filter: impl Fn(&Entry) -> bool) -> Result<usize, ConntrackError> {
        let doomed: Vec<Entry> = self.list()?.into_iter().filter(filter).collect();
        let messages = doomed.iter().map(|entry| (0, deletion(entry))).collect();
        let results = self.socket.execute(messages).map_err(failed("delete flows"))?;
        let mut deleted = 0;
        for result in results {
            match result {
                Ok(()) => deleted += 1,
                Err(Refused { errno: libc::ENOENT, .. }) => {}
                Err(refused) => return Err(failed("delete a flow")(SocketError::Refused(refused))),
            }
        }
        Ok(deleted)
    }
}

fn failed(what: &'static str) -> impl FnOnce(SocketError) -> ConntrackError {
    move |source| ConntrackError { what, source }
}

fn message(family: NetfilterProtoFamily, inner: ConntrackMessage) -> NetfilterMessage {
    NetfilterMessage::new(NetfilterHeader::new(family, 0, 0), inner)
}

fn deletion(entry: &Entry) -> NetfilterMessage {
    let family = match entry.original.src {
        IpAddr::V4(_) => NetfilterProtoFamily::IPv4,
        IpAddr::V6(_) => NetfilterProtoFamily::IPv6,
    };
    message(family, ConntrackMessage::Delete(vec![entry.key.clone()]))
}

fn entry_of(message: NetfilterMessage) -> Option<Entry> {
    let NetfilterMessageInner::Conntrack(ConntrackMessage::New(attributes)) = message.inner else {
        return None;
    };
    let (mut original, mut reply, mut key) = (None, None, None);
    let (mut status, mut mark, mut timeout_secs) = (0, 0, 0);
    for attribute in attributes {
        match &attribute {
            ConntrackAttribute::CtaTupleOrig(parts) => {
                original = tuple_of(parts);
                key = Some(attribute);
            }
            ConntrackAttribute::CtaTupleReply(parts) => reply = tuple_of(parts),
            ConntrackAttribute::CtaStatus(bits) => status = bits.bits(),
            ConntrackAttribute::CtaMark(value) => mark = *value,
            ConntrackAttribute::CtaTimeout(secs) => timeout_secs = *secs,
            _ => {}
        }
    }
    let (protocol, original) = original?;
    let (_, reply) = reply?;
    Some(Entry { protocol, original, reply, status, mark, timeout_secs, key: key? })
}

fn tuple_of(parts: &[TupleAttribute]) -> Option<(u8, Tuple)> {
    let (mut src, mut dst, mut protocol, mut src_port, mut dst_port) = (None, None, 0, 0, 0);
    for part in parts {
        match part {
            TupleAttribute::Ip(addresses) => {
                for address in addresses {
                    match address {
                        IPTuple::SourceAddress(a) => src = Some(*a),
                        IPTuple::DestinationAddress(a) => dst = Some(*a),
                        _ => {}
                    }
                }
            }
            TupleAttribute::Proto(values) => {
                for value in values {
                    match value {
                        ProtoTuple::Protocol(number) => protocol = (*number).into(),
                        ProtoTuple::SourcePort(port) => src_port = *port,
                        ProtoTuple::DestinationPort(port) => dst_port = *port,
                        _ => {}
                    }
                }
            }
            _ => {}
        }
    }
    Some((protocol, Tuple { src: src?, dst: dst?, src_port, dst_port }))
}

#[cfg(test)]
mod tests {
    use std::net::UdpSocket;
    use std::os::fd::AsFd;
    use std::path::Path;

    use super::*;
    use crate::iptables::{Family, Flush, Tool};
    use crate::{Netlink, netns};

    fn tool() -> Tool {
        let fetched = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/deb/bin");
        if fetched.join("iptables-restore").exists() {
            return Tool { dir: Some(fetched), env: Vec::new() };
        }
        Tool::from_environment()
    }

    /// A UDP question to 192.0.2.1:53 that a rule turns to 127.0.0.1:`port`.
    fn one_rewritten_flow() -> u16 {
        let mut netlink = Netlink::open().unwrap();
        let lo = netlink.link("lo").unwrap().index;
        netlink.set_up(lo).unwrap();
        netlink.add_addr(lo, "192.0.2.1/32".parse().unwrap()).unwrap();
        let server = UdpSocket::bind("127.0.0.1:0").unwrap();
        let port = server.local_addr().unwrap().port();
        let rule = format!(
            "*nat\n-A OUTPUT -d 192.0.2.1/32 -p udp --dport 53 -j DNAT --to-destination 127.0.0.1:{port}\nCOMMIT\n"
        );
        tool().restore(Family::V4, &rule, Flush::Keep).unwrap();
        let client = UdpSocket::bind("127.0.0.1:0").unwrap();
        client.send_to(b"question", "192.0.2.1:53").unwrap();
        let mut buffer = [0; 16];
        server.recv_from(&mut buffer).unwrap();
        port
    }

    #[test]
    fn a_rewritten_flow_shows_both_tuples_and_can_be_deleted() {
        let made = netns::create().unwrap();
        let (port, entry, deleted, left) = netns::run_in(made.as_fd(), || {
            let port = one_rewritten_flow();
            let mut table = Conntrack::open().unwrap();
            let wanted = |e: &Entry| e.original.dst_port == 53;
            let entry = table.list().unwrap().into_iter().find(wanted).expect("the flow is tracked");
            let deleted = table.delete(wanted).unwrap();
            (port, entry, deleted, table.list().unwrap().len())
        })
        .unwrap();
        assert_eq!(entry.protocol, 17);
        assert_eq!(entry.original.dst.to_string(), "192.0.2.1");
        assert_eq!((entry.reply.src.to_string().as_str(), entry.reply.src_port), ("127.0.0.1", port));
        assert!(entry.is_destination_rewritten() && !entry.is_source_rewritten());
        assert_eq!((deleted, left), (1, 0));
    }
}
