//! One TCP connection to a peer: framing, its state machine, its two timers, and the session once it is up.
//!
//! A link begins when TCP is connected (the peer does the dialling) and ends when its state machine leaves the states
//! that have a connection. Must never know other links or the RIBs: what it cannot decide it reports as [`Step`]s.
//!
//! Spec: RFC 4271 §4.1 (framing), §8 (FSM); RFC 8654 (messages up to 65535 octets are read, never written).

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use bytes::{Buf, Bytes, BytesMut};
use ipnet::IpNet;
use portolan_model::Family;
use rustbgpd_fsm::negotiation::validate_open;
use rustbgpd_fsm::{
    Action, Event, NegotiatedSession, PeerConfig as FsmConfig, Session, SessionState as FsmState, TimerType,
};
use rustbgpd_wire::notification::{NotificationCode, cease_subcode, description};
use rustbgpd_wire::{
    EXTENDED_MAX_MESSAGE_LEN, MAX_MESSAGE_LEN, Message, NotificationMessage, OpenMessage, Safi, decode_message,
    peek_message_length,
};

use crate::advert::{afi, encode};
use crate::config::{PeerConfig, SpeakerConfig};
use crate::speaker::{Direction, SessionState};

/// What happened on a link, in order.
#[derive(Debug)]
pub(crate) enum Step {
    /// These bytes go out.
    Send(Vec<u8>),
    /// The session is up.
    Up,
    /// The session was up and is no longer.
    Down,
    /// The link is over. The reason is for people.
    Over(String),
}

/// A session that is up.
#[derive(Clone, Debug)]
pub(crate) struct Established {
    /// Since when.
    pub since: Instant,
    /// Hold time agreed on.
    pub hold_time_secs: u16,
    /// Whether AS numbers have four octets.
    pub four_octet_as: bool,
    /// Whether the peer marks begin and end of a refresh.
    pub enhanced_refresh: bool,
    /// Families both sides speak.
    pub families: Vec<Family>,
    /// Own prefixes that the peer was told (Adj-RIB-Out).
    pub announced: BTreeSet<IpNet>,
    /// Families whose End-of-RIB has come.
    pub complete: BTreeSet<Family>,
    /// During a refresh from the peer: what it has not repeated yet.
    pub stale: BTreeMap<Family, BTreeSet<IpNet>>,
}

/// One connection.
#[derive(Debug)]
pub(crate) struct Link {
    /// Who dialled.
    pub direction: Direction,
    /// The peer's BGP Identifier, once its OPEN was taken.
    pub router_id: Option<Ipv4Addr>,
    /// Set while the session is up.
    pub established: Option<Established>,
    fsm: Session,
    fsm_config: FsmConfig,
    inbox: BytesMut,
    hold_at: Option<Instant>,
    keepalive_at: Option<Instant>,
    extended: bool,
    reason: Option<String>,
}

impl Link {
    /// A link whose TCP connection has just come up; its OPEN is among the steps.
    pub fn start(config: &SpeakerConfig, peer: &PeerConfig, direction: Direction, now: Instant) -> (Self, Vec<Step>) {
        let fsm_config = fsm_config(config, peer);
        let mut link = Self {
            direction,
            router_id: None,
            established: None,
            fsm: Session::new(fsm_config.clone()),
            fsm_config,
            inbox: BytesMut::new(),
            hold_at: None,
            keepalive_at: None,
            extended: false,
            reason: None,
        };
        link.fsm.handle_event(Event::ManualStart);
        let steps = link.feed(Event::TcpConnectionConfirmed, now);
        (link, steps)
    }

    /// Where the session stands.
    pub fn state(&self) -> SessionState {
        match self.fsm.state() {
            FsmState::Idle => SessionState::Idle,
            FsmState::Connect => SessionState::Connect,
            FsmState::Active => SessionState::Active,
            FsmState::OpenSent => SessionState::OpenSent,
            FsmState::OpenConfirm => SessionState::OpenConfirm,
            FsmState::Established => SessionState::Established,
        }
    }

    /// Adds received bytes to what waits for reading.
    pub fn push(&mut self, data: &[u8]) {
        self.inbox.extend_from_slice(data);
    }

    /// The next whole message, or the event of bytes that are none. `None`: more bytes are needed.
    pub fn next_message(&mut self) -> Option<Result<Message, Event>> {
        let limit = if self.extended { EXTENDED_MAX_MESSAGE_LEN } else { MAX_MESSAGE_LEN };
        let len = match peek_message_length(&self.inbox, limit) {
            Ok(len) => usize::from(len?),
            Err(error) => return Some(Err(Event::DecodeError(error))),
        };
        if self.inbox.len() < len {
            return None;
        }
        let mut bytes: Bytes = self.inbox.copy_to_bytes(len);
        Some(decode_message(&mut bytes, limit).map_err(Event::DecodeError))
    }

    /// Whether the state machine would take this OPEN: only then may it end another connection.
    pub fn would_take(&self, open: &OpenMessage) -> bool {
        self.fsm.state() == FsmState::OpenSent && validate_open(open, &self.fsm_config).is_ok()
    }

    /// Runs the state machine on one event.
    pub fn feed(&mut self, event: Event, now: Instant) -> Vec<Step> {
        self.note_reason(&event);
        let actions = self.fsm.handle_event(event);
        let mut steps: Vec<Step> = actions.into_iter().filter_map(|action| self.act(action, now)).collect();
        if matches!(self.fsm.state(), FsmState::Idle | FsmState::Active | FsmState::Connect) {
            let reason = self.reason.take().unwrap_or_else(|| "closed".to_owned());
            steps.push(Step::Over(reason));
        }
        steps
    }

    /// Ends the link with a Cease NOTIFICATION of `subcode` (RFC 4486).
    pub fn cease(&mut self, subcode: u8, now: Instant) -> Vec<Step> {
        let code = NotificationCode::Cease;
        let mut steps =
            vec![Step::Send(encode(&Message::Notification(NotificationMessage::new(code, subcode, Bytes::new()))))];
        let rest = self.feed(Event::TcpConnectionFails, now);
        steps.extend(rest.into_iter().filter(|step| !matches!(step, Step::Over(_))));
        steps.push(Step::Over(format!("we closed: {}", description(code, subcode))));
        steps
    }

    /// Runs the timers that are due.
    pub fn tick(&mut self, now: Instant) -> Vec<Step> {
        if self.hold_at.is_some_and(|at| at <= now) {
            self.hold_at = None;
            return self.feed(Event::HoldTimerExpires, now);
        }
        if self.keepalive_at.is_some_and(|at| at <= now) {
            self.keepalive_at = None;
            return self.feed(Event::KeepaliveTimerExpires, now);
        }
        Vec::new()
    }

    /// When `tick` is wanted next.
    pub fn next_deadline(&self) -> Option<Instant> {
        self.hold_at.into_iter().chain(self.keepalive_at).min()
    }

    fn act(&mut self, action: Action, now: Instant) -> Option<Step> {
        match action {
            Action::SendOpen(open) => Some(Step::Send(encode(&Message::Open(open)))),
            Action::SendKeepalive => Some(Step::Send(encode(&Message::Keepalive))),
            Action::SendNotification(notification) => {
                self.reason.get_or_insert_with(|| format!("we closed: {}", words(&notification)));
                Some(Step::Send(encode(&Message::Notification(notification))))
            }
            Action::StartTimer(timer, secs) => {
                self.set_timer(timer, Some(now + self.patience(timer, secs)));
                None
            }
            Action::StopTimer(timer) => {
                self.set_timer(timer, None);
                None
            }
            Action::SessionEstablished(session) => {
                self.come_up(&session, now);
                Some(Step::Up)
            }
            Action::SessionDown => Some(Step::Down),
            _ => None,
        }
    }

    /// While we wait for the peer's OPEN the machine asks for 240 s (RFC 4271 §8.2.2 wants it "large"); three of our own
    /// hold times are enough, so that a peer that hangs is dialled anew soon where sessions are set to be quick.
    fn patience(&self, timer: TimerType, secs: u32) -> Duration {
        let own = u32::from(self.fsm_config.hold_time).saturating_mul(3);
        let opening = self.fsm.state() == FsmState::OpenSent && self.router_id.is_none();
        match timer == TimerType::Hold && opening && own > 0 {
            true => Duration::from_secs(u64::from(secs.min(own))),
            false => Duration::from_secs(u64::from(secs)),
        }
    }

    fn set_timer(&mut self, timer: TimerType, at: Option<Instant>) {
        match timer {
            TimerType::Hold => self.hold_at = at,
            TimerType::Keepalive => self.keepalive_at = at,
            // The peer dials, not the link.
            _ => {}
        }
    }

    fn come_up(&mut self, session: &NegotiatedSession, now: Instant) {
        self.extended = session.peer_extended_message;
        let speaks = |family: &Family| session.negotiated_families.contains(&(afi(*family), Safi::Unicast));
        self.established = Some(Established {
            since: now,
            hold_time_secs: session.hold_time,
            four_octet_as: session.four_octet_as,
            enhanced_refresh: session.peer_enhanced_route_refresh,
            families: Family::BOTH.into_iter().filter(speaks).collect(),
            announced: BTreeSet::new(),
            complete: BTreeSet::new(),
            stale: BTreeMap::new(),
        });
    }

    fn note_reason(&mut self, event: &Event) {
        let reason = match event {
            Event::NotificationReceived(notification) => format!("the peer closed: {}", words(notification)),
            Event::TcpConnectionFails => "the connection was lost".to_owned(),
            Event::HoldTimerExpires => "hold time expired: the peer was silent".to_owned(),
            Event::DecodeError(error) => format!("the peer sent what is no BGP message: {error}"),
            Event::UpdateValidationError(notification) => format!("bad UPDATE: {}", words(notification)),
            _ => return,
        };
        self.reason = Some(reason);
    }
}

fn words(notification: &NotificationMessage) -> String {
    format!(
        "{} ({}/{})",
        description(notification.code, notification.subcode),
        notification.code.as_u8(),
        notification.subcode
    )
}

fn fsm_config(config: &SpeakerConfig, peer: &PeerConfig) -> FsmConfig {
    let mut fsm = FsmConfig::new(config.asn.0, peer.asn.0, config.router_id);
    fsm.hold_time = config.hold_time_secs;
    let offered = Family::BOTH.into_iter().filter(|family| config.next_hops.has(*family));
    fsm.families = offered.map(|family| (afi(family), Safi::Unicast)).collect();
    fsm.disable_ipv4_unicast = !config.next_hops.has(Family::V4);
    fsm
}

/// Subcodes of Cease that peers use on a link.
pub(crate) mod cease {
    use super::cease_subcode;

    /// The other connection of a collision was kept (RFC 4271 §6.8).
    pub const COLLISION: u8 = cease_subcode::CONNECTION_COLLISION_RESOLUTION;
    /// There is a session already.
    pub const REJECTED: u8 = cease_subcode::CONNECTION_REJECTED;
    /// BFD, or who watches the nodes, says that the peer is down (RFC 9384).
    pub const PEER_DOWN: u8 = 10;
    /// The peer is no longer configured.
    pub const DECONFIGURED: u8 = cease_subcode::PEER_DECONFIGURED;
}
