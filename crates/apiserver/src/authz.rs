//! Who may do what.
//!
//! The first authorizer knows three sorts of users: administrators (`system:masters`), nodes
//! (`system:nodes`: their own Node, Lease and pods, and reading what a node's network needs), and
//! everybody else (health and version; whoever has a certificate may also read discovery and ask what
//! he may).

use serde_json::Value;

use crate::authn::User;
use crate::object;
use crate::registry::{RESOURCES, Resource};
use crate::rest::review::is_question;
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

    /// What a user may do, for `kubectl auth can-i --list`.
    fn rules(&self, user: &User) -> Rules;
}

/// What a user may do, in the shape of Kubernetes' roles.
#[derive(Debug, Default, PartialEq)]
pub struct Rules {
    pub resources: Vec<Rule>,
    /// (verb, paths) of what is no object.
    pub paths: Vec<(&'static str, Vec<String>)>,
}

/// Verbs on resources of one group; with a name, on that object alone.
#[derive(Debug, PartialEq)]
pub struct Rule {
    pub verbs: Vec<&'static str>,
    pub group: &'static str,
    pub resources: Vec<String>,
    pub name: Option<String>,
}

impl Rule {
    fn new(verbs: &[&'static str], group: &'static str, resources: &[&str], name: Option<&str>) -> Rule {
        let resources = resources.iter().map(|resource| (*resource).to_owned()).collect();
        Rule { verbs: verbs.to_vec(), group, resources, name: name.map(str::to_owned) }
    }
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
            Attempt::Object { verb: "create", resource, .. } if is_question(resource) => !user.is_anonymous(),
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

    fn rules(&self, user: &User) -> Rules {
        if user.is_in("system:masters") {
            return Rules {
                resources: vec![Rule::new(&["*"], "*", &["*"], None)],
                paths: vec![("*", vec!["*".into()])],
            };
        }
        let under = |root: &&str| [(*root).to_owned(), format!("{root}/*")];
        let mut paths: Vec<String> = HEALTH_PATHS.iter().flat_map(under).collect();
        let mut resources = Vec::new();
        if !user.is_anonymous() {
            paths.extend(DISCOVERY_PATHS.iter().flat_map(under));
            resources.extend(questions());
        }
        resources.extend(user.node().map(node_rules).unwrap_or_default());
        Rules { resources, paths: vec![("get", paths)] }
    }
}

/// Paths that are open to everybody, with all below them.
const HEALTH_PATHS: [&str; 4] = ["/healthz", "/livez", "/readyz", "/version"];
/// Paths that are open to whoever is known.
const DISCOVERY_PATHS: [&str; 3] = ["/api", "/apis", "/openapi"];

/// What everybody who is known may ask of himself.
fn questions() -> Vec<Rule> {
    let rows = RESOURCES.iter().filter(|row| is_question(row));
    rows.map(|row| Rule::new(row.verbs, row.group, &[row.plural], None)).collect()
}

/// The same that `node_may` says, as rules; which pods are a node's own no rule can say.
fn node_rules(node: &str) -> Vec<Rule> {
    let reads = ["get", "list", "watch"];
    let writes = ["create", "update", "patch"];
    let mut rules: Vec<Rule> = RESOURCES
        .iter()
        .filter(|row| NODE_READS.contains(&row.plural))
        .map(|row| Rule::new(&reads, row.group, &[row.plural], None))
        .collect();
    rules.extend([
        Rule::new(&["create", "delete"], "", &["pods"], None),
        Rule::new(&["get", "update", "patch"], "", &["pods/status"], None),
        Rule::new(&writes, "", &["events"], None),
        Rule::new(&["create"], "", &["nodes"], None),
        Rule::new(&writes, "", &["nodes", "nodes/status"], Some(node)),
        Rule::new(&["create"], "coordination.k8s.io", &["leases"], None),
        Rule::new(&["create", "update", "patch", "delete"], "coordination.k8s.io", &["leases"], Some(node)),
    ]);
    rules
}

fn is_open_path(user: &User, verb: &str, path: &str) -> bool {
    let under = |root: &str| path == root || path.strip_prefix(root).is_some_and(|rest| rest.starts_with('/'));
    let is_open = HEALTH_PATHS.into_iter().any(under);
    verb == "get" && (is_open || (!user.is_anonymous() && DISCOVERY_PATHS.into_iter().any(under)))
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
    fn what_the_rules_say_of_a_node_is_what_it_may() {
        let node = User { name: "system:node:node-1".into(), groups: vec!["system:nodes".into()] };
        for rule in Builtin.rules(&node).resources {
            for (verb, what) in rule.verbs.iter().flat_map(|verb| rule.resources.iter().map(move |what| (verb, what))) {
                // Its own Lease lies in the namespace of Leases.
                let namespace = if what == "leases" { "kube-node-lease" } else { "default" };
                let name = rule.name.as_deref().unwrap_or("pod-1");
                assert!(may(&node, verb, what, namespace, name), "{verb} {what} {name}");
            }
        }
        let everything = Builtin.rules(&User { name: "admin".into(), groups: vec!["system:masters".into()] });
        assert_eq!(everything.resources, [Rule::new(&["*"], "*", &["*"], None)]);
        assert!(Builtin.rules(&User::anonymous()).resources.is_empty());
    }

    #[test]
    fn everybody_who_is_known_may_ask_about_himself() {
        let ann = User { name: "ann".into(), groups: vec!["system:authenticated".into()] };
        assert!(may(&ann, "create", "selfsubjectaccessreviews", "", ""));
        assert!(!may(&User::anonymous(), "create", "selfsubjectaccessreviews", "", ""));
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
