//! A program in a terminal, with somebody at it who answers what it asks.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::process::{Command, ExitStatus, Stdio};

use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{Winsize, tcsetwinsize};

/// What the walk asks under `--pause`.
const QUESTION: &str = "[Enter goes on, q ends the walk]";

/// What was on the terminal, and how the program ended.
pub struct Shown {
    pub status: ExitStatus,
    pub text: String,
}

impl Shown {
    /// The text without colours. Panics at any other control sequence: nothing may move the cursor.
    pub fn plain(&self) -> String {
        let mut parts = self.text.split('\x1b');
        let mut plain = parts.next().unwrap_or_default().to_owned();
        for part in parts {
            let colour = part.strip_prefix('[').and_then(|rest| rest.split_once('m'));
            let (parameter, rest) = colour.unwrap_or_else(|| panic!("no colour: ESC{part:?}"));
            assert!(parameter.bytes().all(|b| b.is_ascii_digit()), "no colour: ESC{part:?}");
            plain += rest;
        }
        plain
    }

    pub fn questions(&self) -> usize {
        self.text.matches(QUESTION).count()
    }
}

/// Runs a command in a terminal of 80 columns; each question gets `answer`.
pub fn run(mut command: Command, answer: &str) -> Shown {
    let (ours, theirs) = pair();
    let end = |fd: &File| Stdio::from(fd.try_clone().expect("a descriptor"));
    command.stdin(end(&theirs)).stdout(end(&theirs)).stderr(end(&theirs)).env("TERM", "xterm");
    let mut child = command.spawn().expect("it starts");
    // The command holds ends of the terminal too; what is read ends when all are closed.
    drop((command, theirs));
    let text = talk(File::from(ours), answer);
    Shown { status: child.wait().expect("it ends"), text }
}

/// Both ends of a new terminal: ours, and the one that the program has.
fn pair() -> (OwnedFd, File) {
    let ours = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).expect("a terminal");
    grantpt(&ours).expect("a terminal of ours");
    unlockpt(&ours).expect("a terminal of ours");
    let name = ptsname(&ours, Vec::new()).expect("it has a name");
    let theirs = File::options().read(true).write(true).open(name.to_str().expect("ASCII")).expect("its other end");
    tcsetwinsize(&theirs, Winsize { ws_row: 24, ws_col: 80, ws_xpixel: 0, ws_ypixel: 0 }).expect("a size");
    (ours, theirs)
}

fn talk(mut terminal: File, answer: &str) -> String {
    let mut seen = Vec::new();
    let mut answered = 0;
    let mut chunk = [0; 4096];
    // Reading fails with EIO when nobody holds the other end any more.
    while let Ok(read) = terminal.read(&mut chunk) {
        seen.extend_from_slice(&chunk[..read]);
        let asked = String::from_utf8_lossy(&seen).matches(QUESTION).count();
        for _ in answered..asked {
            terminal.write_all(answer.as_bytes()).expect("it listens");
        }
        answered = asked;
    }
    String::from_utf8_lossy(&seen).replace("\r\n", "\n")
}
