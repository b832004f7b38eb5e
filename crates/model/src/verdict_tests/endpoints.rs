//! Endpoints: which of them the cluster list and the local list take, by state and by hints.
//!
//! An endpoint is written `NAME@NODE` with its state: `ok`, `drains` (serving while terminating), `dies` (terminating,
//! serving no more) or `waits` (neither ready nor terminating). `a` and `b` are on this node, `c` and `d` on another.

use super::*;

const ADDRESSES: [(&str, [&str; 2]); 4] =
    [("a", HERE), ("b", ["10.244.0.6", "fd00:10:244::6"]), ("c", THERE), ("d", ["10.244.1.7", "fd00:10:244:1::7"])];

fn address(name: &str) -> [&'static str; 2] {
    ADDRESSES.into_iter().find(|(known, _)| *known == name).expect("one of four names").1
}

/// `text` such as `a ok, c drains`.
fn endpoints(text: &str) -> Vec<EndpointFact> {
    text.split(", ").filter(|word| !word.is_empty()).flat_map(endpoint).collect()
}

fn endpoint(text: &str) -> Vec<EndpointFact> {
    let (name, state) = text.split_once(' ').expect("a name and a state");
    let node = if ["a", "b"].contains(&name) { "node-1" } else { "node-2" };
    let (ready, serving, terminating) = match state {
        "ok" => (true, true, false),
        "drains" => (false, true, true),
        "dies" => (false, false, true),
        "waits" => (false, false, false),
        other => panic!("{other} is no state"),
    };
    on(address(name), node).into_iter().map(|e| EndpointFact { ready, serving, terminating, ..e }).collect()
}

/// `text` such as `a c`, `drop` or `reject`.
fn wanted(text: &str) -> Vec<Wanted> {
    match text {
        "drop" => vec![Dropped],
        "reject" => vec![Refused],
        names => names.split(' ').map(|name| To(address(name))).collect(),
    }
}

#[test]
fn draining_endpoints_stand_in_for_ready_ones_in_each_list_for_itself() {
    // Endpoints; whom a pod reaches at the ClusterIP; whom an outsider reaches at the node port under policy Local.
    let rows = [
        ("a ok, b ok, c ok, d ok", "a b c d", "a b"),
        ("a ok, b drains, c ok, d drains", "a c", "a"),
        ("a drains, b drains, c ok, d ok", "c d", "a b"),
        ("a drains, b dies, c ok, d ok", "c d", "a"),
        ("a dies, b dies, c ok, d ok", "c d", "drop"),
        ("a waits, b dies, c drains, d drains", "c d", "drop"),
        ("a drains, b drains, c drains, d dies", "a b c", "a b"),
        ("a ok, b ok, c drains, d dies", "a b", "a b"),
        ("a waits, b waits, c drains, d dies", "c", "drop"),
        ("a dies, b dies, c dies, d dies", "reject", "reject"),
        ("a waits, c waits", "reject", "reject"),
        ("a waits, b drains", "b", "b"),
        ("c ok", "c", "drop"),
        ("c drains", "c", "drop"),
        ("", "reject", "reject"),
    ];
    for (text, inside, outside) in rows {
        let world = World::new().with(|w| {
            w.service.external_policy = ExternalPolicy::Local;
            w.endpoints = endpoints(text);
        });
        world.check(OTHER_POD, CLUSTER_IP, 80, &wanted(inside));
        world.check(OUTSIDE, NODE, 30080, &wanted(outside));
        let internal = world.with(|w| w.service.internal_local = true);
        internal.check(OTHER_POD, CLUSTER_IP, 80, &wanted(outside));
    }
}

/// `text` such as `a:z1/node-1` (a hint for a zone and for a node, either may be missing), all ready unless marked `!`.
fn hinted(text: &str) -> Vec<EndpointFact> {
    text.split(' ')
        .flat_map(|word| {
            let (name, hints) = word.split_once(':').expect("a name and hints");
            let (zone, node) = hints.split_once('/').unwrap_or((hints, ""));
            let state = if name.ends_with('!') { "drains" } else { "ok" };
            let list = |hint: &str| if hint.is_empty() { vec![] } else { vec![hint.into()] };
            let endpoints = endpoint(&format!("{} {state}", name.trim_end_matches('!')));
            let hinted = move |e| EndpointFact { zone_hints: list(zone), node_hints: list(node), ..e };
            endpoints.into_iter().map(hinted).collect::<Vec<_>>()
        })
        .collect()
}

#[test]
fn hints_count_only_if_every_ready_endpoint_has_one_and_one_names_us() {
    // Endpoints with hints; whom a pod on node-1 in z1 reaches; the same if the node has no zone.
    let rows = [
        ("a:z1 b:z1 c:z2 d:z2", "a b", "a b c d"),
        ("a:z2 b:z2 c:z1 d:z2", "c", "a b c d"),
        ("a:z2 c:z3", "a c", "a c"),
        ("a:z1 b: c:z2", "a b c", "a b c"),
        ("a:z1 b!: c:z2", "a", "a c"),
        ("a!:z1 b!:z1 c:z2", "c", "c"),
        ("a!:z1 c!:z2", "a c", "a c"),
        ("a:/node-1 c:/node-2", "a", "a"),
        ("a:/node-2 c:/node-1", "c", "c"),
        ("a:/node-2 c:/node-2", "a c", "a c"),
        ("a:z1/node-2 c:z2/node-1", "c", "c"),
        ("a:z1/node-2 c:z2/node-3", "a", "a c"),
        ("a:z1/node-1 b:z1 c:z2/node-2", "a b", "a b c"),
    ];
    for (text, zoned, zoneless) in rows {
        let world = World::new().with(|w| w.endpoints = hinted(text));
        world.check(OTHER_POD, CLUSTER_IP, 80, &wanted(zoned));
        world.with(|w| w.node.zone = None).check(OTHER_POD, CLUSTER_IP, 80, &wanted(zoneless));
    }
}

#[test]
fn hints_narrow_no_local_list() {
    let world = World::new().with(|w| {
        w.service.external_policy = ExternalPolicy::Local;
        w.endpoints = hinted("a:z2 b:z1 c:z1");
    });
    world.check(OUTSIDE, NODE, 30080, &wanted("a b"));
    world.check(OTHER_POD, CLUSTER_IP, 80, &wanted("b c"));
}

#[test]
fn cluster_dns_of_this_node_is_never_reached_by_its_own_rules_while_another_node_has_one() {
    let dns = || {
        World::new().with(|w| {
            w.settings.cluster_dns = both(CLUSTER_IP);
            w.service.ports[0].port = 53;
        })
    };
    dns().check(OTHER_POD, CLUSTER_IP, 53, &[To(THERE), On]);
    dns().with(|w| w.endpoints = on(HERE, "node-1")).check(OTHER_POD, CLUSTER_IP, 53, &[To(HERE), On]);
    // Another that is not ready is no help.
    dns().with(|w| w.endpoints[2..].iter_mut().for_each(|e| e.ready = false)).check(
        OTHER_POD,
        CLUSTER_IP,
        53,
        &[To(HERE), On],
    );
    // Of another family neither.
    let mixed = dns().with(|w| drop(w.endpoints.remove(3))).snapshot();
    let targets = mixed.services.values().flat_map(|view| &view.ports[0].endpoints).map(|e| e.addr);
    assert_eq!(targets.collect::<Vec<_>>(), [ip(THERE[0]), ip(HERE[1])]);
    assert_eq!(mixed.services.values().next().map(|view| view.hosts.len()), Some(3), "records name all");
    // Other ports, and other Services' port 53, are as ever.
    World::new().with(|w| w.service.ports[0].port = 53).check(OTHER_POD, CLUSTER_IP, 53, &[To(HERE), To(THERE)]);
}
