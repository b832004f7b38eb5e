//! What takes "this node answers cluster DNS" out of the kernel's rules where the agent that answered is gone: prepared
//! while it lives, so that who carries it out need know no plan.
//!
//! Afterwards the rules are those of [`DnsPath::Service`](crate::iptables::DnsPath): queries go where the Service leads.

use portolan_model::Family;

use crate::iptables::{Chain, Change, names, render};
use crate::nftables::lang::Step;
use crate::nftables::names::{DNS_CHAINS, TABLE};
use crate::nftables::wire;

/// For `iptables-restore --noflush`, of either family: both chains are there and hold nothing.
pub fn iptables() -> String {
    let emptied = [Chain::filter(names::DNS), Chain::raw(names::DNS)];
    render::restore(&emptied.map(|chain| Change::Set { chain, rules: Vec::new() }))
}

/// A batch for nf_tables. Refused as a whole where our table has no such chains: then there is nothing to take out.
pub fn nftables(family: Family) -> Vec<u8> {
    wire::transaction(family, TABLE, &steps())
}

fn steps() -> Vec<Step> {
    let emptied = DNS_CHAINS.map(|chain| Step::FlushChain(chain.into()));
    let deleted = DNS_CHAINS.map(|chain| Step::DeleteChain(chain.into()));
    emptied.into_iter().chain(deleted).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::tests::world::{rich, snapshot};
    use crate::{iptables, nftables};

    #[test]
    fn what_a_guard_takes_out_is_what_an_agent_that_ends_takes_out() {
        let snapshot = snapshot(&rich());
        for family in Family::BOTH {
            let options = iptables::Options { dns: iptables::DnsPath::ThisNode, ..Default::default() };
            let mut desired = iptables::Desired::of(family, options, &snapshot);
            let changes = desired.set_dns(iptables::DnsPath::Service);
            assert_eq!(render::restore(&changes), super::iptables(), "{family:?}");
            let options = nftables::Options { dns: nftables::DnsPath::ThisNode, ..Default::default() };
            let mut desired = nftables::Desired::of(family, options, &snapshot);
            let wanted = desired.set_dns(nftables::DnsPath::Service);
            let said = |steps: &[Step]| steps.iter().map(|step| format!("{step:?}")).collect::<BTreeSet<_>>();
            assert_eq!(said(&steps()), said(wanted.transaction.steps()), "{family:?}");
        }
    }
}
