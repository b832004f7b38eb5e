//! Frames on the shim's socket: four bytes of length (big-endian), JSON, and open files beside them.

use std::io::{IoSlice, IoSliceMut, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags,
};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// No message comes near it; a longer one means the peer is none of ours.
const MAX_FRAME_BYTES: usize = 8 << 20;
/// stdin, stdout, stderr.
pub const MAX_FDS: usize = 3;

/// Bytes of one frame.
pub fn encode(message: &impl Serialize) -> Vec<u8> {
    let body = serde_json::to_vec(message).expect("our messages have text keys only");
    let length = u32::try_from(body.len()).expect("a message is far below 4 GiB");
    let mut frame = length.to_be_bytes().to_vec();
    frame.extend(body);
    frame
}

/// Sends a frame, the files with its first byte.
pub fn send(stream: &UnixStream, message: &impl Serialize, fds: &[BorrowedFd<'_>]) -> std::io::Result<()> {
    let frame = encode(message);
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !fds.is_empty() && !control.push(SendAncillaryMessage::ScmRights(fds)) {
        return Err(std::io::Error::other("too many files for one frame"));
    }
    let sent = rustix::net::sendmsg(stream, &[IoSlice::new(&frame)], &mut control, SendFlags::NOSIGNAL)?;
    let mut stream = stream;
    stream.write_all(&frame[sent..])
}

/// Collects bytes and files until frames are whole.
#[derive(Default)]
pub struct Inbox {
    bytes: Vec<u8>,
    fds: Vec<OwnedFd>,
}

/// What a read found.
pub enum Received {
    Bytes,
    Closed,
}

impl Inbox {
    /// One `recvmsg`.
    pub fn fill(&mut self, stream: impl AsFd) -> std::io::Result<Received> {
        let mut buffer = [0; 64 * 1024];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let message =
            rustix::net::recvmsg(stream, &mut [IoSliceMut::new(&mut buffer)], &mut control, RecvFlags::CMSG_CLOEXEC)?;
        for part in control.drain() {
            if let RecvAncillaryMessage::ScmRights(fds) = part {
                self.fds.extend(fds);
            }
        }
        self.bytes.extend(&buffer[..message.bytes]);
        Ok(if message.bytes == 0 { Received::Closed } else { Received::Bytes })
    }

    /// The next whole frame.
    pub fn next_frame<T: DeserializeOwned>(&mut self) -> std::io::Result<Option<T>> {
        let Some(header) = self.bytes.first_chunk::<4>() else {
            return Ok(None);
        };
        let length = u32::from_be_bytes(*header) as usize;
        if length > MAX_FRAME_BYTES {
            return Err(std::io::Error::other("frame too long; is the peer a shim?"));
        }
        if self.bytes.len() < 4 + length {
            return Ok(None);
        }
        let message = serde_json::from_slice(&self.bytes[4..4 + length])?;
        self.bytes.drain(..4 + length);
        Ok(Some(message))
    }

    /// The files received so far.
    pub fn take_fds(&mut self) -> Vec<OwnedFd> {
        std::mem::take(&mut self.fds)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;

    #[test]
    fn a_frame_split_at_any_byte_arrives_whole() {
        let frames = [encode(&"one"), encode(&"two")].concat();
        for split in 0..=frames.len() {
            let mut inbox = Inbox::default();
            let mut got: Vec<String> = Vec::new();
            for part in [&frames[..split], &frames[split..]] {
                inbox.bytes.extend(part);
                while let Some(text) = inbox.next_frame().expect("valid") {
                    got.push(text);
                }
            }
            assert_eq!(got, ["one", "two"]);
        }
    }

    #[test]
    fn an_open_file_crosses_with_its_frame() {
        let (here, there) = UnixStream::pair().expect("pair");
        let (mut reader, writer) = std::io::pipe().expect("pipe");
        send(&here, &"take it", &[writer.as_fd()]).expect("sent");
        drop(writer);
        let mut inbox = Inbox::default();
        inbox.fill(&there).expect("received");
        let text: Option<String> = inbox.next_frame().expect("valid");
        assert_eq!(text.as_deref(), Some("take it"));
        let mut passed = std::fs::File::from(inbox.take_fds().remove(0));
        passed.write_all(b"hello").expect("written");
        drop(passed);
        let mut got = String::new();
        reader.read_to_string(&mut got).expect("read");
        assert_eq!(got, "hello");
    }
}
