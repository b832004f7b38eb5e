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
use std::sync::Arc;

use portolan_model::{Complaint, Delta, Family, NsName, ObjectKind, ObjectRef, ServicePortKey, Snapshot, Text};

use crate::choose::Place;
use crate::nftables::changes::{self, Changes, Transaction};
use crate::nftables::claims::{Claims, Rank};
use crate::nftables::fixed::{self, Ground, Skeleton};
use crate::nftables::lang::{Data, Key, Set, Step, Table};
use crate::nftables::names::{Door, SetId, TABLE};
use crate::nftables::options::{DnsPath, Options};
use crate::nftables::service::{self, Elem, Fragment, Owner, Surroundings};
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
        let known: Vec<Owner> = self.owners_of(service).cloned().collect();
        let held = |key: &ServicePortKey| -> service::Held<'_> {
            match self.standing.get(key) {
                Some(standing) => (&standing.fragment.cluster, &standing.fragment.local),
                None => (&[], &[]),
            }
        };
        let view = snapshot.services.get(service);
        let planned = view.map(|view| service::fragments(view, around, held)).unwrap_or_default();
        for owner in &known {
            if planned.iter().all(|(key, _)| key != &**owner) {
                self.put(owner.clone(), None, work);
            }
        }
        for (key, fragment) in planned {
            let owner = known.iter().find(|owner| ***owner == key).cloned().unwrap_or_else(|| Arc::new(key));
            self.put(owner, Some(fragment), work);
        }
    }

    fn owners_of(&self, service: &NsName) -> impl Iterator<Item = &Owner> {
        let first = ServicePortKey { service: service.clone(), port: "".into(), proto: portolan_model::Proto::Tcp };
        let from = (std::ops::Bound::Included(first), std::ops::Bound::Unbounded);
        self.standing
            .range::<ServicePortKey, _>(from)
            .map(|(owner, _)| owner)
            .take_while(|owner| owner.service == *service)
    }

    /// Replaces a fragment and lets others know which of its claims came free, or are no longer theirs.
    fn put(&mut self, owner: Owner, new: Option<Fragment>, work: &mut Work) {
        let old = self.standing.get(&owner).cloned();
        if old.as_ref().map(|standing| &standing.fragment) == new.as_ref() {
            return;
        }
        let before: BTreeSet<(Key, Rank)> = old.iter().flat_map(|standing| standing.fragment.claims()).collect();
        let after: BTreeSet<(Key, Rank)> = new.iter().flat_map(Fragment::claims).collect();
        for (key, _) in before.difference(&after) {
            work.moved.extend(self.claims.release(*key, &owner));
        }
        for (key, rank) in after.difference(&before) {
            work.moved.extend(self.claims.claim(*key, *rank, &owner));
        }
        match new {
            Some(fragment) => {
                let lost = old.as_ref().map(|standing| standing.lost.clone()).unwrap_or_default();
                self.standing.insert(owner.clone(), Arc::new(Standing { fragment, lost }))
            }
            None => self.standing.remove(&owner),
        };
        work.note(owner, old);
    }

    /// Every fragment whose claims moved learns what is another's.
    fn settle(&mut self, work: &mut Work) {
        for owner in std::mem::take(&mut work.moved) {
            let old = self.standing.get(&owner).cloned();
            work.note(owner, old);
        }
        for (owner, _) in &work.touched {
            let Some(standing) = self.standing.get_mut(owner) else { continue };
            let is_others = |key: Key| {
                let other = self.claims.owner(&key).filter(|other| *other != owner)?;
                Some((key, other.clone()))
            };
            let lost: Vec<(Key, Owner)> = standing.fragment.claims().filter_map(|(key, _)| is_others(key)).collect();
            if lost != standing.lost {
                let news = lost.iter().filter(|loss| !standing.lost.contains(loss));
                work.complaints.extend(news.filter_map(|(key, other)| complaint(owner, key, other)));
                Arc::make_mut(standing).lost = lost;
            }
        }
    }

    fn finish(&mut self, work: Work, ground: Option<Ground>) -> Changes {
        let is_first = self.skeleton.sets.is_empty();
        let mut left = Vec::new();
        let mut shift = self.stock.shift();
        for (owner, old) in &work.touched {
            let new = self.standing.get(owner);
            left.extend(unbound(old.as_deref(), new.map(|new| &**new)));
            rewrite(owner, old.as_deref(), new.map(|new| &**new), &mut shift);
        }
        let news = ground.filter(|ground| self.ground.as_ref() != Some(ground));
        let is_moved = news.is_some();
        if let Some(ground) = news {
            let before = self.ground.as_ref().map(Ground::elements).unwrap_or_default();
            shift.replace(Signed { owner: None, comment: &|elem| ground.comment(elem) }, &before, &ground.elements());
            self.ground = Some(ground);
        }
        let (writing, redraw) = shift.finish();
        let mut transaction = Transaction::default();
        match self.ground.as_ref().filter(|_| redraw || is_moved || work.redraw) {
            Some(ground) => {
                let new = fixed::skeleton(&self.options, ground, &self.stock.in_use);
                let old = std::mem::replace(&mut self.skeleton, new);
                if is_first {
                    transaction.push(Step::AddTable, None);
                }
                old.becomes(&self.skeleton, writing, &mut transaction);
            }
            None => writing.finish(&mut transaction),
        }
        Changes { transaction, left, complaints: work.complaints }
    }
}

/// What one update has to look at.
#[derive(Default)]
struct Work {
    /// Service ports whose elements may differ, with what stood before, in the order of writing.
    touched: Vec<(Owner, Option<Arc<Standing>>)>,
    noted: BTreeSet<Owner>,
    /// Service ports that lost a claim to another, or got it back.
    moved: Vec<Owner>,
    complaints: Vec<Complaint>,
    redraw: bool,
}

impl Work {
    /// The first note of an owner holds what stood before the update.
    fn note(&mut self, owner: Owner, old: Option<Arc<Standing>>) {
        if self.noted.insert(owner.clone()) {
            self.touched.push((owner, old));
        }
    }
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
