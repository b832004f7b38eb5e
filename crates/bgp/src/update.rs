//! A received UPDATE, read: which prefixes it announces with which path, which it withdraws, or why the session must go.
//!
//! Errors are handled as RFC 7606 says: a broken attribute turns the announced prefixes into withdrawn ones and the session
//! lives; only an UPDATE whose prefixes cannot be told apart ends it. Routes we must not use (our AS in AS_PATH, ourselves
//! as next hop or originator, prefixes outside what we take) count as withdrawn too, because they replace what the peer
//! said before.

use std::net::{IpAddr, Ipv4Addr};

use bytes::Bytes;
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use portolan_model::Family;
use rustbgpd_fsm::Event;
use rustbgpd_wire::notification::NotificationCode;
use rustbgpd_wire::{
    AsPath, AsPathSegment, ErrorDisposition, NotificationMessage, PathAttribute, Prefix, RevisedParsedUpdate, Safi,
    UpdateMessage,
};

use crate::advert::LOCAL_PREF;
use crate::config::SpeakerConfig;
use crate::rib::Path;

/// Who sent the UPDATE, as far as reading it depends on that.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sender {
    /// The peer is of our AS.
    pub internal: bool,
    /// AS numbers have four octets on this session.
    pub four_octet_as: bool,
    /// The peer's BGP Identifier.
    pub router_id: Ipv4Addr,
}

/// What an UPDATE changes.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Changes {
    /// New paths.
    pub announced: Vec<(IpNet, Path)>,
    /// Prefixes that the peer has no path to any more, or none that we use.
    pub withdrawn: Vec<IpNet>,
    /// End-of-RIB of a family.
    pub end_of_rib: Option<Family>,
    /// Why announced prefixes were not taken.
    pub complaint: Option<String>,
}

/// Reads `update`. The error is the event that ends the session.
pub(crate) fn read(update: &UpdateMessage, sender: Sender, config: &SpeakerConfig) -> Result<Changes, Event> {
    let parsed = update.parse_revised(sender.four_octet_as, sender.internal, false, &[]).map_err(Event::DecodeError)?;
    let announced = announced_prefixes(&parsed);
    let mut changes = Changes { withdrawn: withdrawn_prefixes(&parsed), ..Changes::default() };
    if announced.is_empty() && changes.withdrawn.is_empty() && parsed.malformed.is_empty() {
        changes.end_of_rib = end_of_rib(&parsed);
        return Ok(changes);
    }
    if let Some(complaint) = malformed(&parsed, sender)? {
        changes.withdrawn.extend(announced.into_iter().map(|(prefix, _)| prefix));
        changes.complaint = Some(complaint);
        return Ok(changes);
    }
    let facts = PathFacts::of(&parsed.update.attributes, sender);
    for (prefix, gateway) in announced {
        match facts.refuse(&prefix, gateway, config) {
            None => changes.announced.push((prefix, facts.path(gateway))),
            Some(why) => {
                changes.withdrawn.push(prefix);
                changes.complaint = Some(format!("{prefix} not taken: {why}"));
            }
        }
    }
    Ok(changes)
}

/// RFC 7606 §3 h: the strongest disposition counts. `Ok(Some)`: treat as withdraw, and why.
fn malformed(parsed: &RevisedParsedUpdate, sender: Sender) -> Result<Option<String>, Event> {
    let mut complaint = None;
    for found in &parsed.malformed {
        match found.disposition {
            ErrorDisposition::AttributeDiscard => {}
            ErrorDisposition::TreatAsWithdraw => {
                complaint =
                    Some(format!("attribute {}: {}; its prefixes count as withdrawn", found.type_code, found.error));
            }
            ErrorDisposition::SessionReset => return Err(Event::DecodeError(found.error.clone())),
        }
    }
    let attributes = &parsed.update.attributes;
    let has_body = !parsed.update.announced.is_empty();
    let has_nlri = has_body || attributes.iter().any(|a| matches!(a, PathAttribute::MpReachNlri(_)));
    let checked = rustbgpd_wire::validate::validate_update_attributes(attributes, has_nlri, has_body, !sender.internal);
    match checked {
        Ok(()) => Ok(complaint),
        Err(error) if error.disposition == ErrorDisposition::AttributeDiscard => Ok(complaint),
        Err(error) if error.disposition == ErrorDisposition::TreatAsWithdraw => {
            let what = rustbgpd_wire::notification::description(NotificationCode::UpdateMessage, error.subcode);
            Ok(Some(format!("{what}; its prefixes count as withdrawn")))
        }
        Err(error) => {
            let data = Bytes::from(error.data);
            Err(Event::UpdateValidationError(NotificationMessage::new(
                NotificationCode::UpdateMessage,
                error.subcode,
                data,
            )))
        }
    }
}

/// Announced prefixes with their next hops: of the body (NEXT_HOP) and of MP_REACH_NLRI.
fn announced_prefixes(parsed: &RevisedParsedUpdate) -> Vec<(IpNet, IpAddr)> {
    let attributes = &parsed.update.attributes;
    let next_hop = attributes.iter().find_map(|a| match a {
        PathAttribute::NextHop(hop) => Some(IpAddr::V4(*hop)),
        _ => None,
    });
    // Without NEXT_HOP the prefixes still count, as withdrawn: `malformed` finds the attribute missing.
    let next_hop = next_hop.unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED));
    let body = parsed.update.announced.iter().map(|entry| (net(&Prefix::V4(entry.prefix)), next_hop));
    let multi = attributes.iter().flat_map(|a| match a {
        PathAttribute::MpReachNlri(reach) if reach.safi == Safi::Unicast => {
            reach.announced.iter().map(|entry| (net(&entry.prefix), reach.next_hop)).collect()
        }
        _ => Vec::new(),
    });
    body.chain(multi).collect()
}

fn withdrawn_prefixes(parsed: &RevisedParsedUpdate) -> Vec<IpNet> {
    let body = parsed.update.withdrawn.iter().map(|entry| net(&Prefix::V4(entry.prefix)));
    let multi = parsed.update.attributes.iter().flat_map(|a| match a {
        PathAttribute::MpUnreachNlri(gone) if gone.safi == Safi::Unicast => {
            gone.withdrawn.iter().map(|entry| net(&entry.prefix)).collect()
        }
        _ => Vec::new(),
    });
    body.chain(multi).collect()
}

/// RFC 4724 §2: an UPDATE with nothing in it, or with one empty MP_UNREACH_NLRI.
fn end_of_rib(parsed: &RevisedParsedUpdate) -> Option<Family> {
    match parsed.update.attributes.as_slice() {
        [] => Some(Family::V4),
        [PathAttribute::MpUnreachNlri(gone)] if gone.safi == Safi::Unicast => family(gone.afi),
        _ => None,
    }
}

/// The family of an AFI that we speak.
pub(crate) fn family(afi: rustbgpd_wire::Afi) -> Option<Family> {
    Family::BOTH.into_iter().find(|family| crate::advert::afi(*family) == afi)
}

/// The wire decoder checks lengths, so that the prefix always has a value.
fn net(prefix: &Prefix) -> IpNet {
    match prefix {
        Prefix::V4(p) => Ipv4Net::new_assert(p.addr, p.len).into(),
        Prefix::V6(p) => Ipv6Net::new_assert(p.addr, p.len).into(),
    }
}

/// The attributes that all prefixes of one UPDATE share.
struct PathFacts {
    local_pref: u32,
    as_path: AsPath,
    origin: u8,
    med: u32,
    external: bool,
    originator: Option<Ipv4Addr>,
    router_id: Ipv4Addr,
}

impl PathFacts {
    fn of(attributes: &[PathAttribute], sender: Sender) -> Self {
        let mut facts = Self {
            local_pref: LOCAL_PREF,
            as_path: AsPath { segments: Vec::new() },
            origin: 2,
            med: 0,
            external: !sender.internal,
            originator: None,
            router_id: sender.router_id,
        };
        for attribute in attributes {
            match attribute {
                // RFC 4271 §5.1.5: from another AS it has no meaning.
                PathAttribute::LocalPref(value) if sender.internal => facts.local_pref = *value,
                PathAttribute::AsPath(path) => facts.as_path = path.clone(),
                PathAttribute::Origin(origin) => facts.origin = *origin as u8,
                PathAttribute::Med(value) => facts.med = *value,
                PathAttribute::OriginatorId(id) if sender.internal => facts.originator = Some(*id),
                _ => {}
            }
        }
        facts
    }

    fn path(&self, gateway: IpAddr) -> Path {
        Path {
            gateway,
            local_pref: self.local_pref,
            as_path_len: self.as_path_len(),
            origin: self.origin,
            med: self.med,
            external: self.external,
            router_id: self.originator.unwrap_or(self.router_id),
        }
    }

    fn as_path_len(&self) -> u32 {
        let lens = self.as_path.segments.iter().map(|segment| match segment {
            AsPathSegment::AsSet(_) => 1,
            AsPathSegment::AsSequence(list) => u32::try_from(list.len()).unwrap_or(u32::MAX),
        });
        lens.fold(0, u32::saturating_add)
    }

    /// Why we must not use this route, if so: loops (RFC 4271 §9.1.2, RFC 4456 §8), ourselves as next hop (RFC 4271
    /// §5.1.3), or the operator's limit.
    fn refuse(&self, prefix: &IpNet, gateway: IpAddr, config: &SpeakerConfig) -> Option<String> {
        let has_our_as = self.as_path.segments.iter().any(|segment| match segment {
            AsPathSegment::AsSet(list) | AsPathSegment::AsSequence(list) => list.contains(&config.asn.0),
        });
        if has_our_as {
            return Some(format!("our own {} is in its AS_PATH", config.asn));
        }
        if self.originator == Some(config.router_id) {
            return Some("it came from us (ORIGINATOR_ID)".to_owned());
        }
        if config.next_hops.contains(gateway) || gateway.is_unspecified() {
            return Some(format!("its next hop {gateway} is this node"));
        }
        (!config.accepts(prefix)).then(|| "it is outside the ranges taken from peers".to_owned())
    }
}
