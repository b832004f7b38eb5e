//! kubectl as a user has it at a terminal, or with its standard files open for as long as the user likes.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rustix::pty::OpenptFlags;
use rustix::termios::{Winsize, tcsetwinsize};

use crate::support::wait_for;

/// Longer than anything here needs on a machine that does much else.
pub const LONG: u64 = 60;

/// What a program has written by now.
#[derive(Clone, Default)]
pub struct Heard(Arc<Mutex<Vec<u8>>>);

impl Heard {
    fn of(mut source: impl Read + Send + 'static) -> Heard {
        let heard = Heard::default();
        let all = heard.clone();
        std::thread::spawn(move || {
            let mut buffer = [0; 1 << 16];
            // A terminal whose program has ended says EIO.
            while let Ok(count @ 1..) = source.read(&mut buffer) {
                all.0.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(&buffer[..count]);
            }
        });
        heard
    }

    pub fn bytes(&self) -> Vec<u8> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Waits until exactly this was heard.
    #[track_caller]
    pub fn until_bytes(&self, wanted: &[u8]) {
        wait_for("all bytes", LONG, || (self.bytes().len() >= wanted.len()).then_some(()));
        assert!(self.bytes() == wanted, "other bytes were heard");
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.bytes()).into_owned()
    }

    /// Waits until this was heard.
    #[track_caller]
    pub fn until(&self, wanted: &str) {
        let until = std::time::Instant::now() + Duration::from_secs(LONG);
        while !self.text().contains(wanted) {
            assert!(std::time::Instant::now() < until, "waited in vain for {wanted:?}; heard {:?}", self.text());
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

/// A program that runs; killed when dropped.
pub struct Running {
    child: Child,
    pub stdin: Option<ChildStdin>,
    pub out: Heard,
    pub err: Heard,
}

impl Running {
    pub fn start(mut command: Command) -> Running {
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("it starts");
        let out = Heard::of(child.stdout.take().expect("piped"));
        let err = Heard::of(child.stderr.take().expect("piped"));
        Running { stdin: child.stdin.take(), child, out, err }
    }

    pub fn say(&mut self, text: &str) {
        self.stdin.as_mut().expect("it is open").write_all(text.as_bytes()).expect("it reads");
    }

    /// Waits for its end.
    #[track_caller]
    pub fn end(&mut self) -> ExitStatus {
        wait_for("its end", LONG, || self.child.try_wait().expect("our child"))
    }

    pub fn kill(mut self) {
        self.stop();
    }

    fn stop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.stop();
    }
}

/// A program at a terminal of its own, 80 columns wide and 24 rows high at first.
pub struct Terminal {
    near: File,
    child: Child,
    pub heard: Heard,
}

impl Terminal {
    pub fn start(mut command: Command) -> Terminal {
        let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
        let near = rustix::pty::openpt(flags).expect("a terminal");
        rustix::pty::unlockpt(&near).expect("unlocked");
        let far = rustix::pty::ioctl_tiocgptpeer(&near, flags).expect("its other end");
        set_size(&near, 80, 24);
        let file = |far: &OwnedFd| Stdio::from(far.try_clone().expect("a copy"));
        command.stdin(file(&far)).stdout(file(&far)).stderr(file(&far));
        // SAFETY: two system calls on this process's own files.
        unsafe {
            command.pre_exec(|| {
                rustix::process::setsid()?;
                match libc::ioctl(0, libc::TIOCSCTTY, 0) {
                    0 => Ok(()),
                    _ => Err(std::io::Error::last_os_error()),
                }
            });
        }
        let child = command.spawn().expect("it starts");
        // The command holds copies of the far end.
        drop(command);
        drop(far);
        let near = File::from(near);
        let heard = Heard::of(near.try_clone().expect("a copy"));
        Terminal { near, child, heard }
    }

    /// Types this.
    pub fn say(&mut self, text: &str) {
        self.near.write_all(text.as_bytes()).expect("the terminal takes it");
    }

    /// Makes the window another size, which tells the programs in it.
    pub fn resize(&self, columns: u16, rows: u16) {
        set_size(&self.near, columns, rows);
    }

    #[track_caller]
    pub fn end(&mut self) -> ExitStatus {
        wait_for("its end", LONG, || self.child.try_wait().expect("our child"))
    }

    pub fn kill(mut self) {
        self.stop();
    }

    fn stop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        self.stop();
    }
}

fn set_size(terminal: impl AsFd, columns: u16, rows: u16) {
    let size = Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
    tcsetwinsize(terminal, size).expect("a terminal has a size");
}

/// Bytes in which a mistake shows: no two places of 8 bytes are alike. SplitMix64.
pub fn noise(count: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let next = move || {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (state ^ state >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        Some((mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb))
    };
    std::iter::from_fn(next).flat_map(u64::to_le_bytes).take(count).collect()
}
