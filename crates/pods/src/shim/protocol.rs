//! What agent and shim say to each other. One request, one reply; `Watch` and `Exec` are followed by more.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::state::PodState;
use crate::limits::Limits;

/// Raised when an older peer could not understand; both sides refuse another's version.
pub const PROTOCOL_VERSION: u32 = 2;

/// Asked by the agent.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "snake_case")]
pub enum Request {
    /// First on every connection; answered by `State`.
    Hello { version: u32 },
    /// Make the sandbox, once. `hostname` `None`: keep the node's UTS and network namespace.
    Sandbox { hostname: Option<String> },
    /// Remember something for a later agent.
    Note { key: String, value: String },
    /// Create and start a container. A failure to start is recorded as a run that ended.
    Start(Box<StartContainer>),
    /// Signal a container's init.
    Signal { name: String, signal: i32 },
    /// Run another process in a container; three fds (stdin, stdout, stderr) come with it.
    Exec {
        name: String,
        /// `process` of the OCI runtime spec.
        process: serde_json::Value,
        tty: bool,
    },
    /// Join a container's own standard files; three fds come with it: the user's input, and where both outputs go.
    /// Answered by `Began`, and by `Ended` (code 0) when nothing more comes. Closing the connection lets the user go.
    Attach {
        name: String,
        /// Take the first fd as input; otherwise it means nothing.
        stdin: bool,
    },
    /// Set the size of the terminal that this connection is attached to.
    Resize { columns: u16, rows: u16 },
    /// Send `State` now and after each change.
    Watch,
    /// Kill everything and end.
    Quit,
}

/// A container to run.
#[derive(Debug, Serialize, Deserialize)]
pub struct StartContainer {
    /// The container's name in the pod.
    pub name: String,
    /// How many runs came before.
    pub attempt: u32,
    /// Quick restarts in a row, kept for back-off.
    pub streak: u32,
    /// The OCI runtime spec, but for root and namespaces, which the shim fills in.
    pub spec: serde_json::Value,
    /// The image's flattened root, lower directory of the overlay.
    pub lower: PathBuf,
    /// Where output goes, in CRI's log format.
    pub log: PathBuf,
    /// Image name and id, for status.
    pub image: String,
    pub image_id: String,
    /// Signal that asks it to stop.
    pub stop_signal: i32,
    /// What it may use, where the node limits containers.
    #[serde(default)]
    pub limits: Limits,
    /// What its standard files are.
    pub stdio: StdioPlan,
}

/// A container's standard files, as the fields of a Kubernetes container have it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StdioPlan {
    /// Its input stays open for users; otherwise it is empty.
    pub stdin: bool,
    /// Its input ends with the first user's.
    pub stdin_once: bool,
    /// All three are one terminal.
    pub tty: bool,
}

/// Answered by the shim.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "is", rename_all = "snake_case")]
pub enum Reply {
    Done,
    Failed {
        message: String,
    },
    State {
        state: Box<PodState>,
    },
    /// An exec began, or a user is attached.
    Began,
    /// An exec ended; 128+n if killed by signal n.
    Ended {
        code: i32,
    },
}
