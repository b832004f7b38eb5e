//! What we tell peers: own prefixes packed into as few UPDATE messages as they fit.
//!
//! All own prefixes share one set of path attributes: ORIGIN IGP, AS_PATH empty (iBGP) or our AS (eBGP), next hop self,
//! LOCAL_PREF 100 (iBGP only). IPv4 goes into the message body, IPv6 into MP_REACH_NLRI and MP_UNREACH_NLRI (RFC 4760).
//! A learned route is never told on: between the nodes of a full mesh that is the rule (RFC 4271 §9.2.1).

use std::net::IpAddr;

use ipnet::IpNet;
use portolan_model::Family;
use rustbgpd_wire::{
    Afi, AsPath, AsPathSegment, Ipv4NlriEntry, Ipv4Prefix, Ipv4UnicastMode, Ipv6Prefix, Message, MpReachNlri,
    MpUnreachNlri, NlriEntry, Origin, PathAttribute, Prefix, RouteRefreshMessage, RouteRefreshSubtype, Safi,
    UpdateMessage, encode_message,
};

use crate::config::{Asn, NextHops};

/// LOCAL_PREF of own prefixes and of routes that come without one: the default everywhere.
pub(crate) const LOCAL_PREF: u32 = 100;

/// Bytes of NLRI per message: 4096 less header (19), two lengths (4) and at most 60 bytes of attributes.
const NLRI_BUDGET_BYTES: usize = 4000;

/// How own prefixes are announced on one session.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Announcer {
    /// Our AS.
    pub asn: Asn,
    /// The peer is of our AS.
    pub internal: bool,
    /// Next hops.
    pub next_hops: NextHops,
    /// Whether the peer reads 4-octet AS numbers.
    pub four_octet_as: bool,
}

impl Announcer {
    /// UPDATE messages that announce `prefixes`, all of `family`, which must have a next hop.
    pub fn announce(&self, family: Family, prefixes: &[IpNet]) -> Vec<Vec<u8>> {
        pack(prefixes).into_iter().filter_map(|chunk| self.announce_chunk(family, chunk)).collect()
    }

    /// UPDATE messages that withdraw `prefixes`, all of `family`.
    pub fn withdraw(&self, family: Family, prefixes: &[IpNet]) -> Vec<Vec<u8>> {
        pack(prefixes).into_iter().map(|chunk| self.withdraw_chunk(family, chunk)).collect()
    }

    /// The End-of-RIB marker (RFC 4724 §2): the whole of `family` has been told.
    pub fn end_of_rib(&self, family: Family) -> Vec<u8> {
        self.withdraw_chunk(family, &[])
    }

    fn announce_chunk(&self, family: Family, chunk: &[IpNet]) -> Option<Vec<u8>> {
        let mut attributes = self.attributes();
        match family {
            Family::V4 => attributes.push(PathAttribute::NextHop(self.next_hops.v4?)),
            Family::V6 => attributes.push(reach(self.next_hops.v6?.into(), chunk)),
        }
        attributes.sort_by_key(PathAttribute::type_code);
        Some(self.update(&body(family, chunk), &[], &attributes))
    }

    fn withdraw_chunk(&self, family: Family, chunk: &[IpNet]) -> Vec<u8> {
        match family {
            Family::V4 => self.update(&[], &body(family, chunk), &[]),
            Family::V6 => self.update(&[], &[], &[unreach(chunk)]),
        }
    }

    fn attributes(&self) -> Vec<PathAttribute> {
        let segments = match self.internal {
            true => Vec::new(),
            false => vec![AsPathSegment::AsSequence(vec![self.asn.0])],
        };
        let mut attributes = vec![PathAttribute::Origin(Origin::Igp), PathAttribute::AsPath(AsPath { segments })];
        if self.internal {
            attributes.push(PathAttribute::LocalPref(LOCAL_PREF));
        }
        attributes
    }

    fn update(
        &self,
        announced: &[Ipv4NlriEntry],
        withdrawn: &[Ipv4NlriEntry],
        attributes: &[PathAttribute],
    ) -> Vec<u8> {
        let mode = Ipv4UnicastMode::Body;
        let update = UpdateMessage::build(announced, withdrawn, attributes, self.four_octet_as, false, mode);
        encode(&Message::Update(update))
    }
}

/// A ROUTE-REFRESH mark: the begin or the end of a repeated announcement (RFC 7313).
pub(crate) fn refresh_mark(family: Family, subtype: RouteRefreshSubtype) -> Vec<u8> {
    encode(&Message::RouteRefresh(RouteRefreshMessage::new_with_subtype(afi(family), Safi::Unicast, subtype)))
}

/// A whole message as bytes.
pub(crate) fn encode(message: &Message) -> Vec<u8> {
    encode_message(message).expect("messages are built within 4096 bytes of values that have a wire form").to_vec()
}

/// The AFI of a family.
pub(crate) fn afi(family: Family) -> Afi {
    match family {
        Family::V4 => Afi::Ipv4,
        Family::V6 => Afi::Ipv6,
    }
}

/// Cuts prefixes into runs whose NLRI fits one message.
fn pack(prefixes: &[IpNet]) -> Vec<&[IpNet]> {
    let mut runs = Vec::new();
    let (mut start, mut bytes) = (0, 0);
    for (index, prefix) in prefixes.iter().enumerate() {
        let size = 1 + usize::from(prefix.prefix_len().div_ceil(8));
        if bytes + size > NLRI_BUDGET_BYTES {
            runs.push(&prefixes[start..index]);
            (start, bytes) = (index, 0);
        }
        bytes += size;
    }
    if start < prefixes.len() {
        runs.push(&prefixes[start..]);
    }
    runs
}

/// The IPv4 NLRI of the message body; IPv6 has none.
fn body(family: Family, chunk: &[IpNet]) -> Vec<Ipv4NlriEntry> {
    let in_body = chunk.iter().filter(|_| family == Family::V4);
    in_body
        .filter_map(|prefix| match wire_prefix(prefix) {
            Prefix::V4(prefix) => Some(Ipv4NlriEntry { path_id: 0, prefix }),
            Prefix::V6(_) => None,
        })
        .collect()
}

fn entries(chunk: &[IpNet]) -> Vec<NlriEntry> {
    chunk.iter().map(|prefix| NlriEntry { path_id: 0, prefix: wire_prefix(prefix) }).collect()
}

fn wire_prefix(prefix: &IpNet) -> Prefix {
    match prefix {
        IpNet::V4(net) => Prefix::V4(Ipv4Prefix::new(net.network(), net.prefix_len())),
        IpNet::V6(net) => Prefix::V6(Ipv6Prefix::new(net.network(), net.prefix_len())),
    }
}

fn reach(next_hop: IpAddr, chunk: &[IpNet]) -> PathAttribute {
    PathAttribute::MpReachNlri(Box::new(MpReachNlri {
        afi: Afi::Ipv6,
        safi: Safi::Unicast,
        next_hop,
        link_local_next_hop: None,
        announced: entries(chunk),
        flowspec_announced: Vec::new(),
        evpn_announced: Vec::new(),
        bgpls_announced: Vec::new(),
        vpn_announced: Vec::new(),
        labeled_announced: Vec::new(),
        rtc_announced: Vec::new(),
    }))
}

fn unreach(chunk: &[IpNet]) -> PathAttribute {
    PathAttribute::MpUnreachNlri(Box::new(MpUnreachNlri {
        afi: Afi::Ipv6,
        safi: Safi::Unicast,
        withdrawn: entries(chunk),
        flowspec_withdrawn: Vec::new(),
        evpn_withdrawn: Vec::new(),
        bgpls_withdrawn: Vec::new(),
        vpn_withdrawn: Vec::new(),
        labeled_withdrawn: Vec::new(),
        rtc_withdrawn: Vec::new(),
    }))
}
