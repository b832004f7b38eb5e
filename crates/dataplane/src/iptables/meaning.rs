//! Meaning: what each rule of iptables mode is there for, and the objects that caused it.
//!
//! ```text
//!  chain + rule ─► its shape ─► whose? (comment, held to the hash in the chain's name; else the plan) ─► RuleTold
//! ```
//!
//! A rule is known by what it says, not by its place: one that the plan has left meanwhile is still told rightly, and
//! what another hand put into a chain of ours is [`Meaning::Foreign`]. This room must never know how a rule was come by.

use std::net::{IpAddr, SocketAddr};

use portolan_model::verdict::Packet;
use portolan_model::{NsName, ObjectKind, ObjectRef, Proto, ServicePortKey, Snapshot};

use crate::causes::{Said, node_of_range, object, pod_behind, service};
use crate::claims::Destination;
use crate::iptables::names::{self, ServiceChains};
use crate::iptables::plan::{Desired, RuleSet};
use crate::iptables::rule::{Chain, CtState, Match, Rule, Sign, Table, Target, Where};
use crate::iptables::trace::{self, Way};
use crate::iptables::{parse, render, saved};
use crate::meaning::{At, Door, Masqueraded, Meaning, RuleTold, TurnedAway};
use crate::way::Event;

/// What `rule` in `chain` is there for, ours or not, built-in or not. Its text is the line of `iptables-save` without
/// `-A CHAIN`. Cheap where the rule bears its comment; else the chain's owner is looked for in the whole plan. `at` is the
/// packet that came to it, `None` where none did: only KUBE-PROXY-FIREWALL has two reasons to drop.
pub fn told(desired: &Desired, snapshot: &Snapshot, chain: &Chain, rule: &Rule, at: Option<&At>) -> RuleTold {
    let reader = Reader { desired, snapshot, rule, at };
    let said = reader.said(chain).unwrap_or_else(|| Meaning::Foreign.into());
    said.told(snapshot, saved::line(desired.family(), rule))
}

/// A line as `iptables -S CHAIN` or `iptables-save` prints it, `-A CHAIN …`: its chain, and what it is there for. The text
/// is the line's own. `None` if it is no rule.
pub fn told_line(
    desired: &Desired,
    snapshot: &Snapshot,
    table: Table,
    line: &str,
    at: Option<&At>,
) -> Option<(Chain, RuleTold)> {
    let (chain, rule) = read_line(table, line)?;
    let mut told = told(desired, snapshot, &chain, &rule, at);
    told.text = line.trim().strip_prefix("-A ")?.strip_prefix(&*chain.name)?.trim().into();
    Some((chain, told))
}

/// What a trace in the kernel would tell of `way`, which [`trace::walk`] found for `packet` in `rules`, each rule with what
/// it is there for.
pub fn told_way(
    (desired, rules): (&Desired, &RuleSet),
    snapshot: &Snapshot,
    way: &Way,
    packet: &Packet,
    source_port: u16,
) -> Vec<(Event, Option<RuleTold>)> {
    let mut steps = way.path.iter();
    let events = trace::events(rules, way, packet, source_port).into_iter().map(|event| {
        let step = event.index.and_then(|_| steps.next());
        let rule = step.and_then(|step| Some((&step.chain, rules.get(&step.chain)?.get(step.index)?)));
        let told = rule.map(|(chain, rule)| told(desired, snapshot, chain, rule, Some(&event.at)));
        (event, told)
    });
    events.collect()
}

/// Reads `-A CHAIN …`.
pub(super) fn read_line(table: Table, line: &str) -> Option<(Chain, Rule)> {
    if !line.trim().starts_with("-A ") {
        return None;
    }
    let read = parse::parse(&format!("*{}\n{}\nCOMMIT\n", table.name(), line.trim())).ok()?;
    let (chain, mut rules) = read.chains.into_iter().next()?;
    Some((chain, rules.pop()?))
}

/// What a rule in a built-in chain is there for: a jump of ours leads on, anything else is somebody else's.
pub fn of_hook(rule: &Rule) -> Meaning {
    match rule.jumps_to().is_some_and(|to| names::SHARED.contains(&to)) {
        true => Meaning::Leads,
        false => Meaning::Foreign,
    }
}

struct Reader<'a> {
    desired: &'a Desired,
    snapshot: &'a Snapshot,
    rule: &'a Rule,
    at: Option<&'a At>,
}

impl Reader<'_> {
    /// `None`: nothing that we write there.
    fn said(&self, chain: &Chain) -> Option<Said> {
        let is_foreign = |condition: &Match| matches!(condition, Match::Other(_));
        if self.rule.matches.iter().any(is_foreign) || matches!(self.rule.target, Some(Target::Other(_))) {
            return None;
        }
        if render::is_built_in(&chain.name) {
            return Some(of_hook(self.rule).into());
        }
        match chain.table {
            Table::Raw => self.cluster_dns(chain),
            Table::Filter => self.filter(chain),
            Table::Nat => self.shared_nat(&chain.name).or_else(|| self.own_nat(chain)),
            Table::Mangle => None,
        }
    }

    fn cluster_dns(&self, chain: &Chain) -> Option<Said> {
        if &*chain.name != names::DNS {
            return None;
        }
        let meaning = match self.rule.target {
            Some(Target::NoTrack) => Meaning::KeepsUntracked,
            Some(Target::Accept) => Meaning::Lets,
            _ => return None,
        };
        let addr = self.rule.matches.iter().find_map(|condition| match condition {
            Match::Dst(Sign::Is, at) | Match::Src(Sign::Is, at) => Some(at.net().addr()),
            _ => None,
        })?;
        let destination = Destination::Address(addr, self.proto()?, 53);
        Some(meaning.beside(self.desired.owner_of_destination(destination).map(service)))
    }

    fn filter(&self, chain: &Chain) -> Option<Said> {
        match &*chain.name {
            names::DNS => self.cluster_dns(chain),
            names::SERVICES | names::EXTERNAL_SERVICES => self.refusal(),
            names::PROXY_FIREWALL => self.source_ranges(),
            names::NODE_PORTS => {
                let key = self.key_before(" health check node port")?;
                self.does(&Target::Accept).then(|| Meaning::Lets.beside([service(&key)]))
            }
            names::FORWARD => self.forward(),
            names::FIREWALL => self.closed_loopback(),
            _ => None,
        }
    }

    fn refusal(&self) -> Option<Said> {
        if let Some(key) = self.key_before(" has no endpoints").filter(|_| self.does(&Target::Reject)) {
            return Some(Meaning::Refuses { service: Some(key), because: TurnedAway::NoEndpoints }.into());
        }
        let key = self.key_before(" has no local endpoints").filter(|_| self.does(&Target::Drop))?;
        Some(Meaning::Drops { service: Some(key), because: TurnedAway::NoLocalEndpoints }.into())
    }

    fn source_ranges(&self) -> Option<Said> {
        let (name, chain) = self.rule.comment()?.split_once(" traffic not accepted by ")?;
        let key = key_of(name, self.proto()?).filter(|key| ServiceChains::of(key).firewall == chain)?;
        // Whom KUBE-FW let in comes here too where no local endpoint took it.
        let because = match self.may_come(&key) && !self.takes_strangers(&key) {
            true => TurnedAway::NoLocalEndpoints,
            false => TurnedAway::SourceRange,
        };
        self.does(&Target::Drop).then(|| Meaning::Drops { service: Some(key), because }.into())
    }

    /// The packet's source is one that the Service's KUBE-FW lets in.
    fn may_come(&self, key: &ServicePortKey) -> bool {
        let rules = self.planned(key, ServiceChains::of(key).firewall);
        let Some(at) = self.at else { return false };
        let sources = rules.iter().flat_map(|rule| &rule.matches);
        sources.into_iter().any(|m| matches!(m, Match::Src(Sign::Is, net) if net.net().contains(&at.src.ip())))
    }

    /// The Service's KUBE-EXT ends with a way on for everybody.
    fn takes_strangers(&self, key: &ServicePortKey) -> bool {
        self.planned(key, ServiceChains::of(key).external).last().is_some_and(|rule| rule.matches.is_empty())
    }

    fn planned(&self, key: &ServicePortKey, chain: String) -> &[Rule] {
        let rules = self.desired.fragment(key).and_then(|fragment| fragment.own.get(&Chain::nat(chain)));
        rules.map(Vec::as_slice).unwrap_or_default()
    }

    fn forward(&self) -> Option<Said> {
        let is_invalid = |condition: &Match| *condition == Match::State(Sign::Is, vec![CtState::Invalid]);
        match &self.rule.target {
            Some(Target::Drop) if self.rule.matches.iter().any(is_invalid) => {
                Some(Meaning::Drops { service: None, because: TurnedAway::Invalid }.into())
            }
            Some(Target::Accept) if self.rule.comment().is_some() => Some(Meaning::Lets.into()),
            _ => None,
        }
    }

    /// The kubelet may have rules of its own in that chain.
    fn closed_loopback(&self) -> Option<Said> {
        let is_loopback =
            |condition: &Match| matches!(condition, Match::Dst(Sign::Is, at) if at.net().addr().is_loopback());
        let drops = self.does(&Target::Drop) && self.rule.matches.iter().any(is_loopback);
        drops.then(|| Meaning::Drops { service: None, because: TurnedAway::Loopback }.into())
    }

    /// Chains of nat that no single Service has.
    fn shared_nat(&self, chain: &str) -> Option<Said> {
        let target = self.rule.target.as_ref()?;
        let meaning = match (chain, target) {
            (names::SERVICES, Target::Jump(to)) if &**to == names::NODE_PORTS => Meaning::Leads,
            (names::SERVICES, Target::Jump(to)) => self.claim(to)?,
            (names::NODE_PORTS, Target::Jump(to)) => {
                let key = self.key_before("").filter(|key| ServiceChains::of(key).external == **to)?;
                Meaning::Claims { service: key, door: Door::NodePort }
            }
            (names::POSTROUTING, Target::Return) => Meaning::KeepsSource,
            (names::POSTROUTING, Target::MarkXor(_)) => Meaning::Plumbing,
            (names::POSTROUTING, Target::Masquerade { .. }) => Meaning::Masquerades { because: Masqueraded::Marked },
            (names::MARK_MASQ, Target::MarkOr(_)) => marks(None, Masqueraded::Marked),
            (names::EGRESS_POSTROUTING, Target::Jump(to)) if &**to == names::EGRESS => Meaning::Leads,
            (names::EGRESS, Target::Masquerade { .. }) => Meaning::Masquerades { because: Masqueraded::LeavesCluster },
            (names::HOST_PORTS, Target::Jump(to)) => {
                return Some(Meaning::Leads.beside([self.pod_in_comment(to)?]));
            }
            (names::HOST_PORTS_MARK, Target::MarkOr(_)) => marks(None, Masqueraded::HostPort),
            (names::HOST_PORTS_MASQ, Target::Masquerade { .. }) => {
                Meaning::Masquerades { because: Masqueraded::HostPort }
            }
            _ => return None,
        };
        Some(meaning.into())
    }

    /// A destination's rule in KUBE-SERVICES, held to the chain it jumps to.
    fn claim(&self, to: &str) -> Option<Meaning> {
        let doors = [
            (" cluster IP", Door::ClusterIp),
            (" external IP", Door::External),
            (" loadbalancer IP", Door::LoadBalancer),
        ];
        let (key, door) = doors.into_iter().find_map(|(end, door)| Some((self.key_before(end)?, door)))?;
        is_chain_of(&key, to).then_some(Meaning::Claims { service: key, door })
    }

    /// Chains of one service port, one endpoint, or one pod's host ports.
    fn own_nat(&self, chain: &Chain) -> Option<Said> {
        let (kind, _) = chain.name.split_at_checked(9).unwrap_or((&chain.name, ""));
        match kind {
            "KUBE-SVC-" | "KUBE-SVL-" => self.list(chain),
            "KUBE-EXT-" => self.external(chain),
            "KUBE-SEP-" => self.endpoint(chain),
            _ if chain.name.starts_with("KUBE-FW-") => self.firewall(chain),
            _ if chain.name.starts_with(names::HOST_PORT_PREFIX) => self.host_port(chain),
            _ => None,
        }
    }

    /// KUBE-SVC and KUBE-SVL: who is masqueraded, then one endpoint of the list.
    fn list(&self, chain: &Chain) -> Option<Said> {
        let to = self.rule.jumps_to()?;
        let arrow = |name| str::split_once(name, " -> ").map(|(name, _)| name);
        let key = self.owner(chain, |name| name.strip_suffix(" cluster IP").or_else(|| arrow(name)))?;
        if to == names::MARK_MASQ {
            return self.stranger(key);
        }
        let endpoint = self.endpoint_of(&key, to)?;
        let bound = self.rule.matches.iter().any(|condition| matches!(condition, Match::Remembered { .. }));
        Some(Meaning::Chooses { service: key, endpoint, bound }.into())
    }

    fn stranger(&self, key: ServicePortKey) -> Option<Said> {
        let detector = self.rule.matches.iter().find(|m| matches!(m, Match::Src(..) | Match::In(..)));
        match detector {
            None => Some(marks(Some(key), Masqueraded::All).into()),
            Some(Match::Src(Sign::Not, Where::Net(range))) => {
                Some(marks(Some(key), Masqueraded::NotFromPod).beside(node_of_range(self.snapshot, *range)))
            }
            Some(Match::In(Sign::Not, _)) => Some(marks(Some(key), Masqueraded::NotFromPod).into()),
            _ => None,
        }
    }

    /// KUBE-EXT: from whom, then on to a list.
    fn external(&self, chain: &Chain) -> Option<Said> {
        let to = self.rule.jumps_to()?;
        let named = |comment: &str| -> Option<String> {
            let rest = comment.strip_suffix(" external destinations")?;
            Some(rest.rsplit_once(" for ")?.1.to_owned())
        };
        let named = self.rule.comment().and_then(named);
        let key = self.owner(chain, |_| named.as_deref())?;
        let is_own = self.rule.matches.contains(&Match::SrcLocal);
        match to {
            names::MARK_MASQ if is_own => Some(marks(Some(key), Masqueraded::FromNode).into()),
            names::MARK_MASQ => Some(marks(Some(key), Masqueraded::External).into()),
            to if is_chain_of(&key, to) => Some(Meaning::Leads.beside([service(&key)])),
            _ => None,
        }
    }

    /// KUBE-FW: sources that may pass; who falls through meets KUBE-PROXY-FIREWALL.
    fn firewall(&self, chain: &Chain) -> Option<Said> {
        let rest = |comment: &str| -> Option<String> {
            let rest = comment.strip_prefix("other traffic to ")?.strip_suffix(names::PROXY_FIREWALL)?;
            Some(rest.strip_suffix(" will be dropped by ")?.to_owned())
        };
        let rest = self.rule.comment().and_then(rest);
        let key = self.owner(chain, |comment| rest.as_deref().or(comment.strip_suffix(" loadbalancer IP")))?;
        match self.rule.jumps_to() {
            Some(to) if ServiceChains::of(&key).external == to => Some(Meaning::Lets.beside([service(&key)])),
            None if self.rule.target.is_none() => Some(Meaning::Plumbing.beside([service(&key)])),
            _ => None,
        }
    }

    /// KUBE-SEP: an endpoint that reaches itself, then its address.
    fn endpoint(&self, chain: &Chain) -> Option<Said> {
        match &self.rule.target {
            Some(Target::Jump(to)) if &**to == names::MARK_MASQ => {
                let addr = self.rule.matches.iter().find_map(|condition| match condition {
                    Match::Src(Sign::Is, at) => Some(at.net().addr()),
                    _ => None,
                })?;
                // An endpoint that is gone meanwhile leaves the reason, and no name.
                let Some((key, endpoint)) = self.endpoint_at(chain, addr) else {
                    return Some(marks(None, Masqueraded::Hairpin).into());
                };
                let pod = pod_behind(self.snapshot, &key, endpoint);
                Some(marks(Some(key), Masqueraded::Hairpin).beside(pod))
            }
            Some(Target::Dnat(to)) => {
                let held_to = |key: &ServicePortKey| names::endpoint_chain(key, &to.to_string()) == *chain.name;
                let said = self.proto().and_then(|proto| key_of(self.rule.comment()?, proto)).filter(held_to);
                let key = said.or_else(|| self.desired.owner(chain).cloned().filter(held_to))?;
                Some(Meaning::SendsTo { service: key, endpoint: *to, bound: false }.into())
            }
            _ => None,
        }
    }

    /// Whose KUBE-SEP chain this is: its port is in its name's hash alone.
    fn endpoint_at(&self, chain: &Chain, addr: IpAddr) -> Option<(ServicePortKey, SocketAddr)> {
        let named = self.rule.comment().and_then(|name| key_of(name, Proto::Tcp)).map(|key| key.service);
        let planned = || self.desired.owner(chain).map(|key| key.service.clone());
        let view = self.snapshot.services.get(&named.or_else(planned)?)?;
        view.ports.iter().find_map(|port| {
            let is_it = |to: &SocketAddr| names::endpoint_chain(&port.key, &to.to_string()) == *chain.name;
            let mut at = port.endpoints.iter().filter(|it| it.addr == addr).map(|it| SocketAddr::new(addr, it.port));
            Some((port.key.clone(), at.find(is_it)?))
        })
    }

    fn host_port(&self, chain: &Chain) -> Option<Said> {
        let (pod, attachment) = (self.snapshot.attachments.iter())
            .find(|(pod, it)| !it.host_ports.is_empty() && names::host_port_chain(pod) == *chain.name)?;
        match &self.rule.target {
            Some(Target::Jump(to)) if &**to == names::HOST_PORTS_MARK => {
                Some(marks(None, Masqueraded::HostPort).beside([object(ObjectKind::Pod, pod)]))
            }
            Some(Target::Dnat(to)) if attachment.addresses.contains(&to.ip()) => {
                Some(Meaning::HostPort { pod: pod.clone(), to: *to }.into())
            }
            _ => None,
        }
    }

    /// The pod whose chain `to` is, as portmap's comment names it.
    fn pod_in_comment(&self, to: &str) -> Option<ObjectRef> {
        let id = self.rule.comment()?.split_once("id: \"")?.1.strip_suffix('"')?;
        let (namespace, name) = id.split_once('/')?;
        let pod = NsName::new(namespace, name);
        (names::host_port_chain(&pod) == to).then(|| object(ObjectKind::Pod, &pod))
    }

    fn does(&self, target: &Target) -> bool {
        self.rule.target.as_ref() == Some(target)
    }

    fn proto(&self) -> Option<Proto> {
        self.rule.matches.iter().find_map(|m| if let Match::Proto(proto) = m { Some(*proto) } else { None })
    }

    /// The service port that a comment of a shared chain names before `end`.
    fn key_before(&self, end: &str) -> Option<ServicePortKey> {
        key_of(self.rule.comment()?.strip_suffix(end)?, self.proto()?)
    }

    /// Whose chain it is: by the name that `named` finds in the comment, held to the chain's hash; else by the plan.
    fn owner<'c>(&'c self, chain: &Chain, named: impl Fn(&'c str) -> Option<&'c str>) -> Option<ServicePortKey> {
        let name = self.rule.comment().and_then(named);
        let candidates = name.into_iter().flat_map(|name| PROTOS.into_iter().filter_map(|proto| key_of(name, proto)));
        let said = candidates.into_iter().find(|key| is_chain_of(key, &chain.name));
        said.or_else(|| self.desired.owner(chain).cloned())
    }

    /// The endpoint whose chain `to` is: as the comment's arrow says, held to the hash; else by the plan.
    fn endpoint_of(&self, key: &ServicePortKey, to: &str) -> Option<SocketAddr> {
        let is_it = |target: &SocketAddr| names::endpoint_chain(key, &target.to_string()) == to;
        let arrow = self.rule.comment().and_then(|comment| comment.split_once(" -> "));
        let said = arrow.and_then(|(_, target)| target.parse().ok()).filter(is_it);
        said.or_else(|| {
            let rules = self.planned(key, to.to_owned());
            rules.iter().find_map(|rule| if let Some(Target::Dnat(to)) = rule.target { Some(to) } else { None })
        })
    }
}

const PROTOS: [Proto; 3] = [Proto::Tcp, Proto::Udp, Proto::Sctp];

fn marks(service: Option<ServicePortKey>, because: Masqueraded) -> Meaning {
    Meaning::MarksMasquerade { service, because }
}

/// Reads `ns/name:port`, or `ns/name`.
fn key_of(text: &str, proto: Proto) -> Option<ServicePortKey> {
    let (namespace, rest) = text.split_once('/')?;
    let (name, port) = rest.split_once(':').unwrap_or((rest, ""));
    let is_name = |part: &str| !part.is_empty() && !part.contains([' ', '/', ':']);
    (is_name(namespace) && is_name(name) && (port.is_empty() || is_name(port))).then(|| ServicePortKey {
        service: NsName::new(namespace, name),
        port: port.into(),
        proto,
    })
}

/// `chain` is one that `key` alone fills, endpoints' aside.
fn is_chain_of(key: &ServicePortKey, chain: &str) -> bool {
    let own = ServiceChains::of(key);
    [own.cluster, own.local, own.external, own.firewall].iter().any(|name| name == chain)
}
