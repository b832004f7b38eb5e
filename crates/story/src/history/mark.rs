//! Marks: since when a fragment is in place as it is.

use std::net::SocketAddr;
use std::sync::Arc;

use portolan_model::ServiceView;
use serde::{Deserialize, Serialize};

use crate::history::step::{EndpointNote, Step, endpoints};

/// Since when something is in place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Since {
    /// Microseconds since 1970 of the node's clock.
    pub at_us: i64,
    /// How sure that is.
    pub known: Known,
}

/// How sure an age is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Known {
    /// It was written then.
    Exactly,
    /// It was in place as wanted when the agent started, then: it is older.
    Older,
    /// Since the agent's start at the least; what was before is not known.
    AtLeast,
}

/// The last change of a fragment that is in place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mark {
    /// The generation that changed it last.
    pub number: u64,
    /// When that one's write began.
    pub began_us: i64,
    /// When it was written.
    pub written: Since,
    /// Since when a Service's spec is as it is, and it has endpoints, or has none.
    pub shaped: Since,
    /// What that generation did to it, and why.
    pub step: Arc<Step>,
    /// Since when each endpoint is as it is; sorted by address.
    endpoints: Box<[(EndpointNote, Since)]>,
}

impl Mark {
    /// The mark after another change: what that did not touch keeps its age.
    pub(super) fn after(
        before: Option<Self>,
        number: u64,
        began_us: i64,
        at: Since,
        step: Arc<Step>,
        view: Option<&ServiceView>,
    ) -> Self {
        let old = before.as_ref().map(|mark| &*mark.endpoints).unwrap_or_default();
        let since = |note: &EndpointNote| match old.binary_search_by(|(known, _)| known.at.cmp(&note.at)) {
            Ok(place) if old[place].0 == *note => old[place].1,
            _ => at,
        };
        let now = view.map(endpoints).unwrap_or_default();
        let endpoints: Box<[_]> = now.into_values().map(|note| (since(&note), note)).map(|(s, n)| (n, s)).collect();
        let shaped = match &before {
            Some(mark) if !step.shift.reshaped && mark.endpoints.is_empty() == endpoints.is_empty() => mark.shaped,
            _ => at,
        };
        Self { number, began_us, written: at, shaped, step, endpoints }
    }

    /// Since when an endpoint is as it is, and rules lead to it.
    pub fn endpoint(&self, at: SocketAddr) -> Option<Since> {
        let place = self.endpoints.binary_search_by(|(note, _)| note.at.cmp(&at)).ok()?;
        let since = self.endpoints[place].1;
        Some(if since.at_us < self.shaped.at_us { self.shaped } else { since })
    }
}
