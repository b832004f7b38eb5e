//! Service: what one service port adds to the rules, its own chains and its share of the common ones.
//!
//! ```text
//!  nat  KUBE-SERVICES ──cluster IP──────────────► KUBE-SVC-H (or SVL) ──random──► KUBE-SEP-E ──► DNAT
//!            │──external IP, balancer──► KUBE-EXT-H ─┘   ▲        └─ head: not a pod → KUBE-MARK-MASQ
//!            │       └─ with ranges ──► KUBE-FW-H ─┘     │
//!            └─node address► KUBE-NODEPORTS ─► KUBE-EXT-H┘
//!  filter  KUBE-SERVICES, KUBE-EXTERNAL-SERVICES: REJECT (no endpoint) or DROP (none for this policy)
//! ```

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;
use portolan_model::{
    Endpoint, ExternalPolicy, Family, Proto, ProxySettings, ServicePort, ServicePortKey, ServiceView,
};

use crate::choose::{Chosen, Place, is_external};
use crate::claims::{Claims, Destination};
use crate::iptables::local::Local;
use crate::iptables::names::{self, ServiceChains};
use crate::iptables::plan::RuleSet;
use crate::iptables::rule::{Chain, Match, Probability, Rule, Sign, Target, Where};

/// What a service port's rules depend on beside the Service and its endpoints.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Surroundings {
    /// Whose rules.
    pub family: Family,
    /// Where we are.
    pub place: Place,
    /// First address of our Node.
    pub node_ip: Option<IpAddr>,
    /// What tells local pods from others. `None`: nothing tells them.
    pub local: Option<Local>,
    /// What the operator set.
    pub proxy: ProxySettings,
    /// Whether rules of single endpoints bear comments.
    pub endpoint_comments: EndpointComments,
}

/// Whether rules of single endpoints bear comments: kube-proxy leaves them off in large clusters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum EndpointComments {
    Written,
    LeftOff,
}

/// What one service port contributes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Fragment {
    /// Chains that are its alone.
    pub own: RuleSet,
    /// Its rules in chains that all services share.
    pub shared: RuleSet,
    /// Its endpoints of the family, usable or not.
    pub endpoints: usize,
}

/// The fragments of a Service in one family; none if the family or the proxy is not the Service's. Destinations that
/// others own by `claims` are left out.
pub fn fragments(view: &ServiceView, around: &Surroundings, claims: &Claims) -> BTreeMap<ServicePortKey, Fragment> {
    let Some(cluster_ip) = proxied_ip(view, around.family, &around.proxy) else { return BTreeMap::new() };
    let mut found = BTreeMap::new();
    for port in &view.ports {
        found.entry(port.key.clone()).or_insert_with(|| Plan::new(view, port, cluster_ip, around, claims).fragment());
    }
    found
}

/// How many endpoints a Service has in one family, summed over its ports: what the comment limit counts.
pub fn endpoint_count(view: &ServiceView, family: Family, proxy: &ProxySettings) -> usize {
    if proxied_ip(view, family, proxy).is_none() {
        return 0;
    }
    let mut seen = std::collections::BTreeSet::new();
    let ports = view.ports.iter().filter(|port| seen.insert(&port.key));
    ports.map(|port| port.endpoints.iter().filter(|e| Family::of(e.addr) == family).count()).sum()
}

/// The ClusterIP of `family`, if this proxy is to act on the Service there at all.
fn proxied_ip(view: &ServiceView, family: Family, proxy: &ProxySettings) -> Option<IpAddr> {
    let ip = view.spec.cluster_ips.iter().copied().find(|ip| Family::of(*ip) == family);
    ip.filter(|_| view.spec.is_proxied(proxy))
}

struct Plan<'a> {
    view: &'a ServiceView,
    port: &'a ServicePort,
    around: &'a Surroundings,
    claims: &'a Claims,
    cluster_ip: IpAddr,
    external_ips: Vec<IpAddr>,
    balancer_ips: Vec<IpAddr>,
    source_ranges: Vec<IpNet>,
    chosen: Chosen<'a>,
    chains: ServiceChains,
    /// `ns/name:port`.
    name: String,
    fragment: Fragment,
}

impl<'a> Plan<'a> {
    fn new(
        view: &'a ServiceView,
        port: &'a ServicePort,
        cluster_ip: IpAddr,
        around: &'a Surroundings,
        claims: &'a Claims,
    ) -> Self {
        let of_family = |ips: &[IpAddr]| {
            let mut seen = Vec::new();
            for ip in ips.iter().filter(|ip| Family::of(**ip) == around.family) {
                if !seen.contains(ip) {
                    seen.push(*ip);
                }
            }
            seen
        };
        let ranges = view.spec.source_ranges.iter().filter(|net| Family::of(net.addr()) == around.family);
        Self {
            view,
            port,
            around,
            claims,
            cluster_ip,
            external_ips: of_family(&view.spec.external_ips),
            balancer_ips: of_family(&view.spec.load_balancer_ips),
            source_ranges: ranges.map(IpNet::trunc).collect(),
            chosen: Chosen::new(view, port, around.family, &around.place),
            chains: ServiceChains::of(&port.key),
            name: port.key.to_string(),
            fragment: Fragment::default(),
        }
    }

    fn fragment(mut self) -> Fragment {
        self.fragment.endpoints = self.chosen.total;
        self.dispatch_cluster_ip();
        self.dispatch_external_ips();
        self.dispatch_balancer_ips();
        self.dispatch_node_port();
        self.accept_health_checks();
        if self.chosen.any && is_external(self.view, self.port, self.around.family) {
            self.external_chain();
        }
        if self.has_firewall() {
            self.firewall_chain();
        }
        self.list_chains();
        self.endpoint_chains();
        self.fragment
    }

    fn is_external_local(&self) -> bool {
        self.view.spec.external_policy == ExternalPolicy::Local
    }

    fn has_internal(&self) -> bool {
        match self.view.spec.internal_local {
            true => !self.chosen.local.is_empty(),
            false => self.chosen.any,
        }
    }

    fn has_external(&self) -> bool {
        match self.is_external_local() {
            true => !self.chosen.local.is_empty(),
            false => self.chosen.any,
        }
    }

    fn has_firewall(&self) -> bool {
        self.chosen.any && !self.balancer_ips.is_empty() && !self.source_ranges.is_empty()
    }

    fn internal_chain(&self) -> String {
        match self.view.spec.internal_local {
            true => self.chains.local.clone(),
            false => self.chains.cluster.clone(),
        }
    }

    /// Matches of a packet for the service port at `ip`.
    fn bound_for(&self, ip: IpAddr) -> [Match; 3] {
        let spec = &self.port.spec;
        [Match::Proto(spec.proto), Match::Dst(Sign::Is, Where::Host(ip)), Match::Dport(spec.port)]
    }

    fn owns(&self, ip: IpAddr) -> bool {
        self.claims.owns(&self.port.key, Destination::Address(ip, self.port.spec.proto, self.port.spec.port))
    }

    fn share(&mut self, chain: Chain, rule: Rule) {
        self.fragment.shared.entry(chain).or_default().push(rule);
    }

    fn own(&mut self, chain: &str, rules: Vec<Rule>) {
        self.fragment.own.insert(Chain::nat(chain), rules);
    }

    /// A refusal: of everybody if there is no endpoint at all, in silence if there is none for this policy.
    fn refusal(&self) -> (Rule, Target) {
        match self.chosen.any {
            false => (Rule::commented(format!("{} has no endpoints", self.name)), Target::Reject),
            true => (Rule::commented(format!("{} has no local endpoints", self.name)), Target::Drop),
        }
    }

    fn dispatch_cluster_ip(&mut self) {
        if !self.owns(self.cluster_ip) {
            return;
        }
        let bound = self.bound_for(self.cluster_ip);
        if self.has_internal() {
            let rule = Rule::commented(format!("{} cluster IP", self.name)).and_all(bound).jump(self.internal_chain());
            self.share(Chain::nat(names::SERVICES), rule);
        } else {
            let (rule, target) = self.refusal();
            self.share(Chain::filter(names::SERVICES), rule.and_all(bound).does(target));
        }
    }

    fn dispatch_external_ips(&mut self) {
        for ip in self.owned(&self.external_ips) {
            let chain = self.chains.external.clone();
            self.dispatch_outer(ip, "external IP", &chain);
        }
    }

    fn dispatch_balancer_ips(&mut self) {
        let chain = match self.has_firewall() {
            true => self.chains.firewall.clone(),
            false => self.chains.external.clone(),
        };
        for ip in self.owned(&self.balancer_ips) {
            self.dispatch_outer(ip, "loadbalancer IP", &chain);
            if self.has_firewall() {
                let comment = format!("{} traffic not accepted by {}", self.name, self.chains.firewall);
                let rule = Rule::commented(comment).and_all(self.bound_for(ip)).does(Target::Drop);
                self.share(Chain::filter(names::PROXY_FIREWALL), rule);
            }
        }
    }

    fn owned(&self, ips: &[IpAddr]) -> Vec<IpAddr> {
        ips.iter().copied().filter(|ip| self.owns(*ip)).collect()
    }

    fn dispatch_outer(&mut self, ip: IpAddr, what: &str, chain: &str) {
        let bound = self.bound_for(ip);
        if self.chosen.any {
            let rule = Rule::commented(format!("{} {what}", self.name)).and_all(bound.clone()).jump(chain);
            self.share(Chain::nat(names::SERVICES), rule);
        }
        if !self.has_external() {
            let (rule, target) = self.refusal();
            self.share(Chain::filter(names::EXTERNAL_SERVICES), rule.and_all(bound).does(target));
        }
    }

    fn dispatch_node_port(&mut self) {
        let spec = &self.port.spec;
        let destination = Destination::NodePort(spec.proto, spec.node_port);
        if spec.node_port == 0 || !self.claims.owns(&self.port.key, destination) {
            return;
        }
        let on_port = [Match::Proto(spec.proto), Match::Dport(spec.node_port)];
        if self.chosen.any {
            let rule = Rule::commented(&*self.name).and_all(on_port.clone()).jump(&*self.chains.external);
            self.share(Chain::nat(names::NODE_PORTS), rule);
        }
        if !self.has_external() {
            let (rule, target) = self.refusal();
            let rule = rule.and(Match::DstLocal).and_all(on_port).does(target);
            self.share(Chain::filter(names::EXTERNAL_SERVICES), rule);
        }
    }

    /// A balancer may ask for endpoints whether there are any here or not.
    fn accept_health_checks(&mut self) {
        let port = self.view.spec.health_check_node_port;
        if port == 0 {
            return;
        }
        let rule = Rule::commented(format!("{} health check node port", self.name))
            .and(Match::Proto(Proto::Tcp))
            .and(Match::Dport(port));
        self.share(Chain::filter(names::NODE_PORTS), rule.does(Target::Accept));
    }

    fn external_chain(&mut self) {
        let name = &self.name;
        let cluster = &*self.chains.cluster;
        let mut rules = Vec::new();
        if self.is_external_local() {
            if let Some(local) = &self.around.local {
                let rule = Rule::commented(format!("pod traffic for {name} external destinations"));
                rules.push(rule.and(local.matching(Sign::Is)).jump(cluster));
            }
            let rule = Rule::commented(format!("masquerade LOCAL traffic for {name} external destinations"));
            rules.push(rule.and(Match::SrcLocal).jump(names::MARK_MASQ));
            let rule = Rule::commented(format!("route LOCAL traffic for {name} external destinations"));
            rules.push(rule.and(Match::SrcLocal).jump(cluster));
        } else {
            let rule = Rule::commented(format!("masquerade traffic for {name} external destinations"));
            rules.push(rule.jump(names::MARK_MASQ));
        }
        if self.has_external() {
            let chain = if self.is_external_local() { &*self.chains.local } else { cluster };
            rules.push(Rule::new().jump(chain));
        }
        let chain = self.chains.external.clone();
        self.own(&chain, rules);
    }

    fn firewall_chain(&mut self) {
        let comment = format!("{} loadbalancer IP", self.name);
        let enter =
            |source: Where| Rule::commented(&*comment).and(Match::Src(Sign::Is, source)).jump(&*self.chains.external);
        let mut rules: Vec<Rule> = self.source_ranges.iter().map(|range| enter(Where::Net(*range))).collect();
        let lists_node =
            self.around.node_ip.is_some_and(|ip| self.source_ranges.iter().any(|range| range.contains(&ip)));
        if lists_node {
            rules.extend(self.balancer_ips.iter().map(|ip| enter(Where::Host(*ip))));
        }
        let rest = format!("other traffic to {} will be dropped by {}", self.name, names::PROXY_FIREWALL);
        rules.push(Rule::commented(rest));
        let chain = self.chains.firewall.clone();
        self.own(&chain, rules);
    }

    fn list_chains(&mut self) {
        let internal = self.internal_chain();
        let lists =
            [(self.chains.cluster.clone(), &self.chosen.cluster), (self.chains.local.clone(), &self.chosen.local)];
        let mut chains = Vec::new();
        for (chain, list) in lists.into_iter().filter(|(_, list)| !list.is_empty()) {
            let mut rules = Vec::new();
            if chain == internal && self.has_internal() {
                rules.extend(self.masquerade_head());
            }
            rules.extend(self.remembered(list));
            rules.extend(self.balanced(list));
            chains.push((chain, rules));
        }
        for (chain, rules) in chains {
            self.own(&chain, rules);
        }
    }

    fn masquerade_head(&self) -> Option<Rule> {
        let rule = Rule::commented(format!("{} cluster IP", self.name)).and_all(self.bound_for(self.cluster_ip));
        let rule = match (self.around.proxy.masquerade_all, &self.around.local) {
            (true, _) => rule,
            (false, Some(local)) => rule.and(local.matching(Sign::Not)),
            (false, None) => return None,
        };
        Some(rule.jump(names::MARK_MASQ))
    }

    fn remembered(&self, list: &[&Endpoint]) -> Vec<Rule> {
        let Some(seconds) = self.view.spec.affinity_secs else { return Vec::new() };
        let rule = |endpoint: &&Endpoint| {
            let chain = self.endpoint_chain(endpoint);
            let remembered = Match::Remembered { list: chain.as_str().into(), seconds };
            self.endpoint_rule(&self.arrow(endpoint)).and(remembered).jump(chain)
        };
        list.iter().map(rule).collect()
    }

    /// Each endpoint with the same chance: of n, the i-th takes one in n - i of what comes to it, the last the rest.
    fn balanced(&self, list: &[&Endpoint]) -> Vec<Rule> {
        let rule = |(index, endpoint): (usize, &&Endpoint)| {
            let rule = self.endpoint_rule(&self.arrow(endpoint));
            let left = list.len() - index;
            let rule = if left > 1 { rule.and(Match::Random(Probability::one_in(left))) } else { rule };
            rule.jump(self.endpoint_chain(endpoint))
        };
        list.iter().enumerate().map(rule).collect()
    }

    fn endpoint_chains(&mut self) {
        let endpoints: Vec<&Endpoint> = self.chosen.reachable().collect();
        for endpoint in endpoints {
            let chain = self.endpoint_chain(endpoint);
            let hairpin = self
                .endpoint_rule(&self.name)
                .and(Match::Src(Sign::Is, Where::Host(endpoint.addr)))
                .jump(names::MARK_MASQ);
            let mut dnat = self.endpoint_rule(&self.name);
            if self.view.spec.affinity_secs.is_some() {
                dnat = dnat.and(Match::Remember(chain.as_str().into()));
            }
            let to = SocketAddr::new(endpoint.addr, endpoint.port);
            let dnat = dnat.and(Match::Proto(self.port.spec.proto)).does(Target::Dnat(to));
            self.own(&chain, vec![hairpin, dnat]);
        }
    }

    fn endpoint_chain(&self, endpoint: &Endpoint) -> String {
        names::endpoint_chain(&self.port.key, &endpoint.target())
    }

    fn arrow(&self, endpoint: &Endpoint) -> String {
        format!("{} -> {}", self.name, endpoint.target())
    }

    fn endpoint_rule(&self, comment: &str) -> Rule {
        match self.around.endpoint_comments {
            EndpointComments::Written => Rule::commented(comment),
            EndpointComments::LeftOff => Rule::new(),
        }
    }
}
