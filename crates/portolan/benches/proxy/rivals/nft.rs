//! kube-proxy's nftables layouts as values: that of 1.35 (a chain per endpoint) and that of 1.36 (a chain per Service).
//!
//! ```text
//!  services ─► vmap @service-ips ─► service-… ─► 1.35: numgen random mod N vmap { i : goto endpoint-… } ─► dnat to …
//!                                                1.36: dnat ip to numgen random mod N map { i : address . port }
//! ```
//!
//! The eight letters before a name's readable part are cut from our own hash of the same length's alphabet, not
//! kube-proxy's own hash: a kernel sees no difference.

use std::net::Ipv4Addr;

use ipnet::Ipv4Net;
use portolan_dataplane::iptables::names::{endpoint_hash, service_hash};

use crate::Outcome;
use crate::rivals::iptables::key;
use crate::world::{CLUSTER_CIDR, NAMESPACE, NODE_IP, PORT, PORT_NAME, SERVICE_CIDR, Size, TARGET, cluster_ip, name};

pub const TABLE: &str = "kube-proxy";
const MARK: u32 = 0x4000;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Version {
    V1_35,
    V1_36,
}

impl std::fmt::Display for Version {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(if *self == Self::V1_35 { "1.35" } else { "1.36" })
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    Source,
    Destination,
    Proto,
    Port,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    Drop,
    Return,
    Jump(String),
    Goto(String),
}

/// One statement of a rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Say {
    StateNew,
    Redirected,
    From(Ipv4Addr),
    NotFrom(Ipv4Net),
    To(Ipv4Addr),
    ToNet(Ipv4Net),
    Tcp,
    Dport(u16),
    In(Vec<Part>, &'static str),
    Vmap(Vec<Part>, &'static str),
    Unmarked(u32),
    Marked(u32),
    MarkOr(u32),
    MarkXor(u32),
    RandomGoto(Vec<String>),
    Dnat(Ipv4Addr, u16),
    RandomDnat(Vec<(Ipv4Addr, u16)>),
    Masquerade,
    Reject,
    Do(Verdict),
}

/// Type, hook, priority of a base chain.
pub type Base = (&'static str, &'static str, i32);

/// One command of a transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Item {
    Chain(String, Option<Base>),
    Flush(String),
    /// Name, key, whether its data are verdicts.
    Set(&'static str, Vec<Part>, bool),
    Rule(String, Vec<Say>),
    /// A destination that leads to a chain.
    Goto(&'static str, Ipv4Addr, u16, String),
    Address(&'static str, Ipv4Addr),
    /// An endpoint, by itself and to itself: `hairpin-connections`.
    Hairpin(Ipv4Addr, u16),
}

/// The whole table.
pub fn whole(version: Version, size: Size) -> Outcome<Vec<Item>> {
    let mut items = fixed(version)?;
    for service in 0..size.services {
        items.extend(new_service(version, service, &size.addresses(service))?);
    }
    Ok(items)
}

/// A Service that was not there before.
pub fn new_service(version: Version, service: u32, addresses: &[Ipv4Addr]) -> Outcome<Vec<Item>> {
    let chain = service_chain(service);
    let mut items = vec![Item::Chain(chain.clone(), None)];
    items.extend(service_rules(version, service, addresses)?);
    items.push(Item::Address("cluster-ips", cluster_ip(service)));
    items.push(Item::Goto("service-ips", cluster_ip(service), PORT, chain));
    Ok(items)
}

/// A Service whose endpoints are these from now on; `gone` has left.
pub fn change(version: Version, service: u32, addresses: &[Ipv4Addr], gone: Ipv4Addr) -> Outcome<Vec<Item>> {
    let mut items = vec![Item::Flush(service_chain(service))];
    items.extend(service_rules(version, service, addresses)?);
    if version == Version::V1_35 {
        // Deleted a second later, as kube-proxy does; that transaction is not counted.
        items.push(Item::Flush(endpoint_name(service, gone)));
    }
    Ok(items)
}

fn service_rules(version: Version, service: u32, addresses: &[Ipv4Addr]) -> Outcome<Vec<Item>> {
    let chain = service_chain(service);
    let mut items = Vec::new();
    if version == Version::V1_36 {
        items.extend(addresses.iter().map(|address| Item::Hairpin(*address, TARGET)));
        let to: Vec<_> = addresses.iter().map(|address| (*address, TARGET)).collect();
        let say = if let [(address, port)] = to[..] { Say::Dnat(address, port) } else { Say::RandomDnat(to) };
        items.push(Item::Rule(chain, vec![Say::Tcp, say]));
        return Ok(items);
    }
    let mark = Say::Do(Verdict::Jump("mark-for-masquerade".into()));
    let outside = Say::NotFrom(CLUSTER_CIDR.parse()?);
    let to = [Say::To(cluster_ip(service)), Say::Tcp, Say::Dport(PORT), outside, mark.clone()];
    items.push(Item::Rule(chain.clone(), to.to_vec()));
    for address in addresses {
        let endpoint = endpoint_name(service, *address);
        items.push(Item::Chain(endpoint.clone(), None));
        items.push(Item::Rule(endpoint.clone(), vec![Say::From(*address), mark.clone()]));
        items.push(Item::Rule(endpoint, vec![Say::Tcp, Say::Dnat(*address, TARGET)]));
    }
    let chains = addresses.iter().map(|address| endpoint_name(service, *address)).collect();
    items.push(Item::Rule(chain, vec![Say::RandomGoto(chains)]));
    Ok(items)
}

fn service_chain(service: u32) -> String {
    let hash = &service_hash(&key(service))[..8];
    format!("service-{hash}-{NAMESPACE}/{}/tcp/{PORT_NAME}", name(service))
}

fn endpoint_name(service: u32, address: Ipv4Addr) -> String {
    let hash = &endpoint_hash(&key(service), &format!("{address}:{TARGET}"))[..8];
    format!("endpoint-{hash}-{NAMESPACE}/{}/tcp/{PORT_NAME}__{address}/{TARGET}", name(service))
}

/// Base chains, sets, maps and the chains between.
fn fixed(version: Version) -> Outcome<Vec<Item>> {
    use Part::{Destination, Port, Proto};
    let dest = || vec![Destination, Proto, Port];
    let jump = |chain: &str| Say::Do(Verdict::Jump(chain.into()));
    let when_new = |chain: &str| vec![Say::StateNew, jump(chain)];
    let mut items = Vec::new();
    for (name, base) in BASES {
        items.push(Item::Chain((*name).into(), Some(*base)));
    }
    items.extend(PLAIN.iter().map(|name| Item::Chain((*name).into(), None)));
    items.push(Item::Set("cluster-ips", vec![Destination], false));
    items.push(Item::Set("nodeport-ips", vec![Destination], false));
    items.push(Item::Set("service-ips", dest(), true));
    items.push(Item::Set("service-nodeports", vec![Proto, Port], true));
    items.push(Item::Set("firewall-ips", dest(), true));
    items.push(Item::Set("no-endpoint-services", dest(), true));
    items.push(Item::Set("no-endpoint-nodeports", vec![Proto, Port], true));
    items.push(Item::Address("nodeport-ips", NODE_IP));
    let mut rule = |chain: &str, say: Vec<Say>| items.push(Item::Rule(chain.into(), say));
    rule("filter-prerouting-pre-dnat", when_new("firewall-check"));
    rule("filter-output-pre-dnat", when_new("firewall-check"));
    rule("nat-prerouting", vec![jump("services")]);
    rule("nat-output", vec![jump("services")]);
    rule("nat-postrouting", vec![jump("masquerading")]);
    rule("filter-input", when_new("nodeport-endpoints-check"));
    rule("filter-input", when_new("service-endpoints-check"));
    for chain in ["filter-forward", "filter-output"] {
        rule(chain, when_new("service-endpoints-check"));
        rule(chain, when_new("cluster-ips-check"));
    }
    if version == Version::V1_36 {
        let outside = Say::NotFrom(CLUSTER_CIDR.parse()?);
        rule("services", vec![Say::In(vec![Destination], "cluster-ips"), outside, Say::MarkOr(MARK)]);
    }
    rule("services", vec![Say::Vmap(dest(), "service-ips")]);
    rule(
        "services",
        vec![Say::In(vec![Destination], "nodeport-ips"), Say::Vmap(vec![Proto, Port], "service-nodeports")],
    );
    rule("firewall-check", vec![Say::Vmap(dest(), "firewall-ips")]);
    rule("service-endpoints-check", vec![Say::Vmap(dest(), "no-endpoint-services")]);
    let node = Say::In(vec![Destination], "nodeport-ips");
    rule("nodeport-endpoints-check", vec![node, Say::Vmap(vec![Proto, Port], "no-endpoint-nodeports")]);
    rule("cluster-ips-check", vec![Say::In(vec![Destination], "cluster-ips"), Say::Reject]);
    rule("cluster-ips-check", vec![Say::ToNet(SERVICE_CIDR.parse()?), Say::Do(Verdict::Drop)]);
    rule("reject-chain", vec![Say::Reject]);
    masquerading(version, &mut items);
    Ok(items)
}

fn masquerading(version: Version, items: &mut Vec<Item>) {
    let chain = || "masquerading".to_owned();
    if version == Version::V1_35 {
        items.push(Item::Rule("mark-for-masquerade".into(), vec![Say::MarkOr(MARK)]));
        items.push(Item::Rule(chain(), vec![Say::Unmarked(MARK), Say::Do(Verdict::Return)]));
        items.push(Item::Rule(chain(), vec![Say::MarkXor(MARK)]));
        items.push(Item::Rule(chain(), vec![Say::Masquerade]));
        return;
    }
    use Part::{Destination, Port, Proto, Source};
    let key = vec![Source, Destination, Proto, Port];
    items.push(Item::Set("hairpin-connections", key.clone(), false));
    items.push(Item::Rule(chain(), vec![Say::Marked(MARK), Say::MarkXor(MARK), Say::Masquerade]));
    items.push(Item::Rule(chain(), vec![Say::Redirected, Say::In(key, "hairpin-connections"), Say::Masquerade]));
}

const BASES: &[(&str, Base)] = &[
    ("filter-prerouting-pre-dnat", ("filter", "prerouting", -110)),
    ("filter-output-pre-dnat", ("filter", "output", -110)),
    ("filter-input", ("filter", "input", 0)),
    ("filter-forward", ("filter", "forward", 0)),
    ("filter-output", ("filter", "output", 0)),
    ("nat-prerouting", ("nat", "prerouting", -100)),
    ("nat-output", ("nat", "output", -100)),
    ("nat-postrouting", ("nat", "postrouting", 100)),
];
const PLAIN: &[&str] = &[
    "services",
    "firewall-check",
    "service-endpoints-check",
    "nodeport-endpoints-check",
    "cluster-ips-check",
    "reject-chain",
    "masquerading",
    "mark-for-masquerade",
];
