//! Pod templates: their identity, and the ReplicaSet made from one.

use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet, ReplicaSetSpec};
use k8s_openapi::api::core::v1::PodTemplateSpec;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta};
use sha2::{Digest, Sha256};

use super::{DESIRED_REPLICAS, LAST_APPLIED, MAX_REPLICAS, REVISION, TEMPLATE_HASH};
use crate::object::{Kind, to_value};
use crate::owner;
use crate::selector::Labels;

/// Letters and digits that form no words: Kubernetes' alphabet for made names.
const SAFE_ALPHABET: &[u8; 27] = b"bcdfghjklmnpqrstvwxz2456789";

/// Whether two templates make the same pods; the hash label is ours and does not count.
pub fn is_same(a: &PodTemplateSpec, b: &PodTemplateSpec) -> bool {
    let labels = |template: &PodTemplateSpec| {
        let meta = template.metadata.clone().unwrap_or_default();
        let mut labels = meta.labels.unwrap_or_default();
        labels.remove(TEMPLATE_HASH);
        let annotations = meta.annotations.unwrap_or_default();
        (labels, annotations)
    };
    a.spec == b.spec && labels(a) == labels(b)
}

/// Hash of a template, ten letters at most; another `collision` gives another hash.
pub fn hash(template: &PodTemplateSpec, collision: i32) -> String {
    let mut hasher = Sha256::new();
    hasher.update(to_value(template).to_string());
    hasher.update(collision.to_be_bytes());
    let digest = hasher.finalize();
    let number = u32::from_be_bytes([digest[0], digest[1], digest[2], digest[3]]);
    let letters = number.to_string();
    let letters = letters.bytes().map(|digit| {
        let index = usize::from(digit) % SAFE_ALPHABET.len();
        char::from(SAFE_ALPHABET[index])
    });
    letters.collect()
}

/// The Deployment's annotations that its sets carry too.
pub fn copied_annotations(deployment: &Deployment) -> Labels {
    let own = [REVISION, LAST_APPLIED, DESIRED_REPLICAS, MAX_REPLICAS];
    let annotations = deployment.metadata.annotations.clone().unwrap_or_default();
    let copied = annotations.into_iter().filter(|(key, _)| !own.contains(&key.as_str()));
    copied.collect()
}

/// The ReplicaSet of the Deployment's current template.
pub fn replica_set(deployment: &Deployment, replicas: i32, revision: &str, max_replicas: i32) -> ReplicaSet {
    let spec = deployment.spec.clone().unwrap_or_default();
    let status = deployment.status.as_ref();
    let collision = status.and_then(|status| status.collision_count);
    let hash = hash(&spec.template, collision.unwrap_or(0));
    let name = deployment.metadata.name.as_deref().unwrap_or_default();

    let mut template = spec.template;
    let labels = template.metadata.get_or_insert_default();
    let labels = labels.labels.get_or_insert_default();
    labels.insert(TEMPLATE_HASH.to_owned(), hash.clone());
    let labels = labels.clone();

    let mut annotations = copied_annotations(deployment);
    annotations.insert(REVISION.to_owned(), revision.to_owned());
    let desired = spec.replicas.unwrap_or(1).to_string();
    annotations.insert(DESIRED_REPLICAS.to_owned(), desired);
    annotations.insert(MAX_REPLICAS.to_owned(), max_replicas.to_string());

    ReplicaSet {
        metadata: ObjectMeta {
            name: Some(format!("{name}-{hash}")),
            namespace: deployment.metadata.namespace.clone(),
            labels: Some(labels),
            annotations: Some(annotations),
            owner_references: Some(vec![owner::controller_reference(Kind::Deployment, &deployment.metadata)]),
            ..ObjectMeta::default()
        },
        spec: Some(ReplicaSetSpec {
            min_ready_seconds: spec.min_ready_seconds,
            replicas: Some(replicas),
            selector: with_hash(spec.selector, &hash),
            template: Some(template),
        }),
        status: None,
    }
}

fn with_hash(mut selector: LabelSelector, hash: &str) -> LabelSelector {
    let labels = selector.match_labels.get_or_insert_default();
    labels.insert(TEMPLATE_HASH.to_owned(), hash.to_owned());
    selector
}
