//! `portolan`: the command line. Each command is thin; the rooms below do the work.

mod agent;
mod apply;
mod cli;
mod client;
mod dns;
mod exec;
mod explain;
mod failure;
mod flows;
mod gather;
mod image;
mod lab;
mod lan;
mod node;
mod node_power;
mod probe;
mod process;
mod proxy;
mod render;
mod server;
mod settings;
mod status;
mod tools;
mod trace;
mod walk;
mod why;

use std::ffi::OsString;
use std::process::ExitCode;

fn main() -> ExitCode {
    // Roles by re-exec come first: they fork and enter namespaces, which only a process with one thread may do.
    let args: Vec<OsString> = std::env::args_os().collect();
    let role = portolan_pods::reexec(&args).or_else(|| portolan_lab::reexec(&args));
    if let Some(code) = role.or_else(|| portolan_agent::guard::reexec(&args)) {
        return code;
    }
    #[cfg(target_feature = "crt-static")]
    ask_no_name_service_of_the_machine();
    // Another provider can only be there if a library installed one before main; ring is what all of ours use.
    let _ = rustls::crypto::ring::default_provider().install_default();
    match cli::run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report(),
    }
}

/// A static program that loads a name service module of the machine (`mdns`, `sss`) needs exactly the C library it was
/// built with; files and DNS are built in. `getaddrinfo` and its kin use these alone from here on (nss.h of glibc).
#[cfg(target_feature = "crt-static")]
fn ask_no_name_service_of_the_machine() {
    unsafe extern "C" {
        fn __nss_configure_lookup(database: *const libc::c_char, services: *const libc::c_char) -> libc::c_int;
    }
    for (database, services) in [(c"hosts", c"files dns"), (c"passwd", c"files"), (c"group", c"files")] {
        // SAFETY: both are C strings that live for ever; no thread has been started and nothing was looked up yet.
        unsafe { __nss_configure_lookup(database.as_ptr(), services.as_ptr()) };
    }
}
