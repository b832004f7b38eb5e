//! Who may be asked for an image, and who fetches it for a pod.
//!
//! ```text
//!  pod ─► kubelet ─► StorePuller ─┬─► store: it is here
//!                                 ├─► registry (on a node that reaches one)
//!                                 └─► broker ─► registry (a lab's nodes reach none; see `broker`)
//! ```
//!
//! No registry is asked unless it is configured: by name, by a mirror, or as one that speaks plain HTTP.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use futures::future::BoxFuture;

use super::login::Login;
use super::progress::{Progress, Silent};
use super::store::Store;
use super::{Image, ImageError, Reference, broker};

/// Among [`PullOptions::registries`]: every registry that an image names may be asked.
pub const ANY_REGISTRY: &str = "any";

/// Where images may come from. Empty: from nowhere.
#[derive(Clone, Debug, Default)]
pub struct PullOptions {
    /// Registry as images name it → registry to ask instead, as `docker.io` → `127.0.0.1:5000`.
    pub mirrors: BTreeMap<String, String>,
    /// Registries that may be asked under their own name, or [`ANY_REGISTRY`].
    pub registries: Vec<String>,
    /// Registries spoken to without TLS; they may be asked as well.
    pub insecure: Vec<String>,
}

impl PullOptions {
    /// The registry to ask for images of `registry`; `None`: nobody.
    pub fn source_of<'own>(&'own self, registry: &'own str) -> Option<&'own str> {
        let allowed = || {
            let mut named = self.registries.iter().chain(&self.insecure);
            named.any(|name| name == registry || name == ANY_REGISTRY)
        };
        self.mirrors.get(registry).map(String::as_str).or_else(|| allowed().then_some(registry))
    }
}

/// Who has or fetches the image that a pod asks for.
pub trait ImagePuller: Send + Sync {
    /// The image, if it is here already.
    fn find(&self, reference: &str) -> BoxFuture<'_, Option<Image>>;
    /// Whether there is a registry to ask for it.
    fn may_ask(&self, reference: &str) -> bool;
    /// The image as its registry has it now.
    fn pull(&self, reference: &str, logins: Vec<Login>) -> BoxFuture<'_, Result<Image, ImageError>>;
}

/// Shares a puller between pods.
pub type SharedPuller = Arc<dyn ImagePuller>;

/// The usual [`ImagePuller`]: a store, the registries it may ask, and who asks them.
#[derive(Clone, Debug)]
pub struct StorePuller {
    pub store: Store,
    pub options: PullOptions,
    /// Socket of the broker that fetches; `None`: this process reaches the registries itself.
    pub broker: Option<PathBuf>,
}

impl ImagePuller for StorePuller {
    fn find(&self, reference: &str) -> BoxFuture<'_, Option<Image>> {
        let (store, reference) = (self.store.clone(), reference.to_owned());
        // Finding may unpack, which takes a while.
        Box::pin(async move { tokio::task::spawn_blocking(move || store.find(&reference)).await.ok().flatten() })
    }

    fn may_ask(&self, reference: &str) -> bool {
        // A name that is no name is the pull's to refuse.
        Reference::parse(reference).map_or(true, |name| self.options.source_of(&name.registry).is_some())
    }

    fn pull(&self, reference: &str, logins: Vec<Login>) -> BoxFuture<'_, Result<Image, ImageError>> {
        let reference = reference.to_owned();
        Box::pin(async move {
            let Some(socket) = &self.broker else {
                return self.store.pull(&reference, &self.options, &logins, Arc::new(Silent)).await;
            };
            let name = Reference::parse(&reference)?;
            if self.options.source_of(&name.registry).is_none() {
                return Err(ImageError::NoRegistry { reference, registry: name.registry });
            }
            let writing = self.store.writing()?;
            let fetched = broker::ask(socket, &reference, logins).await?;
            self.store.take_fetched(name, fetched, writing).await
        })
    }
}

impl Store {
    /// Fetches an image from the registry configured for it, unpacks and names it.
    ///
    /// # Errors
    /// No registry may be asked, it does not give the image, or the image is not what its digests say; then nothing
    /// is named.
    pub async fn pull(
        &self,
        reference: &str,
        options: &PullOptions,
        logins: &[Login],
        progress: Arc<dyn Progress>,
    ) -> Result<Image, ImageError> {
        let name = Reference::parse(reference)?;
        let writing = self.writing()?;
        match self.fetch(reference, options, logins, progress).await {
            Ok(fetched) => self.take_fetched(name, fetched, writing).await,
            Err(error) => {
                self.clear_failed(writing);
                Err(error)
            }
        }
    }

    /// What a failed attempt left is nobody's.
    pub(super) fn clear_failed(&self, writing: super::guard::Writing) {
        drop(writing);
        // Left for the next time if that fails.
        let _ = self.collect();
    }

    /// Unpacks and names what was fetched.
    async fn take_fetched(
        &self,
        name: Reference,
        fetched: super::remote::Fetched,
        writing: super::guard::Writing,
    ) -> Result<Image, ImageError> {
        let store = self.clone();
        let taken = tokio::task::spawn_blocking(move || {
            let image = store.adopt(&name, &fetched.digest, fetched.size_bytes);
            if image.is_err() {
                store.clear_failed(writing);
            }
            image
        });
        taken.await.expect("unpacking does not panic")
    }
}

#[cfg(test)]
#[path = "pull_tests.rs"]
mod tests;
