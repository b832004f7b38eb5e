//! `portolan top services`: new connections a second of each service port and endpoint, as the nodes' kernels count them.

use std::io::IsTerminal;
use std::time::Duration;

use clap::{Args, Subcommand};
use jiff::SignedDuration;
use kube::Client;
use portolan_model::{NsName, Text};
use portolan_story::flows::{NodeRates, Rates, Silent, merged, rates_text};

use super::{ClusterOf, Rest, ask, must_be_there, read_of, say};
use crate::failure::Failure;
use crate::gather::agents;
use crate::settings::OutputFormat;

/// Beyond the interval itself.
const PATIENCE: Duration = Duration::from_secs(10);
const SHORTEST: Duration = Duration::from_millis(10);
const LONGEST: Duration = Duration::from_secs(60);
/// To the top of an empty screen.
pub(super) const CLEAR: &str = "\x1b[H\x1b[2J";

/// What is busiest.
#[derive(Subcommand)]
pub enum TopCommand {
    /// New connections a second, shares and open connections of each Service and endpoint
    Services(TopArgs),
    /// Queries of each pod to cluster DNS, and the share that its search list wastes
    Dns(super::top_dns::TopDnsArgs),
}

/// Command line of `top services`.
#[derive(Args, Clone, Debug)]
pub struct TopArgs {
    /// Only svc/NAME (or svc/NAMESPACE/NAME)
    of: Option<String>,
    /// Namespace of a name without one
    #[arg(short = 'n', long, default_value = "default")]
    namespace: String,
    /// For how long new connections are counted: 500ms, 1s, 1m
    #[arg(long, value_name = "TIME", default_value = "1s", value_parser = interval)]
    interval: Duration,
    /// Count that often, then end
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    count: Option<u64>,
    /// Count once, then end
    #[arg(long, conflicts_with = "count")]
    once: bool,
    /// How to print it: JSON is one object, or one a line where it goes on
    #[arg(long, value_enum, default_value_t = OutputFormat::Text)]
    output: OutputFormat,
    #[command(flatten)]
    cluster: ClusterOf,
}

pub(super) fn interval(text: &str) -> Result<Duration, String> {
    let wrong =
        || format!("it is a time from {} ms to {} s, such as 500ms, 1s, 1m", SHORTEST.as_millis(), LONGEST.as_secs());
    let read: SignedDuration = text.parse().map_err(|_| wrong())?;
    let read = Duration::try_from(read).map_err(|_| wrong())?;
    (SHORTEST..=LONGEST).contains(&read).then_some(read).ok_or_else(wrong)
}

/// Counts, prints, and begins again.
///
/// # Errors
/// There is no such Service, or no node answers.
pub async fn top(command: TopCommand) -> Result<(), Failure> {
    let args = match command {
        TopCommand::Services(args) => args,
        TopCommand::Dns(args) => return super::top_dns::top(args).await,
    };
    let only = read_of(args.of.as_deref(), &args.namespace)?;
    if only.pod.is_some() {
        return Err(Failure::input(
            "top services: only a Service can be picked; `portolan flows pod/NAME` tells of a pod",
        ));
    }
    let client = args.cluster.client().await?;
    let nodes = ask::nodes(&client, None).await?;
    must_be_there(&client, &only).await?;
    let rounds = if args.once { Some(1) } else { args.count };
    let (mut round, mut rest) = (0, Rest::new(&client));
    while rounds.is_none_or(|rounds| round < rounds) {
        let mut rates = count(&client, &nodes, args.interval, only.service.as_ref()).await?;
        rest.name(&mut rates).await?;
        say(&printed(&rates, args.output, rounds)?)?;
        round += 1;
    }
    Ok(())
}

fn printed(rates: &Rates, output: OutputFormat, rounds: Option<u64>) -> Result<String, Failure> {
    let is_one = rounds == Some(1);
    match output {
        OutputFormat::Text if !is_one && std::io::stdout().is_terminal() => Ok(CLEAR.to_owned() + &rates_text(rates)),
        OutputFormat::Text => Ok(rates_text(rates)),
        OutputFormat::Json if is_one => {
            serde_json::to_string_pretty(rates).map(|text| text + "\n").map_err(Failure::no)
        }
        OutputFormat::Json => serde_json::to_string(rates).map(|text| text + "\n").map_err(Failure::no),
    }
}

/// All nodes count at once.
async fn count(client: &Client, nodes: &[Text], interval: Duration, of: Option<&NsName>) -> Result<Rates, Failure> {
    let only = of.map(|key| format!("&service={key}")).unwrap_or_default();
    let path = format!("rates?millis={}{only}", interval.as_millis());
    let answers = agents::ask_all::<NodeRates>(client, nodes, &path, interval + PATIENCE).await;
    let (mut told, mut silent) = (Vec::new(), Vec::new());
    for (node, answer) in answers {
        match answer {
            Ok(rates) => told.push(rates),
            Err(no) => silent.push(Silent { node, why: no.why }),
        }
    }
    if told.is_empty() {
        let why: Vec<String> = silent.iter().map(|Silent { node, why }| format!("{node}: {why}")).collect();
        return Err(Failure::no(format!("no node's agent counts connections: {}", why.join("; "))));
    }
    Ok(merged(&told, silent))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_interval_is_a_time_with_its_unit() {
        assert_eq!(interval("1s"), Ok(Duration::from_secs(1)));
        assert_eq!(interval("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(interval("1m"), Ok(Duration::from_secs(60)));
        for wrong in ["", "1", "0s", "-1s", "2m", "1ms", "soon"] {
            assert!(interval(wrong).is_err(), "{wrong}");
        }
    }
}
