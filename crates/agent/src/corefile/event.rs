//! One Event on the ConfigMap that was refused: every node finds the same, and one writes it.

use k8s_openapi::api::core::v1::{Event, EventSource, ObjectReference};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use k8s_openapi::jiff::Timestamp;
use kube::api::PostParams;
use kube::{Api, Client};
use tracing::warn;

use super::watch::MAIN;
use crate::pod_api::is_status;

const NAMESPACE: &str = "kube-system";
/// Longer messages are cut: API servers take 1024.
const MESSAGE_BYTES: usize = 1000;

/// Writes it, unless another node did.
pub(super) async fn write(client: &Client, node: &str, uid: Option<&str>, why: &str) {
    let events: Api<Event> = Api::namespaced(client.clone(), NAMESPACE);
    let event = event(node, uid.unwrap_or_default(), why, Timestamp::now());
    match events.create(&PostParams::default(), &event).await {
        Ok(_) => {}
        Err(error) if is_status(&error, &[409]) => {}
        Err(error) => warn!(%error, "the Event of a refused Corefile was not written"),
    }
}

pub(super) fn event(node: &str, uid: &str, why: &str, now: Timestamp) -> Event {
    let now = Time(now);
    let mut message = format!("{why}; the configuration before it stays in force");
    message.truncate(message.floor_char_boundary(MESSAGE_BYTES));
    Event {
        metadata: ObjectMeta {
            // The same on every node that finds the same.
            name: Some(format!("{MAIN}.{:016x}", fingerprint(uid, why))),
            namespace: Some(NAMESPACE.into()),
            ..ObjectMeta::default()
        },
        involved_object: ObjectReference {
            api_version: Some("v1".into()),
            kind: Some("ConfigMap".into()),
            name: Some(MAIN.into()),
            namespace: Some(NAMESPACE.into()),
            uid: Some(uid.into()),
            ..ObjectReference::default()
        },
        type_: Some("Warning".into()),
        reason: Some("CorefileRefused".into()),
        message: Some(message),
        source: Some(EventSource { component: Some("portolan-dns".into()), host: Some(node.into()) }),
        first_timestamp: Some(now.clone()),
        last_timestamp: Some(now),
        count: Some(1),
        ..Event::default()
    }
}

/// FNV-1a, 64 bit: alike in every version of the program, which std's hashes are not.
fn fingerprint(uid: &str, why: &str) -> u64 {
    let bytes = uid.bytes().chain([0]).chain(why.bytes());
    bytes.fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}
