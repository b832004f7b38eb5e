//! `portolan why` in a lab: a replaced pod's chain of causes, and whose every rule, route and record is.

#[path = "why/churn.rs"]
mod churn;
mod support;

use std::sync::{Mutex, MutexGuard, PoisonError};

use serde_json::Value;
use support::{Said, Space, World, wait_for};

const PATIENCE_SECS: u64 = 60;
const NODES: [&str; 2] = ["node-1", "node-2"];

fn world() -> &'static World {
    support::world("t-why")
}

/// `portolan why` with these arguments, each a word of its own.
fn why(world: &World, words: &[&str]) -> Said {
    let mut command = support::portolan();
    command.env("KUBECONFIG", world.lab().kubeconfig()).arg("why").args(words);
    command.output().expect("portolan runs").into()
}

fn json_of(said: &Said) -> Value {
    let value: Value = serde_json::from_str(&said.out).unwrap_or_else(|e| panic!("{e}: {}{}", said.out, said.err));
    assert_eq!(value["schema"], "portolan.why/v1");
    value
}

fn answers(world: &World, words: &[&str]) -> Vec<Value> {
    let said = why(world, &[words, &["--output", "json"]].concat());
    rows(&json_of(&said)["answers"]).cloned().collect()
}

fn rows(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

fn now_us() -> i64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("after 1970");
    i64::try_from(now.as_micros()).expect("for some time")
}

fn micros(value: &Value) -> i64 {
    value.as_i64().unwrap_or_else(|| panic!("no time: {value}"))
}

/// `Service why/web`, as an object of an answer.
fn object(value: &Value) -> String {
    let key = &value["key"];
    match key["namespace"].as_str().unwrap_or_default() {
        "" => format!("{} {}", text(&value["kind"]), text(&key["name"])),
        namespace => format!("{} {namespace}/{}", text(&value["kind"]), text(&key["name"])),
    }
}

fn objects(value: &Value) -> Vec<String> {
    rows(&value["objects"]).map(object).collect()
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

/// One of them kills an agent, with all that it remembers.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

/// A Deployment of two behind a ClusterIP, programmed everywhere, and the turn to use it.
fn stage(name: &'static str) -> (Space, MutexGuard<'static, ()>) {
    let turn = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let space = world().space(name);
    space.deployment("web", 2);
    space.kubectl("expose deployment web --port=80").done();
    for node in NODES {
        space.programmed("web", node, 2);
    }
    (space, turn)
}

fn pods(space: Space) -> Vec<String> {
    let all = space.field("pods -l app=web", ".items[*].metadata.name");
    all.split_whitespace().map(str::to_owned).collect()
}

#[test]
fn a_replaced_pod_is_told_as_a_chain_of_causes_in_the_order_of_time() {
    let (space, _turn) = stage("replaced");
    let world = space.world;
    let old = pods(space);
    let before = now_us();
    space.kubectl(&format!("delete pod {}", old[0])).done();
    let new = wait_for("another pod", PATIENCE_SECS, || {
        let now = pods(space);
        (now.len() == 2 && !now.contains(&old[0])).then(|| now.into_iter().find(|pod| !old.contains(pod)))?
    });
    space.ready(&new);
    for node in NODES {
        space.programmed("web", node, 2);
    }
    let said = why(world, &["svc/replaced/web", "--output", "json"]);
    assert!(said.ok(), "{}", said.err);
    let value = json_of(&said);
    let after = now_us();
    let pod = rows(&value["pods"]).find(|pod| text(&pod["pod"]["name"]) == new).expect("the new pod is told of");
    assert_eq!(pod["ready"], true);
    let ready_us = micros(&pod["readySinceUs"]);
    let nodes: Vec<&Value> = rows(&value["answers"][0]["nodes"]).collect();
    assert_eq!(nodes.iter().map(|node| text(&node["node"])).collect::<Vec<_>>(), NODES);
    for node in nodes {
        let changes: Vec<&Value> = rows(&node["changes"]).collect();
        let generations: Vec<i64> = changes.iter().map(|change| micros(&change["generation"])).collect();
        assert!(generations.is_sorted_by(|a, b| a > b), "the newest first: {generations:?}");
        let has = |list: &Value, pod: &str| rows(list).any(|note| text(&note["pod"]["name"]) == pod);
        // It may have come before it was ready, and then have turned.
        let is_ready = |change: &&&Value| {
            let notes = rows(&change["came"]).chain(rows(&change["turned"]));
            notes.filter(|note| note["ready"] == true).any(|note| text(&note["pod"]["name"]) == new)
        };
        let came = changes.iter().rfind(is_ready).unwrap_or_else(|| panic!("it became ready: {node:#}"));
        assert!(changes.iter().any(|change| has(&change["went"], &old[0])), "the other went: {node:#}");
        let (began, written) = (micros(&came["beganUs"]), micros(&came["writtenUs"]));
        let causes: Vec<&Value> = rows(&came["causes"]).collect();
        assert!(!causes.is_empty(), "{came:#}");
        for cause in causes {
            assert_eq!(text(&cause["origin"]["object"]["kind"]), "EndpointSlice", "{came:#}");
            let version = micros(&cause["origin"]["version"]);
            assert!(version > 0);
            let seen = micros(&cause["seenUs"]);
            assert!(before <= seen && seen <= written && began <= written && written <= after, "{came:#}");
            // The API tells of a pod's readiness in whole seconds, cut off.
            assert!(ready_us <= seen, "Ready at {ready_us}, seen at {seen}");
            let triggered = micros(&cause["triggeredUs"]);
            assert!(triggered <= seen && triggered > before - 1_000_000, "{came:#}");
        }
    }
    let said = why(world, &["-v", "svc/replaced/web"]).done();
    let line = |words: &str| said.find(words).unwrap_or_else(|| panic!("{words}: {said}"));
    let ready = line(&format!("Pod replaced/{new} became Ready"));
    let seen = ready + said[ready..].find("was seen").expect("after it");
    let kernel = seen + said[seen..].find("in the kernel").expect("after that");
    assert!(said[kernel..].contains(&format!("(Pod replaced/{new})")), "{said}");

    let said = why(world, &[&format!("pod/replaced/{new}"), "--output", "json"]);
    let here = space.field(&format!("pod {new}"), ".spec.nodeName");
    for node in rows(&json_of(&said)["answers"][0]["nodes"]) {
        let sorts: Vec<&str> = rows(&node["inPlace"]).map(|placed| text(&placed["sort"])).collect();
        assert_eq!(sorts.contains(&"route"), text(&node["node"]) == here, "its route is on its node: {node:#}");
        assert!(sorts.contains(&"rule") && sorts.contains(&"record"), "{sorts:?}");
        assert!(rows(&node["inPlace"]).all(|placed| placed["since"]["known"] == "exactly"), "{node:#}");
    }
}

/// `ns/name` at the beginning of a rule's comment.
fn commented(line: &str) -> Option<String> {
    let (_, comment) = line.split_once("--comment ")?;
    let word = comment.trim_start_matches('"').split([' ', '"']).next()?;
    let (namespace, rest) = word.split_once('/')?;
    Some(format!("Service {namespace}/{}", rest.split(':').next()?))
}

/// Rules of iptables-save with their tables: `nat -A KUBE-…`.
fn saved(world: &World, node: &str) -> Vec<String> {
    let saved = world.at(node, &["iptables-save"]).done();
    let (mut table, mut rules) = ("", Vec::new());
    for line in saved.lines() {
        match line.strip_prefix('*') {
            Some(name) => table = name,
            None if line.starts_with("-A KUBE-") => rules.push(format!("{table} {line}")),
            None => {}
        }
    }
    rules
}

#[test]
fn every_rule_in_chains_of_kube_names_its_object() {
    let (space, _turn) = stage("rules");
    space.kubectl("create service nodeport bare --tcp=80:80").done();
    wait_for("its refusal", PATIENCE_SECS, || {
        saved(space.world, "node-1").iter().any(|rule| rule.contains("rules/bare")).then_some(())
    });
    let rules = saved(space.world, "node-1");
    let (mut with_service, mut asked) = (0, 0);
    for some in rules.chunks(64) {
        let words = some.iter().flat_map(|rule| ["--rule", rule]);
        let words: Vec<&str> = ["--node", "node-1"].into_iter().chain(words).collect();
        let answers = answers(space.world, &words);
        assert_eq!(answers.len(), some.len());
        for (rule, answer) in some.iter().zip(&answers) {
            asked += 1;
            let found = &answer["nodes"][0]["inPlace"];
            assert_eq!(rows(found).count(), 1, "{rule}: {answer:#}");
            let line = rule.split_once(' ').map(|(_, line)| line).expect("a table in front");
            let body = line.split_once(' ').and_then(|(_, rest)| rest.split_once(' ')).map(|(_, body)| body);
            assert_eq!(Some(text(&found[0]["text"])), body, "the kernel's own words");
            assert_ne!(found[0]["meaning"]["role"], "foreign", "{rule}");
            if let Some(service) = commented(line) {
                with_service += 1;
                let objects = objects(&found[0]);
                assert_eq!(objects.first(), Some(&service), "{rule}: {objects:?}");
                assert!(found[0]["since"]["atUs"].is_i64(), "{rule}");
            }
            if line.contains("DNAT") && line.contains("rules/web") {
                let objects = objects(&found[0]);
                assert!(objects.iter().any(|object| object.starts_with("Pod rules/web-")), "{rule}: {objects:?}");
            }
        }
    }
    assert!(asked == rules.len() && with_service > 20, "{with_service} of {asked}");
    let chain = rules.iter().find(|rule| rule.contains("-A KUBE-SVC-") && rule.contains("rules/web")).expect("one");
    let name = chain.split_whitespace().nth(2).expect("a chain");
    let said = why(space.world, &["--rule", &format!("nat {name}")]).done();
    assert!(said.contains("Service rules/web") && said.contains("may choose 10.244."), "{said}");

    let stranger = "iptables -t nat -N STRANGER && iptables -t nat -A STRANGER -s 192.0.2.1 -j RETURN";
    space.world.at("node-1", &["sh", "-c", stranger]).done();
    let said = why(space.world, &["--node", "node-1", "--rule", "nat STRANGER"]);
    assert_eq!(said.code, Some(1), "{}", said.out);
    assert!(said.out.contains("it is gone, or somebody else's"), "{}", said.out);
}

#[test]
fn every_route_of_ours_names_the_pod_or_node_that_it_is_there_for() {
    let (space, _turn) = stage("routes");
    let pods = world().json("pods -A");
    let by_address = |address: &str| {
        let of = |pod: &&Value| text(&pod["status"]["podIP"]) == address && pod["spec"]["hostNetwork"] != true;
        let pod = rows(&pods["items"]).find(of).unwrap_or_else(|| panic!("{address} is a pod's"));
        format!("Pod {}/{}", text(&pod["metadata"]["namespace"]), text(&pod["metadata"]["name"]))
    };
    for (node, other) in [("node-1", "node-2"), ("node-2", "node-1")] {
        let mut count = 0;
        for proto in ["80", "bgp"] {
            let listed = space.world.at(node, &["ip", "route", "show", "proto", proto]).done();
            for line in listed.lines() {
                let words: Vec<&str> = line.split_whitespace().collect();
                let (dst, expected) = match words.as_slice() {
                    ["blackhole", dst, ..] => (*dst, format!("Node {node}")),
                    [dst, "dev", ..] => (*dst, by_address(dst)),
                    [dst, "via", ..] => (*dst, format!("Node {other}")),
                    _ => panic!("{line}"),
                };
                let found = answers(space.world, &["--node", node, "--route", dst]);
                let found = &found[0]["nodes"][0];
                assert_eq!(objects(found), [expected], "{line}: {found:#}");
                assert_eq!(rows(&found["inPlace"]).count(), 1);
                assert!(!found["changes"][0]["causes"][0]["origin"]["kind"].is_null(), "{line}: {found:#}");
                count += 1;
            }
        }
        assert!(count >= 3, "a block, a peer's block and a pod: {count}");
    }
    let said = why(space.world, &["--node", "node-1", "--route", "203.0.113.7"]);
    assert_eq!(said.code, Some(1), "{}", said.out);
    let said = why(space.world, &["node/node-2", "--node", "node-1"]).done();
    assert!(said.contains("BGP peer 172.18.0.12 told of 10.244."), "{said}");
}

#[test]
fn every_record_of_the_zone_names_its_objects() {
    let (space, _turn) = stage("records");
    space.apply("apiVersion: v1\nkind: Service\nmetadata: { name: bare }\nspec: { clusterIP: None, selector: { app: web }, ports: [{ name: http, port: 80 }] }\n");
    wait_for("its records", PATIENCE_SECS, || {
        let said = why(space.world, &["--record", "bare.records.svc.cluster.local"]);
        (said.ok() && said.out.matches(" IN A ").count() == 2).then_some(())
    });
    // The zone as another program plans it from the same objects, with the objects as comments.
    let list = space.world.kubectl("get nodes,namespaces,services,endpointslices -n records -o json").done();
    let mut render = support::portolan();
    render.args(["render", "dns", "--node", "node-1", "-f", "-"]);
    let zone = support::with_input(render, &list).done();
    let mut count = 0;
    for line in zone.lines().filter(|line| line.contains(" IN ") && line.contains("records")) {
        let (record, causes) = line.split_once(" ; ").unwrap_or_else(|| panic!("a cause: {line}"));
        let name = record.split(' ').next().expect("a name");
        let found = answers(space.world, &["--node", "node-1", "--record", name]);
        let placed = rows(&found[0]["nodes"][0]["inPlace"]).find(|placed| text(&placed["text"]) == record);
        let placed = placed.unwrap_or_else(|| panic!("{record}: {:#}", found[0]));
        let (mut told, mut expected) = (objects(placed), causes.split(", ").map(str::to_owned).collect::<Vec<_>>());
        told.sort();
        expected.sort();
        assert_eq!(told, expected, "{line}");
        assert!(told.iter().any(|object| object.starts_with("Service records/")), "{line}");
        assert!(placed["since"]["atUs"].is_i64(), "{line}: {placed:#}");
        count += 1;
    }
    assert!(count > 8, "{zone}");
}

#[test]
fn what_is_not_in_place_says_why() {
    let (space, _turn) = stage("nothing");
    space.apply("apiVersion: v1\nkind: Service\nmetadata: { name: bare }\nspec: { clusterIP: None, selector: { app: web }, ports: [{ port: 80 }] }\n");
    space.apply("apiVersion: v1\nkind: Service\nmetadata: { name: alias }\nspec: { type: ExternalName, externalName: example.com }\n");
    let said = wait_for("the headless Service's records", PATIENCE_SECS, || {
        Some(why(space.world, &["svc/nothing/bare"])).filter(|said| said.ok() && said.out.contains("bare.nothing.svc"))
    });
    assert!(said.out.contains("it is headless (clusterIP: None)") && !said.out.contains("KUBE-"), "{}", said.out);
    let said = wait_for("the alias' record", PATIENCE_SECS, || {
        Some(why(space.world, &["svc/nothing/alias"])).filter(|said| said.ok() && said.out.contains("IN CNAME"))
    });
    assert!(said.out.contains("it is an ExternalName"), "{}", said.out);
    for (words, says) in [
        (&["svc/wbe", "-n", "nothing"][..], "no Service nothing/wbe; did you mean nothing/web?"),
        (&["svc/web"], "no Service default/web; did you mean"),
        (&["node/node-3"], "no Node node-3; did you mean node-1"),
        (&["svc/nothing/web", "--node", "nod-1"], "no Node nod-1; did you mean node-1"),
    ] {
        let error = why(space.world, words).refused(1);
        assert!(error.contains(says) && error.lines().count() == 1, "{error}");
    }
    let said = why(space.world, &["--record", "wbe.nothing.svc.cluster.local"]);
    assert_eq!(said.code, Some(1));
    assert!(said.out.contains("there is no Service nothing/wbe"), "{}", said.out);
    assert!(said.out.contains("did you mean web.nothing.svc.cluster.local.?"), "{}", said.out);
    assert_eq!(why(space.world, &["deploy/web"]).code, Some(2));
}

#[test]
fn ages_begin_anew_with_an_agent_and_say_that_what_it_found_is_older() {
    let (space, _turn) = stage("restart");
    let world = space.world;
    // `None` while no agent answers.
    let known = || {
        let said = why(world, &["--node", "node-2", "svc/restart/web", "--output", "json"]);
        let found: Value = serde_json::from_str(&said.out).ok()?;
        let node = &found["answers"][0]["nodes"][0];
        let rules = rows(&node["inPlace"]).filter(|placed| text(&placed["sort"]) == "rule");
        let all: Vec<String> = rules.map(|placed| text(&placed["since"]["known"]).to_owned()).collect();
        Some((all, node["startedUs"].as_i64()))
    };
    let (before, started) = known().expect("the agent answers");
    assert!(before.len() > 4 && before.iter().all(|known| known == "exactly"), "{before:?}");
    world.lab().signal("agent-node-2", libc::SIGKILL).expect("it runs");
    wait_for("another agent with the rules that it found", PATIENCE_SECS, || {
        let (now, begun) = known()?;
        (begun > started && now.len() == before.len() && now.iter().all(|known| known == "older")).then_some(())
    });
    let said = why(world, &["--node", "node-2", "svc/restart/web"]).done();
    assert!(said.contains("it was there when the agent started"), "{said}");
    space.kubectl("scale deployment web --replicas=3").done();
    space.programmed("web", "node-2", 3);
    let (now, _) = known().expect("the agent answers");
    assert!(now.iter().any(|known| known == "older") && now.iter().any(|known| known == "exactly"), "{now:?}");
}

#[test]
fn rules_of_traced_packets_keep_their_names_while_their_chains_are_written_anew() {
    let _turn = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    churn::every_rule_keeps_its_name(world().space("churn"), 200);
}
