//! Steps: what one generation did to one fragment: causes that concern it, endpoints that came and went.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use portolan_model::{Endpoint, NsName, ServiceView};
use serde::{Deserialize, Serialize};

use crate::history::cause::Cause;

/// Endpoints listed of one step, of each sort; a larger change says how many more there are.
const LISTED: usize = 16;

/// What one generation did to one fragment.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Step {
    /// What the node was told of it, in the order it came.
    pub causes: Box<[Cause]>,
    /// What that changed.
    #[serde(flatten)]
    pub shift: Shift,
}

/// What changed in a fragment.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Shift {
    /// It was not there before.
    pub is_new: bool,
    /// It is no more.
    pub is_gone: bool,
    /// Of a Service: its spec differs.
    pub reshaped: bool,
    /// Endpoints that came; none of a new Service.
    pub came: Box<[EndpointNote]>,
    /// Endpoints that went.
    pub went: Box<[EndpointNote]>,
    /// Endpoints that stayed with other conditions, as they are now.
    pub turned: Box<[EndpointNote]>,
    /// Endpoints that changed and are in none of the lists.
    pub unlisted: u32,
}

/// An endpoint, as far as a history tells of it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct EndpointNote {
    /// Address and port.
    pub at: SocketAddr,
    /// The Pod behind it.
    pub pod: Option<NsName>,
    /// Takes new connections.
    pub ready: bool,
    /// Answers, though it may be going.
    pub serving: bool,
    /// Its pod is being deleted.
    pub terminating: bool,
}

impl EndpointNote {
    fn of(endpoint: &Endpoint) -> Self {
        Self {
            at: SocketAddr::new(endpoint.addr, endpoint.port),
            pod: endpoint.pod.clone(),
            ready: endpoint.ready,
            serving: endpoint.serving,
            terminating: endpoint.terminating,
        }
    }
}

/// A Service's endpoints by address and port, over all its ports.
pub(super) fn endpoints(view: &ServiceView) -> BTreeMap<SocketAddr, EndpointNote> {
    let all = view.ports.iter().flat_map(|port| &port.endpoints).map(EndpointNote::of);
    all.map(|note| (note.at, note)).collect()
}

impl Shift {
    /// What lies between two views of a Service.
    pub(super) fn between(old: &ServiceView, new: &ServiceView) -> Self {
        let (held, holds) = (endpoints(old), endpoints(new));
        let came = holds.values().filter(|note| !held.contains_key(&note.at));
        let went = held.values().filter(|note| !holds.contains_key(&note.at));
        let turned = holds.values().filter(|note| held.get(&note.at).is_some_and(|before| before != *note));
        let mut unlisted = 0;
        Self {
            reshaped: old.spec != new.spec,
            came: listed(came, &mut unlisted),
            went: listed(went, &mut unlisted),
            turned: listed(turned, &mut unlisted),
            unlisted,
            ..Self::default()
        }
    }

    /// What comes or goes, or stays with no more to be said of it.
    pub(super) fn of_presence(was: bool, is: bool) -> Self {
        Self { is_new: !was && is, is_gone: was && !is, ..Self::default() }
    }
}

fn listed<'a>(notes: impl Iterator<Item = &'a EndpointNote>, unlisted: &mut u32) -> Box<[EndpointNote]> {
    let mut all: Vec<EndpointNote> = notes.cloned().collect();
    *unlisted += all.len().saturating_sub(LISTED) as u32;
    all.truncate(LISTED);
    all.into_boxed_slice()
}
