//! The walk: the notes' eight steps, performed on a fresh lab of two nodes and one host outside.
//!
//! ```text
//!  step ──► show(command) ──► real output ──► check(claim) ✔ or ✘
//! ```
//!
//! Each step shows its commands and their real output and checks what they must say. A claim that fails ends the walk
//! with exit code 1. `--sabotage N` takes away step N's rule, record or route just before its check: for tests, which
//! hold that every check can fail.

mod cluster;
mod dns;
mod nodes;
mod rules;
mod services;
mod stage;

use std::path::PathBuf;

use crate::failure::Failure;
use stage::Stage;

/// What the walk is asked to do.
#[derive(Clone, Debug)]
pub struct Options {
    /// How the lab is made.
    pub lab: crate::lab::LabArgs,
    /// The step whose rule, record or route is taken away before its check, 1..=8.
    pub sabotage: Option<u8>,
    /// A folder with the walk's manifests; `None` takes the copies in this program.
    pub examples: Option<PathBuf>,
}

/// Why a step ended early.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StepError {
    /// A claim did not hold.
    #[error("{0}")]
    Claim(String),
    /// A command could not be run at all.
    #[error("{0}")]
    Run(String),
}

/// The walk's manifests, as `examples/walk` has them.
const MANIFESTS: [(&str, &str); 8] = [
    ("notes-deployment.yaml", include_str!("../../../../examples/walk/notes-deployment.yaml")),
    ("deployment.yaml", include_str!("../../../../examples/walk/deployment.yaml")),
    ("ngx-svc.yaml", include_str!("../../../../examples/walk/ngx-svc.yaml")),
    ("ngx-nodeport.yaml", include_str!("../../../../examples/walk/ngx-nodeport.yaml")),
    ("ngx-headless.yaml", include_str!("../../../../examples/walk/ngx-headless.yaml")),
    ("ngx-external.yaml", include_str!("../../../../examples/walk/ngx-external.yaml")),
    ("shell.yaml", include_str!("../../../../examples/walk/shell.yaml")),
    ("hostnetwork.yaml", include_str!("../../../../examples/walk/hostnetwork.yaml")),
];

struct Step {
    number: u8,
    title: &'static str,
    perform: fn(&mut Stage) -> Result<(), StepError>,
}

const STEPS: [Step; 8] = [
    Step { number: 1, title: "A Deployment of nginx: two pods run", perform: cluster::deployment },
    Step { number: 2, title: "A Service gives them one address", perform: cluster::service },
    Step { number: 3, title: "A pod dies, another comes; requests go on", perform: cluster::healing },
    Step { number: 4, title: "The rules that carry a packet, and who it seems to come from", perform: rules::rules },
    Step { number: 5, title: "NodePort: a port on every node", perform: services::node_port },
    Step {
        number: 6,
        title: "Headless and ExternalName: the work is done by DNS",
        perform: services::headless_and_external,
    },
    Step { number: 7, title: "Cluster DNS, and the node's own resolv.conf", perform: dns::dns },
    Step { number: 8, title: "Links, routes, BGP: the pod network", perform: nodes::pod_network },
];

/// Performs the walk; the lab is gone afterwards, whatever happened.
///
/// # Errors
/// The lab did not come up, or a check failed.
pub fn walk(options: &Options) -> Result<(), Failure> {
    let mut stage = Stage::open(options)?;
    let outcome = perform(&mut stage);
    stage.close();
    outcome
}

fn perform(stage: &mut Stage) -> Result<(), Failure> {
    for step in &STEPS {
        stage.title(step.number, step.title);
        if let Err(error) = (step.perform)(stage) {
            stage.failed(&error);
            return Err(Failure::no(format!("step {} of the walk failed: {error}", step.number)));
        }
    }
    stage.finish();
    Ok(())
}
