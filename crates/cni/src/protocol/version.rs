//! Versions of the specification.

use std::fmt;

use serde_json::{Value, json};

use super::{Command, Refusal};

/// A version of the specification that the plugin speaks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[allow(missing_docs)]
pub enum Version {
    V0_3_1,
    V0_4_0,
    V1_0_0,
    #[default]
    V1_1_0,
}

impl Version {
    /// All that are spoken, oldest first.
    pub const ALL: [Self; 4] = [Self::V0_3_1, Self::V0_4_0, Self::V1_0_0, Self::V1_1_0];

    /// As it is written.
    pub fn text(self) -> &'static str {
        match self {
            Self::V0_3_1 => "0.3.1",
            Self::V0_4_0 => "0.4.0",
            Self::V1_0_0 => "1.0.0",
            Self::V1_1_0 => "1.1.0",
        }
    }

    /// The version of that name.
    ///
    /// # Errors
    /// It is not spoken (code 1).
    pub fn parse(text: &str) -> Result<Self, Refusal> {
        let found = Self::ALL.into_iter().find(|version| version.text() == text);
        found.ok_or_else(|| Refusal::version_unknown(text))
    }

    /// The answer to VERSION.
    pub fn supported(self) -> Value {
        let all: Vec<&str> = Self::ALL.iter().map(|version| version.text()).collect();
        json!({ "cniVersion": self.text(), "supportedVersions": all })
    }

    /// May that be asked in this version?
    pub(super) fn allows(self, command: Command) -> Result<(), Refusal> {
        let since = match command {
            Command::Add | Command::Del | Command::Version => Self::V0_3_1,
            Command::Check => Self::V0_4_0,
            Command::Gc | Command::Status => Self::V1_1_0,
        };
        match self >= since {
            true => Ok(()),
            false => Err(Refusal::version_lacks(self, command, since)),
        }
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.text())
    }
}
