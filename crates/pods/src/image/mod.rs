//! Images on a node's disk: an OCI layout, and each image flattened to one directory.
//!
//! ```text
//!  registry ─ pull ──┐
//!  archive ─ import ─┼─► blobs/sha256/… + index.json ─► unpacked/<config digest>/   (lower of every container's overlay)
//!  host ─ build ─────┘        (one OCI layout)              (whiteouts applied)
//! ```
//!
//! One store serves all nodes of a machine: every write goes to a temporary name and is renamed, the
//! index is changed under a file lock. This room knows nothing of pods.
//! Spec: OCI image-spec 1.1 (layout, manifest, config, layer).

pub mod archive;
pub mod documents;
pub mod elf;
pub mod host;
pub mod layer;
pub mod nginx;
pub mod pull;
pub mod reference;
pub mod store;

use std::path::PathBuf;

pub use documents::ImageConfig;
pub use host::HostImage;
pub use nginx::nginx_from;
pub use pull::{PullOptions, StorePuller};
pub use reference::Reference;
pub use store::Store;

/// An image that can be run: unpacked, with the configuration its containers start from.
#[derive(Clone, Debug)]
pub struct Image {
    /// Full name, as `docker.io/library/nginx:latest`.
    pub reference: String,
    /// Digest of the manifest, `sha256:…`.
    pub digest: String,
    /// Digest of the configuration, `sha256:…`; what Kubernetes shows as imageID.
    pub id: String,
    /// The flattened root filesystem; read only by agreement.
    pub rootfs: PathBuf,
    /// What a container of it runs unless the pod says otherwise.
    pub config: ImageConfig,
}

/// A row of `image ls`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImageInfo {
    /// Full name.
    pub reference: String,
    /// Digest of the manifest.
    pub digest: String,
    /// Digest of the configuration.
    pub id: String,
    /// Sum of config and (compressed) layers in bytes.
    pub size_bytes: u64,
}

/// What can go wrong with an image; each names the image or file and what to do.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    /// A file of the store or of a source could not be used.
    #[error("cannot {action} {path}: {source}")]
    Io { action: &'static str, path: PathBuf, source: std::io::Error },
    /// A JSON document is not what the image spec says.
    #[error("{what} is not a valid {expected}: {source}")]
    Document { what: String, expected: &'static str, source: serde_json::Error },
    /// The name is no image name.
    #[error("image name {name:?} is not valid: {reason}")]
    Name { name: String, reason: &'static str },
    /// The blob's content is not what its name promises.
    #[error("{what}: content has digest {actual}, wanted {wanted}; fetch it again")]
    Digest { what: String, wanted: String, actual: String },
    /// A layer holds something that must not be written.
    #[error("layer entry {entry:?}: {reason}")]
    Layer { entry: String, reason: String },
    /// The archive is neither an OCI layout nor what `docker save` writes.
    #[error("{0}: no index.json (OCI layout) and no manifest.json (docker save) in it")]
    UnknownArchive(PathBuf),
    /// The archive's image has no name and none was given.
    #[error("{0}: its image carries no name; give one")]
    Unnamed(PathBuf),
    /// No image for this machine.
    #[error("{what}: no image for {platform} in it")]
    Platform { what: String, platform: String },
    /// Nothing of that name here.
    #[error("image {0:?} is not in the store")]
    NotFound(String),
    /// Nothing of that name here and nowhere to ask.
    #[error(
        "image {0:?} is not in the store and no registry is configured; portolan image import|pull|build-from-host"
    )]
    NoRegistry(String),
    /// The registry did not give it.
    #[error("cannot pull {reference:?} from {registry}: {reason}")]
    Registry { reference: String, registry: String, reason: String },
    /// A host program cannot be packed.
    #[error("cannot pack {program}: {reason}")]
    Pack { program: PathBuf, reason: String },
}

impl ImageError {
    pub(crate) fn io(action: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io { action, path, source }
    }
}
