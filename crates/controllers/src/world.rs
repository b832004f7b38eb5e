//! The world: every object the controllers know, with the indexes they ask by.
//!
//! ```text
//! watch events ──┐                       ┌─► objects by (kind, namespace, name)
//!                ├─► set / remove ───────┼─► tags: uid, owner, node, unscheduled, slices
//! answers to our ┘        │              └─► heartbeats
//! own writes              └─► tasks that the change touches (route)
//! ```
//!
//! Our own writes are entered as soon as the server answers, so a controller reads what it wrote
//! and never makes a pod twice. An event is older than what is known when its resourceVersion is
//! not greater; it is dropped. A uid that has gone never comes back.
//!
//! No clock here: whoever enters a change says what time it is.

use std::collections::{BTreeMap, BTreeSet, HashSet, VecDeque};
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{Namespace, Node, Pod};

use crate::object::{Id, Kind, Object, Stored};
use crate::plan::Task;
use crate::{pod, route};

/// The namespace of the nodes' Leases.
pub const LEASE_NAMESPACE: &str = "kube-node-lease";
/// Label of a slice that names its Service.
pub const SERVICE_NAME_LABEL: &str = "kubernetes.io/service-name";
/// How many departed uids are remembered: more than events in flight, little memory.
const DEPARTED_KEPT: usize = 16_384;

/// What objects are found by, besides their names.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Tag {
    Uid(String),
    /// Uid of any owner in `metadata.ownerReferences`.
    Owner(String),
    /// Pods by `spec.nodeName`.
    OnNode(String),
    /// Pods that wait for a node.
    Unscheduled,
    /// EndpointSlices by namespace and Service name.
    SliceOf(String, String),
}

/// When a node was last heard of, on our own clock.
#[derive(Clone, Debug, PartialEq)]
struct Heartbeat {
    renewed: Option<Timestamp>,
    reported: Option<Timestamp>,
    heard: Timestamp,
}

#[derive(Clone, Debug, Default)]
pub struct World {
    objects: BTreeMap<Id, Object>,
    tags: BTreeMap<Tag, BTreeSet<Id>>,
    heartbeats: BTreeMap<String, Heartbeat>,
    departed: HashSet<String>,
    departed_order: VecDeque<String>,
    listings: BTreeMap<Kind, BTreeSet<Id>>,
}

impl World {
    /// Enters an object, and says which tasks that touches. Old news touch nothing.
    pub fn set(&mut self, object: Object, now: Timestamp) -> BTreeSet<Task> {
        let id = object.id();
        if let Some(listing) = self.listings.get_mut(&id.kind) {
            listing.insert(id.clone());
        }
        let known = self.objects.get(&id);
        let is_old = known.is_some_and(|known| object.revision() <= known.revision());
        if is_old || self.departed.contains(object.uid()) {
            return BTreeSet::new();
        }
        self.hear(&object, now);
        self.enter(id, object)
    }

    /// Enters what we expect the server to say soon, under the resourceVersion already known.
    pub fn assume(&mut self, object: Object) -> BTreeSet<Task> {
        self.enter(object.id(), object)
    }

    fn enter(&mut self, id: Id, object: Object) -> BTreeSet<Task> {
        let old = self.objects.insert(id.clone(), object.clone());
        if let Some(old) = &old {
            self.untag(&id, old);
        }
        for tag in tags(&object) {
            self.tags.entry(tag).or_default().insert(id.clone());
        }
        let mut touched = BTreeSet::new();
        if let Some(old) = old.as_ref().filter(|old| old.uid() != object.uid()) {
            self.depart(old.uid());
            touched = route::touched(self, Some(old), None);
        }
        let same = old.as_ref().filter(|old| old.uid() == object.uid());
        touched.extend(route::touched(self, same, Some(&object)));
        touched
    }

    /// Takes an object out. With a uid, only that very object, which never comes back.
    pub fn remove(&mut self, id: &Id, uid: &str) -> BTreeSet<Task> {
        if !uid.is_empty() {
            self.depart(uid);
        }
        let Some(old) = self.objects.get(id).filter(|old| old.uid() == uid).cloned() else {
            return BTreeSet::new();
        };
        self.objects.remove(id);
        self.untag(id, &old);
        if id.kind == Kind::Node {
            self.heartbeats.remove(&id.name);
        }
        route::touched(self, Some(&old), None)
    }

    /// A list of this kind begins: what it does not name and we do not write meanwhile is gone.
    pub fn begin_list(&mut self, kind: Kind) {
        self.listings.insert(kind, BTreeSet::new());
    }

    pub fn end_list(&mut self, kind: Kind) -> BTreeSet<Task> {
        let Some(seen) = self.listings.remove(&kind) else {
            return BTreeSet::new();
        };
        let missing: Vec<(Id, String)> = self
            .all(kind)
            .filter(|(id, _)| !seen.contains(*id))
            .map(|(id, object)| (id.clone(), object.uid().to_owned()))
            .collect();
        let mut touched = BTreeSet::new();
        for (id, uid) in missing {
            touched.extend(self.remove(&id, &uid));
        }
        touched
    }

    /// Every task there could be for what is known: where a start from scratch begins.
    pub fn all_tasks(&self) -> BTreeSet<Task> {
        let mut tasks = BTreeSet::from([Task::PodCidrs, Task::ClusterDns, Task::Balancers]);
        for object in self.objects.values() {
            tasks.extend(route::touched(self, None, Some(object)));
        }
        tasks.extend(route::leftovers(self));
        tasks
    }

    pub fn object(&self, id: &Id) -> Option<&Object> {
        self.objects.get(id)
    }

    pub fn get<T: Stored>(&self, id: &Id) -> Option<&Arc<T>> {
        self.objects.get(id).and_then(T::of)
    }

    pub fn node(&self, name: &str) -> Option<&Arc<Node>> {
        self.get(&Id::new(Kind::Node, "", name))
    }

    /// All of one namespace, by name.
    pub fn list<'a, T: Stored + 'a>(&'a self, namespace: &'a str) -> impl Iterator<Item = &'a Arc<T>> + 'a {
        self.within(T::KIND, namespace).filter_map(|object| T::of(object))
    }

    pub fn within<'a>(&'a self, kind: Kind, namespace: &'a str) -> impl Iterator<Item = &'a Object> + 'a {
        self.objects
            .range(Id::new(kind, namespace, "")..)
            .take_while(move |(id, _)| id.kind == kind && id.namespace == namespace)
            .map(|(_, object)| object)
    }

    /// All of one kind, by namespace and name.
    pub fn all(&self, kind: Kind) -> impl Iterator<Item = (&Id, &Object)> {
        self.objects.range(Id::new(kind, "", "")..).take_while(move |(id, _)| id.kind == kind)
    }

    pub fn nodes(&self) -> impl Iterator<Item = &Arc<Node>> {
        self.all(Kind::Node).filter_map(|(_, object)| Node::of(object))
    }

    pub fn tagged(&self, tag: Tag) -> impl Iterator<Item = &Object> + use<'_> {
        let ids = self.tags.get(&tag).into_iter().flatten();
        ids.filter_map(|id| self.objects.get(id))
    }

    pub fn pods_on<'a>(&'a self, node: &str) -> impl Iterator<Item = &'a Arc<Pod>> + use<'a> {
        self.tagged(Tag::OnNode(node.to_owned())).filter_map(Pod::of)
    }

    pub fn count_on(&self, node: &str) -> usize {
        let tag = Tag::OnNode(node.to_owned());
        self.tags.get(&tag).map_or(0, BTreeSet::len)
    }

    /// Objects of type `T` that have this uid among their owners.
    pub fn owned<'a, T: Stored + 'a>(&'a self, uid: &str) -> impl Iterator<Item = &'a Arc<T>> + use<'a, T> {
        self.tagged(Tag::Owner(uid.to_owned())).filter_map(T::of)
    }

    pub fn dependents<'a>(&'a self, uid: &str) -> impl Iterator<Item = &'a Object> + use<'a> {
        self.tagged(Tag::Owner(uid.to_owned()))
    }

    pub fn by_uid(&self, uid: &str) -> Option<&Object> {
        self.tagged(Tag::Uid(uid.to_owned())).next()
    }

    /// Whether we saw this uid leave: then no question to the server is needed.
    pub fn is_departed(&self, uid: &str) -> bool {
        self.departed.contains(uid)
    }

    pub fn is_namespace_terminating(&self, name: &str) -> bool {
        self.get::<Namespace>(&Id::new(Kind::Namespace, "", name))
            .is_some_and(|namespace| namespace.metadata.deletion_timestamp.is_some())
    }

    /// When the node was last heard of: its Lease renewed or its status reported.
    pub fn last_heard(&self, node: &str) -> Option<Timestamp> {
        self.heartbeats.get(node).map(|beat| beat.heard)
    }

    /// Every node counts as heard now: we were deaf ourselves, so silence says nothing.
    pub fn forgive_silence(&mut self, now: Timestamp) {
        self.heartbeats.values_mut().for_each(|beat| beat.heard = now);
    }

    fn hear(&mut self, object: &Object, now: Timestamp) {
        let is_new_node = object.kind() == Kind::Node && self.object(&object.id()).is_none();
        let (name, renewed, reported) = match object {
            Object::Lease(lease) if is_node_lease(lease) => {
                let spec = lease.spec.as_ref();
                let renewed = spec.and_then(|spec| spec.renew_time.as_ref());
                (&lease.metadata.name, renewed.map(|time| time.0), None)
            }
            Object::Node(node) => (&node.metadata.name, None, reported_at(node)),
            _ => return,
        };
        let name = name.clone().unwrap_or_default();
        let beat = self.heartbeats.entry(name).or_insert(Heartbeat { renewed, reported, heard: now });
        let renewed = renewed.or(beat.renewed);
        let reported = reported.or(beat.reported);
        if is_new_node || renewed != beat.renewed || reported != beat.reported {
            *beat = Heartbeat { renewed, reported, heard: now };
        }
    }

    fn untag(&mut self, id: &Id, object: &Object) {
        for tag in tags(object) {
            if let Some(ids) = self.tags.get_mut(&tag) {
                ids.remove(id);
                if ids.is_empty() {
                    self.tags.remove(&tag);
                }
            }
        }
    }

    fn depart(&mut self, uid: &str) {
        if self.departed.insert(uid.to_owned()) {
            self.departed_order.push_back(uid.to_owned());
        }
        if self.departed_order.len() > DEPARTED_KEPT
            && let Some(oldest) = self.departed_order.pop_front()
        {
            self.departed.remove(&oldest);
        }
    }
}

/// Two worlds are the same when they know the same; the road there does not count.
impl PartialEq for World {
    fn eq(&self, other: &Self) -> bool {
        self.objects == other.objects && self.tags == other.tags
    }
}

pub(crate) fn is_node_lease(lease: &Lease) -> bool {
    lease.metadata.namespace.as_deref() == Some(LEASE_NAMESPACE)
}

fn reported_at(node: &Node) -> Option<Timestamp> {
    let conditions = node.status.as_ref()?.conditions.iter().flatten();
    let times = conditions.filter_map(|condition| condition.last_heartbeat_time.as_ref());
    times.map(|time| time.0).max()
}

fn tags(object: &Object) -> Vec<Tag> {
    let meta = object.meta();
    let mut tags = Vec::new();
    tags.extend(meta.uid.clone().map(Tag::Uid));
    let owners = meta.owner_references.iter().flatten();
    tags.extend(owners.map(|owner| Tag::Owner(owner.uid.clone())));
    match object {
        Object::Pod(pod) => tags.extend(pod_tag(pod)),
        Object::EndpointSlice(slice) => {
            let labels = slice.metadata.labels.as_ref();
            let service = labels.and_then(|labels| labels.get(SERVICE_NAME_LABEL));
            let namespace = meta.namespace.clone().unwrap_or_default();
            tags.extend(service.map(|service| Tag::SliceOf(namespace, service.clone())));
        }
        _ => {}
    }
    tags
}

fn pod_tag(pod: &Pod) -> Option<Tag> {
    match pod::node_name(pod) {
        Some(node) => Some(Tag::OnNode(node.to_owned())),
        None if pod::is_terminating(pod) || pod::is_finished(pod) => None,
        None => Some(Tag::Unscheduled),
    }
}
