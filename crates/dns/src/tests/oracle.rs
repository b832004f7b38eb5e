//! The slow, obvious way to answer: one flat list of records made from the whole snapshot, read through for each question.
//! Shares nothing with the rooms it judges but the snapshot.

use std::collections::BTreeSet;
use std::net::IpAddr;

use portolan_model::{Host, ServiceKind, ServiceView, Snapshot};

const ZONE: &str = "cluster.local";

/// What a question must get.
#[derive(Debug, PartialEq, Eq)]
pub enum Expected {
    /// Code and answers as `owner TYPE data`, sorted.
    Reply(&'static str, Vec<String>),
    Forward,
    /// An alias that leads outside, to this name.
    Chase(String),
}

/// The zones as a list.
#[derive(Default)]
pub struct Flat {
    /// Owner, type, data; names without the final dot.
    pub records: Vec<(String, &'static str, String)>,
    /// Names that exist although they hold nothing.
    pub bare: Vec<String>,
}

pub fn flat(snapshot: &Snapshot) -> Flat {
    let mut flat = Flat::default();
    flat.put(&format!("dns-version.{ZONE}"), "TXT", "\"1.1.0\"".into());
    flat.bare.extend([ZONE.to_string(), format!("svc.{ZONE}"), format!("pod.{ZONE}")]);
    for namespace in &snapshot.namespaces {
        flat.bare.extend([format!("{namespace}.svc.{ZONE}"), format!("{namespace}.pod.{ZONE}")]);
    }
    let views: Vec<&ServiceView> =
        snapshot.services.values().map(|view| &**view).filter(|view| has_names(view)).collect();
    for view in &views {
        flat.service(view);
    }
    flat.reverse(&views);
    flat.name_server(&views);
    flat
}

impl Flat {
    fn put(&mut self, owner: &str, rtype: &'static str, data: String) {
        self.records.push((owner.to_lowercase(), rtype, data));
    }

    fn address(&mut self, owner: &str, addr: IpAddr) {
        self.put(owner, if addr.is_ipv4() { "A" } else { "AAAA" }, addr.to_string());
    }

    /// All entries weigh the same, and equal ones are counted before they fall together.
    fn srv(&mut self, owner: &str, entries: Vec<Option<(u16, String)>>) {
        let weight = (100 / entries.len().max(1)).max(1);
        for (port, target) in entries.into_iter().flatten() {
            self.put(owner, "SRV", format!("0 {weight} {port} {target}"));
        }
    }

    fn service(&mut self, view: &ServiceView) {
        let base = base(view);
        let ready = ready(view);
        if let ServiceKind::ExternalName(target) = &view.spec.kind {
            if target.parse::<IpAddr>().is_err() {
                self.put(&base, "CNAME", target.trim_end_matches('.').into());
            }
            return;
        }
        for host in &ready {
            self.address(&host_name(view, host), host.addr);
            let name = host_name(view, host);
            self.srv(&name, host.ports.iter().map(|port| Some((port.port, name.clone()))).collect());
        }
        let mut ports: BTreeSet<String> = view.spec.ports.iter().map(|p| format!("_{}._{}", p.name, p.proto)).collect();
        match view.spec.kind {
            ServiceKind::Headless => {
                ready.iter().for_each(|host| self.address(&base, host.addr));
                ports.extend(ready.iter().flat_map(|h| h.ports.iter()).map(|p| format!("_{}._{}", p.name, p.proto)));
                self.srv(&base, headless_entries(view, &ready, None));
                for port in ports.iter().filter(|port| !port.starts_with("_.")) {
                    self.srv(&format!("{port}.{base}"), headless_entries(view, &ready, Some(port)));
                }
            }
            _ => {
                view.spec.cluster_ips.iter().for_each(|addr| self.address(&base, *addr));
                self.srv(&base, cluster_entries(view, None));
                for port in ports.iter().filter(|port| !port.starts_with("_.")) {
                    self.srv(&format!("{port}.{base}"), cluster_entries(view, Some(port)));
                }
            }
        }
    }

    fn reverse(&mut self, views: &[&ServiceView]) {
        let cluster: Vec<(IpAddr, String)> =
            views.iter().flat_map(|view| view.spec.cluster_ips.iter().map(|addr| (*addr, base(view)))).collect();
        for (addr, name) in &cluster {
            self.put(&reverse_name(*addr), "PTR", name.clone());
        }
        for view in views.iter().filter(|view| !matches!(view.spec.kind, ServiceKind::ExternalName(_))) {
            for host in ready(view).iter().filter(|host| cluster.iter().all(|(addr, _)| *addr != host.addr)) {
                self.put(&reverse_name(host.addr), "PTR", host_name(view, host));
            }
        }
    }

    fn name_server(&mut self, views: &[&ServiceView]) {
        let own: IpAddr = "10.96.0.10".parse().expect("an address");
        let is_server = |view: &&&ServiceView| {
            let at_own = view.spec.cluster_ips.contains(&own) || ready(view).iter().any(|host| host.addr == own);
            at_own && !view.spec.cluster_ips.is_empty()
        };
        let servers: Vec<&&ServiceView> = views.iter().filter(is_server).collect();
        let host = format!("ns.dns.{ZONE}");
        for view in &servers {
            self.put(ZONE, "NS", base(view));
            view.spec.cluster_ips.iter().for_each(|addr| self.address(&host, *addr));
        }
        if servers.is_empty() {
            self.put(ZONE, "NS", host.clone());
            self.address(&host, own);
        }
    }

    pub fn answer(&self, name: &str, rtype: &str) -> Expected {
        let found = self.at(name, rtype);
        let in_zone = name == ZONE || name.ends_with(&format!(".{ZONE}"));
        if !in_zone && self.records.iter().all(|(owner, _, _)| owner != name) {
            return Expected::Forward;
        }
        if let ("A" | "AAAA", Some((_, _, target))) =
            (rtype, self.records.iter().find(|(owner, t, _)| owner == name && *t == "CNAME"))
        {
            return self.follow(name, target, rtype, Vec::new());
        }
        if let Some(addr) = self.pod(name) {
            let is_asked = rtype == if addr.is_ipv4() { "A" } else { "AAAA" };
            return Expected::Reply(
                "NOERROR",
                is_asked.then(|| format!("{name} {rtype} {addr}")).into_iter().collect(),
            );
        }
        let below = format!(".{name}");
        let names = self.records.iter().map(|(owner, _, _)| owner).chain(&self.bare);
        let exists = names.into_iter().any(|owner| owner == name || owner.ends_with(&below));
        Expected::Reply(if exists { "NOERROR" } else { "NXDOMAIN" }, found)
    }

    fn follow(&self, owner: &str, target: &str, rtype: &str, mut lines: Vec<String>) -> Expected {
        if !target.ends_with(&format!(".{ZONE}")) {
            return Expected::Chase(target.into());
        }
        lines.push(format!("{owner} CNAME {target}"));
        let next = self.records.iter().find(|(owner, t, _)| owner == target && *t == "CNAME");
        match next {
            Some((_, _, further)) if lines.len() < 10 => self.follow(target, further, rtype, lines),
            Some(_) => Expected::Reply("NOERROR", Vec::new()),
            None => match self.answer(target, rtype) {
                Expected::Reply("NOERROR", found) if !found.is_empty() => {
                    lines.extend(found);
                    lines.sort();
                    Expected::Reply("NOERROR", lines)
                }
                _ => Expected::Reply("NOERROR", Vec::new()),
            },
        }
    }

    fn at(&self, name: &str, rtype: &str) -> Vec<String> {
        let here = self.records.iter().filter(|(owner, t, _)| owner == name && *t == rtype);
        let lines: BTreeSet<String> = here.map(|(owner, t, data)| format!("{owner} {t} {data}")).collect();
        lines.into_iter().collect()
    }

    fn pod(&self, name: &str) -> Option<IpAddr> {
        let (label, rest) = name.split_once('.')?;
        if !rest.ends_with(&format!(".pod.{ZONE}")) || !self.bare.iter().any(|bare| bare == rest) {
            return None;
        }
        label.replace('-', ".").parse().or_else(|_| label.replace('-', ":").parse()).ok()
    }
}

fn base(view: &ServiceView) -> String {
    format!("{}.{}.svc.{ZONE}", view.key.name, view.key.namespace)
}

/// A Service that waits for its ClusterIP is not there yet.
fn has_names(view: &ServiceView) -> bool {
    matches!(view.spec.kind, ServiceKind::Headless | ServiceKind::ExternalName(_)) || !view.spec.cluster_ips.is_empty()
}

fn ready(view: &ServiceView) -> Vec<&Host> {
    view.hosts.iter().filter(|host| host.ready).collect()
}

fn host_name(view: &ServiceView, host: &Host) -> String {
    let plain: String = host.addr.to_string().chars().map(|c| if c == '.' || c == ':' { '-' } else { c }).collect();
    let padded = if plain.ends_with('-') { plain + "0" } else { plain };
    format!("{}.{}", host.hostname.as_deref().unwrap_or(&padded), base(view))
}

/// One entry per endpoint and port; an endpoint without ports counts and has no record.
fn headless_entries(view: &ServiceView, ready: &[&Host], wanted: Option<&String>) -> Vec<Option<(u16, String)>> {
    let mut entries = Vec::new();
    for host in ready {
        if host.ports.is_empty() && wanted.is_none() {
            entries.push(None);
        }
        let ports = host.ports.iter().filter(|p| wanted.is_none_or(|w| *w == format!("_{}._{}", p.name, p.proto)));
        entries.extend(ports.map(|port| Some((port.port, host_name(view, host)))));
    }
    entries
}

/// One entry per port and address.
fn cluster_entries(view: &ServiceView, wanted: Option<&String>) -> Vec<Option<(u16, String)>> {
    let ports = view.spec.ports.iter().filter(|p| wanted.is_none_or(|w| *w == format!("_{}._{}", p.name, p.proto)));
    let entries = ports.flat_map(|port| view.spec.cluster_ips.iter().map(|_| Some((port.port, base(view)))));
    entries.collect()
}

pub fn reverse_name(addr: IpAddr) -> String {
    match addr {
        IpAddr::V4(v4) => {
            let octets: Vec<String> = v4.octets().iter().rev().map(ToString::to_string).collect();
            format!("{}.in-addr.arpa", octets.join("."))
        }
        IpAddr::V6(v6) => {
            let hex: String = v6.segments().iter().map(|segment| format!("{segment:04x}")).collect();
            let nibbles: Vec<String> = hex.chars().rev().map(String::from).collect();
            format!("{}.ip6.arpa", nibbles.join("."))
        }
    }
}
