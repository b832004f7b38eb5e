//! The conversation with a registry: manifest, platform, blobs, each checked against its digest and its size.
//!
//! ```text
//!  name ─► manifest ─┬─► image manifest ──────────────────────────► configuration, layers ─► blobs of the store
//!                    └─► manifest list ─► the one for this machine ─┘
//! ```
//!
//! Nothing here names an image: what a conversation that broke off left is collected. Over HTTPS, or plain HTTP with
//! those named insecure. Spec: OCI distribution-spec 1.1.

use std::error::Error;
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use futures::{StreamExt, TryStreamExt, stream};
use oci_client::client::{ClientConfig, ClientProtocol};
use oci_client::errors::{OciDistributionError, OciErrorCode};
use oci_client::manifest::OciDescriptor;
use oci_client::secrets::RegistryAuth;
use serde::{Deserialize, Serialize};

use super::documents::{
    ConfigFile, Descriptor, Index, MEDIA_DOCKER_LIST, MEDIA_DOCKER_MANIFEST, MEDIA_INDEX, MEDIA_MANIFEST, Manifest,
    choose, for_this_machine,
};
use super::login::Login;
use super::progress::Progress;
use super::pull::PullOptions;
use super::store::{Incoming, Store};
use super::{ImageError, Reference};

const MEDIA_TYPES: &[&str] = &[MEDIA_MANIFEST, MEDIA_INDEX, MEDIA_DOCKER_MANIFEST, MEDIA_DOCKER_LIST];
/// As Docker and containerd have it.
const LARGEST_MANIFEST_BYTES: usize = 4 << 20;
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Without a byte.
const READ_TIMEOUT: Duration = Duration::from_secs(60);
/// Blobs of one image at once, as Docker does.
const PARALLEL: usize = 3;

/// An image whose blobs are all in the store, under no name yet.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fetched {
    /// Of the manifest for this machine.
    pub digest: String,
    /// Of that manifest.
    pub size_bytes: u64,
}

impl Store {
    /// Brings an image's blobs here. The caller holds [`Store::writing`].
    pub(super) async fn fetch(
        &self,
        reference: &str,
        options: &PullOptions,
        logins: &[Login],
        progress: Arc<dyn Progress>,
    ) -> Result<Fetched, ImageError> {
        let name = Reference::parse(reference)?;
        let Some(source) = options.source_of(&name.registry) else {
            return Err(ImageError::NoRegistry { reference: reference.to_owned(), registry: name.registry });
        };
        let talk = Talk::new(reference, &name, source, options, logins);
        let (manifest, fetched) = talk.manifest(self, &name).await?;
        self.check_room(reference, &manifest)?;
        talk.blob(self, &manifest.config, &*progress).await?;
        let config: ConfigFile = self.document(&manifest.config.digest, "image configuration")?;
        for_this_machine(reference, &config)?;
        let mut layers: Vec<BoxFuture<'_, Result<(), ImageError>>> = Vec::new();
        for layer in &manifest.layers {
            layers.push(Box::pin(talk.blob(self, layer, &*progress)));
        }
        stream::iter(layers).buffer_unordered(PARALLEL).try_collect::<()>().await?;
        Ok(fetched)
    }

    /// An image larger than the free space is refused before it fills the disk.
    fn check_room(&self, reference: &str, manifest: &Manifest) -> Result<(), ImageError> {
        let parts = [&manifest.config].into_iter().chain(&manifest.layers);
        let missing = parts.filter(|part| !self.has_blob(part)).map(|part| part.size);
        let needed = missing.fold(0_u64, u64::saturating_add);
        let free = self.free_bytes();
        if free.is_some_and(|free| needed > free) {
            let free = free.unwrap_or_default();
            return Err(ImageError::NoRoom { image: reference.to_owned(), needed, free, dir: self.dir().to_owned() });
        }
        Ok(())
    }
}

/// One image's conversation with one registry.
struct Talk<'a> {
    client: oci_client::Client,
    remote: oci_client::Reference,
    auth: RegistryAuth,
    reference: &'a str,
    source: &'a str,
    is_insecure: bool,
}

impl<'a> Talk<'a> {
    fn new(reference: &'a str, name: &Reference, source: &'a str, options: &PullOptions, logins: &[Login]) -> Talk<'a> {
        let login = logins.iter().find(|login| login.registry == source);
        let auth = login.map(|login| RegistryAuth::Basic(login.user.clone(), login.password.clone()));
        Talk {
            client: client(options),
            remote: remote_name(name, source),
            auth: auth.unwrap_or(RegistryAuth::Anonymous),
            reference,
            source,
            is_insecure: options.insecure.iter().any(|host| host == source),
        }
    }

    fn failed(&self, reason: impl Into<String>) -> ImageError {
        let (reference, registry) = (self.reference.to_owned(), self.source.to_owned());
        ImageError::Registry { reference, registry, reason: reason.into() }
    }

    /// The manifest for this machine, stored under the digest the registry knows it by.
    async fn manifest(&self, store: &Store, name: &Reference) -> Result<(Manifest, Fetched), ImageError> {
        let first = self.raw_manifest(&self.remote).await?;
        if let Some(wanted) = &name.digest {
            store.put_stream(&first[..], Some(wanted), "the manifest")?;
        }
        let Kind::List(index) = self.kind_of(&first)? else {
            return self.keep_manifest(store, &first, None);
        };
        let chosen = choose(&index, self.reference)?;
        let exact = self.remote.clone_with_digest(chosen.digest.clone());
        let second = self.raw_manifest(&exact).await?;
        self.keep_manifest(store, &second, Some(&chosen.digest))
    }

    fn keep_manifest(
        &self,
        store: &Store,
        bytes: &[u8],
        wanted: Option<&str>,
    ) -> Result<(Manifest, Fetched), ImageError> {
        let Kind::Image(manifest) = self.kind_of(bytes)? else {
            return Err(self.failed("its manifest list names another list where an image should be"));
        };
        let (digest, size_bytes) = store.put_stream(bytes, wanted, "the manifest")?;
        Ok((manifest, Fetched { digest, size_bytes }))
    }

    async fn raw_manifest(&self, remote: &oci_client::Reference) -> Result<Vec<u8>, ImageError> {
        let pulled = self.client.pull_manifest_raw(remote, &self.auth, MEDIA_TYPES).await;
        let (bytes, _) = pulled.map_err(|error| self.failed(reason(&error, self.is_insecure)))?;
        if bytes.len() > LARGEST_MANIFEST_BYTES {
            return Err(self.failed(format!("its manifest has {} bytes; 4 MiB is the most there may be", bytes.len())));
        }
        Ok(bytes.to_vec())
    }

    fn kind_of(&self, bytes: &[u8]) -> Result<Kind, ImageError> {
        let known: Versioned = serde_json::from_slice(bytes)
            .map_err(|error| self.failed(format!("what it has under that name is no manifest: {error}")))?;
        let what = format!("manifest of {}", self.reference);
        match known {
            Versioned { schema_version: 1, .. } => {
                Err(self.failed("its manifest is of schema 1, which no tool has written since 2017; push it anew"))
            }
            Versioned { manifests: Some(_), .. } => Index::read(bytes, &what).map(Kind::List),
            Versioned { layers: Some(_), .. } => Manifest::read(bytes, &what).map(Kind::Image),
            _ => Err(self.failed("what it has under that name is neither an image nor a list of images")),
        }
    }

    /// One blob into the store, unless it is there.
    async fn blob(&self, store: &Store, part: &Descriptor, progress: &dyn Progress) -> Result<(), ImageError> {
        progress.begins(&part.digest, part.size);
        if store.has_blob(part) {
            progress.done(&part.digest);
            return Ok(());
        }
        let failed = |reason: String| self.failed(format!("blob {}: {reason}", part.digest));
        let wanted = OciDescriptor { digest: part.digest.clone(), ..OciDescriptor::default() };
        let pulled = self.client.pull_blob_stream(&self.remote, &wanted).await;
        let mut chunks = pulled.map_err(|error| failed(reason(&error, self.is_insecure)))?.stream;
        let mut incoming = Incoming::begin(store)?;
        while let Some(chunk) = chunks.next().await {
            let chunk = chunk.map_err(|error| failed(error.to_string()))?;
            if incoming.size_bytes() + chunk.len() as u64 > part.size {
                return Err(failed(format!("it is longer than the {} bytes that the manifest says", part.size)));
            }
            incoming.write(&chunk)?;
            progress.arrived(&part.digest, chunk.len() as u64);
        }
        if incoming.size_bytes() < part.size {
            let (size, wanted) = (incoming.size_bytes(), part.size);
            return Err(failed(format!("it ended after {size} of {wanted} bytes; try again")));
        }
        incoming.keep(Some(&part.digest), &part.digest)?;
        progress.done(&part.digest);
        Ok(())
    }
}

enum Kind {
    Image(Manifest),
    List(Index),
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Versioned {
    #[serde(default)]
    schema_version: u32,
    manifests: Option<serde::de::IgnoredAny>,
    layers: Option<serde::de::IgnoredAny>,
}

/// Why a request failed, down to the last cause. A registry that could not be spoken to may speak plain HTTP.
fn reason(error: &OciDistributionError, is_insecure: bool) -> String {
    match error {
        OciDistributionError::RegistryError { envelope, .. } => {
            let has = |codes: &[OciErrorCode]| envelope.errors.iter().any(|error| codes.contains(&error.code));
            if has(&[OciErrorCode::ManifestUnknown, OciErrorCode::NameUnknown, OciErrorCode::NotFound]) {
                return "not found".to_owned();
            }
            if has(&[OciErrorCode::Unauthorized, OciErrorCode::Denied]) {
                return DENIED.to_owned();
            }
        }
        OciDistributionError::UnauthorizedError { .. } | OciDistributionError::AuthenticationFailure(_) => {
            return DENIED.to_owned();
        }
        _ => {}
    }
    let mut reasons = vec![error.to_string()];
    let mut cause = error.source();
    while let Some(deeper) = cause {
        reasons.push(deeper.to_string());
        cause = deeper.source();
    }
    reasons.dedup();
    let unheard = matches!(error, OciDistributionError::RequestError(_));
    let hint = if unheard && !is_insecure { "; if it speaks plain HTTP, name it with --insecure-registry" } else { "" };
    // A registry's own words may be a page.
    reasons.join(": ").replace('\n', " ") + hint
}

const DENIED: &str = "access denied: it does not exist, or needs a login (imagePullSecrets, or --auth-file)";

fn remote_name(name: &Reference, source: &str) -> oci_client::Reference {
    let (source, repository) = (source.to_owned(), name.repository.clone());
    match (&name.digest, &name.tag) {
        (Some(digest), _) => oci_client::Reference::with_digest(source, repository, digest.clone()),
        (None, tag) => {
            let tag = tag.clone().unwrap_or_else(|| "latest".to_owned());
            oci_client::Reference::with_tag(source, repository, tag)
        }
    }
}

fn client(options: &PullOptions) -> oci_client::Client {
    // The first to install one wins; that another room did so before is fine.
    let _ = rustls::crypto::ring::default_provider().install_default();
    oci_client::Client::new(ClientConfig {
        protocol: ClientProtocol::HttpsExcept(options.insecure.clone()),
        connect_timeout: Some(CONNECT_TIMEOUT),
        read_timeout: Some(READ_TIMEOUT),
        ..ClientConfig::default()
    })
}
