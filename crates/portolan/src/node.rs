//! `portolan node status`: what an agent says of itself, asked through the API server.

use std::path::PathBuf;

use clap::Args;
use serde_json::Value;

use crate::failure::Failure;
use crate::settings::OutputFormat;

/// Command line of `node status`.
#[derive(Args, Clone, Debug)]
pub struct StatusArgs {
    /// The node to ask
    #[arg(long)]
    node: String,
    /// The cluster to ask
    #[arg(long, value_name = "FILE")]
    kubeconfig: Option<PathBuf>,
    /// How to print it
    #[arg(long, value_enum, default_value_t = OutputFormat::Text)]
    output: OutputFormat,
}

/// Prints the node's BGP sessions and routes.
///
/// # Errors
/// The node cannot be asked.
pub async fn status(args: StatusArgs) -> Result<(), Failure> {
    let client = crate::client::connect(args.kubeconfig).await?;
    let path = format!("/api/v1/nodes/{}/proxy/portolan/v1/status", args.node);
    let request = http::Request::get(path).body(Vec::new()).map_err(Failure::input)?;
    let text =
        client.request_text(request).await.map_err(|e| Failure::no(format!("cannot ask node {}: {e}", args.node)))?;
    let status: Value =
        serde_json::from_str(&text).map_err(|e| Failure::no(format!("node {} answered no JSON: {e}", args.node)))?;
    match args.output {
        OutputFormat::Json => println!("{status:#}"),
        OutputFormat::Text => print!("{}", text_of(&args.node, &status)),
    }
    Ok(())
}

fn text_of(node: &str, status: &Value) -> String {
    let bgp = &status["bgp"];
    let mut lines = vec![format!("node {node}: AS {}, router id {}", bgp["asn"], text(&bgp["routerId"]))];
    lines.push(format!(
        "{:<16} {:<8} {:<12} {:>9} {:>9}  {}",
        "PEER", "AS", "STATE", "UP (s)", "RECEIVED", "LAST ERROR"
    ));
    for session in rows(&bgp["sessions"]) {
        lines.push(format!(
            "{:<16} {:<8} {:<12} {:>9} {:>9}  {}",
            text(&session["peer"]),
            text(&session["asn"]),
            text(&session["state"]),
            text(&session["uptimeSecs"]),
            text(&session["prefixesReceived"]),
            text(&session["lastError"]),
        ));
    }
    lines.push(format!("{:<20} {:<16} {}", "ROUTE", "VIA", "TOLD BY"));
    for route in rows(&bgp["routes"]) {
        lines.push(format!("{:<20} {:<16} {}", text(&route["prefix"]), text(&route["gateway"]), text(&route["peer"])));
    }
    let answers: Vec<String> = rows(&status["core"]["answersFor"]).map(text).collect();
    if !answers.is_empty() {
        lines.push(format!("answers on the LAN for {}", answers.join(", ")));
    }
    lines.join("\n") + "\n"
}

fn rows(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

fn text(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Null => "-".to_owned(),
        other => other.to_string(),
    }
}
