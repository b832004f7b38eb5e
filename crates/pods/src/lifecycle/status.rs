//! PodStatus: phase, conditions, container statuses.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{
    Container, ContainerState, ContainerStateRunning, ContainerStateTerminated, ContainerStateWaiting, ContainerStatus,
    HostIP, PodCondition, PodIP, PodStatus,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::backoff::restart_delay;
use super::{ImageState, PullFailure, Sandbox, View, is_sidecar};
use crate::shim::state::Run;

/// The status of the pod at `now`.
pub fn compute(view: View<'_>, now: Timestamp) -> PodStatus {
    let containers: Vec<ContainerStatus> = view.containers().map(|c| container_status(view, c, false, now)).collect();
    let inits: Vec<ContainerStatus> = view.init_containers().map(|c| container_status(view, c, true, now)).collect();
    let phase = phase(view, &containers);
    let ips: Vec<String> = match &view.observed.sandbox {
        Sandbox::Ready { ips } => ips.iter().map(ToString::to_string).collect(),
        // A pod keeps showing the address it had while its sandbox is made anew.
        Sandbox::Missing => view.previous.pod_ips.iter().flatten().map(|ip| ip.ip.clone()).collect(),
    };
    let hosts: Vec<String> = view.node.host_ips.iter().map(ToString::to_string).collect();
    PodStatus {
        conditions: Some(conditions(view, &phase, &containers, now)),
        container_statuses: Some(containers).filter(|list| !list.is_empty()),
        init_container_statuses: Some(inits).filter(|list| !list.is_empty()),
        host_ip: hosts.first().cloned(),
        host_ips: Some(hosts.into_iter().map(|ip| HostIP { ip }).collect()),
        pod_ip: ips.first().cloned(),
        pod_ips: Some(ips.into_iter().map(|ip| PodIP { ip }).collect::<Vec<_>>()).filter(|list| !list.is_empty()),
        start_time: view.previous.start_time.clone().or(Some(Time(whole_second(now)))),
        phase: Some(phase),
        qos_class: view.previous.qos_class.clone(),
        ..PodStatus::default()
    }
}

/// The API keeps whole seconds; comparing what we send with what comes back needs the same.
fn whole_second(at: Timestamp) -> Timestamp {
    Timestamp::from_second(at.as_second()).unwrap_or(at)
}

fn container_status(view: View<'_>, container: &Container, is_init: bool, now: Timestamp) -> ContainerStatus {
    let run = view.last_run(&container.name);
    let before = run.and_then(|run| {
        let mut older =
            view.observed.runs.iter().rev().filter(|other| other.name == run.name && other.attempt < run.attempt);
        older.next()
    });
    let state = state(view, container, run, is_init, now);
    // While it waits for a restart, the run that ended is "last state".
    let last = if state.waiting.is_some() { run } else { before };
    let uid = view.pod.metadata.uid.as_deref().unwrap_or_default();
    ContainerStatus {
        name: container.name.clone(),
        image: container.image.clone().unwrap_or_default(),
        image_id: run.map(|run| run.image_id.clone()).unwrap_or_default(),
        container_id: run.filter(|run| run.process.is_some()).map(|run| container_id(uid, run)),
        restart_count: run.map_or(0, |run| i32::try_from(run.attempt).unwrap_or(i32::MAX)),
        ready: run.is_some_and(|run| match (is_init && !is_sidecar(container), &run.ended) {
            (true, Some(ended)) => ended.exit_code == 0,
            (true, None) => false,
            (false, _) => view.is_ready(container, run) && !(view.is_ending() && is_init),
        }),
        started: Some(run.is_some_and(|run| view.is_started(container, run))),
        last_state: last
            .and_then(terminated)
            .map(|terminated| ContainerState { terminated: Some(terminated), ..ContainerState::default() }),
        state: Some(state),
        ..ContainerStatus::default()
    }
}

fn container_id(uid: &str, run: &Run) -> String {
    format!("portolan://{uid}-{}", run.id)
}

fn state(view: View<'_>, container: &Container, run: Option<&Run>, is_init: bool, now: Timestamp) -> ContainerState {
    let waiting = |reason: &str, message: Option<String>| ContainerState {
        waiting: Some(ContainerStateWaiting { reason: Some(reason.to_owned()), message }),
        ..ContainerState::default()
    };
    match run {
        Some(run) if run.ended.is_none() => ContainerState {
            running: Some(ContainerStateRunning { started_at: Some(Time(whole_second(run.started_at))) }),
            ..ContainerState::default()
        },
        Some(run) => {
            let (ended, ran) = match &run.ended {
                Some(ended) => (ended, ended.at.duration_since(run.started_at)),
                None => unreachable!("the arm above took runs without an end"),
            };
            let delay = restart_delay(run.streak, ran);
            let backs_off =
                view.restarts(container, ended.exit_code, is_init) && !view.is_ending() && now < ended.at + delay;
            if backs_off {
                let pod = crate::PodIdent::of(view.pod);
                let message = format!(
                    "back-off {}s restarting failed container={} pod={}_{}({})",
                    delay.as_secs(),
                    container.name,
                    pod.name,
                    pod.namespace,
                    pod.uid
                );
                return waiting("CrashLoopBackOff", Some(message));
            }
            ContainerState { terminated: terminated(run), ..ContainerState::default() }
        }
        None => {
            let (reason, message) = waiting_reason(view, container, is_init, now);
            waiting(reason, message)
        }
    }
}

fn waiting_reason(
    view: View<'_>,
    container: &Container,
    is_init: bool,
    now: Timestamp,
) -> (&'static str, Option<String>) {
    if !is_init && view.waiting_init().is_some() {
        return ("PodInitializing", None);
    }
    if let Some((_, message)) = view.observed.config_failed.get(&container.name) {
        return ("CreateContainerConfigError", Some(message.clone()));
    }
    match view.observed.images.get(&container.name) {
        Some(state @ ImageState::Failed { message, why, .. }) => match why {
            PullFailure::Name => ("InvalidImageName", Some(message.clone())),
            PullFailure::Never => ("ErrImageNeverPull", Some(message.clone())),
            PullFailure::Pull if state.backs_off_at().is_some_and(|at| now < at) => {
                ("ErrImagePull", Some(message.clone()))
            }
            PullFailure::Pull => {
                let image = container.image.as_deref().unwrap_or_default();
                ("ImagePullBackOff", Some(format!("Back-off pulling image {image:?}: ErrImagePull: {message}")))
            }
        },
        _ => ("ContainerCreating", None),
    }
}

fn terminated(run: &Run) -> Option<ContainerStateTerminated> {
    let ended = run.ended.as_ref()?;
    Some(ContainerStateTerminated {
        exit_code: ended.exit_code,
        signal: ended.signal,
        reason: Some(ended.reason.clone()),
        message: ended.message.clone(),
        started_at: Some(Time(whole_second(run.started_at))),
        finished_at: Some(Time(whole_second(ended.at))),
        container_id: None,
    })
}

/// kubelet's rule: pending while anything waits for its first run, else running while anything runs or will again.
fn phase(view: View<'_>, containers: &[ContainerStatus]) -> String {
    if view.is_finished() {
        return view.previous.phase.clone().unwrap_or_default();
    }
    if let Some(waiting) = view.waiting_init() {
        let failed_for_good = view
            .last_run(&waiting.name)
            .and_then(|run| run.ended.as_ref())
            .is_some_and(|ended| ended.exit_code != 0 && !view.restarts(waiting, ended.exit_code, true));
        return if failed_for_good { "Failed" } else { "Pending" }.to_owned();
    }
    let mut stopped = 0;
    let mut succeeded = 0;
    for status in containers {
        let Some(state) = &status.state else { continue };
        let last = status.last_state.as_ref().and_then(|last| last.terminated.as_ref());
        match (&state.running, &state.terminated, last) {
            (Some(_), ..) => return phase_of_running(containers),
            (None, Some(terminated), _) => {
                stopped += 1;
                succeeded += usize::from(terminated.exit_code == 0);
            }
            (None, None, Some(_)) => stopped += 1,
            (None, None, None) => return "Pending".to_owned(),
        }
    }
    let policy = view.restart_policy();
    let phase = match () {
        () if stopped == 0 => "Pending",
        () if policy == "Always" => "Running",
        () if stopped == succeeded => "Succeeded",
        () if policy == "Never" => "Failed",
        () => "Running",
    };
    phase.to_owned()
}

/// One runs; another that never ran keeps the pod pending.
fn phase_of_running(containers: &[ContainerStatus]) -> String {
    let never_ran = |status: &ContainerStatus| {
        let waits = status.state.as_ref().is_some_and(|state| state.waiting.is_some());
        waits && status.last_state.is_none()
    };
    if containers.iter().any(never_ran) { "Pending" } else { "Running" }.to_owned()
}

fn conditions(view: View<'_>, phase: &str, containers: &[ContainerStatus], now: Timestamp) -> Vec<PodCondition> {
    let finished = phase == "Succeeded";
    let unready: Vec<&str> =
        containers.iter().filter(|status| !status.ready).map(|status| status.name.as_str()).collect();
    let not_ready = || {
        if finished {
            (Some("PodCompleted"), None)
        } else {
            let message = format!("containers with unready status: [{}]", unready.join(" "));
            (Some("ContainersNotReady"), Some(message))
        }
    };
    let all_ready = unready.is_empty() && !containers.is_empty() && phase == "Running";
    let gates_open = view.pod.spec.iter().flat_map(|spec| spec.readiness_gates.iter().flatten()).all(|gate| {
        let known = view.pod.status.iter().flat_map(|status| status.conditions.iter().flatten());
        known.into_iter().any(|condition| condition.type_ == gate.condition_type && condition.status == "True")
    });
    let initialized = view.waiting_init().is_none();
    let has_sandbox = matches!(view.observed.sandbox, Sandbox::Ready { .. });
    let rows = [
        ("PodReadyToStartContainers", has_sandbox, (None, None)),
        ("Initialized", initialized || finished, (Some("ContainersNotInitialized"), None)),
        (
            "Ready",
            all_ready && gates_open,
            if all_ready { (Some("ReadinessGatesNotReady"), None) } else { not_ready() },
        ),
        ("ContainersReady", all_ready, not_ready()),
        ("PodScheduled", true, (None, None)),
    ];
    rows.into_iter()
        .map(|(type_, is_true, (reason, message))| {
            let status = if is_true { "True" } else { "False" };
            PodCondition {
                type_: type_.to_owned(),
                status: status.to_owned(),
                reason: reason.filter(|_| !is_true || finished && type_ == "Initialized").map(str::to_owned),
                message: message.filter(|_| !is_true),
                last_transition_time: Some(transition(view.previous, type_, status, now)),
                ..PodCondition::default()
            }
        })
        .map(|mut condition| {
            if condition.status == "True" && condition.type_ == "Initialized" && finished {
                condition.reason = Some("PodCompleted".to_owned());
            }
            condition
        })
        .chain(foreign_conditions(view))
        .collect()
}

/// Conditions of others (readiness gates) stay as they are.
fn foreign_conditions(view: View<'_>) -> Vec<PodCondition> {
    const OURS: [&str; 5] = ["PodReadyToStartContainers", "Initialized", "Ready", "ContainersReady", "PodScheduled"];
    let known = view.pod.status.iter().flat_map(|status| status.conditions.iter().flatten());
    known.filter(|condition| !OURS.contains(&condition.type_.as_str())).cloned().collect()
}

fn transition(previous: &PodStatus, type_: &str, status: &str, now: Timestamp) -> Time {
    previous
        .conditions
        .iter()
        .flatten()
        .find(|condition| condition.type_ == type_ && condition.status == status)
        .and_then(|condition| condition.last_transition_time.clone())
        .unwrap_or(Time(whole_second(now)))
}
