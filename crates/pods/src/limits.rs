//! What a container's resources are in a cgroup's files. Values only.
//!
//! ```text
//!  resources.limits.memory ─► memory.limit_in_bytes (v1), memory.max (v2)
//!  resources.limits.cpu ────► cpu.cfs_quota_us, cpu.max: so much of each 100 ms
//!  resources.requests.cpu ──► cpu.shares, cpu.weight: its part where CPU is short
//! ```
//!
//! Source: kubelet's cm and KEP-2254 (shares to weight); Linux admin-guide cgroup-v1 and cgroup-v2.

use std::path::PathBuf;

use k8s_openapi::api::core::v1::Container;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use serde::{Deserialize, Serialize};

/// Length of the window that a CPU limit is counted in, in µs.
const PERIOD_US: u64 = 100_000;
/// The kernel takes no shorter run time in a window.
const SHORTEST_QUOTA_US: u64 = 1_000;
const FEWEST_SHARES: u64 = 2;
const MOST_SHARES: u64 = 262_144;

/// The cgroups below which a node's pods get theirs; made and removed by whoever runs the node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum CgroupRoots {
    /// One folder in each controller's own hierarchy.
    V1 { memory: PathBuf, cpu: PathBuf, pids: PathBuf },
    /// One folder that hands all three controllers down.
    V2 { unified: PathBuf },
}

/// How a node limits its containers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeLimits {
    pub roots: CgroupRoots,
    /// Most processes and threads of a pod; kubelet's podPidsLimit.
    pub pod_pids: u64,
}

/// A controller's hierarchy; in v2 all are in one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Controller {
    Memory,
    Cpu,
    Pids,
    Unified,
}

impl CgroupRoots {
    /// Reads `memory=DIR,cpu=DIR,pids=DIR` or `unified=DIR`; `None` if it is neither.
    pub fn parse(text: &str) -> Option<Self> {
        let pairs: Vec<(&str, &str)> = text.split(',').filter_map(|pair| pair.split_once('=')).collect();
        let dir = |name: &str| pairs.iter().find(|(key, _)| *key == name).map(|(_, dir)| PathBuf::from(dir));
        let v1 = || Some(Self::V1 { memory: dir("memory")?, cpu: dir("cpu")?, pids: dir("pids")? });
        dir("unified").map(|unified| Self::V2 { unified }).or_else(v1)
    }

    /// All of them.
    pub fn dirs(&self) -> Vec<(Controller, PathBuf)> {
        match self {
            Self::V1 { memory, cpu, pids } => vec![
                (Controller::Memory, memory.clone()),
                (Controller::Cpu, cpu.clone()),
                (Controller::Pids, pids.clone()),
            ],
            Self::V2 { unified } => vec![(Controller::Unified, unified.clone())],
        }
    }
}

/// What one container may use and is promised.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    pub memory_bytes: Option<u64>,
    /// Thousandths of a CPU.
    pub cpu_limit_milli: Option<u64>,
    /// Thousandths of a CPU; 0 if nothing is promised.
    pub cpu_request_milli: u64,
}

impl Limits {
    /// Of a container; a quantity that is none counts as absent, for the API server has refused it.
    pub fn of(container: &Container) -> Self {
        let resources = container.resources.as_ref();
        let limit = |name: &str| thousandths(resources?.limits.as_ref()?.get(name)?);
        let request = |name: &str| thousandths(resources?.requests.as_ref()?.get(name)?);
        Self {
            memory_bytes: limit("memory").map(|amount| amount / 1000),
            cpu_limit_milli: limit("cpu"),
            cpu_request_milli: request("cpu").or_else(|| limit("cpu")).unwrap_or(0),
        }
    }

    fn shares(&self) -> u64 {
        (self.cpu_request_milli.saturating_mul(1024) / 1000).clamp(FEWEST_SHARES, MOST_SHARES)
    }

    fn quota_us(&self) -> Option<u64> {
        let milli = self.cpu_limit_milli.filter(|milli| *milli > 0)?;
        Some((milli.saturating_mul(PERIOD_US) / 1000).max(SHORTEST_QUOTA_US))
    }

    /// The files of the container's cgroup in that hierarchy, with what is written to each, in order.
    pub fn files(&self, controller: Controller) -> Vec<(&'static str, String)> {
        let mut files = Vec::new();
        match controller {
            Controller::Memory => {
                if let Some(bytes) = self.memory_bytes {
                    files.push(("memory.limit_in_bytes", bytes.to_string()));
                    // With swap, so that a limit is one; after the other, which it may not be below.
                    files.push(("memory.memsw.limit_in_bytes", bytes.to_string()));
                }
            }
            Controller::Cpu => {
                files.push(("cpu.shares", self.shares().to_string()));
                if let Some(quota) = self.quota_us() {
                    files.push(("cpu.cfs_period_us", PERIOD_US.to_string()));
                    files.push(("cpu.cfs_quota_us", quota.to_string()));
                }
            }
            Controller::Pids => {}
            Controller::Unified => {
                let weight = 1 + (self.shares() - FEWEST_SHARES) * 9999 / (MOST_SHARES - FEWEST_SHARES);
                files.push(("cpu.weight", weight.to_string()));
                if let Some(quota) = self.quota_us() {
                    files.push(("cpu.max", format!("{quota} {PERIOD_US}")));
                }
                if let Some(bytes) = self.memory_bytes {
                    files.push(("memory.max", bytes.to_string()));
                    files.push(("memory.swap.max", "0".to_owned()));
                    // The container ends as a whole, as kubelet has it.
                    files.push(("memory.oom.group", "1".to_owned()));
                }
            }
        }
        files
    }
}

/// The files of a pod's own cgroup in that hierarchy.
pub fn pod_files(controller: Controller, pod_pids: u64) -> Vec<(&'static str, String)> {
    let most = ("pids.max", pod_pids.to_string());
    match controller {
        Controller::Pids => vec![most],
        Controller::Unified => vec![("cgroup.subtree_control", "+memory +cpu +pids".to_owned()), most],
        Controller::Memory | Controller::Cpu => Vec::new(),
    }
}

/// Whether a kernel may lack the file: swap accounting can be off.
pub fn may_be_absent(file: &str) -> bool {
    matches!(file, "memory.memsw.limit_in_bytes" | "memory.swap.max" | "memory.oom.group")
}

/// Where a hierarchy counts the processes it killed for memory; `None`: elsewhere.
pub fn oom_file(controller: Controller) -> Option<&'static str> {
    match controller {
        Controller::Memory => Some("memory.oom_control"),
        Controller::Unified => Some("memory.events"),
        Controller::Cpu | Controller::Pids => None,
    }
}

/// The count in such a file.
pub fn oom_kills(text: &str) -> u64 {
    let count = text.lines().find_map(|line| line.strip_prefix("oom_kill "));
    count.and_then(|count| count.trim().parse().ok()).unwrap_or(0)
}

/// A quantity in thousandths: `500m` is 500, `1Ki` is 1024000. Kubernetes API conventions, "Quantity".
fn thousandths(quantity: &Quantity) -> Option<u64> {
    let text = quantity.0.trim();
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, suffix) = text.split_at(end);
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    let digits: u128 = format!("0{whole}{fraction}").parse().ok()?;
    let scale = 10_u128.checked_pow(u32::try_from(fraction.len()).ok()?)?;
    let amount = digits.checked_mul(factor_thousandths(suffix)?)? / scale;
    u64::try_from(amount).ok()
}

fn factor_thousandths(suffix: &str) -> Option<u128> {
    let binary = |power: u32| 1000 * 1024_u128.pow(power);
    let decimal = |power: u32| 1000 * 1000_u128.pow(power);
    Some(match suffix {
        "m" => 1,
        "" => 1000,
        "k" => decimal(1),
        "M" => decimal(2),
        "G" => decimal(3),
        "T" => decimal(4),
        "P" => decimal(5),
        "E" => decimal(6),
        "Ki" => binary(1),
        "Mi" => binary(2),
        "Gi" => binary(3),
        "Ti" => binary(4),
        "Pi" => binary(5),
        "Ei" => binary(6),
        other => {
            let power = other.strip_prefix(['e', 'E'])?;
            1000 * 10_u128.checked_pow(power.trim_start_matches('+').parse().ok()?)?
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn limits(resources: serde_json::Value) -> Limits {
        Limits::of(&serde_json::from_value(json!({"name": "c", "resources": resources})).expect("a container"))
    }

    #[test]
    fn quantities_are_read_as_kubernetes_writes_them() {
        for (text, expected) in [
            ("500m", Some(500)),
            ("2", Some(2000)),
            ("0.5", Some(500)),
            ("1.5Ki", Some(1_536_000)),
            ("64Mi", Some(67_108_864_000)),
            ("1e3", Some(1_000_000)),
            ("1G", Some(1_000_000_000_000)),
            ("x", None),
            ("-1", None),
        ] {
            assert_eq!(thousandths(&Quantity(text.to_owned())), expected, "{text}");
        }
    }

    #[test]
    fn limits_become_the_files_of_both_versions() {
        let all = limits(json!({"limits": {"memory": "64Mi", "cpu": "200m"}, "requests": {"cpu": "100m"}}));
        let text = |controller| {
            let files = all.files(controller).into_iter().map(|(file, value)| format!("{file}={value}"));
            files.collect::<Vec<_>>().join(" ")
        };
        assert_eq!(text(Controller::Memory), "memory.limit_in_bytes=67108864 memory.memsw.limit_in_bytes=67108864");
        assert_eq!(text(Controller::Cpu), "cpu.shares=102 cpu.cfs_period_us=100000 cpu.cfs_quota_us=20000");
        assert_eq!(
            text(Controller::Unified),
            "cpu.weight=4 cpu.max=20000 100000 memory.max=67108864 memory.swap.max=0 memory.oom.group=1"
        );
    }

    #[test]
    fn a_container_that_says_nothing_is_limited_in_nothing() {
        let none = limits(json!({}));
        assert_eq!(none, Limits::default());
        assert!(none.files(Controller::Memory).is_empty());
        assert_eq!(none.files(Controller::Cpu), [("cpu.shares", "2".to_owned())]);
        let limit_only = limits(json!({"limits": {"cpu": "2"}}));
        assert_eq!(limit_only.files(Controller::Cpu)[0], ("cpu.shares", "2048".to_owned()));
    }

    #[test]
    fn kills_are_counted_in_both_versions_files() {
        assert_eq!(oom_kills("oom_kill_disable 0\nunder_oom 0\noom_kill 1\n"), 1);
        assert_eq!(oom_kills("low 0\nhigh 0\nmax 12\noom 3\noom_kill 2\noom_group_kill 1\n"), 2);
        assert_eq!(oom_kills(""), 0);
    }

    #[test]
    fn roots_are_read_from_a_flag() {
        let v1 = CgroupRoots::parse("memory=/m/x,cpu=/c/x,pids=/p/x").expect("v1");
        assert_eq!(v1.dirs().len(), 3);
        assert_eq!(CgroupRoots::parse("unified=/u/x"), Some(CgroupRoots::V2 { unified: "/u/x".into() }));
        assert_eq!(CgroupRoots::parse("memory=/m"), None);
    }
}
