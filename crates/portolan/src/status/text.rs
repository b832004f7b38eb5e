//! A report for a person, in 80 columns. Pure.

use std::collections::BTreeMap;

use super::nodes::{LastChange, Node, State};
use super::objects::{Pods, Services};
use super::report::{Costs, Report};

const WIDTH: usize = 80;
/// Where the text of a paragraph begins, behind its title.
const INDENT: usize = 13;

/// The whole report.
pub fn of(report: &Report) -> String {
    let mut out = heading(report);
    out += "\n";
    out += &table(&["NODE", "STATE", "ADDRESS", "POD CIDR", "PODS", "BGP", "ROUTES"], &rows(&report.nodes, node_row));
    out += "\n";
    out += &table(&["DNS", "SERVES", "QUERIES", "SERVFAIL", "UPSTREAMS"], &rows(&report.nodes, dns_row));
    out += "\n";
    out += &report.pods.as_ref().map(pods).unwrap_or_default();
    out += &report.services.as_ref().map(services).unwrap_or_default();
    out += &paragraph("last change", &report.last_change.as_ref().map_or("none was seen".to_owned(), last_change));
    out += &restarts(report);
    out += "\n";
    out += &costs(&report.cost);
    out
}

fn heading(report: &Report) -> String {
    let verdict = match report.problems.len() {
        0 => "all is well".to_owned(),
        1 => "one thing is not right".to_owned(),
        n => format!("{n} things are not right"),
    };
    let problems: String = report.problems.iter().map(|problem| wrapped("  ", "    ", problem)).collect();
    format!("lab {}: {verdict}\n{problems}export KUBECONFIG={}\n", report.name, report.kubeconfig)
}

fn rows<'a>(nodes: &'a [Node], row: fn(&'a Node) -> Vec<String>) -> Vec<Vec<String>> {
    nodes.iter().map(row).collect()
}

fn node_row(node: &Node) -> Vec<String> {
    let state = match node.state {
        State::Ready => "Ready",
        State::NotReady => "NotReady",
        State::Stopped => "stopped",
        State::Unknown => "unknown",
    };
    let bgp = node.bgp.as_ref();
    vec![
        node.name.clone(),
        state.to_owned(),
        node.address.to_string(),
        or_dash(node.pod_cidrs.join(",")),
        format!("{}/{}", node.pods.ready, node.pods.total),
        bgp.map_or("-".to_owned(), |bgp| format!("{}/{}", bgp.established, bgp.expected)),
        bgp.map_or("-".to_owned(), |bgp| bgp.routes.to_string()),
    ]
}

fn dns_row(node: &Node) -> Vec<String> {
    let Some(dns) = &node.dns else {
        return [node.name.as_str(), "-", "-", "-", "-"].map(str::to_owned).to_vec();
    };
    vec![
        node.name.clone(),
        if dns.serving { "yes" } else { "no" }.to_owned(),
        dns.queries.to_string(),
        dns.servfail.to_string(),
        or_dash(dns.upstreams.join(", ")),
    ]
}

fn or_dash(text: String) -> String {
    if text.is_empty() { "-".to_owned() } else { text }
}

fn pods(pods: &Pods) -> String {
    let ending = pods.not_ready.iter().filter(|pod| pod.reason == "Terminating").count();
    let ending = if ending > 0 { format!(", {ending} Terminating") } else { String::new() };
    paragraph("pods", &format!("{}, {} ready: {}{ending}", pods.total, pods.ready, counts(&pods.phases)))
}

fn services(services: &Services) -> String {
    let counted = counts(&services.types);
    paragraph("services", &format!("{}: {counted}; {} endpoints ready", services.total, services.endpoints_ready))
}

fn counts(counts: &BTreeMap<String, usize>) -> String {
    let counts: Vec<String> = counts.iter().map(|(what, count)| format!("{count} {what}")).collect();
    if counts.is_empty() { "none".to_owned() } else { counts.join(", ") }
}

fn last_change(change: &LastChange) -> String {
    let done = match (&change.programmed_after_millis, &change.slowest_node) {
        (Some(millis), Some(node)) => format!("programmed on all nodes within {}, last on {node}", time(*millis)),
        _ => format!("not programmed on {} yet", change.missing.join(", ")),
    };
    format!("{} ago: {} (revision {}), {done}", age(change.age_seconds), change.object, change.revision)
}

fn restarts(report: &Report) -> String {
    let restarted = report.units.iter().filter(|unit| unit.restarts > 0);
    let line = |unit: &portolan_lab::UnitStatus| {
        let how = unit.last_end.as_deref().unwrap_or("unknown");
        format!("{} {} times (last end: {how})", unit.name, unit.restarts)
    };
    let lines: Vec<String> = restarted.map(line).collect();
    if lines.is_empty() { String::new() } else { paragraph("restarted", &lines.join(", ")) }
}

fn costs(cost: &Costs) -> String {
    let mut rows: Vec<Vec<String>> = cost
        .processes
        .iter()
        .map(|of| vec![of.kind.to_owned(), of.count.to_string(), mib(of.memory_kib), secs(of.cpu_seconds)])
        .collect();
    let count: usize = cost.processes.iter().map(|of| of.count).sum();
    rows.push(vec!["in all".to_owned(), count.to_string(), mib(cost.memory_kib), secs(cost.cpu_seconds)]);
    let up = format!("up for {}; CPU in all {:.1} % of one\n", age(cost.up_seconds), cost.cpu_percent);
    table(&["PROCESSES", "NUMBER", "MEMORY (PSS)", "CPU TIME"], &rows) + &up
}

fn mib(kib: u64) -> String {
    format!("{:.1} MiB", kib as f64 / 1024.0)
}

fn secs(seconds: f64) -> String {
    format!("{seconds:.2} s")
}

fn time(millis: f64) -> String {
    if millis < 1000.0 { format!("{millis:.1} ms") } else { format!("{:.1} s", millis / 1000.0) }
}

/// As kubectl says it: `5s`, `3m20s`, `2h5m`, `4d3h`.
fn age(seconds: u64) -> String {
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3600 => format!("{}m{}s", seconds / 60, seconds % 60),
        3600..86400 => format!("{}h{}m", seconds / 3600, seconds / 60 % 60),
        _ => format!("{}d{}h", seconds / 86400, seconds / 3600 % 24),
    }
}

/// Columns as wide as their widest cell; the last one is not filled up.
fn table(header: &[&str], rows: &[Vec<String>]) -> String {
    let width = |at: usize| rows.iter().map(|row| row[at].len()).chain([header[at].len()]).max().unwrap_or_default();
    let widths: Vec<usize> = (0..header.len()).map(width).collect();
    let line = |cells: Vec<&str>| {
        let padded = cells.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}"));
        padded.collect::<Vec<_>>().join("  ").trim_end().to_owned() + "\n"
    };
    let body: String = rows.iter().map(|row| line(row.iter().map(String::as_str).collect())).collect();
    line(header.to_vec()) + &body
}

fn paragraph(title: &str, text: &str) -> String {
    wrapped(&format!("{title:<INDENT$}"), &" ".repeat(INDENT), text)
}

/// Lines of at most 80 columns, broken between words; a word that is longer stands alone.
fn wrapped(first: &str, next: &str, text: &str) -> String {
    let mut lines = vec![first.to_owned()];
    let mut begun = false;
    for word in text.split_whitespace() {
        let last = lines.last_mut().expect("there is always one");
        if begun && last.chars().count() + 1 + word.chars().count() > WIDTH {
            lines.push(format!("{next}{word}"));
        } else {
            if begun {
                last.push(' ');
            }
            last.push_str(word);
        }
        begun = true;
    }
    lines.join("\n") + "\n"
}
