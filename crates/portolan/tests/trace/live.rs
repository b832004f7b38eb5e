//! Connections of others: the next one is followed, wherever it comes from, and nothing is sent.

use std::process::Stdio;

use portolan_story::story::{End, Stage, Story};

use crate::support::{Space, World, portolan};
use crate::world::{SPACE, trace};

/// A client's connections are followed while it makes them.
pub fn follows(world: &World, space: Space) {
    let all = while_asked(world, space, "pod/client svc/open --live --count 3 --timeout 60", "http://open");
    assert_eq!(all.len(), 3, "{all:?}");
    let sources: std::collections::BTreeSet<_> = all.iter().filter_map(client_of).collect();
    assert_eq!(sources.len(), 3, "three connections, not one three times: {sources:?}");
    for story in &all {
        assert_eq!(story.verdict.end, End::Delivered, "{:?}", story.verdict);
        assert!(story.asked.live && story.verdict.took_us.is_none(), "nobody of us sent it");
        assert!(story.hops.iter().any(|hop| hop.stage == Stage::Deliver && hop.node.as_deref() == Some("node-2")));
    }
    let anyone = while_asked(world, space, "any svc/open --live --timeout 60", "http://open");
    assert_eq!(anyone.iter().map(|story| story.verdict.end).collect::<Vec<_>>(), [End::Delivered]);
}

/// Nobody comes: it says so in time.
pub fn waits_in_vain(world: &World) {
    let told = trace(world, "pod/deaf svc/open --live");
    assert_eq!((told.code, told.story.verdict.end), (Some(1), End::NotSeen), "{}", told.verdict());
}

/// The client asks again and again until the trace has ended.
fn while_asked(world: &World, space: Space, args: &str, url: &str) -> Vec<Story> {
    let mut command = portolan();
    command.env("KUBECONFIG", world.lab().kubeconfig()).args(["trace", "-n", SPACE, "--output", "json"]);
    command.args(args.split_whitespace()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("portolan runs");
    while child.try_wait().expect("its state").is_none() {
        space.exec("client", &["curl", "-s", "-o", "/dev/null", "-m", "5", url]);
    }
    let output = child.wait_with_output().expect("it has ended");
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert_eq!(output.status.code(), Some(0), "{out}{err}");
    let stories = serde_json::Deserializer::from_str(&out).into_iter::<Story>();
    stories.map(|story| story.expect("a story")).collect()
}

fn client_of(story: &Story) -> Option<std::net::SocketAddr> {
    story.hops.iter().find_map(|hop| hop.change).map(|(before, _)| before.src)
}
