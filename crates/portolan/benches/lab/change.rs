//! One endpoint of a Service changes: how long until the nodes' kernels have the rule.
//!
//! ```text
//!  PATCH EndpointSlice ─► acknowledged ─► watch event ─► agent: ingest, resolve, plan, iptables-restore ─► rule
//!                          (API, store)    (at any client)                                                (both nodes)
//! ```
//!
//! The Service has no selector and a slice of its own, so that no controller takes part. Each change brings an address
//! that was never used before: a rule that holds it is the rule of that change. Between two changes come the limits, on
//! a machine that is at rest otherwise: a ConfigMap, which no node follows, patched and seen by a watch; and one run of
//! `iptables-restore` by hand, with copies of the same chains under names of our own, in the same namespace.

use std::net::Ipv4Addr;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::{StreamExt, TryStreamExt};
use k8s_openapi::api::core::v1::{ConfigMap, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::{ListParams, Patch, PatchParams, PostParams};
use kube::runtime::watcher::Event;
use kube::{Api, Client};
use portolan_kernel::iptables::{Family, Flush, Tool};
use portolan_kernel::netns;
use serde_json::{Value, json};
use tokio::runtime::Runtime;

use crate::cluster::{self, NAMESPACE, applied, ready_endpoint};
use crate::copied::CopiedChains;
use crate::nft::RuleEvents;
use crate::sight::{Log, PATIENCE};
use crate::stats::Samples;
use crate::{Outcome, bare, procs};

const NAME: &str = "changing";
/// The Service's other endpoint, which stays.
const STAYING: Ipv4Addr = Ipv4Addr::new(10, 244, 250, 1);
/// Between two measurements: what the last one set in motion comes to its end.
const REST: Duration = Duration::from_millis(25);
/// Services made at the same time when the cluster is filled.
const AT_ONCE: usize = 8;

/// Each counted from the begin of the PATCH, or of the bare run.
#[derive(Default)]
pub struct Changed {
    pub acknowledged: Samples,
    pub watched: Samples,
    pub first_node: Samples,
    pub both_nodes: Samples,
    /// PATCH of a ConfigMap until a watch has it.
    pub bare_write: Samples,
    pub bare_restore: Samples,
    pub durable_write: Samples,
    /// CPU time of one agent and of the API server for one change.
    pub agent_cpu: Duration,
    pub server_cpu: Duration,
}

/// One node: where it is and what its kernel tells.
pub struct NodeSeen {
    pub netns: OwnedFd,
    pub rules: RuleEvents,
    pub agent: procs::Process,
}

/// What a change is measured with.
pub struct Place<'a> {
    pub runtime: &'a Runtime,
    pub nodes: &'a [NodeSeen],
    pub server: procs::Process,
    pub tool: Tool,
    /// A folder on the file system that holds the store.
    pub disk: PathBuf,
}

/// The Service whose endpoint changes, among others that do not.
pub struct Changing<'a> {
    place: Place<'a>,
    services: Api<Service>,
    slices: Api<EndpointSlice>,
    maps: Api<ConfigMap>,
    seen: Arc<Log<Event<EndpointSlice>>>,
    seen_maps: Arc<Log<Event<ConfigMap>>>,
    /// How many addresses have been used.
    used: u16,
}

impl<'a> Changing<'a> {
    pub fn new(place: Place<'a>, client: Client) -> Outcome<Self> {
        let runtime = place.runtime;
        let services: Api<Service> = Api::namespaced(client.clone(), NAMESPACE);
        let slices: Api<EndpointSlice> = Api::namespaced(client.clone(), NAMESPACE);
        let maps: Api<ConfigMap> = Api::namespaced(client, NAMESPACE);
        let addresses = [address(0), STAYING];
        runtime.block_on(make(&services, &slices, NAME.to_owned(), addresses))?;
        let seen = runtime.block_on(cluster::follow(slices.clone(), &format!("kubernetes.io/service-name={NAME}")))?;
        let map = serde_json::from_value(json!({"metadata": {"name": NAME, "labels": {"app": NAME}}, "data": {}}))?;
        runtime.block_on(maps.create(&PostParams::default(), &map))?;
        let seen_maps = runtime.block_on(cluster::follow(maps.clone(), &format!("app={NAME}")))?;
        Ok(Self { place, services, slices, maps, seen, seen_maps, used: 1 })
    }

    /// Adds Services of two endpoints each until there are `count` in all, and waits until the nodes have them.
    pub fn fill(&self, count: usize) -> Outcome<()> {
        let everywhere: Api<Service> = Api::all(self.services.clone().into_client());
        let there = self.place.runtime.block_on(everywhere.list(&ListParams::default()))?.items.len();
        let making = (there..count).map(|number| {
            let [_, _, high, low] = u32::try_from(number).unwrap_or_default().to_be_bytes();
            let pair = [Ipv4Addr::new(10, 244, high, low), Ipv4Addr::new(10, 244, 16 + high, low)];
            make(&self.services, &self.slices, format!("other-{number}"), pair)
        });
        self.place
            .runtime
            .block_on(futures::stream::iter(making).buffer_unordered(AT_ONCE).try_collect::<Vec<()>>())?;
        self.place.nodes.iter().try_for_each(|node| self.await_chains(node, count))
    }

    /// At least one chain per Service, and no more coming.
    fn await_chains(&self, node: &NodeSeen, count: usize) -> Outcome<()> {
        let until = Instant::now() + PATIENCE * 4;
        let mut before = 0;
        while Instant::now() < until {
            let chains = self.saved(node)?.matches("\n:KUBE-SVC-").count();
            if chains >= count && chains == before {
                return Ok(());
            }
            before = chains;
            std::thread::sleep(Duration::from_millis(500));
        }
        Err(format!("{before} chains KUBE-SVC-… on a node instead of {count} or more").into())
    }

    /// Changes the endpoint `count` times.
    pub fn measure(&mut self, count: usize) -> Outcome<Changed> {
        let mut changed = Changed::default();
        let mut copy = CopiedChains::of(&self.saved(&self.place.nodes[0])?, self.current(), STAYING)?;
        self.restore(&copy.first())?;
        let before = self.cpu();
        for _ in 0..count {
            self.change(&mut changed)?;
            let (address, text) = copy.next();
            changed.bare_restore.push(self.bare_restore(&text, address)?);
            changed.bare_write.push(self.bare_write(address)?);
            changed.durable_write.push(bare::durable_write(&self.place.disk)?);
        }
        let after = self.cpu();
        let times = u32::try_from(count)?;
        changed.agent_cpu = (after.0 - before.0) / times;
        changed.server_cpu = (after.1 - before.1) / times;
        self.restore(&copy.removal())?;
        self.check()?;
        Ok(changed)
    }

    fn change(&mut self, changed: &mut Changed) -> Outcome<()> {
        self.forget();
        let next = address(self.used);
        self.used += 1;
        let patch = Patch::Merge(json!({"endpoints": endpoints(&[next, STAYING])}));
        let start = Instant::now();
        self.place.runtime.block_on(self.slices.patch(NAME, &PatchParams::default(), &patch))?;
        changed.acknowledged.push(start.elapsed());
        let is_next = |event: &Event<EndpointSlice>| applied(event).and_then(ready_endpoint).filter(|a| *a == next);
        changed.watched.push(self.seen.wait("the change at a watch", is_next)?.0 - start);
        let at = self.place.nodes.iter().map(|node| node.rules.first_with(next)).collect::<Outcome<Vec<_>>>()?;
        changed.first_node.push(at[0] - start);
        changed.both_nodes.push(at.into_iter().max().unwrap_or(start) - start);
        std::thread::sleep(REST);
        Ok(())
    }

    /// `iptables-restore --noflush` of the copied chains until the kernel tells of the rule.
    fn bare_restore(&self, text: &str, address: Ipv4Addr) -> Outcome<Duration> {
        self.forget();
        let start = Instant::now();
        self.restore(text)?;
        let at = self.place.nodes[0].rules.first_with(address)?;
        std::thread::sleep(REST);
        Ok(at - start)
    }

    fn bare_write(&self, address: Ipv4Addr) -> Outcome<Duration> {
        self.seen_maps.forget();
        let value = address.to_string();
        let patch = Patch::Merge(json!({"data": {"endpoint": value}}));
        let start = Instant::now();
        self.place.runtime.block_on(self.maps.patch(NAME, &PatchParams::default(), &patch))?;
        let has = |map: &ConfigMap| map.data.as_ref().and_then(|data| data.get("endpoint")) == Some(&value);
        let (at, ()) =
            self.seen_maps.wait("the ConfigMap at a watch", |event| applied(event).is_some_and(has).then_some(()))?;
        std::thread::sleep(REST);
        Ok(at - start)
    }

    /// What the rules say in the end is what was asked for last: a notification is no proof of that.
    fn check(&self) -> Outcome<()> {
        let (now, gone) = (
            format!("--to-destination {}:80", self.current()),
            format!("--to-destination {}:80", address(self.used - 2)),
        );
        for node in self.place.nodes {
            let saved = self.saved(node)?;
            if !saved.contains(&now) || saved.contains(&gone) || saved.contains("BENCH-") {
                return Err(
                    format!("the rules are not those of the last change: `{now}` expected, `{gone}` not").into()
                );
            }
        }
        Ok(())
    }

    fn current(&self) -> Ipv4Addr {
        address(self.used - 1)
    }

    fn forget(&self) {
        self.seen.forget();
        self.place.nodes.iter().for_each(|node| node.rules.forget());
    }

    fn saved(&self, node: &NodeSeen) -> Outcome<String> {
        Ok(netns::run_in(node.netns.as_fd(), || self.place.tool.save(Family::V4, "nat"))??)
    }

    fn restore(&self, text: &str) -> Outcome<()> {
        Ok(netns::run_in(self.place.nodes[0].netns.as_fd(), || {
            self.place.tool.restore(Family::V4, text, Flush::Keep)
        })??)
    }

    /// Of the first node's agent, and of the API server.
    fn cpu(&self) -> (Duration, Duration) {
        (procs::cpu(self.place.nodes[0].agent.pid), procs::cpu(self.place.server.pid))
    }
}

/// The address of change `number`: no other uses it.
fn address(number: u16) -> Ipv4Addr {
    let [_, high] = (number / 250).to_be_bytes();
    let [_, low] = (number % 250 + 1).to_be_bytes();
    Ipv4Addr::new(10, 244, 200 + high, low)
}

fn endpoints(addresses: &[Ipv4Addr]) -> Value {
    addresses.iter().map(|address| json!({"addresses": [address], "conditions": {"ready": true}})).collect()
}

/// A Service without a selector and a slice for it, with one port named `http`.
async fn make(
    services: &Api<Service>,
    slices: &Api<EndpointSlice>,
    name: String,
    addresses: [Ipv4Addr; 2],
) -> Outcome<()> {
    let port = json!({"name": "http", "port": 80, "protocol": "TCP"});
    let service = json!({"metadata": {"name": name}, "spec": {"ports": [port]}});
    let slice = json!({
        "metadata": {"name": name, "labels": {"kubernetes.io/service-name": name}},
        "addressType": "IPv4", "ports": [port], "endpoints": endpoints(&addresses),
    });
    services.create(&PostParams::default(), &serde_json::from_value(service)?).await?;
    slices.create(&PostParams::default(), &serde_json::from_value(slice)?).await?;
    Ok(())
}
