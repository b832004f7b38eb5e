//! One peer: dials it, keeps the links to it, and lets one session live.
//!
//! ```text
//!            Dial::Waiting ──► Dial::Dialing ──► link (outbound) ─┐
//!                                                                 ├─► one Established
//!                              the peer dials ──► link (inbound) ─┘
//! ```
//!
//! Collisions (RFC 4271 §6.8): the connection that the higher BGP Identifier dialled lives. It is decided when an OPEN
//! comes, before it is answered, against every other link on which our own OPEN is out; an OPEN tells the peer's
//! Identifier, so that both ends decide alike, whatever arrives first. A link is given up on such an OPEN only, never
//! because of something the other end may not have seen: else each end could keep what the other one closes. Once a
//! session is up, a connection in the other direction is not begun: a dial of ours that completes late is dropped, a dial
//! of the peer's is refused. A peer that dials although a session it dialled is up has lost that one: the new one wins.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::time::Instant;

use ipnet::IpNet;
use portolan_model::Family;
use rustbgpd_fsm::Event;
use rustbgpd_wire::{Afi, Message, OpenMessage, RouteRefreshMessage, RouteRefreshSubtype, Safi, UpdateMessage};

use crate::advert::{Announcer, refresh_mark};
use crate::config::{Export, PeerConfig, SpeakerConfig};
use crate::link::{Link, Step, cease};
use crate::rib::Rib;
use crate::speaker::{ConnId, Direction, Effect, LogLevel, SessionState, SessionStatus};
use crate::update::{self, Sender};

/// What a peer works with and on, for the time of one call.
pub(crate) struct Context<'a> {
    pub config: &'a SpeakerConfig,
    pub exports: &'a BTreeMap<IpNet, Export>,
    pub rib: &'a mut Rib,
    pub effects: &'a mut Vec<Effect>,
    pub now: Instant,
}

impl Context<'_> {
    /// Adds a line for the log.
    pub fn log(&mut self, level: LogLevel, peer: IpAddr, message: impl Into<String>) {
        self.effects.push(Effect::Log { level, peer: Some(peer), message: message.into() });
    }
}

/// Whether and when we dial.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Dial {
    /// There is a link, or the last attempt became one.
    Rest,
    /// The next attempt is due then.
    Waiting(Instant),
    /// The caller is connecting.
    Dialing,
}

/// One peer of ours.
#[derive(Debug)]
pub(crate) struct Peer {
    address: IpAddr,
    config: PeerConfig,
    dial: Dial,
    failures: u32,
    links: BTreeMap<ConnId, Link>,
    last_error: Option<String>,
}

impl Peer {
    /// A peer that is dialled at once.
    pub fn start(address: IpAddr, config: PeerConfig, cx: &mut Context<'_>) -> Self {
        cx.effects.push(Effect::Connect { peer: address });
        Self { address, config, dial: Dial::Dialing, failures: 0, links: BTreeMap::new(), last_error: None }
    }

    /// Its settings.
    pub fn config(&self) -> &PeerConfig {
        &self.config
    }

    /// Ends all links: the peer is no longer configured.
    pub fn stop(mut self, cx: &mut Context<'_>) {
        for conn in self.conns() {
            self.cease(conn, cease::DECONFIGURED, cx);
        }
    }

    /// The way to the peer is down: its links end, and it is dialled again.
    pub fn down(&mut self, reason: &str, cx: &mut Context<'_>) {
        for conn in self.conns() {
            self.cease(conn, cease::PEER_DOWN, cx);
        }
        self.note_error(reason.to_owned(), cx);
    }

    /// A connection to the peer is up.
    pub fn connected(&mut self, conn: ConnId, direction: Direction, cx: &mut Context<'_>) {
        if direction == Direction::Outbound {
            self.dial = Dial::Rest;
        }
        if self.is_unwanted(direction) {
            cx.effects.push(Effect::Close { conn });
            return;
        }
        self.replace_silent(direction, cx);
        let (link, steps) = Link::start(cx.config, &self.config, direction, cx.now);
        self.links.insert(conn, link);
        self.carry_out(conn, steps, cx);
    }

    /// An attempt to connect failed.
    pub fn connect_failed(&mut self, reason: String, cx: &mut Context<'_>) {
        if self.dial == Dial::Dialing {
            self.dial = Dial::Rest;
            self.note_error(format!("cannot connect: {reason}"), cx);
            self.plan_dial(cx);
        }
    }

    /// Bytes came in.
    pub fn bytes(&mut self, conn: ConnId, data: &[u8], cx: &mut Context<'_>) {
        let Some(link) = self.links.get_mut(&conn) else { return };
        link.push(data);
        while let Some(message) = self.links.get_mut(&conn).and_then(Link::next_message) {
            self.message(conn, message, cx);
        }
    }

    /// The connection is gone; its number is not used any more.
    pub fn closed(&mut self, conn: ConnId, cx: &mut Context<'_>) {
        let Some(link) = self.links.get_mut(&conn) else { return };
        let steps = link.feed(Event::TcpConnectionFails, cx.now);
        let kept = steps.into_iter().filter(|step| !matches!(step, Step::Send(_))).collect();
        let before = cx.effects.len();
        self.carry_out(conn, kept, cx);
        let closes = |effect: &Effect| matches!(effect, Effect::Close { conn: closing } if *closing == conn);
        let told = cx.effects.split_off(before);
        cx.effects.extend(told.into_iter().filter(|effect| !closes(effect)));
    }

    /// Runs what is due.
    pub fn tick(&mut self, cx: &mut Context<'_>) {
        for conn in self.conns() {
            let steps = self.links.get_mut(&conn).map(|link| link.tick(cx.now)).unwrap_or_default();
            self.carry_out(conn, steps, cx);
        }
        if matches!(self.dial, Dial::Waiting(at) if at <= cx.now) {
            self.dial = match self.links.is_empty() {
                true => Dial::Dialing,
                false => Dial::Rest,
            };
            if self.dial == Dial::Dialing {
                cx.effects.push(Effect::Connect { peer: self.address });
            }
        }
    }

    /// When `tick` is wanted next.
    pub fn next_deadline(&self) -> Option<Instant> {
        let dial = match self.dial {
            Dial::Waiting(at) => Some(at),
            Dial::Rest | Dial::Dialing => None,
        };
        self.links.values().filter_map(Link::next_deadline).chain(dial).min()
    }

    /// Tells the peer how the exports differ from what it was told.
    pub fn advertise(&mut self, cx: &mut Context<'_>) {
        for conn in self.conns() {
            self.advertise_on(conn, cx);
        }
    }

    /// For people and for `node status`.
    pub fn status(&self, rib: &Rib) -> SessionStatus {
        let link = self.links.values().max_by_key(|link| link.state());
        let established = link.and_then(|link| link.established.as_ref());
        SessionStatus {
            peer: self.address,
            asn: self.config.asn,
            state: link.map_or(self.idle_state(), Link::state),
            router_id: link.and_then(|link| link.router_id),
            direction: link.map(|link| link.direction),
            established_at: established.map(|session| session.since),
            hold_time_secs: established.map(|session| session.hold_time_secs),
            complete: established.is_some_and(|session| session.families.iter().all(|f| session.complete.contains(f))),
            prefixes_received: rib.count_of(self.address),
            prefixes_sent: established.map_or(0, |session| session.announced.len()),
            last_error: self.last_error.clone(),
        }
    }

    fn idle_state(&self) -> SessionState {
        match self.dial {
            Dial::Rest => SessionState::Idle,
            Dial::Waiting(_) => SessionState::Active,
            Dial::Dialing => SessionState::Connect,
        }
    }

    fn conns(&self) -> Vec<ConnId> {
        self.links.keys().copied().collect()
    }

    /// A session that the other end dialled is up.
    fn is_unwanted(&self, direction: Direction) -> bool {
        self.links.values().any(|link| link.state() == SessionState::Established && link.direction != direction)
    }

    /// A second connection dialled by the same side: the first one died there before it spoke.
    fn replace_silent(&mut self, direction: Direction, cx: &mut Context<'_>) {
        let silent = |link: &Link| link.direction == direction && link.state() < SessionState::OpenConfirm;
        let old: Vec<ConnId> = self.links.iter().filter(|(_, link)| silent(link)).map(|(conn, _)| *conn).collect();
        for conn in old {
            self.cease(conn, cease::REJECTED, cx);
        }
    }

    fn message(&mut self, conn: ConnId, message: Result<Message, Event>, cx: &mut Context<'_>) {
        let event = match message {
            Err(event) => event,
            Ok(Message::Open(open)) => {
                if !self.wins(conn, &open, cx) {
                    return;
                }
                Event::OpenReceived(open)
            }
            Ok(Message::Keepalive) => Event::KeepaliveReceived,
            Ok(Message::Notification(notification)) => Event::NotificationReceived(notification),
            Ok(Message::Update(update)) => self.update(conn, &update, cx),
            Ok(Message::RouteRefresh(refresh)) => self.refresh(conn, &refresh, cx),
            // RFC 4271 §4.1 knows no other; the codec refuses them before.
            Ok(_) => return,
        };
        let steps = self.links.get_mut(&conn).map(|link| link.feed(event, cx.now)).unwrap_or_default();
        self.carry_out(conn, steps, cx);
    }

    /// Decides between the link that got `open` and each other one; false if this link lost and was ended.
    fn wins(&mut self, conn: ConnId, open: &OpenMessage, cx: &mut Context<'_>) -> bool {
        let Some(link) = self.links.get_mut(&conn) else { return false };
        if !link.would_take(open) {
            return true;
        }
        link.router_id = Some(open.bgp_identifier);
        let direction = link.direction;
        for other in self.conns().into_iter().filter(|other| *other != conn) {
            let loser = match Self::keeps(direction, &self.links[&other], open.bgp_identifier, cx.config.router_id) {
                true => other,
                false => conn,
            };
            self.cease(loser, cease::COLLISION, cx);
            if loser == conn {
                return false;
            }
        }
        true
    }

    /// Whether a link dialled by `direction` lives, and `other` goes.
    fn keeps(direction: Direction, other: &Link, theirs: Ipv4Addr, ours: Ipv4Addr) -> bool {
        if other.direction == direction {
            return true;
        }
        let higher_dialled = if ours > theirs { Direction::Outbound } else { Direction::Inbound };
        direction == higher_dialled
    }

    fn cease(&mut self, conn: ConnId, subcode: u8, cx: &mut Context<'_>) {
        let steps = self.links.get_mut(&conn).map(|link| link.cease(subcode, cx.now)).unwrap_or_default();
        self.carry_out(conn, steps, cx);
    }

    fn carry_out(&mut self, conn: ConnId, steps: Vec<Step>, cx: &mut Context<'_>) {
        for step in steps {
            match step {
                Step::Send(bytes) => cx.effects.push(Effect::Send { conn, bytes }),
                Step::Up => self.up(conn, cx),
                Step::Down => cx.rib.drop_peer(self.address),
                Step::Over(reason) => self.over(conn, reason, cx),
            }
        }
    }

    fn up(&mut self, conn: ConnId, cx: &mut Context<'_>) {
        self.failures = 0;
        self.last_error = None;
        cx.log(LogLevel::Info, self.address, format!("session established with {}", self.config.asn));
        self.advertise_on(conn, cx);
        let Some((announcer, session)) = self.session(conn, cx.config) else { return };
        let marks: Vec<Vec<u8>> = session.families.iter().map(|family| announcer.end_of_rib(*family)).collect();
        cx.effects.extend(marks.into_iter().map(|bytes| Effect::Send { conn, bytes }));
    }

    fn over(&mut self, conn: ConnId, reason: String, cx: &mut Context<'_>) {
        let Some(link) = self.links.remove(&conn) else { return };
        cx.effects.push(Effect::Close { conn });
        if link.established.is_some() {
            cx.log(LogLevel::Warn, self.address, format!("session down: {reason}"));
        }
        if self.links.is_empty() {
            self.note_error(reason, cx);
            self.plan_dial(cx);
        }
    }

    /// Keeps the error for `sessions()`, and logs it if it is another than before: a peer that stays away is told of once.
    fn note_error(&mut self, reason: String, cx: &mut Context<'_>) {
        if self.last_error.as_ref() != Some(&reason) {
            cx.log(LogLevel::Info, self.address, format!("no session, will try again: {reason}"));
        }
        self.last_error = Some(reason);
    }

    fn plan_dial(&mut self, cx: &mut Context<'_>) {
        if self.dial != Dial::Rest || !self.links.is_empty() {
            return;
        }
        self.dial = Dial::Waiting(cx.now + cx.config.retry_after(self.failures));
        self.failures = self.failures.saturating_add(1);
    }

    fn session(&mut self, conn: ConnId, config: &SpeakerConfig) -> Option<(Announcer, &mut crate::link::Established)> {
        let internal = self.config.asn == config.asn;
        let session = self.links.get_mut(&conn)?.established.as_mut()?;
        let four_octet_as = session.four_octet_as;
        Some((Announcer { asn: config.asn, internal, next_hops: config.next_hops, four_octet_as }, session))
    }

    fn advertise_on(&mut self, conn: ConnId, cx: &mut Context<'_>) {
        let Some((announcer, session)) = self.session(conn, cx.config) else { return };
        for family in session.families.clone() {
            let of_family = |prefix: &&IpNet| Family::of(prefix.addr()) == family;
            let gone: Vec<IpNet> =
                session.announced.iter().filter(|p| !cx.exports.contains_key(p)).filter(of_family).copied().collect();
            let new: Vec<IpNet> =
                cx.exports.keys().filter(|p| !session.announced.contains(p)).filter(of_family).copied().collect();
            let messages = announcer.withdraw(family, &gone).into_iter().chain(announcer.announce(family, &new));
            cx.effects.extend(messages.map(|bytes| Effect::Send { conn, bytes }));
            for prefix in &gone {
                session.announced.remove(prefix);
            }
            session.announced.extend(new);
        }
    }

    /// Takes an UPDATE into the RIB; the event is what the state machine must hear of it.
    fn update(&mut self, conn: ConnId, message: &UpdateMessage, cx: &mut Context<'_>) -> Event {
        let router_id = self.links.get(&conn).and_then(|link| link.router_id);
        let address = self.address;
        let internal = self.config.asn == cx.config.asn;
        let Some((_, session)) = self.session(conn, cx.config) else { return Event::UpdateReceived };
        let router_id = router_id.unwrap_or(Ipv4Addr::UNSPECIFIED);
        let sender = Sender { internal, four_octet_as: session.four_octet_as, router_id };
        let changes = match update::read(message, sender, cx.config) {
            Ok(changes) => changes,
            Err(event) => return event,
        };
        let speaks = |prefix: &IpNet| session.families.contains(&Family::of(prefix.addr()));
        for prefix in changes.withdrawn.into_iter().filter(speaks) {
            cx.rib.withdraw(address, prefix);
        }
        for (prefix, path) in changes.announced.into_iter().filter(|(prefix, _)| speaks(prefix)) {
            if let Some(stale) = session.stale.get_mut(&Family::of(prefix.addr())) {
                stale.remove(&prefix);
            }
            cx.rib.announce(address, prefix, path);
        }
        session.complete.extend(changes.end_of_rib);
        if let Some(complaint) = changes.complaint {
            cx.log(LogLevel::Warn, address, complaint);
        }
        Event::UpdateReceived
    }

    /// RFC 2918, RFC 7313 §4: a request is answered with everything; the marks around the peer's own repetition tell what
    /// it no longer has.
    fn refresh(&mut self, conn: ConnId, message: &RouteRefreshMessage, cx: &mut Context<'_>) -> Event {
        let address = self.address;
        let (Some(afi), Some(Safi::Unicast)) = (message.afi(), message.safi()) else {
            return Event::RouteRefreshReceived { afi: Afi::Ipv4, safi: Safi::Unicast };
        };
        let heard = Event::RouteRefreshReceived { afi, safi: Safi::Unicast };
        let Some((_, session)) = self.session(conn, cx.config) else { return heard };
        let Some(family) = update::family(afi).filter(|family| session.families.contains(family)) else { return heard };
        match message.subtype() {
            RouteRefreshSubtype::Normal => self.repeat(conn, family, cx),
            RouteRefreshSubtype::BoRR => {
                let known = cx.rib.prefixes_of(address, |prefix| Family::of(prefix.addr()) == family);
                session.stale.insert(family, known);
            }
            RouteRefreshSubtype::EoRR => {
                for prefix in session.stale.remove(&family).unwrap_or_default() {
                    cx.rib.withdraw(address, prefix);
                }
            }
            _ => {}
        }
        heard
    }

    /// Tells the peer everything of `family` once more.
    fn repeat(&mut self, conn: ConnId, family: Family, cx: &mut Context<'_>) {
        let Some((announcer, session)) = self.session(conn, cx.config) else { return };
        let told: Vec<IpNet> = session.announced.iter().filter(|p| Family::of(p.addr()) == family).copied().collect();
        let mut messages = announcer.announce(family, &told);
        if session.enhanced_refresh {
            messages.insert(0, refresh_mark(family, RouteRefreshSubtype::BoRR));
            messages.push(refresh_mark(family, RouteRefreshSubtype::EoRR));
        }
        cx.effects.extend(messages.into_iter().map(|bytes| Effect::Send { conn, bytes }));
    }
}
