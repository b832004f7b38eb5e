//! What to change, from what a lookup was like.

use crate::explain::{Advice, Ending, Explanation};
use crate::site::Site;

/// The most telling first.
pub(super) fn advice(_site: &Site, told: &Explanation) -> Vec<Advice> {
    ndots(told).into_iter().collect()
}

/// A name outside went through the whole search list.
fn ndots(told: &Explanation) -> Option<Advice> {
    let last = told.steps.last()?;
    let is_bare = last.search.is_none() && last.questions.iter().any(|told| told.outcome == Ending::Upstream);
    if told.wasted_queries == 0 || !is_bare {
        return None;
    }
    Some(Advice {
        found: format!(
            "{} queries were asked in vain before {}: it has fewer dots than ndots:{}",
            told.wasted_queries, last.name, told.asker.ndots
        ),
        mend: format!("write the name with a final dot ({}), or set dnsConfig.options ndots:1 in the pod", last.name),
    })
}
