//! Programs of others that commands run: found on PATH, never installed.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::failure::Failure;

/// The oldest kubectl whose requests the API server knows.
const OLDEST_KUBECTL_MINOR: u32 = 28;

/// The kubectl to use: the one on PATH if it is new enough, else the one `make` fetched, and then what it cannot do
/// is said.
pub fn kubectl() -> Result<String, Failure> {
    if let Some(path) = find("kubectl")
        && minor_version(&path).is_some_and(|minor| minor >= OLDEST_KUBECTL_MINOR)
    {
        return Ok(path.to_string_lossy().into_owned());
    }
    let fetched = deb_bin().map(|dir| dir.join("kubectl")).filter(|p| p.exists());
    match fetched.or_else(|| find("kubectl")) {
        Some(path) => {
            eprintln!(
                "portolan: {} is older than 1.{OLDEST_KUBECTL_MINOR}: its `exec` speaks SPDY, which this API server does not",
                path.display()
            );
            Ok(path.to_string_lossy().into_owned())
        }
        None => Err(Failure::machine("kubectl is not on PATH; install kubectl 1.28 or newer, or run `make deps`")),
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
