//! What brings one family's rules into the kernel, whatever the backend.

use std::collections::BTreeSet;

use portolan_dataplane::iptables::{self, DnsPath};
use portolan_dataplane::nftables;
use portolan_kernel::nft_monitor::NftEvent;
use portolan_model::{Delta, Family, NsName, Snapshot};

/// Writes the rules of one family and remembers what the kernel took.
pub(crate) trait Writer: Send {
    /// Whose rules these are.
    fn family(&self) -> Family;

    /// Says who answers at the cluster DNS address; written with the next update.
    fn set_dns(&mut self, path: DnsPath);

    /// Another hand may have been in the rules: the next update compares everything.
    fn doubt(&mut self);

    /// Was this another hand in the rules of this family?
    fn concerns(&mut self, event: &NftEvent) -> bool;

    /// What the first update found to differ in the kernel, and wrote.
    fn differed(&self) -> &Differed {
        &Differed::Unknown
    }

    /// What is planned; the kernel holds it unless the last update failed.
    fn plan(&self) -> Plan<'_>;

    /// Writes what changed. After an error the next call compares everything and writes again.
    fn update(&mut self, snapshot: &Snapshot, delta: &Delta) -> Result<Wrote, WriteError>;
}

/// What a kernel held otherwise than was planned, when it was read for the first time.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) enum Differed {
    /// It was not read yet, or it cannot be told of whom what differed was.
    #[default]
    Unknown,
    /// It held nothing: all was written.
    Everything,
    /// What these Services need; for no Service at all, nothing.
    Of(BTreeSet<NsName>),
}

impl Differed {
    /// Whether the rules of `service` were among it; `None`: not known.
    pub(crate) fn includes(&self, service: &NsName) -> Option<bool> {
        match self {
            Self::Unknown => None,
            Self::Everything => Some(true),
            Self::Of(services) => Some(services.contains(service)),
        }
    }
}

/// One family's rules as planned.
#[derive(Clone, Copy)]
pub(crate) enum Plan<'a> {
    /// Chains.
    Iptables(&'a iptables::Desired),
    /// A table.
    Nftables(&'a nftables::Desired),
}

impl Plan<'_> {
    /// Who answers cluster DNS.
    pub(crate) fn dns(&self) -> DnsPath {
        match self {
            Self::Iptables(desired) => desired.options().dns,
            Self::Nftables(desired) => desired.options().dns,
        }
    }
}

/// What an update came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wrote {
    /// Everything was compared with the kernel.
    Compared,
    /// Only what changed was looked at.
    Changes,
}

/// Why the kernel does not hold what it should.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum WriteError {
    /// It refused what one Service needs.
    #[error("refused for Service {service}: {reason}")]
    Culprit {
        /// Whose rules it refused.
        service: NsName,
        /// Its words.
        reason: String,
    },
    /// It refused something, and does not say what.
    #[error("refused: {reason}")]
    Refused {
        /// Its words.
        reason: String,
    },
    /// It could not be asked: a program is missing, a lock is held.
    #[error("{reason}")]
    Unreached {
        /// What stands in the way.
        reason: String,
    },
}
