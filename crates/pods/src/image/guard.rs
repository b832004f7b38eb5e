//! Locks of the store: what is being written and what is in use is not cleared away.
//!
//! ```text
//!  import, pull, build ─ shared ───► writers ◄─── exclusive, or later ─ collect
//!  running container ─── shared ───► unpacked/<digest> ◄─── exclusive, or not at all ─ collect, rm
//! ```
//!
//! The kernel lets go of a lock (flock(2)) when its process ends, however that ends; and it holds between processes
//! of any namespaces.

use std::fs::File;
use std::os::fd::AsFd;
use std::path::Path;

use rustix::fs::FlockOperation;

use super::ImageError;

/// While it lives, nothing of the store is collected.
#[derive(Debug)]
pub struct Writing(#[allow(dead_code, reason = "held for its lock")] File);

impl Writing {
    pub(super) fn begin(lock: &Path) -> Result<Self, ImageError> {
        let file = open(lock)?;
        rustix::fs::flock(file.as_fd(), FlockOperation::LockShared).map_err(lock_error(lock))?;
        Ok(Self(file))
    }

    /// Everybody's turn to write is over; `None` while somebody writes.
    pub(super) fn exclude(lock: &Path) -> Result<Option<File>, ImageError> {
        let file = open(lock)?;
        Ok(try_exclusive(&file).map_err(lock_error(lock))?.then_some(file))
    }
}

/// While it lives, the unpacked image stays: held by who runs a container of it.
#[derive(Debug)]
pub struct InUse(#[allow(dead_code, reason = "held for its lock")] File);

impl InUse {
    /// Marks the unpacked image at `rootfs` as used by this process.
    ///
    /// # Errors
    /// It is not there.
    pub fn mark(rootfs: &Path) -> std::io::Result<Self> {
        let directory = File::open(rootfs)?;
        rustix::fs::flock(directory.as_fd(), FlockOperation::LockShared)?;
        Ok(Self(directory))
    }

    /// Whether some process uses it.
    pub(super) fn is_marked(rootfs: &Path) -> bool {
        let Ok(directory) = File::open(rootfs) else { return false };
        !try_exclusive(&directory).unwrap_or(true)
    }
}

/// False if another holds it.
fn try_exclusive(file: &File) -> rustix::io::Result<bool> {
    match rustix::fs::flock(file.as_fd(), FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(true),
        Err(rustix::io::Errno::WOULDBLOCK) => Ok(false),
        Err(error) => Err(error),
    }
}

fn open(lock: &Path) -> Result<File, ImageError> {
    File::create(lock).map_err(ImageError::io("create", lock))
}

fn lock_error(lock: &Path) -> impl FnOnce(rustix::io::Errno) -> ImageError {
    move |errno| ImageError::io("lock", lock)(errno.into())
}
