//! The JSON documents of an image: index, manifest, configuration. OCI image-spec 1.1; Docker's own
//! media types differ in name only and are read as well.

use std::collections::BTreeMap;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::ImageError;
use super::reference::is_digest;

pub const MEDIA_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub const MEDIA_INDEX: &str = "application/vnd.oci.image.index.v1+json";
pub const MEDIA_CONFIG: &str = "application/vnd.oci.image.config.v1+json";
pub const MEDIA_DOCKER_CONFIG: &str = "application/vnd.docker.container.image.v1+json";
pub const MEDIA_LAYER_GZIP: &str = "application/vnd.oci.image.layer.v1.tar+gzip";
pub const MEDIA_LAYER: &str = "application/vnd.oci.image.layer.v1.tar";
pub const MEDIA_DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
pub const MEDIA_DOCKER_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";

/// The annotation that carries a name in an OCI layout's index.
pub const ANNOTATION_REF: &str = "org.opencontainers.image.ref.name";
/// The annotation containerd adds; the full name.
pub const ANNOTATION_CONTAINERD: &str = "io.containerd.image.name";

/// Points at a blob.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Descriptor {
    #[serde(default)]
    pub media_type: String,
    pub digest: String,
    pub size: u64,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub platform: Option<Platform>,
}

/// For which machine a manifest is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Platform {
    #[serde(default)]
    pub architecture: String,
    #[serde(default)]
    pub os: String,
}

/// `index.json`, or a manifest list.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Index {
    pub schema_version: u32,
    #[serde(default)]
    pub media_type: String,
    pub manifests: Vec<Descriptor>,
}

impl Default for Index {
    fn default() -> Self {
        Self { schema_version: 2, media_type: MEDIA_INDEX.to_owned(), manifests: Vec::new() }
    }
}

/// An image manifest.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Manifest {
    pub schema_version: u32,
    #[serde(default)]
    pub media_type: String,
    pub config: Descriptor,
    pub layers: Vec<Descriptor>,
}

/// The configuration blob.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct ConfigFile {
    #[serde(default)]
    pub architecture: String,
    #[serde(default)]
    pub os: String,
    #[serde(default)]
    pub config: Option<ImageConfig>,
    #[serde(default)]
    pub rootfs: RootFs,
}

/// The layers by the digests of their uncompressed tars.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct RootFs {
    #[serde(rename = "type", default)]
    pub kind: String,
    #[serde(default)]
    pub diff_ids: Vec<String>,
}

/// What a container of the image runs.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct ImageConfig {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub env: Option<Vec<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub entrypoint: Option<Vec<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cmd: Option<Vec<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub working_dir: Option<String>,
    /// `80/tcp` → {}.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exposed_ports: Option<BTreeMap<String, serde_json::Value>>,
    /// As `SIGQUIT`; `None` means SIGTERM.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stop_signal: Option<String>,
}

/// This machine in the image spec's words.
pub fn host_platform() -> Platform {
    let architecture = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    };
    Platform { architecture: architecture.to_owned(), os: "linux".to_owned() }
}

impl std::fmt::Display for Platform {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(out, "{}/{}", self.os, self.architecture)
    }
}

impl Manifest {
    /// Reads a manifest; every digest in it is one, so that it may name a file.
    ///
    /// # Errors
    /// It is no manifest of an image.
    pub fn read(bytes: &[u8], what: &str) -> Result<Self, ImageError> {
        let manifest: Self = parsed(bytes, what, "image manifest")?;
        digests_hold(what, [&manifest.config].into_iter().chain(&manifest.layers))?;
        if manifest.layers.is_empty() {
            return Err(ImageError::NoImage { what: what.to_owned(), reason: "it has no layers".to_owned() });
        }
        let config = &manifest.config.media_type;
        if !config.is_empty() && config != MEDIA_CONFIG && config != MEDIA_DOCKER_CONFIG {
            let reason = format!("its configuration is of type {config}");
            return Err(ImageError::NoImage { what: what.to_owned(), reason });
        }
        Ok(manifest)
    }
}

impl Manifest {
    /// Configuration and layers, as they are stored.
    pub fn size_bytes(&self) -> u64 {
        self.layers.iter().fold(self.config.size, |sum, layer| sum.saturating_add(layer.size))
    }
}

impl Index {
    /// Reads an index or a manifest list, as [`Manifest::read`] does.
    ///
    /// # Errors
    /// It is none.
    pub fn read(bytes: &[u8], what: &str) -> Result<Self, ImageError> {
        let index: Self = parsed(bytes, what, "image index")?;
        digests_hold(what, &index.manifests)?;
        Ok(index)
    }
}

fn parsed<T: DeserializeOwned>(bytes: &[u8], what: &str, expected: &'static str) -> Result<T, ImageError> {
    serde_json::from_slice(bytes).map_err(|source| ImageError::Document { what: what.to_owned(), expected, source })
}

fn digests_hold<'a>(what: &str, parts: impl IntoIterator<Item = &'a Descriptor>) -> Result<(), ImageError> {
    match parts.into_iter().find(|part| !is_digest(&part.digest)) {
        Some(part) => Err(ImageError::BadDigest { what: what.to_owned(), digest: part.digest.clone() }),
        None => Ok(()),
    }
}

/// The entry of an index that runs on this machine: one that says so, else one that says nothing.
///
/// # Errors
/// There is none; the error names those there are.
pub fn choose<'index>(index: &'index Index, what: &str) -> Result<&'index Descriptor, ImageError> {
    let own = host_platform();
    let mut entries = index.manifests.iter();
    let fitting = entries.clone().find(|entry| entry.platform.as_ref() == Some(&own));
    fitting.or_else(|| entries.find(|entry| entry.platform.is_none())).ok_or_else(|| {
        let known = index.manifests.iter().filter_map(|entry| entry.platform.as_ref());
        let mut offered: Vec<String> = known.map(Platform::to_string).collect();
        offered.retain(|platform| platform != "unknown/unknown");
        offered.sort();
        offered.dedup();
        no_platform(what, offered)
    })
}

/// Refuses the configuration of an image for another machine.
///
/// # Errors
/// It names another platform.
pub fn for_this_machine(what: &str, config: &ConfigFile) -> Result<(), ImageError> {
    let platform = Platform { architecture: config.architecture.clone(), os: config.os.clone() };
    let is_said = !platform.architecture.is_empty() && !platform.os.is_empty();
    if is_said && platform != host_platform() {
        return Err(no_platform(what, vec![platform.to_string()]));
    }
    Ok(())
}

fn no_platform(what: &str, offered: Vec<String>) -> ImageError {
    let offered = if offered.is_empty() { "nothing".to_owned() } else { offered.join(", ") };
    ImageError::Platform { what: what.to_owned(), platform: host_platform().to_string(), offered }
}
