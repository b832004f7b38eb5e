//! Records of what is at a name, told one by one into a packet or a reply.

use std::net::IpAddr;
use std::ops::Range;
use std::sync::Arc;

use portolan_model::{Proto, SlicePort};
use smallvec::SmallVec;

use crate::build::{Data, Section, Sink};
use crate::kubernetes::decide::{Decided, Question, Told};
use crate::kubernetes::{View, Zone};
use crate::name::{MAX_LABEL, MAX_NAME, dashed_into};
use crate::rdata::Rtype;
use crate::records::service::{Endpoint, Kind, Service, is_called, is_label};
use crate::wire::Rcode;

/// TTL of the `dns-version` record, whatever the zone's.
pub(crate) const VERSION_TTL_SECS: u32 = 28_800;
/// Version of the specification that we serve.
pub(crate) const SCHEMA_VERSION: &str = "1.1.0";

/// Types in the order in which ANY looks for one.
const TYPES: [Rtype; 8] =
    [Rtype::A, Rtype::NS, Rtype::CNAME, Rtype::SOA, Rtype::PTR, Rtype::TXT, Rtype::AAAA, Rtype::SRV];

/// Which ports of a Service are asked for, by name and transport.
type IsMeant<'a> = &'a dyn Fn(&str, Proto) -> bool;

/// A name put together on the stack.
pub(crate) struct NameBuf {
    bytes: [u8; MAX_NAME],
    len: usize,
}

impl NameBuf {
    /// `None`: it would be longer than a name may be.
    pub(crate) fn of(parts: &[&[u8]]) -> Option<Self> {
        let mut name = Self { bytes: [0; MAX_NAME], len: 0 };
        for part in parts {
            name.bytes.get_mut(name.len..name.len + part.len())?.copy_from_slice(part);
            name.len += part.len();
        }
        Some(name)
    }

    pub(crate) fn wire(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}

/// One label with its length before it.
pub(crate) struct LabelBuf {
    bytes: [u8; MAX_LABEL + 1],
    len: usize,
}

impl LabelBuf {
    pub(crate) fn wire(&self) -> &[u8] {
        &self.bytes[..self.len]
    }

    /// Its text.
    pub(crate) fn text(&self) -> &[u8] {
        &self.bytes[1..self.len]
    }

    fn of_text(text: &str) -> Option<Self> {
        if !is_label(text) {
            return None;
        }
        let mut label = Self { bytes: [0; MAX_LABEL + 1], len: text.len() + 1 };
        label.bytes[0] = text.len() as u8;
        label.bytes[1..=text.len()].copy_from_slice(text.as_bytes());
        Some(label)
    }

    fn of_addr(addr: IpAddr) -> Self {
        let mut text = [0; MAX_LABEL];
        let len = dashed_into(addr, &mut text);
        let mut label = Self { bytes: [0; MAX_LABEL + 1], len: len + 1 };
        label.bytes[0] = len as u8;
        label.bytes[1..=len].copy_from_slice(&text[..len]);
        label
    }
}

impl View {
    /// The label of an endpoint's name; `None` if its hostname is no label.
    pub(crate) fn label(&self, endpoint: &Endpoint) -> Option<LabelBuf> {
        match (&endpoint.hostname, self.pod_label(endpoint)) {
            (Some(hostname), _) => LabelBuf::of_text(hostname),
            (None, Some(pod)) => LabelBuf::of_text(pod),
            (None, None) => Some(LabelBuf::of_addr(endpoint.addr)),
        }
    }
}

impl Zone {
    /// The name of a Service.
    pub(crate) fn base(&self, service: &Service) -> Option<NameBuf> {
        NameBuf::of(&[&service.labels, b"\x03svc", self.name.as_wire()])
    }

    /// The name of an endpoint.
    pub(crate) fn below(&self, label: &LabelBuf, service: &Service) -> Option<NameBuf> {
        NameBuf::of(&[label.wire(), &service.labels, b"\x03svc", self.name.as_wire()])
    }
}

/// Weight of each of `entries` SRV records before equal ones are dropped: their share of 100, at least 1.
pub(crate) fn weight(entries: usize) -> u16 {
    (100 / entries.max(1)).max(1) as u16
}

impl<'r> Question<'r, '_> {
    /// Tells the whole answer, and gives its code.
    pub(crate) fn tell(&self, told: &Told<'r>, turn: Option<u16>, sink: &mut impl Sink) -> Rcode {
        if let Some(rcode) = told.absent {
            self.tell_soa(Section::Authority, sink);
            return rcode;
        }
        let mut owner = self.asked.wire;
        for (_, target) in &told.links {
            let data = Data::Name(Rtype::CNAME, target.as_wire());
            sink.record(Section::Answer, owner, self.ttl(), data);
            owner = target.as_wire();
        }
        self.tell_at(&told.at, owner, turn, sink);
        Rcode::NOERROR
    }

    /// Tells the records of the type asked for; for ANY those of the first type that there is.
    pub(crate) fn tell_at(&self, at: &Decided<'r>, owner: &[u8], turn: Option<u16>, sink: &mut impl Sink) {
        if self.rtype != Rtype::ANY {
            return self.tell_type(at, self.rtype, owner, turn, sink);
        }
        for rtype in TYPES {
            let mut any = super::Any(false);
            self.tell_type(at, rtype, owner, turn, &mut any);
            if any.0 {
                return self.tell_type(at, rtype, owner, turn, sink);
            }
        }
    }

    fn tell_type(&self, at: &Decided<'r>, rtype: Rtype, owner: &[u8], turn: Option<u16>, sink: &mut impl Sink) {
        match at {
            Decided::Apex if rtype == Rtype::SOA => self.tell_soa(Section::Answer, sink),
            Decided::Apex if rtype == Rtype::NS => self.tell_ns(owner, sink),
            Decided::Version if rtype == Rtype::TXT => {
                sink.record(Section::Answer, owner, VERSION_TTL_SECS, Data::Txt(SCHEMA_VERSION));
            }
            Decided::Host => self.tell_host(Section::Answer, owner, Some(rtype), sink),
            Decided::Service(service) => self.tell_service(service, rtype, owner, turn, sink),
            Decided::Port(service, port, transport) if rtype == Rtype::SRV => {
                let is_meant = |name: &str, proto: Proto| is_called(name, proto, port, transport);
                self.tell_srv(service, Some(&is_meant), owner, sink);
            }
            Decided::Endpoints(service, endpoints) => self.tell_endpoints(service, endpoints, rtype, owner, sink),
            Decided::Pod(addr) if rtype == Rtype::of_addr(*addr) => {
                sink.record(Section::Answer, owner, self.ttl(), Data::Addr(*addr));
            }
            Decided::Reverse(addr, services) if rtype == Rtype::PTR => self.tell_ptr(*addr, services, owner, sink),
            _ => {}
        }
    }

    fn ttl(&self) -> u32 {
        self.view.config.ttl_secs
    }

    fn tell_soa(&self, section: Section, sink: &mut impl Sink) {
        let data = Data::Soa(&self.zone.soa, self.records.serial());
        sink.record(section, self.zone.name.as_wire(), self.view.soa_ttl_secs(), data);
    }

    fn tell_ns(&self, owner: &[u8], sink: &mut impl Sink) {
        let servers = self.view.servers(self.records);
        let zone = if self.is_reverse { self.view.primary().unwrap_or(self.zone) } else { self.zone };
        let names: Vec<NameBuf> = servers.iter().filter_map(|server| zone.base(server)).collect();
        for name in &names {
            sink.record(Section::Answer, owner, self.ttl(), Data::Name(Rtype::NS, name.wire()));
        }
        for (server, name) in servers.iter().zip(&names) {
            self.tell_cluster_ips(server, name.wire(), Section::Additional, sink);
        }
        if names.is_empty() {
            let host = self.zone.host.as_wire();
            sink.record(Section::Answer, owner, self.ttl(), Data::Name(Rtype::NS, host));
            self.tell_host(Section::Additional, host, None, sink);
        }
    }

    /// Addresses of the name server: ClusterIPs of the Services in front of us; without any, our own. Of one type, or all.
    fn tell_host(&self, section: Section, owner: &[u8], rtype: Option<Rtype>, sink: &mut impl Sink) {
        let servers = self.view.servers(self.records);
        let mut addresses: Vec<IpAddr> = servers.iter().flat_map(|server| server.cluster_ips()).collect();
        if servers.is_empty() {
            addresses.extend(&self.view.config.own_addresses);
        }
        addresses.sort();
        addresses.dedup();
        for addr in addresses.into_iter().filter(|addr| rtype.is_none_or(|rtype| rtype == Rtype::of_addr(*addr))) {
            sink.record(section, owner, self.ttl(), Data::Addr(addr));
        }
    }

    fn tell_cluster_ips(&self, service: &Service, owner: &[u8], section: Section, sink: &mut impl Sink) {
        for addr in service.cluster_ips() {
            sink.record(section, owner, self.ttl(), Data::Addr(addr));
        }
    }

    fn tell_service(
        &self,
        service: &Arc<Service>,
        rtype: Rtype,
        owner: &[u8],
        turn: Option<u16>,
        sink: &mut impl Sink,
    ) {
        match (&service.kind, rtype) {
            (Kind::Alias(target), Rtype::CNAME) => {
                let data = Data::Name(Rtype::CNAME, target.as_wire());
                sink.record(Section::Answer, owner, self.ttl(), data);
            }
            (Kind::ClusterIp, Rtype::A | Rtype::AAAA) => {
                for addr in service.cluster_ips().filter(|addr| Rtype::of_addr(*addr) == rtype) {
                    sink.record(Section::Answer, owner, self.ttl(), Data::Addr(addr));
                }
            }
            (Kind::Headless, Rtype::A | Rtype::AAAA) => self.tell_headless(service, rtype, owner, turn, sink),
            (Kind::ClusterIp | Kind::Headless, Rtype::SRV) => self.tell_srv(service, None, owner, sink),
            _ => {}
        }
    }

    /// Addresses of ready endpoints of one family, each once, as far as they fit.
    fn tell_headless(&self, service: &Service, rtype: Rtype, owner: &[u8], turn: Option<u16>, sink: &mut impl Sink) {
        let endpoints = &service.endpoints;
        let of_ipv4 = endpoints.count_before(|endpoint| endpoint.addr.is_ipv4());
        let range = if rtype == Rtype::A { 0..of_ipv4 } else { of_ipv4..endpoints.len() };
        let first = start(service, &range, turn);
        let tail = endpoints.iter_from(first).take(range.end - first);
        let head = endpoints.iter_from(range.start).take(first - range.start);
        let mut last = None;
        for endpoint in tail.chain(head) {
            if last.replace(endpoint.addr) == Some(endpoint.addr) {
                continue;
            }
            if !sink.record(Section::Answer, owner, self.ttl(), Data::Addr(endpoint.addr)) {
                return;
            }
        }
    }

    /// SRV of a Service: of the ports that `is_meant`, or of all.
    fn tell_srv(&self, service: &Arc<Service>, is_meant: Option<IsMeant<'_>>, owner: &[u8], sink: &mut impl Sink) {
        match service.kind {
            Kind::ClusterIp => self.tell_cluster_srv(service, is_meant, owner, sink),
            Kind::Headless => {
                let entries = match is_meant {
                    Some(is_meant) => service.entries_of(|port| is_meant(&port.name, port.proto)),
                    None => service.entries(),
                };
                let weight = weight(entries);
                self.tell_endpoint_srv(service, is_meant, weight, owner, sink);
            }
            Kind::Alias(_) | Kind::Nowhere => {}
        }
    }

    /// The Service's own ports, at its own name.
    fn tell_cluster_srv(&self, service: &Service, is_meant: Option<IsMeant<'_>>, owner: &[u8], sink: &mut impl Sink) {
        let Some(base) = self.zone.base(service) else { return };
        let ports = service.spec.ports.iter();
        let ports = ports.filter(|port| is_meant.is_none_or(|is_meant| is_meant(&port.name, port.proto)));
        let numbers: SmallVec<[u16; 8]> = ports.map(|port| port.port).collect();
        let weight = weight(numbers.len() * service.cluster_ips().count());
        for (_, port) in numbers.iter().enumerate().filter(|(place, port)| !numbers[..*place].contains(port)) {
            let data = Data::Srv { weight, port: *port, target: base.wire() };
            sink.record(Section::Answer, owner, self.ttl(), data);
        }
        if !numbers.is_empty() {
            self.tell_cluster_ips(service, base.wire(), Section::Additional, sink);
        }
    }

    /// What endpoints offer, at the names of the endpoints; then the addresses of these names.
    fn tell_endpoint_srv(
        &self,
        service: &Service,
        is_meant: Option<IsMeant<'_>>,
        weight: u16,
        owner: &[u8],
        sink: &mut impl Sink,
    ) {
        let is_meant = |port: &SlicePort| is_meant.is_none_or(|is_meant| is_meant(&port.name, port.proto));
        let names = Names::of(self.view, service);
        for endpoint in service.endpoints.iter() {
            let Some((label, alike)) = names.label(endpoint) else { continue };
            let Some(target) = self.zone.below(&label, service) else { continue };
            for port in fresh_ports(service, endpoint, &alike, &is_meant) {
                let data = Data::Srv { weight, port, target: target.wire() };
                if !sink.record(Section::Answer, owner, self.ttl(), data) {
                    return;
                }
            }
        }
        for endpoint in service.endpoints.iter() {
            let Some((label, alike)) = names.label(endpoint) else { continue };
            let is_first = alike.first().is_none_or(|first| std::ptr::eq(*first, endpoint));
            let is_target = |found: &&Endpoint| service.ports_of(found).iter().any(&is_meant);
            let is_named = if alike.is_empty() { is_target(&endpoint) } else { alike.iter().any(is_target) };
            if !is_first || !is_named {
                continue;
            }
            let Some(target) = self.zone.below(&label, service) else { continue };
            let alone = [endpoint];
            let of_name: &[&Endpoint] = if alike.is_empty() { &alone } else { &alike };
            if !self.tell_addresses(of_name, target.wire(), Section::Additional, None, sink) {
                return;
            }
        }
    }

    /// Records at an endpoint's own name.
    fn tell_endpoints(
        &self,
        service: &Service,
        endpoints: &[&Endpoint],
        rtype: Rtype,
        owner: &[u8],
        sink: &mut impl Sink,
    ) {
        match rtype {
            Rtype::A | Rtype::AAAA => {
                self.tell_addresses(endpoints, owner, Section::Answer, Some(rtype), sink);
            }
            Rtype::SRV => {
                let label = endpoints.first().and_then(|endpoint| self.view.label(endpoint));
                let Some(target) = label.and_then(|label| self.zone.below(&label, service)) else { return };
                let entries = endpoints.iter().map(|endpoint| service.ports_of(endpoint).len().max(1)).sum();
                let weight = weight(entries);
                for endpoint in endpoints {
                    for port in fresh_ports(service, endpoint, endpoints, &|_| true) {
                        let data = Data::Srv { weight, port, target: target.wire() };
                        sink.record(Section::Answer, owner, self.ttl(), data);
                    }
                }
                if endpoints.iter().any(|endpoint| !service.ports_of(endpoint).is_empty()) {
                    self.tell_addresses(endpoints, target.wire(), Section::Additional, None, sink);
                }
            }
            _ => {}
        }
    }

    /// Each address once, of one type or of both; they are in order. `false`: no more fits.
    fn tell_addresses(
        &self,
        endpoints: &[&Endpoint],
        owner: &[u8],
        section: Section,
        rtype: Option<Rtype>,
        sink: &mut impl Sink,
    ) -> bool {
        let mut last = None;
        let of_type = |addr: &IpAddr| rtype.is_none_or(|rtype| rtype == Rtype::of_addr(*addr));
        let mut addresses = endpoints.iter().map(|endpoint| endpoint.addr).filter(of_type);
        addresses
            .all(|addr| last.replace(addr) == Some(addr) || sink.record(section, owner, self.ttl(), Data::Addr(addr)))
    }

    fn tell_ptr(&self, addr: IpAddr, services: &[&Arc<Service>], owner: &[u8], sink: &mut impl Sink) {
        let Some(zone) = self.view.primary() else { return };
        for service in services {
            for name in ptr_names(self.view, zone, service, addr) {
                sink.record(Section::Answer, owner, self.ttl(), Data::Name(Rtype::PTR, name.wire()));
            }
        }
    }
}

/// Names that PTR of `addr` gives for `service`, each once.
pub(crate) fn ptr_names(view: &View, zone: &Zone, service: &Service, addr: IpAddr) -> SmallVec<[NameBuf; 1]> {
    if service.cluster_ips().any(|own| own == addr) {
        return zone.base(service).into_iter().collect();
    }
    let mut names: SmallVec<[NameBuf; 1]> = SmallVec::new();
    for label in service.at(addr).filter_map(|endpoint| view.label(endpoint)) {
        if let Some(name) = zone.below(&label, service)
            && names.iter().all(|known| known.wire() != name.wire())
        {
            names.push(name);
        }
    }
    names
}

/// Where turning starts: never between two endpoints at one address.
fn start(service: &Service, range: &Range<usize>, turn: Option<u16>) -> usize {
    let Some(turn) = turn.filter(|_| range.len() > 1) else { return range.start };
    let mut first = range.start + usize::from(turn) % range.len();
    let addr = |place: usize| service.endpoints.iter_from(place).next().map(|endpoint| endpoint.addr);
    while first > range.start && addr(first) == addr(first - 1) {
        first -= 1;
    }
    first
}

/// Numbers of ports that `endpoint` offers and none before it among those of its name did.
fn fresh_ports(
    service: &Service,
    endpoint: &Endpoint,
    alike: &[&Endpoint],
    is_meant: &dyn Fn(&SlicePort) -> bool,
) -> SmallVec<[u16; 8]> {
    let before = alike.iter().take_while(|other| !std::ptr::eq(**other, endpoint));
    let known = |number: u16| {
        before.clone().any(|other| service.ports_of(other).iter().any(|port| port.port == number && is_meant(port)))
    };
    let mut fresh: SmallVec<[u16; 8]> = SmallVec::new();
    for port in service.ports_of(endpoint).iter().filter(|port| is_meant(port)) {
        if !fresh.contains(&port.port) && !known(port.port) {
            fresh.push(port.port);
        }
    }
    fresh
}

/// Which endpoints of a Service share a name.
struct Names<'r> {
    view: &'r View,
    service: &'r Service,
    /// All names are made of addresses, so no two are alike.
    are_plain: bool,
}

impl<'r> Names<'r> {
    fn of(view: &'r View, service: &'r Service) -> Self {
        let are_plain = !view.config.endpoint_pod_names && !service.has_hostnames();
        Self { view, service, are_plain }
    }

    /// An endpoint's label, and all endpoints that have it, in order; none if no other can.
    fn label(&self, endpoint: &Endpoint) -> Option<(LabelBuf, SmallVec<[&'r Endpoint; 4]>)> {
        let label = self.view.label(endpoint)?;
        let alike = match self.are_plain {
            true => SmallVec::new(),
            false => self.view.endpoints_called(self.service, label.text()),
        };
        Some((label, alike))
    }
}
