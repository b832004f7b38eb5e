//! Rules and elements: those that an object caused, and whose one is. Both families.

use portolan_dataplane::meaning;
use portolan_dataplane::{iptables, nftables};
use portolan_model::{Family, ObjectRef};
use portolan_story::why::{InPlace, Sort};

use crate::core::View;
use crate::proxy::Plan;

/// Every rule or element that `object` caused.
pub(super) fn of(view: &View<'_>, object: &ObjectRef) -> Vec<InPlace> {
    each(view, |plan| match plan {
        Plan::Iptables(desired) => iptables::in_place::in_place(desired, view.snapshot, object),
        Plan::Nftables(desired) => nftables::in_place::in_place(desired, view.snapshot, object),
    })
}

/// Those that `text` names; a family in front (`ip nat KUBE-…`) asks that one only.
pub(super) fn named(view: &View<'_>, text: &str) -> Vec<InPlace> {
    let (family, rest) = match text.split_once(' ') {
        Some(("ip", rest)) => (Some(Family::V4), rest),
        Some(("ip6", rest)) => (Some(Family::V6), rest),
        _ => (None, text),
    };
    each(view, |plan| match plan {
        Plan::Iptables(desired) if family.is_none_or(|family| family == desired.family()) => {
            iptables::in_place::owner_of(desired, view.snapshot, rest)
        }
        Plan::Nftables(desired) if family.is_none_or(|family| family == desired.family()) => {
            nftables::in_place::owner_of(desired, view.snapshot, text)
        }
        _ => Vec::new(),
    })
}

fn each(view: &View<'_>, ask: impl Fn(Plan<'_>) -> Vec<meaning::InPlace>) -> Vec<InPlace> {
    let plans = Family::BOTH.into_iter().filter_map(|family| Some((family, view.proxy.plan(family)?)));
    let all = plans.flat_map(|(family, plan)| ask(plan).into_iter().map(move |placed| told(family, plan, placed)));
    all.collect()
}

fn told(family: Family, plan: Plan<'_>, placed: meaning::InPlace) -> InPlace {
    let meaning::InPlace { table, name, number, told } = placed;
    let place = match (plan, family) {
        (Plan::Nftables(_), _) => format!("{table} {name}"),
        (Plan::Iptables(_), Family::V4) => format!("ip {table} {name}"),
        (Plan::Iptables(_), Family::V6) => format!("ip6 {table} {name}"),
    };
    InPlace {
        sort: if number.is_some() { Sort::Rule } else { Sort::Element },
        place: place.into(),
        number,
        text: told.text,
        meaning: Some(told.meaning),
        objects: told.objects,
        since: None,
    }
}
