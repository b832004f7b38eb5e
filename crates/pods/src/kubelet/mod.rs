//! The node's pod loop: one worker per pod, told by `set_pod` and `remove_pod`.
//!
//! ```text
//!  set_pod ─► inbox ─► Worker: observe → lifecycle::decide → act ─► shim, PodNetwork, puller
//!                        │                                    └──► PodApi (status, events, end of deletion)
//!                        └◄── shim's state, probe results, pulled images
//! ```
//!
//! Nothing here is a pod's parent: dropping the `Kubelet`, or killing the process, stops no container. The next
//! one finds the shims by the folders below `state_dir` (one per uid) and goes on.

mod containers;
mod departure;
mod events;
mod probes;
mod publisher;
mod pulls;
mod sandbox;
mod worker;

use std::collections::HashMap;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use futures::future::BoxFuture;
use futures::{FutureExt, Stream};
use k8s_openapi::api::core::v1::{ConfigMap, Pod, PodStatus, Secret};
use tokio::sync::mpsc;
use tokio::task::AbortHandle;

use crate::exec::{self, ExecError, ExecRequest, ExecSession};
use crate::ident::PodIdent;
use crate::image::pull::ImagePuller;
use crate::lifecycle::NodeFacts;
use crate::limits::NodeLimits;
use crate::logs::{self, LogError, LogOptions};
use crate::resolv::ClusterDns;
use crate::shim::state::{PodState, ProcessId};
use worker::{Message, Worker};

/// Set by the API server on pods that only show what runs without it; they are not ours to run.
const MIRROR_ANNOTATION: &str = "kubernetes.io/config.mirror";

/// What the pod loop needs to know.
#[derive(Clone)]
pub struct KubeletConfig {
    pub node_name: String,
    /// The node's own addresses: hostIP, and the address of hostNetwork pods.
    pub node_ips: Vec<IpAddr>,
    /// One folder per pod; on a file system that may hold an overlay's upper directory (tmpfs may).
    pub state_dir: PathBuf,
    /// Addresses of the cluster DNS; empty: none.
    pub cluster_dns: Vec<IpAddr>,
    /// As `cluster.local`.
    pub cluster_domain: String,
    /// The node's resolv.conf, read when a pod starts.
    pub resolv_conf: PathBuf,
    /// Our own binary, whose `main` calls [`crate::reexec`] first.
    pub exe: PathBuf,
    pub puller: Arc<dyn ImagePuller>,
    /// How containers are limited; `None`: not at all.
    pub limits: Option<NodeLimits>,
}

/// A pod's network, made and removed by someone else.
pub trait PodNetwork: Send + Sync {
    /// Connects the network namespace at `netns`; the pod's addresses, the primary first. May come again after a failure.
    fn attach(&self, pod: &PodIdent, netns: &std::path::Path) -> BoxFuture<'_, Result<Vec<IpAddr>, String>>;
    /// Disconnects; fine if there is nothing. The namespace may be gone already.
    fn detach(&self, pod: &PodIdent) -> BoxFuture<'_, Result<(), String>>;
    /// Resolves when the Services of a deleted pod can do without it; it may never. `false`: no Service has it.
    fn wait_spare<'a>(&'a self, _pod: &'a Pod) -> BoxFuture<'a, bool> {
        futures::future::ready(false).boxed()
    }
    /// Resolves when nobody sends new connections to a pod whose status says that it is not ready; it may never.
    fn wait_silent<'a>(&'a self, _pod: &'a Pod) -> BoxFuture<'a, ()> {
        futures::future::ready(()).boxed()
    }
}

/// The cluster, as far as a pod loop writes and reads it.
pub trait PodApi: Send + Sync {
    /// Writes the status of exactly that pod (by uid).
    fn patch_status(&self, pod: &PodIdent, status: PodStatus) -> BoxFuture<'_, Result<(), String>>;
    /// Ends a deletion: delete with grace 0 and the uid as precondition.
    fn finalize_delete(&self, pod: &PodIdent) -> BoxFuture<'_, Result<(), String>>;
    /// Records an event; `type_` is `Normal` or `Warning`.
    fn event(&self, pod: &PodIdent, type_: &str, reason: &str, message: &str) -> BoxFuture<'_, ()>;
    /// `None`: there is none.
    fn config_map(&self, namespace: &str, name: &str) -> BoxFuture<'_, Result<Option<ConfigMap>, String>>;
    /// `None`: there is none.
    fn secret(&self, namespace: &str, name: &str) -> BoxFuture<'_, Result<Option<Secret>, String>>;
}

/// A pod of this node, as last decided.
#[derive(Clone, Debug)]
pub struct PodRow {
    pub ident: PodIdent,
    pub status: PodStatus,
}

/// The pod loop of one node.
pub struct Kubelet {
    shared: Arc<Shared>,
}

/// What all workers see.
pub(crate) struct Shared {
    pub(crate) config: KubeletConfig,
    pub(crate) network: Arc<dyn PodNetwork>,
    pub(crate) api: Arc<dyn PodApi>,
    pods: Mutex<HashMap<String, Handle>>,
}

struct Handle {
    ident: PodIdent,
    inbox: mpsc::UnboundedSender<Message>,
    status: PodStatus,
    worker: Option<AbortHandle>,
}

impl Kubelet {
    /// Starts the loop; call within a tokio runtime. Pods found on disk wait for `set_pod` or `synced`.
    pub fn start(config: KubeletConfig, network: Arc<dyn PodNetwork>, api: Arc<dyn PodApi>) -> Arc<Self> {
        if let Err(error) = std::fs::create_dir_all(&config.state_dir) {
            tracing::warn!(dir = %config.state_dir.display(), %error, "cannot make the pods' folder; no pod will start");
        }
        let pods = Mutex::new(HashMap::new());
        Arc::new(Self { shared: Arc::new(Shared { config, network, api, pods }) })
    }

    /// A pod of this node, new or changed.
    pub fn set_pod(&self, pod: Pod) {
        let ident = PodIdent::of(&pod);
        let is_mirror = pod.metadata.annotations.as_ref().is_some_and(|map| map.contains_key(MIRROR_ANNOTATION));
        if ident.uid.is_empty() || is_mirror {
            return;
        }
        let mut pods = self.shared.lock();
        if let Some(handle) = pods.get(&ident.uid) {
            let _ = handle.inbox.send(Message::Pod(Box::new(pod)));
            return;
        }
        let is_over =
            matches!(pod.status.as_ref().and_then(|status| status.phase.as_deref()), Some("Succeeded" | "Failed"));
        let has_folder = self.shared.config.state_dir.join(&ident.uid).exists();
        if is_over && !has_folder && pod.metadata.deletion_timestamp.is_none() {
            return; // finished long ago, nothing of it is here
        }
        let (inbox, receiver) = mpsc::unbounded_channel();
        let status = pod.status.clone().unwrap_or_default();
        let uid = ident.uid.clone();
        pods.insert(uid.clone(), Handle { ident, inbox: inbox.clone(), status, worker: None });
        let worker = Worker::new(self.shared.clone(), pod, inbox, receiver);
        let task = tokio::spawn(worker.run()).abort_handle();
        // The lock is held, so the worker cannot have ended and removed itself yet.
        if let Some(handle) = pods.get_mut(&uid) {
            handle.worker = Some(task);
        }
    }

    /// A pod that is gone from the cluster: what runs of it is killed.
    pub fn remove_pod(&self, ident: &PodIdent) {
        if let Some(handle) = self.shared.lock().get(&ident.uid) {
            let _ = handle.inbox.send(Message::Gone);
        }
    }

    /// All pods of this node have been told: folders of unknown pods are leftovers, and are taken down.
    pub fn synced(&self) {
        let Ok(listing) = std::fs::read_dir(&self.shared.config.state_dir) else {
            return;
        };
        for folder in listing.filter_map(Result::ok) {
            let uid = folder.file_name().to_string_lossy().into_owned();
            if !self.shared.lock().contains_key(&uid) {
                tokio::spawn(sandbox::sweep(self.shared.clone(), folder.path()));
            }
        }
    }

    /// Ends the loop and leaves the pods to run; a later `Kubelet` finds them. Dropping does the same.
    pub fn stop(&self) {
        for handle in self.shared.lock().values() {
            handle.worker.iter().for_each(AbortHandle::abort);
        }
    }

    /// All pods, sorted by name.
    pub fn pods(&self) -> Vec<PodRow> {
        let pods = self.shared.lock();
        let row = |handle: &Handle| PodRow { ident: handle.ident.clone(), status: handle.status.clone() };
        let mut rows: Vec<PodRow> = pods.values().map(row).collect();
        rows.sort_by(|one, two| one.ident.cmp(&two.ident));
        rows
    }

    /// A container's log.
    pub async fn logs(
        &self,
        namespace: &str,
        pod: &str,
        container: &str,
        options: LogOptions,
    ) -> Result<impl Stream<Item = Result<Bytes, LogError>> + Send + use<>, LogError> {
        let dir = self.folder(namespace, pod).ok_or_else(|| LogError::NoPod(format!("{namespace}/{pod}")))?;
        logs::stream(&dir, pod, container, options)
    }

    /// Runs a command in a container.
    pub async fn exec(
        &self,
        namespace: &str,
        pod: &str,
        container: &str,
        request: ExecRequest,
    ) -> Result<ExecSession, ExecError> {
        let dir = self.folder(namespace, pod).ok_or_else(|| ExecError::NoPod(format!("{namespace}/{pod}")))?;
        exec::start(&dir, container, &request).await
    }

    /// Joins a container's own standard files; its input too, if `stdin` and it keeps one open.
    pub async fn attach(
        &self,
        namespace: &str,
        pod: &str,
        container: &str,
        stdin: bool,
    ) -> Result<ExecSession, ExecError> {
        let dir = self.folder(namespace, pod).ok_or_else(|| ExecError::NoPod(format!("{namespace}/{pod}")))?;
        exec::attach(&dir, container, stdin).await
    }

    /// The file of the pod's network namespace, as long as the pod lives.
    pub fn netns(&self, namespace: &str, pod: &str) -> Result<PathBuf, ExecError> {
        let name = || format!("{namespace}/{pod}");
        let dir = self.folder(namespace, pod).ok_or_else(|| ExecError::NoPod(name()))?;
        let sandbox = PodState::load(&dir).and_then(|state| state.sandbox).filter(ProcessId::is_alive);
        let sandbox = sandbox.ok_or_else(|| ExecError::NoSandbox(name()))?;
        Ok(PathBuf::from(format!("/proc/{}/ns/net", sandbox.pid)))
    }

    /// The folder of what the pod's containers see as `/etc/hosts` and `/etc/resolv.conf`, by these names, unless they mount
    /// their own; empty until the first container is made.
    pub fn etc(&self, namespace: &str, pod: &str) -> Result<PathBuf, ExecError> {
        let dir = self.folder(namespace, pod).ok_or_else(|| ExecError::NoPod(format!("{namespace}/{pod}")))?;
        Ok(dir.join("etc"))
    }

    /// The folder of the pod that bears the name now.
    fn folder(&self, namespace: &str, name: &str) -> Option<PathBuf> {
        let pods = self.shared.lock();
        let mut found = pods.values().filter(|handle| handle.ident.namespace == namespace && handle.ident.name == name);
        let ident = &found.next()?.ident;
        Some(self.shared.config.state_dir.join(&ident.uid))
    }
}

impl Drop for Kubelet {
    fn drop(&mut self) {
        self.stop();
    }
}

impl Shared {
    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<String, Handle>> {
        // A panic elsewhere leaves the map whole: every change is one call.
        self.pods.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn node_facts(&self) -> NodeFacts {
        NodeFacts { node_name: self.config.node_name.clone(), host_ips: self.config.node_ips.clone() }
    }

    fn cluster_dns(&self) -> ClusterDns {
        ClusterDns { servers: self.config.cluster_dns.clone(), domain: self.config.cluster_domain.clone() }
    }

    /// Records an event without waiting for it.
    fn event(&self, pod: &PodIdent, type_: &'static str, reason: &str, message: &str) {
        let (api, pod) = (self.api.clone(), pod.clone());
        let (reason, message) = (reason.to_owned(), message.to_owned());
        tokio::spawn(async move { api.event(&pod, type_, &reason, &message).await });
    }
}
