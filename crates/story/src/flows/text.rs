//! Flows and rates as tables for people.

use std::net::SocketAddr;

use super::{Change, EndpointRate, Flow, Nat, Party, Rates, SentTo, ServiceRate, Silent, What, Who};

const FLOW_HEAD: [&str; 7] = ["PROTO", "CLIENT", "SENT TO", "ENDPOINT", "STATE", "EXPIRES", "NAT"];
const RATE_HEAD: [&str; 5] = ["SERVICE", "ENDPOINT", "NEW/S", "SHARE", "OPEN"];

/// Connections, a line each below a head; ages and bytes where somebody counts them. Names of silent nodes at the end.
pub fn table(flows: &[Flow], silent: &[Silent]) -> String {
    let has_age = flows.iter().any(|flow| flow.age_secs.is_some());
    let has_bytes = flows.iter().any(|flow| flow.carried.is_some());
    let mut head: Vec<String> = FLOW_HEAD.map(str::to_owned).to_vec();
    let row = |flow: &Flow| {
        let mut row = cells(flow).to_vec();
        // Before NAT, which is long, from the right on.
        if has_bytes {
            row.insert(6, flow.carried.map_or_else(dash, |(there, back)| format!("{}/{}", bytes(there), bytes(back))));
        }
        if has_age {
            row.insert(6, flow.age_secs.map_or_else(dash, time));
        }
        row
    };
    if has_bytes {
        head.insert(6, "BYTES".to_owned());
    }
    if has_age {
        head.insert(6, "AGE".to_owned());
    }
    let rows: Vec<Vec<String>> = std::iter::once(head).chain(flows.iter().map(row)).collect();
    let mut text = if flows.is_empty() { "no connections\n".to_owned() } else { aligned(&rows) };
    text += &said_of(silent);
    text
}

/// A change as a line: `+` began, `-` was forgotten, `~` changed state.
pub fn change_line(change: &Change) -> String {
    let sign = match change.what {
        What::Began => '+',
        What::Changed => '~',
        What::Ended => '-',
    };
    let [proto, client, to, endpoint, state, _, nat] = cells(&change.flow);
    let via = if to == "-" { String::new() } else { format!(" → {to}") };
    let nat = if nat == "-" { String::new() } else { format!("  [{nat}]") };
    format!("{sign} {proto} {client}{via} → {endpoint}  {state}{nat}\n")
}

fn cells(flow: &Flow) -> [String; 7] {
    [
        flow.proto.to_string(),
        party(&flow.client),
        sent_to(flow),
        party(&flow.endpoint),
        status(flow),
        time(flow.timeout_secs.into()),
        rewritten(&flow.nat),
    ]
}

fn party(party: &Party) -> String {
    let port = party.at.port();
    match &party.who {
        Who::Pod { pod, node: Some(node) } => format!("{pod}:{port} ({node})"),
        Who::Pod { pod, node: None } => format!("{pod}:{port}"),
        Who::Node { name } => format!("{name}:{port}"),
        Who::Gone => format!("{} (no pod's now)", party.at),
        Who::Outside => party.at.to_string(),
    }
}

fn sent_to(flow: &Flow) -> String {
    match &flow.sent_to {
        SentTo::Service { service, .. } => format!("{service} {}", flow.to),
        SentTo::HostPort { pod } => format!("host port of {pod} {}", flow.to),
        SentTo::Itself if flow.to == flow.endpoint.at => dash(),
        SentTo::Itself => flow.to.to_string(),
    }
}

/// conntrack's word for a flow without states is whether somebody answered.
fn status(flow: &Flow) -> String {
    match (&flow.state, flow.answered) {
        (Some(state), _) => state.to_string(),
        (None, true) => "answered".to_owned(),
        (None, false) => "unanswered".to_owned(),
    }
}

fn rewritten(nat: &[Nat]) -> String {
    let arrow = |what: &str, change: Option<(SocketAddr, SocketAddr)>| {
        change.map(|(before, after)| format!("{what} {before} → {after}"))
    };
    let said = |nat: &Nat| {
        let parts: Vec<String> =
            [arrow("to", nat.destination), arrow("from", nat.source)].into_iter().flatten().collect();
        format!("{}: {}", nat.node, parts.join(", "))
    };
    match nat.is_empty() {
        true => dash(),
        false => nat.iter().map(said).collect::<Vec<_>>().join("; "),
    }
}

/// Service ports with their endpoints below them, the busiest first.
pub fn rates_text(rates: &Rates) -> String {
    let has_bytes = rates.services.iter().any(|service| service.carried.is_some());
    let mut rows = vec![RATE_HEAD.map(str::to_owned).to_vec()];
    if has_bytes {
        rows[0].push("BYTES".to_owned());
    }
    for service in &rates.services {
        rows.push(service_row(service, has_bytes));
        rows.extend(service.endpoints.iter().map(|endpoint| endpoint_row(endpoint, has_bytes)));
    }
    let interval = rates.interval_us as f64 / 1e6;
    let least = if rates.exact { "" } else { ", at least so many: some were not counted" };
    let mut text = match rates.services.is_empty() {
        true => format!("no connection through a Service in {interval:.1} s, and none is open{least}\n"),
        false => aligned(&rows) + &format!("new connections counted for {interval:.1} s{least}\n"),
    };
    text += &said_of(&rates.silent);
    text
}

fn service_row(service: &ServiceRate, has_bytes: bool) -> Vec<String> {
    let mut row = vec![
        service.service.to_string(),
        String::new(),
        per_second(service.per_second),
        String::new(),
        service.open.to_string(),
    ];
    row.extend(has_bytes.then(|| service.carried.map_or_else(dash, bytes)));
    row
}

fn endpoint_row(endpoint: &EndpointRate, has_bytes: bool) -> Vec<String> {
    let share = endpoint.share.map_or_else(dash, |share| format!("{:.0}%", share * 100.0));
    let mut row = vec![
        String::new(),
        party(&endpoint.endpoint),
        per_second(endpoint.per_second),
        share,
        endpoint.open.to_string(),
    ];
    row.extend(has_bytes.then(|| endpoint.carried.map_or_else(dash, bytes)));
    row
}

fn said_of(silent: &[Silent]) -> String {
    silent
        .iter()
        .map(|Silent { node, why }| format!("{node} does not answer, so its connections are missing: {why}\n"))
        .collect()
}

fn per_second(rate: f64) -> String {
    format!("{rate:.1}")
}

fn bytes(count: u64) -> String {
    let units = ["B", "KiB", "MiB", "GiB", "TiB"];
    let (mut value, mut unit) = (count as f64, 0);
    while value >= 1024.0 && unit + 1 < units.len() {
        value /= 1024.0;
        unit += 1;
    }
    if unit == 0 { format!("{count}B") } else { format!("{value:.1}{}", units[unit]) }
}

/// The two largest units, as kubectl prints ages.
fn time(secs: u64) -> String {
    match secs {
        0..60 => format!("{secs}s"),
        60..3600 => format!("{}m{}s", secs / 60, secs % 60),
        3600..86_400 => format!("{}h{}m", secs / 3600, secs % 3600 / 60),
        _ => format!("{}d{}h", secs / 86_400, secs % 86_400 / 3600),
    }
}

fn dash() -> String {
    "-".to_owned()
}

/// Columns as wide as their widest cell, two blanks between; no blanks at a line's end.
fn aligned(rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or_default();
    let wide = |text: &str| text.chars().count();
    let width =
        |column: usize| rows.iter().filter_map(|row| row.get(column)).map(|cell| wide(cell)).max().unwrap_or_default();
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let mut text = String::new();
    for row in rows {
        let mut line = String::new();
        for (cell, width) in row.iter().zip(&widths) {
            line += cell;
            line += &" ".repeat(width - wide(cell) + 2);
        }
        text += line.trim_end();
        text.push('\n');
    }
    text
}
