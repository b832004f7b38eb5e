//! Frames into bytes: the few that one who answers port-forwards sends.

use bytes::{BufMut, Bytes, BytesMut};

use super::{CONTROL, FLAG_FIN, HEADER_BYTES, PING, RST_STREAM, Reset, SYN_REPLY};

/// zlib's header without a dictionary, before the first block only. RFC 1950 §2.2.
const ZLIB_BEGIN: [u8; 2] = [0x78, 0x01];
/// A block of no headers: its count of 0 as a stored block, then an empty one. RFC 1951 §3.2.4. Receivers flush at the
/// empty one, as deflate's own flush writes it; without it Go's reader waits for more and takes the end for an error.
const NO_HEADERS: [u8; 14] = [0, 4, 0, 0xfb, 0xff, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff];

/// Builds the frames of one direction of one connection.
#[derive(Default)]
pub(crate) struct Encoder {
    has_begun: bool,
}

impl Encoder {
    /// Takes a stream that the peer opened.
    pub(crate) fn syn_reply(&mut self, stream: u32) -> Bytes {
        let mut payload = stream.to_be_bytes().to_vec();
        if !std::mem::replace(&mut self.has_begun, true) {
            payload.extend(ZLIB_BEGIN);
        }
        payload.extend(NO_HEADERS);
        control(SYN_REPLY, &payload)
    }
}

/// Refuses or ends a stream.
pub(crate) fn reset(stream: u32, status: Reset) -> Bytes {
    control(RST_STREAM, &[stream.to_be_bytes(), (status as u32).to_be_bytes()].concat())
}

/// Answers the peer's ping.
pub(crate) fn pong(id: u32) -> Bytes {
    control(PING, &id.to_be_bytes())
}

/// Carries bytes on a stream, at most 16 MiB less one; `fin`: they are the last.
pub(crate) fn data(stream: u32, bytes: &[u8], fin: bool) -> Bytes {
    let mut frame = BytesMut::with_capacity(HEADER_BYTES + bytes.len());
    frame.put_u32(stream);
    finish(frame, if fin { FLAG_FIN } else { 0 }, bytes)
}

fn control(kind: u16, payload: &[u8]) -> Bytes {
    let mut frame = BytesMut::with_capacity(HEADER_BYTES + payload.len());
    frame.put_u16(CONTROL);
    frame.put_u16(kind);
    finish(frame, 0, payload)
}

fn finish(mut frame: BytesMut, flags: u8, payload: &[u8]) -> Bytes {
    let length = u32::try_from(payload.len()).ok().filter(|length| *length < 1 << 24);
    let length = length.expect("pieces are far below 16 MiB");
    frame.put_u32(u32::from(flags) << 24 | length);
    frame.extend_from_slice(payload);
    frame.freeze()
}
