//! Scenarios of slices and Endpoints.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use crate::fixture::Cluster;
use crate::object::{Id, Kind};

fn pod(cluster: &mut Cluster, name: &str, address: &str, more: Value) -> Id {
    let mut body = json!({
        "metadata": {"name": name, "namespace": "default", "labels": {"app": "web"}},
        "spec": {
            "nodeName": "n1",
            "containers": [{"name": "c", "ports": [{"name": "http", "containerPort": 80}]}],
        },
        "status": {
            "phase": "Running",
            "podIP": address,
            "podIPs": [{"ip": address}],
            "conditions": [{"type": "Ready", "status": "True"}],
        },
    });
    for (part, fields) in more.as_object().unwrap() {
        for (key, value) in fields.as_object().unwrap() {
            body[part][key] = value.clone();
        }
    }
    cluster.create(Kind::Pod, body)
}

fn cluster() -> Cluster {
    let mut cluster = Cluster::new();
    let node = cluster.node("n1");
    cluster.edit(&node, |node| {
        node["metadata"]["labels"]["topology.kubernetes.io/zone"] = json!("north");
    });
    cluster
}

fn slices(cluster: &Cluster) -> Vec<Value> {
    let slices = cluster.api.objects.iter();
    let slices = slices.filter(|(id, _)| id.kind == Kind::EndpointSlice && id.namespace == "default");
    slices.map(|(_, body)| body.clone()).collect()
}

fn only_slice(cluster: &Cluster) -> Value {
    let all = slices(cluster);
    assert_eq!(all.len(), 1, "{all:?}");
    all[0].clone()
}

fn addresses(slice: &Value) -> BTreeSet<String> {
    let endpoints = slice["endpoints"].as_array().unwrap();
    let addresses = endpoints.iter().map(|one| one["addresses"][0].as_str().unwrap().to_owned());
    addresses.collect()
}

fn endpoints(cluster: &Cluster) -> Value {
    let id = Id::new(Kind::Endpoints, "default", "web");
    cluster.api.objects[&id].clone()
}

#[test]
fn a_service_without_pods_has_one_empty_slice_that_the_first_pod_fills() {
    let mut cluster = cluster();
    cluster.service("web", "web");
    cluster.settle();
    let empty = only_slice(&cluster);
    assert_eq!(empty["endpoints"], json!([]));
    assert_eq!(endpoints(&cluster)["subsets"], Value::Null);
    let labels = &empty["metadata"]["labels"];
    assert_eq!(labels["kubernetes.io/service-name"], "web");
    assert_eq!(labels["endpointslice.kubernetes.io/managed-by"], "endpointslice-controller.k8s.io");
    assert_eq!(empty["metadata"]["ownerReferences"][0]["kind"], "Service");
    let first = pod(&mut cluster, "a", "10.244.0.2", json!({}));
    cluster.settle();
    let filled = only_slice(&cluster);
    assert_eq!(filled["metadata"]["name"], empty["metadata"]["name"]);
    let one = &filled["endpoints"][0];
    assert_eq!(one["addresses"], json!(["10.244.0.2"]));
    assert_eq!(one["conditions"], json!({"ready": true, "serving": true, "terminating": false}));
    assert_eq!(one["nodeName"], "n1");
    assert_eq!(one["zone"], "north");
    assert_eq!(one["targetRef"]["name"], "a");
    assert_eq!(filled["ports"], json!([{"name": "http", "port": 80, "protocol": "TCP"}]));
    let subset = &endpoints(&cluster)["subsets"][0];
    assert_eq!(subset["addresses"][0]["ip"], "10.244.0.2");
    assert_eq!(subset["ports"], json!([{"name": "http", "port": 80, "protocol": "TCP"}]));
    let now = cluster.now;
    cluster.api.delete(&first, "Background", Some(0), now);
    cluster.settle();
    assert_eq!(only_slice(&cluster)["endpoints"], json!([]));
    cluster.assert_at_rest();
}

#[test]
fn conditions_follow_readiness_and_deletion() {
    // ready pod?, deleted?, publishNotReadyAddresses? -> ready, serving, terminating, in Endpoints
    let rows = [
        (true, false, false, (true, true, false), Some("addresses")),
        (false, false, false, (false, false, false), Some("notReadyAddresses")),
        (true, true, false, (false, true, true), None),
        (false, true, false, (false, false, true), None),
        (false, false, true, (true, false, false), Some("addresses")),
        (true, true, true, (true, true, true), Some("addresses")),
    ];
    for (is_ready, is_deleted, publishes, (ready, serving, terminating), list) in rows {
        let mut cluster = cluster();
        let service = cluster.service("web", "web");
        cluster.edit(&service, |one| one["spec"]["publishNotReadyAddresses"] = json!(publishes));
        let id = pod(&mut cluster, "a", "10.244.0.2", json!({}));
        cluster.set_ready(&id, is_ready);
        if is_deleted {
            let now = cluster.now;
            cluster.api.delete(&id, "Background", None, now);
        }
        cluster.settle();
        let row = format!("{is_ready} {is_deleted} {publishes}");
        let wanted = json!({"ready": ready, "serving": serving, "terminating": terminating});
        assert_eq!(only_slice(&cluster)["endpoints"][0]["conditions"], wanted, "{row}");
        let subset = &endpoints(&cluster)["subsets"][0];
        for name in ["addresses", "notReadyAddresses"] {
            assert_eq!(subset[name].is_array(), list == Some(name), "{row} {name}");
        }
        cluster.assert_at_rest();
    }
}

#[test]
fn pods_that_never_come_back_or_have_no_address_are_no_endpoints() {
    let mut cluster = cluster();
    cluster.service("web", "web");
    pod(&mut cluster, "failed", "10.244.0.2", json!({"status": {"phase": "Failed"}}));
    pod(&mut cluster, "fresh", "", json!({"status": {"podIPs": null}}));
    pod(&mut cluster, "other", "10.244.0.3", json!({"metadata": {"labels": {"app": "db"}}}));
    cluster.settle();
    assert_eq!(only_slice(&cluster)["endpoints"], json!([]));
}

#[test]
fn each_set_of_real_ports_has_its_own_slice_and_subset() {
    let mut cluster = cluster();
    cluster.service("web", "web");
    pod(&mut cluster, "a", "10.244.0.2", json!({}));
    let containers = json!([{"name": "c", "ports": [{"name": "http", "containerPort": 8080}]}]);
    pod(&mut cluster, "b", "10.244.0.3", json!({"spec": {"containers": containers}}));
    pod(&mut cluster, "c", "10.244.0.4", json!({"spec": {"containers": [{"name": "c"}]}}));
    cluster.settle();
    let mut rows: Vec<(i64, BTreeSet<String>)> =
        slices(&cluster).iter().map(|slice| (slice["ports"][0]["port"].as_i64().unwrap(), addresses(slice))).collect();
    rows.sort();
    let set = |text: &str| BTreeSet::from([text.to_owned()]);
    assert_eq!(rows, [(80, set("10.244.0.2")), (8080, set("10.244.0.3"))]);
    assert_eq!(endpoints(&cluster)["subsets"].as_array().unwrap().len(), 2);
    cluster.assert_at_rest();
}

#[test]
fn a_hostname_shows_only_when_the_subdomain_is_the_service() {
    let mut cluster = cluster();
    cluster.service("web", "web");
    let spec = |subdomain: &str| json!({"spec": {"hostname": "h", "subdomain": subdomain}});
    pod(&mut cluster, "a", "10.244.0.2", spec("web"));
    pod(&mut cluster, "b", "10.244.0.3", spec("other"));
    cluster.settle();
    let slice = only_slice(&cluster);
    let named = slice["endpoints"].as_array().unwrap().iter();
    let named: Vec<(&Value, &Value)> = named.map(|one| (&one["targetRef"]["name"], &one["hostname"])).collect();
    assert_eq!(named, [(&json!("a"), &json!("h")), (&json!("b"), &Value::Null)]);
}

#[test]
fn both_families_have_their_slices_and_lose_them_with_the_family() {
    let mut cluster = cluster();
    let service = cluster.service("web", "web");
    cluster.edit(&service, |one| one["spec"]["ipFamilies"] = json!(["IPv6", "IPv4"]));
    let both = json!([{"ip": "10.244.0.2"}, {"ip": "fd00::2"}]);
    pod(&mut cluster, "a", "10.244.0.2", json!({"status": {"podIPs": both}}));
    cluster.settle();
    let mut found: Vec<(String, BTreeSet<String>)> = slices(&cluster)
        .iter()
        .map(|slice| (slice["addressType"].as_str().unwrap().to_owned(), addresses(slice)))
        .collect();
    found.sort();
    let row = |family: &str, ip: &str| (family.to_owned(), BTreeSet::from([ip.to_owned()]));
    assert_eq!(found, [row("IPv4", "10.244.0.2"), row("IPv6", "fd00::2")]);
    assert_eq!(endpoints(&cluster)["subsets"][0]["addresses"][0]["ip"], "fd00::2");
    cluster.edit(&service, |one| one["spec"]["ipFamilies"] = json!(["IPv4"]));
    cluster.settle();
    assert_eq!(only_slice(&cluster)["addressType"], "IPv4");
    cluster.assert_at_rest();
}

#[test]
fn a_headless_service_needs_no_ports_and_says_that_it_is_headless() {
    let mut cluster = cluster();
    let service = cluster.service("web", "web");
    cluster.edit(&service, |one| {
        one["spec"]["clusterIP"] = json!("None");
        one["spec"]["ports"] = Value::Null;
    });
    pod(&mut cluster, "a", "10.244.0.2", json!({}));
    cluster.settle();
    let slice = only_slice(&cluster);
    assert_eq!(slice["metadata"]["labels"]["service.kubernetes.io/headless"], "");
    assert_eq!(addresses(&slice).len(), 1);
    assert_eq!(slice["ports"], json!([]));
    let endpoints = endpoints(&cluster);
    assert_eq!(endpoints["metadata"]["labels"]["service.kubernetes.io/headless"], "");
    assert_eq!(endpoints["subsets"][0]["ports"], Value::Null);
    cluster.edit(&service, |one| one["spec"]["clusterIP"] = json!("10.96.0.9"));
    cluster.settle();
    let labels = only_slice(&cluster)["metadata"]["labels"].clone();
    assert_eq!(labels["service.kubernetes.io/headless"], Value::Null);
    cluster.assert_at_rest();
}

#[test]
fn an_external_name_has_no_slices_and_a_service_without_selector_keeps_its_own() {
    let mut cluster = cluster();
    let service = cluster.service("web", "web");
    pod(&mut cluster, "a", "10.244.0.2", json!({}));
    cluster.settle();
    cluster.edit(&service, |one| {
        one["spec"]["type"] = json!("ExternalName");
        one["spec"]["externalName"] = json!("example.org");
    });
    cluster.settle();
    assert!(slices(&cluster).is_empty());
    let own = cluster.create(
        Kind::EndpointSlice,
        json!({
            "metadata": {"name": "own", "namespace": "default", "labels": {"kubernetes.io/service-name": "manual"}},
            "addressType": "IPv4", "endpoints": [{"addresses": ["10.0.0.1"]}], "ports": [],
        }),
    );
    let manual = cluster.service("manual", "x");
    cluster.edit(&manual, |one| one["spec"]["selector"] = Value::Null);
    cluster.settle();
    assert_eq!(slices(&cluster).len(), 1);
    assert!(cluster.api.objects.contains_key(&own));
}

#[test]
fn slices_hold_a_hundred_endpoints_and_empty_ones_go() {
    let mut cluster = cluster();
    cluster.service("web", "web");
    let ids: Vec<Id> = (0..250)
        .map(|number| pod(&mut cluster, &format!("p{number:03}"), &format!("10.244.0.{number}"), json!({})))
        .collect();
    cluster.settle();
    let mut sizes: Vec<usize> = slices(&cluster).iter().map(|slice| addresses(slice).len()).collect();
    sizes.sort();
    assert_eq!(sizes, [50, 100, 100]);
    let now = cluster.now;
    for id in &ids[..200] {
        cluster.api.delete(id, "Background", Some(0), now);
    }
    cluster.settle();
    let left: usize = slices(&cluster).iter().map(|slice| addresses(slice).len()).sum();
    assert_eq!(left, 50);
    assert_eq!(slices(&cluster).len(), 1);
    cluster.assert_at_rest();
}

#[test]
fn a_replaced_pod_is_one_write_of_its_slice() {
    let mut cluster = cluster();
    cluster.service("web", "web");
    let old = pod(&mut cluster, "a", "10.244.0.2", json!({}));
    pod(&mut cluster, "b", "10.244.0.3", json!({}));
    cluster.settle();
    let now = cluster.now;
    cluster.api.delete(&old, "Background", Some(0), now);
    pod(&mut cluster, "c", "10.244.0.4", json!({}));
    assert_eq!(cluster.settle_counting(), 2, "one slice, one Endpoints");
}

#[test]
fn endpoints_hold_a_thousand_addresses_and_say_that_more_exist() {
    let mut cluster = cluster();
    cluster.service("web", "web");
    for number in 0..1001 {
        let address = format!("10.244.{}.{}", number / 250, number % 250);
        pod(&mut cluster, &format!("p{number:04}"), &address, json!({}));
    }
    cluster.settle();
    let endpoints = endpoints(&cluster);
    let addresses = endpoints["subsets"][0]["addresses"].as_array().unwrap();
    assert_eq!(addresses.len(), 1000);
    let annotations = &endpoints["metadata"]["annotations"];
    assert_eq!(annotations["endpoints.kubernetes.io/over-capacity"], "truncated");
    cluster.assert_at_rest();
}

#[test]
fn a_service_that_goes_takes_its_endpoints_and_slices_along() {
    let mut cluster = cluster();
    let service = cluster.service("web", "web");
    pod(&mut cluster, "a", "10.244.0.2", json!({}));
    cluster.settle();
    let now = cluster.now;
    cluster.api.delete(&service, "Background", None, now);
    cluster.settle();
    assert!(slices(&cluster).is_empty());
    assert!(!cluster.api.objects.contains_key(&Id::new(Kind::Endpoints, "default", "web")));
    cluster.assert_at_rest();
}

#[test]
fn a_node_that_changes_its_zone_changes_the_endpoints_on_it() {
    let mut cluster = cluster();
    cluster.service("web", "web");
    pod(&mut cluster, "a", "10.244.0.2", json!({}));
    cluster.settle();
    let node = Id::new(Kind::Node, "", "n1");
    cluster.edit(&node, |node| {
        node["metadata"]["labels"]["topology.kubernetes.io/zone"] = json!("south");
    });
    cluster.settle();
    assert_eq!(only_slice(&cluster)["endpoints"][0]["zone"], "south");
}

#[test]
fn a_new_endpoint_goes_into_the_slice_that_is_written_anyway() {
    for full in [0, 1] {
        let mut cluster = cluster();
        cluster.service("web", "web");
        for number in 0..200 {
            let address = format!("10.244.0.{number}");
            pod(&mut cluster, &format!("p{number:03}"), &address, json!({}));
        }
        cluster.settle();
        let members = |slice: &Value| -> Vec<Id> {
            let endpoints = slice["endpoints"].as_array().unwrap().iter();
            let names = endpoints.map(|one| one["targetRef"]["name"].as_str().unwrap().to_owned());
            names.map(|name| Id::new(Kind::Pod, "default", &name)).collect()
        };
        let all = slices(&cluster);
        let now = cluster.now;
        for id in &members(&all[1 - full])[..40] {
            cluster.api.delete(id, "Background", Some(0), now);
        }
        cluster.settle();
        let replaced = &members(&all[full])[0];
        cluster.api.delete(replaced, "Background", Some(0), now);
        pod(&mut cluster, "new", "10.244.1.1", json!({}));
        assert_eq!(cluster.settle_counting(), 2, "one slice, one Endpoints");
    }
}
