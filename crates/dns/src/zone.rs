//! What one Service, one namespace and the apex put into the zones: names with their records.
//!
//! ```text
//!  ServiceView ──► service_records ──► names under <svc>.<ns>.svc.<zone>, and claims on addresses (for PTR)
//! ```
//!
//! Each function looks at one object only, so an update's cost is that of the object. Joining claims of several Services
//! on one address is `records`' work.
//!
//! Spec: Kubernetes DNS-Based Service Discovery 1.1.0; where it is silent, what clusters rely on (SRV at the plain
//! Service name, weights, names of endpoints under every kind of Service).

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::IpNet;
use portolan_model::{
    Complaint, Host, NsName, ObjectKind, ObjectRef, Service, ServiceKind, ServiceView, Settings, SlicePort, Text,
};

use crate::name::{Key, Name, NameError, dashed};
use crate::rdata::{Node, Rdata, Rtype, Soa};

/// TTL of the `dns-version` record, whatever the zone's.
const VERSION_TTL_SECS: u32 = 28_800;
/// Version of the specification that we serve.
const SCHEMA_VERSION: &str = "1.1.0";
/// Longest TTL of the SOA itself.
const SOA_TTL_SECS: u32 = 300;

/// How `<dashed-ip>.<ns>.pod.<zone>` is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PodRecords {
    /// NXDOMAIN.
    Disabled,
    /// The address in the name, if the namespace exists. kubeadm's choice and ours.
    Insecure,
}

/// What an operator sets for the zones; fixed while they are served.
#[derive(Clone, Debug, PartialEq)]
pub struct ZoneConfig {
    /// The cluster domain.
    pub zone: Name,
    /// TTL of records and, as SOA minimum, of absence; 0 to 3600 s.
    pub ttl_secs: u32,
    /// Pod records.
    pub pods: PodRecords,
    /// Name endpoints without a hostname after their pod instead of their address.
    pub endpoint_pod_names: bool,
    /// Addresses at which this DNS answers: the Service with one of them as ClusterIP or ready endpoint is the zone's NS.
    pub own_addresses: Vec<IpAddr>,
    /// Pod and Service ranges: before all is read, PTR of an address in them is not left to an upstream.
    pub own_ranges: Vec<IpNet>,
}

impl ZoneConfig {
    /// The shipped configuration for a node: TTL 30, `pods insecure`.
    pub fn from_settings(settings: &Settings) -> Result<Self, NameError> {
        Ok(Self {
            zone: Name::parse(&settings.cluster_domain)?,
            ttl_secs: 30,
            pods: PodRecords::Insecure,
            endpoint_pod_names: false,
            own_addresses: settings.cluster_dns.clone(),
            own_ranges: settings.cluster_cidrs.iter().chain(&settings.service_cidrs).copied().collect(),
        })
    }

    /// SOA of `zone`, ours or a reverse one, and the TTL to send it with.
    pub fn soa(&self, zone: &Name, serial: u32) -> (u32, Rdata) {
        let named = |labels: &[&str]| labels.iter().rev().try_fold(zone.clone(), |name, label| name.child(label));
        let soa = Soa {
            mname: named(&["ns", "dns"]).unwrap_or_else(|| zone.clone()),
            rname: named(&["hostmaster"]).unwrap_or_else(|| zone.clone()),
            serial,
            refresh_secs: 7200,
            retry_secs: 1800,
            expire_secs: 86_400,
            minimum_secs: self.ttl_secs,
        };
        (self.ttl_secs.min(SOA_TTL_SECS), Rdata::Soa(soa))
    }
}

/// A Service's wish to be the answer to PTR of an address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Claim {
    /// The address is its ClusterIP, which wins over endpoints.
    pub cluster_ip: bool,
    /// Names to answer, sorted.
    pub targets: Vec<Name>,
}

/// All that one Service puts into the zones.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct ServiceRecords {
    pub names: BTreeMap<Key, Node>,
    pub claims: BTreeMap<IpAddr, Claim>,
    pub complaints: Vec<Complaint>,
    /// Its ClusterIPs if we answer at one of its addresses: it is the zone's NS then. Else empty.
    pub server_ips: Vec<IpAddr>,
}

/// The records of one Service.
pub(crate) fn service_records(config: &ZoneConfig, view: &ServiceView) -> ServiceRecords {
    let mut writer = Writer { config, view, out: ServiceRecords::default() };
    let Some(base) = config.zone.under([&*view.key.name, &*view.key.namespace, "svc"]) else {
        writer.complain("InvalidName", "its name and namespace make no domain name; rename it".into());
        return writer.out;
    };
    match &view.spec.kind {
        ServiceKind::ExternalName(target) => writer.external(&base, target),
        ServiceKind::Headless => writer.headless(&base),
        ServiceKind::ClusterIp | ServiceKind::NodePort | ServiceKind::LoadBalancer => writer.cluster_ip(&base),
    }
    if is_server(config, view) {
        writer.out.server_ips = view.spec.cluster_ips.clone();
    }
    writer.out
}

struct Writer<'a> {
    config: &'a ZoneConfig,
    view: &'a ServiceView,
    out: ServiceRecords,
}

impl Writer<'_> {
    /// A name that is an IP literal is no alias, and no name either: the Service has no records then.
    fn external(&mut self, base: &Name, target: &Text) {
        if target.trim_end_matches('.').parse::<IpAddr>().is_ok() {
            return self.complain(
                "ExternalNameIsAddress",
                format!("{target} is an address, not a name: no CNAME; use endpoints"),
            );
        }
        match Name::parse(target) {
            Ok(name) => self.add(base, Rtype::CNAME, Rdata::Cname(name)),
            Err(error) => self.complain("InvalidExternalName", error.to_string()),
        }
    }

    fn cluster_ip(&mut self, base: &Name) {
        let spec: &Service = &self.view.spec;
        for addr in &spec.cluster_ips {
            self.add(base, Rtype::of_addr(*addr), Rdata::addr(*addr));
            self.claim(*addr, base.clone(), true);
        }
        if spec.cluster_ips.is_empty() {
            return;
        }
        let families = spec.cluster_ips.len();
        for port in &spec.ports {
            let srv = |weight| Rdata::Srv { priority: 0, weight, port: port.port, target: base.clone() };
            self.add(base, Rtype::SRV, srv(weight(families * spec.ports.len())));
            if let Some(name) = port_name(base, &port.name, port.proto.lower()) {
                let alike = spec.ports.iter().filter(|p| p.name == port.name && p.proto == port.proto).count();
                self.add(&name, Rtype::SRV, srv(weight(families * alike)));
            }
        }
        for host in self.view.hosts.iter().filter(|host| host.ready) {
            self.endpoint(base, host);
        }
    }

    fn headless(&mut self, base: &Name) {
        let ready: Vec<&Host> = self.view.hosts.iter().filter(|host| host.ready).collect();
        let all = weight(ready.iter().map(|host| host.ports.len().max(1)).sum());
        for host in &ready {
            self.add(base, Rtype::of_addr(host.addr), Rdata::addr(host.addr));
            let Some(target) = self.endpoint(base, host) else { continue };
            for port in host.ports.iter() {
                self.add(base, Rtype::SRV, srv_to(&target, port, all));
                let Some(name) = port_name(base, &port.name, port.proto.lower()) else { continue };
                self.add(&name, Rtype::SRV, srv_to(&target, port, weight(entries(&ready, port))));
            }
        }
    }

    /// The endpoint's own name, its addresses, and SRV for what it offers; the name is `None` if the endpoint's hostname
    /// is no label.
    fn endpoint(&mut self, base: &Name, host: &Host) -> Option<Name> {
        let label = self.endpoint_label(host);
        let Some(name) = base.child(&label) else {
            self.complain(
                "InvalidHostname",
                format!("endpoint {} has hostname \"{label}\", which is no label", host.addr),
            );
            return None;
        };
        self.add(&name, Rtype::of_addr(host.addr), Rdata::addr(host.addr));
        for port in host.ports.iter() {
            self.add(&name, Rtype::SRV, srv_to(&name, port, weight(host.ports.len())));
        }
        if let (Some(pod), Some(node)) = (&host.pod, self.out.names.get_mut(&name.key())) {
            node.blame(ObjectRef { kind: ObjectKind::Pod, key: pod.clone() });
        }
        self.claim(host.addr, name.clone(), false);
        Some(name)
    }

    fn endpoint_label(&self, host: &Host) -> String {
        let pod = host.pod.as_ref().filter(|pod| self.config.endpoint_pod_names && pod.name.len() < 64);
        match (&host.hostname, pod) {
            (Some(hostname), _) if !hostname.is_empty() => hostname.to_string(),
            (_, Some(pod)) => pod.name.to_string(),
            (_, None) => dashed(host.addr),
        }
    }

    fn add(&mut self, name: &Name, rtype: Rtype, data: Rdata) {
        let cause = service_ref(&self.view.key);
        let node = self.out.names.entry(name.key()).or_insert_with(|| Node::bare(name.clone(), vec![cause]));
        node.add(rtype, self.config.ttl_secs, data);
    }

    fn claim(&mut self, addr: IpAddr, target: Name, cluster_ip: bool) {
        let claim = self.out.claims.entry(addr).or_insert(Claim { cluster_ip, targets: Vec::new() });
        if claim.cluster_ip == cluster_ip
            && let Err(place) = claim.targets.binary_search(&target)
        {
            claim.targets.insert(place, target);
        }
    }

    fn complain(&mut self, reason: &str, message: String) {
        let object = service_ref(&self.view.key);
        self.out.complaints.push(Complaint { object, reason: reason.into(), message });
    }
}

/// Weight of each of `entries` SRV records before equal ones are dropped: their share of 100, at least 1.
fn weight(entries: usize) -> u16 {
    (100 / entries.max(1)).max(1) as u16
}

/// Endpoints that offer a port of this name and transport, port by port.
fn entries(hosts: &[&Host], port: &SlicePort) -> usize {
    let ports = hosts.iter().flat_map(|host| host.ports.iter());
    ports.filter(|p| p.name == port.name && p.proto == port.proto).count()
}

fn srv_to(target: &Name, port: &SlicePort, weight: u16) -> Rdata {
    Rdata::Srv { priority: 0, weight, port: port.port, target: target.clone() }
}

/// `_http._tcp.<base>`; ports without a name have none.
fn port_name(base: &Name, port: &str, proto: &str) -> Option<Name> {
    (!port.is_empty()).then(|| base.under([&*format!("_{port}"), &*format!("_{proto}")]))?
}

fn is_server(config: &ZoneConfig, view: &ServiceView) -> bool {
    let own = |addr: &IpAddr| config.own_addresses.contains(addr);
    let endpoints = view.hosts.iter().filter(|host| host.ready).map(|host| &host.addr);
    !view.spec.cluster_ips.is_empty() && view.spec.cluster_ips.iter().chain(endpoints).any(own)
}

/// `<ns>.svc.<zone>` and `<ns>.pod.<zone>`: there while the namespace is, holding nothing.
pub(crate) fn namespace_nodes(config: &ZoneConfig, namespace: &str) -> Vec<Node> {
    let cause = ObjectRef { kind: ObjectKind::Namespace, key: NsName::new("", namespace) };
    let roots: &[&str] = match config.pods {
        PodRecords::Disabled => &["svc"],
        PodRecords::Insecure => &["svc", "pod"],
    };
    let names = roots.iter().filter_map(|root| config.zone.under([namespace, root]));
    names.map(|name| Node::bare(name, vec![cause.clone()])).collect()
}

/// The apex, `svc` and `pod` below it, `dns-version`, and `ns.dns` with the addresses of `servers`, the Services in front
/// of us; without any, with our own.
pub(crate) fn apex_nodes(config: &ZoneConfig, servers: &[(NsName, Vec<IpAddr>)]) -> Vec<Node> {
    let zone = &config.zone;
    let mut apex = Node::bare(zone.clone(), Vec::new());
    let mut host = zone.under(["ns", "dns"]).map(|name| Node::bare(name, Vec::new()));
    for (service, addresses) in servers {
        let Some(name) = zone.under([&*service.name, &*service.namespace, "svc"]) else { continue };
        apex.add(Rtype::NS, config.ttl_secs, Rdata::Ns(name));
        apex.blame(service_ref(service));
        if let Some(host) = &mut host {
            add_addresses(host, config.ttl_secs, addresses);
            host.blame(service_ref(service));
        }
    }
    if let (true, Some(host)) = (servers.is_empty(), &mut host) {
        apex.add(Rtype::NS, config.ttl_secs, Rdata::Ns(host.owner.clone()));
        add_addresses(host, config.ttl_secs, &config.own_addresses);
    }
    let bare = ["svc", "pod"].iter().filter_map(|label| zone.child(label)).map(|name| Node::bare(name, Vec::new()));
    let version = zone.child("dns-version").map(|name| {
        let mut node = Node::bare(name, Vec::new());
        node.add(Rtype::TXT, VERSION_TTL_SECS, Rdata::Txt(SCHEMA_VERSION.into()));
        node
    });
    [apex].into_iter().chain(host).chain(bare).chain(version).collect()
}

fn add_addresses(node: &mut Node, ttl_secs: u32, addresses: &[IpAddr]) {
    for addr in addresses {
        node.add(Rtype::of_addr(*addr), ttl_secs, Rdata::addr(*addr));
    }
}

pub(crate) fn service_ref(key: &NsName) -> ObjectRef {
    ObjectRef { kind: ObjectKind::Service, key: key.clone() }
}
