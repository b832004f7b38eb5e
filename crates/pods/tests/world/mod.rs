//! A node for tests: namespaces of its own, an image store, a kubelet over a fake cluster.
//!
//! The test binary re-executes itself as shim and sandbox, as the real binary does. Before `main`, when
//! there is one thread, it takes those subcommands, or moves into fresh network, mount and UTS namespaces.

use std::collections::BTreeMap;
use std::ffi::{CStr, OsString};
use std::net::IpAddr;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, Once};
use std::time::{Duration, Instant};

use futures::FutureExt;
use futures::future::BoxFuture;
use k8s_openapi::api::core::v1::{ConfigMap, ContainerStatus, Pod, PodStatus, Secret};
use portolan_pods::image::{HostImage, PullOptions, Store, StorePuller};
use portolan_pods::{Kubelet, KubeletConfig, PodApi, PodIdent, PodNetwork};

#[used]
#[unsafe(link_section = ".init_array")]
static BEFORE_MAIN: extern "C" fn(i32, *const *const libc::c_char) = before_main;

extern "C" fn before_main(count: i32, args: *const *const libc::c_char) {
    let args: Vec<OsString> = (0..count as usize)
        // SAFETY: glibc passes argc and argv to these functions.
        .map(|at| OsString::from_vec(unsafe { CStr::from_ptr(*args.add(at)) }.to_bytes().to_vec()))
        .collect();
    if args.get(1).is_some_and(|arg| arg == "pod-shim" || arg == "pod-sandbox") {
        // As std does before main, so that the shim has to undo it.
        // SAFETY: no thread exists yet.
        unsafe { libc::signal(libc::SIGPIPE, libc::SIG_IGN) };
        let code = portolan_pods::reexec(&args).map_or(1, |code| i32::from(code != std::process::ExitCode::SUCCESS));
        std::process::exit(code);
    }
    let flags = libc::CLONE_NEWNET | libc::CLONE_NEWNS | libc::CLONE_NEWUTS;
    // SAFETY: plain system calls; no thread exists yet.
    unsafe {
        assert_eq!(libc::unshare(flags), 0, "these tests need root");
        let root = c"/".as_ptr();
        let none = c"none".as_ptr();
        assert_eq!(libc::mount(none, root, std::ptr::null(), libc::MS_REC | libc::MS_PRIVATE, std::ptr::null()), 0);
        libc::sethostname(c"ptl-t-node".as_ptr(), 10);
        // Pods keep their state on a tmpfs, as on a lab's node.
        let none_but_size = c"size=256m".as_ptr().cast();
        assert_eq!(libc::mount(c"tmpfs".as_ptr(), c"/mnt".as_ptr(), c"tmpfs".as_ptr(), 0, none_but_size), 0);
        let socket = libc::socket(libc::AF_INET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0);
        let mut request: libc::ifreq = std::mem::zeroed();
        request.ifr_name[0] = b'l' as libc::c_char;
        request.ifr_name[1] = b'o' as libc::c_char;
        request.ifr_ifru.ifru_flags = libc::IFF_UP as libc::c_short;
        assert_eq!(libc::ioctl(socket, libc::SIOCSIFFLAGS, &request), 0);
        libc::close(socket);
    }
}

/// Where `scripts/fetch-debs.sh` unpacked Debian's packages.
pub fn deb_root() -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/deb/root");
    assert!(root.join("usr/sbin/nginx").exists(), "run scripts/fetch-debs.sh first");
    root
}

/// Keeps what a kubelet writes.
#[derive(Default)]
pub struct Cluster {
    pub statuses: Mutex<BTreeMap<String, Vec<PodStatus>>>,
    pub finalized: Mutex<Vec<String>>,
    pub events: Mutex<Vec<String>>,
    pub config_maps: Mutex<BTreeMap<String, ConfigMap>>,
    pub attached: Mutex<Vec<String>>,
    pub detached: Mutex<Vec<String>>,
    /// So many attachments fail before one succeeds.
    pub failing_attachments: AtomicU32,
    /// Services select the pods.
    pub is_endpoint: AtomicBool,
    /// 1: they can do without them; 2: nobody sends to them any more.
    pub services_let_go: tokio::sync::watch::Sender<u8>,
}

impl PodApi for Cluster {
    fn patch_status(&self, pod: &PodIdent, status: PodStatus) -> BoxFuture<'_, Result<(), String>> {
        self.statuses.lock().expect("whole").entry(pod.name.clone()).or_default().push(status);
        async { Ok(()) }.boxed()
    }

    fn finalize_delete(&self, pod: &PodIdent) -> BoxFuture<'_, Result<(), String>> {
        self.finalized.lock().expect("whole").push(pod.name.clone());
        async { Ok(()) }.boxed()
    }

    fn event(&self, pod: &PodIdent, type_: &str, reason: &str, message: &str) -> BoxFuture<'_, ()> {
        self.events.lock().expect("whole").push(format!("{} {type_} {reason} {message}", pod.name));
        async {}.boxed()
    }

    fn config_map(&self, _: &str, name: &str) -> BoxFuture<'_, Result<Option<ConfigMap>, String>> {
        let found = self.config_maps.lock().expect("whole").get(name).cloned();
        async { Ok(found) }.boxed()
    }

    fn secret(&self, _: &str, _: &str) -> BoxFuture<'_, Result<Option<Secret>, String>> {
        async { Ok(None) }.boxed()
    }
}

impl PodNetwork for Cluster {
    fn attach(&self, pod: &PodIdent, netns: &Path) -> BoxFuture<'_, Result<Vec<IpAddr>, String>> {
        assert!(netns.exists(), "the namespace is there to be attached");
        let still_failing = self.failing_attachments.load(Ordering::SeqCst);
        if still_failing > 0 {
            self.failing_attachments.store(still_failing - 1, Ordering::SeqCst);
            return async { Err("no address is free".to_owned()) }.boxed();
        }
        let mut attached = self.attached.lock().expect("whole");
        attached.push(pod.name.clone());
        let ip = IpAddr::from([10, 244, 0, attached.len() as u8]);
        async move { Ok(vec![ip]) }.boxed()
    }

    fn detach(&self, pod: &PodIdent) -> BoxFuture<'_, Result<(), String>> {
        self.detached.lock().expect("whole").push(pod.name.clone());
        async { Ok(()) }.boxed()
    }

    fn wait_spare<'a>(&'a self, _: &'a Pod) -> BoxFuture<'a, bool> {
        let mut let_go = self.services_let_go.subscribe();
        async move {
            let is_endpoint = self.is_endpoint.load(Ordering::SeqCst);
            is_endpoint && let_go.wait_for(|stage| *stage >= 1).await.is_ok()
        }
        .boxed()
    }

    fn wait_silent<'a>(&'a self, _: &'a Pod) -> BoxFuture<'a, ()> {
        let mut let_go = self.services_let_go.subscribe();
        async move { drop(let_go.wait_for(|stage| *stage >= 2).await) }.boxed()
    }
}

/// One node and its cluster.
pub struct Node {
    pub dir: tempfile::TempDir,
    pub cluster: Arc<Cluster>,
    pub kubelet: Arc<Kubelet>,
}

pub const WAIT: Duration = Duration::from_secs(20);

impl Node {
    /// With the image `tools:1`: the machine's sh, sleep, cat and what they need.
    pub fn new() -> Self {
        let dir = tempfile::Builder::new().prefix("ptl-t-").tempdir_in("/mnt").expect("temp");
        TOOLS.call_once(build_tools);
        let cluster = Arc::new(Cluster::default());
        let kubelet = start(dir.path(), &cluster);
        Self { dir, cluster, kubelet }
    }

    /// Adds `nginx:latest`, packed from Debian's.
    pub fn with_nginx(self) -> Self {
        NGINX.call_once(|| {
            store().build_from_host(&portolan_pods::image::nginx_from(&deb_root())).expect("builds");
        });
        self
    }

    /// As an agent that died and came back.
    pub fn restart_agent(&mut self) {
        self.kubelet = start(self.dir.path(), &self.cluster);
    }

    pub fn run(&self, name: &str, spec: serde_json::Value) -> Pod {
        let pod = pod(name, spec);
        self.kubelet.set_pod(pod.clone());
        pod
    }

    pub fn status(&self, name: &str) -> PodStatus {
        let rows = self.kubelet.pods();
        rows.into_iter().find(|row| row.ident.name == name).map(|row| row.status).unwrap_or_default()
    }

    /// The first container's status.
    pub fn container(&self, name: &str) -> ContainerStatus {
        self.status(name).container_statuses.unwrap_or_default().into_iter().next().unwrap_or_default()
    }

    pub async fn until(&self, what: &str, mut is_so: impl FnMut(&Self) -> bool) {
        let start = Instant::now();
        while !is_so(self) {
            if start.elapsed() > WAIT {
                let events = self.cluster.events.lock().expect("whole").join("\n");
                let statuses: Vec<_> =
                    self.kubelet.pods().into_iter().map(|row| serde_json::to_string(&row.status)).collect();
                panic!("not within {WAIT:?}: {what}\n{events}\n{statuses:?}");
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    pub async fn until_running(&self, name: &str) {
        let runs = |node: &Self| node.container(name).state.is_some_and(|state| state.running.is_some());
        self.until(&format!("{name} runs"), runs).await;
    }

    pub fn pod_dir(&self, pod: &Pod) -> PathBuf {
        self.dir.path().join("pods").join(pod.metadata.uid.as_deref().expect("has a uid"))
    }

    /// Standard output and exit code of a command in a container.
    pub async fn exec(&self, name: &str, command: &[&str]) -> (String, i32) {
        use tokio::io::AsyncReadExt;
        let request = portolan_pods::ExecRequest {
            command: command.iter().map(|word| (*word).to_owned()).collect(),
            ..Default::default()
        };
        let mut session = self.kubelet.exec("default", name, "c", request).await.expect("begins");
        let mut output = String::new();
        session.stdout.read_to_string(&mut output).await.expect("text");
        let code = session.wait().await.expect("ends");
        (output, code)
    }

    pub async fn log(&self, name: &str) -> String {
        use futures::StreamExt;
        let stream = self.kubelet.logs("default", name, "c", Default::default()).await.expect("has a log");
        let parts: Vec<_> = stream.map(|part| part.expect("readable")).collect().await;
        String::from_utf8(parts.concat()).expect("text")
    }

    /// Deletes as the API does, and waits until nothing is left.
    pub async fn delete(&self, pod: Pod, grace_secs: i64) {
        let name = pod.metadata.name.clone().expect("named");
        let dir = self.pod_dir(&pod);
        self.kubelet.set_pod(deleted(pod, grace_secs));
        self.until(&format!("{name} is deleted"), |node| node.cluster.finalized.lock().expect("whole").contains(&name))
            .await;
        assert!(!dir.exists(), "the pod's folder is gone");
    }
}

impl Drop for Node {
    /// A test that failed leaves pods; with their shims they end.
    fn drop(&mut self) {
        self.kubelet.stop();
        let Ok(pods) = std::fs::read_dir(self.dir.path().join("pods")) else { return };
        for pod in pods.filter_map(Result::ok) {
            if let Some(state) = portolan_pods::shim::state::PodState::load(&pod.path()) {
                state.shim.signal(libc::SIGKILL);
            }
        }
    }
}

static TOOLS: Once = Once::new();
static NGINX: Once = Once::new();

/// One store for all tests; images are built once a run and unpacked anew only if they changed.
fn store() -> Store {
    Store::open(&Path::new(env!("CARGO_TARGET_TMPDIR")).join("ptl-t-images")).expect("opens")
}

fn build_tools() {
    let spec = HostImage {
        name: "tools:1".to_owned(),
        programs: ["/bin/sh", "/bin/sleep", "/bin/cat", "/bin/hostname", "/bin/touch", "/bin/stty", "/usr/bin/id"]
            .map(PathBuf::from)
            .into(),
        users: vec!["web:x:33:34::/:/bin/sh".to_owned()],
        cmd: vec!["sleep".to_owned(), "1000".to_owned()],
        ..HostImage::default()
    };
    store().build_from_host(&spec).expect("builds");
}

fn start(dir: &Path, cluster: &Arc<Cluster>) -> Arc<Kubelet> {
    let config = KubeletConfig {
        node_name: "ptl-t-node".to_owned(),
        node_ips: vec![IpAddr::from([172, 18, 0, 11])],
        state_dir: dir.join("pods"),
        cluster_dns: vec![IpAddr::from([10, 96, 0, 10])],
        cluster_domain: "cluster.local".to_owned(),
        resolv_conf: PathBuf::from("/nonexistent"),
        exe: std::env::current_exe().expect("has a name"),
        puller: Arc::new(StorePuller { store: store(), options: PullOptions::default(), broker: None }),
        limits: None,
    };
    Kubelet::start(config, cluster.clone(), cluster.clone())
}

pub fn pod(name: &str, spec: serde_json::Value) -> Pod {
    serde_json::from_value(serde_json::json!({
        "metadata": {"name": name, "namespace": "default", "uid": format!("uid-{name}")}, "spec": spec
    }))
    .expect("a pod")
}

/// One container `c` of `tools:1` running a shell script.
pub fn script(text: &str) -> serde_json::Value {
    serde_json::json!({"containers": [{"name": "c", "image": "tools:1", "command": ["sh", "-c", text]}]})
}

pub fn deleted(mut pod: Pod, grace_secs: i64) -> Pod {
    pod.metadata.deletion_timestamp = Some(k8s_openapi::jiff::Timestamp::now().into());
    pod.metadata.deletion_grace_period_seconds = Some(grace_secs);
    pod
}

/// Processes whose command line holds `text`.
pub fn processes_with(text: &str) -> Vec<i32> {
    let listing = std::fs::read_dir("/proc").expect("proc");
    let pids = listing.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<i32>().ok());
    pids.filter(|pid| {
        let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        *pid != std::process::id() as i32 && String::from_utf8_lossy(&line).replace('\0', " ").contains(text)
    })
    .collect()
}
