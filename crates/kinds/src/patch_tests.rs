//! Each directive and list rule by the smallest object that shows it.

use super::*;
use proptest::prelude::*;
use serde_json::json;

fn pod(spec: Value) -> Value {
    json!({ "apiVersion": "v1", "kind": "Pod", "spec": spec })
}

fn patched(spec: Value, patch: Value) -> Value {
    strategic("v1", "Pod", &pod(spec), &json!({ "spec": patch })).expect("it applies")["spec"].clone()
}

#[test]
fn containers_merge_by_name_and_follow_the_order_of_the_patch() {
    let spec = json!({ "containers": [{ "name": "a", "image": "x", "args": ["1"] }, { "name": "b", "image": "y" }] });
    let patch = json!({ "containers": [{ "name": "b", "image": "z" }, { "name": "c", "image": "w" }] });
    assert_eq!(
        patched(spec, patch),
        json!({ "containers": [
            { "name": "a", "image": "x", "args": ["1"] }, { "name": "b", "image": "z" }, { "name": "c", "image": "w" }
        ] })
    );
}

#[test]
fn a_new_element_comes_before_those_the_patch_does_not_name() {
    let spec = json!({ "containers": [{ "name": "a" }, { "name": "b" }] });
    let patch = json!({ "containers": [{ "name": "c" }] });
    assert_eq!(patched(spec, patch), json!({ "containers": [{ "name": "c" }, { "name": "a" }, { "name": "b" }] }));
}

#[test]
fn set_element_order_puts_a_list_in_order() {
    let spec = json!({ "containers": [{ "name": "a" }, { "name": "b" }] });
    let patch = json!({
        "$setElementOrder/containers": [{ "name": "b" }, { "name": "c" }, { "name": "a" }],
        "containers": [{ "name": "c", "image": "w" }]
    });
    assert_eq!(
        patched(spec, patch),
        json!({ "containers": [{ "name": "b" }, { "name": "c", "image": "w" }, { "name": "a" }] })
    );
}

#[test]
fn elements_the_order_does_not_name_keep_their_place() {
    let spec = json!({ "containers": [{ "name": "injected" }, { "name": "a" }, { "name": "b" }] });
    let patch = json!({
        "$setElementOrder/containers": [{ "name": "a" }, { "name": "b" }],
        "containers": [{ "name": "b", "image": "z" }]
    });
    assert_eq!(
        patched(spec, patch),
        json!({ "containers": [{ "name": "injected" }, { "name": "a" }, { "name": "b", "image": "z" }] })
    );
}

#[test]
fn an_element_is_deleted_by_its_key() {
    let spec = json!({ "containers": [{ "name": "a" }, { "name": "b" }] });
    let patch = json!({ "containers": [{ "$patch": "delete", "name": "a" }] });
    assert_eq!(patched(spec, patch), json!({ "containers": [{ "name": "b" }] }));
}

#[test]
fn a_list_is_replaced_on_request() {
    let spec = json!({ "containers": [{ "name": "a" }, { "name": "b" }] });
    let patch = json!({ "containers": [{ "$patch": "replace" }, { "name": "c" }] });
    assert_eq!(patched(spec, patch), json!({ "containers": [{ "name": "c" }] }));
}

#[test]
fn objects_merge_and_null_deletes() {
    let spec = json!({ "nodeSelector": { "a": "1", "b": "2" }, "hostname": "x" });
    let patch = json!({ "nodeSelector": { "b": null, "c": "3" }, "hostname": null, "subdomain": null });
    assert_eq!(patched(spec, patch), json!({ "nodeSelector": { "a": "1", "c": "3" } }));
}

#[test]
fn an_object_is_replaced_or_emptied_on_request() {
    let spec = json!({ "nodeSelector": { "a": "1" } });
    let patch = json!({ "nodeSelector": { "$patch": "replace", "b": "2" } });
    assert_eq!(patched(spec.clone(), patch), json!({ "nodeSelector": { "b": "2" } }));
    let patch = json!({ "nodeSelector": { "$patch": "delete" } });
    assert_eq!(patched(spec, patch), json!({ "nodeSelector": {} }));
}

#[test]
fn a_list_without_key_is_replaced() {
    let spec = json!({ "tolerations": [{ "key": "a" }], "containers": [{ "name": "a", "args": ["1", "2"] }] });
    let patch = json!({ "tolerations": [{ "key": "b" }], "containers": [{ "name": "a", "args": ["3"] }] });
    assert_eq!(
        patched(spec, patch),
        json!({ "tolerations": [{ "key": "b" }], "containers": [{ "name": "a", "args": ["3"] }] })
    );
}

#[test]
fn finalizers_are_a_set_and_can_be_deleted_from() {
    let original = json!({ "metadata": { "finalizers": ["a", "b"] } });
    let add = json!({ "metadata": { "finalizers": ["b", "c"] } });
    let added = strategic("v1", "Pod", &original, &add).expect("it applies");
    assert_eq!(added["metadata"]["finalizers"], json!(["a", "b", "c"]));
    let remove = json!({ "metadata": { "$deleteFromPrimitiveList/finalizers": ["a"] } });
    let removed = strategic("v1", "Pod", &original, &remove).expect("it applies");
    assert_eq!(removed, json!({ "metadata": { "finalizers": ["b"] } }));
}

#[test]
fn retain_keys_drops_what_the_new_strategy_has_not() {
    let original = json!({ "spec": { "strategy": { "type": "RollingUpdate", "rollingUpdate": { "maxSurge": 1 } } } });
    let patch = json!({ "spec": { "strategy": { "$retainKeys": ["type"], "type": "Recreate" } } });
    let merged = strategic("apps/v1", "Deployment", &original, &patch).expect("it applies");
    assert_eq!(merged, json!({ "spec": { "strategy": { "type": "Recreate" } } }));
}

#[test]
fn service_ports_merge_by_port() {
    let original = json!({ "spec": { "ports": [{ "port": 80, "nodePort": 30080 }, { "port": 443 }] } });
    let patch = json!({ "spec": { "ports": [{ "port": 80, "name": "http" }] } });
    let merged = strategic("v1", "Service", &original, &patch).expect("it applies");
    assert_eq!(
        merged,
        json!({ "spec": { "ports": [{ "port": 80, "nodePort": 30080, "name": "http" }, { "port": 443 }] } })
    );
}

#[test]
fn directives_and_nulls_are_not_stored_where_nothing_was() {
    let patch = json!({ "securityContext": { "$retainKeys": ["x"], "runAsUser": 1, "runAsGroup": null } });
    assert_eq!(patched(json!({}), patch), json!({ "securityContext": { "runAsUser": 1 } }));
}

#[test]
fn what_cannot_be_applied_says_where() {
    let apply = |patch: Value| strategic("v1", "Pod", &pod(json!({ "containers": [] })), &patch);
    assert_eq!(
        apply(json!({ "spec": { "containers": [{ "image": "x" }] } })),
        Err(PatchError::MissingMergeKey { path: "Pod.spec.containers".into(), key: "name" })
    );
    assert!(matches!(apply(json!({ "spec": { "$patch": "explode" } })), Err(PatchError::BadDirective { .. })));
    assert!(matches!(apply(json!([])), Err(PatchError::NotAnObject { .. })));
    assert!(matches!(strategic("v1", "Job", &json!({}), &json!({})), Err(PatchError::UnknownKind { .. })));
}

fn any_spec() -> impl Strategy<Value = Value> {
    let container = ("[a-d]", "[x-z]").prop_map(|(name, image)| json!({ "name": name, "image": image }));
    let containers = proptest::collection::vec(container, 0..4).prop_map(|mut list| {
        list.sort_by_key(|c| c["name"].to_string());
        list.dedup_by_key(|c| c["name"].clone());
        Value::Array(list)
    });
    let labels = proptest::collection::btree_map("[a-c]", "[1-3]", 0..3).prop_map(|map| json!(map));
    (containers, labels).prop_map(|(containers, labels)| json!({ "containers": containers, "nodeSelector": labels }))
}

proptest! {
    #[test]
    fn a_patch_applied_twice_is_a_patch_applied_once(spec in any_spec(), patch in any_spec()) {
        let once = patched(spec, patch.clone());
        prop_assert_eq!(patched(once.clone(), patch), once);
    }

    #[test]
    fn an_empty_patch_changes_nothing(spec in any_spec()) {
        prop_assert_eq!(patched(spec.clone(), json!({})), spec);
    }
}

/// Lists in any order, as text: the two merges place new elements differently.
fn unordered(value: &Value) -> Value {
    match value {
        Value::Array(list) => {
            let mut list: Vec<Value> = list.iter().map(unordered).collect();
            list.sort_by_key(ToString::to_string);
            Value::Array(list)
        }
        Value::Object(map) => Value::Object(map.iter().map(|(k, v)| (k.clone(), unordered(v))).collect()),
        scalar => scalar.clone(),
    }
}

/// k8s-openapi carries the merge keys of the types in its own merge, made from the published schemas.
fn agrees_with_the_types<T>(api_version: &str, kind: &str, original: &Value, patch: &Value)
where
    T: k8s_openapi::DeepMerge + serde::Serialize + serde::de::DeserializeOwned,
{
    let mut typed: T = crate::typed::from_value(original.clone()).expect("the original fits its type");
    typed.merge_from(crate::typed::from_value(patch.clone()).expect("the patch fits its type"));
    let oracle = serde_json::to_value(&typed).expect("a typed object is JSON");
    let merged = strategic(api_version, kind, original, patch).expect("it applies");
    assert_eq!(unordered(&merged), unordered(&oracle), "{kind}");
}

#[test]
fn every_keyed_list_merges_as_the_types_say() {
    use crate::typed::{Node, Pod, Service, ServiceAccount};
    // Of each list one element that both have, with one member of its own, and one more.
    let container = |value: &str, extra: &str| {
        json!({
            "name": "c", "image": value, "args": [value],
            "env": [{ "name": "A", "value": value }, { "name": extra, "value": "x" }],
            "ports": [{ "containerPort": 80, "name": value }, { "containerPort": extra.len(), "name": "x" }],
            "volumeMounts": [{ "mountPath": "/a", "name": value }, { "mountPath": extra, "name": "x" }],
            "volumeDevices": [{ "devicePath": "/d", "name": value }, { "devicePath": extra, "name": "x" }],
        })
    };
    let pod = |value: &str, extra: &str| {
        let container = container(value, extra);
        json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {
                "name": "p", "finalizers": ["a", extra],
                "ownerReferences": [
                    { "apiVersion": "v1", "kind": "Pod", "name": value, "uid": "u" },
                    { "apiVersion": "v1", "kind": "Pod", "name": "x", "uid": extra }
                ]
            },
            "spec": {
                "containers": [container], "initContainers": [container], "ephemeralContainers": [container],
                "volumes": [{ "name": "v", "hostPath": { "path": value } }, { "name": extra }],
                "imagePullSecrets": [{ "name": "s" }, { "name": extra }],
                "hostAliases": [{ "ip": "10.0.0.1", "hostnames": [value] }, { "ip": extra }],
                "topologySpreadConstraints": [
                    { "topologyKey": "k", "maxSkew": value.len(), "whenUnsatisfiable": "DoNotSchedule" },
                    { "topologyKey": extra, "maxSkew": 1, "whenUnsatisfiable": "DoNotSchedule" }
                ],
                "schedulingGates": [{ "name": "g" }, { "name": extra }],
                "resourceClaims": [{ "name": "r", "resourceClaimName": value }, { "name": extra }],
                "tolerations": [{ "key": value }], "readinessGates": [{ "conditionType": value }]
            },
            "status": {
                "conditions": [{ "type": "Ready", "status": value }, { "type": extra, "status": "x" }],
                "podIPs": [{ "ip": "10.0.0.1" }, { "ip": extra }], "hostIPs": [{ "ip": "10.0.0.1" }, { "ip": extra }],
                "resourceClaimStatuses": [{ "name": "r", "resourceClaimName": value }, { "name": extra }]
            }
        })
    };
    agrees_with_the_types::<Pod>("v1", "Pod", &pod("old", "e"), &pod("newer", "ff"));

    let service = |value: &str, extra: u16| {
        json!({
            "apiVersion": "v1", "kind": "Service", "metadata": { "name": "s" },
            "spec": { "ports": [{ "port": 80, "name": value }, { "port": extra, "name": "x" }], "externalIPs": [value] }
        })
    };
    agrees_with_the_types::<Service>("v1", "Service", &service("old", 1), &service("newer", 2));

    let node = |value: &str, extra: &str| {
        json!({
            "apiVersion": "v1", "kind": "Node", "metadata": { "name": "n" },
            "spec": { "podCIDRs": ["10.244.0.0/26", extra], "taints": [{ "key": value, "effect": "NoSchedule" }] },
            "status": {
                "conditions": [{ "type": "Ready", "status": value }, { "type": extra, "status": "x" }],
                "addresses": [{ "type": "InternalIP", "address": value }, { "type": extra, "address": "x" }]
            }
        })
    };
    agrees_with_the_types::<Node>("v1", "Node", &node("old", "e"), &node("newer", "ff"));

    let account = |value: &str, extra: &str| {
        json!({
            "apiVersion": "v1", "kind": "ServiceAccount", "metadata": { "name": "a" },
            "secrets": [{ "name": "s", "namespace": value }, { "name": extra }], "imagePullSecrets": [{ "name": value }]
        })
    };
    agrees_with_the_types::<ServiceAccount>("v1", "ServiceAccount", &account("old", "e"), &account("newer", "ff"));
}
