//! One layer onto a directory: tar (plain, gzip, zstd) with whiteouts, never outside the directory.
//!
//! Every path is opened by `openat2` with `RESOLVE_IN_ROOT`, so a symlink in the image, or in an
//! earlier entry of the same hostile tar, leads nowhere else. Spec: OCI image-spec `layer.md`.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::io::{BufRead, BufReader, Read};
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Component, Path, PathBuf};

use rustix::fs::{AtFlags, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;
use sha2::{Digest, Sha256};

use super::ImageError;
use super::owners::{Owner, Owners};
use super::zstd::Frames;

const WHITEOUT: &str = ".wh.";
const OPAQUE: &str = ".wh..wh..opq";

/// Unpacks `stream` over `root` and returns the `sha256:…` of the uncompressed tar.
pub fn apply(stream: impl Read, root: &Path) -> Result<String, ImageError> {
    apply_noting(stream, root, &mut Owners::for_this_process())
}

/// The same; what the files on disk cannot say of their owners goes to `owners`.
pub fn apply_noting(stream: impl Read, root: &Path, owners: &mut Owners) -> Result<String, ImageError> {
    let tar = Hashing::new(decompress(BufReader::new(stream))?);
    let mut layer = Layer::open(root, owners)?;
    let mut archive = tar::Archive::new(tar);
    let entries = archive.entries().map_err(ImageError::io("read layer for", root))?;
    for entry in entries {
        layer.entry(entry.map_err(ImageError::io("read layer for", root))?)?;
    }
    let mut tar = archive.into_inner();
    std::io::copy(&mut tar, &mut std::io::sink()).map_err(ImageError::io("read layer for", root))?;
    Ok(tar.finish())
}

/// Opens a file of an unpacked tree as if `root` were `/`.
pub fn open_inside(root: &Path, path: &Path) -> Result<std::fs::File, ImageError> {
    let dir = open_root(root)?;
    let file = rustix::fs::openat2(
        &dir,
        path.strip_prefix("/").unwrap_or(path),
        OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK,
        Mode::empty(),
        ResolveFlags::IN_ROOT,
    )
    .map_err(|errno| ImageError::io("open", root.join(path))(errno.into()))?;
    Ok(file.into())
}

fn open_root(root: &Path) -> Result<OwnedFd, ImageError> {
    rustix::fs::open(root, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
        .map_err(|errno| ImageError::io("open", root)(errno.into()))
}

fn decompress<'stream>(mut stream: impl BufRead + 'stream) -> Result<Box<dyn Read + 'stream>, ImageError> {
    let magic = stream.fill_buf().map_err(ImageError::io("read", "layer"))?;
    if magic.starts_with(&[0x1f, 0x8b]) {
        return Ok(Box::new(flate2::bufread::MultiGzDecoder::new(stream)));
    }
    if magic.starts_with(&[0x28, 0xb5, 0x2f, 0xfd]) {
        return Ok(Box::new(Frames::new(stream)));
    }
    Ok(Box::new(stream))
}

/// Hashes what passes.
struct Hashing<R> {
    inner: R,
    hash: Sha256,
}

impl<R> Hashing<R> {
    fn new(inner: R) -> Self {
        Self { inner, hash: Sha256::new() }
    }

    fn finish(self) -> String {
        digest_name(&self.hash.finalize())
    }
}

impl<R: Read> Read for Hashing<R> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let count = self.inner.read(buffer)?;
        self.hash.update(&buffer[..count]);
        Ok(count)
    }
}

/// `sha256:` and lower-case hexadecimal.
pub fn digest_name(hash: &[u8]) -> String {
    use std::fmt::Write as _;
    let mut name = String::from("sha256:");
    for byte in hash {
        write!(name, "{byte:02x}").expect("writing to a String cannot fail");
    }
    name
}

/// One layer's run over a root; remembers what it wrote, for whiteouts touch only lower layers.
struct Layer<'owners> {
    root: OwnedFd,
    written: BTreeSet<PathBuf>,
    owners: &'owners mut Owners,
}

impl<'owners> Layer<'owners> {
    fn open(root: &Path, owners: &'owners mut Owners) -> Result<Self, ImageError> {
        Ok(Self { root: open_root(root)?, written: BTreeSet::new(), owners })
    }

    fn entry<R: Read>(&mut self, mut entry: tar::Entry<'_, R>) -> Result<(), ImageError> {
        let raw = entry.path().map_err(|error| refuse("?", error.to_string()))?.into_owned();
        let path = plain_path(&raw)?;
        let Some(name) = path.file_name().map(OsStr::to_owned) else {
            return Ok(()); // the root itself
        };
        let parent_path = path.parent().unwrap_or(Path::new("")).to_path_buf();
        let parent = self.directory(&parent_path)?;
        let text = name.to_string_lossy().into_owned();
        if text == OPAQUE {
            return self.clear_lower(&parent, &parent_path);
        }
        if let Some(hidden) = text.strip_prefix(WHITEOUT) {
            if hidden.is_empty() || hidden == "." || hidden == ".." {
                return Err(refuse(&raw, "a whiteout of no name"));
            }
            return self.remove_lower(&parent, &parent_path.join(hidden), OsStr::new(hidden));
        }
        self.write(&mut entry, &parent, &name).map_err(|error| match error {
            WriteError::Io(error) => refuse(&raw, error.to_string()),
            WriteError::Refused(error) => error,
        })?;
        self.note_owner(&entry, &path).map_err(|error| refuse(&raw, error.to_string()))?;
        self.remember(&path);
        Ok(())
    }

    fn note_owner<R: Read>(&mut self, entry: &tar::Entry<'_, R>, path: &Path) -> std::io::Result<()> {
        let header = entry.header();
        if header.entry_type() == tar::EntryType::Link {
            return Ok(()); // it has what its target has
        }
        let owner = Owner { uid: header.uid()? as u32, gid: header.gid()? as u32, mode: header.mode()? & 0o7777 };
        self.owners.note(path, owner, header.entry_type() == tar::EntryType::Directory);
        Ok(())
    }

    fn remember(&mut self, path: &Path) {
        for ancestor in path.ancestors().filter(|part| !part.as_os_str().is_empty()) {
            if !self.written.insert(ancestor.to_path_buf()) {
                return;
            }
        }
    }

    /// The directory at `path`, made if missing; symlinks resolve within the root.
    fn directory(&self, path: &Path) -> Result<OwnedFd, ImageError> {
        let at = if path.as_os_str().is_empty() { Path::new(".") } else { path };
        let open = || {
            rustix::fs::openat2(
                &self.root,
                at,
                OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
                Mode::empty(),
                ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS,
            )
        };
        match (open(), path.parent(), path.file_name()) {
            (Ok(directory), ..) => Ok(directory),
            (Err(Errno::NOENT), Some(parent), Some(name)) => {
                let above = self.directory(parent)?;
                rustix::fs::mkdirat(&above, name, Mode::from_raw_mode(0o755))
                    .map_err(|errno| refuse(path, errno.to_string()))?;
                open().map_err(|errno| refuse(path, errno.to_string()))
            }
            (Err(errno), ..) => Err(refuse(path, errno.to_string())),
        }
    }

    fn write<R: Read>(&self, entry: &mut tar::Entry<'_, R>, parent: &OwnedFd, name: &OsStr) -> Result<(), WriteError> {
        let kind = entry.header().entry_type();
        let mode = Mode::from_raw_mode(entry.header().mode()? & 0o7777);
        if kind == tar::EntryType::Directory {
            self.make_directory(parent, name)?;
        } else {
            remove_at(parent, name)?;
        }
        match kind {
            tar::EntryType::Directory => {}
            tar::EntryType::Regular | tar::EntryType::Continuous | tar::EntryType::GNUSparse => {
                let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                let file = rustix::fs::openat(parent, name, flags, Mode::from_raw_mode(0o600))?;
                std::io::copy(entry, &mut std::fs::File::from(file))?;
            }
            tar::EntryType::Symlink => {
                let target = link_target(entry)?;
                rustix::fs::symlinkat(&target, parent, name)?;
            }
            tar::EntryType::Link => return self.hard_link(&link_target(entry)?, parent, name),
            tar::EntryType::Fifo => {
                rustix::fs::mknodat(parent, name, rustix::fs::FileType::Fifo, mode, 0)?;
            }
            // Nobody but the machine's own root may make one.
            tar::EntryType::Char | tar::EntryType::Block if !self.owners.are_set_at_once() => return Ok(()),
            tar::EntryType::Char | tar::EntryType::Block => {
                make_device(entry.header(), parent, name, mode)?;
            }
            other => return Err(refuse(Path::new(name), format!("unknown entry type {other:?}")).into()),
        }
        let uid = rustix::fs::Uid::from_raw(entry.header().uid()? as u32);
        let gid = rustix::fs::Gid::from_raw(entry.header().gid()? as u32);
        if self.owners.are_set_at_once() {
            rustix::fs::chownat(parent, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)?;
        }
        if kind != tar::EntryType::Symlink {
            let on_disk = self.owners.mode_on_disk(mode, kind == tar::EntryType::Directory);
            rustix::fs::chmodat(parent, name, on_disk, AtFlags::empty())?;
        }
        set_xattrs(entry, parent, name)
    }

    fn make_directory(&self, parent: &OwnedFd, name: &OsStr) -> Result<(), WriteError> {
        match rustix::fs::mkdirat(parent, name, Mode::from_raw_mode(0o755)) {
            Ok(()) => return Ok(()),
            Err(Errno::EXIST) => {}
            Err(errno) => return Err(errno.into()),
        }
        let old = rustix::fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW)?;
        if rustix::fs::FileType::from_raw_mode(old.st_mode) == rustix::fs::FileType::Directory {
            return Ok(());
        }
        remove_at(parent, name)?;
        Ok(rustix::fs::mkdirat(parent, name, Mode::from_raw_mode(0o755))?)
    }

    fn hard_link(&self, target: &Path, parent: &OwnedFd, name: &OsStr) -> Result<(), WriteError> {
        let target = plain_path(target)?;
        let Some(target_name) = target.file_name() else {
            return Err(refuse(&target, "a hard link to the root").into());
        };
        let from = self.directory(target.parent().unwrap_or(Path::new("")))?;
        Ok(rustix::fs::linkat(&from, target_name, parent, name, AtFlags::empty())?)
    }

    fn remove_lower(&self, parent: &OwnedFd, path: &Path, name: &OsStr) -> Result<(), ImageError> {
        if self.written.contains(path) {
            return Ok(());
        }
        remove_at(parent, name).map_err(|error| refuse(path, error.to_string()))
    }

    /// Removes what lower layers left below `directory`, keeping what this layer wrote already.
    fn clear_lower(&self, directory: &OwnedFd, path: &Path) -> Result<(), ImageError> {
        let listing = std::fs::read_dir(proc_path(directory)).map_err(|error| refuse(path, error.to_string()))?;
        for child in listing.filter_map(Result::ok) {
            let child_path = path.join(child.file_name());
            let is_directory = child.file_type().is_ok_and(|kind| kind.is_dir());
            if !self.written.contains(&child_path) {
                remove_at(directory, &child.file_name()).map_err(|error| refuse(&child_path, error.to_string()))?;
            } else if is_directory {
                self.clear_lower(&self.directory(&child_path)?, &child_path)?;
            }
        }
        Ok(())
    }
}

enum WriteError {
    Io(std::io::Error),
    Refused(ImageError),
}

impl From<std::io::Error> for WriteError {
    fn from(error: std::io::Error) -> Self {
        Self::Io(error)
    }
}

impl From<Errno> for WriteError {
    fn from(errno: Errno) -> Self {
        Self::Io(errno.into())
    }
}

impl From<ImageError> for WriteError {
    fn from(error: ImageError) -> Self {
        Self::Refused(error)
    }
}

fn refuse(entry: impl AsRef<Path>, reason: impl Into<String>) -> ImageError {
    ImageError::Layer { entry: entry.as_ref().display().to_string(), reason: reason.into() }
}

/// The path relative to the root, without `.`; one with `..` is refused.
fn plain_path(path: &Path) -> Result<PathBuf, ImageError> {
    let mut plain = PathBuf::new();
    for part in path.components() {
        match part {
            Component::Normal(name) => plain.push(name),
            Component::RootDir | Component::CurDir => {}
            Component::ParentDir | Component::Prefix(_) => {
                return Err(refuse(path, "the path leaves the image"));
            }
        }
    }
    Ok(plain)
}

fn link_target<R: Read>(entry: &tar::Entry<'_, R>) -> Result<PathBuf, WriteError> {
    let target = entry.link_name()?;
    Ok(target.map(|target| target.into_owned()).unwrap_or_default())
}

fn make_device(header: &tar::Header, parent: &OwnedFd, name: &OsStr, mode: Mode) -> Result<(), WriteError> {
    let kind = if header.entry_type() == tar::EntryType::Char {
        rustix::fs::FileType::CharacterDevice
    } else {
        rustix::fs::FileType::BlockDevice
    };
    let device = rustix::fs::makedev(header.device_major()?.unwrap_or(0), header.device_minor()?.unwrap_or(0));
    Ok(rustix::fs::mknodat(parent, name, kind, mode, device)?)
}

/// Extended attributes from PAX records, file capabilities above all.
fn set_xattrs<R: Read>(entry: &mut tar::Entry<'_, R>, parent: &OwnedFd, name: &OsStr) -> Result<(), WriteError> {
    let Some(records) = entry.pax_extensions()? else {
        return Ok(());
    };
    for record in records {
        let record = record?;
        let Some(key) = record.key().ok().and_then(|key| key.strip_prefix("SCHILY.xattr.")) else {
            continue;
        };
        if key != "security.capability" && !key.starts_with("user.") {
            continue;
        }
        let path = proc_path(parent).join(name);
        match rustix::fs::lsetxattr(&path, key, record.value_bytes(), rustix::fs::XattrFlags::empty()) {
            Ok(()) | Err(Errno::NOTSUP | Errno::PERM) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
    Ok(())
}

fn proc_path(directory: &OwnedFd) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", directory.as_raw_fd()))
}

fn remove_at(parent: &OwnedFd, name: &OsStr) -> std::io::Result<()> {
    match rustix::fs::unlinkat(parent, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(Errno::ISDIR) => std::fs::remove_dir_all(proc_path(parent).join(name)),
        Err(errno) => Err(errno.into()),
    }
}

#[cfg(test)]
#[path = "layer_tests.rs"]
mod tests;
