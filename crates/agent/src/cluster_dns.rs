//! This node's DNS at the cluster address: on `lo`, out of conntrack, and shown in the cluster as a mirror pod.
//!
//! Order matters. First the zones are whole, then the address is on `lo` and bound, then NOTRACK sends queries there,
//! and last the mirror pod makes this node one of the kube-dns endpoints. An agent that is told to end goes the same way
//! back: from then on the Service's own rules send this node's queries to another node.
//!
//! Where a killed agent left the address on `lo`, its successor binds it first of all and answers from what was last known; where
//! nothing is, when the zones are whole: queries that come meanwhile wait in the socket, where a refusal would end a
//! resolver's attempts at once.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ipnet::IpNet;
use k8s_openapi::jiff::Timestamp;
use kube::Client;
use portolan_dataplane::iptables::DnsPath;
use portolan_kernel::{Netlink, NetlinkError, Network};
use tokio::sync::oneshot;
use tracing::{info, warn};

use crate::core::{Input, ToCore};
use crate::dns::{self, Listener};
use crate::node::{self, NodeIdentity, Shown};
use crate::status::Progress;

const LOOK_EVERY: Duration = Duration::from_millis(20);
/// How long an orderly end may take: supervisors lose patience after some seconds.
const LEAVE_WITHIN: Duration = Duration::from_secs(3);
const RETRY: Duration = Duration::from_millis(500);
/// A mirror pod that another agent left is not called unready before this: an agent that has begun is ready in less.
const READY_WITHIN: Duration = Duration::from_secs(5);
/// A mirror pod that somebody took away is there again after this, as kubelet's are.
const SHOWN_AGAIN: Duration = Duration::from_secs(30);

pub(crate) struct ClusterDns {
    pub(crate) client: Client,
    pub(crate) identity: NodeIdentity,
    pub(crate) addresses: Vec<IpAddr>,
    pub(crate) progress: Arc<Progress>,
    pub(crate) core: ToCore,
    pub(crate) dns: dns::Handle,
    /// It knows names already, from before the agent started.
    pub(crate) is_recalled: bool,
}

impl ClusterDns {
    /// Gets there, trying until it does, and says so for as long as it is asked to. Without addresses, DNS is another's.
    pub(crate) async fn answer_at_cluster_address(&self) {
        if self.addresses.is_empty() {
            return;
        }
        let mut bound = BTreeMap::new();
        let mut open = BTreeSet::new();
        let mut tried: Option<Instant> = None;
        while !self.progress.is_programmed() {
            if tried.is_none_or(|at| at.elapsed() > RETRY) {
                tried = Some(Instant::now());
                bound.append(&mut self.bind_what_was_left(&bound, &open).await);
                if self.is_recalled {
                    open.extend(bound.keys().copied());
                    std::mem::take(&mut bound).into_values().for_each(|listener| self.dns.listen(listener));
                }
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
        for address in self.addresses.iter().filter(|address| !open.contains(*address)) {
            if let Some(listener) = bound.remove(address) {
                self.dns.listen(listener);
                continue;
            }
            while let Err(reason) = self.answer_at(*address).await {
                warn!("{reason}");
                // Until this node answers, others do.
                self.core.send(Input::DnsPath(DnsPath::Service, None));
                tokio::time::sleep(RETRY).await;
            }
        }
        self.core.send(Input::DnsPath(DnsPath::ThisNode, None));
        info!(addresses = ?self.addresses, "cluster DNS answers on this node");
        self.keep_shown().await;
    }

    /// Writes the mirror pod, and again whenever readiness changes or somebody took it away.
    async fn keep_shown(&self) {
        let since = Timestamp::now();
        is_registered(&self.client, &self.identity).await;
        // Who came before may have left it Ready; a word that it is not for a moment would have every node write its rules twice.
        let _ = tokio::time::timeout(READY_WITHIN, self.until_ready()).await;
        let mut written: Option<(Shown, Instant)> = None;
        loop {
            let now = Shown { is_ready: self.dns.is_ready(), since };
            if written.is_none_or(|(shown, at)| shown != now || at.elapsed() > SHOWN_AGAIN) {
                match node::show_dns(&self.client, &self.identity, now).await {
                    Ok(()) => written = Some((now, Instant::now())),
                    Err(error) => {
                        warn!(%error, "the DNS mirror pod is not written yet");
                        tokio::time::sleep(RETRY).await;
                    }
                }
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    async fn until_ready(&self) {
        while !self.dns.is_ready() {
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// Leaves the address to the Service's rules, in the time an orderly end has.
    pub(crate) async fn leave(&self) {
        if self.addresses.is_empty() {
            return;
        }
        let told = async {
            node::hide_dns(&self.client, &self.identity).await;
            // Until the cluster's word of it is back the Service's rules may choose this node, where nobody would answer.
            while !self.are_rules_without_us().await {
                tokio::time::sleep(LOOK_EVERY).await;
            }
        };
        if tokio::time::timeout(LEAVE_WITHIN, told).await.is_err() {
            warn!("the cluster was not told in time that this node's DNS ends");
        }
        for address in &self.addresses {
            if let Err(reason) = take_off_lo(*address) {
                warn!("{reason}");
            }
        }
    }

    /// Makes the rules those of the Service, and says whether they send queries to other nodes only.
    async fn are_rules_without_us(&self) -> bool {
        let (written, done) = oneshot::channel();
        self.core.send(Input::DnsPath(DnsPath::Service, Some(written)));
        // The core answers once the rules were tried; it ends only with the process.
        done.await.unwrap_or(true)
    }

    async fn answer_at(&self, address: IpAddr) -> Result<(), String> {
        put_on_lo(address)?;
        self.dns.listen(Listener::bind((address, 53).into()).await.map_err(|e| e.to_string())?);
        Ok(())
    }

    /// Listeners of the addresses that are on `lo` already, but for those that are bound or open.
    async fn bind_what_was_left(
        &self,
        bound: &BTreeMap<IpAddr, Listener>,
        open: &BTreeSet<IpAddr>,
    ) -> BTreeMap<IpAddr, Listener> {
        let mut fresh = BTreeMap::new();
        for address in self.addresses.iter().filter(|address| !bound.contains_key(address) && !open.contains(address)) {
            // An address that is not there cannot be bound; that is its turn's business.
            if let Ok(listener) = Listener::bind((*address, 53).into()).await {
                fresh.insert(*address, listener);
            }
        }
        fresh
    }
}

/// Waits until the cluster has this Node: a pod on a node that the cluster does not know is cleaned up as an orphan.
async fn is_registered(client: &Client, identity: &NodeIdentity) {
    while !node::is_registered(client, identity).await {
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

fn take_off_lo(address: IpAddr) -> Result<(), String> {
    let failed = |e| format!("cannot take {address} off lo: {e}");
    let mut netlink = Netlink::open().map_err(failed)?;
    let lo = netlink.link("lo").map_err(failed)?.index;
    netlink.delete_addr(lo, IpNet::from(address)).map_err(failed)
}

/// Who a former agent left to answer: this node if the addresses are on `lo`, which only an agent puts there.
///
/// # Errors
/// The kernel does not list its links or addresses.
pub(crate) fn path_at_start(network: &mut dyn Network, addresses: &[IpAddr]) -> Result<DnsPath, NetlinkError> {
    let lo: Vec<u32> = network.links()?.iter().filter(|link| link.name == "lo").map(|link| link.index).collect();
    let on_lo = network.addrs()?;
    let is_there =
        |address: &IpAddr| on_lo.iter().any(|a| lo.contains(&a.link_index) && a.net == IpNet::from(*address));
    let left_by_another = !addresses.is_empty() && addresses.iter().all(is_there);
    Ok(if left_by_another { DnsPath::ThisNode } else { DnsPath::Service })
}

fn put_on_lo(address: IpAddr) -> Result<(), String> {
    let failed = |e| format!("cannot put {address} on lo: {e}");
    let mut netlink = Netlink::open().map_err(failed)?;
    let lo = netlink.link("lo").map_err(failed)?.index;
    let wanted = IpNet::from(address);
    if netlink.addrs().map_err(failed)?.iter().any(|a| a.link_index == lo && a.net == wanted) {
        return Ok(());
    }
    netlink.add_addr(lo, wanted).map_err(failed)
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;
    use std::sync::Mutex;

    use http::{Request, Response};
    use kube::client::Body;
    use portolan_kernel::fake::FakeNetwork;
    use serde_json::json;

    use super::*;

    /// An API server that finds no Node for the first three questions; it keeps what it was asked.
    fn late_to_register(asked: &Arc<Mutex<Vec<String>>>) -> Client {
        let asked = asked.clone();
        let service = tower::service_fn(move |request: Request<Body>| {
            let mut asked = asked.lock().expect("nobody panics while holding it");
            asked.push(format!("{} {}", request.method(), request.uri().path()));
            let of_node = asked.iter().filter(|line| line.ends_with("/nodes/node-1")).count();
            let is_there = request.method() != "GET" || (of_node > 3 && request.uri().path().contains("/nodes/"));
            let kind = if request.uri().path().contains("/nodes/") { "Node" } else { "Pod" };
            let (status, body) = match is_there {
                true => (200, json!({"apiVersion": "v1", "kind": kind, "metadata": {"name": "any"}})),
                false => (404, json!({"kind": "Status", "status": "Failure", "reason": "NotFound", "code": 404})),
            };
            let answer = Response::builder().status(status).body(Body::from(body.to_string().into_bytes()));
            std::future::ready(Ok::<_, Infallible>(answer.expect("a number and a body")))
        });
        Client::new(service, "default")
    }

    #[tokio::test]
    async fn the_mirror_pod_waits_for_its_node() {
        let asked = Arc::default();
        let identity = NodeIdentity {
            name: "node-1".to_owned(),
            addresses: vec!["172.18.0.11".parse().expect("IPv4")],
            heartbeat: Duration::from_secs(10),
            limits: crate::Limits::NotAsked,
        };
        let client = late_to_register(&asked);
        is_registered(&client, &identity).await;
        let shown = Shown { is_ready: true, since: Timestamp::now() };
        node::show_dns(&client, &identity, shown).await.expect("written");
        let asked = asked.lock().expect("nobody panics while holding it");
        let first_of_pods = asked.iter().position(|line| line.contains("/pods"));
        assert_eq!(first_of_pods, Some(4), "{asked:?}");
        assert!(asked.iter().any(|line| line == "POST /api/v1/namespaces/kube-system/pods"), "{asked:?}");
    }

    #[test]
    fn an_agent_takes_over_dns_only_where_every_address_is_on_lo() {
        let both: [IpAddr; 2] = ["10.96.0.10".parse().expect("IPv4"), "fd96::a".parse().expect("IPv6")];
        let mut network = FakeNetwork::new();
        let lo = network.links().expect("in memory")[0].index;
        assert_eq!(path_at_start(&mut network, &both).expect("in memory"), DnsPath::Service);
        network.add_addr(lo, both[0].into()).expect("in memory");
        assert_eq!(path_at_start(&mut network, &both).expect("in memory"), DnsPath::Service);
        network.add_addr(lo, both[1].into()).expect("in memory");
        assert_eq!(path_at_start(&mut network, &both).expect("in memory"), DnsPath::ThisNode);
        assert_eq!(path_at_start(&mut network, &[]).expect("in memory"), DnsPath::Service, "DNS is another's");
    }
}
