//! What a lab is asked to be, and where its files are.

use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::cgroups::Limits;
use crate::error::{LabError, file};
use crate::ground::state_root;
use crate::identity::{Identity, Rootless};
use crate::topology::{HostSpec, MOST_NODES, Topology};

/// The lab's name if none is given.
pub const DEFAULT_NAME: &str = "lab";

/// Enough for any server, and a fork bomb stays in its pod.
pub const DEFAULT_POD_PIDS: u32 = 1024;

/// When `up` counts the lab as up.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Ready {
    /// The lab's processes were started.
    Started,
    /// Every Node object is Ready and each node has a route to every other's pods, within this time.
    Nodes(Duration),
}

/// Whether a lab ends with the process that started it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Attachment {
    /// It ends when the handle is dropped or the process that holds it dies.
    Attached,
    /// It stays until `down`.
    Detached,
}

/// How nodes write the rules of Services.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum ProxyMode {
    /// iptables where its programs are at hand, else nftables.
    Auto,
    /// kube-proxy's chains, by the iptables programs.
    #[default]
    Iptables,
    /// Our own tables, by netlink alone.
    Nftables,
}

/// Which families the LAN, pods and Services have addresses of.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum IpFamily {
    #[default]
    Ipv4,
    /// IPv4 first, and IPv6 beside it.
    Dual,
}

/// Where a lab has both families, as kind's: pods, Services, cluster DNS.
const CLUSTER_CIDR_V6: &str = "fd00:10:244::/56";
const SERVICE_CIDR_V6: &str = "fd00:10:96::/112";
const CLUSTER_DNS_V6: &str = "fd00:10:96::a";

/// One lab.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct LabConfig {
    pub name: String,
    /// Number of virtual nodes, 1 to 200.
    pub nodes: usize,
    /// The program the lab's processes are started from: this one, as a rule.
    pub exe: PathBuf,
    /// This lab's folder on the machine; made by `up`, removed by `down`.
    pub state_dir: PathBuf,
    /// Folder of images, shared by all nodes and kept.
    pub image_store: PathBuf,
    /// Flags that say which registries may be asked for images; for the agents and for who fetches for them. Empty: none
    /// is asked, and nobody fetches.
    #[serde(default)]
    pub registries: Vec<String>,
    /// Whether containers' limits are to be enforced by cgroups.
    #[serde(default)]
    pub limits: bool,
    /// Most processes and threads of a pod, where limits are enforced; kubelet's podPidsLimit.
    #[serde(default)]
    pub pod_pids: u32,
    /// What agents are told of limits; filled in by `up`.
    #[serde(default)]
    pub limit_flags: Vec<String>,
    /// Folder of the iptables programs; put in front of PATH in the lab. `None`: the machine's PATH.
    pub iptables_dir: Option<PathBuf>,
    #[serde(default)]
    pub proxy_mode: ProxyMode,
    #[serde(default)]
    pub ip_family: IpFamily,
    /// Of IPv4; see [`LabConfig::service_cidrs`].
    pub service_cidr: IpNet,
    pub cluster_cidr: IpNet,
    pub cluster_dns: IpAddr,
    pub cluster_domain: String,
    /// Ranges that Services of type LoadBalancer get addresses from; nodes answer for them on the LAN.
    #[serde(default)]
    pub balancer_pools: Vec<IpNet>,
    /// Added to the environment of the API server and the agents.
    pub env: Vec<(String, String)>,
    pub ready: Ready,
    /// How an ordinary user's lab gets its ids.
    #[serde(default)]
    pub rootless: Rootless,
}

impl LabConfig {
    /// The field's defaults, with the state below [`state_root`].
    pub fn new(name: &str, nodes: usize, exe: PathBuf, image_store: PathBuf) -> LabConfig {
        LabConfig {
            name: name.to_owned(),
            nodes,
            exe,
            state_dir: state_root().join(name),
            image_store,
            registries: Vec::new(),
            limits: false,
            pod_pids: DEFAULT_POD_PIDS,
            limit_flags: Vec::new(),
            iptables_dir: None,
            proxy_mode: ProxyMode::default(),
            ip_family: IpFamily::default(),
            service_cidr: "10.96.0.0/12".parse().expect("a CIDR"),
            cluster_cidr: "10.244.0.0/16".parse().expect("a CIDR"),
            cluster_dns: "10.96.0.10".parse().expect("an address"),
            cluster_domain: "cluster.local".to_owned(),
            balancer_pools: Vec::new(),
            env: Vec::new(),
            ready: Ready::Nodes(Duration::from_secs(60)),
            rootless: Rootless::Auto,
        }
    }

    pub fn topology(&self) -> Topology {
        let (service_cidrs, balancer_pools) = (self.service_cidrs(), self.balancer_pools.clone());
        Topology { nodes: self.nodes, service_cidrs, balancer_pools }
    }

    /// Ranges of ClusterIPs, one per family.
    pub fn service_cidrs(&self) -> Vec<IpNet> {
        self.with_v6(self.service_cidr, SERVICE_CIDR_V6)
    }

    /// Ranges of pods, one per family.
    pub fn cluster_cidrs(&self) -> Vec<IpNet> {
        self.with_v6(self.cluster_cidr, CLUSTER_CIDR_V6)
    }

    /// Addresses of cluster DNS, one per family.
    pub fn cluster_dns(&self) -> Vec<IpAddr> {
        self.with_v6(self.cluster_dns, CLUSTER_DNS_V6)
    }

    fn with_v6<T: std::str::FromStr<Err: std::fmt::Debug>>(&self, first: T, second: &str) -> Vec<T> {
        let second = (self.ip_family == IpFamily::Dual).then(|| second.parse().expect("an address or a range"));
        std::iter::once(first).chain(second).collect()
    }

    pub(crate) fn validate(&self) -> Result<(), LabError> {
        let letters = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        let starts_well = self.name.starts_with(|c: char| c.is_ascii_lowercase());
        if !starts_well || self.name.len() > 32 || !self.name.chars().all(letters) {
            return Err(LabError::BadName { name: self.name.clone() });
        }
        if self.nodes == 0 || self.nodes > MOST_NODES {
            return Err(LabError::BadNodes { nodes: self.nodes, most: MOST_NODES });
        }
        self.balancer_pools.iter().try_for_each(|pool| self.check_pool(pool))
    }

    fn check_pool(&self, pool: &IpNet) -> Result<(), LabError> {
        let overlaps = |range: &IpNet| range.contains(pool) || pool.contains(range);
        let hosts = self.topology().hosts();
        let inside = |host: &HostSpec| host.addresses().into_iter().find(|addr| pool.contains(addr));
        let own = hosts.iter().find_map(|host| Some((host.name.as_str(), inside(host)?.to_string())));
        let among = |ranges: Vec<IpNet>| ranges.into_iter().find(overlaps).map(|range| range.to_string());
        let pods = among(self.cluster_cidrs()).map(|range| ("pods", range));
        let services = among(self.service_cidrs()).map(|range| ("ClusterIPs", range));
        let why = match own.or(pods).or(services) {
            Some((who, what)) => format!("it overlaps {what} of {who}"),
            None if pool.addr().is_ipv6() && self.ip_family == IpFamily::Ipv4 => {
                "the LAN of this lab has IPv4 only; --ip-family dual gives it both".to_owned()
            }
            None => return Ok(()),
        };
        Err(LabError::BadPool { pool: *pool, why })
    }
}

/// The files of a lab, below its state folder.
#[derive(Debug, Clone)]
pub(crate) struct Files {
    pub dir: PathBuf,
}

impl Files {
    pub fn new(dir: &Path) -> Files {
        Files { dir: dir.to_owned() }
    }

    pub fn lab(&self) -> PathBuf {
        self.dir.join("lab.json")
    }

    pub fn keeper_pid(&self) -> PathBuf {
        self.dir.join("keeper.pid")
    }

    pub fn control(&self) -> PathBuf {
        self.dir.join("control.sock")
    }

    /// Folder of the socket that images are asked for at; the nodes see it.
    pub fn image_source(&self) -> PathBuf {
        self.dir.join("images")
    }

    pub fn image_socket(&self) -> PathBuf {
        self.image_source().join("pull.sock")
    }

    pub fn kubeconfig(&self) -> PathBuf {
        self.dir.join("admin.kubeconfig")
    }

    pub fn pki(&self) -> PathBuf {
        self.dir.join("pki")
    }

    /// The API server's objects.
    pub fn data(&self) -> PathBuf {
        self.dir.join("data")
    }

    pub fn logs(&self) -> PathBuf {
        self.dir.join("logs")
    }

    pub fn log(&self, unit: &str) -> PathBuf {
        self.logs().join(format!("{unit}.log"))
    }

    /// One line a question: `TIME server=ADDRESS from=ADDRESS NAME TYPE`.
    pub fn upstream_queries(&self) -> PathBuf {
        self.logs().join("upstream-queries.log")
    }

    /// What a place sees as /run/lab.
    pub fn place(&self, name: &str) -> PathBuf {
        self.dir.join("places").join(name)
    }
}

/// What `up` tells keeper and init, as `lab.json`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct LabFile {
    pub config: LabConfig,
    /// Port of the API on 127.0.0.1.
    pub api_port: u16,
    /// The lab's cgroups.
    #[serde(default)]
    pub limits: Limits,
    /// As whom the lab runs.
    #[serde(default)]
    pub identity: Identity,
    /// Why not with more ids.
    #[serde(default)]
    pub instead_because: Option<String>,
}

impl LabFile {
    pub fn load(dir: &Path) -> Result<LabFile, LabError> {
        let path = Files::new(dir).lab();
        let bytes = fs::read(&path).map_err(file("cannot read", &path))?;
        serde_json::from_slice(&bytes).map_err(|e| file("cannot read", &path)(e.into()))
    }

    /// Removes the cgroups of the lab whose files are at `dir`, if it has any.
    pub fn clear_cgroups(dir: &Path) {
        if let Ok(lab) = LabFile::load(dir) {
            lab.limits.clear(&lab.config.name);
        }
    }

    pub fn save(&self) -> Result<(), LabError> {
        let path = Files::new(&self.config.state_dir).lab();
        let text = serde_json::to_string_pretty(self).expect("the lab's description has text keys only");
        fs::write(&path, text).map_err(file("cannot write", &path))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(name: &str, nodes: usize) -> LabConfig {
        LabConfig::new(name, nodes, "/exe".into(), "/images".into())
    }

    #[test]
    fn names_that_would_not_do_as_a_folder_or_a_label_are_refused() {
        for name in ["", "Lab", "../up", "a/b", "1a", "-a", "a b", "a-name-that-is-much-longer-than-it-may-be"] {
            assert!(matches!(config(name, 2).validate(), Err(LabError::BadName { .. })), "{name:?}");
        }
        assert!(config("lab-2", 2).validate().is_ok());
    }

    #[test]
    fn a_pool_that_others_have_addresses_of_is_refused() {
        let refusal = |pool: &str| {
            let mut config = config("lab", 2);
            config.balancer_pools = vec![pool.parse().unwrap()];
            config.validate().err().map(|error| error.to_string()).unwrap_or_default()
        };
        for pool in ["172.18.100.0/28", "172.18.0.224/28", "192.0.2.0/24"] {
            assert_eq!(refusal(pool), "", "{pool}");
        }
        for (pool, word) in [
            ("172.18.0.0/28", "172.18.0.1 of outside"),
            ("172.18.0.12/32", "172.18.0.12 of node-2"),
            ("172.18.0.0/16", "172.18.0.1 of outside"),
            ("10.244.3.0/24", "10.244.0.0/16 of pods"),
            ("10.96.0.0/24", "10.96.0.0/12 of ClusterIPs"),
            ("fd18::/112", "IPv4 only"),
        ] {
            let said = refusal(pool);
            assert!(said.contains(&format!("--lb-pool {pool}")) && said.contains(word), "{pool}: {said}");
        }
    }

    #[test]
    fn a_lab_has_one_to_two_hundred_nodes() {
        let holds = |nodes| config("lab", nodes).validate().is_ok();
        assert_eq!([0, 1, 200, 201].map(holds), [false, true, true, false]);
    }
}
