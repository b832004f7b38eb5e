//! Bytes into frames, however they are cut.

use bytes::{Buf, Bytes, BytesMut};

use super::headers::HeaderReader;
use super::{
    CONTROL, FLAG_FIN, GOAWAY, HEADER_BYTES, HEADERS, Headers, PING, RST_STREAM, STREAM_MASK, SYN_REPLY, SYN_STREAM,
    SpdyError,
};

/// A longer control frame is refused before it is kept. Data frames are passed on in pieces and need no bound.
pub(crate) const MAX_CONTROL_BYTES: usize = 64 * 1024;

/// What a peer said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Frame {
    /// Opens a stream; `fin`: nothing more comes on it.
    SynStream { stream: u32, headers: Headers, fin: bool },
    /// A part of what a stream carries; `fin` with the last.
    Data { stream: u32, bytes: Bytes, fin: bool },
    /// The peer wants no more of a stream.
    Reset { stream: u32 },
    /// Wants the same back.
    Ping { id: u32 },
    /// Opens no more streams.
    GoAway,
    /// Of no meaning here: SYN_REPLY, HEADERS, SETTINGS, WINDOW_UPDATE and what is not known.
    Other(u16),
}

/// Collects bytes until frames are whole; data is passed on as it comes.
pub(crate) struct Decoder {
    /// At most one control frame that is not whole, and what was fed last.
    bytes: BytesMut,
    headers: HeaderReader,
    data: Option<DataFrame>,
}

/// A data frame that has begun.
struct DataFrame {
    stream: u32,
    left: usize,
    fin: bool,
}

impl Decoder {
    pub(crate) fn new() -> Self {
        Self { bytes: BytesMut::new(), headers: HeaderReader::new(), data: None }
    }

    /// Takes bytes; ask for frames until there is none before feeding more.
    pub(crate) fn feed(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    /// Bytes that are kept.
    #[cfg(test)]
    pub(super) fn kept(&self) -> usize {
        self.bytes.len()
    }

    /// The next frame, or piece of a data frame. After an error nothing that comes means anything.
    pub(crate) fn next(&mut self) -> Result<Option<Frame>, SpdyError> {
        if let Some(data) = self.data.take() {
            return Ok(self.piece(data));
        }
        let Some(header) = self.bytes.first_chunk::<HEADER_BYTES>() else {
            return Ok(None);
        };
        let [a, b, c, d, flags, x, y, z] = *header;
        let first = u32::from_be_bytes([a, b, c, d]);
        let length = u32::from_be_bytes([0, x, y, z]) as usize;
        if first & !STREAM_MASK == 0 {
            self.bytes.advance(HEADER_BYTES);
            let frame = DataFrame { stream: first, left: length, fin: flags & FLAG_FIN != 0 };
            return Ok(self.piece(frame));
        }
        let (version, kind) = (u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d]));
        if version != CONTROL {
            return Err(SpdyError::Version(version & 0x7fff));
        }
        if length > MAX_CONTROL_BYTES {
            return Err(SpdyError::TooLong(length));
        }
        if self.bytes.len() < HEADER_BYTES + length {
            return Ok(None);
        }
        self.bytes.advance(HEADER_BYTES);
        let payload = self.bytes.split_to(length).freeze();
        self.control(kind, flags & FLAG_FIN != 0, &payload).map(Some)
    }

    /// As much of the data frame as is there; `None`: nothing yet. An empty frame is one empty piece.
    fn piece(&mut self, mut data: DataFrame) -> Option<Frame> {
        let ready = data.left.min(self.bytes.len());
        if ready == 0 && data.left > 0 {
            self.data = Some(data);
            return None;
        }
        let bytes = self.bytes.split_to(ready).freeze();
        data.left -= ready;
        let frame = Frame::Data { stream: data.stream, bytes, fin: data.fin && data.left == 0 };
        if data.left > 0 {
            self.data = Some(data);
        }
        Some(frame)
    }

    fn control(&mut self, kind: u16, fin: bool, payload: &[u8]) -> Result<Frame, SpdyError> {
        let short = || SpdyError::TooShort(kind);
        let number = || payload.first_chunk::<4>().map(|four| u32::from_be_bytes(*four));
        Ok(match kind {
            SYN_STREAM => {
                // Stream, associated stream, priority and slot; then the block.
                let block = payload.get(10..).ok_or_else(short)?;
                let stream = number().ok_or_else(short)? & STREAM_MASK;
                Frame::SynStream { stream, headers: self.headers.read(block)?, fin }
            }
            SYN_REPLY | HEADERS => {
                self.headers.read(payload.get(4..).ok_or_else(short)?)?;
                Frame::Other(kind)
            }
            RST_STREAM => Frame::Reset { stream: number().ok_or_else(short)? & STREAM_MASK },
            PING => Frame::Ping { id: number().ok_or_else(short)? },
            GOAWAY => Frame::GoAway,
            other => Frame::Other(other),
        })
    }
}
