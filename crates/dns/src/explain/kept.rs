//! What a lookup gets of the caches: answers that upstreams gave before, with how long they have left.

use std::time::Duration;

use crate::client::Client;
use crate::server::passed_on;
use crate::site::{Ask, Decision, Site, Verdict};
use crate::wire::Query;

/// An answer that a cache had.
pub(super) struct Kept {
    /// The `forward` line whose servers gave it.
    pub(super) group: usize,
    /// `None`: its time is over.
    left: Option<Duration>,
}

impl Kept {
    /// Until when, and of whom.
    pub(super) fn words(&self, site: &Site) -> String {
        let of = super::servers(site, self.group).join(", ");
        match self.left {
            // Up, so that it is never none.
            Some(left) => format!("kept for {} s more, asked of {of}", left.as_secs() + 1),
            None => format!("kept beyond its time, asked of {of}; the next query asks again"),
        }
    }
}

/// The decision on a query, with the caches' word wherever an upstream would be asked; and the last word that one had.
pub(super) fn follow<'s>(
    site: &'s Site,
    query: &Query<'_>,
    client: &Client,
    now: Duration,
) -> (Decision<'s>, Option<Kept>) {
    let mut decision = site.decide(query, client, now);
    let mut last = None;
    // A search list is finite, and so are the names that a query leads to.
    while let Verdict::Ask(ask) = &decision.verdict {
        let ask: Ask = (**ask).clone();
        let found = site.cache_of(ask.block).and_then(|cache| cache.peek(&ask.question, now));
        let Some((message, left)) = found else { break };
        last = Some(Kept { group: ask.group, left });
        decision = site.go_on(query, client, ask, passed_on(&message), now);
    }
    (decision, last)
}
