//! Causes: what a node was told that made it change something. Times are microseconds since 1970 of the node's own clock.

use std::net::IpAddr;

use ipnet::IpNet;
use portolan_model::{NsName, ObjectRef};
use serde::{Deserialize, Serialize};

/// Something a node was told, and when.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Cause {
    /// What it was.
    pub origin: Origin,
    /// When the node heard of it.
    pub seen_us: i64,
    /// When what is behind it happened, where its author says so: an EndpointSlice's
    /// `endpoints.kubernetes.io/last-change-trigger-time`, which is when its Pod or Service changed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub triggered_us: Option<i64>,
    /// What it can have changed.
    #[serde(skip)]
    pub concerns: Concerns,
}

/// What a node was told.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "camelCase")]
pub enum Origin {
    /// A watch of the API told of an object.
    Object {
        /// Which.
        object: ObjectRef,
        /// Its `metadata.resourceVersion`; 0 if it is no number.
        version: u64,
        /// It is no more.
        gone: bool,
    },
    /// A pod of this node got its link and addresses.
    Attached {
        /// Which.
        pod: NsName,
    },
    /// A pod of this node lost them.
    Detached {
        /// Which.
        pod: NsName,
    },
    /// A BGP peer told of a prefix.
    Learned {
        /// Which.
        prefix: IpNet,
        /// Who.
        peer: IpAddr,
    },
    /// Nobody tells of a prefix any more.
    Withdrawn {
        /// Which.
        prefix: IpNet,
    },
}

/// What a cause can have changed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Concerns {
    /// Anything: a Node, a Namespace.
    #[default]
    Anything,
    /// One Service: itself, or a slice of it.
    Service(NsName),
    /// A pod's link: routes to its addresses, its host ports.
    Pod(NsName, Box<[IpNet]>),
    /// One route.
    Route(IpNet),
}

/// Who a cause is of: of several by one only the newest counts.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Who {
    Object(ObjectRef),
    Link(NsName),
    Prefix(IpNet),
}

impl Cause {
    pub(super) fn who(&self) -> Who {
        match &self.origin {
            Origin::Object { object, .. } => Who::Object(object.clone()),
            Origin::Attached { pod } | Origin::Detached { pod } => Who::Link(pod.clone()),
            Origin::Learned { prefix, .. } | Origin::Withdrawn { prefix } => Who::Prefix(*prefix),
        }
    }
}
