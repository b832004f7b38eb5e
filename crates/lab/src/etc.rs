//! A place's /etc: the machine's, with files of the place's own in front.
//!
//! ```text
//!  as a rule          overlay of /etc and a folder in the place's /run
//!  for a user, where  tmpfs; the machine's entries as links into /run/.etc/machine,
//!  /etc has mounts    which is the old /etc
//! ```
//!
//! The second is for containers, whose engines mount a resolv.conf: overlay refuses a lower folder with mounts in it that
//! the user may not take away (EINVAL; Linux 6.18, `clone_private_mount`).

use std::ffi::CString;
use std::fs;
use std::io;
use std::os::unix::fs::symlink;
use std::path::Path;

use rustix::io::Errno;
use rustix::mount::{MountFlags, mount, mount_bind_recursive};

use crate::error::{LabError, file};
use crate::isolated::in_user_namespace;
use crate::place::mount_tmpfs;
use crate::topology::{HostSpec, Topology};

const UPPER: &str = "/run/.etc/upper";
const WORK: &str = "/run/.etc/work";
const MACHINE: &str = "/run/.etc/machine";

/// Lays the place's own files over /etc, in its mount namespace and with its /run in place.
pub(crate) fn furnish(host: &HostSpec, topology: &Topology) -> Result<(), LabError> {
    lay_over()?;
    let gateway = topology.outside().address.addr();
    replace("/etc/resolv.conf", &format!("nameserver {gateway}\n"))?;
    replace("/etc/hostname", &format!("{}\n", host.name))?;
    replace("/etc/hosts", &hosts_file(topology))?;
    fs::create_dir_all("/etc/cni/net.d").map_err(file("cannot make the folder", "/etc/cni/net.d"))
}

/// The same as a trial, in namespaces that are gone afterwards; and an overlay as containers need it.
pub(crate) fn attempt() -> Result<(), LabError> {
    mount_tmpfs("/run")?;
    lay_over()?;
    replace("/etc/resolv.conf", "")?;
    make_dirs(&["/run/lower", "/run/upper", "/run/work", "/run/root"])?;
    overlay("/run/lower", "/run/upper", "/run/work", "/run/root").map_err(no_overlay)
}

fn lay_over() -> Result<(), LabError> {
    make_dirs(&[UPPER, WORK, MACHINE])?;
    match overlay("/etc", UPPER, WORK, "/etc") {
        Err(Errno::INVAL) if in_user_namespace() => mirror(),
        other => other.map_err(no_overlay),
    }
}

fn make_dirs(dirs: &[&str]) -> Result<(), LabError> {
    dirs.iter().try_for_each(|dir| fs::create_dir_all(dir).map_err(file("cannot make the folder", *dir)))
}

fn overlay(lower: &str, upper: &str, work: &str, target: &str) -> rustix::io::Result<()> {
    // In a user namespace overlay may not keep its notes in `trusted.` attributes.
    let notes = if in_user_namespace() { ",userxattr" } else { "" };
    let options = format!("lowerdir={lower},upperdir={upper},workdir={work}{notes}");
    let options = CString::new(options).expect("no zero byte in it");
    mount("overlay", target, "overlay", MountFlags::empty(), options.as_c_str())
}

fn no_overlay(error: Errno) -> LabError {
    LabError::Missing {
        feature: "the kernel's overlay file system",
        detail: error.to_string(),
        remedy: "load it with `modprobe overlay`, or take a kernel with CONFIG_OVERLAY_FS (for ordinary users 5.11 or newer)",
    }
}

/// A new /etc of links into the old one.
fn mirror() -> Result<(), LabError> {
    mount_bind_recursive("/etc", MACHINE).map_err(|e| file("cannot bind /etc to", MACHINE)(e.into()))?;
    mount_tmpfs("/etc")?;
    let entries = fs::read_dir(MACHINE).map_err(file("cannot list", MACHINE))?;
    for entry in entries.flatten() {
        let (old, new) = (entry.path(), Path::new("/etc").join(entry.file_name()));
        // A link stays what it is: a relative one would lead elsewhere from the old folder's new place.
        let target = fs::read_link(&old).unwrap_or(old);
        symlink(target, &new).map_err(file("cannot make the link", &new))?;
    }
    Ok(())
}

fn hosts_file(topology: &Topology) -> String {
    let mut text = "127.0.0.1 localhost\n::1 localhost ip6-localhost ip6-loopback\n".to_owned();
    for host in topology.hosts() {
        text += &format!("{} {}\n", host.address.addr(), host.name);
    }
    text
}

/// Writes a new file at `path`; a symbolic link there is replaced, not followed.
fn replace(path: &str, text: &str) -> Result<(), LabError> {
    if let Err(error) = fs::remove_file(path)
        && error.kind() != io::ErrorKind::NotFound
    {
        return Err(file("cannot replace", path)(error));
    }
    fs::write(path, text).map_err(file("cannot write", path))
}
