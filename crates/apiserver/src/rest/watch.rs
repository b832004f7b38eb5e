//! Watch: events as lines of JSON, for as long as the client wants them.
//!
//! ```text
//!  start ─► [initial ADDED … bookmark] ─► events after a revision ─► end at timeoutSeconds
//! ```
//! An object that leaves the selection arrives as DELETED, one that enters as ADDED. Who asks for a past
//! that is forgotten, at the start or later, gets one ERROR event, Status 410, inside a 200: clients
//! list again on that, and try the same again for ever on a plain error.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::stream;
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;
use jiff::Timestamp;
use portolan_store::{Event, Watch, WatchError};
use rand::Rng;
use serde_json::{Value, json};
use tokio::time::{Instant, Interval, MissedTickBehavior};

use super::read::{self, Selection};
use super::{Answer, BoxError, Call};
use crate::object::{ObjectIndex, Stored};
use crate::registry::Resource;
use crate::request::{Form, Query};
use crate::status::{ApiError, ApiResult};
use crate::{table, view};

/// How often a client that asked for bookmarks hears of progress.
const BOOKMARK_EVERY: Duration = Duration::from_secs(60);
/// Bytes of one chunk to the client; a single object may be larger.
const CHUNK_BYTES: usize = 256 << 10;

pub fn watch(call: &Call) -> Answer {
    let mut stream = Stream::open(call)?;
    if let Some(name) = &call.target.name {
        // `GET .../pods/NAME?watch=true` is the old way to say metadata.name=NAME.
        stream.only = Some(name.clone());
    }
    let body = StreamBody::new(stream::unfold(stream, |mut stream| async move {
        let chunk = stream.chunk().await?;
        Some((Ok::<_, BoxError>(Frame::data(chunk)), stream))
    }));
    let mut response = super::json_response(200, Bytes::new());
    *response.body_mut() = body.boxed_unsync();
    Ok(response)
}

/// One client's watch.
struct Stream {
    encoder: Encoder,
    selection: Selection,
    only: Option<String>,
    queue: VecDeque<Vec<u8>>,
    /// None: the past asked for is not there.
    source: Option<Watch<ObjectIndex>>,
    bookmarks: Option<Interval>,
    end: Instant,
    over: bool,
}

impl Stream {
    fn open(call: &Call) -> ApiResult<Stream> {
        let (query, resource) = (&call.query, call.target.resource);
        let selection = Selection::of(query, call.asked)?;
        let mut encoder = Encoder::new(call);
        let mut queue = VecDeque::new();
        let start = Start::of(query)?;
        let after = match start {
            Start::At(revision) => revision,
            Start::Initial { .. } => {
                let found = read::select(call)?;
                queue.extend(found.entries.iter().map(|entry| encoder.entry("ADDED", entry)));
                found.revision
            }
        };
        if let Start::Initial { mark_end: true } = start {
            queue.push_back(encoder.bookmark(after, true));
        }
        let prefix = resource.prefix(call.target.namespace.as_deref());
        let source = match events_after(call, &prefix, after) {
            Ok(source) => Some(source),
            Err(error) => {
                queue.push_back(error_line(&error));
                None
            }
        };
        let secs = query.number("timeoutSeconds").filter(|secs: &u64| *secs > 0);
        let secs = secs.unwrap_or_else(|| rand::rng().random_range(1800..3600));
        Ok(Stream {
            encoder,
            selection,
            only: None,
            queue,
            over: source.is_none(),
            source,
            bookmarks: query.is_set("allowWatchBookmarks").then(bookmark_interval),
            end: Instant::now() + Duration::from_secs(secs),
        })
    }

    /// The next bytes for the client; `None` when the watch is over.
    async fn chunk(&mut self) -> Option<Bytes> {
        loop {
            if !self.queue.is_empty() {
                return Some(self.drain());
            }
            if self.over {
                return None;
            }
            self.wait().await;
        }
    }

    fn drain(&mut self) -> Bytes {
        let mut chunk = self.queue.pop_front().unwrap_or_default();
        while self.queue.front().is_some_and(|next| chunk.len() + next.len() <= CHUNK_BYTES) {
            chunk.extend(self.queue.pop_front().unwrap_or_default());
        }
        chunk.into()
    }

    async fn wait(&mut self) {
        let Some(source) = &mut self.source else { return };
        let tick = async {
            match &mut self.bookmarks {
                Some(interval) => drop(interval.tick().await),
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            batch = source.next() => match batch {
                Ok(events) => self.take(&events),
                Err(error) => {
                    self.queue.push_back(error_line(&gone(&error)));
                    self.over = true;
                }
            },
            () = tick => {
                let bookmark = self.encoder.bookmark(source.seen(), false);
                self.queue.push_back(bookmark);
            }
            () = tokio::time::sleep_until(self.end) => self.over = true,
        }
    }

    fn take(&mut self, events: &[Arc<Event<ObjectIndex>>]) {
        for event in events {
            let takes = |entry: &Stored| {
                self.selection.takes(entry) && self.only.as_ref().is_none_or(|name| *name == entry.index.name)
            };
            let encoded = match told(event, takes) {
                Some(Told::Added(now)) => self.encoder.entry("ADDED", now),
                Some(Told::Modified(now)) => self.encoder.entry("MODIFIED", now),
                Some(Told::Deleted(before)) => self.encoder.object("DELETED", &before.value_at(event.revision)),
                None => continue,
            };
            self.queue.push_back(encoded);
        }
    }
}

/// What a change is for somebody who sees only part of the objects.
enum Told<'a> {
    Added(&'a Stored),
    Modified(&'a Stored),
    Deleted(&'a Stored),
}

fn told(event: &Event<ObjectIndex>, takes: impl Fn(&Stored) -> bool) -> Option<Told<'_>> {
    let seen = event.before.as_ref().filter(|entry| takes(entry));
    let shown = event.now.as_ref().filter(|entry| takes(entry));
    match (seen, shown) {
        (None, Some(now)) => Some(Told::Added(now)),
        (Some(_), Some(now)) => Some(Told::Modified(now)),
        (Some(before), None) => Some(Told::Deleted(before)),
        (None, None) => None,
    }
}

fn bookmark_interval() -> Interval {
    let mut interval = tokio::time::interval_at(Instant::now() + BOOKMARK_EVERY, BOOKMARK_EVERY);
    interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
    interval
}

/// A revision ahead of ours comes from a store that is no more; the client must begin anew as well.
fn events_after(call: &Call, prefix: &str, after: u64) -> ApiResult<Watch<ObjectIndex>> {
    let newest = call.api.store.revision();
    if after > newest {
        return Err(ApiError::expired(format!("too large resource version: {after}, current: {newest}")));
    }
    call.api.store.watch(prefix, after).map_err(|error| gone(&error))
}

fn error_line(error: &ApiError) -> Vec<u8> {
    line("ERROR", error.to_value().to_string().as_bytes())
}

fn gone(error: &WatchError) -> ApiError {
    match error {
        WatchError::Expired { .. } => ApiError::expired(error.to_string()),
        WatchError::Closed => ApiError::unavailable("the server is stopping"),
    }
}

/// Where a watch begins.
enum Start {
    /// Everything there is, then changes.
    Initial { mark_end: bool },
    /// Changes after a revision.
    At(u64),
}

impl Start {
    fn of(query: &Query) -> ApiResult<Start> {
        let streams_list = query.get("sendInitialEvents") == Some("true");
        if streams_list {
            if query.get("resourceVersionMatch") != Some("NotOlderThan") {
                let message = "resourceVersionMatch: Forbidden: sendInitialEvents requires setting resourceVersionMatch to NotOlderThan";
                return Err(ApiError::new(422, "Invalid", message));
            }
            return Ok(Start::Initial { mark_end: query.is_set("allowWatchBookmarks") });
        }
        match query.given("resourceVersion") {
            None | Some("0") if query.get("sendInitialEvents") != Some("false") => {
                Ok(Start::Initial { mark_end: false })
            }
            None => Ok(Start::At(0)),
            Some(version) => Ok(Start::At(read::parse_revision(version)?)),
        }
    }
}

/// Turns objects into lines, in the form the client asked for.
struct Encoder {
    resource: &'static Resource,
    form: Form,
    query: Query,
    /// Column headings go out once.
    headed: bool,
}

impl Encoder {
    fn new(call: &Call) -> Encoder {
        Encoder { resource: call.asked, form: call.form, query: call.query.clone(), headed: false }
    }

    fn entry(&mut self, kind: &str, entry: &Stored) -> Vec<u8> {
        self.object(kind, &entry.value)
    }

    fn object(&mut self, kind: &str, bytes: &[u8]) -> Vec<u8> {
        if self.form == Form::Json && self.resource.view.is_none() {
            return line(kind, bytes);
        }
        let object: Value = serde_json::from_slice(bytes).expect("only JSON objects are ever stored");
        let shaped = match self.form {
            Form::Table => {
                self.table(std::slice::from_ref(&object), crate::object::text(&object, "/metadata/resourceVersion"))
            }
            Form::Json => view::shown(self.resource, object),
            Form::Partial => table::partial(&object),
        };
        line(kind, shaped.to_string().as_bytes())
    }

    fn table(&mut self, objects: &[Value], version: &str) -> Value {
        let mut table = table::table(self.resource, objects, version, &self.query, Timestamp::now());
        if std::mem::replace(&mut self.headed, true) {
            table["columnDefinitions"] = Value::Null;
        }
        table
    }

    fn bookmark(&mut self, revision: u64, ends_initial: bool) -> Vec<u8> {
        let version = revision.to_string();
        let mut meta = json!({ "resourceVersion": version, "creationTimestamp": null });
        if ends_initial {
            meta["annotations"] = json!({ "k8s.io/initial-events-end": "true" });
        }
        let object = match self.form {
            Form::Table => {
                let row = json!({ "cells": [], "object": { "kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": meta } });
                let mut table = self.table(&[], &version);
                table["rows"] = json!([row]);
                table
            }
            Form::Partial => {
                json!({ "kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": meta })
            }
            Form::Json => {
                json!({ "kind": self.resource.kind, "apiVersion": self.resource.api_version(), "metadata": meta })
            }
        };
        line("BOOKMARK", object.to_string().as_bytes())
    }
}

/// `{"type":"ADDED","object":{…}}` and a line's end.
fn line(kind: &str, object: &[u8]) -> Vec<u8> {
    let mut line = Vec::with_capacity(object.len() + 40);
    line.extend_from_slice(br#"{"type":""#);
    line.extend_from_slice(kind.as_bytes());
    line.extend_from_slice(br#"","object":"#);
    line.extend_from_slice(object);
    line.extend_from_slice(b"}\n");
    line
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use portolan_store::{Change, Engine, EngineOptions, Expect, Store};
    use proptest::prelude::*;

    use super::*;
    use crate::object;
    use crate::registry;
    use crate::rest::op;

    /// One write: object, colour and phase; no colour deletes.
    type Step = (u8, Option<(u8, bool)>);

    fn write(engine: &Engine<ObjectIndex>, runtime: &tokio::runtime::Runtime, (name, state): &Step) {
        let pods = registry::row("pods");
        let change = match state {
            None => Change::Delete,
            Some((colour, running)) => Change::Put(object::encode(
                pods,
                json!({
                    "metadata": { "name": format!("p{name}"), "labels": { "colour": format!("c{colour}") } },
                    "status": { "phase": if *running { "Running" } else { "Pending" } },
                }),
            )),
        };
        let write = op(&pods.key("default", &format!("p{name}")), Expect::Any, change);
        runtime.block_on(engine.txn(vec![write])).expect("written");
    }

    fn listed(engine: &Engine<ObjectIndex>, selection: &Selection, at: Option<u64>) -> BTreeMap<String, Bytes> {
        let range = engine.range(&registry::row("pods").prefix(None), None, usize::MAX, at).expect("kept");
        let taken = range.entries.into_iter().filter(|entry| selection.takes(entry));
        taken.map(|entry| (entry.index.name.clone(), entry.value)).collect()
    }

    fn replay(known: &mut BTreeMap<String, Bytes>, told: &Told) -> Result<(), TestCaseError> {
        match told {
            Told::Added(entry) => prop_assert!(known.insert(entry.index.name.clone(), entry.value.clone()).is_none()),
            Told::Modified(entry) => {
                prop_assert!(known.insert(entry.index.name.clone(), entry.value.clone()).is_some())
            }
            Told::Deleted(entry) => prop_assert!(known.remove(&entry.index.name).is_some()),
        }
        Ok(())
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]

        /// For every selection and start: the list of then plus the watch's events is the list of now.
        /// Nothing is added twice, changed or deleted unseen.
        #[test]
        fn a_selected_list_plus_its_watch_is_the_selected_list_of_now(
            steps in proptest::collection::vec((0..4u8, proptest::option::weighted(0.8, (0..3u8, any::<bool>()))), 1..30),
            start in 0..30u64,
            selector in prop_oneof![Just("labelSelector=colour%3Dc1"), Just("labelSelector=colour+notin+(c1)"),
                Just("fieldSelector=status.phase%3DRunning"), Just("")],
        ) {
            let dir = tempfile::tempdir().expect("a folder");
            let engine = Engine::open(dir.path(), EngineOptions::default()).expect("the store opens");
            let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
            steps.iter().for_each(|step| write(&engine, &runtime, step));
            let selection = Selection::of(&Query::parse(selector), registry::row("pods")).expect("a selection");

            let start = start.min(engine.revision());
            let mut known = listed(&engine, &selection, Some(start));
            let mut watch = engine.watch(&registry::row("pods").prefix(None), start).expect("kept");
            let events = runtime.block_on(async {
                // Nothing may be left to wait for.
                tokio::select! { biased; events = watch.next() => events.expect("kept"), () = std::future::ready(()) => Vec::new() }
            });
            for event in &events {
                if let Some(told) = told(event, |entry| selection.takes(entry)) {
                    replay(&mut known, &told)?;
                }
            }
            prop_assert_eq!(known, listed(&engine, &selection, None));
        }
    }
}
