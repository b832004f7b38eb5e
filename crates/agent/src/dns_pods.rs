//! Which pods of this node ask cluster DNS, by link, and how their resolvers search: told to the nameserver.
//!
//! ```text
//!  watch: spec ──► search list, ndots ──┐
//!                                       ├─► both known ──► PodsChange ──► nameserver
//!  attach: link, addresses ─────────────┘
//! ```
//!
//! A pod on the node's network has no link of its own, and so is not among them.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

use k8s_openapi::api::core::v1::{Pod, PodSpec};
use portolan_dns::Name;
use portolan_model::{Attachment, NsName};
use portolan_pods::resolv::{ClusterDns, ResolvConf, resolv_conf};
use tracing::debug;

use crate::dns::{self, ClientPod, PodsChange};

/// Most dots that `options ndots:` can ask for (resolv.conf(5)).
const MOST_NDOTS: u8 = 15;

/// What is known of this node's pods, and who is told.
pub(crate) struct DnsPods {
    handle: dns::Handle,
    /// The node's own resolv.conf.
    resolv_conf: PathBuf,
    cluster: ClusterDns,
    known: Mutex<BTreeMap<NsName, Known>>,
}

#[derive(Clone, Debug, Default, PartialEq)]
struct Known {
    resolver: Option<Resolver>,
    attached: Option<Attached>,
}

/// How a pod's resolver searches.
#[derive(Clone, Debug, PartialEq)]
struct Resolver {
    search: Vec<Name>,
    ndots: u8,
}

/// Where a pod's packets come in.
#[derive(Clone, Debug, PartialEq)]
struct Attached {
    link: u32,
    addresses: Vec<std::net::IpAddr>,
}

impl DnsPods {
    pub(crate) fn new(handle: dns::Handle, resolv_conf: PathBuf, cluster: ClusterDns) -> Self {
        Self { handle, resolv_conf, cluster, known: Mutex::default() }
    }

    /// The cluster told of a pod.
    pub(crate) fn told(&self, pod: &Pod) {
        let key = key(pod);
        let node_file = std::fs::read_to_string(&self.resolv_conf).unwrap_or_default();
        let spec = pod.spec.clone().unwrap_or_default();
        let resolver = resolver(&spec, &key.namespace, &node_file, &self.cluster);
        self.change(key, |known| known.resolver = Some(resolver));
    }

    /// The pod's end on this node is the link of index `link`.
    pub(crate) fn attached(&self, key: &NsName, attachment: &Attachment, link: u32) {
        let attached = Attached { link, addresses: attachment.addresses.clone() };
        self.change(key.clone(), |known| known.attached = Some(attached));
    }

    /// The pod has no link any more.
    pub(crate) fn detached(&self, key: &NsName) {
        self.change(key.clone(), |known| known.attached = None);
    }

    /// The pod is no more.
    pub(crate) fn forget(&self, key: &NsName) {
        self.change(key.clone(), |known| known.resolver = None);
    }

    /// Tells what becomes of the pod by `change`, if that is anything.
    fn change(&self, key: NsName, change: impl FnOnce(&mut Known)) {
        let mut all = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let before = all.get(&key).cloned().unwrap_or_default();
        let mut after = before.clone();
        change(&mut after);
        let said = news(&key, &before, &after);
        match after == Known::default() {
            true => all.remove(&key),
            false => all.insert(key, after),
        };
        if let Some(said) = said {
            debug!(?said, "a pod that may ask");
            self.handle.pods(said);
        }
    }
}

/// What the nameserver is to hear.
fn news(key: &NsName, before: &Known, after: &Known) -> Option<PodsChange> {
    let (was, is) = (client(key, before), client(key, after));
    match is {
        _ if was == is => None,
        Some(pod) => Some(PodsChange { set: vec![pod], gone: Vec::new() }),
        None => Some(PodsChange { set: Vec::new(), gone: vec![key.clone()] }),
    }
}

fn client(key: &NsName, known: &Known) -> Option<ClientPod> {
    let (resolver, attached) = known.resolver.as_ref().zip(known.attached.as_ref())?;
    Some(ClientPod {
        key: key.clone(),
        link: attached.link,
        addresses: attached.addresses.clone(),
        search: resolver.search.clone(),
        ndots: resolver.ndots,
    })
}

fn key(pod: &Pod) -> NsName {
    let (namespace, name) = (pod.metadata.namespace.as_deref(), pod.metadata.name.as_deref());
    NsName::new(namespace.unwrap_or_default(), name.unwrap_or_default())
}

fn resolver(spec: &PodSpec, namespace: &str, node_file: &str, cluster: &ClusterDns) -> Resolver {
    // Complaints are the pod loop's to tell.
    let (conf, _) = resolv_conf(spec, namespace, node_file, cluster);
    let search = conf.searches.iter().filter_map(|text| Name::parse(text).ok()).collect();
    Resolver { search, ndots: ndots(&conf) }
}

/// 1 where nothing is said; of several the last counts.
fn ndots(conf: &ResolvConf) -> u8 {
    let mut asked = conf.options.iter().filter_map(|option| option.strip_prefix("ndots:")?.parse::<u8>().ok());
    asked.next_back().unwrap_or(1).min(MOST_NDOTS)
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::{PodDNSConfig, PodDNSConfigOption};
    use portolan_model::IfName;

    use super::*;

    fn cluster() -> ClusterDns {
        ClusterDns { servers: vec!["10.96.0.10".parse().expect("IPv4")], domain: "cluster.local".to_owned() }
    }

    fn found(spec: &PodSpec) -> (Vec<String>, u8) {
        let Resolver { search, ndots } = resolver(spec, "shop", "search lan.example\noptions ndots:3\n", &cluster());
        (search.iter().map(ToString::to_string).collect(), ndots)
    }

    #[test]
    fn a_pods_search_list_is_that_of_its_resolv_conf() {
        let (search, ndots) = found(&PodSpec::default());
        let names: Vec<&str> = search.iter().map(|name| name.trim_end_matches('.')).collect();
        assert_eq!(names, ["shop.svc.cluster.local", "svc.cluster.local", "cluster.local", "lan.example"]);
        assert_eq!(ndots, 5);
        let default = PodSpec { dns_policy: Some("Default".into()), ..PodSpec::default() };
        assert_eq!((found(&default).0.len(), found(&default).1), (1, 3));
        let option = PodDNSConfigOption { name: Some("ndots".into()), value: Some("99".into()) };
        let config = PodDNSConfig { options: Some(vec![option]), ..PodDNSConfig::default() };
        let none = PodSpec { dns_policy: Some("None".into()), dns_config: Some(config), ..PodSpec::default() };
        assert_eq!(found(&none), (Vec::new(), 15));
        assert_eq!(found(&PodSpec { dns_policy: Some("None".into()), ..PodSpec::default() }).1, 1);
    }

    #[test]
    fn a_pod_is_told_of_once_both_sides_of_it_are_known_whichever_comes_first() {
        let key = NsName::new("shop", "web");
        let attached = Some(Attached { link: 7, addresses: vec!["10.244.0.5".parse().expect("IPv4")] });
        let resolver = Some(Resolver { search: Vec::new(), ndots: 5 });
        let nothing = Known::default();
        let half = [
            Known { resolver: resolver.clone(), attached: None },
            Known { resolver: None, attached: attached.clone() },
        ];
        let both = Known { resolver, attached };
        for half in &half {
            assert_eq!(news(&key, &nothing, half), None);
            let set = news(&key, half, &both).expect("told").set;
            assert_eq!((set[0].link, set[0].ndots), (7, 5));
            assert_eq!(news(&key, &both, half).expect("told").gone, std::slice::from_ref(&key));
        }
        assert_eq!(news(&key, &both, &both), None);
        let moved = Known { attached: Some(Attached { link: 9, addresses: Vec::new() }), ..both.clone() };
        assert_eq!(news(&key, &both, &moved).expect("told").set[0].link, 9);
    }

    #[test]
    fn what_comes_and_goes_leaves_nothing_behind() {
        let pods = DnsPods::new(dns::Handle::ended(), "/nowhere".into(), cluster());
        let mut pod = Pod::default();
        (pod.metadata.namespace, pod.metadata.name) = (Some("shop".into()), Some("web".into()));
        let attachment = Attachment { link: IfName("cali1".into()), addresses: Vec::new(), host_ports: Vec::new() };
        pods.attached(&key(&pod), &attachment, 7);
        pods.told(&pod);
        assert_eq!(pods.known.lock().expect("nobody panics").len(), 1);
        pods.detached(&key(&pod));
        pods.forget(&key(&pod));
        assert!(pods.known.lock().expect("nobody panics").is_empty());
    }
}
