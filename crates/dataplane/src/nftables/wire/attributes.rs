//! Netlink messages and attributes, written straight into one buffer.

use crate::nftables::numbers::{ATTRIBUTE_LEN, FAMILY_LEN, HEADER_LEN, NESTED};

/// Appends to a buffer. Numbers are in network order, as nf_tables has them, unless a method says otherwise.
#[derive(Debug, Default)]
pub struct Writer {
    bytes: Vec<u8>,
}

/// What is in front of a message's attributes.
#[derive(Clone, Copy, Debug)]
pub struct Head {
    /// `nlmsg_type`.
    pub kind: u16,
    /// `nlmsg_flags`.
    pub flags: u16,
    /// `nlmsg_seq`: the kernel names it where it refuses.
    pub sequence: u32,
    /// `nfgen_family`.
    pub family: u8,
    /// `res_id`.
    pub resource: u16,
}

impl Writer {
    /// With room for so many bytes.
    pub fn with_capacity(bytes: usize) -> Self {
        Self { bytes: Vec::with_capacity(bytes) }
    }

    /// Bytes so far.
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// What was written.
    pub fn finish(self) -> Vec<u8> {
        self.bytes
    }

    /// A message with the attributes that `body` writes; returns where it begins.
    pub fn message(&mut self, head: Head, body: impl FnOnce(&mut Self)) -> usize {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(&[0; 4]);
        self.bytes.extend_from_slice(&head.kind.to_ne_bytes());
        self.bytes.extend_from_slice(&head.flags.to_ne_bytes());
        self.bytes.extend_from_slice(&head.sequence.to_ne_bytes());
        self.bytes.extend_from_slice(&[0; 4]);
        self.bytes.extend_from_slice(&[head.family, 0]);
        self.bytes.extend_from_slice(&head.resource.to_be_bytes());
        debug_assert_eq!(self.bytes.len() - start, HEADER_LEN + FAMILY_LEN);
        body(self);
        let length = (self.bytes.len() - start) as u32;
        self.bytes[start..start + 4].copy_from_slice(&length.to_ne_bytes());
        start
    }

    /// Adds flags to the message that begins at `start`.
    pub fn add_flags(&mut self, start: usize, flags: u16) {
        let at = start + 6;
        let now = u16::from_ne_bytes([self.bytes[at], self.bytes[at + 1]]);
        self.bytes[at..at + 2].copy_from_slice(&(now | flags).to_ne_bytes());
    }

    /// An attribute of bytes, with padding.
    pub fn bytes(&mut self, kind: u16, value: &[u8]) {
        self.bytes.extend_from_slice(&((value.len() + ATTRIBUTE_LEN) as u16).to_ne_bytes());
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        self.bytes.extend_from_slice(value);
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }

    /// A text with its zero at the end.
    pub fn text(&mut self, kind: u16, value: &str) {
        self.bytes.extend_from_slice(&((value.len() + 1 + ATTRIBUTE_LEN) as u16).to_ne_bytes());
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        self.bytes.extend_from_slice(value.as_bytes());
        self.bytes.push(0);
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }

    /// 32 bits.
    pub fn number(&mut self, kind: u16, value: u32) {
        self.bytes(kind, &value.to_be_bytes());
    }

    /// Attributes within an attribute. What is nested must stay below 64 KiB: its length has 16 bits.
    pub fn nested(&mut self, kind: u16, body: impl FnOnce(&mut Self)) {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(&[0; 2]);
        self.bytes.extend_from_slice(&(kind | NESTED).to_ne_bytes());
        body(self);
        let length = self.bytes.len() - start;
        debug_assert!(length <= usize::from(u16::MAX), "a nested attribute of {length} bytes");
        self.bytes[start..start + 2].copy_from_slice(&(length as u16).to_ne_bytes());
    }
}
