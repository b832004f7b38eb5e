//! One Service as DNS sees it, whatever the zone: addresses, ports, and its ready endpoints in order.
//!
//! ```text
//!  ServiceView ──► Service::updated(before) ──► Service that shares all pieces of endpoints that did not change
//! ```
//!
//! Endpoints stand by address, IPv4 first, then by hostname; those with a hostname are found by it through an index once
//! there are many. An address as a label (`10-244-1-5`) is parsed when it is asked for, never stored.

use std::cmp::Ordering;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use portolan_model::{Complaint, Host, NsName, Proto, Service as Spec, ServiceKind, ServiceView, SlicePort, Text};
use smallvec::SmallVec;

use crate::name::{MAX_LABEL, Name, NameError};
use crate::records::service_ref;
use crate::records::sorted::Sorted;

/// From how many endpoints on hostnames have an index.
const MANY: usize = 64;

/// A ready endpoint.
#[derive(Clone, Debug, PartialEq)]
pub struct Endpoint {
    /// Its address.
    pub addr: IpAddr,
    /// Which of its Service's lists of ports it offers.
    list: u32,
    /// Its hostname; never empty.
    pub hostname: Option<Text>,
    /// The Pod behind it, of the Service's namespace.
    pub pod: Option<Text>,
}

impl Endpoint {
    fn order(&self) -> (IpAddr, Option<&Text>) {
        (self.addr, self.hostname.as_ref())
    }
}

/// Ports that endpoints of one or more slices offer.
#[derive(Clone, Debug)]
struct PortList {
    ports: Arc<[SlicePort]>,
    /// How many endpoints offer them; with none left the place is free.
    endpoints: u32,
}

/// Where a Service's name leads.
#[derive(Clone, Debug, PartialEq)]
pub enum Kind {
    /// To its ClusterIPs.
    ClusterIp,
    /// To its endpoints.
    Headless,
    /// To another name.
    Alias(Name),
    /// Nowhere: an ExternalName that is none, or a ClusterIP that is yet to come.
    Nowhere,
}

/// One Service. What most answers need stands first, together: a lookup among many thousands finds none of it in a cache
/// of the core.
#[derive(Clone, Debug)]
#[repr(C)]
pub struct Service {
    /// Its name and namespace as they stand in a query: `3web7default`, in lower case.
    pub labels: SmallVec<[u8; 31]>,
    /// Its ClusterIPs; the API gives one of a family at most.
    pub ipv4: Option<Ipv4Addr>,
    /// Where its name leads.
    pub kind: Kind,
    /// As `ipv4`.
    pub ipv6: Option<Ipv6Addr>,
    /// The object.
    pub key: NsName,
    /// The object's spec, shared with the snapshot: ports, addresses outside.
    pub spec: Arc<Spec>,
    /// Its ready endpoints.
    pub endpoints: Sorted<Endpoint>,
    lists: SmallVec<[PortList; 1]>,
    /// Endpoints by hostname, once they are many.
    by_hostname: Option<Box<Sorted<(Text, IpAddr)>>>,
    /// How many endpoints have a hostname that is no label.
    misnamed: u32,
}

/// What an update did to a Service's endpoints.
#[derive(Clone, Debug, Default)]
pub struct Moved {
    /// Addresses of endpoints that came, or changed in some way.
    pub came: Vec<IpAddr>,
    /// Addresses of endpoints that went.
    pub went: Vec<IpAddr>,
}

impl Moved {
    /// Endpoints are as they were.
    pub fn is_empty(&self) -> bool {
        self.came.is_empty() && self.went.is_empty()
    }
}

impl Service {
    /// The Service of `view`, sharing what did not change with what it was `before`; and what changed in its endpoints.
    /// `labels` are its own.
    pub fn updated(before: Option<&Self>, view: &ServiceView, labels: &[u8]) -> (Self, Moved) {
        let spec = view.spec.clone();
        let (mut service, changes) = match before {
            Some(before) => (Self { spec, ..before.clone() }, differences(before, view)),
            None => (Self::bare(view, labels), ready(view).map(Change::Put).collect()),
        };
        service.kind = kind(&service.spec);
        service.ipv4 = service.spec.cluster_ips.iter().find_map(|addr| match addr {
            IpAddr::V4(v4) => Some(*v4),
            IpAddr::V6(_) => None,
        });
        service.ipv6 = service.spec.cluster_ips.iter().find_map(|addr| match addr {
            IpAddr::V4(_) => None,
            IpAddr::V6(v6) => Some(*v6),
        });
        let moved = service.apply(&changes, view);
        (service, moved)
    }

    fn bare(view: &ServiceView, labels: &[u8]) -> Self {
        Self {
            key: view.key.clone(),
            labels: SmallVec::from_slice(labels),
            kind: Kind::Nowhere,
            ipv4: None,
            ipv6: None,
            spec: view.spec.clone(),
            endpoints: Sorted::default(),
            lists: SmallVec::new(),
            by_hostname: None,
            misnamed: 0,
        }
    }

    /// Its ClusterIPs, IPv4 first.
    pub fn cluster_ips(&self) -> impl Iterator<Item = IpAddr> + use<> {
        self.ipv4.map(IpAddr::V4).into_iter().chain(self.ipv6.map(IpAddr::V6))
    }

    /// Its addresses outside the cluster: `externalIPs` and those of balancers.
    pub fn outside(&self) -> impl Iterator<Item = IpAddr> {
        self.spec.external_ips.iter().chain(&self.spec.load_balancer_ips).copied()
    }

    /// The ports that `endpoint`, one of its own, offers.
    pub fn ports_of(&self, endpoint: &Endpoint) -> &[SlicePort] {
        &self.lists[endpoint.list as usize].ports
    }

    /// How many entries SRV of all ports has before equal ones fall together: an endpoint without ports counts as one.
    pub fn entries(&self) -> usize {
        self.lists.iter().map(|list| list.ports.len().max(1) * list.endpoints as usize).sum()
    }

    /// As [`Self::entries`], of the ports that `is_meant`; endpoints without ports do not count.
    pub fn entries_of(&self, is_meant: impl Fn(&SlicePort) -> bool) -> usize {
        let of_list =
            |list: &PortList| list.ports.iter().filter(|port| is_meant(port)).count() * list.endpoints as usize;
        self.lists.iter().map(of_list).sum()
    }

    /// Its endpoints offer a port that `is_meant`.
    pub fn offers(&self, is_meant: impl Fn(&SlicePort) -> bool) -> bool {
        self.lists.iter().any(|list| list.endpoints > 0 && list.ports.iter().any(&is_meant))
    }

    /// Its endpoints have names of their own beside their addresses.
    pub fn has_hostnames(&self) -> bool {
        match &self.by_hostname {
            Some(index) => !index.is_empty(),
            None => self.endpoints.iter().any(|endpoint| endpoint.hostname.is_some()),
        }
    }

    /// Endpoints at `addr`.
    pub fn at(&self, addr: IpAddr) -> impl Iterator<Item = &Endpoint> {
        self.endpoints.equal(move |endpoint| endpoint.addr.cmp(&addr))
    }

    /// Endpoints whose hostname is `label`, in any case, in order.
    pub fn with_hostname(&self, label: &[u8]) -> SmallVec<[&Endpoint; 4]> {
        if label.contains(&b'.') {
            return SmallVec::new();
        }
        let is_meant = |text: &Text| text.as_bytes().eq_ignore_ascii_case(label);
        let Some(index) = &self.by_hostname else {
            return self.endpoints.iter().filter(|found| found.hostname.as_ref().is_some_and(is_meant)).collect();
        };
        let places = index.equal(|(text, _)| lower(text.as_bytes()).cmp(lower(label)));
        let found = places
            .flat_map(|(text, addr)| self.at(*addr).filter(move |endpoint| endpoint.hostname.as_ref() == Some(text)));
        found.collect()
    }

    /// What is wrong with it.
    pub fn complaints(&self) -> Vec<Complaint> {
        let mut all = Vec::new();
        let mut complain = |reason: &str, message: String| {
            all.push(Complaint { object: service_ref(&self.key), reason: reason.into(), message });
        };
        if let ServiceKind::ExternalName(target) = &self.spec.kind
            && self.kind == Kind::Nowhere
        {
            match target_of(target) {
                Ok(None) => complain(
                    "ExternalNameIsAddress",
                    format!("{target} is an address, not a name: no CNAME; use endpoints"),
                ),
                Err(error) => complain("InvalidExternalName", error.to_string()),
                Ok(Some(_)) => {}
            }
        }
        if self.misnamed > 0 {
            for endpoint in self.endpoints.iter().filter(|endpoint| is_misnamed(endpoint)) {
                let label = endpoint.hostname.as_deref().unwrap_or_default();
                complain(
                    "InvalidHostname",
                    format!("endpoint {} has hostname \"{label}\", which is no label", endpoint.addr),
                );
            }
        }
        all
    }

    /// Says the same as `other` to every question.
    pub fn is_alike(&self, other: &Self) -> bool {
        self.kind == other.kind
            && self.spec.cluster_ips == other.spec.cluster_ips
            && self.spec.ports == other.spec.ports
            && self.spec.external_ips == other.spec.external_ips
            && self.spec.load_balancer_ips == other.spec.load_balancer_ips
            && self.spec.kind == other.spec.kind
    }

    fn apply(&mut self, changes: &[Change<'_>], view: &ServiceView) -> Moved {
        let mut moved = Moved::default();
        let is_much = self.endpoints.is_empty() || changes.len() > 16 + self.endpoints.len() / 8;
        let mut last = None;
        for change in changes {
            match change {
                Change::Put(host) => {
                    moved.came.push(host.addr);
                    if !is_much {
                        self.put(host, &mut last);
                    }
                }
                Change::Drop(endpoint) => {
                    moved.went.push(endpoint.addr);
                    if !is_much {
                        self.drop_endpoint(endpoint);
                    }
                }
            }
        }
        let unused = self.lists.iter().filter(|list| list.endpoints == 0).count();
        if !changes.is_empty() && (is_much || unused > 8) {
            self.start_over(view);
        }
        self.index_hostnames();
        moved
    }

    fn put(&mut self, host: &Host, last: &mut Option<(*const SlicePort, u32)>) {
        let list = self.list_of(&host.ports, last);
        let new = endpoint(host, list, &self.key);
        self.count(&new, 1);
        let (addr, hostname) = (new.addr, new.hostname.clone());
        match self.endpoints.put(new, |other| other.order().cmp(&(addr, hostname.as_ref()))) {
            Some(old) => self.count(&old, -1),
            None => self.index(addr, hostname.as_ref(), true),
        }
    }

    fn drop_endpoint(&mut self, endpoint: &Endpoint) {
        if let Some(old) = self.endpoints.take(|other| other.order().cmp(&endpoint.order())) {
            self.count(&old, -1);
            self.index(old.addr, old.hostname.as_ref(), false);
        }
    }

    fn index(&mut self, addr: IpAddr, hostname: Option<&Text>, is_there: bool) {
        let (Some(index), Some(hostname)) = (&mut self.by_hostname, hostname) else { return };
        let lies = |(text, other): &(Text, IpAddr)| by_hostname((text, *other), (hostname, addr));
        match is_there {
            true => drop(index.put((hostname.clone(), addr), lies)),
            false => drop(index.take(lies)),
        }
    }

    /// Takes all endpoints anew: cheaper than many changes one by one.
    fn start_over(&mut self, view: &ServiceView) {
        self.lists.clear();
        (self.misnamed, self.by_hostname) = (0, None);
        let (mut last, mut all) = (None, Vec::with_capacity(view.hosts.len()));
        for host in ready(view) {
            let list = self.list_of(&host.ports, &mut last);
            let endpoint = endpoint(host, list, &self.key);
            self.count(&endpoint, 1);
            all.push(endpoint);
        }
        self.endpoints = Sorted::from_sorted(&all);
    }

    fn index_hostnames(&mut self) {
        if self.endpoints.len() <= MANY {
            self.by_hostname = None;
        } else if self.by_hostname.is_none() {
            let named = |endpoint: &Endpoint| Some((endpoint.hostname.clone()?, endpoint.addr));
            let mut all: Vec<(Text, IpAddr)> = self.endpoints.iter().filter_map(named).collect();
            all.sort_by(|(a, at), (b, other)| by_hostname((a, *at), (b, *other)));
            self.by_hostname = Some(Box::new(Sorted::from_sorted(&all)));
        }
    }

    fn count(&mut self, endpoint: &Endpoint, by: i32) {
        let list = &mut self.lists[endpoint.list as usize];
        list.endpoints = list.endpoints.wrapping_add_signed(by);
        if is_misnamed(endpoint) {
            self.misnamed = self.misnamed.wrapping_add_signed(by);
        }
    }

    /// The place of a list of ports, a new one if no endpoint has offered it. `last` remembers the list that came before,
    /// which most endpoints share.
    fn list_of(&mut self, ports: &Arc<[SlicePort]>, last: &mut Option<(*const SlicePort, u32)>) -> u32 {
        if let Some((known, list)) = *last
            && known == ports.as_ptr()
        {
            return list;
        }
        let known = self.lists.iter().position(|list| list.ports == *ports);
        let list = known.unwrap_or_else(|| {
            self.lists.push(PortList { ports: ports.clone(), endpoints: 0 });
            self.lists.len() - 1
        }) as u32;
        *last = Some((ports.as_ptr(), list));
        list
    }
}

/// One step from the endpoints that were to those that are.
enum Change<'a> {
    Put(&'a Host),
    Drop(Endpoint),
}

/// Both lists are in order, so one walk finds what differs.
fn differences<'a>(before: &Service, view: &'a ServiceView) -> Vec<Change<'a>> {
    let mut changes = Vec::new();
    let mut old = before.endpoints.iter().peekable();
    for host in ready(view) {
        let order = (host.addr, hostname(host));
        while let Some(gone) = old.next_if(|endpoint| endpoint.order() < order) {
            changes.push(Change::Drop(gone.clone()));
        }
        match old.next_if(|endpoint| endpoint.order() == order) {
            Some(endpoint) if is_same(before, endpoint, host) => {}
            _ => changes.push(Change::Put(host)),
        }
    }
    changes.extend(old.cloned().map(Change::Drop));
    changes
}

fn is_same(service: &Service, endpoint: &Endpoint, host: &Host) -> bool {
    let ports = &service.lists[endpoint.list as usize].ports;
    (Arc::ptr_eq(ports, &host.ports) || *ports == host.ports) && endpoint.pod.as_ref() == pod(host, &service.key)
}

/// Ready endpoints in order; an empty hostname is none, and the same endpoint with and without one is one.
fn ready(view: &ServiceView) -> impl Iterator<Item = &Host> {
    let mut last = None;
    let ready = view.hosts.iter().filter(|host| host.ready);
    ready.filter(move |host| {
        let order = Some((host.addr, hostname(host)));
        std::mem::replace(&mut last, order) != order
    })
}

fn hostname(host: &Host) -> Option<&Text> {
    host.hostname.as_ref().filter(|text| !text.is_empty())
}

fn pod<'a>(host: &'a Host, service: &NsName) -> Option<&'a Text> {
    host.pod.as_ref().filter(|pod| pod.namespace == service.namespace).map(|pod| &pod.name)
}

fn endpoint(host: &Host, list: u32, service: &NsName) -> Endpoint {
    Endpoint { addr: host.addr, list, hostname: hostname(host).cloned(), pod: pod(host, service).cloned() }
}

fn is_misnamed(endpoint: &Endpoint) -> bool {
    endpoint.hostname.as_ref().is_some_and(|text| !is_label(text))
}

/// `text` can be one label of a name.
pub fn is_label(text: &str) -> bool {
    (1..=MAX_LABEL).contains(&text.len()) && !text.contains('.')
}

/// Order of the index: by hostname in lower case, so that one search finds it in any case.
fn by_hostname((a, at): (&Text, IpAddr), (b, other): (&Text, IpAddr)) -> Ordering {
    lower(a.as_bytes()).cmp(lower(b.as_bytes())).then_with(|| a.cmp(b)).then(at.cmp(&other))
}

fn lower(bytes: &[u8]) -> impl Iterator<Item = u8> {
    bytes.iter().map(u8::to_ascii_lowercase)
}

fn kind(spec: &Spec) -> Kind {
    match &spec.kind {
        ServiceKind::ExternalName(target) => target_of(target).ok().flatten().map_or(Kind::Nowhere, Kind::Alias),
        ServiceKind::Headless => Kind::Headless,
        ServiceKind::ClusterIp | ServiceKind::NodePort | ServiceKind::LoadBalancer => match spec.cluster_ips.is_empty()
        {
            true => Kind::Nowhere,
            false => Kind::ClusterIp,
        },
    }
}

/// The name that an ExternalName leads to; `None` if it is an address, which is no alias and no name either.
fn target_of(target: &str) -> Result<Option<Name>, NameError> {
    match target.trim_end_matches('.').parse::<IpAddr>() {
        Ok(_) => Ok(None),
        Err(_) => Name::parse(target).map(Some),
    }
}

/// A port is called `name` and is of the transport that `proto`, such as `tcp`, says; neither with its underscore.
pub fn is_called(name: &str, proto: Proto, wanted: &[u8], transport: &[u8]) -> bool {
    !name.is_empty()
        && name.as_bytes().eq_ignore_ascii_case(wanted)
        && proto.lower().as_bytes().eq_ignore_ascii_case(transport)
}
