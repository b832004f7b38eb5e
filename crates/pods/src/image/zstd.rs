//! Zstandard as layers come: several frames one after another, some of them to be skipped. RFC 8878 §3.1.
//!
//! Tools that compress in parallel, or for lazy pulling, write many frames; the decoder underneath knows one.

use std::io::{self, BufRead, Read};

use ruzstd::decoding::errors::{FrameDecoderError, ReadFrameHeaderError};
use ruzstd::decoding::{BlockDecodingStrategy, FrameDecoder};

/// What `zstd --long` needs, and the most that is held in memory for a layer. RFC 8878 §3.1.1.1.2 lets a decoder say no
/// above 8 MB.
const LARGEST_WINDOW_BYTES: u64 = 128 << 20;

/// Reads all frames of a stream as one.
pub(super) struct Frames<R> {
    source: R,
    decoder: FrameDecoder,
    is_inside: bool,
}

impl<R: BufRead> Frames<R> {
    pub(super) fn new(source: R) -> Self {
        let mut decoder = FrameDecoder::new();
        decoder.set_max_window_size(LARGEST_WINDOW_BYTES);
        Self { source, decoder, is_inside: false }
    }

    /// Goes on to the next frame; false at the end.
    fn next_frame(&mut self) -> io::Result<bool> {
        loop {
            if self.source.fill_buf()?.is_empty() {
                return Ok(false);
            }
            match self.decoder.reset(&mut self.source) {
                Ok(()) => return Ok(true),
                Err(FrameDecoderError::ReadFrameHeaderError(ReadFrameHeaderError::SkipFrame { length, .. })) => {
                    self.skip(u64::from(length))?;
                }
                Err(error) => return Err(io::Error::other(error)),
            }
        }
    }

    fn skip(&mut self, length: u64) -> io::Result<()> {
        match io::copy(&mut self.source.by_ref().take(length), &mut io::sink())? {
            skipped if skipped == length => Ok(()),
            _ => Err(io::ErrorKind::UnexpectedEof.into()),
        }
    }
}

impl<R: BufRead> Read for Frames<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        loop {
            if self.is_inside && self.decoder.can_collect() > 0 {
                return self.decoder.read(buffer);
            }
            if self.is_inside && !self.decoder.is_finished() {
                let decoded = self.decoder.decode_blocks(&mut self.source, BlockDecodingStrategy::UptoBlocks(1));
                decoded.map_err(io::Error::other)?;
                continue;
            }
            self.is_inside = self.next_frame()?;
            if !self.is_inside {
                return Ok(0);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use ruzstd::encoding::{CompressionLevel, compress_to_vec};

    use super::*;

    fn frame(text: &[u8]) -> Vec<u8> {
        compress_to_vec(text, CompressionLevel::Fastest)
    }

    fn skippable(text: &[u8]) -> Vec<u8> {
        let mut bytes = 0x184D_2A50_u32.to_le_bytes().to_vec();
        bytes.extend((text.len() as u32).to_le_bytes());
        bytes.extend(text);
        bytes
    }

    fn read(bytes: &[u8]) -> io::Result<Vec<u8>> {
        let mut all = Vec::new();
        Frames::new(bytes).read_to_end(&mut all).map(|_| all)
    }

    #[test]
    fn all_frames_are_read_and_skippable_ones_skipped() {
        let large = vec![7; 300_000];
        let stream = [skippable(b"toc"), frame(b"one "), frame(b""), frame(&large), skippable(b""), frame(b" end")];
        let expected = [&b"one "[..], &large, b" end"].concat();
        assert_eq!(read(&stream.concat()).expect("reads"), expected);
        assert_eq!(read(b"").expect("reads"), b"");
    }

    #[test]
    fn a_stream_that_breaks_off_anywhere_is_an_error_except_between_frames() {
        let (one, two) = (frame(b"some text, some text"), skippable(b"skipped"));
        let whole = [one.clone(), two].concat();
        for length in 1..whole.len() {
            assert_eq!(read(&whole[..length]).is_ok(), length == one.len(), "at {length}");
        }
    }
}
