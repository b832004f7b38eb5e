//! Parse: what `iptables-save` prints, or what [`render`](crate::iptables::render) writes, back into rules; and the
//! differences between two sets.
//!
//! The kernel's spelling is not ours: addresses get `/32`, `-p` moves to the front, marks become `--set-xmark`, a
//! probability has 31 bits. [`canonical`] makes both alike. What we never write ourselves is kept as its words.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use ipnet::IpNet;
use portolan_model::Proto;

use crate::iptables::names;
use crate::iptables::plan::RuleSet;
use crate::iptables::rule::{Chain, Change, CtState, Match, Probability, Rule, Sign, Table, Target, Where};

/// The tables of one family as read back.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Saved {
    /// All chains, ours and others', built-in ones too.
    pub chains: RuleSet,
}

impl Saved {
    /// The rules of `chain`, `None` if there is no such chain.
    pub fn rules(&self, chain: &Chain) -> Option<&[Rule]> {
        self.chains.get(chain).map(Vec::as_slice)
    }
}

/// Why a dump could not be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ParseError {
    /// A line stands before any `*table`.
    #[error(
        "line {line} of the rule dump, {text:?}, stands in no table: expected *filter, *nat, *raw or *mangle before it"
    )]
    OutsideTable {
        /// From 1.
        line: usize,
        /// The line.
        text: String,
    },
    /// A quote that does not end.
    #[error("line {line} of the rule dump, {text:?}, has a quote that does not end")]
    OpenQuote {
        /// From 1.
        line: usize,
        /// The line.
        text: String,
    },
}

/// Reads a dump. Tables we do not know are passed over; foreign words are kept as words.
pub fn parse(text: &str) -> Result<Saved, ParseError> {
    let mut saved = Saved::default();
    let mut place = Place::Outside;
    for (index, raw) in text.lines().enumerate() {
        let line = raw.trim();
        match line.as_bytes().first() {
            None | Some(b'#') => {}
            Some(b'*') => place = Table::parse(&line[1..]).map_or(Place::ForeignTable, Place::In),
            Some(_) if line == "COMMIT" => place = Place::Outside,
            Some(_) => match place {
                Place::Outside => return Err(ParseError::OutsideTable { line: index + 1, text: line.into() }),
                Place::ForeignTable => {}
                Place::In(table) => entry(&mut saved, table, line, index + 1)?,
            },
        }
    }
    Ok(saved)
}

#[derive(Clone, Copy)]
enum Place {
    Outside,
    ForeignTable,
    In(Table),
}

fn entry(saved: &mut Saved, table: Table, line: &str, number: usize) -> Result<(), ParseError> {
    if let Some(declared) = line.strip_prefix(':') {
        let name = declared.split(' ').next().unwrap_or(declared);
        saved.chains.entry(Chain { table, name: name.into() }).or_default();
        return Ok(());
    }
    let words = words(line).ok_or_else(|| ParseError::OpenQuote { line: number, text: line.into() })?;
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    match without_counters(&words) {
        ["-A", chain, rest @ ..] => {
            saved.chains.entry(Chain { table, name: (*chain).into() }).or_default().push(rule(rest));
        }
        ["-I", chain, "1", rest @ ..] => {
            saved.chains.entry(Chain { table, name: (*chain).into() }).or_default().insert(0, rule(rest));
        }
        ["-X", chain] => {
            saved.chains.remove(&Chain { table, name: (*chain).into() });
        }
        _ => {}
    }
    Ok(())
}

/// `[packets:bytes]`, with `iptables-save -c`.
fn without_counters<'a>(words: &'a [&'a str]) -> &'a [&'a str] {
    match words {
        [first, rest @ ..] if first.starts_with('[') => rest,
        all => all,
    }
}

fn words(line: &str) -> Option<Vec<String>> {
    let mut found = Vec::new();
    let mut rest = line.trim_start();
    while !rest.is_empty() {
        let (word, after) = match rest.strip_prefix('"') {
            Some(quoted) => quoted_word(quoted)?,
            None => rest.split_once(' ').map_or((rest.to_string(), ""), |(word, after)| (word.to_string(), after)),
        };
        found.push(word);
        rest = after.trim_start();
    }
    Some(found)
}

fn quoted_word(text: &str) -> Option<(String, &str)> {
    let mut word = String::new();
    let mut chars = text.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '"' => return Some((word, &text[at + 1..])),
            '\\' => word.push(chars.next()?.1),
            c => word.push(c),
        }
    }
    None
}

fn rule(words: &[&str]) -> Rule {
    let mut reader = Reader { words, at: 0, rule: Rule::new(), recent: None };
    while reader.at < reader.words.len() {
        reader.step();
    }
    reader.finish()
}

struct Reader<'a> {
    words: &'a [&'a str],
    at: usize,
    rule: Rule,
    /// Options of `-m recent`, gathered until its end.
    recent: Option<Recent>,
}

#[derive(Default)]
struct Recent {
    list: String,
    seconds: u32,
    sets: bool,
}

impl<'a> Reader<'a> {
    fn next(&mut self) -> &'a str {
        let word = self.words.get(self.at).copied().unwrap_or_default();
        self.at += 1;
        word
    }

    fn step(&mut self) {
        let start = self.at;
        let mut word = self.next();
        let sign = if word == "!" { Sign::Not } else { Sign::Is };
        if sign == Sign::Not {
            word = self.next();
        }
        if word == "-j" {
            self.rule.target = Some(self.target());
        } else if !self.known(word, sign) {
            self.other(start);
        }
    }

    /// Takes one word we know, with its values; false if we do not know it.
    fn known(&mut self, word: &str, sign: Sign) -> bool {
        let condition = match word {
            "-m" => return self.module(),
            "-s" => place(self.next()).map(|at| Match::Src(sign, at)),
            "-d" => place(self.next()).map(|at| Match::Dst(sign, at)),
            "-p" => Proto::parse(self.next()).map(Match::Proto),
            "--comment" => Some(Match::Comment(self.next().into())),
            "-i" => Some(Match::In(sign, self.next().into())),
            "--destination-ports" | "--dports" => numbers(self.next()).map(Match::DportIn),
            "--dport" => self.next().parse().ok().map(Match::Dport),
            "--sport" => self.next().parse().ok().map(Match::Sport),
            "--src-type" => (self.next() == "LOCAL" && sign == Sign::Is).then_some(Match::SrcLocal),
            "--dst-type" => (self.next() == "LOCAL" && sign == Sign::Is).then_some(Match::DstLocal),
            "--ctstate" => states(self.next()).map(|states| Match::State(sign, states)),
            "--mark" => mark(self.next()).map(|bits| Match::Marked(sign, bits)),
            "--mode" => return self.next() == "random",
            "--probability" => Probability::parse(self.next()).map(Match::Random),
            word => return self.recent_word(word),
        };
        let understood = condition.is_some();
        self.rule.matches.extend(condition);
        understood
    }

    fn module(&mut self) -> bool {
        let name = self.next();
        if name == "recent" {
            self.recent = Some(Recent::default());
        }
        let implied = ["tcp", "udp", "sctp", "comment", "addrtype", "conntrack", "mark", "recent", "statistic"];
        implied.contains(&name) || name == "multiport"
    }

    fn recent_word(&mut self, word: &str) -> bool {
        let value = self.words.get(self.at).copied().unwrap_or_default();
        let Some(recent) = &mut self.recent else { return false };
        match word {
            "--name" => recent.list = value.into(),
            "--seconds" => recent.seconds = value.parse().unwrap_or_default(),
            "--mask" => {}
            "--rcheck" | "--reap" | "--rsource" => return true,
            "--set" => {
                recent.sets = true;
                return true;
            }
            _ => return false,
        }
        self.at += 1;
        true
    }

    /// Keeps the words from `start` on as they are, up to the next word that starts an option.
    fn other(&mut self, start: usize) {
        let is_option = |word: &str| word.starts_with('-') || word == "!";
        self.at = self.at.max(start + 1);
        while self.words.get(self.at).is_some_and(|word| !is_option(word)) {
            self.at += 1;
        }
        let words = self.words[start..self.at.min(self.words.len())].join(" ");
        self.rule.matches.push(Match::Other(words.into()));
    }

    /// The target takes all words that are left.
    fn target(&mut self) -> Target {
        let words = &self.words[self.at.min(self.words.len())..];
        self.at = self.words.len();
        known_target(words).unwrap_or_else(|| Target::Other(words.join(" ").into()))
    }

    fn finish(mut self) -> Rule {
        if let Some(recent) = self.recent.take() {
            let list = recent.list.into();
            self.rule.matches.push(match recent.sets {
                true => Match::Remember(list),
                false => Match::Remembered { list, seconds: recent.seconds },
            });
        }
        self.rule
    }
}

fn known_target(words: &[&str]) -> Option<Target> {
    Some(match words {
        ["ACCEPT"] => Target::Accept,
        ["DROP"] => Target::Drop,
        ["RETURN"] => Target::Return,
        ["REJECT"] => Target::Reject,
        ["REJECT", "--reject-with", "icmp-port-unreachable" | "icmp6-port-unreachable"] => Target::Reject,
        ["MASQUERADE"] => Target::Masquerade { random_fully: false },
        ["MASQUERADE", "--random-fully"] => Target::Masquerade { random_fully: true },
        ["MARK", "--or-mark", bits] => Target::MarkOr(number(bits)?),
        ["MARK", "--xor-mark", bits] => Target::MarkXor(number(bits)?),
        ["MARK", "--set-xmark", value] => xmark(value)?,
        ["DNAT", "--to-destination", to] => Target::Dnat(to.parse().ok()?),
        ["CT", "--notrack"] | ["NOTRACK"] => Target::NoTrack,
        [chain] => Target::Jump((*chain).into()),
        _ => return None,
    })
}

/// `--set-xmark V/M` clears the bits of M and flips those of V: with M = V it sets them, with M = 0 it flips.
fn xmark(text: &str) -> Option<Target> {
    let (value, mask) = text.split_once('/')?;
    let (value, mask) = (number(value)?, number(mask)?);
    match mask {
        0 => Some(Target::MarkXor(value)),
        mask if mask == value => Some(Target::MarkOr(value)),
        _ => None,
    }
}

/// `V/M` with one set of bits for both, or `V` alone.
fn mark(text: &str) -> Option<u32> {
    match text.split_once('/') {
        Some((value, mask)) => number(value).filter(|value| number(mask) == Some(*value)),
        None => number(text),
    }
}

fn number(text: &str) -> Option<u32> {
    match text.strip_prefix("0x") {
        Some(hex) => u32::from_str_radix(hex, 16).ok(),
        None => text.parse().ok(),
    }
}

fn numbers(text: &str) -> Option<Vec<u16>> {
    text.split(',').map(|number| number.parse().ok()).collect()
}

fn place(text: &str) -> Option<Where> {
    match text.contains('/') {
        true => IpNet::from_str(text).ok().map(Where::Net),
        false => IpAddr::from_str(text).ok().map(Where::Host),
    }
}

fn states(text: &str) -> Option<Vec<CtState>> {
    let state = |word: &str| CtState::NAMES.iter().find(|(_, name)| *name == word).map(|(state, _)| *state);
    text.split(',').map(state).collect()
}

/// The rule in the one spelling that both sides of a comparison share.
pub fn canonical(rule: &Rule) -> Rule {
    let mut rule = rule.clone();
    for condition in &mut rule.matches {
        match condition {
            Match::Src(_, at) | Match::Dst(_, at) => *at = Where::Net(at.net().trunc()),
            Match::State(_, states) => states.sort(),
            Match::Random(probability) => probability.digits = probability.kernel_units(),
            _ => {}
        }
    }
    rule.matches.sort();
    rule
}

/// One way in which the kernel is not as planned.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Difference {
    /// A planned chain is not there.
    Missing(Chain),
    /// A chain of ours is there that nobody planned.
    Stale(Chain),
    /// A chain holds other rules, or the same in another order.
    Rules {
        /// Which.
        chain: Chain,
        /// As planned.
        planned: Vec<Rule>,
        /// As found.
        found: Vec<Rule>,
    },
}

/// Where `found` is not as `planned`, looking at our own chains only (`KUBE-…`, `cali-…`, `PORTOLAN-DNS`).
pub fn compare(planned: &RuleSet, found: &RuleSet) -> Vec<Difference> {
    let ours = |chain: &&Chain| names::is_ours(&chain.name);
    let mut differences = Vec::new();
    for chain in planned.keys().filter(ours) {
        match found.get(chain) {
            None => differences.push(Difference::Missing(chain.clone())),
            Some(rules) => differences.extend(differing(chain, &planned[chain], rules)),
        }
    }
    // KUBE-FIREWALL is the kubelet's too: never ours to take away.
    let leavable = |chain: &&Chain| ours(chain) && &*chain.name != names::FIREWALL;
    let stale = found.keys().filter(leavable).filter(|chain| !planned.contains_key(*chain));
    differences.extend(stale.cloned().map(Difference::Stale));
    differences
}

/// What makes `found` as `planned`: chains that are missing, stale or other than planned, whole.
pub fn changes(planned: &RuleSet, found: &Saved) -> Vec<Change> {
    let change = |difference| match difference {
        Difference::Stale(chain) => Change::Remove { chain },
        Difference::Missing(chain) | Difference::Rules { chain, .. } => {
            let rules = planned[&chain].clone();
            Change::Set { chain, rules }
        }
    };
    compare(planned, &found.chains).into_iter().map(change).collect()
}

fn differing(chain: &Chain, planned: &[Rule], found: &[Rule]) -> Option<Difference> {
    let same = planned.len() == found.len() && planned.iter().zip(found).all(|(a, b)| canonical(a) == canonical(b));
    (!same).then(|| Difference::Rules { chain: chain.clone(), planned: planned.to_vec(), found: found.to_vec() })
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing(chain) => write!(f, "{}: chain {} is missing", chain.table.name(), chain.name),
            Self::Stale(chain) => write!(f, "{}: chain {} is nobody's", chain.table.name(), chain.name),
            Self::Rules { chain, planned, found } => {
                write!(f, "{}: chain {} differs", chain.table.name(), chain.name)?;
                for rule in planned.iter().filter(|rule| !has(found, rule)) {
                    write!(f, "\n  planned: -A {} {rule}", chain.name)?;
                }
                for rule in found.iter().filter(|rule| !has(planned, rule)) {
                    write!(f, "\n  found:   -A {} {rule}", chain.name)?;
                }
                Ok(())
            }
        }
    }
}

fn has(rules: &[Rule], rule: &Rule) -> bool {
    rules.iter().any(|other| canonical(other) == canonical(rule))
}
