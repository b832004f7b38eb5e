//! The walk: the notes' eight steps, performed on a fresh lab of two nodes and one host outside.
//!
//! ```text
//!  step ─► needs (made silently) ─► about ─► [pause] ─► (text, command, real output, check ✔ or ✘)* ─► summary
//! ```
//!
//! Each step shows its commands and their real output and checks what they must say. A claim that fails ends the walk
//! with exit code 1. `--sabotage N` takes away step N's record or route, or keeps packets from its rule, just before its
//! check: for tests, which hold that every check can fail.

mod choice;
mod cluster;
mod dns;
mod fold;
mod needs;
mod nodes;
mod page;
mod pause;
mod rules;
mod said;
mod services;
mod stage;

use std::path::PathBuf;

use crate::failure::Failure;
use crate::settings::OutputFormat;
use choice::{LAST, StepRange, chosen};
use needs::Need;
use pause::Wish;
use said::{Done, FailedStep, Link, Said};
use stage::Stage;

/// Command line of `walk`.
#[derive(clap::Args, Clone, Debug)]
pub struct Options {
    #[command(flatten)]
    lab: crate::lab::LabArgs,
    /// Wait for Enter before each step is performed; q ends the walk
    #[arg(long)]
    pause: bool,
    /// Show this step only, or these (4-6); repeats. What it needs of earlier ones is made silently
    #[arg(long = "step", value_name = "STEP")]
    steps: Vec<StepRange>,
    /// How to tell it; json is one object a line, as it happens
    #[arg(long, value_enum, default_value_t = OutputFormat::Text)]
    output: OutputFormat,
    /// Take away this step's record or route, or bypass its rule, just before its check: the walk must fail (for tests)
    #[arg(long, value_name = "STEP", value_parser = clap::value_parser!(u8).range(1..=i64::from(LAST)))]
    sabotage: Option<u8>,
    /// Take the walk's manifests from this folder instead of the built-in ones
    #[arg(long, value_name = "DIR")]
    examples: Option<PathBuf>,
}

impl Options {
    /// Options that do not go together are refused before a lab is made.
    fn agree(&self) -> Result<(), Failure> {
        if self.pause && self.output == OutputFormat::Json {
            return Err(Failure::input("--pause waits for a reader and --output json is for a program; leave one out"));
        }
        if self.pause {
            pause::needs_a_reader()?;
        }
        match self.sabotage.filter(|step| !chosen(&self.steps).contains(step)) {
            Some(step) => {
                Err(Failure::input(format!("--sabotage {step}: --step leaves that step out; add --step {step}")))
            }
            None => self.has_manifests(),
        }
    }

    fn has_manifests(&self) -> Result<(), Failure> {
        let Some(folder) = &self.examples else { return Ok(()) };
        match MANIFESTS.iter().find(|(name, _)| !folder.join(name).is_file()) {
            Some((name, _)) => {
                Err(Failure::input(format!("--examples: {} has no {name}; copy examples/walk", folder.display())))
            }
            None => Ok(()),
        }
    }
}

/// Why a step ended early.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StepError {
    /// A claim did not hold.
    #[error("not so: {claim}")]
    Claim {
        /// The check's name, for programs.
        name: String,
        claim: String,
    },
    /// A command could not be run at all.
    #[error("{0}")]
    Run(String),
    /// Standard output was closed.
    #[error("nobody reads what the walk prints any more")]
    Unread,
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

const OPENING: &str = "\
This walk goes through Kubernetes networking in eight steps, after a learner's notes (`the notes` below). For it a cluster \
comes up on this machine: two nodes, the machines that a cluster is made of, and a host `outside`, which is on their LAN \
but is no node. All three are network namespaces of the kernel: each has interfaces, routes and rules of its own, and \
shares none with this machine. When the walk ends, or on Ctrl-C, they are gone.

How to read it: `$` begins a command on this machine, `node-1$` and `outside$` one on that host. What it printed stands \
below it, with `…` for lines left out. ✔ is a check that held; a check that does not hold ends the walk with exit code 1.";

const CLOSING: &str = "\
To go on by yourself: `portolan up` starts a cluster that stays, and the commands above work there too. docs/the-walk.md \
says more about each step.";

struct Step {
    number: u8,
    title: &'static str,
    about: &'static str,
    read_on: &'static [Link],
    needs: &'static [Need],
    /// What is there after it, for later steps.
    gives: &'static [Need],
    perform: fn(&mut Stage) -> Result<(), StepError>,
}

const STEPS: [Step; LAST as usize] = [
    cluster::DEPLOYMENT,
    cluster::SERVICE,
    cluster::HEALING,
    rules::RULES,
    services::NODE_PORT,
    services::BY_NAME,
    dns::DNS,
    nodes::POD_NETWORK,
];

/// Performs the walk; the lab is gone afterwards, whatever happened.
///
/// # Errors
/// Options that do not go together, no lab, or a check that failed.
pub fn walk(options: &Options) -> Result<(), Failure> {
    options.agree()?;
    let steps = chosen(&options.steps);
    let mut stage = Stage::open(options, &steps)?;
    let outcome = perform(&mut stage, &steps, options.pause);
    stage.close();
    outcome
}

fn perform(stage: &mut Stage, chosen: &[u8], pause: bool) -> Result<(), Failure> {
    let mut done = Vec::new();
    for step in STEPS.iter().filter(|step| chosen.contains(&step.number)) {
        let outcome = one(stage, step, pause);
        if !matches!(outcome, Ok(Wish::End)) {
            let checks = stage.checks_of_step();
            done.push(Done {
                step: step.number,
                title: step.title,
                checks,
                held: outcome.is_ok(),
                read_on: step.read_on,
            });
        }
        match outcome {
            Ok(Wish::GoOn) => {}
            Ok(Wish::End) => {
                summary(stage, &done, true, None);
                return Ok(());
            }
            Err(StepError::Unread) => {
                return Err(Failure::no("the walk ended, as nobody reads what it prints any more"));
            }
            Err(error) => return Err(failed(stage, &done, step.number, &error)),
        }
    }
    summary(stage, &done, false, None);
    Ok(())
}

/// One step: what it needs, what it is about, and then the step itself if the reader wants it.
fn one(stage: &mut Stage, step: &Step, pause: bool) -> Result<Wish, StepError> {
    stage.begin(step.number);
    let prepared = needs::prepare(stage, step.needs)?;
    let (number, title) = (step.number, step.title);
    stage.tell(&Said::Step { step: number, title, about: step.about, read_on: step.read_on, prepared: &prepared });
    if pause && stage.ask() == Wish::End {
        return Ok(Wish::End);
    }
    (step.perform)(stage)?;
    stage.have(step.gives);
    Ok(Wish::GoOn)
}

fn failed(stage: &Stage, done: &[Done], step: u8, error: &StepError) -> Failure {
    let check = match error {
        StepError::Claim { name, .. } => Some(name.as_str()),
        StepError::Run(_) | StepError::Unread => None,
    };
    let message = error.to_string();
    summary(stage, done, false, Some(FailedStep { step, check, message: &message }));
    stage.print_logs_if_asked();
    Failure::no(format!("step {step} of the walk failed: {error}"))
}

fn summary(stage: &Stage, done: &[Done], ended_early: bool, failure: Option<FailedStep>) {
    let checks = done.iter().map(|step| step.checks).sum();
    let held = failure.is_none() && !ended_early;
    stage.tell(&Said::Summary { held, checks, steps: done, ended_early, failure });
}
