//! Reads what `nft -j list table` and `nft list table` print, and what it means. Knows the layout that the documents
//! describe and nothing of the code that writes it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};

use serde_json::Value;

use super::world::{Destination, Meaning};

/// Ways into lists: sets of destinations by count, the map of their endpoints, the set of all of them.
const DOORS: [(&str, &str, &str); 7] = [
    ("cluster-ips", "endpoints", "cluster-ips"),
    ("external", "endpoints", "external"),
    ("external-local-to-cluster", "endpoints", "external-local"),
    ("external-local-to-local", "endpoints-local", "external-local"),
    ("node-ports", "node-port-endpoints", "node-ports"),
    ("node-ports-local-to-cluster", "node-port-endpoints", "node-ports-local"),
    ("node-ports-local-to-local", "node-port-endpoints-local", "node-ports-local"),
];
/// Counts above this are found by way of a group.
const MOST_DIRECT: usize = 16;

type Words = Vec<String>;

struct Table {
    /// Elements of sets and maps: key, and what a map has for it.
    sets: BTreeMap<String, Vec<(Words, Words)>>,
    /// Lines of rules by chain.
    chains: BTreeMap<String, Vec<String>>,
}

/// What the table comes to, or what is odd about it.
pub fn meaning(json: &str, text: &str) -> Result<Meaning, String> {
    let table = Table { sets: sets(json)?, chains: chains(text) };
    let mut meaning = Meaning::default();
    let mut slots: BTreeMap<&str, usize> = BTreeMap::new();
    let mut classes: BTreeMap<&str, BTreeSet<Words>> = BTreeMap::new();
    for (door, map, class) in DOORS {
        let behind = table.behind(door, map)?;
        *slots.entry(map).or_default() += behind.values().map(BTreeSet::len).sum::<usize>();
        classes.entry(class).or_default().extend(behind.keys().cloned());
        let lists = if door.ends_with("-to-local") { &mut meaning.sent_from_outside } else { &mut meaning.sent };
        for (key, list) in behind {
            if lists.insert(destination(&key)?, list).is_some() {
                return Err(format!("{key:?} has two lists, one of them by {door}"));
            }
        }
    }
    for (map, wanted) in slots {
        let has = table.set(map).len();
        if has != wanted {
            return Err(format!("{map} has {has} elements, of which {wanted} are reached"));
        }
    }
    table.classes(&classes)?;
    table.refusals(&mut meaning)?;
    table.guards(&mut meaning)?;
    table.stays(&mut meaning)?;
    table.hairpins(&meaning)?;
    Ok(meaning)
}

impl Table {
    fn set(&self, name: &str) -> &[(Words, Words)] {
        self.sets.get(name).map_or(&[], Vec::as_slice)
    }

    fn keys(&self, name: &str) -> BTreeSet<Words> {
        self.set(name).iter().map(|(key, _)| key.clone()).collect()
    }

    fn has_line(&self, chain: Option<&str>, part: &str) -> bool {
        let chains = self.chains.iter().filter(|(name, _)| chain.is_none_or(|chain| chain == *name));
        chains.flat_map(|(_, lines)| lines).any(|line| line.contains(part))
    }

    /// Destinations behind a door, each with its endpoints.
    fn behind(&self, door: &str, map: &str) -> Result<BTreeMap<Words, BTreeSet<SocketAddr>>, String> {
        let endpoints: BTreeMap<&Words, &Words> = self.set(map).iter().map(|(key, data)| (key, data)).collect();
        let mut found = BTreeMap::new();
        let counts = self.sets.keys().filter_map(|name| name.strip_prefix(door)?.strip_prefix('-')?.parse().ok());
        for count in counts.collect::<BTreeSet<usize>>() {
            let set = format!("{door}-{count}");
            if !self.set(&set).is_empty() {
                self.has_way(door, map, count)?;
            }
            for (key, _) in self.set(&set) {
                let mut list = BTreeSet::new();
                for slot in 0..count {
                    let slot: Words = key.iter().cloned().chain([slot.to_string()]).collect();
                    let target = endpoints.get(&slot).ok_or(format!("{set}: {map} has no {slot:?}"))?;
                    list.insert(socket(target)?);
                }
                if list.len() != count {
                    return Err(format!("{set}: {key:?} has the same endpoint twice: {list:?}"));
                }
                self.is_in_group(door, count, key)?;
                if found.insert(key.clone(), list).is_some() {
                    return Err(format!("{door}: {key:?} has two counts, one of them {count}"));
                }
            }
        }
        Ok(found)
    }

    /// Packets come to the chain that picks one of so many.
    fn has_way(&self, door: &str, map: &str, count: usize) -> Result<(), String> {
        let chain = format!("pick-{door}-{count}");
        let picks = self.has_line(Some(&chain), &format!("numgen random mod {count} map @{map}"));
        let leads = self.has_line(None, &format!("@{door}-{count} goto {chain}"));
        if picks && leads { Ok(()) } else { Err(format!("{door}-{count}: leads {leads}, picks {picks}")) }
    }

    fn is_in_group(&self, door: &str, count: usize, key: &Words) -> Result<(), String> {
        if count <= MOST_DIRECT {
            return Ok(());
        }
        let last = count.next_power_of_two();
        let group = format!("{door}-{}-{last}", last / 2 + 1);
        let leads = self.has_line(None, &format!("@{group} goto group-{group}"));
        let is_in = self.keys(&group).contains(key);
        if leads && is_in { Ok(()) } else { Err(format!("{group}: leads {leads}, has {key:?} {is_in}")) }
    }

    /// All destinations of a class, and no others; ClusterIPs without their ports, and also those that refuse.
    fn classes(&self, wanted: &BTreeMap<&str, BTreeSet<Words>>) -> Result<(), String> {
        for (class, wanted) in wanted {
            let has = self.keys(class);
            let fits = match *class {
                "cluster-ips" => wanted.iter().all(|key| has.contains(&key[..1])),
                _ => has == *wanted,
            };
            if !fits {
                return Err(format!("{class} has {has:?}, not {wanted:?}"));
            }
        }
        Ok(())
    }

    fn refusals(&self, meaning: &mut Meaning) -> Result<(), String> {
        for (set, verdict) in [("no-endpoints", "reject"), ("node-ports-no-endpoints", "reject")] {
            meaning.refused.extend(self.refusal(set, verdict)?);
        }
        for (set, verdict) in [("no-local-endpoints", "drop"), ("node-ports-no-local-endpoints", "drop")] {
            meaning.dropped.extend(self.refusal(set, verdict)?);
        }
        Ok(())
    }

    fn refusal(&self, set: &str, verdict: &str) -> Result<Vec<Destination>, String> {
        let name = format!("@{set} ");
        let lines = self.chains.values().flatten().filter(|line| format!("{line} ").contains(&name));
        let mut verdicts = lines.map(|line| line.ends_with(verdict));
        match verdicts.next() {
            Some(true) if verdicts.all(|right| right) => self.keys(set).iter().map(|key| destination(key)).collect(),
            _ => Err(format!("{set} does not {verdict}")),
        }
    }

    fn guards(&self, meaning: &mut Meaning) -> Result<(), String> {
        for name in self.sets.keys().filter(|name| name.starts_with("allowed-")) {
            let length = &name["allowed-".len()..];
            for (key, _) in self.set(name) {
                let (source, to) = key.split_last().ok_or(format!("{name}: an empty key"))?;
                meaning.let_in.entry(destination(to)?).or_default().insert(format!("{source}/{length}"));
            }
        }
        let guarded: Result<BTreeSet<Destination>, String> =
            self.keys("guarded").iter().map(|key| destination(key)).collect();
        let let_in: BTreeSet<Destination> = meaning.let_in.keys().cloned().collect();
        if guarded? == let_in { Ok(()) } else { Err(format!("guarded is not what lets somebody in: {let_in:?}")) }
    }

    fn stays(&self, meaning: &mut Meaning) -> Result<(), String> {
        let mut secs_of: BTreeMap<Words, u32> = BTreeMap::new();
        for name in self.sets.keys() {
            if let Some(secs) = name.strip_prefix("affinity-").and_then(|text| text.parse().ok()) {
                secs_of.extend(self.set(name).iter().map(|(id, _)| (id.clone(), secs)));
            }
        }
        let mut used = BTreeSet::new();
        for (door, ..) in DOORS {
            for (key, id) in self.set(&format!("affinity-{door}")) {
                let to = destination(key)?;
                let secs = *secs_of.get(id).ok_or(format!("affinity-{door}: {key:?} has no timeout"))?;
                let lists = if door.ends_with("-to-local") { &meaning.sent_from_outside } else { &meaning.sent };
                if !lists.contains_key(&to) || meaning.stays.insert(to, secs).is_some_and(|other| other != secs) {
                    return Err(format!("affinity-{door}: {key:?} has no list, or two timeouts"));
                }
                used.insert(id.clone());
            }
        }
        let left: Vec<&Words> = secs_of.keys().filter(|id| !used.contains(*id)).collect();
        if left.is_empty() { Ok(()) } else { Err(format!("ids of nobody: {left:?}")) }
    }

    /// Every endpoint comes back to itself as the node, and nobody else does.
    fn hairpins(&self, meaning: &Meaning) -> Result<(), String> {
        let lists = meaning.sent.values().chain(meaning.sent_from_outside.values());
        let wanted: BTreeSet<IpAddr> = lists.flatten().map(SocketAddr::ip).collect();
        let mut has = BTreeSet::new();
        for key in self.keys("hairpin") {
            let ends: Vec<IpAddr> = key.iter().filter_map(|text| text.parse().ok()).collect();
            if ends.len() != 2 || ends[0] != ends[1] {
                return Err(format!("hairpin has {key:?}"));
            }
            has.insert(ends[0]);
        }
        if has == wanted { Ok(()) } else { Err(format!("hairpin has {has:?}, not {wanted:?}")) }
    }
}

/// `address, protocol, port`, or `protocol, port` for a port of the node.
fn destination(key: &[String]) -> Result<Destination, String> {
    let read = || {
        let (addr, rest) = match key.len() {
            3 => (Some(key[0].parse().ok()?), &key[1..]),
            2 => (None, key),
            _ => return None,
        };
        Some(Destination { addr, proto: rest[0].clone(), port: rest[1].parse().ok()? })
    };
    read().ok_or(format!("{key:?} is no destination"))
}

fn socket(words: &Words) -> Result<SocketAddr, String> {
    let read = || Some(SocketAddr::new(words.first()?.parse().ok()?, words.get(1)?.parse().ok()?));
    read().ok_or(format!("{words:?} is no endpoint"))
}

fn sets(json: &str) -> Result<BTreeMap<String, Vec<(Words, Words)>>, String> {
    let listed: Value = serde_json::from_str(json).map_err(|error| format!("nft -j: {error}"))?;
    let objects = listed["nftables"].as_array().ok_or("nft -j lists nothing")?;
    let all = objects.iter().filter_map(|object| object.get("set").or_else(|| object.get("map")));
    Ok(all
        .map(|set| {
            let elements = set["elem"].as_array().into_iter().flatten().map(element).collect();
            (set["name"].as_str().unwrap_or_default().to_owned(), elements)
        })
        .collect())
}

/// An element of a map is a pair; one with a comment is wrapped.
fn element(value: &Value) -> (Words, Words) {
    match value.as_array() {
        Some(pair) if pair.len() == 2 => (words(&pair[0]), words(&pair[1])),
        _ => (words(value), Words::new()),
    }
}

fn words(value: &Value) -> Words {
    if let Some(inner) = value.get("elem") {
        return words(&inner["val"]);
    }
    match value.get("concat").and_then(Value::as_array) {
        Some(parts) => parts.iter().flat_map(words).collect(),
        None => vec![value.as_str().map_or_else(|| value.to_string(), str::to_owned)],
    }
}

/// Lines of each chain, comments taken off.
fn chains(text: &str) -> BTreeMap<String, Vec<String>> {
    let mut chains: BTreeMap<String, Vec<String>> = BTreeMap::new();
    let mut current = None;
    for line in text.lines().map(str::trim) {
        if let Some(name) = line.strip_prefix("chain ").and_then(|rest| rest.strip_suffix(" {")) {
            current = Some(name.to_owned());
            chains.entry(name.to_owned()).or_default();
        } else if line == "}" {
            current = None;
        } else if let Some(name) = &current {
            let rule = line.split(" comment \"").next().unwrap_or_default();
            chains.entry(name.clone()).or_default().push(rule.to_owned());
        }
    }
    chains
}
