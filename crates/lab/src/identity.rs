//! As whom a lab runs: root, a user with a range of subordinate ids, or a user with one id only.
//!
//! ```text
//!  wish (--rootless) ┐
//!  uid, name, files, ├─► candidates ─► [as ranges say, else one id] ─► the first that the kernel takes
//!  newuidmap         ┘
//! ```
//!
//! Decides over what was read and reads nothing itself. Spec: user_namespaces(7), subuid(5), newuidmap(1).

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::error::LabError;

/// How a lab of an ordinary user gets its uids and gids.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Rootless {
    /// By subordinate ids if they can be had, else by one id.
    #[default]
    Auto,
    /// By `newuidmap` and the ranges of /etc/subuid and /etc/subgid.
    Subuid,
    /// By the user's own id alone, which is uid 0 inside.
    OneUid,
}

/// Whose ids a lab has.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Identity {
    /// The machine's own, without a user namespace.
    #[default]
    Root,
    /// The user's own id as 0, and from 1 on those of a range.
    Ranges { own: OwnIds, uids: IdRange, gids: IdRange, newuidmap: PathBuf, newgidmap: PathBuf },
    /// The user's own id as 0 and no other.
    OneId { own: OwnIds },
}

/// A user's ids on the machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct OwnIds {
    pub uid: u32,
    pub gid: u32,
}

/// `count` ids of the machine from `first` on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct IdRange {
    pub first: u32,
    pub count: u32,
}

impl Identity {
    /// Whether the lab has a user namespace of its own.
    pub fn is_rootless(&self) -> bool {
        *self != Identity::Root
    }
}

impl std::fmt::Display for Identity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Identity::Root => f.write_str("as root"),
            Identity::Ranges { uids, .. } => {
                let last = u64::from(uids.first) + u64::from(uids.count) - 1;
                write!(f, "as an ordinary user with uids {}-{last} of /etc/subuid", uids.first)
            }
            Identity::OneId { .. } => f.write_str(
                "as an ordinary user with one uid: every process of a pod has uid 0, and chown does nothing",
            ),
        }
    }
}

/// What there is on the machine to choose by.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Facts {
    pub uid: u32,
    pub gid: u32,
    /// By /etc/passwd; `None` for a uid that has no name.
    pub name: Option<String>,
    /// Text of /etc/subuid and /etc/subgid; empty if they are not there.
    pub subuid: String,
    pub subgid: String,
    pub newuidmap: Option<PathBuf>,
    pub newgidmap: Option<PathBuf>,
}

/// One way to run the lab, and why not a better one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Candidate {
    pub identity: Identity,
    pub instead_because: Option<String>,
}

/// The ways that may be tried, the best first.
pub(crate) fn candidates(wish: Rootless, facts: &Facts) -> Result<Vec<Candidate>, LabError> {
    if facts.uid == 0 {
        return if wish == Rootless::Auto { Ok(vec![plain(Identity::Root)]) } else { Err(LabError::RootlessAsRoot) };
    }
    let own = OwnIds { uid: facts.uid, gid: facts.gid };
    let one = Identity::OneId { own };
    match (wish, ranges(own, facts)) {
        (Rootless::OneUid, _) => Ok(vec![plain(one)]),
        (Rootless::Subuid, Ok(ranges)) => Ok(vec![plain(ranges)]),
        (Rootless::Subuid, Err(why)) => Err(LabError::NoSubordinateIds { why }),
        (Rootless::Auto, Ok(ranges)) => Ok(vec![plain(ranges), plain(one)]),
        (Rootless::Auto, Err(why)) => Ok(vec![Candidate { identity: one, instead_because: Some(why) }]),
    }
}

fn plain(identity: Identity) -> Candidate {
    Candidate { identity, instead_because: None }
}

/// What distributions give a user, and what images count on.
const USUAL_COUNT: u32 = 65_536;
/// Where distributions begin to give.
const USUAL_FIRST: u32 = 100_000;

fn ranges(own: OwnIds, facts: &Facts) -> Result<Identity, String> {
    let program = |found: &Option<PathBuf>, name: &str| {
        found
            .clone()
            .ok_or_else(|| format!("{name} is not on PATH; install the package `uidmap` (elsewhere `shadow-utils`)"))
    };
    let newuidmap = program(&facts.newuidmap, "newuidmap")?;
    let newgidmap = program(&facts.newgidmap, "newgidmap")?;
    let uids = range_of(facts, "/etc/subuid", &facts.subuid)?;
    let gids = range_of(facts, "/etc/subgid", &facts.subgid)?;
    Ok(Identity::Ranges { own, uids, gids, newuidmap, newgidmap })
}

fn range_of(facts: &Facts, file: &str, text: &str) -> Result<IdRange, String> {
    let number = facts.uid.to_string();
    let user = facts.name.as_deref().unwrap_or(&number);
    let own = rows(text).filter(|(owner, _)| *owner == user || *owner == number);
    let best = own.map(|(_, range)| range).max_by_key(|range| range.count);
    let first = first_free(facts);
    let last = u64::from(first) + u64::from(USUAL_COUNT) - 1;
    let remedy = format!("sudo usermod --add-subuids {first}-{last} --add-subgids {first}-{last} {user}");
    match best {
        None => Err(format!("{file} has no line for {user}; `{remedy}` adds one")),
        Some(range) if range.count < USUAL_COUNT => Err(format!(
            "{file} gives {user} {} ids and images count on {USUAL_COUNT}; `{remedy}` adds a line",
            range.count
        )),
        Some(range) => Ok(range),
    }
}

/// `OWNER:FIRST:COUNT` lines; others are not ours to judge.
fn rows(text: &str) -> impl Iterator<Item = (&str, IdRange)> {
    text.lines().filter_map(|line| {
        let [owner, first, count] = <[&str; 3]>::try_from(line.trim().split(':').collect::<Vec<_>>()).ok()?;
        let range = IdRange { first: first.parse().ok()?, count: count.parse().ok().filter(|count| *count > 0)? };
        range.first.checked_add(range.count - 1)?;
        Some((owner, range))
    })
}

/// A start from which nobody has ids in either file.
fn first_free(facts: &Facts) -> u32 {
    let all = rows(&facts.subuid).chain(rows(&facts.subgid));
    let end = all.filter_map(|(_, range)| range.first.checked_add(range.count)).max().unwrap_or(0);
    end.max(USUAL_FIRST)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn user(subuid: &str, subgid: &str) -> Facts {
        Facts {
            uid: 1000,
            gid: 1001,
            name: Some("ada".into()),
            subuid: subuid.into(),
            subgid: subgid.into(),
            newuidmap: Some("/usr/bin/newuidmap".into()),
            newgidmap: Some("/usr/bin/newgidmap".into()),
        }
    }

    /// `ranges FIRST/FIRST`, `one`, `root`, with the reason behind; or the refusal.
    fn chosen(wish: Rootless, facts: &Facts) -> String {
        let name = |c: &Candidate| {
            let way = match &c.identity {
                Identity::Root => "root".to_owned(),
                Identity::OneId { .. } => "one".to_owned(),
                Identity::Ranges { uids, gids, .. } => format!("ranges {}/{}", uids.first, gids.first),
            };
            c.instead_because.as_ref().map_or(way.clone(), |why| format!("{way}, for {why}"))
        };
        match candidates(wish, facts) {
            Ok(all) => all.iter().map(name).collect::<Vec<_>>().join(" | "),
            Err(error) => format!("refused: {error}"),
        }
    }

    #[test]
    fn the_way_is_chosen_by_what_is_there() {
        let line = "ada:100000:65536\n";
        let (auto, subuid, one) = (Rootless::Auto, Rootless::Subuid, Rootless::OneUid);
        let mut no_program = user(line, line);
        no_program.newgidmap = None;
        let rows: &[(Rootless, Facts, &str)] = &[
            (auto, Facts::default(), "root"),
            (subuid, Facts::default(), "refused: --rootless is for ordinary users; root's labs need no user namespace"),
            (auto, user(line, line), "ranges 100000/100000 | one"),
            (subuid, user(line, line), "ranges 100000/100000"),
            (one, user(line, line), "one"),
            (subuid, user("1000:200000:65536\n", "ada:5:70000"), "ranges 200000/5"),
            (auto, user("ada:1:10\nada:300000:65536\nbob:1:99999999\n", line), "ranges 300000/100000 | one"),
            (
                auto,
                no_program,
                "one, for newgidmap is not on PATH; install the package `uidmap` (elsewhere `shadow-utils`)",
            ),
        ];
        for (wish, facts, expected) in rows {
            assert_eq!(chosen(*wish, facts), *expected, "{wish:?} {facts:?}");
        }
    }

    #[test]
    fn a_missing_or_short_line_is_named_with_a_command_that_mends_it() {
        let adds = "sudo usermod --add-subuids";
        let rows = [
            (
                "",
                "",
                format!("/etc/subuid has no line for ada; `{adds} 100000-165535 --add-subgids 100000-165535 ada`"),
            ),
            (
                "ada:100000:65536",
                "bob:165536:65536\n#ada\nada:x:y\n",
                format!("/etc/subgid has no line for ada; `{adds} 231072-296607 --add-subgids 231072-296607 ada`"),
            ),
            ("ada:100000:1000", "", "/etc/subuid gives ada 1000 ids and images count on 65536; `sudo".to_owned()),
            ("ada:4294967295:65536", "", "/etc/subuid has no line for ada".to_owned()),
        ];
        for (subuid, subgid, expected) in rows {
            let said = chosen(Rootless::Subuid, &user(subuid, subgid));
            assert!(said.contains(&expected), "{said}\n  does not say\n{expected}");
            let instead = chosen(Rootless::Auto, &user(subuid, subgid));
            assert!(instead.starts_with("one, for ") && instead.contains(&expected), "{instead}");
        }
        let nameless = Facts { name: None, ..user("", "") };
        assert!(chosen(Rootless::Subuid, &nameless).contains("no line for 1000;"));
    }
}
