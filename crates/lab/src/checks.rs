//! What the machine must offer, tried before anything is made; one line and the remedy if it does not.
//!
//! Root tries in its own process. For an ordinary user all must be tried in a user namespace, which only a process with
//! one thread can make: so `up` runs `lab-check` for each way the lab could run, and takes the first that goes.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

use portolan_kernel::iptables::{Family, Flush, IptablesError, Tool};
use portolan_kernel::netlink::{Netlink, VethSpec};
use portolan_kernel::netns;
use portolan_kernel::nft::Nft;
use rustix::pipe::{PipeFlags, pipe_with};
use serde::{Deserialize, Serialize};

use crate::config::{LabConfig, ProxyMode};
use crate::error::{LabError, system};
use crate::etc;
use crate::identity::{self, Candidate, Facts, Identity};
use crate::isolated::{Cgroups, Isolated, failed};
use crate::place;
use crate::process::die_with_parent;
use crate::refusal::{Refused, Settings, Step, why};

/// Tries each feature in namespaces that are gone afterwards; as whom the lab can run, and why not in a better way.
pub(crate) fn machine(config: &LabConfig) -> Result<(Identity, Option<String>), LabError> {
    let mut last = None;
    for Candidate { identity, instead_because } in identity::candidates(config.rootless, &facts())? {
        if identity == Identity::Root {
            return features(config.proxy_mode, config.iptables_dir.as_deref()).map(|()| (identity, None));
        }
        let refused = match try_as_user(config, &identity)? {
            Outcome::Fine => return Ok((identity, instead_because.or(last.as_ref().map(one_line)))),
            Outcome::Lacks(line) => return Err(LabError::Lacks(line)),
            Outcome::Refused(refused) => last.insert(refused),
        };
        if refused.step != Step::Map {
            break; // no other map helps where no namespace can be had
        }
    }
    Err(explain(&last.expect("there is at least one candidate, and each was refused")))
}

fn one_line(refused: &Refused) -> String {
    format!("{}; {}", refused.detail, why(refused, &Settings::read()))
}

/// The line for a user namespace that could not be had.
pub(crate) fn explain(refused: &Refused) -> LabError {
    LabError::NoUserNamespace { detail: refused.detail.clone(), cause: why(refused, &Settings::read()) }
}

fn facts() -> Facts {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let uid = rustix::process::geteuid().as_raw();
    Facts {
        uid,
        gid: rustix::process::getegid().as_raw(),
        name: name_of(uid),
        subuid: read("/etc/subuid"),
        subgid: read("/etc/subgid"),
        newuidmap: on_path("newuidmap"),
        newgidmap: on_path("newgidmap"),
    }
}

/// By whatever the machine knows users from. getpwuid_r(3).
fn name_of(uid: u32) -> Option<String> {
    let mut buffer = vec![0; 16 * 1024];
    // SAFETY: `passwd` is plain data; the name is read while the buffer it points into lives.
    unsafe {
        let mut entry: libc::passwd = std::mem::zeroed();
        let mut found = std::ptr::null_mut();
        let failed = libc::getpwuid_r(uid, &mut entry, buffer.as_mut_ptr(), buffer.len(), &mut found);
        if failed != 0 || found.is_null() {
            return None;
        }
        std::ffi::CStr::from_ptr(entry.pw_name).to_str().ok().map(str::to_owned)
    }
}

fn on_path(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_else(|| "/usr/bin:/bin".into());
    std::env::split_paths(&path).map(|dir| dir.join(name)).find(|program| program.is_file())
}

/// What `lab-check` is asked.
#[derive(Serialize, Deserialize)]
struct Asked {
    identity: Identity,
    iptables_dir: Option<PathBuf>,
    proxy_mode: ProxyMode,
}

/// What it answers.
#[derive(Debug, Serialize, Deserialize)]
enum Outcome {
    Fine,
    Refused(Refused),
    /// In words, with the remedy.
    Lacks(String),
}

fn try_as_user(config: &LabConfig, identity: &Identity) -> Result<Outcome, LabError> {
    let asked =
        Asked { identity: identity.clone(), iptables_dir: config.iptables_dir.clone(), proxy_mode: config.proxy_mode };
    let text = serde_json::to_string(&asked).expect("the question has text keys only");
    let mut command = Command::new(&config.exe);
    command.args(["lab-check", &text]).stdin(Stdio::null()).stderr(Stdio::inherit());
    let output = command.output().map_err(system(format!("cannot start {}", config.exe.display())))?;
    serde_json::from_slice(&output.stdout).map_err(|e| {
        let said = String::from_utf8_lossy(&output.stdout);
        LabError::Lacks(format!("the check of this machine ended with {} and said {said:?}: {e}", output.status))
    })
}

/// `lab-check QUESTION`
pub(crate) fn run(question: &Path) -> ExitCode {
    let outcome =
        question.to_str().and_then(|text| serde_json::from_str::<Asked>(text).ok()).map(|asked| check(&asked));
    let Some(outcome) = outcome else {
        return ExitCode::from(2);
    };
    let text = serde_json::to_string(&outcome).expect("the answer has text keys only");
    match io::stdout().write_all(text.as_bytes()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}

fn check(asked: &Asked) -> Outcome {
    let (answer_read, answer_write) = match pipe_with(PipeFlags::CLOEXEC) {
        Ok(pipe) => pipe,
        Err(error) => return Outcome::Lacks(format!("cannot make a pipe: {error}")),
    };
    let mut answer_write = Some(File::from(answer_write));
    let work = || {
        let outcome =
            die_with_parent().map_err(failed(Step::Use, "prctl")).map_or_else(Outcome::Refused, |()| inside(asked));
        let text = serde_json::to_vec(&outcome).expect("the answer has text keys only");
        let sent = answer_write.as_mut().is_some_and(|answer| answer.write_all(&text).is_ok());
        i32::from(!sent)
    };
    let mut child = match Isolated::start(&asked.identity, Cgroups::Own, work) {
        Ok(child) => child,
        Err(refused) => return Outcome::Refused(refused),
    };
    drop(answer_write);
    let mut text = Vec::new();
    let heard = File::from(answer_read).read_to_end(&mut text);
    let ended = child.wait();
    match heard.map_err(|e| e.to_string()).and_then(|_| serde_json::from_slice(&text).map_err(|e| e.to_string())) {
        Ok(outcome) => outcome,
        Err(error) => {
            Outcome::Lacks(format!("the check in new namespaces ended ({ended:?}) without an answer: {error}"))
        }
    }
}

/// In the new namespaces, as uid 0 of them.
fn inside(asked: &Asked) -> Outcome {
    let refused = |error: LabError| {
        let errno = match &error {
            LabError::System { source, .. } | LabError::File { source, .. } => source.raw_os_error(),
            _ => None,
        };
        Outcome::Refused(Refused { step: Step::Use, detail: error.to_string(), errno })
    };
    if let Err(error) = place::make_mounts_private().and_then(|()| place::mount_proc()) {
        return refused(error);
    }
    match features(asked.proxy_mode, asked.iptables_dir.as_deref()).and_then(|()| etc::attempt()) {
        Ok(()) => Outcome::Fine,
        Err(error @ (LabError::System { .. } | LabError::File { .. })) => refused(error),
        Err(error) => Outcome::Lacks(error.to_string()),
    }
}

fn features(mode: ProxyMode, iptables_dir: Option<&Path>) -> Result<(), LabError> {
    let near = netns::create().map_err(|e| LabError::Missing {
        feature: "the right to make network namespaces",
        detail: e.to_string(),
        remedy: "run it outside a restricted container, or give that container CAP_SYS_ADMIN",
    })?;
    let far = netns::create()?;
    netns::run_in(near.as_fd(), || links(far.as_fd()).and_then(|()| rules(mode, iptables_dir)))?
}

fn links(far: std::os::fd::BorrowedFd<'_>) -> Result<(), LabError> {
    let mut netlink = Netlink::open()?;
    let missing = |feature, remedy| {
        move |e: portolan_kernel::NetlinkError| LabError::Missing { feature, detail: e.to_string(), remedy }
    };
    netlink.create_bridge("ptl-check").map_err(missing(
        "the kernel's bridge device",
        "load it with `modprobe bridge` or take a kernel with CONFIG_BRIDGE",
    ))?;
    let spec = VethSpec {
        name: "ptl-check-a",
        peer_name: "ptl-check-b",
        peer_netns: Some(far),
        mac: None,
        peer_mac: None,
        mtu_bytes: 1500,
    };
    netlink
        .create_veth(&spec)
        .map_err(missing("the kernel's veth device", "load it with `modprobe veth` or take a kernel with CONFIG_VETH"))
}

/// What the nodes' mode needs; without a word of the mode, nf_tables does where there is no iptables.
fn rules(mode: ProxyMode, iptables_dir: Option<&Path>) -> Result<(), LabError> {
    match mode {
        ProxyMode::Iptables => nat(iptables_dir),
        ProxyMode::Nftables => nf_tables(),
        ProxyMode::Auto => nat(iptables_dir).or_else(|error| match error {
            LabError::Missing { feature: NO_IPTABLES, .. } => nf_tables(),
            other => Err(other),
        }),
    }
}

fn nf_tables() -> Result<(), LabError> {
    let asked = Nft::open().and_then(|mut nft| nft.generation());
    asked.map(drop).map_err(|e| LabError::Missing {
        feature: "nf_tables",
        detail: e.to_string(),
        remedy: "load `nf_tables`, or take a kernel with CONFIG_NF_TABLES",
    })
}

const NO_IPTABLES: &str = "iptables";
const NAT_RULE: &str = "*nat\n-A POSTROUTING -m comment --comment portolan-check -j MASQUERADE\nCOMMIT\n";

fn nat(iptables_dir: Option<&Path>) -> Result<(), LabError> {
    let tool =
        iptables_dir.map_or_else(Tool::from_environment, |dir| Tool { dir: Some(dir.to_owned()), env: Vec::new() });
    tool.restore(Family::V4, NAT_RULE, Flush::Keep).map_err(|e| match e {
        IptablesError::Start { .. } => LabError::Missing {
            feature: NO_IPTABLES,
            detail: e.to_string(),
            remedy: "`scripts/fetch-debs.sh` brings it without installing anything",
        },
        other => LabError::Missing {
            feature: "iptables' nat table",
            detail: other.to_string(),
            remedy: "load `nf_nat` and `nft_compat`, or take a kernel with CONFIG_NF_NAT",
        },
    })
}
