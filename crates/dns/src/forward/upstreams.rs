//! All groups of servers that names outside are asked from: one machine for flights, probes and watches.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use crate::cache::Asked;
use crate::forward::belonging::belonging;
use crate::forward::flight::{Act, Attempt, FORGED, Flight, Heard, Manner, TRIES};
use crate::forward::group::{Group, Server};
use crate::forward::step::{Answer, Ask, Done, GroupConfig, GroupId, Outcome, Peer, Sending, Step, Tried, Way};
use crate::forward::view::{GroupView, ServerView};
use crate::forward::{Exchange, Ids, Question};
use crate::message::Message;
use crate::wire::Rcode;

/// Clients that wait at one group, where it sets no limit itself.
const MOST_WAITING: usize = 65_536;

/// The machine. `W` is whoever waits for an answer.
#[derive(Debug)]
pub struct Upstreams<W> {
    pub(super) groups: BTreeMap<u64, Group>,
    /// Those of the configuration, in its order; others only end what is under way.
    pub(super) order: Vec<u64>,
    flights: BTreeMap<u64, Flight<W>>,
    by_question: BTreeMap<(u64, Asked), u64>,
    pub(super) exchanges: BTreeMap<Exchange, Whose>,
    pub(super) timers: BTreeSet<(Duration, Timer)>,
    pub(super) uids: u64,
}

/// What an exchange is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Whose {
    Flight(u64),
    /// Of a server.
    Probe(u64),
    /// Of a server.
    Watch(u64),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Timer {
    Flight(u64),
    Probe(u64),
    Watch(u64),
}

/// One call from outside: its time, its chance, and what it wants done.
pub(super) struct Turn<'a, W> {
    pub(super) now: Duration,
    pub(super) ids: Ids<'a>,
    pub(super) steps: Vec<Step<W>>,
}

impl<W> Default for Upstreams<W> {
    fn default() -> Self {
        Self {
            groups: BTreeMap::new(),
            order: Vec::new(),
            flights: BTreeMap::new(),
            by_question: BTreeMap::new(),
            exchanges: BTreeMap::new(),
            timers: BTreeSet::new(),
            uids: 0,
        }
    }
}

impl<W> Upstreams<W> {
    /// Takes a configuration. Groups and servers that stay keep their health and what is under way; questions at a
    /// server that is gone are put to another at once; those of a group that is gone are ended by its old servers.
    pub fn configure(&mut self, configs: Vec<GroupConfig>, now: Duration, ids: Ids<'_>) -> Vec<Step<W>> {
        let mut turn = Turn { now, ids, steps: Vec::new() };
        let mut before = std::mem::take(&mut self.order);
        let mut gone = Vec::new();
        for config in configs {
            let known = before.iter().position(|uid| self.groups[uid].is_same_as(&config));
            let uid = match known.map(|at| before.remove(at)) {
                Some(uid) => {
                    let group = self.groups.get_mut(&uid).expect("the order names groups that are there");
                    gone.extend(group.reconfigure(config, &mut self.uids));
                    uid
                }
                None => self.add_group(config),
            };
            self.order.push(uid);
        }
        before.into_iter().for_each(|uid| self.retire(uid, &mut turn));
        self.drop_servers(gone, &mut turn);
        self.watch_for_loops(&mut turn);
        turn.steps
    }

    /// The servers that a file (as resolv.conf) names now, for every group that has it among its targets.
    pub fn set_servers(&mut self, file: &str, addrs: &[SocketAddr], now: Duration, ids: Ids<'_>) -> Vec<Step<W>> {
        let mut turn = Turn { now, ids, steps: Vec::new() };
        let mut gone = Vec::new();
        for uid in &self.order {
            let group = self.groups.get_mut(uid).expect("the order names groups that are there");
            gone.extend(group.set_file(file, addrs, &mut self.uids));
        }
        self.drop_servers(gone, &mut turn);
        self.watch_for_loops(&mut turn);
        turn.steps
    }

    /// Asks, or joins whoever asks the same already.
    pub fn ask(&mut self, group: GroupId, ask: Ask<W>, now: Duration, ids: Ids<'_>) -> Vec<Step<W>> {
        let mut turn = Turn { now, ids, steps: Vec::new() };
        match self.order.get(group.0).copied() {
            Some(uid) => self.put(uid, ask, &mut turn),
            None => turn.steps.push(turned_away(Some(group), ask, Outcome::NoServer)),
        }
        turn.steps
    }

    /// A datagram, or a reply in a stream without its length, came for `exchange`.
    pub fn receive(&mut self, exchange: Exchange, bytes: &[u8], now: Duration, ids: Ids<'_>) -> Vec<Step<W>> {
        let mut turn = Turn { now, ids, steps: Vec::new() };
        match self.exchanges.get(&exchange).copied() {
            Some(Whose::Flight(flight)) => self.hear(flight, exchange, bytes, &mut turn),
            Some(Whose::Probe(server)) => self.hear_probe(server, bytes, &mut turn),
            Some(Whose::Watch(server)) => self.end_watch_exchange(server, &mut turn),
            None => {}
        }
        turn.steps
    }

    /// The socket or the stream of `exchange` failed: refused, unreachable, closed, no such certificate. `why` says it to
    /// people.
    pub fn fail(&mut self, exchange: Exchange, why: &str, now: Duration, ids: Ids<'_>) -> Vec<Step<W>> {
        let mut turn = Turn { now, ids, steps: Vec::new() };
        match self.exchanges.get(&exchange).copied() {
            Some(Whose::Flight(flight)) => self.attempt_failed(flight, exchange, why, &mut turn),
            Some(Whose::Probe(server)) => self.probe_failed(server, &mut turn),
            Some(Whose::Watch(server)) => self.end_watch_exchange(server, &mut turn),
            None => {}
        }
        turn.steps
    }

    /// Does what is due.
    pub fn tick(&mut self, now: Duration, ids: Ids<'_>) -> Vec<Step<W>> {
        let mut turn = Turn { now, ids, steps: Vec::new() };
        while let Some((at, timer)) = self.timers.first().copied()
            && at <= now
        {
            self.timers.remove(&(at, timer));
            match timer {
                Timer::Flight(flight) => self.flight_due(flight, &mut turn),
                Timer::Probe(server) => self.probe_due(server, &mut turn),
                Timer::Watch(server) => self.watch_due(server, &mut turn),
            }
        }
        turn.steps
    }

    /// When [`Upstreams::tick`] must be called at the latest.
    pub fn next_deadline(&self) -> Option<Duration> {
        self.timers.first().map(|(at, _)| *at)
    }

    /// Questions under way.
    pub fn in_flight(&self) -> usize {
        self.flights.len()
    }

    /// Attempts and probes that may still be answered.
    pub fn open_exchanges(&self) -> usize {
        self.exchanges.len()
    }

    /// The groups of the configuration, in its order.
    pub fn view(&self) -> Vec<GroupView<'_>> {
        let groups = self.order.iter().map(|uid| &self.groups[uid]);
        let view = groups.map(|group| GroupView {
            config: &group.config.forward,
            counts: group.counts,
            waiting: group.waiting,
            servers: group.servers.iter().map(|server| server.view(group.config.forward.max_fails)).collect(),
        });
        view.collect()
    }

    fn add_group(&mut self, config: GroupConfig) -> u64 {
        self.uids += 1;
        let uid = self.uids;
        let group = Group::new(config, &mut self.uids);
        self.groups.insert(uid, group);
        uid
    }

    fn put(&mut self, uid: u64, ask: Ask<W>, turn: &mut Turn<'_, W>) {
        let group = self.groups.get_mut(&uid).expect("the order names groups that are there");
        let id = self.order.iter().position(|known| *known == uid).map(GroupId);
        let limit = match group.config.forward.max_concurrent {
            0 => MOST_WAITING,
            limit => limit,
        };
        if group.servers.is_empty() {
            return turn.steps.push(turned_away(id, ask, Outcome::NoServer));
        }
        if group.waiting >= limit {
            group.counts.rejected += 1;
            return turn.steps.push(turned_away(id, ask, Outcome::Busy));
        }
        let key = (uid, ask.question.asked());
        if let Some(flight) = self.by_question.get(&key).copied() {
            group.waiting += 1;
            group.counts.joined += 1;
            let under_way = self.flights.get_mut(&flight).expect("questions lead to flights that are there");
            under_way.join(ask.waiter, ask.patience, turn.now);
            return self.retime(flight);
        }
        if group.is_all_loops() {
            return turn.steps.push(turned_away(id, ask, Outcome::Looping));
        }
        group.waiting += 1;
        group.flights += 1;
        group.counts.asked += 1;
        group.save_hedge();
        let plan = group.order(turn.ids);
        self.uids += 1;
        let flight = self.uids;
        self.by_question.insert(key, flight);
        self.flights.insert(flight, Flight::new(uid, ask, plan, turn.now));
        self.next_server(flight, turn);
    }

    /// Asks the next server; with none left, waits for those under way, or ends with the best that was seen.
    fn next_server(&mut self, id: u64, turn: &mut Turn<'_, W>) {
        match self.take_peer(id, turn) {
            Some(peer) => self.launch(id, peer, None, turn),
            None => self.wait_or_end(id, turn),
        }
    }

    fn wait_or_end(&mut self, id: u64, turn: &mut Turn<'_, W>) {
        let Some(flight) = self.flights.get_mut(&id) else { return };
        if flight.attempts.is_empty() {
            let outcome = flight.best.take().map_or(Outcome::Silent, Outcome::Answer);
            return self.end(id, outcome, turn);
        }
        (flight.act, flight.act_at) = (Act::Wait, flight.give_up);
        self.retime(id);
    }

    /// The next of the plan; when all were asked, those again who owe an answer.
    fn take_peer(&mut self, id: u64, turn: &mut Turn<'_, W>) -> Option<Arc<Peer>> {
        let flight = self.flights.get_mut(&id)?;
        if flight.tries >= TRIES || turn.now >= flight.give_up {
            return None;
        }
        if flight.plan.is_empty() {
            flight.plan = self.groups.get_mut(&flight.group)?.order(turn.ids);
            flight.plan.retain(|peer| !flight.over.contains(peer));
        }
        flight.plan.pop_front()
    }

    /// Puts the question to `peer`; in another manner than the group's if one is given.
    fn launch(&mut self, id: u64, peer: Arc<Peer>, manner: Option<Manner>, turn: &mut Turn<'_, W>) {
        let Some(flight) = self.flights.get_mut(&id) else { return };
        let group = self.groups.get_mut(&flight.group).expect("a flight's group is there");
        let usual = Manner {
            way: group.way(&peer, flight.transport),
            edns: true,
            mixes_case: group.config.mixes_case,
            is_hedge: false,
        };
        let manner = manner.unwrap_or(usual);
        self.uids += 1;
        let exchange = Exchange(self.uids);
        let attempt = Attempt::new(exchange, peer.clone(), &flight.question, manner, turn.now, turn.ids);
        let bytes = attempt.bytes(&flight.question);
        flight.attempts.push(attempt);
        flight.tries += 1;
        let may_hedge = flight.tries == 1 && !flight.plan.is_empty();
        if let Some(server) = group.server_mut(&peer) {
            server.counts.sent += 1;
            (flight.act, flight.act_at) = match may_hedge {
                true => (Act::Hedge, turn.now + server.latency.hedge_after()),
                // A stream is connected first.
                false => (
                    Act::Silence,
                    turn.now + server.latency.silent_after() * if manner.way.is_stream() { 2 } else { 1 },
                ),
            };
        }
        self.exchanges.insert(exchange, Whose::Flight(id));
        turn.steps.push(Step::Send(Sending { exchange, peer, way: manner.way, bytes }));
        self.retime(id);
    }

    fn flight_due(&mut self, id: u64, turn: &mut Turn<'_, W>) {
        let Some(flight) = self.flights.get_mut(&id) else { return };
        flight.timer = None;
        if turn.now >= flight.give_up {
            let outcome = flight.best.take().map_or(Outcome::Silent, Outcome::Answer);
            self.blame_silent(id, turn);
            return self.end(id, outcome, turn);
        }
        self.dismiss_overdue(id, turn);
        let Some(flight) = self.flights.get_mut(&id) else { return };
        match flight.act {
            _ if turn.now < flight.act_at => self.retime(id),
            Act::Hedge => self.hedge(id, turn),
            Act::Silence => {
                self.blame_silent(id, turn);
                self.next_server(id, turn);
            }
            Act::Wait => self.retime(id),
        }
    }

    fn dismiss_overdue(&mut self, id: u64, turn: &mut Turn<'_, W>) {
        let Some(flight) = self.flights.get_mut(&id) else { return };
        let waiters = flight.overdue(turn.now);
        if waiters.is_empty() {
            return;
        }
        let question = flight.question.clone();
        let group = flight.group;
        self.groups.get_mut(&group).expect("a flight's group is there").waiting -= waiters.len();
        let group = self.order.iter().position(|known| *known == group).map(GroupId);
        turn.steps.push(Step::Done(Done { group, question, waiters, outcome: Outcome::Overdue, tried: None }));
    }

    /// The first is slow: the next is asked too, if the group has saved a hedge.
    fn hedge(&mut self, id: u64, turn: &mut Turn<'_, W>) {
        let Some(flight) = self.flights.get_mut(&id) else { return };
        let group = self.groups.get_mut(&flight.group).expect("a flight's group is there");
        let first = flight.attempts.first().map(|first| (first.sent, first.peer.clone()));
        let next = flight.plan.front().cloned();
        match next {
            Some(peer) if group.take_hedge() => {
                flight.plan.pop_front();
                let way = group.way(&peer, flight.transport);
                let manner = Manner { way, edns: true, mixes_case: group.config.mixes_case, is_hedge: true };
                self.launch(id, peer, Some(manner), turn);
            }
            _ => {
                let wait = first.and_then(|(sent, peer)| Some(sent + group.server(&peer)?.latency.silent_after()));
                (flight.act, flight.act_at) = (Act::Silence, wait.unwrap_or(turn.now).max(turn.now));
                self.retime(id);
            }
        }
    }

    /// Who kept silent for too long becomes suspect; its answer still counts if it comes.
    fn blame_silent(&mut self, id: u64, turn: &mut Turn<'_, W>) {
        let Some(flight) = self.flights.get_mut(&id) else { return };
        let group = self.groups.get_mut(&flight.group).expect("a flight's group is there");
        let mut silent = Vec::new();
        for attempt in flight.attempts.iter_mut().filter(|attempt| !attempt.blamed) {
            let Some(server) = group.server_mut(&attempt.peer) else { continue };
            if turn.now >= attempt.sent + server.latency.silent_after() {
                attempt.blamed = true;
                flight.tried = Some(Tried { peer: attempt.peer.clone(), way: attempt.way, failure: None });
                server.counts.silent += 1;
                silent.push(server.uid);
            }
        }
        silent.into_iter().for_each(|server| self.suspect(server, turn));
    }

    fn attempt_failed(&mut self, id: u64, exchange: Exchange, why: &str, turn: &mut Turn<'_, W>) {
        let Some(flight) = self.flights.get_mut(&id) else { return };
        let Some(attempt) = flight.land(exchange) else { return };
        let failure = Some(why.to_owned());
        flight.tried = Some(Tried { peer: attempt.peer.clone(), way: attempt.way, failure });
        flight.over.push(attempt.peer.clone());
        flight.plan.retain(|peer| *peer != attempt.peer);
        let group = self.groups.get_mut(&flight.group).expect("a flight's group is there");
        if let Some(server) = group.server_mut(&attempt.peer) {
            server.counts.failed += 1;
            server.fails = server.fails.saturating_add(1);
            let uid = server.uid;
            self.suspect(uid, turn);
        }
        self.close(exchange, turn);
        self.next_server(id, turn);
    }

    fn hear(&mut self, id: u64, exchange: Exchange, bytes: &[u8], turn: &mut Turn<'_, W>) {
        let Some(flight) = self.flights.get_mut(&id) else { return };
        let Some(attempt) = flight.attempts.iter_mut().find(|attempt| attempt.exchange == exchange) else { return };
        match attempt.hear(&flight.question, bytes) {
            Heard::Answer(message) => self.take(id, exchange, message, turn),
            Heard::Unmixed => self.again_by_tcp(id, exchange, turn),
            Heard::Other => {
                attempt.forged += 1;
                let (way, forged, peer) = (attempt.way, attempt.forged, attempt.peer.clone());
                let group = self.groups.get_mut(&flight.group).expect("a flight's group is there");
                if let Some(server) = group.server_mut(&peer) {
                    server.counts.forged += 1;
                }
                match way {
                    Way::Udp if forged >= FORGED => self.again_by_tcp(id, exchange, turn),
                    Way::Udp => {}
                    _ => self.attempt_failed(id, exchange, "its replies are for other questions", turn),
                }
            }
        }
    }

    /// The same of the same server in a stream.
    fn again_by_tcp(&mut self, id: u64, exchange: Exchange, turn: &mut Turn<'_, W>) {
        let Some(attempt) = self.flights.get_mut(&id).and_then(|flight| flight.land(exchange)) else { return };
        self.close(exchange, turn);
        let manner = Manner { way: Way::Tcp, edns: attempt.edns, mixes_case: false, is_hedge: attempt.is_hedge };
        self.launch(id, attempt.peer, Some(manner), turn);
    }

    fn take(&mut self, id: u64, exchange: Exchange, message: Message, turn: &mut Turn<'_, W>) {
        let Some(flight) = self.flights.get_mut(&id) else { return };
        let Some(attempt) = flight.land(exchange) else { return };
        let group_uid = flight.group;
        self.praise(group_uid, &attempt, message.rcode, turn);
        let Some(flight) = self.flights.get_mut(&id) else { return };
        let config = &self.groups[&group_uid].config;
        let (mixes_case, asks_on) = (config.mixes_case, config.forward.next_on.contains(&message.rcode));
        let (rcode, is_cut) = (message.rcode, message.truncated);
        let answer = Answer { message: Arc::new(belonging(&flight.question, message)), peer: attempt.peer.clone() };
        if is_cut && attempt.way == Way::Udp {
            flight.consider(answer);
            flight.attempts.push(attempt);
            return self.again_by_tcp(id, exchange, turn);
        }
        if matches!(rcode, Rcode::FORMERR | Rcode::NOTIMP) && attempt.edns {
            self.close(exchange, turn);
            let (way, is_hedge) = (attempt.way, attempt.is_hedge);
            let manner = Manner { way, edns: false, mixes_case, is_hedge };
            return self.launch(id, attempt.peer, Some(manner), turn);
        }
        if matches!(rcode, Rcode::NOERROR | Rcode::NXDOMAIN) && !asks_on {
            self.close(exchange, turn);
            return self.end(id, Outcome::Answer(answer), turn);
        }
        flight.consider(answer);
        flight.over.push(attempt.peer.clone());
        flight.plan.retain(|peer| *peer != attempt.peer);
        self.close(exchange, turn);
        self.next_server(id, turn);
    }

    /// A server answered: whatever it said, it is fit.
    fn praise(&mut self, group: u64, attempt: &Attempt, rcode: Rcode, turn: &mut Turn<'_, W>) {
        let group = self.groups.get_mut(&group).expect("a flight's group is there");
        group.counts.hedges_won += u64::from(attempt.is_hedge);
        let Some(server) = group.server_mut(&attempt.peer) else { return };
        let took = turn.now.saturating_sub(attempt.sent);
        server.latency.record(took);
        server.counts.replies.entry(rcode).or_default().record(took);
        server.fails = 0;
        let uid = server.uid;
        self.end_probe(uid, turn);
    }

    /// Ends a flight: all who waited get its outcome.
    fn end(&mut self, id: u64, outcome: Outcome, turn: &mut Turn<'_, W>) {
        let Some(flight) = self.flights.remove(&id) else { return };
        if let Some(at) = flight.timer {
            self.timers.remove(&(at, Timer::Flight(id)));
        }
        self.by_question.remove(&(flight.group, flight.question.asked()));
        let group = self.groups.get_mut(&flight.group).expect("a flight's group is there");
        group.flights -= 1;
        group.waiting -= flight.waiters.len();
        group.counts.silent += u64::from(outcome == Outcome::Silent);
        for attempt in &flight.attempts {
            // It took at least this long: without that a slow server would look quick.
            if let Some(server) = group.server_mut(&attempt.peer) {
                server.latency.record(turn.now.saturating_sub(attempt.sent));
            }
        }
        let is_over = group.flights == 0 && !self.order.contains(&flight.group);
        flight.attempts.iter().for_each(|attempt| self.close(attempt.exchange, turn));
        if is_over && let Some(group) = self.groups.remove(&flight.group) {
            group.servers.iter().for_each(|server| self.forget(server, turn));
        }
        let group = self.order.iter().position(|known| *known == flight.group).map(GroupId);
        let waiters = flight.waiters.into_iter().map(|waiting| waiting.waiter).collect();
        turn.steps.push(Step::Done(Done { group, question: flight.question, waiters, outcome, tried: flight.tried }));
    }

    pub(super) fn close(&mut self, exchange: Exchange, turn: &mut Turn<'_, W>) {
        if self.exchanges.remove(&exchange).is_some() {
            turn.steps.push(Step::Close(exchange));
        }
    }

    fn retime(&mut self, id: u64) {
        let Some(flight) = self.flights.get_mut(&id) else { return };
        let due = flight.due();
        if flight.timer == Some(due) {
            return;
        }
        if let Some(at) = flight.timer.replace(due) {
            self.timers.remove(&(at, Timer::Flight(id)));
        }
        self.timers.insert((due, Timer::Flight(id)));
    }

    /// A group that the configuration no longer has: it ends what is under way, and asks nothing new.
    fn retire(&mut self, uid: u64, turn: &mut Turn<'_, W>) {
        let group = self.groups.get_mut(&uid).expect("the order names groups that are there");
        group.config.loop_zone = None;
        let (is_over, servers) =
            (group.flights == 0, group.servers.iter().map(|server| server.uid).collect::<Vec<u64>>());
        for server in servers {
            self.end_probe(server, turn);
            self.end_watch(server, turn);
        }
        if is_over {
            self.groups.remove(&uid);
        }
    }

    /// Servers that left their groups: what they were asked is put to those that are there now.
    fn drop_servers(&mut self, gone: Vec<Server>, turn: &mut Turn<'_, W>) {
        for server in &gone {
            self.forget(server, turn);
        }
        let current: Vec<u64> = match gone.is_empty() {
            true => return,
            false => self.flights.keys().copied().collect(),
        };
        for id in current {
            self.leave_gone(id, turn);
        }
    }

    fn leave_gone(&mut self, id: u64, turn: &mut Turn<'_, W>) {
        let Some(flight) = self.flights.get_mut(&id) else { return };
        let group = &self.groups[&flight.group];
        flight.plan.retain(|peer| group.server(peer).is_some());
        let (stay, stranded): (Vec<Attempt>, Vec<Attempt>) =
            std::mem::take(&mut flight.attempts).into_iter().partition(|attempt| group.server(&attempt.peer).is_some());
        flight.attempts = stay;
        if stranded.is_empty() {
            return;
        }
        flight.tries -= stranded.len().min(flight.tries);
        let is_stranded = flight.attempts.is_empty();
        stranded.iter().for_each(|attempt| self.close(attempt.exchange, turn));
        if is_stranded {
            self.next_server(id, turn);
        }
    }
}

impl Server {
    fn view(&self, max_fails: u32) -> ServerView<'_> {
        ServerView {
            peer: self.peer.clone(),
            health: self.health(max_fails),
            fails: self.fails,
            p95: self.latency.p95(),
            counts: &self.counts,
        }
    }
}

fn turned_away<W>(group: Option<GroupId>, ask: Ask<W>, outcome: Outcome) -> Step<W> {
    let question: Question = ask.question;
    Step::Done(Done { group, question, waiters: vec![ask.waiter], outcome, tried: None })
}
