//! Starting a lab: all files first, then the keeper, then waiting until the nodes are ready.

use std::fs::{self, File};
use std::io::{self, Read};
use std::net::TcpListener;
use std::ops::Deref;
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use rustix::pipe::{PipeFlags, pipe_with};

use crate::cgroups::Limits;
use crate::client::Lab;
use crate::config::{Attachment, Files, LabConfig, LabFile, Ready};
use crate::credentials::{self, make_dir};
use crate::error::{LabError, file, system};
use crate::process::{high, pass};
use crate::{checks, keeper, lock, ready};

/// A lab this process started. An attached one ends when this is dropped.
#[derive(Debug)]
pub struct LabHandle {
    lab: Lab,
    /// Its keeper, while attached.
    attached: Option<(OwnedFd, Child)>,
}

impl LabHandle {
    /// Ends the lab and waits until nothing of it is left.
    pub fn down(mut self) -> Result<(), LabError> {
        let outcome = self.lab.down();
        self.let_go();
        outcome
    }

    /// Lets a detached lab go on without this process.
    fn keep(mut self, attachment: Attachment) -> Result<LabHandle, LabError> {
        if attachment == Attachment::Detached
            && let Some((lifeline, _keeper)) = self.attached.take()
        {
            rustix::io::write(lifeline, keeper::LET_GO).map_err(system("cannot detach from the keeper"))?;
        }
        Ok(self)
    }

    /// Waits until the lab ends by itself or by another's `down`.
    pub fn wait(mut self) -> Result<(), LabError> {
        if let Some((_lifeline, keeper)) = &mut self.attached {
            keeper.wait().map_err(system("cannot wait for the keeper"))?;
        }
        Ok(())
    }

    fn let_go(&mut self) {
        if let Some((lifeline, mut keeper)) = self.attached.take() {
            drop(lifeline); // the keeper sees it break
            let _ = keeper.wait(); // no child of ours is left in any case
        }
    }
}

impl Deref for LabHandle {
    type Target = Lab;

    fn deref(&self) -> &Lab {
        &self.lab
    }
}

impl Drop for LabHandle {
    fn drop(&mut self) {
        self.let_go();
    }
}

/// Brings a lab up and returns when it is as ready as the configuration asks.
///
/// # Errors
/// The name is taken, the machine lacks something, or a process of the lab does not start; then
/// nothing is left of the attempt.
pub fn up(config: &LabConfig, attachment: Attachment) -> Result<LabHandle, LabError> {
    config.validate()?;
    let lock = lock::take(&config.state_dir)?.ok_or_else(|| LabError::NameInUse { name: config.name.clone() })?;
    let guard = lock.try_clone().map_err(system("cannot copy the lock"))?;
    let started = prepare(config).and_then(|listener| start(config, lock, listener));
    let handle = started.inspect_err(|_| {
        // A keeper does it too; if there was none nobody else would.
        LabFile::clear_cgroups(&config.state_dir);
        let _ = fs::remove_dir_all(&config.state_dir);
        lock::remove(&guard, &config.state_dir);
    })?;
    drop(guard); // from here on the keeper alone holds the name
    await_ready(config, &handle)?; // an error drops the handle, which ends the lab
    handle.keep(attachment)
}

/// Everything that can be got ready without starting a process; returns the API's listener.
fn prepare(config: &LabConfig) -> Result<TcpListener, LabError> {
    let (identity, instead_because) = checks::machine(config)?;
    let dir = &config.state_dir;
    LabFile::clear_cgroups(dir);
    match fs::remove_dir_all(dir) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            return Err(file("cannot remove what a dead lab left in", dir)(error));
        }
        _ => {}
    }
    let files = Files::new(dir);
    for dir in [dir.clone(), files.logs(), files.data()] {
        make_dir(&dir)?;
    }
    let store = &config.image_store;
    fs::create_dir_all(store).map_err(file("cannot make the folder", store))?;
    let listener = TcpListener::bind("127.0.0.1:0").map_err(system("cannot listen on 127.0.0.1"))?;
    let api_port = listener.local_addr().map_err(system("cannot listen on 127.0.0.1"))?.port();
    credentials::write(config, &files, api_port)?;
    // Written down before they are made.
    let limits = if config.limits { Limits::find(&config.name) } else { Limits::NotAsked };
    let mut lab = LabFile { config: config.clone(), api_port, limits, identity, instead_because };
    lab.save()?;
    lab.limits = lab.limits.make(&config.name);
    lab.config.limit_flags = lab.limits.flags(config.pod_pids);
    lab.save()?;
    Ok(listener)
}

fn start(config: &LabConfig, lock: File, listener: TcpListener) -> Result<LabHandle, LabError> {
    let pipe = || pipe_with(PipeFlags::CLOEXEC).map_err(system("cannot make a pipe"));
    let (ready_read, ready_write) = pipe()?;
    let (lifeline_read, lifeline_write) = pipe()?;
    let passed = vec![
        (OwnedFd::from(listener), keeper::LISTENER),
        (ready_write, keeper::READY),
        (OwnedFd::from(lock), keeper::LOCK),
        (lifeline_read, keeper::LIFELINE),
    ];
    let mut keeper = spawn_keeper(config, passed)?;
    let mut said = String::new();
    File::from(ready_read).read_to_string(&mut said).map_err(system("cannot hear from the keeper"))?;
    if said != "ok" {
        let log = tail(&Files::new(&config.state_dir).log("init"));
        let _ = keeper.wait(); // it removes the files
        let reason = if said.is_empty() { format!("its init ended at once\n{log}") } else { said };
        return Err(LabError::NotStarted { reason });
    }
    let attached = Some((lifeline_write, keeper));
    Ok(LabHandle { lab: Lab::open(&config.state_dir)?, attached })
}

fn spawn_keeper(config: &LabConfig, passed: Vec<(OwnedFd, i32)>) -> Result<Child, LabError> {
    let log = Files::new(&config.state_dir).log("init");
    let output = File::create(&log).map_err(file("cannot make", &log))?;
    let errors = output.try_clone().map_err(file("cannot make", &log))?;
    let mut command = Command::new(&config.exe);
    command.arg0("portolan").arg("lab-keeper").arg(&config.state_dir).current_dir("/");
    command.stdin(Stdio::null()).stdout(output).stderr(errors);
    let raised = passed.into_iter().map(|(fd, number)| Ok((high(fd)?, number))).collect::<io::Result<Vec<_>>>();
    pass(&mut command, raised.map_err(system("cannot pass descriptors"))?);
    // SAFETY: setsid and close_range are system calls and touch no memory.
    unsafe {
        command.pre_exec(|| {
            // Away from the terminal: Ctrl-C is for `up`, which then ends the lab in order.
            rustix::process::setsid()?;
            close_on_exec_above(keeper::LIFELINE)
        })
    };
    command.spawn().map_err(system(format!("cannot start {}", config.exe.display())))
}

/// Descriptors that others left open without close-on-exec must not live as long as the lab.
fn close_on_exec_above(number: i32) -> io::Result<()> {
    // SAFETY: plain numbers.
    let result = unsafe {
        libc::syscall(libc::SYS_close_range, (number + 1) as libc::c_uint, libc::c_uint::MAX, libc::CLOSE_RANGE_CLOEXEC)
    };
    if result != 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

fn await_ready(config: &LabConfig, lab: &Lab) -> Result<(), LabError> {
    let Ready::Nodes(patience) = config.ready else {
        return Ok(());
    };
    ready::nodes(lab, &config.topology().node_names(), patience).map_err(|error| explain(lab, error))
}

/// Adds what the unhappy processes said last.
fn explain(lab: &Lab, error: LabError) -> LabError {
    let LabError::NotStarted { mut reason } = error else {
        return error;
    };
    let units = lab.status().map(|status| status.units).unwrap_or_default();
    let unhappy: Vec<_> = units.iter().filter(|unit| unit.restarts > 0).collect();
    let shown = if unhappy.is_empty() { units.iter().collect() } else { unhappy };
    for unit in shown {
        let how = unit.last_end.as_deref().unwrap_or("it runs");
        reason += &format!("\n--- {} ({} restarts, {how}):\n{}", unit.name, unit.restarts, tail(&lab.log(&unit.name)));
    }
    LabError::NotStarted { reason }
}

/// The last lines of a log, indented.
fn tail(path: &Path) -> String {
    const LINES: usize = 12;
    let text = fs::read(path).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default();
    let lines: Vec<_> = text.lines().rev().take(LINES).map(|line| format!("    {line}\n")).collect();
    lines.into_iter().rev().collect()
}
