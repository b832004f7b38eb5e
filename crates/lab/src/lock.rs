//! A lab's name belongs to whoever holds the lock beside its folder.
//!
//! The kernel frees a lock when its last holder dies, however it dies: so the lock, not a pid or a
//! folder, says whether a lab is up.

use std::fs::{self, File, OpenOptions};
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};

use crate::error::{LabError, file, system};
use crate::ground;

/// `FOLDER.lock`
pub(crate) fn path(state_dir: &Path) -> PathBuf {
    let mut name = state_dir.as_os_str().to_owned();
    name.push(".lock");
    PathBuf::from(name)
}

/// Takes the lock; `None` if another holds it.
pub(crate) fn take(state_dir: &Path) -> Result<Option<File>, LabError> {
    let path = path(state_dir);
    let parent = path.parent().expect("a lock is in a folder");
    ground::make(parent)?;
    loop {
        let open = OpenOptions::new().create(true).truncate(false).write(true).open(&path);
        let lock = open.map_err(file("cannot open the lock", &path))?;
        match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => return Ok(None),
            Err(error) => return Err(system(format!("cannot lock {}", path.display()))(error)),
        }
        // The holder before us removes the file: a lock on a removed file holds nothing.
        if is_the_file_at(&lock, &path) {
            return Ok(Some(lock));
        }
    }
}

/// Whether somebody holds the lock.
pub(crate) fn is_held(state_dir: &Path) -> bool {
    let Ok(lock) = File::open(path(state_dir)) else {
        return false;
    };
    flock(&lock, FlockOperation::NonBlockingLockShared) == Err(rustix::io::Errno::WOULDBLOCK)
}

/// Removes the lock's file, unless another's is there by now; to be called by its holder, last.
pub(crate) fn remove(lock: &impl AsFd, state_dir: &Path) {
    let path = path(state_dir);
    let held = lock.as_fd().try_clone_to_owned().map(File::from);
    if held.is_ok_and(|held| is_the_file_at(&held, &path)) {
        // Nothing to do about an error: the next taker uses the file that is there.
        let _ = fs::remove_file(path);
    }
}

fn is_the_file_at(lock: &File, path: &Path) -> bool {
    match (lock.metadata(), fs::metadata(path)) {
        (Ok(held), Ok(there)) => (held.dev(), held.ino()) == (there.dev(), there.ino()),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lock_is_held_once_and_free_when_its_holder_is_gone() {
        let dir = tempfile::tempdir().unwrap();
        let lab = dir.path().join("lab");
        assert!(!is_held(&lab));
        let first = take(&lab).unwrap();
        assert!(first.is_some() && is_held(&lab));
        assert!(take(&lab).unwrap().is_none());
        drop(first);
        assert!(!is_held(&lab));
        assert!(take(&lab).unwrap().is_some());
    }

    #[test]
    fn a_removed_lock_file_does_not_keep_the_next_from_taking_it() {
        let dir = tempfile::tempdir().unwrap();
        let lab = dir.path().join("lab");
        let first = take(&lab).unwrap().unwrap();
        remove(&first, &lab);
        let second = take(&lab).unwrap();
        assert!(second.is_some());
        remove(&first, &lab);
        assert!(take(&lab).unwrap().is_none(), "the first holder must not remove the second's file");
    }
}
