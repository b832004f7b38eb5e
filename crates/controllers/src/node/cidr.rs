//! `spec.podCIDRs`: each Node gets one block per family, the first that is free, for good.
//!
//! 10.244.0.0/16 with /26 gives 10.244.0.0/26 to the first Node, 10.244.0.64/26 to the second.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use ipnet::IpNet;
use k8s_openapi::api::core::v1::Node;
use serde_json::json;

use super::COMPONENT;
use crate::Config;
use crate::object::{Id, Kind, Object};
use crate::plan::{Note, Plan, Write};
use crate::world::World;

pub fn reconcile(world: &World, config: &Config) -> Plan {
    let mut taken: BTreeSet<IpNet> = world.nodes().flat_map(|node| blocks(node)).collect();
    let mut waiting: Vec<&Arc<Node>> = world.nodes().filter(|node| blocks(node).is_empty()).collect();
    waiting.sort_by_key(|node| {
        let created = node.metadata.creation_timestamp.clone();
        (created, node.metadata.name.clone())
    });
    let mut writes = Vec::new();
    for node in waiting {
        let found: Option<Vec<IpNet>> =
            config.cluster_cidrs.iter().map(|range| free_block(*range, config.block_length(*range), &taken)).collect();
        match found.filter(|found| !found.is_empty()) {
            Some(found) => {
                taken.extend(found.iter().copied());
                writes.push(assign(node, &found));
            }
            None => tracing::warn!(
                node = node.metadata.name,
                "no free block left in the cluster's pod ranges; delete Nodes or give a larger range"
            ),
        }
    }
    Plan::of(writes)
}

fn blocks(node: &Node) -> Vec<IpNet> {
    let Some(spec) = &node.spec else {
        return Vec::new();
    };
    let many = spec.pod_cidrs.iter().flatten();
    let all = many.chain(&spec.pod_cidr);
    let mut blocks: Vec<IpNet> = all.filter_map(|text| text.parse().ok()).collect();
    blocks.sort();
    blocks.dedup();
    blocks
}

fn assign(node: &Arc<Node>, found: &[IpNet]) -> Write {
    let names: Vec<String> = found.iter().map(IpNet::to_string).collect();
    let body = json!({
        "metadata": {"uid": node.metadata.uid},
        "spec": {"podCIDR": names.first(), "podCIDRs": names},
    });
    let failed = format!("Node cannot be given {}: {{error}}", names.join(","));
    let subject = Object::Node(node.clone());
    Write::patch(Id::of(Kind::Node, &node.metadata), body).telling_failure(Note::warning(
        COMPONENT,
        &subject,
        "CIDRAssignmentFailed",
        failed,
    ))
}

/// The first block of `length` bits in `range` that overlaps none taken. Each step goes past what
/// is in the way, so a foreign large block costs one step.
fn free_block(range: IpNet, length: u8, taken: &BTreeSet<IpNet>) -> Option<IpNet> {
    let mut start = number(range.network());
    let last = number(range.broadcast());
    let size = 1u128 << (u32::from(range.max_prefix_len()) - u32::from(length));
    while start.checked_add(size - 1)? <= last {
        let block = IpNet::new(address(start, range), length).ok()?;
        let obstacle = taken.iter().find(|other| overlaps(other, &block));
        let Some(obstacle) = obstacle else {
            return Some(block);
        };
        let past = number(obstacle.broadcast()).checked_add(1)?;
        start = past.checked_next_multiple_of(size)?.max(start + size);
    }
    None
}

fn overlaps(a: &IpNet, b: &IpNet) -> bool {
    a.contains(b) || b.contains(a)
}

fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(v4) => u128::from(u32::from(v4)),
        IpAddr::V6(v6) => u128::from(v6),
    }
}

fn address(number: u128, like: IpNet) -> IpAddr {
    match like {
        IpNet::V4(_) => IpAddr::V4(Ipv4Addr::from(number as u32)),
        IpNet::V6(_) => IpAddr::V6(Ipv6Addr::from(number)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(range: &str, length: u8, taken: &[&str], want: Option<&str>) {
        let taken = taken.iter().map(|text| text.parse().unwrap()).collect();
        let found = free_block(range.parse().unwrap(), length, &taken);
        assert_eq!(found, want.map(|text| text.parse().unwrap()), "{range}");
    }

    #[test]
    fn the_first_free_block_is_given_in_both_families() {
        check("10.244.0.0/16", 26, &[], Some("10.244.0.0/26"));
        check("10.244.0.0/16", 26, &["10.244.0.0/26"], Some("10.244.0.64/26"));
        check("10.244.0.0/16", 26, &["10.244.0.0/26", "10.244.0.128/26"], Some("10.244.0.64/26"));
        check("10.244.0.0/16", 26, &["10.244.0.0/24"], Some("10.244.1.0/26"));
        check("10.244.0.0/25", 26, &["10.244.0.0/26", "10.244.0.64/26"], None);
        check("10.244.0.0/26", 26, &["10.244.0.7/32"], None);
        check("fd00:10:244::/56", 122, &["fd00:10:244::/122"], Some("fd00:10:244::40/122"));
        check("255.255.255.128/25", 26, &["255.255.255.128/26", "255.255.255.192/26"], None);
    }
}
