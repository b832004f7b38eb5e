//! What a pod needs next, and what its status is: a pure function of spec, observation and time.
//!
//! ```text
//!  (Pod, Observed, last PodStatus, node, now) ─► decide ─► Decision { actions, status, probes, wake_at }
//! ```
//!
//! It never acts and keeps nothing: the worker observes, asks, acts, observes again. Whatever order
//! observations come in, the decision depends on the last state only.
//! Source: Kubernetes 1.33 "Pod Lifecycle", kubelet's status manager and CrashLoopBackOff.

mod backoff;
mod observed;
mod status;

use std::collections::BTreeSet;
use std::net::IpAddr;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{Container, Pod, PodStatus};

pub use backoff::{next_streak, restart_delay};
pub use observed::{ImageState, Observed, ProbeKey, ProbeKind, PullFailure, PullPolicy, Sandbox, Stopping, Tally};

use crate::shim::state::Run;

/// kubelet's default for a pod that does not say.
const DEFAULT_GRACE_SECS: i64 = 30;
/// Between attempts to make a sandbox.
const SANDBOX_RETRY: SignedDuration = SignedDuration::from_secs(5);

/// What the node itself adds to a pod's status.
#[derive(Clone, Debug, Default)]
pub struct NodeFacts {
    pub node_name: String,
    pub host_ips: Vec<IpAddr>,
}

/// All that a decision depends on.
#[derive(Clone, Copy)]
pub struct View<'a> {
    pub pod: &'a Pod,
    pub observed: &'a Observed,
    /// The status known last; conditions keep their times from it.
    pub previous: &'a PodStatus,
    pub node: &'a NodeFacts,
}

/// Something to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Make sandbox and network.
    Sandbox,
    /// Fetch the image of a container.
    Pull { container: String, image: String, policy: PullPolicy },
    /// Run a container.
    Start { container: String, attempt: u32, streak: u32 },
    /// preStop, then the stop signal.
    Stop { container: String, run: String, grace_secs: i64, reason: String },
    /// SIGKILL.
    Kill { container: String, run: String },
    /// No container runs any more: take down network, sandbox and folder, and let the object go.
    TearDown,
}

/// What to do now, what to say, and when to look again if nothing happens.
#[derive(Clone, Debug, PartialEq)]
pub struct Decision {
    pub actions: Vec<Action>,
    pub status: PodStatus,
    /// Probes that should be running, by run.
    pub probes: BTreeSet<(ProbeKey, u32)>,
    pub wake_at: Option<Timestamp>,
}

/// Decides.
pub fn decide(view: View<'_>, now: Timestamp) -> Decision {
    let mut plan = Plan { view, now, actions: Vec::new(), wake_at: None };
    if view.is_ending() {
        plan.end();
    } else if !view.is_finished() {
        plan.advance();
    } else {
        plan.stop_leftovers();
    }
    let (actions, wake_at) = (plan.actions, plan.wake_at);
    Decision { status: status::compute(view, now), probes: view.wanted_probes(), actions, wake_at }
}

impl<'a> View<'a> {
    /// Deletion was asked for, or the object is gone already.
    pub fn is_ending(&self) -> bool {
        self.observed.gone || self.pod.metadata.deletion_timestamp.is_some()
    }

    /// Succeeded or Failed: nothing is started again.
    fn is_finished(&self) -> bool {
        matches!(self.previous.phase.as_deref(), Some("Succeeded" | "Failed"))
    }

    fn containers(&self) -> impl Iterator<Item = &'a Container> + use<'a> {
        self.pod.spec.iter().flat_map(|spec| spec.containers.iter())
    }

    fn init_containers(&self) -> impl Iterator<Item = &'a Container> + use<'a> {
        self.pod.spec.iter().flat_map(|spec| spec.init_containers.iter().flatten())
    }

    fn last_run(&self, name: &str) -> Option<&'a Run> {
        self.observed.runs.iter().rev().find(|run| run.name == name)
    }

    fn restart_policy(&self) -> &'a str {
        let spec = self.pod.spec.as_ref();
        spec.and_then(|spec| spec.restart_policy.as_deref()).unwrap_or("Always")
    }

    /// Whether a container whose last run ended is to run again.
    fn restarts(&self, container: &Container, exit_code: i32, is_init: bool) -> bool {
        if is_sidecar(container) {
            return true;
        }
        match self.restart_policy() {
            "Never" => false,
            "OnFailure" => exit_code != 0,
            _ => !is_init || exit_code != 0,
        }
    }

    /// A running container that has passed its startup probe, if it has one.
    fn is_started(&self, container: &Container, run: &Run) -> bool {
        run.ended.is_none()
            && (container.startup_probe.is_none() || self.tally(container, run, ProbeKind::Startup).passed)
    }

    fn is_ready(&self, container: &Container, run: &Run) -> bool {
        !self.observed.leaving
            && self.is_started(container, run)
            && (container.readiness_probe.is_none() || self.tally(container, run, ProbeKind::Readiness).passed)
    }

    fn tally(&self, container: &Container, run: &Run, kind: ProbeKind) -> Tally {
        let key = ProbeKey { container: container.name.clone(), kind };
        let known = self.observed.probes.get(&key).filter(|tally| tally.attempt == run.attempt);
        known.copied().unwrap_or_default()
    }

    /// The first init container that holds back those after it; `None`: all are through.
    fn waiting_init(&self) -> Option<&'a Container> {
        self.init_containers().find(|container| match self.last_run(&container.name) {
            None => true,
            Some(run) if is_sidecar(container) => !self.is_started(container, run),
            Some(run) => run.ended.as_ref().is_none_or(|ended| ended.exit_code != 0),
        })
    }

    fn wanted_probes(&self) -> BTreeSet<(ProbeKey, u32)> {
        let mut wanted = BTreeSet::new();
        for container in self.init_containers().chain(self.containers()) {
            let Some(run) = self.last_run(&container.name).filter(|run| run.ended.is_none()) else {
                continue;
            };
            let started = self.is_started(container, run);
            for (kind, probe) in [
                (ProbeKind::Startup, &container.startup_probe),
                (ProbeKind::Readiness, &container.readiness_probe),
                (ProbeKind::Liveness, &container.liveness_probe),
            ] {
                let its_time = started != (kind == ProbeKind::Startup);
                let is_stopping = self.observed.stopping.contains_key(&run.id);
                if probe.is_some() && its_time && !(is_stopping && kind != ProbeKind::Readiness) {
                    let container = container.name.clone();
                    wanted.insert((ProbeKey { container, kind }, run.attempt));
                }
            }
        }
        wanted
    }

    /// Seconds a container has between the stop signal and SIGKILL.
    fn grace_secs(&self) -> i64 {
        if self.observed.gone {
            return 0;
        }
        let spec = self.pod.spec.as_ref();
        let meta = &self.pod.metadata;
        let own = spec.and_then(|spec| spec.termination_grace_period_seconds);
        let asked = meta.deletion_timestamp.as_ref().and(meta.deletion_grace_period_seconds);
        asked.or(own).unwrap_or(DEFAULT_GRACE_SECS)
    }
}

/// An init container that stays. KEP-753.
fn is_sidecar(container: &Container) -> bool {
    container.restart_policy.as_deref() == Some("Always")
}

struct Plan<'a> {
    view: View<'a>,
    now: Timestamp,
    actions: Vec<Action>,
    wake_at: Option<Timestamp>,
}

impl<'a> Plan<'a> {
    fn wake(&mut self, at: Timestamp) {
        self.wake_at = Some(self.wake_at.map_or(at, |known| known.min(at)));
    }

    /// Stops what runs; when nothing does, takes the pod down.
    fn end(&mut self) {
        let running: Vec<&'a Run> = self.view.observed.runs.iter().filter(|run| run.ended.is_none()).collect();
        for run in &running {
            self.stop(run, self.view.grace_secs(), "the pod is deleted");
        }
        if running.is_empty() && !self.view.observed.torn_down {
            self.actions.push(Action::TearDown);
        }
    }

    /// A finished pod may still hold a sidecar.
    fn stop_leftovers(&mut self) {
        let running: Vec<&'a Run> = self.view.observed.runs.iter().filter(|run| run.ended.is_none()).collect();
        for run in running {
            self.stop(run, self.view.grace_secs(), "the pod has finished");
        }
    }

    fn stop(&mut self, run: &Run, grace_secs: i64, reason: &str) {
        let Some(stopping) = self.view.observed.stopping.get(&run.id) else {
            if grace_secs <= 0 {
                self.actions.push(Action::Kill { container: run.name.clone(), run: run.id.clone() });
                return;
            }
            self.actions.push(Action::Stop {
                container: run.name.clone(),
                run: run.id.clone(),
                grace_secs,
                reason: reason.to_owned(),
            });
            return;
        };
        // A later, shorter grace counts.
        let grace = grace_secs.min(stopping.grace_secs);
        let deadline = stopping.since + SignedDuration::from_secs(grace);
        if self.now >= deadline {
            self.actions.push(Action::Kill { container: run.name.clone(), run: run.id.clone() });
        } else {
            self.wake(deadline);
        }
    }

    fn advance(&mut self) {
        if self.view.observed.sandbox == Sandbox::Missing {
            match &self.view.observed.sandbox_failed {
                Some((at, _)) if self.now < *at + SANDBOX_RETRY => self.wake(*at + SANDBOX_RETRY),
                _ => self.actions.push(Action::Sandbox),
            }
            return;
        }
        for container in self.view.init_containers() {
            self.keep(container, true);
            let is_next = self.view.waiting_init().map(|waiting| &waiting.name);
            if is_next == Some(&container.name) {
                return;
            }
        }
        for container in self.view.containers() {
            self.keep(container, false);
        }
    }

    /// One container: start it, restart it, or stop it if it is not alive.
    fn keep(&mut self, container: &Container, is_init: bool) {
        let Some(run) = self.view.last_run(&container.name) else {
            return self.start(container, 0, 0);
        };
        let Some(ended) = &run.ended else {
            return self.watch_health(container, run);
        };
        if !self.view.restarts(container, ended.exit_code, is_init) {
            return;
        }
        let ran = ended.at.duration_since(run.started_at);
        let due = ended.at + restart_delay(run.streak, ran);
        if self.now < due {
            return self.wake(due);
        }
        self.start(container, run.attempt + 1, next_streak(run.streak, ran));
    }

    fn watch_health(&mut self, container: &Container, run: &Run) {
        for (kind, probe) in
            [(ProbeKind::Startup, &container.startup_probe), (ProbeKind::Liveness, &container.liveness_probe)]
        {
            if let Some(probe) = probe.as_ref().filter(|_| self.view.tally(container, run, kind).failed) {
                let grace = probe.termination_grace_period_seconds.unwrap_or_else(|| self.view.grace_secs());
                let reason = format!("Container {} failed {} probe, will be restarted", container.name, kind.as_str());
                return self.stop(run, grace, &reason);
            }
        }
    }

    fn start(&mut self, container: &Container, attempt: u32, streak: u32) {
        let observed = self.view.observed;
        if let Some((at, _)) = observed.config_failed.get(&container.name) {
            let retry = *at + SANDBOX_RETRY;
            if self.now < retry {
                return self.wake(retry);
            }
        }
        let image = container.image.clone().unwrap_or_default();
        let policy = PullPolicy::of(container);
        let name = container.name.clone();
        match observed.images.get(&name) {
            Some(ImageState::Ready { .. }) => self.actions.push(Action::Start { container: name, attempt, streak }),
            Some(ImageState::Pulling) => {}
            Some(state @ ImageState::Failed { retry_at, .. }) if self.now < *retry_at => {
                // The reason that is shown changes on the way.
                self.wake(state.backs_off_at().filter(|at| self.now < *at).unwrap_or(*retry_at));
            }
            Some(ImageState::Failed { .. }) | None => {
                self.actions.push(Action::Pull { container: name, image, policy });
            }
        }
    }
}

#[cfg(test)]
mod tests;
