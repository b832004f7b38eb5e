//! What a shim knows, as it stands in `state.json` and on the wire: enough for an agent that just started.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::ident::PodIdent;

/// Version of `state.json`.
pub const STATE_VERSION: u32 = 1;

/// A process, told from a later one with the same pid by its start time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessId {
    pub pid: i32,
    /// Field 22 of /proc/PID/stat, in clock ticks since boot.
    pub start_ticks: u64,
}

impl ProcessId {
    /// Looks up a running process.
    pub fn of(pid: i32) -> Option<Self> {
        let start_ticks = start_ticks(pid)?;
        Some(Self { pid, start_ticks })
    }

    /// Whether that very process still exists and is no zombie.
    pub fn is_alive(&self) -> bool {
        start_ticks(self.pid) == Some(self.start_ticks)
    }

    /// Signals it, unless the pid belongs to another by now.
    pub fn signal(&self, signal: i32) -> bool {
        // SAFETY: kill takes plain numbers.
        self.is_alive() && unsafe { libc::kill(self.pid, signal) } == 0
    }
}

fn start_ticks(pid: i32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The command name may hold anything, so count from its closing bracket.
    let rest = &stat[stat.rfind(')')? + 2..];
    let mut fields = rest.split(' ');
    let is_zombie = matches!(fields.next()?, "Z" | "X");
    (!is_zombie).then(|| fields.nth(18)?.parse().ok()).flatten()
}

/// All of a pod's facts that outlive an agent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PodState {
    pub version: u32,
    pub pod: PodIdent,
    pub shim: ProcessId,
    /// Counts this shim's changes, so that a state heard late is known as old.
    pub generation: u64,
    /// `None` before it is made and after it died.
    pub sandbox: Option<ProcessId>,
    /// The agent's own notes, as the pod's addresses.
    pub notes: BTreeMap<String, String>,
    /// The last two runs of each container, oldest first.
    pub runs: Vec<Run>,
}

/// One run of one container.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Run {
    pub name: String,
    pub attempt: u32,
    pub streak: u32,
    /// Unique in the pod: name and attempt.
    pub id: String,
    /// Init of the container; `None` if it never ran.
    pub process: Option<ProcessId>,
    pub started_at: Timestamp,
    pub ended: Option<Ended>,
    pub image: String,
    pub image_id: String,
    pub stop_signal: i32,
    pub log: PathBuf,
}

/// How a run ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ended {
    pub at: Timestamp,
    /// 128+n if killed by signal n; 128 if it never started.
    pub exit_code: i32,
    pub signal: Option<i32>,
    /// `Completed`, `Error`, `OOMKilled`, `StartError`.
    pub reason: String,
    pub message: Option<String>,
}

impl PodState {
    /// The file in a pod's folder.
    pub fn path(dir: &Path) -> PathBuf {
        dir.join("state.json")
    }

    /// Reads it; `None` if there is none or it is of another version.
    pub fn load(dir: &Path) -> Option<Self> {
        let state: Self = serde_json::from_slice(&fs::read(Self::path(dir)).ok()?).ok()?;
        (state.version == STATE_VERSION).then_some(state)
    }

    /// Replaces the file at once.
    pub fn save(&self, dir: &Path) -> std::io::Result<()> {
        let work = dir.join("state.json.new");
        let bytes = serde_json::to_vec(self).expect("our documents have text keys only");
        fs::write(&work, bytes)?;
        fs::rename(work, Self::path(dir))
    }

    /// The newest run of a container.
    pub fn last_run(&self, name: &str) -> Option<&Run> {
        self.runs.iter().rev().find(|run| run.name == name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_is_alive_and_a_later_namesake_is_not_it() {
        let own = ProcessId::of(std::process::id() as i32).expect("we run");
        assert!(own.is_alive());
        let later = ProcessId { start_ticks: own.start_ticks + 1, ..own };
        assert!(!later.is_alive());
        assert!(!later.signal(0));
    }
}
