use jiff::Timestamp;
use k8s_openapi::api::core::v1::{ContainerStatus, Pod, PodStatus};
use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::shim::state::{Ended, ProcessId};

fn at(secs: i64) -> Timestamp {
    Timestamp::from_second(secs).expect("in range")
}

fn pod(spec: Value) -> Pod {
    serde_json::from_value(json!({"metadata": {"name": "p", "namespace": "n", "uid": "u"}, "spec": spec}))
        .expect("a pod")
}

fn one(policy: &str) -> Pod {
    pod(json!({"restartPolicy": policy, "containers": [{"name": "c", "image": "i"}]}))
}

fn run(name: &str, attempt: u32, started: i64, ended: Option<(i64, i32)>) -> Run {
    Run {
        name: name.to_owned(),
        attempt,
        streak: attempt,
        id: format!("{name}-{attempt}"),
        process: Some(ProcessId { pid: 1, start_ticks: 1 }),
        started_at: at(started),
        ended: ended.map(|(when, exit_code)| Ended {
            at: at(when),
            exit_code,
            signal: None,
            reason: if exit_code == 0 { "Completed" } else { "Error" }.to_owned(),
            message: None,
        }),
        image: "i".to_owned(),
        image_id: "i@x".to_owned(),
        stop_signal: 15,
        log: "/l".into(),
    }
}

/// Sandbox up, image of each container here.
fn observed(pod: &Pod, runs: Vec<Run>) -> Observed {
    let spec = pod.spec.clone().unwrap_or_default();
    let names = spec.init_containers.into_iter().flatten().chain(spec.containers).map(|container| container.name);
    Observed {
        sandbox: Sandbox::Ready { ips: vec![IpAddr::from([10, 0, 0, 1])] },
        images: names.map(|name| (name, ImageState::Ready { id: "x".to_owned() })).collect(),
        runs,
        ..Observed::default()
    }
}

fn decided(pod: &Pod, observed: &Observed, previous: &PodStatus, now: i64) -> Decision {
    let node = NodeFacts::default();
    decide(View { pod, observed, previous, node: &node }, at(now))
}

fn fresh(pod: &Pod, observed: &Observed, now: i64) -> Decision {
    decided(pod, observed, &PodStatus::default(), now)
}

fn start(name: &str, attempt: u32, streak: u32) -> Action {
    Action::Start { container: name.to_owned(), attempt, streak }
}

fn first(status: &PodStatus) -> ContainerStatus {
    status.container_statuses.as_ref().expect("some")[0].clone()
}

fn waiting(status: &ContainerStatus) -> String {
    let state = status.state.clone().expect("some");
    state.waiting.and_then(|waiting| waiting.reason).unwrap_or_default()
}

fn condition(status: &PodStatus, type_: &str) -> (String, Timestamp) {
    let list = status.conditions.as_ref().expect("some");
    let found = list.iter().find(|condition| condition.type_ == type_).expect("has it");
    (found.status.clone(), found.last_transition_time.as_ref().expect("has a time").0)
}

#[test]
fn a_new_pod_gets_a_sandbox_then_its_image_then_its_container() {
    let pod = one("Always");
    let mut seen = Observed::default();
    let decision = fresh(&pod, &seen, 100);
    assert_eq!(decision.actions, [Action::Sandbox]);
    assert_eq!(decision.status.phase.as_deref(), Some("Pending"));
    assert_eq!(waiting(&first(&decision.status)), "ContainerCreating");
    seen.sandbox = Sandbox::Ready { ips: vec![IpAddr::from([10, 0, 0, 1])] };
    let pull = Action::Pull { container: "c".to_owned(), image: "i".to_owned(), policy: PullPolicy::IfNotPresent };
    assert_eq!(fresh(&pod, &seen, 100).actions, [pull]);
    seen.images.insert("c".to_owned(), ImageState::Pulling);
    assert_eq!(fresh(&pod, &seen, 100).actions, []);
    seen.images.insert("c".to_owned(), ImageState::Ready { id: "x".to_owned() });
    assert_eq!(fresh(&pod, &seen, 100).actions, [start("c", 0, 0)]);
    seen.runs.push(run("c", 0, 100, None));
    let decision = fresh(&pod, &seen, 100);
    assert_eq!(decision.actions, []);
    assert_eq!(decision.status.phase.as_deref(), Some("Running"));
    assert_eq!(condition(&decision.status, "Ready").0, "True");
    assert_eq!(decision.status.pod_ip.as_deref(), Some("10.0.0.1"));
}

#[test]
fn a_pod_that_leaves_its_services_is_not_ready_whatever_its_probes_say() {
    let mut pod = one("Always");
    let mut seen = observed(&pod, vec![run("c", 0, 100, None)]);
    assert_eq!(condition(&fresh(&pod, &seen, 100).status, "Ready").0, "True");
    pod.metadata.deletion_timestamp = Some(at(101).into());
    assert_eq!(condition(&fresh(&pod, &seen, 101).status, "Ready").0, "True", "it serves on while it is needed");
    seen.leaving = true;
    let status = fresh(&pod, &seen, 102).status;
    assert_eq!(["Ready", "ContainersReady"].map(|type_| condition(&status, type_).0), ["False", "False"]);
    assert!(!first(&status).ready);
    assert_eq!(status.phase.as_deref(), Some("Running"), "its container runs on");
}

#[test]
fn restart_policy_and_exit_code_decide_restart_and_phase() {
    for (policy, code, restarts, phase) in [
        ("Always", 0, true, "Running"),
        ("Always", 1, true, "Running"),
        ("OnFailure", 0, false, "Succeeded"),
        ("OnFailure", 1, true, "Running"),
        ("Never", 0, false, "Succeeded"),
        ("Never", 1, false, "Failed"),
    ] {
        let pod = one(policy);
        let seen = observed(&pod, vec![run("c", 0, 100, Some((110, code)))]);
        let decision = fresh(&pod, &seen, 110);
        let expected = if restarts { vec![start("c", 1, 1)] } else { vec![] };
        assert_eq!(decision.actions, expected, "{policy} {code}");
        assert_eq!(decision.status.phase.as_deref(), Some(phase), "{policy} {code}");
    }
}

#[test]
fn a_second_crash_waits_ten_seconds_in_crash_loop_back_off() {
    let pod = one("Always");
    let seen = observed(&pod, vec![run("c", 0, 100, Some((101, 1))), run("c", 1, 101, Some((102, 1)))]);
    let decision = fresh(&pod, &seen, 105);
    assert_eq!(decision.actions, []);
    assert_eq!(decision.wake_at, Some(at(112)));
    let status = first(&decision.status);
    assert_eq!(waiting(&status), "CrashLoopBackOff");
    assert_eq!(status.restart_count, 1);
    assert_eq!(status.last_state.and_then(|last| last.terminated).map(|end| end.exit_code), Some(1));
    assert_eq!(fresh(&pod, &seen, 112).actions, [start("c", 2, 2)]);
}

#[test]
fn an_image_that_cannot_be_had_is_err_image_pull_then_back_off() {
    let pod = one("Always");
    let mut seen = observed(&pod, vec![]);
    seen.images.insert("c".to_owned(), ImageState::failed_after(1, "no".to_owned(), PullFailure::Pull, at(100)));
    let at_first = fresh(&pod, &seen, 100);
    assert_eq!((waiting(&first(&at_first.status)), at_first.wake_at), ("ErrImagePull".to_owned(), Some(at(105))));
    let later = fresh(&pod, &seen, 105);
    assert_eq!(waiting(&first(&later.status)), "ImagePullBackOff");
    assert_eq!((later.actions.len(), later.wake_at), (0, Some(at(110))));
    assert!(matches!(fresh(&pod, &seen, 110).actions[..], [Action::Pull { .. }]));
}

#[test]
fn init_containers_run_in_order_and_hold_the_pod_back() {
    let pod = pod(json!({"initContainers": [{"name": "a", "image": "i"}, {"name": "b", "image": "i"}],
                         "containers": [{"name": "c", "image": "i"}]}));
    let mut seen = observed(&pod, vec![]);
    assert_eq!(fresh(&pod, &seen, 100).actions, [start("a", 0, 0)]);
    seen.runs = vec![run("a", 0, 100, None)];
    assert_eq!(fresh(&pod, &seen, 100).actions, []);
    seen.runs = vec![run("a", 0, 100, Some((101, 0)))];
    let decision = fresh(&pod, &seen, 101);
    assert_eq!(decision.actions, [start("b", 0, 0)]);
    assert_eq!(decision.status.phase.as_deref(), Some("Pending"));
    assert_eq!(waiting(&first(&decision.status)), "PodInitializing");
    seen.runs.push(run("b", 0, 101, Some((102, 0))));
    assert_eq!(fresh(&pod, &seen, 102).actions, [start("c", 0, 0)]);
}

#[test]
fn a_deleted_pod_stops_its_container_then_kills_it_then_is_taken_down() {
    let mut pod = one("Always");
    pod.metadata.deletion_timestamp = Some(at(130).into());
    pod.metadata.deletion_grace_period_seconds = Some(30);
    let mut seen = observed(&pod, vec![run("c", 0, 100, None)]);
    let decision = fresh(&pod, &seen, 100);
    assert!(matches!(&decision.actions[..], [Action::Stop { grace_secs: 30, .. }]));
    seen.stopping.insert("c-0".to_owned(), Stopping { since: at(100), grace_secs: 30 });
    let decision = fresh(&pod, &seen, 129);
    assert_eq!((decision.actions.len(), decision.wake_at), (0, Some(at(130))));
    assert!(matches!(fresh(&pod, &seen, 130).actions[..], [Action::Kill { .. }]));
    seen.runs = vec![run("c", 0, 100, Some((131, 137)))];
    assert_eq!(fresh(&pod, &seen, 131).actions, [Action::TearDown]);
    seen.torn_down = true;
    assert_eq!(fresh(&pod, &seen, 131).actions, []);
}

#[test]
fn a_pod_that_is_gone_is_killed_without_grace() {
    let pod = one("Always");
    let mut seen = observed(&pod, vec![run("c", 0, 100, None)]);
    seen.gone = true;
    assert!(matches!(fresh(&pod, &seen, 100).actions[..], [Action::Kill { .. }]));
}

#[test]
fn probes_gate_one_another_and_a_failed_liveness_probe_stops_the_container() {
    let probe = json!({"tcpSocket": {"port": 80}, "failureThreshold": 2});
    let pod = pod(json!({"containers": [{"name": "c", "image": "i",
        "startupProbe": probe, "readinessProbe": probe, "livenessProbe": probe}]}));
    let mut seen = observed(&pod, vec![run("c", 0, 100, None)]);
    let kinds = |decision: &Decision| decision.probes.iter().map(|(key, _)| key.kind).collect::<Vec<_>>();
    let key = |kind| ProbeKey { container: "c".to_owned(), kind };
    let spec = pod.spec.as_ref().expect("some").containers[0].startup_probe.clone().expect("some");

    let decision = fresh(&pod, &seen, 100);
    assert_eq!(kinds(&decision), [ProbeKind::Startup]);
    assert_eq!(first(&decision.status).started, Some(false));
    seen.probes.insert(key(ProbeKind::Startup), Tally::default().count(0, true, &spec));
    let decision = fresh(&pod, &seen, 101);
    assert_eq!(kinds(&decision), [ProbeKind::Readiness, ProbeKind::Liveness]);
    assert!(!first(&decision.status).ready);
    seen.probes.insert(key(ProbeKind::Readiness), Tally::default().count(0, true, &spec));
    assert!(first(&fresh(&pod, &seen, 102).status).ready);
    let failing = Tally::default().count(0, false, &spec);
    seen.probes.insert(key(ProbeKind::Liveness), failing);
    assert_eq!(fresh(&pod, &seen, 103).actions, []);
    seen.probes.insert(key(ProbeKind::Liveness), failing.count(0, false, &spec));
    assert!(matches!(fresh(&pod, &seen, 104).actions[..], [Action::Stop { .. }]));
    seen.runs.push(run("c", 1, 105, None));
    seen.runs[0].ended = run("c", 0, 100, Some((105, 137))).ended;
    let decision = fresh(&pod, &seen, 106);
    assert_eq!(decision.actions, [], "results of an earlier run do not count");
    assert!(!first(&decision.status).ready);
}

#[test]
fn a_condition_keeps_its_time_until_it_changes() {
    let pod = one("Always");
    let running = observed(&pod, vec![run("c", 0, 100, None)]);
    let status = fresh(&pod, &running, 100).status;
    let later = decided(&pod, &running, &status, 200).status;
    assert_eq!(condition(&later, "Ready"), ("True".to_owned(), at(100)));
    assert_eq!(later, status, "nothing changed, nothing is to be written");
    let ended = observed(&pod, vec![run("c", 0, 100, Some((300, 1)))]);
    let status = decided(&pod, &ended, &later, 300).status;
    assert_eq!(condition(&status, "Ready"), ("False".to_owned(), at(300)));
    assert_eq!(condition(&status, "Initialized"), ("True".to_owned(), at(100)));
}

#[test]
fn one_exit_among_many_containers_costs_one_action() {
    let containers: Vec<Value> = (0..50).map(|number| json!({"name": format!("c{number}"), "image": "i"})).collect();
    let pod = pod(json!({"containers": containers}));
    let runs = (0..50).map(|number| run(&format!("c{number}"), 0, 100, (number == 7).then_some((110, 1)))).collect();
    assert_eq!(fresh(&pod, &observed(&pod, runs), 110).actions, [start("c7", 1, 1)]);
}

/// A world that does what it is told at once.
struct World {
    pod: Pod,
    seen: Observed,
    status: PodStatus,
    now: i64,
}

impl World {
    fn new(policy: &str) -> Self {
        let pod = pod(json!({"restartPolicy": policy,
            "initContainers": [{"name": "i", "image": "i"}],
            "containers": [{"name": "a", "image": "i"}, {"name": "b", "image": "i",
                            "readinessProbe": {"tcpSocket": {"port": 1}}}]}));
        Self { pod, seen: Observed::default(), status: PodStatus::default(), now: 1000 }
    }

    /// Decides once; acts on it if `acts`.
    fn step(&mut self, acts: bool) -> usize {
        let decision = decided(&self.pod, &self.seen, &self.status, self.now);
        self.status = decision.status;
        if !acts {
            return decision.actions.len();
        }
        let count = decision.actions.len();
        for action in decision.actions {
            match action {
                Action::Sandbox => self.seen.sandbox = Sandbox::Ready { ips: vec![] },
                Action::Pull { container, .. } => {
                    self.seen.images.insert(container, ImageState::Ready { id: "x".to_owned() });
                }
                Action::Start { container, attempt, streak } => {
                    let mut run = run(&container, attempt, self.now, None);
                    run.streak = streak;
                    self.seen.runs.push(run);
                }
                Action::Stop { container, .. } | Action::Kill { container, .. } => self.exit(&container, 137),
                Action::TearDown => self.seen.torn_down = true,
            }
        }
        count
    }

    fn settle(&mut self) {
        for _ in 0..100 {
            if self.step(true) == 0 {
                return;
            }
        }
        panic!("it never settles");
    }

    fn exit(&mut self, name: &str, code: i32) {
        let now = self.now;
        let running = self.seen.runs.iter_mut().rev().find(|run| run.name == name && run.ended.is_none());
        if let Some(run) = running {
            run.ended = super::tests::run(name, 0, now, Some((now, code))).ended;
        }
    }

    fn apply(&mut self, event: &Event) {
        match event {
            Event::Exit(name, code) => self.exit(name, *code),
            Event::Ready(is_ready) => {
                let key = ProbeKey { container: "b".to_owned(), kind: ProbeKind::Readiness };
                let attempt = self.seen.runs.iter().rev().find(|run| run.name == "b").map_or(0, |run| run.attempt);
                let tally = Tally { attempt, passed: *is_ready, ..Tally::default() };
                self.seen.probes.insert(key, tally);
            }
            Event::Time(secs) => self.now += secs,
            Event::SandboxLost => {
                for name in ["i", "a", "b"] {
                    self.exit(name, 137);
                }
                self.seen.sandbox = Sandbox::Missing;
            }
        }
    }

    /// Status without times, which depend on when one looked.
    fn timeless(status: &PodStatus) -> Value {
        let mut value = serde_json::to_value(status).expect("plain data");
        value.as_object_mut().expect("an object").remove("startTime");
        for condition in value["conditions"].as_array_mut().expect("a list") {
            condition.as_object_mut().expect("an object").remove("lastTransitionTime");
        }
        value
    }
}

#[derive(Clone, Debug)]
enum Event {
    Exit(&'static str, i32),
    Ready(bool),
    Time(i64),
    SandboxLost,
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        (prop::sample::select(vec!["i", "a", "b"]), prop::sample::select(vec![0, 1]))
            .prop_map(|(name, code)| Event::Exit(name, code)),
        any::<bool>().prop_map(Event::Ready),
        (0_i64..400).prop_map(Event::Time),
        Just(Event::SandboxLost),
    ]
}

proptest! {
    /// Asking more often than needed, or again without acting, changes nothing; and the status in the end is
    /// the one that someone computes who saw only the last observation.
    #[test]
    fn any_pace_of_looking_ends_in_the_same_state_as_one_look_at_the_end(
        events in prop::collection::vec((event(), 0_usize..3), 0..20),
        policy in prop::sample::select(vec!["Always", "OnFailure"]),
    ) {
        let mut calm = World::new(policy);
        let mut nervous = World::new(policy);
        for (event, extra) in &events {
            calm.settle();
            nervous.settle();
            calm.apply(event);
            nervous.apply(event);
            for _ in 0..*extra {
                nervous.step(false);
            }
        }
        calm.settle();
        nervous.settle();
        prop_assert_eq!(&calm.seen, &nervous.seen);
        prop_assert_eq!(World::timeless(&calm.status), World::timeless(&nervous.status));
        if !matches!(calm.status.phase.as_deref(), Some("Succeeded" | "Failed")) {
            let mut scratch = decided(&calm.pod, &calm.seen, &PodStatus::default(), calm.now).status;
            // The address of a lost sandbox is remembered, not seen.
            scratch.pod_ip.clone_from(&calm.status.pod_ip);
            scratch.pod_ips.clone_from(&calm.status.pod_ips);
            prop_assert_eq!(World::timeless(&calm.status), World::timeless(&scratch));
        }
    }

    /// However exits are doubled, a run ends once and attempts count up by one.
    #[test]
    fn doubled_events_count_once(events in prop::collection::vec(event(), 0..15)) {
        let mut once = World::new("Always");
        let mut twice = World::new("Always");
        for event in events.iter().filter(|event| !matches!(event, Event::Time(_))) {
            for world in [&mut once, &mut twice] {
                world.settle();
                world.apply(event);
            }
            twice.apply(event);
        }
        once.settle();
        twice.settle();
        prop_assert_eq!(once.seen, twice.seen);
    }
}
