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
pub mod broker;
pub mod documents;
pub mod elf;
pub mod guard;
pub mod host;
pub mod layer;
pub mod login;
pub mod nginx;
pub mod owners;
pub mod progress;
pub mod pull;
pub mod reference;
mod remote;
pub mod store;
mod zstd;

use std::path::PathBuf;

pub use documents::ImageConfig;
pub use guard::InUse;
pub use host::HostImage;
pub use login::Login;
pub use nginx::nginx_from;
pub use progress::{Progress, Silent};
pub use pull::{ANY_REGISTRY, PullOptions, StorePuller};
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
    /// Configuration and (compressed) layers in bytes.
    pub size_bytes: u64,
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
    #[error("{0}: its image carries no name; give it one with --name")]
    Unnamed(PathBuf),
    /// One name for several images.
    #[error("{path}: {count} images are in it, and --name is for one; import it without")]
    SeveralImages { path: PathBuf, count: usize },
    /// No image for this machine.
    #[error("{what}: no image for {platform} in it; it offers {offered}")]
    Platform { what: String, platform: String, offered: String },
    /// A document that is something else, as a chart.
    #[error("{what} is not of a container image: {reason}")]
    NoImage { what: String, reason: String },
    /// What should name a blob cannot.
    #[error("{what}: {digest:?} is no digest; sha256: and 64 lower-case hexadecimal digits are")]
    BadDigest { what: String, digest: String },
    /// It would fill the disk.
    #[error("{image} needs {needed} more bytes, and {dir} has {free} free; make room or use another --image-store")]
    NoRoom { image: String, needed: u64, free: u64, dir: PathBuf },
    /// A container runs from it.
    #[error("image {0:?} is used by a running container; delete its pods, or take the lab down, and try again")]
    InUse(String),
    /// Who fetches for us did not answer.
    #[error("cannot ask for the image over {socket}: {source}; it is started anew, try again")]
    Broker { socket: PathBuf, source: std::io::Error },
    /// Who fetches for us failed, in its own words.
    #[error("{0}")]
    Told(String),
    /// Nothing of that name here.
    #[error("image {0:?} is not in the store")]
    NotFound(String),
    /// Nothing of that name here, and it must not be fetched. kubelet's words.
    #[error("Container image {0:?} is not present with pull policy of Never")]
    NeverPull(String),
    /// Nothing of that name here and nowhere to ask.
    #[error(
        "image {reference:?} is not in the store, and {registry} is no registry that may be asked: bring the image with \
         portolan image import|pull|build-from-host, or name the registry with --registry or --registry-mirror"
    )]
    NoRegistry { reference: String, registry: String },
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
