//! The cluster as a stream of events: one watch per kind, each told whole before it counts as synced.
//!
//! ```text
//!  API server ──watch──► follow<K> ──► Input::Cluster(Value | Gone), then Input::Synced(kind)
//! ```
//!
//! A watch that breaks starts again with a fresh list; what is missing from that list is told as gone.

use std::collections::HashMap;
use std::fmt::Debug;

use futures::StreamExt;
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{self, watcher};
use kube::{Api, Client, Resource, ResourceExt};
use portolan_ingest::{Event, Object};
use portolan_model::ObjectKind;
use serde::de::DeserializeOwned;
use tracing::{debug, warn};

/// Where watch events go.
pub(crate) trait Sink: Send + Sync + 'static {
    /// One object's value, or that it is gone.
    fn event(&self, event: Event);
    /// All objects of `kind` have been told at least once.
    fn synced(&self, kind: ObjectKind);
}

/// Follows one kind until the process ends.
pub(crate) async fn follow<K>(
    client: Client,
    config: watcher::Config,
    kind: ObjectKind,
    wrap: fn(Box<K>) -> Object,
    sink: impl Sink,
) where
    K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug + Send + 'static,
{
    let mut stream = watcher(Api::<K>::all(client), config.streaming_lists()).default_backoff().boxed();
    let mut known: HashMap<(String, String), K> = HashMap::new();
    let mut listed: HashMap<(String, String), K> = HashMap::new();
    while let Some(event) = stream.next().await {
        match event {
            Ok(watcher::Event::Init) => listed.clear(),
            Ok(watcher::Event::InitApply(object)) => {
                sink.event(Event::Value(wrap(Box::new(object.clone()))));
                listed.insert(key(&object), stub(object));
            }
            Ok(watcher::Event::InitDone) => {
                for (_, object) in known.drain().filter(|(key, _)| !listed.contains_key(key)) {
                    sink.event(Event::Gone(wrap(Box::new(object))));
                }
                std::mem::swap(&mut known, &mut listed);
                debug!(kind = ?kind, objects = known.len(), "listed");
                sink.synced(kind);
            }
            Ok(watcher::Event::Apply(object)) => {
                sink.event(Event::Value(wrap(Box::new(object.clone()))));
                known.insert(key(&object), stub(object));
            }
            Ok(watcher::Event::Delete(object)) => {
                known.remove(&key(&object));
                sink.event(Event::Gone(wrap(Box::new(object))));
            }
            Err(error) => warn!(kind = ?kind, %error, "the watch broke; it starts again"),
        }
    }
}

fn key<K: Resource>(object: &K) -> (String, String) {
    (object.meta().namespace.clone().unwrap_or_default(), object.name_any())
}

/// Enough of an object to say later that it is gone.
fn stub<K: Resource>(mut object: K) -> K {
    let meta = object.meta_mut();
    meta.annotations = None;
    meta.managed_fields = None;
    object
}
