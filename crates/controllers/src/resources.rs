//! What pods ask of a node, and what a node has left.
//!
//! A pod asks for what its containers ask for together, or for what an init container asks for alone, if that is more; a
//! limit without a request is one (Kubernetes, "Resource Management for Pods and Containers"; KEP-753 for sidecars).

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Container, Node, Pod};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

use crate::pod;

/// Resource → thousandths of its unit.
type Amounts = BTreeMap<String, i128>;

/// The scheduler's words for each resource that the node has too little of, sorted.
pub fn lacks<'a>(wanting: &Pod, node: &Node, taken: impl Iterator<Item = &'a Arc<Pod>>) -> Vec<String> {
    let wanted = requests(wanting);
    if wanted.is_empty() {
        return Vec::new();
    }
    let status = node.status.as_ref();
    let mut left: Amounts = amounts(status.and_then(|status| status.allocatable.as_ref()));
    for pod in taken.filter(|pod| !pod::is_finished(pod)) {
        requests(pod).into_iter().for_each(|(name, amount)| *left.entry(name).or_default() -= amount);
    }
    let is_known = |name: &str| status.is_some_and(|s| s.allocatable.iter().flatten().any(|(known, _)| known == name));
    let too_little = |(name, amount): &(String, i128)| {
        // A node that does not tell of its disk is not short of it.
        let is_counted = is_known(name) || !is_of_every_node(name);
        is_counted && *amount > 0 && *amount > left.get(name).copied().unwrap_or(0)
    };
    wanted.into_iter().filter(too_little).map(|(name, _)| format!("Insufficient {name}")).collect()
}

fn is_of_every_node(name: &str) -> bool {
    matches!(name, "cpu" | "memory" | "ephemeral-storage")
}

fn requests(pod: &Pod) -> Amounts {
    let Some(spec) = &pod.spec else {
        return Amounts::new();
    };
    let mut together = Amounts::new();
    spec.containers.iter().for_each(|container| add(&mut together, &of_container(container)));
    let mut most_at_start = Amounts::new();
    let mut sidecars = Amounts::new();
    for container in spec.init_containers.iter().flatten() {
        let mut own = of_container(container);
        if container.restart_policy.as_deref() == Some("Always") {
            add(&mut sidecars, &own);
            add(&mut together, &own);
            own = sidecars.clone();
        } else {
            add(&mut own, &sidecars);
        }
        raise(&mut most_at_start, &own);
    }
    raise(&mut together, &most_at_start);
    add(&mut together, &amounts(spec.overhead.as_ref()));
    together
}

fn of_container(container: &Container) -> Amounts {
    let Some(resources) = &container.resources else {
        return Amounts::new();
    };
    let mut all = amounts(resources.limits.as_ref());
    all.extend(amounts(resources.requests.as_ref()));
    all
}

/// A quantity that is none counts as absent: the API server has refused it.
fn amounts(quantities: Option<&BTreeMap<String, Quantity>>) -> Amounts {
    let read = |quantity: &Quantity| quantity.0.parse::<portolan_kinds::quantity::Quantity>().ok();
    let pairs = quantities.into_iter().flatten();
    pairs.filter_map(|(name, quantity)| Some((name.clone(), read(quantity)?.milli_value()))).collect()
}

fn add(sum: &mut Amounts, more: &Amounts) {
    more.iter().for_each(|(name, amount)| *sum.entry(name.clone()).or_default() += amount);
}

fn raise(most: &mut Amounts, other: &Amounts) {
    for (name, amount) in other {
        let known = most.entry(name.clone()).or_default();
        *known = (*known).max(*amount);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn pod(spec: Value) -> Pod {
        serde_json::from_value(json!({"metadata": {"name": "p"}, "spec": spec})).expect("a pod")
    }

    fn cpu(spec: Value) -> Option<i128> {
        requests(&pod(spec)).get("cpu").copied()
    }

    #[test]
    fn init_containers_count_alone_and_sidecars_for_good() {
        let container = |cpu: &str| json!({"name": "c", "resources": {"requests": {"cpu": cpu}}});
        let sidecar = |cpu: &str| {
            let mut container = container(cpu);
            container["restartPolicy"] = json!("Always");
            container
        };
        assert_eq!(cpu(json!({"containers": [container("100m"), container("0.2")]})), Some(300));
        assert_eq!(cpu(json!({"containers": [container("100m")], "initContainers": [container("1")]})), Some(1000));
        let with_sidecar = json!({"containers": [container("100m")],
            "initContainers": [sidecar("300m"), container("200m")]});
        assert_eq!(cpu(with_sidecar), Some(500), "the second init container runs beside the sidecar");
        let limit_only = json!({"containers": [{"name": "c", "resources": {"limits": {"cpu": "2"}}}]});
        assert_eq!(cpu(limit_only), Some(2000));
        assert_eq!(cpu(json!({"containers": [{"name": "c"}]})), None);
    }

    #[test]
    fn a_node_lacks_what_others_have_taken_and_what_it_never_had() {
        let node: Node = serde_json::from_value(json!({"metadata": {"name": "n"},
            "status": {"allocatable": {"cpu": "2", "memory": "1Gi"}}}))
        .expect("a node");
        let asks = |requests: Value| pod(json!({"containers": [{"name": "c", "resources": {"requests": requests}}]}));
        let mut done = asks(json!({"cpu": "2"}));
        done.status = Some(serde_json::from_value(json!({"phase": "Succeeded"})).expect("a status"));
        let taken = [Arc::new(asks(json!({"cpu": "1500m", "memory": "512Mi"}))), Arc::new(done)];
        for (requests, expected) in [
            (json!({"cpu": "500m", "memory": "512Mi"}), vec![]),
            (json!({"cpu": "501m"}), vec!["Insufficient cpu"]),
            (json!({"cpu": "1", "memory": "1Gi"}), vec!["Insufficient cpu", "Insufficient memory"]),
            (json!({"example.com/gpu": "1"}), vec!["Insufficient example.com/gpu"]),
            (json!({"ephemeral-storage": "1Gi"}), vec![]),
            (json!({}), vec![]),
        ] {
            assert_eq!(lacks(&asks(requests.clone()), &node, taken.iter()), expected, "{requests}");
        }
    }
}
