//! Where labs keep their state, and that it is their user's alone.
//!
//! `/run/portolan/labs` for root; for others below `$XDG_RUNTIME_DIR`, or in a folder in /tmp. In /tmp anyone may make
//! that folder first, so it is looked at before anything is kept or looked for there.

use std::ffi::OsString;
use std::fs::{self, DirBuilder};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

use crate::error::{LabError, file};

/// The folder of labs' folders.
pub fn state_root() -> PathBuf {
    let uid = rustix::process::geteuid().as_raw();
    let offered = std::env::var_os("XDG_RUNTIME_DIR");
    // `su` hands on another user's.
    let is_own = |dir: &Path| fs::metadata(dir).is_ok_and(|found| found.is_dir() && found.uid() == uid);
    root_of(uid, offered.filter(|dir| is_own(Path::new(dir))))
}

/// `runtime_dir`: a folder of this user's, if there is one.
fn root_of(uid: u32, runtime_dir: Option<OsString>) -> PathBuf {
    let base = match runtime_dir {
        _ if uid == 0 => PathBuf::from("/run/portolan"),
        Some(dir) => PathBuf::from(dir).join("portolan"),
        None => in_tmp(uid),
    };
    base.join("labs")
}

fn in_tmp(uid: u32) -> PathBuf {
    PathBuf::from(format!("/tmp/portolan-{uid}"))
}

/// Makes the folder of labs.
pub(crate) fn make(root: &Path) -> Result<(), LabError> {
    let own = in_tmp(rustix::process::geteuid().as_raw());
    if root.starts_with(&own) {
        match DirBuilder::new().mode(0o700).create(&own) {
            Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => {
                return Err(file("cannot make the folder", &own)(error));
            }
            _ => check(root)?,
        }
    }
    fs::create_dir_all(root).map_err(file("cannot make the folder", root))
}

/// Refuses what is below a folder in /tmp that others made or may write to.
pub(crate) fn check(path: &Path) -> Result<(), LabError> {
    let uid = rustix::process::geteuid().as_raw();
    let own = in_tmp(uid);
    if !path.starts_with(&own) {
        return Ok(());
    }
    match fs::symlink_metadata(&own) {
        Ok(found) => complaint(uid, &found).map_or(Ok(()), |found| Err(LabError::NotOwn { path: own, found })),
        Err(_) => Ok(()), // nothing there is nobody's
    }
}

fn complaint(uid: u32, found: &fs::Metadata) -> Option<String> {
    if !found.is_dir() {
        return Some("it is no folder".into());
    }
    if found.uid() != uid {
        return Some(format!("it is of user {}", found.uid()));
    }
    (found.mode() & 0o077 != 0).then(|| format!("its mode is {:o}", found.mode() & 0o7777))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn root_users_and_users_without_a_runtime_folder_have_their_places() {
        let of = |uid, dir: Option<&str>| root_of(uid, dir.map(OsString::from)).display().to_string();
        assert_eq!(of(0, Some("/run/user/0")), "/run/portolan/labs");
        assert_eq!(of(1000, Some("/run/user/1000")), "/run/user/1000/portolan/labs");
        assert_eq!(of(1000, None), "/tmp/portolan-1000/labs");
    }

    #[test]
    fn a_folder_that_others_may_enter_or_own_or_that_is_a_link_is_not_ones_own() {
        let dir = tempfile::tempdir().unwrap();
        let own = dir.path().join("own");
        fs::create_dir(&own).unwrap();
        let uid = fs::metadata(&own).unwrap().uid();
        let said = |path: &Path, uid| complaint(uid, &fs::symlink_metadata(path).unwrap()).unwrap_or_default();
        fs::set_permissions(&own, fs::Permissions::from_mode(0o700)).unwrap();
        assert_eq!(said(&own, uid), "");
        assert!(said(&own, uid + 1).contains(&format!("of user {uid}")));
        fs::set_permissions(&own, fs::Permissions::from_mode(0o755)).unwrap();
        assert!(said(&own, uid).contains("mode is 755"));
        std::os::unix::fs::symlink(&own, dir.path().join("link")).unwrap();
        assert!(said(&dir.path().join("link"), uid).contains("no folder"));
    }
}
