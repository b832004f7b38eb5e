//! A command in a running container, or a place at its own standard files, with streams: what `kubectl exec`,
//! `kubectl attach` and exec probes need.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use rustix::pty::OpenptFlags;
use tokio::io::unix::AsyncFd;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::unix::pipe;
use tokio::sync::mpsc;

use crate::shim::client::{self, Exit, ShimError};
use crate::shim::state::PodState;
use crate::spec::exec_process;

/// What to run.
#[derive(Clone, Debug, Default)]
pub struct ExecRequest {
    pub command: Vec<String>,
    /// Give it a terminal; stdout and stderr are one then.
    pub tty: bool,
    /// Keep its standard input open; otherwise it is empty.
    pub stdin: bool,
}

/// A command that runs, or a container that a user is attached to. Dropping it closes the streams and leaves it to itself.
pub struct ExecSession {
    /// To its standard input, if asked for; drop it to close.
    pub stdin: Option<Box<dyn AsyncWrite + Send + Unpin>>,
    pub stdout: Box<dyn AsyncRead + Send + Unpin>,
    /// `None` with a terminal.
    pub stderr: Option<Box<dyn AsyncRead + Send + Unpin>>,
    resizer: Resizer,
    exit: Option<Exit>,
}

impl ExecSession {
    /// Its exit code, once; 128+n if killed by signal n. Of an attached container 0, whatever its own code.
    pub async fn wait(&mut self) -> Result<i32, ExecError> {
        let exit = self.exit.take().ok_or(ExecError::Waited)?;
        Ok(exit.wait().await?)
    }

    /// Tells the terminal its size; nothing without one.
    pub fn resize(&self, columns: u16, rows: u16) {
        self.resizer.resize(columns, rows);
    }

    /// The resizer alone, for a task of its own.
    pub fn resizer(&self) -> impl Fn(u16, u16) + Send + Sync + 'static {
        let resizer = self.resizer.clone();
        move |columns, rows| resizer.resize(columns, rows)
    }
}

/// Who sets the size of a session's terminal.
#[derive(Clone)]
enum Resizer {
    NoTerminal,
    Here(Arc<OwnedFd>),
    /// The shim holds it, if there is one.
    Shim(mpsc::UnboundedSender<(u16, u16)>),
}

impl Resizer {
    fn resize(&self, columns: u16, rows: u16) {
        match self {
            Self::NoTerminal => {}
            Self::Here(terminal) => {
                let size = rustix::termios::Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
                let _ = rustix::termios::tcsetwinsize(terminal, size);
            }
            // A container that has ended has no size.
            Self::Shim(sizes) => drop(sizes.send((columns, rows))),
        }
    }
}

/// Why a command could not be run.
#[derive(Debug, thiserror::Error)]
pub enum ExecError {
    #[error("pod {0} is not on this node")]
    NoPod(String),
    #[error("pod {0} is not running: it has no sandbox now; wait until it is Ready")]
    NoSandbox(String),
    #[error("container {container} not found in pod {pod}")]
    NoContainer { pod: String, container: String },
    #[error("container {0} is not running")]
    NotRunning(String),
    #[error("no command was given")]
    NoCommand,
    #[error("cannot prepare the streams: {0}")]
    Streams(#[from] io::Error),
    #[error("{0}")]
    Shim(#[from] ShimError),
    #[error("the exit code was taken already")]
    Waited,
}

/// Starts a command in the container of the pod in `dir`.
pub async fn start(dir: &Path, container: &str, request: &ExecRequest) -> Result<ExecSession, ExecError> {
    if request.command.is_empty() {
        return Err(ExecError::NoCommand);
    }
    let process = process_of(dir, container, request)?;
    if request.tty {
        with_terminal(dir, container, process, request).await
    } else {
        with_pipes(dir, container, process, request).await
    }
}

fn process_of(dir: &Path, container: &str, request: &ExecRequest) -> Result<serde_json::Value, ExecError> {
    let not_running = || ExecError::NotRunning(container.to_owned());
    let state = PodState::load(dir).ok_or_else(not_running)?;
    let run = state.last_run(container).filter(|run| run.ended.is_none()).ok_or_else(not_running)?;
    let spec = std::fs::read(dir.join("bundles").join(&run.id).join("config.json"))?;
    let spec: serde_json::Value = serde_json::from_slice(&spec).map_err(io::Error::other)?;
    exec_process(&spec, &request.command, request.tty).ok_or_else(not_running)
}

/// Joins the standard files of the container of the pod in `dir`. What it wrote before is in its log.
pub async fn attach(dir: &Path, container: &str, stdin: bool) -> Result<ExecSession, ExecError> {
    let (near, far) = pipes(stdin)?;
    let (exit, sizes) = client::attach(dir, container, stdin, far).await?;
    Ok(near.session(Resizer::Shim(sizes), exit))
}

/// Our ends of three pipes.
struct Pipes {
    stdin: Option<pipe::Sender>,
    stdout: pipe::Receiver,
    stderr: pipe::Receiver,
}

impl Pipes {
    fn session(self, resizer: Resizer, exit: Exit) -> ExecSession {
        ExecSession {
            stdin: self.stdin.map(|stdin| Box::new(stdin) as Box<dyn AsyncWrite + Send + Unpin>),
            stdout: Box::new(self.stdout),
            stderr: Some(Box::new(self.stderr)),
            resizer,
            exit: Some(exit),
        }
    }
}

fn pipes(with_stdin: bool) -> io::Result<(Pipes, [OwnedFd; 3])> {
    let (out_reader, out_writer) = io::pipe()?;
    let (err_reader, err_writer) = io::pipe()?;
    let (their_stdin, stdin) = if with_stdin {
        let (reader, writer) = io::pipe()?;
        (OwnedFd::from(reader), Some(pipe::Sender::from_owned_fd(writer.into())?))
    } else {
        (std::fs::File::open("/dev/null")?.into(), None)
    };
    let stdout = pipe::Receiver::from_owned_fd(out_reader.into())?;
    let stderr = pipe::Receiver::from_owned_fd(err_reader.into())?;
    Ok((Pipes { stdin, stdout, stderr }, [their_stdin, out_writer.into(), err_writer.into()]))
}

async fn with_pipes(
    dir: &Path,
    container: &str,
    process: serde_json::Value,
    request: &ExecRequest,
) -> Result<ExecSession, ExecError> {
    let (near, far) = pipes(request.stdin)?;
    let exit = client::exec(dir, container, process, false, far).await?;
    Ok(near.session(Resizer::NoTerminal, exit))
}

async fn with_terminal(
    dir: &Path,
    container: &str,
    process: serde_json::Value,
    request: &ExecRequest,
) -> Result<ExecSession, ExecError> {
    let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
    let master = rustix::pty::openpt(flags).map_err(io::Error::from)?;
    rustix::pty::unlockpt(&master).map_err(io::Error::from)?;
    let slave = rustix::pty::ioctl_tiocgptpeer(&master, flags).map_err(io::Error::from)?;
    let fds = [slave.try_clone()?, slave.try_clone()?, slave];
    let exit = client::exec(dir, container, process, true, fds).await?;
    let stdin = request.stdin.then(|| Terminal::new(master.try_clone()?)).transpose()?;
    Ok(ExecSession {
        stdin: stdin.map(|stdin| Box::new(stdin) as Box<dyn AsyncWrite + Send + Unpin>),
        stdout: Box::new(Terminal::new(master.try_clone()?)?),
        stderr: None,
        resizer: Resizer::Here(Arc::new(master)),
        exit: Some(exit),
    })
}

/// The near end of a pseudo-terminal.
struct Terminal(AsyncFd<OwnedFd>);

impl Terminal {
    fn new(fd: OwnedFd) -> io::Result<Self> {
        let flags = rustix::fs::fcntl_getfl(&fd)?;
        rustix::fs::fcntl_setfl(&fd, flags | rustix::fs::OFlags::NONBLOCK)?;
        // SAFETY: an OwnedFd is open for as long as the registration that owns it.
        Ok(Self(unsafe { AsyncFd::register(fd) }?))
    }
}

impl AsyncRead for Terminal {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        loop {
            let mut guard = ready!(self.0.poll_read_ready(context))?;
            let space = buffer.initialize_unfilled();
            match guard.try_io(|fd| Ok(rustix::io::read(fd.as_fd(), space)?)) {
                Ok(Ok(count)) => {
                    buffer.advance(count);
                    return Poll::Ready(Ok(()));
                }
                // The far end is closed: the end of the stream.
                Ok(Err(error)) if error.raw_os_error() == Some(libc::EIO) => return Poll::Ready(Ok(())),
                Ok(Err(error)) => return Poll::Ready(Err(error)),
                Err(_would_block) => {}
            }
        }
    }
}

impl AsyncWrite for Terminal {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        loop {
            let mut guard = ready!(self.0.poll_write_ready(context))?;
            match guard.try_io(|fd| Ok(rustix::io::write(fd.as_fd(), bytes)?)) {
                Ok(result) => return Poll::Ready(result),
                Err(_would_block) => {}
            }
        }
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    /// The user's end of input: what Ctrl-D is at a terminal.
    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_write(context, &[4]))?;
        Poll::Ready(Ok(()))
    }
}
