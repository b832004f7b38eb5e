//! The question: FROM and TO as written, and where they are in the cluster. Pure.

use std::net::{IpAddr, SocketAddr};

use portolan_model::{Facts, NsName, Proto, Service, Text};
use portolan_story::evidence::Target;
use portolan_story::place::find::{Ground, resolve};
use portolan_story::place::{Goal, Sender};

use crate::failure::Failure;
use crate::trace::TraceArgs;

/// FROM, with `--live`, of whoever it is.
const ANY: &str = "any";

/// What the command line asks for.
#[derive(Clone, Debug)]
pub struct Written {
    /// `None`: anyone, with `--live`.
    pub from: Option<Sender>,
    pub to: Goal,
    pub proto: Proto,
}

impl Written {
    /// # Errors
    /// FROM or TO is no place.
    pub fn read(args: &TraceArgs) -> Result<Self, Failure> {
        let from = match (args.from.as_str(), args.live) {
            (ANY, true) => None,
            (ANY, false) => {
                return Err(Failure::input("FROM any: nobody in particular can send; add --live, or name a pod"));
            }
            (text, _) => Some(Sender::parse(text, &args.namespace).map_err(Failure::input)?),
        };
        let to = Goal::parse(&args.to, &args.namespace).map_err(Failure::input)?;
        Ok(Self { from, to, proto: args.proto.into() })
    }
}

/// Where exactly.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// The node that sends, or where the pod is that does; `None`: the host outside, or anyone.
    pub node: Option<Text>,
    /// The pod that sends, with a network of its own or its node's.
    pub pod: Option<NsName>,
    /// Where to.
    pub target: Target,
}

/// Looks FROM and TO up.
///
/// # Errors
/// The cluster has none such, or which port is meant cannot be known.
pub fn find(written: &Written, ground: &Ground<'_>) -> Result<Found, Failure> {
    // A name asks DNS as its sender would; whoever anyone is asks as the host outside does, which has no namespace.
    let from = written.from.as_ref().unwrap_or(&Sender::Outside);
    let target = resolve(from, &written.to, ground, written.proto).map_err(Failure::input)?;
    let node = from.node(ground).map_err(Failure::input)?;
    let pod = if let Sender::Pod(key) = from { Some(key.clone()) } else { None };
    Ok(Found { node, pod, target })
}

/// Addresses that FROM sends from; empty: anyone.
pub fn sources(from: Option<&Sender>, ground: &Ground<'_>) -> Vec<IpAddr> {
    match from {
        None => Vec::new(),
        Some(Sender::Outside) => ground.outside.to_vec(),
        Some(Sender::Node(name)) => ground.facts.nodes.get(name).map(|node| node.addresses.clone()).unwrap_or_default(),
        Some(Sender::Pod(key)) => ground.facts.pods.get(key).map(|pod| pod.addresses.clone()).unwrap_or_default(),
    }
}

/// Where packets to TO are sent, and where NAT may send them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ends {
    /// As senders know it.
    pub fronts: Vec<SocketAddr>,
    /// Endpoints of the Service that is behind.
    pub behind: Vec<SocketAddr>,
}

/// All ways to TO: every address of a Service's port, not only the one that a probe would take.
///
/// # Errors
/// TO is a DNS name that is no Service's of the cluster.
pub fn ends(written: &Written, target: &Target, facts: &Facts) -> Result<Ends, Failure> {
    let port = match target {
        Target::Address(at) => at.port(),
        Target::Name(_, port) => *port,
    };
    if let Some((key, service)) = service_of(&written.to, target, facts) {
        return Ok(of_service(key, service, port, written.proto, facts));
    }
    match target {
        Target::Address(at) => Ok(Ends { fronts: vec![*at], behind: Vec::new() }),
        Target::Name(name, _) => Err(Failure::input(format!(
            "TO {name}: no Service of the cluster has that name, so its packets cannot be known; with --live give an ADDRESS:PORT"
        ))),
    }
}

/// The Service that TO is, by its key, its name in DNS or one of its addresses.
fn service_of<'a>(to: &Goal, target: &Target, facts: &'a Facts) -> Option<(&'a NsName, &'a Service)> {
    let has = |addr: IpAddr| {
        move |service: &&Service| {
            let mut all = service.cluster_ips.iter().chain(&service.external_ips).chain(&service.load_balancer_ips);
            all.any(|of| *of == addr)
        }
    };
    let key = match (to, target) {
        (Goal::Service(key, _), _) => key.clone(),
        (Goal::Name(name, _), _) => {
            let mut labels = name.split('.');
            let service = labels.next()?;
            NsName::new(labels.next().unwrap_or("default"), service)
        }
        (_, Target::Address(at)) => {
            let found = facts.services.iter().find(|(_, service)| has(at.ip())(&&***service));
            return found.map(|(key, service)| (key, &**service));
        }
        _ => return None,
    };
    let (key, service) = facts.services.get_key_value(&key)?;
    Some((key, service))
}

fn of_service(key: &NsName, service: &Service, port: u16, proto: Proto, facts: &Facts) -> Ends {
    let ports = || service.ports.iter().filter(|of| of.proto == proto && (of.port == port || of.node_port == port));
    let own = || service.cluster_ips.iter().chain(&service.external_ips).chain(&service.load_balancer_ips);
    let mut fronts: Vec<SocketAddr> =
        ports().flat_map(|of| own().map(|addr| SocketAddr::new(*addr, of.port))).collect();
    let nodes = || facts.nodes.values().flat_map(|node| &node.addresses);
    let node_ports = ports().map(|of| of.node_port).filter(|number| *number != 0);
    fronts.extend(node_ports.flat_map(|number| nodes().map(move |addr| SocketAddr::new(*addr, number))));
    let slices = facts.slices_of.get(key).into_iter().flatten().filter_map(|slice| facts.slices.get(slice));
    let mut behind: Vec<SocketAddr> = slices
        .flat_map(|slice| {
            let is_of = |of: &&portolan_model::SlicePort| of.proto == proto && ports().any(|port| port.name == of.name);
            let numbers = slice.ports.iter().filter(is_of).map(|of| of.port);
            numbers.flat_map(|number| slice.endpoints.iter().map(move |e| SocketAddr::new(e.addr, number)))
        })
        .collect();
    behind.sort();
    behind.dedup();
    if fronts.is_empty() {
        // Headless: senders know its endpoints.
        fronts.clone_from(&behind);
    }
    Ends { fronts, behind }
}
