//! A bare nfnetlink socket: one batch in, what the kernel made of it out.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use crate::Outcome;

/// NLMSG_ERROR, which is also how an acknowledgement comes.
const ERROR: u16 = 2;
const HEADER_LEN: usize = 16;
const SEND_BUFFER_BYTES: i32 = 512 << 20;

pub struct Netfilter {
    socket: OwnedFd,
}

impl Netfilter {
    /// In the network namespace of the calling thread.
    pub fn open() -> Outcome<Self> {
        // SAFETY: socket and setsockopt with values that live for the calls; the descriptor is owned from here on.
        unsafe {
            let fd = libc::socket(libc::AF_NETLINK, libc::SOCK_RAW | libc::SOCK_CLOEXEC, libc::NETLINK_NETFILTER);
            if fd < 0 {
                return Err(io::Error::last_os_error().into());
            }
            let socket = OwnedFd::from_raw_fd(fd);
            let (size, one) = (SEND_BUFFER_BYTES, 1i32);
            let set = |level, option, value: &i32| {
                let length = size_of::<i32>() as libc::socklen_t;
                libc::setsockopt(fd, level, option, std::ptr::from_ref(value).cast(), length)
            };
            if set(libc::SOL_SOCKET, libc::SO_SNDBUFFORCE, &size) != 0
                || set(libc::SOL_NETLINK, libc::NETLINK_CAP_ACK, &one) != 0
            {
                return Err(io::Error::last_os_error().into());
            }
            Ok(Self { socket })
        }
    }

    /// Sends one batch, whose last message asks for an acknowledgement, and waits for it.
    pub fn transact(&self, batch: &[u8]) -> Outcome<()> {
        let fd = self.socket.as_raw_fd();
        // SAFETY: the buffer lives for the call.
        let sent = unsafe { libc::send(fd, batch.as_ptr().cast(), batch.len(), 0) };
        if sent != batch.len() as isize {
            return Err(format!("a batch of {} bytes: {}", batch.len(), io::Error::last_os_error()).into());
        }
        let mut answer = [0u8; 64 << 10];
        // SAFETY: the buffer lives for the call.
        let length = unsafe { libc::recv(fd, answer.as_mut_ptr().cast(), answer.len(), 0) };
        let length = usize::try_from(length).map_err(|_| io::Error::last_os_error())?;
        first_error(&answer[..length])
    }
}

fn first_error(mut bytes: &[u8]) -> Outcome<()> {
    while bytes.len() >= HEADER_LEN + 4 {
        let word = |at: usize| u32::from_ne_bytes(bytes[at..at + 4].try_into().expect("four bytes"));
        let (length, kind) = (word(0) as usize, word(4) as u16);
        let errno = word(HEADER_LEN) as i32;
        if kind == ERROR && errno != 0 {
            let sequence = word(HEADER_LEN + 4 + 8);
            return Err(format!("message {sequence} was refused: {}", io::Error::from_raw_os_error(-errno)).into());
        }
        bytes = bytes.get(length.next_multiple_of(4).max(HEADER_LEN)..).unwrap_or_default();
    }
    Ok(())
}
