//! Namespaces, owners, accounts, Events, and the kube-dns Service.

use serde_json::json;

use crate::fixture::Cluster;
use crate::object::{Id, Kind};

fn count(cluster: &Cluster, kind: Kind) -> usize {
    let ids = cluster.api.objects.keys();
    ids.filter(|id| id.kind == kind && id.namespace == "default").count()
}

fn deployed() -> (Cluster, Id) {
    let mut cluster = Cluster::new();
    cluster.node("n1");
    let id = cluster.deployment("web", 2);
    cluster.live();
    (cluster, id)
}

#[test]
fn what_a_deleted_deployment_owned_goes_after_it() {
    let (mut cluster, id) = deployed();
    let now = cluster.now;
    cluster.api.delete(&id, "Background", None, now);
    cluster.live();
    assert_eq!(count(&cluster, Kind::ReplicaSet), 0);
    assert_eq!(count(&cluster, Kind::Pod), 0);
    cluster.assert_at_rest();
}

#[test]
fn in_the_foreground_the_owner_goes_last() {
    let (mut cluster, id) = deployed();
    let now = cluster.now;
    cluster.api.delete(&id, "Foreground", None, now);
    cluster.settle();
    assert!(cluster.api.objects.contains_key(&id), "its pods still end");
    assert_eq!(count(&cluster, Kind::ReplicaSet), 1);
    cluster.live();
    assert!(!cluster.api.objects.contains_key(&id));
    assert_eq!(count(&cluster, Kind::ReplicaSet) + count(&cluster, Kind::Pod), 0);
    cluster.assert_at_rest();
}

#[test]
fn an_orphaning_deletion_keeps_the_dependents() {
    let (mut cluster, id) = deployed();
    let now = cluster.now;
    cluster.api.delete(&id, "Orphan", None, now);
    cluster.live();
    assert!(!cluster.api.objects.contains_key(&id));
    assert_eq!(count(&cluster, Kind::ReplicaSet), 1);
    assert_eq!(count(&cluster, Kind::Pod), 2);
    cluster.assert_at_rest();
}

#[test]
fn a_dependent_seen_before_its_owner_is_kept() {
    let mut cluster = Cluster::new();
    cluster.settle();
    let owner = cluster.create(Kind::ConfigMap, json!({"metadata": {"name": "o", "namespace": "default"}}));
    let uid = cluster.api.objects[&owner]["metadata"]["uid"].clone();
    let reference = json!([{"apiVersion": "v1", "kind": "ConfigMap", "name": "o", "uid": uid}]);
    let body = json!({"metadata": {"name": "d", "namespace": "default", "ownerReferences": reference}});
    let dependent = cluster.create(Kind::Secret, body);
    while cluster.hear(Kind::Secret).is_some() {}
    while let Some(task) = cluster.tasks.pop_first() {
        cluster.run(task);
    }
    assert!(cluster.api.objects.contains_key(&dependent));
    let now = cluster.now;
    cluster.api.delete(&owner, "Background", None, now);
    cluster.settle();
    assert!(!cluster.api.objects.contains_key(&dependent));
}

#[test]
fn an_owner_of_a_kind_not_known_here_counts_as_living_and_a_second_owner_holds() {
    let mut cluster = Cluster::new();
    let owner = cluster.create(Kind::ConfigMap, json!({"metadata": {"name": "o", "namespace": "default"}}));
    let uid = cluster.api.objects[&owner]["metadata"]["uid"].clone();
    let gone = json!({"apiVersion": "v1", "kind": "Pod", "name": "gone", "uid": "no-such"});
    let foreign = json!({"apiVersion": "example.org/v1", "kind": "Thing", "name": "t", "uid": "t"});
    let living = json!({"apiVersion": "v1", "kind": "ConfigMap", "name": "o", "uid": uid});
    let rows = [(json!([gone]), false), (json!([gone, living]), true), (json!([foreign]), true)];
    for (references, stays) in rows {
        let body = json!({"metadata": {"generateName": "d-", "namespace": "default", "ownerReferences": references}});
        let id = cluster.create(Kind::Secret, body);
        cluster.settle();
        assert_eq!(cluster.api.objects.contains_key(&id), stays, "{references}");
    }
}

#[test]
fn a_terminating_namespace_is_emptied_and_goes() {
    let (mut cluster, _) = deployed();
    cluster.service("web", "web");
    cluster.create(Kind::ConfigMap, json!({"metadata": {"name": "c", "namespace": "default"}}));
    cluster.live();
    let namespace = Id::new(Kind::Namespace, "", "default");
    let now = cluster.now;
    cluster.api.delete(&namespace, "Background", None, now);
    cluster.settle();
    assert!(cluster.api.objects.contains_key(&namespace), "its pods still end");
    cluster.live();
    let left: Vec<&Id> = cluster.api.objects.keys().filter(|id| id.namespace == "default").collect();
    assert_eq!(left, Vec::<&Id>::new());
    assert!(!cluster.api.objects.contains_key(&namespace));
    cluster.assert_at_rest();
}

#[test]
fn each_namespace_has_its_service_account_again_when_it_is_deleted() {
    let mut cluster = Cluster::new();
    cluster.settle();
    let id = Id::new(Kind::ServiceAccount, "default", "default");
    assert!(cluster.api.objects.contains_key(&id));
    let now = cluster.now;
    cluster.api.delete(&id, "Background", None, now);
    cluster.settle();
    assert!(cluster.api.objects.contains_key(&id));
}

#[test]
fn events_are_forgotten_an_hour_after_they_were_last_seen() {
    let mut cluster = Cluster::new();
    let id = cluster.create(
        Kind::Event,
        json!({"metadata": {"name": "e", "namespace": "default"}, "involvedObject": {}, "reason": "x"}),
    );
    cluster.settle();
    cluster.advance(3599);
    cluster.settle();
    assert!(cluster.api.objects.contains_key(&id));
    cluster.advance(1);
    cluster.settle();
    assert!(!cluster.api.objects.contains_key(&id));
}

#[test]
fn the_cluster_dns_service_is_there_with_its_address() {
    let mut cluster = Cluster::new();
    cluster.settle();
    let id = Id::new(Kind::Service, "kube-system", "kube-dns");
    let spec = &cluster.api.objects[&id]["spec"];
    assert_eq!(spec["clusterIP"], "10.96.0.10");
    assert_eq!(spec["selector"], json!({"k8s-app": "kube-dns"}));
    let ports = spec["ports"].as_array().unwrap().iter();
    let ports: Vec<String> = ports
        .map(|port| {
            format!("{} {}/{}", port["name"].as_str().unwrap(), port["port"], port["protocol"].as_str().unwrap())
        })
        .collect();
    assert_eq!(ports, ["dns 53/UDP", "dns-tcp 53/TCP", "metrics 9153/TCP"]);
    let labels = &cluster.api.objects[&id]["metadata"]["labels"];
    assert_eq!(labels["kubernetes.io/name"], "CoreDNS");
}

#[test]
fn the_configuration_of_cluster_dns_is_there_and_a_users_stays_as_it_is() {
    let id = Id::new(Kind::ConfigMap, "kube-system", "coredns");
    let mut cluster = Cluster::new();
    cluster.settle();
    let text = cluster.api.objects[&id]["data"]["Corefile"].as_str().expect("text").to_owned();
    assert!(text.contains("kubernetes cluster.local in-addr.arpa ip6.arpa {") && text.contains("prometheus :9153"));
    cluster.api.objects.get_mut(&id).expect("there")["data"]["Corefile"] = json!("a user's");
    cluster.create(Kind::ConfigMap, json!({"metadata": {"name": "other", "namespace": "kube-system"}}));
    cluster.settle();
    assert_eq!(cluster.api.objects[&id]["data"]["Corefile"], "a user's");
}
