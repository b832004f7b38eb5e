//! Words for what a program is told in numbers and names: ages, times, meanings. Pure.

use jiff::Timestamp;
use portolan_dataplane::meaning::{Door, Masqueraded, Meaning, TurnedAway};
use portolan_story::history::{Known, Since};

/// How long ago, or how long.
pub fn span(micros: i64) -> String {
    let micros = micros.max(0);
    let secs = micros / 1_000_000;
    match micros {
        0..1_000_000 => format!("{}.{} ms", micros / 1000, micros % 1000 / 100),
        1_000_000..10_000_000 => format!("{secs}.{} s", micros % 1_000_000 / 100_000),
        _ if secs < 120 => format!("{secs} s"),
        _ if secs < 7200 => format!("{} min", secs / 60),
        _ if secs < 172_800 => format!("{} h", secs / 3600),
        _ => format!("{} d", secs / 86_400),
    }
}

/// Since when, seen from `now_us`.
pub fn age(since: Option<Since>, now_us: i64) -> String {
    let Some(since) = since else { return "age unknown".to_owned() };
    let long = span(now_us - since.at_us);
    match since.known {
        Known::Exactly => format!("for {long}"),
        Known::Older => format!("for more than {long}: it was there when the agent started"),
        Known::AtLeast => format!("for {long} or more: since the agent's start"),
    }
}

/// A moment of a day, UTC, in milliseconds.
pub fn clock(micros: i64) -> String {
    match Timestamp::from_microsecond(micros) {
        Ok(at) => at.strftime("%H:%M:%S%.3f").to_string(),
        Err(_) => "?".to_owned(),
    }
}

/// The same of a time that is known in seconds only.
pub fn clock_secs(micros: i64) -> String {
    match Timestamp::from_microsecond(micros) {
        Ok(at) => at.strftime("%H:%M:%S").to_string(),
        Err(_) => "?".to_owned(),
    }
}

/// What a rule or element is there for; empty where it leads to where that is decided.
pub fn meaning(meaning: &Meaning) -> String {
    match meaning {
        Meaning::Leads => "leads there".to_owned(),
        Meaning::Claims { service, door } => format!("what is sent to {} of {service}", self::door(*door)),
        Meaning::Chooses { endpoint, bound: true, .. } => format!("{endpoint}, if the client had it before"),
        Meaning::Chooses { endpoint, .. } => format!("may choose {endpoint}"),
        Meaning::SendsTo { endpoint, .. } => format!("sends to {endpoint}"),
        Meaning::HostPort { pod, to } => format!("a host port of Pod {pod}, {to}"),
        Meaning::MarksMasquerade { because, .. } | Meaning::Masquerades { because } => {
            format!("takes the node's address as source: {}", masqueraded(*because))
        }
        Meaning::KeepsSource => "keeps the source".to_owned(),
        Meaning::Refuses { because, .. } => format!("refuses: {}", turned_away(*because)),
        Meaning::Drops { because, .. } => format!("drops: {}", turned_away(*because)),
        Meaning::Lets => "lets pass".to_owned(),
        Meaning::KeepsUntracked => "keeps it out of conntrack: cluster DNS of this node".to_owned(),
        Meaning::Remembers { service } => format!("remembers the client, for affinity of {service}"),
        Meaning::Plumbing => "ours, for no single object".to_owned(),
        Meaning::Foreign => "somebody else's".to_owned(),
    }
}

fn door(door: Door) -> &'static str {
    match door {
        Door::ClusterIp => "the ClusterIP",
        Door::External => "an external IP",
        Door::LoadBalancer => "the balancer's address",
        Door::NodePort => "the node port",
    }
}

fn masqueraded(because: Masqueraded) -> &'static str {
    match because {
        Masqueraded::NotFromPod => "the sender is no pod",
        Masqueraded::External => "it came from outside, and the answer must come back this way",
        Masqueraded::FromNode => "the node itself sends",
        Masqueraded::Hairpin => "a pod reaches itself",
        Masqueraded::All => "the proxy masquerades all",
        Masqueraded::LeavesCluster => "it leaves the cluster",
        Masqueraded::HostPort => "a host port, from its own pod or node",
        Masqueraded::Marked => "it was marked",
    }
}

fn turned_away(because: TurnedAway) -> &'static str {
    match because {
        TurnedAway::NoEndpoints => "it has no endpoint",
        TurnedAway::NoLocalEndpoints => "it has no endpoint on this node, and its policy is Local",
        TurnedAway::SourceRange => "the client is in none of its source ranges",
        TurnedAway::NoSuchPort => "no Service has that port",
        TurnedAway::Loopback => "loopback is closed to strangers",
        TurnedAway::Invalid => "conntrack calls it invalid",
    }
}
