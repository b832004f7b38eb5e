//! What asking upstreams wants done, and what came of it, as values.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::corefile::config::{ForwardConfig, Target, TlsConfig};
use crate::forward::{Exchange, Question};
use crate::message::Message;
use crate::name::Name;
use crate::wire::Transport;

/// A group: its place in the list given to [`Upstreams::configure`](super::Upstreams::configure).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct GroupId(pub usize);

/// One `forward` line, with what its block says of it.
#[derive(Clone, Debug, PartialEq)]
pub struct GroupConfig {
    /// The line. Its `from` and `to` are its identity across reloads.
    pub forward: ForwardConfig,
    /// `loop`: the zone below which loops are looked for; `None`: they are not.
    pub loop_zone: Option<Name>,
    /// 0x20: letters of names are sent in random case, and replies by UDP must have the same.
    pub mixes_case: bool,
}

/// A server and how it is spoken to. Connections to equal peers are shared.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Peer {
    /// Never a file: those are the servers they name.
    pub target: Target,
    /// For `tls://` and `https://`.
    pub tls: TlsConfig,
    /// How long an idle connection is kept.
    pub expire: Duration,
}

/// As a Corefile writes it.
impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.target {
            Target::Plain(addr) => write!(f, "{addr}"),
            Target::Tls(addr) => write!(f, "tls://{addr}"),
            Target::Https { addr, path } => write!(f, "https://{addr}{path}"),
            Target::File(path) => f.write_str(path),
        }
    }
}

/// What carries a query to a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[allow(missing_docs)]
pub enum Way {
    Udp,
    Tcp,
    Tls,
    Https,
}

impl Way {
    /// It keeps a connection: nobody can slip in a reply, and none is lost in silence.
    pub fn is_stream(self) -> bool {
        self != Self::Udp
    }
}

/// A query on its way out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sending {
    /// The attempt; what comes for it is handed in with it.
    pub exchange: Exchange,
    /// To whom.
    pub peer: Arc<Peer>,
    /// How. By UDP: a socket of its own on a fresh port, every datagram from the peer handed in until the close.
    pub way: Way,
    /// The message, without a length.
    pub bytes: Vec<u8>,
}

/// A question to ask.
#[derive(Clone, Debug)]
pub struct Ask<W> {
    /// Which.
    pub question: Question,
    /// Who waits; comes back with the outcome.
    pub waiter: W,
    /// What the client came by: TCP is passed on as TCP unless the group prefers UDP.
    pub transport: Transport,
    /// How long this waiter waits, if less than the question may take: it then gets [`Outcome::Overdue`], and the
    /// question goes on for the cache.
    pub patience: Option<Duration>,
}

/// What the driver must do, or what came of a question. `W` is whoever waits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step<W> {
    /// Send this.
    Send(Sending),
    /// Forget the attempt; what comes for it is of no use.
    Close(Exchange),
    /// The end of a question.
    Done(Done<W>),
    /// A server was found to bring our queries back to us, or no longer does.
    Loop {
        /// The group's `from`.
        from: Name,
        /// The server.
        peer: Arc<Peer>,
        /// It does; `false`: no longer.
        stands: bool,
    },
}

/// The end of a question, for those who waited.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Done<W> {
    /// Whom it was put to; `None`: a group that is gone since.
    pub group: Option<GroupId>,
    /// As it was put first; of those who joined, the case of the name may differ.
    pub question: Question,
    /// May be empty, if all were overdue: the answer is for the cache.
    pub waiters: Vec<W>,
    /// What came of it.
    pub outcome: Outcome,
    /// Of those asked in vain, the last.
    pub tried: Option<Tried>,
}

/// A server that was asked in vain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tried {
    /// Who.
    pub peer: Arc<Peer>,
    /// How.
    pub way: Way,
    /// What broke, as the driver said it; `None`: it kept silent.
    pub failure: Option<String>,
}

/// What came of a question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// A reply, cut down to what belongs to the question.
    Answer(Answer),
    /// Nobody answered in time.
    Silent,
    /// This waiter's patience is over; the question goes on.
    Overdue,
    /// Too many questions under way: REFUSED.
    Busy,
    /// Every server of the group brings our queries back to us.
    Looping,
    /// The group has no server.
    NoServer,
}

/// A reply and who gave it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct Answer {
    pub message: Arc<Message>,
    pub peer: Arc<Peer>,
}
