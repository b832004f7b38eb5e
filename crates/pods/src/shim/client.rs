//! The agent's side of a shim: start or find it, ask it, watch it.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use rustix::fs::{Mode, OFlags};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::{Mutex, mpsc, watch};

use super::protocol::{PROTOCOL_VERSION, Reply, Request};
use super::state::{PodState, Run};
use super::wire;
use crate::ident::PodIdent;
use crate::limits::NodeLimits;

/// How long a new shim may take to listen; it needs milliseconds.
const START_TIMEOUT: Duration = Duration::from_secs(10);
/// A container start is the longest answer; it takes tens of milliseconds.
const REPLY_TIMEOUT: Duration = Duration::from_secs(30);

/// Why a shim could not be reached or did not do it.
#[derive(Debug, thiserror::Error)]
pub enum ShimError {
    #[error("cannot start the shim in {dir}: {reason}")]
    Start { dir: PathBuf, reason: String },
    #[error("cannot reach the shim in {dir}: {source}")]
    Connect { dir: PathBuf, source: std::io::Error },
    #[error("the shim in {0} ended")]
    Gone(PathBuf),
    /// The shim answered that it could not.
    #[error("{0}")]
    Refused(String),
}

/// What a shim starts from: `pod.json`.
#[derive(Debug, Serialize, Deserialize)]
pub struct Seed {
    #[serde(flatten)]
    pub pod: PodIdent,
    /// Runs under an earlier shim that died.
    #[serde(default)]
    pub runs: Vec<Run>,
    /// How containers are limited; `None`: not at all.
    #[serde(default)]
    pub limits: Option<NodeLimits>,
}

/// A connection to one pod's shim.
pub struct Shim {
    dir: PathBuf,
    connection: Mutex<UnixStream>,
    state: watch::Receiver<PodState>,
}

impl Shim {
    /// Starts a shim for `dir` and connects. `exe` is our own binary.
    pub async fn start(exe: &Path, dir: &Path, seed: &Seed) -> Result<Self, ShimError> {
        let failed = |reason: String| ShimError::Start { dir: dir.to_path_buf(), reason };
        let text = |error: std::io::Error| failed(error.to_string());
        std::fs::create_dir_all(dir).map_err(text)?;
        let bytes = serde_json::to_vec(seed).expect("our documents have text keys only");
        std::fs::write(dir.join("pod.json"), bytes).map_err(text)?;
        let _ = std::fs::remove_file(dir.join("shim.sock"));
        let log = std::fs::File::options().create(true).append(true).open(dir.join("shim.log")).map_err(text)?;
        let status = tokio::process::Command::new(exe)
            .arg("pod-shim")
            .arg(dir)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .status()
            .await
            .map_err(|error| failed(format!("{}: {error}", exe.display())))?;
        if !status.success() {
            return Err(failed(format!("{status}; see shim.log there")));
        }
        let deadline = tokio::time::Instant::now() + START_TIMEOUT;
        loop {
            match Self::connect(dir).await {
                Ok(shim) => return Ok(shim),
                Err(error) if tokio::time::Instant::now() > deadline => {
                    return Err(failed(format!("{error}; see shim.log there")));
                }
                Err(_) => tokio::time::sleep(Duration::from_millis(5)).await,
            }
        }
    }

    /// Connects to a shim that runs.
    pub async fn connect(dir: &Path) -> Result<Self, ShimError> {
        let (connection, first) = open(dir).await?;
        let (mut watching, _) = open(dir).await?;
        let (sender, state) = watch::channel(first);
        write(&mut watching, &Request::Watch)
            .await
            .map_err(|source| ShimError::Connect { dir: dir.to_path_buf(), source })?;
        tokio::spawn(async move {
            while let Ok(Reply::State { state }) = read(&mut watching).await {
                if sender.send(*state).is_err() {
                    return;
                }
            }
        });
        Ok(Self { dir: dir.to_path_buf(), connection: Mutex::new(connection), state })
    }

    /// Asks for something that is done or refused.
    pub async fn call(&self, request: &Request) -> Result<(), ShimError> {
        match self.ask(request).await? {
            Reply::Failed { message } => Err(ShimError::Refused(message)),
            _ => Ok(()),
        }
    }

    /// The state as of now, asked for.
    pub async fn fresh_state(&self) -> Result<PodState, ShimError> {
        match self.ask(&Request::Hello { version: PROTOCOL_VERSION }).await? {
            Reply::State { state } => Ok(*state),
            other => Err(ShimError::Refused(format!("unexpected answer {other:?}"))),
        }
    }

    /// The state as last heard; its `changed` fails when the shim is gone.
    pub fn watch(&self) -> watch::Receiver<PodState> {
        self.state.clone()
    }

    async fn ask(&self, request: &Request) -> Result<Reply, ShimError> {
        let mut connection = self.connection.lock().await;
        let asked = async {
            write(&mut *connection, request).await?;
            read(&mut *connection).await
        };
        match tokio::time::timeout(REPLY_TIMEOUT, asked).await {
            Ok(Ok(reply)) => Ok(reply),
            _ => Err(ShimError::Gone(self.dir.clone())),
        }
    }
}

/// Runs a process in a container; resolves once it began, to what tells its exit code.
pub async fn exec(
    dir: &Path,
    container: &str,
    process: serde_json::Value,
    tty: bool,
    fds: [OwnedFd; 3],
) -> Result<Exit, ShimError> {
    let (reader, writer) = begin(dir, Request::Exec { name: container.to_owned(), process, tty }, fds).await?;
    Ok(Exit { reader, _writer: Some(writer), dir: dir.to_path_buf() })
}

/// Joins a container's own standard files: `fds` are the user's input (taken if `stdin`) and where both outputs go.
/// Resolves once attached, to what tells the end, and to what takes sizes of the terminal as columns and rows.
pub async fn attach(
    dir: &Path,
    container: &str,
    stdin: bool,
    fds: [OwnedFd; 3],
) -> Result<(Exit, mpsc::UnboundedSender<(u16, u16)>), ShimError> {
    let (reader, mut writer) = begin(dir, Request::Attach { name: container.to_owned(), stdin }, fds).await?;
    let (sizes, mut asked) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        // Until the last sender is dropped; the shim then sees the connection close.
        while let Some((columns, rows)) = asked.recv().await {
            if write(&mut writer, &Request::Resize { columns, rows }).await.is_err() {
                return;
            }
        }
    });
    Ok((Exit { reader, _writer: None, dir: dir.to_path_buf() }, sizes))
}

/// A connection of its own for a request that is answered by `Began`.
async fn begin(dir: &Path, request: Request, fds: [OwnedFd; 3]) -> Result<(OwnedReadHalf, OwnedWriteHalf), ShimError> {
    let failed = |source| ShimError::Connect { dir: dir.to_path_buf(), source };
    let path = dir.to_path_buf();
    let stream = tokio::task::spawn_blocking(move || {
        let stream = connect_blocking(&path)?;
        let borrowed: Vec<BorrowedFd<'_>> = fds.iter().map(AsFd::as_fd).collect();
        wire::send(&stream, &request, &borrowed)?;
        stream.set_nonblocking(true)?;
        Ok(stream)
    });
    let stream = stream.await.expect("sending does not panic").map_err(failed)?;
    let mut stream = UnixStream::from_std(stream).map_err(failed)?;
    match read(&mut stream).await.map_err(failed)? {
        Reply::Began => Ok(stream.into_split()),
        Reply::Failed { message } => Err(ShimError::Refused(message)),
        other => Err(ShimError::Refused(format!("unexpected answer {other:?}"))),
    }
}

/// Tells how an exec'd process ended, or that an attached user was let go.
pub struct Exit {
    reader: OwnedReadHalf,
    /// Held so that the shim sees the connection open.
    _writer: Option<OwnedWriteHalf>,
    dir: PathBuf,
}

impl Exit {
    /// Its exit code; 128+n if killed by signal n.
    pub async fn wait(mut self) -> Result<i32, ShimError> {
        loop {
            match read(&mut self.reader).await {
                Ok(Reply::Ended { code }) => return Ok(code),
                // The answer to a size that was set.
                Ok(Reply::Done) => {}
                _ => return Err(ShimError::Gone(self.dir)),
            }
        }
    }
}

async fn open(dir: &Path) -> Result<(UnixStream, PodState), ShimError> {
    let failed = |source| ShimError::Connect { dir: dir.to_path_buf(), source };
    let path = dir.to_path_buf();
    // A connect to a local socket does not block unless the backlog is full.
    let stream = connect_blocking(&path).map_err(failed)?;
    stream.set_nonblocking(true).map_err(failed)?;
    let mut stream = UnixStream::from_std(stream).map_err(failed)?;
    let greeting = async {
        write(&mut stream, &Request::Hello { version: PROTOCOL_VERSION }).await?;
        read(&mut stream).await
    };
    let reply = tokio::time::timeout(REPLY_TIMEOUT, greeting).await.map_err(|_| ShimError::Gone(path.clone()))?;
    match reply.map_err(failed)? {
        Reply::State { state } => Ok((stream, *state)),
        Reply::Failed { message } => Err(ShimError::Refused(message)),
        other => Err(ShimError::Refused(format!("unexpected answer {other:?}"))),
    }
}

/// By way of the folder's fd, for a socket path may have 107 bytes only. unix(7).
fn connect_blocking(dir: &Path) -> std::io::Result<std::os::unix::net::UnixStream> {
    let folder = rustix::fs::open(dir, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    std::os::unix::net::UnixStream::connect(format!("/proc/self/fd/{}/shim.sock", folder.as_raw_fd()))
}

async fn write(stream: &mut (impl AsyncWrite + Unpin), message: &impl Serialize) -> std::io::Result<()> {
    stream.write_all(&wire::encode(message)).await
}

async fn read(stream: &mut (impl AsyncRead + Unpin)) -> std::io::Result<Reply> {
    let length = stream.read_u32().await? as usize;
    let mut body = vec![0; length.min(64 << 20)];
    stream.read_exact(&mut body).await?;
    Ok(serde_json::from_slice(&body)?)
}
