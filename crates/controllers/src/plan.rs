//! What a controller decides: writes to the API, Events to tell, and when to look again.
//!
//! Everything here is a value. The edge (`client`) performs it.

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde_json::Value;

use crate::object::{Id, Kind, Object, Stored};

/// One piece of work, and the unit of "never twice at once".
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Task {
    Deployment(Id),
    ReplicaSet(Id),
    /// EndpointSlices and Endpoints of a Service.
    Endpoints(Id),
    /// A Service that has gone: its Endpoints go too.
    ServiceGone(Id),
    /// `spec.podCIDRs` of all Nodes: one task, so that no block is given twice.
    PodCidrs,
    /// Conditions and taints of the Node of this name.
    NodeHealth(String),
    /// Pods on the Node of this name: readiness, eviction, clean-up.
    NodePods(String),
    Schedule(Id),
    Namespace(String),
    /// Owners and finalizers of any object.
    Collect(Id),
    ServiceAccount(String),
    ClusterDns,
    /// Addresses of all Services of type LoadBalancer: one task, so that none is given twice.
    Balancers,
    EventExpiry(Id),
}

/// The outcome of one reconcile. Empty when the world is as it should be.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Plan {
    /// Performed in this order; the first that fails ends the plan.
    pub writes: Vec<Write>,
    /// Look again then, if nothing else happens before.
    pub wake_at: Option<Timestamp>,
}

impl Plan {
    pub fn idle() -> Self {
        Plan::default()
    }

    pub fn of(writes: Vec<Write>) -> Self {
        Plan { writes, wake_at: None }
    }

    /// Also look again at `at`, or earlier if that was said before.
    pub fn wake(mut self, at: Option<Timestamp>) -> Self {
        self.wake_at = match (self.wake_at, at) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        };
        self
    }
}

/// One request to the API, and what is told of it.
#[derive(Clone, Debug, PartialEq)]
pub struct Write {
    pub action: Action,
    pub on_success: Option<Note>,
    pub on_failure: Option<Note>,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    /// POST; with `generateName` the server completes the name.
    Create(Object),
    /// PUT; the object's resourceVersion guards against a lost update.
    Replace(Object),
    /// PUT of `/status`, guarded likewise.
    ReplaceStatus(Object),
    /// A JSON merge patch.
    Patch {
        id: Id,
        body: Value,
    },
    /// POST of `/binding`.
    Bind {
        pod: Id,
        uid: String,
        node: String,
    },
    Delete(Deletion),
    /// PUT of `/finalize` without our finalizer, once the server has nothing left in the namespace.
    Finalize(Object),
}

#[derive(Clone, Debug, PartialEq)]
pub struct Deletion {
    pub id: Id,
    /// Precondition: only this very object.
    pub uid: String,
    /// `None`: what the object's kind says.
    pub grace_secs: Option<u32>,
    /// `Background`, `Foreground`; `None`: the server's default.
    pub propagation: Option<&'static str>,
    /// Leave it if the server still has one of these: our watch of them may lag behind.
    pub unless_alive: Vec<Alive>,
}

/// An object that may live; with a uid, that very one.
#[derive(Clone, Debug, PartialEq)]
pub struct Alive {
    pub id: Id,
    pub uid: Option<String>,
}

/// An Event to be. `{name}` in the message stands for the name of the object the write returned.
#[derive(Clone, Debug, PartialEq)]
pub struct Note {
    pub on: Id,
    pub on_uid: String,
    pub on_revision: String,
    pub component: &'static str,
    pub is_warning: bool,
    pub reason: &'static str,
    pub message: String,
}

impl Note {
    pub fn normal(component: &'static str, on: &Object, reason: &'static str, message: String) -> Self {
        Note {
            on: on.id(),
            on_uid: on.uid().to_owned(),
            on_revision: on.meta().resource_version.clone().unwrap_or_default(),
            component,
            is_warning: false,
            reason,
            message,
        }
    }

    pub fn warning(component: &'static str, on: &Object, reason: &'static str, message: String) -> Self {
        let note = Note::normal(component, on, reason, message);
        Note { is_warning: true, ..note }
    }
}

impl Action {
    /// The object written, where it has a name already.
    pub fn id(&self) -> Option<Id> {
        match self {
            Action::Create(object) | Action::Replace(object) => Some(object.id()),
            Action::ReplaceStatus(object) | Action::Finalize(object) => Some(object.id()),
            Action::Patch { id, .. } => Some(id.clone()),
            Action::Bind { pod, .. } => Some(pod.clone()),
            Action::Delete(deletion) => Some(deletion.id.clone()),
        }
        .filter(|id| !id.name.is_empty())
    }
}

impl Write {
    fn of(action: Action) -> Self {
        Write { action, on_success: None, on_failure: None }
    }

    pub fn create(object: impl Stored) -> Self {
        Write::of(Action::Create(object.wrap()))
    }

    pub fn replace(object: impl Stored) -> Self {
        Write::of(Action::Replace(object.wrap()))
    }

    pub fn replace_status(object: impl Stored) -> Self {
        Write::of(Action::ReplaceStatus(object.wrap()))
    }

    pub fn patch(id: Id, body: Value) -> Self {
        Write::of(Action::Patch { id, body })
    }

    pub fn bind(pod: Id, uid: &str, node: &str) -> Self {
        Write::of(Action::Bind { pod, uid: uid.to_owned(), node: node.to_owned() })
    }

    /// Deletes this very object with its kind's own grace, dependents in the background.
    pub fn delete(kind: Kind, meta: &ObjectMeta) -> Self {
        Write::of(Action::Delete(Deletion {
            id: Id::of(kind, meta),
            uid: meta.uid.clone().unwrap_or_default(),
            grace_secs: None,
            propagation: Some("Background"),
            unless_alive: Vec::new(),
        }))
    }

    pub fn finalize(namespace: impl Stored) -> Self {
        Write::of(Action::Finalize(namespace.wrap()))
    }

    /// For a deletion: at once, without the time a pod has to end by itself.
    pub fn at_once(mut self) -> Self {
        if let Action::Delete(deletion) = &mut self.action {
            deletion.grace_secs = Some(0);
        }
        self
    }

    /// For a deletion: not if the server still has one of these.
    pub fn unless_alive(mut self, alive: Vec<Alive>) -> Self {
        if let Action::Delete(deletion) = &mut self.action {
            deletion.unless_alive = alive;
        }
        self
    }

    pub fn propagation(mut self, policy: Option<&'static str>) -> Self {
        if let Action::Delete(deletion) = &mut self.action {
            deletion.propagation = policy;
        }
        self
    }

    pub fn telling(mut self, note: Note) -> Self {
        self.on_success = Some(note);
        self
    }

    pub fn telling_failure(mut self, note: Note) -> Self {
        self.on_failure = Some(note);
        self
    }
}
