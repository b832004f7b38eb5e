//! Users at a container's own standard files: `attach`.
//!
//! ```text
//!  container's stdout, stderr ─► pump ─┬─► log
//!                                      └─► Sink of each attached user (a pipe of the agent's)
//!  container's stdin ◄─ Input ◄────────── the attached users' input, as it comes
//! ```
//!
//! Nothing is lost on the way to a user: while one of them has not taken what came before, the container's output waits,
//! as it would at a terminal. One who takes nothing for [`PATIENCE`] is let go, so that nobody can hold a pod for good.
//! Who comes sees what is written from then on. Knows no protocol: files in, files out.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::event::PollFlags;

use super::logfile::Output;
use super::protocol::StdioPlan;
use super::stdio::set_nonblocking;

/// How long the container waits for a user who takes nothing.
const PATIENCE: Duration = Duration::from_secs(30);
const CHUNK_BYTES: usize = 16 * 1024;

/// All users at the containers of one pod.
#[derive(Default)]
pub(super) struct Attachments {
    /// By run.
    inputs: HashMap<String, Input>,
    users: Vec<User>,
}

/// What a container reads from; a terminal also if it reads nothing.
struct Input {
    /// The pipe's or the terminal's near end; `None` once closed for good.
    file: Option<File>,
    plan: StdioPlan,
    /// Taken from a user, not yet by the container.
    pending: Vec<u8>,
    /// Closes once nothing is pending.
    is_ending: bool,
}

struct User {
    /// The connection that asked.
    client: u64,
    run: String,
    stdin: Option<File>,
    stdout: Option<Sink>,
    stderr: Option<Sink>,
    /// Nothing more comes; what is pending is still written.
    is_over: bool,
}

/// One output on its way to a user.
struct Sink {
    file: File,
    pending: Vec<u8>,
    /// When it last took something, or had nothing to take.
    moved: Instant,
}

/// Which file a poll found ready.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Place {
    UserStdin(u64),
    UserOutput(u64),
    ContainerStdin(String),
}

impl Attachments {
    /// Keeps what a starting container will read from.
    pub(super) fn keep_input(&mut self, run: &str, file: File, plan: StdioPlan) {
        self.inputs.insert(run.to_owned(), Input { file: Some(file), plan, pending: Vec::new(), is_ending: false });
    }

    /// Lets a user in; `fds` are their input and where both outputs go.
    pub(super) fn attach(&mut self, client: u64, run: &str, fds: [OwnedFd; 3], with_stdin: bool) -> io::Result<()> {
        let input = self.inputs.get(run);
        let plan = input.map_or(StdioPlan::default(), |input| input.plan);
        let [stdin, stdout, stderr] = fds.map(File::from);
        for file in [&stdin, &stdout, &stderr] {
            set_nonblocking(file.as_fd())?;
        }
        let sink = |file| Sink { file, pending: Vec::new(), moved: Instant::now() };
        let is_open = input.is_some_and(|input| input.file.is_some());
        self.users.push(User {
            client,
            run: run.to_owned(),
            // Where nothing reads, the user's writes shall fail.
            stdin: (with_stdin && plan.stdin && is_open).then_some(stdin),
            stdout: Some(sink(stdout)),
            // A terminal has one output.
            stderr: (!plan.tty).then(|| sink(stderr)),
            is_over: false,
        });
        Ok(())
    }

    /// Sets the size of the terminal a user is at; nothing at a pipe.
    pub(super) fn resize(&self, client: u64, columns: u16, rows: u16) {
        let user = self.users.iter().find(|user| user.client == client);
        let input = user.and_then(|user| self.inputs.get(&user.run));
        if let Some(file) = input.filter(|input| input.plan.tty).and_then(|input| input.file.as_ref()) {
            let size = rustix::termios::Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
            let _ = rustix::termios::tcsetwinsize(file, size);
        }
    }

    /// What the container wrote, for all its users.
    pub(super) fn output(&mut self, run: &str, output: Output, bytes: &[u8]) {
        for user in self.users.iter_mut().filter(|user| user.run == run) {
            let sink = match output {
                Output::Stdout => &mut user.stdout,
                Output::Stderr => &mut user.stderr,
            };
            if let Some(open) = sink {
                open.pending.extend_from_slice(bytes);
            }
            flush(sink);
        }
    }

    /// Whether the container's output has to wait for a user.
    pub(super) fn is_held(&self, run: &str) -> bool {
        self.users.iter().any(|user| user.run == run && user.has_pending())
    }

    /// The container has ended, and all it wrote was handed to `output`.
    pub(super) fn end(&mut self, run: &str) {
        self.inputs.remove(run);
        for user in self.users.iter_mut().filter(|user| user.run == run) {
            user.is_over = true;
            user.stdin = None;
        }
    }

    /// A connection closed, orderly or not.
    pub(super) fn forget(&mut self, client: u64) {
        self.stdin_ended(client);
        self.users.retain(|user| user.client != client);
    }

    /// Takes out the users for whom all is done; they are told so.
    pub(super) fn finished(&mut self, now: Instant) -> Vec<u64> {
        for user in &mut self.users {
            let is_stuck = user.sinks().any(|sink| !sink.pending.is_empty() && now >= sink.moved + PATIENCE);
            if is_stuck {
                user.stdout = None;
                user.stderr = None;
                user.is_over = true;
            }
        }
        let is_done = |user: &User| user.is_over && !user.has_pending();
        let done = self.users.iter().filter(|user| is_done(user)).map(|user| user.client).collect();
        self.users.retain(|user| !is_done(user));
        done
    }

    /// How long a poll may wait before a user's patience is over.
    pub(super) fn patience(&self, now: Instant) -> Option<Duration> {
        let sinks = self.users.iter().flat_map(User::sinks).filter(|sink| !sink.pending.is_empty());
        sinks.map(|sink| (sink.moved + PATIENCE).saturating_duration_since(now)).min()
    }

    /// Every file to be watched and for what. An output that has nothing to take is watched for its end.
    pub(super) fn watched(&self) -> Vec<(Place, BorrowedFd<'_>, PollFlags)> {
        let mut all = Vec::new();
        for user in &self.users {
            let has_room = self.inputs.get(&user.run).is_some_and(|input| input.pending.is_empty());
            if let Some(stdin) = user.stdin.as_ref().filter(|_| has_room) {
                all.push((Place::UserStdin(user.client), stdin.as_fd(), PollFlags::IN));
            }
            for sink in user.sinks() {
                let wanted = if sink.pending.is_empty() { PollFlags::empty() } else { PollFlags::OUT };
                all.push((Place::UserOutput(user.client), sink.file.as_fd(), wanted));
            }
        }
        for (run, input) in self.inputs.iter().filter(|(_, input)| !input.pending.is_empty()) {
            if let Some(file) = &input.file {
                all.push((Place::ContainerStdin(run.clone()), file.as_fd(), PollFlags::OUT));
            }
        }
        all
    }

    /// Moves what can be moved at a file that poll named.
    pub(super) fn ready(&mut self, place: Place) {
        match place {
            Place::UserStdin(client) => self.read_stdin(client),
            Place::UserOutput(client) => {
                if let Some(user) = self.users.iter_mut().find(|user| user.client == client) {
                    user.flush();
                }
            }
            Place::ContainerStdin(run) => {
                if let Some(input) = self.inputs.get_mut(&run) {
                    input.write();
                }
            }
        }
    }

    fn read_stdin(&mut self, client: u64) {
        let Some(user) = self.users.iter_mut().find(|user| user.client == client) else { return };
        let Some(stdin) = &mut user.stdin else { return };
        let mut buffer = [0; CHUNK_BYTES];
        match stdin.read(&mut buffer) {
            Ok(count @ 1..) => {
                let Some(input) = self.inputs.get_mut(&user.run) else { return };
                input.pending.extend_from_slice(&buffer[..count]);
                input.write();
                if input.file.is_none() {
                    user.stdin = None;
                }
            }
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {}
            Ok(_) | Err(_) => self.stdin_ended(client),
        }
    }

    /// The user sends no more. With `stdinOnce` and no terminal that is the end of the container's input, and its output
    /// is still waited for; else the user is let go, as containerd does. Later users find a terminal's input open.
    fn stdin_ended(&mut self, client: u64) {
        let Some(user) = self.users.iter_mut().find(|user| user.client == client) else { return };
        if user.stdin.take().is_none() {
            return;
        }
        match self.inputs.get_mut(&user.run) {
            Some(input) if input.plan.stdin_once && !input.plan.tty => input.end(),
            _ => user.is_over = true,
        }
    }
}

impl Input {
    /// As much as the container takes now.
    fn write(&mut self) {
        let Some(file) = &mut self.file else { return self.pending.clear() };
        let (taken, is_open) = write_some(file, &self.pending);
        self.pending.drain(..taken);
        if !is_open {
            // The container closed it; what is pending has nowhere to go.
            self.pending.clear();
            self.is_ending = true;
        }
        if self.pending.is_empty() && self.is_ending {
            self.file = None;
        }
    }

    /// Closed once all that is pending was written.
    fn end(&mut self) {
        self.is_ending = true;
        if self.pending.is_empty() {
            self.file = None;
        }
    }
}

impl User {
    fn sinks(&self) -> impl Iterator<Item = &Sink> {
        self.stdout.iter().chain(&self.stderr)
    }

    fn has_pending(&self) -> bool {
        self.sinks().any(|sink| !sink.pending.is_empty())
    }

    fn flush(&mut self) {
        flush(&mut self.stdout);
        flush(&mut self.stderr);
    }
}

/// Writes what is pending; a sink that nobody reads any more is dropped.
fn flush(sink: &mut Option<Sink>) {
    let Some(open) = sink else { return };
    let (taken, is_open) = write_some(&mut open.file, &open.pending);
    open.pending.drain(..taken);
    if taken > 0 || open.pending.is_empty() {
        open.moved = Instant::now();
    }
    if !is_open || is_closed(open.file.as_fd()) {
        *sink = None;
    }
}

/// How much a file took, and whether it takes more later.
fn write_some(file: &mut File, bytes: &[u8]) -> (usize, bool) {
    let mut taken = 0;
    while taken < bytes.len() {
        match file.write(&bytes[taken..]) {
            Ok(count) => taken += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return (taken, error.kind() == io::ErrorKind::WouldBlock),
        }
    }
    (taken, true)
}

/// A pipe whose reader is gone says so without a write. poll(2).
fn is_closed(file: BorrowedFd<'_>) -> bool {
    let mut poll = [rustix::event::PollFd::from_borrowed_fd(file, PollFlags::empty())];
    let now = rustix::event::Timespec { tv_sec: 0, tv_nsec: 0 };
    let polled = rustix::event::poll(&mut poll, Some(&now));
    polled.is_ok() && poll[0].revents().intersects(PollFlags::ERR | PollFlags::NVAL)
}

#[cfg(test)]
#[path = "attach_tests.rs"]
mod tests;
