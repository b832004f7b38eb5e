//! The store's law, in one process: expectations, order, watch, the past, reopening.

use std::collections::BTreeMap;
use std::sync::Arc;

use portolan_store::{Change, Engine, EngineOptions, Expect, Index, Op, Put, RangeError, Store, TxnError, WatchError};
use proptest::prelude::*;

#[derive(Debug)]
struct Length(usize);
impl Index for Length {
    fn of(_: &str, value: &[u8]) -> Self {
        Length(value.len())
    }
}

struct World {
    engine: Engine<Length>,
    runtime: tokio::runtime::Runtime,
    dir: tempfile::TempDir,
}

fn world(ring_events: usize) -> World {
    let dir = tempfile::tempdir().expect("a folder");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
    let engine = open(&dir, ring_events);
    World { engine, runtime, dir }
}

fn open(dir: &tempfile::TempDir, ring_events: usize) -> Engine<Length> {
    let options = EngineOptions { ring_events, ..EngineOptions::default() };
    Engine::open(&dir.path().join("store"), options).expect("the store opens")
}

fn put(key: &str, value: &str, expect: Expect) -> Op<Length> {
    let put = Put { value: value.into(), revision_at: None, index: Arc::new(Length(value.len())) };
    Op { key: key.into(), expect, change: Change::Put(put) }
}

fn delete(key: &str) -> Op<Length> {
    Op { key: key.into(), expect: Expect::Present, change: Change::Delete }
}

impl World {
    fn txn(&self, ops: Vec<Op<Length>>) -> Result<u64, TxnError> {
        self.runtime.block_on(self.engine.txn(ops)).map(|done| done.revision)
    }

    fn reopened(self) -> World {
        let World { engine, runtime, dir } = self;
        drop(engine);
        World { engine: open(&dir, 100), runtime, dir }
    }
}

fn contents(engine: &Engine<Length>, at: Option<u64>) -> BTreeMap<String, (String, u64)> {
    let range = engine.range("/", None, usize::MAX, at).expect("within the ring");
    let text = |value: &[u8]| String::from_utf8(value.to_vec()).expect("text");
    range.entries.iter().map(|entry| (entry.key.to_string(), (text(&entry.value), entry.revision))).collect()
}

#[test]
fn a_transaction_happens_whole_or_not_at_all() {
    let world = world(100);
    world.txn(vec![put("/a", "1", Expect::Absent), put("/claim/x", "", Expect::Absent)]).expect("both are free");
    let refused = world.txn(vec![put("/b", "2", Expect::Absent), put("/claim/x", "", Expect::Absent)]);
    assert!(matches!(refused, Err(TxnError::Unexpected { op: 1, .. })), "{refused:?}");
    assert!(world.engine.get("/b").is_none());
    assert_eq!(world.engine.revision(), 1);
}

#[test]
fn a_stale_revision_is_refused_and_a_present_one_taken() {
    let world = world(100);
    let first = world.txn(vec![put("/a", "1", Expect::Absent)]).expect("free");
    let second = world.txn(vec![put("/a", "2", Expect::Revision(first))]).expect("fresh");
    let stale = world.txn(vec![put("/a", "3", Expect::Revision(first))]);
    assert!(matches!(stale, Err(TxnError::Unexpected { found: Some(found), .. }) if found == second));
}

#[test]
fn the_revision_is_written_into_the_bytes_where_asked() {
    let world = world(100);
    for _ in 0..11 {
        world.txn(vec![put("/other", "", Expect::Any)]).expect("written");
    }
    let mut op = put("/a", "{rv:}", Expect::Absent);
    if let Change::Put(put) = &mut op.change {
        put.revision_at = Some(4);
    }
    world.txn(vec![op]).expect("free");
    let entry = world.engine.get("/a").expect("stored");
    assert_eq!(entry.value, "{rv:12}");
    assert_eq!(entry.value_at(1234), "{rv:1234}");
}

#[test]
fn a_reopened_store_holds_the_same() {
    let world = world(100);
    world.txn(vec![put("/a", "1", Expect::Absent)]).expect("written");
    world.txn(vec![put("/b", "22", Expect::Absent)]).expect("written");
    world.txn(vec![delete("/a")]).expect("deleted");
    let before = contents(&world.engine, None);
    let world = world.reopened();
    assert_eq!(contents(&world.engine, None), before);
    assert_eq!(world.engine.revision(), 3, "the deletion's revision is kept though no key carries it");
    assert_eq!(world.engine.get("/b").expect("kept").index.0, 2);
    assert_eq!(world.txn(vec![put("/c", "", Expect::Absent)]).expect("written"), 4);
}

#[test]
fn a_range_can_be_read_page_by_page_at_one_revision() {
    let world = world(100);
    for key in ["/p/a", "/p/b", "/p/c", "/q/a"] {
        world.txn(vec![put(key, "", Expect::Absent)]).expect("written");
    }
    let first = world.engine.range("/p/", None, 2, None).expect("now");
    assert!(first.more);
    world.txn(vec![delete("/p/c")]).expect("deleted");
    let second = world.engine.range("/p/", Some("/p/b"), 2, Some(first.revision)).expect("in the ring");
    assert_eq!(second.entries.iter().map(|entry| &*entry.key).collect::<Vec<_>>(), ["/p/c"]);
    assert!(!second.more);
}

#[test]
fn the_past_beyond_the_ring_is_refused() {
    let world = world(3);
    for count in 0..10 {
        world.txn(vec![put("/a", &count.to_string(), Expect::Any)]).expect("written");
    }
    assert!(matches!(world.engine.watch("/", 2), Err(WatchError::Expired { asked: 2, oldest: 7 })));
    assert!(matches!(world.engine.range("/", None, 9, Some(2)), Err(RangeError::Expired { .. })));
    assert!(world.engine.watch("/", 7).is_ok());
    world.engine.compact(9);
    assert!(matches!(world.engine.watch("/", 8), Err(WatchError::Expired { .. })));
}

#[test]
fn a_watcher_that_falls_behind_the_ring_is_told() {
    let world = world(3);
    let mut watch = world.engine.watch("/", 0).expect("from the start");
    for count in 0..10 {
        world.txn(vec![put("/a", &count.to_string(), Expect::Any)]).expect("written");
    }
    let cut = world.runtime.block_on(watch.next());
    assert!(matches!(cut, Err(WatchError::Expired { .. })), "{cut:?}");
}

#[test]
fn a_watcher_sees_its_prefix_only_and_moves_on_with_the_rest() {
    let world = world(100);
    let mut watch = world.engine.watch("/pods/", 0).expect("from the start");
    world.txn(vec![put("/pods/a", "1", Expect::Absent)]).expect("written");
    world.txn(vec![put("/nodes/a", "1", Expect::Absent)]).expect("written");
    world.txn(vec![delete("/pods/a")]).expect("deleted");
    let events = world.runtime.block_on(watch.next()).expect("events");
    assert_eq!(
        events.iter().map(|event| (event.revision, event.now.is_some())).collect::<Vec<_>>(),
        [(1, true), (3, false)]
    );
    assert_eq!(watch.seen(), 3);
}

#[test]
fn a_watcher_of_what_rarely_changes_is_not_left_behind_by_the_rest() {
    let world = world(80);
    let mut watch = world.engine.watch("/quiet/", 0).expect("from the start");
    world.runtime.block_on(async {
        let quiet = tokio::spawn(async move { watch.next().await.map(|events| events.len()) });
        for count in 0..500 {
            world.engine.txn(vec![put("/busy/a", &count.to_string(), Expect::Any)]).await.expect("written");
            tokio::task::yield_now().await;
        }
        world.engine.txn(vec![put("/quiet/a", "1", Expect::Absent)]).await.expect("written");
        let told = tokio::time::timeout(std::time::Duration::from_secs(60), quiet).await;
        assert_eq!(told.expect("it is told").expect("no panic"), Ok(1));
    });
}

#[test]
fn a_watcher_ends_when_the_store_does() {
    let World { runtime, engine, dir: _dir } = world(80);
    let mut watch = engine.watch("/", 0).expect("from the start");
    drop(engine);
    assert_eq!(runtime.block_on(watch.next()).map(|events| events.len()), Err(WatchError::Closed));
}

#[derive(Debug, Clone)]
enum Step {
    Put(u8, u8),
    Delete(u8),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        (0..6u8, any::<u8>()).prop_map(|(key, value)| Step::Put(key, value)),
        (0..6u8).prop_map(Step::Delete)
    ];
    proptest::collection::vec(step, 1..40)
}

fn op(step: &Step) -> Op<Length> {
    match step {
        Step::Put(key, value) => put(&format!("/k{key}"), &value.to_string(), Expect::Any),
        Step::Delete(key) => {
            Op { key: format!("/k{key}").as_str().into(), expect: Expect::Any, change: Change::Delete }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// Replaying a watch from any kept revision over the state of then gives the state of now, and
    /// reopening the log gives it too; writes sent one by one or all at once end the same.
    #[test]
    fn state_then_plus_events_is_state_now(steps in steps(), start in 0usize..40, together: bool) {
        let world = world(10_000);
        if together {
            let all: Vec<_> = steps.iter().map(|step| world.engine.txn(vec![op(step)])).collect();
            for one in all {
                world.runtime.block_on(one).expect("written");
            }
        } else {
            steps.iter().for_each(|step| { world.txn(vec![op(step)]).expect("written"); });
        }
        let now = contents(&world.engine, None);
        let newest = world.engine.revision();
        prop_assert_eq!(newest, steps.len() as u64, "one revision each");

        let from = (start as u64).min(newest);
        let mut then = contents(&world.engine, Some(from));
        let mut watch = world.engine.watch("/", from).expect("kept");
        if from < newest {
            // Deleting an absent key is no event: there may be nothing to wait for.
            let next = world.runtime.block_on(async {
                tokio::select! { biased; events = watch.next() => events.expect("kept"), () = std::future::ready(()) => Vec::new() }
            });
            for event in next {
                match &event.now {
                    Some(entry) => then.insert(event.key().into(), (String::from_utf8(entry.value.to_vec()).expect("text"), entry.revision)),
                    None => then.remove(event.key()),
                };
            }
        }
        prop_assert_eq!(&then, &now);
        prop_assert_eq!(contents(&world.reopened().engine, None), now);
    }
}
