//! What can go wrong with a lab, in words that say how to mend it.

use std::io;
use std::path::PathBuf;

use portolan_apiserver::pki::PkiError;
use portolan_kernel::NetlinkError;
use portolan_kernel::bridge::BridgeError;
use portolan_kernel::netns::NetnsError;
use portolan_kernel::sysctl::SysctlError;

#[derive(Debug, thiserror::Error)]
pub enum LabError {
    #[error("{name:?} is no name for a lab: use up to 32 lower-case letters, digits and dashes, a letter first")]
    BadName { name: String },
    #[error("a lab of {nodes} nodes is not possible: choose 1 to {most}")]
    BadNodes { nodes: usize, most: usize },
    #[error("--lb-pool {pool}: {why}; choose another range, such as 172.18.100.0/28")]
    BadPool { pool: ipnet::IpNet, why: String },
    #[error("a lab named {name:?} is up already; `portolan down --name {name}` ends it, or choose another --name")]
    NameInUse { name: String },
    #[error("no lab named {name:?} is up; `portolan up --name {name}` starts it")]
    NotUp { name: String },
    #[error("no lab is up; `portolan up` starts one")]
    NoneUp,
    #[error("more than one lab is up ({names}); say which with --name")]
    Ambiguous { names: String },
    #[error("{feature} is missing ({detail}); {remedy}")]
    Missing { feature: &'static str, detail: String, remedy: &'static str },
    #[error("--rootless is for ordinary users; root's labs need no user namespace")]
    RootlessAsRoot,
    #[error("--rootless subuid: {why}")]
    NoSubordinateIds { why: String },
    #[error("an ordinary user cannot have a lab here ({detail}): {cause}")]
    NoUserNamespace { detail: String, cause: String },
    /// What a check in namespaces of its own found missing, as it said it.
    #[error("{0}")]
    Lacks(String),
    #[error("{} is not this user's alone ({found}), so no lab is kept or looked for there; remove it, or set XDG_RUNTIME_DIR", path.display())]
    NotOwn { path: PathBuf, found: String },
    #[error("there is no {place} in this lab; {hint}")]
    NoSuchPlace { place: String, hint: String },
    #[error("{what} {}: {source}", path.display())]
    File { what: &'static str, path: PathBuf, source: io::Error },
    #[error("{what}: {source}")]
    System { what: String, source: io::Error },
    #[error("the lab did not come up: {reason}")]
    NotStarted { reason: String },
    #[error("{name} twice: a cut is between two hosts")]
    OneEnd { name: String },
    #[error("{0}")]
    Refused(String),
    #[error(transparent)]
    Network(#[from] NetlinkError),
    #[error(transparent)]
    Bridge(#[from] BridgeError),
    #[error(transparent)]
    Namespace(#[from] NetnsError),
    #[error(transparent)]
    Sysctl(#[from] SysctlError),
    #[error(transparent)]
    Pki(#[from] PkiError),
    #[error("asking the lab's API server: {0}")]
    Api(String),
}

/// Wraps an I/O error with what was tried on which file.
pub(crate) fn file(what: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> LabError {
    let path = path.into();
    move |source| LabError::File { what, path, source }
}

/// Wraps an I/O error with what was tried.
pub(crate) fn system<E: Into<io::Error>>(what: impl Into<String>) -> impl FnOnce(E) -> LabError {
    let what = what.into();
    move |source| LabError::System { what, source: source.into() }
}
