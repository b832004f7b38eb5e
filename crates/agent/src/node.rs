//! This node in the cluster: its Node object, its heartbeat, and the mirror pod that stands for the agent's DNS.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::api::core::v1::{
    Container, ContainerPort, ContainerState, ContainerStateRunning, ContainerStatus, DaemonEndpoint, Node,
    NodeAddress, NodeCondition, NodeDaemonEndpoints, NodeStatus, NodeSystemInfo, Pod, PodCondition, PodIP, PodSpec,
    PodStatus,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta, Time};
use k8s_openapi::jiff::Timestamp;
use kube::api::{DeleteParams, Patch, PatchParams, PostParams};
use kube::{Api, Client};
use portolan_pods::CgroupRoots;
use serde_json::json;
use tracing::{debug, info, warn};

use crate::Limits;
use crate::last_known::Freshness;
use crate::pod_api::is_status;

/// Port of the agent's own HTTPS API, where the API server finds kubelet's paths.
pub(crate) const NODE_API_PORT: u16 = 10250;
/// Annotation by which the pod loop and others know a pod that nobody has to run.
pub(crate) const MIRROR_ANNOTATION: &str = "kubernetes.io/config.mirror";
const LEASE_NAMESPACE: &str = "kube-node-lease";

/// What a node says of itself.
#[derive(Clone, Debug)]
pub(crate) struct NodeIdentity {
    pub(crate) name: String,
    pub(crate) addresses: Vec<IpAddr>,
    /// How often the Lease is renewed.
    pub(crate) heartbeat: Duration,
    /// Whether containers are limited.
    pub(crate) limits: Limits,
}

/// Registers the node, then renews its Lease until the process ends.
pub(crate) async fn keep_alive(client: Client, identity: NodeIdentity, freshness: Arc<Freshness>) {
    let nodes: Api<Node> = Api::all(client.clone());
    let leases: Api<Lease> = Api::namespaced(client, LEASE_NAMESPACE);
    let mut registered = false;
    loop {
        if !registered {
            match register(&nodes, &identity).await {
                Ok(()) => registered = true,
                Err(error) => warn!(node = identity.name, %error, "cannot register the node yet"),
            }
        }
        match renew(&leases, &identity).await {
            Ok(()) => freshness.heard(),
            Err(error) => {
                warn!(node = identity.name, %error, "cannot renew the node's lease");
                registered = false;
            }
        }
        let pause = if registered { identity.heartbeat } else { Duration::from_millis(200) };
        tokio::time::sleep(pause).await;
    }
}

/// Creates the Node if it is not there and writes its status, Ready included.
async fn register(nodes: &Api<Node>, identity: &NodeIdentity) -> Result<(), kube::Error> {
    if nodes.get_opt(&identity.name).await?.is_none() {
        match nodes.create(&PostParams::default(), &node(identity)).await {
            Ok(_) => info!(node = identity.name, "the node is registered"),
            Err(error) if is_status(&error, &[409]) => {}
            Err(error) => return Err(error),
        }
    }
    let patch = json!({ "status": status(identity) });
    nodes.patch_status(&identity.name, &PatchParams::default(), &Patch::Merge(&patch)).await.map(|_| ())
}

async fn renew(leases: &Api<Lease>, identity: &NodeIdentity) -> Result<(), kube::Error> {
    let spec = LeaseSpec {
        holder_identity: Some(identity.name.clone()),
        lease_duration_seconds: i32::try_from(identity.heartbeat.as_secs() * 4).ok(),
        renew_time: Some(MicroTime(Timestamp::now())),
        ..LeaseSpec::default()
    };
    let patch = Patch::Merge(json!({ "spec": spec }));
    match leases.patch(&identity.name, &PatchParams::default(), &patch).await {
        Ok(_) => Ok(()),
        Err(error) if is_status(&error, &[404]) => {
            let metadata = ObjectMeta { name: Some(identity.name.clone()), ..ObjectMeta::default() };
            let lease = Lease { metadata, spec: Some(spec) };
            leases.create(&PostParams::default(), &lease).await.map(|_| ())
        }
        Err(error) => Err(error),
    }
}

fn node(identity: &NodeIdentity) -> Node {
    let labels = [
        ("kubernetes.io/hostname", identity.name.as_str()),
        ("kubernetes.io/os", "linux"),
        ("kubernetes.io/arch", architecture()),
    ];
    Node {
        metadata: ObjectMeta {
            name: Some(identity.name.clone()),
            labels: Some(labels.into_iter().map(|(k, v)| (k.to_owned(), v.to_owned())).collect()),
            ..ObjectMeta::default()
        },
        ..Node::default()
    }
}

fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

fn status(identity: &NodeIdentity) -> NodeStatus {
    let mut addresses: Vec<NodeAddress> = identity
        .addresses
        .iter()
        .map(|addr| NodeAddress { type_: "InternalIP".into(), address: addr.to_string() })
        .collect();
    addresses.push(NodeAddress { type_: "Hostname".into(), address: identity.name.clone() });
    let capacity = capacity();
    NodeStatus {
        addresses: Some(addresses),
        conditions: Some(conditions(&identity.limits)),
        allocatable: Some(capacity.clone()),
        capacity: Some(capacity),
        daemon_endpoints: Some(NodeDaemonEndpoints {
            kubelet_endpoint: Some(DaemonEndpoint { port: i32::from(NODE_API_PORT) }),
        }),
        node_info: Some(node_info()),
        ..NodeStatus::default()
    }
}

fn conditions(limits: &Limits) -> Vec<NodeCondition> {
    let now = Time(Timestamp::now());
    let row = |type_: &str, status: &str, reason: &str, message: &str| NodeCondition {
        type_: type_.into(),
        status: status.into(),
        reason: Some(reason.into()),
        message: Some(message.into()),
        last_heartbeat_time: Some(now.clone()),
        last_transition_time: Some(now.clone()),
    };
    let (enforced, why, said) = limits_condition(limits);
    vec![
        row("MemoryPressure", "False", "KubeletHasSufficientMemory", "kubelet has sufficient memory available"),
        row("DiskPressure", "False", "KubeletHasNoDiskPressure", "kubelet has no disk pressure"),
        row("PIDPressure", "False", "KubeletHasSufficientPID", "kubelet has sufficient PID available"),
        row(LIMITS_CONDITION, enforced, why, &said),
        row("Ready", "True", "KubeletReady", "portolan agent is posting ready status"),
    ]
}

/// Of our own: whether a container's memory, CPU and process limits hold on this node.
const LIMITS_CONDITION: &str = "LimitsEnforced";

/// Status, reason and message.
fn limits_condition(limits: &Limits) -> (&'static str, &'static str, String) {
    match limits {
        Limits::Enforced(limits) => {
            let version = match limits.roots {
                CgroupRoots::V1 { .. } => "CgroupsV1",
                CgroupRoots::V2 { .. } => "CgroupsV2",
            };
            let pids = limits.pod_pids;
            ("True", version, format!("memory and CPU limits of containers hold, and {pids} processes a pod"))
        }
        Limits::NotAsked => {
            let message = "limits of containers are not enforced: nobody asked for it (portolan up --limits)";
            ("False", "NotAskedFor", message.to_owned())
        }
        Limits::Refused(reason) => ("False", "NotPossible", format!("limits of containers are not enforced: {reason}")),
    }
}

fn capacity() -> BTreeMap<String, Quantity> {
    let cpus = std::thread::available_parallelism().map_or(1, usize::from);
    let memory = rustix::system::sysinfo().totalram / 1024;
    [("cpu", cpus.to_string()), ("memory", format!("{memory}Ki")), ("pods", "61".to_owned())]
        .into_iter()
        .map(|(name, amount)| (name.to_owned(), Quantity(amount)))
        .collect()
}

fn node_info() -> NodeSystemInfo {
    let uname = rustix::system::uname();
    NodeSystemInfo {
        architecture: architecture().into(),
        operating_system: "linux".into(),
        kernel_version: uname.release().to_string_lossy().into_owned(),
        os_image: "Portolan".into(),
        container_runtime_version: concat!("portolan://", env!("CARGO_PKG_VERSION")).into(),
        kubelet_version: "v1.33.0".into(),
        ..NodeSystemInfo::default()
    }
}

/// The name of the mirror pod of `node`.
pub(crate) fn mirror_name(node: &str) -> String {
    format!("portolan-{node}")
}

/// Whether the cluster has this Node.
pub(crate) async fn is_registered(client: &Client, identity: &NodeIdentity) -> bool {
    let nodes: Api<Node> = Api::all(client.clone());
    nodes.get_opt(&identity.name).await.is_ok_and(|node| node.is_some())
}

/// What the mirror pod says of this node's DNS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Shown {
    /// It may be asked: slices have it as an endpoint.
    pub(crate) is_ready: bool,
    /// When this agent began.
    pub(crate) since: Timestamp,
}

/// Makes the mirror pod say how this node's DNS is, so that slices and `kubectl get pods` know. One that an agent before this
/// one left counts a restart.
pub(crate) async fn show_dns(client: &Client, identity: &NodeIdentity, shown: Shown) -> Result<(), kube::Error> {
    let pods: Api<Pod> = Api::namespaced(client.clone(), "kube-system");
    let name = mirror_name(&identity.name);
    let found = pods.get_opt(&name).await?;
    if found.is_none() {
        let created = pods.create(&PostParams::default(), &mirror(identity, &name)).await;
        if let Err(error) = created
            && !is_status(&error, &[409])
        {
            return Err(error);
        }
    }
    let before = found.and_then(|pod| pod.status);
    let patch = json!({ "status": mirror_status(identity, shown, before.as_ref()) });
    pods.patch_status(&name, &PatchParams::default(), &Patch::Merge(&patch)).await?;
    debug!("the mirror pod is written");
    Ok(())
}

/// Takes the mirror pod away: this node is no kube-dns endpoint any more.
pub(crate) async fn hide_dns(client: &Client, identity: &NodeIdentity) {
    let pods: Api<Pod> = Api::namespaced(client.clone(), "kube-system");
    let params = DeleteParams { grace_period_seconds: Some(0), ..DeleteParams::default() };
    if let Err(error) = pods.delete(&mirror_name(&identity.name), &params).await {
        debug!(%error, "the mirror pod was not deleted");
    }
}

fn mirror(identity: &NodeIdentity, name: &str) -> Pod {
    let port = |name: &str, protocol: &str, number: i32| ContainerPort {
        name: Some(name.into()),
        protocol: Some(protocol.into()),
        container_port: number,
        ..ContainerPort::default()
    };
    let container = Container {
        name: "portolan".into(),
        image: Some(concat!("portolan:", env!("CARGO_PKG_VERSION")).into()),
        ports: Some(vec![port("dns", "UDP", 53), port("dns-tcp", "TCP", 53), port("metrics", "TCP", 9153)]),
        ..Container::default()
    };
    let map = |k: &str, v: &str| Some(BTreeMap::from([(k.to_owned(), v.to_owned())]));
    Pod {
        metadata: ObjectMeta {
            name: Some(name.into()),
            namespace: Some("kube-system".into()),
            labels: map("k8s-app", "kube-dns"),
            annotations: map(MIRROR_ANNOTATION, &identity.name),
            ..ObjectMeta::default()
        },
        spec: Some(PodSpec {
            node_name: Some(identity.name.clone()),
            host_network: Some(true),
            containers: vec![container],
            ..PodSpec::default()
        }),
        status: None,
    }
}

fn mirror_status(identity: &NodeIdentity, shown: Shown, before: Option<&PodStatus>) -> PodStatus {
    let known = before.and_then(|status| status.conditions.as_ref()).into_iter().flatten();
    let known: Vec<&PodCondition> = known.collect();
    let status = if shown.is_ready { "True" } else { "False" };
    let condition = |type_: &str| {
        let same = known.iter().find(|known| known.type_ == type_ && known.status == status);
        let since = same.and_then(|known| known.last_transition_time.clone());
        PodCondition {
            type_: type_.into(),
            status: status.into(),
            last_transition_time: Some(since.unwrap_or_else(|| Time(Timestamp::now()))),
            ..PodCondition::default()
        }
    };
    let ip = identity.addresses.first().map(ToString::to_string);
    let started = before.and_then(|status| status.start_time.clone());
    PodStatus {
        phase: Some("Running".into()),
        conditions: Some(vec![condition("ContainersReady"), condition("Ready")]),
        pod_ip: ip.clone(),
        host_ip: ip,
        pod_ips: Some(identity.addresses.iter().map(|a| PodIP { ip: a.to_string() }).collect()),
        start_time: Some(started.unwrap_or(Time(shown.since))),
        container_statuses: Some(vec![container_status(shown, before)]),
        ..PodStatus::default()
    }
}

fn container_status(shown: Shown, before: Option<&PodStatus>) -> ContainerStatus {
    let known = before.and_then(|status| status.container_statuses.as_ref()?.first());
    let began = known.and_then(|known| known.state.as_ref()?.running.as_ref()?.started_at.clone());
    // A time is kept in whole seconds.
    let is_same = began.is_none_or(|began| began.0.as_second() == shown.since.as_second());
    let running = ContainerStateRunning { started_at: Some(Time(shown.since)) };
    ContainerStatus {
        name: "portolan".into(),
        ready: shown.is_ready,
        started: Some(true),
        restart_count: known.map_or(0, |known| known.restart_count) + i32::from(!is_same),
        image: concat!("portolan:", env!("CARGO_PKG_VERSION")).into(),
        state: Some(ContainerState { running: Some(running), ..ContainerState::default() }),
        ..ContainerStatus::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use portolan_pods::NodeLimits;

    #[test]
    fn the_node_says_whether_limits_hold_and_why_not() {
        let roots = CgroupRoots::V2 { unified: "/x".into() };
        for (limits, expected) in [
            (Limits::Enforced(NodeLimits { roots, pod_pids: 7 }), ("True", "CgroupsV2", "7 processes a pod")),
            (Limits::NotAsked, ("False", "NotAskedFor", "portolan up --limits")),
            (Limits::Refused("pids is not mounted".to_owned()), ("False", "NotPossible", "pids is not mounted")),
        ] {
            let all = conditions(&limits);
            let own = all.iter().find(|row| row.type_ == LIMITS_CONDITION).expect("it is said");
            let (status, reason, word) = expected;
            assert_eq!((own.status.as_str(), own.reason.as_deref()), (status, Some(reason)));
            assert!(own.message.as_deref().is_some_and(|message| message.contains(word)), "{own:?}");
        }
    }

    #[test]
    fn the_mirror_pod_counts_agents_and_keeps_its_age() {
        let identity = NodeIdentity {
            name: "node-1".to_owned(),
            addresses: vec!["172.18.0.11".parse().expect("IPv4")],
            heartbeat: Duration::from_secs(10),
            limits: Limits::NotAsked,
        };
        let at = |secs| Timestamp::from_second(secs).expect("a time");
        let row = |status: &PodStatus| {
            let container = status.container_statuses.as_ref().expect("one")[0].clone();
            let ready = status.conditions.as_ref().expect("two")[1].status.clone();
            (container.restart_count, container.ready, ready, status.start_time.clone().map(|time| time.0.as_second()))
        };
        let first = mirror_status(&identity, Shown { is_ready: false, since: at(100) }, None);
        assert_eq!(row(&first), (0, false, "False".to_owned(), Some(100)));
        let then = mirror_status(&identity, Shown { is_ready: true, since: at(100) }, Some(&first));
        assert_eq!(row(&then), (0, true, "True".to_owned(), Some(100)));
        let next = mirror_status(&identity, Shown { is_ready: true, since: at(900) }, Some(&then));
        assert_eq!(row(&next), (1, true, "True".to_owned(), Some(100)));
        assert_eq!(next.conditions, then.conditions, "it was Ready all the time");
    }
}
