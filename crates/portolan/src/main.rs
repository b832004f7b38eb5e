//! `portolan`: the command line. Each command is thin; the rooms below do the work.

mod agent;
mod apply;
mod cli;
mod client;
mod dns;
mod exec;
mod failure;
mod image;
mod lab;
mod node;
mod process;
mod render;
mod server;
mod settings;
mod tools;
mod walk;

use std::ffi::OsString;
use std::process::ExitCode;

fn main() -> ExitCode {
    // Roles by re-exec come first: they fork and enter namespaces, which only a process with one thread may do.
    let args: Vec<OsString> = std::env::args_os().collect();
    if let Some(code) = portolan_pods::reexec(&args).or_else(|| portolan_lab::reexec(&args)) {
        return code;
    }
    // Another provider can only be there if a library installed one before main; ring is what all of ours use.
    let _ = rustls::crypto::ring::default_provider().install_default();
    match cli::run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report(),
    }
}
