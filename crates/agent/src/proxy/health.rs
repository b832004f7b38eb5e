//! Is the proxy healthy, and is its node one that balancers may send to: what `/healthz` and `/livez` answer.
//!
//! Healthy: no change waits longer than the limit for being written; one family that lags is enough to be unhealthy. A
//! proxy that has just started is healthy. Eligible: the Node is not being deleted and not about to be removed by the
//! autoscaler; a Node nobody told us of is eligible, one that is gone is not. Source: kube-proxy's health server, KEP-3836.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use jiff::Timestamp;
use portolan_model::{Family, Snapshot};
use serde_json::{Map, Value, json};

/// What is known of the proxy's health; written by the thread that programs.
#[derive(Debug)]
pub(crate) struct Health {
    state: Mutex<State>,
    /// How long a change may wait.
    limit: Duration,
}

#[derive(Debug, Default)]
struct State {
    families: BTreeMap<Family, OfFamily>,
    node: Standing,
}

#[derive(Clone, Copy, Debug, Default)]
struct OfFamily {
    updated: Option<SystemTime>,
    /// Since when a change waits.
    queued: Option<SystemTime>,
}

/// What is known of our Node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Standing {
    #[default]
    Untold,
    Eligible,
    NotEligible,
}

/// What a health check answers.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Report {
    pub(crate) healthy: bool,
    pub(crate) eligible: bool,
    updated: SystemTime,
    now: SystemTime,
    families: Vec<(Family, Option<SystemTime>, bool)>,
}

impl Health {
    pub(crate) fn new(families: impl IntoIterator<Item = Family>, limit: Duration) -> Self {
        let families = families.into_iter().map(|family| (family, OfFamily::default())).collect();
        Self { state: Mutex::new(State { families, node: Standing::default() }), limit }
    }

    /// A change waits to be written, in every family.
    pub(crate) fn queued(&self, now: SystemTime) {
        for family in self.state().families.values_mut() {
            family.queued.get_or_insert(now);
        }
    }

    /// All that came until now is written.
    pub(crate) fn updated(&self, family: Family, now: SystemTime) {
        self.state().families.insert(family, OfFamily { updated: Some(now), queued: None });
    }

    /// What the cluster says of our Node.
    pub(crate) fn node(&self, snapshot: &Snapshot) {
        let mut state = self.state();
        state.node = match (snapshot.own_node(), state.node) {
            (Some(node), _) if node.leaving => Standing::NotEligible,
            (Some(_), _) => Standing::Eligible,
            (None, Standing::Untold) => Standing::Untold,
            (None, _) => Standing::NotEligible,
        };
    }

    pub(crate) fn report(&self, now: SystemTime) -> Report {
        let state = self.state();
        let waits = |since: SystemTime| now.duration_since(since).unwrap_or_default() > self.limit;
        let families: Vec<_> =
            state.families.iter().map(|(family, of)| (*family, of.updated, !of.queued.is_some_and(waits))).collect();
        let healthy = families.iter().all(|(_, _, healthy)| *healthy);
        // When all is well, this moment is as good as an update.
        let last = families.iter().filter_map(|(_, updated, _)| *updated).max().unwrap_or(SystemTime::UNIX_EPOCH);
        let updated = if healthy { now } else { last };
        Report { healthy, eligible: state.node != Standing::NotEligible, updated, now, families }
    }

    pub(crate) fn is_healthy(&self, now: SystemTime) -> bool {
        self.report(now).healthy
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Report {
    /// The body of `/healthz`.
    pub(crate) fn json(&self) -> Value {
        let mut body = self.json_without_node();
        body["nodeEligible"] = self.eligible.into();
        body
    }

    /// The body of `/livez`.
    pub(crate) fn json_without_node(&self) -> Value {
        let status: Map<String, Value> = self
            .families
            .iter()
            .map(|(family, updated, healthy)| {
                let name = match family {
                    Family::V4 => "IPv4",
                    Family::V6 => "IPv6",
                };
                (name.to_owned(), json!({"lastUpdated": updated.map(text), "healthy": healthy}))
            })
            .collect();
        json!({
            "lastUpdated": text(self.updated), "currentTime": text(self.now), "healthy": self.healthy, "status": status,
        })
    }
}

fn text(time: SystemTime) -> String {
    Timestamp::try_from(time).map(|at| at.to_string()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use portolan_model::{Node, Settings};

    use super::*;

    fn at(secs: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000 + secs)
    }

    fn health() -> Health {
        Health::new(Family::BOTH, Duration::from_secs(60))
    }

    fn snapshot(node: Option<Node>) -> Snapshot {
        let settings = Settings {
            node: "node-1".into(),
            cluster_cidrs: Vec::new(),
            service_cidrs: Vec::new(),
            cluster_dns: Vec::new(),
            cluster_domain: "cluster.local".into(),
            proxy: Default::default(),
        };
        let mut snapshot = Snapshot::empty(Arc::new(settings));
        if let Some(node) = node {
            snapshot.nodes.insert("node-1".into(), Arc::new(node));
        }
        snapshot
    }

    #[test]
    fn a_change_that_waits_too_long_in_one_family_is_unhealthy_until_it_is_written() {
        let health = health();
        assert!(health.is_healthy(at(0)), "a start is healthy");
        health.queued(at(0));
        health.updated(Family::V4, at(1));
        assert!(health.is_healthy(at(60)));
        let report = health.report(at(61));
        assert!(!report.healthy);
        assert_eq!(report.json()["status"]["IPv4"]["healthy"], true);
        assert_eq!(report.json()["status"]["IPv6"]["healthy"], false);
        assert_eq!(report.json()["lastUpdated"], text(at(1)), "not now: all is not well");
        health.queued(at(61));
        assert!(!health.is_healthy(at(62)), "a new change makes no old one younger");
        health.updated(Family::V6, at(63));
        health.updated(Family::V4, at(63));
        let report = health.report(at(500));
        assert!(report.healthy);
        assert_eq!(report.json()["lastUpdated"], report.json()["currentTime"]);
    }

    #[test]
    fn a_node_is_eligible_until_it_is_leaving_or_gone() {
        let health = health();
        let eligible = |node: Option<Node>| {
            health.node(&snapshot(node));
            health.report(at(0)).eligible
        };
        assert!(eligible(None), "nobody told us of a Node");
        assert!(eligible(Some(Node::default())));
        assert!(!eligible(Some(Node { leaving: true, ..Node::default() })));
        assert!(eligible(Some(Node::default())));
        assert!(!eligible(None), "it is gone");
        let report = health.report(at(0));
        assert_eq!(report.json()["nodeEligible"], false);
        assert_eq!(report.json_without_node().get("nodeEligible"), None);
    }
}
