//! Oracle: what Services promise beside what the kernel did. Where they differ, one of them is wrong, or a stranger's
//! rule was faster.

use portolan_model::verdict::{Outcome, is_node_address};

use crate::evidence::Fate;
use crate::story::Oracle;
use crate::tell::Case;
use crate::tell::forth::{raw, stop_word};
use crate::tell::hop::is_foreign;
use crate::tell::trail::Leg;
use crate::words;

/// What the oracle allows at each node, and the first node where something else was done. An entry from before the packet
/// is no new decision, and routing is none of the oracle's.
pub(super) fn beside(case: &Case<'_>) -> Oracle {
    let legs = || case.trail.forth.iter().filter(|leg| !leg.passage.allowed.is_empty());
    let allowed = legs().map(|leg| (leg.node.clone(), leg.passage.allowed.clone())).collect();
    let differs = legs().filter(|leg| !leg.is_older()).find_map(|leg| differs(case, leg));
    Oracle { allowed, differs }
}

fn differs(case: &Case<'_>, leg: &Leg<'_>) -> Option<String> {
    let done = done(leg)?;
    let is_right = |allowed: &Outcome| agrees(case, leg, allowed, &done);
    if leg.passage.allowed.iter().any(is_right) {
        return None;
    }
    let expected: Vec<String> = leg.passage.allowed.iter().map(says).collect();
    let stranger =
        leg.passage.steps.iter().find(|step| is_foreign(step)).map(|step| format!(" (foreign rule: {})", raw(step)));
    let stranger = stranger.unwrap_or_default();
    Some(format!("{} {}{stranger}, but Services promise: {}", leg.node, says(&done), words::list(&expected, 3)))
}

/// What became of the packet here; `None` where routing ended it.
fn done(leg: &Leg<'_>) -> Option<Outcome> {
    let passage = leg.passage;
    let (entered, out) = (passage.entered, leg.out());
    let masquerade = entered.src != out.src;
    match passage.fate {
        Fate::Vanished => None,
        Fate::Stopped => match leg.decided().map(stop_word) {
            Some("REJECT") => Some(Outcome::Reject),
            _ => Some(Outcome::Drop),
        },
        Fate::Sent | Fate::Taken if entered.dst != out.dst => Some(Outcome::Dnat { to: out.dst, masquerade }),
        Fate::Sent | Fate::Taken => Some(Outcome::Untouched { masquerade }),
    }
}

/// A destination that is its own endpoint looks untouched; a masquerade to the address that the sender had already, like none.
fn agrees(case: &Case<'_>, leg: &Leg<'_>, allowed: &Outcome, done: &Outcome) -> bool {
    let entered = leg.passage.entered;
    let is_own = case.knows.view(leg.node).is_none_or(|view| is_node_address(view, entered.src.ip()));
    let same_source = |wanted: bool, seen: bool| wanted == seen || (wanted && !seen && is_own);
    let target = |outcome: &Outcome| match outcome {
        Outcome::Dnat { to, masquerade } => Some((*to, *masquerade)),
        Outcome::Untouched { masquerade } => Some((entered.dst, *masquerade)),
        Outcome::Reject | Outcome::Drop => None,
    };
    match (target(allowed), target(done)) {
        (Some((wanted, wants)), Some((seen, sees))) => wanted == seen && same_source(wants, sees),
        (None, None) => allowed == done,
        _ => false,
    }
}

fn says(outcome: &Outcome) -> String {
    let source = |masquerade: bool| if masquerade { " with the node's address" } else { "" };
    match outcome {
        Outcome::Dnat { to, masquerade } => format!("sends it to {to}{}", source(*masquerade)),
        Outcome::Reject => "refuses it".to_owned(),
        Outcome::Drop => "drops it".to_owned(),
        Outcome::Untouched { masquerade } => format!("lets it be{}", source(*masquerade)),
    }
}
