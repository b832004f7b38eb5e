//! Neighbour discovery of IPv6 (RFC 4861 §4.3, §4.4), as whole IPv6 packets: solicitations read, advertisements made.

use std::net::Ipv6Addr;

use super::Mac;

const IPV6_HEADER: usize = 40;
const ICMPV6: u8 = 58;
/// Only a neighbour can send it: routers count it down.
const HOP_LIMIT: u8 = 255;
const SOLICITATION: u8 = 135;
const ADVERTISEMENT: u8 = 136;
/// Type, code, checksum, reserved or flags, target.
const MESSAGE: usize = 24;
const SOLICITED: u8 = 0x40;
const OVERRIDE: u8 = 0x20;
/// "Target link-layer address", in units of eight bytes.
const TARGET_LINK_LAYER: [u8; 2] = [2, 1];
/// All nodes of the link.
pub const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
/// Where frames to [`ALL_NODES`] go (RFC 2464 §7).
pub const ALL_NODES_MAC: Mac = [0x33, 0x33, 0, 0, 0, 1];

/// Who has `target`?
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Question {
    /// Asked for.
    pub target: Ipv6Addr,
    /// Who asks; `::` from one that looks whether the address is free.
    pub sender: Ipv6Addr,
}

impl Question {
    /// Looks whether the address is free (RFC 4862 §5.4): all must hear the answer, for the sender has no address yet.
    pub fn is_probe(&self) -> bool {
        self.sender.is_unspecified()
    }
}

/// A sound solicitation (RFC 4861 §7.1.1); `None` for anything else.
pub fn question(packet: &[u8]) -> Option<Question> {
    let (header, message) = packet.split_at_checked(IPV6_HEADER)?;
    let is_ndp = header[0] >> 4 == 6 && header[6] == ICMPV6 && header[7] == HOP_LIMIT;
    let length = usize::from(u16::from_be_bytes([header[4], header[5]]));
    let message = message.get(..length).filter(|message| message.len() >= MESSAGE)?;
    let (sender, to, target) = (address(&header[8..24]), address(&header[24..40]), address(&message[8..24]));
    let is_sound = message[..2] == [SOLICITATION, 0] && !target.is_multicast() && checksum(sender, to, message) == 0;
    (is_ndp && is_sound).then_some(Question { target, sender })
}

/// "`question.target` is at `own`", to the one who asked, or to all if that was a probe.
pub fn answer(own: Mac, question: &Question) -> Vec<u8> {
    match question.is_probe() {
        true => announcement(own, question.target),
        false => advertisement(own, question.target, question.sender, SOLICITED | OVERRIDE),
    }
}

/// "`target` is at `own`", to all: an unsolicited advertisement (RFC 4861 §7.2.6).
pub fn announcement(own: Mac, target: Ipv6Addr) -> Vec<u8> {
    advertisement(own, target, ALL_NODES, OVERRIDE)
}

/// The group that solicitations for `target` are sent to (RFC 4291 §2.7.1).
pub fn solicited_node(target: Ipv6Addr) -> Ipv6Addr {
    let [.., a, b, c] = target.octets();
    Ipv6Addr::from([0xff, 0x02, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xff, a, b, c])
}

fn advertisement(own: Mac, target: Ipv6Addr, to: Ipv6Addr, flags: u8) -> Vec<u8> {
    let mut message = vec![ADVERTISEMENT, 0, 0, 0, flags, 0, 0, 0];
    message.extend(target.octets());
    message.extend(TARGET_LINK_LAYER);
    message.extend(own);
    let sum = checksum(target, to, &message);
    message[2..4].copy_from_slice(&sum.to_be_bytes());
    let mut packet = vec![6 << 4, 0, 0, 0];
    packet.extend(u16::try_from(message.len()).expect("32 bytes").to_be_bytes());
    packet.extend([ICMPV6, HOP_LIMIT]);
    packet.extend(target.octets());
    packet.extend(to.octets());
    packet.extend(message);
    packet
}

/// Of an ICMPv6 message and its pseudo-header (RFC 8200 §8.1); 0 over a message that holds its own.
fn checksum(from: Ipv6Addr, to: Ipv6Addr, message: &[u8]) -> u16 {
    let words = |bytes: &[u8]| -> u32 {
        let pairs = bytes.chunks(2).map(|pair| u16::from_be_bytes([pair[0], pair.get(1).copied().unwrap_or(0)]));
        pairs.map(u32::from).sum()
    };
    let length = u32::try_from(message.len()).unwrap_or(u32::MAX);
    let mut sum = words(&from.octets()) + words(&to.octets()) + length + u32::from(ICMPV6) + words(message);
    while sum >> 16 != 0 {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !u16::try_from(sum).expect("folded into 16 bits")
}

fn address(bytes: &[u8]) -> Ipv6Addr {
    let octets: [u8; 16] = bytes.try_into().expect("sixteen bytes of a packet whose length was looked at");
    octets.into()
}
