//! The link by which a TCP connection came.
//!
//! Linux keeps it for each connection that was accepted, as packet information of its first segment; ip(7) tells of
//! IP_PKTINFO, and IP_PKTOPTIONS gives it (IPV6_2292PKTOPTIONS for IPv6, RFC 2292 §5).

use std::io;
use std::os::fd::{AsFd, AsRawFd};

/// Room for a few control messages.
const ROOM: usize = 128;
const HEAD: usize = size_of::<libc::cmsghdr>();
/// Not in the C library's headers for programs: `IPV6_2292PKTINFO` and `IPV6_2292PKTOPTIONS` of linux/in6.h.
const IPV6_2292PKTINFO: i32 = 2;
const IPV6_2292PKTOPTIONS: i32 = 6;
/// `IP_PKTOPTIONS` of linux/in.h.
const IP_PKTOPTIONS: i32 = 9;

/// Index of the link by which the accepted connection `stream` came; `None` if the kernel does not say. `of_ipv6`: the socket
/// is of IPv6, whatever its client is.
///
/// # Errors
/// The kernel's answer.
pub fn link(stream: &impl AsFd, of_ipv6: bool) -> io::Result<Option<u32>> {
    let fd = stream.as_fd().as_raw_fd();
    let (level, ask, option) = match of_ipv6 {
        false => (libc::IPPROTO_IP, libc::IP_PKTINFO, IP_PKTOPTIONS),
        true => (libc::IPPROTO_IPV6, IPV6_2292PKTINFO, IPV6_2292PKTOPTIONS),
    };
    let on: i32 = 1;
    // SAFETY: the value outlives the call, with its true length.
    let set = unsafe { libc::setsockopt(fd, level, ask, (&raw const on).cast(), size_of::<i32>() as u32) };
    if set != 0 {
        return Err(io::Error::last_os_error());
    }
    let mut told = [0u8; ROOM];
    let mut length = ROOM as libc::socklen_t;
    // SAFETY: the buffer is ours, with its true length.
    if unsafe { libc::getsockopt(fd, level, option, told.as_mut_ptr().cast(), &raw mut length) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(read(&told[..(length as usize).min(ROOM)]))
}

/// The link in the first packet information among control messages: in front of IPv4's, at the end of IPv6's.
fn read(mut told: &[u8]) -> Option<u32> {
    while told.len() >= HEAD {
        let number =
            |at: usize| told.get(at..at + 4).map(|bytes| i32::from_ne_bytes(bytes.try_into().expect("four bytes")));
        let length = usize::from_ne_bytes(*told.first_chunk()?);
        let place = match (number(8)?, number(12)?) {
            (libc::IPPROTO_IP, libc::IP_PKTINFO) => Some(HEAD),
            (libc::IPPROTO_IPV6, IPV6_2292PKTINFO | libc::IPV6_PKTINFO) => Some(HEAD + 16),
            _ => None,
        };
        if let Some(place) = place {
            return number(place).map(i32::cast_unsigned).filter(|index| *index != 0);
        }
        told = told.get(length.max(HEAD).next_multiple_of(align_of::<usize>())..)?;
    }
    None
}

#[cfg(test)]
mod tests {
    use std::net::{SocketAddr, TcpListener, TcpStream};
    use std::os::fd::OwnedFd;

    use super::*;
    use crate::{Netlink, VethSpec, netns};

    /// A link between two namespaces with an address of each family at both ends; its index at the near end.
    fn linked(near: &OwnedFd, far: &OwnedFd) -> u32 {
        netns::run_in(near.as_fd(), || {
            let spec = VethSpec {
                name: "ptl-t-arr",
                peer_name: "eth0",
                peer_netns: Some(far.as_fd()),
                mac: None,
                peer_mac: None,
                mtu_bytes: 1500,
            };
            Netlink::open().unwrap().create_veth(&spec).unwrap();
        })
        .unwrap();
        let settled = |fd: std::os::fd::BorrowedFd<'_>, name: &str, host: u8| {
            netns::run_in(fd, || {
                let mut netlink = Netlink::open().unwrap();
                let index = netlink.link(name).unwrap().index;
                netlink.set_up(index).unwrap();
                netlink.add_addr(index, format!("198.51.100.{host}/24").parse().unwrap()).unwrap();
                netlink.add_addr(index, format!("2001:db8::{host}/64").parse().unwrap()).unwrap();
                index
            })
            .unwrap()
        };
        settled(far.as_fd(), "eth0", 2);
        settled(near.as_fd(), "ptl-t-arr", 1)
    }

    /// IPv6 addresses are good a moment after they were added; until then nothing reaches them.
    fn connected(to: SocketAddr) -> TcpStream {
        for _ in 0..1000 {
            if let Ok(stream) = TcpStream::connect(to) {
                return stream;
            }
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
        panic!("{to} cannot be reached");
    }

    #[test]
    fn a_connection_knows_its_link_in_both_families_and_at_a_socket_for_both() {
        let (near, far) = (netns::create().unwrap(), netns::create().unwrap());
        let index = linked(&near, &far);
        for (listen, to) in
            [("0.0.0.0:53", "198.51.100.1:53"), ("[::]:54", "[2001:db8::1]:54"), ("[::]:55", "198.51.100.1:55")]
        {
            let listener = netns::run_in(near.as_fd(), || {
                // An address of IPv6 that is not good yet takes no listener, `[::]` does.
                TcpListener::bind(listen).unwrap()
            })
            .unwrap();
            let client = netns::run_in(far.as_fd(), || connected(to.parse().unwrap())).unwrap();
            let (stream, _) = listener.accept().unwrap();
            assert_eq!(link(&stream, listen.starts_with('[')).unwrap(), Some(index), "{listen}");
            drop(client);
        }
    }
}
