//! One golden per kind, and the law that a second run changes nothing.

use super::*;
use proptest::prelude::*;
use serde_json::json;

fn defaulted(mut object: Value) -> Value {
    apply(&mut object);
    object
}

#[test]
fn a_cluster_ip_service_gets_its_defaults() {
    let object = json!({
        "apiVersion": "v1", "kind": "Service", "metadata": { "name": "web" },
        "spec": { "ports": [{ "port": 80 }, { "port": 53, "protocol": "UDP", "targetPort": "dns" }] }
    });
    assert_eq!(
        defaulted(object),
        json!({
            "apiVersion": "v1", "kind": "Service", "metadata": { "name": "web" },
            "spec": {
                "type": "ClusterIP", "sessionAffinity": "None", "internalTrafficPolicy": "Cluster",
                "ipFamilyPolicy": "SingleStack",
                "ports": [
                    { "port": 80, "protocol": "TCP", "targetPort": 80 },
                    { "port": 53, "protocol": "UDP", "targetPort": "dns" }
                ]
            },
            "status": { "loadBalancer": {} }
        })
    );
}

#[test]
fn the_type_of_a_service_decides_its_policies() {
    let rows = [
        ("ClusterIP", json!(null), json!("Cluster"), json!(null)),
        ("NodePort", json!("Cluster"), json!("Cluster"), json!(null)),
        ("LoadBalancer", json!("Cluster"), json!("Cluster"), json!(true)),
        ("ExternalName", json!(null), json!(null), json!(null)),
    ];
    for (kind, external, internal, allocate) in rows {
        let spec = &defaulted(json!({ "apiVersion": "v1", "kind": "Service", "spec": { "type": kind } }))["spec"];
        assert_eq!(spec["externalTrafficPolicy"], external, "{kind}");
        assert_eq!(spec["internalTrafficPolicy"], internal, "{kind}");
        assert_eq!(spec["allocateLoadBalancerNodePorts"], allocate, "{kind}");
    }
}

#[test]
fn cluster_ip_and_cluster_ips_follow_each_other() {
    for spec in [json!({ "clusterIP": "None" }), json!({ "clusterIPs": ["None"] })] {
        let spec = &defaulted(json!({ "apiVersion": "v1", "kind": "Service", "spec": spec }))["spec"];
        assert_eq!((&spec["clusterIP"], &spec["clusterIPs"]), (&json!("None"), &json!(["None"])));
    }
}

#[test]
fn client_ip_affinity_lasts_three_hours_unless_said() {
    let spec = json!({ "sessionAffinity": "ClientIP" });
    let object = defaulted(json!({ "apiVersion": "v1", "kind": "Service", "spec": spec }));
    assert_eq!(object["spec"]["sessionAffinityConfig"]["clientIP"]["timeoutSeconds"], 10800);
}

#[test]
fn a_pod_gets_its_defaults() {
    let object = json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": { "name": "web" },
        "spec": {
            "containers": [{
                "name": "nginx", "image": "nginx:1.27", "ports": [{ "containerPort": 80 }],
                "readinessProbe": { "httpGet": { "port": 80 }, "timeoutSeconds": 0 },
                "resources": { "limits": { "cpu": "1" } }
            }],
            "volumes": [{ "name": "tmp" }, { "name": "cm", "configMap": { "name": "cm" } }]
        }
    });
    assert_eq!(
        defaulted(object),
        json!({
            "apiVersion": "v1", "kind": "Pod", "metadata": { "name": "web" },
            "spec": {
                "restartPolicy": "Always", "dnsPolicy": "ClusterFirst", "terminationGracePeriodSeconds": 30,
                "schedulerName": "default-scheduler", "securityContext": {}, "enableServiceLinks": true,
                "containers": [{
                    "name": "nginx", "image": "nginx:1.27", "imagePullPolicy": "IfNotPresent",
                    "ports": [{ "containerPort": 80, "protocol": "TCP" }],
                    "readinessProbe": {
                        "httpGet": { "port": 80, "path": "/", "scheme": "HTTP" },
                        "timeoutSeconds": 1, "periodSeconds": 10, "successThreshold": 1, "failureThreshold": 3
                    },
                    "resources": { "limits": { "cpu": "1" }, "requests": { "cpu": "1" } },
                    "terminationMessagePath": "/dev/termination-log", "terminationMessagePolicy": "File"
                }],
                "volumes": [
                    { "name": "tmp", "emptyDir": {} }, { "name": "cm", "configMap": { "name": "cm", "defaultMode": 420 } }
                ]
            }
        })
    );
}

#[test]
fn a_pod_on_the_host_network_uses_the_hosts_ports() {
    let spec = json!({ "hostNetwork": true, "containers": [{ "ports": [{ "containerPort": 80 }] }] });
    let object = defaulted(json!({ "apiVersion": "v1", "kind": "Pod", "spec": spec }));
    assert_eq!(object["spec"]["containers"][0]["ports"][0]["hostPort"], 80);
}

#[test]
fn latest_and_untagged_images_are_always_pulled() {
    let rows = [
        ("nginx", "Always"),
        ("nginx:latest", "Always"),
        ("nginx:1.27", "IfNotPresent"),
        ("host:5000/nginx", "Always"),
        ("host:5000/nginx:1", "IfNotPresent"),
        ("nginx@sha256:abc", "IfNotPresent"),
    ];
    for (image, policy) in rows {
        let spec = json!({ "containers": [{ "image": image }] });
        let object = defaulted(json!({ "apiVersion": "v1", "kind": "Pod", "spec": spec }));
        assert_eq!(object["spec"]["containers"][0]["imagePullPolicy"], policy, "{image}");
    }
}

#[test]
fn a_pods_first_address_is_its_address() {
    let object =
        defaulted(json!({ "apiVersion": "v1", "kind": "Pod", "status": { "podIPs": [{ "ip": "10.244.0.5" }] } }));
    assert_eq!(object["status"]["podIP"], "10.244.0.5");
    let object = defaulted(json!({ "apiVersion": "v1", "kind": "Pod", "status": { "podIP": "fd00::5" } }));
    assert_eq!(object["status"]["podIPs"], json!([{ "ip": "fd00::5" }]));
}

#[test]
fn a_deployment_gets_its_defaults_and_keeps_a_zero() {
    let template = json!({ "spec": { "containers": [] } });
    let object = json!({ "apiVersion": "apps/v1", "kind": "Deployment", "spec": { "template": template } });
    let spec = &defaulted(object)["spec"];
    assert_eq!(spec["replicas"], 1);
    assert_eq!(spec["revisionHistoryLimit"], 10);
    assert_eq!(spec["progressDeadlineSeconds"], 600);
    assert_eq!(
        spec["strategy"],
        json!({ "type": "RollingUpdate", "rollingUpdate": { "maxUnavailable": "25%", "maxSurge": "25%" } })
    );
    assert_eq!(spec["template"]["spec"]["restartPolicy"], "Always");

    let zero = json!({ "apiVersion": "apps/v1", "kind": "Deployment", "spec": { "replicas": 0, "strategy": { "type": "Recreate" } } });
    let spec = &defaulted(zero)["spec"];
    assert_eq!(spec["replicas"], 0);
    assert_eq!(spec["strategy"], json!({ "type": "Recreate" }));
}

#[test]
fn a_secrets_text_becomes_data() {
    let object =
        json!({ "apiVersion": "v1", "kind": "Secret", "data": { "a": "YQ==" }, "stringData": { "b": "hello" } });
    assert_eq!(
        defaulted(object),
        json!({ "apiVersion": "v1", "kind": "Secret", "type": "Opaque", "data": { "a": "YQ==", "b": "aGVsbG8=" } })
    );
}

#[test]
fn a_namespace_carries_its_name_as_a_label_and_its_finalizer_stays_gone() {
    let object = defaulted(json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": "a" }, "spec": {} }));
    assert_eq!(object["metadata"]["labels"], json!({ "kubernetes.io/metadata.name": "a" }));
    assert_eq!(object["status"]["phase"], "Active");
    assert_eq!(object["spec"], json!({}));
}

#[test]
fn a_slice_port_gets_a_name_and_a_protocol() {
    let object = json!({ "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "ports": [{ "port": 80 }], "endpoints": [] });
    assert_eq!(defaulted(object)["ports"], json!([{ "name": "", "port": 80, "protocol": "TCP" }]));
}

#[test]
fn objects_of_odd_shape_do_not_panic() {
    for kind in ["Service", "Pod", "Namespace", "Node", "Secret", "Endpoints"] {
        for odd in [json!(7), json!([]), json!("x"), json!([7]), json!({ "ports": 7, "containers": [7] })] {
            let mut object = json!({
                "apiVersion": "v1", "kind": kind, "metadata": odd, "spec": odd, "status": odd, "data": odd, "stringData": odd
            });
            apply(&mut object);
        }
    }
    apply(&mut json!([]));
}

fn any_object() -> impl Strategy<Value = Value> {
    let kind = prop_oneof![
        Just(("v1", "Service")),
        Just(("v1", "Pod")),
        Just(("apps/v1", "Deployment")),
        Just(("v1", "Namespace")),
        Just(("v1", "Secret")),
        Just(("discovery.k8s.io/v1", "EndpointSlice")),
    ];
    let ty = proptest::option::of(prop_oneof![
        Just("NodePort"),
        Just("LoadBalancer"),
        Just("ExternalName"),
        Just("Recreate")
    ]);
    let limits = proptest::option::of(Just(json!({ "cpu": "1" })));
    (kind, ty, limits, any::<bool>(), 0..2_i64).prop_map(|((api_version, kind), ty, limits, host, port)| {
        let containers =
            json!([{ "name": "a", "resources": { "limits": limits }, "ports": [{ "containerPort": port }] }]);
        json!({
            "apiVersion": api_version, "kind": kind, "metadata": { "name": "a" },
            "spec": {
                "type": ty, "ports": [{ "port": port }], "containers": containers, "hostNetwork": host,
                "clusterIP": if host { "None" } else { "" }, "template": { "spec": { "containers": containers } },
                "strategy": { "type": ty }
            },
            "stringData": { "a": "b" }, "ports": [{ "port": port }]
        })
    })
}

proptest! {
    #[test]
    fn defaulting_twice_is_defaulting_once(object in any_object()) {
        let once = defaulted(object);
        prop_assert_eq!(defaulted(once.clone()), once);
    }
}
