//! Objects: what a story must know of Kubernetes' objects that no rule needs: why a pod is not ready, what a selector asks.

use std::collections::BTreeMap;
use std::net::IpAddr;

use portolan_model::{NsName, Proto, Text};
use serde::{Deserialize, Serialize};

/// Everything there is to know, by key. Times are seconds since 1970.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Objects {
    /// Pods.
    pub pods: BTreeMap<NsName, PodNote>,
    /// Services.
    pub services: BTreeMap<NsName, ServiceNote>,
    /// EndpointSlices: name, resourceVersion, and the Service it is of.
    pub slices: BTreeMap<NsName, SliceNote>,
}

/// A pod, as far as a story tells of it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct PodNote {
    /// `metadata.labels`.
    pub labels: BTreeMap<String, String>,
    /// `spec.containers[].ports`: name, transport, number.
    pub ports: Vec<(String, Proto, u16)>,
    /// Condition Ready.
    pub ready: bool,
    /// When that condition took its value.
    pub ready_since: Option<i64>,
    /// Reason and message of condition Ready or ContainersReady, or of a waiting container, if it is not.
    pub unready_because: Option<String>,
    /// `metadata.deletionTimestamp` is set: since when, as seconds.
    pub deleted_at: Option<i64>,
    /// `status.phase`.
    pub phase: Text,
    /// `metadata.resourceVersion`.
    pub version: u64,
}

/// A Service, as far as a story tells of it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ServiceNote {
    /// `spec.selector`; empty: its slices are somebody else's.
    pub selector: BTreeMap<String, String>,
    /// By port name: `targetPort` as written, a number or a name.
    pub target_ports: BTreeMap<Text, String>,
    /// `metadata.resourceVersion`.
    pub version: u64,
}

/// An EndpointSlice, as far as a story tells of it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct SliceNote {
    /// The Service it is of.
    pub service: Option<NsName>,
    /// Its endpoints' first addresses.
    pub addresses: Vec<IpAddr>,
    /// `metadata.resourceVersion`.
    pub version: u64,
    /// When it last changed, by `endpoints.kubernetes.io/last-change-trigger-time`.
    pub changed_at: Option<i64>,
}
