//! Fixed: chains that no Service changes, and what stands before and after the Services in the shared ones.

use std::net::IpAddr;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use portolan_model::{Family, Proto, Snapshot};

use crate::iptables::names;
use crate::iptables::options::{DnsPath, Options};
use crate::iptables::plan::RuleSet;
use crate::iptables::rule::{Chain, CtState, Match, Rule, Sign, Target, Where};

/// Chains that Services add rules to.
pub fn dispatch_chains() -> [Chain; 6] {
    [
        Chain::filter(names::SERVICES),
        Chain::filter(names::EXTERNAL_SERVICES),
        Chain::filter(names::NODE_PORTS),
        Chain::filter(names::PROXY_FIREWALL),
        Chain::nat(names::SERVICES),
        Chain::nat(names::NODE_PORTS),
    ]
}

/// What rules that are no Service's depend on, beside the options. All of one family.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ground {
    family: Family,
    /// Range of all pods, if what leaves it is to be masqueraded.
    egress_range: Option<IpNet>,
    /// Addresses on which node ports answer; `None`: every local one.
    node_ports_on: Option<Vec<IpAddr>>,
    /// Node ports and host ports answer on 127.0.0.1, so it must be closed to packets from elsewhere.
    opens_loopback: bool,
    /// Cluster DNS addresses that this node may answer.
    dns: Vec<IpAddr>,
}

impl Ground {
    /// As `snapshot` says.
    pub fn of(snapshot: &Snapshot, family: Family) -> Self {
        let dns = snapshot.settings.cluster_dns.iter().copied();
        Self {
            family,
            egress_range: snapshot.cluster_cidr(family).filter(|_| snapshot.settings.proxy.egress_snat),
            node_ports_on: snapshot.node_port_addresses(family),
            opens_loopback: snapshot.opens_loopback(family),
            dns: dns.filter(|addr| Family::of(*addr) == family).collect(),
        }
    }

    /// Ports of the node lead on from 127.0.0.1 too.
    pub fn opens_loopback(&self) -> bool {
        self.opens_loopback
    }
}

/// What a dispatch chain ends with, after all Services' rules.
pub fn tail(chain: &Chain, ground: &Ground) -> Vec<Rule> {
    match *chain == Chain::nat(names::SERVICES) {
        true => node_port_jumps(ground),
        false => Vec::new(),
    }
}

/// The chains that hold no rule of a Service.
pub fn chains(options: &Options, ground: &Ground) -> RuleSet {
    let mut chains = RuleSet::new();
    if ground.opens_loopback {
        chains.insert(Chain::filter(names::FIREWALL), firewall());
    }
    chains.insert(Chain::filter(names::FORWARD), forward(options));
    chains.insert(Chain::nat(names::POSTROUTING), postrouting(options));
    chains.insert(Chain::nat(names::MARK_MASQ), vec![Rule::new().does(Target::MarkOr(options.masquerade_mark))]);
    chains.insert(Chain::nat(names::EGRESS_POSTROUTING), vec![Rule::new().jump(names::EGRESS)]);
    chains.insert(Chain::nat(names::EGRESS), egress(options, ground.egress_range));
    let dns: &[IpAddr] = if options.dns == DnsPath::ThisNode { &ground.dns } else { &[] };
    chains.insert(Chain::raw(names::DNS), dns_rules(dns, Target::NoTrack));
    chains.insert(Chain::filter(names::DNS), dns_rules(dns, Target::Accept));
    chains
}

/// 127.0.0.0/8 answers node ports only because `route_localnet` is set: it must not answer strangers.
fn firewall() -> Vec<Rule> {
    let allowed = vec![CtState::Related, CtState::Established, CtState::Dnat];
    let rule = Rule::commented("block incoming localnet connections")
        .and(Match::Dst(Sign::Is, Where::Net(loopback(Family::V4))))
        .and(Match::Src(Sign::Not, Where::Net(loopback(Family::V4))))
        .and(Match::State(Sign::Not, allowed));
    vec![rule.does(Target::Drop)]
}

fn forward(options: &Options) -> Vec<Rule> {
    let mut rules = Vec::new();
    if options.drop_invalid {
        rules.push(Rule::new().and(Match::State(Sign::Is, vec![CtState::Invalid])).does(Target::Drop));
    }
    let marked = Match::Marked(Sign::Is, options.masquerade_mark);
    rules.push(Rule::commented("kubernetes forwarding rules").and(marked).does(Target::Accept));
    let known = Match::State(Sign::Is, vec![CtState::Related, CtState::Established]);
    rules.push(Rule::commented("kubernetes forwarding conntrack rule").and(known).does(Target::Accept));
    rules
}

fn postrouting(options: &Options) -> Vec<Rule> {
    let mark = options.masquerade_mark;
    vec![
        Rule::new().and(Match::Marked(Sign::Not, mark)).does(Target::Return),
        Rule::new().does(Target::MarkXor(mark)),
        Rule::commented("kubernetes service traffic requiring SNAT").does(masquerade(options)),
    ]
}

fn masquerade(options: &Options) -> Target {
    Target::Masquerade { random_fully: options.random_fully }
}

/// Destinations are compared after DNAT, so traffic to a Service's pods stays as it is.
fn egress(options: &Options, range: Option<IpNet>) -> Vec<Rule> {
    let rule = |range: IpNet| {
        Rule::commented("pod traffic that leaves the cluster")
            .and(Match::Src(Sign::Is, Where::Net(range)))
            .and(Match::Dst(Sign::Not, Where::Net(range)))
            .does(masquerade(options))
    };
    range.map(rule).into_iter().collect()
}

/// Both ways: queries to the address, answers from it. Each hook sees queries that come, and those of the node itself.
fn dns_rules(addresses: &[IpAddr], target: Target) -> Vec<Rule> {
    let mut rules = Vec::new();
    for addr in addresses {
        for proto in [Proto::Udp, Proto::Tcp] {
            let rule = || Rule::commented("cluster DNS on this node").and(Match::Proto(proto));
            let there = Match::Dst(Sign::Is, Where::Host(*addr));
            let back = Match::Src(Sign::Is, Where::Host(*addr));
            rules.push(rule().and(there).and(Match::Dport(53)).does(target.clone()));
            rules.push(rule().and(back).and(Match::Sport(53)).does(target.clone()));
        }
    }
    rules
}

fn node_port_jumps(ground: &Ground) -> Vec<Rule> {
    let rule = || {
        let comment = "kubernetes service nodeports; NOTE: this must be the last rule in this chain";
        Rule::commented(comment)
    };
    let Some(listed) = &ground.node_ports_on else {
        let rule = rule().and(Match::DstLocal);
        let rule = match ground.opens_loopback {
            true => rule,
            false => rule.and(Match::Dst(Sign::Not, Where::Net(loopback(ground.family)))),
        };
        return vec![rule.jump(names::NODE_PORTS)];
    };
    let open = listed.iter().filter(|addr| ground.opens_loopback || !addr.is_loopback());
    open.map(|addr| rule().and(Match::Dst(Sign::Is, Where::Host(*addr))).jump(names::NODE_PORTS)).collect()
}

/// 127.0.0.0/8 or ::1/128.
pub fn loopback(family: Family) -> IpNet {
    match family {
        Family::V4 => IpNet::V4(Ipv4Net::new_assert(std::net::Ipv4Addr::new(127, 0, 0, 0), 8)),
        Family::V6 => IpNet::V6(Ipv6Net::new_assert(std::net::Ipv6Addr::LOCALHOST, 128)),
    }
}
