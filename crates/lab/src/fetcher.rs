//! Fetches images for the nodes, which reach no registry: a socket in the lab's folder, and a process behind it only
//! while somebody asks.
//!
//! ```text
//!  agent ─► STATE_DIR/images/pull.sock ─ held by the keeper ─► `portolan image serve`, started when a question comes;
//!                                                             it ends when nobody has asked for a while
//! ```
//!
//! The keeper is in the machine's own network namespace, and so is what it starts; it is told which registries it may
//! ask by the lab's configuration alone.

use std::fs;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::commands::{self, FETCHER_FD};
use crate::config::{Files, LabConfig};
use crate::error::{LabError, file};
use crate::process::{block_none, die_with_parent, high, pass};

/// One that ends at once is not started in a tight loop.
const PAUSE: Duration = Duration::from_secs(1);

/// The keeper's part of fetching.
pub(crate) struct Fetcher {
    listener: UnixListener,
    argv: Vec<String>,
    child: Option<Child>,
    started: Option<Instant>,
}

impl Fetcher {
    /// Listens where the agents ask; `None` if the lab may ask no registry.
    pub(crate) fn listen(config: &LabConfig, files: &Files) -> Result<Option<Fetcher>, LabError> {
        if config.registries.is_empty() {
            return Ok(None);
        }
        let (dir, socket) = (files.image_source(), files.image_socket());
        fs::create_dir_all(&dir).map_err(file("cannot make the folder", &dir))?;
        let listener = UnixListener::bind(&socket).map_err(file("cannot listen on", &socket))?;
        // Whoever may ask can make the machine fetch: nobody but the lab.
        fs::set_permissions(&socket, fs::Permissions::from_mode(0o600)).map_err(file("cannot close", &socket))?;
        Ok(Some(Fetcher { listener, argv: commands::fetcher(config), child: None, started: None }))
    }

    /// What to wait for; nothing while a process serves, or shortly after one was started.
    pub(crate) fn waits_for(&self) -> Option<BorrowedFd<'_>> {
        (self.child.is_none() && self.pause().is_none()).then(|| self.listener.as_fd())
    }

    /// How long until questions are heard again.
    pub(crate) fn pause(&self) -> Option<Duration> {
        let since = self.started?.elapsed();
        if self.child.is_some() { None } else { PAUSE.checked_sub(since).filter(|pause| !pause.is_zero()) }
    }

    /// Reaps a process that ended; starts one if somebody asks.
    pub(crate) fn tend(&mut self, is_asked: bool) {
        if self.child.as_mut().is_some_and(|child| !matches!(child.try_wait(), Ok(None))) {
            self.child = None;
        }
        if !is_asked || self.child.is_some() {
            return;
        }
        self.started = Some(Instant::now());
        match self.spawn() {
            Ok(child) => self.child = Some(child),
            Err(error) => eprintln!("keeper: cannot start who fetches images: {error}"),
        }
    }

    /// With the keeper's own output: the log of init.
    fn spawn(&self) -> io::Result<Child> {
        let mut command = Command::new("/proc/self/exe");
        command.arg0("portolan").args(&self.argv).current_dir("/").stdin(Stdio::null());
        pass(&mut command, vec![(high(self.listener.try_clone()?.into())?, FETCHER_FD)]);
        // SAFETY: system calls only, in a process with one thread.
        unsafe {
            command.pre_exec(|| {
                die_with_parent()?;
                block_none()
            })
        };
        command.spawn()
    }
}

impl Drop for Fetcher {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            // It may have ended by itself.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}
