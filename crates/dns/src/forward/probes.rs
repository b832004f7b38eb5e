//! Questions of our own to servers: `. NS` to one that failed, until it answers; and the names by which loops are found.

use crate::forward::Exchange;
use crate::forward::group::{Group, Probe, Server};
use crate::forward::loops::LoopWatch;
use crate::forward::step::{Sending, Step, Way};
use crate::forward::upstreams::{Timer, Turn, Upstreams, Whose};
use crate::name::{Key, Name};
use crate::rdata::Rtype;
use crate::wire::{HEADER, Query, Transport, ask, question};
use std::time::Duration;

/// A probe that is not answered by then failed, however often probes are sent.
const PROBE_WAIT: Duration = Duration::from_secs(1);

impl<W> Upstreams<W> {
    /// The query is one of ours, by which a loop is looked for: give it to [`Upstreams::saw_loop_probe`], and answer it
    /// with an error.
    pub fn is_loop_probe(&self, query: &Query<'_>) -> bool {
        query.rtype == Rtype::HINFO && self.brought_back(query).next().is_some()
    }

    /// A query came that [`Upstreams::is_loop_probe`]: who was asked it brings our queries back, and is not asked while
    /// that stands.
    pub fn saw_loop_probe(&mut self, query: &Query<'_>, now: Duration, ids: super::Ids<'_>) -> Vec<Step<W>> {
        let mut turn = Turn { now, ids, steps: Vec::new() };
        for uid in self.brought_back(query).collect::<Vec<u64>>() {
            let Some((group, server)) = self.server_by_uid(uid) else { continue };
            let Some(watch) = &mut server.watch else { continue };
            let (before, is_news) = (watch.act_at, watch.came_back(now));
            let (after, peer, from) = (watch.act_at, server.peer.clone(), group);
            self.timers.remove(&(before, Timer::Watch(uid)));
            self.timers.insert((after, Timer::Watch(uid)));
            if is_news {
                turn.steps.push(Step::Loop { from, peer, stands: true });
            }
        }
        turn.steps
    }

    fn brought_back(&self, query: &Query<'_>) -> impl Iterator<Item = u64> {
        let key = Key::of(query.name);
        let servers = self.groups.values().flat_map(|group| &group.servers);
        let known = servers.filter(move |server| server.watch.as_ref().is_some_and(|watch| watch.knows(&key)));
        known.map(|server| server.uid)
    }

    /// A server failed or kept silent: it is asked last until it answers a probe, or anything.
    pub(super) fn suspect(&mut self, uid: u64, turn: &mut Turn<'_, W>) {
        let Some(group) = self.group_of(uid) else { return };
        let probes = group.config.forward.max_fails > 0;
        let is_probed = group.servers.iter().any(|server| server.uid == uid && server.probe.is_some());
        if probes && !is_probed {
            self.send_probe(uid, turn);
        }
    }

    pub(super) fn hear_probe(&mut self, uid: u64, bytes: &[u8], turn: &mut Turn<'_, W>) {
        let Some((_, server)) = self.server_by_uid(uid) else { return };
        let Some(probe) = server.probe else { return };
        let is_reply = bytes
            .first_chunk::<HEADER>()
            .is_some_and(|header| header[..2] == probe.id.to_be_bytes() && header[2] & 0x80 != 0);
        if is_reply {
            server.fails = 0;
            self.end_probe(uid, turn);
        }
    }

    /// The socket of a probe failed: the next one is sent after the group's `health_check`.
    pub(super) fn probe_failed(&mut self, uid: u64, turn: &mut Turn<'_, W>) {
        let Some(pause) = self.group_of(uid).map(|group| group.config.forward.health_check) else { return };
        self.count_failed_probe(uid, turn);
        let Some((_, server)) = self.server_by_uid(uid) else { return };
        let Some(probe) = &mut server.probe else { return };
        let before = std::mem::replace(&mut probe.act_at, turn.now + pause);
        self.timers.remove(&(before, Timer::Probe(uid)));
        self.timers.insert((turn.now + pause, Timer::Probe(uid)));
    }

    pub(super) fn probe_due(&mut self, uid: u64, turn: &mut Turn<'_, W>) {
        self.count_failed_probe(uid, turn);
        self.send_probe(uid, turn);
    }

    /// Ends probing: the server answered, or is gone.
    pub(super) fn end_probe(&mut self, uid: u64, turn: &mut Turn<'_, W>) {
        let Some((_, server)) = self.server_by_uid(uid) else { return };
        let Some(probe) = server.probe.take() else { return };
        self.drop_probe(uid, probe, turn);
    }

    /// Looks for loops at servers that are new to it, and no longer where the configuration does not ask for it.
    pub(super) fn watch_for_loops(&mut self, turn: &mut Turn<'_, W>) {
        let mut ended = Vec::new();
        for uid in &self.order {
            let group = self.groups.get_mut(uid).expect("the order names groups that are there");
            let is_wanted = group.config.loop_zone.is_some();
            for server in &mut group.servers {
                match (&server.watch, is_wanted) {
                    (None, true) => {
                        server.watch = Some(LoopWatch::new(turn.now));
                        self.timers.insert((turn.now, Timer::Watch(server.uid)));
                    }
                    (Some(_), false) => ended.push(server.uid),
                    _ => {}
                }
            }
        }
        ended.into_iter().for_each(|server| self.end_watch(server, turn));
    }

    pub(super) fn watch_due(&mut self, uid: u64, turn: &mut Turn<'_, W>) {
        self.end_watch_exchange(uid, turn);
        let Some(group) = self.group_of(uid) else { return };
        let Some(zone) = group.config.loop_zone.clone() else { return };
        let from = group.config.forward.from.clone();
        let Some((_, server)) = self.server_by_uid(uid) else { return };
        let Some(watch) = &mut server.watch else { return };
        let (name, is_over) = watch.next(&zone, turn.now, turn.ids);
        let (act_at, peer) = (watch.act_at, server.peer.clone());
        self.timers.insert((act_at, Timer::Watch(uid)));
        if is_over {
            turn.steps.push(Step::Loop { from, peer, stands: false });
        }
        // A zone so long that nothing fits before it cannot be looped by this name.
        let Some(name) = name else { return };
        let exchange = self.send_own(uid, Whose::Watch(uid), &name, Rtype::HINFO, turn).map(|(exchange, _)| exchange);
        if let Some((_, server)) = self.server_by_uid(uid)
            && let Some(watch) = &mut server.watch
        {
            watch.exchange = exchange;
        }
    }

    /// What was answered to a loop probe is of no use; that it came back to us is what counts.
    pub(super) fn end_watch_exchange(&mut self, uid: u64, turn: &mut Turn<'_, W>) {
        let watch = self.server_by_uid(uid).and_then(|(_, server)| server.watch.as_mut());
        if let Some(exchange) = watch.and_then(|watch| watch.exchange.take()) {
            self.close(exchange, turn);
        }
    }

    pub(super) fn end_watch(&mut self, uid: u64, turn: &mut Turn<'_, W>) {
        self.end_watch_exchange(uid, turn);
        let watch = self.server_by_uid(uid).and_then(|(_, server)| server.watch.take());
        if let Some(watch) = watch {
            self.timers.remove(&(watch.act_at, Timer::Watch(uid)));
        }
    }

    /// Ends what is under way of ours at a server that is gone.
    pub(super) fn forget(&mut self, server: &Server, turn: &mut Turn<'_, W>) {
        if let Some(probe) = server.probe {
            self.drop_probe(server.uid, probe, turn);
        }
        if let Some(watch) = &server.watch {
            self.timers.remove(&(watch.act_at, Timer::Watch(server.uid)));
            watch.exchange.into_iter().for_each(|exchange| self.close(exchange, turn));
        }
    }

    fn drop_probe(&mut self, uid: u64, probe: Probe, turn: &mut Turn<'_, W>) {
        self.timers.remove(&(probe.act_at, Timer::Probe(uid)));
        probe.exchange.into_iter().for_each(|exchange| self.close(exchange, turn));
    }

    /// A probe that is under way failed; between probes nothing does.
    fn count_failed_probe(&mut self, uid: u64, turn: &mut Turn<'_, W>) {
        let Some((_, server)) = self.server_by_uid(uid) else { return };
        let Some(exchange) = server.probe.as_mut().and_then(|probe| probe.exchange.take()) else { return };
        server.fails = server.fails.saturating_add(1);
        server.counts.probes_failed += 1;
        self.close(exchange, turn);
    }

    fn send_probe(&mut self, uid: u64, turn: &mut Turn<'_, W>) {
        let Some(pause) = self.group_of(uid).map(|group| group.config.forward.health_check) else { return };
        let sent = self.send_own(uid, Whose::Probe(uid), &Name::root(), Rtype::NS, turn);
        let Some((exchange, id)) = sent else { return };
        let act_at = turn.now + pause.max(PROBE_WAIT);
        self.timers.insert((act_at, Timer::Probe(uid)));
        if let Some((_, server)) = self.server_by_uid(uid) {
            server.probe = Some(Probe { exchange: Some(exchange), id, act_at });
        }
    }

    fn send_own(
        &mut self,
        uid: u64,
        whose: Whose,
        name: &Name,
        rtype: Rtype,
        turn: &mut Turn<'_, W>,
    ) -> Option<(Exchange, u16)> {
        let group = self.group_of(uid)?;
        let peer = group.servers.iter().find(|server| server.uid == uid)?.peer.clone();
        let way: Way = group.way(&peer, Transport::Udp);
        self.uids += 1;
        let (exchange, id) = (Exchange(self.uids), (turn.ids)());
        let bytes = ask(id, &question(name, rtype), false, None);
        self.exchanges.insert(exchange, whose);
        turn.steps.push(Step::Send(Sending { exchange, peer, way, bytes }));
        Some((exchange, id))
    }

    fn group_of(&self, uid: u64) -> Option<&Group> {
        self.groups.values().find(|group| group.servers.iter().any(|server| server.uid == uid))
    }

    /// A server, and its group's `from`.
    fn server_by_uid(&mut self, uid: u64) -> Option<(Name, &mut Server)> {
        self.groups.values_mut().find_map(|group| {
            let from = &group.config.forward.from;
            let server = group.servers.iter_mut().find(|server| server.uid == uid)?;
            Some((from.clone(), server))
        })
    }
}
