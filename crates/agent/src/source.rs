//! The cluster as a stream of events: one watch per kind, each told whole before it counts as synced.
//!
//! ```text
//!  API server ──watch──► follow<K> ──► Input::Cluster(Value | Gone), then Input::Synced(kind)
//! ```
//!
//! A watch that breaks starts again with a fresh list; what is missing from that list is told as gone.

use std::collections::HashMap;
use std::fmt::Debug;
use std::time::{Duration, Instant};

use futures::StreamExt;
use kube::runtime::WatchStreamExt;
use kube::runtime::utils::Backoff;
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
    /// Every change of `kind` up to this resourceVersion has been told.
    fn seen(&self, _kind: ObjectKind, _version: u64) {}
}

/// Follows one kind until the process ends.
pub(crate) async fn follow<K>(
    client: Client,
    config: watcher::Config,
    kind: ObjectKind,
    wrap: fn(Box<K>) -> Object,
    sink: impl Sink,
) where
    K: Resource<DynamicType = ()> + Clone + Default + DeserializeOwned + Debug + Send + 'static,
{
    let mut stream = watcher(Api::<K>::all(client), config.streaming_lists()).backoff(Pause::default()).boxed();
    let mut known: HashMap<Key, Uid> = HashMap::new();
    let mut listed: HashMap<Key, Uid> = HashMap::new();
    // A list comes in the order of names: its versions count when it is whole.
    let mut newest_listed = 0;
    while let Some(event) = stream.next().await {
        match event {
            Ok(watcher::Event::Init) => listed.clear(),
            Ok(watcher::Event::InitApply(object)) => {
                newest_listed = newest_listed.max(version(&object));
                listed.insert(key(&object), uid(&object));
                sink.event(Event::Value(wrap(Box::new(object))));
            }
            Ok(watcher::Event::InitDone) => {
                for (key, uid) in known.drain().filter(|(key, _)| !listed.contains_key(key)) {
                    sink.event(Event::Gone(wrap(Box::new(stub(key, uid)))));
                }
                std::mem::swap(&mut known, &mut listed);
                debug!(kind = ?kind, objects = known.len(), "listed");
                sink.synced(kind);
                sink.seen(kind, newest_listed);
            }
            Ok(watcher::Event::Apply(object)) => {
                let seen = version(&object);
                known.insert(key(&object), uid(&object));
                sink.event(Event::Value(wrap(Box::new(object))));
                sink.seen(kind, seen);
            }
            Ok(watcher::Event::Delete(object)) => {
                // That of its deletion.
                let seen = version(&object);
                known.remove(&key(&object));
                sink.event(Event::Gone(wrap(Box::new(object))));
                sink.seen(kind, seen);
            }
            Err(error) => warn!(kind = ?kind, %error, "the watch broke; it starts again"),
        }
    }
}

/// Between two attempts at a watch: soon at first, and never so long that a server which is back waits to be found.
#[derive(Default)]
pub(crate) struct Pause {
    tries: u32,
    last: Option<Instant>,
}

const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(3);
/// A watch that held this long is a good one.
const FORGIVEN_AFTER: Duration = Duration::from_secs(10);

impl Iterator for Pause {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        let last = self.last.replace(Instant::now());
        if last.is_none_or(|last| last.elapsed() > FORGIVEN_AFTER) {
            self.tries = 0;
        }
        let pause = FIRST_PAUSE * 2u32.pow(self.tries.min(5));
        self.tries += 1;
        Some(pause.min(LONGEST_PAUSE))
    }
}

impl Backoff for Pause {
    /// Called after any good event, and "a list begins" is one even if the list then fails: so only time forgives.
    fn reset(&mut self) {}
}

/// Namespace and name.
type Key = (String, String);
type Uid = Option<String>;

fn key<K: Resource>(object: &K) -> Key {
    (object.meta().namespace.clone().unwrap_or_default(), object.name_any())
}

/// 0 for one that is no number: nothing is said by it then.
fn version<K: Resource>(object: &K) -> u64 {
    object.resource_version().and_then(|text| text.parse().ok()).unwrap_or(0)
}

fn uid<K: Resource>(object: &K) -> Uid {
    object.meta().uid.clone()
}

/// Enough of an object to say that it is gone. All that is remembered of one is its key and uid: a thousand whole Services
/// and their slices are megabytes.
fn stub<K: Resource<DynamicType = ()> + Default>((namespace, name): Key, uid: Uid) -> K {
    let mut object = K::default();
    let meta = object.meta_mut();
    meta.namespace = (!namespace.is_empty()).then_some(namespace);
    (meta.name, meta.uid) = (Some(name), uid);
    object
}
