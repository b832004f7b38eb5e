//! Endpoints that change as fast as the API takes it, while packets are traced: no rule may be named wrongly or not at all.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::support::{self, Space};

/// Generous: a change is a kubectl of its own, and a loaded machine starts few.
const LIMIT: Duration = Duration::from_secs(300);

/// Traces packets, `packets` at the least, from a pod to a Service whose endpoints change all the while: two pods, one, the other.
pub fn every_rule_keeps_its_name(space: Space, packets: usize) {
    space.deployment("web", 2);
    space.shell("client", "node-1");
    space.apply(
        "apiVersion: v1\nkind: Service\nmetadata: { name: churned }\nspec: { ports: [{ name: http, port: 80 }] }\n",
    );
    let pods = space.json("pods -l app=web");
    let pods: BTreeMap<String, String> = rows(&pods["items"])
        .map(|pod| (text(&pod["status"]["podIP"]).to_owned(), text(&pod["metadata"]["name"]).to_owned()))
        .collect();
    let (a, b) = (pods.keys().next().expect("one"), pods.keys().next_back().expect("another"));
    let variants = [slice(&pods, &[a, b]), slice(&pods, &[a]), slice(&pods, &[b])];
    space.apply(&variants[0].to_string());
    support::wait_for("the Service's endpoints in the rules", 60, || traced(space, 1));
    let (done, changes) = (AtomicBool::new(false), AtomicUsize::new(0));
    let stories = std::thread::scope(|scope| {
        scope.spawn(|| {
            for variant in variants.iter().cycle() {
                if done.load(Ordering::Relaxed) {
                    break;
                }
                let replace = format!("replace -n {} -f -", space.name);
                changes.fetch_add(
                    usize::from(space.world.kubectl_in(&replace, &variant.to_string()).ok()),
                    Ordering::Relaxed,
                );
            }
        });
        // However slow the machine is: until there was churn.
        let until = Instant::now() + LIMIT;
        let mut stories = Some(Vec::new());
        while let Some(known) = &mut stories
            && (known.len() < packets || changes.load(Ordering::Relaxed) * 4 < packets)
            && Instant::now() < until
        {
            match traced(space, packets / 4) {
                Some(more) => known.extend(more),
                None => stories = None,
            }
        }
        done.store(true, Ordering::Relaxed);
        stories
    });
    let stories = stories.expect("all packets are delivered");
    let (packets_traced, changes) = (stories.len(), changes.into_inner());
    assert!(
        packets_traced >= packets && changes * 4 >= packets,
        "endpoints changed {changes} times during {packets_traced} packets in {LIMIT:?}: that is no churn"
    );
    stories.iter().for_each(|story| holds(story, &pods));
}

/// `None` while they are not delivered.
fn traced(space: Space, packets: usize) -> Option<Vec<Value>> {
    let mut command = support::portolan();
    command.env("KUBECONFIG", space.world.lab().kubeconfig()).args(["trace", "-n", space.name, "pod/client"]);
    command.args(["svc/churned:80", "--output", "json", "--count", &packets.to_string()]);
    let said: support::Said = command.output().expect("portolan runs").into();
    if !said.ok() {
        println!("{}", said.err);
        for line in said.out.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok()) {
            if line["verdict"]["end"] != "delivered" || !line["oracle"]["differs"].is_null() {
                println!("{:#}\n{:#}", line["verdict"], line["oracle"]);
            }
        }
        return None;
    }
    let stories = serde_json::Deserializer::from_str(&said.out).into_iter::<Value>();
    Some(stories.map(|story| story.expect("JSON")).collect())
}

fn slice(pods: &BTreeMap<String, String>, addresses: &[&String]) -> Value {
    let endpoint = |addr: &&String| {
        let pod = json!({ "kind": "Pod", "name": pods[*addr] });
        json!({ "addresses": [addr], "conditions": { "ready": true }, "targetRef": pod })
    };
    json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
        "metadata": { "name": "churned", "labels": { "kubernetes.io/service-name": "churned" } },
        "ports": [{ "name": "http", "port": 80 }], "endpoints": addresses.iter().map(endpoint).collect::<Vec<_>>(),
    })
}

fn holds(story: &Value, pods: &BTreeMap<String, String>) {
    let hops: Vec<&Value> = rows(&story["hops"]).chain(rows(&story["back"])).collect();
    for rule in hops.iter().flat_map(|hop| rows(&hop["rules"])) {
        assert_eq!(rule["foreign"], false, "nobody else has rules here: {rule:#}");
        assert!(!text(&rule["text"]).starts_with('…'), "a rule without a name: {rule:#}");
    }
    let is_dnat = |hop: &&&Value| hop["change"].is_array() && hop["change"][0]["dst"] != hop["change"][1]["dst"];
    let dnat = hops.iter().find(is_dnat).unwrap_or_else(|| panic!("it goes to a Service: {story:#}"));
    let target = text(&dnat["change"][1]["dst"]);
    let pod = &pods[target.strip_suffix(":80").expect("port 80")];
    let objects: Vec<&str> = hops
        .iter()
        .flat_map(|hop| rows(&hop["rules"]))
        .flat_map(|rule| rows(&rule["objects"]))
        .filter(|object| object["kind"] == "Pod")
        .map(|object| text(&object["key"]["name"]))
        .collect();
    assert!(!objects.is_empty() && objects.iter().all(|name| name == pod), "{target} is {pod}, and not {objects:?}");
    let rules: Vec<&Value> = rows(&story["hops"]).flat_map(|hop| rows(&hop["rules"])).collect();
    for pair in rules.windows(2) {
        let (line, next) = (text(&pair[0]["text"]), text(&pair[1]["chain"]));
        // A jump is followed by a rule of the chain that it leads to, or by none there.
        if let Some((_, endpoint)) = line.split_once("-j KUBE-SEP-") {
            assert_eq!(format!("KUBE-SEP-{endpoint}"), next, "{line}");
        }
        if let Some((_, to)) = line.split_once("--to-destination ") {
            assert_eq!(to, target, "{line}");
        }
    }
}

fn rows(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}
