//! `portolan proxy`: the service proxy alone, in the network namespace it is started in, in kube-proxy's place.

mod config;
mod files;
mod flags;
mod mode;
mod wanted;

use std::path::PathBuf;
use std::sync::mpsc::{Sender, channel};
use std::time::{Duration, SystemTime};

use clap::Args;
use portolan_agent::proxy::{self, Input, Proxy, Recorder};
use portolan_model::ObjectKind;
use tracing::error;

use crate::failure::Failure;
use flags::ProxyFlags;

pub use config::read_for;
pub use files::Files;
pub use flags::in_force;
pub use mode::ModeArg;
pub use wanted::{Wanted, families, settings_of};

/// Between two looks at the files.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// Command line of the service proxy.
#[derive(Args, Clone, Debug)]
pub struct ProxyArgs {
    /// Kubernetes objects: a file, a folder, or -; repeats, and is followed when it changes
    #[arg(short = 'f', long = "filename", value_name = "FILE")]
    files: Vec<PathBuf>,
    /// The cluster to follow, in place of files
    #[arg(long, value_name = "FILE", conflicts_with = "files")]
    kubeconfig: Option<PathBuf>,
    /// Write the rules once and end
    #[arg(long, requires = "files")]
    once: bool,
    /// Make the settings that need most rights (sysctls of this network namespace), and end
    #[arg(long)]
    init_only: bool,
    /// Remove every rule of ours, of all modes, and end
    #[arg(long)]
    cleanup: bool,
    /// Print the configuration in force as a KubeProxyConfiguration into this file, or - for standard output, and end
    #[arg(long, value_name = "FILE")]
    write_config_to: Option<PathBuf>,
    #[command(flatten)]
    flags: ProxyFlags,
}

/// Programs the network namespace until the process is told to end; rules stay.
///
/// # Errors
/// Files that cannot be read at the start, or a kernel that refuses.
pub fn run(args: &ProxyArgs) -> Result<(), Failure> {
    if args.cleanup {
        return match proxy::clean_up().is_empty() {
            true => Ok(()),
            false => Err(Failure::machine("some rules were not removed; the lines above say why")),
        };
    }
    let mut wanted = args.flags.wanted()?;
    wanted.kubeconfig = args.kubeconfig.clone().or(wanted.kubeconfig);
    let mode = in_force(wanted.mode);
    if let Some(path) = &args.write_config_to {
        return write_config(path, &wanted.as_config(mode));
    }
    if args.init_only {
        proxy::prepare(&wanted.proxy_config(mode));
        return Ok(());
    }
    let kubeconfig = wanted.kubeconfig.clone().filter(|_| args.files.is_empty());
    if args.files.is_empty() && kubeconfig.is_none() {
        return Err(Failure::input(
            "nothing says which Services there are: give files with -f, or a cluster with --kubeconfig",
        ));
    }
    set_oom_score(&wanted);
    let proxy = Proxy::open(wanted.proxy_config(mode)).map_err(Failure::machine)?;
    match kubeconfig {
        Some(kubeconfig) => crate::process::block_on(follow_cluster(proxy, kubeconfig, wanted.node())),
        None => follow_files(proxy, args, &wanted.node()),
    }
}

fn follow_files(proxy: Proxy, args: &ProxyArgs, node: &str) -> Result<(), Failure> {
    let (files, inputs) = Files::open(&args.files, node)?;
    let whole = [ObjectKind::Node, ObjectKind::Service, ObjectKind::EndpointSlice].map(Input::Synced);
    let inputs = inputs.into_iter().chain(whole);
    if args.once {
        return match proxy.once(inputs) {
            true => Ok(()),
            false => Err(Failure::machine("the rules were not written; the lines above say why")),
        };
    }
    crate::process::block_on(serve(proxy, files, inputs.collect()))
}

async fn serve(proxy: Proxy, files: Files, first: Vec<Input>) -> Result<(), Failure> {
    let end = crate::process::told_to_end();
    let (to_keeper, inputs) = channel();
    first.into_iter().for_each(|input| send(&to_keeper, input));
    tokio::spawn(follow(files, to_keeper.clone()));
    proxy.serve(to_keeper, inputs, Recorder::Log, end).await.map_err(Failure::machine)
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

async fn follow_cluster(proxy: Proxy, kubeconfig: PathBuf, node: String) -> Result<(), Failure> {
    let end = crate::process::told_to_end();
    let client = crate::client::connect_from_afar(kubeconfig).await?;
    let (to_keeper, inputs) = channel();
    proxy.follow_cluster(&client, &to_keeper);
    let recorder = Recorder::Cluster(client, node.as_str().into());
    proxy.serve(to_keeper, inputs, recorder, end).await.map_err(Failure::machine)
}

fn send(to_keeper: &Sender<Input>, input: Input) {
    // The keeper ends only with the process.
    let _ = to_keeper.send(input);
}

fn write_config(path: &std::path::Path, config: &serde_json::Value) -> Result<(), Failure> {
    // JSON is YAML too.
    let text = format!("{config:#}\n");
    if path == std::path::Path::new("-") {
        print!("{text}");
        return Ok(());
    }
    std::fs::write(path, text)
        .map_err(|e| Failure::input(format!("--write-config-to: cannot write {}: {e}", path.display())))
}

/// A machine that runs out of memory had better keep its Services.
fn set_oom_score(wanted: &Wanted) {
    let Some(score) = wanted.oom_score else { return };
    if let Err(error) = std::fs::write("/proc/self/oom_score_adj", score.to_string()) {
        tracing::warn!(%error, score, "oomScoreAdj was not set; this needs CAP_SYS_RESOURCE");
    }
}
