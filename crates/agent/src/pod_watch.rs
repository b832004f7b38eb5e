//! This node's pods: a watch on `spec.nodeName`, told to the pod loop.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};

use k8s_openapi::api::core::v1::Pod;
use kube::Client;
use kube::runtime::watcher;
use portolan_ingest::{Event, Object};
use portolan_model::ObjectKind;
use portolan_pods::image::{Store, StorePuller};
use portolan_pods::{Kubelet, KubeletConfig, PodIdent};

use crate::network::ClusterNetwork;
use crate::pod_api::ClusterPodApi;
use crate::{AgentError, Config, Limits, source};

/// Starts the pod loop and the watch that feeds it.
pub(crate) fn start(
    client: &Client,
    config: &Config,
    network: Arc<ClusterNetwork>,
) -> Result<Arc<Kubelet>, AgentError> {
    let store = Store::open(&config.image_store).map_err(|e| AgentError::Api(e.to_string()))?;
    let (options, broker) = (config.registries.clone(), config.image_broker.clone());
    let node = config.settings.node.to_string();
    let kubelet = Kubelet::start(
        KubeletConfig {
            node_name: node.clone(),
            node_ips: config.addresses.clone(),
            state_dir: config.state_dir.join("pods"),
            cluster_dns: config.settings.cluster_dns.clone(),
            cluster_domain: config.settings.cluster_domain.to_string(),
            resolv_conf: config.resolv_conf.clone(),
            exe: config.exe.clone(),
            limits: match &config.limits {
                Limits::Enforced(limits) => Some(limits.clone()),
                Limits::NotAsked | Limits::Refused(_) => None,
            },
            puller: Arc::new(StorePuller { store, options, broker }),
        },
        network.clone(),
        Arc::new(ClusterPodApi { client: client.clone(), node: node.clone() }),
    );
    let sink = PodSink { kubelet: kubelet.clone(), network, live: Mutex::default() };
    let ours = watcher::Config::default().fields(&format!("spec.nodeName={node}"));
    tokio::spawn(source::follow::<Pod>(client.clone(), ours, ObjectKind::Pod, Object::Pod, sink));
    Ok(kubelet)
}

struct PodSink {
    kubelet: Arc<Kubelet>,
    network: Arc<ClusterNetwork>,
    live: Mutex<HashSet<PodIdent>>,
}

impl source::Sink for PodSink {
    fn event(&self, event: Event) {
        let mut live = self.live.lock().unwrap_or_else(PoisonError::into_inner);
        match event {
            Event::Value(Object::Pod(pod)) => {
                live.insert(PodIdent::of(&pod));
                self.network.told(&pod);
                self.kubelet.set_pod(*pod);
            }
            Event::Gone(Object::Pod(pod)) => {
                let ident = PodIdent::of(&pod);
                live.remove(&ident);
                self.network.forget(&ident);
                self.kubelet.remove_pod(&ident);
            }
            _ => {}
        }
    }

    /// Told whole: what is on disk and in the ledger for pods that nobody told of is left over.
    fn synced(&self, _kind: ObjectKind) {
        self.kubelet.synced();
        let live: Vec<PodIdent> = self.live.lock().unwrap_or_else(PoisonError::into_inner).iter().cloned().collect();
        self.network.told_all(&live);
    }
}
