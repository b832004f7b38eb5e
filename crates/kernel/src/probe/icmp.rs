//! ICMP errors as a socket's error queue tells them: what, and who sent it.
//!
//! ```text
//!  sock_extended_err (16): errno 4 │ origin 1 │ type 1 │ code 1 │ pad 1 │ info 4 │ data 4 ║ sockaddr of the sender
//! ```
//!
//! Nothing here panics on what it reads. Spec: ip(7), `errqueue.h`; RFC 792, RFC 4443 §3.1 for types and codes.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// `SO_EE_ORIGIN_ICMP`, `SO_EE_ORIGIN_ICMP6`.
const ORIGIN_V4: u8 = 2;
const ORIGIN_V6: u8 = 3;
const FIXED_LEN: usize = 16;
/// Where the address stands in `sockaddr_in` and `sockaddr_in6`.
const V4_OFFSET: usize = 4;
const V6_OFFSET: usize = 8;

/// One ICMP error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct IcmpError {
    pub(super) is_v6: bool,
    pub(super) kind: u8,
    pub(super) code: u8,
    /// Who sent it.
    pub(super) by: Option<IpAddr>,
}

impl IcmpError {
    /// Reads a control message `IP_RECVERR` or `IPV6_RECVERR`; `None` for errors that are no ICMP, and for what is cut short.
    pub(super) fn parse(value: &[u8]) -> Option<IcmpError> {
        let [_, _, _, _, origin, kind, code, ..] = *value.get(..FIXED_LEN)? else { return None };
        let is_v6 = match origin {
            ORIGIN_V4 => false,
            ORIGIN_V6 => true,
            _ => return None,
        };
        Some(IcmpError { is_v6, kind, code, by: address_of(&value[FIXED_LEN..]) })
    }

    pub(super) fn is_port_unreachable(&self) -> bool {
        matches!((self.is_v6, self.kind, self.code), (false, 3, 3) | (true, 1, 4))
    }

    /// It ends a flow that only begins. `Fragmentation needed` and the like do not.
    pub(super) fn is_final(&self) -> bool {
        match (self.is_v6, self.kind) {
            (false, 3) => self.code != 4, // fragmentation needed
            (false, 11 | 12) | (true, 1 | 3 | 4) => true,
            _ => false,
        }
    }

    fn words(&self) -> &'static str {
        match (self.is_v6, self.kind, self.code) {
            (false, 3, 0) | (true, 1, 0) => "no route to the network",
            (false, 3, 1) | (true, 1, 3) => "host unreachable",
            (false, 3, 2) => "protocol unreachable",
            (false, 3, 3) | (true, 1, 4) => "port unreachable",
            (false, 3, 9 | 10 | 13) | (true, 1, 1) => "administratively prohibited",
            (true, 1, 5) => "source address failed policy",
            (true, 1, 6) => "route refuses",
            (false, 11, _) | (true, 3, _) => "time to live exceeded",
            (false, 12, _) | (true, 4, _) => "bad header",
            _ => "unreachable",
        }
    }
}

impl fmt::Display for IcmpError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let protocol = if self.is_v6 { "ICMPv6" } else { "ICMP" };
        write!(f, "{} ({protocol} type {} code {})", self.words(), self.kind, self.code)
    }
}

fn address_of(bytes: &[u8]) -> Option<IpAddr> {
    let family = u16::from_ne_bytes(*bytes.first_chunk()?);
    match i32::from(family) {
        libc::AF_INET => Some(IpAddr::V4(Ipv4Addr::from(*bytes.get(V4_OFFSET..)?.first_chunk::<4>()?))),
        libc::AF_INET6 => Some(IpAddr::V6(Ipv6Addr::from(*bytes.get(V6_OFFSET..)?.first_chunk::<16>()?))),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As the kernel writes it, from `by`.
    fn told(origin: u8, kind: u8, code: u8, by: IpAddr) -> Vec<u8> {
        let mut bytes = 111u32.to_ne_bytes().to_vec();
        bytes.extend([origin, kind, code, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
        match by {
            IpAddr::V4(address) => {
                bytes.extend((libc::AF_INET as u16).to_ne_bytes());
                bytes.extend([0, 0]);
                bytes.extend(address.octets());
                bytes.extend([0; 8]);
            }
            IpAddr::V6(address) => {
                bytes.extend((libc::AF_INET6 as u16).to_ne_bytes());
                bytes.extend([0; 6]);
                bytes.extend(address.octets());
                bytes.extend([0; 4]);
            }
        }
        bytes
    }

    #[test]
    fn an_error_tells_its_sender_and_whether_it_refuses_or_ends_a_flow() {
        let (v4, v6): (IpAddr, IpAddr) = ("192.0.2.9".parse().unwrap(), "2001:db8::9".parse().unwrap());
        let rows = [
            (ORIGIN_V4, 3, 3, v4, true, true, "port unreachable (ICMP type 3 code 3)"),
            (ORIGIN_V4, 3, 1, v4, false, true, "host unreachable (ICMP type 3 code 1)"),
            (ORIGIN_V4, 3, 4, v4, false, false, "unreachable (ICMP type 3 code 4)"),
            (ORIGIN_V4, 3, 13, v4, false, true, "administratively prohibited (ICMP type 3 code 13)"),
            (ORIGIN_V6, 1, 4, v6, true, true, "port unreachable (ICMPv6 type 1 code 4)"),
            (ORIGIN_V6, 2, 0, v6, false, false, "unreachable (ICMPv6 type 2 code 0)"),
            (ORIGIN_V6, 3, 0, v6, false, true, "time to live exceeded (ICMPv6 type 3 code 0)"),
        ];
        for (origin, kind, code, by, refuses, ends, words) in rows {
            let error = IcmpError::parse(&told(origin, kind, code, by)).expect(words);
            assert_eq!((error.by, error.is_port_unreachable(), error.is_final()), (Some(by), refuses, ends), "{words}");
            assert_eq!(error.to_string(), words);
        }
        assert_eq!(IcmpError::parse(&told(1, 3, 3, v4)), None, "of the kernel itself, no ICMP");
    }

    #[test]
    fn an_error_cut_anywhere_or_of_any_bytes_is_read_without_panic() {
        for by in ["192.0.2.9".parse().unwrap(), "2001:db8::9".parse().unwrap()] {
            let whole = told(ORIGIN_V4, 3, 3, by);
            for end in 0..whole.len() {
                let read = IcmpError::parse(&whole[..end]);
                assert_eq!(read.is_some(), end >= FIXED_LEN, "{end}");
                for at in 0..end {
                    for byte in [0, 2, 3, 10, 0xff] {
                        let mut bent = whole[..end].to_vec();
                        bent[at] = byte;
                        let _ = IcmpError::parse(&bent).map(|error| error.to_string());
                    }
                }
            }
        }
    }
}
