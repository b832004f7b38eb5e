//! Answers on the LAN for the addresses of Services of type LoadBalancer that this node is elected for.
//!
//! ```text
//!  core: Snapshot ──► Election ──► elected ──► Announcer ──► ARP, NDP: answers, and "it is here" on taking over
//! ```
//!
//! No interface gets the address: the node's own listeners are not reached by it, and what is forwarded is what the
//! service proxy's rules rewrite. An address that is no longer ours is answered for no more at once; its new owner's
//! announcement is what moves the traffic.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv6Addr};
use std::time::Duration;

use ipnet::IpNet;
use portolan_dataplane::announce::{Election, Mac, arp, ndp};
use portolan_kernel::Netlink;
use portolan_kernel::frames::{Frames, FramesError, Groups, Protocol};
use portolan_model::{Delta, Snapshot};
use tokio::io::unix::AsyncFd;
use tokio::sync::watch;
use tokio::time::Instant;
use tracing::{debug, info, warn};

use crate::status::Progress;

/// When, after taking over, it is said: a frame may be lost, and a switch may be learning.
const REPEATS: [Duration; 3] = [Duration::ZERO, Duration::from_secs(1), Duration::from_secs(3)];
const BROADCAST: Mac = [0xff; 6];

/// The core's side: who is elected, told on each change.
pub(crate) struct Answers {
    election: Election,
    begun: bool,
    elected: watch::Sender<BTreeSet<IpAddr>>,
}

impl Answers {
    /// Elects for addresses of `pools`; the receiver hears of what this node is to answer for.
    pub(crate) fn new(pools: Vec<IpNet>) -> (Self, watch::Receiver<BTreeSet<IpAddr>>) {
        let (elected, hears) = watch::channel(BTreeSet::new());
        (Self { election: Election::new(pools), begun: false, elected }, hears)
    }

    /// Takes a change in. The first time, all there is.
    pub(crate) fn update(&mut self, snapshot: &Snapshot, delta: &Delta, progress: &Progress) {
        let changed = match self.begun {
            true => self.election.update(snapshot, delta),
            false => self.election.update(snapshot, &Delta::all(snapshot)),
        };
        self.begun = true;
        if changed {
            self.elected.send_replace(self.election.elected().clone());
            progress.answers_for(self.election.elected());
        }
    }
}

/// The LAN's side: two packet sockets on one link.
pub(crate) struct Announcer {
    netlink: Netlink,
    link: String,
    mac: Mac,
    arp: AsyncFd<Frames>,
    /// `None` where the kernel has no IPv6.
    ndp: Option<(AsyncFd<Frames>, Groups)>,
    held: BTreeSet<IpAddr>,
    /// What is to be said again, and when.
    due: Vec<(Instant, IpAddr)>,
}

impl Announcer {
    /// On the link of that name in the calling thread's network namespace.
    ///
    /// # Errors
    /// There is no such link, or packet sockets are not allowed.
    pub(crate) fn open(link: &str) -> Result<Self, String> {
        let failed = |error: FramesError| format!("cannot answer for addresses on {link}: {error}");
        let mut netlink = Netlink::open().map_err(|e| e.to_string())?;
        let found = netlink.link(link).map_err(|e| e.to_string())?;
        // SAFETY: `Frames` owns its descriptor, which stays open and the same for as long as it lives.
        let registered =
            |frames| unsafe { AsyncFd::register(frames) }.map_err(|e| format!("cannot wait for frames on {link}: {e}"));
        let arp = registered(Frames::open(found.index, Protocol::Arp).map_err(failed)?)?;
        let ndp = match Groups::open(found.index) {
            Ok(groups) => {
                Some((registered(Frames::open(found.index, Protocol::NeighbourSolicitation).map_err(failed)?)?, groups))
            }
            Err(error) => {
                debug!(%error, "addresses of IPv6 are not answered for");
                None
            }
        };
        let mac = found.mac.ok_or_else(|| format!("{link} is no Ethernet link: nobody asks it for neighbours"))?;
        let (held, due) = (BTreeSet::new(), Vec::new());
        Ok(Self { netlink, link: link.to_owned(), mac, arp, ndp, held, due })
    }

    /// Answers until nobody tells it any more what for.
    pub(crate) async fn run(mut self, mut elected: watch::Receiver<BTreeSet<IpAddr>>) {
        loop {
            let due = self.due.iter().map(|(at, _)| *at).min();
            let timer = async move {
                match due {
                    Some(at) => tokio::time::sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            let asked_v6 = async {
                match &self.ndp {
                    Some((frames, _)) => next(frames).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                told = elected.changed() => match told {
                    Ok(()) => {
                        let now = elected.borrow_and_update().clone();
                        self.hold(now);
                    }
                    Err(_) => return,
                },
                (packet, _) = next(&self.arp) => self.answer_arp(&packet),
                (packet, from) = asked_v6 => self.answer_ndp(&packet, from),
                () = timer => self.say_what_is_due(),
            }
        }
    }

    fn hold(&mut self, now: BTreeSet<IpAddr>) {
        let gone: Vec<IpAddr> = self.held.difference(&now).copied().collect();
        let taken: Vec<IpAddr> = now.difference(&self.held).copied().collect();
        self.due.retain(|(_, address)| !gone.contains(address));
        // An administrator may have given the link another address meanwhile.
        if let Ok(Some(mac)) = self.netlink.link(&self.link).map(|link| link.mac) {
            self.mac = mac;
        }
        info!(?taken, ?gone, "addresses of load balancers that this node answers for");
        self.held = now;
        let started = Instant::now();
        self.due.extend(taken.iter().flat_map(|address| REPEATS.map(|after| (started + after, *address))));
        let groups: BTreeSet<Ipv6Addr> = self.held.iter().filter_map(v6).map(ndp::solicited_node).collect();
        if let Some((_, listening)) = &mut self.ndp
            && let Err(error) = listening.listen_to(&groups)
        {
            warn!(%error, link = self.link, "questions for addresses of IPv6 may go unheard");
        }
        self.say_what_is_due();
    }

    fn say_what_is_due(&mut self) {
        let now = Instant::now();
        let (due, later): (Vec<_>, Vec<_>) = self.due.iter().copied().partition(|(at, _)| *at <= now);
        self.due = later;
        for (_, address) in due {
            match address {
                IpAddr::V4(address) => {
                    let packets = arp::announcements(self.mac, address);
                    packets.iter().for_each(|packet| send(self.arp.get_ref(), BROADCAST, packet));
                }
                IpAddr::V6(address) => {
                    let packet = ndp::announcement(self.mac, address);
                    self.ndp.iter().for_each(|(frames, _)| send(frames.get_ref(), ndp::ALL_NODES_MAC, &packet));
                }
            }
        }
    }

    fn answer_arp(&self, packet: &[u8]) {
        let question = arp::question(packet).filter(|question| self.held.contains(&question.target.into()));
        if let Some(question) = question {
            send(self.arp.get_ref(), question.sender_mac, &arp::answer(self.mac, &question));
        }
    }

    fn answer_ndp(&self, packet: &[u8], from: Mac) {
        let question = ndp::question(packet).filter(|question| self.held.contains(&question.target.into()));
        if let (Some(question), Some((frames, _))) = (question, &self.ndp) {
            let to = if question.is_probe() { ndp::ALL_NODES_MAC } else { from };
            send(frames.get_ref(), to, &ndp::answer(self.mac, &question));
        }
    }
}

fn v6(address: &IpAddr) -> Option<Ipv6Addr> {
    match address {
        IpAddr::V4(_) => None,
        IpAddr::V6(address) => Some(*address),
    }
}

/// The next frame; waits for one. A link that is down for a while has none.
async fn next(frames: &AsyncFd<Frames>) -> (Vec<u8>, Mac) {
    loop {
        let Ok(mut ready) = frames.readable().await else {
            // The runtime ends, and this with it.
            return std::future::pending().await;
        };
        match ready.get_inner().receive() {
            Ok(Some(frame)) => return frame,
            Ok(None) => ready.clear_ready(),
            Err(error) => {
                debug!(%error, "a frame was not read");
                ready.clear_ready();
            }
        }
    }
}

fn send(frames: &Frames, to: Mac, packet: &[u8]) {
    if let Err(error) = frames.send(to, packet) {
        debug!(%error, "a neighbour was not told; it will ask again");
    }
}

/// Opens the link and answers, for as long as the process lives.
pub(crate) fn start(link: &str, elected: watch::Receiver<BTreeSet<IpAddr>>) -> Result<(), String> {
    tokio::spawn(Announcer::open(link)?.run(elected));
    Ok(())
}

#[cfg(test)]
#[path = "announce_tests.rs"]
mod tests;
