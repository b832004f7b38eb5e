//! Controllers: what makes the objects in the API come true, and keeps them so.
//!
//! ```text
//! API ─ watch ─► World ─ touched tasks ─► queue ─► reconcile(world, task, now) ─► writes ─► API
//!                  ▲          (pure)                     (pure)                      │
//!                  └───────────────── answers, entered at once ─────────────────────┘
//! ```
//!
//! Deployment, ReplicaSet, EndpointSlice and Endpoints, Node blocks and health, scheduler,
//! namespaces, owner clean-up, ServiceAccounts, the kube-dns Service, load-balancer addresses,
//! Event expiry.
//!
//! One pure function decides each task from one world; only `run` and `client` know a clock, a
//! socket or chance. A world that is as it should be costs no write.
//! Below this room nobody knows of it: it speaks to the server as any client does.

mod balancer;
mod client;
mod cluster_dns;
mod deployment;
mod endpoints;
mod event_expiry;
mod garbage;
mod namespace;
mod node;
pub mod object;
mod owner;
pub mod plan;
mod pod;
mod queue;
mod replica_set;
mod resources;
mod route;
mod run;
mod scheduler;
mod selector;
mod service_account;
pub mod world;

use std::net::IpAddr;
use std::time::Duration;

use ipnet::IpNet;
use jiff::Timestamp;

use plan::{Plan, Task};
use world::World;

pub use run::{RunError, run};

/// What the controllers must be told.
#[derive(Clone, Debug)]
pub struct Config {
    /// Pod ranges, one per address family at most; each Node gets one block of each.
    pub cluster_cidrs: Vec<IpNet>,
    /// Prefix length of a Node's IPv4 block.
    pub node_mask_v4: u8,
    /// Prefix length of a Node's IPv6 block.
    pub node_mask_v6: u8,
    /// Addresses of the kube-dns Service, one per family at most; empty: neither the Service nor its ConfigMap is made.
    pub cluster_dns: Vec<IpAddr>,
    /// The zone of cluster names, such as `cluster.local`.
    pub cluster_domain: String,
    /// Ranges that Services of type LoadBalancer get their addresses from; empty: another gives them.
    pub balancer_pools: Vec<IpNet>,
    /// How long a node may be silent before it is called unreachable.
    pub node_monitor_grace: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Config {
            cluster_cidrs: vec!["10.244.0.0/16".parse().expect("a constant that parses")],
            node_mask_v4: 26,
            node_mask_v6: 122,
            cluster_dns: vec![IpAddr::from([10, 96, 0, 10])],
            cluster_domain: "cluster.local".to_owned(),
            balancer_pools: Vec::new(),
            node_monitor_grace: Duration::from_secs(40),
        }
    }
}

impl Config {
    /// The prefix length of a Node's block in `range`.
    pub fn block_length(&self, range: IpNet) -> u8 {
        match range {
            IpNet::V4(_) => self.node_mask_v4,
            IpNet::V6(_) => self.node_mask_v6,
        }
    }
}

/// Decides one task. Pure: the same world, task and time give the same plan.
pub fn reconcile(world: &World, config: &Config, task: &Task, now: Timestamp) -> Plan {
    match task {
        Task::Deployment(id) => deployment::reconcile(world, id, now),
        Task::ReplicaSet(id) => replica_set::reconcile(world, id, now),
        Task::Endpoints(id) => endpoints::reconcile(world, id),
        Task::ServiceGone(id) => endpoints::reconcile_gone(world, id),
        Task::PodCidrs => node::cidr::reconcile(world, config),
        Task::NodeHealth(name) => node::health::reconcile(world, name, config.node_monitor_grace, now),
        Task::NodePods(name) => node::pods::reconcile(world, name, now),
        Task::Schedule(id) => scheduler::reconcile(world, id, now),
        Task::Namespace(name) => namespace::reconcile(world, name),
        Task::Collect(id) => garbage::reconcile(world, id),
        Task::ServiceAccount(name) => service_account::reconcile(world, name),
        Task::ClusterDns => cluster_dns::reconcile(world, config),
        Task::Balancers => balancer::reconcile(world, &config.balancer_pools, now),
        Task::EventExpiry(id) => event_expiry::reconcile(world, id, now),
    }
}

#[cfg(test)]
mod fixture;
#[cfg(test)]
mod laws;
#[cfg(test)]
mod scenarios;
