//! Who owns what in an image, where its files on disk cannot say so.
//!
//! An ordinary user unpacks an image into files of their own, which they can delete again. Whose they are in the image
//! is written beside; in a lab with several uids the shim gives them away in the container's own layer, which is in
//! memory and goes with it.
//!
//! ```text
//!  STORE/unpacked/HEX/…      files of the user, folders enterable
//!  STORE/owners/HEX          "UID GID MODE PATH\0" …: what differs from 0, 0 and the mode on disk
//! ```

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, ResolveFlags, Uid};
use rustix::io::Errno;

use crate::ids::IdSpace;

/// Owner and mode of one file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Owner {
    pub uid: u32,
    pub gid: u32,
    pub mode: u32,
}

/// What is to be told beside the files, by path below the root.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Owners {
    told: BTreeMap<PathBuf, Owner>,
    /// Files get their owners as they are unpacked, so there is nothing to tell.
    at_once: bool,
}

impl Owners {
    /// As this process may unpack: only the machine's own root gives files away.
    pub fn for_this_process() -> Owners {
        let at_once = rustix::process::geteuid().is_root() && IdSpace::current() == IdSpace::Whole;
        Owners { told: BTreeMap::new(), at_once }
    }

    pub fn are_set_at_once(&self) -> bool {
        self.at_once
    }

    /// The mode a file gets on disk. Folders stay open to their user, who could not delete what is in them otherwise.
    pub fn mode_on_disk(&self, mode: Mode, is_folder: bool) -> Mode {
        if is_folder && !self.at_once { mode | Mode::RWXU } else { mode }
    }

    /// Remembers what the file at `path` should be. A later layer's word replaces an earlier one's.
    pub fn note(&mut self, path: &Path, owner: Owner, is_folder: bool) {
        if self.at_once {
            return;
        }
        let on_disk = self.mode_on_disk(Mode::from_raw_mode(owner.mode), is_folder).as_raw_mode();
        let is_plain = (owner.uid, owner.gid, owner.mode) == (0, 0, on_disk);
        if is_plain {
            self.told.remove(path);
        } else {
            self.told.insert(path.to_path_buf(), owner);
        }
    }

    /// Writes the file, if there is anything to tell.
    pub fn save(&self, path: &Path) -> io::Result<()> {
        if self.told.is_empty() {
            return Ok(());
        }
        let mut bytes = Vec::new();
        for (file, owner) in &self.told {
            bytes.extend(format!("{} {} {:o} ", owner.uid, owner.gid, owner.mode).into_bytes());
            bytes.extend(file.as_os_str().as_bytes());
            bytes.push(0);
        }
        fs::write(path, bytes)
    }

    /// What is told of an unpacked tree of a store.
    pub fn load(unpacked: &Path) -> io::Result<BTreeMap<PathBuf, Owner>> {
        let store = unpacked.parent().and_then(Path::parent);
        let (Some(store), Some(name)) = (store, unpacked.file_name()) else {
            return Ok(BTreeMap::new());
        };
        match fs::read(store.join("owners").join(name)) {
            Ok(bytes) => parse(&bytes).ok_or_else(|| io::Error::other("the image's list of owners is damaged")),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(BTreeMap::new()),
            Err(error) => Err(error),
        }
    }
}

fn parse(bytes: &[u8]) -> Option<BTreeMap<PathBuf, Owner>> {
    bytes.split(|byte| *byte == 0).filter(|row| !row.is_empty()).map(parse_row).collect()
}

fn parse_row(row: &[u8]) -> Option<(PathBuf, Owner)> {
    let mut words = row.splitn(4, |byte| *byte == b' ');
    let mut word = || words.next();
    let number = |word: &[u8], radix| u32::from_str_radix(std::str::from_utf8(word).ok()?, radix).ok();
    let owner = Owner { uid: number(word()?, 10)?, gid: number(word()?, 10)?, mode: number(word()?, 8)? };
    Some((PathBuf::from(std::ffi::OsString::from_vec(word()?.to_vec())), owner))
}

/// Gives the files below `root` to their owners. One that is not there, and an id that is not mapped, are passed over.
pub fn apply(told: &BTreeMap<PathBuf, Owner>, root: &Path) -> io::Result<()> {
    let root = rustix::fs::open(root, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    for (path, owner) in told {
        match give(&root, path, owner) {
            Ok(()) | Err(Errno::NOENT | Errno::NOTDIR | Errno::INVAL) => {}
            Err(errno) => return Err(io::Error::other(format!("{}: {errno}", path.display()))),
        }
    }
    Ok(())
}

fn give(root: &std::os::fd::OwnedFd, path: &Path, owner: &Owner) -> rustix::io::Result<()> {
    let name = path.file_name().unwrap_or(OsStr::new("."));
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    // A link in the image leads nowhere outside it.
    let parent = rustix::fs::openat2(root, parent, flags, Mode::empty(), ResolveFlags::IN_ROOT)?;
    let (uid, gid) = (Uid::from_raw(owner.uid), Gid::from_raw(owner.gid));
    rustix::fs::chownat(&parent, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)?;
    let found = rustix::fs::statat(&parent, name, AtFlags::SYMLINK_NOFOLLOW)?;
    if FileType::from_raw_mode(found.st_mode) == FileType::Symlink {
        return Ok(());
    }
    // After the change of owner, which takes set-uid bits away.
    rustix::fs::chmodat(&parent, name, Mode::from_raw_mode(owner.mode), AtFlags::empty())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;

    fn owner(uid: u32, gid: u32, mode: u32) -> Owner {
        Owner { uid, gid, mode }
    }

    #[test]
    fn what_is_noted_is_saved_loaded_and_given() {
        let store = tempfile::Builder::new().prefix("ptl-t-").tempdir().expect("a folder");
        let tree = store.path().join("unpacked/abc");
        for folder in ["unpacked/abc/data dir", "owners"] {
            fs::create_dir_all(store.path().join(folder)).expect("made");
        }
        fs::write(tree.join("data dir/file"), "").expect("written");
        std::os::unix::fs::symlink("/etc/passwd", tree.join("link")).expect("linked");
        let mut owners = Owners { told: BTreeMap::new(), at_once: false };
        owners.note(Path::new("plain"), owner(0, 0, 0o644), false);
        owners.note(Path::new("data dir"), owner(0, 0, 0o555), true);
        owners.note(Path::new("data dir/file"), owner(33, 44, 0o4711), false);
        owners.note(Path::new("link"), owner(33, 33, 0o777), false);
        owners.note(Path::new("gone"), owner(33, 33, 0o600), false);
        owners.note(Path::new("back"), owner(33, 33, 0o600), false);
        owners.note(Path::new("back"), owner(0, 0, 0o600), false);
        owners.save(&store.path().join("owners/abc")).expect("saved");
        let told = Owners::load(&tree).expect("loaded");
        let names: Vec<_> = told.keys().map(|path| path.display().to_string()).collect();
        assert_eq!(names, ["data dir", "data dir/file", "gone", "link"]);
        apply(&told, &tree).expect("given");
        let seen = |name: &str| {
            let found = fs::symlink_metadata(tree.join(name)).expect("there");
            (found.uid(), found.gid(), found.mode() & 0o7777)
        };
        assert_eq!(seen("data dir").2, 0o555);
        assert_eq!(seen("data dir/file"), (33, 44, 0o4711));
        assert_eq!((seen("link").0, fs::metadata("/etc/passwd").expect("there").uid()), (33, 0));
    }

    #[test]
    fn a_store_without_a_list_tells_nothing_and_a_damaged_one_is_an_error() {
        let store = tempfile::Builder::new().prefix("ptl-t-").tempdir().expect("a folder");
        let tree = store.path().join("unpacked/abc");
        assert!(Owners::load(&tree).expect("nothing").is_empty());
        fs::create_dir_all(store.path().join("owners")).expect("made");
        fs::write(store.path().join("owners/abc"), "33 33 x file\0").expect("written");
        assert!(Owners::load(&tree).is_err());
    }

    #[test]
    fn folders_stay_open_to_a_user_who_must_delete_them_again() {
        let as_user = Owners { told: BTreeMap::new(), at_once: false };
        let as_root = Owners { told: BTreeMap::new(), at_once: true };
        let mode = Mode::from_raw_mode(0o555);
        assert_eq!(as_user.mode_on_disk(mode, true).as_raw_mode(), 0o755);
        assert_eq!((as_user.mode_on_disk(mode, false), as_root.mode_on_disk(mode, true)), (mode, mode));
    }
}
