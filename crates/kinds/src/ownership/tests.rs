//! Scenarios of server-side apply, and its law on a map.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

fn writer(manager: &str) -> Writer<'_> {
    Writer { manager, subresource: "", now: "2026-11-22T12:00:00Z", force: false }
}

fn forcing(manager: &str) -> Writer<'_> {
    Writer { force: true, ..writer(manager) }
}

fn map(data: Value) -> Value {
    json!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": "c" }, "data": data })
}

fn deployment(spec: Value) -> Value {
    json!({ "apiVersion": "apps/v1", "kind": "Deployment", "metadata": { "name": "d" }, "spec": spec })
}

fn containers(list: Value) -> Value {
    deployment(json!({ "template": { "spec": { "containers": list } } }))
}

fn said(result: Result<Value, ApplyError>) -> String {
    result.expect_err("it is refused").to_string()
}

/// Operation and fields of a manager; `Null` if it owns nothing.
fn owned(object: &Value, manager: &str) -> Value {
    let entries = object["metadata"]["managedFields"].as_array().cloned().unwrap_or_default();
    entries.into_iter().find(|entry| entry["manager"] == manager).map_or(Value::Null, |entry| entry["fieldsV1"].clone())
}

#[test]
fn what_is_applied_is_owned_and_what_is_given_up_goes() {
    let first = apply(None, &map(json!({ "a": "1", "b": "2" })), &writer("ann")).expect("made");
    assert_eq!(owned(&first, "ann"), json!({ "f:data": { "f:a": {}, "f:b": {} } }));
    assert_eq!(first["metadata"]["managedFields"][0]["operation"], "Apply");
    let again = apply(Some(&first), &map(json!({ "a": "1", "b": "2" })), &writer("ann")).expect("applied");
    assert_eq!(again, first, "twice is once");
    let second = apply(Some(&first), &map(json!({ "a": "3" })), &writer("ann")).expect("applied");
    assert_eq!(second["data"], json!({ "a": "3" }));
    assert_eq!(owned(&second, "ann"), json!({ "f:data": { "f:a": {} } }));
}

#[test]
fn two_managers_share_an_object_and_each_gives_up_its_own() {
    let one = apply(None, &map(json!({ "a": "1", "both": "x" })), &writer("ann")).expect("made");
    let two =
        apply(Some(&one), &map(json!({ "b": "2", "both": "x" })), &writer("bob")).expect("no conflict: it is equal");
    assert_eq!(two["data"], json!({ "a": "1", "b": "2", "both": "x" }));
    let three = apply(Some(&two), &map(json!({ "a": "1" })), &writer("ann")).expect("applied");
    assert_eq!(three["data"], json!({ "a": "1", "b": "2", "both": "x" }), "bob owns it still");
    let four = apply(Some(&three), &map(json!({ "b": "2" })), &writer("bob")).expect("applied");
    assert_eq!(four["data"], json!({ "a": "1", "b": "2" }));
}

#[test]
fn a_conflict_names_manager_and_field_and_force_takes_the_field() {
    let one = apply(None, &map(json!({ "a": "1", "b": "1" })), &writer("ann")).expect("made");
    let wanted = map(json!({ "a": "2" }));
    let refused = apply(Some(&one), &wanted, &writer("bob"));
    assert_eq!(said(refused), "Apply failed with 1 conflict: conflict with \"ann\" using v1: .data.a");
    let refused = apply(Some(&one), &map(json!({ "a": "2", "b": "2" })), &writer("bob"));
    assert_eq!(said(refused), "Apply failed with 2 conflicts: conflicts with \"ann\" using v1:\n- .data.a\n- .data.b");
    let taken = apply(Some(&one), &wanted, &forcing("bob")).expect("taken");
    assert_eq!(taken["data"], json!({ "a": "2", "b": "1" }));
    assert_eq!(owned(&taken, "ann"), json!({ "f:data": { "f:b": {} } }));
}

#[test]
fn elements_are_told_apart_by_their_keys() {
    let ports = |list: Value| json!({ "apiVersion": "v1", "kind": "Service", "metadata": { "name": "s" }, "spec": { "ports": list } });
    let dns = ports(json!([{ "name": "dns", "port": 53, "protocol": "UDP" }, { "name": "dns-tcp", "port": 53 }]));
    let one = apply(None, &dns, &writer("ann")).expect("two protocols are two ports");
    let two = apply(Some(&one), &ports(json!([{ "name": "web", "port": 80 }])), &writer("bob")).expect("applied");
    assert_eq!(two["spec"]["ports"].as_array().map(Vec::len), Some(3));
    let step = "k:{\"port\":53,\"protocol\":\"TCP\"}";
    assert_eq!(owned(&two, "ann")["f:spec"]["f:ports"][step], json!({ ".": {}, "f:name": {}, "f:port": {} }));
    let three = apply(Some(&two), &ports(json!([{ "name": "dns", "port": 53, "protocol": "UDP" }])), &writer("ann"));
    let three = three.expect("applied");
    let names: Vec<&Value> =
        three["spec"]["ports"].as_array().into_iter().flatten().map(|port| &port["name"]).collect();
    assert_eq!(names, ["web", "dns"]);
    let doubled = ports(json!([{ "port": 80 }, { "port": 80, "protocol": "TCP" }]));
    assert_eq!(
        said(apply(None, &doubled, &writer("ann"))),
        ".spec.ports: duplicate entries for key k:{\"port\":80,\"protocol\":\"TCP\"}"
    );
    let nameless = containers(json!([{ "image": "x" }]));
    assert!(said(apply(None, &nameless, &writer("ann"))).ends_with("omits key field \"name\""));
}

#[test]
fn what_the_server_filled_in_goes_with_the_element_it_stands_in_and_not_before() {
    let one = apply(None, &containers(json!([{ "name": "a", "image": "x" }, { "name": "b" }])), &writer("ann"));
    let mut live = one.expect("made");
    live["spec"]["template"]["spec"]["containers"][0]["imagePullPolicy"] = "Always".into();
    live["spec"]["template"]["spec"]["containers"][1]["imagePullPolicy"] = "Always".into();
    let two = apply(Some(&live), &containers(json!([{ "name": "a" }])), &writer("ann")).expect("applied");
    assert_eq!(two["spec"]["template"]["spec"]["containers"], json!([{ "name": "a", "imagePullPolicy": "Always" }]));
}

#[test]
fn an_atomic_list_or_struct_is_one_field() {
    let config = |args: Value| containers(json!([{ "name": "a", "args": args }]));
    let one = apply(None, &config(json!(["x"])), &writer("ann")).expect("made");
    let refused = said(apply(Some(&one), &config(json!(["x", "y"])), &writer("bob")));
    assert!(refused.ends_with(": .spec.template.spec.containers[name=\"a\"].args"), "{refused}");
    let selector = |app: &str| deployment(json!({ "selector": { "matchLabels": { "app": app } } }));
    let one = apply(None, &selector("x"), &writer("ann")).expect("made");
    assert!(said(apply(Some(&one), &selector("y"), &writer("bob"))).ends_with(": .spec.selector"));
}

#[test]
fn another_write_takes_what_it_changes_and_the_next_apply_says_so() {
    let one = apply(None, &deployment(json!({ "replicas": 1 })), &writer("ann")).expect("made");
    let mut scaled = one.clone();
    scaled["spec"]["replicas"] = 3.into();
    update(&one, &mut scaled, &Writer { subresource: "scale", ..writer("kubectl") });
    assert_eq!(owned(&scaled, "kubectl"), json!({ "f:spec": { "f:replicas": {} } }));
    assert_eq!(owned(&scaled, "ann"), Value::Null);
    let refused = said(apply(Some(&scaled), &deployment(json!({ "replicas": 1 })), &writer("ann")));
    assert_eq!(
        refused,
        "Apply failed with 1 conflict: conflict with \"kubectl\" with subresource \"scale\" using apps/v1 at 2026-11-22T12:00:00Z: .spec.replicas"
    );
    // Who leaves the field out leaves it to whoever has it.
    let kept = apply(Some(&scaled), &deployment(json!({ "paused": true })), &writer("ann")).expect("applied");
    assert_eq!(kept["spec"], json!({ "replicas": 3, "paused": true }));
}

#[test]
fn an_object_without_owners_belongs_to_nobody_known_and_kubectl_takes_over_what_it_applied() {
    let mut live = map(json!({ "a": "1", "b": "1" }));
    let untouched = live.clone();
    update(&untouched, &mut live, &writer("bob"));
    assert_eq!(live, untouched, "owners are kept from the first apply on");
    let refused = said(apply(Some(&live), &map(json!({ "a": "2" })), &writer("ann")));
    let expected = "conflict with \"before-first-apply\" using v1 at 2026-11-22T12:00:00Z: .data.a";
    assert!(refused.ends_with(expected), "{refused}");
    let last = map(json!({ "a": "1" })).to_string();
    live["metadata"]["annotations"] = json!({ "kubectl.kubernetes.io/last-applied-configuration": last });
    let taken = apply(Some(&live), &map(json!({ "a": "2" })), &writer("kubectl")).expect("it was kubectl's");
    assert_eq!(taken["data"], json!({ "a": "2", "b": "1" }));
    let refused = said(apply(Some(&live), &map(json!({ "a": "2", "b": "2" })), &writer("kubectl")));
    assert!(refused.ends_with(": .data.b"), "what was changed behind kubectl's back stays a conflict: {refused}");
}

#[test]
fn the_status_is_its_own_subresource() {
    let with_status = |replicas: i32| {
        let mut object = deployment(json!({ "replicas": 1 }));
        object["status"] = json!({ "replicas": replicas });
        object
    };
    let one = apply(None, &with_status(5), &writer("ann")).expect("made");
    assert_eq!(one.get("status"), None);
    let status = Writer { subresource: "status", ..writer("robot") };
    let two = apply(Some(&one), &with_status(5), &status).expect("applied");
    assert_eq!(two["status"], json!({ "replicas": 5 }));
    assert_eq!(owned(&two, "robot"), json!({ "f:status": { "f:replicas": {} } }));
}

/// What managers do to a map of four keys.
#[derive(Clone, Debug)]
enum Step {
    Apply(u8, BTreeMap<u8, u8>),
    Update(u8, BTreeMap<u8, u8>),
}

fn step() -> impl Strategy<Value = Step> {
    let data = proptest::collection::btree_map(0..4u8, 0..3u8, 0..4);
    (any::<bool>(), 0..3u8, data).prop_map(|(applies, manager, data)| match applies {
        true => Step::Apply(manager, data),
        false => Step::Update(manager, data),
    })
}

/// Value and owners of each key; a manager who applies and one who writes are two.
type Model = BTreeMap<u8, (u8, BTreeSet<String>)>;

fn model(mut now: Model, step: &Step) -> Model {
    let (Step::Apply(number, data) | Step::Update(number, data)) = step;
    let applies = matches!(step, Step::Apply(..));
    let me = format!("{}-{number}", if applies { "apply" } else { "update" });
    for (key, value) in data {
        let (known, owners) = now.entry(*key).or_insert((u8::MAX, BTreeSet::new()));
        if known != value {
            owners.clear();
        }
        if applies || known != value {
            owners.insert(me.clone());
        }
        *known = *value;
    }
    if applies {
        now.retain(|key, (_, owners)| data.contains_key(key) || !owners.remove(&me) || !owners.is_empty());
    } else {
        now.retain(|key, _| data.contains_key(key));
    }
    now
}

fn shown(object: &Value) -> Model {
    let data = object["data"].as_object().cloned().unwrap_or_default();
    let entries = object["metadata"]["managedFields"].as_array().cloned().unwrap_or_default();
    let owners_of = |key: &str| {
        let owns = |entry: &&Value| entry["fieldsV1"]["f:data"].get(format!("f:{key}")).is_some();
        entries.iter().filter(owns).map(|entry| entry["manager"].as_str().unwrap_or_default().to_owned()).collect()
    };
    data.iter()
        .map(|(key, value)| {
            let value = value.as_str().and_then(|text| text.parse().ok()).unwrap_or(u8::MAX);
            (key.parse().unwrap_or(u8::MAX), (value, owners_of(key)))
        })
        .collect()
}

proptest! {
    /// Whatever managers apply and write, each key has the value and the owners that the rules in
    /// plain words give it.
    #[test]
    fn owners_of_a_map_follow_the_rules(steps in proptest::collection::vec(step(), 1..12)) {
        // A field of somebody else's keeps the object tracked throughout.
        let mut live = map(json!({}));
        live["metadata"]["labels"] = json!({ "a": "b" });
        let mut live = apply(None, &live, &writer("keeper")).expect("made");
        let mut expected = Model::new();
        for step in &steps {
            let (Step::Apply(number, data) | Step::Update(number, data)) = step;
            let data: Map<String, Value> =
                data.iter().map(|(key, value)| (key.to_string(), value.to_string().into())).collect();
            match step {
                Step::Apply(..) => {
                    let name = format!("apply-{number}");
                    live = apply(Some(&live), &map(data.into()), &forcing(&name)).expect("force has no conflicts");
                    let again = apply(Some(&live), &map(live_part(&live, &name)), &writer(&name)).expect("its own");
                    prop_assert_eq!(&again, &live, "twice is once");
                }
                Step::Update(..) => {
                    let mut new = live.clone();
                    new["data"] = data.into();
                    update(&live, &mut new, &writer(&format!("update-{number}")));
                    live = new;
                }
            }
            expected = model(expected, step);
            prop_assert_eq!(shown(&live), expected.clone(), "after {:?}", step);
        }
    }
}

/// The data that a manager owns, as it is.
fn live_part(live: &Value, manager: &str) -> Value {
    let fields = owned(live, manager);
    let own = live["data"].as_object().cloned().unwrap_or_default();
    let own = own.into_iter().filter(|(key, _)| fields["f:data"].get(format!("f:{key}")).is_some());
    Value::Object(own.collect())
}
