//! Sending from the host outside of a lab, which no agent serves: this program again, in that host's network.

use std::io::Write;
use std::path::PathBuf;
use std::process::Stdio;

use portolan_lab::{Lab, Place};
use portolan_story::evidence::{Probe, Probed};

use crate::failure::Failure;

/// The hidden subcommand that reads a `Probe` and prints a `Probed`.
const SUBCOMMAND: &str = "probe";

/// Sends one packet from the host outside.
///
/// # Errors
/// The lab does not let us in, or the program fails there.
pub async fn from_outside(lab: &Lab, probe: &Probe) -> Result<Probed, Failure> {
    let (lab, probe) = (lab.clone(), serde_json::to_vec(probe).map_err(Failure::no)?);
    let ran = tokio::task::spawn_blocking(move || run(&lab, &probe)).await;
    ran.unwrap_or_else(|e| Err(Failure::no(format!("cannot send from outside: {e}"))))
}

fn run(lab: &Lab, probe: &[u8]) -> Result<Probed, Failure> {
    let failed =
        |what: &str, why: &dyn std::fmt::Display| Failure::no(format!("cannot send from outside: {what}: {why}"));
    let program: PathBuf = std::env::current_exe().map_err(|e| failed("this program", &e))?;
    let mut command = lab.command(&Place::Outside, program).map_err(|e| failed("its network", &e))?;
    command.arg(SUBCOMMAND).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().map_err(|e| failed("this program there", &e))?;
    let mut stdin = child.stdin.take().ok_or_else(|| failed("this program there", &"it has no input"))?;
    // One that ends before it has read all says why on its error output.
    let _ = stdin.write_all(probe);
    drop(stdin);
    let output = child.wait_with_output().map_err(|e| failed("this program there", &e))?;
    serde_json::from_slice(&output.stdout)
        .map_err(|_| failed("this program there", &String::from_utf8_lossy(&output.stderr).trim()))
}
