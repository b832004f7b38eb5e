//! `portolan explain`: a packet's story by what nodes plan, without sending one; and what a change would change.
//!
//! ```text
//!  API or -f ──► objects ──────────────► World ──► foresee ──► story::tell, once a way
//!                   └─ --with, --without ─► World' ─► the same; or every flow class that differs
//! ```
//!
//! The same planners as the agents', the same telling as `trace`. What only kernels know (foreign rules, old conntrack
//! entries, who listens) is not in it: `trace` asks those.

mod change;
mod cluster;
mod names;
mod print;
mod question;
mod slices;

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use portolan_model::Proto;

use crate::failure::Failure;
use crate::lab::LabName;
use crate::settings::{ClusterArgs, OutputFormat};
use crate::trace::FamilyArg;

use change::Change;
use cluster::Base;

/// Command line of `explain`.
#[derive(Args, Clone, Debug)]
pub struct ExplainArgs {
    /// Who would send: pod/NAME, pod/NAMESPACE/NAME, node/NAME or outside
    #[arg(requires = "to")]
    from: Option<String>,
    /// Where to: svc/NAME[:PORT], pod/NAME[:PORT], node/NAME:PORT, ADDRESS:PORT, outside:PORT, or a DNS name[:PORT]
    to: Option<String>,
    /// The cluster from files instead: Kubernetes objects in a file, a folder, or -; repeats
    #[arg(short = 'f', long = "filename", value_name = "FILE")]
    files: Vec<PathBuf>,
    /// Objects to be applied: what would change; alone, for every flow. A file, a folder, or -; repeats
    #[arg(long, value_name = "FILE")]
    with: Vec<PathBuf>,
    /// An object to be deleted, such as svc/web or pod/NAMESPACE/NAME; repeats
    #[arg(long, value_name = "OBJECT")]
    without: Vec<String>,
    /// Transport
    #[arg(long, value_enum, default_value_t = ProtoArg::Tcp)]
    proto: ProtoArg,
    /// Namespace of what names none
    #[arg(short = 'n', long, default_value = "default")]
    namespace: String,
    /// Take addresses of this family only
    #[arg(long, value_enum)]
    family: Option<FamilyArg>,
    /// How nodes write the rules of Services; unset, as the cluster's nodes do, and iptables for files
    #[arg(long, value_enum)]
    proxy_mode: Option<PlanMode>,
    /// With -f: a node by which the host outside reaches all addresses but the nodes'
    #[arg(long, value_name = "NODE", requires = "files")]
    via: Option<String>,
    /// With -f: an address of the host outside; repeats
    #[arg(long, value_name = "IP", requires = "files", value_delimiter = ',', default_value = "172.18.0.1")]
    outside: Vec<std::net::IpAddr>,
    /// Every rule, and every way that chance may take
    #[arg(short = 'v', long)]
    verbose: bool,
    /// How to print it
    #[arg(long, value_enum, default_value_t = OutputFormat::Text)]
    output: OutputFormat,
    #[command(flatten)]
    ranges: ClusterArgs,
    #[command(flatten)]
    lab: LabName,
    /// The cluster; unset takes $KUBECONFIG, else the lab that is up
    #[arg(long, value_name = "FILE", conflicts_with_all = ["name", "files"])]
    kubeconfig: Option<PathBuf>,
}

/// A transport.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum ProtoArg {
    Tcp,
    Udp,
    Sctp,
}

impl From<ProtoArg> for Proto {
    fn from(arg: ProtoArg) -> Self {
        match arg {
            ProtoArg::Tcp => Self::Tcp,
            ProtoArg::Udp => Self::Udp,
            ProtoArg::Sctp => Self::Sctp,
        }
    }
}

/// How rules are planned.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum PlanMode {
    /// kube-proxy's chains
    Iptables,
    /// Our own tables
    Nftables,
}

/// Tells what would become of a packet, or of all flows that a change touches.
///
/// # Errors
/// Exit code 1 without a further message: it would not be delivered, as has been told. Or why it cannot be known.
pub async fn run(args: ExplainArgs) -> Result<(), Failure> {
    let has_change = !args.with.is_empty() || !args.without.is_empty();
    let asked = match (&args.from, &args.to) {
        (Some(from), Some(to)) => Some(question::Written::read(from, to, &args)?),
        _ if has_change => None,
        _ => return Err(Failure::input("say FROM and TO, or --with FILE for every flow that a change would change")),
    };
    // Read before the cluster is asked: a slip in them is told of at once.
    let change = Change::read(&args.with, &args.without, &args.namespace)?;
    let base = Base::open(&args).await?;
    let before = base.cluster(base.objects.clone(), Vec::new())?;
    if !has_change {
        let asked = asked.expect("without a change FROM and TO are there");
        let answer = asked.answer(&before)?;
        return print::answer(&answer, &args);
    }
    let (objects, notes) = change.made(&base.objects, &base.ranges())?;
    let after = base.cluster(objects, notes)?;
    match asked {
        Some(asked) => print::both(&asked.answer(&before), &asked.answer(&after), &after.notes, &args),
        None => print::differences(&before, &after, &args),
    }
}
