//! Batches: datagrams in, and the replies to them out.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsRawFd;

use super::Socket;
use super::addr::{ADDR_LEN, CONTROL_LEN, Control, RawAddr};

/// Most datagrams of one call.
pub const BATCH: usize = 64;
/// Most bytes of a datagram that are read; a longer one is cut, and says so.
pub const LONGEST: usize = 2048;
/// Distance of two buffers: one cache line more than the longest, so that their beginnings fall into different sets.
const STRIDE: usize = LONGEST + 64;

/// A datagram that came.
#[derive(Clone, Copy, Debug)]
pub struct Datagram<'i> {
    /// What it says, [`LONGEST`] bytes at most.
    pub bytes: &'i [u8],
    /// It was longer than [`LONGEST`].
    pub is_cut: bool,
    /// Its sender.
    pub from: SocketAddr,
    /// The address of ours that it came to.
    pub local: IpAddr,
    /// Index of the link by which it came; 0 if the kernel did not say.
    pub link: u32,
}

/// Room for a batch of datagrams.
pub struct Inbox {
    bytes: Box<[u8]>,
    names: Box<[RawAddr; BATCH]>,
    controls: Box<[Control; BATCH]>,
    headers: Box<[libc::mmsghdr; BATCH]>,
    parts: Box<[libc::iovec; BATCH]>,
    count: usize,
    /// How many headers, from the first on, are not as a call needs them: all at first, then those that it wrote to.
    written: usize,
}

// SAFETY: the pointers in `headers` and `parts` are written before the first call and lead into the boxes beside them, which
// live as long and stay where they are.
unsafe impl Send for Inbox {}

impl Default for Inbox {
    fn default() -> Self {
        Self::new()
    }
}

impl Inbox {
    /// An empty one: 140 KB, of which what is never used stays untouched.
    pub fn new() -> Self {
        // SAFETY: null pointers and zeroes are valid headers and parts.
        let (headers, parts) = unsafe { (std::mem::zeroed(), std::mem::zeroed()) };
        Self {
            bytes: vec![0; BATCH * STRIDE].into_boxed_slice(),
            names: Box::new([RawAddr::EMPTY; BATCH]),
            controls: Box::new([Control::EMPTY; BATCH]),
            headers: Box::new(headers),
            parts: Box::new(parts),
            count: 0,
            written: BATCH,
        }
    }

    /// Takes what waits at `socket`, up to [`BATCH`], in place of what was here; 0 if nothing waits.
    ///
    /// # Errors
    /// The kernel's answer, such as an ICMP error about an earlier reply; the socket stays good.
    pub fn receive(&mut self, socket: &Socket) -> io::Result<usize> {
        self.count = 0;
        self.point();
        // SAFETY: `point` made every header, now or before, lead to buffers of ours with their true lengths.
        let got = unsafe {
            libc::recvmmsg(
                socket.fd.as_raw_fd(),
                self.headers.as_mut_ptr(),
                BATCH as u32,
                libc::MSG_DONTWAIT,
                std::ptr::null_mut(),
            )
        };
        match usize::try_from(got) {
            Ok(got) => self.count = got,
            Err(_) => match io::Error::last_os_error() {
                error if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {}
                error => return Err(error),
            },
        }
        // The one after the last may have been begun.
        self.written = BATCH.min(self.count + 1);
        Ok(self.count)
    }

    fn point(&mut self) {
        let buffers = self.bytes.chunks_exact_mut(STRIDE);
        let names = self.names.iter_mut().zip(self.controls.iter_mut());
        let headers = self.headers.iter_mut().zip(self.parts.iter_mut());
        for (((header, part), (name, control)), buffer) in headers.zip(names).zip(buffers).take(self.written) {
            *part = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: LONGEST };
            let header = &mut header.msg_hdr;
            header.msg_name = name.as_mut_ptr().cast();
            header.msg_namelen = ADDR_LEN;
            header.msg_iov = part;
            header.msg_iovlen = 1;
            header.msg_control = control.as_mut_ptr();
            header.msg_controllen = CONTROL_LEN as _;
        }
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.count
    }

    /// There is none.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// What the datagram at `place` says, which must be below [`Inbox::len`].
    pub fn bytes(&self, place: usize) -> &[u8] {
        assert!(place < self.count, "no datagram {place} among {}", self.count);
        let len = (self.headers[place].msg_len as usize).min(LONGEST);
        &self.bytes[place * STRIDE..][..len]
    }

    /// The datagram at `place`, which must be below [`Inbox::len`].
    pub fn datagram(&self, place: usize) -> Datagram<'_> {
        let bytes = self.bytes(place);
        let header = &self.headers[place];
        // `msg_controllen` is a word or half of one, as the C library has it.
        #[allow(clippy::unnecessary_cast)]
        let told = self.controls[place].read(header.msg_hdr.msg_controllen as usize);
        let from = self.names[place].to_addr();
        let (link, local) = told.unwrap_or((0, any_like(from)));
        Datagram { bytes, is_cut: header.msg_hdr.msg_flags & libc::MSG_TRUNC != 0, from, local, link }
    }
}

fn any_like(addr: SocketAddr) -> IpAddr {
    match addr {
        SocketAddr::V4(_) => IpAddr::from([0; 4]),
        SocketAddr::V6(_) => IpAddr::from([0u16; 8]),
    }
}

/// What came of sending a batch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sent {
    /// Taken by the kernel.
    pub sent: usize,
    /// Refused: no way to the client, or the kernel's queue is full.
    pub refused: usize,
}

/// Replies to the datagrams of one inbox. Their buffers are used again and again.
pub struct Outbox {
    replies: Box<[Vec<u8>]>,
    /// The datagram that each reply is to.
    places: [usize; BATCH],
    count: usize,
    names: Box<[RawAddr; BATCH]>,
    controls: Box<[Control; BATCH]>,
    headers: Box<[libc::mmsghdr; BATCH]>,
    parts: Box<[libc::iovec; BATCH]>,
}

// SAFETY: the pointers in `headers` and `parts` are written before each call and lead into the boxes beside them.
unsafe impl Send for Outbox {}

impl Default for Outbox {
    fn default() -> Self {
        Self::new()
    }
}

impl Outbox {
    /// An empty one.
    pub fn new() -> Self {
        // SAFETY: null pointers and zeroes are valid headers and parts.
        let (headers, parts) = unsafe { (std::mem::zeroed(), std::mem::zeroed()) };
        Self {
            replies: vec![Vec::new(); BATCH].into_boxed_slice(),
            places: [0; BATCH],
            count: 0,
            names: Box::new([RawAddr::EMPTY; BATCH]),
            controls: Box::new([Control::EMPTY; BATCH]),
            headers: Box::new(headers),
            parts: Box::new(parts),
        }
    }

    /// The buffer of the next reply, with what an earlier one left in it. It is sent only if [`Outbox::keep`] follows.
    ///
    /// # Panics
    /// If [`BATCH`] replies are kept already.
    pub fn buffer(&mut self) -> &mut Vec<u8> {
        &mut self.replies[self.count]
    }

    /// What is in [`Outbox::buffer`] is the reply to the datagram at `place` of the inbox.
    pub fn keep(&mut self, place: usize) {
        self.places[self.count] = place;
        self.count += 1;
    }

    /// Sends what was kept to where the datagrams of `inbox` came from, and is empty again. A reply that is refused holds
    /// none of the others up; once the kernel's queue is full, all that are left are refused.
    pub fn send(&mut self, socket: &Socket, inbox: &Inbox) -> Sent {
        let count = std::mem::take(&mut self.count);
        self.point(count, socket, inbox);
        let mut done = Sent::default();
        let mut at = 0;
        while at < count {
            // SAFETY: `point` made the first `count` headers lead to buffers of ours with their true lengths.
            let got = unsafe {
                libc::sendmmsg(
                    socket.fd.as_raw_fd(),
                    self.headers[at..count].as_mut_ptr(),
                    (count - at) as u32,
                    libc::MSG_DONTWAIT,
                )
            };
            match usize::try_from(got) {
                Ok(sent) => {
                    done.sent += sent;
                    at += sent;
                }
                Err(_) => match io::Error::last_os_error().kind() {
                    io::ErrorKind::Interrupted => {}
                    io::ErrorKind::WouldBlock => break,
                    _ => at += 1,
                },
            }
        }
        done.refused = count - done.sent;
        done
    }

    fn point(&mut self, count: usize, socket: &Socket, inbox: &Inbox) {
        let everywhere = socket.is_everywhere();
        for nth in 0..count {
            let place = self.places[nth];
            let reply = &mut self.replies[nth];
            self.names[nth] = inbox.names[place];
            self.parts[nth] = libc::iovec { iov_base: reply.as_mut_ptr().cast(), iov_len: reply.len() };
            let header = &mut self.headers[nth].msg_hdr;
            header.msg_name = self.names[nth].as_mut_ptr().cast();
            header.msg_namelen = self.names[nth].len();
            header.msg_iov = &raw mut self.parts[nth];
            header.msg_iovlen = 1;
            if everywhere {
                let from = inbox.datagram(place).local;
                self.controls[nth] = Control::source(from, socket.local.is_ipv6());
                header.msg_control = self.controls[nth].as_mut_ptr();
                header.msg_controllen = self.controls[nth].len() as _;
            } else {
                header.msg_control = std::ptr::null_mut();
                header.msg_controllen = 0;
            }
        }
    }
}
