//! Images from a registry, over HTTPS or, for those named insecure, plain HTTP.
//!
//! No registry is contacted unless it is configured: a mirror for a registry, or a registry allowed by name.
//! Spec: OCI distribution-spec 1.1.

use std::collections::BTreeMap;
use std::error::Error;
use std::sync::Arc;

use futures::future::BoxFuture;
use oci_client::client::{ClientConfig, ClientProtocol};
use oci_client::errors::OciDistributionError;
use oci_client::manifest::OciDescriptor;
use oci_client::secrets::RegistryAuth;
use tokio::io::AsyncWriteExt;

use super::store::Store;
use super::{Image, ImageError, Reference};

/// Where images may come from. Empty: from nowhere.
#[derive(Clone, Debug, Default)]
pub struct PullOptions {
    /// Registry as images name it → registry to ask instead, as `docker.io` → `127.0.0.1:5000`.
    pub mirrors: BTreeMap<String, String>,
    /// Registries that may be asked under their own name.
    pub registries: Vec<String>,
    /// Registries spoken to without TLS.
    pub insecure: Vec<String>,
}

impl PullOptions {
    /// The registry to ask for images of `registry`.
    fn source_of(&self, registry: &str) -> Option<&str> {
        let mirror = self.mirrors.get(registry).map(String::as_str);
        mirror.or_else(|| {
            let allowed = self.registries.iter().find(|allowed| *allowed == registry);
            allowed.map(String::as_str)
        })
    }
}

/// Who fetches an image a pod asks for. A stored image is used whatever the pod's imagePullPolicy, so that
/// `:latest` works without a network; with `Always` and a configured registry it is fetched anew.
pub trait ImagePuller: Send + Sync {
    /// The image, from the store or from a registry.
    fn pull(&self, reference: &str, always: bool) -> BoxFuture<'_, Result<Image, ImageError>>;
    /// The image, if it is here already.
    fn find(&self, reference: &str) -> Option<Image>;
}

/// The usual [`ImagePuller`]: a store and the registries it may ask.
#[derive(Clone, Debug)]
pub struct StorePuller {
    pub store: Store,
    pub options: PullOptions,
}

impl ImagePuller for StorePuller {
    fn pull(&self, reference: &str, always: bool) -> BoxFuture<'_, Result<Image, ImageError>> {
        let reference = reference.to_owned();
        Box::pin(async move {
            let name = Reference::parse(&reference)?;
            let askable = self.options.source_of(&name.registry).is_some();
            let stored = self.find_blocking(&reference).await;
            match stored {
                Some(image) if !(always && askable) => Ok(image),
                Some(image) => match self.store.pull(&reference, &self.options).await {
                    Ok(fresh) => Ok(fresh),
                    Err(error) => {
                        tracing::warn!(%error, "registry did not answer; the stored image is used");
                        Ok(image)
                    }
                },
                None => self.store.pull(&reference, &self.options).await,
            }
        })
    }

    fn find(&self, reference: &str) -> Option<Image> {
        self.store.find(reference)
    }
}

impl StorePuller {
    /// Finding may unpack, which takes a while.
    async fn find_blocking(&self, reference: &str) -> Option<Image> {
        let (store, reference) = (self.store.clone(), reference.to_owned());
        tokio::task::spawn_blocking(move || store.find(&reference)).await.ok().flatten()
    }
}

impl Store {
    /// Fetches an image from the registry configured for it, and unpacks it.
    pub async fn pull(&self, reference: &str, options: &PullOptions) -> Result<Image, ImageError> {
        let name = Reference::parse(reference)?;
        let Some(source) = options.source_of(&name.registry) else {
            return Err(ImageError::NoRegistry(reference.to_owned()));
        };
        let failed = |reason: String| ImageError::Registry {
            reference: reference.to_owned(),
            registry: source.to_owned(),
            reason,
        };
        let client = client(options);
        let remote = remote_name(&name, source);
        let auth = RegistryAuth::Anonymous;
        let (manifest, digest) = client.pull_image_manifest(&remote, &auth).await.map_err(|error| {
            failed(first_answer_missing(&error, options.insecure.iter().any(|host| host == source)))
        })?;
        for part in [&manifest.config].into_iter().chain(&manifest.layers) {
            self.fetch_blob(&client, &remote, part).await.map_err(|error| match error {
                FetchError::Remote(reason) => failed(reason),
                FetchError::Store(error) => error,
            })?;
        }
        // Once more as bytes, so that it is stored under the digest the registry knows it by.
        let exact = oci_client::Reference::with_digest(source.to_owned(), name.repository.clone(), digest);
        let (raw, digest) =
            client.pull_manifest_raw(&exact, &auth, MANIFEST_TYPES).await.map_err(|error| failed(error.to_string()))?;
        let store = self.clone();
        tokio::task::spawn_blocking(move || store.adopt_pulled(&name, &raw, &digest))
            .await
            .expect("unpacking does not panic")
    }

    async fn fetch_blob(
        &self,
        client: &oci_client::Client,
        remote: &oci_client::Reference,
        part: &OciDescriptor,
    ) -> Result<(), FetchError> {
        if self.blob(&part.digest).exists() {
            return Ok(());
        }
        let path = self.temporary();
        let written = async {
            let mut file = tokio::fs::File::create(&path)
                .await
                .map_err(|error| FetchError::Store(ImageError::io("create", &path)(error)))?;
            client
                .pull_blob(remote, part, &mut file)
                .await
                .map_err(|error| FetchError::Remote(format!("blob {}: {error}", part.digest)))?;
            file.flush().await.map_err(|error| FetchError::Store(ImageError::io("write", &path)(error)))
        };
        let stored = written.await.and_then(|()| {
            let file = std::fs::File::open(&path).map_err(ImageError::io("open", &path));
            let stored = file.and_then(|file| self.put_stream(file, Some(&part.digest), &part.digest));
            stored.map(|_| ()).map_err(FetchError::Store)
        });
        let _ = std::fs::remove_file(&path);
        stored
    }

    fn adopt_pulled(&self, name: &Reference, manifest: &[u8], wanted: &str) -> Result<Image, ImageError> {
        let (digest, size) = self.put_stream(manifest, Some(wanted), "the manifest")?;
        tracing::debug!(%name, digest, "image pulled");
        self.adopt(name, &digest, size)
    }
}

const MANIFEST_TYPES: &[&str] =
    &["application/vnd.oci.image.manifest.v1+json", "application/vnd.docker.distribution.manifest.v2+json"];

enum FetchError {
    Remote(String),
    Store(ImageError),
}

/// Why the first request failed, down to the last cause. A registry that could not be spoken to may speak plain HTTP.
fn first_answer_missing(error: &OciDistributionError, is_insecure: bool) -> String {
    let mut reasons = vec![error.to_string()];
    let mut cause = error.source();
    while let Some(deeper) = cause {
        reasons.push(deeper.to_string());
        cause = deeper.source();
    }
    reasons.dedup();
    let unheard = matches!(error, OciDistributionError::RequestError(_));
    let hint = if unheard && !is_insecure { "; if it speaks plain HTTP, name it with --insecure" } else { "" };
    reasons.join(": ") + hint
}

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
        connect_timeout: Some(std::time::Duration::from_secs(10)),
        read_timeout: Some(std::time::Duration::from_secs(60)),
        ..ClientConfig::default()
    })
}

/// Shares a puller between pods.
pub type SharedPuller = Arc<dyn ImagePuller>;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::HostImage;
    use crate::image::documents::MEDIA_MANIFEST;
    use tokio::io::{AsyncBufReadExt, BufReader};
    use tokio::net::{TcpListener, TcpStream};

    /// A registry that gives out one store's blobs, on loopback; `spoil` adds a byte to each layer.
    async fn registry(store: Store, image: Image, spoil: bool) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("binds");
        let address = listener.local_addr().expect("bound").to_string();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(stream, store.clone(), image.clone(), spoil));
            }
        });
        address
    }

    async fn serve(stream: TcpStream, store: Store, image: Image, spoil: bool) {
        let mut stream = BufReader::new(stream);
        loop {
            let mut path = String::new();
            loop {
                let mut line = String::new();
                if stream.read_line(&mut line).await.unwrap_or(0) == 0 {
                    return;
                }
                if path.is_empty() {
                    path = line.split(' ').nth(1).expect("a request line").to_owned();
                }
                if line == "\r\n" {
                    break;
                }
            }
            let (kind, body) = match path.rsplit_once('/').expect("a path") {
                ("/v2/library/cat/manifests", _) => {
                    (MEDIA_MANIFEST, std::fs::read(store.blob(&image.digest)).expect("there"))
                }
                ("/v2/library/cat/blobs", digest) => {
                    let mut body = std::fs::read(store.blob(digest)).expect("there");
                    body.extend(spoil.then_some(0));
                    ("application/octet-stream", body)
                }
                _ => ("text/plain", Vec::new()),
            };
            let head = format!("HTTP/1.1 200 OK\r\ncontent-type: {kind}\r\ncontent-length: {}\r\n\r\n", body.len());
            if stream.write_all(head.as_bytes()).await.is_err() || stream.write_all(&body).await.is_err() {
                return;
            }
        }
    }

    async fn pulled(spoil: bool) -> (Image, Result<Image, ImageError>) {
        let (here, there) = (tempfile::tempdir().expect("temp"), tempfile::tempdir().expect("temp"));
        let origin = Store::open(there.path()).expect("opens");
        let spec = HostImage { name: "cat:1".into(), programs: vec!["/bin/cat".into()], ..HostImage::default() };
        let image = origin.build_from_host(&spec).expect("builds");
        let address = registry(origin, image.clone(), spoil).await;
        let options = PullOptions {
            mirrors: [("docker.io".to_owned(), address.clone())].into(),
            insecure: vec![address],
            ..PullOptions::default()
        };
        let puller = StorePuller { store: Store::open(here.path()).expect("opens"), options };
        let result = puller.pull("cat:1", false).await.inspect(|image| {
            assert!(image.rootfs.join("bin/cat").exists());
        });
        (image, result)
    }

    #[tokio::test]
    async fn an_image_comes_from_its_mirror_with_the_same_digest() {
        let (image, result) = pulled(false).await;
        let fetched = result.expect("pulled");
        assert_eq!((fetched.digest, fetched.id), (image.digest, image.id));
    }

    #[tokio::test]
    async fn a_spoiled_blob_is_refused() {
        let error = pulled(true).await.1.expect_err("refused").to_string();
        assert!(error.contains("digest"), "{error}");
    }

    #[tokio::test]
    async fn without_a_registry_nobody_is_asked_and_the_message_says_what_to_do() {
        let dir = tempfile::tempdir().expect("temp");
        let puller = StorePuller { store: Store::open(dir.path()).expect("opens"), options: PullOptions::default() };
        let error = puller.pull("nope:1", false).await.expect_err("not there").to_string();
        assert_eq!(
            error,
            "image \"nope:1\" is not in the store and no registry is configured; \
             portolan image import|pull|build-from-host"
        );
    }
}
