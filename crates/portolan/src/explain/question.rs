//! Question: FROM and TO as written, asked of one state of the cluster.

use std::net::SocketAddr;

use portolan_model::{Family, Proto};
use portolan_story::evidence::{DnsTold, ProbeEnd, Probed, Source, Target};
use portolan_story::foresee::{Origin, Question, Way, foresee};
use portolan_story::place::find::{Ground, resolve};
use portolan_story::place::{Goal, Sender};
use portolan_story::story::{Asked, End, Story};
use portolan_story::tell::tell;

use crate::explain::ExplainArgs;
use crate::explain::cluster::Seen;
use crate::explain::names::{self, Zones};
use crate::failure::Failure;

/// What the command line asks for.
#[derive(Clone, Debug)]
pub struct Written {
    from: Sender,
    to: Goal,
    proto: Proto,
    family: Option<Family>,
    asked: Asked,
}

/// What would become of the packet.
pub struct Answer {
    /// Each way, the likeliest first.
    pub ways: Vec<Told>,
}

/// One way of it.
pub struct Told {
    /// `None`: its name leads nowhere, so nothing is sent.
    pub way: Option<Way>,
    pub story: Story,
}

impl Answer {
    /// Whatever chance decides.
    pub fn all_delivered(&self) -> bool {
        self.ways.iter().all(|told| told.story.verdict.end.is_yes())
    }
}

impl Written {
    /// # Errors
    /// FROM or TO is no place.
    pub fn read(from: &str, to: &str, args: &ExplainArgs) -> Result<Self, Failure> {
        let proto = args.proto.into();
        Ok(Self {
            from: Sender::parse(from, &args.namespace).map_err(Failure::input)?,
            to: Goal::parse(to, &args.namespace).map_err(Failure::input)?,
            proto,
            family: args.family.map(Into::into),
            asked: Asked { from: from.to_owned(), to: to.to_owned(), proto, live: false },
        })
    }

    /// Every way of the packet in this cluster.
    ///
    /// # Errors
    /// The cluster has no such places, or a name that is asked of others.
    pub fn answer(&self, seen: &Seen) -> Result<Answer, Failure> {
        let outside = &seen.world.cluster().outside.addresses;
        let (facts, objects) = (&seen.gathered.facts, &seen.gathered.notes);
        let ground = Ground { facts, objects, outside, family: self.family };
        let (dns, to) = match resolve(&self.from, &self.to, &ground, self.proto).map_err(Failure::input)? {
            Target::Address(to) => (None, Some(to)),
            Target::Name(name, port) => {
                let dns = self.ask_dns(&name, seen)?;
                let first = dns.addresses.first().map(|addr| SocketAddr::new(*addr, port));
                (Some(dns), first)
            }
        };
        let Some(to) = to else {
            let story = self.tell(seen, dns, None, None);
            return Ok(Answer { ways: vec![Told { way: None, story }] });
        };
        let from = Origin::Place(self.from.clone());
        let question = Question { from, to, proto: self.proto, source_port: 0 };
        let ways = foresee(&seen.world, &question).map_err(Failure::input)?;
        let told = |way: Way| {
            let story = self.tell(seen, dns.clone(), Some(to), Some(&way));
            Told { way: Some(way), story }
        };
        Ok(Answer { ways: ways.into_iter().map(told).collect() })
    }

    fn ask_dns(&self, name: &str, seen: &Seen) -> Result<DnsTold, Failure> {
        let Sender::Pod(pod) = &self.from else {
            return Err(Failure::input(format!(
                "TO {name}: which DNS servers {} asks is not in the cluster's objects; give an ADDRESS:PORT or svc/NAME",
                self.from
            )));
        };
        let server = seen.world.cluster().settings.cluster_dns.first().copied().ok_or_else(|| {
            Failure::input(format!("TO {name}: the cluster has no DNS address (--cluster-dns); give an ADDRESS:PORT"))
        })?;
        let families = self.family.map_or_else(|| Family::BOTH.to_vec(), |family| vec![family]);
        let zones = Zones { records: &seen.records, snapshot: seen.any_view() };
        names::asked(name, &pod.namespace, server, &zones, &families)
    }

    fn tell(&self, seen: &Seen, dns: Option<DnsTold>, to: Option<SocketAddr>, way: Option<&Way>) -> Story {
        let evidence = way.map(|way| way.evidence.clone()).unwrap_or_default();
        let knows = seen.knows(&evidence);
        // What the sender would see stands for what it saw: the name's way, and what no node's evidence can say.
        let needs_sender = dns.is_some() || evidence.is_empty();
        let probed = Probed { dns, local: None, remote: to, end: end_of(way), took_us: 0 };
        let mut story = tell(self.asked.clone(), needs_sender.then_some(&probed), &evidence, &knows);
        story.source = Source::Plan;
        story.verdict.took_us = None;
        story
    }
}

fn end_of(way: Option<&Way>) -> ProbeEnd {
    let Some(way) = way else { return ProbeEnd::NoName };
    match way.end {
        End::Delivered => ProbeEnd::Answered,
        End::Refused => ProbeEnd::Refused { by: None },
        End::Unroutable => ProbeEnd::Unreachable { by: None, why: "no route to host".to_owned() },
        End::NoSuchName => ProbeEnd::NoName,
        End::Dropped | End::Unanswered | End::NotSent | End::NotSeen => ProbeEnd::Silence,
    }
}
