//! Steps: the rules and policies that a walk met, in the shape in which kernels tell of them.

use std::net::SocketAddr;

use portolan_dataplane::meaning::{Meaning, RuleTold};
use portolan_dataplane::way::Event;
use portolan_model::verdict::{Outcome, Packet};
use portolan_model::{Family, Snapshot};

use crate::evidence::{Act, Header, Step};

/// The header after a node's rules. A masqueraded packet has the node's first address, and a port that the kernel
/// chooses.
pub fn after(snapshot: &Snapshot, entered: &Header, outcome: Outcome) -> Header {
    let (dst, masquerade) = match outcome {
        Outcome::Dnat { to, masquerade } => (to, masquerade),
        Outcome::Untouched { masquerade } => (entered.dst, masquerade),
        Outcome::Reject | Outcome::Drop => (entered.dst, false),
    };
    let own = snapshot.primary_address(Family::of(dst.ip())).filter(|_| masquerade);
    let src = own.map_or(entered.src, |addr| SocketAddr::new(addr, 0));
    Header { src, dst, proto: entered.proto }
}

/// The events of a walk that ended in `outcome`, in order. The client's own port is not known.
pub fn of(snapshot: &Snapshot, packet: &Packet, outcome: Outcome, events: Vec<(Event, Option<RuleTold>)>) -> Vec<Step> {
    let dst = SocketAddr::new(packet.dst, packet.dport);
    let mut header = Header { src: SocketAddr::new(packet.src, 0), dst, proto: packet.proto };
    let end = after(snapshot, &header, outcome);
    let step = |(event, rule): (Event, Option<RuleTold>)| {
        let before = header;
        // What rewrites, accepts; no rule rewrites both.
        match rule.as_ref().map(|rule| &rule.meaning) {
            Some(Meaning::Masquerades { .. }) => header.src = end.src,
            Some(_) if event.act == Act::Accept => header.dst = event.at.after,
            _ => {}
        }
        Step {
            at_us: 0,
            hook: event.hook,
            table: event.table,
            chain: event.chain,
            handle: None,
            index: event.index,
            rule,
            act: event.act,
            rewritten: (header != before).then_some(header),
        }
    };
    events.into_iter().map(step).collect()
}
