//! The sandbox: a process of our own binary that holds a pod's network, IPC and UTS namespaces and
//! sleeps. Containers join them by path, so the pod keeps its address over every restart.

use std::ffi::OsString;
use std::io::{self, Read};
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode, Stdio};

use rustix::thread::UnshareFlags;

/// Starts one below the calling process and returns its pid once its namespaces are ready.
pub fn start(label: &str, hostname: Option<&str>) -> io::Result<i32> {
    let mut flags = UnshareFlags::NEWIPC;
    if hostname.is_some() {
        flags |= UnshareFlags::NEWNET | UnshareFlags::NEWUTS;
    }
    let mut command = Command::new("/proc/self/exe");
    command.arg0("portolan").args(["pod-sandbox", label]).args(hostname).stdin(Stdio::null()).stdout(Stdio::piped());
    // SAFETY: the closure makes two system calls and allocates nothing.
    unsafe {
        command.pre_exec(move || {
            rustix::thread::unshare_unsafe(flags)?;
            rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL))?;
            Ok(())
        });
    }
    let mut child = command.spawn()?;
    let mut said = String::new();
    let mut output = child.stdout.take().expect("asked for a pipe");
    output.read_to_string(&mut said)?;
    if said == "ready" {
        return Ok(child.id() as i32);
    }
    let _ = child.kill();
    let _ = child.wait();
    Err(io::Error::other(format!("the sandbox process ended at its start: {said}")))
}

/// `pod-sandbox LABEL [HOSTNAME]`: runs within the new namespaces.
pub fn main(args: &[OsString]) -> ExitCode {
    if let Err(error) = settle(args.get(1)) {
        print!("{error}");
        return ExitCode::FAILURE;
    }
    print!("ready");
    let _ = io::Write::flush(&mut io::stdout());
    // The agent's side waits for the end of this pipe.
    // SAFETY: nothing of ours uses standard output from here on.
    unsafe { libc::close(1) };
    loop {
        // SAFETY: pause takes nothing.
        unsafe { libc::pause() };
    }
}

fn settle(hostname: Option<&OsString>) -> io::Result<()> {
    let Some(hostname) = hostname else {
        return Ok(());
    };
    rustix::system::sethostname(std::os::unix::ffi::OsStrExt::as_bytes(hostname.as_os_str()))?;
    for (key, value) in SYSCTLS {
        // A kernel without one of them runs the pod all the same.
        let _ = std::fs::write(format!("/proc/sys/net/ipv4/{key}"), value);
    }
    loopback_up()
}

/// As containerd sets them for pods: a program that is not root may serve port 80 and ping. Both belong to
/// the network namespace, which is the pod's own here; no other sysctl is written.
const SYSCTLS: [(&str, &str); 2] = [("ip_unprivileged_port_start", "0"), ("ping_group_range", "0 2147483647")];

/// SIOCSIFFLAGS on `lo`, which a new network namespace has, but down. netdevice(7).
fn loopback_up() -> io::Result<()> {
    use std::os::fd::AsRawFd;
    let socket = rustix::net::socket(rustix::net::AddressFamily::INET, rustix::net::SocketType::DGRAM, None)?;
    // SAFETY: ifreq is plain data, for which zeroes are a valid value.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (place, byte) in request.ifr_name.iter_mut().zip(b"lo") {
        *place = *byte as libc::c_char;
    }
    request.ifr_ifru.ifru_flags = (libc::IFF_UP | libc::IFF_RUNNING) as libc::c_short;
    // SAFETY: the request outlives the call and is the type this ioctl reads.
    match unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS, &request) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}
