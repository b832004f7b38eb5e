//! Histories: worlds one after the other, in portions of any size, some of them told twice.

use portolan_model::Fact;
use proptest::prelude::*;

/// Facts with their opposites and repetitions among them, ending in `last`.
pub fn any_history<S: Strategy<Value = Vec<Fact>>>(
    any_world: fn() -> S,
) -> impl Strategy<Value = (Vec<Vec<Fact>>, Vec<Fact>)> {
    let worlds = proptest::collection::vec(any_world(), 1..3);
    let order = (worlds, any_world().prop_shuffle(), any::<u64>());
    order.prop_map(|(before, last, seed)| {
        let mut steps: Vec<Fact> = before.concat();
        let kept: Vec<Fact> = last.iter().map(undone).collect();
        let stale: Vec<Fact> = steps.iter().map(undone).filter(|fact| !kept.contains(fact)).collect();
        steps.extend(last.iter().cloned());
        steps.extend(stale);
        (split(steps, seed), last)
    })
}

/// The fact that takes this one back: equal for facts of one key.
fn undone(fact: &Fact) -> Fact {
    match fact.clone() {
        Fact::Namespace(key, _) => Fact::Namespace(key, None),
        Fact::Node(key, _) => Fact::Node(key, None),
        Fact::Service(key, _) => Fact::Service(key, None),
        Fact::Slice(key, _) => Fact::Slice(key, None),
        Fact::Pod(key, _) => Fact::Pod(key, None),
        Fact::Attachment(key, _) => Fact::Attachment(key, None),
        Fact::Learned(key, _) => Fact::Learned(key, None),
        Fact::IpPool(key, _) => Fact::IpPool(key, None),
        Fact::Reservation(key, _) => Fact::Reservation(key, None),
        Fact::Block(key, _) => Fact::Block(key, None),
        Fact::BgpConfiguration(key, _) => Fact::BgpConfiguration(key, None),
        Fact::BgpPeer(key, _) => Fact::BgpPeer(key, None),
        Fact::BgpFilter(key, _) => Fact::BgpFilter(key, None),
        Fact::InterfaceAddress(key, _) => Fact::InterfaceAddress(key, None),
    }
}

/// Cuts the list into portions of 0 to 3 facts, some of them twice.
fn split(facts: Vec<Fact>, mut seed: u64) -> Vec<Vec<Fact>> {
    let mut portions = Vec::new();
    let mut rest = facts.as_slice();
    while !rest.is_empty() {
        seed = seed.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        let size = ((seed >> 33) % 4) as usize;
        let (portion, after) = rest.split_at(size.min(rest.len()));
        portions.push(portion.to_vec());
        if (seed >> 40).is_multiple_of(3) {
            portions.push(portion.to_vec());
        }
        rest = after;
    }
    portions
}
