//! One container: put together, started, stopped.

use std::fs;
use std::path::Path;

use futures::FutureExt;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Container;

use super::departure::{self, Departure};
use super::probes;
use super::worker::Worker;
use crate::env::{Objects, PodFacts, container_env, wanted};
use crate::etc_files;
use crate::image::layer::open_inside;
use crate::image::{Image, Reference};
use crate::lifecycle::{Sandbox, Stopping};
use crate::limits::Limits;
use crate::resolv::resolv_conf;
use crate::shim::client::ShimError;
use crate::shim::protocol::{Request, StartContainer, StdioPlan};
use crate::shim::state::PodState;
use crate::spec::{Bind, Input, runtime_spec, stop_signal};
use crate::volumes;

impl Worker {
    fn container(&self, name: &str) -> Option<&Container> {
        let spec = self.pod.spec.as_ref()?;
        let mut all = spec.init_containers.iter().flatten().chain(&spec.containers);
        all.find(|container| container.name == name)
    }

    pub(super) async fn start_container(&mut self, name: &str, attempt: u32, streak: u32) {
        let Some(image) = self.images.get(name).cloned() else {
            // Known as ready by an earlier agent, not by this one.
            self.observed.images.remove(name);
            return;
        };
        if !image.rootfs.exists() {
            self.observed.images.remove(name);
            return;
        }
        let start = match self.assemble(name, attempt, streak, &image).await {
            Ok(start) => start,
            Err(message) => {
                self.observed.config_failed.insert(name.to_owned(), (Timestamp::now(), message));
                return;
            }
        };
        self.observed.config_failed.remove(name);
        let Some(shim) = &self.shim else {
            return self.lose_sandbox(None).await;
        };
        let started = shim.call(&Request::Start(Box::new(start))).await;
        let state = shim.fresh_state().await;
        match started {
            Ok(()) => self.shared.event(&self.ident, "Normal", "Started", &format!("Started container {name}")),
            Err(ShimError::Refused(message)) => {
                self.shared.event(
                    &self.ident,
                    "Warning",
                    "Failed",
                    &format!("Error: failed to start container {name}: {message}"),
                );
            }
            Err(error) => tracing::warn!(pod = %self.ident, %error, "container not started"),
        }
        match state {
            Ok(state) => self.take_state(&state),
            Err(_) => {
                let shim = self.shim.take();
                self.lose_sandbox(shim).await;
            }
        }
        // The next start looks at the store again: the image may have changed or gone.
        self.observed.images.remove(name);
    }

    /// Everything the shim needs for one container; an error says what is missing.
    async fn assemble(&self, name: &str, attempt: u32, streak: u32, image: &Image) -> Result<StartContainer, String> {
        let container = self.container(name).ok_or("the pod has no such container")?;
        let objects = self.objects().await?;
        let facts = self.facts();
        let config = &image.config;
        let image_env = config.env.clone().unwrap_or_default();
        let mut env = container_env(&self.pod, container, &image_env, &objects, &facts)?;
        if !env.iter().any(|(name, _)| name == "HOSTNAME") {
            env.push(("HOSTNAME".to_owned(), self.hostname()));
        }
        let places = volumes::prepare(&self.dir.join("volumes"), &self.pod, &objects, &facts)?;
        let mut binds = volumes::binds(container, &places, &env)?;
        binds.extend(self.etc_binds(&facts, &binds)?);
        let file = |path: &str| read_inside(&image.rootfs, path);
        let spec = runtime_spec(&Input {
            pod: &self.pod,
            container,
            image: config,
            passwd: &file("etc/passwd"),
            group: &file("etc/group"),
            env: &env,
            binds: &binds,
            available_capabilities: available_capabilities(),
        })?;
        let log = self.dir.join("logs").join(name).join(format!("{attempt}.log"));
        let repository = match Reference::parse(&image.reference) {
            Ok(name) => format!("{}/{}", name.registry, name.repository),
            Err(_) => image.reference.clone(),
        };
        Ok(StartContainer {
            name: name.to_owned(),
            attempt,
            streak,
            spec,
            lower: image.rootfs.clone(),
            log,
            image: image.reference.clone(),
            image_id: format!("{repository}@{}", image.digest),
            stop_signal: stop_signal(config),
            limits: Limits::of(container),
            stdio: stdio_plan(container),
        })
    }

    async fn objects(&self) -> Result<Objects, String> {
        let names = wanted(&self.pod);
        let mut objects = Objects::default();
        for name in names.config_maps {
            if let Some(map) = self.shared.api.config_map(&self.ident.namespace, &name).await? {
                objects.config_maps.insert(name, map);
            }
        }
        for name in names.secrets {
            if let Some(secret) = self.shared.api.secret(&self.ident.namespace, &name).await? {
                objects.secrets.insert(name, secret);
            }
        }
        Ok(objects)
    }

    fn facts(&self) -> PodFacts {
        let pod_ips = match &self.observed.sandbox {
            Sandbox::Ready { ips } => ips.clone(),
            Sandbox::Missing => Vec::new(),
        };
        PodFacts {
            pod_ips,
            host_ips: self.shared.config.node_ips.clone(),
            node_name: self.shared.config.node_name.clone(),
        }
    }

    fn on_host_network(&self) -> bool {
        self.pod.spec.as_ref().and_then(|spec| spec.host_network) == Some(true)
    }

    fn hostname(&self) -> String {
        if self.on_host_network() { self.shared.config.node_name.clone() } else { etc_files::hostname(&self.pod) }
    }

    /// hosts, hostname and resolv.conf, unless the pod mounts its own over them.
    fn etc_binds(&self, facts: &PodFacts, own: &[Bind]) -> Result<Vec<Bind>, String> {
        let config = &self.shared.config;
        let node_resolv = fs::read_to_string(&config.resolv_conf).unwrap_or_default();
        let spec = self.pod.spec.clone().unwrap_or_default();
        let (resolv, complaints) = resolv_conf(&spec, &self.ident.namespace, &node_resolv, &self.shared.cluster_dns());
        for complaint in complaints {
            self.shared.event(&self.ident, "Warning", complaint.reason, &complaint.message);
        }
        let hosts = if self.on_host_network() {
            etc_files::hosts_of_node(&self.pod, &fs::read_to_string("/etc/hosts").unwrap_or_default())
        } else {
            etc_files::hosts(&self.pod, &facts.pod_ips, &config.cluster_domain)
        };
        let dir = self.dir.join("etc");
        fs::create_dir_all(&dir).map_err(|error| format!("cannot create {}: {error}", dir.display()))?;
        let mut binds = Vec::new();
        for (name, text) in
            [("hosts", hosts), ("hostname", format!("{}\n", self.hostname())), ("resolv.conf", resolv.to_string())]
        {
            let source = dir.join(name);
            fs::write(&source, text).map_err(|error| format!("cannot write {}: {error}", source.display()))?;
            let destination = format!("/etc/{name}");
            if !own.iter().any(|bind| bind.destination == destination) {
                binds.push(Bind { source, destination, read_only: false });
            }
        }
        Ok(binds)
    }

    /// Marks the run as stopping; preStop and the signal go on beside, the grace time counts from now.
    pub(super) fn stop(&mut self, name: &str, run: String, grace_secs: i64, reason: &str) {
        self.shared.event(&self.ident, "Normal", "Killing", &format!("Stopping container {name}: {reason}"));
        self.observed.stopping.insert(run, Stopping { since: Timestamp::now(), grace_secs });
        let hook = self.container(name).and_then(|container| {
            let hook = container.lifecycle.as_ref()?.pre_stop.as_ref()?;
            Some((
                hook.exec.as_ref().and_then(|exec| exec.command.clone()),
                hook.sleep.as_ref().map(|sleep| sleep.seconds),
            ))
        });
        let state = PodState::load(&self.dir);
        let process = state.as_ref().and_then(|state| {
            let run = state.last_run(name)?;
            Some((run.process?, run.stop_signal))
        });
        let (dir, name, shared, ident) = (self.dir.clone(), name.to_owned(), self.shared.clone(), self.ident.clone());
        let departure = self.departure(grace_secs);
        tokio::spawn(async move {
            let hook = async move {
                let Some((command, sleep)) = hook else { return };
                if let Some(command) = command
                    && let Err(reason) = probes::run(dir, name, command).await
                {
                    shared.event(&ident, "Warning", "FailedPreStopHook", &reason);
                }
                if let Some(seconds) = sleep {
                    tokio::time::sleep(std::time::Duration::from_secs(seconds.max(0) as u64)).await;
                }
            };
            tokio::join!(hook, departure);
            if let Some((process, signal)) = process {
                process.signal(signal);
            }
        });
    }

    /// A deleted pod leaves its Services before its first container is told; the others wait for the same.
    fn departure(&mut self, grace_secs: i64) -> departure::Pending {
        if self.pod.metadata.deletion_timestamp.is_none() {
            return futures::future::ready(()).boxed().shared();
        }
        if let Some(known) = &self.departure {
            return known.clone();
        }
        let state = PodState::load(&self.dir);
        let departure = Departure {
            shared: self.shared.clone(),
            ident: self.ident.clone(),
            pod: self.pod.clone(),
            sandbox_pid: state.and_then(|state| state.sandbox).map(|sandbox| sandbox.pid),
            inbox: self.inbox.clone(),
            grace_secs,
        };
        let departure = departure.take().boxed().shared();
        self.departure = Some(departure.clone());
        departure
    }

    /// The network outlives the containers until their last data is taken. Nobody waits for the data of a pod that is
    /// killed without grace, nor are a node's own sockets looked at.
    pub(super) async fn flush(&self) {
        let is_hurried = self.observed.gone || self.pod.metadata.deletion_grace_period_seconds == Some(0);
        if is_hurried || self.on_host_network() || self.observed.runs.is_empty() {
            return;
        }
        if let Some(sandbox) = PodState::load(&self.dir).and_then(|state| state.sandbox) {
            departure::flush(sandbox.pid).await;
        }
    }

    pub(super) async fn kill(&mut self, name: &str) {
        let Some(shim) = &self.shim else {
            return self.lose_sandbox(None).await;
        };
        let asked = shim.call(&Request::Signal { name: name.to_owned(), signal: libc::SIGKILL }).await;
        if asked.is_err() {
            let shim = self.shim.take();
            self.lose_sandbox(shim).await;
        }
    }
}

fn stdio_plan(container: &Container) -> StdioPlan {
    StdioPlan {
        stdin: container.stdin == Some(true),
        stdin_once: container.stdin_once == Some(true),
        tty: container.tty == Some(true),
    }
}

fn read_inside(root: &Path, path: &str) -> String {
    use std::io::Read;
    let mut text = String::new();
    if let Ok(mut file) = open_inside(root, Path::new(path)) {
        let _ = file.read_to_string(&mut text);
    }
    text
}

/// The bounding set of this process: no more can be given to a container.
fn available_capabilities() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("CapBnd:"));
    line.and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok()).unwrap_or(0)
}
