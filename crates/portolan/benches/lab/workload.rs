//! A Deployment of two nginx pods behind a Service: applied until it answers, and a pod of it deleted until its
//! replacement is reachable.
//!
//! ```text
//!  apply ─► pod object ─► scheduled ─► Ready ─► endpoint ─► rule on node-1 ─► first answer through the ClusterIP
//! ```

use std::net::{Ipv4Addr, SocketAddr};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::{DeleteParams, ListParams, PostParams};
use kube::runtime::watcher::Event;
use kube::{Api, Client, ResourceExt};
use serde_json::{Value, json};
use tokio::runtime::Runtime;

use crate::Outcome;
use crate::cluster::{self, NAMESPACE, address, applied, first_answer, is_ready, is_scheduled, ready_endpoint};
use crate::nft::RuleEvents;
use crate::sight::{Log, PATIENCE};
use crate::stats::Samples;

const NAME: &str = "web";
/// Chosen beforehand, so that requests can begin before the Service exists.
const SERVICE_IP: Ipv4Addr = Ipv4Addr::new(10, 96, 200, 200);
/// After everything of a round is gone: lets the agents finish what they still do.
const REST: Duration = Duration::from_millis(500);

/// How the objects reach the API.
#[derive(Clone, Copy)]
pub enum By<'a> {
    /// Two POSTs from this process.
    Post,
    /// `kubectl apply -f`, its own start included.
    Kubectl(&'a Path),
}

/// Each counted from the begin of the apply.
#[derive(Default)]
pub struct Applied {
    pub accepted: Samples,
    pub scheduled: Samples,
    pub ready: Samples,
    pub endpoint: Samples,
    pub rule: Samples,
    pub answered: Samples,
}

/// Each counted from the begin of the DELETE.
#[derive(Default)]
pub struct Replaced {
    pub scheduled: Samples,
    pub answers: Samples,
    pub rule: Samples,
    /// It answers, and node-1 has its rule.
    pub reachable: Samples,
}

/// The Deployment, its Service, and all that is watched of them.
pub struct Workload<'a> {
    runtime: &'a Runtime,
    kubeconfig: PathBuf,
    node: OwnedFd,
    rules: &'a RuleEvents,
    deployments: Api<Deployment>,
    services: Api<Service>,
    pods: Api<Pod>,
    slices: Api<EndpointSlice>,
    seen_pods: Arc<Log<Event<Pod>>>,
    seen_slices: Arc<Log<Event<EndpointSlice>>>,
    manifests: tempfile::NamedTempFile,
}

impl<'a> Workload<'a> {
    /// `node` is the network namespace requests come from, `rules` listens there.
    pub fn new(runtime: &'a Runtime, kubeconfig: PathBuf, node: OwnedFd, rules: &'a RuleEvents) -> Outcome<Self> {
        let client = runtime.block_on(cluster::connect(&kubeconfig))?;
        let pods: Api<Pod> = Api::namespaced(client.clone(), NAMESPACE);
        let slices: Api<EndpointSlice> = Api::namespaced(client.clone(), NAMESPACE);
        let seen_pods = runtime.block_on(cluster::follow(pods.clone(), &format!("app={NAME}")))?;
        let seen_slices =
            runtime.block_on(cluster::follow(slices.clone(), &format!("kubernetes.io/service-name={NAME}")))?;
        let manifests = tempfile::Builder::new().suffix(".json").tempfile()?;
        let list = json!({"apiVersion": "v1", "kind": "List", "items": [deployment(), service()]});
        std::fs::write(manifests.path(), list.to_string())?;
        let namespaced =
            |client: &Client| (Api::namespaced(client.clone(), NAMESPACE), Api::namespaced(client.clone(), NAMESPACE));
        let (deployments, services) = namespaced(&client);
        Ok(Self {
            runtime,
            kubeconfig,
            node,
            rules,
            deployments,
            services,
            pods,
            slices,
            seen_pods,
            seen_slices,
            manifests,
        })
    }

    /// Applies and waits for the first answer; the objects stay.
    pub fn apply(&self, by: By<'_>, into: &mut Applied) -> Outcome<()> {
        self.forget();
        let start = Instant::now();
        self.write(by)?;
        into.accepted.push(start.elapsed());
        let answered = first_answer(&self.node, SocketAddr::from((SERVICE_IP, 80)))?;
        let pod = |what: &str, is_so: fn(&Pod) -> bool| {
            self.seen_pods.wait(what, |event| applied(event).is_some_and(is_so).then_some(()))
        };
        let (scheduled, ()) = pod("a pod that is scheduled", is_scheduled)?;
        let (ready, ()) = pod("a pod that is ready", is_ready)?;
        let (endpoint, address) =
            self.seen_slices.wait("a ready endpoint", |event| applied(event).and_then(ready_endpoint))?;
        let rule = self.rules.first_with(address)?;
        let marks = [
            (&mut into.scheduled, scheduled),
            (&mut into.ready, ready),
            (&mut into.endpoint, endpoint),
            (&mut into.rule, rule),
            (&mut into.answered, answered),
        ];
        marks.into_iter().for_each(|(samples, at)| samples.push(at - start));
        Ok(())
    }

    /// Deletes a pod and waits until its replacement answers and node-1 has its rule.
    pub fn replace(&self, into: &mut Replaced) -> Outcome<()> {
        let before = self.settled(2)?;
        let victim = before[0].name_any();
        self.forget();
        let start = Instant::now();
        self.runtime.block_on(self.pods.delete(&victim, &DeleteParams::default()))?;
        let is_new = |pod: &&Pod| before.iter().all(|old| old.name_any() != pod.name_any());
        let (scheduled, ()) = self.seen_pods.wait("a replacement that is scheduled", |event| {
            applied(event).filter(is_new).is_some_and(is_scheduled).then_some(())
        })?;
        let (_, ip) = self
            .seen_pods
            .wait("a replacement with an address", |event| applied(event).filter(is_new).and_then(address))?;
        let answers = first_answer(&self.node, SocketAddr::from((ip, 80)))?;
        let rule = self.rules.first_with(ip)?;
        let marks = [
            (&mut into.scheduled, scheduled),
            (&mut into.answers, answers),
            (&mut into.rule, rule),
            (&mut into.reachable, answers.max(rule)),
        ];
        marks.into_iter().for_each(|(samples, at)| samples.push(at - start));
        Ok(())
    }

    /// Removes the objects and waits until nothing of them is left.
    ///
    /// Not before both pods had time to settle: nginx is its pod's first process, and to such a one a signal that it
    /// does not handle yet is lost. It would then run on until its grace period ends.
    pub fn remove(&self) -> Outcome<()> {
        self.settled(2)?;
        self.runtime.block_on(self.services.delete(NAME, &DeleteParams::default()))?;
        self.runtime.block_on(self.deployments.delete(NAME, &DeleteParams::background()))?;
        self.settled(0)?;
        Ok(())
    }

    fn write(&self, by: By<'_>) -> Outcome<()> {
        match by {
            By::Post => {
                let (deployment, service) = (serde_json::from_value(deployment())?, serde_json::from_value(service())?);
                self.runtime.block_on(self.deployments.create(&PostParams::default(), &deployment))?;
                self.runtime.block_on(self.services.create(&PostParams::default(), &service))?;
            }
            By::Kubectl(program) => {
                let mut kubectl = Command::new(program);
                kubectl.arg("--kubeconfig").arg(&self.kubeconfig).args(["apply", "-f"]).arg(self.manifests.path());
                let status = kubectl.stdout(Stdio::null()).status()?;
                if !status.success() {
                    return Err(format!("kubectl apply: {status}").into());
                }
            }
        }
        Ok(())
    }

    fn forget(&self) {
        self.seen_pods.forget();
        self.seen_slices.forget();
        self.rules.forget();
    }

    /// Waits until exactly `count` pods are there, all ready and none on its way out, and the machine had a rest.
    pub fn settled(&self, count: usize) -> Outcome<Vec<Pod>> {
        let until = Instant::now() + PATIENCE;
        let params = ListParams::default().labels(&format!("app={NAME}"));
        loop {
            let pods = self.runtime.block_on(self.pods.list(&params))?.items;
            let endpoints = self.endpoints()?;
            let whole = pods.iter().all(|pod| is_ready(pod) && pod.metadata.deletion_timestamp.is_none());
            if pods.len() == count && whole && endpoints == count {
                std::thread::sleep(REST);
                return Ok(pods);
            }
            if Instant::now() > until {
                let left = serde_json::to_string(&pods)?;
                return Err(format!(
                    "after {PATIENCE:?} not {count} ready pods and endpoints, but {endpoints} endpoints and {left}"
                )
                .into());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn endpoints(&self) -> Outcome<usize> {
        let params = ListParams::default().labels(&format!("kubernetes.io/service-name={NAME}"));
        let slices = self.runtime.block_on(self.slices.list(&params))?;
        Ok(slices.items.iter().map(|slice| slice.endpoints.len()).sum())
    }
}

fn deployment() -> Value {
    json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": NAME, "namespace": NAMESPACE},
        "spec": {
            "replicas": 2,
            "selector": {"matchLabels": {"app": NAME}},
            "template": {
                "metadata": {"labels": {"app": NAME}},
                "spec": {"containers": [{
                    "name": "nginx", "image": crate::NGINX, "imagePullPolicy": "IfNotPresent", "ports": [{"containerPort": 80}],
                }]},
            },
        },
    })
}

fn service() -> Value {
    json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": NAME, "namespace": NAMESPACE},
        "spec": {"clusterIP": SERVICE_IP, "selector": {"app": NAME}, "ports": [{"name": "http", "port": 80, "targetPort": 80}]},
    })
}
