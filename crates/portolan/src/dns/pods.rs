//! Pods as they ask: address, search list and ndots, from their objects. Pure.

use std::collections::BTreeMap;
use std::net::IpAddr;

use portolan_agent::dns::{ClientPod, PodsChange};
use portolan_dns::Name;
use portolan_ingest::{Event, Object, fact};
use portolan_model::{Fact, NsName, Settings};
use portolan_pods::resolv::{ClusterDns, ResolvConf, resolv_conf};

/// What resolv.conf(5) takes where a file says nothing.
const NDOTS: u8 = 1;

/// A pod with the resolver that its dnsPolicy and dnsConfig give it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Asker {
    pub key: NsName,
    pub node: Option<String>,
    /// Of a pod in its node's network, the node's.
    pub addresses: Vec<IpAddr>,
    /// In its node's network.
    pub host_network: bool,
    /// Its containers have all ended.
    pub finished: bool,
    pub servers: Vec<String>,
    pub search: Vec<Name>,
    pub ndots: u8,
}

/// The pod that an object is; `None`: it is no pod.
///
/// Of the node's own resolv.conf, which pods inherit, only an agent knows.
pub fn asker(object: &Object, settings: &Settings) -> Option<Asker> {
    let Object::Pod(pod) = object else { return None };
    let (Fact::Pod(key, Some(known)), _) = fact(object) else { return None };
    let cluster = ClusterDns { servers: settings.cluster_dns.clone(), domain: settings.cluster_domain.to_string() };
    let nothing = "\n# the node's own file\n";
    let conf = match &pod.spec {
        Some(spec) => resolv_conf(spec, &key.namespace, nothing, &cluster).0,
        None => ResolvConf::default(),
    };
    Some(Asker {
        key,
        node: known.node.as_ref().map(ToString::to_string),
        addresses: known.addresses,
        host_network: known.host_network,
        finished: known.finished,
        ndots: ndots(&conf),
        search: conf.searches.iter().filter_map(|search| Name::parse(search).ok()).collect(),
        servers: conf.nameservers,
    })
}

fn ndots(conf: &ResolvConf) -> u8 {
    let mut values = conf.options.iter().filter_map(|option| option.strip_prefix("ndots:")?.parse::<u8>().ok());
    // The C library takes no more than 15.
    values.next_back().map_or(NDOTS, |ndots| ndots.min(15))
}

/// What a batch of events changes about the pods that may ask. One in its node's network is not told from the node.
pub fn change(events: &[Event], settings: &Settings) -> PodsChange {
    let mut last: BTreeMap<NsName, Option<ClientPod>> = BTreeMap::new();
    for event in events {
        match event {
            Event::Value(object) => {
                if let Some(asker) = asker(object, settings) {
                    last.insert(asker.key.clone(), client(asker));
                }
            }
            Event::Gone(object @ Object::Pod(_)) => drop(last.insert(object.reference().key, None)),
            Event::Gone(_) => {}
        }
    }
    let mut change = PodsChange::default();
    for (key, pod) in last {
        match pod {
            Some(pod) => change.set.push(pod),
            None => change.gone.push(key),
        }
    }
    change
}

fn client(asker: Asker) -> Option<ClientPod> {
    let Asker { key, addresses, host_network, finished, search, ndots, .. } = asker;
    let asks = !host_network && !finished && !addresses.is_empty();
    asks.then_some(ClientPod { key, link: 0, addresses, search, ndots })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::ClusterArgs;
    use clap::Parser;
    use serde_json::{Value, json};

    #[derive(Parser)]
    struct Flags {
        #[command(flatten)]
        cluster: ClusterArgs,
    }

    fn settings() -> Settings {
        Flags::parse_from(["x"]).cluster.settings("files")
    }

    fn pod(spec: Value, phase: &str) -> Object {
        let value = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a", "namespace": "shop"},
            "spec": spec, "status": {"phase": phase, "podIP": "10.244.0.9", "podIPs": [{"ip": "10.244.0.9"}]}});
        Object::from_value(&value).expect("it has the shape").expect("it is a pod")
    }

    fn of(spec: Value) -> Asker {
        asker(&pod(spec, "Running"), &settings()).expect("it is a pod")
    }

    #[test]
    fn a_pods_policy_gives_its_search_list_and_ndots() {
        let names = |asker: &Asker| asker.search.iter().map(ToString::to_string).collect::<Vec<_>>();
        let first = of(json!({"containers": []}));
        assert_eq!(names(&first), ["shop.svc.cluster.local.", "svc.cluster.local.", "cluster.local."]);
        assert_eq!((first.ndots, &first.servers[..]), (5, &["10.96.0.10".to_owned()][..]));
        let own = of(json!({"containers": [], "dnsPolicy": "None", "dnsConfig":
            {"nameservers": ["10.96.0.10"], "searches": ["a.b"], "options": [{"name": "ndots", "value": "2"}]}}));
        assert_eq!((names(&own), own.ndots), (vec!["a.b.".to_owned()], 2));
        let on_host = of(json!({"containers": [], "hostNetwork": true}));
        assert_eq!((names(&on_host), on_host.ndots, on_host.servers.len()), (Vec::new(), 1, 0));
    }

    #[test]
    fn the_last_word_on_a_pod_counts_and_pods_that_do_not_ask_are_gone() {
        let running = pod(json!({"containers": []}), "Running");
        let told = |events: &[Event]| {
            let change = change(events, &settings());
            (change.set.len(), change.gone.len())
        };
        assert_eq!(told(&[Event::Value(running.clone())]), (1, 0));
        assert_eq!(told(&[Event::Value(running.clone()), Event::Gone(running)]), (0, 1));
        assert_eq!(told(&[Event::Value(pod(json!({"containers": []}), "Succeeded"))]), (0, 1));
        assert_eq!(told(&[Event::Value(pod(json!({"containers": [], "hostNetwork": true}), "Running"))]), (0, 1));
    }
}
