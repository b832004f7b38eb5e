//! Explain beside oracle and packets: over drawn clusters what `portolan explain` foresees is what the oracle allows, and
//! what real packets do: each of its ways within so many packets, and none other.

use std::collections::BTreeSet;
use std::process::Command;

use portolan_model::Proto;
use portolan_model::verdict::Outcome;
use serde_json::{Value, json};

use super::case::{Case, Expect, case, flow};
use super::ground::{NODE_1, OUTSIDE, addresses};
use super::judge::{allowed, fate};
use super::objects::{SERVICE_RANGES, Service, To, service};
use super::probe::Shot;
use super::run::{Fate, Field, shots};

const CLUSTERS: u64 = 8;
/// Of each cluster; all its flows would be ten times as many.
const SHOTS: usize = 16;
const PODS: [&str; 5] = ["a1", "a2", "a3", "b1", "b2"];

/// Draws clusters and flows; all that is wrong is told at the end.
pub fn as_foretold(field: &Field<'_>) {
    let (mut complaints, mut packets, mut kinds) = (Vec::new(), 0, BTreeSet::new());
    for seed in 0..CLUSTERS {
        let mut dice = Dice(seed);
        let case = any_case(seed, &mut dice);
        field.program(&case.objects(), &["--cluster-cidr", &case.pod_ranges]);
        for shot in any_shots(&case, &mut dice) {
            match three_agree(field, &case, &shot) {
                Ok((sent, outcomes)) => {
                    packets += sent;
                    kinds.extend(outcomes.iter().map(kind));
                }
                Err(wrong) => complaints.push(format!("{}: {shot:?}: {wrong}", case.name)),
            }
        }
    }
    println!("{:?}: {CLUSTERS} clusters, {packets} packets, outcomes {kinds:?}", field.backend);
    assert!(complaints.is_empty(), "{:?}: {} differ:\n{}", field.backend, complaints.len(), complaints.join("\n"));
    // Clusters in which everything came out the same would prove nothing.
    assert_eq!(kinds, ["kept", "masqueraded", "refused", "dropped"].into());
}

fn kind(outcome: &Outcome) -> &'static str {
    match outcome {
        Outcome::Dnat { masquerade: true, .. } | Outcome::Untouched { masquerade: true } => "masqueraded",
        Outcome::Dnat { .. } | Outcome::Untouched { .. } => "kept",
        Outcome::Reject => "refused",
        Outcome::Drop => "dropped",
    }
}

/// How many packets it took to see every way, and which these are.
fn three_agree(field: &Field<'_>, case: &Case, shot: &Shot) -> Result<(usize, BTreeSet<Outcome>), String> {
    let foreseen = explained(field, case, shot)?;
    let promised = allowed(case, field.backend, shot);
    let is_choice = promised.iter().all(|outcome| matches!(outcome, Outcome::Dnat { .. }));
    if !foreseen.is_subset(&promised) || (is_choice && foreseen != promised) {
        return Err(format!("explain says {foreseen:?}, the oracle {promised:?}"));
    }
    let fates: BTreeSet<Fate> = foreseen.iter().map(|outcome| fate(shot, outcome)).collect();
    let fates: Vec<Fate> = fates.into_iter().collect();
    let sent =
        field.check_all(shot, &fates).map_err(|wrong| format!("explain says {foreseen:?}, but packets: {wrong}"))?;
    Ok((sent, foreseen))
}

/// What node-1's rules may make of the packet, as the program says.
fn explained(field: &Field<'_>, case: &Case, shot: &Shot) -> Result<BTreeSet<Outcome>, String> {
    let from = match shot.from {
        NODE_1 => format!("node/{NODE_1}"),
        OUTSIDE => "outside".to_owned(),
        pod => format!("pod/{pod}"),
    };
    let outside = addresses(OUTSIDE).map(|addr| addr.to_string()).join(",");
    let (to, proto) = (shot.to.to_string(), shot.proto.lower());
    let mut command = Command::new(env!("CARGO_BIN_EXE_portolan"));
    command.args(["explain", &from, &to, "--proto", proto, "--output", "json", "-f"]).arg(field.objects());
    command.args([
        "--proxy-mode",
        field.backend.mode(),
        "--via",
        NODE_1,
        "--outside",
        &outside,
        "--cluster-dns",
        "10.96.0.250",
    ]);
    command.args(["--cluster-cidr", &case.pod_ranges, "--service-cidr", SERVICE_RANGES]).env_remove("KUBECONFIG");
    let output = command.output().expect("the program runs");
    let said = String::from_utf8_lossy(&output.stderr);
    let answer: Value = serde_json::from_slice(&output.stdout).map_err(|e| format!("explain: {e}: {said}"))?;
    let ways = answer["ways"].as_array().ok_or("explain tells no ways")?;
    let of_node_1 = |way: &Value| {
        let mut outcomes = way["outcomes"].as_array()?.iter();
        let first = outcomes.find(|one| one["node"] == NODE_1)?;
        serde_json::from_value::<Outcome>(first["outcome"].clone()).ok()
    };
    ways.iter().map(|way| of_node_1(way).ok_or(format!("a way without an outcome on {NODE_1}: {way}"))).collect()
}

/// Numbers that look like chance and are the same in each run: SplitMix64.
struct Dice(u64);

impl Dice {
    fn below(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((mixed ^ (mixed >> 31)) % n as u64) as usize
    }

    fn one_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }
}

/// Two or three Services of any kind, with endpoints in any state.
fn any_case(seed: u64, dice: &mut Dice) -> Case {
    let mut drawn = case(format!("cluster {seed}"));
    for number in 10..12 + dice.below(2) as u8 {
        drawn = drawn.service(any_service(number, dice));
    }
    PODS.iter().fold(drawn, |case, place| case.object(pod(place)))
}

fn any_service(number: u8, dice: &mut Dice) -> Service {
    let mut drawn = match dice.below(3) {
        0 => service(number),
        1 => service(number).node_port(),
        _ => service(number).everywhere(),
    };
    if dice.one_in(3) && !is_plain(&drawn) {
        drawn = drawn.external_local();
    }
    if dice.one_in(5) {
        drawn = drawn.spec(json!({ "internalTrafficPolicy": "Local" }));
    }
    if dice.one_in(4) && is_balanced(&drawn) {
        let ranges: [&[&str]; 2] = [&["172.18.0.0/24", "fd00:18::/64"], &["192.0.2.0/24", "2001:db8::/64"]];
        drawn = drawn.ranges(ranges[dice.below(2)]);
    }
    let endpoints: Vec<String> = PODS
        .iter()
        .filter(|place| **place != "a3")
        .filter_map(|place| match dice.below(6) {
            0 | 1 => Some((*place).to_owned()),
            2 => Some(format!("{place} terminating")),
            3 => Some(format!("{place} unready")),
            _ => None,
        })
        .collect();
    // The table of cases is of literals; a few texts of a test live as long as it.
    drawn.endpoints(endpoints.join(", ").leak())
}

fn kind_of(service: &Service) -> Value {
    service.objects()[0]["spec"]["type"].clone()
}

fn is_plain(service: &Service) -> bool {
    kind_of(service) == "ClusterIP"
}

fn is_balanced(service: &Service) -> bool {
    kind_of(service) == "LoadBalancer"
}

fn any_shots(case: &Case, dice: &mut Dice) -> Vec<Shot> {
    let mut all = Vec::new();
    for service in &case.services {
        let number = service.number;
        let mut doors = vec![To::ClusterIp(number)];
        doors.extend((!is_plain(service)).then_some(To::NodePort(number)));
        doors
            .extend(is_balanced(service).then_some([To::External(number), To::Balancer(number)]).into_iter().flatten());
        for (from, to) in
            ["a1", "a2", OUTSIDE, NODE_1].into_iter().flat_map(|from| doors.iter().map(move |to| (from, *to)))
        {
            let of_flow = shots(&flow(from, to, Expect::Refused)).into_iter();
            all.extend(of_flow.filter(|shot| shot.proto != Proto::Sctp));
        }
    }
    let count = SHOTS.min(all.len());
    (0..count).map(|_| all.swap_remove(dice.below(all.len()))).collect()
}

/// A Pod at a place, so that it can be said to send.
fn pod(place: &str) -> Value {
    let ips = addresses(place).map(|addr| json!({ "ip": addr.to_string() }));
    let node = if place.starts_with('a') { NODE_1 } else { "node-2" };
    json!({ "apiVersion": "v1", "kind": "Pod", "metadata": { "name": place, "namespace": "default", "uid": place },
        "spec": { "nodeName": node, "containers": [{ "name": "main", "image": "main" }] },
        "status": { "phase": "Running", "podIP": ips[0]["ip"], "podIPs": ips } })
}
