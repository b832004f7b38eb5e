//! Rows of one change to a good object and the errors it makes, in Kubernetes' words.

use super::*;
use serde_json::json;

/// A good object with its defaults; `change` is laid over it as a JSON merge patch would be.
fn object(mut base: Value, change: Value) -> Value {
    lay(&mut base, change);
    crate::defaults::apply(&mut base);
    base
}

fn lay(base: &mut Value, change: Value) {
    let Value::Object(change) = change else {
        *base = change;
        return;
    };
    if !base.is_object() {
        *base = json!({});
    }
    for (key, value) in change {
        match value {
            Value::Null => {
                base.as_object_mut().expect("made above").remove(&key);
            }
            value => lay(&mut base[key], value),
        }
    }
}

fn service(change: Value) -> Value {
    let base = json!({
        "apiVersion": "v1", "kind": "Service", "metadata": { "name": "web", "namespace": "default" },
        "spec": { "selector": { "app": "web" }, "ports": [{ "port": 80 }] }
    });
    object(base, change)
}

fn pod(change: Value) -> Value {
    let base = json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": { "name": "web", "namespace": "default" },
        "spec": { "containers": [{ "name": "nginx", "image": "nginx" }] }
    });
    object(base, change)
}

/// A pod whose only container has these members too.
fn container(change: Value) -> Value {
    let mut container = json!({ "name": "nginx", "image": "nginx" });
    lay(&mut container, change);
    pod(json!({ "spec": { "containers": [container] } }))
}

fn deployment(change: Value) -> Value {
    let base = json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": { "name": "web", "namespace": "default" },
        "spec": {
            "selector": { "matchLabels": { "app": "web" } },
            "template": {
                "metadata": { "labels": { "app": "web" } },
                "spec": { "containers": [{ "name": "nginx", "image": "nginx" }] }
            }
        }
    });
    object(base, change)
}

fn slice(change: Value) -> Value {
    let base = json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "metadata": { "name": "web-x" },
        "addressType": "IPv4", "endpoints": [{ "addresses": ["10.244.0.5"] }], "ports": [{ "port": 80 }]
    });
    object(base, change)
}

fn plain(api_version: &str, kind: &str, change: Value) -> Value {
    object(json!({ "apiVersion": api_version, "kind": kind, "metadata": { "name": "a" } }), change)
}

fn texts(errors: Vec<FieldError>) -> Vec<String> {
    errors.iter().map(ToString::to_string).collect()
}

fn expect(rows: Vec<(Value, Vec<&str>)>) {
    for (object, expected) in rows {
        assert_eq!(texts(create(&object)), expected, "{object}");
    }
}

#[test]
fn good_objects_pass() {
    for object in [
        service(json!({})),
        pod(json!({})),
        deployment(json!({})),
        slice(json!({})),
        slice(json!({ "addressType": "IPv6", "endpoints": [{ "addresses": ["fd00::5"] }] })),
        plain("v1", "ConfigMap", json!({ "data": { "a.b": "c" } })),
        plain("v1", "Secret", json!({ "stringData": { "a": "b" } })),
        plain("v1", "Namespace", json!({})),
        plain("v1", "Node", json!({ "spec": { "podCIDR": "10.244.0.0/26" } })),
        service(json!({ "spec": { "clusterIP": "None", "ports": null } })),
        service(json!({ "spec": { "type": "NodePort", "ports": [{ "port": 80, "nodePort": 30080 }] } })),
        service(json!({ "spec": { "type": "ExternalName", "externalName": "ylzhong.top", "ports": null } })),
        service(json!({ "metadata": { "name": null, "generateName": "web-" } })),
        service(
            json!({ "spec": { "ports": [{ "name": "dns", "port": 53, "protocol": "UDP" }, { "name": "dns-tcp", "port": 53 }] } }),
        ),
    ] {
        assert_eq!(texts(create(&object)), Vec::<String>::new(), "{object}");
    }
}

#[test]
fn names_and_labels_follow_their_rules() {
    let subdomain = "metadata.name: Invalid value: \"Foo_Bar\": a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')";
    let label = "metadata.name: Invalid value: \"1web\": a DNS-1035 label must consist of lower case alphanumeric characters or '-', start with an alphabetic character, and end with an alphanumeric character (e.g. 'my-name',  or 'abc-123', regex used for validation is '[a-z]([-a-z0-9]*[a-z0-9])?')";
    let value = "metadata.labels: Invalid value: \"a b\": a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyValue',  or 'my_value',  or '12345', regex used for validation is '(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')";
    let owner = json!([{ "apiVersion": "v1", "kind": "Pod", "name": "a" }]);
    expect(vec![
        (pod(json!({ "metadata": { "name": "Foo_Bar" } })), vec![subdomain]),
        (service(json!({ "metadata": { "name": "1web" } })), vec![label]),
        (
            pod(json!({ "metadata": { "name": null } })),
            vec!["metadata.name: Required value: name or generateName is required"],
        ),
        (pod(json!({ "metadata": { "labels": { "a": "a b" } } })), vec![value]),
        (
            pod(json!({ "metadata": { "ownerReferences": owner } })),
            vec!["metadata.ownerReferences[0].uid: Invalid value: \"\": must not be empty"],
        ),
    ]);
    let large = "x".repeat(300 * 1024);
    expect(vec![(
        pod(json!({ "metadata": { "annotations": { "a": large } } })),
        vec!["metadata.annotations: Too long: may not be more than 262144 bytes"],
    )]);
}

#[test]
fn service_ports_must_be_ports_and_named_when_many() {
    let ports = |ports: Value| service(json!({ "spec": { "ports": ports } }));
    let range = "must be between 1 and 65535, inclusive";
    expect(vec![
        (
            ports(json!([{ "port": 70000, "targetPort": 80 }])),
            vec![&format!("spec.ports[0].port: Invalid value: 70000: {range}")],
        ),
        (
            ports(json!([{ "port": 0, "targetPort": 80 }])),
            vec![&format!("spec.ports[0].port: Invalid value: 0: {range}")],
        ),
        (
            ports(json!([{ "port": 80, "targetPort": 70000 }])),
            vec![&format!("spec.ports[0].targetPort: Invalid value: 70000: {range}")],
        ),
        (ports(json!([])), vec!["spec.ports: Required value"]),
        (
            ports(json!([{ "port": 80 }, { "port": 81 }])),
            vec!["spec.ports[0].name: Required value", "spec.ports[1].name: Required value"],
        ),
        (
            ports(json!([{ "name": "a", "port": 80 }, { "name": "a", "port": 81 }])),
            vec!["spec.ports[1].name: Duplicate value: \"a\""],
        ),
        (
            ports(json!([{ "name": "a", "port": 80 }, { "name": "b", "port": 80 }])),
            vec!["spec.ports[1]: Duplicate value: {\"port\":80,\"protocol\":\"TCP\"}"],
        ),
        (
            ports(json!([{ "port": 80, "protocol": "tcp" }])),
            vec!["spec.ports[0].protocol: Unsupported value: \"tcp\": supported values: \"SCTP\", \"TCP\", \"UDP\""],
        ),
        (
            ports(json!([{ "port": 80, "nodePort": 30080 }])),
            vec!["spec.ports[0].nodePort: Forbidden: may not be used when `type` is 'ClusterIP'"],
        ),
        (
            service(json!({ "spec": { "type": "NodePort", "ports": [
                { "name": "a", "port": 80, "nodePort": 30080 }, { "name": "b", "port": 81, "nodePort": 30080 }
            ] } })),
            vec!["spec.ports[1].nodePort: Duplicate value: 30080"],
        ),
    ]);
}

#[test]
fn a_service_type_allows_what_it_allows() {
    let spec = |spec: Value| service(json!({ "spec": spec }));
    expect(vec![
        (
            spec(json!({ "type": "Cluster" })),
            vec![
                "spec.type: Unsupported value: \"Cluster\": supported values: \"ClusterIP\", \"ExternalName\", \"LoadBalancer\", \"NodePort\"",
            ],
        ),
        (spec(json!({ "type": "ExternalName" })), vec!["spec.externalName: Required value"]),
        (
            spec(json!({ "type": "ExternalName", "externalName": "a.b", "clusterIP": "10.96.0.9" })),
            vec!["spec.clusterIPs: Forbidden: may not be set for ExternalName services"],
        ),
        (
            spec(json!({ "type": "NodePort", "clusterIP": "None" })),
            vec!["spec.clusterIPs[0]: Invalid value: \"None\": may not be set to 'None' for NodePort services"],
        ),
        (
            spec(json!({ "clusterIP": "10.96.0" })),
            vec![
                "spec.clusterIPs[0]: Invalid value: \"10.96.0\": must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)",
            ],
        ),
        (
            spec(json!({ "clusterIPs": ["10.96.0.9"], "clusterIP": "10.96.0.8" })),
            vec!["spec.clusterIPs: Invalid value: [\"10.96.0.9\"]: first value must match `clusterIP`"],
        ),
        (
            spec(json!({ "clusterIPs": ["fd00::9"], "ipFamilies": ["IPv4"] })),
            vec![
                "spec.clusterIPs[0]: Invalid value: \"fd00::9\": expected an IPv4 value as indicated by `ipFamilies[0]`",
            ],
        ),
        (
            spec(json!({ "externalTrafficPolicy": "Local" })),
            vec![
                "spec.externalTrafficPolicy: Invalid value: \"Local\": may only be set for externally-accessible services",
            ],
        ),
        (
            spec(json!({ "externalIPs": ["127.0.0.1"] })),
            vec![
                "spec.externalIPs[0]: Invalid value: \"127.0.0.1\": may not be in the loopback range (127.0.0.0/8, ::1/128)",
            ],
        ),
        (
            spec(
                json!({ "sessionAffinity": "ClientIP", "sessionAffinityConfig": { "clientIP": { "timeoutSeconds": 0 } } }),
            ),
            vec![
                "spec.sessionAffinityConfig.clientIP.timeoutSeconds: Invalid value: 0: must be greater than 0 and less than 86400",
            ],
        ),
    ]);
}

#[test]
fn containers_need_name_and_image_and_sane_ports() {
    let two = |second: Value| pod(json!({ "spec": { "containers": [{ "name": "nginx", "image": "nginx" }, second] } }));
    expect(vec![
        (pod(json!({ "spec": { "containers": null } })), vec!["spec.containers: Required value"]),
        (two(json!({})), vec!["spec.containers[1].name: Required value", "spec.containers[1].image: Required value"]),
        (two(json!({ "name": "nginx", "image": "x" })), vec!["spec.containers[1].name: Duplicate value: \"nginx\""]),
        (container(json!({ "ports": [{}] })), vec!["spec.containers[0].ports[0].containerPort: Required value"]),
        (
            container(json!({ "ports": [{ "containerPort": 70000 }] })),
            vec![
                "spec.containers[0].ports[0].containerPort: Invalid value: 70000: must be between 1 and 65535, inclusive",
            ],
        ),
        (
            container(json!({ "ports": [{ "name": "a", "containerPort": 1 }, { "name": "a", "containerPort": 2 }] })),
            vec!["spec.containers[0].ports[1].name: Duplicate value: \"a\""],
        ),
        (
            container(
                json!({ "ports": [{ "containerPort": 1, "hostPort": 9 }, { "containerPort": 2, "hostPort": 9 }] }),
            ),
            vec!["spec.containers[0].ports[1].hostPort: Duplicate value: 9"],
        ),
        (
            container(json!({ "env": [{ "name": "a=b" }] })),
            vec![
                "spec.containers[0].env[0].name: Invalid value: \"a=b\": a valid environment variable name must consist only of printable ASCII characters other than '='",
            ],
        ),
        (
            container(json!({ "volumeMounts": [{ "name": "x", "mountPath": "/x" }] })),
            vec!["spec.containers[0].volumeMounts[0].name: Not found: \"x\""],
        ),
        (
            container(json!({ "imagePullPolicy": "Sometimes" })),
            vec![
                "spec.containers[0].imagePullPolicy: Unsupported value: \"Sometimes\": supported values: \"Always\", \"IfNotPresent\", \"Never\"",
            ],
        ),
        (
            container(json!({ "resources": { "limits": { "cpu": "1" }, "requests": { "cpu": "2" } } })),
            vec![
                "spec.containers[0].resources.requests: Invalid value: \"2\": must be less than or equal to cpu limit of 1",
            ],
        ),
        (
            pod(json!({ "spec": { "restartPolicy": "Sometimes" } })),
            vec![
                "spec.restartPolicy: Unsupported value: \"Sometimes\": supported values: \"Always\", \"OnFailure\", \"Never\"",
            ],
        ),
        (
            pod(json!({ "spec": { "volumes": [{ "name": "a" }, { "name": "a" }] } })),
            vec!["spec.volumes[1].name: Duplicate value: \"a\""],
        ),
        (
            pod(json!({ "spec": { "dnsPolicy": "None" } })),
            vec![
                "spec.dnsConfig.nameservers: Required value: must provide at least one DNS nameserver when `dnsPolicy` is None",
            ],
        ),
    ]);
}

#[test]
fn a_probe_has_exactly_one_handler() {
    let probe = |probe: Value| container(json!({ "readinessProbe": probe }));
    expect(vec![
        (
            probe(json!({ "periodSeconds": 3 })),
            vec!["spec.containers[0].readinessProbe: Required value: must specify a handler type"],
        ),
        (
            probe(json!({ "httpGet": { "port": 80 }, "tcpSocket": { "port": 80 } })),
            vec!["spec.containers[0].readinessProbe.tcpSocket: Forbidden: may not specify more than 1 handler type"],
        ),
        (
            probe(json!({ "httpGet": { "port": 0 } })),
            vec![
                "spec.containers[0].readinessProbe.httpGet.port: Invalid value: 0: must be between 1 and 65535, inclusive",
            ],
        ),
        (
            probe(json!({ "tcpSocket": { "port": 80 }, "periodSeconds": -1 })),
            vec![
                "spec.containers[0].readinessProbe.periodSeconds: Invalid value: -1: must be greater than or equal to 0",
            ],
        ),
    ]);
}

#[test]
fn a_deployments_selector_fits_its_template() {
    let spec = |spec: Value| deployment(json!({ "spec": spec }));
    expect(vec![
        (spec(json!({ "replicas": -1 })), vec!["spec.replicas: Invalid value: -1: must be greater than or equal to 0"]),
        (spec(json!({ "selector": null })), vec!["spec.selector: Required value"]),
        (
            spec(json!({ "selector": { "matchLabels": { "app": null } } })),
            vec!["spec.selector: Invalid value: {\"matchLabels\":{}}: empty selector is invalid for deployment"],
        ),
        (
            spec(json!({ "selector": { "matchLabels": { "app": "other" } } })),
            vec![
                "spec.template.metadata.labels: Invalid value: {\"app\":\"web\"}: `selector` does not match template `labels`",
            ],
        ),
        (
            spec(json!({ "template": { "spec": { "restartPolicy": "Never" } } })),
            vec!["spec.template.spec.restartPolicy: Unsupported value: \"Never\": supported values: \"Always\""],
        ),
        (
            spec(json!({ "strategy": { "rollingUpdate": { "maxSurge": 0, "maxUnavailable": 0 } } })),
            vec!["spec.strategy.rollingUpdate.maxUnavailable: Invalid value: 0: may not be 0 when `maxSurge` is 0"],
        ),
        (
            spec(json!({ "strategy": { "type": "Recreate", "rollingUpdate": { "maxSurge": 1 } } })),
            vec!["spec.strategy.rollingUpdate: Forbidden: may not be specified when strategy `type` is 'Recreate'"],
        ),
        (
            spec(json!({ "template": { "spec": { "containers": [{ "name": "a" }] } } })),
            vec!["spec.template.spec.containers[0].image: Required value"],
        ),
    ]);
}

#[test]
fn slices_and_endpoints_hold_addresses_of_their_family() {
    expect(vec![
        (slice(json!({ "addressType": null })), vec!["addressType: Required value"]),
        (
            slice(json!({ "addressType": "IPv6" })),
            vec!["endpoints[0].addresses[0]: Invalid value: \"10.244.0.5\": must be a valid IPv6 address"],
        ),
        (
            slice(json!({ "endpoints": [{ "addresses": [] }] })),
            vec!["endpoints[0].addresses: Required value: must contain at least 1 address"],
        ),
        (slice(json!({ "ports": [{ "port": 1 }, { "port": 2 }] })), vec!["ports[1].name: Duplicate value: \"\""]),
        (
            plain(
                "v1",
                "Endpoints",
                json!({ "subsets": [{ "addresses": [{ "ip": "::1" }], "ports": [{ "port": 0 }] }] }),
            ),
            vec![
                "subsets[0].addresses[0].ip: Invalid value: \"::1\": may not be in the loopback range (127.0.0.0/8, ::1/128)",
                "subsets[0].ports[0].port: Invalid value: 0: must be between 1 and 65535, inclusive",
            ],
        ),
    ]);
}

#[test]
fn keys_of_config_maps_and_secrets_are_file_names() {
    let key = "Invalid value: \"a/b\": a valid config key must consist of alphanumeric characters, '-', '_' or '.' (e.g. 'key.name',  or 'KEY_NAME',  or 'key-name', regex used for validation is '[-._a-zA-Z0-9]+')";
    expect(vec![
        (plain("v1", "ConfigMap", json!({ "data": { "a/b": "" } })), vec![&format!("data[a/b]: {key}")]),
        (plain("v1", "Secret", json!({ "data": { "a/b": "" } })), vec![&format!("data[a/b]: {key}")]),
        (
            plain("v1", "ConfigMap", json!({ "data": { "a": "" }, "binaryData": { "a": "" } })),
            vec!["data[a]: Invalid value: \"a\": duplicate of key present in binaryData"],
        ),
        (
            plain("v1", "Secret", json!({ "type": "kubernetes.io/tls", "data": { "tls.crt": "" } })),
            vec!["data[tls.key]: Required value"],
        ),
    ]);
}

#[test]
fn what_may_not_change_does_not_change() {
    let selector = json!({ "selector": { "matchLabels": { "app": "b" } }, "template": { "metadata": { "labels": { "app": "b" } } } });
    let with_ip = |ip: &str| service(json!({ "spec": { "clusterIP": ip } }));
    let rows: Vec<(Value, Value, Vec<&str>)> = vec![
        (
            deployment(json!({})),
            deployment(json!({ "spec": selector })),
            vec!["spec.selector: Invalid value: {\"matchLabels\":{\"app\":\"b\"}}: field is immutable"],
        ),
        (
            with_ip("10.96.0.8"),
            with_ip("10.96.0.9"),
            vec!["spec.clusterIPs[0]: Invalid value: [\"10.96.0.9\"]: may not change once set"],
        ),
        (with_ip("10.96.0.8"), with_ip("10.96.0.8"), vec![]),
        (with_ip("10.96.0.8"), service(json!({ "spec": { "type": "ExternalName", "externalName": "a.b" } })), vec![]),
        (
            service(json!({})),
            service(json!({ "metadata": { "name": "other" } })),
            vec!["metadata.name: Invalid value: \"other\": field is immutable"],
        ),
        (
            slice(json!({})),
            slice(json!({ "addressType": "FQDN", "endpoints": [{ "addresses": ["a.b"] }] })),
            vec!["addressType: Invalid value: \"FQDN\": field is immutable"],
        ),
        (
            plain("v1", "ConfigMap", json!({ "immutable": true, "data": { "a": "1" } })),
            plain("v1", "ConfigMap", json!({ "immutable": true, "data": { "a": "2" } })),
            vec!["data: Forbidden: field is immutable when `immutable` is set"],
        ),
        (
            plain("v1", "Node", json!({ "spec": { "podCIDR": "10.244.0.0/26" } })),
            plain("v1", "Node", json!({ "spec": { "podCIDR": "10.244.0.64/26" } })),
            vec!["spec.podCIDRs: Forbidden: node updates may not change podCIDR except from \"\" to valid"],
        ),
        (
            plain("v1", "Node", json!({})),
            plain("v1", "Node", json!({ "spec": { "podCIDR": "10.244.0.64/26" } })),
            vec![],
        ),
    ];
    for (old, new, expected) in rows {
        assert_eq!(texts(update(&old, &new)), expected, "{new}");
    }
}

#[test]
fn of_a_pod_only_images_deadline_and_new_tolerations_change() {
    let old = pod(json!({}));
    let toleration = json!([{ "key": "a", "operator": "Exists" }]);
    for allowed in [
        container(json!({ "image": "nginx:2", "imagePullPolicy": "Always" })),
        pod(json!({ "spec": { "activeDeadlineSeconds": 5 } })),
        pod(json!({ "spec": { "tolerations": toleration } })),
        pod(json!({ "metadata": { "labels": { "a": "b" } }, "status": { "phase": "Running" } })),
    ] {
        assert_eq!(texts(update(&old, &allowed)), Vec::<String>::new(), "{allowed}");
    }
    for forbidden in [
        container(json!({ "command": ["sh"] })),
        pod(json!({ "spec": { "nodeName": "node-1" } })),
        pod(json!({ "spec": { "containers": [
            { "name": "nginx", "image": "nginx" }, { "name": "b", "image": "b" }
        ] } })),
    ] {
        let found = texts(update(&old, &forbidden));
        assert_eq!(found.len(), 1, "{forbidden}");
        assert!(found[0].starts_with("spec: Forbidden: pod updates may not change fields other than"), "{found:?}");
    }
    let removed = update(&pod(json!({ "spec": { "tolerations": toleration } })), &old);
    assert_eq!(
        texts(removed),
        ["spec.tolerations: Forbidden: existing toleration can not be modified except its tolerationSeconds"]
    );
}

#[test]
fn a_cause_has_its_reason_and_a_message_without_the_field() {
    let errors = create(&service(json!({ "spec": { "ports": [{ "port": 70000, "targetPort": 1 }] } })));
    assert_eq!(errors[0].reason.cause(), "FieldValueInvalid");
    assert_eq!(errors[0].message(), "Invalid value: 70000: must be between 1 and 65535, inclusive");
}

#[test]
fn objects_of_odd_shape_do_not_panic() {
    for (api_version, kind) in [
        ("v1", "Service"),
        ("v1", "Pod"),
        ("v1", "Node"),
        ("v1", "Secret"),
        ("v1", "ConfigMap"),
        ("v1", "Endpoints"),
        ("v1", "Event"),
        ("v1", "Binding"),
        ("apps/v1", "Deployment"),
        ("discovery.k8s.io/v1", "EndpointSlice"),
        ("coordination.k8s.io/v1", "Lease"),
    ] {
        for odd in [
            json!(null),
            json!(7),
            json!("x"),
            json!([7, [], {}]),
            json!({ "ports": [7], "containers": [[]], "template": 7 }),
        ] {
            let object = json!({
                "apiVersion": api_version, "kind": kind, "metadata": odd, "spec": odd, "data": odd, "subsets": odd,
                "endpoints": odd, "ports": odd, "type": odd
            });
            create(&object);
            update(&object, &plain(api_version, kind, json!({})));
            update(&plain(api_version, kind, json!({})), &object);
        }
    }
}
