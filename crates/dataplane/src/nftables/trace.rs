//! Trace: the way of a connection's first packet through a table, with every branch that chance may take.
//!
//! ```text
//!  in:   prerouting (by priority) → (here?) input
//!                                 → (on?)   forward → postrouting
//!  out:  output → (here?) input; postrouting
//! ```
//!
//! NAT sees only the first packet of a flow; conntrack repeats its decision for the rest. Not modelled: routing beyond
//! "is it ours", other tables.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;

use portolan_model::verdict::{Outcome, Packet};
use portolan_model::{Snapshot, Text};

use crate::nftables::lang::{self, ChainKind, Data, Field, HookPoint, Key, Rule, Sign, Statement, Table};
use crate::nftables::plan::Desired;
use crate::way::{self, Act, Base, Done, Event};

/// What a packet meets besides rules.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct World {
    /// Addresses on the node's interfaces; loopback is always among them.
    pub local: Vec<IpAddr>,
    /// What the kernel remembers of clients: elements of its dynamic map.
    pub clients: BTreeMap<Key, Data>,
}

/// One way a packet may go.
#[derive(Clone, Debug, PartialEq)]
pub struct Way {
    /// How likely, 0 to 1.
    pub chance: f64,
    /// What becomes of it.
    pub outcome: Outcome,
    /// Rules that matched to their end, in order.
    pub path: Vec<Place>,
    /// Base chains that it went through, in order.
    pub bases: Vec<Base<Text>>,
    /// What the kernel will remember of its client.
    pub remembered: Vec<(Key, Data)>,
}

/// A rule that matched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// The chain it stands in.
    pub chain: Text,
    /// Its place there, from 0.
    pub index: usize,
}

impl World {
    /// The node of `snapshot` under `desired`, which puts the DNS address on it or not.
    pub fn of(snapshot: &Snapshot, desired: &Desired) -> Self {
        let local = way::local_addresses(snapshot, desired.family(), desired.options().dns);
        Self { local, clients: BTreeMap::new() }
    }

    fn holds(&self, addr: IpAddr) -> bool {
        way::is_local(&self.local, addr)
    }
}

/// Outcomes with their chances.
pub fn chances(ways: &[Way]) -> BTreeMap<Outcome, f64> {
    way::chances(ways.iter().map(|way| (way.outcome, way.chance)))
}

/// What a trace in the kernel would tell of `way`, one that [`walk`] found for `packet` in `table`.
pub fn events(table: &Table, way: &Way, packet: &Packet, source_port: u16) -> Vec<Event> {
    let name: Text = format!("{} {}", way::family_word(table.family), table.name).into();
    let done = |place: &Place| {
        let rule = table.chains.get(&place.chain)?.rules.get(place.index)?;
        Some(Done { table: name.clone(), chain: place.chain.clone(), index: place.index, act: act_of(rule) })
    };
    let named = |chain: &Text| (name.clone(), chain.clone());
    way::events(packet, source_port, (&way.bases, &way.path), done, named)
}

fn act_of(rule: &Rule) -> Act {
    let act = |statement: &Statement| match statement {
        Statement::Jump(chain) => Some(Act::Jump { chain: chain.clone() }),
        Statement::Goto(chain) => Some(Act::Goto { chain: chain.clone() }),
        Statement::Return => Some(Act::Return),
        Statement::Accept | Statement::DnatFrom(..) | Statement::Masquerade { .. } => Some(Act::Accept),
        Statement::Drop | Statement::Reject => Some(Act::Drop),
        _ => None,
    };
    rule.statements.iter().find_map(act).unwrap_or(Act::Continue)
}

/// All ways of `packet` through `table`, as planned or as the kernel holds it.
pub fn walk(table: &Table, world: &World, packet: &Packet) -> Vec<Way> {
    Tracer::new(table, world).walk(packet)
}

/// A table made ready for many packets.
pub struct Tracer<'a> {
    table: &'a Table,
    world: &'a World,
    clients: &'a BTreeMap<Key, Data>,
    /// Base chains by hook and priority.
    bases: Rc<[(lang::Base, &'a Text)]>,
}

/// One possible state of the packet.
#[derive(Clone, Debug)]
struct Branch {
    chance: f64,
    packet: Packet,
    to: SocketAddr,
    mark: u32,
    priority: u32,
    tracked: bool,
    masquerade: bool,
    /// A rule sent it to an endpoint, be it the very address it was sent to.
    is_sent_on: bool,
    end: Option<Outcome>,
    path: Vec<Place>,
    bases: Vec<Base<Text>>,
    remembered: Vec<(Key, Data)>,
}

/// What a chain makes of a branch.
enum Fate {
    /// Goes on with the next rule of the chain that called.
    Fell(Branch),
    /// The base chain is done with it.
    Accepted(Branch),
    /// Gone.
    Ended(Branch),
}

/// What a rule makes of a branch.
enum After {
    Next(Branch),
    Return(Branch),
    Enter(Text, Branch),
    Goto(Text, Branch),
    Accept(Branch),
    End(Branch),
}

impl Branch {
    fn new(packet: &Packet) -> Self {
        Self {
            chance: 1.0,
            packet: *packet,
            to: SocketAddr::new(packet.dst, packet.dport),
            mark: 0,
            priority: 0,
            tracked: true,
            masquerade: false,
            is_sent_on: false,
            end: None,
            path: Vec::new(),
            bases: Vec::new(),
            remembered: Vec::new(),
        }
    }

    /// Notes the base chain that it just went through.
    fn passed(mut self, (chain, hook): (&Text, HookPoint), before: SocketAddr, by_policy: bool) -> Self {
        let (after, met) = (self.to, self.path.len());
        self.bases.push(Base { chain: chain.clone(), hook, before, after, met, by_policy });
        self
    }

    /// Conntrack's view: a destination that stays the same is none.
    fn is_redirected(&self) -> bool {
        self.to != SocketAddr::new(self.packet.dst, self.packet.dport)
    }

    fn way(self) -> Way {
        let outcome = match (self.end, self.is_sent_on) {
            (Some(end), _) => end,
            (None, true) => Outcome::Dnat { to: self.to, masquerade: self.masquerade },
            (None, false) => Outcome::Untouched { masquerade: self.masquerade },
        };
        Way { chance: self.chance, outcome, path: self.path, bases: self.bases, remembered: self.remembered }
    }

    /// The key that `fields` make of the packet, with `slot` for what chance decides.
    fn key(&self, fields: &[Field], slot: u32) -> Option<Key> {
        let (src, proto) = (self.packet.src, self.packet.proto);
        let net = |bits: u8| ipnet::IpNet::new(src, bits).ok().map(|net| net.trunc().addr());
        let (to, from) = (self.to, SocketAddr::new(self.packet.dst, self.packet.dport));
        let key = match fields {
            [Field::Destination] => Key::Addr(to.ip()),
            [Field::OriginalDestination] => Key::Addr(from.ip()),
            [Field::Priority] => Key::Id(self.priority),
            [Field::Source, Field::Destination] => Key::Pair(src, to.ip()),
            [Field::Destination, Field::Proto, Field::Port] => Key::Dest(to.ip(), proto, to.port()),
            [Field::OriginalDestination, Field::Proto, Field::OriginalPort] => Key::Dest(from.ip(), proto, from.port()),
            [Field::Destination, Field::Proto, Field::Port, Field::Random(_)] => {
                Key::DestSlot(to.ip(), proto, to.port(), slot)
            }
            [Field::Destination, Field::Proto, Field::Port, Field::Source] => {
                Key::DestFrom(to.ip(), proto, to.port(), src)
            }
            [Field::Destination, Field::Proto, Field::Port, Field::SourceNet(bits)] => {
                Key::DestFrom(to.ip(), proto, to.port(), net(*bits)?)
            }
            [Field::Proto, Field::Port] => Key::Port(proto, to.port()),
            [Field::Proto, Field::OriginalPort] => Key::Port(proto, from.port()),
            [Field::Proto, Field::Port, Field::Random(_)] => Key::PortSlot(proto, to.port(), slot),
            [Field::Source, Field::Proto, Field::Priority] => Key::Client(src, proto, self.priority),
            _ => return None,
        };
        Some(key)
    }
}

impl<'a> Tracer<'a> {
    /// Of this table at this node.
    pub fn new(table: &'a Table, world: &'a World) -> Self {
        let bases = table.chains.iter().filter_map(|(name, chain)| chain.base.map(|base| (base, name)));
        let mut bases: Vec<(lang::Base, &Text)> = bases.collect();
        bases.sort_by_key(|(base, _)| (base.hook, base.priority));
        Self { table, world, clients: &world.clients, bases: bases.into() }
    }

    /// All ways of `packet`.
    pub fn walk(&self, packet: &Packet) -> Vec<Way> {
        self.walk_of_clients(packet, &self.world.clients)
    }

    /// The same while the kernel remembers these clients.
    pub fn walk_of_clients(&self, packet: &Packet, clients: &BTreeMap<Key, Data>) -> Vec<Way> {
        Tracer { clients, bases: self.bases.clone(), ..*self }.all_ways(packet)
    }

    fn all_ways(&self, packet: &Packet) -> Vec<Way> {
        let is_sent = packet.is_sent();
        let mut ended = Vec::new();
        let first = if is_sent { HookPoint::Output } else { HookPoint::Prerouting };
        let live = self.pass(vec![Branch::new(packet)], first, &mut ended);
        let (here, mut on): (Vec<Branch>, Vec<Branch>) =
            live.into_iter().partition(|branch| self.world.holds(branch.to.ip()));
        let mut here = self.pass(here, HookPoint::Input, &mut ended);
        if is_sent {
            // What the node sends to itself passes postrouting on its way out; what comes in for it never does.
            on.append(&mut here);
        } else {
            // Forwarding sets the priority by the packet's TOS.
            on.iter_mut().for_each(|branch| branch.priority = 0);
            on = self.pass(on, HookPoint::Forward, &mut ended);
        }
        let out = self.pass(on, HookPoint::Postrouting, &mut ended);
        ended.extend(out);
        ended.append(&mut here);
        ended.into_iter().map(Branch::way).collect()
    }

    /// Sends branches through the base chains of a hook: what a verdict ended has ended, the others go on.
    fn pass(&self, mut live: Vec<Branch>, hook: HookPoint, ended: &mut Vec<Branch>) -> Vec<Branch> {
        for (base, name) in self.bases.iter().filter(|(base, _)| base.hook == hook) {
            let mut on = Vec::new();
            for branch in live {
                if base.kind == ChainKind::Nat && !branch.tracked {
                    on.push(branch);
                    continue;
                }
                let (at, before) = ((*name, hook), branch.to);
                for fate in self.run(name, branch, 0) {
                    match fate {
                        Fate::Fell(branch) => on.push(branch.passed(at, before, true)),
                        Fate::Accepted(branch) => on.push(branch.passed(at, before, false)),
                        Fate::Ended(branch) => ended.push(branch.passed(at, before, false)),
                    }
                }
            }
            live = on;
        }
        live
    }

    fn run(&self, chain: &Text, entry: Branch, depth: usize) -> Vec<Fate> {
        let mut fates = Vec::new();
        let mut live = vec![entry];
        // The kernel refuses loops; a table from elsewhere might hold one.
        let rules = self.table.chains.get(chain).filter(|_| depth < 16).map(|c| c.rules.as_slice()).unwrap_or_default();
        for (index, rule) in rules.iter().enumerate() {
            let place = Place { chain: chain.clone(), index };
            let mut next = Vec::new();
            for branch in live {
                for after in self.rule(rule, &place, branch) {
                    self.follow(after, depth, &mut next, &mut fates);
                }
            }
            live = next;
        }
        fates.extend(live.into_iter().map(Fate::Fell));
        fates
    }

    fn follow(&self, after: After, depth: usize, next: &mut Vec<Branch>, fates: &mut Vec<Fate>) {
        match after {
            After::Next(branch) => next.push(branch),
            After::Return(branch) => fates.push(Fate::Fell(branch)),
            After::Accept(branch) => fates.push(Fate::Accepted(branch)),
            After::End(branch) => fates.push(Fate::Ended(branch)),
            After::Goto(chain, branch) => fates.extend(self.run(&chain, branch, depth + 1)),
            After::Enter(chain, branch) => {
                for fate in self.run(&chain, branch, depth + 1) {
                    match fate {
                        Fate::Fell(branch) => next.push(branch),
                        other => fates.push(other),
                    }
                }
            }
        }
    }

    /// One branch comes to a rule; more may leave it where chance decides.
    fn rule(&self, rule: &Rule, place: &Place, branch: Branch) -> Vec<After> {
        let mut branch = branch;
        for statement in &rule.statements {
            if let Some(holds) = self.holds(statement, &branch) {
                if !holds {
                    return vec![After::Next(branch)];
                }
            } else if let Statement::DnatFrom(fields, map) = statement {
                return self.dnat(fields, map, place, branch);
            } else if let Statement::PriorityFrom(fields, map) = statement {
                match branch.key(fields, 0).and_then(|key| self.lookup(map, &key)) {
                    Some(Data::Id(id)) => branch.priority = id,
                    _ => return vec![After::Next(branch)],
                }
            } else if let Some(verdict) = verdict(statement) {
                branch.path.push(place.clone());
                return vec![verdict(branch)];
            } else {
                act(statement, &mut branch);
            }
        }
        branch.path.push(place.clone());
        vec![After::Next(branch)]
    }

    fn dnat(&self, fields: &[Field], map: &Text, place: &Place, branch: Branch) -> Vec<After> {
        let slots = fields.iter().find_map(|field| if let Field::Random(n) = field { Some(*n) } else { None });
        let slots = slots.unwrap_or(1);
        let one = |slot| {
            let mut branch = Branch { chance: branch.chance / f64::from(slots), ..branch.clone() };
            match branch.key(fields, slot).and_then(|key| self.lookup(map, &key)) {
                Some(Data::Endpoint(addr, port)) => {
                    branch.to = SocketAddr::new(addr, port);
                    branch.is_sent_on = true;
                    branch.path.push(place.clone());
                    After::Accept(branch)
                }
                _ => After::Next(branch),
            }
        };
        (0..slots).map(one).collect()
    }

    fn lookup(&self, map: &Text, key: &Key) -> Option<Data> {
        let set = self.table.sets.get(map)?;
        match set.shape.dynamic {
            Some(_) => self.clients.get(key).copied(),
            None => set.elements.get(key)?.0,
        }
    }

    /// Whether a match holds; `None` if the statement is none.
    fn holds(&self, statement: &Statement, branch: &Branch) -> Option<bool> {
        let addr = |field: &Field| match field {
            Field::Source => branch.packet.src,
            _ => branch.to.ip(),
        };
        let holds = match statement {
            Statement::In(sign, fields, set) => {
                let set = self.table.sets.get(set);
                let key = branch.key(fields, 0);
                sign.applies(key.is_some_and(|key| set.is_some_and(|set| set.elements.contains_key(&key))))
            }
            Statement::Net(sign, field, net) => sign.applies(net.contains(&addr(field))),
            Statement::Local(sign, field) => sign.applies(self.world.holds(addr(field))),
            Statement::CameBy(sign, name) => {
                let link = branch.packet.arrival.link().unwrap_or_default();
                sign.applies(name.strip_suffix('*').map_or(**name == *link, |prefix| link.starts_with(prefix)))
            }
            Statement::Proto(proto) => branch.packet.proto == *proto,
            Statement::Dport(port) => branch.to.port() == *port,
            // A client's own port is never a well-known one.
            Statement::Sport(_) => false,
            Statement::StateNew => branch.tracked,
            Statement::Redirected => branch.tracked && branch.is_redirected(),
            Statement::Marked(bits) => branch.mark & bits == *bits,
            _ => return None,
        };
        Some(holds)
    }
}

/// What a deciding statement does with a branch; `None` if it decides nothing.
fn verdict(statement: &Statement) -> Option<Box<dyn FnOnce(Branch) -> After>> {
    let end = |outcome| -> Box<dyn FnOnce(Branch) -> After> {
        Box::new(move |branch| After::End(Branch { end: Some(outcome), ..branch }))
    };
    Some(match statement {
        Statement::Accept => Box::new(After::Accept),
        Statement::Return => Box::new(After::Return),
        Statement::Drop => end(Outcome::Drop),
        Statement::Reject => end(Outcome::Reject),
        Statement::Masquerade { .. } => Box::new(|branch| After::Accept(Branch { masquerade: true, ..branch })),
        Statement::Jump(chain) => {
            let chain = chain.clone();
            Box::new(move |branch| After::Enter(chain, branch))
        }
        Statement::Goto(chain) => {
            let chain = chain.clone();
            Box::new(move |branch| After::Goto(chain, branch))
        }
        _ => return None,
    })
}

fn act(statement: &Statement, branch: &mut Branch) {
    match statement {
        Statement::MarkOr(bits) => branch.mark |= bits,
        Statement::MarkXor(bits) => branch.mark ^= bits,
        Statement::PriorityNone => branch.priority = 0,
        Statement::NoTrack => branch.tracked = false,
        Statement::Update { key, data, .. } => {
            let to = branch.to;
            if let (Some(key), [Field::Destination, Field::Port]) = (branch.key(key, 0), data.as_slice()) {
                branch.remembered.push((key, Data::Endpoint(to.ip(), to.port())));
            }
        }
        _ => {}
    }
}

impl Sign {
    fn applies(self, holds: bool) -> bool {
        holds == (self == Self::Is)
    }
}
