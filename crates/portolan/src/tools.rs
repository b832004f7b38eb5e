//! Programs of others that commands run: found on PATH, never installed.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::failure::Failure;

/// The oldest kubectl that speaks WebSocket for `exec`, `attach` and `port-forward` of itself (KEP-4006).
const OLDEST_GOOD_MINOR: u32 = 31;

/// A kubectl that was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kubectl {
    /// Where.
    pub path: PathBuf,
    minor: u32,
}

impl Kubectl {
    /// The one on PATH if it is new enough, else the one that `make deps` fetched.
    ///
    /// # Errors
    /// There is neither.
    pub fn find() -> Result<Self, Failure> {
        let on_path = find("kubectl").and_then(Self::at);
        let fetched = deb_bin().and_then(|dir| Self::at(dir.join("kubectl")));
        Self::choose(on_path, fetched).map_err(Failure::machine)
    }

    fn choose(on_path: Option<Self>, fetched: Option<Self>) -> Result<Self, String> {
        let way_out = format!("install kubectl 1.{OLDEST_GOOD_MINOR} or newer, or run `make deps`");
        let found = on_path.as_ref().map(|old| old.minor);
        let good = on_path.into_iter().chain(fetched).find(|kubectl| kubectl.minor >= OLDEST_GOOD_MINOR);
        good.ok_or_else(|| match found {
            Some(minor) => format!("kubectl on PATH is 1.{minor}, whose exec speaks no WebSocket; {way_out}"),
            None => format!("kubectl is not on PATH; {way_out}"),
        })
    }

    fn at(path: PathBuf) -> Option<Self> {
        let minor = minor_version(&path)?;
        Some(Self { path, minor })
    }

    /// The command.
    pub fn command(&self) -> Command {
        Command::new(&self.path)
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

#[cfg(test)]
mod tests {
    use super::*;

    fn kubectl(path: &str, minor: u32) -> Option<Kubectl> {
        Some(Kubectl { path: path.into(), minor })
    }

    #[test]
    fn kubectl_on_path_is_taken_if_new_enough_else_the_fetched_one() {
        assert_eq!(Kubectl::choose(kubectl("mine", 31), kubectl("fetched", 32)).ok(), kubectl("mine", 31));
        assert_eq!(Kubectl::choose(kubectl("mine", 30), kubectl("fetched", 32)).ok(), kubectl("fetched", 32));
        assert_eq!(Kubectl::choose(None, kubectl("fetched", 32)).ok(), kubectl("fetched", 32));
        let old = Kubectl::choose(kubectl("mine", 20), None).expect_err("too old");
        assert!(old.contains("is 1.20") && old.contains("make deps"), "{old}");
        assert!(Kubectl::choose(None, None).expect_err("none").contains("not on PATH"));
    }
}
