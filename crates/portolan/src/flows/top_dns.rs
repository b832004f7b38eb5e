//! `portolan top dns`: which pods ask cluster DNS most, and how much of that their search lists waste.
//!
//! ```text
//!  agents: GET …/dns/pods (counts since their start) ─► merged, the most wasteful first ─► table, JSON
//! ```

use std::io::IsTerminal;
use std::time::Duration;

use clap::Args;
use kube::Client;
use portolan_agent::dns_explain::{NameInVain, PodQueries};
use portolan_model::{NsName, Text};
use portolan_story::flows::Silent;
use serde::Serialize;

use super::top::{CLEAR, interval};
use super::{ClusterOf, ask, say};
use crate::failure::Failure;
use crate::gather::agents;
use crate::settings::OutputFormat;

const PATIENCE: Duration = Duration::from_secs(10);
/// Names in vain that a line of the table has room for; JSON has them all.
const NAMES_SHOWN: usize = 3;
/// Name of the form that `--output json` prints.
const SCHEMA: &str = "portolan.top-dns/v1";

/// Command line of `top dns`.
#[derive(Args, Clone, Debug)]
pub struct TopDnsArgs {
    /// Between two looks: 500ms, 1s, 1m
    #[arg(long, value_name = "TIME", default_value = "1s", value_parser = interval)]
    interval: Duration,
    /// Look that often, then end
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    count: Option<u64>,
    /// Look once, then end
    #[arg(long, conflicts_with = "count")]
    once: bool,
    /// How to print it: JSON is one object, or one a line where it goes on
    #[arg(long, value_enum, default_value_t = OutputFormat::Text)]
    output: OutputFormat,
    #[command(flatten)]
    cluster: ClusterOf,
}

/// What all nodes counted.
#[derive(Clone, Debug, Serialize)]
struct Asked {
    schema: &'static str,
    pods: Vec<PodAsked>,
    silent: Vec<Silent>,
}

/// A pod's queries on its node.
#[derive(Clone, Debug, PartialEq, Serialize)]
struct PodAsked {
    pod: NsName,
    node: Text,
    queries: u64,
    wasted: u64,
    /// Of its queries, 0 to 1.
    share: f64,
    /// What was asked for in vain, the most frequent first.
    names: Vec<NameInVain>,
}

/// Looks, prints, and begins again.
///
/// # Errors
/// No node answers.
pub async fn top(args: TopDnsArgs) -> Result<(), Failure> {
    let client = args.cluster.client().await?;
    let nodes = ask::nodes(&client, None).await?;
    let rounds = if args.once { Some(1) } else { args.count };
    let mut round = 0;
    loop {
        let asked = look(&client, &nodes).await?;
        say(&printed(&asked, args.output, rounds == Some(1))?)?;
        round += 1;
        if rounds.is_some_and(|rounds| round >= rounds) {
            return Ok(());
        }
        tokio::time::sleep(args.interval).await;
    }
}

async fn look(client: &Client, nodes: &[Text]) -> Result<Asked, Failure> {
    let (mut told, mut silent) = (Vec::new(), Vec::new());
    for (node, answer) in agents::ask_all::<Vec<PodQueries>>(client, nodes, "dns/pods", PATIENCE).await {
        match answer {
            Ok(pods) => told.extend(pods.into_iter().map(|pod| (node.clone(), pod))),
            Err(no) => silent.push(Silent { node, why: no.why }),
        }
    }
    if silent.len() == nodes.len() {
        let why: Vec<String> = silent.iter().map(|Silent { node, why }| format!("{node}: {why}")).collect();
        return Err(Failure::no(format!("no node's agent tells who asks its DNS: {}", why.join("; "))));
    }
    Ok(Asked { schema: SCHEMA, pods: ranked(told), silent })
}

/// The most wasteful first, then those that ask most.
fn ranked(told: Vec<(Text, PodQueries)>) -> Vec<PodAsked> {
    let asked = told.into_iter().map(|(node, PodQueries { pod, queries, wasted, names })| {
        let share = if queries == 0 { 0.0 } else { wasted as f64 / queries as f64 };
        PodAsked { pod, node, queries, wasted, share, names }
    });
    let mut pods: Vec<PodAsked> = asked.collect();
    pods.sort_by(|a, b| (b.wasted, b.queries, &a.pod).cmp(&(a.wasted, a.queries, &b.pod)));
    pods
}

fn printed(asked: &Asked, output: OutputFormat, is_one: bool) -> Result<String, Failure> {
    let json = |text: serde_json::Result<String>| text.map(|text| text + "\n").map_err(Failure::no);
    match output {
        OutputFormat::Text if !is_one && std::io::stdout().is_terminal() => Ok(CLEAR.to_owned() + &table(asked)),
        OutputFormat::Text => Ok(table(asked)),
        OutputFormat::Json if is_one => json(serde_json::to_string_pretty(asked)),
        OutputFormat::Json => json(serde_json::to_string(asked)),
    }
}

fn table(asked: &Asked) -> String {
    let head = ["POD", "NODE", "QUERIES", "WASTED", "SHARE", "MOST IN VAIN"].map(str::to_owned);
    let row = |pod: &PodAsked| {
        let share = format!("{:.0}%", pod.share * 100.0);
        let (queries, wasted) = (pod.queries.to_string(), pod.wasted.to_string());
        [pod.pod.to_string(), pod.node.to_string(), queries, wasted, share, in_vain(&pod.names)]
    };
    let rows: Vec<[String; 6]> = std::iter::once(head).chain(asked.pods.iter().map(row)).collect();
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..6).map(width).collect();
    let line = |row: &[String; 6]| {
        let cells: Vec<String> = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}")).collect();
        cells.join("  ").trim_end().to_owned() + "\n"
    };
    let mut out: String = rows.iter().map(line).collect();
    for Silent { node, why } in &asked.silent {
        out += &format!("{node} did not answer: {why}\n");
    }
    out
}

fn in_vain(names: &[NameInVain]) -> String {
    let shown = names.iter().take(NAMES_SHOWN).map(|NameInVain { name, queries }| format!("{name} ({queries})"));
    shown.collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pods_that_waste_most_come_first() {
        let told = |name: &str, queries, wasted, names: &[&str]| {
            let name_in_vain =
                |(at, name): (usize, &&str)| NameInVain { name: (*name).to_owned(), queries: 4 - at as u64 };
            let names = names.iter().enumerate().map(name_in_vain).collect();
            (Text::from("node-1"), PodQueries { pod: NsName::new("shop", name), queries, wasted, names })
        };
        let pods = ranked(vec![
            told("idle", 1, 0, &[]),
            told("loud", 90, 0, &[]),
            told("web", 8, 6, &["a.b"]),
            told("api", 8, 6, &["www.example.org", "a.b", "c", "d"]),
        ]);
        let asked = Asked { schema: SCHEMA, pods, silent: vec![Silent { node: "node-2".into(), why: "gone".into() }] };
        assert_eq!(
            table(&asked),
            "POD        NODE    QUERIES  WASTED  SHARE  MOST IN VAIN\n\
             shop/api   node-1  8        6       75%    www.example.org (4), a.b (3), c (2)\n\
             shop/web   node-1  8        6       75%    a.b (4)\n\
             shop/loud  node-1  90       0       0%\n\
             shop/idle  node-1  1        0       0%\n\
             node-2 did not answer: gone\n"
        );
    }
}
