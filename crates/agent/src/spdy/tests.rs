use flate2::{Compress, Compression, FlushCompress};
use proptest::collection::vec;
use proptest::prelude::*;

use super::headers::dictionary;
use super::*;

/// The other side: deflates header blocks as Go's library does, its dictionary put into deflate's window.
struct Peer {
    deflate: Compress,
    has_begun: bool,
}

impl Peer {
    fn new() -> Self {
        Self { deflate: Compress::new(Compression::best(), false), has_begun: false }
    }

    /// Raw deflate; what was compressed before may be referred to.
    fn deflated(&mut self, bytes: &[u8]) -> Vec<u8> {
        let mut out = Vec::with_capacity(bytes.len() + 1024);
        self.deflate.compress_vec(bytes, &mut out, FlushCompress::Sync).expect("compresses");
        out
    }

    fn syn_stream(&mut self, stream: u32, headers: &[(&str, &str)], fin: bool) -> Vec<u8> {
        let mut block = (headers.len() as u32).to_be_bytes().to_vec();
        for text in headers.iter().flat_map(|(name, value)| [name, value]) {
            block.extend((text.len() as u32).to_be_bytes());
            block.extend(text.bytes());
        }
        let mut payload = [stream.to_be_bytes(), [0; 4]].concat();
        payload.extend([0, 0]);
        if !std::mem::replace(&mut self.has_begun, true) {
            // Compressing the dictionary first leaves this side in the state that FDICT promises.
            self.deflated(&dictionary());
            payload.extend([0x78, 0xbb]);
            payload.extend(checksum(&dictionary()).to_be_bytes());
        }
        payload.extend(self.deflated(&block));
        frame(0x8003_0001, u8::from(fin), &payload)
    }
}

fn frame(first: u32, flags: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = first.to_be_bytes().to_vec();
    frame.extend((u32::from(flags) << 24 | payload.len() as u32).to_be_bytes());
    frame.extend(payload);
    frame
}

/// RFC 1950 §8.2.
fn checksum(bytes: &[u8]) -> u32 {
    let (low, high) = bytes.iter().fold((1_u32, 0_u32), |(low, high), byte| {
        let low = (low + u32::from(*byte)) % 65_521;
        (low, (high + low) % 65_521)
    });
    high << 16 | low
}

/// All frames of these bytes, fed in parts; the most that was ever kept beside.
fn frames(parts: &[&[u8]]) -> (Vec<Frame>, Option<SpdyError>, usize) {
    let (mut decoder, mut got, mut kept) = (Decoder::new(), Vec::new(), 0);
    for part in parts {
        decoder.feed(part);
        loop {
            match decoder.next() {
                Ok(Some(frame)) => got.push(frame),
                Ok(None) => break,
                Err(error) => return (got, Some(error), kept),
            }
        }
        kept = kept.max(decoder.kept());
    }
    (got, None, kept)
}

/// Pieces of one data frame put together, so that cuts do not show.
fn joined(frames: Vec<Frame>) -> Vec<Frame> {
    let mut all: Vec<Frame> = Vec::new();
    for frame in frames {
        match (all.last_mut(), frame) {
            (Some(Frame::Data { stream, bytes, fin }), Frame::Data { stream: next, bytes: more, fin: last })
                if *stream == next && !*fin =>
            {
                *bytes = [&bytes[..], &more[..]].concat().into();
                *fin = last;
            }
            (_, frame) => all.push(frame),
        }
    }
    all
}

/// What kubectl sends for one connection that asks and hears.
fn a_forward() -> Vec<u8> {
    let mut peer = Peer::new();
    let headers = |kind: &'static str| [("streamtype", kind), ("port", "80"), ("requestid", "0")];
    [
        peer.syn_stream(1, &headers("error"), false),
        frame(1, FLAG_FIN, b""),
        peer.syn_stream(3, &headers("data"), false),
        frame(3, 0, b"GET / HTTP/1.0\r\n\r\n"),
        frame(0x8003_0006, 0, &1_u32.to_be_bytes()),
        frame(0x8003_0003, 0, &[3_u32.to_be_bytes(), 5_u32.to_be_bytes()].concat()),
        frame(0x8003_0007, 0, &[0; 8]),
    ]
    .concat()
}

#[test]
fn the_dictionary_is_the_drafts() {
    assert_eq!(dictionary().len(), 1423);
    assert_eq!(checksum(&dictionary()), 0xe3c6_a7c2);
}

#[test]
fn a_forward_cut_at_any_byte_is_read_the_same() {
    let bytes = a_forward();
    let (whole, error, _) = frames(&[&bytes]);
    assert_eq!(error, None);
    let opened: Vec<_> = whole
        .iter()
        .filter_map(|frame| match frame {
            Frame::SynStream { stream, headers, .. } => {
                Some((*stream, headers.get("streamType")?, headers.get("port")?))
            }
            _ => None,
        })
        .collect();
    assert_eq!(opened, [(1, "error", "80"), (3, "data", "80")]);
    assert_eq!(whole[1], Frame::Data { stream: 1, bytes: "".into(), fin: true });
    assert_eq!(whole[4..], [Frame::Ping { id: 1 }, Frame::Reset { stream: 3 }, Frame::GoAway]);
    for cut in 0..=bytes.len() {
        let (parts, error, _) = frames(&[&bytes[..cut], &bytes[cut..]]);
        assert_eq!((joined(parts), error), (whole.clone(), None), "cut at {cut}");
    }
    let single: Vec<&[u8]> = bytes.chunks(1).collect();
    assert_eq!(joined(frames(&single).0), whole);
}

#[test]
fn what_is_sent_is_read_back() {
    let mut encoder = Encoder::default();
    let sent = [
        encoder.syn_reply(1),
        encoder.syn_reply(3),
        data(3, b"hello", false),
        data(3, b"", true),
        pong(7),
        reset(5, Reset::Refused),
    ]
    .concat();
    let (read, error, _) = frames(&[&sent]);
    assert_eq!(error, None);
    assert_eq!(
        read,
        [
            Frame::Other(SYN_REPLY),
            Frame::Other(SYN_REPLY),
            Frame::Data { stream: 3, bytes: "hello".into(), fin: false },
            Frame::Data { stream: 3, bytes: "".into(), fin: true },
            Frame::Ping { id: 7 },
            Frame::Reset { stream: 5 },
        ]
    );
}

#[test]
fn what_is_no_spdy_is_refused_by_name() {
    let long = frame(0x8003_0001, 0, &[]);
    let long = [&long[..5], &[0xff, 0xff, 0xff]].concat();
    let bomb = {
        let mut peer = Peer::new();
        let value = "x".repeat(200_000);
        peer.syn_stream(1, &[("a", &value)], false)
    };
    for (bytes, expected) in [
        (frame(0x8002_0001, 0, &[]), SpdyError::Version(2)),
        (long, SpdyError::TooLong(0xff_ffff)),
        (frame(0x8003_0006, 0, &[1]), SpdyError::TooShort(6)),
        (frame(0x8003_0001, 0, &[0; 9]), SpdyError::TooShort(1)),
        (frame(0x8003_0001, 0, b"0000000000GET"), SpdyError::Compression("it is no zlib stream")),
        (bomb, SpdyError::Compression("it becomes longer than 64 KiB")),
    ] {
        assert_eq!(frames(&[&bytes]).1, Some(expected));
    }
}

proptest! {
    /// A peer's memory here is one control frame and one header block, whatever it sends.
    #[test]
    fn any_bytes_end_in_frames_or_an_error_and_little_is_kept(parts in vec(vec(any::<u8>(), 0..600), 0..20)) {
        let parts: Vec<&[u8]> = parts.iter().map(Vec::as_slice).collect();
        let (_, _, kept) = frames(&parts);
        prop_assert!(kept <= HEADER_BYTES + decode::MAX_CONTROL_BYTES);
    }

    /// The same from frames that are right but for some bytes: these come further into the room.
    #[test]
    fn a_forward_with_wrong_bytes_ends_in_frames_or_an_error(
        changes in vec((any::<prop::sample::Index>(), any::<u8>()), 0..6),
        cut in any::<prop::sample::Index>(),
    ) {
        let mut bytes = a_forward();
        for (place, byte) in changes {
            let at = place.index(bytes.len());
            bytes[at] = byte;
        }
        let (one, rest) = bytes.split_at(cut.index(bytes.len()));
        let (_, _, kept) = frames(&[one, rest]);
        prop_assert!(kept <= HEADER_BYTES + decode::MAX_CONTROL_BYTES);
    }

    /// Headers come out as they went in, over many frames of one connection.
    #[test]
    fn header_blocks_of_one_connection_are_read_in_order(names in vec(("[a-z]{0,12}", "[ -~]{0,300}"), 0..20)) {
        let mut peer = Peer::new();
        let mut bytes = Vec::new();
        for (at, (name, value)) in names.iter().enumerate() {
            bytes.extend(peer.syn_stream(at as u32 * 2 + 1, &[(name, value), ("port", "80")], false));
        }
        let (read, error, _) = frames(&[&bytes]);
        prop_assert_eq!(error, None);
        prop_assert_eq!(read.len(), names.len());
        for (frame, (name, value)) in read.iter().zip(&names) {
            let Frame::SynStream { headers, .. } = frame else { panic!("{frame:?}") };
            prop_assert_eq!(&headers.0[0], &(name.clone(), value.clone()));
        }
    }
}
