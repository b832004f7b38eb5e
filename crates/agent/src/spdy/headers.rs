//! A header block: names and values, deflated in one zlib stream per direction with SPDY's dictionary. §2.6.10.

use flate2::{Decompress, FlushDecompress, Status};

use super::SpdyError;

/// A block may not become longer than this; kubectl's have some 60 bytes.
const MAX_BLOCK_BYTES: usize = 64 * 1024;
/// Set in zlib's second byte when the stream begins from a dictionary, whose checksum follows. RFC 1950 §2.2.
const FDICT: u8 = 0x20;

/// Names, in lower case on the wire, and their values, in the order they came.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Headers(pub(crate) Vec<(String, String)>);

impl Headers {
    /// The first value of a name, whatever its case.
    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(own, _)| own.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }

    /// Count, then length and text of each name and value, all lengths in 32 bits.
    fn parse(block: &[u8]) -> Result<Self, SpdyError> {
        let (count, mut rest) = number(block)?;
        let mut pairs = Vec::new();
        for _ in 0..count {
            let (name, after) = text(rest)?;
            let (value, after) = text(after)?;
            pairs.push((name, value));
            rest = after;
        }
        if rest.is_empty() { Ok(Self(pairs)) } else { Err(SpdyError::HeaderBlock) }
    }
}

fn number(bytes: &[u8]) -> Result<(u32, &[u8]), SpdyError> {
    let (first, rest) = bytes.split_first_chunk::<4>().ok_or(SpdyError::HeaderBlock)?;
    Ok((u32::from_be_bytes(*first), rest))
}

fn text(bytes: &[u8]) -> Result<(String, &[u8]), SpdyError> {
    let (length, rest) = number(bytes)?;
    let (text, rest) = rest.split_at_checked(length as usize).ok_or(SpdyError::HeaderBlock)?;
    Ok((String::from_utf8_lossy(text).into_owned(), rest))
}

/// Inflates the blocks of one direction of one connection, in the order they come.
pub(crate) struct HeaderReader {
    inflate: Decompress,
    has_begun: bool,
}

impl HeaderReader {
    pub(crate) fn new() -> Self {
        Self { inflate: Decompress::new(false), has_begun: false }
    }

    /// Every block must pass through here, also one whose frame means nothing to us: later ones refer back to it.
    pub(crate) fn read(&mut self, block: &[u8]) -> Result<Headers, SpdyError> {
        let deflated = if self.has_begun { block } else { self.begin(block)? };
        Headers::parse(&self.inflate(deflated)?)
    }

    /// Takes zlib's own header off the first block, and puts the dictionary where deflate looks back: a stored block that
    /// is inflated before all others leaves its bytes in the window.
    fn begin<'a>(&mut self, block: &'a [u8]) -> Result<&'a [u8], SpdyError> {
        let ([method, flags], rest) =
            block.split_first_chunk::<2>().ok_or(SpdyError::Compression("it is too short"))?;
        let is_zlib = method & 0x0f == 8 && u16::from_be_bytes([*method, *flags]) % 31 == 0;
        if !is_zlib {
            return Err(SpdyError::Compression("it is no zlib stream"));
        }
        self.has_begun = true;
        if flags & FDICT == 0 {
            return Ok(rest);
        }
        let (checksum, rest) =
            rest.split_first_chunk::<4>().ok_or(SpdyError::Compression("it has no dictionary's checksum"))?;
        if *checksum != DICTIONARY_CHECKSUM {
            return Err(SpdyError::Compression("it was made with another dictionary"));
        }
        let dictionary = dictionary();
        let length = u16::try_from(dictionary.len()).expect("it has 1423 bytes");
        let mut stored = vec![0];
        stored.extend(length.to_le_bytes());
        stored.extend((!length).to_le_bytes());
        stored.extend(dictionary);
        self.inflate(&stored)?;
        Ok(rest)
    }

    fn inflate(&mut self, deflated: &[u8]) -> Result<Vec<u8>, SpdyError> {
        let mut out = Vec::new();
        let mut chunk = [0; 4096];
        let mut rest = deflated;
        loop {
            let (read, written) = (self.inflate.total_in(), self.inflate.total_out());
            let status = self.inflate.decompress(rest, &mut chunk, FlushDecompress::Sync);
            let status = status.map_err(|_| SpdyError::Compression("its bytes are no deflate stream"))?;
            let read = usize::try_from(self.inflate.total_in() - read).expect("no more than was given");
            let written = usize::try_from(self.inflate.total_out() - written).expect("no more than there was room");
            out.extend_from_slice(&chunk[..written]);
            rest = &rest[read..];
            if out.len() > MAX_BLOCK_BYTES {
                return Err(SpdyError::Compression("it becomes longer than 64 KiB"));
            }
            match status {
                Status::StreamEnd => return Err(SpdyError::Compression("its stream ends")),
                _ if read == 0 && written == 0 => return Ok(out),
                _ => {}
            }
        }
    }
}

/// Adler-32 of [`dictionary`].
const DICTIONARY_CHECKSUM: [u8; 4] = [0xe3, 0xc6, 0xa7, 0xc2];

/// Names and values that stand in the dictionary with their lengths before them, as in a block.
const DICTIONARY_WORDS: &str = "options|head|post|put|delete|trace|accept|accept-charset|accept-encoding|accept-language|\
     accept-ranges|age|allow|authorization|cache-control|connection|content-base|content-encoding|content-language|\
     content-length|content-location|content-md5|content-range|content-type|date|etag|expect|expires|from|host|if-match|\
     if-modified-since|if-none-match|if-range|if-unmodified-since|last-modified|location|max-forwards|pragma|\
     proxy-authenticate|proxy-authorization|range|referer|retry-after|server|te|trailer|transfer-encoding|upgrade|\
     user-agent|vary|via|warning|www-authenticate|method|get|status|200 OK|version|HTTP/1.1|url|public|set-cookie|\
     keep-alive|origin";

/// What follows them as it stands.
const DICTIONARY_TAIL: &str = "10010120120220520630030230330430530630740240540640740840941041141241341441541641750250450\
     5203 Non-Authoritative Information204 No Content301 Moved Permanently400 Bad Request401 Unauthorized403 Forbidden404 \
     Not Found500 Internal Server Error501 Not Implemented503 Service UnavailableJan Feb Mar Apr May Jun Jul Aug Sept Oct \
     Nov Dec 00:00:00 Mon, Tue, Wed, Thu, Fri, Sat, Sun, GMTchunked,text/html,image/png,image/jpg,image/gif,\
     application/xml,application/xhtml+xml,text/plain,text/javascript,publicprivatemax-age=gzip,deflate,sdchcharset=utf-8\
     charset=iso-8859-1,utf-,*,enq=0.";

/// SPDY/3's dictionary. §2.6.10.1.
pub(super) fn dictionary() -> Vec<u8> {
    let mut all = Vec::new();
    for word in DICTIONARY_WORDS.split('|') {
        let length = u32::try_from(word.len()).expect("words are short");
        all.extend(length.to_be_bytes());
        all.extend(word.bytes());
    }
    all.extend(DICTIONARY_TAIL.bytes());
    all
}
