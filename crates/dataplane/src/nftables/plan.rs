//! Plan: the whole table of one family as fragments by service port, and the steps that an update makes of it.
//!
//! ```text
//!  Snapshot + Delta ─► fragments of the touched Services ─► claims: who owns each destination
//!                                     └─► elements before and after, by set and key ─┬─► elements out, elements in
//!                                                                                    └─► sets in use ─► chains, rules
//! ```
//!
//! The cost follows the change: one endpoint is one to three elements for each destination of its Service, and rules
//! change only when a count of endpoints is used for the first time or no more.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::sync::Arc;

use portolan_model::{Complaint, Delta, Family, NsName, ObjectKind, ObjectRef, Proto, ServicePortKey, Snapshot, Text};

use crate::choose::Place;
use crate::nftables::changes::{self, Changes, Transaction, Writing};
use crate::nftables::claims::{Claims, Rank};
use crate::nftables::fixed::{self, Ground, Skeleton};
use crate::nftables::lang::{Chain, Data, Element, Key, Set, Step, Table};
use crate::nftables::names::{Door, SetId, TABLE};
use crate::nftables::options::{DnsPath, Options};
use crate::nftables::service::{self, Elem, Fragment, Kind, Owner, Surroundings};
use crate::nftables::slots::{Target, carry};
use crate::nftables::stock::{Shift, Signed, Stock};

/// The table one node must hold in one family.
#[derive(Clone, Debug)]
pub struct Desired {
    family: Family,
    options: Options,
    /// What all fragments were planned with; `None` before the first update.
    around: Option<Surroundings>,
    ground: Option<Ground>,
    standing: BTreeMap<Owner, Arc<Standing>>,
    claims: Claims,
    stock: Stock,
    skeleton: Skeleton,
}

/// A fragment, and what it asked for that is another's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Standing {
    pub(super) fragment: Fragment,
    lost: Vec<(Key, Owner)>,
}

/// A standing element with its Service's mark on it.
pub(super) struct Wanted {
    pub(super) data: Option<Data>,
    pub(super) comment: Option<Text>,
    pub(super) owner: Option<Owner>,
}

impl Wanted {
    /// What the kernel holds is just this.
    pub(super) fn is(&self, held: &(Option<Data>, Option<Text>)) -> bool {
        (self.data, &self.comment) == (held.0, &held.1)
    }
}

impl Desired {
    /// Nothing planned yet: the first update gives the whole table.
    pub fn new(family: Family, options: Options) -> Self {
        Self {
            family,
            options,
            around: None,
            ground: None,
            standing: BTreeMap::new(),
            claims: Claims::default(),
            stock: Stock::default(),
            skeleton: Skeleton::default(),
        }
    }

    /// The table of `snapshot` from scratch.
    pub fn of(family: Family, options: Options, snapshot: &Snapshot) -> Self {
        let mut desired = Self::new(family, options);
        desired.update(snapshot, &Delta::all(snapshot));
        desired
    }

    /// Takes in what changed and says which steps change the kernel with it. A change of our own Node's zone or address
    /// plans every Service again.
    pub fn update(&mut self, snapshot: &Snapshot, delta: &Delta) -> Changes {
        let around = surroundings(self.family, snapshot);
        let mut work = Work::default();
        match self.around.as_ref() == Some(&around) {
            true => self.replan_all(snapshot, &delta.services, &around, &mut work),
            false => self.replan_all(snapshot, &self.every_service(snapshot, delta), &around, &mut work),
        }
        self.around = Some(around);
        self.settle(&mut work);
        let ground = Ground::of(self.family, snapshot);
        self.finish(work, Some(ground))
    }

    /// Says who answers cluster DNS from now on.
    pub fn set_dns(&mut self, dns: DnsPath) -> Changes {
        self.options.dns = dns;
        self.finish(Work { redraw: true, ..Work::default() }, None)
    }

    /// Takes over the slots in which `kernel` holds the endpoints, as far as it holds the right ones: so that a
    /// [`Repair`](crate::nftables::Repair) over it moves none without need.
    pub fn adopt(&mut self, kernel: &Table) {
        for standing in self.standing.values_mut() {
            let lists = held_by(kernel, &standing.fragment);
            let carried = (carry(&lists.0, &standing.fragment.cluster), carry(&lists.1, &standing.fragment.local));
            if carried.0 != standing.fragment.cluster || carried.1 != standing.fragment.local {
                let standing = Arc::make_mut(standing);
                (standing.fragment.cluster, standing.fragment.local) = carried;
            }
        }
    }

    /// Whose table this is.
    pub fn family(&self) -> Family {
        self.family
    }

    /// What it was planned with.
    pub fn options(&self) -> &Options {
        &self.options
    }

    /// Clients of `id` may be bound to `endpoint`.
    pub fn binds(&self, id: u32, endpoint: Target) -> bool {
        let owner = self.claims.owner(&Key::Id(id));
        let standing = owner.and_then(|owner| self.standing.get(owner));
        standing.is_some_and(|standing| standing.bindings().contains(&(id, endpoint)))
    }

    /// One chain with its rules; `None` if there is no such chain.
    pub fn chain(&self, name: &str) -> Option<&Chain> {
        self.skeleton.chains.get(name)
    }

    /// The table as it shall be.
    pub fn table(&self) -> Table {
        let mut sets: BTreeMap<Text, Set> = BTreeMap::new();
        for (name, shape) in &self.skeleton.sets {
            sets.insert(name.clone(), Set { shape: shape.clone(), elements: BTreeMap::new() });
        }
        for (name, elements) in self.wanted() {
            if let Some(set) = sets.get_mut(&name) {
                set.elements = elements.into_iter().map(|(key, it)| (key, (it.data, it.comment))).collect();
            }
        }
        Table { family: self.family, name: TABLE.into(), chains: self.skeleton.chains.clone(), sets }
    }

    /// All elements by set and key.
    pub(super) fn wanted(&self) -> BTreeMap<Text, BTreeMap<Key, Wanted>> {
        let mut all: BTreeMap<SetId, BTreeMap<Key, Wanted>> = BTreeMap::new();
        for (ground, elem) in
            self.ground.iter().flat_map(|ground| ground.elements().into_iter().map(move |e| (ground, e)))
        {
            let wanted = Wanted { data: elem.data, comment: ground.comment(&elem), owner: None };
            all.entry(elem.set).or_default().insert(elem.key, wanted);
        }
        let (first, others): (Vec<_>, Vec<_>) =
            self.standing.iter().partition(|(owner, _)| changes::is_first(&owner.service));
        for (owner, standing) in first.into_iter().chain(others) {
            for elem in standing.elements() {
                let comment = standing.comment(elem.set);
                let wanted = Wanted { data: elem.data, comment, owner: Some(owner.clone()) };
                all.entry(elem.set).or_default().entry(elem.key).or_insert(wanted);
            }
        }
        all.into_iter().map(|(set, elements)| (set.name(), elements)).collect()
    }

    /// Whose a destination, an address or an id is.
    pub(super) fn owner_of_key(&self, key: &Key) -> Option<&Owner> {
        self.claims.owner(key)
    }

    /// What sort of destination `key` is for its owner.
    pub(super) fn kind_of(&self, owner: &Owner, key: &Key) -> Option<Kind> {
        let destinations = &self.standing.get(owner)?.fragment.destinations;
        destinations.iter().find(|destination| destination.key == *key).map(|destination| destination.kind)
    }

    /// The elements that one Service asks for and gets, port by port; those it shares with others too.
    pub(super) fn elements_of(&self, service: &NsName) -> Vec<(Owner, SetId, Element)> {
        let mut found = Vec::new();
        for (owner, standing) in self.standing_of(service) {
            for Elem { set, key, data } in standing.elements() {
                found.push((owner.clone(), set, Element { key, data, comment: standing.comment(set) }));
            }
        }
        found
    }

    /// The elements that no Service asks for.
    pub(super) fn ground_elements(&self) -> Vec<(SetId, Element)> {
        let Some(ground) = &self.ground else { return Vec::new() };
        let element =
            |elem: Elem| (elem.set, Element { key: elem.key, data: elem.data, comment: ground.comment(&elem) });
        ground.elements().into_iter().map(element).collect()
    }

    /// All Services that ask for something.
    pub(super) fn services(&self) -> BTreeSet<NsName> {
        self.standing.keys().map(|owner| owner.service.clone()).collect()
    }

    /// Chains and declarations of sets.
    pub(super) fn skeleton(&self) -> &Skeleton {
        &self.skeleton
    }

    /// Cluster DNS and the API server's Service first, then the others by key.
    fn replan_all(&mut self, snapshot: &Snapshot, keys: &BTreeSet<NsName>, around: &Surroundings, work: &mut Work) {
        let (first, others): (Vec<&NsName>, Vec<&NsName>) = keys.iter().partition(|key| changes::is_first(key));
        for service in first.into_iter().chain(others) {
            self.replan(snapshot, service, around, work);
        }
    }

    /// All Services there are and were, and those that are only now gone.
    fn every_service(&self, snapshot: &Snapshot, delta: &Delta) -> BTreeSet<NsName> {
        let known = self.standing.keys().map(|owner| owner.service.clone());
        snapshot.services.keys().chain(&delta.services).cloned().chain(known).collect()
    }

    fn replan(&mut self, snapshot: &Snapshot, service: &NsName, around: &Surroundings, work: &mut Work) {
        let known = self.standing_of(service);
        let held = |key: &ServicePortKey| -> service::Held<'_> {
            match known.iter().find(|(owner, _)| **owner == *key) {
                Some((_, standing)) => (&standing.fragment.cluster, &standing.fragment.local),
                None => (&[], &[]),
            }
        };
        let view = snapshot.services.get(service);
        let planned = view.map(|view| service::fragments(view, around, held)).unwrap_or_default();
        for (owner, old) in &known {
            if planned.iter().all(|(key, _)| *key != **owner) {
                self.put(owner.clone(), Some(old.clone()), None, work);
            }
        }
        for (key, fragment) in planned {
            match known.iter().find(|(owner, _)| **owner == key) {
                Some((owner, old)) => self.put(owner.clone(), Some(old.clone()), Some(fragment), work),
                None => self.put(Arc::new(key), None, Some(fragment), work),
            }
        }
    }

    fn standing_of(&self, service: &NsName) -> Vec<(Owner, Arc<Standing>)> {
        if self.standing.is_empty() {
            return Vec::new();
        }
        let first = ServicePortKey { service: service.clone(), port: "".into(), proto: Proto::Tcp };
        let from = (Bound::Included(first), Bound::Unbounded);
        let all = self.standing.range::<ServicePortKey, _>(from).take_while(|(owner, _)| owner.service == *service);
        all.map(|(owner, standing)| (owner.clone(), standing.clone())).collect()
    }

    /// Replaces a fragment and notes which others' claims came free, or are no longer theirs.
    fn put(&mut self, owner: Owner, old: Option<Arc<Standing>>, new: Option<Fragment>, work: &mut Work) {
        if old.as_ref().map(|standing| &standing.fragment) == new.as_ref() {
            return;
        }
        let before: Vec<(Key, Rank)> = old.iter().flat_map(|standing| standing.fragment.claims()).collect();
        let after: Vec<(Key, Rank)> = new.iter().flat_map(Fragment::claims).collect();
        for (key, _) in before.iter().filter(|claim| !after.contains(claim)) {
            work.moved.extend(self.claims.release(*key, &owner));
        }
        for (key, rank) in after.iter().filter(|claim| !before.contains(claim)) {
            work.moved.extend(self.claims.claim(*key, *rank, &owner));
        }
        let lost = old.as_ref().map(|standing| standing.lost.clone()).unwrap_or_default();
        let new = new.map(|fragment| Arc::new(Standing { fragment, lost }));
        work.touched.push(Touched { owner, old, new });
    }

    /// Every fragment whose claims moved learns what is another's.
    fn settle(&mut self, work: &mut Work) {
        let moved = std::mem::take(&mut work.moved);
        if !moved.is_empty() {
            let mut noted: BTreeSet<Owner> = work.touched.iter().map(|touched| touched.owner.clone()).collect();
            for owner in moved.into_iter().filter(|owner| noted.insert(owner.clone())) {
                let as_it_is = self.standing.get(&owner).cloned();
                work.touched.push(Touched { owner, old: as_it_is.clone(), new: as_it_is });
            }
        }
        for Touched { owner, new, .. } in &mut work.touched {
            let Some(standing) = new else { continue };
            let lost = self.claims.lost(standing.fragment.claims().map(|(key, _)| key), owner);
            if lost != standing.lost {
                let news = lost.iter().filter(|loss| !standing.lost.contains(loss));
                work.complaints.extend(news.filter_map(|(key, other)| complaint(owner, key, other)));
                Arc::make_mut(standing).lost = lost;
            }
        }
    }

    fn finish(&mut self, work: Work, ground: Option<Ground>) -> Changes {
        let mut left = Vec::new();
        let mut shift = self.stock.shift();
        for Touched { owner, old, new } in &work.touched {
            left.extend(unbound(old.as_deref(), new.as_deref()));
            rewrite(owner, old.as_deref(), new.as_deref(), &mut shift);
        }
        let news = ground.filter(|ground| self.ground.as_ref() != Some(ground));
        let mut redraw = work.redraw || news.is_some();
        if let Some(ground) = news {
            let before = self.ground.as_ref().map(Ground::elements).unwrap_or_default();
            shift.replace(Signed { owner: None, comment: &|elem| ground.comment(elem) }, &before, &ground.elements());
            self.ground = Some(ground);
        }
        let (writing, is_stirred) = shift.finish();
        redraw |= is_stirred;
        self.stand(work.touched);
        Changes { transaction: self.draw(writing, redraw), left, complaints: work.complaints }
    }

    /// What was new stands from now on.
    fn stand(&mut self, touched: Vec<Touched>) {
        if self.standing.is_empty() {
            // All at once: a quarter of the time of one by one.
            let new = touched.into_iter().filter_map(|touched| Some((touched.owner, touched.new?)));
            self.standing = new.collect();
            return;
        }
        for Touched { owner, new, .. } in touched {
            match new {
                Some(new) => self.standing.insert(owner, new),
                None => self.standing.remove(&owner),
            };
        }
    }

    /// The steps, with those of chains and sets around them if these are to be drawn again.
    fn draw(&mut self, writing: Writing, redraw: bool) -> Transaction {
        let mut transaction = Transaction::default();
        match self.ground.as_ref().filter(|_| redraw) {
            Some(ground) => {
                let new = fixed::skeleton(&self.options, ground, &self.stock.in_use);
                let old = std::mem::replace(&mut self.skeleton, new);
                if old.sets.is_empty() {
                    transaction.push(Step::AddTable, None);
                }
                old.becomes(&self.skeleton, writing, &mut transaction);
            }
            None => writing.finish(&mut transaction),
        }
        transaction
    }
}

/// What one update has to look at.
#[derive(Default)]
struct Work {
    /// Service ports whose elements may differ, each once, in the order of writing.
    touched: Vec<Touched>,
    /// Service ports that lost a claim to another, or got it back.
    moved: Vec<Owner>,
    complaints: Vec<Complaint>,
    redraw: bool,
}

/// A service port before and after an update.
struct Touched {
    owner: Owner,
    old: Option<Arc<Standing>>,
    new: Option<Arc<Standing>>,
}

impl Standing {
    fn is_lost(&self, key: &Key) -> bool {
        self.lost.iter().any(|(lost, _)| lost == key)
    }

    fn elements(&self) -> Vec<Elem> {
        self.fragment.elements(&|key| self.is_lost(key))
    }

    fn bindings(&self) -> Vec<(u32, Target)> {
        self.fragment.bindings(&|key| self.is_lost(key))
    }

    fn comment(&self, set: SetId) -> Option<Text> {
        match set {
            SetId::Hairpin => None,
            SetId::ClusterIps => self.fragment.cluster_ip.as_ref().map(|(_, name)| name.clone()),
            _ => Some(self.fragment.comment.clone()),
        }
    }
}

fn surroundings(family: Family, snapshot: &Snapshot) -> Surroundings {
    let zone = snapshot.own_node().and_then(|node| node.zone.clone());
    Surroundings {
        family,
        place: Place { node: snapshot.settings.node.clone(), zone },
        node_ip: snapshot.primary_address(family),
        proxy: snapshot.settings.proxy.clone(),
    }
}

fn rewrite(owner: &Owner, old: Option<&Standing>, new: Option<&Standing>, shift: &mut Shift<'_>) {
    let elements = |standing: Option<&Standing>| standing.map(Standing::elements).unwrap_or_default();
    let comment = |elem: &Elem| new.and_then(|new| new.comment(elem.set));
    shift.replace(Signed { owner: Some(owner), comment: &comment }, &elements(old), &elements(new));
}

/// Bindings that were right and are no more.
fn unbound(old: Option<&Standing>, new: Option<&Standing>) -> Vec<(u32, Target)> {
    let Some(old) = old.filter(|old| old.fragment.affinity.is_some()) else { return Vec::new() };
    let still: BTreeSet<(u32, Target)> = new.map(Standing::bindings).unwrap_or_default().into_iter().collect();
    old.bindings().into_iter().filter(|binding| !still.contains(binding)).collect()
}

fn complaint(loser: &Owner, key: &Key, other: &Owner) -> Option<Complaint> {
    let what = match key {
        Key::Dest(addr, proto, port) => format!("{}/{proto}", std::net::SocketAddr::new(*addr, *port)),
        Key::Port(proto, port) => format!("node port {port}/{proto}"),
        _ => return None,
    };
    let message = format!(
        "{what} of {loser} belongs to {other}, whose name comes first: what is sent there goes to {other}; \
         take it out of one of the two"
    );
    let object = ObjectRef { kind: ObjectKind::Service, key: loser.service.clone() };
    Some(Complaint { object, reason: "DestinationTaken".into(), message })
}

/// The slots in which the kernel holds a fragment's two lists; empty where it holds none.
fn held_by(kernel: &Table, fragment: &Fragment) -> (Vec<Target>, Vec<Target>) {
    let mut lists = (Vec::new(), Vec::new());
    for (door, destination, is_local) in fragment.ways() {
        let list = if is_local { &mut lists.1 } else { &mut lists.0 };
        if list.is_empty() {
            *list = slots_of(kernel, door, destination);
        }
    }
    lists
}

fn slots_of(kernel: &Table, door: Door, destination: Key) -> Vec<Target> {
    let Some(set) = kernel.sets.get(&door.endpoints().name()) else { return Vec::new() };
    let slot = |slot: u32| match set.elements.get(&service::slot_key(destination, slot)) {
        Some((Some(Data::Endpoint(addr, port)), _)) => Some(Target { addr: *addr, port: *port }),
        _ => None,
    };
    (0..).map_while(slot).collect()
}
