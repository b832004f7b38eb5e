//! `portolan lan cut|heal`: what passes between two hosts on a lab's LAN.

use clap::{Args, Subcommand};
use portolan_lab::Place;

use crate::failure::Failure;
use crate::lab::{LabName, failed, open};

#[derive(Subcommand)]
pub enum LanCommand {
    /// Let nothing pass between two hosts, neither way, until it is healed
    Cut(CutArgs),
    /// Take a cut back
    Heal(HealArgs),
}

/// Command line of `lan cut`.
#[derive(Args, Clone, Debug)]
pub struct CutArgs {
    /// node-1, outside or apiserver
    a: String,
    /// The other end
    b: String,
    #[command(flatten)]
    lab: LabName,
}

/// Command line of `lan heal`.
#[derive(Args, Clone, Debug)]
pub struct HealArgs {
    /// One end of the cut
    #[arg(required_unless_present = "all", requires = "b")]
    a: Option<String>,
    /// The other end
    b: Option<String>,
    /// Every cut there is
    #[arg(long, conflicts_with_all = ["a", "b"])]
    all: bool,
    #[command(flatten)]
    lab: LabName,
}

/// Carries it out.
///
/// # Errors
/// An end is no host on the LAN, what is asked for holds already, or the kernel's bridge takes no rules.
pub fn run(command: &LanCommand) -> Result<(), Failure> {
    match command {
        LanCommand::Cut(args) => cut(args),
        LanCommand::Heal(HealArgs { a: Some(a), b: Some(b), lab, .. }) => heal(a, b, lab),
        LanCommand::Heal(args) => {
            open(&args.lab)?.heal_all().map_err(failed)?;
            println!("everything passes on the LAN again");
            Ok(())
        }
    }
}

fn cut(args: &CutArgs) -> Result<(), Failure> {
    let (a, b) = (host(&args.a)?, host(&args.b)?);
    open(&args.lab)?.cut(&a, &b).map_err(failed)?;
    println!("nothing passes between {a} and {b} now; `portolan lan heal {a} {b}` mends it");
    Ok(())
}

fn heal(a: &str, b: &str, lab: &LabName) -> Result<(), Failure> {
    let (a, b) = (host(a)?, host(b)?);
    open(lab)?.heal(&a, &b).map_err(failed)?;
    println!("{a} and {b} reach each other again");
    Ok(())
}

/// What is no place at all is as wrong as a place that is not on the LAN.
fn host(text: &str) -> Result<Place, Failure> {
    let place = text.parse().ok().filter(|place| matches!(place, Place::Node(_) | Place::Outside | Place::ApiServer));
    place.ok_or_else(|| {
        Failure::input(format!("{text} is no host on the LAN; say node-1 or another node, outside or apiserver"))
    })
}
