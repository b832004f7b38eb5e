//! The kinds that are served, as rows of data.
//!
//! Everything that differs between kinds and can be said in data stands here; what needs code stands
//! in `strategy`, what is shown stands in `table`. Discovery, paths, storage keys and field selectors
//! all read these rows.

use serde_json::Value;

use crate::view::{self, View};

/// One kind.
#[derive(Debug)]
pub struct Resource {
    /// `""` is the core group.
    pub group: &'static str,
    pub version: &'static str,
    pub kind: &'static str,
    pub plural: &'static str,
    pub singular: &'static str,
    pub short_names: &'static [&'static str],
    pub categories: &'static [&'static str],
    pub namespaced: bool,
    pub subresources: &'static [Subresource],
    pub verbs: &'static [&'static str],
    /// Set where another row stores the objects and this one shows them under other names.
    pub view: Option<&'static View>,
    /// `metadata.generation` counts changes of everything but metadata and status.
    pub counts_generation: bool,
    /// Field selectors beyond `metadata.name` and `metadata.namespace`: (label, JSON pointer).
    pub fields: &'static [(&'static str, &'static str)],
}

/// One subresource, as discovery shows it.
#[derive(Debug)]
pub struct Subresource {
    pub name: &'static str,
    /// group, version, kind of what it takes and gives.
    pub kind: (&'static str, &'static str, &'static str),
    pub verbs: &'static [&'static str],
}

/// Verbs of every kind that is stored.
const VERBS: &[&str] = &["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"];

const GET_PATCH_UPDATE: &[&str] = &["get", "patch", "update"];

const fn status(group: &'static str, version: &'static str, kind: &'static str) -> Subresource {
    Subresource { name: "status", kind: (group, version, kind), verbs: GET_PATCH_UPDATE }
}

const SCALE: Subresource = Subresource { name: "scale", kind: ("autoscaling", "v1", "Scale"), verbs: GET_PATCH_UPDATE };

const POD_SUBRESOURCES: &[Subresource] = &[
    Subresource { name: "attach", kind: ("", "v1", "PodAttachOptions"), verbs: &["create", "get"] },
    Subresource { name: "binding", kind: ("", "v1", "Binding"), verbs: &["create"] },
    Subresource { name: "eviction", kind: ("policy", "v1", "Eviction"), verbs: &["create"] },
    Subresource { name: "exec", kind: ("", "v1", "PodExecOptions"), verbs: &["create", "get"] },
    Subresource { name: "log", kind: ("", "v1", "Pod"), verbs: &["get"] },
    Subresource { name: "portforward", kind: ("", "v1", "PodPortForwardOptions"), verbs: &["create", "get"] },
    status("", "v1", "Pod"),
];

const NODE_SUBRESOURCES: &[Subresource] = &[
    Subresource {
        name: "proxy",
        kind: ("", "v1", "NodeProxyOptions"),
        verbs: &["create", "delete", "get", "patch", "update"],
    },
    status("", "v1", "Node"),
];

/// What most rows share; each row says what differs.
const BASE: Resource = Resource {
    group: "",
    version: "v1",
    kind: "",
    plural: "",
    singular: "",
    short_names: &[],
    categories: &[],
    namespaced: true,
    subresources: &[],
    verbs: VERBS,
    view: None,
    counts_generation: false,
    fields: &[],
};

pub static RESOURCES: &[Resource] = &[
    Resource { kind: "ConfigMap", plural: "configmaps", singular: "configmap", short_names: &["cm"], ..BASE },
    Resource { kind: "Endpoints", plural: "endpoints", singular: "endpoints", short_names: &["ep"], ..BASE },
    Resource {
        kind: "Event",
        plural: "events",
        singular: "event",
        short_names: &["ev"],
        fields: &[
            ("involvedObject.kind", "/involvedObject/kind"),
            ("involvedObject.namespace", "/involvedObject/namespace"),
            ("involvedObject.name", "/involvedObject/name"),
            ("involvedObject.uid", "/involvedObject/uid"),
            ("involvedObject.apiVersion", "/involvedObject/apiVersion"),
            ("involvedObject.resourceVersion", "/involvedObject/resourceVersion"),
            ("involvedObject.fieldPath", "/involvedObject/fieldPath"),
            ("reason", "/reason"),
            ("reportingComponent", "/reportingComponent"),
            ("source", "/source/component"),
            ("type", "/type"),
        ],
        ..BASE
    },
    Resource {
        kind: "Namespace",
        plural: "namespaces",
        singular: "namespace",
        short_names: &["ns"],
        namespaced: false,
        subresources: &[
            Subresource { name: "finalize", kind: ("", "v1", "Namespace"), verbs: &["update"] },
            status("", "v1", "Namespace"),
        ],
        fields: &[("status.phase", "/status/phase")],
        ..BASE
    },
    Resource {
        kind: "Node",
        plural: "nodes",
        singular: "node",
        short_names: &["no"],
        namespaced: false,
        subresources: NODE_SUBRESOURCES,
        fields: &[("spec.unschedulable", "/spec/unschedulable")],
        ..BASE
    },
    Resource {
        kind: "Pod",
        plural: "pods",
        singular: "pod",
        short_names: &["po"],
        categories: &["all"],
        subresources: POD_SUBRESOURCES,
        fields: &[
            ("spec.nodeName", "/spec/nodeName"),
            ("spec.restartPolicy", "/spec/restartPolicy"),
            ("spec.schedulerName", "/spec/schedulerName"),
            ("spec.serviceAccountName", "/spec/serviceAccountName"),
            ("spec.hostNetwork", "/spec/hostNetwork"),
            ("status.phase", "/status/phase"),
            ("status.podIP", "/status/podIP"),
            ("status.nominatedNodeName", "/status/nominatedNodeName"),
        ],
        ..BASE
    },
    Resource { kind: "Secret", plural: "secrets", singular: "secret", fields: &[("type", "/type")], ..BASE },
    Resource {
        kind: "ServiceAccount",
        plural: "serviceaccounts",
        singular: "serviceaccount",
        short_names: &["sa"],
        ..BASE
    },
    Resource {
        kind: "Service",
        plural: "services",
        singular: "service",
        short_names: &["svc"],
        categories: &["all"],
        subresources: &[status("", "v1", "Service")],
        fields: &[("spec.clusterIP", "/spec/clusterIP"), ("spec.type", "/spec/type")],
        ..BASE
    },
    Resource {
        group: "apps",
        kind: "Deployment",
        plural: "deployments",
        singular: "deployment",
        short_names: &["deploy"],
        categories: &["all"],
        subresources: &[SCALE, status("apps", "v1", "Deployment")],
        counts_generation: true,
        ..BASE
    },
    Resource {
        group: "apps",
        kind: "ReplicaSet",
        plural: "replicasets",
        singular: "replicaset",
        short_names: &["rs"],
        categories: &["all"],
        subresources: &[SCALE, status("apps", "v1", "ReplicaSet")],
        counts_generation: true,
        fields: &[("status.replicas", "/status/replicas")],
        ..BASE
    },
    Resource { group: "coordination.k8s.io", kind: "Lease", plural: "leases", singular: "lease", ..BASE },
    Resource {
        group: "discovery.k8s.io",
        kind: "EndpointSlice",
        plural: "endpointslices",
        singular: "endpointslice",
        counts_generation: true,
        ..BASE
    },
    Resource {
        group: "events.k8s.io",
        kind: "Event",
        plural: "events",
        singular: "event",
        short_names: &["ev"],
        view: Some(&view::EVENTS),
        fields: view::EVENT_FIELDS,
        ..BASE
    },
    question("authentication.k8s.io", "SelfSubjectReview", "selfsubjectreviews", "selfsubjectreview"),
    question("authorization.k8s.io", "SelfSubjectAccessReview", "selfsubjectaccessreviews", "selfsubjectaccessreview"),
    question("authorization.k8s.io", "SelfSubjectRulesReview", "selfsubjectrulesreviews", "selfsubjectrulesreview"),
];

/// A kind that is answered and never stored.
const fn question(group: &'static str, kind: &'static str, plural: &'static str, singular: &'static str) -> Resource {
    Resource { group, kind, plural, singular, namespaced: false, verbs: &["create"], ..BASE }
}

impl Resource {
    /// `pods`, `deployments.apps`: how messages name a resource.
    pub fn qualified(&self) -> String {
        match self.group {
            "" => self.plural.to_owned(),
            group => format!("{}.{group}", self.plural),
        }
    }

    pub fn api_version(&self) -> String {
        match self.group {
            "" => self.version.to_owned(),
            group => format!("{group}/{}", self.version),
        }
    }

    pub fn list_kind(&self) -> String {
        // Endpoints is its own plural.
        format!("{}List", self.kind)
    }

    pub fn subresource(&self, name: &str) -> Option<&'static Subresource> {
        self.subresources.iter().find(|subresource| subresource.name == name)
    }

    /// Where objects of this kind are stored; with a namespace, only that namespace's.
    pub fn prefix(&self, namespace: Option<&str>) -> String {
        let group = self.view.map_or(self.group, |view| view.stored_group);
        let group = if group.is_empty() { "core" } else { group };
        match namespace {
            Some(namespace) => format!("/registry/{group}/{}/{namespace}/", self.plural),
            None => format!("/registry/{group}/{}/", self.plural),
        }
    }

    /// `namespace` is empty for cluster-wide kinds.
    pub fn key(&self, namespace: &str, name: &str) -> String {
        format!("{}{name}", self.prefix(Some(namespace)))
    }

    /// Values of the selectable fields of one object, those that are set.
    pub fn selectable(&self, object: &Value) -> Vec<(&'static str, String)> {
        let text = |value: &Value| match value {
            Value::String(text) => Some(text.clone()),
            Value::Bool(_) | Value::Number(_) => Some(value.to_string()),
            _ => None,
        };
        self.fields.iter().filter_map(|(label, pointer)| Some((*label, text(object.pointer(pointer)?)?))).collect()
    }
}

pub fn find(group: &str, version: &str, plural: &str) -> Option<&'static Resource> {
    RESOURCES.iter().find(|row| row.group == group && row.version == version && row.plural == plural)
}

/// The row of a core kind or any other that is known to exist.
pub fn row(plural: &str) -> &'static Resource {
    RESOURCES.iter().find(|row| row.plural == plural).expect("callers name rows of the table above")
}

/// The row whose objects lie under a storage key.
pub fn of_key(key: &str) -> Option<&'static Resource> {
    let mut parts = key.strip_prefix("/registry/")?.split('/');
    let (group, plural) = (parts.next()?, parts.next()?);
    let group = if group == "core" { "" } else { group };
    RESOURCES.iter().find(|row| row.group == group && row.plural == plural)
}

/// (group, version) pairs in discovery order, each once; the core group first.
pub fn group_versions() -> Vec<(&'static str, &'static str)> {
    let mut pairs = Vec::new();
    for row in RESOURCES {
        if !pairs.contains(&(row.group, row.version)) {
            pairs.push((row.group, row.version));
        }
    }
    pairs
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_row_is_found_by_its_key_and_its_path() {
        for row in RESOURCES {
            let key = row.key("ns", "name");
            assert!(std::ptr::eq(of_key(&key).expect("a row"), row.stored()), "{key}");
            assert!(std::ptr::eq(find(row.group, row.version, row.plural).expect("a row"), row));
        }
    }
}
