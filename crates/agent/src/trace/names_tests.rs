//! Rules that packets met before the plan changed, in both modes: named by the plan of their time.

use std::sync::Arc;
use std::time::Duration;

use portolan_kernel::fake::FakeNetwork;
use portolan_kernel::nft_monitor::NftEvent;
use portolan_model::{
    Delta, EndpointFact, Fact, Facts, NsName, ObjectRef, Proto, Service, ServicePortFact, Settings, Slice, SlicePort,
    resolve,
};
use portolan_story::history::{History, Settled};

use super::*;
use crate::proxy::{Pace, Programmer, Shared, WriteError, Writer, Wrote};
use crate::routes::RouteWriter;

/// A plan that no kernel holds.
enum Planned {
    Chains(iptables::Desired),
    Table(nftables::Desired),
}

impl Writer for Planned {
    fn family(&self) -> Family {
        Family::V4
    }

    fn set_dns(&mut self, _: iptables::DnsPath) {}

    fn doubt(&mut self) {}

    fn concerns(&mut self, _: &NftEvent) -> bool {
        false
    }

    fn plan(&self) -> Plan<'_> {
        match self {
            Self::Chains(desired) => Plan::Iptables(desired),
            Self::Table(desired) => Plan::Nftables(desired),
        }
    }

    fn update(&mut self, snapshot: &Snapshot, delta: &Delta) -> Result<Wrote, WriteError> {
        match self {
            Self::Chains(desired) => drop(desired.update(snapshot, delta)),
            Self::Table(desired) => drop(desired.update(snapshot, delta)),
        }
        Ok(Wrote::Changes)
    }
}

struct Node {
    facts: Facts,
    snapshot: Arc<Snapshot>,
    history: History,
    routes: RouteWriter,
    proxy: Programmer,
    now_us: i64,
}

fn web() -> NsName {
    NsName::new("default", "web")
}

fn socket(text: &str) -> SocketAddr {
    text.parse().expect("address and port")
}

impl Node {
    fn new(planned: Planned) -> Self {
        let settings = Settings {
            node: "node-1".into(),
            cluster_cidrs: vec!["10.244.0.0/16".parse().expect("a prefix")],
            service_cidrs: vec!["10.96.0.0/12".parse().expect("a prefix")],
            cluster_dns: Vec::new(),
            cluster_domain: "cluster.local".into(),
            proxy: Default::default(),
        };
        let snapshot = Arc::new(Snapshot::empty(Arc::new(settings)));
        let (shared, _notices) = Shared::new(&[Family::V4], Duration::from_secs(60));
        let mut node = Self {
            facts: Facts::default(),
            history: History::new(0, snapshot.clone()),
            snapshot,
            routes: RouteWriter::open(Box::new(FakeNetwork::new()), "eth0", Arc::default()).expect("in memory"),
            proxy: Programmer::new(vec![Box::new(planned)], shared, Pace::default()),
            now_us: 0,
        };
        let port = ServicePortFact { name: "http".into(), proto: Proto::Tcp, port: 80, node_port: 0 };
        let ip = "10.96.0.20".parse().expect("an address");
        let service = Service { cluster_ips: vec![ip], ports: vec![port], ..Service::default() };
        node.write([Fact::Service(web(), Some(service))]);
        node
    }

    fn write(&mut self, facts: impl IntoIterator<Item = Fact>) {
        let touched = self.facts.apply_all(facts);
        let (after, delta) = resolve(&self.facts, &self.snapshot, &touched);
        self.snapshot = Arc::new(after);
        self.history.resolved(&delta);
        assert!(self.proxy.update(&self.snapshot, &delta));
        self.now_us += 1_000_000;
        self.history.settled(&Settled {
            snapshot: &self.snapshot,
            began_us: self.now_us - 10,
            now_us: self.now_us,
            is_in_place: &|_| true,
            was_there: &|_| Some(false),
        });
    }

    /// The one endpoint is that of this pod.
    fn leads_to(&mut self, last: u8) {
        let address = format!("10.244.0.{last}").parse().expect("an address");
        let pod = Some(NsName::new("default", format!("web-{last}")));
        let slice = Slice {
            service: web(),
            family: Family::V4,
            ports: vec![SlicePort { name: "http".into(), proto: Proto::Tcp, port: 80 }],
            endpoints: vec![EndpointFact { pod, ..EndpointFact::ready_at(address) }],
        };
        self.write([Fact::Slice(NsName::new("default", "web-x"), Some(slice))]);
    }

    fn view(&self) -> View<'_> {
        View {
            history: &self.history,
            routes: &self.routes,
            programmed: true,
            snapshot: &self.snapshot,
            proxy: &self.proxy,
        }
    }

    /// Where a packet to the Service meets now the rule that sends it to the pod, a moment after the last write.
    fn met(&self, last: u8) -> (Place, RuleTold) {
        let service = socket("10.96.0.20:80");
        let after = socket(&format!("10.244.0.{last}:80"));
        let at = At { src: socket("10.244.0.9:40000"), dst: service, original_dst: service, proto: Proto::Tcp, after };
        let all = self.places(&at);
        let sends = |told: &RuleTold| matches!(told.meaning, Meaning::SendsTo { endpoint, .. } if endpoint == after);
        let (table, chain, index, count, told) =
            all.into_iter().find(|(.., told)| sends(told)).expect("a rule sends it there");
        let place = Place {
            family: libc::NFPROTO_IPV4 as u8,
            table,
            chain,
            handle: 7,
            index: Some(index),
            is_former: false,
            count,
            at_us: self.now_us + 500,
            comment: None,
            act: Act::Accept,
            at,
        };
        (place, told)
    }

    /// Every rule with its table, chain, place and the chain's length.
    fn places(&self, at: &At) -> Vec<(String, String, usize, usize, RuleTold)> {
        match self.proxy.plan(Family::V4).expect("one is planned") {
            Plan::Iptables(desired) => {
                let rules = desired.chains().into_iter().flat_map(|(chain, rules)| {
                    let count = rules.len();
                    rules.into_iter().enumerate().map(move |(index, rule)| (chain.clone(), index, count, rule))
                });
                let told = |chain: &Chain, rule: &Rule| {
                    iptables::meaning::told(desired, &self.snapshot, chain, rule, Some(at))
                };
                rules
                    .map(|(chain, index, count, rule)| {
                        let told = told(&chain, &rule);
                        (chain.table.name().to_owned(), chain.name.to_string(), index, count, told)
                    })
                    .collect()
            }
            Plan::Nftables(desired) => {
                let table = desired.table();
                let rules = table.chains.iter().flat_map(|(name, chain)| {
                    chain.rules.iter().enumerate().map(move |(index, rule)| (name, index, chain.rules.len(), rule))
                });
                rules
                    .map(|(name, index, count, rule)| {
                        let told = nftables::meaning::told(desired, &self.snapshot, name, rule, Some(at));
                        (TABLE.to_owned(), name.to_string(), index, count, told)
                    })
                    .collect()
            }
        }
    }
}

#[test]
fn a_rule_is_named_by_the_plan_that_stood_when_the_packet_came() {
    let chains = Planned::Chains(iptables::Desired::new(Family::V4, Default::default()));
    let table = Planned::Table(nftables::Desired::new(Family::V4, Default::default()));
    for (planned, mode) in [(chains, "iptables"), (table, "nftables")] {
        let mut node = Node::new(planned);
        let mut met = Vec::new();
        for last in [1, 2, 3] {
            node.leads_to(last);
            met.push((last, node.met(last)));
        }
        for (last, (place, told)) in met {
            let pod = ObjectRef { kind: ObjectKind::Pod, key: NsName::new("default", format!("web-{last}")) };
            assert!(told.objects.contains(&pod), "{mode}: {told:?}");
            for is_former in [false, true] {
                let place = Place { is_former, ..place.clone() };
                let named = Namer::default().name_rule(&node.view(), &place);
                assert_eq!(named.as_ref(), Some(&told), "{mode}: to {pod:?}, met as {place:?}");
            }
        }
    }
}
