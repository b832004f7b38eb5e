//! The zones as a list of names with their records: what is printed, looked through and transferred.
//!
//! Made when it is asked for, slowly and plainly, one object after the other, and apart from the path that answers: tests
//! hold the two against each other.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::net::IpAddr;
use std::ops::Bound;

use portolan_model::{NsName, ObjectRef, Proto, SlicePort};

use crate::kubernetes::decide::{Decided, Question, label_of};
use crate::kubernetes::place::Asked;
use crate::kubernetes::tell::{SCHEMA_VERSION, VERSION_TTL_SECS, weight};
use crate::kubernetes::why::{namespace_ref, pod_ref};
use crate::kubernetes::{View, Zone, has_pods};
use crate::name::{Key, Name, dashed};
use crate::rdata::{Node, Rdata, RecordSet, Rtype};
use crate::records::service::{Endpoint, Kind, Service, is_label};
use crate::records::{Namespace, Records, service_ref};
use crate::zone::PodRecords;

/// All names of a view, in tree order.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Listing {
    nodes: BTreeMap<Key, Node>,
}

/// What is at a name of a view.
#[derive(Clone, Debug, PartialEq)]
pub enum Found {
    /// A name with or without records.
    Node(Node),
    /// A pod record, made of the name itself; the node is its namespace's.
    Pod(IpAddr, Node),
    /// No records, but names below, such as this: an empty non-terminal.
    Below(Node),
    /// No such name.
    Nothing,
}

impl Listing {
    /// Everything that `view` shows of `records`. Pod records are answered, not listed.
    pub fn of(view: &View, records: &Records) -> Self {
        let mut listing = Self::default();
        for zone in &view.forward {
            let lister = Lister { view, records, zone };
            lister.apex(&mut listing);
            records.namespaces().for_each(|namespace| lister.namespace(namespace, &mut listing));
            records.services().for_each(|service| lister.service(service, &mut listing));
        }
        for addr in records.claimed() {
            reverse(view, records, addr).into_iter().for_each(|node| listing.put(node));
        }
        listing
    }

    /// The names, in tree order.
    pub fn nodes(&self) -> impl Iterator<Item = &Node> {
        self.nodes.values()
    }

    /// The name at `key`.
    pub fn node(&self, key: &[u8]) -> Option<&Node> {
        self.nodes.get(key)
    }

    pub(crate) fn put(&mut self, node: Node) {
        self.nodes.insert(node.owner.key(), node);
    }

    pub(crate) fn at(&mut self, owner: &Name, cause: ObjectRef) -> &mut Node {
        let node = self.at_bare(owner);
        node.blame(cause);
        node
    }

    pub(crate) fn at_bare(&mut self, owner: &Name) -> &mut Node {
        self.nodes.entry(owner.key()).or_insert_with(|| Node::bare(owner.clone(), Vec::new()))
    }

    fn take(mut self, name: &Name) -> Option<Node> {
        self.nodes.remove(name.key().as_bytes())
    }
}

impl Records {
    /// Every name of the cluster's own view, in tree order.
    pub fn listing(&self) -> Listing {
        Listing::of(self.view(), self)
    }

    /// What stands at one name, in the lines of a zone file; none for a name that only exists.
    pub fn lines(node: &Node) -> Vec<String> {
        let of_set = |set: &RecordSet| {
            let (ttl_secs, rtype) = (set.ttl_secs, set.rtype);
            let line = move |data: &Rdata| format!("{} {ttl_secs} IN {rtype} {data}", node.owner);
            set.data.iter().map(line).collect::<Vec<_>>()
        };
        node.sets.iter().flat_map(of_set).collect()
    }

    /// Zone file text of the cluster's own view: see [`View::dump`].
    pub fn dump(&self) -> String {
        self.view().dump(self)
    }

    /// `name` is the cluster domain or below it.
    pub fn is_in_zone(&self, name: &Name) -> bool {
        let asked = Asked::new(name.as_wire());
        self.view().forward.iter().any(|zone| zone.left_of(&asked).is_some())
    }

    /// What is at `name` in the cluster's own view.
    pub fn find(&self, name: &Name) -> Found {
        self.view().find(self, name)
    }
}

impl View {
    /// Zone file text, in tree order: `name TTL IN TYPE data ; causes`. Names that hold nothing are comments.
    pub fn dump(&self, records: &Records) -> String {
        let mut out = String::new();
        for zone in &self.forward {
            let (ttl, soa) = self.config().soa(&zone.name, records.serial());
            let _ = writeln!(out, "{} {ttl} IN SOA {soa}", zone.name);
        }
        Listing::of(self, records).nodes().for_each(|node| dump_node(&mut out, node));
        let pods = match self.config().pods {
            PodRecords::Disabled => return out,
            PodRecords::Insecure => "in each namespace that exists",
            PodRecords::Verified => "in the namespace of a pod that has it",
        };
        for zone in &self.forward {
            let name = format!("ADDRESS-WITH-DASHES.NAMESPACE.pod.{}", zone.name);
            let _ = writeln!(out, "; {name} answers its own address, {pods}");
        }
        out
    }

    /// What is at `name`, aliases not followed.
    pub fn find(&self, records: &Records, name: &Name) -> Found {
        let asked = Asked::new(name.as_wire());
        let Some(question) = Question::new(self, records, &asked, Rtype::A) else { return Found::Nothing };
        let lister = Lister { view: self, records, zone: question.zone };
        let mut listing = Listing::default();
        match question.decide() {
            Decided::Service(service) | Decided::Port(service, ..) | Decided::Endpoints(service, _) => {
                lister.service(service, &mut listing);
            }
            Decided::Reverse(addr, _) => return reverse(self, records, addr).map_or(Found::Nothing, Found::Node),
            Decided::Pod(addr) => {
                let node = Node::bare(name.clone(), question.why().causes);
                return Found::Pod(addr, node);
            }
            Decided::Apex | Decided::Version | Decided::Host => lister.apex(&mut listing),
            Decided::Bare(_) => return lister.bare(&question, name),
            Decided::Nothing | Decided::Elsewhere | Decided::Unknown => return Found::Nothing,
        }
        listing.take(name).map_or(Found::Nothing, Found::Node)
    }
}

/// Lists what one object puts into one zone.
struct Lister<'a> {
    view: &'a View,
    records: &'a Records,
    zone: &'a Zone,
}

impl Lister<'_> {
    /// The apex, `svc` and `pod` below it, `dns-version`, and `ns.dns` with the addresses of the Services in front of us;
    /// without any, with our own.
    fn apex(&self, out: &mut Listing) {
        let (zone, ttl_secs) = (&self.zone.name, self.view.config.ttl_secs);
        let mut apex = Node::bare(zone.clone(), Vec::new());
        let mut host = Node::bare(self.zone.host.clone(), Vec::new());
        let servers = self.view.servers(self.records);
        for server in &servers {
            let Some(name) = self.name(server, []) else { continue };
            apex.add(Rtype::NS, ttl_secs, Rdata::Ns(name));
            apex.blame(service_ref(&server.key));
            server.cluster_ips().for_each(|addr| host.add(Rtype::of_addr(addr), ttl_secs, Rdata::addr(addr)));
            host.blame(service_ref(&server.key));
        }
        if servers.is_empty() {
            apex.add(Rtype::NS, ttl_secs, Rdata::Ns(host.owner.clone()));
            let own = &self.view.config.own_addresses;
            own.iter().for_each(|addr| host.add(Rtype::of_addr(*addr), ttl_secs, Rdata::addr(*addr)));
        }
        let bare = ["svc", "pod"].iter().filter_map(|label| zone.child(label)).map(|name| Node::bare(name, Vec::new()));
        let version = zone.child("dns-version").map(|name| {
            let mut node = Node::bare(name, Vec::new());
            node.add(Rtype::TXT, VERSION_TTL_SECS, Rdata::Txt(SCHEMA_VERSION.into()));
            node
        });
        [apex, host].into_iter().chain(bare).chain(version).for_each(|node| out.put(node));
    }

    /// `<ns>.svc` and `<ns>.pod`: there while the namespace is, holding nothing.
    fn namespace(&self, namespace: &Namespace, out: &mut Listing) {
        if !self.view.shows(&label_of(&namespace.name)) {
            return;
        }
        let has_pods = namespace.exists && has_pods(self.view.config.pods);
        let roots: &[&str] = if has_pods { &["svc", "pod"] } else { &["svc"] };
        for name in roots.iter().filter_map(|root| self.zone.name.under([&*namespace.name, root])) {
            out.put(Node::bare(name, vec![namespace_ref(&namespace.name)]));
        }
    }

    fn service(&self, service: &Service, out: &mut Listing) {
        let Some(base) = self.name(service, []).filter(|_| self.view.names(service)) else { return };
        match &service.kind {
            Kind::Alias(target) => self.add(service, &base, Rtype::CNAME, Rdata::Cname(target.clone()), out),
            Kind::ClusterIp => self.cluster_ip(service, &base, out),
            Kind::Headless => self.headless(service, &base, out),
            Kind::Nowhere => {}
        }
        if !self.view.no_endpoints && matches!(service.kind, Kind::ClusterIp | Kind::Headless) {
            self.endpoints(service, out);
        }
    }

    fn cluster_ip(&self, service: &Service, base: &Name, out: &mut Listing) {
        for addr in service.cluster_ips() {
            self.add(service, base, Rtype::of_addr(addr), Rdata::addr(addr), out);
        }
        let families = service.cluster_ips().count();
        let ports = &service.spec.ports;
        for port in ports {
            let srv = |weight| Rdata::Srv { priority: 0, weight, port: port.port, target: base.clone() };
            self.add(service, base, Rtype::SRV, srv(weight(families * ports.len())), out);
            let alike = ports.iter().filter(|other| other.name == port.name && other.proto == port.proto).count();
            if let Some(name) = self.port_name(service, &port.name, port.proto) {
                self.add(service, &name, Rtype::SRV, srv(weight(families * alike)), out);
            }
        }
    }

    fn headless(&self, service: &Service, base: &Name, out: &mut Listing) {
        let of = |endpoint| service.ports_of(endpoint);
        let all = weight(service.endpoints.iter().map(|endpoint| of(endpoint).len().max(1)).sum());
        for endpoint in service.endpoints.iter() {
            self.add(service, base, Rtype::of_addr(endpoint.addr), Rdata::addr(endpoint.addr), out);
            for port in of(endpoint) {
                let entries = service.entries_of(|other| other.name == port.name && other.proto == port.proto);
                let name = self.port_name(service, &port.name, port.proto);
                if let Some(name) = &name {
                    out.at(name, service_ref(&service.key));
                }
                let Some(target) = self.endpoint_name(service, endpoint) else { continue };
                self.add(service, base, Rtype::SRV, srv_to(&target, port, all), out);
                if let Some(name) = name {
                    self.add(service, &name, Rtype::SRV, srv_to(&target, port, weight(entries)), out);
                }
            }
        }
    }

    /// Each endpoint's own name: its addresses, and SRV for what is offered there.
    fn endpoints(&self, service: &Service, out: &mut Listing) {
        let mut named: BTreeMap<Key, (Name, Vec<&Endpoint>)> = BTreeMap::new();
        for endpoint in service.endpoints.iter() {
            let Some(name) = self.endpoint_name(service, endpoint) else { continue };
            named.entry(name.key()).or_insert_with(|| (name, Vec::new())).1.push(endpoint);
        }
        for (name, endpoints) in named.into_values() {
            let weight = weight(endpoints.iter().map(|endpoint| service.ports_of(endpoint).len().max(1)).sum());
            for endpoint in endpoints {
                self.add(service, &name, Rtype::of_addr(endpoint.addr), Rdata::addr(endpoint.addr), out);
                for port in service.ports_of(endpoint) {
                    self.add(service, &name, Rtype::SRV, srv_to(&name, port, weight), out);
                }
                if let Some(pod) = pod_ref(service, endpoint) {
                    out.at(&name, service_ref(&service.key)).blame(pod);
                }
            }
        }
    }

    /// What is at a name that holds nothing: its own node if it is listed, else one below it.
    fn bare(&self, question: &Question<'_, '_>, name: &Name) -> Found {
        let mut listing = Listing::default();
        self.apex(&mut listing);
        let causes = question.why().causes;
        for cause in &causes {
            let label = label_of(&cause.key.name);
            self.records.namespace(&label).into_iter().for_each(|namespace| self.namespace(namespace, &mut listing));
            let labels = crate::records::labels_of([&*cause.key.name, &*cause.key.namespace]);
            let service = labels.and_then(|labels| self.records.service(&labels));
            service.into_iter().for_each(|service| self.service(service, &mut listing));
        }
        if question.is_reverse {
            let own = Key::of(name.as_wire());
            let is_below = |addr: &IpAddr| Name::reverse(*addr).key().as_bytes().starts_with(own.as_bytes());
            let first = self.records.claimed().filter(is_below);
            first.filter_map(|addr| reverse(self.view, self.records, addr)).take(1).for_each(|node| listing.put(node));
        }
        let key = name.key();
        let next = listing.nodes.range::<[u8], _>((Bound::Included(key.as_bytes()), Bound::Unbounded)).next();
        match next {
            Some((found, node)) if *found == key => Found::Node(node.clone()),
            Some((found, node)) if found.as_bytes().starts_with(key.as_bytes()) => Found::Below(node.clone()),
            _ => Found::Node(Node::bare(name.clone(), causes)),
        }
    }

    fn add(&self, service: &Service, name: &Name, rtype: Rtype, data: Rdata, out: &mut Listing) {
        out.at(name, service_ref(&service.key)).add(rtype, self.view.config.ttl_secs, data);
    }

    /// A name of a Service, or below it.
    fn name<const N: usize>(&self, service: &Service, labels: [&str; N]) -> Option<Name> {
        let NsName { namespace, name } = &service.key;
        self.zone.name.under([&**name, &**namespace, "svc"])?.under(labels)
    }

    fn endpoint_name(&self, service: &Service, endpoint: &Endpoint) -> Option<Name> {
        let pod = endpoint.pod.as_deref().filter(|pod| self.view.config.endpoint_pod_names && is_label(pod));
        let label = match (&endpoint.hostname, pod) {
            (Some(hostname), _) => hostname.to_string(),
            (None, Some(pod)) => pod.to_owned(),
            (None, None) => dashed(endpoint.addr),
        };
        self.name(service, [&label])
    }

    /// `_http._tcp.<service>`; ports without a name have none.
    fn port_name(&self, service: &Service, port: &str, proto: Proto) -> Option<Name> {
        let labels = [&*format!("_{port}"), &*format!("_{proto}")];
        (!port.is_empty()).then(|| self.name(service, labels))?
    }
}

fn srv_to(target: &Name, port: &SlicePort, weight: u16) -> Rdata {
    Rdata::Srv { priority: 0, weight, port: port.port, target: target.clone() }
}

/// The PTR name of `addr`, if it is in a zone of the view and anybody shown has it.
fn reverse(view: &View, records: &Records, addr: IpAddr) -> Option<Node> {
    let owner = Name::reverse(addr);
    let asked = Asked::new(owner.as_wire());
    view.reverse.iter().find(|zone| zone.left_of(&asked).is_some())?;
    let primary = view.primary()?;
    let lister = Lister { view, records, zone: primary };
    let mut node = Node::bare(owner, Vec::new());
    for service in view.ptr_services(records, addr) {
        if service.cluster_ips().any(|own| own == addr) {
            lister.name(service, []).into_iter().for_each(|name| ptr_to(view, &mut node, name));
        } else {
            let names = service.at(addr).filter_map(|endpoint| lister.endpoint_name(service, endpoint));
            names.for_each(|name| ptr_to(view, &mut node, name));
        }
        node.blame(service_ref(&service.key));
    }
    (!node.causes.is_empty()).then_some(node)
}

fn ptr_to(view: &View, node: &mut Node, name: Name) {
    node.add(Rtype::PTR, view.config.ttl_secs, Rdata::Ptr(name));
}

pub(crate) fn dump_node(out: &mut String, node: &Node) {
    let causes: Vec<String> = node.causes.iter().map(ToString::to_string).collect();
    let comment = match causes.is_empty() {
        true => String::new(),
        false => format!(" ; {}", causes.join(", ")),
    };
    if node.sets.is_empty() {
        let _ = writeln!(out, "; {} exists{comment}", node.owner);
    }
    for line in Records::lines(node) {
        let _ = writeln!(out, "{line}{comment}");
    }
}
