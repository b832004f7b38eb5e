use portolan_model::{Fact, Facts, Family, Proto, ProxySettings, ServiceKind};
use serde_json::{Value, json};

use crate::*;

fn object(value: Value) -> Object {
    Object::from_value(&value).expect("a well-shaped object").expect("a kind with facts")
}

fn service(spec: Value) -> (portolan_model::Service, Vec<Complaint>) {
    let value =
        json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "web", "namespace": "ns1"}, "spec": spec});
    match fact(&object(value)) {
        (Fact::Service(key, Some(service)), complaints) => {
            assert_eq!(key.to_string(), "ns1/web");
            (service, complaints)
        }
        other => panic!("not a service: {other:?}"),
    }
}

fn slice(endpoints: Value) -> (portolan_model::Slice, Vec<Complaint>) {
    let value = json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
        "metadata": {"name": "web-x", "namespace": "ns1", "labels": {"kubernetes.io/service-name": "web"}},
        "ports": [{"name": "http", "port": 8080}, {"name": "no number"}, {"name": "zero", "port": 0}],
        "endpoints": endpoints,
    });
    match fact(&object(value)) {
        (Fact::Slice(_, Some(slice)), complaints) => (slice, complaints),
        other => panic!("not a slice: {other:?}"),
    }
}

#[test]
fn cluster_ip_service_keeps_addresses_ports_and_defaults() {
    let (svc, complaints) = service(json!({
        "clusterIPs": ["10.96.0.20", "fd00::20"], "clusterIP": "10.96.0.20",
        "ports": [{"name": "http", "port": 80, "nodePort": 30080}, {"name": "dns", "port": 53, "protocol": "UDP"}],
        "sessionAffinity": "ClientIP", "internalTrafficPolicy": "Local",
    }));
    assert!(complaints.is_empty());
    assert_eq!(svc.cluster_ips.len(), 2);
    assert_eq!((svc.ports[0].proto, svc.ports[0].node_port), (Proto::Tcp, 30080));
    assert_eq!(svc.ports[1].proto, Proto::Udp);
    assert_eq!(svc.affinity_secs, Some(10_800));
    assert!(svc.internal_local);
}

#[test]
fn headless_and_external_name_have_no_cluster_ip() {
    assert_eq!(service(json!({"clusterIP": "None", "clusterIPs": ["None"]})).0.kind, ServiceKind::Headless);
    let (svc, _) = service(json!({"type": "ExternalName", "externalName": "ylzhong.top", "clusterIP": "10.96.0.9"}));
    assert_eq!(svc.kind, ServiceKind::ExternalName("ylzhong.top".into()));
    assert!(svc.cluster_ips.is_empty());
}

#[test]
fn a_bad_field_costs_only_itself_and_is_complained_of() {
    let (svc, complaints) = service(json!({
        "clusterIP": "10.096.000.020", "externalIPs": ["nonsense", "192.0.2.1"],
        "loadBalancerSourceRanges": [" 10.0.0.0/8 "],
        "ports": [{"port": 70000}, {"port": 80}],
    }));
    assert_eq!(svc.cluster_ips[0].to_string(), "10.96.0.20");
    assert_eq!(svc.external_ips.len(), 1);
    assert_eq!(svc.source_ranges[0].to_string(), "10.0.0.0/8");
    assert_eq!(svc.ports.len(), 1);
    let messages: Vec<&str> = complaints.iter().map(|c| c.message.as_str()).collect();
    assert!(messages[0].starts_with("spec.externalIPs: \"nonsense\""), "{messages:?}");
    assert!(messages[1].starts_with("spec.ports[0]"), "{messages:?}");
}

#[test]
fn only_vip_ingress_addresses_are_the_proxys() {
    let value = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "web"}, "spec": {"type": "LoadBalancer"},
        "status": {"loadBalancer": {"ingress": [{"ip": "192.0.2.1"}, {"ip": "192.0.2.2", "ipMode": "Proxy"}, {"hostname": "x"}]}}});
    let (Fact::Service(key, Some(svc)), _) = fact(&object(value)) else { panic!("a service") };
    assert_eq!(key.to_string(), "default/web");
    assert_eq!(svc.load_balancer_ips.len(), 1);
}

#[test]
fn endpoint_conditions_default_as_the_api_documents() {
    let (found, complaints) = slice(json!([
        {"addresses": ["10.244.0.1"], "nodeName": "node-1", "targetRef": {"kind": "Pod", "name": "a", "namespace": "ns1"}},
        {"addresses": ["10.244.0.2"], "conditions": {"ready": false, "serving": true, "terminating": true}},
        {"addresses": ["fd00::1"]}, {"addresses": []},
    ]));
    assert_eq!(found.family, Family::V4);
    assert_eq!(found.ports.len(), 1);
    let flags: Vec<_> = found.endpoints.iter().map(|e| (e.ready, e.serving, e.terminating)).collect();
    assert_eq!(flags, [(true, true, false), (false, true, true)]);
    assert_eq!(found.endpoints[0].pod, Some(NsName::new("ns1", "a")));
    assert_eq!(complaints.len(), 1);
}

#[test]
fn a_slice_without_a_service_or_of_names_states_nothing() {
    for value in [
        json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4", "metadata": {"name": "x"}, "endpoints": []}),
        json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "FQDN", "endpoints": [],
               "metadata": {"name": "x", "labels": {"kubernetes.io/service-name": "web"}}}),
    ] {
        assert!(matches!(fact(&object(value)).0, Fact::Slice(_, None)));
    }
}

#[test]
fn a_node_may_be_excluded_from_balancers_by_a_label_of_any_value() {
    for (labels, excluded) in [
        (json!({}), false),
        (json!({"node.kubernetes.io/exclude-from-external-load-balancers": ""}), true),
        (json!({"node.kubernetes.io/exclude-from-external-load-balancers": "false"}), true),
    ] {
        let node =
            object(json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "node-1", "labels": labels}}));
        let (Fact::Node(_, Some(node)), _) = fact(&node) else { panic!("a node") };
        assert_eq!(node.excluded_from_balancers, excluded);
    }
}

#[test]
fn node_and_pod_addresses_come_from_status() {
    let node = object(
        json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "node-1", "labels": {"topology.kubernetes.io/zone": "z"}},
        "spec": {"podCIDRs": ["10.244.0.0/26"]},
        "status": {"addresses": [{"type": "Hostname", "address": "node-1"}, {"type": "InternalIP", "address": "172.18.0.11"}],
                   "conditions": [{"type": "Ready", "status": "True"}]}}),
    );
    let (Fact::Node(_, Some(node)), _) = fact(&node) else { panic!("a node") };
    assert_eq!((node.addresses.len(), node.pod_cidrs.len(), node.ready, node.zone.as_deref()), (1, 1, true, Some("z")));
    let pod =
        object(json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a", "namespace": "ns1", "uid": "u"},
        "spec": {"nodeName": "node-1", "containers": []}, "status": {"podIP": "10.244.0.1", "phase": "Running"}}));
    let (Fact::Pod(_, Some(pod)), _) = fact(&pod) else { panic!("a pod") };
    assert_eq!((pod.addresses.len(), pod.finished, pod.node.as_deref()), (1, false, Some("node-1")));
}

/// The law of this room: a value told twice, or before and after something else, is the same fact; gone undoes it.
#[test]
fn doubled_and_undone_events_end_as_from_scratch() {
    let web = |port: u16| {
        object(
            json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "web"}, "spec": {"ports": [{"port": port}]}}),
        )
    };
    let other = object(json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "x"}}));
    let mut scratch = Facts::default();
    ingest(&mut scratch, [Event::Value(web(80))]);
    let mut long_way = Facts::default();
    for event in [
        Event::Value(web(81)),
        Event::Value(other.clone()),
        Event::Gone(web(81)),
        Event::Value(web(80)),
        Event::Value(web(80)),
        Event::Gone(other),
    ] {
        ingest(&mut long_way, [event]);
    }
    assert_eq!(scratch, long_way);
}

#[test]
fn one_event_touches_one_key() {
    let mut facts = Facts::default();
    let ns =
        |name: &str| Event::Value(object(json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})));
    ingest(&mut facts, (0..100).map(|n| ns(&format!("ns{n}"))));
    let (touched, _) = ingest(&mut facts, [ns("one-more"), ns("ns5")]);
    assert_eq!(touched.namespaces.len(), 1);
}

#[test]
fn a_health_check_port_counts_only_for_a_balancer_of_policy_local() {
    let rows = [
        ("LoadBalancer", "Local", json!(32000), 32000),
        ("LoadBalancer", "Cluster", json!(32000), 0),
        ("NodePort", "Local", json!(32000), 0),
        ("ClusterIP", "Local", json!(32000), 0),
        ("LoadBalancer", "Local", json!(null), 0),
        ("LoadBalancer", "Local", json!(-1), 0),
        ("LoadBalancer", "Local", json!(70000), 0),
    ];
    for (kind, policy, port, expected) in rows {
        let spec = json!({"type": kind, "externalTrafficPolicy": policy, "healthCheckNodePort": port});
        assert_eq!(service(spec.clone()).0.health_check_node_port, expected, "{spec}");
    }
}

#[test]
fn labels_say_which_proxy_a_service_is_for_whatever_their_value() {
    let labelled = |labels: Value| {
        let value = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "web", "labels": labels},
            "spec": {"clusterIP": "10.96.0.20"}});
        let (Fact::Service(_, Some(service)), _) = fact(&object(value)) else { panic!("a service") };
        service
    };
    let proxy = |name: Option<&str>| ProxySettings { service_proxy_name: name.map(Into::into), ..Default::default() };
    let name = "service.kubernetes.io/service-proxy-name";
    // Labels; whether a proxy without a name takes it; whether the one named `edge` does.
    let rows = [
        (json!({}), true, false),
        (json!({name: "edge"}), false, true),
        (json!({name: "other"}), false, false),
        (json!({name: ""}), false, false),
        (json!({"service.kubernetes.io/headless": ""}), false, false),
        (json!({"service.kubernetes.io/headless": "false", name: "edge"}), false, false),
        (json!({"app": "edge"}), true, false),
    ];
    for (labels, unnamed, named) in rows {
        let service = labelled(labels.clone());
        assert_eq!(service.is_proxied(&proxy(None)), unnamed, "{labels}");
        assert_eq!(service.is_proxied(&proxy(Some("edge"))), named, "{labels}");
    }
}

#[test]
fn a_node_is_leaving_when_it_is_deleted_or_the_autoscaler_says_so() {
    let taint = |key: &str| json!([{"key": key, "effect": "NoSchedule"}]);
    let rows = [
        (json!(null), json!([]), false),
        (json!("2026-01-01T00:00:00Z"), json!([]), true),
        (json!(null), taint("ToBeDeletedByClusterAutoscaler"), true),
        (json!(null), taint("node.kubernetes.io/unschedulable"), false),
        (json!(null), taint("DeletionCandidateOfClusterAutoscaler"), false),
    ];
    for (deleted, taints, leaving) in rows {
        let value = json!({"apiVersion": "v1", "kind": "Node",
            "metadata": {"name": "node-1", "deletionTimestamp": deleted}, "spec": {"taints": taints}});
        let (Fact::Node(_, Some(node)), _) = fact(&object(value.clone())) else { panic!("a node") };
        assert_eq!(node.leaving, leaving, "{value}");
    }
}
