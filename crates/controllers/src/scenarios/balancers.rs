//! Services of type LoadBalancer get an address of the pool, keep it, wait for one, and give it back.

use k8s_openapi::api::core::v1::Service;
use serde_json::{Value, json};

use crate::fixture::Cluster;
use crate::object::{Id, Kind};
use crate::world::World;

fn cluster(pools: &[&str]) -> Cluster {
    let mut cluster = Cluster::new();
    cluster.config.balancer_pools = pools.iter().map(|text| text.parse().unwrap()).collect();
    cluster
}

fn balancer_with(cluster: &mut Cluster, name: &str, change: impl FnOnce(&mut Value)) -> Id {
    let id = cluster.service(name, name);
    cluster.edit(&id, |service| {
        service["spec"]["type"] = json!("LoadBalancer");
        change(service);
    });
    cluster.advance(1);
    id
}

fn balancer(cluster: &mut Cluster, name: &str) -> Id {
    balancer_with(cluster, name, |_| ())
}

fn addresses(cluster: &Cluster, id: &Id) -> Vec<String> {
    let ingress = cluster.api.objects[id]["status"]["loadBalancer"]["ingress"].as_array().cloned();
    let rows = ingress.unwrap_or_default();
    assert!(rows.iter().all(|row| row["ipMode"] == "VIP"), "{rows:?}");
    rows.iter().map(|row| row["ip"].as_str().unwrap().to_owned()).collect()
}

fn delete(cluster: &mut Cluster, id: &Id) {
    let now = cluster.now;
    cluster.api.delete(id, "Background", None, now);
    cluster.settle();
}

/// Reason and message of the Events told so far.
fn told(cluster: &Cluster) -> Vec<(String, String)> {
    let notes = cluster.writes.iter().filter_map(|write| write.on_success.as_ref());
    let ours = notes.filter(|note| note.on.kind == Kind::Service);
    ours.map(|note| (note.reason.to_owned(), note.message.clone())).collect()
}

fn complaint(cluster: &Cluster, id: &Id) -> String {
    let row = &cluster.api.objects[id]["status"]["conditions"][0];
    let fields = ["type", "status", "reason", "message"].map(|field| row[field].as_str().unwrap_or("-").to_owned());
    fields.join(" ")
}

#[test]
fn services_get_the_first_free_addresses_and_keep_them() {
    let mut cluster = cluster(&["172.18.100.0/28"]);
    let (one, two) = (balancer(&mut cluster, "z"), balancer(&mut cluster, "a"));
    cluster.settle();
    assert_eq!(addresses(&cluster, &one), ["172.18.100.1"], "the older one is first");
    assert_eq!(addresses(&cluster, &two), ["172.18.100.2"]);
    assert_eq!(told(&cluster)[0], ("IPAllocated".to_owned(), "Assigned 172.18.100.1".to_owned()));
    cluster.edit(&one, |service| service["metadata"]["annotations"] = json!({"x": "y"}));
    assert_eq!(cluster.settle_counting(), 0);
    delete(&mut cluster, &one);
    let three = balancer(&mut cluster, "m");
    cluster.settle();
    assert_eq!(addresses(&cluster, &three), ["172.18.100.1"], "what is free again is given again");
    assert_eq!(addresses(&cluster, &two), ["172.18.100.2"]);
    cluster.assert_at_rest();
}

#[test]
fn a_restart_reads_what_was_given() {
    let mut cluster = cluster(&["172.18.100.0/28"]);
    let (one, two) = (balancer(&mut cluster, "one"), balancer(&mut cluster, "two"));
    cluster.settle();
    delete(&mut cluster, &one);
    let before = addresses(&cluster, &two);
    cluster.world = World::default();
    for (id, body) in cluster.api.objects.clone() {
        let object = crate::object::Object::parse(id.kind, body).unwrap();
        let tasks = cluster.world.set(object, cluster.now);
        cluster.tasks.extend(tasks);
    }
    let three = balancer(&mut cluster, "three");
    cluster.settle();
    assert_eq!(addresses(&cluster, &two), before);
    assert_eq!(addresses(&cluster, &three), ["172.18.100.1"]);
}

#[test]
fn another_type_gives_the_address_back_and_a_foreign_status_stays() {
    let mut cluster = cluster(&["172.18.100.0/28"]);
    let id = balancer(&mut cluster, "web");
    let foreign = balancer_with(&mut cluster, "foreign", |service| {
        service["spec"]["type"] = json!("ClusterIP");
        service["status"]["loadBalancer"]["ingress"] = json!([{"ip": "203.0.113.7", "ipMode": "VIP"}]);
    });
    cluster.settle();
    cluster.edit(&id, |service| service["spec"]["type"] = json!("NodePort"));
    cluster.settle();
    assert_eq!(addresses(&cluster, &id), [""; 0]);
    assert_eq!(addresses(&cluster, &foreign), ["203.0.113.7"]);
    let other = balancer(&mut cluster, "other");
    cluster.settle();
    assert_eq!(addresses(&cluster, &other), ["172.18.100.1"]);
    cluster.assert_at_rest();
}

#[test]
fn who_finds_none_free_is_told_once_and_gets_one_when_it_frees() {
    let mut cluster = cluster(&["172.18.100.0/30"]);
    let ids = ["a", "b", "c"].map(|name| balancer(&mut cluster, name));
    cluster.settle();
    assert_eq!(addresses(&cluster, &ids[2]), [""; 0]);
    let expected = "AddressAllocated False AllocationFailed no IPv4 address of the pool 172.18.100.0/30 is free";
    assert_eq!(complaint(&cluster, &ids[2]), expected);
    for _ in 0..3 {
        cluster.advance(60);
        cluster.edit(&ids[0], |service| service["metadata"]["annotations"] = json!({"at": "x"}));
        assert_eq!(cluster.settle_counting(), 0);
    }
    let failures = told(&cluster).into_iter().filter(|(reason, _)| reason == "AllocationFailed");
    assert_eq!(failures.count(), 1);
    delete(&mut cluster, &ids[1]);
    assert_eq!(addresses(&cluster, &ids[2]), ["172.18.100.2"]);
    assert_eq!(cluster.api.objects[&ids[2]]["status"]["conditions"], Value::Null);
    cluster.assert_at_rest();
}

#[test]
fn a_wish_is_met_or_the_service_waits_for_it() {
    let mut cluster = cluster(&["172.18.100.0/28", "fd18::/120"]);
    let field = balancer_with(&mut cluster, "field", |s| s["spec"]["loadBalancerIP"] = json!("172.18.100.9"));
    let both = balancer_with(&mut cluster, "both", |service| {
        service["spec"]["ipFamilies"] = json!(["IPv6", "IPv4"]);
        service["metadata"]["annotations"] = json!({"metallb.io/loadBalancerIPs": "172.18.100.7, fd18::7"});
    });
    let late = balancer_with(&mut cluster, "late", |s| s["spec"]["loadBalancerIP"] = json!("172.18.100.9"));
    let far = balancer_with(&mut cluster, "far", |s| s["spec"]["loadBalancerIP"] = json!("10.1.2.3"));
    let word = balancer_with(&mut cluster, "word", |s| s["spec"]["loadBalancerIP"] = json!("any"));
    cluster.settle();
    assert_eq!(addresses(&cluster, &field), ["172.18.100.9"]);
    assert_eq!(addresses(&cluster, &both), ["fd18::7", "172.18.100.7"], "in the order of its families");
    assert!(complaint(&cluster, &late).contains("172.18.100.9 is asked for and another Service has it"));
    assert!(complaint(&cluster, &far).contains("10.1.2.3 is asked for and is not in the pool 172.18.100.0/28"));
    assert!(complaint(&cluster, &word).contains("any is asked for and is no address"));
    cluster.edit(&field, |service| service["spec"]["loadBalancerIP"] = json!("172.18.100.3"));
    cluster.settle();
    assert_eq!(addresses(&cluster, &field), ["172.18.100.3"]);
    assert_eq!(addresses(&cluster, &late), ["172.18.100.9"]);
    cluster.assert_at_rest();
}

#[test]
fn families_follow_the_service_as_far_as_the_pool_has_them() {
    let rows = [
        (json!(["IPv4", "IPv6"]), "RequireDualStack", vec!["172.18.100.1", "fd18::1"], vec!["172.18.100.1"], true),
        (json!(["IPv6", "IPv4"]), "PreferDualStack", vec!["fd18::1", "172.18.100.1"], vec!["172.18.100.1"], false),
        (json!(["IPv6"]), "SingleStack", vec!["fd18::1"], vec![], true),
    ];
    for (families, policy, dual, single, lacks) in rows {
        let check = |pools: &[&str], expected: &[&str], lacks: bool| {
            let mut cluster = cluster(pools);
            let id = balancer_with(&mut cluster, "web", |service| {
                service["spec"]["ipFamilies"] = families.clone();
                service["spec"]["ipFamilyPolicy"] = json!(policy);
            });
            cluster.settle();
            assert_eq!(addresses(&cluster, &id), expected, "{policy}");
            let said = complaint(&cluster, &id);
            assert_eq!(said.contains("no IPv6 address of the pool"), lacks, "{policy}: {said}");
            cluster.assert_at_rest();
        };
        check(&["172.18.100.0/28", "fd18::/120"], &dual, false);
        check(&["172.18.100.0/28"], &single, lacks);
    }
}

#[test]
fn without_a_pool_or_with_a_class_the_status_is_anothers() {
    let mut cluster = cluster(&[]);
    let id = balancer(&mut cluster, "web");
    cluster.settle();
    cluster.edit(&id, |service| service["status"]["loadBalancer"]["ingress"] = json!([{"ip": "203.0.113.7"}]));
    assert_eq!(cluster.settle_counting(), 0);
    let mut cluster = self::cluster(&["172.18.100.0/28"]);
    let classed = balancer_with(&mut cluster, "classed", |service| {
        service["spec"]["loadBalancerClass"] = json!("example.com/other");
        // The other controller has the first address of what is our pool too.
        service["status"]["loadBalancer"]["ingress"] = json!([{"ip": "172.18.100.1", "ipMode": "VIP"}]);
    });
    let own = balancer(&mut cluster, "own");
    cluster.settle();
    assert_eq!(addresses(&cluster, &classed), ["172.18.100.1"]);
    assert_eq!(addresses(&cluster, &own), ["172.18.100.2"]);
}

#[test]
fn an_address_outside_the_pool_or_given_twice_is_given_anew() {
    let mut cluster = cluster(&["172.18.100.0/28"]);
    let given = |ip: &str| json!({"loadBalancer": {"ingress": [{"ip": ip, "ipMode": "VIP"}]}});
    let old = balancer_with(&mut cluster, "old", |service| service["status"] = given("10.0.0.1"));
    let first = balancer_with(&mut cluster, "first", |service| service["status"] = given("172.18.100.5"));
    let twice = balancer_with(&mut cluster, "twice", |service| service["status"] = given("172.18.100.5"));
    cluster.settle();
    assert_eq!(addresses(&cluster, &old), ["172.18.100.1"]);
    assert_eq!(addresses(&cluster, &first), ["172.18.100.5"]);
    assert_eq!(addresses(&cluster, &twice), ["172.18.100.2"]);
    cluster.assert_at_rest();
}

#[test]
fn one_change_among_a_thousand_services_writes_one_status() {
    let mut cluster = cluster(&["172.18.0.0/16"]);
    for number in 0..1000 {
        cluster.service(&format!("s{number:04}"), "x");
    }
    let id = balancer(&mut cluster, "web");
    cluster.settle();
    let start = cluster.writes.len();
    cluster.edit(&id, |service| service["spec"]["loadBalancerIP"] = json!("172.18.7.7"));
    cluster.settle();
    assert_eq!(cluster.writes.len() - start, 1);
    let service: Service = serde_json::from_value(cluster.api.objects[&id].clone()).unwrap();
    assert_eq!(service.status.unwrap().load_balancer.unwrap().ingress.unwrap()[0].ip.as_deref(), Some("172.18.7.7"));
}
