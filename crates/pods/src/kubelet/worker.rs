//! One pod's worker: takes messages, asks `lifecycle::decide`, does what it says.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Pod, PodStatus};
use tokio::sync::{mpsc, watch};

use super::probes::{Context, Probes, probe_of};
use super::publisher::{Publisher, finalize};
use super::pulls::{Wish, obtain};
use super::{Shared, departure, events, sandbox};
use crate::etc_files::hostname;
use crate::ident::PodIdent;
use crate::image::{Image, ImageError};
use crate::lifecycle::{
    Action, Decision, ImageState, Observed, ProbeKey, ProbeKind, PullFailure, PullPolicy, Sandbox, View, decide,
};
use crate::shim::client::Shim;
use crate::shim::state::{Ended, PodState, ProcessId};

/// After SIGKILL the end is a matter of milliseconds; look again if it was not heard of.
const KILL_RECHECK: Duration = Duration::from_secs(1);

/// What a worker is told.
pub(super) enum Message {
    Pod(Box<Pod>),
    Gone,
    /// The pod leaves its Services.
    Leaving,
    Image {
        container: String,
        result: Box<Result<Image, ImageError>>,
    },
    Probe {
        key: ProbeKey,
        attempt: u32,
        result: Result<(), String>,
    },
}

pub(super) struct Worker {
    pub(super) shared: Arc<Shared>,
    pub(super) ident: PodIdent,
    pub(super) dir: PathBuf,
    pub(super) pod: Pod,
    pub(super) observed: Observed,
    pub(super) shim: Option<Shim>,
    pub(super) images: BTreeMap<String, Image>,
    pub(super) inbox: mpsc::UnboundedSender<Message>,
    receiver: mpsc::UnboundedReceiver<Message>,
    state: Option<watch::Receiver<PodState>>,
    /// The newest state taken.
    heard: Option<(ProcessId, u64)>,
    previous: PodStatus,
    published: PodStatus,
    publisher: Publisher,
    probes: Probes,
    /// Waiting reasons an event told of, by container.
    told: BTreeSet<(String, String)>,
    /// Failed pulls in a row, by container.
    pull_failures: BTreeMap<String, u32>,
    /// Under way once the pod is deleted and a container is to stop.
    pub(super) departure: Option<departure::Pending>,
}

impl Worker {
    pub(super) fn new(
        shared: Arc<Shared>,
        pod: Pod,
        inbox: mpsc::UnboundedSender<Message>,
        receiver: mpsc::UnboundedReceiver<Message>,
    ) -> Self {
        let ident = PodIdent::of(&pod);
        let previous = pod.status.clone().unwrap_or_default();
        Self {
            dir: shared.config.state_dir.join(&ident.uid),
            publisher: Publisher::start(shared.api.clone(), ident.clone()),
            shared,
            ident,
            observed: Observed::default(),
            shim: None,
            images: BTreeMap::new(),
            inbox,
            receiver,
            state: None,
            heard: None,
            published: previous.clone(),
            previous,
            pod,
            probes: Probes::default(),
            told: BTreeSet::new(),
            pull_failures: BTreeMap::new(),
            departure: None,
        }
    }

    /// Until the pod is taken down.
    pub(super) async fn run(mut self) {
        self.find_running().await;
        loop {
            let wait = self.settle().await;
            if self.observed.torn_down {
                return self.end().await;
            }
            self.hear(wait).await;
        }
    }

    /// An earlier agent's pod goes on as it is; what only half is there is taken down first.
    async fn find_running(&mut self) {
        if !self.dir.exists() {
            return;
        }
        match sandbox::find(&self.dir).await {
            Some((shim, state)) if state.sandbox.is_some() && sandbox::noted_ips(&state).is_some() => {
                self.adopt_shim(shim, &state);
            }
            found => {
                let shim = found.map(|(shim, _)| shim);
                self.observed.runs = PodState::load(&self.dir).map(|state| state.runs).unwrap_or_default();
                self.lose_sandbox(shim).await;
            }
        }
    }

    fn adopt_shim(&mut self, shim: Shim, state: &PodState) {
        self.state = Some(shim.watch());
        self.shim = Some(shim);
        self.take_state(state);
    }

    fn is_old(&self, state: &PodState) -> bool {
        self.heard.is_some_and(|(shim, generation)| shim == state.shim && generation > state.generation)
    }

    /// Takes a state unless a newer one of the same shim was taken before: asked for and told states overtake
    /// one another.
    pub(super) fn take_state(&mut self, state: &PodState) {
        if self.is_old(state) {
            return;
        }
        self.heard = Some((state.shim, state.generation));
        self.observed.runs = state.runs.clone();
        self.observed.sandbox = match (state.sandbox, sandbox::noted_ips(state)) {
            (Some(_), Some(ips)) => Sandbox::Ready { ips },
            _ => Sandbox::Missing,
        };
        let runs = &self.observed.runs;
        let running = |id: &String| runs.iter().any(|run| run.id == *id && run.ended.is_none());
        self.observed.stopping.retain(|id, _| running(id));
    }

    /// Decides and acts until there is nothing to do now; returns how long to wait at most.
    async fn settle(&mut self) -> Option<Duration> {
        loop {
            let node = self.shared.node_facts();
            let now = Timestamp::now();
            let view = View { pod: &self.pod, observed: &self.observed, previous: &self.previous, node: &node };
            let decision = decide(view, now);
            self.publish(&decision.status);
            self.set_probes(&decision);
            let Decision { actions, status, wake_at, .. } = decision;
            self.previous = status;
            let only_kills = actions.iter().all(|action| matches!(action, Action::Kill { .. }));
            let has_kills = !actions.is_empty();
            for action in actions {
                self.act(action).await;
            }
            if self.observed.torn_down {
                return None;
            }
            if only_kills {
                let until = wake_at.map(|at| at.duration_since(Timestamp::now()).try_into().unwrap_or_default());
                return match (until, has_kills) {
                    (until, false) => until,
                    (until, true) => Some(until.map_or(KILL_RECHECK, |until: Duration| until.min(KILL_RECHECK))),
                };
            }
        }
    }

    fn publish(&mut self, status: &PodStatus) {
        if *status != self.published {
            self.published = status.clone();
            self.publisher.send(status.clone());
            if let Some(handle) = self.shared.lock().get_mut(&self.ident.uid) {
                handle.status = status.clone();
            }
        }
        self.tell_waiting(status);
    }

    /// Told once when a container begins to wait for a bad reason.
    fn tell_waiting(&mut self, status: &PodStatus) {
        let statuses = status.init_container_statuses.iter().chain(&status.container_statuses).flatten();
        let mut now = BTreeSet::new();
        for container in statuses {
            let waiting = container.state.as_ref().and_then(|state| state.waiting.as_ref());
            let Some((reason, message)) =
                waiting.and_then(|waiting| Some((waiting.reason.clone()?, waiting.message.clone()?)))
            else {
                continue;
            };
            let key = (container.name.clone(), reason);
            if !self.told.contains(&key) {
                for (type_, reason, message) in events::of_waiting(&key.1, &container.image, message) {
                    self.shared.event(&self.ident, type_, reason, &message);
                }
            }
            now.insert(key);
        }
        self.told = now;
    }

    fn set_probes(&mut self, decision: &Decision) {
        let spec = self.pod.spec.as_ref();
        let inits = spec.and_then(|spec| spec.init_containers.as_ref()).into_iter().flatten();
        let pod_ip = match &self.observed.sandbox {
            Sandbox::Ready { ips } => ips.first().copied(),
            Sandbox::Missing => None,
        };
        let runs = self.observed.runs.iter();
        let context = Context {
            dir: &self.dir,
            containers: inits.chain(spec.iter().flat_map(|spec| &spec.containers)).collect(),
            pod_ip,
            inbox: &self.inbox,
            started: runs.map(|run| ((run.name.clone(), run.attempt), run.started_at)).collect(),
        };
        self.probes.set(&decision.probes, &context);
    }

    async fn act(&mut self, action: Action) {
        match action {
            Action::Sandbox => self.make_sandbox().await,
            Action::Pull { container, image, policy } => self.pull(container, image, policy),
            Action::Start { container, attempt, streak } => self.start_container(&container, attempt, streak).await,
            Action::Stop { container, run, grace_secs, reason } => self.stop(&container, run, grace_secs, &reason),
            Action::Kill { container, .. } => self.kill(&container).await,
            Action::TearDown => {
                self.flush().await;
                sandbox::tear_down(&self.shared, &self.ident, self.shim.take()).await;
                self.state = None;
                self.observed.torn_down = true;
            }
        }
    }

    async fn make_sandbox(&mut self) {
        let spec = self.pod.spec.as_ref();
        let on_host = spec.and_then(|spec| spec.host_network) == Some(true);
        let hostname = (!on_host).then(|| hostname(&self.pod));
        let runs = self.observed.runs.clone();
        let made = sandbox::make(&self.shared, &self.ident, &mut self.shim, hostname, runs).await;
        self.state = self.shim.as_ref().map(Shim::watch);
        match made {
            Ok(state) => {
                self.observed.sandbox_failed = None;
                self.take_state(&state);
            }
            Err(message) => {
                self.shared.event(&self.ident, "Warning", "FailedCreatePodSandBox", &message);
                tracing::warn!(pod = %self.ident, message, "no sandbox");
                self.observed.sandbox_failed = Some((Timestamp::now(), message));
                // A shim that cannot make one is replaced, not asked again.
                sandbox::end_processes(&self.dir, self.shim.take()).await;
                self.state = None;
            }
        }
    }

    fn pull(&mut self, container: String, image: String, policy: PullPolicy) {
        self.observed.images.insert(container.clone(), ImageState::Pulling);
        let wish = Wish::new(&self.ident, &self.pod, image, policy);
        let (shared, inbox) = (self.shared.clone(), self.inbox.clone());
        tokio::spawn(async move {
            let result = obtain(shared, wish).await;
            let _ = inbox.send(Message::Image { container, result: Box::new(result) });
        });
    }

    /// Waits for anything to happen, and takes all that has.
    async fn hear(&mut self, wait: Option<Duration>) {
        let pause = async {
            match wait {
                Some(wait) => tokio::time::sleep(wait).await,
                None => std::future::pending().await,
            }
        };
        let changed = async {
            match &mut self.state {
                Some(state) => state.changed().await.is_ok(),
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            Some(message) = self.receiver.recv() => self.take(message),
            is_alive = changed => self.shim_spoke(is_alive).await,
            () = pause => {}
        }
        while let Ok(message) = self.receiver.try_recv() {
            self.take(message);
        }
    }

    async fn shim_spoke(&mut self, is_alive: bool) {
        if !is_alive {
            // The connection may have ended without the shim.
            if let Some((shim, state)) = sandbox::find(&self.dir).await.filter(|(_, state)| state.sandbox.is_some()) {
                return self.adopt_shim(shim, &state);
            }
        }
        let state = self.state.as_mut().map(|state| state.borrow_and_update().clone());
        match state {
            // As the first one a watch tells, from before the sandbox was made.
            Some(state) if is_alive && self.is_old(&state) => {}
            Some(state) if is_alive && (state.sandbox.is_some() || self.observed.sandbox == Sandbox::Missing) => {
                self.take_state(&state);
            }
            _ => {
                tracing::warn!(pod = %self.ident, "shim or sandbox ended; the pod is made anew");
                self.shared.event(
                    &self.ident,
                    "Normal",
                    "SandboxChanged",
                    "Pod sandbox changed, it will be killed and re-created.",
                );
                let shim = self.shim.take();
                self.lose_sandbox(shim).await;
            }
        }
    }

    /// The sandbox is gone: all containers with it. Their runs end here, for nobody saw them end.
    pub(super) async fn lose_sandbox(&mut self, shim: Option<Shim>) {
        self.state = None;
        sandbox::end_processes(&self.dir, shim).await;
        let _ = self.shared.network.detach(&self.ident).await;
        let _ = std::fs::remove_dir_all(self.dir.join("bundles"));
        let _ = std::fs::remove_dir_all(self.dir.join("oci"));
        let now = Timestamp::now();
        for run in self.observed.runs.iter_mut().filter(|run| run.ended.is_none()) {
            run.ended = Some(Ended {
                at: now,
                exit_code: 128 + libc::SIGKILL,
                signal: Some(libc::SIGKILL),
                reason: "Error".to_owned(),
                message: Some("the pod's sandbox ended".to_owned()),
            });
        }
        self.observed.stopping.clear();
        self.observed.sandbox = Sandbox::Missing;
    }

    fn take(&mut self, message: Message) {
        match message {
            Message::Pod(pod) => self.pod = *pod,
            Message::Gone => self.observed.gone = true,
            Message::Leaving => self.observed.leaving = true,
            Message::Image { container, result } => self.take_image(container, *result),
            Message::Probe { key, attempt, result } => self.take_probe(key, attempt, result),
        }
    }

    fn take_image(&mut self, container: String, result: Result<Image, ImageError>) {
        let state = match result {
            Ok(image) => {
                let id = image.id.clone();
                self.pull_failures.remove(&container);
                self.images.insert(container.clone(), image);
                ImageState::Ready { id }
            }
            Err(error) => {
                let why = match error {
                    ImageError::Name { .. } => PullFailure::Name,
                    ImageError::NeverPull(_) => PullFailure::Never,
                    _ => PullFailure::Pull,
                };
                let attempts = self.pull_failures.entry(container.clone()).or_insert(0);
                *attempts += 1;
                ImageState::failed_after(*attempts, error.to_string(), why, Timestamp::now())
            }
        };
        self.observed.images.insert(container, state);
    }

    fn take_probe(&mut self, key: ProbeKey, attempt: u32, result: Result<(), String>) {
        let spec = self.pod.spec.as_ref();
        let inits = spec.and_then(|spec| spec.init_containers.as_ref()).into_iter().flatten();
        let mut containers = inits.chain(spec.iter().flat_map(|spec| &spec.containers));
        let container = containers.find(|container| container.name == key.container);
        let Some(probe) = container.and_then(|container| probe_of(container, key.kind)) else {
            return;
        };
        let before = self.observed.probes.get(&key).copied().unwrap_or_default();
        let after = before.count(attempt, result.is_ok(), probe);
        // The first failure in a row and the one that counts; the others say nothing new.
        let is_news = after.failures == 1 || after.failed && !before.failed;
        if let Some(reason) = result.err().filter(|_| is_news) {
            let kind = match key.kind {
                ProbeKind::Startup => "Startup",
                ProbeKind::Readiness => "Readiness",
                ProbeKind::Liveness => "Liveness",
            };
            self.shared.event(&self.ident, "Warning", "Unhealthy", &format!("{kind} probe failed: {reason}"));
        }
        self.observed.probes.insert(key, after);
    }

    async fn end(self) {
        let Self { shared, ident, observed, previous, publisher, probes, .. } = self;
        drop(probes);
        publisher.stop().await;
        if !observed.gone {
            finalize(&shared.api, &ident, previous).await;
        }
        shared.lock().remove(&ident.uid);
    }
}
