//! The loop: watches in, tasks through the queue, writes out. The only room with a clock.
//!
//! All of it is one future: dropping it ends every watch and every write under way.

use std::collections::{BTreeSet, HashMap};
use std::time::{Duration, Instant};

use futures::future::BoxFuture;
use futures::stream::{BoxStream, FuturesUnordered, SelectAll};
use futures::{FutureExt, StreamExt};
use ipnet::IpNet;
use jiff::Timestamp;
use kube::Client;
use kube::api::{Api, ApiResource, DynamicObject};
use kube::core::GroupVersionKind;
use kube::runtime::WatchStreamExt;
use kube::runtime::utils::Backoff;
use kube::runtime::watcher::{self, watcher};
use tokio::sync::mpsc;

use crate::client::{self, Outcome, WriteError};
use crate::object::{Kind, Object, to_value};
use crate::plan::{Action, Note, Plan, Task, Write};
use crate::pod;
use crate::queue::Queue;
use crate::world::World;
use crate::{Config, reconcile};

/// Tasks whose writes are under way at once.
const PARALLEL: usize = 32;
/// Events waiting to be written; beyond that they are dropped: they are news, not state.
const NOTES_KEPT: usize = 4096;
/// After a write that was not done because its guard lives: look again.
const SPARED_RETRY: Duration = Duration::from_secs(30);

/// What makes it impossible to start. Once started, nothing ends the controllers but being dropped.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    #[error(
        "the node block length /{length} does not fit into the pod range {range}; \
         choose a longer one or a larger range"
    )]
    BlockTooLarge { range: IpNet, length: u8 },
    #[error("{count} pod ranges of one address family; give one per family at most")]
    TwoRanges { count: usize },
}

/// Runs all controllers until the future is dropped. Survives restarts of the API server.
pub fn run(client: Client, config: Config) -> BoxFuture<'static, Result<(), RunError>> {
    async move {
        check(&config)?;
        let (notes, waiting) = mpsc::channel(NOTES_KEPT);
        let told = tell_all(client.clone(), waiting);
        let engine = Engine::new(client, config, notes);
        futures::future::join(engine.run(), told).await;
        Ok(())
    }
    .boxed()
}

fn check(config: &Config) -> Result<(), RunError> {
    for range in &config.cluster_cidrs {
        let length = config.block_length(*range);
        if length < range.prefix_len() || length > range.max_prefix_len() {
            return Err(RunError::BlockTooLarge { range: *range, length });
        }
    }
    let v4 = |range: &&IpNet| matches!(range, IpNet::V4(_));
    let count = config.cluster_cidrs.iter().filter(v4).count();
    let count = count.max(config.cluster_cidrs.len() - count);
    match count > 1 {
        true => Err(RunError::TwoRanges { count }),
        false => Ok(()),
    }
}

/// What a watch brings.
enum Feed {
    Begin(Kind),
    End(Kind),
    Set(Kind, Box<DynamicObject>),
    Gone(Kind, Box<DynamicObject>),
    Broken(Kind, Box<watcher::Error>),
}

/// What became of a plan.
struct Finished {
    task: Task,
    outcomes: Vec<Outcome>,
    wake_at: Option<Timestamp>,
    error: Option<WriteError>,
}

struct Engine {
    client: Client,
    config: Config,
    world: World,
    queue: Queue,
    synced: BTreeSet<Kind>,
    broken: BTreeSet<Kind>,
    /// Pods that are being bound, as they were before.
    binding: HashMap<Task, Object>,
    running: FuturesUnordered<BoxFuture<'static, Finished>>,
    notes: mpsc::Sender<Note>,
}

impl Engine {
    fn new(client: Client, config: Config, notes: mpsc::Sender<Note>) -> Self {
        Engine {
            client,
            config,
            world: World::default(),
            queue: Queue::default(),
            synced: BTreeSet::new(),
            broken: BTreeSet::new(),
            binding: HashMap::new(),
            running: FuturesUnordered::new(),
            notes,
        }
    }

    async fn run(mut self) {
        let mut feeds: SelectAll<BoxStream<'static, Feed>> =
            Kind::ALL.into_iter().map(|kind| watch(&self.client, kind)).collect();
        loop {
            let pause = self.pause();
            tokio::select! {
                Some(feed) = feeds.next() => self.take(feed),
                Some(finished) = self.running.next(), if !self.running.is_empty() => self.finish(finished),
                () = tokio::time::sleep(pause) => {}
            }
            while let Some(Some(feed)) = feeds.next().now_or_never() {
                self.take(feed);
            }
            self.start();
        }
    }

    fn is_synced(&self) -> bool {
        self.synced.len() == Kind::ALL.len()
    }

    /// Time to the next timer; an hour stands for "none".
    fn pause(&self) -> Duration {
        let deadline = self.queue.next_deadline().filter(|_| self.is_synced());
        let wait = deadline.map(|at| at.duration_since(Timestamp::now()));
        match wait {
            None => Duration::from_secs(3600),
            Some(wait) => Duration::try_from(wait).unwrap_or(Duration::ZERO),
        }
    }

    fn take(&mut self, feed: Feed) {
        let now = Timestamp::now();
        let touched = match feed {
            Feed::Begin(kind) => {
                self.world.begin_list(kind);
                return;
            }
            Feed::Set(kind, object) => match read(kind, *object) {
                Some(object) => self.world.set(object, now),
                None => return,
            },
            Feed::Gone(kind, object) => match read(kind, *object) {
                Some(object) => self.world.remove(&object.id(), object.uid()),
                None => return,
            },
            Feed::End(kind) => {
                let touched = self.world.end_list(kind);
                self.mend(kind, now);
                touched
            }
            Feed::Broken(kind, error) => return self.mark_broken(kind, &error),
        };
        self.call(touched);
    }

    fn call(&mut self, tasks: BTreeSet<Task>) {
        if self.is_synced() {
            tasks.into_iter().for_each(|task| self.queue.call(task));
        }
    }

    /// A list is complete. When it is the last of all kinds, everything is looked at once.
    fn mend(&mut self, kind: Kind, now: Timestamp) {
        if kind == Kind::Lease {
            self.world.forgive_silence(now); // renewals were missed while the watch was down
        }
        if self.broken.remove(&kind) {
            tracing::info!(kind = kind.info().plural, "watch works again");
        }
        if self.synced.insert(kind) && self.is_synced() {
            let tasks = self.world.all_tasks();
            tracing::info!(tasks = tasks.len(), "controllers know the cluster and start");
            self.call(tasks);
        }
    }

    fn mark_broken(&mut self, kind: Kind, error: &watcher::Error) {
        let plural = kind.info().plural;
        if self.broken.insert(kind) {
            tracing::warn!(kind = plural, %error, "watch broke; it is tried again");
        } else {
            tracing::debug!(kind = plural, %error, "watch is still broken");
        }
    }

    fn start(&mut self) {
        if !self.is_synced() {
            return;
        }
        let now = Timestamp::now();
        self.notice_gap(now);
        self.queue.tick(now);
        while self.running.len() < PARALLEL
            && let Some(task) = self.queue.next()
        {
            let plan = reconcile(&self.world, &self.config, &task, now);
            if plan.writes.is_empty() {
                self.queue.done(task, plan.wake_at);
                continue;
            }
            self.assume_bound(&task, &plan.writes);
            let (client, notes) = (self.client.clone(), self.notes.clone());
            let finished = perform_all(client, notes, task, plan);
            self.running.push(finished.boxed());
        }
    }

    /// A timer that goes off far too late: the machine slept or starved, and the nodes with it.
    fn notice_gap(&mut self, now: Timestamp) {
        let late = self.queue.next_deadline().map(|at| now.duration_since(at));
        let late = late.and_then(|late| Duration::try_from(late).ok());
        if late.is_some_and(|late| late > self.config.node_monitor_grace / 2) {
            tracing::info!(?late, "the controllers were held up; silent nodes get their grace anew");
            self.world.forgive_silence(now);
        }
    }

    /// A pod that is being bound counts on its node at once: the next one goes elsewhere.
    fn assume_bound(&mut self, task: &Task, writes: &[Write]) {
        for write in writes {
            let Action::Bind { pod, node, .. } = &write.action else {
                continue;
            };
            let Some(before) = self.world.object(pod).cloned() else {
                continue;
            };
            let touched = self.world.assume(with_node(&before, Some(node)));
            self.binding.insert(task.clone(), before);
            self.call(touched);
        }
    }

    fn finish(&mut self, finished: Finished) {
        let now = Timestamp::now();
        let before = self.binding.remove(&finished.task);
        let mut wake_at = finished.wake_at;
        for outcome in finished.outcomes {
            let touched = match outcome {
                Outcome::Changed(object) => self.world.set(object, now),
                Outcome::Removed { id, uid } => self.world.remove(&id, &uid),
                Outcome::Spared => {
                    let again = now + SPARED_RETRY;
                    wake_at = Some(wake_at.map_or(again, |at| at.min(again)));
                    BTreeSet::new()
                }
                Outcome::Done => BTreeSet::new(),
            };
            self.call(touched);
        }
        let Some(error) = finished.error else {
            self.queue.done(finished.task, wake_at);
            return;
        };
        if let Some(before) = before {
            self.unbind(before);
        }
        match error.is_expected() {
            true => tracing::debug!(task = ?finished.task, %error, "write was overtaken"),
            false => tracing::warn!(task = ?finished.task, %error, "write failed; tried again"),
        }
        self.queue.failed(finished.task, now);
    }

    /// The binding failed: the pod waits again, unless the server has said more since.
    fn unbind(&mut self, before: Object) {
        let known = self.world.object(&before.id());
        if known.is_some_and(|known| known.revision() == before.revision()) {
            let touched = self.world.assume(before);
            self.call(touched);
        }
    }
}

fn with_node(object: &Object, node: Option<&str>) -> Object {
    let Object::Pod(pod) = object else {
        return object.clone();
    };
    let mut bound = k8s_openapi::api::core::v1::Pod::clone(pod);
    debug_assert!(pod::node_name(pod).is_none());
    bound.spec.get_or_insert_default().node_name = node.map(str::to_owned);
    crate::object::Stored::wrap(bound)
}

async fn perform_all(client: Client, notes: mpsc::Sender<Note>, task: Task, plan: Plan) -> Finished {
    let mut finished = Finished { task, outcomes: Vec::new(), wake_at: plan.wake_at, error: None };
    for write in plan.writes {
        match client::perform(&client, write.action).await {
            Ok(outcome) => {
                tell_success(&notes, write.on_success, &outcome);
                finished.outcomes.push(outcome);
            }
            Err(error) => {
                if !error.is_expected() {
                    tell_failure(&notes, write.on_failure, &error);
                }
                finished.error = Some(error);
                break;
            }
        }
    }
    finished
}

fn tell_success(notes: &mpsc::Sender<Note>, note: Option<Note>, outcome: &Outcome) {
    let Some(mut note) = note.filter(|_| !matches!(outcome, Outcome::Spared)) else {
        return;
    };
    if let Outcome::Changed(object) = outcome {
        note.message = note.message.replace("{name}", &object.id().name);
    }
    queue_note(notes, note);
}

fn tell_failure(notes: &mpsc::Sender<Note>, note: Option<Note>, error: &WriteError) {
    if let Some(mut note) = note {
        note.message = note.message.replace("{error}", &error.message());
        queue_note(notes, note);
    }
}

fn queue_note(notes: &mpsc::Sender<Note>, note: Note) {
    if let Err(error) = notes.try_send(note) {
        tracing::debug!(%error, "an Event was dropped");
    }
}

async fn tell_all(client: Client, mut notes: mpsc::Receiver<Note>) {
    while let Some(note) = notes.recv().await {
        if let Err(error) = client::tell(&client, note, Timestamp::now()).await {
            tracing::debug!(%error, "an Event could not be written");
        }
    }
}

fn watch(client: &Client, kind: Kind) -> BoxStream<'static, Feed> {
    let info = kind.info();
    let kind_name = GroupVersionKind::gvk(info.group, info.version, info.kind);
    let resource = ApiResource::from_gvk_with_plural(&kind_name, info.plural);
    let api: Api<DynamicObject> = Api::all_with(client.clone(), &resource);
    watcher(api, watcher::Config::default())
        .backoff(Pause::default())
        .map(move |event| match event {
            Ok(watcher::Event::Init) => Feed::Begin(kind),
            Ok(watcher::Event::InitDone) => Feed::End(kind),
            Ok(watcher::Event::InitApply(object) | watcher::Event::Apply(object)) => Feed::Set(kind, Box::new(object)),
            Ok(watcher::Event::Delete(object)) => Feed::Gone(kind, Box::new(object)),
            Err(error) => Feed::Broken(kind, Box::new(error)),
        })
        .boxed()
}

fn read(kind: Kind, object: DynamicObject) -> Option<Object> {
    let mut value = object.data;
    value["metadata"] = to_value(&object.metadata);
    match Object::parse(kind, value) {
        Ok(object) => Some(object),
        Err(error) => {
            let name = object.metadata.name;
            tracing::warn!(kind = kind.info().kind, name, %error, "object cannot be read; it is left alone");
            None
        }
    }
}

/// 50 ms, doubling, a second at most; from the start again after a while without a failure.
/// A restarted server is found at once.
#[derive(Default)]
struct Pause {
    tries: u32,
    last: Option<Instant>,
}

const FORGIVEN_AFTER: Duration = Duration::from_secs(5);

impl Iterator for Pause {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        let last = self.last.replace(Instant::now());
        if last.is_none_or(|last| last.elapsed() > FORGIVEN_AFTER) {
            self.tries = 0;
        }
        let pause = Duration::from_millis(50 << self.tries.min(5));
        self.tries += 1;
        Some(pause.min(Duration::from_secs(1)))
    }
}

impl Backoff for Pause {
    /// Called after any good event, and "a list begins" is one even if the list then fails: so
    /// only time forgives.
    fn reset(&mut self) {}
}
