//! Pods that ask: whom a query's link or address belongs to, and the search list that the pod's resolver goes through.
//!
//! A link is certain: nobody else sends by a pod's veth. An address is believed only where no link is known, as it may
//! have been another pod's a moment ago.
//!
//! Maps are persistent, so that a changed pod costs its own entries and a clone costs nothing.

mod frequent;

use std::net::IpAddr;
use std::ops::Deref;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use imbl::OrdMap;
use portolan_model::NsName;

use crate::client::Client;
use crate::name::Name;
use crate::pods::frequent::Frequent;
use crate::site::is_under;

/// A pod as its resolver is set up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientPod {
    /// Its namespace and name.
    pub key: NsName,
    /// Index of its veth's end on the node; 0 if it has none or nobody knows.
    pub link: u32,
    /// Its addresses, of which queries may come.
    pub addresses: Vec<IpAddr>,
    /// `search` of its resolv.conf, in order.
    pub search: Vec<Name>,
    /// `options ndots:N` of its resolv.conf; 1 where it says nothing (resolv.conf(5)).
    pub ndots: u8,
}

/// A pod with what was counted of its queries.
#[derive(Debug)]
pub struct KnownPod {
    pod: ClientPod,
    /// A pod that changes keeps it.
    asked: Arc<Asked>,
}

/// What a pod asked.
#[derive(Debug, Default)]
struct Asked {
    queries: AtomicU64,
    wasted: AtomicU64,
    /// What was asked for in vain, without the search domain.
    in_vain: Mutex<Frequent>,
}

impl KnownPod {
    /// Queries that came from it, and how many of them were steps of its search list that ended in "no such name".
    pub fn counts(&self) -> (u64, u64) {
        (self.asked.queries.load(Ordering::Relaxed), self.asked.wasted.load(Ordering::Relaxed))
    }

    /// Names that were most often asked for in vain, as the pod's programs gave them, with how often a step of the search
    /// list failed for each: [`frequent::SEATS`] at most, the most frequent first.
    pub fn wasted_names(&self) -> Vec<(Name, u64)> {
        self.asked.in_vain.lock().unwrap_or_else(PoisonError::into_inner).names()
    }

    /// Counts one query. `in_vain`: it was a step of the search list that led nowhere, for the name of these labels.
    pub(crate) fn count(&self, in_vain: Option<&[u8]>) {
        self.asked.queries.fetch_add(1, Ordering::Relaxed);
        let Some(labels) = in_vain else { return };
        self.asked.wasted.fetch_add(1, Ordering::Relaxed);
        // Who answers never waits: a pod that asks by two threads at once loses a count here.
        if let Ok(mut names) = self.asked.in_vain.try_lock() {
            names.count(labels);
        }
    }

    /// Labels in front of the longest search domain that `name`, as in a packet, is below; `None`: below none.
    pub(crate) fn searched<'n>(&self, name: &'n [u8]) -> Option<&'n [u8]> {
        let domains = self.pod.search.iter().map(Name::as_wire).filter(|domain| is_under(name, domain));
        let longest = domains.map(<[u8]>::len).max()?;
        Some(&name[..name.len() - longest])
    }
}

impl Deref for KnownPod {
    type Target = ClientPod;

    fn deref(&self) -> &ClientPod {
        &self.pod
    }
}

/// What became of pods, as one change.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PodsChange {
    /// New pods, and those that differ.
    pub set: Vec<ClientPod>,
    /// Pods that are gone.
    pub gone: Vec<NsName>,
}

/// The pods that may ask here. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Pods {
    by_key: OrdMap<NsName, Arc<KnownPod>>,
    by_link: OrdMap<u32, Arc<KnownPod>>,
    by_addr: OrdMap<IpAddr, Arc<KnownPod>>,
}

impl Pods {
    /// Brings in a change: what is gone first, so that its link and addresses may be another's in the same change.
    pub fn apply(&mut self, change: PodsChange) {
        for key in &change.gone {
            self.remove(key);
        }
        for pod in change.set {
            let asked = self.by_key.get(&pod.key).map(|known| known.asked.clone()).unwrap_or_default();
            self.remove(&pod.key);
            let pod = Arc::new(KnownPod { pod, asked });
            if pod.link != 0 {
                self.by_link.insert(pod.link, pod.clone());
            }
            for addr in &pod.addresses {
                self.by_addr.insert(*addr, pod.clone());
            }
            self.by_key.insert(pod.key.clone(), pod);
        }
    }

    /// Who asks: by its link if a pod has it, else by its address.
    pub fn of(&self, client: &Client) -> Option<&Arc<KnownPod>> {
        let by_link = if client.link == 0 { None } else { self.by_link.get(&client.link) };
        by_link.or_else(|| self.by_addr.get(&client.ip()))
    }

    /// The pod of this name.
    pub fn get(&self, key: &NsName) -> Option<&Arc<KnownPod>> {
        self.by_key.get(key)
    }

    /// All of them, by name.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<KnownPod>> {
        self.by_key.values()
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.by_key.len()
    }

    /// There are none.
    pub fn is_empty(&self) -> bool {
        self.by_key.is_empty()
    }

    /// Takes a pod out; what another pod has taken over meanwhile stays the other's.
    fn remove(&mut self, key: &NsName) {
        let Some(pod) = self.by_key.remove(key) else { return };
        if self.by_link.get(&pod.link).is_some_and(|at| at.key == *key) {
            self.by_link.remove(&pod.link);
        }
        for addr in &pod.addresses {
            if self.by_addr.get(addr).is_some_and(|at| at.key == *key) {
                self.by_addr.remove(addr);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::Transport;

    fn pod(name: &str, link: u32, addr: &str) -> ClientPod {
        let addresses = vec![addr.parse().expect("an address")];
        ClientPod { key: NsName::new("default", name), link, addresses, search: Vec::new(), ndots: 5 }
    }

    fn who(pods: &Pods, link: u32, addr: &str) -> Option<String> {
        let addr = (addr.parse::<IpAddr>().expect("an address"), 40_000).into();
        let client = Client { addr, local: ([10, 96, 0, 10], 53).into(), transport: Transport::Udp, link };
        pods.of(&client).map(|pod| pod.key.name.to_string())
    }

    #[test]
    fn a_pod_is_known_by_its_link_before_its_address() {
        let mut pods = Pods::default();
        pods.apply(PodsChange { set: vec![pod("a", 7, "10.244.0.5"), pod("b", 8, "fd00::6")], gone: vec![] });
        assert_eq!(who(&pods, 7, "10.244.0.5").as_deref(), Some("a"));
        assert_eq!(who(&pods, 8, "10.244.0.5").as_deref(), Some("b"), "the link is certain");
        assert_eq!(who(&pods, 0, "10.244.0.5").as_deref(), Some("a"));
        assert_eq!(who(&pods, 0, "fd00::6").as_deref(), Some("b"));
        assert_eq!(who(&pods, 9, "10.244.0.9"), None);
    }

    #[test]
    fn what_was_asked_in_vain_is_told_as_a_program_gave_it_and_outlives_a_change() {
        let search = ["shop.svc.cluster.local", "svc.cluster.local", "cluster.local"];
        let search: Vec<Name> = search.iter().map(|name| Name::parse(name).expect("a name")).collect();
        let shopper = |link| ClientPod { search: search.clone(), ..pod("a", link, "10.244.0.5") };
        let mut pods = Pods::default();
        pods.apply(PodsChange { set: vec![shopper(7)], gone: vec![] });
        let key = NsName::new("default", "a");
        let known = pods.get(&key).expect("it was set").clone();
        for asked in ["www.a.b.shop.svc.cluster.local", "www.a.b.svc.cluster.local", "www.a.b.cluster.local", "x.y.z"] {
            let name = Name::parse(asked).expect("a name");
            known.count(known.searched(name.as_wire()));
        }
        known.count(known.searched(search[0].as_wire()));
        pods.apply(PodsChange { set: vec![shopper(9)], gone: vec![] });
        let known = pods.get(&key).expect("it is still there");
        assert_eq!(known.counts(), (5, 4), "of the search domain itself, what is before the next shorter one");
        let names: Vec<_> = known.wasted_names().iter().map(|(name, count)| (name.to_string(), *count)).collect();
        assert_eq!(names, [("www.a.b.".to_owned(), 3), ("shop.".to_owned(), 1)]);
    }

    #[test]
    fn a_link_or_address_that_another_pod_took_over_stays_its_own() {
        let mut pods = Pods::default();
        pods.apply(PodsChange { set: vec![pod("old", 7, "10.244.0.5")], gone: vec![] });
        pods.apply(PodsChange { set: vec![pod("new", 7, "10.244.0.5")], gone: vec![] });
        pods.apply(PodsChange { set: vec![], gone: vec![NsName::new("default", "old")] });
        assert_eq!(who(&pods, 7, "10.244.0.5").as_deref(), Some("new"));
        assert_eq!(who(&pods, 0, "10.244.0.5").as_deref(), Some("new"));
        pods.apply(PodsChange { set: vec![pod("new", 9, "10.244.0.6")], gone: vec![] });
        assert_eq!(who(&pods, 7, "10.244.0.5"), None, "where it was before");
        assert_eq!((pods.len(), who(&pods, 9, "10.244.0.6").as_deref()), (1, Some("new")));
    }
}
