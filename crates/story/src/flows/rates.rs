//! Rates: new connections a second of each service port and endpoint, and those that are open now.
//!
//! ```text
//!  NEW events of an interval ─► Opened ─┐
//!  conntrack's table at its end ────────┼─► Names::rates ─► NodeRates, a node ─► merged ─► Rates
//! ```
//!
//! A connection is counted by the node that rewrote its destination, and by no other.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::SocketAddr;

use portolan_model::{Family, NsName, Proto, ServicePort, ServicePortKey, Text};
use serde::{Deserialize, Serialize};

use super::{Names, Party, Silent, Tracked};
use crate::evidence::Header;

/// Version of [`Rates`]' shape.
pub const TOP_SCHEMA: &str = "portolan.top/v1";

/// States of connections that are over; their entries wait for stragglers.
const OVER: [&str; 4] = ["TIME_WAIT", "CLOSE", "LAST_ACK", "CLOSED"];

/// Connections that began, counted by where they were sent and who got them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Opened(HashMap<(Proto, SocketAddr, SocketAddr), u64>);

impl Opened {
    /// One began. Those that are not sent on to another destination are of no Service here.
    pub fn saw(&mut self, original: &Header, reply: &Header) {
        if original.dst != reply.src {
            *self.0.entry((original.proto, original.dst, reply.src)).or_default() += 1;
        }
    }
}

/// What one node answers: `GET /portolan/v1/rates`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NodeRates {
    /// The node.
    pub node: Text,
    /// How long it counted, in microseconds.
    pub interval_us: u64,
    /// Events were lost: there were more.
    pub lost: bool,
    /// Endpoints of service ports of which there is something to tell, those without any connection too.
    pub rates: Vec<Rate>,
}

/// One endpoint of a service port on one node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Rate {
    /// Whose.
    pub service: ServicePortKey,
    /// Which.
    pub endpoint: Party,
    /// Connections that began in the interval.
    pub new_connections: u64,
    /// Connections that are open at its end.
    pub open: u64,
    /// Bytes that these have carried both ways; `None` where the node does not count them.
    pub carried: Option<u64>,
}

/// What `portolan top services --output json` prints.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Rates {
    /// [`TOP_SCHEMA`].
    pub schema: Text,
    /// How long the slowest node counted, in microseconds.
    pub interval_us: u64,
    /// No node lost an event, and every node answered. Otherwise there were at least so many.
    pub exact: bool,
    /// Service ports, the busiest first.
    pub services: Vec<ServiceRate>,
    /// Nodes that did not answer: theirs are missing.
    pub silent: Vec<Silent>,
}

/// A service port, all nodes together.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ServiceRate {
    /// Which.
    pub service: ServicePortKey,
    /// Connections that began.
    pub new_connections: u64,
    /// The same a second.
    pub per_second: f64,
    /// Connections that are open.
    pub open: u64,
    /// Bytes that these have carried both ways; `None` where nobody counts them.
    pub carried: Option<u64>,
    /// Its endpoints, the busiest first.
    pub endpoints: Vec<EndpointRate>,
}

/// An endpoint of a service port, all nodes together.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct EndpointRate {
    /// Which.
    pub endpoint: Party,
    /// Connections that began.
    pub new_connections: u64,
    /// The same a second.
    pub per_second: f64,
    /// Its part of the service port's new connections, 0 to 1; `None` if there were none.
    pub share: Option<f64>,
    /// Connections that are open.
    pub open: u64,
    /// Bytes that these have carried both ways; `None` where nobody counts them.
    pub carried: Option<u64>,
}

impl Tracked {
    /// Neither end has finished with it. UDP: it is not forgotten yet.
    pub fn is_open(&self) -> bool {
        self.state.as_deref().is_none_or(|state| !OVER.contains(&state))
    }
}

/// Counted on one node, before names.
#[derive(Clone, Copy, Debug, Default)]
struct Count {
    new_connections: u64,
    open: u64,
    carried: Option<u64>,
}

impl Names<'_> {
    /// What this node tells of an interval: what began in it, and what is open at its end. `only`: of this Service.
    pub fn rates<'e>(
        &self,
        opened: &Opened,
        open: impl IntoIterator<Item = &'e Tracked>,
        only: Option<&NsName>,
    ) -> Vec<Rate> {
        let mut counts: BTreeMap<(ServicePortKey, SocketAddr), Count> = BTreeMap::new();
        let mut of = |port: &ServicePort, endpoint: SocketAddr, change: &dyn Fn(&mut Count)| {
            if only.is_none_or(|key| port.key.service == *key) {
                change(counts.entry((port.key.clone(), endpoint)).or_default());
            }
        };
        for ((proto, to, by), count) in &opened.0 {
            let (original, reply) = sent(*proto, *to, *by);
            if let Some((port, endpoint)) = self.balanced(&original, &reply) {
                of(port, endpoint, &|c| c.new_connections += count);
            }
        }
        for entry in open.into_iter().filter(|entry| entry.is_open()) {
            if let Some((port, endpoint)) = self.balanced(&entry.original, &entry.reply) {
                let carried = entry.carried.map(|(there, back)| there + back);
                of(port, endpoint, &|c| {
                    c.open += 1;
                    c.carried = sum(c.carried, carried);
                });
            }
        }
        self.add_idle(&mut counts);
        let named = |((service, at), count)| self.rate(service, at, count);
        counts.into_iter().map(named).collect()
    }

    /// Endpoints that could have got some of a port's connections of a family and got none.
    fn add_idle(&self, counts: &mut BTreeMap<(ServicePortKey, SocketAddr), Count>) {
        let ports: BTreeSet<(ServicePortKey, Family)> =
            counts.keys().map(|(port, endpoint)| (port.clone(), Family::of(endpoint.ip()))).collect();
        for (port, family) in ports.iter().filter_map(|(key, family)| Some((self.port(key)?, *family))) {
            for endpoint in port.endpoints.iter().filter(|e| e.ready && Family::of(e.addr) == family) {
                counts.entry((port.key.clone(), SocketAddr::new(endpoint.addr, endpoint.port))).or_default();
            }
        }
    }

    fn rate(&self, service: ServicePortKey, at: SocketAddr, count: Count) -> Rate {
        let who = self.port(&service).map_or_else(|| self.who(at.ip()), |port| self.endpoint(port, at));
        let Count { new_connections, open, carried } = count;
        Rate { service, endpoint: Party { who, at }, new_connections, open, carried }
    }
}

/// Headers as far as they are known of a connection that was counted and not kept.
fn sent(proto: Proto, to: SocketAddr, by: SocketAddr) -> (Header, Header) {
    (Header { src: by, dst: to, proto }, Header { src: by, dst: by, proto })
}

fn sum(a: Option<u64>, b: Option<u64>) -> Option<u64> {
    match (a, b) {
        (Some(a), Some(b)) => Some(a + b),
        (one, other) => one.or(other),
    }
}

/// All nodes together.
pub fn merged(nodes: &[NodeRates], silent: Vec<Silent>) -> Rates {
    let mut ports: BTreeMap<&ServicePortKey, BTreeMap<SocketAddr, EndpointRate>> = BTreeMap::new();
    for node in nodes {
        for rate in &node.rates {
            let endpoints = ports.entry(&rate.service).or_default();
            endpoints.entry(rate.endpoint.at).or_insert_with(|| idle(&rate.endpoint)).add(rate, node.interval_us);
        }
    }
    let mut services: Vec<ServiceRate> =
        ports.into_iter().map(|(key, endpoints)| service(key, endpoints.into_values().collect())).collect();
    services.sort_by(|a, b| {
        let busy = |s: &ServiceRate| (s.new_connections, s.open);
        busy(b).cmp(&busy(a)).then_with(|| a.service.cmp(&b.service))
    });
    Rates {
        schema: TOP_SCHEMA.into(),
        interval_us: nodes.iter().map(|node| node.interval_us).max().unwrap_or_default(),
        exact: silent.is_empty() && nodes.iter().all(|node| !node.lost),
        services,
        silent,
    }
}

fn idle(endpoint: &Party) -> EndpointRate {
    EndpointRate {
        endpoint: endpoint.clone(),
        new_connections: 0,
        per_second: 0.0,
        share: None,
        open: 0,
        carried: None,
    }
}

impl EndpointRate {
    fn add(&mut self, rate: &Rate, interval_us: u64) {
        self.new_connections += rate.new_connections;
        self.per_second += rate.new_connections as f64 * 1e6 / interval_us.max(1) as f64;
        self.open += rate.open;
        self.carried = sum(self.carried, rate.carried);
    }
}

fn service(key: &ServicePortKey, mut endpoints: Vec<EndpointRate>) -> ServiceRate {
    let new_connections: u64 = endpoints.iter().map(|e| e.new_connections).sum();
    for endpoint in endpoints.iter_mut().filter(|_| new_connections > 0) {
        endpoint.share = Some(endpoint.new_connections as f64 / new_connections as f64);
    }
    endpoints.sort_by(|a, b| {
        let busy = |e: &EndpointRate| (e.new_connections, e.open);
        busy(b).cmp(&busy(a)).then_with(|| a.endpoint.at.cmp(&b.endpoint.at))
    });
    ServiceRate {
        service: key.clone(),
        new_connections,
        per_second: endpoints.iter().map(|e| e.per_second).sum(),
        open: endpoints.iter().map(|e| e.open).sum(),
        carried: endpoints.iter().map(|e| e.carried).fold(None, sum),
        endpoints,
    }
}
