//! Watches as clients read them: raw lines of JSON.

mod common;

use std::io::{BufRead, BufReader, Lines};
use std::process::{Child, ChildStdout, Stdio};

use common::{World, command, world};
use serde_json::Value;

/// A raw watch that goes on until dropped.
struct Events {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Events {
    fn of(world: &World, path: &str) -> Events {
        let mut child = command(&world.kubeconfig, world.dir.path())
            .args(["get", "--raw", path])
            .stdout(Stdio::piped())
            .spawn()
            .expect("kubectl starts");
        let lines = BufReader::new(child.stdout.take().expect("piped")).lines();
        Events { child, lines }
    }

    fn next(&mut self) -> Value {
        let line = self.lines.next().expect("the watch goes on").expect("text");
        serde_json::from_str(&line).expect("one JSON object a line")
    }

    /// `TYPE name` of the next events.
    fn told(&mut self, count: usize) -> Vec<String> {
        let told = |event: Value| {
            let text = |pointer| event.pointer(pointer).and_then(Value::as_str).unwrap_or("-").to_owned();
            format!("{} {}", text("/type"), text("/object/metadata/name"))
        };
        (0..count).map(|_| told(self.next())).collect()
    }
}

impl Drop for Events {
    fn drop(&mut self) {
        // It may have ended by itself.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

const MAPS: &str = "/api/v1/namespaces/default/configmaps";

fn version(world: &World, what: &str) -> u64 {
    world.field(what, ".metadata.resourceVersion").parse().expect("a number")
}

#[test]
fn an_object_that_leaves_a_selection_is_deleted_there_and_one_that_enters_is_added() {
    let world = world();
    let mut red = Events::of(&world, &format!("{MAPS}?watch=true&labelSelector=colour%3Dred&resourceVersion=0"));
    world.kubectl("create configmap a --from-literal=x=1").done();
    world.kubectl("label cm a colour=red").done();
    world.kubectl("label cm a other=1").done();
    world.kubectl("label cm a colour=blue --overwrite").done();
    let left_at = version(&world, "cm/a");
    world.kubectl("label cm a colour=red --overwrite").done();
    world.kubectl("delete cm a").done();
    assert_eq!(red.told(2), ["ADDED a", "MODIFIED a"]);
    let left = red.next();
    assert_eq!(left["type"], "DELETED");
    assert_eq!(left["object"]["metadata"]["resourceVersion"], left_at.to_string(), "the revision at which it left");
    assert_eq!(left["object"]["metadata"]["labels"]["colour"], "red", "the last state that was selected");
    assert_eq!(red.told(2), ["ADDED a", "DELETED a"]);
}

#[test]
fn a_streaming_list_ends_with_its_bookmark_and_goes_on() {
    let world = world();
    world.kubectl("create configmap a --from-literal=x=1").done();
    world.kubectl("create configmap b --from-literal=x=1").done();
    let path =
        format!("{MAPS}?watch=true&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true");
    let mut events = Events::of(&world, &path);
    assert_eq!(events.told(2), ["ADDED a", "ADDED b"]);
    let mark = events.next();
    assert_eq!(mark["type"], "BOOKMARK");
    assert_eq!(mark["object"]["metadata"]["annotations"]["k8s.io/initial-events-end"], "true");
    assert_eq!(mark["object"]["metadata"]["resourceVersion"], version(&world, "cm/b").to_string());
    world.kubectl("delete cm a").done();
    assert_eq!(events.told(1), ["DELETED a"]);
    let refused = world.kubectl(&format!("get --raw {MAPS}?watch=true&sendInitialEvents=true")).refused();
    assert!(refused.contains("NotOlderThan"), "{refused}");
}

#[test]
fn a_watch_from_a_revision_sees_what_came_after_it_in_order() {
    let world = world();
    world.kubectl("create configmap a --from-literal=x=1").done();
    let after_first = version(&world, "cm/a");
    world.kubectl("create configmap b --from-literal=x=1").done();
    world.kubectl("delete cm a").done();
    let mut events = Events::of(&world, &format!("{MAPS}?watch=true&resourceVersion={after_first}"));
    assert_eq!(events.told(2), ["ADDED b", "DELETED a"]);
}

#[test]
fn a_revision_that_is_not_there_ends_the_watch_with_one_error_event() {
    let world = world();
    // 410 inside the stream: on a plain error clients would ask for the same again.
    let ahead = Events::of(&world, &format!("{MAPS}?watch=true&resourceVersion=999999")).next();
    assert_eq!((&ahead["type"], &ahead["object"]["code"]), (&"ERROR".into(), &410.into()));
    let ahead = world.kubectl(&format!("get --raw {MAPS}?resourceVersion=999999")).refused();
    assert!(ahead.contains("Too large resource version"), "{ahead}");
}

#[test]
fn pages_of_a_list_hold_for_the_revision_of_the_first() {
    let world = world();
    for name in ["a", "b", "c"] {
        world.kubectl(&format!("create configmap {name} --from-literal=x=1")).done();
    }
    let page = |query: &str| -> Value {
        serde_json::from_str(&world.kubectl(&format!("get --raw {MAPS}?{query}")).done()).expect("JSON")
    };
    let names = |list: &Value| -> Vec<String> {
        let items = list["items"].as_array().expect("items");
        items.iter().map(|item| item["metadata"]["name"].as_str().expect("a name").to_owned()).collect()
    };
    let first = page("limit=2");
    assert_eq!(names(&first), ["a", "b"]);
    assert_eq!(first["metadata"]["remainingItemCount"], 1);
    world.kubectl("delete cm c").done();
    let token = first["metadata"]["continue"].as_str().expect("a token");
    let second = page(&format!("limit=2&continue={token}"));
    assert_eq!(names(&second), ["c"], "as it was when the first page was read");
    assert_eq!(names(&page("")), ["a", "b"]);
}
