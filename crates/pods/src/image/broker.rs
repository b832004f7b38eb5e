//! Fetching for others: a process that reaches the registries serves those that do not, over a unix socket.
//!
//! ```text
//!  agent (in a lab's node: no way out) ── {"reference": …} ──► broker (the machine's network) ──► registry
//!        ◄── {"fetched": {"digest": …}} or {"failed": …} ──┘         │
//!        └── unpacks and names it ─► store (shared) ◄── blobs ──────┘
//! ```
//!
//! One line of JSON each way per connection. The broker asks only whom it was started to ask, whatever a question says;
//! who asks unpacks, so files get their owners in the asker's user namespace.

use std::collections::HashMap;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::task::JoinSet;

use super::login::Login;
use super::progress::Silent;
use super::pull::PullOptions;
use super::remote::Fetched;
use super::store::Store;
use super::{ImageError, Reference};

/// A question longer than this is none.
const LONGEST_QUESTION: u64 = 1 << 20;

#[derive(Serialize, Deserialize)]
struct Question {
    reference: String,
    logins: Vec<Login>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Answer {
    Fetched(Fetched),
    Failed(String),
}

/// Asks the broker at `socket` for the image's blobs.
pub(super) async fn ask(socket: &Path, reference: &str, logins: Vec<Login>) -> Result<Fetched, ImageError> {
    let broken = |source| ImageError::Broker { socket: socket.to_owned(), source };
    let mut stream = UnixStream::connect(socket).await.map_err(broken)?;
    let question = Question { reference: reference.to_owned(), logins };
    stream.write_all(&line(&question)).await.map_err(broken)?;
    let mut text = String::new();
    BufReader::new(stream).read_line(&mut text).await.map_err(broken)?;
    match serde_json::from_str(&text).map_err(|error| broken(error.into()))? {
        Answer::Fetched(fetched) => Ok(fetched),
        Answer::Failed(message) => Err(ImageError::Told(message)),
    }
}

fn line(document: &impl Serialize) -> Vec<u8> {
    let mut bytes = serde_json::to_vec(document).expect("our documents have text keys only");
    bytes.push(b'\n');
    bytes
}

/// Answers until nobody has asked for `idle`; whoever started this starts it again when it is needed.
///
/// # Errors
/// The listener cannot be used.
pub async fn serve(
    listener: std::os::unix::net::UnixListener,
    store: Store,
    options: PullOptions,
    idle: Duration,
) -> std::io::Result<()> {
    listener.set_nonblocking(true)?;
    let listener = UnixListener::from_std(listener)?;
    let broker = Arc::new(Broker { store, options, turns: Mutex::default() });
    let mut talks = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                talks.spawn(converse(broker.clone(), accepted?.0));
            }
            Some(_) = talks.join_next() => {}
            () = tokio::time::sleep(idle), if talks.is_empty() => return Ok(()),
        }
    }
}

struct Broker {
    store: Store,
    options: PullOptions,
    /// Two nodes that ask for one image at once: the second finds the blobs there.
    turns: Mutex<HashMap<String, Arc<tokio::sync::Mutex<()>>>>,
}

async fn converse(broker: Arc<Broker>, stream: UnixStream) {
    if let Err(error) = broker.answer(stream).await {
        tracing::debug!(%error, "who asked for an image is gone");
    }
}

impl Broker {
    async fn answer(&self, stream: UnixStream) -> std::io::Result<()> {
        let (reader, mut writer) = stream.into_split();
        let mut text = String::new();
        BufReader::new(reader.take(LONGEST_QUESTION)).read_line(&mut text).await?;
        let answer = match serde_json::from_str::<Question>(&text) {
            Ok(question) => match self.fetch(&question).await {
                Ok(fetched) => Answer::Fetched(fetched),
                Err(error) => Answer::Failed(error.to_string()),
            },
            Err(error) => Answer::Failed(format!("not a question for an image: {error}")),
        };
        writer.write_all(&line(&answer)).await
    }

    async fn fetch(&self, question: &Question) -> Result<Fetched, ImageError> {
        let name = Reference::parse(&question.reference)?.to_string();
        let turn = self.turns.lock().unwrap_or_else(PoisonError::into_inner).entry(name).or_default().clone();
        let _turn = turn.lock().await;
        let writing = self.store.writing()?;
        let fetching = self.store.fetch(&question.reference, &self.options, &question.logins, Arc::new(Silent));
        let fetched = fetching.await;
        if fetched.is_err() {
            self.store.clear_failed(writing);
        }
        fetched
    }
}
