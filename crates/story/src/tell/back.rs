//! Back: the answer's way. Most of it nobody sees: conntrack undoes NAT without a rule.

use crate::evidence::{FlowEntry, Header};
use crate::story::{End, Hop, Stage};
use crate::tell::Case;
use crate::tell::forth::stopped_words;
use crate::tell::hop::rule_line;
use crate::tell::trail::Leg;
use crate::words;

/// Every hop of the answer; where there was one and none of its packets was seen, what the conntrack entry says of it.
pub(super) fn hops(case: &Case<'_>, end: End) -> Vec<Hop> {
    let mut hops: Vec<Hop> = case.trail.back.iter().flat_map(passes).collect();
    if hops.is_empty() && end == End::Delivered {
        hops.extend(case.trail.forth.iter().filter(|leg| leg.is_through()).filter_map(expected));
    }
    hops
}

fn passes(leg: &Leg<'_>) -> Vec<Hop> {
    let passage = leg.passage;
    let steps: Vec<&crate::evidence::Step> = passage.steps.iter().collect();
    let (entered, out) = (passage.entered, leg.out());
    let mut hop = match (leg.is_through() && entered != out, &passage.flow) {
        (true, _) => Hop::new(Stage::Conntrack, undone(&entered, &out, leg.node)),
        (false, Some(_)) => {
            Hop::new(Stage::Conntrack, format!("{} through {}, unchanged", words::header(&entered), leg.node))
        }
        (false, None) => {
            let says = format!("{} through {}, not tracked", words::header(&entered), leg.node);
            Hop::new(Stage::Conntrack, says)
        }
    }
    .on(leg, &steps);
    hop.objects.clear();
    hop.chains.clear();
    hop.change = (entered != out).then_some((entered, out));
    hop.quiet = entered == out && !steps.iter().any(|step| rule_line(step).foreign);
    hop.flow.clone_from(&passage.flow);
    hop.route.clone_from(&passage.route);
    let end = leg.decided().map(|step| Hop::new(Stage::End, stopped_words(step)).on(leg, &[step]));
    [Some(hop), end].into_iter().flatten().collect()
}

/// `10.244.0.70:80 is 10.96.7.7:80 again by node-1's conntrack; no rule asked, now or later`.
fn undone(entered: &Header, out: &Header, node: &str) -> String {
    let again = match (entered.src != out.src, entered.dst != out.dst) {
        (true, false) => format!("{} is {}", words::socket(entered.src), words::socket(out.src)),
        (false, true) => format!("{} is {}", words::socket(entered.dst), words::socket(out.dst)),
        _ => words::header(out),
    };
    format!("{again} again by {node}'s conntrack; no rule asked, now or later")
}

/// What the entry that the packet made says of answers.
fn expected(leg: &Leg<'_>) -> Option<Hop> {
    let flow = leg.passage.flow.as_ref().filter(|flow| is_nat(flow))?;
    let out = Header { src: flow.original.dst, dst: flow.original.src, proto: flow.original.proto };
    let mut hop = Hop::new(Stage::Conntrack, undone(&flow.reply, &out, leg.node)).on(leg, &[]);
    hop.at_us = None;
    hop.change = Some((flow.reply, out));
    hop.flow = Some(flow.clone());
    Some(hop)
}

fn is_nat(flow: &FlowEntry) -> bool {
    flow.original.src != flow.reply.dst || flow.original.dst != flow.reply.src
}
