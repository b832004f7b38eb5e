//! Addresses of Services of type LoadBalancer, from a pool: what a cloud's controller gives elsewhere.
//!
//! ```text
//!  type LoadBalancer, no class ──► keeps what it has ──► what it asks for, or the first that is free
//!                                                        └─ none: condition and Event AllocationFailed; waits
//!  another type, with an address of the pool ──► status.loadBalancer emptied
//! ```
//!
//! One task for all of them, so that no address is given twice. What was given is read from the Services' status: a
//! restart knows it, and gives nobody another. Without a pool nothing is done: then the addresses are somebody else's
//! business, as are those of a Service with `spec.loadBalancerClass`. Who answers for an address is decided by the
//! agents, not here.

mod pool;

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{LoadBalancerIngress, LoadBalancerStatus, Service, ServiceStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};

use crate::object::{Kind, Object, Stored};
use crate::plan::{Note, Plan, Write};
use crate::world::World;
use pool::{Family, Pool};

const COMPONENT: &str = "service-controller";
const FAILED: &str = "AllocationFailed";
/// Of our own, on a Service that waits; gone once it has what it wants. It keeps a restart from telling the same again.
const CONDITION: &str = "AddressAllocated";
/// Where users of MetalLB and kube-vip write the addresses they want, separated by commas.
const WISHES: [&str; 3] =
    ["metallb.io/loadBalancerIPs", "metallb.universe.tf/loadBalancerIPs", "kube-vip.io/loadbalancerIPs"];

/// Gives and takes back addresses of `ranges`.
pub fn reconcile(world: &World, ranges: &[IpNet], now: Timestamp) -> Plan {
    let pool = Pool::new(ranges);
    if pool.is_empty() {
        return Plan::idle();
    }
    let services = world.all(Kind::Service).filter_map(|(_, object)| Service::of(object));
    let (mut ours, others): (Vec<_>, Vec<_>) = services.partition(|service| is_ours(service));
    ours.sort_by_key(|one| {
        let meta = &one.metadata;
        (meta.creation_timestamp.clone(), meta.namespace.clone(), meta.name.clone())
    });
    let is_balanced = |service: &&&Arc<Service>| type_of(service) == "LoadBalancer";
    let mut taken: BTreeSet<IpAddr> = others.iter().filter(is_balanced).flat_map(|one| given(one)).collect();
    // What is held comes before what is wanted, or a newcomer would get an old one's address.
    let kept: Vec<Vec<IpAddr>> = ours.iter().map(|service| keep(service, &pool, &mut taken)).collect();
    let mut writes = Vec::new();
    for (service, kept) in ours.into_iter().zip(kept) {
        let (addresses, complaint) = match service.metadata.deletion_timestamp {
            Some(_) => (kept, None),
            None => complete(service, kept, &pool, &mut taken),
        };
        writes.extend(settle(service, addresses, complaint, now));
    }
    let released = others.iter().filter(|one| type_of(one) != "LoadBalancer");
    let released = released.filter(|one| given(one).iter().any(|address| pool.has(*address)));
    writes.extend(released.filter_map(|one| settle(one, Vec::new(), None, now)));
    Plan::of(writes)
}

/// Whether a change of a Service is one that its address, or another's, may depend on.
pub fn is_seen(old: Option<&Object>, new: Option<&Object>) -> bool {
    let (old, new) = (old.and_then(Service::of), new.and_then(Service::of));
    let concerns = |one: &Arc<Service>| type_of(one) == "LoadBalancer" || !given(one).is_empty();
    let is_concerned = old.into_iter().chain(new).any(concerns);
    is_concerned && old.map(face) != new.map(face)
}

/// What of a Service is looked at here.
fn face(service: &Arc<Service>) -> impl PartialEq {
    let spec = service.spec.as_ref();
    (
        spec.map(|spec| (spec.type_.clone(), spec.load_balancer_class.clone(), spec.load_balancer_ip.clone())),
        spec.map(|spec| (spec.ip_families.clone(), spec.ip_family_policy.clone())),
        service.metadata.annotations.clone(),
        service.metadata.deletion_timestamp.clone(),
        service.metadata.uid.clone(),
        service.status.clone(),
    )
}

fn type_of(service: &Service) -> &str {
    service.spec.as_ref().and_then(|spec| spec.type_.as_deref()).unwrap_or_default()
}

fn is_ours(service: &Service) -> bool {
    let class = service.spec.as_ref().and_then(|spec| spec.load_balancer_class.as_deref());
    type_of(service) == "LoadBalancer" && class.is_none_or(str::is_empty)
}

fn ingress(service: &Service) -> &[LoadBalancerIngress] {
    let balancer = service.status.as_ref().and_then(|status| status.load_balancer.as_ref());
    balancer.and_then(|balancer| balancer.ingress.as_deref()).unwrap_or_default()
}

/// The addresses in its status.
fn given(service: &Service) -> Vec<IpAddr> {
    ingress(service).iter().filter_map(|one| one.ip.as_deref()?.parse().ok()).collect()
}

/// Families in the Service's order; IPv4 where it says nothing.
fn families(service: &Service) -> Vec<Family> {
    let listed = service.spec.as_ref().and_then(|spec| spec.ip_families.as_deref()).unwrap_or_default();
    let families: Vec<Family> = listed.iter().filter_map(|name| Family::parse(name)).collect();
    if families.is_empty() { vec![Family::V4] } else { families }
}

/// The addresses that it asks for by name; words that are no address ask for nothing that could be given.
fn wishes(service: &Service) -> Vec<Result<IpAddr, String>> {
    let field = service.spec.as_ref().and_then(|spec| spec.load_balancer_ip.clone());
    let annotations = service.metadata.annotations.iter().flatten();
    let annotated = annotations.filter(|(key, _)| WISHES.contains(&key.as_str())).map(|(_, value)| value.clone());
    let texts: Vec<String> = annotated.chain(field).collect();
    let words = texts.iter().flat_map(|text| text.split(',')).map(str::trim).filter(|word| !word.is_empty());
    words.map(|word| word.parse().map_err(|_| word.to_owned())).collect()
}

fn wish_of(family: Family, wishes: &[Result<IpAddr, String>]) -> Option<IpAddr> {
    wishes.iter().flatten().copied().find(|address| Family::of(*address) == family)
}

/// What it has and may keep: an address of the pool, of a family it wants, nobody else's, and the one it asks for.
fn keep(service: &Service, pool: &Pool, taken: &mut BTreeSet<IpAddr>) -> Vec<IpAddr> {
    let (given, wishes) = (given(service), wishes(service));
    let mut kept = Vec::new();
    for family in families(service) {
        let wish = wish_of(family, &wishes);
        let fits = |address: &&IpAddr| {
            Family::of(**address) == family
                && pool.has(**address)
                && !taken.contains(*address)
                && wish.is_none_or(|wish| wish == **address)
        };
        if let Some(address) = given.iter().find(fits).copied() {
            taken.insert(address);
            kept.push(address);
        }
    }
    kept
}

/// Its addresses in the order of its families, and why one is missing.
fn complete(
    service: &Service,
    kept: Vec<IpAddr>,
    pool: &Pool,
    taken: &mut BTreeSet<IpAddr>,
) -> (Vec<IpAddr>, Option<String>) {
    let (families, wishes) = (families(service), wishes(service));
    let unreadable = wishes.iter().find_map(|wish| wish.as_ref().err());
    if let Some(word) = unreadable {
        return (
            Vec::new(),
            Some(format!("{word} is asked for and is no address; write addresses of the pool {pool}")),
        );
    }
    let policy = service.spec.as_ref().and_then(|spec| spec.ip_family_policy.as_deref());
    let needs_all = policy == Some("RequireDualStack") || !families.iter().any(|family| pool.serves(*family));
    let (mut addresses, mut complaint) = (Vec::new(), None);
    for family in families.into_iter().filter(|family| needs_all || pool.serves(*family)) {
        let held = kept.iter().copied().find(|address| Family::of(*address) == family);
        match held.map_or_else(|| take(family, wish_of(family, &wishes), pool, taken), Ok) {
            Ok(address) => addresses.push(address),
            Err(reason) => complaint = complaint.or(Some(reason)),
        }
    }
    (addresses, complaint)
}

fn take(family: Family, wish: Option<IpAddr>, pool: &Pool, taken: &mut BTreeSet<IpAddr>) -> Result<IpAddr, String> {
    let address = match wish {
        Some(wish) if !pool.has(wish) => return Err(format!("{wish} is asked for and is not in the pool {pool}")),
        Some(wish) if taken.contains(&wish) => return Err(format!("{wish} is asked for and another Service has it")),
        Some(wish) => wish,
        None => {
            pool.first_free(family, taken).ok_or_else(|| format!("no {family} address of the pool {pool} is free"))?
        }
    };
    taken.insert(address);
    Ok(address)
}

/// Writes the status if it says something else.
fn settle(service: &Arc<Service>, addresses: Vec<IpAddr>, complaint: Option<String>, now: Timestamp) -> Option<Write> {
    let before = service.status.clone().unwrap_or_default();
    let news: Vec<String> =
        addresses.iter().filter(|address| !given(service).contains(address)).map(IpAddr::to_string).collect();
    let wanted: Vec<LoadBalancerIngress> = addresses.into_iter().map(virtual_address).collect();
    let conditions = conditions(service, &before, complaint.as_deref(), now);
    let is_told = conditions == before.conditions;
    if is_told && ingress(service) == wanted {
        return None;
    }
    let subject = Object::Service(service.clone());
    let note = match complaint {
        Some(message) if !is_told => Some(Note::warning(COMPONENT, &subject, FAILED, message)),
        _ if news.is_empty() => None,
        _ => Some(Note::normal(COMPONENT, &subject, "IPAllocated", format!("Assigned {}", news.join(", ")))),
    };
    let balancer = LoadBalancerStatus { ingress: Some(wanted).filter(|list| !list.is_empty()) };
    let status = ServiceStatus { conditions, load_balancer: Some(balancer) };
    let write = Write::replace_status(Service { status: Some(status), ..Service::clone(service) });
    Some(match note {
        Some(note) => write.telling(note),
        None => write,
    })
}

fn virtual_address(address: IpAddr) -> LoadBalancerIngress {
    LoadBalancerIngress {
        ip: Some(address.to_string()),
        ip_mode: Some("VIP".to_owned()),
        ..LoadBalancerIngress::default()
    }
}

/// Those of others as they are, ours as the complaint says.
fn conditions(
    service: &Service,
    before: &ServiceStatus,
    complaint: Option<&str>,
    now: Timestamp,
) -> Option<Vec<Condition>> {
    let known = before.conditions.iter().flatten();
    let (own, mut all): (Vec<Condition>, Vec<Condition>) = known.cloned().partition(|one| one.type_ == CONDITION);
    if let Some(message) = complaint {
        let same = own.into_iter().find(|one| one.message == message && one.reason == FAILED);
        all.push(same.unwrap_or_else(|| Condition {
            type_: CONDITION.to_owned(),
            status: "False".to_owned(),
            reason: FAILED.to_owned(),
            message: message.to_owned(),
            last_transition_time: Time(now),
            observed_generation: service.metadata.generation,
        }));
    }
    Some(all).filter(|all| !all.is_empty())
}
