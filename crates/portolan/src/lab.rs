//! `portolan up|down|status|shell`, and the lab as the walk uses it.

use std::path::PathBuf;
use std::process::ExitStatus;

use clap::Args;
use portolan_lab::{Attachment, LabConfig, LabError, LabHandle, Ready};
use portolan_pods::image::{Store, nginx_from};

use crate::failure::Failure;
use crate::settings::OutputFormat;

/// Name of the image that every lab can run.
const NGINX: &str = "nginx:latest";

/// Which lab of those that are up.
#[derive(Args, Clone, Debug)]
pub struct LabName {
    /// The lab's name; may be left out while one lab is up
    #[arg(long, value_name = "LAB")]
    name: Option<String>,
}

impl LabName {
    /// A lab is named, and not left to be found.
    pub fn is_given(&self) -> bool {
        self.name.is_some()
    }
}

/// Which lab, and what it is made of.
#[derive(Args, Clone, Debug)]
pub struct LabArgs {
    /// The lab's name
    #[arg(long, value_name = "LAB", default_value = portolan_lab::DEFAULT_NAME)]
    name: String,
    /// Number of virtual nodes
    #[arg(long, value_name = "N", default_value_t = 2)]
    nodes: usize,
    /// Where container images are kept; outlives labs
    #[arg(long, value_name = "DIR", env = "PORTOLAN_IMAGES")]
    image_store: Option<PathBuf>,
    /// Families of the LAN's, pods' and Services' addresses
    #[arg(long, value_name = "FAMILY", value_enum, default_value_t = IpFamilyArg::Ipv4)]
    ip_family: IpFamilyArg,
    #[command(flatten)]
    balancer: crate::settings::BalancerArgs,
    #[command(flatten)]
    registries: crate::image::RegistryArgs,
    /// Enforce containers' memory, CPU and process limits by cgroups; as root
    #[arg(long)]
    limits: bool,
    /// Most processes and threads of a pod, with --limits
    #[arg(long, value_name = "N", default_value_t = portolan_lab::DEFAULT_POD_PIDS, requires = "limits",
          value_parser = clap::value_parser!(u32).range(1..))]
    pod_pids_limit: u32,
    /// How an ordinary user's lab gets its uids
    #[arg(long, value_name = "HOW", value_enum, default_value_t = RootlessArg::Auto)]
    rootless: RootlessArg,
}

/// Families of a lab's addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum IpFamilyArg {
    /// IPv4 alone
    Ipv4,
    /// Both, IPv4 first
    Dual,
}

impl From<IpFamilyArg> for portolan_lab::IpFamily {
    fn from(arg: IpFamilyArg) -> Self {
        match arg {
            IpFamilyArg::Ipv4 => Self::Ipv4,
            IpFamilyArg::Dual => Self::Dual,
        }
    }
}

/// How an ordinary user's lab gets its uids.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum RootlessArg {
    /// Subordinate ids if they can be had, else one uid
    Auto,
    /// By newuidmap and the ranges of /etc/subuid and /etc/subgid
    Subuid,
    /// The user's own alone: every process of a pod has it
    OneUid,
}

impl From<RootlessArg> for portolan_lab::Rootless {
    fn from(arg: RootlessArg) -> Self {
        match arg {
            RootlessArg::Auto => Self::Auto,
            RootlessArg::Subuid => Self::Subuid,
            RootlessArg::OneUid => Self::OneUid,
        }
    }
}

/// One line for a lab that is not root's: as whom it runs, and why not in a better way.
fn rootless_line(lab: &portolan_lab::Lab) -> Option<String> {
    let identity = lab.identity();
    let because = lab.instead_because().map(|why| format!(" ({why})")).unwrap_or_default();
    identity.is_rootless().then(|| format!("The lab runs {identity}{because}."))
}

impl LabArgs {
    /// The image store: as told, else in the user's cache.
    pub fn image_store(&self) -> PathBuf {
        self.image_store.clone().unwrap_or_else(default_image_store)
    }

    fn config(&self) -> Result<LabConfig, Failure> {
        let exe = std::env::current_exe().map_err(|e| Failure::machine(format!("cannot find this program: {e}")))?;
        let mut config = LabConfig::new(&self.name, self.nodes, exe, self.image_store());
        config.iptables_dir = crate::tools::deb_bin();
        config.ip_family = self.ip_family.into();
        config.registries = self.registries.flags();
        config.balancer_pools = self.balancer.lb_pool.clone();
        config.limits = self.limits;
        config.pod_pids = self.pod_pids_limit;
        config.rootless = self.rootless.into();
        Ok(config)
    }
}

/// `$XDG_CACHE_HOME/portolan/images`, or the like.
pub fn default_image_store() -> PathBuf {
    let cache = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
    let home = || std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".cache"));
    cache.or_else(home).unwrap_or_else(|| PathBuf::from("/var/cache")).join("portolan/images")
}

/// Wrong use is 2, a machine that lacks something 3, all else "no".
pub fn failed(error: LabError) -> Failure {
    match error {
        LabError::BadName { .. }
        | LabError::BadNodes { .. }
        | LabError::BadPool { .. }
        | LabError::NoSuchPlace { .. }
        | LabError::Ambiguous { .. }
        | LabError::OneEnd { .. }
        | LabError::RootlessAsRoot => Failure::input(error),
        LabError::Missing { .. }
        | LabError::NoUserNamespace { .. }
        | LabError::NoSubordinateIds { .. }
        | LabError::Lacks(_) => Failure::machine(error),
        _ => Failure::no(error),
    }
}

/// Makes sure that the lab can run nginx: from the store, else packed from Debian's nginx that `make deps` fetched.
fn ensure_nginx(args: &LabArgs) -> Result<(), Failure> {
    let store = Store::open(&args.image_store()).map_err(Failure::no)?;
    if store.find(NGINX).is_some() {
        return Ok(());
    }
    let Some(root) = crate::tools::deb_bin().map(|bin| bin.with_file_name("root")).filter(|root| root.is_dir()) else {
        return Ok(());
    };
    eprintln!("packing {NGINX} from Debian's nginx; this happens once per image store …");
    let image = nginx_from(&root);
    store
        .build_from_host(&image)
        .map(|_| ())
        .map_err(|e| Failure::no(format!("cannot pack {NGINX} from {}: {e}", root.display())))
}

/// Brings a lab up; detached, it goes on after this process.
pub fn up(args: &LabArgs, proxy_mode: crate::proxy::ModeArg, detach: bool) -> Result<(), Failure> {
    sweep();
    ensure_nginx(args)?;
    let attachment = if detach { Attachment::Detached } else { Attachment::Attached };
    let mut config = args.config()?;
    config.proxy_mode = proxy_mode.into();
    let lab = portolan_lab::up(&config, attachment).map_err(failed)?;
    if let portolan_lab::Limits::Refused(reason) = lab.limits() {
        eprintln!(
            "portolan: limits of containers are not enforced: {reason}; the nodes' condition LimitsEnforced says so"
        );
    }
    let say = || {
        let name = &args.name;
        let ready = match args.nodes {
            1 => "1 node is Ready; `portolan status` shows it".to_owned(),
            many => format!("{many} nodes are Ready; `portolan status` shows them"),
        };
        println!("# {ready}, `portolan down --name {name}` ends the lab");
        if let Some(line) = rootless_line(&lab) {
            println!("# {line}");
        }
        println!("export KUBECONFIG={}", lab.kubeconfig().display());
    };
    if detach {
        say();
        return Ok(());
    }
    crate::process::block_on(async {
        let end = crate::process::told_to_end();
        // Said last: whoever reads it may send Ctrl-C at once.
        say();
        end.await;
        Ok(())
    })?;
    lab.down().map_err(failed)
}

/// Takes a lab down. One that had crashed is down once what it left is removed.
pub fn down(lab: &LabName) -> Result<(), Failure> {
    let swept = sweep();
    if lab.name.as_ref().is_some_and(|name| swept.contains(name)) {
        return Ok(());
    }
    find(lab)?.down().map_err(failed)
}

/// Takes all labs down, and clears what crashed ones left.
pub fn down_all() -> Result<(), Failure> {
    sweep();
    for lab in portolan_lab::list(&portolan_lab::state_root()) {
        lab.down().map_err(failed)?;
        println!("{} is down", lab.config().name);
    }
    Ok(())
}

/// Removes what crashed labs left, and says so; returns their names.
fn sweep() -> Vec<String> {
    let swept = portolan_lab::sweep(&portolan_lab::state_root());
    for name in &swept {
        eprintln!("portolan: lab {name} had crashed; what it left is removed");
    }
    swept
}

/// The lab that is meant; what crashed ones left is removed first.
///
/// # Errors
/// None such is up, or it is not clear which.
pub fn open(lab: &LabName) -> Result<portolan_lab::Lab, Failure> {
    sweep();
    find(lab)
}

fn find(lab: &LabName) -> Result<portolan_lab::Lab, Failure> {
    portolan_lab::find(&portolan_lab::state_root(), lab.name.as_deref()).map_err(failed)
}

/// The kubeconfig of the lab that is up.
///
/// # Errors
/// None is up, or more than one.
pub fn running_kubeconfig() -> Result<PathBuf, Failure> {
    sweep();
    match portolan_lab::find(&portolan_lab::state_root(), None) {
        Ok(lab) => Ok(lab.kubeconfig()),
        Err(LabError::NoneUp) => {
            Err(Failure::input("no cluster is named: run `portolan up`, or give --kubeconfig FILE"))
        }
        Err(LabError::Ambiguous { names }) => Err(Failure::input(format!(
            "more than one lab is up ({names}); say which by KUBECONFIG: `portolan status --name LAB` shows it"
        ))),
        Err(error) => Err(failed(error)),
    }
}

/// Shows a lab, and whether all is well in it.
pub fn status(lab: &LabName, output: OutputFormat) -> Result<(), Failure> {
    crate::status::show(&open(lab)?, output)
}

/// Runs a command somewhere in the lab and passes its exit code on.
pub fn shell(lab: &LabName, place: &str, command: &[String]) -> Result<(), Failure> {
    let place: portolan_lab::Place = place.parse().map_err(failed)?;
    let shell = [std::env::var("SHELL").unwrap_or_else(|_| "/bin/sh".to_owned())];
    let argv = if command.is_empty() { &shell[..] } else { command };
    passed_on(open(lab)?.run_in(&place, argv).map_err(failed)?)
}

fn passed_on(status: ExitStatus) -> Result<(), Failure> {
    use std::os::unix::process::ExitStatusExt;
    let code = status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0));
    match u8::try_from(code) {
        Ok(0) => Ok(()),
        Ok(code) => Err(Failure::silent(code)),
        Err(_) => Err(Failure::silent(1)),
    }
}

/// Somewhere in the lab, as the walk names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// A node, by name.
    Node(String),
    /// The host on the LAN that is no node.
    Outside,
}

impl Place {
    pub fn node(name: &str) -> Self {
        Self::Node(name.to_owned())
    }

    fn in_lab(&self) -> Result<portolan_lab::Place, LabError> {
        self.to_string().parse()
    }
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Node(name) => f.write_str(name),
            Self::Outside => f.write_str("outside"),
        }
    }
}

/// The walk's own lab: attached, so that it ends with the walk however that ends.
pub struct Lab {
    handle: Option<LabHandle>,
    lab: portolan_lab::Lab,
}

impl Lab {
    /// Brings up a fresh lab. The default name becomes one of the walk's own, so that a lab of the user's stays as it is.
    pub fn up_for_walk(args: &LabArgs) -> Result<Self, Failure> {
        let mut args = args.clone();
        if args.name == portolan_lab::DEFAULT_NAME {
            args.name = format!("walk-{}", std::process::id());
        }
        if args.nodes != 2 {
            return Err(Failure::input("--nodes: the walk tells of two nodes; leave --nodes out"));
        }
        ensure_nginx(&args)?;
        let mut config = args.config()?;
        config.ready = Ready::Nodes(std::time::Duration::from_secs(60));
        let handle = portolan_lab::up(&config, Attachment::Attached).map_err(failed)?;
        let lab = portolan_lab::Lab::open(&config.state_dir).map_err(failed)?;
        Ok(Self { handle: Some(handle), lab })
    }

    /// For a lab that is not root's: as whom it runs.
    pub fn rootless(&self) -> Option<String> {
        rootless_line(&self.lab)
    }

    /// Takes the lab down; what goes wrong then is said, and is not the walk's outcome.
    pub fn down(&mut self) {
        if let Some(handle) = self.handle.take()
            && let Err(error) = handle.down()
        {
            eprintln!("portolan: {error}");
        }
    }

    pub fn kubeconfig(&self) -> PathBuf {
        self.lab.kubeconfig()
    }

    /// A file of the walk's own in the lab's folder.
    pub fn scratch(&self, name: &str) -> PathBuf {
        self.lab.config().state_dir.join(name)
    }

    pub fn name(&self) -> String {
        self.lab.config().name.clone()
    }

    pub fn node_count(&self) -> usize {
        self.lab.config().nodes
    }

    /// Runs a command and gives how it ended and what it printed.
    pub fn capture(&self, place: &Place, argv: &[&str]) -> Result<portolan_lab::Captured, LabError> {
        self.lab.capture(&place.in_lab()?, argv)
    }

    /// The LAN address of a node, by name.
    pub fn node_address(&self, name: &str) -> String {
        let status = self.lab.status().ok();
        let node = status.and_then(|s| s.nodes.into_iter().find(|n| n.name == name));
        node.map(|n| n.address.to_string()).unwrap_or_default()
    }

    /// The LAN address of the host outside.
    pub fn outside_address(&self) -> String {
        self.lab.config().topology().outside().address.addr().to_string()
    }

    /// The process of a node's agent, while it runs.
    pub fn agent_pid(&self, node: &str) -> Option<i32> {
        self.lab.pid(&format!("agent-{node}")).ok().flatten()
    }

    /// What the upstream resolver on the host outside was asked.
    pub fn upstream_log(&self) -> String {
        std::fs::read_to_string(self.lab.upstream_queries()).unwrap_or_default()
    }

    /// Prints the ends of all logs to standard error: for a walk that failed where nobody can look.
    pub fn print_logs(&self) {
        for entry in std::fs::read_dir(self.lab.logs()).into_iter().flatten().flatten() {
            let text = std::fs::read_to_string(entry.path()).unwrap_or_default();
            eprintln!("── {}", entry.path().display());
            let lines: Vec<&str> = text.lines().collect();
            lines[lines.len().saturating_sub(60)..].iter().for_each(|line| eprintln!("{line}"));
        }
    }
}
