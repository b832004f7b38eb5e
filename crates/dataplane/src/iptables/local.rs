//! Local: how rules tell a local pod's packet from others (`detectLocalMode`).

use ipnet::IpNet;
use portolan_model::{DetectLocal, Family, Snapshot, Text};

use crate::iptables::rule::{Match, Sign, Where};

/// The sign by which a local pod's packet is known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Local {
    /// `-s CIDR`.
    From(IpNet),
    /// `-i LINK`; a `+` at its end stands for any rest.
    By(Text),
}

impl Local {
    /// The detector that the settings ask for; `None` if they ask for none, or what it needs is not known.
    pub fn of(snapshot: &Snapshot, family: Family) -> Option<Self> {
        match &snapshot.settings.proxy.detect_local {
            DetectLocal::ClusterCidr => snapshot.cluster_cidr(family).map(Self::From),
            DetectLocal::NodeCidr => snapshot.node_cidr(family).map(Self::From),
            DetectLocal::BridgeInterface(name) => (!name.0.is_empty()).then(|| Self::By(name.0.clone())),
            DetectLocal::InterfaceNamePrefix(prefix) => {
                (!prefix.is_empty()).then(|| Self::By(format!("{prefix}+").into()))
            }
            DetectLocal::Nothing => None,
        }
    }

    /// The match of a local pod's packet, or of any other.
    pub fn matching(&self, sign: Sign) -> Match {
        match self {
            Self::From(range) => Match::Src(sign, Where::Net(*range)),
            Self::By(link) => Match::In(sign, link.clone()),
        }
    }
}
