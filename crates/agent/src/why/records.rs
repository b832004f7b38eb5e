//! Records of cluster DNS: those that an object caused, and whose one is.

use portolan_dns::name::Name;
use portolan_dns::rdata::Node;
use portolan_dns::records::{Found, Records};
use portolan_model::{NsName, ObjectKind, ObjectRef, Text};
use portolan_story::why::{InPlace, Sort};

/// Every record that `object` has a part in, in the order of the zone.
pub(super) fn of(records: &Records, object: &ObjectRef) -> Vec<InPlace> {
    let listing = records.listing();
    listing.nodes().filter(|node| node.causes.contains(object)).flat_map(|node| told(records, node)).collect()
}

/// What stands at `name`; empty if nothing does.
pub(super) fn at(records: &Records, name: &Name) -> Vec<InPlace> {
    match records.find(name) {
        Found::Node(node) => told(records, &node),
        Found::Pod(addr, namespace) => {
            let rtype = if addr.is_ipv4() { "A" } else { "AAAA" };
            let text = format!("{name} {} IN {rtype} {addr}", records.config().ttl_secs);
            vec![record(records, text.into(), namespace.causes)]
        }
        Found::Below(node) => {
            let text = format!("; {name} exists, for {} is below it", node.owner);
            vec![record(records, text.into(), node.causes)]
        }
        Found::Nothing => Vec::new(),
    }
}

/// Names of the zone that are most like one that is not there.
pub(super) fn near(records: &Records, name: &Name) -> Vec<String> {
    let text = name.to_string();
    let first = |text: &str| text.split('.').next().unwrap_or_default().to_owned();
    let is_near = |other: &String| {
        let rest = |text: &str| text.split_once('.').map(|(_, rest)| rest.to_owned());
        rest(other) == rest(&text) && portolan_story::place::find::is_near(&first(&text), &first(other))
    };
    records.listing().nodes().map(|node| node.owner.to_string()).filter(is_near).take(3).collect()
}

fn told(records: &Records, node: &Node) -> Vec<InPlace> {
    let mut lines = Records::lines(node);
    if lines.is_empty() {
        lines.push(format!("; {} exists", node.owner));
    }
    lines.into_iter().map(|line| record(records, line.into(), nearest_first(&node.causes))).collect()
}

/// The Service, then its Pods.
fn nearest_first(causes: &[ObjectRef]) -> Vec<ObjectRef> {
    let mut causes = causes.to_vec();
    causes.sort_by_key(|cause| cause.kind != ObjectKind::Service);
    causes
}

fn record(records: &Records, text: Text, objects: Vec<ObjectRef>) -> InPlace {
    InPlace {
        sort: Sort::Record,
        place: records.config().zone.to_string().into(),
        number: None,
        text,
        meaning: None,
        objects,
        since: None,
    }
}

/// The name of the Service that a name below `svc` would be of.
pub(super) fn service_named(records: &Records, name: &Name) -> Option<NsName> {
    let text = name.to_string().to_lowercase();
    let zone = records.config().zone.to_string().to_lowercase();
    let below = text.trim_end_matches('.').strip_suffix(zone.trim_end_matches('.'))?.strip_suffix(".svc.")?.to_owned();
    let mut labels: Vec<&str> = below.split('.').collect();
    let namespace = labels.pop()?;
    Some(NsName::new(namespace, labels.pop()?))
}
