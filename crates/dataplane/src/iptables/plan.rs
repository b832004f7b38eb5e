//! Plan: the whole rule set of one family as fragments by service port, and the changes that an update makes to it.
//!
//! ```text
//!  Snapshot + Delta ──► fragments of the touched Services ──┬─► own chains that differ ──────────────┬─► Vec<Change>
//!                                                           └─► shared chains whose share differs ──┘
//! ```
//!
//! The cost follows the change: an endpoint that comes or goes writes its Service's chains and no shared one. Services
//! stand in the shared chains in the order of their keys, so the same cluster always gives the same rules.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use portolan_model::{Complaint, Delta, Family, NsName, ServicePortKey, Snapshot};

use crate::choose::Place;
use crate::claims::{Claims, Destination};
use crate::iptables::fixed::Ground;
use crate::iptables::hooks::{self, End};
use crate::iptables::host_ports::HostPorts;
use crate::iptables::local::Local;
use crate::iptables::options::{DnsPath, Options};
use crate::iptables::rule::{Chain, Change, Rule};
use crate::iptables::service::{self, EndpointComments, Fragment, Surroundings};
use crate::iptables::{fixed, names, render};

/// Chains with their rules.
pub type RuleSet = BTreeMap<Chain, Vec<Rule>>;

/// The rules one node must hold in one family.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Desired {
    family: Family,
    options: Options,
    /// What all fragments were planned with; `None` before the first update.
    around: Option<Surroundings>,
    /// What the rules that are no Service's were planned with; `None` before the first update.
    ground: Option<Ground>,
    fixed: RuleSet,
    host_ports: HostPorts,
    host_port_chains: RuleSet,
    claims: Claims,
    fragments: BTreeMap<ServicePortKey, Arc<Fragment>>,
    /// Endpoints over all fragments.
    endpoints: usize,
}

impl Desired {
    /// Nothing planned yet: the first update gives the whole set.
    pub fn new(family: Family, options: Options) -> Self {
        Self {
            family,
            options,
            around: None,
            ground: None,
            fixed: RuleSet::new(),
            host_ports: HostPorts::default(),
            host_port_chains: RuleSet::new(),
            claims: Claims::default(),
            fragments: BTreeMap::new(),
            endpoints: 0,
        }
    }

    /// The rules of `snapshot` from scratch.
    pub fn of(family: Family, options: Options, snapshot: &Snapshot) -> Self {
        let mut desired = Self::new(family, options);
        desired.update(snapshot, &Delta::all(snapshot));
        desired
    }

    /// Takes in what changed and says which chains change with it, by table and name. A change of our own Node's zone
    /// or address, or a crossing of the comment limit, plans every Service again.
    pub fn update(&mut self, snapshot: &Snapshot, delta: &Delta) -> Vec<Change> {
        let touched = self.touched_total(snapshot, delta);
        let around = self.surroundings(snapshot, touched);
        let mut services = match self.around.as_ref() == Some(&around) {
            true => delta.services.clone(),
            false => self.every_service(snapshot, delta),
        };
        self.settle_claims(snapshot, delta, &mut services);
        let mut writing = Writing::default();
        if self.around.is_none() {
            writing.dirty.extend(fixed::dispatch_chains());
        }
        for key in &services {
            self.replan(snapshot, key, &around, &mut writing);
        }
        if self.host_ports.update(snapshot, delta, self.family) || self.around.is_none() {
            self.refresh_host_ports(&mut writing);
        }
        self.around = Some(around);
        self.stand_on(Ground::of(snapshot, self.family), &mut writing);
        self.refresh_fixed(&mut writing);
        self.finish(writing)
    }

    /// Says who answers cluster DNS from now on.
    pub fn set_dns(&mut self, dns: DnsPath) -> Vec<Change> {
        self.options.dns = dns;
        let mut writing = Writing::default();
        self.refresh_fixed(&mut writing);
        self.finish(writing)
    }

    /// Whose rules these are.
    pub fn family(&self) -> Family {
        self.family
    }

    /// Node ports and host ports answer on 127.0.0.1 too: the agent must let the kernel route it (`route_localnet`).
    pub fn opens_loopback(&self) -> bool {
        self.ground.as_ref().is_some_and(Ground::opens_loopback)
    }

    /// What is wrong with single Services: destinations that another has. They are looked up anew at each call.
    pub fn complaints(&self) -> Vec<Complaint> {
        self.claims.complaints()
    }

    /// Those of them that concern destinations which `services` claim.
    pub fn complaints_over(&self, services: &BTreeSet<NsName>) -> Vec<Complaint> {
        self.claims.complaints_over(services)
    }

    /// What they were planned with.
    pub fn options(&self) -> &Options {
        &self.options
    }

    /// All chains of ours, without the built-in chains' hooks.
    pub fn chains(&self) -> RuleSet {
        let mut all = self.fixed.clone();
        all.extend(self.host_port_chains.clone());
        if self.around.is_some() {
            all.extend(fixed::dispatch_chains().map(|chain| (chain.clone(), self.dispatch(&chain))));
        }
        for fragment in self.fragments.values() {
            all.extend(fragment.own.iter().map(|(chain, rules)| (chain.clone(), rules.clone())));
        }
        all
    }

    /// All chains, with the hooks in their built-in chains as they stand when nobody else has rules there.
    pub fn with_hooks(&self) -> RuleSet {
        let mut all = self.chains();
        all.extend(self.hooks_alone());
        all
    }

    /// The built-in chains with the hooks alone.
    fn hooks_alone(&self) -> RuleSet {
        let mut all = RuleSet::new();
        for hook in hooks::wanted(self) {
            let rules = all.entry(hook.chain).or_default();
            let at = if hook.end == End::Front { 0 } else { rules.len() };
            rules.insert(at, hook.rule);
        }
        all
    }

    /// Every chain as a change: what programs a kernel of which nothing is known.
    pub fn all(&self) -> Vec<Change> {
        self.chains().into_iter().map(|(chain, rules)| Change::Set { chain, rules }).collect()
    }

    /// The service port and its rules that `chain` belongs to, if it is one of a Service.
    pub fn owner(&self, chain: &Chain) -> Option<&ServicePortKey> {
        if !names::is_of_service(&chain.name) {
            return None;
        }
        self.fragments.iter().find(|(_, fragment)| fragment.own.contains_key(chain)).map(|(key, _)| key)
    }

    /// The rules of one chain, hooks for a built-in one; `None` if nothing of ours is there.
    pub fn rules(&self, chain: &Chain) -> Option<Vec<Rule>> {
        if render::is_built_in(&chain.name) {
            return self.hooks_alone().remove(chain);
        }
        if self.around.is_some() && fixed::dispatch_chains().contains(chain) {
            return Some(self.dispatch(chain));
        }
        let shared = self.fixed.get(chain).or_else(|| self.host_port_chains.get(chain));
        let own = || self.fragments.get(self.owner(chain)?)?.own.get(chain);
        shared.or_else(own).cloned()
    }

    /// What the service port `key` contributes.
    pub(super) fn fragment(&self, key: &ServicePortKey) -> Option<&Fragment> {
        self.fragments.get(key).map(|fragment| &**fragment)
    }

    /// Whose `destination` is.
    pub(super) fn owner_of_destination(&self, destination: Destination) -> Option<&ServicePortKey> {
        self.claims.owner(destination)
    }

    /// The chains that are one Service's alone, port by port.
    pub(super) fn own_chains(&self, service: &NsName) -> impl Iterator<Item = (&Chain, &Vec<Rule>)> {
        self.fragments_of(service).flat_map(|(_, fragment)| &fragment.own)
    }

    /// The rules of one Service in the dispatch chains, each with its place there from 0.
    pub(super) fn shared_rules(&self, service: &NsName) -> Vec<(Chain, usize, &Rule)> {
        let mut found = Vec::new();
        for chain in fixed::dispatch_chains() {
            let shares = self.fragments.iter().filter_map(|(key, fragment)| Some((key, fragment.shared.get(&chain)?)));
            let rules = shares.flat_map(|(key, rules)| rules.iter().map(move |rule| (key, rule)));
            let own = rules.enumerate().filter(|(_, (key, _))| key.service == *service);
            found.extend(own.map(|(index, (_, rule))| (chain.clone(), index, rule)));
        }
        found
    }

    /// Chains of the pods' host ports.
    pub(super) fn host_port_chains(&self) -> &RuleSet {
        &self.host_port_chains
    }

    /// Endpoints over all service ports after `delta`.
    fn touched_total(&self, snapshot: &Snapshot, delta: &Delta) -> usize {
        let proxy = &snapshot.settings.proxy;
        if self.around.is_none() {
            return snapshot.services.values().map(|view| service::endpoint_count(view, self.family, proxy)).sum();
        }
        let before: usize =
            delta.services.iter().flat_map(|key| self.fragments_of(key)).map(|(_, f)| f.endpoints).sum();
        let views = delta.services.iter().filter_map(|key| snapshot.services.get(key));
        let after: usize = views.map(|view| service::endpoint_count(view, self.family, proxy)).sum();
        self.endpoints - before + after
    }

    fn surroundings(&self, snapshot: &Snapshot, endpoints: usize) -> Surroundings {
        let node = snapshot.own_node();
        Surroundings {
            family: self.family,
            place: Place { node: snapshot.settings.node.clone(), zone: node.and_then(|node| node.zone.clone()) },
            node_ip: snapshot.primary_address(self.family),
            local: Local::of(snapshot, self.family),
            proxy: snapshot.settings.proxy.clone(),
            endpoint_comments: match endpoints > self.options.comment_limit {
                true => EndpointComments::LeftOff,
                false => EndpointComments::Written,
            },
        }
    }

    /// All Services there are and were, and those that are only now gone.
    fn every_service(&self, snapshot: &Snapshot, delta: &Delta) -> BTreeSet<NsName> {
        let known = self.fragments.keys().map(|key| key.service.clone());
        snapshot.services.keys().chain(&delta.services).cloned().chain(known).collect()
    }

    /// Takes in what the Services that changed claim, and adds to `services` those that won or lost by it.
    fn settle_claims(&mut self, snapshot: &Snapshot, delta: &Delta, services: &mut BTreeSet<NsName>) {
        let proxy = &snapshot.settings.proxy;
        for key in &delta.services {
            let view = snapshot.services.get(key).map(|view| &**view);
            self.claims.replace(key, view, self.family, proxy, services);
        }
    }

    fn stand_on(&mut self, ground: Ground, writing: &mut Writing) {
        let old = self.ground.replace(ground);
        let tails = |ground: &Ground| fixed::dispatch_chains().map(|chain| fixed::tail(&chain, ground));
        let moved = self.ground.as_ref().map(tails) != old.as_ref().map(tails);
        writing.dirty.extend(moved.then(|| Chain::nat(names::SERVICES)));
    }

    fn replan(&mut self, snapshot: &Snapshot, service: &NsName, around: &Surroundings, writing: &mut Writing) {
        let view = snapshot.services.get(service);
        let mut planned = view.map(|view| service::fragments(view, around, &self.claims)).unwrap_or_default();
        let known: Vec<ServicePortKey> = self.fragments_of(service).map(|(key, _)| key.clone()).collect();
        for key in known {
            let new = planned.remove(&key);
            self.put(key, new, writing);
        }
        for (key, fragment) in planned {
            self.put(key, Some(fragment), writing);
        }
    }

    fn put(&mut self, key: ServicePortKey, new: Option<Fragment>, writing: &mut Writing) {
        let old = self.fragments.get(&key).cloned().unwrap_or_default();
        let fresh = new.clone().unwrap_or_default();
        self.endpoints = self.endpoints - old.endpoints + fresh.endpoints;
        writing.own_chains(&old.own, &fresh.own);
        writing.shares(&old.shared, &fresh.shared);
        match new {
            Some(fragment) => self.fragments.insert(key, Arc::new(fragment)),
            None => self.fragments.remove(&key),
        };
    }

    fn fragments_of(&self, service: &NsName) -> impl Iterator<Item = (&ServicePortKey, &Arc<Fragment>)> {
        let first = ServicePortKey { service: service.clone(), port: "".into(), proto: portolan_model::Proto::Tcp };
        self.fragments.range(first..).take_while(move |(key, _)| key.service == *service)
    }

    fn refresh_fixed(&mut self, writing: &mut Writing) {
        let Some(ground) = &self.ground else { return };
        let new = fixed::chains(&self.options, ground);
        writing.own_chains(&self.fixed, &new);
        self.fixed = new;
    }

    fn refresh_host_ports(&mut self, writing: &mut Writing) {
        let new = self.host_ports.chains(self.family);
        writing.own_chains(&self.host_port_chains, &new);
        self.host_port_chains = new;
    }

    fn dispatch(&self, chain: &Chain) -> Vec<Rule> {
        let shares = self.fragments.values().filter_map(|fragment| fragment.shared.get(chain));
        let mut rules: Vec<Rule> = shares.flatten().cloned().collect();
        rules.extend(self.ground.iter().flat_map(|ground| fixed::tail(chain, ground)));
        rules
    }

    fn finish(&self, writing: Writing) -> Vec<Change> {
        let mut changes = writing.changes;
        for chain in writing.dirty {
            let rules = self.dispatch(&chain);
            changes.insert(chain.clone(), Change::Set { chain, rules });
        }
        changes.into_values().collect()
    }
}

/// What an update has to write.
#[derive(Default)]
struct Writing {
    changes: BTreeMap<Chain, Change>,
    /// Shared chains to put together again.
    dirty: BTreeSet<Chain>,
}

impl Writing {
    fn own_chains(&mut self, old: &RuleSet, new: &RuleSet) {
        for (chain, rules) in new.iter().filter(|(chain, rules)| old.get(*chain) != Some(*rules)) {
            self.changes.insert(chain.clone(), Change::Set { chain: chain.clone(), rules: rules.clone() });
        }
        for chain in old.keys().filter(|chain| !new.contains_key(*chain)) {
            self.changes.insert(chain.clone(), Change::Remove { chain: chain.clone() });
        }
    }

    fn shares(&mut self, old: &RuleSet, new: &RuleSet) {
        let differs = |chain: &Chain| old.get(chain) != new.get(chain);
        self.dirty.extend(fixed::dispatch_chains().into_iter().filter(differs));
    }
}
