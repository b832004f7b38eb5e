//! `portolan status`: one look at a lab, and whether something is not right.
//!
//! ```text
//!  lab init, /proc ─┐
//!  API server ──────┼─► gather ─► Observed ─► report (pure) ─► Report ─┬─► text (pure): 80 columns
//!  agents ──────────┘                                                  └─► JSON: docs/status.md names its fields
//! ```
//!
//! What does not answer is said in its place; the rest is shown all the same.

mod gather;
mod nodes;
mod objects;
mod report;
mod text;

#[cfg(test)]
mod tests;

use std::io::Write;

use portolan_lab::Lab;

use crate::failure::Failure;
use crate::settings::OutputFormat;

/// Shows a lab; the answer is "no" if something in it is not right.
///
/// # Errors
/// Exit code 1 without a further message: what is not right has been printed. Or the lab cannot be asked at all.
pub fn show(lab: &Lab, output: OutputFormat) -> Result<(), Failure> {
    let report = report::Report::of(&gather::gather(lab)?);
    let said = match output {
        OutputFormat::Json => format!("{:#}\n", serde_json::to_value(&report).map_err(Failure::no)?),
        OutputFormat::Text => text::of(&report),
    };
    // A reader that has seen enough (`| head`) closes the pipe; the answer is in the exit code all the same.
    let _ = std::io::stdout().write_all(said.as_bytes());
    if report.healthy { Ok(()) } else { Err(Failure::silent(1)) }
}
