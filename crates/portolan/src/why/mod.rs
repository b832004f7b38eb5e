//! `portolan why`: what is in place for an object on each node, since when, and what led to it; or whose a rule, a route or
//! a record is.
//!
//! ```text
//!  API server: objects ──────────────┐
//!  each node's agent: /portolan/v1/why ┴─► Why ─┬─► text (pure)
//!                                              └─► JSON: docs/why.md names its fields
//! ```

mod ask;
mod question;
mod text;
mod words;

#[cfg(test)]
mod tests;

use std::io::Write;
use std::path::PathBuf;

use clap::Args;
use portolan_story::why::Answer;

use crate::failure::Failure;
use crate::settings::OutputFormat;

/// Command line of `why`.
#[derive(Args, Clone, Debug)]
pub struct WhyArgs {
    /// svc/NAME, pod/NAME (either with NAMESPACE/ before NAME) or node/NAME; repeats
    #[arg(value_name = "OBJECT", required_unless_present_any = ["rule", "route", "record"])]
    objects: Vec<String>,
    /// Whose is a rule: "nat KUBE-SVC-…", "nat KUBE-SVC-… 2", a line of iptables-save, a chain, set or element of nf_tables
    #[arg(long, value_name = "RULE")]
    rule: Vec<String>,
    /// Whose is a route: a prefix, or an address that it leads to
    #[arg(long, value_name = "PREFIX")]
    route: Vec<String>,
    /// Whose is a record of cluster DNS
    #[arg(long, value_name = "NAME")]
    record: Vec<String>,
    /// Ask this node only; repeats
    #[arg(long, value_name = "NAME")]
    node: Vec<String>,
    /// Namespace of objects that name none
    #[arg(short = 'n', long, default_value = "default")]
    namespace: String,
    /// All changes that the nodes remember, and what is in place on each node by itself
    #[arg(short, long)]
    verbose: bool,
    /// The cluster to ask
    #[arg(long, value_name = "FILE")]
    kubeconfig: Option<PathBuf>,
    /// How to print it
    #[arg(long, value_enum, default_value_t = OutputFormat::Text)]
    output: OutputFormat,
}

/// Asks the nodes and prints what they say; the answer is "no" if something that was asked for is in place nowhere.
///
/// # Errors
/// Exit code 1 without a further message where nothing is in place: why has been printed. Or there is no such object, no
/// such node, or nobody answers.
pub async fn run(args: WhyArgs) -> Result<(), Failure> {
    let questions = question::read(&args)?;
    let client = crate::client::connect(args.kubeconfig.clone()).await?;
    let cluster = crate::gather::from_cluster(&client).await?;
    let why = ask::ask(&client, &cluster, &questions, &args.node).await?;
    let said = match args.output {
        OutputFormat::Json => format!("{:#}\n", serde_json::to_value(&why).map_err(Failure::no)?),
        OutputFormat::Text if args.verbose => text::all(&why),
        OutputFormat::Text => text::short(&why),
    };
    // A reader that has seen enough (`| head`) closes the pipe; the answer is in the exit code all the same.
    let _ = std::io::stdout().write_all(said.as_bytes());
    if why.answers.iter().all(Answer::is_yes) { Ok(()) } else { Err(Failure::silent(1)) }
}
