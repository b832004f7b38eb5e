//! This node's connections with names: `POST /portolan/v1/flows`, `GET /portolan/v1/rates`.
//!
//! ```text
//!  conntrack's table ────────────┐
//!                                ├─► story::flows, with the names of the core's snapshot ─► JSON
//!  conntrack's events, a while ──┘
//! ```
//!
//! What is not asked for is left out here, so that a hundred thousand connections of others do not travel. No setting of
//! the kernel is changed: bytes and ages are told where the node counts them anyway.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use axum::extract::{DefaultBodyLimit, Query, State};
use axum::http::StatusCode;
use axum::routing::{get, post};
use axum::{Json, Router};
use portolan_kernel::conntrack::{Conntrack, ConntrackError, ConntrackEvent, ConntrackEvents, Entry, Tuple};
use portolan_model::{NsName, Proto, Snapshot};
use portolan_story::evidence::Header;
use portolan_story::flows::{Ask, Names, NodeFlows, NodeRates, Opened, Tracked, answer};
use rustix::event::{PollFd, PollFlags, poll};
use serde::Deserialize;

use crate::api::NodeApi;

/// Headers that another node told of: some thousands of them.
const LONGEST_QUESTION: usize = 16 << 20;
/// What `rates` counts for, if nothing else is asked.
const COUNTED_MILLIS: u64 = 1000;
const LONGEST_COUNT_MILLIS: u64 = 60_000;
/// `0`: the kernel tells of no connection.
const EVENTS_SETTING: &str = "/proc/sys/net/netfilter/nf_conntrack_events";

/// Why there is no answer.
type Refusal = (StatusCode, String);

/// Paths for the API server's certificate only.
pub(crate) fn routes() -> Router<Arc<NodeApi>> {
    Router::new()
        .route("/portolan/v1/flows", post(flows).layer(DefaultBodyLimit::max(LONGEST_QUESTION)))
        .route("/portolan/v1/rates", get(rates))
}

async fn flows(State(api): State<Arc<NodeApi>>, Json(ask): Json<Ask>) -> Result<Json<NodeFlows>, Refusal> {
    let snapshot = snapshot(&api).await?;
    let answered = move || {
        let names = Names::of(&snapshot);
        let table = table()?;
        Ok(answer(&names, &table, &ask))
    };
    blocking(answered).await.map(Json)
}

/// Query of `rates`.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct RatesQuery {
    /// For how long connections are counted.
    millis: Option<u64>,
    /// Of this Service alone: `namespace/name`.
    service: Option<String>,
}

async fn rates(State(api): State<Arc<NodeApi>>, Query(query): Query<RatesQuery>) -> Result<Json<NodeRates>, Refusal> {
    let millis = query.millis.unwrap_or(COUNTED_MILLIS);
    if !(1..=LONGEST_COUNT_MILLIS).contains(&millis) {
        return Err(bad(format!("millis={millis}: connections are counted for 1 to {LONGEST_COUNT_MILLIS} ms\n")));
    }
    let service = query.service.as_deref().map(service_named).transpose()?;
    let (opened, lost, interval) = blocking(move || count(Duration::from_millis(millis))).await?;
    // Named by what is known at the end: a Service may be as young as its connections.
    let snapshot = snapshot(&api).await?;
    let named = move || {
        let names = Names::of(&snapshot);
        let rates = names.rates(&opened, &table()?, service.as_ref());
        let interval_us = u64::try_from(interval.as_micros()).unwrap_or(u64::MAX);
        Ok(NodeRates { node: names.node().clone(), interval_us, lost, rates })
    };
    blocking(named).await.map(Json)
}

fn service_named(text: &str) -> Result<NsName, Refusal> {
    let (namespace, name) = text.split_once('/').ok_or_else(|| bad(format!("service={text}: say namespace/name\n")))?;
    Ok(NsName::new(namespace, name))
}

fn bad(why: String) -> Refusal {
    (StatusCode::BAD_REQUEST, why)
}

async fn snapshot(api: &NodeApi) -> Result<Arc<Snapshot>, Refusal> {
    let asked = api.core.ask(|view| view.snapshot.clone()).await;
    asked.ok_or_else(|| (StatusCode::SERVICE_UNAVAILABLE, "this agent is about to end\n".to_owned()))
}

/// Runs what waits for the kernel beside everything else.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T, Refusal> + Send + 'static) -> Result<T, Refusal> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|e| (StatusCode::INTERNAL_SERVER_ERROR, format!("{e}\n")))?
}

fn table() -> Result<Vec<Tracked>, Refusal> {
    let entries = Conntrack::open().and_then(|mut table| table.list()).map_err(|e| refused(&e))?;
    let now = SystemTime::now();
    Ok(entries.iter().filter_map(|entry| tracked(entry, now)).collect())
}

fn refused(error: &ConntrackError) -> Refusal {
    (StatusCode::SERVICE_UNAVAILABLE, format!("{error}\n"))
}

/// An entry in the words of `story`; `None` for protocols without ports.
fn tracked(entry: &Entry, now: SystemTime) -> Option<Tracked> {
    let age = |began_ns| {
        let since_1970 = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        since_1970.saturating_sub(Duration::from_nanos(began_ns)).as_secs()
    };
    Some(Tracked {
        original: header(entry.protocol, &entry.original)?,
        reply: header(entry.protocol, &entry.reply)?,
        state: entry.state.map(Into::into),
        answered: entry.has_seen_reply(),
        timeout_secs: entry.timeout_secs,
        carried: entry.carried.map(|carried| (carried.original_bytes, carried.reply_bytes)),
        age_secs: entry.began_ns.map(age),
    })
}

fn header(protocol: u8, tuple: &Tuple) -> Option<Header> {
    let proto = match i32::from(protocol) {
        libc::IPPROTO_TCP => Proto::Tcp,
        libc::IPPROTO_UDP => Proto::Udp,
        libc::IPPROTO_SCTP => Proto::Sctp,
        _ => return None,
    };
    Some(Header { src: (tuple.src, tuple.src_port).into(), dst: (tuple.dst, tuple.dst_port).into(), proto })
}

/// Counts the connections that begin from now on for so long. Whether some were lost, and how long it was, come with it.
fn count(interval: Duration) -> Result<(Opened, bool, Duration), Refusal> {
    if std::fs::read_to_string(EVENTS_SETTING).is_ok_and(|value| value.trim() == "0") {
        let why = "this node's net.netfilter.nf_conntrack_events is 0: its kernel tells of no new connection\n";
        return Err((StatusCode::SERVICE_UNAVAILABLE, why.to_owned()));
    }
    let mut events = ConntrackEvents::of_beginnings().map_err(|e| refused(&e))?;
    let (began, mut opened, mut lost) = (Instant::now(), Opened::default(), false);
    loop {
        let elapsed = began.elapsed();
        for event in events.read().map_err(|e| refused(&e))? {
            match event {
                ConntrackEvent::Began(entry) => saw(&mut opened, &entry),
                ConntrackEvent::Lost => lost = true,
                ConntrackEvent::Changed(_) | ConntrackEvent::Ended(_) => {}
            }
        }
        if elapsed >= interval {
            return Ok((opened, lost, elapsed));
        }
        let left = interval.saturating_sub(began.elapsed());
        let wait = rustix::event::Timespec { tv_sec: left.as_secs() as i64, tv_nsec: left.subsec_nanos().into() };
        // Interrupted or not, the next look is at the clock.
        let _ = poll(&mut [PollFd::new(&events, PollFlags::IN)], Some(&wait));
    }
}

fn saw(opened: &mut Opened, entry: &Entry) {
    if let (Some(original), Some(reply)) =
        (header(entry.protocol, &entry.original), header(entry.protocol, &entry.reply))
    {
        opened.saw(&original, &reply);
    }
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr};

    use super::*;

    fn entry(protocol: u8) -> Entry {
        let addr = |last| IpAddr::V4(Ipv4Addr::new(10, 0, 0, last));
        Entry {
            protocol,
            original: Tuple { src: addr(1), dst: addr(2), src_port: 1000, dst_port: 80 },
            reply: Tuple { src: addr(3), dst: addr(1), src_port: 8080, dst_port: 1000 },
            status: 1 << 1,
            mark: 0,
            timeout_secs: 9,
            id: 7,
            state: Some("ESTABLISHED"),
            carried: None,
            began_ns: Some(1_500_000_000),
        }
    }

    #[test]
    fn an_entry_keeps_its_tuples_and_its_age_counts_from_now() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(61);
        let told = tracked(&entry(6), now).expect("TCP has ports");
        assert_eq!(told.original.dst.to_string(), "10.0.0.2:80");
        assert_eq!(told.reply.src.to_string(), "10.0.0.3:8080");
        assert_eq!((told.answered, told.age_secs, told.state.as_deref()), (true, Some(59), Some("ESTABLISHED")));
        assert_eq!(tracked(&entry(1), now), None, "ICMP has none");
    }
}
