//! What the zones are made of, kept up to date: objects in, snapshots with what changed out. Pure.
//!
//! ```text
//!  files ──► proxy::files ──┐
//!                           ├─► Feed::take ──► Snapshot + Delta ──► nameserver
//!  cluster ──► agent::dns ──┘
//! ```

use std::collections::BTreeSet;
use std::sync::Arc;

use portolan_ingest::{Event, Object, ingest};
use portolan_model::{Complaint, Delta, Fact, Facts, ObjectKind, Settings, Snapshot, Text, Touched, resolve};

/// Who says which namespaces there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Namespaces {
    /// Their own objects alone: a cluster has them all.
    Told,
    /// A namespace that an object is in exists too: files seldom name it.
    Used,
}

/// Facts and what follows from them.
pub struct Feed {
    namespaces: Namespaces,
    facts: Facts,
    /// Namespaces that have an object of their own.
    declared: BTreeSet<Text>,
    snapshot: Arc<Snapshot>,
    /// Kinds that were not told whole yet.
    missing: BTreeSet<ObjectKind>,
}

/// What a batch of events made.
pub struct News {
    pub snapshot: Arc<Snapshot>,
    pub delta: Delta,
    /// All that was waited for has been told at least once.
    pub whole: bool,
    pub complaints: Vec<Complaint>,
}

impl Feed {
    /// Of a cluster nobody told anything of; whole when each of `needed` was told whole.
    pub fn new(settings: Settings, namespaces: Namespaces, needed: impl IntoIterator<Item = ObjectKind>) -> Self {
        Self {
            namespaces,
            facts: Facts::default(),
            declared: BTreeSet::new(),
            snapshot: Arc::new(Snapshot::empty(Arc::new(settings))),
            missing: needed.into_iter().collect(),
        }
    }

    /// As it is now.
    pub fn snapshot(&self) -> &Arc<Snapshot> {
        &self.snapshot
    }

    /// Kinds that were not told whole yet.
    pub fn missing(&self) -> impl Iterator<Item = ObjectKind> {
        self.missing.iter().copied()
    }

    /// Takes a batch of events in, as one step.
    pub fn take(&mut self, events: Vec<Event>, synced: impl IntoIterator<Item = ObjectKind>) -> News {
        for kind in synced {
            self.missing.remove(&kind);
        }
        for event in &events {
            match event {
                Event::Value(object @ Object::Namespace(_)) => self.declared.insert(object.reference().key.name),
                Event::Gone(object @ Object::Namespace(_)) => self.declared.remove(&object.reference().key.name),
                _ => false,
            };
        }
        let (mut touched, complaints) = ingest(&mut self.facts, events);
        if self.namespaces == Namespaces::Used {
            touched.merge(self.exist_as_used());
        }
        let (snapshot, delta) = resolve(&self.facts, &self.snapshot, &touched);
        self.snapshot = Arc::new(snapshot);
        News { snapshot: self.snapshot.clone(), delta, whole: self.missing.is_empty(), complaints }
    }

    fn exist_as_used(&mut self) -> Touched {
        let facts = &self.facts;
        let keys = facts.services.keys().chain(facts.slices.keys()).chain(facts.pods.keys());
        let mut wanted: BTreeSet<Text> = keys.map(|key| key.namespace.clone()).collect();
        wanted.extend(self.declared.iter().cloned());
        let left: Vec<Text> = facts.namespaces.iter().filter(|name| !wanted.contains(*name)).cloned().collect();
        let left = left.into_iter().map(|name| Fact::Namespace(name, None));
        let there = wanted.into_iter().map(|name| Fact::Namespace(name, Some(())));
        self.facts.apply_all(left.chain(there))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::ClusterArgs;
    use clap::Parser;
    use serde_json::json;

    #[derive(Parser)]
    struct Flags {
        #[command(flatten)]
        cluster: ClusterArgs,
    }

    fn settings() -> Settings {
        Flags::parse_from(["x"]).cluster.settings("files")
    }

    fn object(kind: &str, namespace: &str, name: &str) -> Object {
        let value = json!({"apiVersion": "v1", "kind": kind, "metadata": {"name": name, "namespace": namespace},
            "spec": {"clusterIP": "10.96.0.7", "clusterIPs": ["10.96.0.7"], "ports": [{"port": 80}]}});
        let value = match kind {
            "Namespace" => json!({"apiVersion": "v1", "kind": kind, "metadata": {"name": name}}),
            _ => value,
        };
        Object::from_value(&value).expect("it has the shape").expect("it carries facts")
    }

    #[test]
    fn a_namespace_exists_in_files_as_long_as_an_object_is_in_it_or_names_it() {
        let mut feed = Feed::new(settings(), Namespaces::Used, []);
        let names = |news: &News| news.snapshot.namespaces.iter().map(ToString::to_string).collect::<Vec<_>>();
        let service = object("Service", "shop", "web");
        let declared = object("Namespace", "", "empty");
        let news = feed.take(vec![Event::Value(service.clone()), Event::Value(declared.clone())], []);
        assert_eq!(names(&news), ["empty", "shop"]);
        assert_eq!(news.delta.services.len(), 1);
        assert!(news.whole, "nothing was waited for");
        let news = feed.take(vec![Event::Gone(declared), Event::Value(object("Namespace", "", "shop"))], []);
        assert_eq!(names(&news), ["shop"]);
        assert_eq!(news.delta.namespaces.len(), 1, "one that stays is not told again");
        let news = feed.take(vec![Event::Gone(service)], []);
        assert_eq!(names(&news), ["shop"], "it has an object of its own");
        let news = feed.take(vec![Event::Gone(object("Namespace", "", "shop"))], []);
        assert!(names(&news).is_empty());
    }

    #[test]
    fn a_cluster_is_whole_when_each_kind_was_told_and_its_namespaces_are_its_own() {
        let needed = [ObjectKind::Namespace, ObjectKind::Service];
        let mut feed = Feed::new(settings(), Namespaces::Told, needed);
        let news = feed.take(vec![Event::Value(object("Service", "shop", "web"))], [ObjectKind::Service]);
        assert!(!news.whole && news.snapshot.namespaces.is_empty());
        let news = feed.take(Vec::new(), [ObjectKind::Namespace]);
        assert!(news.whole && news.delta == Delta::default());
        assert_eq!(feed.snapshot().services.len(), 1);
    }
}
