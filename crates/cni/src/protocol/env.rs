//! What the environment says: the command and the sandbox.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use super::Refusal;

/// The variables that a runtime sets, and nothing else of the environment is looked at.
pub const VARIABLES: [&str; 6] = ["CNI_COMMAND", "CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME", "CNI_ARGS", "CNI_PATH"];

/// Longest name of a network interface (IFNAMSIZ less its zero).
const LONGEST_IFNAME: usize = 15;

/// What is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs)]
pub enum Command {
    Add,
    Del,
    Check,
    Status,
    Gc,
    Version,
}

impl Command {
    /// All of them.
    pub const ALL: [Self; 6] = [Self::Add, Self::Del, Self::Check, Self::Status, Self::Gc, Self::Version];

    /// As `CNI_COMMAND` has it.
    pub fn text(self) -> &'static str {
        match self {
            Self::Add => "ADD",
            Self::Del => "DEL",
            Self::Check => "CHECK",
            Self::Status => "STATUS",
            Self::Gc => "GC",
            Self::Version => "VERSION",
        }
    }

    /// Variables that it cannot do without. `CNI_PATH` is for plugins that call others; ours calls none.
    fn needs(self) -> &'static [&'static str] {
        match self {
            Self::Add | Self::Check => &["CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME", "CNI_PATH"],
            Self::Del => &["CNI_CONTAINERID", "CNI_IFNAME", "CNI_PATH"],
            Self::Gc | Self::Status => &["CNI_PATH"],
            Self::Version => &[],
        }
    }
}

impl fmt::Display for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.text())
    }
}

/// The variables of [`VARIABLES`] that are set.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Environment(pub BTreeMap<String, String>);

impl Environment {
    /// Those of [`VARIABLES`] that `look` knows.
    pub fn read(look: impl Fn(&str) -> Option<String>) -> Self {
        Self(VARIABLES.iter().filter_map(|name| Some(((*name).to_owned(), look(name)?))).collect())
    }

    /// A variable's value; one that is set to nothing counts as missing.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str).filter(|value| !value.is_empty())
    }

    pub(super) fn command(&self) -> Result<Command, Refusal> {
        let missing = || Refusal::environment("required env variables [CNI_COMMAND] missing");
        let asked = self.get("CNI_COMMAND").ok_or_else(missing)?;
        let found = Command::ALL.into_iter().find(|command| command.text() == asked);
        found.ok_or_else(|| Refusal::environment(format!("unknown CNI_COMMAND: {asked}")))
    }

    pub(super) fn require(&self, command: Command) -> Result<(), Refusal> {
        let missing: Vec<&str> = command.needs().iter().filter(|name| self.get(name).is_none()).copied().collect();
        match missing.is_empty() {
            true => Ok(()),
            false => Err(Refusal::environment(format!("required env variables [{}] missing", missing.join(",")))),
        }
    }

    /// It becomes a file's name and a ledger's key.
    pub(super) fn container_id(&self) -> Result<String, Refusal> {
        let id = self.get("CNI_CONTAINERID").unwrap_or_default();
        match is_identifier(id) {
            true => Ok(id.to_owned()),
            false => Err(Refusal::environment(format!(
                "CNI_CONTAINERID {id:?} is not a container id: it has letters, digits, _ . - and begins with a letter or digit"
            ))),
        }
    }

    pub(super) fn ifname(&self) -> Result<String, Refusal> {
        let name = self.get("CNI_IFNAME").unwrap_or_default();
        match is_ifname(name) {
            true => Ok(name.to_owned()),
            false => Err(Refusal::environment(format!(
                "CNI_IFNAME {name:?} is not a link's name: up to {LONGEST_IFNAME} bytes without / : and blanks, and not . or .."
            ))),
        }
    }
}

/// `[A-Za-z0-9][A-Za-z0-9_.-]*`: container ids and names of networks.
pub(super) fn is_identifier(text: &str) -> bool {
    let is_inner = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-');
    text.starts_with(|c: char| c.is_ascii_alphanumeric()) && text.chars().all(is_inner)
}

/// As the kernel's `dev_valid_name`.
pub(super) fn is_ifname(text: &str) -> bool {
    let is_bad = |c: char| c == '/' || c == ':' || c == '\0' || c.is_whitespace();
    !text.is_empty() && text.len() <= LONGEST_IFNAME && text != "." && text != ".." && !text.contains(is_bad)
}
