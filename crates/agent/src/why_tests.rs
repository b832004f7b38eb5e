//! What `portolan why` is told by a core over a kernel in memory: ages, and whose a rule is.

use portolan_dataplane::iptables;
use portolan_dataplane::meaning::Meaning;
use portolan_kernel::nft_monitor::NftEvent;
use portolan_model::{Delta, ServiceView, Snapshot};
use portolan_story::history::{Fragment, Known, Origin, Since};
use portolan_story::why::{Because, InPlace, NodeWhy};
use tokio::sync::oneshot;

use super::*;
use crate::proxy::{Plan, WriteError, Writer, Wrote};

fn why(agent: &mut Agent, what: &'static str, value: &str) -> NodeWhy {
    let (sender, mut answer) = oneshot::channel();
    let value = value.to_owned();
    let ask = move |view: &View<'_>| drop(sender.send(crate::why::asked(view, what, &value)));
    agent.take([Input::Ask(Question(Box::new(ask)))]);
    answer.try_recv().expect("the core answers what it is asked")
}

fn written(agent: &Agent, fragment: &Fragment) -> Since {
    agent.core.history.mark_of(fragment).unwrap_or_else(|| panic!("{fragment:?} is in place")).written
}

fn web() -> Fragment {
    Fragment::Service(NsName::new("default", "web"))
}

/// Writes are told apart by their times.
fn a_moment() {
    std::thread::sleep(Duration::from_millis(2));
}

fn leads_to(placed: &InPlace, last: u8) -> bool {
    let to = format!("10.244.0.{last}:80").parse().expect("an address");
    matches!(placed.meaning, Some(Meaning::SendsTo { endpoint, .. }) if endpoint == to)
}

#[test]
fn a_rule_is_as_old_as_its_endpoint_the_choice_as_the_change_and_the_door_as_the_service() {
    let kernel = Kernel::new();
    let mut agent = Agent::start(&kernel);
    agent.take(cluster());
    let first = written(&agent, &web());
    a_moment();
    agent.take([value(slice("web", &[1, 3]))]);
    let second = written(&agent, &web());
    assert!(first.at_us < second.at_us);
    let told = why(&mut agent, "object", "Service/default/web");
    let ages = |is: &dyn Fn(&InPlace) -> bool| {
        let ages: Vec<Since> = told.in_place.iter().filter(|placed| is(placed)).filter_map(|it| it.since).collect();
        assert!(!ages.is_empty(), "{told:#?}");
        ages
    };
    assert!(ages(&|it| leads_to(it, 1)).iter().all(|age| *age == first), "it stayed");
    assert!(ages(&|it| leads_to(it, 3)).iter().all(|age| *age == second), "it came");
    assert!(ages(&|it| matches!(it.meaning, Some(Meaning::Chooses { .. }))).iter().all(|age| *age == second));
    assert!(
        ages(&|it| matches!(it.meaning, Some(Meaning::Leads | Meaning::Claims { .. }))).iter().all(|age| *age == first)
    );
    let generations: Vec<u64> = told.changes.iter().map(|change| change.generation).collect();
    assert_eq!(generations, [told.generation, told.generation - 1], "the newest first");
}

#[test]
fn a_route_is_as_old_as_its_write_and_not_as_its_agent() {
    let kernel = Kernel::new();
    let mut agent = Agent::start(&kernel);
    agent.take(cluster());
    let peers: Since = written(&agent, &Fragment::Route("10.244.1.0/26".parse().expect("a prefix")));
    a_moment();
    agent.take([attached(7)]);
    let told = why(&mut agent, "route", "10.244.0.7");
    let since = told.in_place[0].since.expect("it was written");
    assert!(told.started_us <= peers.at_us && peers.at_us < since.at_us, "{peers:?} {since:?}");
    assert_eq!((since.known, since.at_us), (Known::Exactly, told.changes[0].written_us));
    assert!(matches!(&told.changes[0].step.causes[0].origin, Origin::Attached { pod } if &*pod.name == "web"));
    let told = why(&mut agent, "route", "10.244.1.0/26");
    assert_eq!(told.in_place[0].since, Some(peers), "another route left it alone");
}

#[test]
fn each_rule_of_a_service_is_found_again_by_its_number_and_by_its_line() {
    let kernel = Kernel::new();
    let mut agent = Agent::start(&kernel);
    agent.take(cluster());
    let rules = why(&mut agent, "object", "Service/default/web").in_place;
    assert!(rules.len() > 6 && rules.iter().any(|rule| rule.number > Some(1)), "{rules:#?}");
    for rule in &rules {
        let (place, number) = (rule.place.to_string(), rule.number.expect("a rule of a chain"));
        let (table, chain) = place.rsplit_once(' ').expect("ip nat KUBE-…");
        for text in [format!("{place} {number}"), format!("{table} -A {chain} {}", rule.text)] {
            assert_eq!(why(&mut agent, "rule", &text).in_place, std::slice::from_ref(rule), "{text}");
        }
    }
}

/// Chains in no kernel; refused as long as `db` has two endpoints.
struct Refusing(iptables::Desired);

impl Writer for Refusing {
    fn family(&self) -> Family {
        Family::V4
    }

    fn set_dns(&mut self, _: DnsPath) {}

    fn doubt(&mut self) {}

    fn concerns(&mut self, _: &NftEvent) -> bool {
        false
    }

    fn plan(&self) -> Plan<'_> {
        Plan::Iptables(&self.0)
    }

    fn update(&mut self, snapshot: &Snapshot, delta: &Delta) -> Result<Wrote, WriteError> {
        let service = NsName::new("default", "db");
        let endpoints = |view: &ServiceView| view.ports.iter().map(|port| port.endpoints.len()).sum::<usize>();
        if snapshot.services.get(&service).is_some_and(|view| endpoints(view) == 2) {
            return Err(WriteError::Culprit { service, reason: "Invalid argument".to_owned() });
        }
        self.0.update(snapshot, delta);
        Ok(Wrote::Changes)
    }
}

#[test]
fn a_service_whose_rules_are_refused_keeps_its_former_age_and_its_causes_until_they_are_taken() {
    let mut agent = Agent::start(&Kernel::new());
    let (shared, _notices) = Shared::new(&[Family::V4], Duration::from_secs(60));
    let writer = Refusing(iptables::Desired::new(Family::V4, Options::default()));
    agent.core.proxy = Programmer::new(vec![Box::new(writer)], shared, Pace::default());
    agent.take(cluster());
    agent.take([value(service("db", 30)), value(slice("db", &[5]))]);
    let db = Fragment::Service(NsName::new("default", "db"));
    let before = written(&agent, &db);
    a_moment();
    agent.take([value(slice("db", &[5, 6])), value(slice("web", &[1, 3]))]);
    assert_eq!(why(&mut agent, "object", "Service/default/db").nothing.map(|it| it.because), Some(Because::Refused));
    assert_eq!(written(&agent, &db), before, "the kernel has not taken what changed");
    let others = written(&agent, &web());
    assert!(others.at_us > before.at_us, "the other goes in");
    a_moment();
    agent.take([value(slice("db", &[6])), value(service("db", 31))]);
    let mark = agent.core.history.mark_of(&db).expect("it is taken");
    assert!(mark.written.at_us > others.at_us);
    assert_eq!(mark.step.causes.len(), 2, "{:?}", mark.step.causes);
    assert_eq!(why(&mut agent, "object", "Service/default/db").nothing, None);
}
