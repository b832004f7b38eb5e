//! The keeper: the lab's only process in the machine's own namespaces.
//!
//! It holds the name's lock and the API listener, starts lab init as PID 1 of new namespaces and waits.
//! When init ends it removes the lab's files; when it is told to end (SIGTERM, or the lifeline to `up`
//! breaks) it kills init first, and the kernel ends everything inside. So a lab whose `up` is
//! interrupted before it is ready is gone; once ready, `up --detach` lets go by a word on the lifeline.
//! Killed itself, the keeper takes init along by PDEATHSIG and leaves only files, which the next `up`
//! or `sweep` removes.

use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd, RawFd};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, ExitCode};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::cgroups::Limits;
use crate::checks;
use crate::config::{Files, LabFile};
use crate::error::{LabError, file, system};
use crate::fetcher::Fetcher;
use crate::isolated::{Cgroups, Isolated};
use crate::lock;
use crate::process::{die_with_parent, high, inherited, pass, read_signals, signals};

/// Where the keeper finds what `up` passes.
pub(crate) const LISTENER: RawFd = 3;
pub(crate) const READY: RawFd = 4;
pub(crate) const LOCK: RawFd = 5;
/// The reading end of a pipe that breaks when `up` ends.
pub(crate) const LIFELINE: RawFd = 6;
/// What `up --detach` writes there when it may end.
pub(crate) const LET_GO: &[u8] = b"detach";
/// Where init finds the reading end of a pipe that breaks when the keeper ends.
pub(crate) const INIT_LIFELINE: RawFd = 5;

/// `lab-keeper STATE_DIR`
pub(crate) fn run(state_dir: &Path) -> ExitCode {
    match keep(state_dir) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("keeper: {error}");
            ExitCode::FAILURE
        }
    }
}

fn keep(state_dir: &Path) -> Result<(), LabError> {
    let take = |number| inherited(number).map_err(system("the keeper was started without its descriptors"));
    let (listener, ready, lock, lifeline) = (take(LISTENER)?, take(READY)?, take(LOCK)?, take(LIFELINE)?);
    let signal_fd =
        signals(&[libc::SIGTERM, libc::SIGINT, libc::SIGHUP, libc::SIGCHLD]).map_err(system("cannot take signals"))?;
    let pid_file = Files::new(state_dir).keeper_pid();
    fs::write(&pid_file, std::process::id().to_string()).map_err(file("cannot write", &pid_file))?;
    let (init_lifeline, _held) =
        rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).map_err(system("cannot make a pipe"))?;
    let lab = LabFile::load(state_dir)?;
    let mut fetcher = Fetcher::listen(&lab.config, &Files::new(state_dir))?;
    let mut init = start_init(
        state_dir,
        listener.try_clone().map_err(system("cannot copy the listener"))?,
        ready,
        init_lifeline,
        &lab.limits,
    )?;
    let outcome = wait(&mut init, &signal_fd, lifeline, &mut fetcher);
    drop(fetcher);
    // Whatever happened: nothing of the lab may outlive its keeper.
    init.kill();
    init.wait();
    LabFile::clear_cgroups(state_dir);
    let removed = fs::remove_dir_all(state_dir).map_err(file("cannot remove", state_dir));
    lock::remove(&lock, state_dir);
    outcome.and(removed)
}

fn start_init(
    state_dir: &Path,
    listener: OwnedFd,
    ready: OwnedFd,
    lifeline: OwnedFd,
    limits: &Limits,
) -> Result<Isolated, LabError> {
    let identity = LabFile::load(state_dir)?.identity;
    let mut command = Command::new("/proc/self/exe");
    command.arg0("portolan").arg("lab-init").arg(state_dir).current_dir("/");
    let passed = [(listener, LISTENER), (ready, READY), (lifeline, INIT_LIFELINE)];
    let raised = passed.into_iter().map(|(fd, number)| Ok((high(fd)?, number))).collect::<io::Result<Vec<_>>>();
    pass(&mut command, raised.map_err(system("cannot pass descriptors"))?);
    let become_init = || {
        let error = die_with_parent().err().unwrap_or_else(|| command.exec());
        eprintln!("keeper: cannot start the lab's init: {error}");
        127
    };
    // Whoever moves processes between cgroups must see both: one that is limited keeps the machine's view of them.
    let view = if *limits == Limits::NotAsked { Cgroups::Own } else { Cgroups::OfMachine };
    Isolated::start(&identity, view, become_init).map_err(|refused| checks::explain(&refused))
}

/// Returns when init ended or the keeper is to end.
fn wait(
    init: &mut Isolated,
    signal_fd: &OwnedFd,
    lifeline: OwnedFd,
    fetcher: &mut Option<Fetcher>,
) -> Result<(), LabError> {
    let mut lifeline = Some(lifeline);
    loop {
        let [is_moved, is_asked] = hear(signal_fd, lifeline.as_ref(), fetcher.as_ref())?;
        if is_moved && !is_let_go(lifeline.take()) {
            return Ok(());
        }
        if read_signals(signal_fd).into_iter().any(|signal| signal != libc::SIGCHLD) {
            return Ok(());
        }
        if let Some(fetcher) = fetcher {
            fetcher.tend(is_asked);
        }
        if let Some(how) = init.try_wait() {
            eprintln!("keeper: the lab's init ended: {how}");
            return Ok(());
        }
    }
}

/// Waits for a signal, for the lifeline to move, and for somebody to ask for an image; says whether the latter two did.
fn hear(signal_fd: &OwnedFd, lifeline: Option<&OwnedFd>, fetcher: Option<&Fetcher>) -> Result<[bool; 2], LabError> {
    let mut polled = vec![PollFd::new(signal_fd, PollFlags::IN)];
    let asked = fetcher.and_then(Fetcher::waits_for);
    let both = [lifeline.map(AsFd::as_fd), asked];
    polled.extend(both.into_iter().flatten().map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN)));
    let pause = fetcher
        .and_then(Fetcher::pause)
        .map(|pause| Timespec { tv_sec: pause.as_secs() as i64, tv_nsec: i64::from(pause.subsec_nanos()) });
    match poll(&mut polled, pause.as_ref()) {
        Ok(_) | Err(rustix::io::Errno::INTR) => {}
        Err(error) => return Err(system("cannot wait")(error)),
    }
    let mut moved = polled[1..].iter().map(|fd| !fd.revents().is_empty());
    Ok(both.map(|fd| fd.is_some() && moved.next() == Some(true)))
}

/// Whether the lifeline moved because `up` let go, and not because it ended.
fn is_let_go(lifeline: Option<OwnedFd>) -> bool {
    let mut word = [0; LET_GO.len()];
    lifeline.is_some_and(|fd| rustix::io::read(fd, &mut word) == Ok(LET_GO.len()) && word == *LET_GO)
}
