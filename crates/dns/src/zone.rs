//! What an operator sets for the zones of a cluster without a Corefile.

use std::net::IpAddr;

use ipnet::IpNet;
use portolan_model::Settings;

pub use crate::corefile::config::PodMode as PodRecords;
use crate::kubernetes::{MAILBOX, SERVER, SOA_TTL_SECS};
use crate::name::{Name, NameError};
use crate::rdata::{Rdata, Soa};

/// What an operator sets for the zones; fixed while they are served.
#[derive(Clone, Debug, PartialEq)]
pub struct ZoneConfig {
    /// The cluster domain.
    pub zone: Name,
    /// TTL of records and, as SOA minimum, of absence; 0 to 3600 s.
    pub ttl_secs: u32,
    /// Pod records.
    pub pods: PodRecords,
    /// Name endpoints without a hostname after their pod instead of their address.
    pub endpoint_pod_names: bool,
    /// Addresses at which this DNS answers: the Service with one of them as ClusterIP or ready endpoint is the zone's NS.
    pub own_addresses: Vec<IpAddr>,
    /// Pod and Service ranges: before all is read, PTR of an address in them is not left to an upstream.
    pub own_ranges: Vec<IpNet>,
}

impl ZoneConfig {
    /// The shipped configuration for a node: TTL 30, `pods insecure`.
    pub fn from_settings(settings: &Settings) -> Result<Self, NameError> {
        Ok(Self {
            zone: Name::parse(&settings.cluster_domain)?,
            ttl_secs: 30,
            pods: PodRecords::Insecure,
            endpoint_pod_names: false,
            own_addresses: settings.cluster_dns.clone(),
            own_ranges: settings.cluster_cidrs.iter().chain(&settings.service_cidrs).copied().collect(),
        })
    }

    /// SOA of `zone`, ours or a reverse one, and the TTL to send it with.
    pub fn soa(&self, zone: &Name, serial: u32) -> (u32, Rdata) {
        let soa = Soa { serial, ..soa(zone, SERVER, MAILBOX, self.ttl_secs) };
        (self.ttl_secs.min(SOA_TTL_SECS), Rdata::Soa(soa))
    }
}

/// SOA of `zone` with serial 0; `server` and `mailbox` are what stands left of the zone in these names.
pub(crate) fn soa(zone: &Name, server: &str, mailbox: &str, minimum_secs: u32) -> Soa {
    let named = |labels: &str| labels.rsplit('.').try_fold(zone.clone(), |name, label| name.child(label));
    Soa {
        mname: named(server).unwrap_or_else(|| zone.clone()),
        rname: named(mailbox).unwrap_or_else(|| zone.clone()),
        serial: 0,
        refresh_secs: 7200,
        retry_secs: 1800,
        expire_secs: 86_400,
        minimum_secs,
    }
}
