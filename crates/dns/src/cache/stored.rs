//! An answer as it is kept: the packet, and where in it the TTLs and the ends of the records are.
//!
//! ```text
//!  header │ question │ record … TTL … data │ record … TTL … data │ marks
//!                             ▲           ▲
//!                            both are in the record's mark
//! ```
//!
//! To answer, the packet is copied, the client's ID, flags and spelling of the question are put in, and each TTL is
//! counted down. Owners that end as the question does point into it, and so follow its spelling.

use std::borrow::Cow;
use std::time::Duration;

use crate::build::{Reply, Rr};
use crate::forward::Question;
use crate::message::{Message, Record};
use crate::rdata::Rtype;
use crate::wire::{HEADER, MAX_UDP, Query, Rcode, Transport, ask, push_opt};

/// Bytes of an OPT record without options.
const OPT_LEN: usize = 11;
/// Larger answers are not kept.
const LARGEST: usize = 0x3fff;

/// A packet without OPT that can be sent again.
#[derive(Debug)]
pub(super) struct Stored {
    /// The packet and, behind it so that they are fetched together, its marks.
    bytes: Box<[u8]>,
    /// Length of the packet.
    len: u16,
    /// Length of the question section.
    question: u16,
    authentic_data: bool,
    pub(super) rcode: Rcode,
    /// Addresses that may be put in another order: the first mark of the run, and how many.
    run: (u16, u16),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Mark {
    /// Offset of the TTL.
    ttl: usize,
    /// Offset of what follows the record.
    end: usize,
    /// 0 answer, 1 authority, 2 additional.
    section: usize,
}

impl Mark {
    /// The offsets have 14 bits, the section two.
    const BYTES: usize = 4;

    fn to_bytes(self) -> [u8; Self::BYTES] {
        let (ttl, end) = (self.ttl as u16, self.end as u16 | (self.section as u16) << 14);
        let ([a, b], [c, d]) = (ttl.to_be_bytes(), end.to_be_bytes());
        [a, b, c, d]
    }

    fn of(bytes: [u8; Self::BYTES]) -> Self {
        let [a, b, c, d] = bytes;
        let end = usize::from(u16::from_be_bytes([c, d]));
        Self { ttl: usize::from(u16::from_be_bytes([a, b])), end: end & LARGEST, section: end >> 14 }
    }
}

/// How TTLs are sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ttls {
    /// Less this many seconds.
    Aged(u32),
    /// All 0: the answer's time is over.
    Over,
}

impl Ttls {
    fn of(self, ttl_secs: u32) -> u32 {
        match self {
            Self::Aged(age) => ttl_secs.saturating_sub(age),
            Self::Over => 0,
        }
    }
}

impl Stored {
    /// `None` if it is too large to keep.
    pub(super) fn new(question: &Question, message: &Message) -> Option<Self> {
        let section = question.name.as_wire().len() + 4;
        let packet = ask(0, &question.bytes(), question.checking_disabled, None);
        let query = Query::parse(&packet).ok()?;
        let records = |records: &'_ [Record]| -> Vec<Rr<'static>> { records.iter().map(record).collect() };
        let reply = Reply {
            answers: records(&message.answers),
            authority: records(&message.authority),
            additional: records(&message.additional),
            ..Reply::new(message.rcode)
        };
        let wire = reply.render(&query, Transport::Tcp);
        let counts = [message.answers.len(), message.authority.len(), message.additional.len()];
        if wire.len() > LARGEST {
            return None;
        }
        let marks = marks(&wire, HEADER + section, counts)?;
        let run = run(&wire, HEADER + section, &marks);
        let len = wire.len() as u16;
        let marks = marks.into_iter().flat_map(Mark::to_bytes);
        Some(Self {
            bytes: wire.into_iter().chain(marks).collect(),
            len,
            question: section as u16,
            authentic_data: message.authentic_data,
            rcode: message.rcode,
            run,
        })
    }

    /// Memory that it holds beside itself, in bytes.
    pub(super) fn bytes(&self) -> usize {
        self.bytes.len()
    }

    fn wire(&self) -> &[u8] {
        &self.bytes[..usize::from(self.len)]
    }

    fn marks(&self) -> impl DoubleEndedIterator<Item = Mark> + ExactSizeIterator {
        let (marks, _) = self.bytes[usize::from(self.len)..].as_chunks::<{ Mark::BYTES }>();
        marks.iter().map(|bytes| Mark::of(*bytes))
    }

    /// The name it is for, as it was asked first.
    pub(super) fn name(&self) -> &[u8] {
        &self.bytes[HEADER..HEADER + usize::from(self.question) - 4]
    }

    /// Type and class of its question, as on the wire.
    pub(super) fn rtype_and_class(&self) -> (Rtype, u16) {
        let end = HEADER + usize::from(self.question);
        let number = |at: usize| u16::from_be_bytes([self.bytes[at], self.bytes[at + 1]]);
        (Rtype(number(end - 4)), number(end - 2))
    }

    /// The reply to `query`, of `limit` bytes at most: additional records that do not fit are left out, anything else
    /// sets TC. `turn` puts addresses in another order.
    pub(super) fn write(&self, query: &Query<'_>, limit: usize, ttls: Ttls, turn: u32, out: &mut Vec<u8>) {
        let opt = if query.edns.is_some() { OPT_LEN } else { 0 };
        let (count, truncated) = self.fitting(limit.saturating_sub(opt));
        let mut end = HEADER + usize::from(self.question);
        let mut counts = [0; 3];
        for mark in self.marks().take(count) {
            counts[mark.section] += 1;
            end = mark.end;
        }
        out.clear();
        out.extend_from_slice(&self.bytes[..end]);
        for mark in self.marks().take(count) {
            let ttl = &mut out[mark.ttl..mark.ttl + 4];
            let left = ttls.of(ttl.first_chunk::<4>().map_or(0, |ttl| u32::from_be_bytes(*ttl)));
            ttl.copy_from_slice(&left.to_be_bytes());
        }
        self.turn(turn, count, out);
        self.write_head(query, counts, truncated, out);
        if let Some(edns) = query.edns {
            push_opt(out, MAX_UDP as u16, self.rcode, edns.dnssec_ok);
        }
    }

    /// How many records fit, and whether one that matters does not.
    fn fitting(&self, limit: usize) -> (usize, bool) {
        if usize::from(self.len) <= limit {
            return (self.marks().len(), false);
        }
        let count = self.marks().take_while(|mark| mark.end <= limit).count();
        (count, self.marks().skip(count).any(|mark| mark.section < 2))
    }

    fn write_head(&self, query: &Query<'_>, counts: [u16; 3], truncated: bool, out: &mut [u8]) {
        let wants_ad = query.authentic_data || query.edns.is_some_and(|edns| edns.dnssec_ok);
        let flag = |set: bool, bit: u16| if set { bit } else { 0 };
        let flags = 0x8080
            | flag(truncated, 0x0200)
            | flag(query.recursion_desired, 0x0100)
            | flag(self.authentic_data && wants_ad, 0x0020)
            | flag(query.checking_disabled, 0x0010)
            | self.rcode.0 & 15;
        let [answers, authority, additional] = counts;
        let additional = additional + u16::from(query.edns.is_some());
        for (at, number) in [query.id, flags, 1, answers, authority, additional].into_iter().enumerate() {
            out[at * 2..at * 2 + 2].copy_from_slice(&number.to_be_bytes());
        }
        out[HEADER..HEADER + query.question.len()].copy_from_slice(query.question);
    }

    /// Turns the run of addresses by `turn` places, if all of it is there.
    fn turn(&self, turn: u32, fitting: usize, out: &mut [u8]) {
        let (first, count) = (usize::from(self.run.0), usize::from(self.run.1));
        if count < 2 || turn == 0 || first + count > fitting {
            return;
        }
        let mut last = self.marks().skip(first + count - 2).map(|mark| mark.end);
        let (Some(before), Some(end)) = (last.next(), last.next()) else { return };
        let size = end - before;
        let by = turn as usize % count * size;
        out[end - count * size..end].rotate_left(by);
    }

    /// The answer as a message, its TTLs so.
    pub(super) fn message(&self, ttls: Ttls) -> Option<Message> {
        let mut message = Message::parse(self.wire())?;
        message.authentic_data = self.authentic_data;
        let sections = [&mut message.answers, &mut message.authority, &mut message.additional];
        for record in sections.into_iter().flatten() {
            record.ttl_secs = ttls.of(record.ttl_secs);
        }
        Some(message)
    }
}

/// Whole seconds between two times.
pub(super) fn seconds(from: Duration, to: Duration) -> u32 {
    u32::try_from(to.saturating_sub(from).as_secs()).unwrap_or(u32::MAX)
}

fn record(record: &Record) -> Rr<'static> {
    Rr {
        owner: record.owner.clone(),
        rtype: record.rtype,
        class: record.class,
        ttl_secs: record.ttl_secs,
        data: Cow::Owned(record.data.clone()),
    }
}

/// Walks the packet's records; `None` if they are not as many as they should be.
fn marks(wire: &[u8], start: usize, counts: [usize; 3]) -> Option<Vec<Mark>> {
    let mut marks = Vec::with_capacity(counts.iter().sum());
    let mut at = start;
    for (section, count) in counts.into_iter().enumerate() {
        for _ in 0..count {
            let fixed = name_end(wire, at)?;
            let len = usize::from(u16::from_be_bytes([*wire.get(fixed + 8)?, *wire.get(fixed + 9)?]));
            at = fixed + 10 + len;
            marks.push(Mark { ttl: fixed + 4, end: at, section });
        }
    }
    (at == wire.len()).then_some(marks)
}

fn name_end(wire: &[u8], mut at: usize) -> Option<usize> {
    loop {
        match *wire.get(at)? {
            0 => return Some(at + 1),
            len @ 1..=63 => at += usize::from(len) + 1,
            _ => return Some(at + 2),
        }
    }
}

/// The longest run of addresses in the answer section whose owners are pointers to before it: equal in size, and nothing
/// points into them, so they may change places.
fn run(wire: &[u8], start: usize, marks: &[Mark]) -> (u16, u16) {
    let begin = |at: usize| if at == 0 { start } else { marks[at - 1].end };
    let kind = |at: usize| {
        let bytes = &wire[begin(at)..marks[at].end];
        let is_pointer = bytes[0] >= 0xc0;
        let is_address = matches!(bytes.get(2..4), Some([0, 1] | [0, 28]));
        (is_pointer && is_address && marks[at].section == 0).then(|| bytes[..6].to_vec())
    };
    let Some(first) = (0..marks.len()).find(|at| kind(*at).is_some()) else { return (0, 0) };
    let like = kind(first);
    let count = (first..marks.len()).take_while(|at| kind(*at) == like).count();
    (first as u16, count as u16)
}
