//! The store: an OCI layout on disk and the unpacked images beside it, shared by all nodes of a machine.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::fs::FlockOperation;
use serde::Serialize;
use serde::de::DeserializeOwned;
use sha2::{Digest, Sha256};

use super::documents::{
    ANNOTATION_CONTAINERD, ANNOTATION_REF, ConfigFile, Descriptor, Index, MEDIA_MANIFEST, Manifest,
};
use super::layer::{self, digest_name};
use super::{Image, ImageError, ImageInfo, Reference};

/// A folder of images. Cheap to clone; every call reads the disk, so several processes may share it.
#[derive(Clone, Debug)]
pub struct Store {
    dir: PathBuf,
}

static NEXT_TEMPORARY: AtomicU64 = AtomicU64::new(0);

impl Store {
    /// Opens the store at `dir`, making it if there is none.
    pub fn open(dir: &Path) -> Result<Self, ImageError> {
        for part in ["blobs/sha256", "unpacked", "tmp"] {
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
            let manifest: Manifest = self.document(&entry.digest, "image manifest")?;
            rows.push(ImageInfo {
                reference: reference.clone(),
                digest: entry.digest,
                id: manifest.config.digest.clone(),
                size_bytes: manifest.config.size + manifest.layers.iter().map(|layer| layer.size).sum::<u64>(),
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

    /// Forgets the name; blobs and unpacked trees that no other name needs are deleted.
    pub fn remove(&self, reference: &str) -> Result<(), ImageError> {
        let name = Reference::parse(reference)?.to_string();
        self.change_index(|index| {
            let before = index.manifests.len();
            index.manifests.retain(|entry| entry.annotations.get(ANNOTATION_REF) != Some(&name));
            if index.manifests.len() == before {
                return Err(ImageError::NotFound(name.clone()));
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
        let path = self.temporary();
        let mut file = File::create(&path).map_err(ImageError::io("create", &path))?;
        let mut hash = Sha256::new();
        let mut size = 0;
        let mut buffer = vec![0; 128 * 1024];
        loop {
            let count = stream.read(&mut buffer).map_err(ImageError::io("read", what))?;
            if count == 0 {
                break;
            }
            hash.update(&buffer[..count]);
            file.write_all(&buffer[..count]).map_err(ImageError::io("write", &path))?;
            size += count as u64;
        }
        drop(file);
        let actual = digest_name(&hash.finalize());
        if let Some(wanted) = wanted.filter(|wanted| *wanted != actual) {
            let _ = fs::remove_file(&path);
            return Err(ImageError::Digest { what: what.to_owned(), wanted: wanted.to_owned(), actual });
        }
        let target = self.blob(&actual);
        fs::rename(&path, &target).map_err(ImageError::io("write", &target))?;
        Ok((actual, size))
    }

    /// A fresh path on the store's own file system.
    pub(crate) fn temporary(&self) -> PathBuf {
        let number = NEXT_TEMPORARY.fetch_add(1, Ordering::Relaxed);
        self.dir.join("tmp").join(format!("{}-{number}", std::process::id()))
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
    fn ready(&self, name: &str, digest: &str) -> Result<Image, ImageError> {
        let manifest: Manifest = self.document(digest, "image manifest")?;
        let config: ConfigFile = self.document(&manifest.config.digest, "image configuration")?;
        let rootfs = self.unpacked(&manifest.config.digest);
        if !rootfs.exists() {
            self.unpack(&manifest, &config, &rootfs)?;
        }
        Ok(Image {
            reference: name.to_owned(),
            digest: digest.to_owned(),
            id: manifest.config.digest,
            rootfs,
            config: config.config.unwrap_or_default(),
        })
    }

    fn unpacked(&self, config_digest: &str) -> PathBuf {
        let hex = config_digest.trim_start_matches("sha256:");
        self.dir.join("unpacked").join(hex)
    }

    /// Unpacks beside and renames: a reader sees a whole image or none, and of two writers one wins.
    fn unpack(&self, manifest: &Manifest, config: &ConfigFile, target: &Path) -> Result<(), ImageError> {
        let work = self.temporary();
        fs::create_dir(&work).map_err(ImageError::io("create", &work))?;
        let done = self.unpack_layers(manifest, config, &work).and_then(|()| {
            use std::os::unix::fs::PermissionsExt;
            fs::set_permissions(&work, fs::Permissions::from_mode(0o755)).map_err(ImageError::io("open up", &work))?;
            fs::rename(&work, target).map_err(ImageError::io("write", target))
        });
        if work.exists() {
            let _ = fs::remove_dir_all(&work);
        }
        if target.exists() { Ok(()) } else { done }
    }

    fn unpack_layers(&self, manifest: &Manifest, config: &ConfigFile, work: &Path) -> Result<(), ImageError> {
        for (number, entry) in manifest.layers.iter().enumerate() {
            let path = self.blob(&entry.digest);
            let file = File::open(&path).map_err(ImageError::io("open", &path))?;
            let actual = layer::apply(file, work)?;
            let wanted = config.rootfs.diff_ids.get(number);
            if let Some(wanted) = wanted.filter(|wanted| **wanted != actual) {
                return Err(ImageError::Digest {
                    what: format!("layer {number} ({})", entry.digest),
                    wanted: wanted.clone(),
                    actual,
                });
            }
        }
        Ok(())
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
        let _lock = self.lock()?;
        let mut index = self.index()?;
        let result = change(&mut index)?;
        let bytes = serde_json::to_vec_pretty(&index).expect("our documents have text keys only");
        self.replace(&self.dir.join("index.json"), &bytes)?;
        Ok(result)
    }

    fn lock(&self) -> Result<File, ImageError> {
        let path = self.dir.join("lock");
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

    /// Deletes what no name reaches.
    fn collect(&self) -> Result<(), ImageError> {
        let _lock = self.lock()?;
        let mut used = std::collections::BTreeSet::new();
        for entry in self.index()?.manifests {
            let manifest: Manifest = self.document(&entry.digest, "image manifest")?;
            used.insert(entry.digest);
            used.insert(manifest.config.digest);
            used.extend(manifest.layers.into_iter().map(|layer| layer.digest));
        }
        for (folder, is_tree) in [("blobs/sha256", false), ("unpacked", true)] {
            let path = self.dir.join(folder);
            let listing = fs::read_dir(&path).map_err(ImageError::io("list", &path))?;
            for child in listing.filter_map(Result::ok) {
                let digest = format!("sha256:{}", child.file_name().to_string_lossy());
                if used.contains(&digest) {
                    continue;
                }
                let path = child.path();
                let removed = if is_tree { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
                removed.map_err(ImageError::io("delete", path))?;
            }
        }
        Ok(())
    }
}
