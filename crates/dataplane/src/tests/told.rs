//! Told: what the rules on a packet's way are said to be there for, held against what the documents promise such a
//! packet. It knows nothing of rules: only Services, addresses, policies and settings.

use std::net::SocketAddr;

use portolan_model::verdict::{Outcome, Packet, is_node_address};
use portolan_model::{
    DetectLocal, Endpoint, ExternalPolicy, Family, NsName, ObjectKind, ObjectRef, ServicePort, ServicePortKey,
    ServiceView, Snapshot,
};

use crate::meaning::{Door, Masqueraded, Meaning, RuleTold, TurnedAway};

type Claim<'a> = (&'a ServiceView, &'a ServicePort);

/// One packet's way, as it was told.
pub(crate) struct Told<'a> {
    pub snapshot: &'a Snapshot,
    pub packet: &'a Packet,
    pub outcome: Outcome,
    pub rules: &'a [RuleTold],
}

impl<'a> Told<'a> {
    /// What is told wrongly, if anything.
    pub fn objection(&self) -> Option<String> {
        let found = self.of_outcome().or_else(|| self.of_masquerade()).or_else(|| self.of_reasons())?;
        let rules: Vec<String> = self.rules.iter().map(|it| format!("{:?} {:?}", it.meaning, it.objects)).collect();
        Some(format!("{:?} {:?}: {found}\n  {}", self.packet, self.outcome, rules.join("\n  ")))
    }

    fn of_outcome(&self) -> Option<String> {
        let last = self.rules.last().map(|it| &it.meaning);
        let ends = |meaning: &Meaning| matches!(meaning, Meaning::Refuses { .. } | Meaning::Drops { .. });
        match self.outcome {
            Outcome::Dnat { to, .. } => self.of_dnat(to),
            Outcome::Reject => match last {
                Some(Meaning::Refuses { service, because }) => self.of_refusal(service.as_ref(), *because),
                _ => Some("refused, and no rule says so last".into()),
            },
            Outcome::Drop => match last {
                Some(Meaning::Drops { service, because }) => self.of_drop(service.as_ref(), *because),
                _ => Some("dropped, and no rule says so last".into()),
            },
            Outcome::Untouched { .. } => {
                let ended = self.rules.iter().any(|it| ends(&it.meaning)) || self.sent_to().is_some();
                ended.then(|| "let be, and a rule says otherwise".into())
            }
        }
    }

    fn of_dnat(&self, to: SocketAddr) -> Option<String> {
        if self.sent_to() != Some(to) {
            return Some(format!("told to come to {:?}", self.sent_to()));
        }
        let decided = self.rules.iter().rev().find(|it| is_sent_on(&it.meaning))?;
        match &decided.meaning {
            Meaning::SendsTo { service, endpoint, .. } => self.of_endpoint(service, *endpoint, decided),
            Meaning::HostPort { pod, to } => self.of_host_port(pod, *to, decided),
            _ => None,
        }
    }

    fn of_endpoint(&self, service: &ServicePortKey, to: SocketAddr, decided: &RuleTold) -> Option<String> {
        let claims: Vec<(&ServicePortKey, Door)> = self
            .rules
            .iter()
            .filter_map(|it| match &it.meaning {
                Meaning::Claims { service, door } => Some((service, *door)),
                _ => None,
            })
            .collect();
        let [(claimed, door)] = claims.as_slice() else { return Some(format!("claimed {} times", claims.len())) };
        let Some((view, port)) = self.owner(*door == Door::NodePort) else { return Some("nobody owns it".into()) };
        if *claimed != service || *service != port.key {
            return Some(format!("claimed by {claimed:?}, sent on by {service:?}, owned by {:?}", port.key));
        }
        let (spec, dst) = (&view.spec, &self.packet.dst);
        let is_door = match door {
            Door::ClusterIp => spec.cluster_ips.contains(dst),
            Door::External => spec.external_ips.contains(dst),
            Door::LoadBalancer => spec.load_balancer_ips.contains(dst),
            Door::NodePort => port.spec.node_port == self.packet.dport,
        };
        if !is_door {
            return Some(format!("told to come by {door:?}"));
        }
        let endpoint = port.endpoints.iter().find(|it| SocketAddr::new(it.addr, it.port) == to);
        let Some(endpoint) = endpoint else { return Some(format!("{to} is no endpoint of {service:?}")) };
        let pod = endpoint.pod.as_ref().map(|pod| ObjectRef { kind: ObjectKind::Pod, key: pod.clone() });
        let own = ObjectRef { kind: ObjectKind::Service, key: view.key.clone() };
        let objects: Vec<ObjectRef> = [own].into_iter().chain(pod).collect();
        (decided.objects != objects).then(|| format!("its objects should be {objects:?}"))
    }

    fn of_host_port(&self, pod: &NsName, to: SocketAddr, decided: &RuleTold) -> Option<String> {
        let attachment = self.snapshot.attachments.get(pod);
        let leads_there = attachment.is_some_and(|it| {
            let is_it = |port: &portolan_model::HostPort| {
                (port.proto, port.host_port, port.pod_port) == (self.packet.proto, self.packet.dport, to.port())
            };
            it.addresses.contains(&to.ip()) && it.host_ports.iter().any(is_it)
        });
        let objects = vec![ObjectRef { kind: ObjectKind::Pod, key: pod.clone() }];
        (!leads_there || decided.objects != objects).then(|| format!("{pod} has no such host port"))
    }

    fn of_refusal(&self, service: Option<&ServicePortKey>, because: TurnedAway) -> Option<String> {
        match (because, service) {
            (TurnedAway::NoEndpoints, Some(key)) => {
                let Some((_, port)) = self.claimant(key) else { return Some(format!("{key:?} has no such address")) };
                self.usable(port).next().map(|it| format!("{} can take it", it.target()))
            }
            (TurnedAway::NoSuchPort, None) => {
                let at = self.at_the_end();
                let is_cluster_ip = |(view, _): &Claim<'_>| view.spec.cluster_ips.contains(&at.ip());
                let has_port = |claim: &Claim<'_>| is_cluster_ip(claim) && claim.1.spec.port == at.port();
                let is_known = self.of_any_proto().any(|claim| is_cluster_ip(&claim));
                let is_open = self.claims().any(|claim| has_port(&claim));
                (!is_known || is_open).then(|| "it is no ClusterIP, or has that port".into())
            }
            _ => Some("no reason to refuse".into()),
        }
    }

    fn of_drop(&self, service: Option<&ServicePortKey>, because: TurnedAway) -> Option<String> {
        let at = self.at_the_end();
        match (because, service) {
            (TurnedAway::NoLocalEndpoints, Some(key)) => {
                let Some((view, port)) = self.claimant(key) else {
                    return Some(format!("{key:?} has no such address"));
                };
                let by_cluster_ip = view.spec.cluster_ips.contains(&at.ip()) && port.spec.port == at.port();
                let is_local = match by_cluster_ip {
                    true => view.spec.internal_local,
                    false => view.spec.external_policy == ExternalPolicy::Local,
                };
                let here = |it: &&Endpoint| it.node.as_ref() == Some(&self.snapshot.settings.node);
                let is_wrong = !is_local || self.usable(port).next().is_none() || self.usable(port).any(|it| here(&it));
                is_wrong.then(|| "policy and endpoints do not ask for it".into())
            }
            (TurnedAway::SourceRange, Some(key)) => {
                let Some((view, _)) = self.claimant(key) else { return Some(format!("{key:?} has no such address")) };
                let is_named = view.spec.source_ranges.iter().any(|net| net.contains(&self.packet.src));
                // An endpoint may be at a guarded address itself: then who may come is dropped there all the same.
                let may_come = is_named && self.sent_to().is_none();
                let is_wrong = may_come || !view.spec.load_balancer_ips.contains(&at.ip());
                is_wrong.then(|| "the source may come".into())
            }
            (TurnedAway::Loopback, None) => {
                (!at.ip().is_loopback() || self.packet.src.is_loopback()).then(|| "it is not for loopback".into())
            }
            (TurnedAway::NoSuchPort, None) => {
                let in_range = self.snapshot.settings.service_cidrs.iter().any(|range| range.contains(&at.ip()));
                let is_owned = self.of_any_proto().any(|(view, _)| view.spec.cluster_ips.contains(&at.ip()));
                (!in_range || is_owned).then(|| "the address is somebody's".into())
            }
            _ => Some("no reason to drop".into()),
        }
    }

    /// Rewritten if, and only if, a rule says so; what was marked was marked by a rule that knows why.
    fn of_masquerade(&self) -> Option<String> {
        let masquerade = match self.outcome {
            Outcome::Dnat { masquerade, .. } | Outcome::Untouched { masquerade } => masquerade,
            Outcome::Reject | Outcome::Drop => false,
        };
        let mut reasons = self.rules.iter().filter_map(|it| match &it.meaning {
            Meaning::Masquerades { because } => Some(*because),
            _ => None,
        });
        let Some(because) = reasons.next() else {
            return masquerade.then(|| "masqueraded, and no rule says so".into());
        };
        if !masquerade {
            return Some("not masqueraded, and a rule says so".into());
        }
        if because == Masqueraded::Marked {
            return self.marks().next().is_none().then(|| "marked, and no rule says why".into());
        }
        self.of_reason(because, None)
    }

    fn of_reasons(&self) -> Option<String> {
        self.marks().find_map(|(service, because)| self.of_reason(because, Some(service)))
    }

    fn marks(&self) -> impl Iterator<Item = (Option<&'a ServicePortKey>, Masqueraded)> {
        self.rules.iter().filter_map(|it| match &it.meaning {
            Meaning::MarksMasquerade { service, because } if *because != Masqueraded::Marked => {
                Some((service.as_ref(), *because))
            }
            _ => None,
        })
    }

    /// A reason must hold of the packet, and name the Service whose rule it is.
    fn of_reason(&self, because: Masqueraded, named: Option<Option<&ServicePortKey>>) -> Option<String> {
        let (src, dst, proxy) = (self.packet.src, self.packet.dst, &self.snapshot.settings.proxy);
        let owner = match self.rules.iter().any(|it| matches!(it.meaning, Meaning::Claims { door: Door::NodePort, .. }))
        {
            true => self.owner(true),
            false => self.owner(false),
        };
        let has_cluster_ip = owner.is_some_and(|(view, _)| view.spec.cluster_ips.contains(&dst));
        let policy = owner.map(|(view, _)| view.spec.external_policy);
        let pods = self.snapshot.cluster_cidr(Family::of(dst));
        let is_pod = |addr| pods.is_some_and(|range| range.contains(&addr));
        let holds = match because {
            Masqueraded::NotFromPod => has_cluster_ip && !proxy.masquerade_all && self.is_detected() == Some(false),
            Masqueraded::All => has_cluster_ip && proxy.masquerade_all,
            Masqueraded::External => policy == Some(ExternalPolicy::Cluster),
            Masqueraded::FromNode => policy == Some(ExternalPolicy::Local) && is_node_address(self.snapshot, src),
            Masqueraded::Hairpin => self.sent_to().is_some_and(|to| to.ip() == src),
            Masqueraded::LeavesCluster => proxy.egress_snat && is_pod(src) && !is_pod(self.at_the_end().ip()),
            Masqueraded::HostPort => self.sent_to().is_some_and(|to| to.ip() == src) || src.is_loopback(),
            Masqueraded::Marked => true,
        };
        if !holds {
            return Some(format!("{because:?} does not hold of it"));
        }
        let rightful = owner.map(|(_, port)| &port.key).filter(|_| because != Masqueraded::HostPort);
        named
            .filter(|named| *named != rightful)
            .map(|named| format!("{because:?} by {named:?}, should by {rightful:?}"))
    }

    /// A local pod sends it; `None` if nothing can tell.
    fn is_detected(&self) -> Option<bool> {
        let link = self.packet.arrival.link().unwrap_or_default();
        let family = self.packet.family();
        match &self.snapshot.settings.proxy.detect_local {
            DetectLocal::ClusterCidr => {
                self.snapshot.cluster_cidr(family).map(|range| range.contains(&self.packet.src))
            }
            DetectLocal::NodeCidr => self.snapshot.node_cidr(family).map(|range| range.contains(&self.packet.src)),
            DetectLocal::BridgeInterface(name) => (!name.0.is_empty()).then(|| link == &*name.0),
            DetectLocal::InterfaceNamePrefix(prefix) => (!prefix.is_empty()).then(|| link.starts_with(&**prefix)),
            DetectLocal::Nothing => None,
        }
    }

    /// Where the rules sent it on to, as they are told.
    fn sent_to(&self) -> Option<SocketAddr> {
        self.rules.iter().rev().find_map(|it| match &it.meaning {
            Meaning::SendsTo { endpoint, .. } => Some(*endpoint),
            Meaning::HostPort { to, .. } => Some(*to),
            _ => None,
        })
    }

    fn at_the_end(&self) -> SocketAddr {
        self.sent_to().unwrap_or(SocketAddr::new(self.packet.dst, self.packet.dport))
    }

    /// Who has the destination: a ClusterIP goes before other addresses, then the first by name; or the node port.
    fn owner(&self, of_node_port: bool) -> Option<Claim<'a>> {
        let Packet { dst, dport, .. } = *self.packet;
        if of_node_port {
            let on_port = self.claims().filter(|(_, port)| port.spec.node_port == dport);
            return on_port.min_by_key(|(_, port)| port.key.clone());
        }
        let on_address = self.claims().filter(|claim| has_address(claim, SocketAddr::new(dst, dport)));
        on_address.min_by_key(|(view, port)| (!view.spec.cluster_ips.contains(&dst), port.key.clone()))
    }

    /// The service port of this key, if where the packet came to is its address or node port.
    fn claimant(&self, key: &ServicePortKey) -> Option<Claim<'a>> {
        let at = self.at_the_end();
        let has_it = |claim: &Claim<'a>| has_address(claim, at) || claim.1.spec.node_port == at.port();
        self.claims().find(|claim| claim.1.key == *key && has_it(claim))
    }

    /// Service ports of the packet's protocol.
    fn claims(&self) -> impl Iterator<Item = Claim<'a>> {
        let proto = self.packet.proto;
        self.of_any_proto().filter(move |(_, port)| port.spec.proto == proto)
    }

    fn of_any_proto(&self) -> impl Iterator<Item = Claim<'a>> {
        let (family, proxy) = (self.packet.family(), &self.snapshot.settings.proxy);
        let views = self.snapshot.services.values().filter(move |view| {
            view.spec.is_proxied(proxy) && view.spec.cluster_ips.iter().any(|ip| Family::of(*ip) == family)
        });
        views.flat_map(|view| view.ports.iter().map(move |port| (&**view, port)))
    }

    /// Ready ones, and those that serve while they go.
    fn usable(&self, port: &'a ServicePort) -> impl Iterator<Item = &'a Endpoint> {
        let family = self.packet.family();
        let of_family = port.endpoints.iter().filter(move |it| Family::of(it.addr) == family);
        of_family.filter(|it| it.ready || (it.serving && it.terminating))
    }
}

fn is_sent_on(meaning: &Meaning) -> bool {
    matches!(meaning, Meaning::SendsTo { .. } | Meaning::HostPort { .. })
}

fn has_address((view, port): &Claim<'_>, at: SocketAddr) -> bool {
    let spec = &view.spec;
    let mut all = spec.cluster_ips.iter().chain(&spec.external_ips).chain(&spec.load_balancer_ips);
    port.spec.port == at.port() && all.any(|addr| *addr == at.ip())
}
