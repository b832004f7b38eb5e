//! Find: where a [`Goal`] is in a cluster, and whether a [`Sender`] is there. Objects in, an address or a name out.
//!
//! A pod asks for a Service by name, as programs do; a node by ClusterIP; a host outside by the balancer's address, else
//! a node port, else the ClusterIP. A number that is no port of the Service stands: what becomes of such a packet is a
//! question too.

use std::net::{IpAddr, SocketAddr};

use portolan_model::{Facts, Family, NsName, Pod, Proto, Service, ServiceKind, ServicePortFact, Text};

use crate::evidence::Target;
use crate::objects::Objects;
use crate::place::{Goal, Port, Sender};
use crate::words::nearest;

/// The cluster in which places are looked for.
#[derive(Clone, Copy, Debug)]
pub struct Ground<'a> {
    /// What there is.
    pub facts: &'a Facts,
    /// Ports that pods declare.
    pub objects: &'a Objects,
    /// Addresses of the host outside; empty where there is none.
    pub outside: &'a [IpAddr],
    /// Only addresses of this family; `None`: the first of what is found.
    pub family: Option<Family>,
}

/// A place that the cluster does not have.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotFound {
    /// No object of that name.
    #[error("no {kind} {name}{}", hint(near, known))]
    Object {
        /// Kind of object.
        kind: &'static str,
        /// As asked for, with its namespace.
        name: String,
        /// Names much like it.
        near: Vec<String>,
        /// Some that there are.
        known: Vec<String>,
    },
    /// The Service has no port of that name.
    #[error("Service {service} has no {proto} port {port:?}; it has {}", list(ports))]
    NoPort {
        /// The Service.
        service: NsName,
        /// As asked for.
        port: Text,
        /// Transport.
        proto: Proto,
        /// Those it has, such as `http 80/tcp`.
        ports: Vec<String>,
    },
    /// Which port is meant cannot be known.
    #[error("{place}: which port? {why}")]
    WhichPort {
        /// As asked for.
        place: String,
        /// What there is to choose from.
        why: String,
    },
    /// It has no address to send to or from.
    #[error("{place} has no {}: {why}", address(*family))]
    NoAddress {
        /// What.
        place: String,
        /// The family that was asked for.
        family: Option<Family>,
        /// Why not, and what to do.
        why: String,
    },
}

fn hint(near: &[String], known: &[String]) -> String {
    match (near, known) {
        ([], []) => "; there are none".to_owned(),
        ([], known) => format!("; there are {}", list(known)),
        (near, _) => format!("; did you mean {}?", near.join(" or ")),
    }
}

fn list(texts: &[String]) -> String {
    match texts.len() {
        0 => "none".to_owned(),
        1..=6 => texts.join(", "),
        n => format!("{} and {} more", texts[..5].join(", "), n - 5),
    }
}

fn address(family: Option<Family>) -> &'static str {
    match family {
        None => "address",
        Some(Family::V4) => "IPv4 address",
        Some(Family::V6) => "IPv6 address",
    }
}

impl Sender {
    /// The node that sends for it; `None`: the host outside.
    ///
    /// # Errors
    /// No such pod or node; or the pod is on no node yet, or no more.
    pub fn node(&self, ground: &Ground<'_>) -> Result<Option<Text>, NotFound> {
        match self {
            Self::Outside => Ok(None),
            Self::Node(name) => ground.node(name).map(|_| Some(name.clone())),
            Self::Pod(key) => {
                let pod = ground.pod(key)?;
                let missing =
                    |why: &str| NotFound::NoAddress { place: format!("pod {key}"), family: None, why: why.to_owned() };
                match &pod.node {
                    _ if pod.finished => Err(missing("its containers have ended; take a pod that runs")),
                    None => Err(missing("no node runs it yet; see `kubectl describe pod`")),
                    Some(node) => Ok(Some(node.clone())),
                }
            }
        }
    }

    /// It sends from the pods' network: it asks DNS as pods do.
    fn is_in_pod_network(&self, ground: &Ground<'_>) -> bool {
        matches!(self, Self::Pod(key) if ground.facts.pods.get(key).is_some_and(|pod| !pod.host_network))
    }
}

/// Where exactly: an address, or a name to be asked of DNS first.
///
/// # Errors
/// The sender or the goal is not there, or which port is meant cannot be known.
pub fn resolve(from: &Sender, to: &Goal, ground: &Ground<'_>, proto: Proto) -> Result<Target, NotFound> {
    from.node(ground)?;
    match to {
        Goal::Address(addr) => Ok(Target::Address(*addr)),
        Goal::Outside(port) => {
            let why = "there is no host outside here; give an ADDRESS:PORT".to_owned();
            ground.choose(ground.outside, "outside", why).map(|addr| Target::Address(SocketAddr::new(addr, *port)))
        }
        Goal::Node(name, port) => {
            let node = ground.node(name)?;
            let why = "its Node names none of type InternalIP".to_owned();
            let addr = ground.choose(&node.addresses, &format!("node {name}"), why)?;
            Ok(Target::Address(SocketAddr::new(addr, *port)))
        }
        Goal::Pod(key, port) => {
            let pod = ground.pod(key)?;
            let why = "it has not started yet; see `kubectl describe pod`".to_owned();
            let addr = ground.choose(&pod.addresses, &format!("pod {key}"), why)?;
            Ok(Target::Address(SocketAddr::new(addr, ground.pod_port(key, port.as_ref(), proto)?)))
        }
        Goal::Name(name, port) => {
            let port = ground.port_of_name(from, name, port.as_ref(), proto)?;
            Ok(Target::Name(name.clone(), port))
        }
        Goal::Service(key, port) => {
            let service = ground.service(key)?;
            let asked = Asked { ground, key, service, proto };
            asked.target(from, port.as_ref())
        }
    }
}

impl<'a> Ground<'a> {
    fn node(&self, name: &Text) -> Result<&'a portolan_model::Node, NotFound> {
        let nodes = &self.facts.nodes;
        nodes.get(name).map(|node| &**node).ok_or_else(|| unknown("Node", name, nodes.keys().map(|n| n.to_string())))
    }

    /// The pod of that name.
    ///
    /// # Errors
    /// There is none; names much like it come with that.
    pub fn pod(&self, key: &NsName) -> Result<&'a Pod, NotFound> {
        let pods = &self.facts.pods;
        pods.get(key).map(|pod| &**pod).ok_or_else(|| unknown_key("Pod", key, pods.keys()))
    }

    /// The Service of that name.
    ///
    /// # Errors
    /// There is none; names much like it come with that.
    pub fn service(&self, key: &NsName) -> Result<&'a Service, NotFound> {
        let services = &self.facts.services;
        services.get(key).map(|service| &**service).ok_or_else(|| unknown_key("Service", key, services.keys()))
    }

    fn fits(&self, addr: &IpAddr) -> bool {
        self.family.is_none_or(|family| Family::of(*addr) == family)
    }

    fn choose(&self, addresses: &[IpAddr], place: &str, why: String) -> Result<IpAddr, NotFound> {
        let found = addresses.iter().copied().find(|addr| self.fits(addr));
        found.ok_or_else(|| NotFound::NoAddress { place: place.to_owned(), family: self.family, why })
    }

    fn pod_port(&self, key: &NsName, port: Option<&Port>, proto: Proto) -> Result<u16, NotFound> {
        let declared = self.objects.pods.get(key).map(|note| note.ports.as_slice()).unwrap_or_default();
        let mut fitting = declared.iter().filter(|(_, of, _)| *of == proto);
        let found = match port {
            Some(Port::Number(number)) => return Ok(*number),
            Some(Port::Name(name)) => fitting.find(|(of, _, _)| **of == **name),
            None => fitting.next(),
        };
        found.map(|(_, _, number)| *number).ok_or_else(|| {
            let all: Vec<String> = declared.iter().map(|(name, of, n)| told(name, *n, *of)).collect();
            let why = format!("the pod declares {}; add :PORT as a number", list(&all));
            NotFound::WhichPort { place: format!("pod {key}"), why }
        })
    }

    /// A bare name's port: of the Service that its first labels name, where it is left out or is a name itself.
    fn port_of_name(&self, from: &Sender, name: &str, port: Option<&Port>, proto: Proto) -> Result<u16, NotFound> {
        if let Some(Port::Number(number)) = port {
            return Ok(*number);
        }
        let mut labels = name.trim_end_matches('.').split('.');
        let service = labels.next().unwrap_or_default();
        let own = if let Sender::Pod(key) = from { &*key.namespace } else { "default" };
        let key = NsName::new(labels.next().unwrap_or(own), service);
        match self.facts.services.get(&key) {
            Some(service) => Asked { ground: self, key: &key, service, proto }.port(port),
            None => {
                let siblings = self.facts.services.keys().filter(|other| other.namespace == key.namespace);
                let near = nearest(service, siblings.map(|other| &*other.name));
                let meant = near.first().map(|near| format!(" (did you mean {near}?)")).unwrap_or_default();
                let why = format!("no Service {key}{meant} says it; add :PORT as a number");
                Err(NotFound::WhichPort { place: name.to_owned(), why })
            }
        }
    }
}

/// One Service that is asked for.
struct Asked<'a> {
    ground: &'a Ground<'a>,
    key: &'a NsName,
    service: &'a Service,
    proto: Proto,
}

impl Asked<'_> {
    fn target(&self, from: &Sender, port: Option<&Port>) -> Result<Target, NotFound> {
        let number = self.port(port)?;
        if from.is_in_pod_network(self.ground) && self.ground.family.is_none() {
            let own = matches!(from, Sender::Pod(pod) if pod.namespace == self.key.namespace);
            let name = match own {
                true => self.key.name.to_string(),
                false => format!("{}.{}", self.key.name, self.key.namespace),
            };
            return Ok(Target::Name(name, number));
        }
        match &self.service.kind {
            ServiceKind::ExternalName(target) => Ok(Target::Name(target.to_string(), number)),
            ServiceKind::Headless => {
                let why = "a headless Service has its pods' addresses, and none of them is ready".to_owned();
                let addr = self.ground.choose(&self.endpoints(), &self.named(), why)?;
                Ok(Target::Address(SocketAddr::new(addr, number)))
            }
            _ if *from == Sender::Outside => self.door_for_outside(number).map(Target::Address),
            _ => self.cluster_ip(number).map(Target::Address),
        }
    }

    /// The number to send to: of the Service's port, or of the endpoints' where there is no ClusterIP to translate it.
    fn port(&self, port: Option<&Port>) -> Result<u16, NotFound> {
        let found = match port {
            Some(Port::Number(number)) => return Ok(*number),
            Some(Port::Name(name)) => self.ports().find(|p| p.name == *name).ok_or_else(|| NotFound::NoPort {
                service: self.key.clone(),
                port: name.clone(),
                proto: self.proto,
                ports: self.all_ports(),
            })?,
            None => self.only_port()?,
        };
        let is_headless = self.service.kind == ServiceKind::Headless;
        Ok(if is_headless { self.endpoint_port(found).unwrap_or(found.port) } else { found.port })
    }

    fn only_port(&self) -> Result<&ServicePortFact, NotFound> {
        let mut ports = self.ports();
        match (ports.next(), ports.next()) {
            (Some(port), None) => Ok(port),
            _ => {
                let why = format!("it has {}; add :PORT", list(&self.all_ports()));
                Err(NotFound::WhichPort { place: self.named(), why })
            }
        }
    }

    fn ports(&self) -> impl Iterator<Item = &ServicePortFact> {
        self.service.ports.iter().filter(|port| port.proto == self.proto)
    }

    fn all_ports(&self) -> Vec<String> {
        self.service.ports.iter().map(|port| told(&port.name, port.port, port.proto)).collect()
    }

    fn slices(&self) -> impl Iterator<Item = &portolan_model::Slice> {
        let keys = self.ground.facts.slices_of.get(self.key).into_iter().flatten();
        keys.filter_map(|key| self.ground.facts.slices.get(key)).map(|slice| &**slice)
    }

    fn endpoint_port(&self, port: &ServicePortFact) -> Option<u16> {
        let mut all = self.slices().flat_map(|slice| &slice.ports);
        all.find(|of| of.name == port.name && of.proto == port.proto).map(|of| of.port)
    }

    fn endpoints(&self) -> Vec<IpAddr> {
        let ready = self.slices().flat_map(|slice| &slice.endpoints).filter(|endpoint| endpoint.ready);
        ready.map(|endpoint| endpoint.addr).collect()
    }

    fn named(&self) -> String {
        format!("Service {}", self.key)
    }

    fn cluster_ip(&self, port: u16) -> Result<SocketAddr, NotFound> {
        let why = "it has no ClusterIP of that family; see its spec.clusterIPs".to_owned();
        let addr = self.ground.choose(&self.service.cluster_ips, &self.named(), why)?;
        Ok(SocketAddr::new(addr, port))
    }

    fn door_for_outside(&self, port: u16) -> Result<SocketAddr, NotFound> {
        let fits = |addr: &&IpAddr| self.ground.fits(addr);
        if let Some(addr) = self.service.load_balancer_ips.iter().find(fits) {
            return Ok(SocketAddr::new(*addr, port));
        }
        let node_port = self.ports().find(|of| of.port == port).map(|of| of.node_port).filter(|number| *number != 0);
        let node = self.ground.facts.nodes.values().flat_map(|node| &node.addresses).find(fits);
        match (node_port, node, self.service.external_ips.iter().find(fits)) {
            (Some(number), Some(addr), _) => Ok(SocketAddr::new(*addr, number)),
            (_, _, Some(addr)) => Ok(SocketAddr::new(*addr, port)),
            _ => self.cluster_ip(port),
        }
    }
}

fn told(name: &str, number: u16, proto: Proto) -> String {
    if name.is_empty() { format!("{number}/{proto}") } else { format!("{name} {number}/{proto}") }
}

/// No object of that name in the whole cluster.
pub fn unknown(kind: &'static str, name: &str, known: impl Iterator<Item = String>) -> NotFound {
    let known: Vec<String> = known.collect();
    let near = nearest(name, known.iter().map(String::as_str)).into_iter().take(3).map(str::to_owned).collect();
    NotFound::Object { kind, name: name.to_owned(), near, known }
}

/// A name much like it in its namespace, or the very name in another.
pub fn unknown_key<'a>(kind: &'static str, key: &NsName, known: impl Iterator<Item = &'a NsName>) -> NotFound {
    let known: Vec<&NsName> = known.collect();
    let elsewhere = known.iter().filter(|other| other.name == key.name);
    let siblings = || known.iter().filter(|other| other.namespace == key.namespace);
    let alike = nearest(&key.name, siblings().map(|other| &*other.name));
    let alike = alike.into_iter().map(|name| format!("{}/{name}", key.namespace));
    let near = elsewhere.map(|other| other.to_string()).chain(alike).take(3).collect();
    NotFound::Object { kind, name: key.to_string(), near, known: siblings().map(|other| other.to_string()).collect() }
}

/// A slip or two away: letters that are wrong, missing, too many, or changed with their neighbour.
pub fn is_near(a: &str, b: &str) -> bool {
    !nearest(a, [b]).is_empty()
}
