//! A small API server in memory, and the controllers on top of it, for tests.
//!
//! It does to objects what the real one does: names, uids, revisions, generation, the status
//! apart, graceful deletion, finalizers. What it tells, it tells per kind in order; how the kinds
//! interleave and whether something is told twice is up to the test.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::Pod;
use serde_json::{Value, json};

use crate::object::{Id, Kind, Object, Stored};
use crate::plan::{Action, Task, Write};
use crate::world::World;
use crate::{Config, reconcile};

#[derive(Clone, Debug)]
pub enum News {
    Set(Object),
    Gone(Id, String),
}

/// The server.
#[derive(Default)]
pub struct Api {
    pub objects: BTreeMap<Id, Value>,
    revision: u64,
    pub news: BTreeMap<Kind, VecDeque<News>>,
}

impl Api {
    pub fn create(&mut self, kind: Kind, mut body: Value, now: Timestamp) -> Result<Id, String> {
        self.revision += 1;
        let number = self.revision;
        let meta = body["metadata"].as_object_mut().ok_or("no metadata")?;
        if !meta.contains_key("name") {
            let prefix = meta["generateName"].as_str().ok_or("no name")?.to_owned();
            meta.insert("name".into(), json!(format!("{prefix}{number:05}")));
        }
        meta.insert("uid".into(), json!(format!("uid-{number}")));
        meta.insert("generation".into(), json!(1));
        meta.insert("creationTimestamp".into(), json!(now.to_string()));
        let object = Object::parse(kind, body.clone()).map_err(|error| error.to_string())?;
        let id = object.id();
        if self.objects.contains_key(&id) {
            return Err(format!("{id} already exists"));
        }
        if self.is_leaving(&id.namespace) {
            return Err(format!("namespace {} is being terminated", id.namespace));
        }
        self.put(id.clone(), body);
        Ok(id)
    }

    fn is_leaving(&self, namespace: &str) -> bool {
        let id = Id::new(Kind::Namespace, "", namespace);
        let namespace = self.objects.get(&id);
        namespace.is_some_and(|one| !one["metadata"]["deletionTimestamp"].is_null())
    }

    fn put(&mut self, id: Id, mut body: Value) {
        self.revision += 1;
        body["metadata"]["resourceVersion"] = json!(self.revision.to_string());
        let finalizers = body["metadata"]["finalizers"].as_array();
        let is_held = finalizers.is_some_and(|all| !all.is_empty())
            || body["spec"]["finalizers"].as_array().is_some_and(|all| !all.is_empty())
            || body["metadata"]["deletionGracePeriodSeconds"].as_i64().unwrap_or(0) > 0;
        if !body["metadata"]["deletionTimestamp"].is_null() && !is_held {
            return self.drop_object(&id, body);
        }
        let object = Object::parse(id.kind, body.clone()).expect("it was read before");
        self.objects.insert(id.clone(), body);
        self.news.entry(id.kind).or_default().push_back(News::Set(object));
    }

    fn drop_object(&mut self, id: &Id, body: Value) {
        self.objects.remove(id);
        let uid = body["metadata"]["uid"].as_str().unwrap_or_default().to_owned();
        let news = self.news.entry(id.kind).or_default();
        news.push_back(News::Gone(id.clone(), uid));
    }

    /// Changes an object in place; a change of `spec` counts a generation.
    pub fn edit(&mut self, id: &Id, change: impl FnOnce(&mut Value)) -> Result<(), String> {
        let old = self.objects.get(id).ok_or(format!("{id} not found"))?.clone();
        let mut new = old.clone();
        change(&mut new);
        if new["spec"] != old["spec"] {
            let generation = old["metadata"]["generation"].as_i64().unwrap_or(0);
            new["metadata"]["generation"] = json!(generation + 1);
        }
        if new != old {
            self.put(id.clone(), new);
        }
        Ok(())
    }

    pub fn delete(&mut self, id: &Id, policy: &str, grace: Option<u32>, now: Timestamp) {
        let Some(mut body) = self.objects.get(id).cloned() else {
            return;
        };
        let is_placed = id.kind == Kind::Pod && body["spec"]["nodeName"].is_string();
        let finalizer = match policy {
            "Foreground" => Some(crate::garbage::FOREGROUND),
            "Orphan" => Some(crate::garbage::ORPHAN),
            _ => None,
        };
        let finalizers = &mut body["metadata"]["finalizers"];
        if let Some(name) = finalizer {
            let mut all = finalizers.as_array().cloned().unwrap_or_default();
            all.push(json!(name));
            *finalizers = json!(all);
        }
        if body["metadata"]["deletionTimestamp"].is_null() {
            body["metadata"]["deletionTimestamp"] = json!(now.to_string());
        }
        let grace = grace.unwrap_or(if is_placed { 30 } else { 0 });
        body["metadata"]["deletionGracePeriodSeconds"] = json!(grace);
        self.put(id.clone(), body);
    }

    /// What the controllers asked for; the answer is the object, if it still is.
    fn perform(&mut self, action: Action, now: Timestamp) -> Result<Option<Id>, String> {
        match action {
            Action::Create(object) => self.create(object.kind(), object.to_json(), now).map(Some),
            Action::Replace(object) => self.replace(&object, |old, new| {
                let status = old["status"].take();
                *old = new;
                if !status.is_null() {
                    old["status"] = status;
                }
            }),
            Action::ReplaceStatus(object) => self.replace(&object, |old, mut new| {
                old["status"] = new["status"].take();
            }),
            Action::Patch { id, body } => {
                self.check(&id, &body["metadata"])?;
                self.edit(&id, |object| merge(object, &body))?;
                Ok(Some(id))
            }
            Action::Bind { pod, uid, node } => {
                self.check(&pod, &json!({"uid": uid}))?;
                if self.objects[&pod]["spec"]["nodeName"].is_string() {
                    return Err(format!("{pod} is bound already"));
                }
                self.edit(&pod, |object| object["spec"]["nodeName"] = json!(node))?;
                Ok(Some(pod))
            }
            Action::Delete(deletion) => {
                self.check(&deletion.id, &json!({"uid": deletion.uid}))?;
                let is_held = deletion.unless_alive.iter().any(|alive| {
                    let known = self.objects.get(&alive.id);
                    known.is_some_and(|known| {
                        let uid = &known["metadata"]["uid"];
                        alive.uid.as_ref().is_none_or(|alive| uid == alive.as_str())
                    })
                });
                if !is_held {
                    let policy = deletion.propagation.unwrap_or("Background");
                    self.delete(&deletion.id, policy, deletion.grace_secs, now);
                }
                Ok(Some(deletion.id))
            }
            Action::Finalize(object) => {
                let name = object.id().name;
                if self.objects.keys().any(|id| id.namespace == name) {
                    return Err(format!("namespace {name} is not empty"));
                }
                self.replace(&object, |old, mut new| old["spec"] = new["spec"].take())
            }
        }
    }

    fn check(&self, id: &Id, wanted: &Value) -> Result<(), String> {
        let known = self.objects.get(id).ok_or(format!("{id} not found"))?;
        for field in ["uid", "resourceVersion"] {
            let wanted = &wanted[field];
            if !wanted.is_null() && *wanted != known["metadata"][field] {
                return Err(format!("{id}: {field} is another"));
            }
        }
        Ok(())
    }

    fn replace(&mut self, object: &Object, change: impl FnOnce(&mut Value, Value)) -> Result<Option<Id>, String> {
        let id = object.id();
        let body = object.to_json();
        self.check(&id, &body["metadata"])?;
        self.edit(&id, |old| change(old, body))?;
        Ok(Some(id))
    }
}

/// JSON merge patch (RFC 7396).
fn merge(target: &mut Value, patch: &Value) {
    let Some(fields) = patch.as_object() else {
        *target = patch.clone();
        return;
    };
    if !target.is_object() {
        *target = json!({});
    }
    for (key, value) in fields {
        match value {
            Value::Null => drop(target.as_object_mut().map(|all| all.remove(key))),
            value => merge(&mut target[key], value),
        }
    }
}

/// Server, world and queue together.
pub struct Cluster {
    pub api: Api,
    pub world: World,
    pub config: Config,
    pub tasks: BTreeSet<Task>,
    pub now: Timestamp,
    /// All that was written, in order.
    pub writes: Vec<Write>,
    /// Writes the server refused.
    pub refused: Vec<String>,
    pub timers: BTreeMap<Task, Timestamp>,
}

/// More rounds than any of the tests needs: a plan that never ends is a bug.
const ROUNDS: usize = 20_000;

impl Cluster {
    pub fn new() -> Self {
        let mut cluster = Cluster {
            api: Api::default(),
            world: World::default(),
            config: Config::default(),
            tasks: BTreeSet::new(),
            now: "2024-05-01T12:00:00Z".parse().unwrap(),
            writes: Vec::new(),
            refused: Vec::new(),
            timers: BTreeMap::new(),
        };
        for name in ["default", "kube-system"] {
            cluster
                .create(Kind::Namespace, json!({"metadata": {"name": name}, "spec": {"finalizers": ["kubernetes"]}}));
        }
        cluster.tasks.extend([Task::ClusterDns, Task::PodCidrs, Task::Balancers]);
        cluster
    }

    pub fn create(&mut self, kind: Kind, body: Value) -> Id {
        self.api.create(kind, body, self.now).expect("it can be created")
    }

    pub fn edit(&mut self, id: &Id, change: impl FnOnce(&mut Value)) {
        self.api.edit(id, change).expect("it is there");
    }

    pub fn advance(&mut self, secs: i64) {
        self.now += SignedDuration::from_secs(secs);
        let due: Vec<Task> =
            self.timers.iter().filter(|(_, at)| **at <= self.now).map(|(task, _)| task.clone()).collect();
        for task in due {
            self.timers.remove(&task);
            self.tasks.insert(task);
        }
    }

    /// Tells the world the next news of one kind; the queue gets what that calls.
    pub fn hear(&mut self, kind: Kind) -> Option<News> {
        let news = self.api.news.get_mut(&kind)?.pop_front()?;
        self.tell(news.clone());
        Some(news)
    }

    pub fn tell(&mut self, news: News) {
        let touched = match news {
            News::Set(object) => self.world.set(object, self.now),
            News::Gone(id, uid) => self.world.remove(&id, &uid),
        };
        self.tasks.extend(touched);
    }

    pub fn hear_all(&mut self) {
        for kind in Kind::ALL {
            while self.hear(kind).is_some() {}
        }
    }

    /// Runs one task, with the answers entered at once as the real loop does.
    pub fn run(&mut self, task: Task) -> usize {
        let plan = reconcile(&self.world, &self.config, &task, self.now);
        match plan.wake_at {
            Some(at) => drop(self.timers.insert(task.clone(), at)),
            None => drop(self.timers.remove(&task)),
        }
        let count = plan.writes.len();
        for write in plan.writes {
            self.writes.push(write.clone());
            match self.api.perform(write.action, self.now) {
                Ok(id) => self.answer(id),
                Err(error) => {
                    self.refused.push(error);
                    self.tasks.insert(task);
                    break;
                }
            }
        }
        count
    }

    fn answer(&mut self, id: Option<Id>) {
        let Some(id) = id else { return };
        let touched = match self.api.objects.get(&id) {
            Some(body) => {
                let object = Object::parse(id.kind, body.clone()).unwrap();
                self.world.set(object, self.now)
            }
            None => {
                let uid = self.world.object(&id).map(|known| known.uid().to_owned());
                uid.map(|uid| self.world.remove(&id, &uid)).unwrap_or_default()
            }
        };
        self.tasks.extend(touched);
    }

    /// Until nothing is left to hear or to do.
    pub fn settle(&mut self) {
        for _ in 0..ROUNDS {
            self.hear_all();
            let Some(task) = self.tasks.pop_first() else {
                return;
            };
            self.run(task);
        }
        panic!("no end: {:?}", self.writes.iter().rev().take(6).collect::<Vec<_>>());
    }

    /// Settles, and says how many writes that took.
    pub fn settle_counting(&mut self) -> usize {
        let before = self.writes.len();
        self.settle();
        self.writes.len() - before
    }

    /// The law: from scratch there is nothing left to write.
    pub fn assert_at_rest(&mut self) {
        let mut scratch = World::default();
        for (id, body) in &self.api.objects {
            scratch.set(Object::parse(id.kind, body.clone()).unwrap(), self.now);
        }
        assert!(scratch == self.world, "the world differs from one built from scratch");
        for task in scratch.all_tasks() {
            let plan = reconcile(&self.world, &self.config, &task, self.now);
            assert_eq!(plan.writes, Vec::new(), "{task:?} has writes left");
        }
    }

    // What agents and users do.

    pub fn node(&mut self, name: &str) -> Id {
        self.create(
            Kind::Node,
            json!({
                "metadata": {"name": name, "labels": {"kubernetes.io/hostname": name}},
                "status": {"conditions": [{"type": "Ready", "status": "True"}]},
            }),
        )
    }

    /// The agent says it lives, as of now.
    pub fn heartbeat(&mut self, node: &str) {
        let id = Id::new(Kind::Lease, "kube-node-lease", node);
        let renewed = json!(self.now.to_string());
        if self.api.objects.contains_key(&id) {
            return self.edit(&id, |lease| lease["spec"]["renewTime"] = renewed);
        }
        self.create(
            Kind::Lease,
            json!({
                "metadata": {"name": node, "namespace": "kube-node-lease"},
                "spec": {"renewTime": renewed},
            }),
        );
    }

    pub fn deployment(&mut self, name: &str, replicas: i32) -> Id {
        self.create(
            Kind::Deployment,
            json!({
                "metadata": {"name": name, "namespace": "default"},
                "spec": {
                    "replicas": replicas,
                    "selector": {"matchLabels": {"app": name}},
                    "template": {
                        "metadata": {"labels": {"app": name}},
                        "spec": {"containers": [{"name": "c", "image": "one", "ports": [{"name": "http", "containerPort": 80}]}]},
                    },
                },
            }),
        )
    }

    pub fn service(&mut self, name: &str, app: &str) -> Id {
        self.create(
            Kind::Service,
            json!({
                "metadata": {"name": name, "namespace": "default"},
                "spec": {
                    "clusterIP": "10.96.0.77", "ipFamilies": ["IPv4"], "type": "ClusterIP",
                    "selector": {"app": app},
                    "ports": [{"name": "http", "port": 80, "targetPort": "http", "protocol": "TCP"}],
                },
            }),
        )
    }

    pub fn pods(&self) -> Vec<Pod> {
        let pods = self.api.objects.iter().filter(|(id, _)| id.kind == Kind::Pod);
        let pods = pods.map(|(id, body)| Object::parse(id.kind, body.clone()).unwrap());
        pods.map(|object| Pod::clone(Pod::of(&object).unwrap())).collect()
    }

    pub fn pod_ids(&self) -> Vec<Id> {
        let ids = self.api.objects.keys();
        ids.filter(|id| id.kind == Kind::Pod).cloned().collect()
    }

    /// The agents' turn: placed pods run and are ready, leaving ones are gone.
    pub fn agents(&mut self) -> bool {
        let mut has_acted = false;
        for id in self.pod_ids() {
            let body = &self.api.objects[&id];
            if !body["metadata"]["deletionTimestamp"].is_null() {
                let now = self.now;
                self.api.delete(&id, "Background", Some(0), now);
                has_acted = true;
            } else if body["spec"]["nodeName"].is_string() && body["status"]["podIP"].is_null() {
                self.make_ready(&id);
                has_acted = true;
            }
        }
        has_acted
    }

    pub fn make_ready(&mut self, id: &Id) {
        let number = self.api.revision;
        let address = format!("10.244.{}.{}", number / 250 % 250, number % 250 + 1);
        let since = self.now.to_string();
        self.edit(id, |pod| {
            pod["status"] = json!({
                "phase": "Running",
                "podIP": address,
                "podIPs": [{"ip": address}],
                "conditions": [{"type": "Ready", "status": "True", "lastTransitionTime": since}],
            });
        });
    }

    pub fn set_ready(&mut self, id: &Id, is_ready: bool) {
        let status = if is_ready { "True" } else { "False" };
        let since = self.now.to_string();
        self.edit(id, |pod| {
            pod["status"]["conditions"] = json!([{"type": "Ready", "status": status, "lastTransitionTime": since}]);
        });
    }

    /// Controllers and agents in turn until all is quiet.
    pub fn live(&mut self) {
        for _ in 0..200 {
            self.settle();
            if !self.agents() {
                return;
            }
        }
        panic!("controllers and agents never come to rest");
    }
}
