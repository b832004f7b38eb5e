//! What becomes of cluster DNS when an agent dies: a small process beside it that leaves the address to other nodes if no
//! successor comes.
//!
//! ```text
//!  agent ── pipe: orders, then words ──► guard      the pipe breaks ─► patience ─► is the lock free?
//!    └── holds dns.lock while it lives                 no: a successor is there, nothing is touched
//!                                                      yes: NOTRACK and address go, under the lock
//! ```
//!
//! The lock decides, so there is no race: who starts takes it before it looks at what is on the node, and the kernel lets it
//! go with the process. An agent that is told to end takes everything away itself and dismisses its guard. A guard that dies is
//! started again. It knows no cluster and no plan: the agent hands it the very bytes.

mod role;

use std::fs::{File, TryLockError};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use portolan_dataplane::dns_left;
use portolan_model::Family;
use serde::{Deserialize, Serialize};
use tokio::io::AsyncWriteExt;
use tokio::process::{Child, Command};
use tokio::sync::watch;
use tracing::{debug, warn};

use crate::proxy::Mode;
use crate::{AgentError, Config};

pub use role::reexec;

/// First argument of a guard's command line.
const ROLE: &str = "dns-guard";
/// In the node's state folder.
const LOCK: &str = "dns.lock";
/// How long a successor may take from its predecessor's death to the lock: that is nearly the first thing it does.
const PATIENCE: Duration = Duration::from_millis(1500);
/// How long a former agent, or its guard at work, may keep the lock.
const LOCK_WITHIN: Duration = Duration::from_secs(10);
const LOOK_EVERY: Duration = Duration::from_millis(10);
/// A guard that ended is started again after this.
const AGAIN: Duration = Duration::from_secs(1);
const DISMISSED_WITHIN: Duration = Duration::from_millis(500);

/// What a guard is told first: one line of JSON.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Orders {
    lock: PathBuf,
    patience_ms: u64,
    /// On `lo`.
    addresses: Vec<IpAddr>,
    /// Which of the programs are fed `restore`; none in nftables mode.
    iptables: Vec<Family>,
    restore: String,
    /// Batches for nf_tables.
    batches: Vec<Vec<u8>>,
}

/// What a guard is told from time to time: one line each, the last counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Word {
    /// Another node answers too.
    Others,
    /// Nobody else would answer: let things be.
    Alone,
    /// The agent ends in order.
    Dismissed,
}

impl Word {
    fn line(self) -> &'static str {
        match self {
            Self::Others => "others\n",
            Self::Alone => "alone\n",
            Self::Dismissed => "dismissed\n",
        }
    }
}

/// The agent's side: the lock, and what the guard is to know.
pub(crate) struct Guard {
    /// Held until the process ends.
    _lock: File,
    words: watch::Sender<Word>,
}

impl Guard {
    /// Takes the lock and starts the guard. To be called before anything of DNS is looked at or touched.
    ///
    /// # Errors
    /// Another agent holds the lock, or its file cannot be made.
    pub(crate) fn start(config: &Config, families: &[Family]) -> Result<Self, AgentError> {
        let path = config.state_dir.join(LOCK);
        let lock = take_lock(&path)?;
        let (words, heard) = watch::channel(Word::Others);
        let orders = orders(config, families, path);
        tokio::spawn(keep(config.exe.clone(), orders, heard));
        Ok(Self { _lock: lock, words })
    }

    /// Where to say whether another node answers.
    pub(crate) fn words(&self) -> watch::Sender<Word> {
        self.words.clone()
    }

    /// Lets the guard go: everything was taken away in order.
    pub(crate) async fn dismiss(&self) {
        self.words.send_replace(Word::Dismissed);
        // One that hangs finds nothing to do later.
        let _ = tokio::time::timeout(DISMISSED_WITHIN, self.words.closed()).await;
    }
}

fn orders(config: &Config, families: &[Family], lock: PathBuf) -> Orders {
    let is_iptables = config.proxy_mode == Mode::Iptables;
    let (of_iptables, of_nftables) = if is_iptables { (families, &[][..]) } else { (&[][..], families) };
    Orders {
        lock,
        patience_ms: u64::try_from(PATIENCE.as_millis()).expect("a second and a half"),
        addresses: config.settings.cluster_dns.clone(),
        iptables: of_iptables.to_vec(),
        restore: dns_left::iptables(),
        batches: of_nftables.iter().map(|family| dns_left::nftables(*family)).collect(),
    }
}

fn take_lock(path: &Path) -> Result<File, AgentError> {
    let failed = |what: &'static str| move |source| AgentError::File { what, path: path.to_owned(), source };
    let file = File::options().create(true).truncate(false).write(true).open(path).map_err(failed("cannot open"))?;
    let until = Instant::now() + LOCK_WITHIN;
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(file),
            Err(TryLockError::Error(source)) => return Err(failed("cannot lock")(source)),
            Err(TryLockError::WouldBlock) if Instant::now() < until => std::thread::sleep(LOOK_EVERY),
            Err(TryLockError::WouldBlock) => {
                let taken = std::io::Error::other("another agent of this node holds it; end that one first");
                return Err(failed("cannot lock")(taken));
            }
        }
    }
}

/// Keeps a guard running until it is dismissed.
async fn keep(exe: PathBuf, orders: Orders, mut words: watch::Receiver<Word>) {
    loop {
        match run(&exe, &orders, &mut words).await {
            Ok(Word::Dismissed) => return,
            Ok(_) => warn!("the guard of cluster DNS ended; it is started again"),
            Err(error) => warn!(%error, "the guard of cluster DNS cannot run; it is tried again"),
        }
        tokio::time::sleep(AGAIN).await;
    }
}

/// Runs one guard; returns the last word it was told when it ends.
async fn run(exe: &Path, orders: &Orders, words: &mut watch::Receiver<Word>) -> std::io::Result<Word> {
    let mut child: Child = Command::new(exe).arg(ROLE).stdin(Stdio::piped()).process_group(0).spawn()?;
    debug!(pid = child.id(), "a guard watches over cluster DNS");
    let mut pipe = child.stdin.take().expect("it was asked for");
    let line = serde_json::to_string(orders).expect("plain values have a JSON form") + "\n";
    pipe.write_all(line.as_bytes()).await?;
    loop {
        let word = *words.borrow_and_update();
        pipe.write_all(word.line().as_bytes()).await?;
        tokio::select! {
            ended = child.wait() => return ended.map(|_| word),
            changed = words.changed(), if word != Word::Dismissed => {
                if changed.is_err() {
                    // The agent's own end: the pipe breaks with it.
                    return child.wait().await.map(|_| word);
                }
            }
        }
    }
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
