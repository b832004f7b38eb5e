//! `portolan proxy`: the service proxy alone, in the network namespace it is started in, in kube-proxy's place.

mod files;
mod flags;

use std::path::PathBuf;
use std::sync::mpsc::{Sender, channel};
use std::time::{Duration, SystemTime};

use clap::Args;
use portolan_agent::proxy::{self, Input, Keeper};
use portolan_model::ObjectKind;
use tracing::error;

use crate::failure::Failure;
use files::Files;
use flags::ProxyFlags;

/// Between two looks at the files.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// Command line of the service proxy.
#[derive(Args, Clone, Debug)]
pub struct ProxyArgs {
    /// Kubernetes objects: a file, a folder, or -; repeats, and is followed when it changes
    #[arg(short = 'f', long = "filename", value_name = "FILE", required = true)]
    files: Vec<PathBuf>,
    /// Write the rules once and end
    #[arg(long)]
    once: bool,
    #[command(flatten)]
    flags: ProxyFlags,
}

/// Programs the network namespace until the process is told to end; rules stay.
///
/// # Errors
/// Files that cannot be read at the start, or a kernel that refuses.
pub fn run(args: &ProxyArgs) -> Result<(), Failure> {
    let config = args.flags.config()?;
    let (files, inputs) = Files::open(&args.files, &config.settings.node)?;
    let mut keeper = Keeper::open(&config).map_err(Failure::machine)?;
    let whole = [ObjectKind::Node, ObjectKind::Service, ObjectKind::EndpointSlice].map(Input::Synced);
    let inputs = inputs.into_iter().chain(whole);
    if args.once {
        return match keeper.take(inputs) {
            true => Ok(()),
            false => Err(Failure::machine("the rules were not written; the lines above say why")),
        };
    }
    crate::process::block_on(serve(keeper, files, inputs.collect()))
}

async fn serve(keeper: Keeper, files: Files, first: Vec<Input>) -> Result<(), Failure> {
    let end = crate::process::told_to_end();
    let (to_keeper, inputs) = channel();
    first.into_iter().for_each(|input| send(&to_keeper, input));
    proxy::follow_interfaces(to_keeper.clone()).map_err(Failure::machine)?;
    let failed = |e: std::io::Error| Failure::machine(format!("cannot start a thread: {e}"));
    std::thread::Builder::new().name("proxy".to_owned()).spawn(move || keeper.run(&inputs)).map_err(failed)?;
    tokio::select! {
        () = follow(files, to_keeper) => {}
        () = end => {}
    }
    Ok(())
}

/// Tells what the files say, as they change.
async fn follow(mut files: Files, to_keeper: Sender<Input>) {
    loop {
        tokio::time::sleep(LOOK_EVERY).await;
        let (inputs, problems) = files.look(SystemTime::now());
        problems.iter().for_each(|problem| error!("{problem}; what was read before stays"));
        inputs.into_iter().for_each(|input| send(&to_keeper, input));
    }
}

fn send(to_keeper: &Sender<Input>, input: Input) {
    // The keeper ends only with the process.
    let _ = to_keeper.send(input);
}
