//! Marks: what makes one packet known again on every node, whatever NAT makes of its addresses.

use portolan_model::Proto;
use portolan_story::evidence::Flow;

/// A DNS server answers only what is a query.
const DNS_PORT: u16 = 53;
/// Of a query behind its id: recursion is wanted, one question, no answer yet.
const QUERY: [u8; 6] = [0x01, 0x00, 0x00, 0x01, 0x00, 0x00];

/// A mark from 64 random bits. `port` is where the packet is sent to: the payload of a packet to a DNS server begins as a
/// query does, with an id of its own.
pub fn mark(proto: Proto, port: u16, random: u64) -> Flow {
    let bytes = random.to_be_bytes();
    match proto {
        Proto::Udp if port == DNS_PORT => payload(&[&bytes[..2], &QUERY[..]].concat()),
        Proto::Udp | Proto::Sctp => payload(&bytes),
        Proto::Tcp => Flow::Sequence { number: u32::from_be_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]) },
    }
}

fn payload(bytes: &[u8]) -> Flow {
    Flow::Payload { begins: bytes.iter().map(|byte| format!("{byte:02x}")).collect() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tcp_packet_is_known_by_its_number_and_a_udp_packet_by_its_first_eight_bytes() {
        let random = 0x0123_4567_89ab_cdef;
        let begins = |proto, port| match mark(proto, port, random) {
            Flow::Payload { begins } => begins,
            other => format!("{other:?}"),
        };
        assert_eq!(mark(Proto::Tcp, 53, random), Flow::Sequence { number: 0x0123_4567 });
        assert_eq!(begins(Proto::Udp, 80), "0123456789abcdef");
        assert_eq!(begins(Proto::Udp, 53), "0123010000010000", "an id, recursion desired, one question");
    }
}
