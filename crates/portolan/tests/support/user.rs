//! An ordinary user who is not in the machine's own /etc/passwd: commands run as them, in a mount namespace of its own
//! where /etc/passwd, /etc/subuid, /etc/subgid and /tmp are the test's and what they need of the tree can be reached.
//!
//! Nothing of the machine is changed: all of it is bind mounts and tmpfs in that namespace.

use std::fs;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use rustix::fs::{Mode, OFlags};
use rustix::mount::{MountFlags, MountPropagationFlags, mount, mount_bind_recursive, mount_change};
use rustix::thread::UnshareFlags;

use super::{Said, deb_bin};

pub const NAME: &str = "ptl-t-user";
pub const UID: u32 = 54_321;
/// First of their subordinate ids.
pub const SUBORDINATE: u32 = 200_000;
const COUNT: u32 = 65_536;

/// What the machine has for the user.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Uidmap {
    /// The programs, setuid, and a line in both files.
    Whole,
    /// The programs without the lines.
    NoLines,
    /// The lines, and programs that lost their setuid bit.
    NotSetuid,
    /// Neither.
    Nothing,
}

/// Whether they logged in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Session {
    /// XDG_RUNTIME_DIR is set.
    Login,
    /// It is not, as with `su`: labs are in /tmp.
    Bare,
}

/// A user with a home that lasts as long as this.
pub struct Home {
    dir: tempfile::TempDir,
}

impl Home {
    pub fn new() -> Home {
        let dir = tempfile::Builder::new().prefix("ptl-t-").tempdir().expect("a folder");
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).expect("opened");
        let home = Home { dir };
        for own in [home.path(), home.runtime_dir(), home.cache()] {
            fs::create_dir(&own).expect("made");
            chown(&own, Some(UID), Some(UID)).expect("given");
            fs::set_permissions(&own, fs::Permissions::from_mode(0o700)).expect("closed");
        }
        home
    }

    pub fn path(&self) -> PathBuf {
        self.dir.path().join("home")
    }

    pub fn runtime_dir(&self) -> PathBuf {
        self.dir.path().join("run")
    }

    pub fn cache(&self) -> PathBuf {
        self.dir.path().join("cache")
    }
}

/// The user on a machine that has this for them.
pub struct User<'home> {
    home: &'home Home,
    session: Session,
    mounts: OwnedFd,
    programs: PathBuf,
}

impl<'home> User<'home> {
    pub fn new(home: &'home Home, uidmap: Uidmap, session: Session) -> User<'home> {
        let programs = home.dir.path().join("uidmap");
        fs::create_dir_all(&programs).expect("made");
        let ground = home.dir.path().to_owned();
        let mounts = std::thread::scope(|scope| {
            scope.spawn(|| furnish(&ground, &programs, uidmap)).join().expect("it does not panic")
        });
        User { home, session, mounts: mounts.expect("a mount namespace"), programs }
    }

    /// A command of theirs, in their home.
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new(program);
        let usual = "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin";
        command.env_clear().env("PATH", format!("{}:{usual}", self.programs.display())).env("HOME", self.home.path());
        command.env("XDG_CACHE_HOME", self.home.cache()).env("PORTOLAN_DEB_BIN", deb_bin());
        if self.session == Session::Login {
            command.env("XDG_RUNTIME_DIR", self.home.runtime_dir());
        }
        command.stdin(Stdio::null());
        let (mounts, home) = (self.mounts.try_clone().expect("a descriptor"), self.home.path());
        // SAFETY: system calls only, in a forked process with one thread.
        unsafe { command.pre_exec(move || become_user(&mounts, &home)) };
        command
    }

    pub fn portolan(&self, args: &str) -> Said {
        let mut command = self.command(env!("CARGO_BIN_EXE_portolan"));
        command.args(args.split_whitespace()).output().expect("portolan runs").into()
    }

    pub fn sh(&self, script: &str) -> Said {
        self.command("sh").args(["-c", script]).output().expect("sh runs").into()
    }

    /// Where their labs' folders are, as they see it.
    pub fn labs(&self) -> PathBuf {
        match self.session {
            Session::Login => self.home.runtime_dir().join("portolan/labs"),
            Session::Bare => PathBuf::from(format!("/tmp/portolan-{UID}/labs")),
        }
    }
}

impl Drop for User<'_> {
    /// A lab that a failed test left would be in the way of all others.
    fn drop(&mut self) {
        self.portolan("down --all");
    }
}

fn become_user(mounts: &OwnedFd, home: &Path) -> io::Result<()> {
    rustix::thread::move_into_link_name_space(
        std::os::fd::AsFd::as_fd(mounts),
        Some(rustix::thread::LinkNameSpaceType::Mount),
    )?;
    // SAFETY: plain numbers and a null pointer with a length of zero.
    unsafe {
        if libc::setgroups(0, std::ptr::null()) != 0 || libc::setgid(UID) != 0 || libc::setuid(UID) != 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(rustix::process::chdir(home)?)
}

/// On a thread of its own: the mount namespace it leaves behind.
fn furnish(ground: &Path, programs: &Path, uidmap: Uidmap) -> io::Result<OwnedFd> {
    // SAFETY: the thread ends after this and shares no state that unsharing could split unseen.
    unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNS) }?;
    mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)?;
    let exe = Path::new(env!("CARGO_BIN_EXE_portolan")).parent().expect("it is in a folder").to_owned();
    // The wrappers of Debian's programs name the folder they were made for.
    let debian = deb_bin().canonicalize()?.parent().expect("bin is in a folder").to_owned();
    make_reachable(&[ground.to_owned(), exe, deb_bin().parent().expect("as above").to_owned(), debian.clone()])?;
    // Without a name or a line: /etc has no mounts then, as for most users.
    if uidmap != Uidmap::Nothing {
        bind_accounts(ground, uidmap)?;
        tmpfs(programs, "mode=755")?;
        let mode = if uidmap == Uidmap::NotSetuid { 0o755 } else { 0o4755 };
        for name in ["newuidmap", "newgidmap"] {
            fs::copy(debian.join("root/usr/bin").join(name), programs.join(name))?;
            fs::set_permissions(programs.join(name), fs::Permissions::from_mode(mode))?;
        }
    }
    Ok(fs::File::open("/proc/thread-self/ns/mnt")?.into())
}

/// Puts an empty folder over each one on the way that the user may not enter, and over /tmp, and what is needed in it.
fn make_reachable(needed: &[PathBuf]) -> io::Result<()> {
    let mut covered: Vec<PathBuf> = vec!["/tmp".into()];
    for path in needed {
        let closed = |dir: &&Path| fs::metadata(dir).is_ok_and(|found| found.permissions().mode() & 0o001 == 0);
        let mut way: Vec<&Path> = path.ancestors().collect();
        way.reverse();
        covered.extend(way.iter().find(|dir| closed(dir)).map(|dir| dir.to_path_buf()));
    }
    let hold = |path: &PathBuf| {
        let fd = rustix::fs::open(path, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
        Ok((path.clone(), fd))
    };
    let hidden = needed.iter().filter(|path| covered.iter().any(|dir| path.starts_with(dir)));
    let held = hidden.map(hold).collect::<io::Result<Vec<(PathBuf, OwnedFd)>>>()?;
    for dir in &covered {
        tmpfs(dir, if dir == Path::new("/tmp") { "mode=1777" } else { "mode=755" })?;
    }
    for (path, fd) in held {
        fs::create_dir_all(&path)?;
        mount_bind_recursive(format!("/proc/thread-self/fd/{}", fd.as_raw_fd()), &path)?;
    }
    Ok(())
}

fn bind_accounts(ground: &Path, uidmap: Uidmap) -> io::Result<()> {
    let passwd = fs::read_to_string("/etc/passwd")? + &format!("{NAME}:x:{UID}:{UID}::/nonexistent:/bin/sh\n");
    let has_lines = matches!(uidmap, Uidmap::Whole | Uidmap::NotSetuid);
    let lines = if has_lines { format!("{NAME}:{SUBORDINATE}:{COUNT}\n") } else { String::new() };
    for (name, text) in [("passwd", &passwd), ("subuid", &lines), ("subgid", &lines)] {
        let (own, there) = (ground.join(format!("{name}-{uidmap:?}")), Path::new("/etc").join(name));
        fs::write(&own, text)?;
        fs::set_permissions(&own, fs::Permissions::from_mode(0o644))?;
        if there.exists() {
            mount_bind_recursive(&own, &there)?;
        } else if !text.is_empty() {
            return Err(io::Error::other(format!("{} is not there to be covered", there.display())));
        }
    }
    Ok(())
}

fn tmpfs(path: &Path, options: &str) -> io::Result<()> {
    let options = std::ffi::CString::new(options).expect("no zero byte in it");
    Ok(mount("tmpfs", path, "tmpfs", MountFlags::empty(), options.as_c_str())?)
}
