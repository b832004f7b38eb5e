use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use portolan_model::{
    Attachment, EndpointFact, Fact, Facts, Family, IfName, LearnedRoute, NsName, ObjectKind, ObjectRef, Proto, Service,
    ServicePortFact, Settings, Slice, SlicePort, Snapshot, resolve,
};
use proptest::prelude::*;

use super::*;

/// A node's core without a kernel: facts, snapshot, history.
struct Core {
    facts: Facts,
    snapshot: Arc<Snapshot>,
    history: History,
    now_us: i64,
}

fn key(name: &str) -> NsName {
    NsName::new("default", name)
}

fn service(last: u8) -> Service {
    let port = ServicePortFact { name: "http".into(), proto: Proto::Tcp, port: 80, node_port: 0 };
    let ip = format!("10.96.0.{last}").parse().expect("an address");
    Service { cluster_ips: vec![ip], ports: vec![port], ..Service::default() }
}

fn endpoint(last: u8) -> SocketAddr {
    format!("10.244.0.{last}:80").parse().expect("an address")
}

fn slice(service: &str, addresses: &[u8]) -> Slice {
    let endpoints = addresses.iter().map(|n| {
        let pod = Some(key(&format!("pod-{n}")));
        EndpointFact { pod, ..EndpointFact::ready_at(endpoint(*n).ip()) }
    });
    Slice {
        service: key(service),
        family: Family::V4,
        ports: vec![SlicePort { name: "http".into(), proto: Proto::Tcp, port: 80 }],
        endpoints: endpoints.collect(),
    }
}

fn told(kind: ObjectKind, name: &str, version: u64, seen_us: i64, service: &str) -> Cause {
    let object = ObjectRef { kind, key: key(name) };
    let origin = Origin::Object { object, version, gone: false };
    Cause { origin, seen_us, triggered_us: None, concerns: Concerns::Service(key(service)) }
}

impl Core {
    fn new() -> Self {
        let settings = Settings {
            node: "node-1".into(),
            cluster_cidrs: vec!["10.244.0.0/16".parse().expect("a prefix")],
            service_cidrs: vec!["10.96.0.0/12".parse().expect("a prefix")],
            cluster_dns: Vec::new(),
            cluster_domain: "cluster.local".into(),
            proxy: Default::default(),
        };
        let empty = Arc::new(Snapshot::empty(Arc::new(settings)));
        Self { facts: Facts::default(), history: History::new(1000, empty.clone()), snapshot: empty, now_us: 1000 }
    }

    /// Takes facts in, without a write.
    fn hear(&mut self, facts: impl IntoIterator<Item = Fact>) {
        let touched = self.facts.apply_all(facts);
        let (after, delta) = resolve(&self.facts, &self.snapshot, &touched);
        self.snapshot = Arc::new(after);
        self.history.resolved(&delta);
    }

    fn write_of(&mut self, is_in_place: &dyn Fn(&Fragment) -> bool, was_there: Option<bool>) -> Option<u64> {
        self.now_us += 100;
        let (began_us, now_us) = (self.now_us - 4, self.now_us);
        let snapshot = &self.snapshot;
        self.history.settled(&Settled { snapshot, began_us, now_us, is_in_place, was_there: &|_| was_there })
    }

    fn write(&mut self) -> Option<u64> {
        self.write_of(&|_| true, Some(false))
    }

    fn web(&mut self, addresses: &[u8]) {
        self.hear([Fact::Slice(key("web-x"), Some(slice("web", addresses)))]);
    }

    fn mark(&self, name: &str) -> &Mark {
        self.history.mark_of(&Fragment::Service(key(name))).expect("it is in place")
    }
}

fn versions(step: &Step) -> Vec<u64> {
    let version = |cause: &Cause| match cause.origin {
        Origin::Object { version, .. } => version,
        _ => 0,
    };
    step.causes.iter().map(version).collect()
}

#[test]
fn an_endpoint_that_comes_is_told_with_the_slice_that_brought_it_and_leaves_the_others_ages() {
    let mut core = Core::new();
    core.hear([Fact::Service(key("web"), Some(service(1))), Fact::Service(key("db"), Some(service(2)))]);
    core.web(&[1, 2]);
    assert_eq!(core.write(), Some(1));
    let first = core.now_us;
    core.history.saw(told(ObjectKind::EndpointSlice, "web-x", 812, first + 50, "web"));
    core.history.saw(told(ObjectKind::Service, "db", 813, first + 60, "db"));
    core.web(&[1, 3]);
    assert_eq!(core.write(), Some(2));

    let mark = core.mark("web");
    assert_eq!((mark.number, mark.written.at_us), (2, core.now_us));
    assert_eq!(versions(&mark.step), [812], "db's own cause is not web's");
    let of = |notes: &[EndpointNote]| notes.iter().map(|note| note.at).collect::<Vec<_>>();
    assert_eq!((of(&mark.step.shift.came), of(&mark.step.shift.went)), (vec![endpoint(3)], vec![endpoint(2)]));
    assert_eq!(mark.endpoint(endpoint(1)).map(|since| since.at_us), Some(first));
    assert_eq!(mark.endpoint(endpoint(3)).map(|since| since.at_us), Some(core.now_us));
    assert_eq!(mark.endpoint(endpoint(2)), None);
    assert_eq!(mark.shaped.at_us, first, "what leads to the Service is as old as it was");
    assert_eq!(core.mark("db").number, 1);
}

#[test]
fn what_changed_nothing_is_no_cause_of_what_comes_later() {
    let mut core = Core::new();
    core.hear([Fact::Service(key("web"), Some(service(1)))]);
    core.write();
    core.history.saw(told(ObjectKind::EndpointSlice, "web-x", 7, 1, "web"));
    assert_eq!(core.write(), None);
    core.history.saw(told(ObjectKind::EndpointSlice, "web-y", 9, 2, "web"));
    core.web(&[1]);
    core.write();
    assert_eq!(versions(&core.mark("web").step), [9]);
}

#[test]
fn a_write_that_failed_makes_one_generation_with_the_next_and_all_causes_of_both() {
    let mut core = Core::new();
    core.hear([Fact::Service(key("web"), Some(service(1)))]);
    core.write();
    core.history.saw(told(ObjectKind::EndpointSlice, "web-x", 7, 1, "web"));
    core.web(&[1]);
    // Not taken by the kernel: nothing is settled.
    core.history.saw(told(ObjectKind::Service, "web", 8, 2, "web"));
    core.hear([Fact::Service(key("web"), Some(service(9)))]);
    assert_eq!(core.write(), Some(2));
    let mark = core.mark("web");
    assert_eq!(versions(&mark.step), [7, 8]);
    assert!(mark.step.shift.reshaped && mark.step.shift.came.len() == 1);
}

#[test]
fn routes_are_in_place_before_the_rules_are() {
    let mut core = Core::new();
    let attachment =
        Attachment { link: IfName("cali0".into()), addresses: vec![endpoint(1).ip()], host_ports: Vec::new() };
    let learned = LearnedRoute::via(IpAddr::from([172, 18, 0, 12]), IpAddr::from([172, 18, 0, 12]));
    let block = "10.244.1.0/26".parse().expect("a prefix");
    let pod_route: IpNet = "10.244.0.1/32".parse().expect("a prefix");
    let link = Concerns::Pod(key("a"), [pod_route].into());
    let attached = Cause { origin: Origin::Attached { pod: key("a") }, seen_us: 5, triggered_us: None, concerns: link };
    core.history.saw(attached.clone());
    core.hear([
        Fact::Service(key("web"), Some(service(1))),
        Fact::Attachment(key("a"), Some(attachment)),
        Fact::Learned(block, Some(learned)),
    ]);
    core.write_of(&|fragment| !matches!(fragment, Fragment::Service(_)), Some(false));
    assert!(core.history.mark_of(&Fragment::Service(key("web"))).is_none());
    let route = core.history.mark_of(&Fragment::Route(pod_route)).expect("it is in place").clone();
    assert_eq!(*route.step.causes, [attached]);
    assert_eq!((route.written.at_us, route.written.known), (core.now_us, Known::Exactly));
    assert!(route.written.at_us > core.history.started_us());
    core.write();
    assert_eq!(core.mark("web").number, 2);
    assert!(core.mark("web").step.shift.is_new);
    assert_eq!(core.history.mark_of(&Fragment::Route(pod_route)), Some(&route), "the second write left it alone");
    core.hear([Fact::Learned(block, None)]);
    core.write();
    assert_eq!(core.history.mark_of(&Fragment::Route(block)), None, "what is gone has no age");
    let last = core.history.generations().next().expect("one");
    assert!(last.steps[&Fragment::Route(block)].shift.is_gone);
}

#[test]
fn what_the_kernel_refused_has_no_mark_until_it_is_taken_with_its_cause() {
    let mut core = Core::new();
    core.history.saw(told(ObjectKind::Service, "web", 7, 1, "web"));
    core.hear([Fact::Service(key("web"), Some(service(1))), Fact::Service(key("db"), Some(service(2)))]);
    let web = Fragment::Service(key("web"));
    core.write_of(&|fragment| *fragment != web, Some(false));
    assert!(core.history.mark_of(&web).is_none() && core.mark("db").number == 1);
    core.write();
    assert_eq!((core.mark("web").number, versions(&core.mark("web").step)), (2, vec![7]));
    assert!(core.mark("web").step.shift.is_new);
}

#[test]
fn what_a_start_finds_as_wanted_is_older_than_the_start() {
    for (was_there, known) in [(Some(true), Known::Older), (Some(false), Known::Exactly), (None, Known::AtLeast)] {
        let mut core = Core::new();
        core.hear([Fact::Service(key("web"), Some(service(1)))]);
        core.web(&[1]);
        core.write_of(&|_| true, was_there);
        assert_eq!(core.mark("web").written.known, known);
        assert_eq!(core.mark("web").endpoint(endpoint(1)).map(|since| since.known), Some(known));
        core.web(&[1, 2]);
        core.write();
        assert_eq!(core.mark("web").endpoint(endpoint(2)).map(|since| since.known), Some(Known::Exactly));
        assert_eq!(core.mark("web").endpoint(endpoint(1)).map(|since| since.known), Some(known));
    }
}

#[test]
fn sixty_four_generations_are_kept_and_a_mark_outlives_them() {
    let mut core = Core::new();
    core.hear([Fact::Service(key("web"), Some(service(1))), Fact::Service(key("db"), Some(service(2)))]);
    core.write();
    for round in 0..100u8 {
        core.web(&[1 + round % 2]);
        core.write();
    }
    assert_eq!((core.history.generations().count(), KEPT), (64, 64));
    let numbers: Vec<u64> = core.history.generations().map(|generation| generation.number).collect();
    assert_eq!(numbers, (38..=101).rev().collect::<Vec<_>>(), "the newest");
    assert_eq!(core.history.last_number(), 101);
    assert_eq!(core.mark("db").number, 1, "its generation is forgotten, its age is not");
    // A packet between two writes met the earlier one; one that came with the write, perhaps the next.
    let newest: Vec<(u64, i64)> = core.history.generations().map(|g| (g.number, g.written_us)).collect();
    let numbers = |at_us| core.history.around(at_us).iter().take(3).map(|g| g.number).collect::<Vec<_>>();
    assert_eq!(numbers(newest[5].1 + 1), [newest[5].0, newest[4].0, newest[6].0]);
    assert_eq!(core.history.around(newest[5].1 - 1)[0].number, newest[6].0);
    let met = |at_us, late_us| core.history.met_by(at_us, late_us).iter().map(|g| g.number).collect::<Vec<_>>();
    assert_eq!(met(newest[5].1 + 50, 20), [newest[5].0], "it stood, and no other was on its way");
    assert_eq!(met(newest[5].1 + 10, 20), [newest[6].0, newest[5].0], "it may have come before the write");
    assert_eq!(met(newest[5].1 - 2, 1), [newest[6].0, newest[5].0], "the write was under way");
}

proptest! {
    /// Whatever the writes in between: what has a mark is what is in place, and no age lies in the future or the past.
    #[test]
    fn exactly_what_is_in_place_has_a_mark(
        history in proptest::collection::vec((0u8..3, proptest::collection::vec(1u8..5, 0..4), 0u8..4), 1..40),
    ) {
        let mut core = Core::new();
        for (service_of, addresses, act) in history {
            let name = format!("s{service_of}");
            match act {
                0 => core.hear([Fact::Service(key(&name), None)]),
                1 => core.hear([Fact::Service(key(&name), Some(service(service_of)))]),
                2 => core.hear([Fact::Slice(key(&name), Some(slice(&name, &addresses)))]),
                _ => drop(core.write()),
            }
        }
        core.write();
        for n in 0..3u8 {
            let name = key(&format!("s{n}"));
            let mark = core.history.mark_of(&Fragment::Service(name.clone()));
            prop_assert_eq!(mark.is_some(), core.snapshot.services.contains_key(&name));
            let Some(mark) = mark else { continue };
            prop_assert!(mark.written.at_us <= core.now_us && mark.shaped.at_us <= mark.written.at_us);
            for port in &core.snapshot.services[&name].ports {
                for endpoint in &port.endpoints {
                    let since = mark.endpoint(SocketAddr::new(endpoint.addr, endpoint.port)).expect("it has an age");
                    prop_assert!(mark.shaped.at_us <= since.at_us && since.at_us <= mark.written.at_us);
                }
            }
        }
    }
}
