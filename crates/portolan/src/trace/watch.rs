//! Watches: every node listens for one flow, at once; what they saw is collected, at once.
//!
//! ```text
//!  nodes ── POST trace (Watch) ──► ids ── … the packet … ──► POST trace/ID/end ──► NodeEvidence, a node each
//! ```
//!
//! A node that does not answer is told of; only the sender's must.

use std::collections::BTreeMap;
use std::time::Duration;

use futures::future::join_all;
use kube::Client;
use portolan_model::Text;
use portolan_story::evidence::{NodeEvidence, Probe, Probed, Seen, Watch, Watching};

use crate::gather::agents::{self, Unanswered};

/// A node that has not begun to listen within this long is left out.
const ARM_WITHIN: Duration = Duration::from_secs(2);
/// The same for a node that the cluster says is not Ready: it may listen all the same.
const ARM_UNREADY_WITHIN: Duration = Duration::from_millis(700);
/// What was seen must be read back from the kernel and named.
const END_WITHIN: Duration = Duration::from_secs(10);
/// The longest that one question for news waits.
const LONGEST_POLL: Duration = Duration::from_secs(30);
/// How much later than its time a node may answer.
const SLACK: Duration = Duration::from_secs(5);

/// A node that is to listen.
pub struct Ear {
    /// Its name.
    pub node: Text,
    /// The cluster says that it is Ready.
    pub ready: bool,
    /// For what.
    pub watch: Watch,
}

/// Nodes that listen, and why the others do not.
pub struct Watches<'a> {
    client: &'a Client,
    ids: BTreeMap<Text, String>,
    /// Why a node says nothing of the flow.
    pub silent: BTreeMap<Text, Unanswered>,
}

impl<'a> Watches<'a> {
    /// Has all of them listen.
    pub async fn begin(client: &'a Client, ears: Vec<Ear>) -> Watches<'a> {
        let one = |ear: Ear| async move {
            let within = if ear.ready { ARM_WITHIN } else { ARM_UNREADY_WITHIN };
            let answer = agents::say::<Watching>(client, &ear.node, "trace", &ear.watch, within).await;
            (ear.node, answer)
        };
        let mut watches = Watches { client, ids: BTreeMap::new(), silent: BTreeMap::new() };
        for (node, answer) in join_all(ears.into_iter().map(one)).await {
            match answer {
                Ok(watching) => drop(watches.ids.insert(node, watching.id)),
                Err(why) => drop(watches.silent.insert(node, why)),
            }
        }
        watches
    }

    /// Nodes that listen.
    pub fn nodes(&self) -> impl Iterator<Item = &Text> {
        self.ids.keys()
    }

    /// That `node` listens.
    ///
    /// # Errors
    /// Why it does not.
    pub fn must_hear(&self, node: &str) -> Result<(), Unanswered> {
        self.silent.get(node).map_or(Ok(()), |why| Err(why.clone()))
    }

    /// Has a node that listens send the packet.
    ///
    /// # Errors
    /// Why it could not, or no answer of it within its patience.
    pub async fn probe(&self, node: &str, probe: &Probe, within: Duration) -> Result<Probed, Unanswered> {
        let path = format!("{}/probe", self.path(node));
        agents::say(self.client, node, &path, probe, within).await
    }

    /// The packets a node saw, once they are more than `known`, or `within` or [`LONGEST_POLL`] is over.
    ///
    /// # Errors
    /// The node does not answer.
    pub async fn seen(&self, node: &str, known: usize, within: Duration) -> Result<Seen, Unanswered> {
        let within = within.min(LONGEST_POLL);
        let path = format!("{}?known={known}&withinMs={}", self.path(node), within.as_millis());
        agents::ask(self.client, node, &path, within + SLACK).await
    }

    /// Ends all watches. A node that fails now is silent too.
    pub async fn end(mut self) -> (Vec<NodeEvidence>, BTreeMap<Text, Unanswered>) {
        let one = |node: Text| {
            let (client, path) = (self.client, format!("{}/end", self.path(&node)));
            async move {
                let answer = agents::say::<NodeEvidence>(client, &node, &path, &(), END_WITHIN).await;
                (node, answer)
            }
        };
        let mut evidence = Vec::new();
        for (node, answer) in join_all(self.ids.keys().cloned().map(one)).await {
            match answer {
                Ok(told) => evidence.push(told),
                Err(why) => drop(self.silent.insert(node, why)),
            }
        }
        (evidence, self.silent)
    }

    fn path(&self, node: &str) -> String {
        format!("trace/{}", self.ids.get(node).map(String::as_str).unwrap_or_default())
    }
}
