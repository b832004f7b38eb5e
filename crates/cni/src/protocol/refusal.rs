//! Errors as the specification shapes them.

use std::fmt;

use serde_json::{Value, json};

use super::{Command, Version};

/// What kind of error it is. Up to 99 the specification says what they mean, from 100 on we do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Code {
    /// The version of the configuration is not spoken, or lacks what is asked.
    IncompatibleVersion,
    /// A field of the configuration asks for what this network does not have.
    UnsupportedField,
    /// The runtime need not call DEL: the container is not known.
    UnknownContainer,
    /// A variable of the environment is missing or wrong.
    BadEnvironment,
    /// Reading or writing failed.
    Io,
    /// What should be JSON is not, or has another shape.
    Decode,
    /// The configuration is wrong.
    BadConfig,
    /// The same may well work later.
    TryAgain,
    /// STATUS: an ADD would fail.
    NotAvailable,
    /// STATUS: an ADD would fail, and what is attached may have no network.
    LimitedConnectivity,
    /// Ours: no address is left, or the one that was asked for cannot be had.
    NoAddress,
    /// Ours: the kernel refused.
    Kernel,
    /// Ours: CHECK found something missing or changed.
    Differs,
    /// Ours: a link of the name is in the sandbox already.
    LinkExists,
    /// Ours: GC could not free all that it wanted to.
    NotAllFreed,
}

impl Code {
    /// Its number.
    pub fn number(self) -> u32 {
        match self {
            Self::IncompatibleVersion => 1,
            Self::UnsupportedField => 2,
            Self::UnknownContainer => 3,
            Self::BadEnvironment => 4,
            Self::Io => 5,
            Self::Decode => 6,
            Self::BadConfig => 7,
            Self::TryAgain => 11,
            Self::NotAvailable => 50,
            Self::LimitedConnectivity => 51,
            Self::NoAddress => 101,
            Self::Kernel => 102,
            Self::Differs => 103,
            Self::LinkExists => 104,
            Self::NotAllFreed => 105,
        }
    }
}

/// Why the plugin does not do what it was asked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{msg}{}", Separated(details))]
pub struct Refusal {
    /// What kind.
    pub code: Code,
    /// What failed, on what.
    pub msg: String,
    /// Why, and what to do; may be empty.
    pub details: String,
    /// In which version it is told.
    pub version: Version,
}

struct Separated<'a>(&'a str);

impl fmt::Display for Separated<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() { Ok(()) } else { write!(f, "; {}", self.0) }
    }
}

impl Refusal {
    /// An error of the newest version.
    pub fn new(code: Code, msg: impl fmt::Display, details: impl fmt::Display) -> Self {
        Self { code, msg: msg.to_string(), details: details.to_string(), version: Version::default() }
    }

    /// The same, told in the version of the configuration.
    pub fn spoken_in(self, version: Version) -> Self {
        Self { version, ..self }
    }

    /// As the runtime reads it.
    pub fn to_json(&self) -> Value {
        let mut shown = json!({ "cniVersion": self.version.text(), "code": self.code.number(), "msg": self.msg });
        if !self.details.is_empty() {
            shown["details"] = self.details.as_str().into();
        }
        shown
    }

    /// The agent is not there or does not answer: later it may.
    pub fn try_again(msg: impl fmt::Display, details: impl fmt::Display) -> Self {
        Self::new(Code::TryAgain, msg, details)
    }

    pub(super) fn environment(msg: impl fmt::Display) -> Self {
        Self::new(Code::BadEnvironment, msg, "")
    }

    pub(super) fn config(msg: impl fmt::Display) -> Self {
        Self::new(Code::BadConfig, msg, "")
    }

    pub(super) fn decode(what: impl fmt::Display, why: impl fmt::Display) -> Self {
        Self::new(Code::Decode, format!("cannot read {what}"), why)
    }

    pub(super) fn unsupported(field: impl fmt::Display, way_out: impl fmt::Display) -> Self {
        Self::new(Code::UnsupportedField, format!("{field} is not supported"), way_out)
    }

    pub(super) fn version_unknown(asked: &str) -> Self {
        let known = Version::ALL.map(Version::text).join(", ");
        let asked = if asked.is_empty() { "none, which means 0.1.0".to_owned() } else { format!("{asked:?}") };
        let details = format!("the configuration's cniVersion is {asked}; write one of {known}");
        Self::new(Code::IncompatibleVersion, "incompatible CNI versions", details)
    }

    pub(super) fn version_lacks(version: Version, command: Command, since: Version) -> Self {
        let msg = format!("{command} is not in CNI {version}");
        let details = format!("it came with {since}; write that as cniVersion of the configuration");
        Self::new(Code::IncompatibleVersion, msg, details)
    }
}
