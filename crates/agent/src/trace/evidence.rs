//! Evidence: what a watch heard, joined with what the kernel and this node's plan say of it.
//!
//! ```text
//!  Recorded ─► passages ─► places, flows, routes (netlink) ─► names, oracle (the core) ─► NodeEvidence
//!                                                   └─ rules of others: read by their tools ─► names
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::SystemTime;

use portolan_dataplane::meaning::{At, Meaning, RuleTold};
use portolan_kernel::conntrack::{Conntrack, Entry, Tuple};
use portolan_kernel::netlink::{RouteFate, RouteFound, RouteQuestion};
use portolan_kernel::nft::Nft;
use portolan_kernel::nft_look::{BaseChain, RuleSeen};
use portolan_kernel::nftrace::{CtSeen, Detail};
use portolan_kernel::{Netlink, NetlinkError};
use portolan_model::verdict::{self, Arrival, Mode, Outcome, Packet};
use portolan_model::{NsName, ObjectKind, ObjectRef, Proto, RouteCause, Snapshot, Text};
use portolan_story::evidence::{
    Backend, Direction, Fate, Flow, FlowEntry, Header, NodeEvidence, Passage, RouteTold, RouteWay, Source, Step,
};
use portolan_story::history::{self as told, Fragment};
use tracing::warn;

use super::former::Former;
use super::names::{Namer, Place, Raw, Stranger, foreign, name_line};
use super::passages::{self, Way};
use super::settings::Fixed;
use super::watch::{Recorded, payload_of};
use crate::core::{ToCore, View};
use crate::history;

const DNS_PORT: u16 = 53;
/// An event is read so long after its packet at the most, unless the machine is very busy.
const READ_WITHIN_US: i64 = 50_000;

/// A passage with all that the kernel says of it.
struct Looked {
    way: Way,
    /// When it entered, microseconds since 1970.
    at_us: i64,
    direction: Direction,
    entry: Option<Entry>,
    route: Option<RouteFound>,
    came_by: Option<Text>,
    went_by: Option<Text>,
    /// One for each step; `None` for policies.
    places: Vec<Option<Place>>,
}

/// What the core says of a passage.
struct Known {
    names: Vec<Option<RuleTold>>,
    allowed: Vec<Outcome>,
    route: Option<RouteTold>,
}

/// Tells what this node did with the flow that was watched.
pub(crate) async fn tell(core: &ToCore, fixed: &Arc<Fixed>, recorded: Recorded) -> NodeEvidence {
    let lost = recorded.lost;
    let source = source(fixed.clone()).await;
    let looked = tokio::task::spawn_blocking(move || look(recorded)).await.unwrap_or_else(|error| {
        warn!(%error, "what the kernel says of a traced flow was not read");
        Vec::new()
    });
    let mode = match fixed.backend() {
        Backend::Iptables => Mode::Iptables,
        Backend::Nftables => Mode::Nftables,
    };
    let asked = core.ask(move |view| {
        let mut namer = Namer::default();
        let known: Vec<Known> = looked.iter().map(|looked| known_of(view, &mut namer, looked, mode)).collect();
        (looked, known)
    });
    let (mut looked, mut known) = asked.await.unwrap_or_default();
    for (looked, known) in looked.iter_mut().zip(&mut known) {
        follow_vanished(core, looked, known).await;
    }
    name_strangers(core, &looked, &mut known).await;
    let passages = looked.into_iter().zip(known).map(|(looked, known)| passage(looked, known)).collect();
    NodeEvidence { node: fixed.node(), source, backend: fixed.backend(), passages, lost }
}

/// Whether the kernel tells of rules: of those that iptables-legacy writes it does not.
async fn source(fixed: Arc<Fixed>) -> Source {
    let is_legacy = tokio::task::spawn_blocking(move || fixed.is_legacy()).await.unwrap_or(false);
    if is_legacy { Source::KernelWithoutRules } else { Source::Kernel }
}

/// Reads what the kernel has of the packets that were seen. Blocks.
fn look(recorded: Recorded) -> Vec<Looked> {
    let Recorded { watch, table, heard, bases, former, began_us, .. } = recorded;
    let mut kernel = match Kernel::open(&bases, former, began_us) {
        Ok(kernel) => kernel,
        Err(error) => {
            warn!(%error, "the kernel does not tell of a traced flow");
            return Vec::new();
        }
    };
    let loopback = kernel.links.iter().find(|(_, name)| &***name == "lo").map_or(1, |(index, _)| *index);
    let ways = passages::ways(&heard, &table, &kernel.bases, loopback);
    let looked = ways.into_iter().map(|way| kernel.look(way, &watch.flow)).collect();
    chosen(looked, &watch.flow, watch.count)
}

/// The kernel, as far as a traced packet needs it.
struct Kernel {
    nft: Nft,
    netlink: Netlink,
    conntrack: Conntrack,
    bases: Vec<BaseChain>,
    links: BTreeMap<u32, Text>,
    chains: BTreeMap<(u8, String, String), Vec<RuleSeen>>,
    former: Former,
    /// When the watch began.
    began_us: i64,
}

/// Why the kernel cannot be read.
#[derive(Debug, thiserror::Error)]
enum LookError {
    #[error(transparent)]
    Nft(#[from] portolan_kernel::nft::NftError),
    #[error(transparent)]
    Netlink(#[from] NetlinkError),
    #[error(transparent)]
    Conntrack(#[from] portolan_kernel::conntrack::ConntrackError),
}

impl Kernel {
    fn open(before: &[BaseChain], former: Former, began_us: i64) -> Result<Self, LookError> {
        let mut nft = Nft::open()?;
        let mut netlink = Netlink::open()?;
        let mut bases = nft.base_chains()?;
        bases.extend(before.iter().filter(|base| !bases.contains(base)).cloned().collect::<Vec<_>>());
        let links = netlink.links()?.into_iter().map(|link| (link.index, link.name.as_str().into())).collect();
        Ok(Self {
            nft,
            netlink,
            conntrack: Conntrack::open()?,
            bases,
            links,
            chains: BTreeMap::new(),
            former,
            began_us,
        })
    }

    fn look(&mut self, way: Way, flow: &Flow) -> Looked {
        let entry = self.conntrack.get(way.first.protocol, &tuple_of(&way.entered)).unwrap_or_else(|error| {
            warn!(%error, "conntrack is not asked of a traced flow");
            None
        });
        let direction = direction_of(&way, entry.as_ref(), flow);
        let route = self.netlink.route_lookup(&route_question(&way));
        let route = route.inspect_err(|error| warn!(%error, "a traced packet's route is not known")).ok();
        let places = (0..way.steps.len()).map(|at| self.place(&way, at)).collect();
        let name = |index: Option<u32>| index.map(|index| self.link(index));
        let (came_by, went_by) = (name(way.came_by), name(way.went_by));
        let at_us = self.began_us.saturating_add(i64::try_from(way.at_us).unwrap_or_default());
        Looked { at_us, direction, entry, route, came_by, went_by, places, way }
    }

    /// One that is gone has its number for a name.
    fn link(&self, index: u32) -> Text {
        self.links.get(&index).cloned().unwrap_or_else(|| format!("if{index}").as_str().into())
    }

    fn place(&mut self, way: &Way, at: usize) -> Option<Place> {
        let met = way.steps.get(at)?;
        let handle = met.handle?;
        let key = (met.family, met.table.clone(), met.chain.clone());
        let nft = &mut self.nft;
        let rules = self
            .chains
            .entry(key)
            .or_insert_with(|| nft.rules_of(met.family, &met.table, &met.chain).unwrap_or_default());
        let now = rules.iter().position(|rule| rule.handle == handle);
        // Rules that went while the packet's answer was on its way stood somewhere once.
        let former = if now.is_none() { self.former.find(met.family, &met.table, handle) } else { None };
        let index = now.or(former.map(|stood| stood.index));
        Some(Place {
            family: met.family,
            table: met.table.clone(),
            chain: met.chain.clone(),
            handle,
            index,
            is_former: former.is_some(),
            at_us: self.began_us.saturating_add(i64::try_from(met.at_us).unwrap_or_default()),
            count: former.map_or(rules.len(), |stood| stood.count),
            comment: now.and_then(|index| rules[index].comment.clone()),
            act: met.act.clone(),
            at: At {
                src: met.before.src,
                dst: met.before.dst,
                original_dst: way.entered.dst,
                proto: met.before.proto,
                after: met.after,
            },
        })
    }
}

/// As the kernel's own routing asks, for where the packet was to go last.
fn route_question(way: &Way) -> RouteQuestion {
    let from = way.came_by.map(|_| way.entered.src.ip());
    RouteQuestion { to: way.left.dst.ip(), from, came_by: way.came_by, mark: 0 }
}

fn tuple_of(header: &Header) -> Tuple {
    let (src, dst) = (header.src, header.dst);
    Tuple { src: src.ip(), dst: dst.ip(), src_port: src.port(), dst_port: dst.port() }
}

/// Which way a packet goes: by what it acknowledges; of a datagram, by what conntrack says.
fn direction_of(way: &Way, entry: Option<&Entry>, flow: &Flow) -> Direction {
    let begins = match (way.first.detail, flow) {
        (Detail::Tcp { .. }, _) => passages::begins_tcp(&way.first) == Some(true),
        _ if entry.is_some() => entry.is_some_and(|entry| entry.original == tuple_of(&way.entered)),
        (Detail::Udp { begins }, Flow::Payload { begins: wanted }) => {
            let is_ours = payload_of(wanted).is_ok_and(|wanted| wanted == begins);
            // A query begins with flags that say so; an answer that is not tracked comes from port 53.
            is_ours && way.entered.src.port() != DNS_PORT
        }
        _ => true,
    };
    if begins { Direction::Forth } else { Direction::Back }
}

/// Leaves out what came again, and later connections than were asked for.
fn chosen(looked: Vec<Looked>, flow: &Flow, count: u32) -> Vec<Looked> {
    let mut kept: Vec<Looked> = Vec::new();
    let most = if matches!(flow, Flow::Live { .. }) { count.max(1) as usize } else { usize::MAX };
    for looked in looked {
        let again = |other: &Looked| {
            other.direction == looked.direction
                && other.way.entered == looked.way.entered
                && other.way.came_by == looked.way.came_by
        };
        let forth = kept.iter().filter(|kept| kept.direction == Direction::Forth);
        let wanted = match looked.direction {
            Direction::Forth => forth.count() < most,
            Direction::Back => most == usize::MAX || forth.into_iter().any(|forth| answers(forth, &looked)),
        };
        if wanted && !kept.iter().any(again) {
            kept.push(looked);
        }
    }
    kept
}

fn answers(forth: &Looked, back: &Looked) -> bool {
    let (sent, answered) = (forth.way.left, back.way.entered);
    let by_flow = back.entry.is_some_and(|entry| entry.original == tuple_of(&forth.way.entered));
    by_flow || (sent.src, sent.dst) == (answered.dst, answered.src)
}

/// What this node plans and knows says of a passage.
fn known_of(view: &View<'_>, namer: &mut Namer, looked: &Looked, mode: Mode) -> Known {
    let names = looked.places.iter().map(|place| namer.name_rule(view, place.as_ref()?)).collect();
    let allowed = match looked.direction {
        Direction::Forth => allowed(view, looked, mode),
        Direction::Back => Vec::new(),
    };
    let route = looked.route.as_ref().map(|route| route_told(view, route));
    Known { names, allowed, route }
}

/// By the cluster as it was when the packet came; of a moment in which rules were written, by what was before and after.
fn allowed(view: &View<'_>, looked: &Looked, mode: Mode) -> Vec<Outcome> {
    let Header { src, dst, proto } = looked.way.entered;
    let arrival = looked.came_by.as_deref().map_or(Arrival::Sent, Arrival::by);
    let packet = Packet { src: src.ip(), dst: dst.ip(), proto, dport: dst.port(), arrival };
    let met = view.history.met_by(looked.at_us, READ_WITHIN_US);
    let snapshots: Vec<&Snapshot> = match met.is_empty() {
        true => vec![view.snapshot],
        false => met.into_iter().map(|then| &*then.snapshot).collect(),
    };
    let outcomes = snapshots.into_iter().flat_map(|snapshot| verdict::judge(snapshot, &packet, mode));
    outcomes.collect::<BTreeSet<_>>().into_iter().collect()
}

fn route_told(view: &View<'_>, found: &RouteFound) -> RouteTold {
    let snapshot = view.snapshot;
    let planned = found.prefix.and_then(|prefix| snapshot.routes.get(&prefix));
    let node_of = |belongs: &dyn Fn(&portolan_model::Node) -> bool| {
        snapshot.nodes.iter().find(|(_, node)| belongs(node)).map(|(name, _)| name.clone())
    };
    let (mut object, mut told_by) = (None, None);
    match planned.map(|route| &route.cause) {
        Some(RouteCause::Object(cause)) => object = Some(cause.clone()),
        Some(RouteCause::Bgp { peer }) => {
            let of_prefix = node_of(&|node| node.pod_cidrs.iter().any(|block| Some(*block) == found.prefix));
            object = of_prefix.map(|name| ObjectRef { kind: ObjectKind::Node, key: NsName::new("", name) });
            told_by = Some((*peer, node_of(&|node| node.addresses.contains(peer))));
        }
        None => {}
    }
    RouteTold {
        prefix: found.prefix,
        gateway: found.gateway,
        link: found.link.as_deref().map(Into::into),
        kind: match found.fate {
            RouteFate::Forward => RouteWay::Forward,
            RouteFate::Local => RouteWay::Local,
            RouteFate::Blackhole | RouteFate::NotTaken => RouteWay::Blackhole,
            RouteFate::Unreachable | RouteFate::NoRoute => RouteWay::Unreachable,
        },
        object,
        told_by,
        age_secs: planned.and_then(|route| age_secs(view, route.dst)),
    }
}

/// A packet that a rule sent to an endpoint and that the kernel's routing ended there: no later chain tells its new
/// destination and its conntrack entry went with it, so the rule says where it was to go.
async fn follow_vanished(core: &ToCore, looked: &mut Looked, known: &mut Known) {
    if looked.way.fate != Fate::Vanished {
        return;
    }
    let sent_to = |rule: &RuleTold| match &rule.meaning {
        Meaning::SendsTo { endpoint, .. } => Some(*endpoint),
        Meaning::HostPort { to, .. } => Some(*to),
        _ => None,
    };
    let found = known.names.iter().enumerate().rev().find_map(|(at, rule)| Some((at, sent_to(rule.as_ref()?)?)));
    let Some((at, to)) = found.filter(|(_, to)| *to != looked.way.left.dst) else { return };
    looked.way.left.dst = to;
    looked.way.steps[at].rewritten = Some(looked.way.left);
    let question = route_question(&looked.way);
    let look = move || Netlink::open().and_then(|mut netlink| netlink.route_lookup(&question));
    match tokio::task::spawn_blocking(look).await {
        Ok(Ok(route)) => known.route = core.ask(move |view| route_told(view, &route)).await,
        Ok(Err(error)) => warn!(%error, "a traced packet's route is not known"),
        Err(error) => warn!(%error, "a traced packet's route was not looked up"),
    }
}

/// Since when a route is there, if that is known.
fn age_secs(view: &View<'_>, dst: ipnet::IpNet) -> Option<u64> {
    let written = view.history.mark_of(&Fragment::Route(dst))?.written;
    let age_us = history::micros(SystemTime::now()) - written.at_us;
    (written.known == told::Known::Exactly).then(|| u64::try_from(age_us / 1_000_000).unwrap_or_default())
}

/// Rules that the plan does not name are read from where they are, and named by what they say.
async fn name_strangers(core: &ToCore, looked: &[Looked], known: &mut [Known]) {
    let unnamed: Vec<(usize, usize, Place)> = looked
        .iter()
        .zip(known.iter())
        .enumerate()
        .flat_map(|(passage, (looked, known))| {
            let steps = looked.places.iter().zip(&known.names).enumerate();
            let unnamed = steps.filter(|(_, (_, name))| name.is_none());
            unnamed.filter_map(move |(step, (place, _))| Some((passage, step, place.clone()?)))
        })
        .collect();
    if unnamed.is_empty() {
        return;
    }
    let read = tokio::task::spawn_blocking(move || read_strangers(unnamed)).await.unwrap_or_default();
    let named = core.ask(move |view| read.into_iter().map(|read| name_stranger(view, read)).collect::<Vec<_>>());
    for (passage, step, told) in named.await.unwrap_or_default() {
        known[passage].names[step] = Some(told);
    }
}

type Unnamed<T> = (usize, usize, T);

fn read_strangers(unnamed: Vec<Unnamed<Place>>) -> Vec<Unnamed<(Place, Raw)>> {
    let Ok(mut nft) = Nft::open() else { return Vec::new() };
    let mut stranger = Stranger::default();
    let mut read = |place: Place| {
        let raw = stranger.read(&mut nft, &place);
        (place, raw)
    };
    unnamed.into_iter().map(|(passage, step, place)| (passage, step, read(place))).collect()
}

fn name_stranger(view: &View<'_>, (passage, step, (place, raw)): Unnamed<(Place, Raw)>) -> Unnamed<RuleTold> {
    let by_line = match &raw {
        Raw::Line(line) => name_line(view, &place, line),
        Raw::Text(_) => None,
    };
    (passage, step, by_line.unwrap_or_else(|| foreign(&place, &raw)))
}

fn passage(looked: Looked, known: Known) -> Passage {
    let Looked { way, direction, entry, came_by, went_by, places, .. } = looked;
    let flow = entry.map(|entry| flow_entry(&entry, is_older(&way, direction), way.entered.proto));
    let named = way.steps.into_iter().zip(places).zip(known.names);
    let steps = named.map(|((met, place), rule)| Step {
        at_us: met.at_us,
        hook: met.hook,
        table: format!("{} {}", family_name(met.family), met.table).as_str().into(),
        chain: met.chain.as_str().into(),
        handle: met.handle,
        index: place.and_then(|place| place.index),
        rule,
        act: met.act,
        rewritten: met.rewritten,
    });
    Passage {
        direction,
        entered: way.entered,
        left: way.left,
        came_by,
        went_by,
        at_us: way.at_us,
        steps: steps.collect(),
        fate: way.fate,
        flow,
        route: known.route,
        allowed: known.allowed,
    }
}

/// The flow was there before the packet: conntrack said so, or no chain for NAT was asked. A flow that was never answered is
/// still called new, and yet its entry decides.
fn is_older(way: &Way, direction: Direction) -> bool {
    let is_tracked = !matches!(way.state, Some(CtSeen::Invalid | CtSeen::Untracked));
    direction == Direction::Forth && (way.state == Some(CtSeen::Known) || is_tracked && !way.asked_nat)
}

fn flow_entry(entry: &Entry, older: bool, proto: Proto) -> FlowEntry {
    let header = |tuple: &Tuple| Header {
        src: (tuple.src, tuple.src_port).into(),
        dst: (tuple.dst, tuple.dst_port).into(),
        proto,
    };
    FlowEntry {
        original: header(&entry.original),
        reply: header(&entry.reply),
        id: entry.id,
        timeout_secs: entry.timeout_secs,
        answered: entry.has_seen_reply(),
        older,
    }
}

fn family_name(number: u8) -> &'static str {
    match i32::from(number) {
        libc::NFPROTO_INET => "inet",
        libc::NFPROTO_IPV4 => "ip",
        libc::NFPROTO_IPV6 => "ip6",
        libc::NFPROTO_NETDEV => "netdev",
        libc::NFPROTO_BRIDGE => "bridge",
        _ => "?",
    }
}
