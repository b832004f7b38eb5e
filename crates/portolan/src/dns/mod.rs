//! `portolan dns`: cluster DNS by itself, from files or a live cluster, with CoreDNS's configuration; and what a lookup is
//! told by.
//!
//! ```text
//!  -f, --kubeconfig ──► feed ──► snapshots ──┐
//!                                            ├──► nameserver ──► :53, pages
//!  --corefile, --listen ──► configuration ───┘
//! ```

mod configuration;
mod explain;
mod feed;
mod glob;
mod listen;
mod objects;
mod pods;
mod serve;
pub mod zones;

use std::path::PathBuf;

use clap::{Args, Subcommand};

use crate::failure::Failure;
use crate::settings::ClusterArgs;

pub use listen::Listen;

/// Command line of `dns`.
#[derive(Args, Clone, Debug)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub struct DnsArgs {
    #[command(subcommand)]
    command: Option<DnsCommand>,
    #[command(flatten)]
    serve: ServeArgs,
}

/// What `dns` does beside serving.
#[derive(Subcommand, Clone, Debug)]
enum DnsCommand {
    /// Tell how a pod's lookup of a name goes: what its resolver asks, who answers and why, what would serve better
    Explain(Box<explain::ExplainArgs>),
}

/// Command line of `dns` as a server.
#[derive(Args, Clone, Debug)]
struct ServeArgs {
    /// Kubernetes objects: a file, a folder, or -; repeats, and is followed when it changes
    #[arg(short = 'f', long = "filename", value_name = "FILE")]
    files: Vec<PathBuf>,
    /// The cluster to follow, in place of files
    #[arg(long, value_name = "FILE", conflicts_with = "files")]
    kubeconfig: Option<PathBuf>,
    /// CoreDNS's configuration; without it, one for the cluster's domain and the servers of --resolv-conf
    #[arg(long, value_name = "FILE")]
    corefile: Option<PathBuf>,
    /// Address to answer at, in place of those that the Corefile binds; a port stands for 53. Repeats; without a Corefile
    /// 127.0.0.1:53
    #[arg(long, value_name = "ADDR:PORT")]
    listen: Vec<Listen>,
    /// Where upstream servers are read from; it is followed when it changes
    #[arg(long, value_name = "FILE", default_value = "/etc/resolv.conf", conflicts_with = "corefile")]
    resolv_conf: PathBuf,
    /// Threads that answer; 0 is one for each core
    #[arg(long, value_name = "N", default_value_t = 0, value_parser = threads)]
    threads: usize,
    /// Read everything, tell what is wrong, and end
    #[arg(long)]
    check: bool,
    #[command(flatten)]
    cluster: ClusterArgs,
}

/// More than any machine has cores.
const MOST_THREADS: usize = 1024;

fn threads(text: &str) -> Result<usize, String> {
    let number = text.parse().ok().filter(|number| *number <= MOST_THREADS);
    number.ok_or_else(|| format!("say a number up to {MOST_THREADS}; 0 is one for each core"))
}

impl DnsArgs {
    /// It is a server, which logs.
    pub fn serves(&self) -> bool {
        self.command.is_none()
    }
}

/// Serves, or does what the subcommand says.
///
/// # Errors
/// As the command says, with its exit code.
pub async fn run(args: DnsArgs) -> Result<(), Failure> {
    match args.command {
        Some(DnsCommand::Explain(args)) => explain::run(*args).await,
        None => serve::serve(&args.serve).await,
    }
}
