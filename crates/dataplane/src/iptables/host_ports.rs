//! Host ports: ports of the node that lead to its pods, in the manner of the CNI plugin portmap.
//!
//! ```text
//!  nat PREROUTING, OUTPUT ─(to this node; after KUBE-SERVICES)─► CNI-HOSTPORT-DNAT ──► CNI-DN-H (one per pod) ──► DNAT
//!                                                                        └─ the pod itself, loopback → CNI-HOSTPORT-SETMARK
//!  nat POSTROUTING ──► CNI-HOSTPORT-MASQ: marked → MASQUERADE
//! ```
//!
//! Pods stand in the order of their keys: the first owns a port that two claim.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use portolan_model::{Attachment, Delta, Family, HostPort, NsName, Proto, Snapshot};

use crate::iptables::names;
use crate::iptables::plan::RuleSet;
use crate::iptables::rule::{Chain, Match, Rule, Sign, Target, Where};

/// portmap's mark, a bit of its own beside kube-proxy's.
const MARK: u32 = 0x2000;
/// What `-m multiport` takes at most.
const PORTS_IN_A_RULE: usize = 15;

/// The pods of this node that have host ports in one family.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HostPorts {
    pods: BTreeMap<NsName, Pod>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Pod {
    addr: IpAddr,
    ports: Vec<HostPort>,
}

impl HostPorts {
    /// Takes in the attachments that changed; true if host ports changed with them.
    pub fn update(&mut self, snapshot: &Snapshot, delta: &Delta, family: Family) -> bool {
        let mut changed = false;
        for key in &delta.attachments {
            let new = snapshot.attachments.get(key).and_then(|pod| Pod::of(pod, family));
            let old = match new.clone() {
                Some(pod) => self.pods.insert(key.clone(), pod),
                None => self.pods.remove(key),
            };
            changed |= old != new;
        }
        changed
    }

    /// Their chains, and those that are always there.
    pub fn chains(&self, family: Family) -> RuleSet {
        let mut chains = RuleSet::new();
        let mut entries = Vec::new();
        for (key, pod) in &self.pods {
            let chain = names::host_port_chain(key);
            entries.extend(pod.entries(key, &chain));
            chains.insert(Chain::nat(chain), pod.rules(family));
        }
        chains.insert(Chain::nat(names::HOST_PORTS), entries);
        let set_mark = Rule::commented("CNI portfwd masquerade mark").does(Target::MarkOr(MARK));
        chains.insert(Chain::nat(names::HOST_PORTS_MARK), vec![set_mark]);
        let masquerade =
            Rule::new().and(Match::Marked(Sign::Is, MARK)).does(Target::Masquerade { random_fully: false });
        chains.insert(Chain::nat(names::HOST_PORTS_MASQ), vec![masquerade]);
        chains
    }
}

impl Pod {
    fn of(pod: &Attachment, family: Family) -> Option<Self> {
        let addr = pod.addresses.iter().copied().find(|addr| Family::of(*addr) == family)?;
        let is_of_family = |port: &&HostPort| port.host_addr.is_none_or(|addr| Family::of(addr) == family);
        let ports: Vec<HostPort> = pod.host_ports.iter().filter(is_of_family).cloned().collect();
        (!ports.is_empty()).then_some(Self { addr, ports })
    }

    /// Jumps to `chain` for its ports, protocol by protocol.
    fn entries(&self, key: &NsName, chain: &str) -> Vec<Rule> {
        let mut rules = Vec::new();
        for proto in [Proto::Tcp, Proto::Udp, Proto::Sctp] {
            let mut numbers: Vec<u16> =
                self.ports.iter().filter(|port| port.proto == proto).map(|port| port.host_port).collect();
            numbers.sort();
            numbers.dedup();
            for some in numbers.chunks(PORTS_IN_A_RULE) {
                let rule = Rule::commented(format!("dnat name: \"portolan\" id: \"{key}\""));
                rules.push(rule.and(Match::Proto(proto)).and(Match::DportIn(some.to_vec())).jump(chain));
            }
        }
        rules
    }

    fn rules(&self, family: Family) -> Vec<Rule> {
        let loopback = match family {
            Family::V4 => IpAddr::V4(Ipv4Addr::LOCALHOST),
            Family::V6 => IpAddr::V6(Ipv6Addr::LOCALHOST),
        };
        let mut rules = Vec::new();
        for port in &self.ports {
            let base = || {
                let to = port.host_addr.map(|addr| Match::Dst(Sign::Is, Where::Host(addr)));
                Rule::new().and(Match::Proto(port.proto)).and_all(to).and(Match::Dport(port.host_port))
            };
            for source in [self.addr, loopback] {
                let from = Match::Src(Sign::Is, Where::Host(source));
                rules.push(base().and(from).jump(names::HOST_PORTS_MARK));
            }
            rules.push(base().does(Target::Dnat(SocketAddr::new(self.addr, port.pod_port))));
        }
        rules
    }
}
