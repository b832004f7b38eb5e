//! `portolan node stop|start`: a lab's node as a machine whose power is cut, and comes back.

use clap::Args;

use crate::failure::Failure;
use crate::lab::{LabName, failed, open};

/// Command line of `node stop` and `node start`.
#[derive(Args, Clone, Debug)]
pub struct PowerArgs {
    /// The node, as `kubectl get nodes` names it
    node: String,
    #[command(flatten)]
    lab: LabName,
}

/// Ends all that runs on the node at once and takes it off the LAN. The cluster is told nothing.
///
/// # Errors
/// There is no such node, or it is off already.
pub fn stop(args: &PowerArgs) -> Result<(), Failure> {
    let lab = open(&args.lab)?;
    let node = &args.node;
    lab.stop_node(lab.node_number(node).map_err(failed)?).map_err(failed)?;
    println!("{node} is off: what ran on it has ended; `portolan node start {node}` starts it again");
    Ok(())
}

/// Starts it again, with nothing on it but its agent.
///
/// # Errors
/// There is no such node, or it is on.
pub fn start(args: &PowerArgs) -> Result<(), Failure> {
    let lab = open(&args.lab)?;
    let node = &args.node;
    lab.start_node(lab.node_number(node).map_err(failed)?).map_err(failed)?;
    println!("{node} is on; `kubectl get nodes` shows when it is Ready");
    Ok(())
}
