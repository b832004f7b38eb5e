//! Kill -9 while writing: whatever was acknowledged is there afterwards.
//!
//! The test runs itself again as a child that writes and prints each acknowledged key.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;

use portolan_store::{Change, Engine, EngineOptions, Expect, Index, Op, Put, Store};

const CHILD_DIR: &str = "PTL_STORE_CHILD_DIR";
const ROUNDS: usize = 8;

struct NoIndex;
impl Index for NoIndex {
    fn of(_: &str, _: &[u8]) -> Self {
        NoIndex
    }
}

fn open(path: &Path) -> Engine<NoIndex> {
    Engine::open(path, EngineOptions::default()).expect("the store opens")
}

fn put(key: &str, value: String) -> Op<NoIndex> {
    let put = Put { value: value.into_bytes(), revision_at: None, index: Arc::new(NoIndex) };
    Op { key: key.into(), expect: Expect::Any, change: Change::Put(put) }
}

/// Child: four writers, each overwriting its own 50 keys for ever; every acknowledgement is printed.
#[test]
fn child_writes_until_killed() {
    let Ok(dir) = std::env::var(CHILD_DIR) else { return };
    let engine = Arc::new(open(Path::new(&dir)));
    let start = engine.revision();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).build().expect("a runtime");
    runtime.block_on(async {
        let writers = (0..4).map(|writer| {
            let engine = engine.clone();
            tokio::spawn(async move {
                for count in 0u64.. {
                    let (key, value) = (format!("/w{writer}/k{}", count % 50), format!("{start}-{count}"));
                    let done = engine.txn(vec![put(&key, value.clone())]).await.expect("written");
                    println!("ACK {key} {value} {}", done.revision);
                }
            })
        });
        for writer in writers.collect::<Vec<_>>() {
            writer.await.expect("runs until killed");
        }
    });
}

/// key -> (revision, value) of every acknowledged write.
fn write_and_kill(dir: &Path, acks: usize) -> BTreeMap<String, (u64, String)> {
    let mut child = Command::new(std::env::current_exe().expect("own path"))
        .args(["--exact", "child_writes_until_killed", "--nocapture"])
        .env(CHILD_DIR, dir)
        .stdout(Stdio::piped())
        .spawn()
        .expect("the child starts");
    let mut acknowledged = BTreeMap::new();
    let mut lines = BufReader::new(child.stdout.take().expect("piped")).lines();
    let mut take = |line: String| {
        let words: Vec<_> = line.split_whitespace().collect();
        let Some(at) = words.iter().position(|word| word.ends_with("ACK")) else { return };
        // A line cut short by the kill says nothing certain.
        let [key, value, revision] = words[at + 1..] else { return };
        let Ok(revision) = revision.parse() else { return };
        acknowledged.insert(key.to_owned(), (revision, value.to_owned()));
    };
    lines.by_ref().take(acks).for_each(|line| take(line.expect("the child speaks")));
    child.kill().expect("SIGKILL");
    child.wait().expect("reaped");
    // What stood in the pipe was acknowledged too; only whole lines count.
    let rest: Vec<String> = lines.map_while(Result::ok).collect();
    let whole = rest.len().saturating_sub(1);
    rest.into_iter().take(whole).for_each(take);
    acknowledged
}

#[test]
fn every_acknowledged_write_survives_kill_9() {
    let dir = tempfile::tempdir().expect("a folder");
    let path = dir.path().join("store");
    let mut last_revision = 0;
    for round in 0..ROUNDS {
        let acknowledged = write_and_kill(&path, 100 + 150 * round);
        assert!(!acknowledged.is_empty());
        let engine = open(&path);
        for (key, (revision, value)) in &acknowledged {
            let entry = engine.get(key).unwrap_or_else(|| panic!("{key} was acknowledged at {revision} and is gone"));
            assert!(entry.revision >= *revision, "{key}: stored revision went back");
            if entry.revision == *revision {
                assert_eq!(entry.value, value.as_bytes());
            }
            last_revision = last_revision.max(*revision);
        }
        assert!(engine.revision() >= last_revision, "the revision never goes back");
    }
}
