//! Conntrack in the service proxy's hands: settings at start, and stale UDP flows after each write.

use std::time::Instant;

use portolan_dataplane::conntrack::{ConntrackSettings, Flow, Flows, Scope, Stale, UDP};
use portolan_kernel::conntrack::{Conntrack, Entry, Which};
use portolan_kernel::sysctl::{self, Key};
use portolan_model::{Delta, Family, NsName, Snapshot};
use tracing::{debug, info, warn};

/// Finds UDP flows that lead where nobody serves any more, and deletes them.
#[derive(Default)]
pub(crate) struct FlowKeeper {
    flows: Flows,
    /// Services whose rules changed since the last look.
    unseen: std::collections::BTreeSet<NsName>,
    /// Opened when it is first needed, in the namespace of the thread that writes.
    table: Option<Conntrack>,
}

/// What a look at the table came to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Swept {
    pub(crate) v4: u64,
    pub(crate) v6: u64,
    pub(crate) took: std::time::Duration,
}

impl FlowKeeper {
    /// Rules of these Services are about to change.
    pub(crate) fn expect(&mut self, delta: &Delta) {
        self.unseen.extend(delta.services.iter().cloned());
    }

    /// To be called when the rules are in the kernel: no new flow takes the old way then. `None`: no flow can be stale.
    pub(crate) fn sweep(&mut self, snapshot: &Snapshot) -> Option<Swept> {
        let delta = Delta { services: std::mem::take(&mut self.unseen), ..Delta::default() };
        let stale = self.flows.update(snapshot, &delta);
        if stale.is_empty() {
            return None;
        }
        let began = Instant::now();
        match self.delete(&stale) {
            Ok(swept) => {
                let swept = Swept { took: began.elapsed(), ..swept };
                debug!(v4 = swept.v4, v6 = swept.v6, "stale UDP flows deleted");
                Some(swept)
            }
            Err(error) => {
                warn!(%error, "stale UDP flows are left; clients that keep their socket may talk to an endpoint that is gone");
                self.table = None;
                None
            }
        }
    }

    fn delete(&mut self, stale: &Stale) -> Result<Swept, portolan_kernel::conntrack::ConntrackError> {
        let table = match &mut self.table {
            Some(table) => table,
            none => none.insert(Conntrack::open()?),
        };
        let mut swept = Swept::default();
        table.delete(Which::Protocol(UDP), |entry| {
            let is_stale = stale.matches(&flow(entry));
            if is_stale {
                match Family::of(entry.original.dst) {
                    Family::V4 => swept.v4 += 1,
                    Family::V6 => swept.v6 += 1,
                }
            }
            is_stale
        })?;
        Ok(swept)
    }
}

fn flow(entry: &Entry) -> Flow {
    Flow {
        protocol: entry.protocol,
        to: (entry.original.dst, entry.original.dst_port).into(),
        answered_by: (entry.reply.src, entry.reply.src_port).into(),
    }
}

/// Writes the settings that are this network namespace's own; says what the whole machine's would be.
pub(crate) fn apply_settings(settings: &ConntrackSettings) {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    for sysctl in settings.plan(u32::try_from(cores).unwrap_or(u32::MAX)) {
        let (name, value) = (sysctl.key, sysctl.value);
        let key = match (sysctl.scope, name.rsplit('.').next().unwrap_or_default()) {
            (Scope::Namespace, "nf_conntrack_tcp_timeout_established") => Key::ConntrackTcpTimeoutEstablished,
            (Scope::Namespace, "nf_conntrack_tcp_timeout_close_wait") => Key::ConntrackTcpTimeoutCloseWait,
            (Scope::Namespace, "nf_conntrack_udp_timeout") => Key::ConntrackUdpTimeout,
            (Scope::Namespace, "nf_conntrack_udp_timeout_stream") => Key::ConntrackUdpTimeoutStream,
            (Scope::Namespace, "nf_conntrack_tcp_be_liberal") => Key::ConntrackTcpBeLiberal,
            _ => {
                info!("{name} is the whole machine's and is not written; as configured it would be {value}");
                continue;
            }
        };
        if let Err(error) = sysctl::set(key, value) {
            info!(%error, "a setting of conntrack stays as it is");
        }
    }
}

/// Packets that conntrack calls invalid are let through where TCP windows are not minded.
pub(crate) fn is_liberal() -> bool {
    sysctl::get(Key::ConntrackTcpBeLiberal).is_ok_and(|value| value != "0")
}
