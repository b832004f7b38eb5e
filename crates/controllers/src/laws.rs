//! The laws: whatever the order, split, delay or doubling of news, the controllers come to rest in
//! a state that a start from scratch finds right; and a change costs what it must, no more.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use serde_json::json;

use crate::fixture::{Cluster, News};
use crate::object::{Id, Kind};
use crate::plan::Action;

/// One thing that happens. Numbers pick among what is there.
#[derive(Clone, Debug)]
enum Happening {
    Deploy(u8),
    Expose(u8),
    Scale(u8, u8),
    Retemplate(u8, u8),
    KillPod(u8),
    FlipReady(u8),
    StrayPod(u8),
    Undeploy(u8),
    Unexpose(u8),
    /// A Service becomes one of type LoadBalancer, or ceases to be.
    Balance(u8),
    AddNode(u8),
    RemoveNode(u8),
    Agents,
    /// Hear the next news of a kind, this many times over.
    Hear(u8, u8),
    /// Run one of the waiting tasks.
    Run(u8),
}

fn happening() -> impl Strategy<Value = Happening> {
    use Happening::*;
    prop_oneof![
        2 => (0..3u8).prop_map(Deploy),
        2 => (0..3u8).prop_map(Expose),
        2 => (0..3u8, 0..6u8).prop_map(|(name, count)| Scale(name, count)),
        1 => (0..3u8, 0..3u8).prop_map(|(name, image)| Retemplate(name, image)),
        3 => any::<u8>().prop_map(KillPod),
        2 => any::<u8>().prop_map(FlipReady),
        1 => any::<u8>().prop_map(StrayPod),
        1 => (0..3u8).prop_map(Undeploy),
        1 => (0..3u8).prop_map(Unexpose),
        3 => (0..3u8).prop_map(Balance),
        2 => (0..4u8).prop_map(AddNode),
        1 => (0..4u8).prop_map(RemoveNode),
        4 => Just(Agents),
        20 => (any::<u8>(), 1..3u8).prop_map(|(kind, times)| Hear(kind, times)),
        20 => any::<u8>().prop_map(Run),
    ]
}

fn pick<T: Clone>(from: &[T], number: u8) -> Option<T> {
    let index = usize::from(number).checked_rem(from.len())?;
    Some(from[index].clone())
}

fn happen(cluster: &mut Cluster, happening: &Happening) {
    let named = |kind, name: &u8| Id::new(kind, "default", &format!("app-{name}"));
    let has = |cluster: &Cluster, id: &Id| cluster.api.objects.contains_key(id);
    match happening {
        Happening::Deploy(name) => {
            if !has(cluster, &named(Kind::Deployment, name)) {
                cluster.deployment(&format!("app-{name}"), 3);
            }
        }
        Happening::Expose(name) => {
            if !has(cluster, &named(Kind::Service, name)) {
                cluster.service(&format!("app-{name}"), &format!("app-{name}"));
            }
        }
        Happening::Scale(name, count) => {
            let id = named(Kind::Deployment, name);
            if has(cluster, &id) {
                cluster.edit(&id, |object| object["spec"]["replicas"] = json!(count));
            }
        }
        Happening::Retemplate(name, image) => {
            let id = named(Kind::Deployment, name);
            if has(cluster, &id) {
                cluster.edit(&id, |object| {
                    object["spec"]["template"]["spec"]["containers"][0]["image"] = json!(format!("image-{image}"));
                });
            }
        }
        Happening::KillPod(number) => {
            if let Some(id) = pick(&cluster.pod_ids(), *number) {
                let now = cluster.now;
                cluster.api.delete(&id, "Background", None, now);
            }
        }
        Happening::FlipReady(number) => {
            if let Some(id) = pick(&cluster.pod_ids(), *number) {
                let ready = &cluster.api.objects[&id]["status"]["conditions"][0]["status"];
                let is_ready = ready == "True";
                cluster.set_ready(&id, !is_ready);
            }
        }
        Happening::StrayPod(number) => {
            if let Some(id) = pick(&cluster.pod_ids(), *number) {
                cluster.edit(&id, |pod| pod["metadata"]["labels"] = json!({"app": "stray"}));
            }
        }
        Happening::Undeploy(name) => {
            let now = cluster.now;
            let id = named(Kind::Deployment, name);
            cluster.api.delete(&id, "Background", None, now);
        }
        Happening::Unexpose(name) => {
            let now = cluster.now;
            let id = named(Kind::Service, name);
            cluster.api.delete(&id, "Background", None, now);
        }
        Happening::Balance(name) => {
            let id = named(Kind::Service, name);
            if has(cluster, &id) {
                cluster.edit(&id, |service| {
                    let is_balanced = service["spec"]["type"] == "LoadBalancer";
                    service["spec"]["type"] = json!(if is_balanced { "ClusterIP" } else { "LoadBalancer" });
                });
            }
        }
        Happening::AddNode(name) => {
            if !has(cluster, &Id::new(Kind::Node, "", &format!("node-{name}"))) {
                cluster.node(&format!("node-{name}"));
            }
        }
        Happening::RemoveNode(name) => {
            let now = cluster.now;
            let id = Id::new(Kind::Node, "", &format!("node-{name}"));
            cluster.api.delete(&id, "Background", None, now);
        }
        Happening::Agents => drop(cluster.agents().then_some(())),
        Happening::Hear(kind, times) => hear(cluster, *kind, *times),
        Happening::Run(number) => {
            let waiting: Vec<_> = cluster.tasks.iter().cloned().collect();
            if let Some(task) = pick(&waiting, *number) {
                cluster.tasks.remove(&task);
                cluster.run(task);
            }
        }
    }
}

fn hear(cluster: &mut Cluster, kind: u8, times: u8) {
    let kinds: Vec<Kind> =
        cluster.api.news.iter().filter(|(_, news)| !news.is_empty()).map(|(kind, _)| *kind).collect();
    let Some(kind) = pick(&kinds, kind) else {
        return;
    };
    let heard: Option<News> = cluster.hear(kind);
    for _ in 1..times {
        heard.clone().into_iter().for_each(|news| cluster.tell(news));
    }
}

fn assert_kept(cluster: &Cluster) {
    let mut blocks = BTreeSet::new();
    for (id, body) in &cluster.api.objects {
        if id.kind == Kind::Node {
            let block = body["spec"]["podCIDR"].as_str().expect("each node has a block");
            assert!(blocks.insert(block.to_owned()), "{block} was given twice");
        }
    }
    let (mut given, mut waiting) = (BTreeSet::new(), 0);
    for (id, body) in cluster.api.objects.iter().filter(|(id, _)| id.kind == Kind::Service) {
        let address = body["status"]["loadBalancer"]["ingress"][0]["ip"].as_str();
        assert!(address.is_none() || body["spec"]["type"] == "LoadBalancer", "{id} keeps {address:?}");
        match address {
            Some(address) => assert!(given.insert(address.to_owned()), "{address} was given twice"),
            None => waiting += usize::from(body["spec"]["type"] == "LoadBalancer"),
        }
    }
    assert!(waiting == 0 || given.len() == 2, "{waiting} Services wait while an address is free");
    let mut active: BTreeMap<String, i64> = BTreeMap::new();
    for pod in cluster.pods() {
        let labels = pod.metadata.labels.clone().unwrap_or_default();
        let is_owned = pod.metadata.owner_references.is_some_and(|all| !all.is_empty());
        if is_owned && pod.metadata.deletion_timestamp.is_none() {
            *active.entry(labels["app"].clone()).or_default() += 1;
        }
    }
    for (id, body) in &cluster.api.objects {
        if id.kind == Kind::Deployment {
            let wanted = body["spec"]["replicas"].as_i64().unwrap();
            let found = active.get(&id.name).copied().unwrap_or(0);
            assert_eq!(found, wanted, "{id}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, ..ProptestConfig::default() })]

    #[test]
    fn any_order_delay_and_doubling_of_news_ends_where_a_start_from_scratch_has_nothing_to_do(
        story in prop::collection::vec(happening(), 1..150),
    ) {
        let mut cluster = Cluster::new();
        cluster.config.balancer_pools = vec!["172.18.100.0/30".parse().unwrap()];
        for happening in &story {
            happen(&mut cluster, happening);
        }
        if !cluster.api.objects.keys().any(|id| id.kind == Kind::Node) {
            cluster.node("node-9");
        }
        cluster.live();
        // Pods that were made unready on purpose hold a rollout up: the agents mend them.
        for id in cluster.pod_ids() {
            cluster.set_ready(&id, true);
        }
        cluster.live();
        cluster.assert_at_rest();
        assert_kept(&cluster);
    }
}

fn writes_since(cluster: &Cluster, start: usize) -> Vec<(Kind, &'static str)> {
    let writes = cluster.writes[start..].iter();
    writes
        .map(|write| {
            let verb = match &write.action {
                Action::Create(_) => "create",
                Action::Replace(_) => "replace",
                Action::ReplaceStatus(_) => "status",
                Action::Patch { .. } => "patch",
                Action::Bind { .. } => "bind",
                Action::Delete(_) => "delete",
                Action::Finalize(_) => "finalize",
            };
            let kind = match &write.action {
                Action::Create(object) => object.kind(),
                action => action.id().expect("it has a name").kind,
            };
            (kind, verb)
        })
        .collect()
}

fn bare_pods(cluster: &mut Cluster, count: usize) -> Vec<Id> {
    let pods = (0..count).map(|number| {
        cluster.create(
            Kind::Pod,
            json!({
                "metadata": {"name": format!("p-{number:04}"), "namespace": "default", "labels": {"app": "web"}},
                "spec": {"nodeName": "n1", "containers": [{"name": "c", "ports": [{"name": "http", "containerPort": 80}]}]},
                "status": {
                    "phase": "Running",
                    "podIP": format!("10.244.{}.{}", number / 250, number % 250 + 1),
                    "conditions": [{"type": "Ready", "status": "True"}],
                },
            }),
        )
    });
    pods.collect()
}

#[test]
fn one_pod_of_a_thousand_unready_writes_one_slice_and_the_endpoints() {
    let mut cluster = Cluster::new();
    cluster.node("n1");
    cluster.service("web", "web");
    let pods = bare_pods(&mut cluster, 1000);
    cluster.settle();
    let slices = cluster.api.objects.keys();
    let slices = slices.filter(|id| id.kind == Kind::EndpointSlice && id.name.starts_with("web"));
    assert_eq!(slices.count(), 10);
    let start = cluster.writes.len();
    cluster.set_ready(&pods[500], false);
    cluster.settle();
    let written = writes_since(&cluster, start);
    assert_eq!(written, [(Kind::EndpointSlice, "replace"), (Kind::Endpoints, "replace")]);
    cluster.assert_at_rest();
}

#[test]
fn a_deleted_pod_costs_the_same_in_a_small_and_a_large_deployment() {
    let costs = [4, 60].map(|replicas| {
        let mut cluster = Cluster::new();
        cluster.node("n1");
        cluster.node("n2");
        cluster.deployment("web", replicas);
        cluster.service("web", "web");
        cluster.live();
        let victim = cluster.pod_ids()[0].clone();
        let start = cluster.writes.len();
        let now = cluster.now;
        cluster.api.delete(&victim, "Background", None, now);
        cluster.live();
        writes_since(&cluster, start).len()
    });
    assert_eq!(costs[0], costs[1]);
    assert!(costs[0] <= 16, "{} writes for one pod", costs[0]);
}

#[test]
fn controllers_at_rest_write_nothing_when_nodes_renew_their_leases() {
    let mut cluster = Cluster::new();
    cluster.node("n1");
    cluster.heartbeat("n1");
    cluster.deployment("web", 3);
    cluster.live();
    for _ in 0..20 {
        cluster.advance(10);
        cluster.heartbeat("n1");
        assert_eq!(cluster.settle_counting(), 0);
    }
}

#[test]
fn pods_are_not_made_twice_while_the_news_of_them_are_late() {
    let mut cluster = Cluster::new();
    cluster.deployment("web", 3);
    for kind in [Kind::Namespace, Kind::Deployment] {
        while cluster.hear(kind).is_some() {}
    }
    while let Some(task) = cluster.tasks.pop_first() {
        cluster.run(task);
    }
    let all = cluster.world.all_tasks();
    for task in all.into_iter().chain(cluster.world.all_tasks()) {
        cluster.run(task);
    }
    assert_eq!(cluster.pod_ids().len(), 3);
}
