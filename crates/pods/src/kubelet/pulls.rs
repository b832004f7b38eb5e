//! An image for a container: from the store or from its registry as the imagePullPolicy says, told in kubelet's events.
//!
//! | policy | in the store | not in the store |
//! |---|---|---|
//! | `IfNotPresent` | taken | pulled |
//! | `Always` | pulled; taken only if no registry may be asked | pulled |
//! | `Never` | taken | ErrImageNeverPull |
//!
//! Source: kubelet's image manager, Kubernetes 1.33; "Images" in Kubernetes' documentation.

use std::sync::Arc;
use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::Pod;

use super::Shared;
use crate::ident::PodIdent;
use crate::image::login::{Login, logins_of};
use crate::image::{Image, ImageError, Reference};
use crate::lifecycle::PullPolicy;

/// One container's wish.
pub(super) struct Wish {
    pub(super) ident: PodIdent,
    pub(super) image: String,
    pub(super) policy: PullPolicy,
    /// Secrets named by the pod.
    pub(super) secrets: Vec<String>,
}

impl Wish {
    pub(super) fn new(ident: &PodIdent, pod: &Pod, image: String, policy: PullPolicy) -> Wish {
        let named = pod.spec.iter().flat_map(|spec| spec.image_pull_secrets.iter().flatten());
        Wish { ident: ident.clone(), image, policy, secrets: named.map(|secret| secret.name.clone()).collect() }
    }
}

/// Takes or fetches the image; the events of a failure are the worker's to tell, with the status.
pub(super) async fn obtain(shared: Arc<Shared>, wish: Wish) -> Result<Image, ImageError> {
    let Wish { ident, image, policy, secrets } = wish;
    Reference::parse(&image)?;
    let puller = &shared.config.puller;
    let asks_first = policy == PullPolicy::Always && puller.may_ask(&image);
    if !asks_first && let Some(found) = puller.find(&image).await {
        let message = format!("Container image {image:?} already present on machine");
        shared.event(&ident, "Normal", "Pulled", &message);
        return Ok(found);
    }
    if policy == PullPolicy::Never {
        return Err(ImageError::NeverPull(image));
    }
    shared.event(&ident, "Normal", "Pulling", &format!("Pulling image {image:?}"));
    let begun = Instant::now();
    let logins = logins(&shared, &ident, &secrets).await;
    let pulled = puller.pull(&image, logins).await?;
    shared.event(&ident, "Normal", "Pulled", &pulled_message(&image, begun.elapsed(), pulled.size_bytes));
    Ok(pulled)
}

fn pulled_message(image: &str, took: Duration, size_bytes: u64) -> String {
    let took = Duration::from_millis(u64::try_from(took.as_millis()).unwrap_or(u64::MAX));
    format!(
        "Successfully pulled image {image:?} in {took:?} ({took:?} including waiting). Image size: {size_bytes} bytes."
    )
}

/// The logins of the pod's Secrets; those that cannot be read are told of and left out.
async fn logins(shared: &Shared, ident: &PodIdent, names: &[String]) -> Vec<Login> {
    let mut logins = Vec::new();
    let mut missing = Vec::new();
    for name in names {
        match login_of(shared, ident, name).await {
            Ok(found) => logins.extend(found),
            Err(reason) => {
                tracing::debug!(pod = %ident, secret = name, reason, "no login");
                missing.push(name.as_str());
            }
        }
    }
    if !missing.is_empty() {
        let missing = missing.join(", ");
        let message = format!(
            "Unable to retrieve some image pull secrets ({missing}); attempting to pull the image may not succeed."
        );
        shared.event(ident, "Warning", "FailedToRetrieveImagePullSecret", &message);
    }
    logins
}

async fn login_of(shared: &Shared, ident: &PodIdent, name: &str) -> Result<Vec<Login>, String> {
    let secret = shared.api.secret(&ident.namespace, name).await?.ok_or("there is no such Secret")?;
    let data = secret.data.unwrap_or_default();
    let config = data.get(".dockerconfigjson").ok_or("it has no .dockerconfigjson")?;
    logins_of(&config.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pull_is_told_as_kubelet_tells_it() {
        assert_eq!(
            pulled_message("nginx:1", Duration::from_micros(1_234_567), 42),
            "Successfully pulled image \"nginx:1\" in 1.234s (1.234s including waiting). Image size: 42 bytes."
        );
    }
}
