//! Images from and to files: OCI layouts (a folder or a tar) and what `docker save` writes.

use std::fs::{self, File};
use std::io::Read;
use std::path::Path;

use serde::Deserialize;

use super::documents::{
    ANNOTATION_CONTAINERD, ANNOTATION_REF, ConfigFile, Descriptor, Index, MEDIA_CONFIG, MEDIA_DOCKER_LIST, MEDIA_INDEX,
    MEDIA_LAYER, MEDIA_MANIFEST, Manifest, choose, for_this_machine,
};
use super::layer::{self, open_inside};
use super::store::Store;
use super::{Image, ImageError, Reference};

/// One entry of docker's `manifest.json`.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct DockerEntry {
    config: String,
    #[serde(default)]
    repo_tags: Option<Vec<String>>,
    layers: Vec<String>,
}

impl Store {
    /// Takes every image of an archive (OCI layout or docker save, tar or folder, compressed or not). `name` names the
    /// image of an archive that holds one; without it the archive's own names are used.
    ///
    /// # Errors
    /// The archive is damaged, or an image in it is not what its digests say or for another machine; then no image of
    /// it is taken.
    pub fn import(&self, source: &Path, name: Option<&str>) -> Result<Vec<Image>, ImageError> {
        if source.is_dir() {
            return self.taking(|| self.import_folder(source, source, name));
        }
        let file = File::open(source).map_err(ImageError::io("open", source))?;
        self.import_stream(file, source, name)
    }

    /// The same from a stream; `source` is what errors call it.
    ///
    /// # Errors
    /// As for [`Store::import`].
    pub fn import_stream(
        &self,
        stream: impl Read,
        source: &Path,
        name: Option<&str>,
    ) -> Result<Vec<Image>, ImageError> {
        self.taking(|| {
            let work = self.temporary();
            fs::create_dir(&work).map_err(ImageError::io("create", &work))?;
            let unpacked = layer::apply(stream, &work).map_err(|error| named_after(source, error));
            let done = unpacked.and_then(|_| self.import_folder(&work, source, name));
            let _ = fs::remove_dir_all(&work);
            done
        })
    }

    /// What a failed attempt left is collected.
    fn taking<T>(&self, take: impl FnOnce() -> Result<T, ImageError>) -> Result<T, ImageError> {
        let writing = self.writing()?;
        let taken = take();
        drop(writing);
        if taken.is_err() {
            let _ = self.collect();
        }
        taken
    }

    /// Writes one image as an OCI layout tar, which `import`, containerd and skopeo read.
    pub fn export(&self, reference: &str, target: &Path) -> Result<(), ImageError> {
        let image = self.find(reference).ok_or_else(|| ImageError::NotFound(reference.to_owned()))?;
        let manifest = self.manifest(&image.digest)?;
        let size = fs::metadata(self.blob(&image.digest)).map_or(0, |meta| meta.len());
        let index = Index {
            manifests: vec![Descriptor {
                media_type: MEDIA_MANIFEST.to_owned(),
                digest: image.digest.clone(),
                size,
                annotations: [ANNOTATION_REF, ANNOTATION_CONTAINERD]
                    .map(|key| (key.to_owned(), image.reference.clone()))
                    .into(),
                platform: None,
            }],
            ..Index::default()
        };
        let file = File::create(target).map_err(ImageError::io("create", target))?;
        let mut tar = tar::Builder::new(file);
        let index = serde_json::to_vec(&index).expect("our documents have text keys only");
        for (name, bytes) in [("oci-layout", &br#"{"imageLayoutVersion":"1.0.0"}"#[..]), ("index.json", &index)] {
            let mut header = tar::Header::new_gnu();
            header.set_uid(0);
            header.set_gid(0);
            header.set_mtime(0);
            header.set_mode(0o644);
            header.set_size(bytes.len() as u64);
            tar.append_data(&mut header, name, bytes).map_err(ImageError::io("write", target))?;
        }
        let layers = manifest.layers.iter().map(|layer| &layer.digest);
        for digest in [&image.digest, &manifest.config.digest].into_iter().chain(layers) {
            let name = format!("blobs/{}", digest.replacen(':', "/", 1));
            tar.append_path_with_name(self.blob(digest), name).map_err(ImageError::io("write", target))?;
        }
        tar.finish().map_err(ImageError::io("write", target))
    }

    fn import_folder(&self, dir: &Path, source: &Path, name: Option<&str>) -> Result<Vec<Image>, ImageError> {
        if dir.join("index.json").exists() {
            return self.import_layout(dir, source, name);
        }
        if dir.join("manifest.json").exists() {
            return self.import_docker(dir, source, name);
        }
        Err(ImageError::UnknownArchive(source.to_path_buf()))
    }

    fn import_layout(&self, dir: &Path, source: &Path, name: Option<&str>) -> Result<Vec<Image>, ImageError> {
        let index = Index::read(&read_inside(dir, "index.json")?, "index.json")?;
        one_for(name, index.manifests.len(), source)?;
        let mut taken = Vec::new();
        for entry in &index.manifests {
            let own = entry.annotations.get(ANNOTATION_CONTAINERD).or_else(|| entry.annotations.get(ANNOTATION_REF));
            // A mere tag names no image.
            let own = own.map(String::as_str).filter(|own| own.contains([':', '/']));
            let name = name.or(own).ok_or_else(|| ImageError::Unnamed(source.to_path_buf()))?;
            let reference = Reference::parse(name)?;
            let chosen = resolve_platform(dir, entry, name)?;
            let (digest, size) = self.take_blob(dir, &chosen.digest)?;
            let manifest = self.manifest(&digest)?;
            for part in [&manifest.config].into_iter().chain(&manifest.layers) {
                self.take_blob(dir, &part.digest)?;
            }
            let config: ConfigFile = self.document(&manifest.config.digest, "image configuration")?;
            for_this_machine(name, &config)?;
            taken.push((reference, digest, size));
        }
        self.adopt_all(&taken)
    }

    /// All are unpacked before the first is named.
    fn adopt_all(&self, taken: &[(Reference, String, u64)]) -> Result<Vec<Image>, ImageError> {
        for (reference, digest, _) in taken {
            self.ready(&reference.to_string(), digest)?;
        }
        taken.iter().map(|(reference, digest, size)| self.adopt(reference, digest, *size)).collect()
    }

    fn take_blob(&self, dir: &Path, digest: &str) -> Result<(String, u64), ImageError> {
        let file = open_inside(dir, &Path::new("blobs").join(digest.replacen(':', "/", 1)))?;
        self.put_stream(file, Some(digest), digest)
    }

    fn import_docker(&self, dir: &Path, source: &Path, name: Option<&str>) -> Result<Vec<Image>, ImageError> {
        let entries: Vec<DockerEntry> = read_json(dir, "manifest.json", "docker manifest")?;
        one_for(name, entries.len(), source)?;
        let mut taken = Vec::new();
        for entry in entries {
            let tags = entry.repo_tags.clone().unwrap_or_default();
            let names: Vec<String> = name.map_or(tags, |name| vec![name.to_owned()]);
            if names.is_empty() {
                return Err(ImageError::Unnamed(source.to_path_buf()));
            }
            let references = names.iter().map(|name| Reference::parse(name)).collect::<Result<Vec<_>, _>>()?;
            let (digest, size) = self.docker_manifest(dir, &entry, &names[0])?;
            taken.extend(references.into_iter().map(|reference| (reference, digest.clone(), size)));
        }
        self.adopt_all(&taken)
    }

    fn docker_manifest(&self, dir: &Path, entry: &DockerEntry, name: &str) -> Result<(String, u64), ImageError> {
        let put = |path: &str, media: &str| -> Result<Descriptor, ImageError> {
            let file = open_inside(dir, Path::new(path))?;
            let (digest, size) = self.put_stream(file, None, path)?;
            Ok(Descriptor { media_type: media.to_owned(), digest, size, ..Descriptor::default() })
        };
        let config = put(&entry.config, MEDIA_CONFIG)?;
        for_this_machine(name, &self.document(&config.digest, "image configuration")?)?;
        let layers = entry.layers.iter().map(|path| put(path, MEDIA_LAYER)).collect::<Result<Vec<_>, _>>()?;
        self.put_document(&Manifest { schema_version: 2, media_type: MEDIA_MANIFEST.to_owned(), config, layers })
    }
}

/// Follows an index entry to the manifest for this machine.
fn resolve_platform(dir: &Path, entry: &Descriptor, what: &str) -> Result<Descriptor, ImageError> {
    if entry.media_type != MEDIA_INDEX && entry.media_type != MEDIA_DOCKER_LIST {
        return Ok(entry.clone());
    }
    let path = format!("blobs/{}", entry.digest.replacen(':', "/", 1));
    let nested = Index::read(&read_inside(dir, &path)?, what)?;
    choose(&nested, what).cloned()
}

/// A name given for an archive is for the only image in it.
fn one_for(name: Option<&str>, count: usize, source: &Path) -> Result<(), ImageError> {
    match name {
        Some(_) if count > 1 => Err(ImageError::SeveralImages { path: source.to_owned(), count }),
        _ => Ok(()),
    }
}

/// Errors of the unpacking name the archive, not the folder it was unpacked to.
fn named_after(source: &Path, error: ImageError) -> ImageError {
    match error {
        ImageError::Io { source: cause, .. } => ImageError::io("read the archive", source)(cause),
        ImageError::Layer { entry, reason } => {
            ImageError::io("read the archive", source)(std::io::Error::other(format!("entry {entry:?}: {reason}")))
        }
        other => other,
    }
}

fn read_inside(dir: &Path, path: &str) -> Result<Vec<u8>, ImageError> {
    let mut bytes = Vec::new();
    open_inside(dir, Path::new(path))?.read_to_end(&mut bytes).map_err(ImageError::io("read", path))?;
    Ok(bytes)
}

fn read_json<T: for<'de> Deserialize<'de>>(dir: &Path, path: &str, expected: &'static str) -> Result<T, ImageError> {
    let bytes = read_inside(dir, path)?;
    serde_json::from_slice(&bytes).map_err(|source| ImageError::Document { what: path.to_owned(), expected, source })
}

#[cfg(test)]
#[path = "archive_tests.rs"]
mod tests;
