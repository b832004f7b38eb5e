//! ARP over Ethernet for IPv4 (RFC 826), as payloads of Ethernet frames; announcements as RFC 5227 §2.3.

use std::net::Ipv4Addr;

use super::Mac;

/// Length of a packet in bytes.
pub const LENGTH: usize = 28;
/// Ethernet, IPv4, and the lengths of their addresses: how each packet begins.
const HEAD: [u8; 6] = [0, 1, 0x08, 0x00, 6, 4];
const REQUEST: u8 = 1;
const REPLY: u8 = 2;

/// Who has `target`?
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Question {
    /// Asked for.
    pub target: Ipv4Addr,
    /// Who asks; `0.0.0.0` from one that looks whether the address is free.
    pub sender: Ipv4Addr,
    /// Its Ethernet address.
    pub sender_mac: Mac,
}

/// A request for another's address; `None` for replies, announcements and what is no ARP.
pub fn question(payload: &[u8]) -> Option<Question> {
    let packet: &[u8; LENGTH] = payload.get(..LENGTH)?.try_into().ok()?;
    let (sender, target) = (ipv4(&packet[14..18]), ipv4(&packet[24..28]));
    let is_request = packet[..6] == HEAD && packet[6..8] == [0, REQUEST];
    (is_request && sender != target).then(|| Question { target, sender, sender_mac: mac(&packet[8..14]) })
}

/// "`question.target` is at `own`", to the one who asked.
pub fn answer(own: Mac, question: &Question) -> [u8; LENGTH] {
    packet(REPLY, (own, question.target), (question.sender_mac, question.sender))
}

/// "`address` is at `own`", to all, as a request and as a reply: some hosts heed one of them only.
pub fn announcements(own: Mac, address: Ipv4Addr) -> [[u8; LENGTH]; 2] {
    [packet(REQUEST, (own, address), ([0; 6], address)), packet(REPLY, (own, address), (own, address))]
}

fn packet(operation: u8, sender: (Mac, Ipv4Addr), target: (Mac, Ipv4Addr)) -> [u8; LENGTH] {
    let mut packet = [0; LENGTH];
    packet[..6].copy_from_slice(&HEAD);
    packet[7] = operation;
    packet[8..14].copy_from_slice(&sender.0);
    packet[14..18].copy_from_slice(&sender.1.octets());
    packet[18..24].copy_from_slice(&target.0);
    packet[24..28].copy_from_slice(&target.1.octets());
    packet
}

fn ipv4(bytes: &[u8]) -> Ipv4Addr {
    Ipv4Addr::new(bytes[0], bytes[1], bytes[2], bytes[3])
}

fn mac(bytes: &[u8]) -> Mac {
    bytes.try_into().expect("six bytes of a packet whose length was looked at")
}
