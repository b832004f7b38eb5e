//! The slow, obvious way to answer: one flat list of records made from the whole snapshot, read through for each question.
//! Shares nothing with the rooms it judges but the snapshot.

use std::collections::BTreeSet;
use std::net::IpAddr;

use portolan_model::{Host, ServiceKind, ServiceView, Snapshot};

use crate::corefile::config::PodMode;

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
    modes: Modes,
    /// Addresses of Pods, with their namespaces.
    pods: Vec<(IpAddr, String)>,
    /// Owner, type, data; names without the final dot.
    pub records: Vec<(String, &'static str, String)>,
    /// Names that exist although they hold nothing.
    pub bare: Vec<String>,
}

/// What a `kubernetes` block may say.
#[derive(Clone, Debug)]
pub struct Modes {
    /// Empty: all.
    pub namespaces: Vec<&'static str>,
    pub pods: PodMode,
    pub pod_names: bool,
    pub no_endpoints: bool,
    pub ignore_empty: bool,
}

impl Default for Modes {
    fn default() -> Self {
        let (pods, namespaces) = (PodMode::Insecure, Vec::new());
        Self { namespaces, pods, pod_names: false, no_endpoints: false, ignore_empty: false }
    }
}

impl Modes {
    fn shows(&self, namespace: &str) -> bool {
        self.namespaces.is_empty() || self.namespaces.contains(&namespace)
    }
}

pub fn flat(snapshot: &Snapshot, modes: &Modes) -> Flat {
    let mut flat = Flat { modes: modes.clone(), ..Flat::default() };
    let pods = snapshot.pods.iter().filter(|(key, pod)| modes.shows(&key.namespace) && !pod.finished);
    flat.pods = pods.flat_map(|(key, pod)| pod.addresses.iter().map(|a| (*a, key.namespace.to_string()))).collect();
    flat.put(&format!("dns-version.{ZONE}"), "TXT", "\"1.1.0\"".into());
    flat.bare.extend([ZONE.to_string(), format!("svc.{ZONE}"), format!("pod.{ZONE}")]);
    for namespace in snapshot.namespaces.iter().filter(|name| modes.shows(name)) {
        flat.bare.push(format!("{namespace}.svc.{ZONE}"));
        if modes.pods != PodMode::Disabled {
            flat.bare.push(format!("{namespace}.pod.{ZONE}"));
        }
    }
    // A Service is in a namespace, whether or not that was told yet.
    let used = snapshot.services.keys().map(|key| &key.namespace).filter(|name| modes.shows(name));
    flat.bare.extend(used.map(|namespace| format!("{namespace}.svc.{ZONE}")));
    let views: Vec<ServiceView> = snapshot.services.values().filter_map(|view| seen(view, modes)).collect();
    let views: Vec<&ServiceView> = views.iter().collect();
    for view in &views {
        if !(modes.ignore_empty && ready(view).is_empty() && !view.spec.cluster_ips.is_empty()) {
            flat.service(view);
        }
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
        let names: BTreeSet<String> = ready.iter().map(|host| self.host_name(view, host)).collect();
        for name in names {
            let hosts: Vec<&Host> = ready.iter().copied().filter(|host| self.host_name(view, host) == name).collect();
            hosts.iter().for_each(|host| self.address(&name, host.addr));
            self.srv(&name, self.headless_entries(view, &hosts, None));
        }
        let mut ports: BTreeSet<String> = view.spec.ports.iter().map(|p| format!("_{}._{}", p.name, p.proto)).collect();
        match view.spec.kind {
            ServiceKind::Headless => {
                ready.iter().for_each(|host| self.address(&base, host.addr));
                ports.extend(ready.iter().flat_map(|h| h.ports.iter()).map(|p| format!("_{}._{}", p.name, p.proto)));
                self.srv(&base, self.headless_entries(view, &ready, None));
                for port in ports.iter().filter(|port| !port.starts_with("_.")) {
                    self.srv(&format!("{port}.{base}"), self.headless_entries(view, &ready, Some(port)));
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
                self.put(&reverse_name(host.addr), "PTR", self.host_name(view, host));
            }
        }
    }

    fn name_server(&mut self, views: &[&ServiceView]) {
        let own: IpAddr = "10.96.0.10".parse().expect("an address");
        let is_server = |view: &&&ServiceView| {
            let at_own = view.spec.cluster_ips.contains(&own) || ready(view).iter().any(|host| host.addr == own);
            at_own && !view.spec.cluster_ips.is_empty()
        };
        let is_hidden = |view: &&&ServiceView| self.modes.ignore_empty && ready(view).is_empty();
        let servers: Vec<&&ServiceView> = views.iter().filter(is_server).filter(|view| !is_hidden(view)).collect();
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
        let namespace = rest.strip_suffix(&format!(".pod.{ZONE}"))?;
        let addr = label.replace('-', ".").parse().or_else(|_| label.replace('-', ":").parse()).ok()?;
        let is_there = match self.modes.pods {
            PodMode::Disabled => false,
            PodMode::Insecure => self.bare.iter().any(|bare| bare == rest),
            PodMode::Verified => self.pods.contains(&(addr, namespace.to_owned())),
        };
        is_there.then_some(addr)
    }

    fn host_name(&self, view: &ServiceView, host: &Host) -> String {
        let plain: String = host.addr.to_string().chars().map(|c| if c == '.' || c == ':' { '-' } else { c }).collect();
        let padded = if plain.ends_with('-') { plain + "0" } else { plain };
        let pod = host.pod.as_ref().filter(|_| self.modes.pod_names).map(|pod| pod.name.to_string());
        format!("{}.{}", host.hostname.as_deref().unwrap_or(pod.as_ref().unwrap_or(&padded)), base(view))
    }

    /// One entry per endpoint and port; an endpoint without ports counts and has no record.
    fn headless_entries(
        &self,
        view: &ServiceView,
        ready: &[&Host],
        wanted: Option<&String>,
    ) -> Vec<Option<(u16, String)>> {
        let mut entries = Vec::new();
        for host in ready {
            if host.ports.is_empty() && wanted.is_none() {
                entries.push(None);
            }
            let ports = host.ports.iter().filter(|p| wanted.is_none_or(|w| *w == format!("_{}._{}", p.name, p.proto)));
            entries.extend(ports.map(|port| Some((port.port, self.host_name(view, host)))));
        }
        entries
    }
}

/// A Service as the modes show it. One that waits for its ClusterIP is not there yet.
fn seen(view: &ServiceView, modes: &Modes) -> Option<ServiceView> {
    let has_address = !view.spec.cluster_ips.is_empty();
    let is_there = matches!(view.spec.kind, ServiceKind::Headless | ServiceKind::ExternalName(_)) || has_address;
    let mut view = view.clone();
    if modes.no_endpoints {
        view.hosts.clear();
    }
    (is_there && modes.shows(&view.key.namespace)).then_some(view)
}

fn base(view: &ServiceView) -> String {
    format!("{}.{}.svc.{ZONE}", view.key.name, view.key.namespace)
}

fn ready(view: &ServiceView) -> Vec<&Host> {
    view.hosts.iter().filter(|host| host.ready).collect()
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
