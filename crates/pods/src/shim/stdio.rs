//! A container's standard files: pipes, or one terminal. The shim keeps the near ends, so that they outlive any agent.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::pty::OpenptFlags;

use super::logfile::Output;
use super::protocol::StdioPlan;
use super::runtime::Stdio;

/// The shim's ends of a container's standard files.
pub(super) struct Near {
    /// `None`: it has no input and no terminal.
    pub(super) input: Option<File>,
    pub(super) outputs: Vec<(Output, File)>,
}

/// Makes both ends; those of the shim do not block.
pub(super) fn make(plan: StdioPlan) -> io::Result<(Stdio, Near)> {
    let (far, near) = if plan.tty { terminal()? } else { pipes(plan.stdin)? };
    let own = near.input.iter().chain(near.outputs.iter().map(|(_, file)| file));
    for file in own {
        set_nonblocking(file.as_fd())?;
    }
    Ok((far, near))
}

fn terminal() -> io::Result<(Stdio, Near)> {
    let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
    let near = rustix::pty::openpt(flags)?;
    rustix::pty::unlockpt(&near)?;
    let far = rustix::pty::ioctl_tiocgptpeer(&near, flags)?;
    let far = Stdio { stdin: far.try_clone()?, stdout: far.try_clone()?, stderr: far, is_terminal: true };
    let outputs = vec![(Output::Stdout, File::from(near.try_clone()?))];
    Ok((far, Near { input: Some(near.into()), outputs }))
}

fn pipes(with_input: bool) -> io::Result<(Stdio, Near)> {
    let (stdin, input) = if with_input {
        let (reader, writer) = io::pipe()?;
        (reader.into(), Some(File::from(OwnedFd::from(writer))))
    } else {
        (File::open("/dev/null")?.into(), None)
    };
    let (out_reader, stdout) = io::pipe()?;
    let (err_reader, stderr) = io::pipe()?;
    let file = |reader: io::PipeReader| File::from(OwnedFd::from(reader));
    let outputs = vec![(Output::Stdout, file(out_reader)), (Output::Stderr, file(err_reader))];
    let far = Stdio { stdin, stdout: stdout.into(), stderr: stderr.into(), is_terminal: false };
    Ok((far, Near { input, outputs }))
}

pub(super) fn set_nonblocking(fd: BorrowedFd<'_>) -> io::Result<()> {
    let flags = rustix::fs::fcntl_getfl(fd)?;
    Ok(rustix::fs::fcntl_setfl(fd, flags | rustix::fs::OFlags::NONBLOCK)?)
}
