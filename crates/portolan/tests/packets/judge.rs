//! The oracle's word on a row of the table: the table, the oracle and the packets must agree, all three.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use portolan_ingest::{Event, Object, host_ports, ingest};
use portolan_model::verdict::{Arrival, Mode, Outcome, Packet, judge};
use portolan_model::{
    Attachment, Fact, Facts, IfName, NodePortAddresses, NsName, ProxySettings, Settings, Snapshot, resolve,
};

use super::case::{As, Backend, Case, Flow};
use super::ground::{NODE_1, WORLD, addresses, on_node, own_vip, owner, second_addresses};
use super::objects::SERVICE_RANGES;
use super::probe::{NODE_PORTS, Shot};
use super::run::{Fate, fates, shots};

/// Rows that the oracle sees otherwise.
pub fn objections(case: &Case, backend: Backend) -> Vec<String> {
    let snapshot = snapshot(case, backend);
    let mode = if backend == Backend::Nftables { Mode::Nftables } else { Mode::Iptables };
    let judged = |flow: &Flow| {
        let rows = fates(flow.expected(backend));
        let wrong = shots(flow).into_iter().filter_map(|shot| {
            let allowed = judge(&snapshot, &packet(&shot), mode);
            let objection = objection(&shot, &rows, &allowed.into_iter().collect::<Vec<_>>())?;
            Some(format!(
                "{}: {:?} from {} to {:?} {}: {objection}",
                case.name, shot.proto, shot.from, flow.to, shot.to
            ))
        });
        wrong.collect::<Vec<_>>()
    };
    case.flows.iter().flat_map(judged).collect()
}

/// What the oracle allows a packet.
pub fn allowed(case: &Case, backend: Backend, shot: &Shot) -> BTreeSet<Outcome> {
    let mode = if backend == Backend::Nftables { Mode::Nftables } else { Mode::Iptables };
    judge(&snapshot(case, backend), &packet(shot), mode)
}

/// Everything that the row says is allowed, and every endpoint that the oracle names is in the row.
fn objection(shot: &Shot, rows: &[Fate], allowed: &[Outcome]) -> Option<String> {
    let said: BTreeSet<Fate> = allowed.iter().map(|outcome| fate(shot, outcome)).collect();
    let must = allowed.iter().filter(|outcome| matches!(outcome, Outcome::Dnat { .. })).map(|one| fate(shot, one));
    let strays = rows.iter().any(|row| !said.iter().any(|one| same(shot, row, one)));
    let misses = must.into_iter().any(|one| !rows.iter().any(|row| same(shot, row, &one)));
    (strays || misses).then(|| format!("the table says {rows:?}, the oracle {said:?}"))
}

/// What the node itself sends bears its address in any case; a row need not name a port.
fn same(shot: &Shot, row: &Fate, oracle: &Fate) -> bool {
    match (row, oracle) {
        (Fate::At(place, port, who), Fate::At(other, at, said)) => {
            place == other && (port.is_none() || port == at) && (who == said || shot.from == NODE_1)
        }
        _ => row == oracle,
    }
}

/// What an outcome looks like to who listens.
pub fn fate(shot: &Shot, outcome: &Outcome) -> Fate {
    let who = |masquerade: &bool| if *masquerade { As::Node } else { As::Itself };
    match outcome {
        Outcome::Dnat { to, masquerade } => Fate::At(owner(to.ip()), Some(to.port()), who(masquerade)),
        Outcome::Reject => Fate::Refused,
        Outcome::Drop => Fate::Dropped,
        Outcome::Untouched { .. } if on_node(shot.to.ip()) && !NODE_PORTS.contains(&shot.to.port()) => Fate::Refused,
        Outcome::Untouched { masquerade } => {
            let place = if on_node(shot.to.ip()) { NODE_1 } else { WORLD };
            Fate::At(place, Some(shot.to.port()), who(masquerade))
        }
    }
}

fn packet(shot: &Shot) -> Packet {
    let dst = shot.to.ip();
    let family = usize::from(dst.is_ipv6());
    // A node that speaks to itself does so by the address that it speaks to.
    let own = if shot.from == NODE_1 && on_node(dst) { dst } else { addresses(shot.from)[family] };
    let arrival = match shot.from {
        NODE_1 => Arrival::Sent,
        "a3" => Arrival::by("cbr0"),
        pod if pod.starts_with('a') => Arrival::by(&format!("cali-{pod}")),
        _ => Arrival::by("eth0"),
    };
    Packet { src: shot.source.unwrap_or(own), dst, proto: shot.proto, dport: shot.to.port(), arrival }
}

/// The case's objects as node-1 resolves them.
fn snapshot(case: &Case, backend: Backend) -> Snapshot {
    let mut facts = Facts::default();
    let objects = case.objects().into_iter().filter_map(|mut value| {
        portolan_kinds::defaults::apply(&mut value);
        Object::from_value(&value).expect("tests write objects right")
    });
    let objects: Vec<Object> = objects.collect();
    facts.apply_all(objects.iter().filter_map(attachment));
    ingest(&mut facts, objects.into_iter().map(Event::Value));
    let own = [addresses(NODE_1), second_addresses(NODE_1), own_vip()];
    let own: Vec<IpAddr> = own.concat();
    facts.apply_all(own.into_iter().map(|addr| Fact::InterfaceAddress(addr, Some(()))));
    let nets = |text: &str| text.split(',').map(|net| net.parse().expect("a literal prefix")).collect();
    let settings = Settings {
        node: NODE_1.into(),
        cluster_cidrs: nets(&case.pod_ranges),
        service_cidrs: nets(SERVICE_RANGES),
        cluster_dns: Vec::new(),
        cluster_domain: "cluster.local".into(),
        proxy: proxy_settings(case, backend),
    };
    resolve(&facts, &Snapshot::empty(Arc::new(settings)), &facts.all()).0
}

/// All Pods of the cases are node-1's.
fn attachment(object: &Object) -> Option<Fact> {
    let Object::Pod(pod) = object else { return None };
    let place = pod.metadata.name.as_deref()?;
    let link = IfName(format!("cali-{place}").into());
    let attachment = Attachment { link, addresses: addresses(place).into(), host_ports: host_ports(pod) };
    Some(Fact::Attachment(NsName::new("default", place), Some(attachment)))
}

/// Unless told where, node ports answer on the node's own address in nftables mode.
fn proxy_settings(case: &Case, backend: Backend) -> ProxySettings {
    let mut settings = case.settings.clone();
    if backend == Backend::Nftables && settings.node_ports_on == NodePortAddresses::Every {
        settings.node_ports_on = NodePortAddresses::Primary;
    }
    settings
}
