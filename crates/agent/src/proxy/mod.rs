//! The service proxy alone: what Services and EndpointSlices say becomes rules of this network namespace.
//!
//! ```text
//!  files or a live cluster ──► Input ──► Keeper: ingest ──► resolve ──► a Writer per family ──► kernel
//!  kernel: interface addresses ──┘         (one thread)
//! ```
//!
//! This is kube-proxy's job and nothing beside it: no routes, no DNS, no pods. The agent's core does the same as one of its
//! jobs and shares the writers. It must never know where objects come from.

mod interfaces;
mod keeper;
mod writer;

use std::sync::Arc;
use std::sync::mpsc::Sender;

use portolan_dataplane::iptables::Options;
use portolan_kernel::iptables::Tool;
use portolan_kernel::{Monitor, Netlink, NetlinkError};
use portolan_model::{Fact, Family, Settings};

use crate::rules::RuleWriter;
use crate::status::Progress;

use interfaces::Interfaces;
pub use keeper::{Input, Keeper};
pub(crate) use writer::Writer;

/// How rules are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// kube-proxy's chains, by the iptables programs.
    Iptables,
}

/// What the proxy is told at start; fixed while it runs.
#[derive(Clone, Debug)]
pub struct ProxyConfig {
    /// Ranges of the cluster, our node's name, and the settings that decide what becomes of a packet.
    pub settings: Settings,
    /// How rules are written.
    pub mode: Mode,
    /// Which families have rules.
    pub families: Vec<Family>,
    /// The mark that asks for masquerade: one bit.
    pub masquerade_mark: u32,
}

/// Why the proxy cannot run.
#[derive(Debug, thiserror::Error)]
pub enum ProxyError {
    /// The kernel refused something basic.
    #[error("the kernel: {0}")]
    Kernel(#[from] NetlinkError),
    /// No thread could be started.
    #[error("cannot start a thread: {0}")]
    Thread(std::io::Error),
}

impl Keeper {
    /// A keeper of the rules in the calling thread's network namespace. It has to run on a thread of that namespace.
    ///
    /// # Errors
    /// The kernel does not tell the addresses of its interfaces.
    pub fn open(config: &ProxyConfig) -> Result<Self, ProxyError> {
        prepare(config);
        let progress = Arc::new(Progress::default());
        let tool = Arc::new(Tool::from_environment());
        let options = Options { masquerade_mark: config.masquerade_mark, ..Options::default() };
        let writer = |family: &Family| -> Box<dyn Writer> {
            match config.mode {
                Mode::Iptables => Box::new(RuleWriter::new(*family, options.clone(), tool.clone(), progress.clone())),
            }
        };
        let writers = config.families.iter().map(writer).collect();
        let mut keeper = Self::new(config.settings.clone(), writers, progress);
        keeper.begin_with(Interfaces::default().look(&mut Netlink::open()?)?);
        Ok(keeper)
    }
}

/// Tells `inputs` which addresses come to interfaces of the calling thread's network namespace, and go, while it is
/// listened to; on a thread of its own.
///
/// # Errors
/// The kernel does not let us listen.
pub fn follow_interfaces(inputs: Sender<Input>) -> Result<(), ProxyError> {
    let mut monitor = Monitor::open()?;
    let mut network = Netlink::open()?;
    let tell = move |facts: Vec<Fact>| facts.into_iter().all(|fact| inputs.send(Input::Fact(fact)).is_ok());
    let work = move || {
        if let Err(error) = interfaces::follow(&mut monitor, &mut network, tell) {
            tracing::warn!(%error, "addresses that come to this node's interfaces are not noticed any more");
        }
    };
    std::thread::Builder::new().name("interfaces".to_owned()).spawn(work).map_err(ProxyError::Thread)?;
    Ok(())
}

/// Settings of this network namespace that the rules rely on.
fn prepare(config: &ProxyConfig) {
    use portolan_kernel::sysctl::{self, Key};
    let has_v4 = config.families.contains(&Family::V4);
    if has_v4 && config.mode == Mode::Iptables && config.settings.proxy.localhost_node_ports {
        if let Err(error) = sysctl::set(Key::RouteLocalnet("all"), 1) {
            tracing::warn!(%error, "node ports do not answer on 127.0.0.1");
        }
    }
}
