//! Real packets, for every promise of Services, in every mode: `portolan proxy` programs one node from files, and
//! packets of both families and of TCP, UDP and SCTP go through it in namespaces of the test's own.
//!
//! The table (`packets/cases.rs`) is written from the documents. Needs root and Debian's programs.

#[path = "packets/case.rs"]
mod case;
#[path = "packets/cases.rs"]
mod cases;
#[path = "packets/ground.rs"]
mod ground;
#[path = "packets/objects.rs"]
mod objects;
#[path = "packets/probe.rs"]
mod probe;
#[path = "packets/raw.rs"]
mod raw;
#[path = "packets/run.rs"]
mod run;

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

#[test]
fn every_case_holds_in_iptables_mode_over_nf_tables() {
    every_case(Backend::IptablesNft);
}

#[test]
fn every_case_holds_in_iptables_mode_over_the_legacy_kernel_interface() {
    every_case(Backend::IptablesLegacy);
}
