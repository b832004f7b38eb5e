//! docs/dns.md says what is: each metric of the page, each field of an explained lookup, each message.

use std::collections::BTreeSet;

use crate::ground::Ground;
use crate::{KUBEADM, explained, support};

fn page() -> String {
    std::fs::read_to_string(support::root().join("docs/dns.md")).expect("the page is there")
}

/// First cells of the table below a heading, `` `name` `` each.
fn first_cells(page: &str, heading: &str) -> BTreeSet<String> {
    let section = page.split_once(&format!("\n{heading}\n")).unwrap_or_else(|| panic!("no heading {heading}")).1;
    let section = section.split("\n## ").next().unwrap_or_default();
    let cells = section.lines().filter_map(|line| Some(line.strip_prefix("| `")?.split_once('`')?.0.to_owned()));
    cells.collect()
}

/// What an agent adds to the page of the server by itself.
const OF_AGENTS: [&str; 1] = ["portolan_dns_state_age_seconds"];

#[test]
fn every_metric_is_in_the_documentation_and_no_other() {
    let ground = Ground::new();
    ground.upstream();
    ground.write("Corefile", KUBEADM);
    let _dns = ground.serve(&["--corefile", "Corefile", "--listen", "127.0.0.1"]);
    ground.answers(&[("www.example.org A", "IN A 192.0.2.80"), ("web.default.svc.cluster.local A", "10.96.7.7")]);
    let metrics = ground.curl("http://127.0.0.1:9153/metrics");
    let head = |line: &str| line.strip_prefix("# TYPE ").and_then(|rest| rest.split(' ').next().map(str::to_owned));
    let mut shown: BTreeSet<String> = metrics.lines().filter_map(head).collect();
    shown.extend(OF_AGENTS.map(str::to_owned));
    let told = first_cells(&page(), "## Metrics");
    let (missing, gone): (Vec<_>, Vec<_>) = (shown.difference(&told).collect(), told.difference(&shown).collect());
    assert!(missing.is_empty(), "the table of docs/dns.md lacks {missing:?}");
    assert!(gone.is_empty(), "docs/dns.md tells of {gone:?}, which no page shows");
    let agent = std::fs::read_to_string(support::root().join("crates/agent/src/last_known/freshness.rs"));
    let agent = agent.expect("the agent's room is there");
    OF_AGENTS.iter().for_each(|name| assert!(agent.contains(name), "{name} is no agent's any more"));
}

#[test]
fn every_field_of_an_explained_lookup_is_in_the_documentation() {
    fn fields(value: &serde_json::Value, found: &mut BTreeSet<String>) {
        match value {
            serde_json::Value::Object(map) => map.iter().for_each(|(field, value)| {
                found.insert(field.clone());
                fields(value, found);
            }),
            serde_json::Value::Array(values) => values.iter().for_each(|value| fields(value, found)),
            _ => {}
        }
    }
    let mut found = BTreeSet::new();
    for name in ["web-pods", "www.example.org", "_http._tcp.web"] {
        let said = explained(&format!("{name} --output json")).done();
        let value: serde_json::Value = serde_json::from_str(&said).expect("it is JSON");
        assert_eq!(value["schema"], "portolan.dns/v1");
        fields(&value, &mut found);
    }
    let page = page();
    let missing: Vec<&String> = found.iter().filter(|field| !page.contains(&format!("`{field}`"))).collect();
    assert!(missing.is_empty(), "docs/dns.md does not name {missing:?}");
}
