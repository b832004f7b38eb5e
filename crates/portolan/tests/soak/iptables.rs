//! Reads what `iptables-save` prints, and what it means, by following jumps. Knows kube-proxy's chains and nothing of
//! the code that writes them.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};

use super::world::{Destination, Meaning};

/// One rule: its words, quotes taken off.
type Rule = Vec<String>;

#[derive(Default)]
struct Tables {
    /// By table and chain.
    chains: BTreeMap<(String, String), Vec<Rule>>,
}

/// What the rules come to, or what is odd about them.
pub fn meaning(saved: &str) -> Result<Meaning, String> {
    let tables = read(saved);
    let mut reader = Reader { tables: &tables, visited: BTreeSet::new(), meaning: Meaning::default() };
    reader.destinations()?;
    reader.firewall()?;
    reader.refusals();
    let orphan = tables.chains.keys().find(|(table, chain)| {
        let per_service = ["KUBE-SVC-", "KUBE-SVL-", "KUBE-EXT-", "KUBE-FW-", "KUBE-SEP-"];
        table == "nat" && per_service.iter().any(|kind| chain.starts_with(kind)) && !reader.visited.contains(chain)
    });
    match orphan {
        Some((_, chain)) => Err(format!("nothing jumps to {chain}")),
        None => Ok(reader.meaning),
    }
}

fn read(saved: &str) -> Tables {
    let mut tables = Tables::default();
    let mut table = String::new();
    for line in saved.lines() {
        if let Some(name) = line.strip_prefix('*') {
            table = name.to_owned();
        } else if let Some(chain) = line.strip_prefix(':') {
            let name = chain.split(' ').next().unwrap_or_default().to_owned();
            tables.chains.entry((table.clone(), name)).or_default();
        } else if let Some(rule) = line.strip_prefix("-A ") {
            let mut words = words(rule);
            let chain = words.remove(0);
            tables.chains.entry((table.clone(), chain)).or_default().push(words);
        }
    }
    tables
}

fn words(line: &str) -> Vec<String> {
    let mut words = vec![String::new()];
    let mut quoted = false;
    for letter in line.chars() {
        match letter {
            '"' => quoted = !quoted,
            ' ' if !quoted => words.push(String::new()),
            _ => words.last_mut().expect("there is always one").push(letter),
        }
    }
    words.retain(|word| !word.is_empty());
    words
}

fn value<'a>(rule: &'a Rule, option: &str) -> Option<&'a str> {
    let at = rule.iter().position(|word| word == option)?;
    rule.get(at + 1).map(String::as_str)
}

/// The host that a rule is about.
fn host(rule: &Rule) -> Option<IpAddr> {
    value(rule, "-d").and_then(|text| text.split('/').next()).and_then(|text| text.parse().ok())
}

fn destination(rule: &Rule) -> Option<Destination> {
    let addr = host(rule).filter(|addr| !addr.is_loopback());
    let port = value(rule, "--dport")?.parse().ok()?;
    Some(Destination { addr, proto: value(rule, "-p")?.to_owned(), port })
}

struct Reader<'a> {
    tables: &'a Tables,
    visited: BTreeSet<String>,
    meaning: Meaning,
}

impl<'a> Reader<'a> {
    fn chain(&self, table: &str, chain: &str) -> &'a [Rule] {
        self.tables.chains.get(&(table.to_owned(), chain.to_owned())).map_or(&[], Vec::as_slice)
    }

    /// All that the nat table sends somewhere.
    fn destinations(&mut self) -> Result<(), String> {
        for chain in ["KUBE-SERVICES", "KUBE-NODEPORTS"] {
            for rule in self.chain("nat", chain) {
                let (Some(to), Some(target)) = (destination(rule), value(rule, "-j")) else { continue };
                match target.get(..9) {
                    Some("KUBE-SVC-" | "KUBE-SVL-") => self.sends(&to, target, false)?,
                    Some("KUBE-EXT-") => self.external(&to, target)?,
                    _ if target.starts_with("KUBE-FW-") => self.guarded(&to, target)?,
                    _ => return Err(format!("{chain} jumps to {target}")),
                }
            }
        }
        Ok(())
    }

    fn guarded(&mut self, to: &Destination, chain: &str) -> Result<(), String> {
        self.visited.insert(chain.to_owned());
        let mut external = None;
        for rule in self.chain("nat", chain) {
            let Some(target) = value(rule, "-j") else { continue };
            let source = value(rule, "-s").ok_or(format!("{chain}: {rule:?} has no source"))?;
            self.meaning.let_in.entry(to.clone()).or_default().insert(source.to_owned());
            external = Some(target.to_owned());
        }
        self.external(to, &external.ok_or(format!("{chain} lets nobody in"))?)
    }

    /// An external destination: all endpoints, and for policy Local those here.
    fn external(&mut self, to: &Destination, chain: &str) -> Result<(), String> {
        self.visited.insert(chain.to_owned());
        let rules = self.chain("nat", chain);
        let jumps = |head: &str, conditional: bool| {
            rules.iter().any(|rule| {
                let is_conditional = rule.iter().any(|word| word == "-s" || word == "--src-type");
                is_conditional == conditional && value(rule, "-j").is_some_and(|target| target.starts_with(head))
            })
        };
        let is_local = jumps("KUBE-SVC-", true);
        if jumps("KUBE-MARK-MASQ", false) == is_local {
            return Err(format!("{chain}: policy Local is {is_local}, and so is what it masquerades: {rules:?}"));
        }
        for rule in rules {
            match value(rule, "-j") {
                Some(target) if target.starts_with("KUBE-SVC-") => self.sends(to, target, false)?,
                Some(target) if target.starts_with("KUBE-SVL-") => self.sends(to, target, true)?,
                _ => {}
            }
        }
        Ok(())
    }

    /// The endpoints of a chain, each as likely as the others.
    fn sends(&mut self, to: &Destination, chain: &str, from_outside: bool) -> Result<(), String> {
        self.visited.insert(chain.to_owned());
        let (mut list, mut stays, mut returning) = (Vec::new(), BTreeSet::new(), 0);
        let ways: Vec<&Rule> = self.chain("nat", chain).iter().filter(|rule| is_endpoint(rule)).collect();
        let fresh = ways.iter().filter(|rule| value(rule, "--name").is_none()).count();
        for rule in ways {
            let endpoint = value(rule, "-j").unwrap_or_default();
            if let Some(secs) = value(rule, "--seconds") {
                stays.insert(secs.parse::<u32>().map_err(|error| format!("{chain}: {error}"))?);
                returning += 1;
                continue;
            }
            let wanted = 1.0 / (fresh - list.len()) as f64;
            let chance: f64 =
                value(rule, "--probability").map_or(Ok(1.0), str::parse).map_err(|_| format!("{rule:?}"))?;
            if (chance - wanted).abs() > 1e-6 {
                return Err(format!("{chain}: {endpoint} is chosen with {chance}, not {wanted}"));
            }
            list.push(self.endpoint(endpoint)?);
        }
        let set: BTreeSet<SocketAddr> = list.iter().copied().collect();
        if set.len() != list.len() || (returning != 0 && returning != list.len()) {
            return Err(format!("{chain}: {list:?}, and {returning} rules for those who come again"));
        }
        if let Some(secs) = stays.first() {
            self.meaning.stays.insert(to.clone(), *secs);
        }
        let lists = if from_outside { &mut self.meaning.sent_from_outside } else { &mut self.meaning.sent };
        match lists.insert(to.clone(), set.clone()) {
            Some(other) if other != set => Err(format!("{to:?} is sent to {other:?} and to {set:?}")),
            _ => Ok(()),
        }
    }

    fn endpoint(&mut self, chain: &str) -> Result<SocketAddr, String> {
        self.visited.insert(chain.to_owned());
        let rules = self.chain("nat", chain);
        let target = rules.iter().find_map(|rule| value(rule, "--to-destination"));
        let target: SocketAddr = target.and_then(|text| text.parse().ok()).ok_or(format!("{chain} has no target"))?;
        let masquerades_itself = rules.iter().any(|rule| {
            let own = value(rule, "-s").and_then(|text| text.split('/').next()).and_then(|text| text.parse().ok());
            own == Some(target.ip()) && value(rule, "-j") == Some("KUBE-MARK-MASQ")
        });
        if masquerades_itself { Ok(target) } else { Err(format!("{chain} does not masquerade {target} to itself")) }
    }

    /// Each guarded destination drops what was not let in, and no other does.
    fn firewall(&mut self) -> Result<(), String> {
        let rules = self.chain("filter", "KUBE-PROXY-FIREWALL");
        let drops: BTreeSet<Destination> = rules.iter().filter_map(destination).collect();
        let guarded: BTreeSet<Destination> = self.meaning.let_in.keys().cloned().collect();
        if drops == guarded { Ok(()) } else { Err(format!("guarded are {guarded:?}, dropped {drops:?}")) }
    }

    fn refusals(&mut self) {
        for chain in ["KUBE-SERVICES", "KUBE-EXTERNAL-SERVICES"] {
            for rule in self.chain("filter", chain) {
                let Some(to) = destination(rule) else { continue };
                match value(rule, "-j") {
                    Some("REJECT") => drop(self.meaning.refused.insert(to)),
                    Some("DROP") => drop(self.meaning.dropped.insert(to)),
                    _ => {}
                }
            }
        }
    }
}

fn is_endpoint(rule: &Rule) -> bool {
    value(rule, "-j").is_some_and(|target| target.starts_with("KUBE-SEP-"))
}
