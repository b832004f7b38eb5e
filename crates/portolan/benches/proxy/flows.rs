//! Stale conntrack entries: many UDP flows to an endpoint that is gone, found and deleted.
//!
//! The flows are made by packets through a DNAT rule in a namespace of their own, one for each source port.

use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};
use std::os::fd::AsFd;
use std::path::Path;
use std::time::{Duration, Instant};

use portolan_kernel::conntrack::{Conntrack, Which};
use portolan_kernel::netns;

use crate::goals::{Asked, Goals};
use crate::place::{self, CLIENT, Place};
use crate::stats::{Report, Samples, millis, three_digits};
use crate::world::SERVER;
use crate::{Outcome, progress};

const VIP: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 10);
const DNS: u16 = 53;
const UDP: u8 = 17;
/// Below the ports that the kernel gives out and above those of services.
const FIRST_PORT: u16 = 10_000;

/// What it took, round by round.
pub struct Stale {
    flows: u16,
    ours: Samples,
    tool: Samples,
}

pub fn measure(bin: &Path, flows: u16, rounds: usize) -> Outcome<Stale> {
    let place = Place::new()?;
    let rules = format!(
        "add table ip dns\nadd chain ip dns pre {{ type nat hook prerouting priority -100 ; }}\n\
         add rule ip dns pre ip daddr {VIP} udp dport {DNS} dnat to {SERVER}:{DNS}\n"
    );
    place.on_node(|| place::run(&bin.join("nft"), &["-f", "-"], &rules))?;
    let mut stale = Stale { flows, ours: Samples::default(), tool: Samples::default() };
    for round in 1..=rounds {
        progress(&format!("{flows} stale flows, round {round} of {rounds}"));
        fill(&place, flows)?;
        stale.ours.push(place.on_node(|| ours(flows))?);
        fill(&place, flows)?;
        let dead = SERVER.to_string();
        let args = ["-D", "-p", "udp", "--orig-dst", "10.96.0.10", "--dst-nat", &dead];
        stale.tool.push(place.on_node(|| place::run(&bin.join("conntrack"), &args, ""))?.wall);
    }
    Ok(stale)
}

/// One packet from each of so many ports.
fn fill(place: &Place, flows: u16) -> Outcome<()> {
    netns::run_in(place.client.as_fd(), || -> Outcome<()> {
        for port in FIRST_PORT..FIRST_PORT + flows {
            let socket = UdpSocket::bind(SocketAddrV4::new(CLIENT, port))?;
            socket.send_to(b"?", (VIP, DNS))?;
        }
        Ok(())
    })??;
    place.on_node(|| {
        let there = Conntrack::open()?.list()?.iter().filter(|entry| entry.protocol == UDP).count();
        match there >= usize::from(flows) {
            true => Ok(()),
            false => Err(format!("{there} flows instead of {flows}").into()),
        }
    })
}

fn ours(flows: u16) -> Outcome<Duration> {
    let start = Instant::now();
    let mut conntrack = Conntrack::open()?;
    let deleted = conntrack.delete(Which::Protocol(UDP), |entry| {
        entry.protocol == UDP
            && entry.original.dst == VIP
            && entry.original.dst_port == DNS
            && entry.reply.src == SERVER
            && entry.reply.src_port == DNS
    })?;
    let took = start.elapsed();
    match deleted == usize::from(flows) {
        true => Ok(took),
        false => Err(format!("{deleted} flows deleted instead of {flows}").into()),
    }
}

impl Stale {
    pub fn goals(&self, goals: &mut Goals) {
        let asked = Asked::at_most(" s", "0.1 s", 0.3, Some(0.12));
        let what = format!("{} stale UDP conntrack entries of a dead endpoint, no external tool", self.flows);
        goals.add(&what, asked, self.ours.median().as_secs_f64());
    }

    pub fn say(&self, report: &mut Report) {
        report.line(&format!(
            "\n{} stale UDP entries found and deleted: {} ms (slowest of {}: {}); by the program `conntrack -D`: {} ms.",
            self.flows,
            three_digits(millis(self.ours.median())),
            self.ours.len(),
            three_digits(millis(self.ours.percentile(100))),
            three_digits(millis(self.tool.median())),
        ));
    }
}
