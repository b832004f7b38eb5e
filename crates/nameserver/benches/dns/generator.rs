//! The load: one connected socket, queries in batches, each reply held against what was asked.
//!
//! Closed loop: so many queries are always under way. Open loop: so many a second, whatever comes back.

use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

use crate::Outcome;

const BATCH: usize = 64;
const ROOM: usize = 1536;
/// A query that has no reply by now is lost.
const LOST_AFTER: Duration = Duration::from_millis(500);

/// Under way while each question is asked once: few enough for any forwarder.
const ONCE_UNDER_WAY: usize = 32;

/// What a right reply says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wanted {
    Answer,
    NoData,
    Absence,
}

#[derive(Clone, Debug)]
pub struct Question {
    packet: Vec<u8>,
    wanted: Wanted,
}

impl Question {
    pub fn new(name: &str, rtype: u16, wanted: Wanted) -> Self {
        let mut packet = vec![0, 0, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
        for label in name.split('.') {
            packet.push(label.len() as u8);
            packet.extend(label.bytes());
        }
        packet.push(0);
        packet.extend(rtype.to_be_bytes());
        packet.extend([0, 1]);
        Self { packet, wanted }
    }

    fn is_right(&self, reply: &[u8]) -> bool {
        let Some(header) = reply.first_chunk::<12>() else { return false };
        let (rcode, answers) = (header[3] & 15, u16::from_be_bytes([header[6], header[7]]));
        let is_as_wanted = match self.wanted {
            Wanted::Answer => rcode == 0 && answers > 0,
            Wanted::NoData => rcode == 0 && answers == 0,
            Wanted::Absence => rcode == 3,
        };
        // The question comes back as it was.
        header[2] & 0x80 != 0 && is_as_wanted && reply.get(12..self.packet.len()) == Some(&self.packet[12..])
    }
}

/// What one run showed.
#[derive(Clone, Debug, Default)]
pub struct Run {
    pub right: u64,
    pub wrong: u64,
    pub lost: u64,
    pub wall: Duration,
    /// Microseconds of each right reply, sorted.
    micros: Vec<u32>,
}

impl Run {
    /// The smallest that so many percent do not exceed (nearest rank), in microseconds.
    pub fn percentile(&self, percent: usize) -> f64 {
        let rank = (self.micros.len() * percent).div_ceil(100).max(1);
        self.micros.get(rank - 1).copied().map_or(f64::NAN, f64::from)
    }

    pub fn per_second(&self) -> f64 {
        self.right as f64 / self.wall.as_secs_f64()
    }
}

/// How much is asked.
#[derive(Clone, Copy, Debug)]
pub enum Pace {
    UnderWay(usize),
    PerSecond(u32),
}

/// Queries under way, by their ID.
struct Slot {
    question: usize,
    sent: Option<Instant>,
}

pub struct Generator {
    socket: UdpSocket,
    slots: Vec<Slot>,
    next_id: u16,
    next_question: usize,
    under_way: usize,
    buffers: Vec<[u8; ROOM]>,
    run: Run,
}

impl Generator {
    pub fn connect(to: SocketAddr) -> Outcome<Self> {
        let socket = UdpSocket::bind("127.0.0.1:0")?;
        rustix::net::sockopt::set_socket_recv_buffer_size_force(&socket, 8 << 20)?;
        socket.connect(to)?;
        socket.set_nonblocking(true)?;
        Ok(Self {
            socket,
            slots: (0..=u16::MAX).map(|_| Slot { question: 0, sent: None }).collect(),
            next_id: 0,
            next_question: 0,
            under_way: 0,
            buffers: vec![[0; ROOM]; BATCH],
            run: Run::default(),
        })
    }

    /// Asks for so long.
    pub fn run(mut self, questions: &[Question], pace: Pace, length: Duration) -> Outcome<Run> {
        let start = Instant::now();
        let mut heard = start;
        let mut asked = 0u64;
        loop {
            let now = Instant::now();
            let passed = now - start;
            if passed >= length {
                break;
            }
            let due = match pace {
                Pace::UnderWay(most) => most.saturating_sub(self.under_way),
                Pace::PerSecond(rate) => {
                    ((passed.as_secs_f64() * f64::from(rate)) as u64).saturating_sub(asked) as usize
                }
            };
            // A batch is worth waiting for; at a steady pace each query goes when it is due.
            let is_worth = matches!(pace, Pace::PerSecond(_)) || due >= 16 || self.under_way == 0;
            if due > 0 && is_worth {
                asked += self.send(questions, due.min(BATCH), now)? as u64;
            }
            if self.receive(questions)? > 0 {
                heard = Instant::now();
            } else if now - heard > LOST_AFTER && self.under_way > 0 {
                self.give_up();
                heard = now;
            }
        }
        self.run.wall = start.elapsed();
        self.run.micros.sort_unstable();
        Ok(self.run)
    }

    /// Asks each question once.
    pub fn once(mut self, questions: &[Question]) -> Outcome<Run> {
        let mut heard = Instant::now();
        let mut left = questions.len();
        while left > 0 || self.under_way > 0 {
            let now = Instant::now();
            let room = left.min(ONCE_UNDER_WAY - self.under_way.min(ONCE_UNDER_WAY));
            left -= if room > 0 { self.send(questions, room.min(BATCH), now)? } else { 0 };
            if self.receive(questions)? > 0 {
                heard = now;
            } else if now - heard > LOST_AFTER {
                self.give_up();
                break;
            }
        }
        self.run.lost += left as u64;
        Ok(self.run)
    }

    fn give_up(&mut self) {
        self.run.lost += self.under_way as u64;
        self.slots.iter_mut().for_each(|slot| slot.sent = None);
        self.under_way = 0;
    }

    fn send(&mut self, questions: &[Question], count: usize, now: Instant) -> Outcome<usize> {
        for nth in 0..count {
            let id = self.next_id.wrapping_add(nth as u16);
            let question = (self.next_question + nth) % questions.len();
            let packet = &questions[question].packet;
            self.buffers[nth][..packet.len()].copy_from_slice(packet);
            self.buffers[nth][..2].copy_from_slice(&id.to_be_bytes());
            let slot = &mut self.slots[usize::from(id)];
            self.under_way -= usize::from(slot.sent.is_some());
            self.run.lost += u64::from(slot.sent.is_some());
            *slot = Slot { question, sent: None };
        }
        let lengths: Vec<usize> =
            (0..count).map(|nth| questions[(self.next_question + nth) % questions.len()].packet.len()).collect();
        let sent = self.batch(&lengths, |fd, headers, count| {
            // SAFETY: `batch` made each header lead to a buffer with its true length.
            unsafe { libc::sendmmsg(fd, headers, count, libc::MSG_DONTWAIT) }
        })?;
        let sent = sent.len();
        for nth in 0..sent {
            self.slots[usize::from(self.next_id.wrapping_add(nth as u16))].sent = Some(now);
        }
        self.next_id = self.next_id.wrapping_add(sent as u16);
        self.next_question = (self.next_question + sent) % questions.len();
        self.under_way += sent;
        Ok(sent)
    }

    fn receive(&mut self, questions: &[Question]) -> Outcome<usize> {
        let lengths = self.batch(&[ROOM; BATCH], |fd, headers, count| {
            // SAFETY: as in `send`.
            unsafe { libc::recvmmsg(fd, headers, count, libc::MSG_DONTWAIT, std::ptr::null_mut()) }
        })?;
        let now = Instant::now();
        for (buffer, length) in self.buffers.iter().zip(&lengths) {
            let reply = &buffer[..*length];
            let Some(id) = reply.first_chunk().map(|id| u16::from_be_bytes(*id)) else { continue };
            let slot = &mut self.slots[usize::from(id)];
            // One that was given up, or a second reply.
            let Some(sent) = slot.sent.take() else { continue };
            self.under_way -= 1;
            match questions[slot.question].is_right(reply) {
                true => {
                    self.run.right += 1;
                    self.run.micros.push((now - sent).as_micros() as u32);
                }
                false => self.run.wrong += 1,
            }
        }
        Ok(lengths.len())
    }

    /// One call over the first buffers, with so many bytes of each; how many bytes each of those done has.
    fn batch(&mut self, lengths: &[usize], call: impl Fn(i32, *mut libc::mmsghdr, u32) -> i32) -> Outcome<Vec<usize>> {
        // SAFETY: zeroes are valid parts and headers.
        let (mut parts, mut headers): ([libc::iovec; BATCH], [libc::mmsghdr; BATCH]) = unsafe { std::mem::zeroed() };
        for (nth, length) in lengths.iter().enumerate() {
            parts[nth] = libc::iovec { iov_base: self.buffers[nth].as_mut_ptr().cast(), iov_len: *length };
            headers[nth].msg_hdr.msg_iov = &raw mut parts[nth];
            headers[nth].msg_hdr.msg_iovlen = 1;
        }
        let done = call(self.socket.as_raw_fd(), headers.as_mut_ptr(), lengths.len() as u32);
        match usize::try_from(done) {
            Ok(done) => Ok(headers[..done].iter().map(|header| header.msg_len as usize).collect()),
            Err(_) => match io::Error::last_os_error() {
                error if error.kind() == io::ErrorKind::WouldBlock => Ok(Vec::new()),
                error => Err(format!("the server at {:?}: {error}", self.socket.peer_addr()).into()),
            },
        }
    }
}
