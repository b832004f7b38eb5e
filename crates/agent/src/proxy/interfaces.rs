//! Addresses on this node's interfaces: node ports may be told to answer on some of them.

use std::collections::BTreeSet;
use std::net::IpAddr;

use portolan_kernel::{Monitor, NetEvent, NetlinkError, Network};
use portolan_model::Fact;

/// What the kernel said last.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Interfaces {
    addresses: BTreeSet<IpAddr>,
}

impl Interfaces {
    /// Reads them; gives what came and went since the last time.
    pub(crate) fn look(&mut self, network: &mut dyn Network) -> Result<Vec<Fact>, NetlinkError> {
        let now: BTreeSet<IpAddr> = network.addrs()?.into_iter().map(|info| info.net.addr()).collect();
        let came = now.difference(&self.addresses).map(|addr| Fact::InterfaceAddress(*addr, Some(())));
        let gone = self.addresses.difference(&now).map(|addr| Fact::InterfaceAddress(*addr, None));
        let facts = came.chain(gone).collect();
        self.addresses = now;
        Ok(facts)
    }
}

/// Do any of these events concern addresses?
pub(crate) fn concern_addresses(events: &[NetEvent]) -> bool {
    let concerns = |event: &NetEvent| {
        matches!(event, NetEvent::Address(_) | NetEvent::AddressGone(_) | NetEvent::LinkGone(_) | NetEvent::Lost)
    };
    events.iter().any(concerns)
}

/// Tells `heard` what came and went, until it says that nobody listens any more. Blocks.
pub(crate) fn follow(
    monitor: &mut Monitor,
    network: &mut dyn Network,
    heard: impl Fn(Vec<Fact>) -> bool,
) -> Result<(), NetlinkError> {
    let mut known = Interfaces::default();
    // What changed between the first reading and now is told too.
    let mut changed = true;
    loop {
        if changed && !heard(known.look(network)?) {
            return Ok(());
        }
        wait_readable(monitor);
        changed = concern_addresses(&monitor.read()?);
    }
}

fn wait_readable(monitor: &Monitor) {
    use rustix::event::{PollFd, PollFlags, poll};
    // A signal ends the wait early; then there is nothing to read and the wait begins again.
    let _ = poll(&mut [PollFd::new(monitor, PollFlags::IN)], None);
}
