//! What is at a name: the decision, before any record is told.

use std::net::IpAddr;
use std::sync::Arc;

use smallvec::SmallVec;

use crate::answer::Alias;
use crate::corefile::config::PodMode;
use crate::kubernetes::place::{self, Asked, Place};
use crate::kubernetes::{Any, View, Zone, has_pods};
use crate::name::{MAX_LABEL, Name, dashed_into};
use crate::rdata::Rtype;
use crate::records::service::{Endpoint, Kind, Service, is_called};
use crate::records::{Records, labels_of};
use crate::wire::Rcode;

/// Longest chain of aliases that is followed.
const MAX_LINKS: usize = 10;

/// A question in one of a view's zones.
pub(crate) struct Question<'r, 'q> {
    pub view: &'r View,
    pub records: &'r Records,
    pub zone: &'r Zone,
    pub rtype: Rtype,
    /// By reference: it is several hundred bytes, and a question is handed on.
    pub asked: &'q Asked<'q>,
    /// Labels left of the zone.
    pub left: usize,
    pub is_reverse: bool,
}

/// What is at a name.
#[derive(Debug)]
pub(crate) enum Decided<'r> {
    /// SOA and NS.
    Apex,
    Version,
    /// The name server's addresses.
    Host,
    Service(&'r Arc<Service>),
    /// `_http._tcp` of it: texts of port and transport.
    Port(&'r Arc<Service>, SmallVec<[u8; 16]>, SmallVec<[u8; 8]>),
    Endpoints(&'r Arc<Service>, SmallVec<[&'r Endpoint; 4]>),
    /// The address in the name.
    Pod(IpAddr),
    /// An address, with the Services that PTR is for; at least one.
    Reverse(IpAddr, Claimants<'r>),
    /// A name without records, with the reason.
    Bare(&'static str),
    /// No such name.
    Nothing,
    /// No such name here; another may know it.
    Elsewhere,
    /// No such name yet.
    Unknown,
}

/// Services that have an address.
pub(crate) type Claimants<'r> = SmallVec<[&'r Arc<Service>; 2]>;

/// What a question gets.
pub(crate) enum Outcome<'r> {
    Told(Told<'r>),
    /// Links to a name that is not here.
    Alias(Links<'r>),
    Next,
}

/// Aliases in a row: the Service that is one, and its target.
pub(crate) type Links<'r> = SmallVec<[(&'r Arc<Service>, &'r Name); 2]>;

/// An answer: links, and what is at the end of them.
pub(crate) struct Told<'r> {
    pub links: Links<'r>,
    /// Where records are: the name asked for, or the target of the last link.
    pub at: Decided<'r>,
    /// There are no records of the type; the code to say so with.
    pub absent: Option<Rcode>,
}

impl<'r, 'q> Question<'r, 'q> {
    /// `None`: the name is in none of the view's zones.
    pub(crate) fn new(view: &'r View, records: &'r Records, asked: &'q Asked<'q>, rtype: Rtype) -> Option<Self> {
        let left_of = |zone: &'r Zone| Some((zone, zone.left_of(asked)?));
        let forward = view.forward.iter().find_map(left_of);
        // A forward zone that is the root, or `arpa`, is no reason to hide a reverse one.
        let fewest = forward.map_or(0, |(zone, _)| zone.labels + 1);
        let reverse = view.reverse.iter().filter(|zone| zone.labels >= fewest).find_map(left_of);
        let (zone, left) = reverse.or(forward)?;
        Some(Self { view, records, zone, rtype, asked, left, is_reverse: reverse.is_some() })
    }

    /// The whole outcome: what is there, aliases followed.
    pub(crate) fn outcome(&self) -> Outcome<'r> {
        let at = self.decide();
        if matches!(at, Decided::Elsewhere) {
            return Outcome::Next;
        }
        if let (Decided::Service(service), Rtype::A | Rtype::AAAA) = (&at, self.rtype)
            && let Kind::Alias(target) = &service.kind
        {
            return self.follow(service, target);
        }
        let absent = match &at {
            Decided::Nothing => Some(Rcode::NXDOMAIN),
            Decided::Unknown => Some(Rcode::SERVFAIL),
            Decided::Bare(_) => Some(Rcode::NOERROR),
            _ => (!self.has_records(&at)).then_some(Rcode::NOERROR),
        };
        Outcome::Told(Told { links: SmallVec::new(), at, absent })
    }

    pub(crate) fn aliases(&self, links: &Links<'_>) -> Vec<Alias> {
        let mut owner = Name::from_wire(self.asked.wire).unwrap_or_else(Name::root);
        let ttl_secs = self.view.config.ttl_secs;
        let alias = |(_, target): &(_, &Name)| {
            let target: Name = (*target).clone();
            Alias { owner: std::mem::replace(&mut owner, target.clone()), target, ttl_secs }
        };
        links.iter().map(alias).collect()
    }

    /// Follows aliases inside our zones. One that ends nowhere, or in a loop, is as if it had no records; but one whose
    /// end another may know is left to him.
    fn follow(&self, first: &'r Arc<Service>, target: &'r Name) -> Outcome<'r> {
        let mut links: Links<'r> = SmallVec::new();
        links.push((first, target));
        loop {
            let (_, target) = links[links.len() - 1];
            let asked = Asked::new(target.as_wire());
            let next = Question::new(self.view, self.records, &asked, self.rtype);
            let Some(next) = next.filter(|next| !next.is_reverse) else { return Outcome::Alias(links) };
            let at = next.decide();
            match &at {
                Decided::Service(service) => match &service.kind {
                    Kind::Alias(further) if links.len() < MAX_LINKS => {
                        links.push((service, further));
                        continue;
                    }
                    Kind::Alias(_) => return self.without(links, at),
                    _ => {}
                },
                Decided::Elsewhere => return Outcome::Alias(links),
                _ => {}
            }
            if next.has_records(&at) {
                return Outcome::Told(Told { links, at, absent: None });
            }
            return self.without(links, at);
        }
    }

    fn without(&self, links: Links<'r>, at: Decided<'r>) -> Outcome<'r> {
        let rcode = if self.records.is_synced() { Rcode::NOERROR } else { Rcode::SERVFAIL };
        Outcome::Told(Told { links, at, absent: Some(rcode) })
    }

    fn has_records(&self, at: &Decided<'r>) -> bool {
        match (at, self.rtype) {
            (Decided::Service(service), Rtype::A) if service.kind == Kind::ClusterIp => service.ipv4.is_some(),
            (Decided::Service(service), Rtype::AAAA) if service.kind == Kind::ClusterIp => service.ipv6.is_some(),
            (Decided::Port(service, ..), Rtype::SRV) if service.kind == Kind::ClusterIp => true,
            (Decided::Reverse(..), Rtype::PTR) => self.view.primary().is_some(),
            // Whatever takes more than a look: the telling itself, up to its first record.
            _ => {
                let mut any = Any(false);
                self.tell_at(at, self.asked.wire, None, &mut any);
                any.0
            }
        }
    }

    /// What is at the name, aliases not followed.
    pub(crate) fn decide(&self) -> Decided<'r> {
        match self.is_reverse {
            true => self.decide_reverse(),
            false => self.decide_forward().unwrap_or_else(|| self.nothing()),
        }
    }

    /// What is not here. Before all is read, a clear "not now" is better than another's "no".
    fn nothing(&self) -> Decided<'r> {
        match self.records.is_synced() {
            false => Decided::Unknown,
            true if self.view.fallthrough.lets(self.asked) => Decided::Elsewhere,
            true => Decided::Nothing,
        }
    }

    fn decide_forward(&self) -> Option<Decided<'r>> {
        match self.asked.place(self.left) {
            Place::Apex => Some(Decided::Apex),
            Place::Bare => Some(Decided::Bare("only names below it exist")),
            Place::Version => Some(Decided::Version),
            Place::Host => Some(Decided::Host),
            Place::Namespace(label) => self.namespace(label),
            Place::PodNamespace(label) => self.pod_namespace(label),
            Place::Pod(text, label) => self.pod(text, label),
            Place::Service(labels) => Some(Decided::Service(self.service(labels)?)),
            Place::Below(labels, text) => self.below(self.service(labels)?, text),
            Place::Port(labels, port, transport) => self.port(self.service(labels)?, port, transport),
            Place::Nowhere => None,
        }
    }

    fn namespace(&self, label: &[u8]) -> Option<Decided<'r>> {
        self.records.namespace(label).filter(|_| self.view.shows(label))?;
        Some(Decided::Bare("the name exists, without records of this type"))
    }

    fn pod_namespace(&self, label: &[u8]) -> Option<Decided<'r>> {
        let namespace = self.records.namespace(label).filter(|_| self.view.shows(label))?;
        let is_there = namespace.exists && has_pods(self.view.config.pods);
        is_there.then_some(Decided::Bare("the name exists, without records of this type"))
    }

    fn pod(&self, text: &[u8], label: &[u8]) -> Option<Decided<'r>> {
        let shown = Some(label).filter(|label| self.view.shows(label))?;
        let is_there = |addr: IpAddr| match self.view.config.pods {
            PodMode::Disabled => false,
            PodMode::Insecure => self.records.namespace(shown).is_some_and(|namespace| namespace.exists),
            PodMode::Verified => {
                self.records.pods_at(addr).any(|pod| pod.namespace.as_bytes().eq_ignore_ascii_case(&shown[1..]))
            }
        };
        place::address(text).filter(|addr| is_there(*addr)).map(Decided::Pod)
    }

    /// A Service that has a name in this view.
    fn service(&self, labels: &[u8]) -> Option<&'r Arc<Service>> {
        self.records.service(labels).filter(|service| self.view.names(service))
    }

    fn below(&self, service: &'r Arc<Service>, text: &[u8]) -> Option<Decided<'r>> {
        if let [b'_', transport @ ..] = text {
            let is_above = self.view.has_port(service, |name, proto| {
                !name.is_empty() && proto.lower().as_bytes().eq_ignore_ascii_case(transport)
            });
            return is_above.then_some(Decided::Bare("only names below it exist"));
        }
        let found = self.view.endpoints_called(service, text);
        (!found.is_empty()).then_some(Decided::Endpoints(service, found))
    }

    fn port(&self, service: &'r Arc<Service>, port: &[u8], transport: &[u8]) -> Option<Decided<'r>> {
        let is_there = self.view.has_port(service, |name, proto| is_called(name, proto, port, transport));
        is_there.then(|| Decided::Port(service, SmallVec::from_slice(port), SmallVec::from_slice(transport)))
    }

    /// In a zone of addresses: those that a Service has. Before all is read, an address of the cluster's own ranges may
    /// yet become ours.
    fn decide_reverse(&self) -> Decided<'r> {
        if self.left == 0 {
            return Decided::Apex;
        }
        let Some((low, high)) = self.asked.reverse() else { return self.nothing_reverse() };
        if low == high {
            let services = self.view.ptr_services(self.records, low);
            if !services.is_empty() {
                return Decided::Reverse(low, services);
            }
        }
        let is_own = || self.view.config.own_ranges.iter().any(|range| range.contains(&low) && range.contains(&high));
        if !self.records.is_synced() && is_own() {
            return Decided::Unknown;
        }
        if low != high && !self.view.fallthrough.lets(self.asked) && self.records.has_claim_within(low, high) {
            return Decided::Bare("only names below it exist");
        }
        self.nothing_reverse()
    }

    fn nothing_reverse(&self) -> Decided<'r> {
        match self.view.fallthrough.lets(self.asked) {
            true => Decided::Elsewhere,
            false => self.nothing(),
        }
    }
}

impl View {
    /// `service` has a name in this view.
    pub(crate) fn names(&self, service: &Service) -> bool {
        let has_endpoints = || !self.no_endpoints && !service.endpoints.is_empty();
        let is_named = match service.kind {
            Kind::Alias(_) => true,
            Kind::Nowhere => false,
            Kind::Headless => has_endpoints(),
            Kind::ClusterIp => !self.ignore_empty_service || has_endpoints(),
        };
        is_named && (self.namespaces.is_none() || self.shows(namespace_of(service)))
    }

    /// A port that `is_meant`, by name and transport, has an SRV name below the Service.
    pub(crate) fn has_port(&self, service: &Service, is_meant: impl Fn(&str, portolan_model::Proto) -> bool) -> bool {
        match service.kind {
            Kind::ClusterIp => service.spec.ports.iter().any(|port| is_meant(&port.name, port.proto)),
            Kind::Headless => service.offers(|port| is_meant(&port.name, port.proto)),
            Kind::Alias(_) | Kind::Nowhere => false,
        }
    }

    /// Endpoints of `service` whose name is the label of this text, in order.
    pub(crate) fn endpoints_called<'r>(&self, service: &'r Service, text: &[u8]) -> SmallVec<[&'r Endpoint; 4]> {
        if self.no_endpoints || !matches!(service.kind, Kind::ClusterIp | Kind::Headless) {
            return SmallVec::new();
        }
        let mut found = service.with_hostname(text);
        if let Some(addr) = place::address(text).filter(|addr| is_written(*addr, text)) {
            found.extend(service.at(addr).filter(|endpoint| self.goes_by_address(endpoint)));
        }
        if self.config.endpoint_pod_names {
            let is_meant = |endpoint: &&Endpoint| {
                self.pod_label(endpoint).is_some_and(|label| label.as_bytes().eq_ignore_ascii_case(text))
            };
            found.extend(service.endpoints.iter().filter(is_meant));
        }
        found.sort_by(|a, b| (a.addr, &a.hostname).cmp(&(b.addr, &b.hostname)));
        found
    }

    /// The label that an endpoint gets from its Pod.
    pub(crate) fn pod_label<'e>(&self, endpoint: &'e Endpoint) -> Option<&'e str> {
        let pod = endpoint.pod.as_deref().filter(|_| self.config.endpoint_pod_names && endpoint.hostname.is_none());
        pod.filter(|text| crate::records::service::is_label(text))
    }

    pub(crate) fn goes_by_address(&self, endpoint: &Endpoint) -> bool {
        endpoint.hostname.is_none() && self.pod_label(endpoint).is_none()
    }

    /// Services that PTR of `addr` is for: those with it as ClusterIP, else those with it as endpoint.
    pub(crate) fn ptr_services<'r>(&self, records: &'r Records, addr: IpAddr) -> Claimants<'r> {
        let is_shown = |service: &&Arc<Service>| {
            let has_names = matches!(service.kind, Kind::ClusterIp | Kind::Headless);
            has_names && (self.namespaces.is_none() || self.shows(namespace_of(service)))
        };
        let has_it = |service: &Service| service.cluster_ips().any(|own| own == addr);
        let mut all: Claimants<'r> = records.claims(addr).filter(is_shown).collect();
        match all.iter().any(|service| has_it(service)) {
            true => all.retain(|service| has_it(service)),
            false if self.no_endpoints => all.clear(),
            false => {}
        }
        all
    }

    /// Services in front of us, by their labels.
    pub(crate) fn servers<'r>(&self, records: &'r Records) -> Vec<&'r Arc<Service>> {
        let own = self.config.own_addresses.iter();
        let mut all: Vec<&Arc<Service>> =
            own.flat_map(|addr| records.claims(*addr)).filter(|service| service.kind == Kind::ClusterIp).collect();
        let is_in_front = |service: &Service| {
            !self.no_endpoints || service.cluster_ips().any(|addr| self.config.own_addresses.contains(&addr))
        };
        all.retain(|service| self.names(service) && is_in_front(service));
        all.sort_by(|a, b| a.key.cmp(&b.key));
        all.dedup_by(|a, b| a.key == b.key);
        all
    }
}

/// An endpoint's name is its address as we write it; other ways to write the same address are no names.
fn is_written(addr: IpAddr, text: &[u8]) -> bool {
    let mut label = [0; MAX_LABEL];
    let len = dashed_into(addr, &mut label);
    label[..len] == *text
}

/// The label of a Service's namespace.
pub(crate) fn namespace_of(service: &Service) -> &[u8] {
    &service.labels[usize::from(service.labels[0]) + 1..]
}

/// The label of a namespace by its name.
pub(crate) fn label_of(namespace: &str) -> Arc<[u8]> {
    labels_of([namespace]).unwrap_or_else(|| Arc::from([].as_slice()))
}
