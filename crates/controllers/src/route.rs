//! Which tasks a change calls: the cost of a change is what is named here.
//!
//! The law: when all tasks called by a row of changes are done, no task at all has anything left
//! to write (`World::all_tasks`). A missing line here breaks it.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use k8s_openapi::api::core::v1::{Node, Pod, Service};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use crate::object::{Id, Kind, Object};
use crate::plan::Task;
use crate::world::{SERVICE_NAME_LABEL, Tag, World, is_node_lease};
use crate::{balancer, cluster_dns, endpoints, node, owner, pod, selector, service_account};

type Tasks = BTreeSet<Task>;

/// `old` is what was known, `new` what is known now; the world holds `new` already.
pub fn touched(world: &World, old: Option<&Object>, new: Option<&Object>) -> Tasks {
    let mut tasks = Tasks::new();
    let Some(any) = new.or(old) else {
        return tasks;
    };
    let id = any.id();
    match any {
        Object::Deployment(_) => tasks.extend([Task::Deployment(id.clone())]),
        Object::ReplicaSet(set) => {
            tasks.insert(Task::ReplicaSet(id.clone()));
            deployments_of(world, set, &mut tasks);
        }
        Object::Pod(_) => pod_tasks(world, old, new, &mut tasks),
        Object::Service(service) => {
            service_tasks(service, new, &id, &mut tasks);
            if balancer::is_seen(old, new) {
                tasks.insert(Task::Balancers);
            }
        }
        Object::EndpointSlice(slice) => {
            let labels = slice.metadata.labels.as_ref();
            if let Some(name) = labels.and_then(|labels| labels.get(SERVICE_NAME_LABEL)) {
                tasks.insert(Task::Endpoints(Id::new(Kind::Service, &id.namespace, name)));
            }
        }
        Object::Endpoints(_) => tasks.extend([Task::Endpoints(id.with_kind(Kind::Service))]),
        Object::Node(_) => node_tasks(world, old, new, &mut tasks),
        Object::Lease(lease) if is_node_lease(lease) => {
            tasks.insert(Task::NodeHealth(id.name.clone()));
        }
        Object::Namespace(_) => {
            tasks.insert(Task::Namespace(id.name.clone()));
            tasks.insert(Task::ServiceAccount(id.name.clone()));
            if id.name == cluster_dns::NAMESPACE {
                tasks.insert(Task::ClusterDns);
            }
        }
        Object::ServiceAccount(_) if id.name == service_account::NAME => {
            tasks.insert(Task::ServiceAccount(id.namespace.clone()));
        }
        Object::ConfigMap(_) if id.namespace == cluster_dns::NAMESPACE && id.name == cluster_dns::CONFIG_MAP => {
            tasks.insert(Task::ClusterDns);
        }
        Object::Event(_) => tasks.extend([Task::EventExpiry(id.clone())]),
        _ => {}
    }
    if world.is_namespace_terminating(&id.namespace) {
        tasks.insert(Task::Namespace(id.namespace.clone()));
    }
    owner_tasks(world, old, new, &mut tasks);
    tasks
}

/// Endpoints of ours whose Service went while nobody looked.
pub fn leftovers(world: &World) -> Tasks {
    let (key, value) = endpoints::ENDPOINTS_MANAGED_BY;
    let endpoints = world.all(Kind::Endpoints).filter(|(id, object)| {
        let labels = object.meta().labels.as_ref();
        let manager = labels.and_then(|labels| labels.get(key));
        let is_ours = manager.is_some_and(|manager| manager == value);
        is_ours && world.object(&id.with_kind(Kind::Service)).is_none()
    });
    endpoints.map(|(id, _)| Task::ServiceGone(id.with_kind(Kind::Service))).collect()
}

fn deployments_of(world: &World, set: &ReplicaSet, tasks: &mut Tasks) {
    if let Some(id) = owner::controller_id(&set.metadata, Kind::Deployment) {
        tasks.insert(Task::Deployment(id));
        return;
    }
    let namespace = set.metadata.namespace.as_deref().unwrap_or_default();
    let labels = set.metadata.labels.as_ref();
    let takers = world.list::<Deployment>(namespace).filter(|deployment| {
        let spec = deployment.spec.as_ref();
        spec.is_some_and(|spec| selector::matches(&spec.selector, labels))
    });
    let takers = takers.map(|one| Task::Deployment(Id::of(Kind::Deployment, &one.metadata)));
    tasks.extend(takers);
}

fn service_tasks(service: &Service, new: Option<&Object>, id: &Id, tasks: &mut Tasks) {
    tasks.insert(match new {
        Some(_) => Task::Endpoints(id.clone()),
        None => Task::ServiceGone(id.clone()),
    });
    let is_dns = id.namespace == cluster_dns::NAMESPACE;
    if is_dns && service.metadata.name.as_deref() == Some(cluster_dns::NAME) {
        tasks.insert(Task::ClusterDns);
    }
}

fn pod_tasks(world: &World, old: Option<&Object>, new: Option<&Object>, tasks: &mut Tasks) {
    let as_pod = |object: Option<&Object>| match object {
        Some(Object::Pod(pod)) => Some(pod.clone()),
        _ => None,
    };
    let (before, after) = (as_pod(old), as_pod(new));
    for pod in before.iter().chain(&after) {
        replica_sets_of(world, pod, tasks);
    }
    if old.zip(new).is_none_or(|(old, new)| endpoints::is_seen(old, new)) {
        for pod in before.iter().chain(&after) {
            services_of(world, &pod.metadata, tasks);
        }
    }
    if let Some(pod) = &after {
        place_tasks(world, before.as_deref(), pod, tasks);
    }
    let frees_room = before.as_ref().is_some_and(|pod| pod::node_name(pod).is_some())
        && after.as_ref().is_none_or(|pod| pod::is_finished(pod));
    if frees_room {
        unscheduled(world, tasks);
    }
}

/// The controller; for a pod without one, whoever would take it. When a pod has gone, the
/// Deployment too: Recreate waits for that.
fn replica_sets_of(world: &World, pod: &Pod, tasks: &mut Tasks) {
    let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
    if owner::controller_of(&pod.metadata).is_some() {
        let Some(id) = owner::controller_id(&pod.metadata, Kind::ReplicaSet) else {
            return;
        };
        let set = world.get::<ReplicaSet>(&id);
        let parent = set.and_then(|set| owner::controller_id(&set.metadata, Kind::Deployment));
        tasks.extend(parent.map(Task::Deployment));
        tasks.insert(Task::ReplicaSet(id));
        return;
    }
    let labels = pod.metadata.labels.as_ref();
    let takers = world.list::<ReplicaSet>(namespace).filter(|set| {
        let spec = set.spec.as_ref();
        spec.is_some_and(|spec| selector::matches(&spec.selector, labels))
    });
    let takers = takers.map(|set| Task::ReplicaSet(Id::of(Kind::ReplicaSet, &set.metadata)));
    tasks.extend(takers);
}

fn services_of(world: &World, meta: &ObjectMeta, tasks: &mut Tasks) {
    let namespace = meta.namespace.as_deref().unwrap_or_default();
    let takers = world.list::<Service>(namespace).filter(|service| {
        let pairs = service.spec.as_ref().and_then(|spec| spec.selector.as_ref());
        pairs.is_some_and(|pairs| !pairs.is_empty() && selector::pairs_match(pairs, meta.labels.as_ref()))
    });
    let takers = takers.map(|one| Task::Endpoints(Id::of(Kind::Service, &one.metadata)));
    tasks.extend(takers);
}

fn place_tasks(world: &World, before: Option<&Pod>, pod: &Pod, tasks: &mut Tasks) {
    let Some(name) = pod::node_name(pod) else {
        tasks.insert(Task::Schedule(Id::of(Kind::Pod, &pod.metadata)));
        return;
    };
    let is_moved = before.and_then(pod::node_name) != Some(name);
    let is_sound = world.node(name).is_some_and(|node| node::is_ready(node) && node::taints(node).is_empty());
    let is_unready = pod::condition(pod, "Ready").is_some_and(|ready| ready.status != "True");
    if is_moved || !is_sound || is_unready {
        tasks.insert(Task::NodePods(name.to_owned()));
    }
}

fn unscheduled(world: &World, tasks: &mut Tasks) {
    let waiting = world.tagged(Tag::Unscheduled);
    tasks.extend(waiting.map(|object| Task::Schedule(object.id())));
}

/// What of a Node the scheduler, the slices and the block giver look at.
fn node_face(object: Option<&Object>) -> Option<impl PartialEq> {
    match object {
        Some(Object::Node(node)) => {
            Some((node.metadata.labels.clone(), node.spec.clone(), node::is_ready(node), allocatable(node)))
        }
        _ => None,
    }
}

fn allocatable(node: &Node) -> Option<BTreeMap<String, Quantity>> {
    node.status.as_ref()?.allocatable.clone()
}

fn node_tasks(world: &World, old: Option<&Object>, new: Option<&Object>, tasks: &mut Tasks) {
    let Some(name) = new.or(old).map(|object| object.id().name) else {
        return;
    };
    tasks.insert(Task::NodeHealth(name.clone()));
    if node_face(old) == node_face(new) {
        return; // a heartbeat
    }
    tasks.insert(Task::NodePods(name));
    tasks.insert(Task::PodCidrs);
    unscheduled(world, tasks);
    let zone = |object: Option<&Object>| match object {
        Some(Object::Node(node)) => endpoints::zone(node),
        _ => None,
    };
    if zone(old) != zone(new) {
        let services = world.all(Kind::Service);
        tasks.extend(services.map(|(id, _)| Task::Endpoints(id.clone())));
    }
}

/// Owners, dependents and finalizers.
fn owner_tasks(world: &World, old: Option<&Object>, new: Option<&Object>, tasks: &mut Tasks) {
    let Some(any) = new.or(old) else { return };
    let references = |object: Option<&Object>| object.and_then(|one| one.meta().owner_references.clone());
    let leaves = |object: Option<&Object>| object.map(Object::is_terminating);
    let is_leaving = leaves(new) == Some(true);
    let is_new_here = references(old) != references(new) || leaves(old) != leaves(new);
    let is_held = any.meta().owner_references.is_some() || is_leaving;
    if new.is_some() && is_held && (is_new_here || is_leaving) {
        tasks.insert(Task::Collect(any.id()));
    }
    if new.is_none() || (is_leaving && leaves(old) != leaves(new)) {
        let dependents = world.dependents(any.uid());
        tasks.extend(dependents.map(|one| Task::Collect(one.id())));
    }
    if new.is_none() || is_new_here {
        let owners = references(old).into_iter().chain(references(new)).flatten();
        for owner in owners.filter_map(|reference| world.by_uid(&reference.uid).cloned()) {
            if owner.is_terminating() {
                tasks.insert(Task::Collect(owner.id()));
            }
        }
    }
}
