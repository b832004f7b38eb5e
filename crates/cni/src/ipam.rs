//! IPAM: this node's ledger of addresses, lent to pods out of its own blocks.
//!
//! ```text
//!                assign                    release, reclaim                   cool-down over, or nothing else free
//!   free ────────────────────► leased ────────────────────────► cooling ─────────────────────────────────────────► free
//! ```
//!
//! * A block is a Node's podCIDR: /26 or /122, 64 addresses. All of them are lent, as Calico does: pods have /32 and /128
//!   addresses, so that no network or broadcast address exists. The lowest free one goes first, but a block's first
//!   address (`.0` of a whole octet) goes last, because people and some programs take it for a network.
//! * A freed address rests for a while ([`COOL_DOWN_SECS`]), so that rules and connections that still name it hurt no
//!   new pod. If nothing else is free the one that rested longest is lent early: a pod that cannot start is worse.
//! * One pod keeps its addresses: asking again with the same handle gives the same ones. A pod that is recreated has
//!   another UID, thus another handle, and its own addresses.
//!
//! Must never know files: [`Ledger::to_json`] is what the caller writes and syncs before it uses an address.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;

use ipnet::IpNet;
use portolan_model::{Family, NsName, Text};
use serde::{Deserialize, Serialize};

/// The form of the ledger's JSON that this room writes and reads.
pub const LEDGER_VERSION: u32 = 1;

/// How long a freed address rests before it is lent again, unless nothing else is free.
pub const COOL_DOWN_SECS: u64 = 30;

/// Seconds since the Unix epoch, by the node's clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Timestamp(pub u64);

/// Who holds a lease: one pod in one life.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Handle {
    /// The Pod.
    pub pod: NsName,
    /// Its `metadata.uid`.
    pub uid: Text,
}

impl Handle {
    /// The handle of pod `namespace/name` with this UID.
    pub fn new(namespace: &str, name: &str, uid: &str) -> Self {
        Self { pod: NsName::new(namespace, name), uid: uid.into() }
    }
}

impl fmt::Display for Handle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (uid {})", self.pod, self.uid)
    }
}

/// An address lent to a pod.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lease {
    /// To whom.
    pub handle: Handle,
    /// Since when.
    pub since: Timestamp,
}

/// All that this node lent, and what rests.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Ledger {
    version: u32,
    cool_down_secs: u64,
    /// This node's blocks, in the Node's order.
    blocks: Vec<IpNet>,
    leases: BTreeMap<IpAddr, Lease>,
    /// Freed addresses with the time they were freed.
    cooling: BTreeMap<IpAddr, Timestamp>,
}

impl Default for Ledger {
    fn default() -> Self {
        Self::new(COOL_DOWN_SECS)
    }
}

impl Ledger {
    /// A ledger without blocks. `cool_down_secs` is how long freed addresses rest.
    pub fn new(cool_down_secs: u64) -> Self {
        let (leases, cooling) = (BTreeMap::new(), BTreeMap::new());
        Self { version: LEDGER_VERSION, cool_down_secs, blocks: Vec::new(), leases, cooling }
    }

    /// The ledger as it was written by [`to_json`](Self::to_json).
    pub fn from_json(text: &str) -> Result<Self, LedgerError> {
        let head: Head = serde_json::from_str(text).map_err(LedgerError::Parse)?;
        if head.version != LEDGER_VERSION {
            return Err(LedgerError::Version { found: head.version });
        }
        let ledger: Self = serde_json::from_str(text).map_err(LedgerError::Parse)?;
        match ledger.leases.keys().find(|address| ledger.cooling.contains_key(address)) {
            Some(address) => Err(LedgerError::LentAndFree { address: *address }),
            None => Ok(ledger),
        }
    }

    /// The ledger as text, the same for the same state. It holds nothing secret.
    pub fn to_json(&self) -> String {
        serde_json::to_string_pretty(self).expect("keys are addresses, values are plain")
    }

    /// Sets this node's blocks, from its Node's podCIDRs. Leases outside of them stay until they are released; they are
    /// returned, for a complaint.
    pub fn set_blocks(&mut self, blocks: &[IpNet]) -> Vec<(IpAddr, Lease)> {
        self.blocks.clear();
        for block in blocks.iter().map(IpNet::trunc) {
            if !self.blocks.contains(&block) {
                self.blocks.push(block);
            }
        }
        let blocks = &self.blocks;
        self.cooling.retain(|address, _| blocks.iter().any(|block| block.contains(address)));
        let stray = self.leases.iter().filter(|(address, _)| !blocks.iter().any(|block| block.contains(*address)));
        stray.map(|(address, lease)| (*address, lease.clone())).collect()
    }

    /// Lends `handle` one address of each of `families`, or returns those it has. All or nothing: after an error the
    /// ledger is as before. Sorted as `families` is.
    pub fn assign(&mut self, handle: &Handle, families: &[Family], now: Timestamp) -> Result<Vec<IpAddr>, IpamError> {
        let mut addresses = Vec::with_capacity(families.len());
        for family in families {
            let address = match self.held(handle, *family) {
                Some(address) => address,
                None => self.pick(*family, now)?,
            };
            addresses.push(address);
        }
        for address in &addresses {
            self.cooling.remove(address);
            self.leases.entry(*address).or_insert_with(|| Lease { handle: handle.clone(), since: now });
        }
        Ok(addresses)
    }

    /// Takes back all that `handle` holds; nothing if it holds nothing.
    pub fn release(&mut self, handle: &Handle, now: Timestamp) -> Vec<IpAddr> {
        let freed = self.addresses_of(handle);
        for address in &freed {
            self.leases.remove(address);
            if self.blocks.iter().any(|block| block.contains(address)) {
                self.cooling.insert(*address, now);
            }
        }
        freed
    }

    /// Takes back what nobody of `live` holds: after a start, or where a release was missed.
    pub fn reclaim(&mut self, live: &BTreeSet<Handle>, now: Timestamp) -> Vec<(IpAddr, Handle)> {
        let holders: BTreeSet<Handle> = self.leases.values().map(|lease| lease.handle.clone()).collect();
        let mut freed = Vec::new();
        for handle in holders.difference(live) {
            let addresses = self.release(handle, now);
            freed.extend(addresses.into_iter().map(|address| (address, handle.clone())));
        }
        freed
    }

    /// What `handle` holds, lowest first.
    pub fn addresses_of(&self, handle: &Handle) -> Vec<IpAddr> {
        self.leases.iter().filter(|(_, lease)| lease.handle == *handle).map(|(address, _)| *address).collect()
    }

    /// This node's blocks.
    pub fn blocks(&self) -> &[IpNet] {
        &self.blocks
    }

    /// All leases, by address.
    pub fn leases(&self) -> &BTreeMap<IpAddr, Lease> {
        &self.leases
    }

    /// Freed addresses that were not lent again since, with the time they were freed.
    pub fn cooling(&self) -> &BTreeMap<IpAddr, Timestamp> {
        &self.cooling
    }

    /// How full each block is, in the Node's order.
    pub fn usage(&self) -> Vec<BlockUsage> {
        let usage = self.blocks.iter().map(|block| BlockUsage {
            block: *block,
            leased: count_inside(block, self.leases.keys()),
            cooling: count_inside(block, self.cooling.keys()),
            size: 1_u64.checked_shl(u32::from(block.max_prefix_len() - block.prefix_len())).unwrap_or(u64::MAX),
        });
        usage.collect()
    }

    fn held(&self, handle: &Handle, family: Family) -> Option<IpAddr> {
        self.addresses_of(handle).into_iter().find(|address| Family::of(*address) == family)
    }

    fn pick(&self, family: Family, now: Timestamp) -> Result<IpAddr, IpamError> {
        let blocks: Vec<IpNet> = self.blocks.iter().filter(|b| Family::of(b.addr()) == family).copied().collect();
        let rested = |address: &IpAddr| self.cooling.get(address).is_none_or(|freed| self.is_rested(*freed, now));
        let free = |address: &IpAddr| !self.leases.contains_key(address);
        let best =
            blocks.iter().flat_map(|block| lending_order(*block)).find(|address| free(address) && rested(address));
        best.or_else(|| self.longest_cooling(family)).ok_or_else(|| match blocks.is_empty() {
            true => IpamError::NoBlock { family },
            false => IpamError::Exhausted { family, leased: self.leased(family), blocks },
        })
    }

    /// A clock that was set back must not keep an address away: a time to come counts as long ago.
    fn is_rested(&self, freed: Timestamp, now: Timestamp) -> bool {
        freed > now || now.0 - freed.0 >= self.cool_down_secs
    }

    fn longest_cooling(&self, family: Family) -> Option<IpAddr> {
        let of_family = self.cooling.iter().filter(|(address, _)| Family::of(**address) == family);
        of_family.min_by_key(|(address, freed)| (**freed, **address)).map(|(address, _)| *address)
    }

    fn leased(&self, family: Family) -> usize {
        self.leases.keys().filter(|address| Family::of(**address) == family).count()
    }
}

/// How full one block is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlockUsage {
    /// The block.
    pub block: IpNet,
    /// Addresses lent.
    pub leased: usize,
    /// Addresses freed and not lent again since; they may have rested long enough.
    pub cooling: usize,
    /// Addresses in all; 2^64 - 1 stands for more.
    pub size: u64,
}

/// What the version is read from before the rest is.
#[derive(Deserialize)]
struct Head {
    version: u32,
}

fn count_inside<'a>(block: &IpNet, addresses: impl Iterator<Item = &'a IpAddr>) -> usize {
    addresses.filter(|address| block.contains(*address)).count()
}

/// All addresses of a block, lowest first, but the first one last.
fn lending_order(block: IpNet) -> impl Iterator<Item = IpAddr> {
    let first = block.network();
    // A subnet of the longest prefix is one address.
    let all = block.subnets(block.max_prefix_len()).expect("no prefix is longer than the longest");
    all.map(|one| one.addr()).skip(1).chain([first])
}

/// Why no address could be lent.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IpamError {
    /// The Node has no podCIDR of this family (yet).
    #[error(
        "cannot give a pod an {} address: this node has no block of that family; \
         its Node needs a spec.podCIDRs entry, which the control plane assigns", name(*family)
    )]
    NoBlock {
        /// The family.
        family: Family,
    },
    /// All is lent.
    #[error(
        "cannot give a pod an {} address: all {leased} addresses of {} are lent; \
         delete pods on this node or move them to another node", name(*family), list(blocks)
    )]
    Exhausted {
        /// The family.
        family: Family,
        /// How many addresses of it are lent.
        leased: usize,
        /// This node's blocks of it.
        blocks: Vec<IpNet>,
    },
}

fn name(family: Family) -> &'static str {
    match family {
        Family::V4 => "IPv4",
        Family::V6 => "IPv6",
    }
}

fn list(blocks: &[IpNet]) -> String {
    blocks.iter().map(IpNet::to_string).collect::<Vec<_>>().join(", ")
}

/// Why a written ledger was not taken.
#[derive(Debug, thiserror::Error)]
pub enum LedgerError {
    /// Not the JSON of a ledger.
    #[error(
        "cannot read the address ledger: {0}; move the file away and the running pods' addresses are taken down anew"
    )]
    Parse(#[source] serde_json::Error),
    /// Written by another version.
    #[error(
        "cannot read the address ledger: its version is {found}, this program knows {LEDGER_VERSION}; use the program that wrote it"
    )]
    Version {
        /// What the text says.
        found: u32,
    },
    /// The text contradicts itself.
    #[error(
        "cannot read the address ledger: {address} is both lent and free; move the file away and the running pods' addresses are taken down anew"
    )]
    LentAndFree {
        /// The address.
        address: IpAddr,
    },
}
