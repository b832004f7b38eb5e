//! SPDY/3.1 as port-forward needs it: frames in, frames out, no sockets and no clock.
//!
//! ```text
//!  bytes ─► Decoder ─► Frame: SynStream, Data (in pieces), Reset, Ping, GoAway
//!                 └► headers (zlib with SPDY's dictionary, one stream of it per connection)
//!  Encoder ─► bytes: SYN_REPLY, data, RST_STREAM, PING
//! ```
//!
//! kubectl and its library open streams; nobody here does. Like them we neither send nor obey WINDOW_UPDATE: what is read
//! too slowly holds up the connection below. Knows nothing of ports or pods.
//! Spec: SPDY Protocol - Draft 3.1, §2.2 (frames) and §2.6 (control frames).

mod decode;
mod encode;
mod headers;

pub(crate) use decode::{Decoder, Frame};
pub(crate) use encode::{Encoder, data, pong, reset};
pub(crate) use headers::Headers;

/// What an HTTP upgrade calls it.
pub(crate) const NAME: &str = "SPDY/3.1";

/// The first sixteen bits of a control frame: the control bit and version 3.
const CONTROL: u16 = 0x8003;
/// Bytes before any frame's payload.
const HEADER_BYTES: usize = 8;
/// Flag of the last frame that a side sends on a stream.
const FLAG_FIN: u8 = 0x01;
/// A stream's number has 31 bits; the highest bit is reserved.
const STREAM_MASK: u32 = 0x7fff_ffff;

const SYN_STREAM: u16 = 1;
const SYN_REPLY: u16 = 2;
const RST_STREAM: u16 = 3;
const PING: u16 = 6;
const GOAWAY: u16 = 7;
const HEADERS: u16 = 8;

/// Why a stream is refused: the status of RST_STREAM. §2.6.3.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reset {
    Protocol = 1,
    Refused = 3,
}

/// What a peer sent that is not SPDY, or more than is taken. The connection cannot go on after it.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum SpdyError {
    #[error("a control frame of SPDY version {0}; only version 3 is spoken here")]
    Version(u16),
    #[error("a control frame of {0} bytes; at most {max} are taken", max = decode::MAX_CONTROL_BYTES)]
    TooLong(usize),
    #[error("a control frame of type {0} that is too short for it")]
    TooShort(u16),
    #[error("a header block that does not decompress: {0}")]
    Compression(&'static str),
    #[error("a header block whose lengths do not add up")]
    HeaderBlock,
}

#[cfg(test)]
mod tests;
