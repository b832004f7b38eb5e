//! The `k8s_external` plugin: Services by their addresses outside, in zones of their own.
//!
//! ```text
//!  web.default.example.org         externalIPs, balancer addresses; with `headless`, endpoints of headless Services
//!  _http._tcp.web.default.…        SRV to that name
//!  p-0.peers.default.…             with `headless`, one endpoint
//!  ns1.dns.example.org             this server
//!  3.100.51.198.in-addr.arpa       PTR, in zones of addresses that are listed
//! ```
//!
//! Knows nothing of the cluster's own zones; [`Records`] are the same for both.
//!
//! Spec: the plugin's page in CoreDNS's documentation, in our words.

use std::fmt::Write;
use std::net::IpAddr;
use std::sync::Arc;

use portolan_model::SlicePort;
use smallvec::SmallVec;

use crate::build::{Data, Reply, Section, Sink};
use crate::corefile::config::ExternalConfig;
use crate::kubernetes::listing::{Listing, dump_node};
use crate::kubernetes::place::Asked;
use crate::kubernetes::tell::{NameBuf, weight};
use crate::kubernetes::{Falls, Zone, is_reverse};
use crate::name::{Name, dashed};
use crate::plugin::Said;
use crate::rdata::{Node, Rdata, Rtype, Soa};
use crate::records::service::{Endpoint, Kind, Service, is_called, is_label};
use crate::records::{Records, service_ref};
use crate::wire::{Query, Rcode};

/// A cluster's outside, as zones. Made once per configuration.
#[derive(Clone, Debug)]
pub struct External {
    forward: Vec<Zone>,
    reverse: Vec<Zone>,
    /// The label that the name server stands below.
    apex: Arc<str>,
    ttl_secs: u32,
    headless: bool,
    fallthrough: Falls,
    /// Addresses of this server, for its name.
    own_addresses: Vec<IpAddr>,
}

/// What is at a name.
enum There<'r> {
    Apex,
    /// `ns1.<apex>`.
    Host,
    /// A name without records.
    Bare,
    Service(&'r Arc<Service>),
    Port(&'r Arc<Service>, SmallVec<[u8; 16]>, SmallVec<[u8; 8]>),
    Endpoints(SmallVec<[&'r Endpoint; 4]>),
    Reverse(SmallVec<[&'r Arc<Service>; 1]>),
    Nothing,
}

struct Question<'r, 'q> {
    external: &'r External,
    records: &'r Records,
    zone: &'r Zone,
    query: &'q Query<'q>,
    turn: Option<u16>,
}

impl External {
    /// What a `k8s_external` block asks for. `own_addresses` are those of this server.
    pub fn new(config: &ExternalConfig, own_addresses: &[IpAddr]) -> Self {
        let (server, mailbox) = (format!("ns1.{}", config.apex), format!("hostmaster.{}", config.apex));
        let zones = |reverse: bool| {
            let of_kind = config.zones.iter().filter(move |zone| is_reverse(zone) == reverse);
            Zone::longest_first(of_kind, &server, &mailbox, config.ttl_secs)
        };
        Self {
            forward: zones(false),
            reverse: zones(true),
            apex: config.apex.as_str().into(),
            ttl_secs: config.ttl_secs,
            headless: config.headless,
            fallthrough: Falls::of(&config.fallthrough),
            own_addresses: own_addresses.to_vec(),
        }
    }

    /// Its zones, those of names first.
    pub fn zones(&self) -> impl Iterator<Item = &Name> {
        self.forward.iter().chain(&self.reverse).map(|zone| &zone.name)
    }

    /// SOA of one of its zones, and its TTL.
    pub fn soa(&self, zone: &Name, serial: u32) -> Option<(u32, Rdata)> {
        let zone = self.forward.iter().chain(&self.reverse).find(|own| own.name == *zone)?;
        Some((self.ttl_secs, Rdata::Soa(Soa { serial, ..zone.soa.clone() })))
    }

    /// As [`crate::kubernetes::View::say`].
    pub fn say<'s>(&self, records: &Records, query: &Query<'_>, turn: Option<u16>) -> Said<'s> {
        let asked = Asked::new(query.name);
        let find = |zones: &'_ [Zone]| zones.iter().position(|zone| zone.left_of(&asked).is_some());
        let (zone, is_reverse) = match (find(&self.forward), find(&self.reverse)) {
            (Some(zone), _) => (&self.forward[zone], false),
            (None, Some(zone)) => (&self.reverse[zone], true),
            (None, None) => return Said::Next,
        };
        let question = Question { external: self, records, zone, query, turn };
        let there = match is_reverse {
            true => question.reverse(&asked),
            false => question.forward(&asked).unwrap_or(There::Nothing),
        };
        question.said(&there, &asked)
    }

    /// Every name, as [`crate::kubernetes::View`]'s listing.
    pub fn listing(&self, records: &Records) -> Listing {
        let mut listing = Listing::default();
        for zone in &self.forward {
            let mut apex = Node::bare(zone.name.clone(), Vec::new());
            apex.add(Rtype::NS, self.ttl_secs, Rdata::Ns(zone.host.clone()));
            let mut host = Node::bare(zone.host.clone(), Vec::new());
            for addr in &self.own_addresses {
                host.add(Rtype::of_addr(*addr), self.ttl_secs, Rdata::addr(*addr));
            }
            [apex, host].into_iter().for_each(|node| listing.put(node));
            records.services().for_each(|service| self.list(zone, service, &mut listing));
        }
        for (addr, services) in records.outside() {
            let owner = Name::reverse(addr);
            let asked = Asked::new(owner.as_wire());
            let is_ours = self.reverse.iter().any(|zone| zone.left_of(&asked).is_some());
            for name in services.filter_map(|service| self.name(service)).filter(|_| is_ours) {
                listing.at_bare(&owner).add(Rtype::PTR, self.ttl_secs, Rdata::Ptr(name));
            }
        }
        listing
    }

    /// Zone file text, as [`crate::kubernetes::View::dump`] writes it.
    pub fn dump(&self, records: &Records) -> String {
        let mut out = String::new();
        for zone in self.forward.iter().chain(&self.reverse) {
            let soa = Rdata::Soa(Soa { serial: records.serial(), ..zone.soa.clone() });
            let _ = writeln!(out, "{} {} IN SOA {soa}", zone.name, self.ttl_secs);
        }
        self.listing(records).nodes().for_each(|node| dump_node(&mut out, node));
        out
    }

    fn list(&self, zone: &Zone, service: &Service, out: &mut Listing) {
        let Some(base) = service_name(service, &zone.name, []).filter(|_| self.shows(service)) else { return };
        for addr in self.addresses(service) {
            out.at(&base, service_ref(&service.key)).add(Rtype::of_addr(addr), self.ttl_secs, Rdata::addr(addr));
        }
        let all = self.ports(service, |_| true);
        let srv =
            |port: u16, entries: usize| Rdata::Srv { priority: 0, weight: weight(entries), port, target: base.clone() };
        for (name, proto, port) in &all {
            out.at(&base, service_ref(&service.key)).add(Rtype::SRV, self.ttl_secs, srv(*port, all.len()));
            let labels = [&*format!("_{name}"), &*format!("_{proto}")];
            if let Some(owner) = service_name(service, &zone.name, labels).filter(|_| !name.is_empty()) {
                let alike = all.iter().filter(|(other, of, _)| (other, of) == (name, proto)).count();
                out.at(&owner, service_ref(&service.key)).add(Rtype::SRV, self.ttl_secs, srv(*port, alike));
            }
        }
        if service.kind == Kind::Headless {
            for endpoint in service.endpoints.iter() {
                let label = endpoint.hostname.as_deref().map_or_else(|| dashed(endpoint.addr), str::to_owned);
                let Some(owner) = service_name(service, &zone.name, [&label]) else { continue };
                let data = Rdata::addr(endpoint.addr);
                out.at(&owner, service_ref(&service.key)).add(Rtype::of_addr(endpoint.addr), self.ttl_secs, data);
            }
        }
    }

    /// `service` has a name outside.
    fn shows(&self, service: &Service) -> bool {
        match service.kind {
            Kind::ClusterIp => service.outside().next().is_some(),
            Kind::Headless => self.headless && !service.endpoints.is_empty(),
            Kind::Alias(_) | Kind::Nowhere => false,
        }
    }

    /// Its addresses outside, each once, in order.
    fn addresses(&self, service: &Service) -> Vec<IpAddr> {
        let mut all: Vec<IpAddr> = match service.kind {
            Kind::Headless => service.endpoints.iter().map(|endpoint| endpoint.addr).collect(),
            _ => service.outside().collect(),
        };
        all.sort();
        all.dedup();
        all
    }

    /// Its ports that are meant: name, transport, number; for a headless Service those that endpoints offer.
    fn ports(&self, service: &Service, is_meant: impl Fn(&SlicePort) -> bool) -> Vec<(String, &'static str, u16)> {
        let row = |port: &SlicePort| is_meant(port).then(|| (port.name.to_string(), port.proto.lower(), port.port));
        let mut all: Vec<_> = match service.kind {
            Kind::Headless => {
                service.endpoints.iter().flat_map(|found| service.ports_of(found)).filter_map(row).collect()
            }
            _ => {
                let ports = service.spec.ports.iter();
                let ports = ports.map(|p| SlicePort { name: p.name.clone(), proto: p.proto, port: p.port });
                ports.filter_map(|port| row(&port)).collect()
            }
        };
        all.sort();
        all.dedup();
        all
    }

    /// The Service's name in the first zone of names: what PTR points to.
    fn name(&self, service: &Service) -> Option<Name> {
        service_name(service, &self.forward.first()?.name, [])
    }
}

impl<'r> Question<'r, '_> {
    fn forward(&self, asked: &Asked<'_>) -> Option<There<'r>> {
        let labels: SmallVec<[&[u8]; 4]> = asked.texts(self.zone.left_of(asked)?).collect();
        match &labels[..] {
            [] => Some(There::Apex),
            [apex] if *apex == self.external.apex.as_bytes() => Some(There::Bare),
            [b"ns1", apex] if *apex == self.external.apex.as_bytes() => Some(There::Host),
            [_] => self.records.namespace(asked.span(0, 1)).map(|_| There::Bare),
            [_, _] => self.service(asked.span(0, 2)).map(There::Service),
            [text, _, _] => self.below(self.service(asked.span(1, 3))?, text),
            [[b'_', port @ ..], [b'_', transport @ ..], _, _] => {
                let service = self.service(asked.span(2, 4))?;
                let ports = self.external.ports(service, |found| is_called(&found.name, found.proto, port, transport));
                let there = There::Port(service, SmallVec::from_slice(port), SmallVec::from_slice(transport));
                (!ports.is_empty()).then_some(there)
            }
            _ => None,
        }
    }

    fn service(&self, labels: &[u8]) -> Option<&'r Arc<Service>> {
        self.records.service(labels).filter(|service| self.external.shows(service))
    }

    fn below(&self, service: &'r Arc<Service>, text: &[u8]) -> Option<There<'r>> {
        if let [b'_', transport @ ..] = text {
            let ports = self.external.ports(service, |port| {
                !port.name.is_empty() && port.proto.lower().as_bytes().eq_ignore_ascii_case(transport)
            });
            return (!ports.is_empty()).then_some(There::Bare);
        }
        if service.kind != Kind::Headless {
            return None;
        }
        let mut found = service.with_hostname(text);
        if let Some(addr) = crate::kubernetes::place::address(text) {
            found.extend(service.at(addr).filter(|endpoint| endpoint.hostname.is_none()));
        }
        found.retain(|endpoint| endpoint.hostname.as_ref().is_none_or(|text| is_label(text)));
        (!found.is_empty()).then_some(There::Endpoints(found))
    }

    fn reverse(&self, asked: &Asked<'_>) -> There<'r> {
        if self.zone.left_of(asked) == Some(0) {
            return There::Apex;
        }
        let whole = asked.reverse().filter(|(low, high)| low == high);
        let services: SmallVec<[&Arc<Service>; 1]> =
            whole.map(|(addr, _)| self.records.outside_at(addr).collect()).unwrap_or_default();
        if services.is_empty() { There::Nothing } else { There::Reverse(services) }
    }

    fn said<'s>(&self, there: &There<'r>, asked: &Asked<'_>) -> Said<'s> {
        let mut reply = Reply { authoritative: true, recursion_available: true, ..Reply::new(Rcode::NOERROR) };
        self.tell(there, &mut reply);
        if reply.answers.is_empty() {
            reply.additional.clear();
            let is_nothing = matches!(there, There::Nothing);
            if is_nothing && self.records.is_synced() && self.external.fallthrough.lets(asked) {
                return Said::Next;
            }
            reply.rcode = match (is_nothing, self.records.is_synced()) {
                (false, _) => Rcode::NOERROR,
                (true, true) => Rcode::NXDOMAIN,
                (true, false) => Rcode::SERVFAIL,
            };
            self.tell_soa(Section::Authority, &mut reply);
        }
        Said::Reply(reply)
    }

    fn tell(&self, there: &There<'r>, reply: &mut Reply<'_>) {
        let (owner, ttl_secs, rtype) = (self.query.name, self.external.ttl_secs, self.query.rtype);
        match there {
            There::Apex if rtype == Rtype::SOA => self.tell_soa(Section::Answer, reply),
            There::Apex if rtype == Rtype::NS => {
                let host = self.zone.host.as_wire();
                reply.record(Section::Answer, owner, ttl_secs, Data::Name(Rtype::NS, host));
                self.tell_addresses(&self.external.own_addresses, None, host, Section::Additional, reply);
            }
            There::Host => {
                self.tell_addresses(&self.external.own_addresses, Some(rtype), owner, Section::Answer, reply);
            }
            There::Service(service) => match rtype {
                Rtype::SRV => self.tell_srv(service, |_| true, reply),
                _ => {
                    let all = self.external.addresses(service);
                    self.tell_addresses(&all, Some(rtype), owner, Section::Answer, reply);
                }
            },
            There::Port(service, port, transport) if rtype == Rtype::SRV => {
                self.tell_srv(service, |found| is_called(&found.name, found.proto, port, transport), reply);
            }
            There::Endpoints(endpoints) => {
                let all: Vec<IpAddr> = endpoints.iter().map(|endpoint| endpoint.addr).collect();
                self.tell_addresses(&all, Some(rtype), owner, Section::Answer, reply);
            }
            There::Reverse(services) if rtype == Rtype::PTR => {
                for name in services.iter().filter_map(|service| self.external.name(service)) {
                    reply.record(Section::Answer, owner, ttl_secs, Data::Name(Rtype::PTR, name.as_wire()));
                }
            }
            _ => {}
        }
    }

    fn tell_soa(&self, section: Section, reply: &mut Reply<'_>) {
        let data = Data::Soa(&self.zone.soa, self.records.serial());
        reply.record(section, self.zone.name.as_wire(), self.external.ttl_secs, data);
    }

    fn tell_addresses(
        &self,
        addresses: &[IpAddr],
        rtype: Option<Rtype>,
        owner: &[u8],
        section: Section,
        reply: &mut Reply<'_>,
    ) {
        let of_type = |addr: &&IpAddr| rtype.is_none_or(|rtype| rtype == Rtype::of_addr(**addr));
        let mut all: Vec<&IpAddr> = addresses.iter().filter(of_type).collect();
        if let Some(turn) = self.turn.filter(|_| !all.is_empty()) {
            let by = usize::from(turn) % all.len();
            all.rotate_left(by);
        }
        for addr in all {
            reply.record(section, owner, self.external.ttl_secs, Data::Addr(*addr));
        }
    }

    fn tell_srv(&self, service: &Service, is_meant: impl Fn(&SlicePort) -> bool, reply: &mut Reply<'_>) {
        let Some(base) = NameBuf::of(&[&service.labels, self.zone.name.as_wire()]) else { return };
        let ports = self.external.ports(service, is_meant);
        let weight = weight(ports.len());
        let mut numbers: Vec<u16> = ports.iter().map(|(_, _, port)| *port).collect();
        numbers.sort_unstable();
        numbers.dedup();
        for port in numbers {
            let data = Data::Srv { weight, port, target: base.wire() };
            reply.record(Section::Answer, self.query.name, self.external.ttl_secs, data);
        }
        let all = self.external.addresses(service);
        self.tell_addresses(&all, None, base.wire(), Section::Additional, reply);
    }
}

/// A name of `service`, or below it, in a zone without a `svc` of its own.
fn service_name<const N: usize>(service: &Service, zone: &Name, labels: [&str; N]) -> Option<Name> {
    zone.under([&*service.key.name, &*service.key.namespace])?.under(labels)
}
