//! Values: tables, chains, rules and changes. What a rule says, without the text it is written in.

use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;
use portolan_model::{Proto, Text};

/// A table of iptables, in the order one restore input lists them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[allow(missing_docs)]
pub enum Table {
    Filter,
    Nat,
    Raw,
    Mangle,
}

impl Table {
    /// All tables, in restore order.
    pub const ALL: [Self; 4] = [Self::Filter, Self::Nat, Self::Raw, Self::Mangle];

    /// `filter`, `nat`, `raw` or `mangle`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Filter => "filter",
            Self::Nat => "nat",
            Self::Raw => "raw",
            Self::Mangle => "mangle",
        }
    }

    /// Reads [`Self::name`].
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|table| table.name() == text)
    }
}

/// A chain of one table.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Chain {
    /// Its table.
    pub table: Table,
    /// Its name, at most 28 bytes.
    pub name: Text,
}

impl Chain {
    /// Chain `name` of table filter.
    pub fn filter(name: impl Into<Text>) -> Self {
        Self { table: Table::Filter, name: name.into() }
    }

    /// Chain `name` of table nat.
    pub fn nat(name: impl Into<Text>) -> Self {
        Self { table: Table::Nat, name: name.into() }
    }

    /// Chain `name` of table raw.
    pub fn raw(name: impl Into<Text>) -> Self {
        Self { table: Table::Raw, name: name.into() }
    }
}

/// A rule: matches in the order they are written, and what to do. Without a target it only counts.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Rule {
    /// Matches, the comment among them.
    pub matches: Vec<Match>,
    /// `-j`.
    pub target: Option<Target>,
}

/// One condition of a rule.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Match {
    /// `-m comment --comment TEXT`.
    Comment(Text),
    /// `-m PROTO -p PROTO`.
    Proto(Proto),
    /// `[!] -s WHERE`.
    Src(Sign, Where),
    /// `[!] -d WHERE`.
    Dst(Sign, Where),
    /// `[!] -i LINK`: came in by this interface; a `+` at its end stands for any rest. What is sent came in by none.
    In(Sign, Text),
    /// `--dport N`.
    Dport(u16),
    /// `-m multiport --destination-ports N,M`, in rising order, 15 at most.
    DportIn(Vec<u16>),
    /// `--sport N`.
    Sport(u16),
    /// `-m addrtype --src-type LOCAL`.
    SrcLocal,
    /// `-m addrtype --dst-type LOCAL`.
    DstLocal,
    /// `-m conntrack [!] --ctstate A,B`.
    State(Sign, Vec<CtState>),
    /// `-m mark [!] --mark BITS/BITS`.
    Marked(Sign, u32),
    /// `-m recent --name LIST --rcheck --seconds N --reap`: the source was seen by `LIST` in the last N seconds.
    Remembered {
        /// Name of the list, that of the endpoint's chain.
        list: Text,
        /// How long a client is remembered, 1..=86400.
        seconds: u32,
    },
    /// `-m recent --name LIST --set`: remembers the source; always matches.
    Remember(Text),
    /// `-m statistic --mode random --probability P`.
    Random(Probability),
    /// Something that only a foreign rule says, as its words.
    Other(Text),
}

/// Whether a match is negated (`!`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[allow(missing_docs)]
pub enum Sign {
    Is,
    Not,
}

impl Sign {
    /// What a match of this sign says when its inner condition is `holds`.
    pub fn applies(self, holds: bool) -> bool {
        (self == Self::Is) == holds
    }
}

/// An address as a rule writes it: bare, or with its prefix length.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Where {
    /// One address, printed without `/32` or `/128`.
    Host(IpAddr),
    /// A prefix, printed with its length.
    Net(IpNet),
}

impl Where {
    /// As a prefix.
    pub fn net(self) -> IpNet {
        match self {
            Self::Host(addr) => IpNet::from(addr),
            Self::Net(net) => net,
        }
    }
}

/// A connection's state as conntrack tells it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[allow(missing_docs)]
pub enum CtState {
    Invalid,
    New,
    Related,
    Established,
    Untracked,
    Dnat,
    Snat,
}

/// A probability in ten decimals, as the rules write it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Probability {
    /// Ten-digit fraction: 5_000_000_000 is one half.
    pub digits: u64,
}

impl Probability {
    const ONE: u64 = 10_000_000_000;
    /// xt_statistic compares with 31 random bits.
    const KERNEL_ONE: f64 = 2_147_483_648.0;

    /// One in `n`, rounded to ten decimals.
    pub fn one_in(n: usize) -> Self {
        let n = (n as u64).max(1);
        Self { digits: (Self::ONE + n / 2) / n }
    }

    /// Reads a decimal fraction of up to 11 digits.
    pub fn parse(text: &str) -> Option<Self> {
        let value: f64 = text.parse().ok()?;
        (0.0..=1.0).contains(&value).then(|| Self { digits: (value * Self::ONE as f64).round() as u64 })
    }

    /// As a fraction.
    pub fn fraction(self) -> f64 {
        self.digits as f64 / Self::ONE as f64
    }

    /// What the kernel makes of it: 31 bits. Two spellings of one rule agree in this.
    pub fn kernel_units(self) -> u64 {
        (self.fraction() * Self::KERNEL_ONE).round() as u64
    }
}

/// What a rule does.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Target {
    /// Goes through another chain and comes back if that one decides nothing.
    Jump(Text),
    /// Ends the table: passes.
    Accept,
    /// Drops in silence.
    Drop,
    /// Back to the chain before.
    Return,
    /// Refuses with port unreachable.
    Reject,
    /// Source becomes the address of the interface it leaves by.
    Masquerade {
        /// Ports chosen at random, against two flows racing for one.
        random_fully: bool,
    },
    /// Sets bits of the mark.
    MarkOr(u32),
    /// Flips bits of the mark.
    MarkXor(u32),
    /// New destination.
    Dnat(SocketAddr),
    /// Keeps the packet out of conntrack.
    NoTrack,
    /// Something that only a foreign rule does, as its words.
    Other(Text),
}

impl Rule {
    /// A rule without conditions.
    pub fn new() -> Self {
        Self::default()
    }

    /// A rule that starts with a comment.
    pub fn commented(comment: impl Into<Text>) -> Self {
        Self::new().and(Match::Comment(comment.into()))
    }

    /// With one more condition at its end.
    pub fn and(mut self, condition: Match) -> Self {
        self.matches.push(condition);
        self
    }

    /// With more conditions at its end.
    pub fn and_all(mut self, conditions: impl IntoIterator<Item = Match>) -> Self {
        self.matches.extend(conditions);
        self
    }

    /// With this target.
    pub fn does(mut self, target: Target) -> Self {
        self.target = Some(target);
        self
    }

    /// With a jump to `chain`.
    pub fn jump(self, chain: impl Into<Text>) -> Self {
        self.does(Target::Jump(chain.into()))
    }

    /// Its comment, if it has one.
    pub fn comment(&self) -> Option<&str> {
        self.matches.iter().find_map(|condition| match condition {
            Match::Comment(text) => Some(&**text),
            _ => None,
        })
    }

    /// The chain it jumps to, if it does.
    pub fn jumps_to(&self) -> Option<&str> {
        match &self.target {
            Some(Target::Jump(name)) => Some(name),
            _ => None,
        }
    }
}

/// One step from what the kernel holds to what it must hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// The chain holds exactly these rules; it is made if it is not there.
    Set {
        /// Which.
        chain: Chain,
        /// In order.
        rules: Vec<Rule>,
    },
    /// The chain is no more.
    Remove {
        /// Which.
        chain: Chain,
    },
}

impl Change {
    /// The chain it changes.
    pub fn chain(&self) -> &Chain {
        match self {
            Self::Set { chain, .. } | Self::Remove { chain } => chain,
        }
    }
}
