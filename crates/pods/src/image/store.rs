//! The store: an OCI layout on disk and the unpacked images beside it, shared by all nodes of a machine.

use std::fs::{self, File};
use std::hash::{BuildHasher, Hasher, RandomState};
use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::fs::FlockOperation;
use serde::Serialize;
use serde::de::DeserializeOwned;
use sha2::{Digest, Sha256};

use super::documents::{
    ANNOTATION_CONTAINERD, ANNOTATION_REF, ConfigFile, Descriptor, Index, MEDIA_MANIFEST, Manifest,
};
use super::guard::{InUse, Writing};
use super::layer::{self, digest_name};
use super::owners::Owners;
use super::{Image, ImageError, ImageInfo, Reference};

/// A folder of images. Cheap to clone; every call reads the disk, so several processes may share it.
#[derive(Clone, Debug)]
pub struct Store {
    dir: PathBuf,
}

/// Its first number is drawn, for processes of several PID namespaces write here.
static NEXT_TEMPORARY: LazyLock<AtomicU64> =
    LazyLock::new(|| AtomicU64::new(RandomState::new().build_hasher().finish()));

impl Store {
    /// Opens the store at `dir`, making it if there is none.
    pub fn open(dir: &Path) -> Result<Self, ImageError> {
        for part in ["blobs/sha256", "unpacked", "owners", "tmp"] {
            let path = dir.join(part);
            fs::create_dir_all(&path).map_err(ImageError::io("create", &path))?;
        }
        let dir = dir.canonicalize().map_err(ImageError::io("open", dir))?;
        let store = Self { dir };
        let layout = store.dir.join("oci-layout");
        if !layout.exists() {
            store.replace(&layout, br#"{"imageLayoutVersion":"1.0.0"}"#)?;
        }
        Ok(store)
    }

    /// All images, sorted by name.
    pub fn list(&self) -> Result<Vec<ImageInfo>, ImageError> {
        let mut rows = Vec::new();
        for entry in self.index()?.manifests {
            let Some(reference) = entry.annotations.get(ANNOTATION_REF) else {
                continue;
            };
            let manifest = self.manifest(&entry.digest)?;
            rows.push(ImageInfo {
                reference: reference.clone(),
                digest: entry.digest,
                id: manifest.config.digest.clone(),
                size_bytes: manifest.size_bytes(),
            });
        }
        rows.sort_by(|one, two| one.reference.cmp(&two.reference));
        Ok(rows)
    }

    /// The image of that name, ready to run. `None` when it is not here; a damaged one counts as not here.
    pub fn find(&self, reference: &str) -> Option<Image> {
        let wanted = Reference::parse(reference).ok()?;
        let name = wanted.to_string();
        let index = self.index().ok()?;
        let entry = index.manifests.iter().find(|entry| {
            entry.annotations.get(ANNOTATION_REF) == Some(&name) || wanted.digest.as_ref() == Some(&entry.digest)
        })?;
        self.ready(&name, &entry.digest)
            .inspect_err(|error| tracing::warn!(image = name, %error, "stored image cannot be used"))
            .ok()
    }

    /// Forgets the name; blobs and unpacked trees that no other name needs are deleted, at the latest by the next call
    /// that finds nobody writing.
    ///
    /// # Errors
    /// There is no such name, or it is the last one of an image that a container runs from.
    pub fn remove(&self, reference: &str) -> Result<(), ImageError> {
        let name = Reference::parse(reference)?.to_string();
        self.change_index(|index| {
            let named = |entry: &&Descriptor| entry.annotations.get(ANNOTATION_REF) == Some(&name);
            let Some(digest) = index.manifests.iter().find(named).map(|entry| entry.digest.clone()) else {
                return Err(ImageError::NotFound(name.clone()));
            };
            index.manifests.retain(|entry| !named(&entry));
            let is_last = index.manifests.iter().all(|entry| entry.digest != digest);
            // A damaged image has no tree that could be used.
            let config = self.manifest(&digest).map(|manifest| manifest.config.digest);
            if is_last && config.is_ok_and(|config| InUse::is_marked(&self.unpacked(&config))) {
                return Err(ImageError::InUse(name.clone()));
            }
            Ok(())
        })?;
        self.collect()
    }

    /// Names the manifest `digest` and unpacks it.
    pub(crate) fn adopt(&self, reference: &Reference, digest: &str, size: u64) -> Result<Image, ImageError> {
        let name = reference.to_string();
        let image = self.ready(&name, digest)?;
        self.change_index(|index| {
            index.manifests.retain(|entry| entry.annotations.get(ANNOTATION_REF) != Some(&name));
            index.manifests.push(Descriptor {
                media_type: MEDIA_MANIFEST.to_owned(),
                digest: digest.to_owned(),
                size,
                annotations: [ANNOTATION_REF, ANNOTATION_CONTAINERD].map(|key| (key.to_owned(), name.clone())).into(),
                platform: None,
            });
            Ok(())
        })?;
        Ok(image)
    }

    /// Path of a blob; it need not exist.
    pub(crate) fn blob(&self, digest: &str) -> PathBuf {
        self.dir.join("blobs").join(digest.replacen(':', "/", 1))
    }

    /// Stores bytes, returning their digest and size.
    pub(crate) fn put(&self, bytes: &[u8]) -> Result<(String, u64), ImageError> {
        let digest = digest_name(&Sha256::digest(bytes));
        let path = self.blob(&digest);
        if !path.exists() {
            self.replace(&path, bytes)?;
        }
        Ok((digest, bytes.len() as u64))
    }

    /// Stores a JSON document.
    pub(crate) fn put_document(&self, document: &impl Serialize) -> Result<(String, u64), ImageError> {
        self.put(&serde_json::to_vec(document).expect("our documents have text keys only"))
    }

    /// Stores a stream that must have `wanted` as its digest, if one is given.
    pub(crate) fn put_stream(
        &self,
        mut stream: impl Read,
        wanted: Option<&str>,
        what: &str,
    ) -> Result<(String, u64), ImageError> {
        let mut incoming = Incoming::begin(self)?;
        let mut buffer = vec![0; 128 * 1024];
        loop {
            let count = stream.read(&mut buffer).map_err(ImageError::io("read", what))?;
            if count == 0 {
                return incoming.keep(wanted, what);
            }
            incoming.write(&buffer[..count])?;
        }
    }

    /// Keeps others from collecting what is not named yet.
    pub(super) fn writing(&self) -> Result<Writing, ImageError> {
        Writing::begin(&self.dir.join("writers.lock"))
    }

    pub(super) fn dir(&self) -> &Path {
        &self.dir
    }

    /// Whether the blob is here, as far as its size tells.
    pub(super) fn has_blob(&self, part: &Descriptor) -> bool {
        fs::metadata(self.blob(&part.digest)).is_ok_and(|meta| meta.len() == part.size)
    }

    /// Bytes that may be written; `None` if the file system does not say.
    pub(super) fn free_bytes(&self) -> Option<u64> {
        let of = rustix::fs::statvfs(&self.dir).ok()?;
        Some(of.f_bavail.saturating_mul(of.f_frsize))
    }

    /// A stored manifest.
    pub(super) fn manifest(&self, digest: &str) -> Result<Manifest, ImageError> {
        let path = self.blob(digest);
        let bytes = fs::read(&path).map_err(ImageError::io("read", &path))?;
        Manifest::read(&bytes, digest)
    }

    /// A fresh path on the store's own file system.
    pub(crate) fn temporary(&self) -> PathBuf {
        let number = NEXT_TEMPORARY.fetch_add(1, Ordering::Relaxed);
        self.dir.join("tmp").join(format!("{number:016x}"))
    }

    pub(crate) fn document<T: DeserializeOwned>(&self, digest: &str, expected: &'static str) -> Result<T, ImageError> {
        let path = self.blob(digest);
        let bytes = fs::read(&path).map_err(ImageError::io("read", &path))?;
        serde_json::from_slice(&bytes).map_err(|source| ImageError::Document {
            what: digest.to_owned(),
            expected,
            source,
        })
    }

    /// The image behind a stored manifest, unpacking it the first time.
    pub(super) fn ready(&self, name: &str, digest: &str) -> Result<Image, ImageError> {
        let manifest = self.manifest(digest)?;
        let config: ConfigFile = self.document(&manifest.config.digest, "image configuration")?;
        let rootfs = self.unpacked(&manifest.config.digest);
        if !rootfs.exists() {
            let _writing = self.writing()?;
            self.unpack(&manifest, &config, &rootfs)?;
        }
        Ok(Image {
            reference: name.to_owned(),
            digest: digest.to_owned(),
            size_bytes: manifest.size_bytes(),
            id: manifest.config.digest,
            rootfs,
            config: config.config.unwrap_or_default(),
        })
    }

    fn unpacked(&self, config_digest: &str) -> PathBuf {
        let hex = config_digest.trim_start_matches("sha256:");
        self.dir.join("unpacked").join(hex)
    }

    /// Unpacks beside and renames: a reader sees a whole image or none. Of several that want it one unpacks, and the
    /// others wait.
    fn unpack(&self, manifest: &Manifest, config: &ConfigFile, target: &Path) -> Result<(), ImageError> {
        let _turn = self.lock("unpack.lock")?;
        if target.exists() {
            return Ok(());
        }
        let work = self.temporary();
        fs::create_dir(&work).map_err(ImageError::io("create", &work))?;
        let done = self.unpack_layers(manifest, config, &work).and_then(|owners| {
            use std::os::unix::fs::PermissionsExt;
            let list = self.dir.join("owners").join(target.file_name().unwrap_or_default());
            owners.save(&list).map_err(ImageError::io("write", &list))?;
            fs::set_permissions(&work, fs::Permissions::from_mode(0o755)).map_err(ImageError::io("open up", &work))?;
            fs::rename(&work, target).map_err(ImageError::io("write", target))
        });
        if work.exists() {
            let _ = fs::remove_dir_all(&work);
        }
        done
    }

    fn unpack_layers(&self, manifest: &Manifest, config: &ConfigFile, work: &Path) -> Result<Owners, ImageError> {
        let mut owners = Owners::for_this_process();
        for (number, entry) in manifest.layers.iter().enumerate() {
            let path = self.blob(&entry.digest);
            let file = File::open(&path).map_err(ImageError::io("open", &path))?;
            let actual = layer::apply_noting(file, work, &mut owners)?;
            let wanted = config.rootfs.diff_ids.get(number);
            if let Some(wanted) = wanted.filter(|wanted| **wanted != actual) {
                // The next pull or import brings it anew.
                let _ = fs::remove_file(&path);
                return Err(ImageError::Digest {
                    what: format!("layer {number} ({})", entry.digest),
                    wanted: wanted.clone(),
                    actual,
                });
            }
        }
        Ok(owners)
    }

    fn index(&self) -> Result<Index, ImageError> {
        let path = self.dir.join("index.json");
        match fs::read(&path) {
            Ok(bytes) => serde_json::from_slice(&bytes).map_err(|source| ImageError::Document {
                what: path.display().to_string(),
                expected: "image index",
                source,
            }),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Index::default()),
            Err(error) => Err(ImageError::io("read", path)(error)),
        }
    }

    fn change_index<T>(&self, change: impl FnOnce(&mut Index) -> Result<T, ImageError>) -> Result<T, ImageError> {
        let _lock = self.lock("lock")?;
        let mut index = self.index()?;
        let result = change(&mut index)?;
        let bytes = serde_json::to_vec_pretty(&index).expect("our documents have text keys only");
        self.replace(&self.dir.join("index.json"), &bytes)?;
        Ok(result)
    }

    fn lock(&self, name: &str) -> Result<File, ImageError> {
        let path = self.dir.join(name);
        let file = File::create(&path).map_err(ImageError::io("create", &path))?;
        rustix::fs::flock(file.as_fd(), FlockOperation::LockExclusive)
            .map_err(|errno| ImageError::io("lock", &path)(errno.into()))?;
        Ok(file)
    }

    fn replace(&self, path: &Path, bytes: &[u8]) -> Result<(), ImageError> {
        let work = self.temporary();
        fs::write(&work, bytes).map_err(ImageError::io("write", &work))?;
        fs::rename(&work, path).map_err(ImageError::io("write", path))
    }

    /// Deletes what no name reaches and nobody uses, unless somebody writes: then it is left for the next time.
    pub(super) fn collect(&self) -> Result<(), ImageError> {
        let Some(_nobody_writes) = Writing::exclude(&self.dir.join("writers.lock"))? else {
            return Ok(());
        };
        let _lock = self.lock("lock")?;
        let mut used = std::collections::BTreeSet::new();
        for entry in self.index()?.manifests {
            let manifest = self.manifest(&entry.digest);
            used.insert(entry.digest);
            // A damaged image keeps nothing else.
            for part in manifest.iter().flat_map(|manifest| [&manifest.config].into_iter().chain(&manifest.layers)) {
                used.insert(part.digest.clone());
            }
        }
        for folder in ["blobs/sha256", "unpacked", "owners", "tmp"] {
            let path = self.dir.join(folder);
            let listing = fs::read_dir(&path).map_err(ImageError::io("list", &path))?;
            for child in listing.filter_map(Result::ok) {
                let digest = format!("sha256:{}", child.file_name().to_string_lossy());
                // A tree that stays, as it is in use, keeps its owners.
                let is_kept = folder == "owners" && self.unpacked(&digest).exists();
                if !used.contains(&digest) && !is_kept {
                    delete(&child.path())?;
                }
            }
        }
        Ok(())
    }
}

/// A file, or an unpacked tree that no container runs from.
fn delete(path: &Path) -> Result<(), ImageError> {
    let is_tree = path.is_dir();
    if is_tree && InUse::is_marked(path) {
        return Ok(());
    }
    let removed = if is_tree { fs::remove_dir_all(path) } else { fs::remove_file(path) };
    removed.map_err(ImageError::io("delete", path))
}

/// A blob on its way in; dropped before it is kept, nothing of it stays.
pub(super) struct Incoming<'store> {
    store: &'store Store,
    path: PathBuf,
    file: File,
    hash: Sha256,
    size_bytes: u64,
}

impl<'store> Incoming<'store> {
    pub(super) fn begin(store: &'store Store) -> Result<Self, ImageError> {
        let path = store.temporary();
        let file = File::create_new(&path).map_err(ImageError::io("create", &path))?;
        Ok(Self { store, path, file, hash: Sha256::new(), size_bytes: 0 })
    }

    pub(super) fn write(&mut self, bytes: &[u8]) -> Result<(), ImageError> {
        self.hash.update(bytes);
        self.size_bytes += bytes.len() as u64;
        self.file.write_all(bytes).map_err(ImageError::io("write", &self.path))
    }

    pub(super) fn size_bytes(&self) -> u64 {
        self.size_bytes
    }

    /// Stores it under its digest, which must be `wanted` if that is given.
    pub(super) fn keep(self, wanted: Option<&str>, what: &str) -> Result<(String, u64), ImageError> {
        let actual = digest_name(&self.hash.clone().finalize());
        if let Some(wanted) = wanted.filter(|wanted| *wanted != actual) {
            return Err(ImageError::Digest { what: what.to_owned(), wanted: wanted.to_owned(), actual });
        }
        let target = self.store.blob(&actual);
        fs::rename(&self.path, &target).map_err(ImageError::io("write", &target))?;
        Ok((actual, self.size_bytes))
    }
}

impl Drop for Incoming<'_> {
    fn drop(&mut self) {
        // Kept, it is under another name by now.
        let _ = fs::remove_file(&self.path);
    }
}
