//! Events are forgotten an hour after they were last seen.

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::Event;

use crate::object::{Id, Kind};
use crate::plan::{Plan, Write};
use crate::world::World;

const LIFETIME: SignedDuration = SignedDuration::from_hours(1);

pub fn reconcile(world: &World, id: &Id, now: Timestamp) -> Plan {
    let Some(event) = world.get::<Event>(id) else {
        return Plan::idle();
    };
    let expires = last_seen(event).unwrap_or(now) + LIFETIME;
    if expires <= now {
        return Plan::of(vec![Write::delete(Kind::Event, &event.metadata)]);
    }
    Plan::idle().wake(Some(expires))
}

fn last_seen(event: &Event) -> Option<Timestamp> {
    let series = event.series.as_ref();
    let series = series.and_then(|series| series.last_observed_time.as_ref());
    let times = [
        event.metadata.creation_timestamp.as_ref().map(|time| time.0),
        event.last_timestamp.as_ref().map(|time| time.0),
        event.event_time.as_ref().map(|time| time.0),
        series.map(|time| time.0),
    ];
    times.into_iter().flatten().max()
}
