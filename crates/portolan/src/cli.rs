//! One grammar for all commands (`portolan --help`).

use std::path::PathBuf;

use clap::{Parser, Subcommand, ValueEnum};
use portolan_agent::proxy::Mode;
use portolan_model::Settings;

use crate::failure::Failure;
use crate::lab::{LabArgs, LabName};
use crate::process::block_on;
use crate::settings::{ClusterArgs, OutputFormat};

/// Kubernetes service networking in one binary: service proxy, cluster DNS, pod network, and a lab to see them in.
#[derive(Parser)]
#[command(name = "portolan", version, disable_help_subcommand = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Bring up a cluster of virtual nodes on this machine
    Up(UpArgs),
    /// Take the lab down; nothing of it remains
    Down(DownArgs),
    /// Show whether all is well in a lab: nodes, pods, Services, DNS, BGP, what it costs, the last change
    Status(StatusArgs),
    /// Run a command, or a shell, on a node, on the host outside, or in a pod's network
    Shell(ShellArgs),
    /// Walk through Kubernetes networking step by step, on a lab of its own
    Walk(crate::walk::Options),
    /// Send one real packet and show its way hop by hop, on every node, and why
    Trace(Box<crate::trace::TraceArgs>),
    /// Tell what would become of a packet without sending one, also after a change not yet made
    Explain(Box<crate::explain::ExplainArgs>),
    /// Create or change objects from files, as kubectl apply does
    Apply(ApplyArgs),
    /// Show what is in place for an object on each node, since when and why; or whose a rule, route or record is
    Why(crate::why::WhyArgs),
    /// Run a command in a container, as kubectl exec does
    Exec(crate::exec::ExecArgs),
    /// Print what would be put in place on a node, from files, without a cluster
    Render(RenderArgs),
    /// Program Services into this network namespace, in kube-proxy's place, from files
    Proxy(Box<crate::proxy::ProxyArgs>),
    /// Serve cluster DNS by itself, in CoreDNS's place; explain a pod's lookup
    Dns(Box<crate::dns::DnsArgs>),
    /// Run a node: service proxy, DNS, pod network, pods
    Agent(Box<crate::agent::AgentArgs>),
    /// Run the control plane
    Server(crate::server::ServerArgs),
    /// Ask a node's agent about itself; stop a lab's node, or start it again
    #[command(subcommand)]
    Node(NodeCommand),
    /// Show the live connections of all nodes, each once, with names
    Flows(crate::flows::FlowsArgs),
    /// Show what is busiest
    #[command(subcommand)]
    Top(crate::flows::TopCommand),
    /// Cut a lab's LAN between two hosts, or heal it
    #[command(subcommand)]
    Lan(crate::lan::LanCommand),
    /// Send one packet from here: a probe as JSON on standard input, what came of it as JSON on standard output
    #[command(hide = true)]
    Probe,
    /// The store of container images
    #[command(subcommand)]
    Image(crate::image::ImageCommand),
}

#[derive(clap::Args)]
struct DownArgs {
    #[command(flatten)]
    lab: LabName,
    /// All labs, and what crashed ones left
    #[arg(long, conflicts_with = "name")]
    all: bool,
}

#[derive(clap::Args)]
struct UpArgs {
    #[command(flatten)]
    lab: LabArgs,
    /// How nodes write the rules of Services
    #[arg(long, value_enum, default_value_t = crate::proxy::ModeArg::Auto)]
    proxy_mode: crate::proxy::ModeArg,
    /// Return when the nodes are Ready and leave the lab running
    #[arg(long)]
    detach: bool,
}

#[derive(clap::Args)]
struct StatusArgs {
    #[command(flatten)]
    lab: LabName,
    /// How to print it
    #[arg(long, value_enum, default_value_t = OutputFormat::Text)]
    output: OutputFormat,
}

#[derive(clap::Args)]
struct ShellArgs {
    #[command(flatten)]
    lab: LabName,
    /// node-1, outside, or pod/NAME (pod/NAMESPACE/NAME)
    place: String,
    /// The command; a shell if there is none
    #[arg(last = true)]
    command: Vec<String>,
}

#[derive(clap::Args)]
struct ApplyArgs {
    /// A file, a folder, or - for standard input; repeats
    #[arg(short = 'f', long = "filename", value_name = "FILE", required = true)]
    files: Vec<PathBuf>,
    /// Namespace of objects that name none
    #[arg(short = 'n', long, default_value = "default")]
    namespace: String,
    /// The cluster to write to
    #[arg(long, value_name = "FILE")]
    kubeconfig: Option<PathBuf>,
}

#[derive(clap::Args)]
struct RenderArgs {
    /// What to print
    #[arg(value_enum)]
    what: Rendered,
    /// The node it is for; `dns` needs none, records are the same on all
    #[arg(long)]
    node: Option<String>,
    /// Kubernetes objects: a file, a folder, or -; repeats
    #[arg(short = 'f', long = "filename", value_name = "FILE", required = true)]
    files: Vec<PathBuf>,
    /// A KubeProxyConfiguration (iptables and nftables only), in place of the ranges below
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// A Corefile (dns only): the zones of each of its kubernetes blocks
    #[arg(long, value_name = "FILE")]
    corefile: Option<PathBuf>,
    /// Output of iptables-save to compare with instead of printing (iptables only); 1 if they differ
    #[arg(long, value_name = "FILE")]
    compare: Option<PathBuf>,
    #[command(flatten)]
    cluster: ClusterArgs,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Rendered {
    /// Input of iptables-restore
    Iptables,
    /// Input of nft -f
    Nftables,
    /// A zone file
    Dns,
    /// Routes of the main table
    Routes,
}

#[derive(Subcommand)]
enum NodeCommand {
    /// BGP sessions, learned routes, and how far the node is programmed
    Status(crate::node::StatusArgs),
    /// Cut the power of a lab's node
    Stop(crate::node_power::PowerArgs),
    /// Start a node that was stopped
    Start(crate::node_power::PowerArgs),
}

/// Reads the command line and carries it out.
///
/// # Errors
/// What the command says, with its exit code.
pub fn run() -> Result<(), Failure> {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            let asked = !error.use_stderr();
            // Help that cannot be printed has nobody to read it.
            let _ = error.print();
            return if asked { Ok(()) } else { Err(Failure::silent(2)) };
        }
    };
    log(&cli.command);
    match cli.command {
        Command::Up(args) => crate::lab::up(&args.lab, args.proxy_mode, args.detach),
        Command::Down(args) if args.all => crate::lab::down_all(),
        Command::Down(args) => crate::lab::down(&args.lab),
        Command::Status(args) => crate::lab::status(&args.lab, args.output),
        Command::Shell(args) => crate::lab::shell(&args.lab, &args.place, &args.command),
        Command::Walk(options) => crate::walk::walk(&options),
        Command::Trace(args) => block_on(crate::trace::run(*args)),
        Command::Explain(args) => block_on(crate::explain::run(*args)),
        Command::Apply(args) => apply(&args),
        Command::Why(args) => block_on(crate::why::run(args)),
        Command::Exec(args) => block_on(crate::exec::run(args)),
        Command::Render(args) => render(&args),
        Command::Proxy(args) => crate::proxy::run(&args),
        Command::Dns(args) => block_on(crate::dns::run(*args)),
        Command::Agent(args) => block_on(crate::agent::run(*args)),
        Command::Server(args) => block_on(crate::server::run(args)),
        Command::Node(NodeCommand::Status(args)) => block_on(crate::node::status(args)),
        Command::Node(NodeCommand::Stop(args)) => crate::node_power::stop(&args),
        Command::Node(NodeCommand::Start(args)) => crate::node_power::start(&args),
        Command::Flows(args) => block_on(crate::flows::flows(args)),
        Command::Top(command) => block_on(crate::flows::top(command)),
        Command::Lan(command) => crate::lan::run(&command),
        Command::Probe => crate::probe::run(),
        Command::Image(command) => crate::image::run(command),
    }
}

/// Servers log state changes; other commands speak for themselves. `PORTOLAN_LOG` sets another filter.
fn log(command: &Command) {
    let serves = matches!(command, Command::Agent(_) | Command::Server(_) | Command::Proxy(_))
        || matches!(command, Command::Dns(args) if args.serves());
    let default = if serves { "info" } else { "off" };
    let filter = tracing_subscriber::EnvFilter::try_from_env("PORTOLAN_LOG")
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new(default));
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(false).init();
}

fn apply(args: &ApplyArgs) -> Result<(), Failure> {
    let objects = crate::apply::read(&args.files)?;
    block_on(async {
        let client = crate::client::connect(args.kubeconfig.clone()).await?;
        crate::apply::apply(client, objects, &args.namespace).await
    })
}

fn render(args: &RenderArgs) -> Result<(), Failure> {
    let (settings, mark) = render_settings(args)?;
    let snapshot = crate::render::snapshot(&args.files, settings)?;
    if let Some(corefile) = &args.corefile {
        print!("{}", crate::dns::zones::of_corefile(corefile, &snapshot)?);
        return Ok(());
    }
    if args.node.is_some() {
        crate::render::warn_of_unknown_node(&snapshot);
    }
    match (args.what, &args.compare) {
        (Rendered::Iptables, Some(saved)) => {
            let text = std::fs::read_to_string(saved)
                .map_err(|e| Failure::input(format!("--compare: cannot read {}: {e}", saved.display())))?;
            return crate::render::compare_with(&snapshot, mark, &text);
        }
        (_, Some(_)) => return Err(Failure::input("--compare goes with `render iptables` only")),
        (Rendered::Iptables, None) => print!("{}", crate::render::iptables(&snapshot, mark)),
        (Rendered::Nftables, None) => print!("{}", crate::render::nftables(&snapshot, mark)),
        (Rendered::Dns, None) => print!("{}", crate::render::dns(&snapshot, crate::settings::DNS_TTL_SECS)?),
        (Rendered::Routes, None) => print!("{}", crate::render::routes(&snapshot)),
    }
    Ok(())
}

/// The node's settings and the mark that asks for masquerade: an agent's, or as a configuration file of kube-proxy says.
fn render_settings(args: &RenderArgs) -> Result<(Settings, u32), Failure> {
    if args.corefile.is_some() && (args.what != Rendered::Dns || args.compare.is_some()) {
        return Err(Failure::input("--corefile goes with `render dns` only"));
    }
    if args.node.is_none() && args.what != Rendered::Dns {
        return Err(Failure::input(
            "--node is missing: say which node's it shall be; only `render dns` is the same on all",
        ));
    }
    let node = args.node.as_deref().unwrap_or("files");
    let mode = match args.what {
        Rendered::Iptables => Mode::Iptables,
        Rendered::Nftables => Mode::Nftables,
        _ if args.config.is_some() => return Err(Failure::input("--config goes with `render iptables|nftables` only")),
        _ => Mode::Iptables,
    };
    let Some(path) = &args.config else {
        let settings = crate::proxy::settings_of(args.cluster.settings(node), mode);
        return Ok((settings, 1 << crate::proxy::Wanted::default().masquerade_bit));
    };
    let mut wanted = crate::proxy::read_for(path, mode)?;
    wanted.node = Some(node.to_owned());
    Ok((wanted.settings(mode), 1 << wanted.masquerade_bit))
}
