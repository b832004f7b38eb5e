//! Real packets, for every promise of Services, in every mode: `portolan proxy` programs one node from files, and
//! packets of both families and of TCP, UDP and SCTP go through it in namespaces of the test's own.
//!
//! The table (`packets/cases.rs`) is written from the documents. Needs root and Debian's programs.

#[path = "packets/case.rs"]
mod case;
#[path = "packets/cases.rs"]
mod cases;
#[path = "packets/explained.rs"]
mod explained;
#[path = "packets/flows.rs"]
mod flows;
#[path = "packets/ground.rs"]
mod ground;
#[path = "packets/judge.rs"]
mod judge;
#[path = "packets/objects.rs"]
mod objects;
#[path = "packets/over_time.rs"]
mod over_time;
#[path = "packets/probe.rs"]
mod probe;
#[path = "packets/raw.rs"]
mod raw;
#[path = "packets/run.rs"]
mod run;
#[path = "packets/strangers.rs"]
mod strangers;

use case::Backend;
use ground::Ground;
use run::Field;

/// Every case of the table; all that is wrong is told at the end. `PORTOLAN_CASE` picks those whose name has it.
fn every_case(backend: Backend) {
    let ground = Ground::lay();
    let field = Field::new(&ground, backend);
    let picked = std::env::var("PORTOLAN_CASE").unwrap_or_default();
    let cases = cases::all().into_iter().filter(|case| case.name.contains(&picked));
    let complaints: Vec<String> = cases.flat_map(|case| field.complaints(&case)).collect();
    assert!(complaints.is_empty(), "{backend:?}: {} are wrong:\n{}", complaints.len(), complaints.join("\n"));
}

/// What holds over time, on a ground of its own.
fn over_time(backend: Backend) {
    let ground = Ground::lay();
    let field = Field::new(&ground, backend);
    over_time::clients_stay(&field);
    over_time::stays_end(&field);
    over_time::datagrams_stay(&field);
    flows::datagrams_follow(&field);
    flows::balancers_ask(&field);
}

/// Strangers' programs, on a ground where nobody else listens.
fn strangers(backend: Backend) {
    let ground = Ground::lay();
    strangers::strangers_understand(&Field::quiet(&ground, backend));
}

#[test]
fn the_table_and_the_oracle_agree_in_every_mode() {
    let cases = cases::all();
    let backends = [Backend::IptablesNft, Backend::Nftables];
    let asked = backends.iter().flat_map(|backend| cases.iter().map(move |case| (case, *backend)));
    let objections: Vec<String> = asked.flat_map(|(case, backend)| judge::objections(case, backend)).collect();
    assert!(objections.is_empty(), "{} are judged otherwise:\n{}", objections.len(), objections.join("\n"));
}

#[test]
fn every_case_holds_in_iptables_mode_over_nf_tables() {
    every_case(Backend::IptablesNft);
}

#[test]
fn every_case_holds_in_iptables_mode_over_the_legacy_kernel_interface() {
    every_case(Backend::IptablesLegacy);
}

#[test]
fn clients_and_flows_fare_well_over_time_in_iptables_mode_over_nf_tables() {
    over_time(Backend::IptablesNft);
}

#[test]
fn clients_and_flows_fare_well_over_time_in_iptables_mode_over_the_legacy_kernel_interface() {
    over_time(Backend::IptablesLegacy);
}

#[test]
fn every_case_holds_in_nftables_mode() {
    every_case(Backend::Nftables);
}

#[test]
fn clients_and_flows_fare_well_over_time_in_nftables_mode() {
    over_time(Backend::Nftables);
}

#[test]
fn what_is_explained_is_what_packets_do_in_iptables_mode() {
    let ground = Ground::lay();
    explained::as_foretold(&Field::new(&ground, Backend::IptablesNft));
}

#[test]
fn what_is_explained_is_what_packets_do_in_nftables_mode() {
    let ground = Ground::lay();
    explained::as_foretold(&Field::new(&ground, Backend::Nftables));
}

#[test]
fn strangers_programs_understand_the_rules_in_nftables_mode() {
    strangers(Backend::Nftables);
}

#[test]
fn strangers_programs_understand_the_rules_in_iptables_mode_over_nf_tables() {
    strangers(Backend::IptablesNft);
}

#[test]
fn strangers_programs_understand_the_rules_in_iptables_mode_over_the_legacy_kernel_interface() {
    strangers(Backend::IptablesLegacy);
}
