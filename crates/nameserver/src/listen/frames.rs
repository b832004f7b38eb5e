//! Messages of a TCP connection: two bytes of length, then the message (RFC 1035 §4.2.2), as they come in pieces.
//!
//! The room is fixed: of a message that is longer than any query only the header is kept, the rest is skipped.

use portolan_dns::wire::HEADER;

/// Most bytes of a query that are kept.
const LONGEST: usize = 2048;
/// Bytes of the length before each message.
const LENGTH: usize = 2;

/// What came of a connection and was not taken yet.
pub(super) struct Frames {
    buffer: Box<[u8]>,
    start: usize,
    end: usize,
    /// Bytes still to come of a message whose header was taken.
    skip: usize,
}

impl Frames {
    pub(super) fn new() -> Self {
        Self { buffer: vec![0; LENGTH + LONGEST].into_boxed_slice(), start: 0, end: 0, skip: 0 }
    }

    /// Room for what comes next; never empty once [`Frames::next`] gave `None`.
    pub(super) fn room(&mut self) -> &mut [u8] {
        self.buffer.copy_within(self.start..self.end, 0);
        self.end -= self.start;
        self.start = 0;
        &mut self.buffer[self.end..]
    }

    /// So many bytes were put into the room.
    pub(super) fn filled(&mut self, count: usize) {
        self.end += count;
    }

    /// The next whole message, and whether only its header is left of it; `None`: more must come first.
    pub(super) fn next(&mut self) -> Option<(&[u8], bool)> {
        let skipped = self.skip.min(self.end - self.start);
        self.start += skipped;
        self.skip -= skipped;
        let there = &self.buffer[self.start..self.end];
        let length = usize::from(u16::from_be_bytes(*there.first_chunk::<LENGTH>()?));
        let is_cut = length > LONGEST;
        let kept = if is_cut { HEADER } else { length };
        if there.len() < LENGTH + kept {
            return None;
        }
        let from = self.start + LENGTH;
        self.start = from + kept;
        self.skip = length - kept;
        Some((&self.buffer[from..from + kept], is_cut))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What comes out when `bytes` come in pieces of `size`.
    fn taken(bytes: &[u8], size: usize) -> Vec<(Vec<u8>, bool)> {
        let (mut frames, mut out) = (Frames::new(), Vec::new());
        let mut rest = bytes;
        while !rest.is_empty() {
            let room = frames.room();
            let count = size.min(room.len()).min(rest.len());
            assert!(count > 0, "there is always room");
            room[..count].copy_from_slice(&rest[..count]);
            rest = &rest[count..];
            frames.filled(count);
            while let Some((message, is_cut)) = frames.next() {
                out.push((message.to_vec(), is_cut));
            }
        }
        out
    }

    #[test]
    fn messages_come_out_whole_whatever_the_pieces_and_long_ones_as_headers() {
        let messages: Vec<Vec<u8>> =
            [0, 1, 12, 50, LONGEST, LONGEST + 1, 65_535, 30].iter().map(|len| vec![*len as u8; *len]).collect();
        let mut bytes = Vec::new();
        for message in &messages {
            bytes.extend_from_slice(&(message.len() as u16).to_be_bytes());
            bytes.extend_from_slice(message);
        }
        let wanted: Vec<(Vec<u8>, bool)> = messages
            .into_iter()
            .map(|message| match message.len() > LONGEST {
                true => (message[..HEADER].to_vec(), true),
                false => (message, false),
            })
            .collect();
        for size in [1, 2, 3, 13, 700, 65_536] {
            assert_eq!(taken(&bytes, size), wanted, "in pieces of {size}");
        }
    }
}
