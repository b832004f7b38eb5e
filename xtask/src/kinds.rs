//! The kinds the control plane serves, as rows.

/// One served kind.
pub struct Kind {
    /// API group, empty for the core group.
    pub group: &'static str,
    pub version: &'static str,
    pub kind: &'static str,
    /// Plural resource name as in a URL; empty for bodies that have no collection (DeleteOptions).
    pub plural: &'static str,
    pub is_namespaced: bool,
    /// Full schema name, which is also the protobuf message's.
    pub schema: &'static str,
}

impl Kind {
    pub fn api_version(&self) -> String {
        match self.group {
            "" => self.version.to_owned(),
            group => format!("{group}/{}", self.version),
        }
    }

    /// `api/v1`, `apis/apps/v1`: where discovery and OpenAPI put this kind's group version.
    pub fn group_version_path(&self) -> String {
        match self.group {
            "" => format!("api/{}", self.version),
            group => format!("apis/{group}/{}", self.version),
        }
    }
}

const fn row(
    group: &'static str,
    kind: &'static str,
    plural: &'static str,
    is_namespaced: bool,
    schema: &'static str,
) -> Kind {
    Kind {
        group,
        version: "v1",
        kind,
        plural,
        is_namespaced,
        schema,
    }
}

pub const KINDS: &[Kind] = &[
    row("", "Binding", "", true, "io.k8s.api.core.v1.Binding"),
    row(
        "",
        "ConfigMap",
        "configmaps",
        true,
        "io.k8s.api.core.v1.ConfigMap",
    ),
    row(
        "",
        "DeleteOptions",
        "",
        false,
        "io.k8s.apimachinery.pkg.apis.meta.v1.DeleteOptions",
    ),
    row(
        "",
        "Endpoints",
        "endpoints",
        true,
        "io.k8s.api.core.v1.Endpoints",
    ),
    row("", "Event", "events", true, "io.k8s.api.core.v1.Event"),
    row(
        "",
        "Namespace",
        "namespaces",
        false,
        "io.k8s.api.core.v1.Namespace",
    ),
    row("", "Node", "nodes", false, "io.k8s.api.core.v1.Node"),
    row("", "Pod", "pods", true, "io.k8s.api.core.v1.Pod"),
    row("", "Secret", "secrets", true, "io.k8s.api.core.v1.Secret"),
    row(
        "",
        "Service",
        "services",
        true,
        "io.k8s.api.core.v1.Service",
    ),
    row(
        "",
        "ServiceAccount",
        "serviceaccounts",
        true,
        "io.k8s.api.core.v1.ServiceAccount",
    ),
    row(
        "",
        "Status",
        "",
        false,
        "io.k8s.apimachinery.pkg.apis.meta.v1.Status",
    ),
    row(
        "apps",
        "Deployment",
        "deployments",
        true,
        "io.k8s.api.apps.v1.Deployment",
    ),
    row(
        "apps",
        "ReplicaSet",
        "replicasets",
        true,
        "io.k8s.api.apps.v1.ReplicaSet",
    ),
    row(
        "autoscaling",
        "Scale",
        "",
        true,
        "io.k8s.api.autoscaling.v1.Scale",
    ),
    row(
        "coordination.k8s.io",
        "Lease",
        "leases",
        true,
        "io.k8s.api.coordination.v1.Lease",
    ),
    row(
        "discovery.k8s.io",
        "EndpointSlice",
        "endpointslices",
        true,
        "io.k8s.api.discovery.v1.EndpointSlice",
    ),
    row(
        "authentication.k8s.io",
        "SelfSubjectReview",
        "",
        false,
        "io.k8s.api.authentication.v1.SelfSubjectReview",
    ),
    row(
        "authorization.k8s.io",
        "SelfSubjectAccessReview",
        "",
        false,
        "io.k8s.api.authorization.v1.SelfSubjectAccessReview",
    ),
    row(
        "authorization.k8s.io",
        "SelfSubjectRulesReview",
        "",
        false,
        "io.k8s.api.authorization.v1.SelfSubjectRulesReview",
    ),
    row(
        "events.k8s.io",
        "Event",
        "events",
        true,
        "io.k8s.api.events.v1.Event",
    ),
    row(
        "policy",
        "Eviction",
        "",
        true,
        "io.k8s.api.policy.v1.Eviction",
    ),
];
