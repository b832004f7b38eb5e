//! The cluster's objects as they come: files that are looked at, or a live cluster's watches.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use portolan_agent::dns::PodsChange;
use portolan_agent::dns_source::{ClusterNews, follow_cluster, followed};
use portolan_agent::proxy::Input;
use portolan_ingest::Event;
use portolan_model::{ObjectKind, Settings};
use tokio::sync::mpsc;

use crate::dns::feed::{Feed, Namespaces, News};
use crate::dns::pods;
use crate::failure::Failure;
use crate::proxy::Files;

/// Most events that are taken as one step.
const BATCH: usize = 4096;

/// Where objects come from.
pub enum Objects {
    /// There are none, and none are asked for.
    None,
    Files(Box<(Files, Feed)>),
    Cluster(Box<Cluster>),
}

/// A live cluster's watches.
pub struct Cluster {
    kubeconfig: PathBuf,
    news: mpsc::UnboundedReceiver<ClusterNews>,
    feed: Feed,
}

/// What changed, for the nameserver.
pub struct Changed {
    pub news: News,
    pub pods: PodsChange,
}

impl Objects {
    /// Reads files for the first time.
    ///
    /// # Errors
    /// All that is wrong with them.
    pub fn of_files(paths: &[PathBuf], settings: &Settings) -> Result<(Self, Changed), Failure> {
        let (files, inputs) = Files::open(paths, &settings.node)?;
        let mut feed = Feed::new(settings.clone(), Namespaces::Used, []);
        let changed = changed(&mut feed, events(inputs), Vec::new());
        Ok((Self::Files(Box::new((files, feed))), changed))
    }

    /// Follows a live cluster, its pods only if somebody asks for them.
    ///
    /// # Errors
    /// The kubeconfig file does not describe a cluster.
    pub async fn of_cluster(kubeconfig: &Path, pods: bool, settings: &Settings) -> Result<Self, Failure> {
        let client = crate::client::connect_from_afar(kubeconfig.to_owned()).await?;
        let (to_feed, news) = mpsc::unbounded_channel();
        follow_cluster(&client, pods, &to_feed);
        let feed = Feed::new(settings.clone(), Namespaces::Told, followed(pods));
        Ok(Self::Cluster(Box::new(Cluster { kubeconfig: kubeconfig.to_owned(), news, feed })))
    }

    /// What a cluster has not told yet, in words; `None`: nothing is waited for.
    pub fn awaited(&self) -> Option<String> {
        let Self::Cluster(held) = self else { return None };
        let kinds: Vec<String> = held.feed.missing().map(|kind| format!("{kind:?}s")).collect();
        let cluster = held.kubeconfig.display();
        (!kinds.is_empty()).then(|| format!("the cluster of {cluster} has not told its {} yet", kinds.join(", ")))
    }

    /// What files say that they did not say before, and what is wrong with them since the last look.
    pub fn look(&mut self) -> (Option<Changed>, Vec<Failure>) {
        let Self::Files(held) = self else { return (None, Vec::new()) };
        let (files, feed) = &mut **held;
        let (inputs, problems) = files.look(SystemTime::now());
        let events = events(inputs);
        ((!events.is_empty()).then(|| changed(feed, events, Vec::new())), problems)
    }

    /// The next that a cluster says; of files, never.
    pub async fn next(&mut self) -> Changed {
        let Self::Cluster(held) = self else { return std::future::pending().await };
        let Cluster { news, feed, .. } = &mut **held;
        let mut batch = Vec::new();
        if news.recv_many(&mut batch, BATCH).await == 0 {
            // Its watches end only with the process.
            return std::future::pending().await;
        }
        let (mut events, mut synced) = (Vec::new(), Vec::new());
        for one in batch {
            match one {
                ClusterNews::Object(event) => events.push(*event),
                ClusterNews::Synced(kind) => synced.push(kind),
            }
        }
        changed(feed, events, synced)
    }
}

fn events(inputs: Vec<Input>) -> Vec<Event> {
    let event = |input| if let Input::Cluster(event, _) = input { Some(event) } else { None };
    inputs.into_iter().filter_map(event).collect()
}

fn changed(feed: &mut Feed, events: Vec<Event>, synced: Vec<ObjectKind>) -> Changed {
    let settings = Arc::clone(&feed.snapshot().settings);
    let pods = pods::change(&events, &settings);
    Changed { news: feed.take(events, synced), pods }
}
