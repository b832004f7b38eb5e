//! Meaning: what each rule and element of nftables mode is there for, and the objects that caused it.
//!
//! ```text
//!  chain + rule ─► its shape ─┐
//!  packet ─► key ─► whose? ───┴─► RuleTold          one rule serves many Services: the packet says which
//! ```
//!
//! A rule is known by what it says; what another hand put into a chain of ours is [`Meaning::Foreign`]. Where the plan has
//! no owner for the packet's destination the rule stays without one. This room must never know how a rule was come by.

use std::net::SocketAddr;

use portolan_model::verdict::Packet;
use portolan_model::{NsName, ObjectKind, ObjectRef, ServicePortKey, Snapshot};

use crate::causes::{Said, node_of_range, object, pod_behind, service};
use crate::meaning::{At, Door, Masqueraded, Meaning, RuleTold, TurnedAway};
use crate::nftables::lang::{Data, Element, Field, Key, Rule, Sign, Statement, Table};
use crate::nftables::names::{CLIENTS, SetId};
use crate::nftables::plan::Desired;
use crate::nftables::render;
use crate::nftables::service::{Kind, Owner};
use crate::nftables::trace::{self, Way};
use crate::way::Event;

/// What `rule` in `chain` of our table is there for, for the packet that came to it. `at` is `None` where no packet did:
/// then what depends on one is left out.
pub fn told(desired: &Desired, snapshot: &Snapshot, chain: &str, rule: &Rule, at: Option<&At>) -> RuleTold {
    let reader = Reader { desired, snapshot, at };
    let said = reader.said(chain, rule).unwrap_or_else(|| Meaning::Foreign.into());
    said.told(snapshot, render::rule(desired.family(), rule))
}

/// What a trace in the kernel would tell of `way`, which [`trace::walk`] found for `packet` in `table`, each rule with what
/// it is there for.
pub fn told_way(
    (desired, table): (&Desired, &Table),
    snapshot: &Snapshot,
    way: &Way,
    packet: &Packet,
    source_port: u16,
) -> Vec<(Event, Option<RuleTold>)> {
    let events = trace::events(table, way, packet, source_port).into_iter().map(|event| {
        let rule = event.index.and_then(|index| table.chains.get(&event.chain)?.rules.get(index));
        let told = rule.map(|rule| told(desired, snapshot, &event.chain, rule, Some(&event.at)));
        (event, told)
    });
    events.collect()
}

/// What an element of `set` is there for. `owner` is the service port that asked for it, if one did.
pub fn told_element(
    desired: &Desired,
    snapshot: &Snapshot,
    set: SetId,
    element: &Element,
    owner: Option<&Owner>,
) -> RuleTold {
    let said = match owner {
        Some(owner) => of_service(desired, snapshot, set, element, owner),
        None => of_node(snapshot, set, element),
    };
    said.told(snapshot, render::element_text(element))
}

struct Reader<'a> {
    desired: &'a Desired,
    snapshot: &'a Snapshot,
    at: Option<&'a At>,
}

impl Reader<'_> {
    /// `None`: nothing that we write there.
    fn said(&self, chain: &str, rule: &Rule) -> Option<Said> {
        let statements = rule.statements.as_slice();
        match chain {
            "nat-prerouting" | "nat-output" => leads_to(statements, "services"),
            "services" => self.dispatch(statements),
            "nat-postrouting" => self.postrouting(statements),
            "filter-input" | "filter-forward" | "filter-output" => self.refusals(statements),
            "filter-prerouting-pre-dnat" | "filter-output-pre-dnat" => match statements {
                [Statement::StateNew, Statement::In(..), Statement::Jump(to)] if &**to == "firewall" => {
                    Some(self.leads(self.by_address()))
                }
                _ => None,
            },
            "firewall" => self.firewall(statements),
            "raw-prerouting" | "raw-output" => self.cluster_dns(statements),
            "remember" | "remember-client" => self.remember(statements),
            _ if chain.starts_with("pick-") => self.pick(chain, statements),
            _ => self.door(chain, statements),
        }
    }

    /// Which destination it is for.
    fn dispatch(&self, statements: &[Statement]) -> Option<Said> {
        match statements {
            [Statement::PriorityFrom(..), rest @ ..] => self.affinity("services", rest),
            [Statement::In(Sign::Is, fields, _), .., Statement::Goto(_)] => {
                let by_port = fields.first() == Some(&Field::Proto);
                let key = if by_port { self.by_port() } else { self.by_address() };
                Some(self.claims(key))
            }
            [.., Statement::DnatFrom(_, map)] if is_host_ports(map) => Some(self.host_port()),
            _ => None,
        }
    }

    /// Chains behind a class of destinations, and the groups of counts.
    fn door(&self, chain: &str, statements: &[Statement]) -> Option<Said> {
        let is_open = matches!(chain, "external" | "node-ports");
        let is_door = is_open || DOORS.contains(&chain) || chain.starts_with("group-");
        if !is_door {
            return None;
        }
        let key = self.key_in(chain);
        match statements {
            [Statement::MarkOr(_)] if is_open => Some(self.marks(key, Masqueraded::External).into()),
            [Statement::Net(Sign::Is, Field::Source, range), Statement::Goto(_)] => {
                let objects = self.owner(key).map(|owner| service(&owner));
                Some(Meaning::Leads.beside(objects.into_iter().chain(node_of_range(self.snapshot, *range))))
            }
            [Statement::CameBy(Sign::Is, _) | Statement::In(Sign::Is, ..), Statement::Goto(_)] => Some(self.leads(key)),
            [Statement::Local(Sign::Is, Field::Source), Statement::MarkOr(_), Statement::Goto(_)] => {
                Some(self.marks(key, Masqueraded::FromNode).into())
            }
            [Statement::PriorityFrom(..), rest @ ..] => self.affinity(chain, rest),
            _ => None,
        }
    }

    /// One endpoint of a list.
    fn pick(&self, chain: &str, statements: &[Statement]) -> Option<Said> {
        match statements {
            [Statement::DnatFrom(..)] => Some(self.sends(self.key_in(chain), false)),
            _ => self.stranger(self.key_in(chain), statements),
        }
    }

    /// What stands behind the lookup of a client's id.
    fn affinity(&self, chain: &str, rest: &[Statement]) -> Option<Said> {
        match rest {
            [Statement::DnatFrom(_, map)] if &**map == CLIENTS => Some(self.sends(self.key_in(chain), true)),
            _ => self.stranger(self.key_in(chain), rest),
        }
    }

    /// Who is masqueraded on the way to a ClusterIP.
    fn stranger(&self, key: Option<Key>, statements: &[Statement]) -> Option<Said> {
        match statements {
            [Statement::MarkOr(_)] => Some(self.marks(key, Masqueraded::All).into()),
            [Statement::Net(Sign::Not, Field::Source, range), Statement::MarkOr(_)] => {
                let marks = self.marks(key, Masqueraded::NotFromPod);
                Some(marks.beside(node_of_range(self.snapshot, *range)))
            }
            [Statement::CameBy(Sign::Not, _), Statement::MarkOr(_)] => {
                Some(self.marks(key, Masqueraded::NotFromPod).into())
            }
            _ => None,
        }
    }

    fn postrouting(&self, statements: &[Statement]) -> Option<Said> {
        let masquerades = |because| Meaning::Masquerades { because };
        match statements {
            [Statement::Marked(_), Statement::MarkXor(_), Statement::Masquerade { .. }] => {
                Some(masquerades(Masqueraded::Marked).into())
            }
            [Statement::Redirected, Statement::In(..), Statement::Masquerade { .. }] => {
                let owner = self.owner_before_dnat();
                let pod = owner.as_ref().zip(self.at).and_then(|(key, at)| pod_behind(self.snapshot, key, at.dst));
                Some(masquerades(Masqueraded::Hairpin).beside(owner.as_deref().map(service).into_iter().chain(pod)))
            }
            [Statement::Net(Sign::Is, ..), Statement::Net(Sign::Not, ..), Statement::Masquerade { .. }] => {
                Some(masquerades(Masqueraded::LeavesCluster).into())
            }
            _ => None,
        }
    }

    fn refusals(&self, statements: &[Statement]) -> Option<Said> {
        match statements {
            [Statement::StateNew, Statement::Jump(to)] if &**to == "remember" => Some(Meaning::Leads.into()),
            [Statement::Redirected, Statement::Accept] => Some(Meaning::Lets.into()),
            [Statement::StateNew, Statement::In(Sign::Is, fields, _), rest @ ..] => self.refusal(fields, rest.last()?),
            [Statement::StateNew, Statement::Net(Sign::Is, Field::Destination, _), Statement::Drop] => {
                Some(Meaning::Drops { service: None, because: TurnedAway::NoSuchPort }.into())
            }
            _ => None,
        }
    }

    fn refusal(&self, fields: &[Field], verdict: &Statement) -> Option<Said> {
        if fields == [Field::Destination] {
            let owner = self.at.and_then(|at| self.desired.owner_of_key(&Key::Addr(at.dst.ip())));
            let refuses = Meaning::Refuses { service: None, because: TurnedAway::NoSuchPort };
            return (*verdict == Statement::Reject).then(|| refuses.beside(owner.map(|owner| service(owner))));
        }
        let key = if fields.first() == Some(&Field::Proto) { self.by_port() } else { self.by_address() };
        let service = self.owner(key).map(|owner| (*owner).clone());
        match verdict {
            Statement::Reject => Some(Meaning::Refuses { service, because: TurnedAway::NoEndpoints }.into()),
            Statement::Drop => Some(Meaning::Drops { service, because: TurnedAway::NoLocalEndpoints }.into()),
            _ => None,
        }
    }

    fn firewall(&self, statements: &[Statement]) -> Option<Said> {
        let owner = self.owner(self.by_address());
        match statements {
            [Statement::In(Sign::Is, ..), Statement::Return] => {
                Some(Meaning::Lets.beside(owner.as_deref().map(service)))
            }
            [Statement::Drop] => {
                let service = owner.map(|owner| (*owner).clone());
                Some(Meaning::Drops { service, because: TurnedAway::SourceRange }.into())
            }
            _ => None,
        }
    }

    fn cluster_dns(&self, statements: &[Statement]) -> Option<Said> {
        let [Statement::Net(Sign::Is, _, net), Statement::Proto(proto), _, Statement::NoTrack] = statements else {
            return None;
        };
        let owner = self.desired.owner_of_key(&Key::Dest(net.addr(), *proto, 53));
        Some(Meaning::KeepsUntracked.beside(owner.map(|owner| service(owner))))
    }

    /// After DNAT: the packet's own destination says whose client it was.
    fn remember(&self, statements: &[Statement]) -> Option<Said> {
        let remembers = match statements {
            [.., Statement::PriorityFrom(..), Statement::Goto(to)] => &**to == "remember-client",
            [Statement::In(Sign::Is, fields, _), Statement::Update { .. }] => *fields == [Field::Priority],
            _ => false,
        };
        if remembers {
            let remembers = self.owner_before_dnat().map(|owner| Meaning::Remembers { service: (*owner).clone() });
            return Some(remembers.unwrap_or(Meaning::Plumbing).into());
        }
        match statements {
            [Statement::PriorityNone] => Some(Meaning::Plumbing.into()),
            [Statement::In(Sign::Is, ..), Statement::Return] => Some(Meaning::Plumbing.into()),
            [Statement::Proto(_), Statement::In(Sign::Is, ..), Statement::Return] => Some(Meaning::Plumbing.into()),
            _ => None,
        }
    }

    fn leads(&self, key: Option<Key>) -> Said {
        Meaning::Leads.beside(self.owner(key).map(|owner| service(&owner)))
    }

    fn claims(&self, key: Option<Key>) -> Said {
        let Some(owner) = self.owner(key) else { return Meaning::Leads.into() };
        let door = key.and_then(|key| door_of(self.desired, self.snapshot, &owner, &key));
        match door {
            Some(door) => Meaning::Claims { service: (*owner).clone(), door }.into(),
            None => Meaning::Leads.beside([service(&owner)]),
        }
    }

    fn marks(&self, key: Option<Key>, because: Masqueraded) -> Meaning {
        Meaning::MarksMasquerade { service: self.owner(key).map(|owner| (*owner).clone()), because }
    }

    fn sends(&self, key: Option<Key>, bound: bool) -> Said {
        match (self.owner(key), self.at) {
            (Some(owner), Some(at)) => Meaning::SendsTo { service: (*owner).clone(), endpoint: at.after, bound }.into(),
            _ => Meaning::Leads.into(),
        }
    }

    fn host_port(&self) -> Said {
        let pod = self.at.and_then(|at| Some((pod_at(self.snapshot, at.after)?, at.after)));
        pod.map_or(Meaning::Leads, |(pod, to)| Meaning::HostPort { pod, to }).into()
    }

    /// The destination that a chain behind a door speaks of.
    fn key_in(&self, chain: &str) -> Option<Key> {
        if chain.contains("node-ports") { self.by_port() } else { self.by_address() }
    }

    fn by_address(&self) -> Option<Key> {
        self.at.map(|at| Key::Dest(at.dst.ip(), at.proto, at.dst.port()))
    }

    fn by_port(&self) -> Option<Key> {
        self.at.map(|at| Key::Port(at.proto, at.dst.port()))
    }

    fn owner(&self, key: Option<Key>) -> Option<Owner> {
        self.desired.owner_of_key(&key?).cloned()
    }

    /// Whose it was as it came: an address goes before a node port.
    fn owner_before_dnat(&self) -> Option<Owner> {
        let at = self.at?;
        let (addr, port) = (at.original_dst.ip(), at.original_dst.port());
        self.owner(Some(Key::Dest(addr, at.proto, port))).or_else(|| self.owner(Some(Key::Port(at.proto, port))))
    }
}

/// Chains behind a class of destinations; what comes to the first two is masqueraded there, whoever sent it.
const DOORS: [&str; 4] =
    ["external-local", "external-local-to-cluster", "node-ports-local", "node-ports-local-to-cluster"];

fn leads_to(statements: &[Statement], chain: &str) -> Option<Said> {
    match statements {
        [Statement::Jump(to)] if **to == *chain => Some(Meaning::Leads.into()),
        _ => None,
    }
}

fn is_host_ports(map: &str) -> bool {
    [SetId::HostPorts, SetId::HostPortsAt].iter().any(|set| *set.name() == *map)
}

/// By which of its owner's addresses.
fn door_of(desired: &Desired, snapshot: &Snapshot, owner: &Owner, key: &Key) -> Option<Door> {
    let is_said_external = |addr| {
        let view = snapshot.services.get(&owner.service);
        view.is_some_and(|view| view.spec.external_ips.contains(addr))
    };
    Some(match (desired.kind_of(owner, key)?, key) {
        (Kind::ClusterIp, _) => Door::ClusterIp,
        (Kind::NodePort, _) => Door::NodePort,
        (Kind::External, Key::Dest(addr, ..)) if is_said_external(addr) => Door::External,
        (Kind::External | Kind::Guarded, _) => Door::LoadBalancer,
    })
}

/// The pod of this node with host ports at this address.
fn pod_at(snapshot: &Snapshot, to: SocketAddr) -> Option<NsName> {
    let has_it = |pod: &portolan_model::Attachment| !pod.host_ports.is_empty() && pod.addresses.contains(&to.ip());
    snapshot.attachments.iter().find(|(_, pod)| has_it(pod)).map(|(name, _)| name.clone())
}

fn of_service(desired: &Desired, snapshot: &Snapshot, set: SetId, element: &Element, owner: &Owner) -> Said {
    let key: ServicePortKey = (**owner).clone();
    let asked = Some(key.clone());
    match set {
        SetId::Endpoints | SetId::EndpointsLocal | SetId::NodePortEndpoints | SetId::NodePortEndpointsLocal => {
            match element.data {
                Some(Data::Endpoint(addr, port)) => {
                    Meaning::SendsTo { service: key, endpoint: SocketAddr::new(addr, port), bound: false }.into()
                }
                _ => Meaning::Leads.beside([service(&key)]),
            }
        }
        SetId::Hairpin => {
            let pods = pods_at(snapshot, &key, &element.key);
            Meaning::Masquerades { because: Masqueraded::Hairpin }.beside([service(&key)].into_iter().chain(pods))
        }
        SetId::Timeout(_) | SetId::Affinity(_) => Meaning::Remembers { service: key }.into(),
        SetId::ClusterIps => {
            Meaning::Refuses { service: None, because: TurnedAway::NoSuchPort }.beside([service(&key)])
        }
        SetId::NoEndpoints | SetId::NodePortsNoEndpoints => {
            Meaning::Refuses { service: asked, because: TurnedAway::NoEndpoints }.into()
        }
        SetId::NoLocalEndpoints | SetId::NodePortsNoLocalEndpoints => {
            Meaning::Drops { service: asked, because: TurnedAway::NoLocalEndpoints }.into()
        }
        SetId::Guarded => Meaning::Drops { service: asked, because: TurnedAway::SourceRange }.into(),
        SetId::Allowed(_) => Meaning::Lets.beside([service(&key)]),
        _ => match door_of(desired, snapshot, owner, &element.key) {
            Some(door) => Meaning::Claims { service: key, door }.into(),
            None => Meaning::Leads.beside([service(&key)]),
        },
    }
}

fn pods_at(snapshot: &Snapshot, owner: &ServicePortKey, key: &Key) -> Vec<ObjectRef> {
    let Key::Pair(addr, _) = key else { return Vec::new() };
    let Some(view) = snapshot.services.get(&owner.service) else { return Vec::new() };
    let ports = view.ports.iter().filter(|port| port.key == *owner);
    let pods = ports.flat_map(|port| &port.endpoints).filter(|it| it.addr == *addr).filter_map(|it| it.pod.as_ref());
    pods.map(|pod| object(ObjectKind::Pod, pod)).collect()
}

fn of_node(snapshot: &Snapshot, set: SetId, element: &Element) -> Said {
    let node = || object(ObjectKind::Node, &NsName::new("", snapshot.settings.node.clone()));
    match (set, element.data, element.key) {
        (SetId::HostPorts | SetId::HostPortsAt, Some(Data::Endpoint(addr, port)), _) => {
            let to = SocketAddr::new(addr, port);
            pod_at(snapshot, to).map_or(Meaning::Leads, |pod| Meaning::HostPort { pod, to }).into()
        }
        (SetId::Hairpin, _, Key::Pair(addr, _)) => {
            let pod = pod_at(snapshot, SocketAddr::new(addr, 0));
            Meaning::Masquerades { because: Masqueraded::HostPort }.beside(pod.map(|pod| object(ObjectKind::Pod, &pod)))
        }
        (SetId::NodePortAddresses, ..) => Meaning::Leads.beside([node()]),
        _ => Meaning::Plumbing.into(),
    }
}
