//! The Container Network Interface: what a runtime asks of the plugin by environment and standard input, and what it reads.
//!
//! ```text
//!  CNI_COMMAND, CNI_CONTAINERID, … ─┐
//!                                   ├─► Request::parse ─► Request ─► the agent (elsewhere) ─► AddResult ─► JSON of its version
//!  network configuration (stdin) ───┘        │
//!                                            └─► Refusal { code, msg, details } ─► JSON, exit 1
//! ```
//!
//! Versions 0.3.1, 0.4.0, 1.0.0 and 1.1.0. They differ in what may be asked (CHECK since 0.4.0, STATUS and GC since 1.1.0) and
//! in the result's shape; inside there is one shape. Must never know sockets, files or the process's own environment.
//! Spec: CNI SPEC.md 0.3.1 to 1.1.0; CONVENTIONS.md for `runtimeConfig`, `args` and `CNI_ARGS`.

mod args;
mod conf;
mod env;
mod refusal;
mod result;
mod runtime;
mod version;

pub use args::Args;
pub use conf::{NetConf, ValidAttachment};
pub use env::{Command, Environment, VARIABLES};
pub use refusal::{Code, Refusal};
pub use result::{AddResult, Interface, IpConfig, Route};
pub use runtime::{Bandwidth, PortMapping, Rate, RuntimeConfig};
pub use version::Version;

use args::parse_args;

/// A pod's sandbox, as the runtime names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sandbox {
    /// `CNI_CONTAINERID`.
    pub container_id: String,
    /// `CNI_NETNS`; `None` only where DEL comes after the namespace went.
    pub netns: Option<String>,
    /// `CNI_IFNAME`: the name of the link inside.
    pub ifname: String,
    /// `CNI_ARGS`.
    pub args: Args,
}

/// What a runtime asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Request {
    /// Connect a sandbox.
    Add(Box<NetConf>, Sandbox),
    /// Disconnect it; fine if there is nothing.
    Del(Box<NetConf>, Sandbox),
    /// Is it as ADD left it?
    Check(Box<NetConf>, Sandbox),
    /// Could an ADD work?
    Status(Box<NetConf>),
    /// Free all but the attachments that the configuration lists.
    Gc(Box<NetConf>),
    /// Which versions are spoken: the answer needs nobody.
    Version(Version),
}

impl Request {
    /// What environment and standard input ask, as one.
    ///
    /// # Errors
    /// What the specification wants refused, with its code. [`Refusal::version`] is the version in which to say so.
    pub fn parse(environment: &Environment, stdin: &[u8]) -> Result<Self, Refusal> {
        let command = environment.command()?;
        environment.require(command)?;
        if command == Command::Version {
            return Ok(Self::Version(conf::asked_version(stdin)));
        }
        let conf = NetConf::parse(stdin, command)?;
        let version = conf.version;
        let spoken = |refusal: Refusal| refusal.spoken_in(version);
        let sandbox = match command {
            Command::Gc | Command::Status | Command::Version => None,
            Command::Add | Command::Del | Command::Check => Some(sandbox(environment, command).map_err(spoken)?),
        };
        version.allows(command).map_err(spoken)?;
        let conf = Box::new(conf);
        Ok(match (command, sandbox) {
            (Command::Add, Some(sandbox)) => Self::Add(conf, sandbox),
            (Command::Del, Some(sandbox)) => Self::Del(conf, sandbox),
            (Command::Check, Some(sandbox)) => match conf.prev_result {
                Some(_) => Self::Check(conf, sandbox),
                None => return Err(spoken(Refusal::config("prevResult is missing; CHECK needs the result of ADD"))),
            },
            (Command::Gc, _) => Self::Gc(conf),
            (_, _) => Self::Status(conf),
        })
    }
}

fn sandbox(environment: &Environment, command: Command) -> Result<Sandbox, Refusal> {
    let args = match parse_args(environment.get("CNI_ARGS").unwrap_or_default()) {
        // What was attached is known by its container.
        Err(_) if command == Command::Del => Args::default(),
        args => args?,
    };
    Ok(Sandbox {
        container_id: environment.container_id()?,
        netns: environment.get("CNI_NETNS").map(str::to_owned),
        ifname: environment.ifname()?,
        args,
    })
}

#[cfg(test)]
mod tests;
