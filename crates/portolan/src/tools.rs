//! Programs of others that commands run: found on PATH, never installed.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::failure::Failure;

/// The oldest kubectl whose requests the API server knows well.
const OLDEST_GOOD_MINOR: u32 = 28;
/// The oldest kubectl whose `exec` speaks WebSocket (KEP-4006).
const OLDEST_EXEC_MINOR: u32 = 30;

/// A kubectl that was found.
#[derive(Clone, Debug)]
pub struct Kubectl {
    /// Where.
    pub path: PathBuf,
    minor: u32,
}

impl Kubectl {
    /// The one on PATH if it is new enough, else the one that `make deps` fetched, and then what it cannot do is said.
    ///
    /// # Errors
    /// There is none.
    pub fn find() -> Result<Self, Failure> {
        let on_path = find("kubectl").and_then(Self::at);
        if let Some(kubectl) = on_path.as_ref().filter(|k| k.minor >= OLDEST_GOOD_MINOR) {
            return Ok(kubectl.clone());
        }
        let fetched = deb_bin().and_then(|dir| Self::at(dir.join("kubectl")));
        let lacks = || Failure::machine("kubectl is not on PATH; install kubectl 1.30 or newer, or run `make deps`");
        let kubectl = on_path.or(fetched).ok_or_else(lacks)?;
        eprintln!("kubectl here is 1.{}: its exec speaks SPDY; `portolan exec` stands in for it", kubectl.minor);
        Ok(kubectl)
    }

    fn at(path: PathBuf) -> Option<Self> {
        let minor = minor_version(&path)?;
        Some(Self { path, minor })
    }

    /// Does its `exec` work with this API server?
    pub fn can_exec(&self) -> bool {
        self.minor >= OLDEST_EXEC_MINOR
    }

    /// The command, told to speak WebSocket where that is still a choice.
    pub fn command(&self) -> Command {
        let mut command = Command::new(&self.path);
        command.env("KUBECTL_REMOTE_COMMAND_WEBSOCKETS", "true");
        command
    }
}

fn minor_version(kubectl: &Path) -> Option<u32> {
    let out = Command::new(kubectl).args(["version", "--client", "-o", "json"]).output().ok()?;
    let version: serde_json::Value = serde_json::from_slice(&out.stdout).ok()?;
    let minor = version["clientVersion"]["minor"].as_str()?;
    minor.trim_end_matches(|c: char| !c.is_ascii_digit()).parse().ok()
}

/// `name` on PATH.
pub fn find(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|dir| dir.join(name)).find(|p| p.is_file())
}

/// Where `make deps` put wrappers of Debian's programs: `PORTOLAN_DEB_BIN`, else `deb/bin` beside the build.
pub fn deb_bin() -> Option<PathBuf> {
    if let Some(dir) = std::env::var_os("PORTOLAN_DEB_BIN") {
        return Some(PathBuf::from(dir)).filter(|dir| dir.is_dir());
    }
    let exe = std::env::current_exe().ok()?;
    exe.ancestors().map(|dir| dir.join("deb/bin")).find(|dir| dir.is_dir())
}
