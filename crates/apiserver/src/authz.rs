//! Who may do what.
//!
//! The first authorizer knows three sorts of users: administrators (`system:masters`), nodes
//! (`system:nodes`: their own Node, Lease and pods, and reading what a node's network needs), and
//! everybody else (health and version; whoever has a certificate may also read discovery).

use serde_json::Value;

use crate::authn::User;
use crate::object;
use crate::registry::Resource;
use crate::status::ApiError;

/// What a user wants to do.
#[derive(Debug)]
pub enum Attempt<'a> {
    /// A path that is no object.
    Path {
        verb: &'a str,
        path: &'a str,
    },
    Object {
        verb: &'a str,
        resource: &'a Resource,
        subresource: &'a str,
        namespace: &'a str,
        name: &'a str,
    },
}

/// Facts an authorizer may look up.
pub trait Facts {
    /// The node a pod is bound to.
    fn node_of_pod(&self, namespace: &str, name: &str) -> Option<String>;
}

pub trait Authorizer: Send + Sync + 'static {
    fn allows(&self, user: &User, attempt: &Attempt, facts: &dyn Facts) -> bool;

    /// A second look once the body of a create is known.
    fn allows_new(&self, user: &User, resource: &Resource, object: &Value) -> bool;
}

/// Administrators, nodes, everybody.
pub struct Builtin;

/// Kinds every node reads.
const NODE_READS: &[&str] = &[
    "services",
    "endpointslices",
    "endpoints",
    "nodes",
    "pods",
    "namespaces",
    "configmaps",
    "secrets",
    "leases",
    "serviceaccounts",
    "events",
    // Whether a pod that ends is replaced.
    "replicasets",
];

impl Authorizer for Builtin {
    fn allows(&self, user: &User, attempt: &Attempt, facts: &dyn Facts) -> bool {
        if user.is_in("system:masters") {
            return true;
        }
        match attempt {
            Attempt::Path { verb, path } => is_open_path(user, verb, path),
            Attempt::Object { .. } => user.node().is_some_and(|node| node_may(node, attempt, facts)),
        }
    }

    fn allows_new(&self, user: &User, resource: &Resource, new: &Value) -> bool {
        match (user.node(), resource.plural) {
            (Some(node), "pods") => object::text(new, "/spec/nodeName") == node,
            (Some(node), "nodes" | "leases") => object::name(new) == node,
            _ => true,
        }
    }
}

fn is_open_path(user: &User, verb: &str, path: &str) -> bool {
    let under = |root: &str| path == root || path.strip_prefix(root).is_some_and(|rest| rest.starts_with('/'));
    let health = ["/healthz", "/livez", "/readyz", "/version"];
    let discovery = ["/api", "/apis", "/openapi"];
    verb == "get" && (health.into_iter().any(under) || (!user.is_anonymous() && discovery.into_iter().any(under)))
}

fn node_may(node: &str, attempt: &Attempt, facts: &dyn Facts) -> bool {
    let Attempt::Object { verb, resource, subresource, namespace, name } = attempt else { return false };
    let reads = matches!(*verb, "get" | "list" | "watch");
    if reads && subresource.is_empty() && NODE_READS.contains(&resource.plural) {
        return true;
    }
    let writes = matches!(*verb, "create" | "update" | "patch");
    match (resource.plural, *subresource) {
        // Creation is looked at again when the object is known.
        ("nodes" | "leases", "") if *verb == "create" => true,
        ("nodes", "" | "status") => writes && *name == node,
        ("leases", "") => (writes || *verb == "delete") && *name == node && *namespace == "kube-node-lease",
        ("events", "") => writes,
        ("pods", "") if *verb == "create" => true,
        ("pods", "" | "status") => {
            let own = || facts.node_of_pod(namespace, name).is_none_or(|at| at == node);
            let allowed =
                if subresource.is_empty() { *verb == "delete" } else { matches!(*verb, "get" | "update" | "patch") };
            allowed && own()
        }
        _ => false,
    }
}

/// Kubernetes' words for no.
pub fn refusal(user: &User, attempt: &Attempt) -> ApiError {
    match attempt {
        Attempt::Path { verb, path } => {
            ApiError::new(403, "Forbidden", format!("forbidden: User \"{}\" cannot {verb} path \"{path}\"", user.name))
        }
        Attempt::Object { verb, resource, subresource, namespace, name } => {
            let part = if subresource.is_empty() { String::new() } else { format!("/{subresource}") };
            let place = match namespace.is_empty() {
                true => "at the cluster scope".to_owned(),
                false => format!("in the namespace \"{namespace}\""),
            };
            let why = format!(
                "User \"{}\" cannot {verb} resource \"{}{part}\" in API group \"{}\" {place}",
                user.name, resource.plural, resource.group
            );
            ApiError::forbidden(resource, name, &why)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry;

    struct Pods;
    impl Facts for Pods {
        fn node_of_pod(&self, _: &str, name: &str) -> Option<String> {
            (name != "gone").then(|| if name.ends_with('1') { "node-1".into() } else { "node-2".into() })
        }
    }

    fn may(user: &User, verb: &str, what: &str, namespace: &str, name: &str) -> bool {
        let (plural, subresource) = what.split_once('/').unwrap_or((what, ""));
        let attempt = Attempt::Object { verb, resource: registry::row(plural), subresource, namespace, name };
        Builtin.allows(user, &attempt, &Pods)
    }

    #[test]
    fn a_node_touches_only_what_is_its_own() {
        let node = User { name: "system:node:node-1".into(), groups: vec!["system:nodes".into()] };
        for (verb, what, namespace, name, expected) in [
            ("watch", "services", "", "", true),
            ("list", "pods", "", "", true),
            ("get", "replicasets", "default", "web", true),
            ("patch", "replicasets", "default", "web", false),
            ("patch", "nodes/status", "", "node-1", true),
            ("patch", "nodes/status", "", "node-2", false),
            ("delete", "nodes", "", "node-1", false),
            ("update", "leases", "kube-node-lease", "node-1", true),
            ("update", "leases", "kube-node-lease", "node-2", false),
            ("update", "leases", "default", "node-1", false),
            ("patch", "pods/status", "default", "pod-1", true),
            ("patch", "pods/status", "default", "pod-2", false),
            ("delete", "pods", "default", "pod-2", false),
            ("delete", "pods", "default", "pod-1", true),
            ("delete", "pods", "default", "gone", true),
            ("update", "pods", "default", "pod-1", false),
            ("create", "pods/binding", "default", "pod-1", false),
            ("get", "pods/exec", "default", "pod-1", false),
            ("create", "services", "default", "", false),
            ("patch", "deployments", "default", "d", false),
            ("create", "events", "default", "", true),
            ("get", "nodes/proxy", "", "node-1", false),
        ] {
            assert_eq!(may(&node, verb, what, namespace, name), expected, "{verb} {what} {namespace}/{name}");
        }
        let elsewhere = serde_json::json!({ "spec": { "nodeName": "node-2" } });
        assert!(!Builtin.allows_new(&node, registry::row("pods"), &elsewhere));
    }

    #[test]
    fn the_anonymous_see_health_and_version_and_nothing_else() {
        let anonymous = User::anonymous();
        let path = |path| Builtin.allows(&anonymous, &Attempt::Path { verb: "get", path }, &Pods);
        for open in ["/healthz", "/livez", "/readyz", "/readyz/ping", "/version"] {
            assert!(path(open), "{open}");
        }
        for shut in ["/api", "/apis", "/openapi/v3", "/metrics", "/versions"] {
            assert!(!path(shut), "{shut}");
        }
        assert!(!may(&anonymous, "get", "pods", "default", "a"));
        // A name alone does not make a node.
        let pretender = User { name: "system:node:node-1".into(), groups: vec![] };
        assert!(!may(&pretender, "list", "services", "", ""));
    }
}
