//! The control socket of lab init: one request a connection, JSON both ways, descriptors by SCM_RIGHTS.
//!
//! ```text
//!  client ── {"enter": {"node": 1}} ──► init
//!         ◄── "entered" + fds of user, mount, uts, ipc, net, cgroup, pid
//! ```

use std::io::{self, BufRead, BufReader, IoSlice, IoSliceMut, Write};
use std::mem::MaybeUninit;
use std::net::IpAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use portolan_kernel::netns::Entry;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags,
    recvmsg, sendmsg,
};
use serde::{Deserialize, Serialize};

use crate::error::LabError;

/// Somewhere in the lab.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Place {
    /// Numbered from 1.
    Node(usize),
    Outside,
    ApiServer,
    /// PID 1's own namespaces: the LAN's bridge is there.
    Init,
    /// A pod's network, with the mounts of its node.
    Pod {
        namespace: String,
        name: String,
    },
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Place::Node(number) => write!(f, "node-{number}"),
            Place::Outside => f.write_str("outside"),
            Place::ApiServer => f.write_str("apiserver"),
            Place::Init => f.write_str("init"),
            Place::Pod { namespace, name } => write!(f, "pod/{namespace}/{name}"),
        }
    }
}

impl std::str::FromStr for Place {
    type Err = LabError;

    /// `node-1`, `outside`, `apiserver`, `init`, `pod/NAME`, `pod/NAMESPACE/NAME`.
    fn from_str(text: &str) -> Result<Place, LabError> {
        let parts: Vec<&str> = text.split('/').collect();
        let place = match parts.as_slice() {
            ["outside"] => Some(Place::Outside),
            ["apiserver"] => Some(Place::ApiServer),
            ["init"] => Some(Place::Init),
            ["pod", name] if !name.is_empty() => Some(Place::Pod { namespace: "default".into(), name: (*name).into() }),
            ["pod", namespace, name] if !namespace.is_empty() && !name.is_empty() => {
                Some(Place::Pod { namespace: (*namespace).into(), name: (*name).into() })
            }
            [node] => node.strip_prefix("node-").and_then(|n| n.parse().ok()).filter(|n| *n > 0).map(Place::Node),
            _ => None,
        };
        place.ok_or_else(|| LabError::NoSuchPlace {
            place: text.to_owned(),
            hint: "say node-1, outside, apiserver, pod/NAME or pod/NAMESPACE/NAME".into(),
        })
    }
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Request {
    Enter(Place),
    Status,
    /// Ends everything on the node and unplugs it, as if its power failed.
    StopNode(usize),
    StartNode(usize),
    /// Lets nothing pass between two hosts on the LAN.
    Cut(Place, Place),
    Heal(Place, Place),
    HealAll,
    /// Sends a signal to a unit's process, which init will start again.
    Signal {
        unit: String,
        signal: i32,
    },
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Reply {
    /// The descriptors follow in the order of [`KINDS`].
    Entered,
    Status(Status),
    Done,
    Refused(String),
}

/// What runs in a lab.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    pub name: String,
    pub nodes: Vec<NodeStatus>,
    pub units: Vec<UnitStatus>,
    /// Hosts between which nothing passes on the LAN, in the order of their names.
    #[serde(default)]
    pub cuts: Vec<(String, String)>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeStatus {
    pub name: String,
    pub address: IpAddr,
    /// False after `stop-node`.
    pub plugged: bool,
}

/// One of the lab's own processes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UnitStatus {
    /// `apiserver`, `upstream`, `agent-node-1`.
    pub name: String,
    /// In the lab's PID namespace; `None` while it waits to be started again.
    pub pid: Option<i32>,
    pub restarts: u32,
    /// How it ended last: `exit code 1`, `signal 9`.
    pub last_end: Option<String>,
}

/// The namespaces of a reply, in the order of their descriptors.
const KINDS: usize = 7;
/// A hung client must not hang init.
const PATIENCE: Duration = Duration::from_secs(2);
/// Starting a node takes tens of milliseconds; a loaded machine gets a lot more.
const CLIENT_PATIENCE: Duration = Duration::from_secs(20);

/// Asks init; the entry is there if the reply is `Entered`.
pub(crate) fn ask(socket: &Path, request: &Request) -> io::Result<(Reply, Option<Entry>)> {
    let mut stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(CLIENT_PATIENCE))?;
    let mut line = serde_json::to_vec(request).expect("requests have text keys only");
    line.push(b'\n');
    stream.write_all(&line)?;
    let (bytes, descriptors) = receive(&stream)?;
    let reply = serde_json::from_slice(&bytes)?;
    let entry = (descriptors.len() == KINDS).then(|| entry_of(descriptors));
    Ok((reply, entry))
}

/// Reads one request.
pub(crate) fn read_request(stream: &UnixStream) -> io::Result<Request> {
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let mut line = Vec::new();
    BufReader::new(stream).read_until(b'\n', &mut line)?;
    Ok(serde_json::from_slice(&line)?)
}

/// Sends the reply and the descriptors, if any, and ends the connection.
pub(crate) fn answer(stream: &UnixStream, reply: &Reply, entry: Option<&Entry>) -> io::Result<()> {
    let bytes = serde_json::to_vec(reply).expect("replies have text keys only");
    let descriptors: Vec<_> = entry.map(descriptors_of).unwrap_or_default();
    let borrowed: Vec<_> = descriptors.iter().map(|fd| fd.as_fd()).collect();
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(KINDS))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    if !borrowed.is_empty() {
        ancillary.push(SendAncillaryMessage::ScmRights(&borrowed));
    }
    let sent = sendmsg(stream, &[IoSlice::new(&bytes)], &mut ancillary, SendFlags::NOSIGNAL)?;
    let mut rest = stream;
    rest.write_all(&bytes[sent..])
}

/// The whole reply, and the descriptors that came with its first bytes.
fn receive(stream: &UnixStream) -> io::Result<(Vec<u8>, Vec<OwnedFd>)> {
    let mut bytes = Vec::new();
    let mut descriptors = Vec::new();
    loop {
        let mut buffer = [0; 16 * 1024];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(KINDS))];
        let mut ancillary = RecvAncillaryBuffer::new(&mut space);
        let mut parts = [IoSliceMut::new(&mut buffer)];
        let got = recvmsg(stream, &mut parts, &mut ancillary, RecvFlags::CMSG_CLOEXEC)?;
        for message in ancillary.drain() {
            if let RecvAncillaryMessage::ScmRights(fds) = message {
                descriptors.extend(fds);
            }
        }
        if got.bytes == 0 {
            return Ok((bytes, descriptors));
        }
        bytes.extend_from_slice(&buffer[..got.bytes]);
    }
}

fn descriptors_of(entry: &Entry) -> Vec<&OwnedFd> {
    let kinds: [_; KINDS] = [&entry.user, &entry.mount, &entry.uts, &entry.ipc, &entry.net, &entry.cgroup, &entry.pid];
    kinds.into_iter().map(|fd| fd.as_ref().expect("init answers with every namespace")).collect()
}

fn entry_of(descriptors: Vec<OwnedFd>) -> Entry {
    let mut fds = descriptors.into_iter();
    let mut next = || fds.next();
    Entry { user: next(), mount: next(), uts: next(), ipc: next(), net: next(), cgroup: next(), pid: next() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_read_as_they_are_printed() {
        for text in ["node-1", "node-12", "outside", "apiserver", "init", "pod/kube-system/dns-x"] {
            assert_eq!(text.parse::<Place>().unwrap().to_string(), text);
        }
        let pod: Place = "pod/web".parse().unwrap();
        assert_eq!(pod, Place::Pod { namespace: "default".into(), name: "web".into() });
    }

    #[test]
    fn other_words_are_refused_with_what_may_be_said() {
        for text in ["", "node-", "node-0", "node-x", "pod/", "pod//x", "web", "a/b/c"] {
            let error = text.parse::<Place>().unwrap_err().to_string();
            assert!(error.contains("pod/NAME"), "{text:?}: {error}");
        }
    }

    #[test]
    fn a_reply_carries_descriptors_of_the_same_namespaces() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let kinds = ["user", "mnt", "uts", "ipc", "net", "cgroup", "pid"];
        let entry = Entry::of_process(std::process::id(), &kinds).unwrap();
        answer(&theirs, &Reply::Entered, Some(&entry)).unwrap();
        drop(theirs);
        let (bytes, descriptors) = receive(&ours).unwrap();
        assert!(matches!(serde_json::from_slice(&bytes).unwrap(), Reply::Entered));
        let id = |fd: &OwnedFd| portolan_kernel::netns::id(fd.as_fd()).unwrap();
        let sent: Vec<_> = descriptors_of(&entry).into_iter().map(id).collect();
        assert_eq!(descriptors.iter().map(id).collect::<Vec<_>>(), sent);
    }
}
