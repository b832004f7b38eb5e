//! Golden bytes, a table round trip by a small encoder, and arbitrary bytes.

use super::*;
use proptest::prelude::*;
use serde_json::json;

/// Key and length-delimited payload.
fn bytes_field(tag: u32, payload: &[u8]) -> Vec<u8> {
    let mut out = varint(u64::from(tag << 3 | 2));
    out.extend(varint(payload.len() as u64));
    out.extend(payload);
    out
}

fn varint_field(tag: u32, number: u64) -> Vec<u8> {
    let mut out = varint(u64::from(tag << 3));
    out.extend(varint(number));
    out
}

fn varint(mut number: u64) -> Vec<u8> {
    let mut out = Vec::new();
    while number >= 0x80 {
        out.push(number as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
    out
}

fn envelope(api_version: &str, kind: &str, raw: &[u8]) -> Vec<u8> {
    let meta = [bytes_field(1, api_version.as_bytes()), bytes_field(2, kind.as_bytes())].concat();
    [MAGIC.to_vec(), bytes_field(1, &meta), bytes_field(2, raw), bytes_field(3, b""), bytes_field(4, b"")].concat()
}

/// Encodes JSON by the same table; fields are written in the table's order.
fn encode(message: &Message, object: &Map<String, Value>) -> Vec<u8> {
    let mut out = Vec::new();
    for field in message.fields {
        if let Wire::Inline(index) = field.wire {
            out.extend(bytes_field(field.tag, &encode(&MESSAGES[index], object)));
        } else if let Some(value) = object.get(field.name) {
            out.extend(encode_field(field.tag, field.wire, value));
        }
    }
    out
}

fn encode_field(tag: u32, wire: Wire, value: &Value) -> Vec<u8> {
    match (wire, value) {
        (Wire::List(item), Value::Array(list)) => list.iter().flat_map(|v| encode_field(tag, *item, v)).collect(),
        (Wire::Map(item), Value::Object(map)) => map
            .iter()
            .flat_map(|(key, v)| {
                bytes_field(tag, &[bytes_field(1, key.as_bytes()), encode_field(2, *item, v)].concat())
            })
            .collect(),
        (Wire::Object(index), Value::Object(object)) => bytes_field(tag, &encode(&MESSAGES[index], object)),
        (Wire::String, Value::String(text)) => bytes_field(tag, text.as_bytes()),
        (Wire::Quantity, Value::String(text)) => bytes_field(tag, &bytes_field(1, text.as_bytes())),
        (Wire::RawJson, value) => bytes_field(tag, &bytes_field(1, value.to_string().as_bytes())),
        (Wire::Bytes, value) => {
            let bytes: ByteString = serde_json::from_value(value.clone()).expect("base64");
            bytes_field(tag, &bytes.0)
        }
        (Wire::Int32 | Wire::Int64, value) => varint_field(tag, value.as_i64().expect("an integer") as u64),
        (Wire::Bool, value) => varint_field(tag, u64::from(value.as_bool().expect("a boolean"))),
        (Wire::IntOrString, Value::String(text)) => {
            bytes_field(tag, &[varint_field(1, 1), varint_field(2, 0), bytes_field(3, text.as_bytes())].concat())
        }
        (Wire::IntOrString, value) => {
            let number = value.as_i64().expect("an integer") as u64;
            bytes_field(tag, &[varint_field(1, 0), varint_field(2, number), bytes_field(3, b"")].concat())
        }
        (Wire::Time | Wire::MicroTime, value) => {
            let at: Timestamp = value.as_str().expect("text").parse().expect("a time");
            let nanos = at.subsec_nanosecond() as u64;
            bytes_field(tag, &[varint_field(1, at.as_second() as u64), varint_field(2, nanos)].concat())
        }
        (wire, value) => panic!("{value} does not fit {wire:?}"),
    }
}

fn round_trip(object: Value) {
    let (api_version, kind) = crate::value::group_version_kind(&object);
    let name = schema::type_of(api_version, kind).expect("a known kind").name;
    let message = MESSAGES.iter().find(|m| m.name == name).expect("a message of that kind");
    let mut fields = object.as_object().expect("an object").clone();
    fields.remove("apiVersion");
    fields.remove("kind");
    let body = envelope(api_version, kind, &encode(message, &fields));
    assert_eq!(decode(&body), Ok(object));
}

#[test]
fn a_service_written_by_hand_is_read() {
    // metadata { name: "web" }, spec { ports: [{ name: "", protocol: "TCP", port: 80, targetPort: 8080,
    // nodePort: 0 }], selector: { app: web }, clusterIP: "", type: "ClusterIP" }, status { loadBalancer {} }
    let raw = [
        b"\x0a\x05\x0a\x03web".as_slice(),
        b"\x12\x31",
        b"\x0a\x16\x0a\x00\x12\x03TCP\x18\x50\x22\x09\x08\x00\x10\x90\x3f\x1a\x02ab\x28\x00",
        b"\x12\x0a\x0a\x03app\x12\x03web",
        b"\x1a\x00\x22\x09ClusterIP",
        b"\x1a\x02\x0a\x00",
    ]
    .concat();
    let expected = json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": { "name": "web" },
        "spec": {
            "ports": [{ "protocol": "TCP", "port": 80, "targetPort": 8080 }],
            "selector": { "app": "web" },
            "type": "ClusterIP"
        },
        "status": { "loadBalancer": {} }
    });
    assert_eq!(decode(&envelope("v1", "Service", &raw)), Ok(expected));
}

#[test]
fn the_body_of_kubectl_create_deployment_is_read() {
    let labels = bytes_field(11, &[bytes_field(1, b"app"), bytes_field(2, b"web")].concat());
    let unset = [2, 3, 4, 5, 6].map(|tag| bytes_field(tag, b"")).concat();
    let metadata = |name: &[u8]| {
        [bytes_field(1, name), unset.clone(), varint_field(7, 0), bytes_field(8, b""), labels.clone()].concat()
    };
    let container = [
        bytes_field(1, b"nginx"),
        bytes_field(2, b"nginx"),
        bytes_field(5, b""),
        bytes_field(8, b""),
        bytes_field(13, b""),
        bytes_field(14, b""),
        varint_field(16, 0),
        varint_field(17, 0),
        varint_field(18, 0),
        bytes_field(20, b""),
    ]
    .concat();
    let pod_spec = [
        bytes_field(2, &container),
        bytes_field(3, b""),
        bytes_field(6, b""),
        bytes_field(8, b""),
        bytes_field(10, b""),
        varint_field(11, 0),
        varint_field(12, 0),
        varint_field(13, 0),
    ]
    .concat();
    let template = [bytes_field(1, &metadata(b"")), bytes_field(2, &pod_spec)].concat();
    let selector = bytes_field(1, &[bytes_field(1, b"app"), bytes_field(2, b"web")].concat());
    let spec = [
        varint_field(1, 0),
        bytes_field(2, &selector),
        bytes_field(3, &template),
        bytes_field(4, &bytes_field(1, b"")),
        varint_field(5, 0),
        varint_field(7, 0),
    ]
    .concat();
    let status = (1..=5).chain([7]).flat_map(|tag| varint_field(tag, 0)).collect::<Vec<u8>>();
    let raw = [bytes_field(1, &metadata(b"web")), bytes_field(2, &spec), bytes_field(3, &status)].concat();

    let expected = json!({
        "apiVersion": "apps/v1", "kind": "Deployment",
        "metadata": { "name": "web", "labels": { "app": "web" } },
        "spec": {
            // A pointer in Go: zero was asked for.
            "replicas": 0,
            "selector": { "matchLabels": { "app": "web" } },
            "strategy": {},
            "template": {
                "metadata": { "labels": { "app": "web" } },
                "spec": { "containers": [{ "name": "nginx", "image": "nginx", "resources": {} }] }
            }
        },
        "status": {}
    });
    assert_eq!(decode(&envelope("apps/v1", "Deployment", &raw)), Ok(expected));
}

/// Bodies as kubectl 1.32 sends them: `create deployment web --image=nginx --replicas=0 --port=80`,
/// `create service nodeport web --tcp=80:8080`, and the like.
#[test]
fn what_kubectl_sends_is_read() {
    let rows: [(&[u8], Value); 6] = [
        (
            include_bytes!("../testdata/kubectl-create-deployment.pb"),
            json!({
                "apiVersion": "apps/v1", "kind": "Deployment",
                "metadata": { "name": "web", "labels": { "app": "web" } },
                "spec": {
                    "replicas": 0, "selector": { "matchLabels": { "app": "web" } }, "strategy": {},
                    "template": {
                        "metadata": { "labels": { "app": "web" } },
                        "spec": { "containers": [
                            { "name": "nginx", "image": "nginx", "ports": [{ "containerPort": 80 }], "resources": {} }
                        ] }
                    }
                },
                "status": {}
            }),
        ),
        (
            include_bytes!("../testdata/kubectl-create-service.pb"),
            json!({
                "apiVersion": "v1", "kind": "Service",
                "metadata": { "name": "web", "labels": { "app": "web" } },
                "spec": {
                    "ports": [{ "name": "80-8080", "protocol": "TCP", "port": 80, "targetPort": 8080 }],
                    "selector": { "app": "web" }, "type": "NodePort"
                },
                "status": { "loadBalancer": {} }
            }),
        ),
        (
            include_bytes!("../testdata/kubectl-create-configmap.pb"),
            json!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": "cm" }, "data": { "a": "b", "empty": "" } }),
        ),
        (
            include_bytes!("../testdata/kubectl-create-secret.pb"),
            json!({ "apiVersion": "v1", "kind": "Secret", "metadata": { "name": "s" }, "data": { "k": "aGVsbG8=" } }),
        ),
        (
            include_bytes!("../testdata/kubectl-create-namespace.pb"),
            json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": "foo" }, "spec": {}, "status": {} }),
        ),
        (
            include_bytes!("../testdata/kubectl-create-serviceaccount.pb"),
            json!({ "apiVersion": "v1", "kind": "ServiceAccount", "metadata": { "name": "bar" } }),
        ),
    ];
    for (body, expected) in rows {
        assert_eq!(decode(body), Ok(expected));
    }
}

#[test]
fn delete_options_come_under_any_group_version() {
    let raw = [varint_field(1, 0), bytes_field(4, b"Background")].concat();
    assert_eq!(
        decode(&envelope("apps/v1", "DeleteOptions", &raw)),
        Ok(json!({
            "apiVersion": "apps/v1", "kind": "DeleteOptions",
            "gracePeriodSeconds": 0, "propagationPolicy": "Background"
        }))
    );
}

#[test]
fn the_table_reads_what_it_writes() {
    round_trip(json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {
            "name": "web", "creationTimestamp": "2026-11-22T11:17:00Z", "deletionGracePeriodSeconds": 0,
            "labels": { "app": "web", "empty": "" },
            "ownerReferences": [{ "apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "web-1", "uid": "u", "controller": true }],
            "managedFields": [{ "manager": "kubectl", "fieldsV1": { "f:spec": {} } }]
        },
        "spec": {
            "hostNetwork": true, "enableServiceLinks": false, "terminationGracePeriodSeconds": 0,
            "containers": [{
                "name": "nginx", "image": "nginx", "args": ["", "-g"],
                "env": [{ "name": "A", "valueFrom": { "configMapKeyRef": { "name": "cm", "key": "k", "optional": false } } }],
                "ports": [{ "containerPort": 80 }],
                "resources": { "limits": { "cpu": "100m" } },
                "readinessProbe": { "httpGet": { "path": "/", "port": "http" }, "periodSeconds": 3 }
            }],
            "volumes": [
                { "name": "tmp", "emptyDir": {} },
                { "name": "cm", "configMap": { "name": "cm", "defaultMode": 420 } }
            ]
        },
        "status": { "podIPs": [{ "ip": "10.244.0.5" }, { "ip": "fd00::5" }] }
    }));
    round_trip(json!({
        "apiVersion": "v1", "kind": "Secret",
        "metadata": { "name": "s" }, "data": { "key": "aGVsbG8=" }, "type": "Opaque"
    }));
    round_trip(json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": { "name": "web-x" }, "addressType": "IPv6",
        "endpoints": [{ "addresses": ["fd00::5"], "conditions": { "ready": false, "serving": true }, "nodeName": "n1" }],
        "ports": [{ "name": "", "port": 80, "protocol": "TCP" }]
    }));
    round_trip(json!({
        "apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
        "metadata": { "name": "node-1" },
        "spec": { "holderIdentity": "node-1", "leaseDurationSeconds": 40, "renewTime": "2026-11-22T11:17:00.000001Z" }
    }));
}

#[test]
fn what_is_not_a_kubernetes_body_is_refused_with_a_reason() {
    assert_eq!(decode(b"{}"), Err(ProtobufError::NoMark));
    assert_eq!(
        decode(&envelope("batch/v1", "Job", b"")),
        Err(ProtobufError::UnknownKind { api_version: "batch/v1".into(), kind: "Job".into() })
    );
    assert_eq!(
        decode(&envelope("v1", "Service", b"\x0a\x7f")),
        Err(ProtobufError::Truncated { place: "a string or message" })
    );
    assert!(matches!(decode(&envelope("v1", "Service", b"\x08\x01")), Err(ProtobufError::WireType { .. })));
    assert_eq!(decode(&vec![0; MAX_BYTES + 1]), Err(ProtobufError::TooLarge { bytes: MAX_BYTES + 1 }));
}

#[test]
fn every_message_is_sorted_and_every_kind_has_one() {
    for message in MESSAGES {
        assert!(message.fields.is_sorted_by(|a, b| a.tag < b.tag), "{}", message.name);
    }
    for kind in crate::generated::types::KINDS {
        let name = schema::type_at(kind.type_index).name;
        assert!(MESSAGES.iter().any(|m| m.name == name), "{name}");
    }
}

proptest! {
    #[test]
    fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        let _ = decode(&bytes);
        for (api_version, kind) in [("v1", "Pod"), ("apps/v1", "Deployment"), ("v1", "Secret")] {
            let _ = decode(&envelope(api_version, kind, &bytes));
        }
    }

    #[test]
    fn a_damaged_body_never_panics(at in 0_usize..200, byte in any::<u8>(), cut in 0_usize..200) {
        let pod = json!({
            "metadata": { "name": "web", "creationTimestamp": "2026-11-22T11:17:00Z" },
            "spec": { "containers": [{ "name": "nginx", "livenessProbe": { "httpGet": { "port": 80 } } }] }
        });
        let message = MESSAGES.iter().find(|m| m.name == "io.k8s.api.core.v1.Pod").expect("Pod");
        let mut body = envelope("v1", "Pod", &encode(message, pod.as_object().expect("an object")));
        let last = body.len() - 1;
        body[at.min(last)] = byte;
        body.truncate(body.len() - cut.min(last));
        let _ = decode(&body);
    }
}
