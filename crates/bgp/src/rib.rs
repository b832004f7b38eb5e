//! The RIBs: what each peer told us (Adj-RIB-In), and the one path per prefix that we use (Loc-RIB).
//!
//! ```text
//!  announce / withdraw / drop_peer ──► candidates by prefix and peer ──► dirty ──► settle ──► changes of the best path
//! ```
//!
//! Must never know messages or sessions. Spec: RFC 4271 §9.1.2 without IGP cost; MED is compared between all paths, so
//! that the order of preference is total and the result does not depend on the order of arrival.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};

use ipnet::IpNet;
use portolan_model::LearnedRoute;

use crate::config::Export;

/// One peer's path to a prefix: what the choice between paths looks at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Path {
    /// Next hop.
    pub gateway: IpAddr,
    /// LOCAL_PREF; higher wins.
    pub local_pref: u32,
    /// ASes on the way, a set counting as one (RFC 4271 §9.1.2.2 a).
    pub as_path_len: u32,
    /// ORIGIN: 0 IGP, 1 EGP, 2 incomplete; lower wins.
    pub origin: u8,
    /// MULTI_EXIT_DISC; lower wins, 0 if there is none.
    pub med: u32,
    /// Learned over eBGP, which wins over iBGP.
    pub external: bool,
    /// ORIGINATOR_ID, or else the peer's BGP Identifier (RFC 4456 §9).
    pub router_id: Ipv4Addr,
}

impl Path {
    /// Sorts the better path first: RFC 4271 §9.1.2.2, then the lowest peer address.
    fn rank(&self, peer: IpAddr) -> impl Ord + use<> {
        (
            Reverse(self.local_pref),
            self.as_path_len,
            self.origin,
            self.med,
            Reverse(self.external),
            self.router_id,
            peer,
        )
    }
}

/// All paths of all peers, and the chosen ones.
#[derive(Clone, Debug, Default)]
pub(crate) struct Rib {
    paths: BTreeMap<IpNet, BTreeMap<IpAddr, Path>>,
    by_peer: BTreeMap<IpAddr, BTreeSet<IpNet>>,
    best: BTreeMap<IpNet, LearnedRoute>,
    dirty: BTreeSet<IpNet>,
}

impl Rib {
    /// Takes `peer`'s path to `prefix`, in place of an earlier one.
    pub fn announce(&mut self, peer: IpAddr, prefix: IpNet, path: Path) {
        let old = self.paths.entry(prefix).or_default().insert(peer, path.clone());
        self.by_peer.entry(peer).or_default().insert(prefix);
        if old.as_ref() != Some(&path) {
            self.dirty.insert(prefix);
        }
    }

    /// Forgets `peer`'s path to `prefix`, if there is one.
    pub fn withdraw(&mut self, peer: IpAddr, prefix: IpNet) {
        let Some(candidates) = self.paths.get_mut(&prefix) else { return };
        if candidates.remove(&peer).is_none() {
            return;
        }
        if candidates.is_empty() {
            self.paths.remove(&prefix);
        }
        if let Some(known) = self.by_peer.get_mut(&peer) {
            known.remove(&prefix);
        }
        self.dirty.insert(prefix);
    }

    /// Forgets all that `peer` told us: its session is gone.
    pub fn drop_peer(&mut self, peer: IpAddr) {
        for prefix in self.by_peer.get(&peer).cloned().unwrap_or_default() {
            self.withdraw(peer, prefix);
        }
        self.by_peer.remove(&peer);
    }

    /// Has `prefix` looked at again: whether it is our own changed.
    pub fn touch(&mut self, prefix: IpNet) {
        self.dirty.insert(prefix);
    }

    /// What `peer` told us, of which `wanted` is true.
    pub fn prefixes_of(&self, peer: IpAddr, wanted: impl Fn(&IpNet) -> bool) -> BTreeSet<IpNet> {
        self.by_peer.get(&peer).into_iter().flatten().copied().filter(wanted).collect()
    }

    /// How many prefixes `peer` told us.
    pub fn count_of(&self, peer: IpAddr) -> usize {
        self.by_peer.get(&peer).map_or(0, BTreeSet::len)
    }

    /// Chooses again for each prefix that changed and returns the choices that differ. A prefix of `own` is ours: what
    /// peers say of it is never used. The work is the changed prefixes times their peers.
    pub fn settle(&mut self, own: &BTreeMap<IpNet, Export>) -> Vec<(IpNet, Option<LearnedRoute>)> {
        let dirty = std::mem::take(&mut self.dirty);
        dirty.into_iter().filter_map(|prefix| self.choose(prefix, own).map(|change| (prefix, change))).collect()
    }

    /// The chosen routes, by prefix.
    pub fn routes(&self) -> &BTreeMap<IpNet, LearnedRoute> {
        &self.best
    }

    /// `None`: the choice stays as it was.
    fn choose(&mut self, prefix: IpNet, own: &BTreeMap<IpNet, Export>) -> Option<Option<LearnedRoute>> {
        let candidates = self.paths.get(&prefix).filter(|_| !own.contains_key(&prefix));
        let best = candidates.and_then(|paths| paths.iter().min_by_key(|(peer, path)| path.rank(**peer)));
        let chosen = best.map(|(peer, path)| LearnedRoute::via(path.gateway, *peer));
        if self.best.get(&prefix) == chosen.as_ref() {
            return None;
        }
        match &chosen {
            Some(route) => self.best.insert(prefix, route.clone()),
            None => self.best.remove(&prefix),
        };
        Some(chosen)
    }
}
