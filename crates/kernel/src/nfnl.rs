//! Messages of nfnetlink as bytes: read and written without a library, for tables that are long.
//!
//! ```text
//!  message = nlmsghdr (16: length, type, flags, sequence, port) │ nfgenmsg (4: family, version, res_id) │ attributes
//! ```
//!
//! Nothing here panics on what it reads: an attribute that is cut short ends the list. Spec: RFC 3549 §2.2, `nfnetlink.h`.

/// `NLMSG_ERROR`, `NLMSG_DONE`.
pub const ERROR: u16 = 2;
pub const DONE: u16 = 3;
/// `NLM_F_REQUEST`, `_ACK`, `_DUMP_INTR`, `_DUMP`.
pub const REQUEST: u16 = 0x1;
pub const ACK: u16 = 0x4;
pub const DUMP_INTERRUPTED: u16 = 0x10;
pub const DUMP: u16 = 0x300;

const HEADER_LEN: usize = 16;
const FAMILY_LEN: usize = 4;
const NESTED: u16 = 0x8000;
const TYPE_MASK: u16 = 0x3fff;
const NLMSGERR_ATTR_MSG: u16 = 1;

/// One message of a datagram.
#[derive(Clone, Copy, Debug)]
pub struct Message<'a> {
    bytes: &'a [u8],
}

impl<'a> Message<'a> {
    /// `nlmsg_type`: subsystem in the upper byte.
    pub fn kind(&self) -> u16 {
        u16::from_ne_bytes([self.bytes[4], self.bytes[5]])
    }

    pub fn flags(&self) -> u16 {
        u16::from_ne_bytes([self.bytes[6], self.bytes[7]])
    }

    pub fn sequence(&self) -> u32 {
        word(self.bytes, 8)
    }

    /// Of the socket that caused it, in a notification.
    pub fn port(&self) -> u32 {
        word(self.bytes, 12)
    }

    /// `nfgen_family`; 0 where the message ends before it.
    pub fn family(&self) -> u8 {
        self.bytes.get(HEADER_LEN).copied().unwrap_or(0)
    }

    pub fn attributes(&self) -> Attributes<'a> {
        Attributes(self.bytes.get(HEADER_LEN + FAMILY_LEN..).unwrap_or(&[]))
    }

    /// The whole message with its header.
    pub fn bytes(&self) -> &'a [u8] {
        self.bytes
    }

    /// Of an error: the positive errno (0: an acknowledgement) and the kernel's words, with `NETLINK_CAP_ACK`.
    pub fn answer(&self) -> (i32, String) {
        let code = self.bytes.get(HEADER_LEN..HEADER_LEN + 4).map_or(0, |_| word(self.bytes, HEADER_LEN).cast_signed());
        let tail = self.bytes.get(HEADER_LEN + 4 + HEADER_LEN..).unwrap_or(&[]);
        let words = Attributes(tail).find(|(kind, _)| *kind == NLMSGERR_ATTR_MSG).map(|(_, value)| text(value));
        (code.saturating_neg(), words.unwrap_or_default())
    }
}

fn word(bytes: &[u8], at: usize) -> u32 {
    u32::from_ne_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

/// The messages of one datagram, each with its whole header.
pub fn messages(mut bytes: &[u8]) -> impl Iterator<Item = Message<'_>> {
    std::iter::from_fn(move || {
        if bytes.len() < HEADER_LEN {
            return None;
        }
        let length = word(bytes, 0) as usize;
        let message = bytes.get(..length).filter(|message| message.len() >= HEADER_LEN)?;
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or(&[]);
        Some(Message { bytes: message })
    })
}

/// Attributes one after another: type without its flags, and value.
#[derive(Clone, Copy, Debug)]
pub struct Attributes<'a>(pub &'a [u8]);

impl<'a> Iterator for Attributes<'a> {
    type Item = (u16, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let [l0, l1, k0, k1, ..] = *self.0 else { return None };
        let length = usize::from(u16::from_ne_bytes([l0, l1]));
        let value = self.0.get(4..length)?;
        self.0 = self.0.get(length.next_multiple_of(4)..).unwrap_or(&[]);
        Some((u16::from_ne_bytes([k0, k1]) & TYPE_MASK, value))
    }
}

/// A text with or without its zero.
pub fn text(value: &[u8]) -> String {
    String::from_utf8_lossy(value.strip_suffix(&[0]).unwrap_or(value)).into_owned()
}

/// 32 bits in network order; 0 where they are cut short.
pub fn number(value: &[u8]) -> u32 {
    value.try_into().map_or(0, u32::from_be_bytes)
}

/// 16 bits in network order; 0 where they are cut short.
pub fn short(value: &[u8]) -> u16 {
    value.try_into().map_or(0, u16::from_be_bytes)
}

/// Appends a message with attributes that are bytes already.
pub fn append(to: &mut Vec<u8>, kind: u16, flags: u16, sequence: u32, family: u8, attributes: &[u8]) {
    let length = (HEADER_LEN + FAMILY_LEN + attributes.len()) as u32;
    to.extend_from_slice(&length.to_ne_bytes());
    to.extend_from_slice(&kind.to_ne_bytes());
    to.extend_from_slice(&flags.to_ne_bytes());
    to.extend_from_slice(&sequence.to_ne_bytes());
    to.extend_from_slice(&[0; 4]);
    to.extend_from_slice(&[family, 0, 0, 0]);
    to.extend_from_slice(attributes);
    to.resize(to.len().next_multiple_of(4), 0);
}

/// Appends one attribute with its padding.
pub fn append_attribute(to: &mut Vec<u8>, kind: u16, value: &[u8]) {
    to.extend_from_slice(&((value.len() + 4) as u16).to_ne_bytes());
    to.extend_from_slice(&kind.to_ne_bytes());
    to.extend_from_slice(value);
    to.resize(to.len().next_multiple_of(4), 0);
}

/// Appends an attribute of attributes.
pub fn append_nested(to: &mut Vec<u8>, kind: u16, attributes: &[u8]) {
    append_attribute(to, kind | NESTED, attributes);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_again() {
        let mut attributes = Vec::new();
        append_attribute(&mut attributes, 1, b"abc\0x");
        append_nested(&mut attributes, 2, &[8, 0, 7, 0, 0, 0, 1, 0]);
        let mut bytes = Vec::new();
        append(&mut bytes, 0x0a03, REQUEST, 7, 2, &attributes);
        append(&mut bytes, DONE, 0, 8, 0, &[]);
        let read: Vec<Message<'_>> = messages(&bytes).collect();
        assert_eq!((read.len(), read[0].kind(), read[0].sequence(), read[0].family()), (2, 0x0a03, 7, 2));
        let parts: Vec<(u16, &[u8])> = read[0].attributes().collect();
        assert_eq!((parts[0], parts[1].0), ((1, &b"abc\0x"[..]), 2));
        assert_eq!(Attributes(parts[1].1).next().map(|(kind, value)| (kind, number(value))), Some((7, 256)));
    }

    #[test]
    fn a_message_cut_anywhere_is_read_without_panic() {
        let mut bytes = Vec::new();
        append(&mut bytes, ERROR, 0, 1, 0, &[8, 0, 1, 0, 1, 2, 3, 4, 9, 0, 2, 0, 1]);
        for end in 0..bytes.len() {
            for length in [0u32, 15, 16, 19, 33, u32::MAX] {
                let mut cut = bytes[..end].to_vec();
                if end >= 4 {
                    cut[..4].copy_from_slice(&length.to_ne_bytes());
                }
                for message in messages(&cut) {
                    message.answer();
                    message.attributes().for_each(drop);
                }
            }
        }
    }
}
