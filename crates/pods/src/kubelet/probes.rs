//! The probes of one pod: a task each, for as long as `lifecycle` wants it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Container, Probe};
use tokio::sync::mpsc;
use tokio::task::AbortHandle;

use super::worker::Message;
use crate::exec::{self, ExecRequest};
use crate::lifecycle::{ProbeKey, ProbeKind};
use crate::probe::{self, Target};

/// Running probes by what they probe.
#[derive(Default)]
pub(super) struct Probes {
    running: BTreeMap<(ProbeKey, u32), AbortHandle>,
}

/// What a probe task needs.
pub(super) struct Context<'a> {
    pub(super) dir: &'a Path,
    pub(super) containers: Vec<&'a Container>,
    pub(super) pod_ip: Option<IpAddr>,
    pub(super) inbox: &'a mpsc::UnboundedSender<Message>,
    /// Start of the run, by container and attempt.
    pub(super) started: BTreeMap<(String, u32), Timestamp>,
}

impl Probes {
    /// Starts what is missing and stops what is not wanted any more.
    pub(super) fn set(&mut self, wanted: &BTreeSet<(ProbeKey, u32)>, context: &Context<'_>) {
        self.running.retain(|key, task| {
            let keep = wanted.contains(key);
            if !keep {
                task.abort();
            }
            keep
        });
        for key in wanted {
            if self.running.contains_key(key) {
                continue;
            }
            if let Some(task) = start(key, context) {
                self.running.insert(key.clone(), task);
            }
        }
    }
}

impl Drop for Probes {
    fn drop(&mut self) {
        self.running.values().for_each(AbortHandle::abort);
    }
}

pub(super) fn probe_of(container: &Container, kind: ProbeKind) -> Option<&Probe> {
    match kind {
        ProbeKind::Startup => container.startup_probe.as_ref(),
        ProbeKind::Readiness => container.readiness_probe.as_ref(),
        ProbeKind::Liveness => container.liveness_probe.as_ref(),
    }
}

fn start((key, attempt): &(ProbeKey, u32), context: &Context<'_>) -> Option<AbortHandle> {
    let container = context.containers.iter().find(|container| container.name == key.container)?;
    let probe = probe_of(container, key.kind)?.clone();
    let target = probe::target(&probe, container, context.pod_ip);
    let since_start = context
        .started
        .get(&(key.container.clone(), *attempt))
        .map_or(Duration::ZERO, |at| Timestamp::now().duration_since(*at).try_into().unwrap_or_default());
    let (inbox, dir, key, attempt) = (context.inbox.clone(), context.dir.to_path_buf(), key.clone(), *attempt);
    let task = tokio::spawn(async move {
        let seconds = |value: Option<i32>, default: i32| Duration::from_secs(value.unwrap_or(default).max(0) as u64);
        let period = seconds(probe.period_seconds, 10).max(Duration::from_secs(1));
        let timeout = seconds(probe.timeout_seconds, 1).max(Duration::from_secs(1));
        tokio::time::sleep(seconds(probe.initial_delay_seconds, 0).saturating_sub(since_start)).await;
        let mut ticks = tokio::time::interval(period);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut was_good = false;
        loop {
            ticks.tick().await;
            let result = match &target {
                Ok(target) => ask(target, &dir, &key.container, timeout).await,
                Err(reason) => Err(reason.clone()),
            };
            let is_good = result.is_ok();
            if inbox.send(Message::Probe { key: key.clone(), attempt, result }).is_err() {
                return;
            }
            // Until its first good answer a pod is asked each second: a failure more changes nothing for readiness.
            if !is_good && !was_good && key.kind == ProbeKind::Readiness {
                ticks.reset_after(period.min(Duration::from_secs(1)));
            }
            was_good |= is_good;
        }
    });
    Some(task.abort_handle())
}

async fn ask(target: &Target, dir: &Path, container: &str, timeout: Duration) -> Result<(), String> {
    match target {
        Target::Exec { command } => {
            let (dir, container, command) = (dir.to_path_buf(), container.to_owned(), command.clone());
            match tokio::time::timeout(timeout, run(dir, container, command)).await {
                Ok(result) => result,
                Err(_) => Err(format!("command timed out: no end within {} s", timeout.as_secs())),
            }
        }
        network => probe::ask(network, timeout).await,
    }
}

/// Runs a command to its end; its output is the message if it fails.
pub(super) async fn run(dir: PathBuf, container: String, command: Vec<String>) -> Result<(), String> {
    use tokio::io::AsyncReadExt;
    let request = ExecRequest { command, ..ExecRequest::default() };
    let mut session = exec::start(&dir, &container, &request).await.map_err(|error| error.to_string())?;
    let mut output = Vec::new();
    let mut errors = Vec::new();
    let read_errors = async {
        if let Some(stderr) = &mut session.stderr {
            let _ = stderr.take(4096).read_to_end(&mut errors).await;
        }
    };
    let mut stdout = (&mut session.stdout).take(4096);
    let _ = tokio::join!(stdout.read_to_end(&mut output), read_errors);
    output.extend(errors);
    match session.wait().await.map_err(|error| error.to_string())? {
        0 => Ok(()),
        code => Err(format!("exit code {code}: {}", String::from_utf8_lossy(&output).trim())),
    }
}
