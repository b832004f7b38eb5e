//! Images from and to files: OCI layouts (a folder or a tar) and what `docker save` writes.

use std::fs::{self, File};
use std::io::Read;
use std::path::Path;

use serde::Deserialize;

use super::documents::{
    ANNOTATION_CONTAINERD, ANNOTATION_REF, ConfigFile, Descriptor, Index, MEDIA_CONFIG, MEDIA_DOCKER_LIST, MEDIA_INDEX,
    MEDIA_LAYER, MEDIA_MANIFEST, Manifest, choose, host_platform,
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
    /// Takes every image of an archive (OCI layout or docker save, tar or folder, gzip or not). `name` names the
    /// image of an archive that holds one; without it the archive's own names are used.
    pub fn import(&self, source: &Path, name: Option<&str>) -> Result<Vec<Image>, ImageError> {
        if source.is_dir() {
            return self.import_folder(source, source, name);
        }
        let work = self.temporary();
        fs::create_dir(&work).map_err(ImageError::io("create", &work))?;
        let done = File::open(source)
            .map_err(ImageError::io("open", source))
            .and_then(|file| layer::apply(file, &work))
            .and_then(|_| self.import_folder(&work, source, name));
        let _ = fs::remove_dir_all(&work);
        done
    }

    /// Writes one image as an OCI layout tar, which `import`, containerd and skopeo read.
    pub fn export(&self, reference: &str, target: &Path) -> Result<(), ImageError> {
        let image = self.find(reference).ok_or_else(|| ImageError::NotFound(reference.to_owned()))?;
        let manifest: Manifest = self.document(&image.digest, "image manifest")?;
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
        let index: Index = read_json(dir, "index.json", "image index")?;
        let mut images = Vec::new();
        for entry in &index.manifests {
            let own = entry.annotations.get(ANNOTATION_CONTAINERD).or_else(|| entry.annotations.get(ANNOTATION_REF));
            let Some(name) = name.or(own.map(String::as_str)) else {
                return Err(ImageError::Unnamed(source.to_path_buf()));
            };
            let reference = Reference::parse(name)?;
            let chosen = resolve_platform(dir, entry, name)?;
            let (digest, size) = self.take_blob(dir, &chosen.digest)?;
            let manifest: Manifest = self.document(&digest, "image manifest")?;
            for part in [&manifest.config].into_iter().chain(&manifest.layers) {
                self.take_blob(dir, &part.digest)?;
            }
            images.push(self.adopt(&reference, &digest, size)?);
        }
        Ok(images)
    }

    fn take_blob(&self, dir: &Path, digest: &str) -> Result<(String, u64), ImageError> {
        let file = open_inside(dir, &Path::new("blobs").join(digest.replacen(':', "/", 1)))?;
        self.put_stream(file, Some(digest), digest)
    }

    fn import_docker(&self, dir: &Path, source: &Path, name: Option<&str>) -> Result<Vec<Image>, ImageError> {
        let entries: Vec<DockerEntry> = read_json(dir, "manifest.json", "docker manifest")?;
        let mut images = Vec::new();
        for entry in entries {
            let tags = entry.repo_tags.clone().unwrap_or_default();
            let names: Vec<String> = match name {
                Some(name) => vec![name.to_owned()],
                None => tags,
            };
            if names.is_empty() {
                return Err(ImageError::Unnamed(source.to_path_buf()));
            }
            let (digest, size) = self.docker_manifest(dir, &entry)?;
            for name in names {
                images.push(self.adopt(&Reference::parse(&name)?, &digest, size)?);
            }
        }
        Ok(images)
    }

    fn docker_manifest(&self, dir: &Path, entry: &DockerEntry) -> Result<(String, u64), ImageError> {
        let put = |path: &str, media: &str| -> Result<Descriptor, ImageError> {
            let file = open_inside(dir, Path::new(path))?;
            let (digest, size) = self.put_stream(file, None, path)?;
            Ok(Descriptor { media_type: media.to_owned(), digest, size, ..Descriptor::default() })
        };
        let config = put(&entry.config, MEDIA_CONFIG)?;
        let _: ConfigFile = self.document(&config.digest, "image configuration")?;
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
    let nested: Index = read_json(dir, &path, "image index")?;
    let platform = host_platform();
    choose(&nested, &platform).cloned().ok_or_else(|| ImageError::Platform {
        what: what.to_owned(),
        platform: format!("{}/{}", platform.os, platform.architecture),
    })
}

fn read_json<T: for<'de> Deserialize<'de>>(dir: &Path, path: &str, expected: &'static str) -> Result<T, ImageError> {
    let mut text = String::new();
    open_inside(dir, Path::new(path))?.read_to_string(&mut text).map_err(ImageError::io("read", path))?;
    serde_json::from_str(&text).map_err(|source| ImageError::Document { what: path.to_owned(), expected, source })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::HostImage;

    fn built(store: &Store) -> Image {
        let spec = HostImage { name: "cat:1".to_owned(), programs: vec!["/bin/cat".into()], ..HostImage::default() };
        store.build_from_host(&spec).expect("builds")
    }

    #[test]
    fn an_exported_image_is_imported_with_its_name_and_digest() {
        let (one, two) = (tempfile::tempdir().expect("temp"), tempfile::tempdir().expect("temp"));
        let store = Store::open(one.path()).expect("opens");
        let image = built(&store);
        let tar = one.path().join("out.tar");
        store.export("cat:1", &tar).expect("exports");
        let other = Store::open(two.path()).expect("opens");
        let taken = other.import(&tar, None).expect("imports");
        assert_eq!((&taken[0].digest, &taken[0].reference), (&image.digest, &image.reference));
        other.import(&tar, Some("kitten")).expect("imports under another name");
        assert!(other.find("kitten:latest").is_some());
    }

    #[test]
    fn what_docker_save_writes_is_imported() {
        let dir = tempfile::tempdir().expect("temp");
        let store = Store::open(dir.path()).expect("opens");
        let image = built(&store);
        let manifest: Manifest = store.document(&image.digest, "manifest").expect("reads");
        let tar_path = dir.path().join("save.tar");
        let mut tar = tar::Builder::new(File::create(&tar_path).expect("created"));
        tar.append_path_with_name(store.blob(&manifest.config.digest), "c.json").expect("added");
        tar.append_path_with_name(store.blob(&manifest.layers[0].digest), "1/layer.tar").expect("added");
        let listing = br#"[{"Config":"c.json","RepoTags":["saved:2"],"Layers":["1/layer.tar"]}]"#;
        let mut header = tar::Header::new_gnu();
        header.set_size(listing.len() as u64);
        header.set_mode(0o644);
        header.set_uid(0);
        header.set_gid(0);
        tar.append_data(&mut header, "manifest.json", &listing[..]).expect("added");
        tar.finish().expect("written");
        store.import(&tar_path, None).expect("imports");
        assert_eq!(store.find("saved:2").expect("is there").id, image.id);
    }

    #[test]
    fn a_tampered_blob_is_refused() {
        let (one, two) = (tempfile::tempdir().expect("temp"), tempfile::tempdir().expect("temp"));
        let store = Store::open(one.path()).expect("opens");
        let image = built(&store);
        let manifest: Manifest = store.document(&image.digest, "manifest").expect("reads");
        let tar = one.path().join("out.tar");
        fs::write(store.blob(&manifest.config.digest), "{}").expect("tampered");
        store.export("cat:1", &tar).expect("exports what is there");
        let error = Store::open(two.path()).expect("opens").import(&tar, None).expect_err("refused");
        assert!(matches!(error, ImageError::Digest { .. }), "{error}");
    }
}
