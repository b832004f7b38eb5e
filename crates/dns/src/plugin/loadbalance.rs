//! `loadbalance`: clients take the first address of several, so addresses (and MX) begin at another place in each reply.
//! Aliases come first, since some clients read no further than the first record that they understand.

use crate::build::{Reply, Rr};
use crate::rdata::Rtype;
use crate::wire::Rcode;

/// Turns the records of each section by `number`, which should be another for each reply.
pub fn turn(reply: &mut Reply<'_>, number: u16) {
    if reply.rcode != Rcode::NOERROR {
        return;
    }
    for section in [&mut reply.answers, &mut reply.authority, &mut reply.additional] {
        if section.len() > 1 {
            section.sort_by_key(rank);
            for turning in [1, 2, 3, 4] {
                let start = section.partition_point(|rr| rank(rr) < turning);
                let end = section.partition_point(|rr| rank(rr) <= turning);
                let turned = &mut section[start..end];
                if turning > 1 && turned.len() > 1 {
                    turned.rotate_left(usize::from(number) % turned.len());
                }
            }
        }
    }
}

/// Aliases, others, A, AAAA, MX; the sort is stable, so a chain of aliases stays in order.
fn rank(rr: &Rr<'_>) -> u8 {
    match rr.rtype {
        Rtype::CNAME => 0,
        Rtype::A => 2,
        Rtype::AAAA => 3,
        Rtype::MX => 4,
        _ => 1,
    }
}
