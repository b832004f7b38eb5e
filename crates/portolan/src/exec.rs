//! `portolan exec`: a command in a container, over a WebSocket, for machines whose kubectl is too old for that.

use std::path::PathBuf;

use clap::Args;
use kube::Api;
use kube::api::AttachParams;
use portolan_kinds::typed::Pod;
use tokio::io::AsyncRead;

use crate::failure::Failure;

/// Command line of `exec`.
#[derive(Args, Clone, Debug)]
pub struct ExecArgs {
    /// The pod
    pod: String,
    /// Its namespace
    #[arg(short = 'n', long, default_value = "default")]
    namespace: String,
    /// The container; unset takes the pod's first
    #[arg(short = 'c', long)]
    container: Option<String>,
    /// The cluster
    #[arg(long, value_name = "FILE")]
    kubeconfig: Option<PathBuf>,
    /// The command
    #[arg(last = true, required = true)]
    command: Vec<String>,
}

/// Runs the command without input, prints what it prints, and passes its exit code on.
///
/// # Errors
/// The pod cannot be reached, or the command failed.
pub async fn run(args: ExecArgs) -> Result<(), Failure> {
    let client = crate::client::connect(args.kubeconfig).await?;
    let pods: Api<Pod> = Api::namespaced(client, &args.namespace);
    let mut params = AttachParams::default().stdin(false).stdout(true).stderr(true);
    if let Some(container) = args.container {
        params = params.container(container);
    }
    let failed =
        |e: kube::Error| Failure::no(format!("cannot run a command in pod {}/{}: {e}", args.namespace, args.pod));
    let mut process = pods.exec(&args.pod, args.command, &params).await.map_err(failed)?;
    let (stdout, stderr, status) = (process.stdout(), process.stderr(), process.take_status());
    let out = copy(stdout, tokio::io::stdout());
    let err = copy(stderr, tokio::io::stderr());
    let (_, _, status) = tokio::join!(out, err, async { status?.await });
    match status.and_then(|status| exit_code(&status)) {
        Some(0) => Ok(()),
        Some(code) => Err(Failure::silent(code)),
        None => Err(Failure::no(format!(
            "the connection to pod {}/{} ended before the command did",
            args.namespace, args.pod
        ))),
    }
}

async fn copy(from: Option<impl AsyncRead + Unpin>, mut to: impl tokio::io::AsyncWrite + Unpin) {
    if let Some(mut from) = from {
        // A reader that closed our output wants no more of it.
        let _ = tokio::io::copy(&mut from, &mut to).await;
    }
}

/// 0 for `Success`; else the cause named `ExitCode`, which is where kubectl looks, or 1.
fn exit_code(status: &portolan_kinds::typed::Status) -> Option<u8> {
    if status.status.as_deref() == Some("Success") {
        return Some(0);
    }
    let causes = status.details.as_ref().and_then(|details| details.causes.as_ref()).into_iter().flatten();
    let code = causes.into_iter().find(|cause| cause.reason.as_deref() == Some("ExitCode"));
    let number = code.and_then(|cause| cause.message.as_deref()).and_then(|text| text.parse::<u8>().ok());
    Some(number.filter(|n| *n != 0).unwrap_or(1))
}
