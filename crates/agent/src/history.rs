//! What the core remembers: events into causes, writes into generations, by the node's clock. What is remembered and how
//! long is `portolan_story::history`'s.

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use ipnet::IpNet;
use portolan_ingest::{Event, Object};
use portolan_model::{Attachment, Facts, LearnedRoute, NsName, ObjectRef, Settings, Snapshot};
use portolan_story::history::{Cause, Concerns, Fragment, History, Origin, Settled};

use crate::proxy::{self, Programmer};
use crate::routes::RouteWriter;

/// Microseconds since 1970.
pub(crate) fn micros(at: SystemTime) -> i64 {
    let since = at.duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_micros()).unwrap_or(i64::MAX)
}

/// Of an agent that starts now.
pub(crate) fn begin(settings: &Arc<Settings>) -> History {
    History::new(micros(SystemTime::now()), Arc::new(Snapshot::empty(settings.clone())))
}

/// What a watch told; `facts` are those of before.
pub(crate) fn told(event: &Event, seen: SystemTime, facts: &Facts) -> Cause {
    let (Event::Value(object) | Event::Gone(object)) = event;
    let version = object.revision().and_then(|text| text.parse().ok()).unwrap_or_default();
    let reference = object.reference();
    let concerns = concerns(object, &reference, facts);
    let origin = Origin::Object { object: reference, version, gone: matches!(event, Event::Gone(_)) };
    Cause { origin, seen_us: micros(seen), triggered_us: proxy::trigger(object).map(micros), concerns }
}

fn concerns(object: &Object, reference: &ObjectRef, facts: &Facts) -> Concerns {
    let service = match object {
        Object::Service(_) => Some(reference.key.clone()),
        // One that a broken watch finds gone has nothing but its name.
        Object::EndpointSlice(slice) => portolan_ingest::service_of(slice)
            .or_else(|| facts.slices.get(&reference.key).map(|known| known.service.clone())),
        _ => None,
    };
    service.map_or(Concerns::Anything, Concerns::Service)
}

/// A pod's link came, or went with the addresses that it had.
pub(crate) fn linked(pod: &NsName, now: Option<&Attachment>, before: Option<&Attachment>, seen: SystemTime) -> Cause {
    let routes: Box<[IpNet]> =
        before.into_iter().chain(now).flat_map(|link| &link.addresses).map(|addr| IpNet::from(*addr)).collect();
    let origin = match now {
        Some(_) => Origin::Attached { pod: pod.clone() },
        None => Origin::Detached { pod: pod.clone() },
    };
    let concerns = Concerns::Pod(pod.clone(), routes);
    Cause { origin, seen_us: micros(seen), triggered_us: None, concerns }
}

/// The best path to a prefix changed.
pub(crate) fn learned(prefix: IpNet, route: Option<&LearnedRoute>, seen: SystemTime) -> Cause {
    let origin = match route {
        Some(route) => Origin::Learned { prefix, peer: route.peer },
        None => Origin::Withdrawn { prefix },
    };
    Cause { origin, seen_us: micros(seen), triggered_us: None, concerns: Concerns::Route(prefix) }
}

/// How far a write came.
pub(crate) struct Written<'a> {
    pub(crate) snapshot: &'a Arc<Snapshot>,
    pub(crate) began: SystemTime,
    pub(crate) routes: &'a RouteWriter,
    pub(crate) proxy: &'a Programmer,
    /// The rules are as the snapshot wants them.
    pub(crate) ruled: bool,
    /// They have been before.
    pub(crate) programmed: bool,
}

/// Remembers a write.
pub(crate) fn wrote(history: &mut History, written: &Written<'_>) {
    let Written { snapshot, routes, proxy, .. } = *written;
    let is_in_place = |fragment: &Fragment| match fragment {
        Fragment::Service(service) => written.ruled && !proxy.is_left_out(service),
        Fragment::Route(dst) => !routes.is_refused(dst),
        Fragment::Link(_) => true,
    };
    let was_there = |fragment: &Fragment| match fragment {
        Fragment::Service(service) if !written.programmed => proxy.differed(service).map(|differed| !differed),
        Fragment::Route(dst) => Some(routes.was_there(dst)),
        _ => Some(false),
    };
    history.settled(&Settled {
        snapshot,
        began_us: micros(written.began),
        now_us: micros(SystemTime::now()),
        is_in_place: &is_in_place,
        was_there: &was_there,
    });
}
