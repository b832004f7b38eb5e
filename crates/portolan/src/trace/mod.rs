//! `portolan trace`: one real packet, followed on every node, told hop by hop.
//!
//! ```text
//!  API ──lists──► Gathered ──► where exactly ─┐
//!                                             ├─► every node listens ─► one sends ─► every node tells ─► story::tell
//!  agents ──settings, BGP──► how nodes plan ──┘   (watch)               (send)       (watch)
//! ```
//!
//! With `--live` nobody sends: the next connection of others is followed. What rules do is for nodes to say, and how it
//! is told for `story`; this room asks, and puts the answers together.

mod live;
mod mark;
mod print;
mod question;
mod reach;
mod send;
mod session;
mod watch;

#[cfg(test)]
mod tests;

pub(crate) use print::style;
pub(crate) use reach::Reach;

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use portolan_model::{Family, Proto};

use crate::failure::Failure;
use crate::lab::LabName;
use crate::settings::OutputFormat;

/// Command line of `trace`.
#[derive(Args, Clone, Debug)]
pub struct TraceArgs {
    /// Who sends: pod/NAME, pod/NAMESPACE/NAME, node/NAME or outside; with --live also any
    pub from: String,
    /// Where to: svc/NAME[:PORT], pod/NAME[:PORT], node/NAME:PORT, ADDRESS:PORT, outside:PORT, or a DNS name[:PORT]
    pub to: String,
    /// Transport
    #[arg(long, value_enum, default_value_t = ProtoArg::Tcp)]
    pub proto: ProtoArg,
    /// Namespace of what names none
    #[arg(short = 'n', long, default_value = "default")]
    pub namespace: String,
    /// Send nothing: follow the next connection of others
    #[arg(long, conflicts_with = "source_port")]
    pub live: bool,
    /// How many packets, one after the other; with --live, how many connections
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub count: u32,
    /// How long an answer is waited for, by default 3; with --live a connection, by default 60
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..=600))]
    pub timeout: Option<u64>,
    /// The port to send from; unset, the kernel chooses
    #[arg(long, value_name = "PORT", value_parser = clap::value_parser!(u16).range(1..))]
    pub source_port: Option<u16>,
    /// Take addresses of this family only
    #[arg(long, value_enum)]
    pub family: Option<FamilyArg>,
    /// Every rule, time and conntrack entry
    #[arg(short = 'v', long)]
    pub verbose: bool,
    /// How to print it; with --count, JSON has one story a line
    #[arg(long, value_enum, default_value_t = OutputFormat::Text)]
    pub output: OutputFormat,
    #[command(flatten)]
    pub lab: LabName,
    /// The cluster; unset takes $KUBECONFIG, else the lab that is up
    #[arg(long, value_name = "FILE", conflicts_with = "name")]
    pub kubeconfig: Option<PathBuf>,
}

/// A transport that can be traced.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ProtoArg {
    /// A connection, closed at once
    Tcp,
    /// One datagram: a DNS query to port 53, else 8 bytes
    Udp,
}

impl From<ProtoArg> for Proto {
    fn from(arg: ProtoArg) -> Self {
        match arg {
            ProtoArg::Tcp => Self::Tcp,
            ProtoArg::Udp => Self::Udp,
        }
    }
}

/// An address family.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum FamilyArg {
    /// IPv4
    Ipv4,
    /// IPv6
    Ipv6,
}

impl From<FamilyArg> for Family {
    fn from(arg: FamilyArg) -> Self {
        match arg {
            FamilyArg::Ipv4 => Self::V4,
            FamilyArg::Ipv6 => Self::V6,
        }
    }
}

/// Follows packets and tells of them; the answer is "no" unless each was delivered, and the oracle agrees.
///
/// # Errors
/// Exit code 1 without a further message: what became of a packet has been printed. Or why it could not be followed.
pub async fn run(args: TraceArgs) -> Result<(), Failure> {
    let written = question::Written::read(&args)?;
    let reach = reach::Reach::open(&args.lab, args.kubeconfig.clone()).await?;
    let session = session::Session::begin(&args, &written, &reach).await?;
    let mut printer = print::Printer::new(&args);
    if args.live {
        for story in session.follow(args.count).await? {
            printer.tell(&story)?;
        }
    } else {
        for _ in 0..args.count {
            printer.tell(&session.send(rand::random()).await?)?;
        }
    }
    printer.end()
}
