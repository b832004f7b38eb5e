//! What was found, counted and judged. Pure.

use std::collections::BTreeMap;
use std::time::Duration;

use portolan_lab::{Role, UnitStatus};
use serde::Serialize;

use super::gather::{Cost, Observed};
use super::nodes::{self, LastChange, Node};
use super::objects::{self, Pods, Services};

/// A lab at one moment. Field names are stable: `--output json` is this.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    pub name: String,
    pub kubeconfig: String,
    /// True if there are no problems.
    pub healthy: bool,
    /// What is not right, a sentence each.
    pub problems: Vec<String>,
    pub nodes: Vec<Node>,
    /// `None`: the API server did not answer.
    pub pods: Option<Pods>,
    /// `None`: the API server did not answer.
    pub services: Option<Services>,
    /// Of what nodes program: Nodes, Services, EndpointSlices, Namespaces. `None`: no agent told of one.
    pub last_change: Option<LastChange>,
    /// The lab's own processes.
    pub units: Vec<UnitStatus>,
    pub cost: Costs,
}

/// What the lab takes from the machine.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Costs {
    pub processes: Vec<CostOfKind>,
    pub memory_kib: u64,
    pub cpu_seconds: f64,
    pub up_seconds: u64,
    /// CPU time since the lab came up, in per cent of one CPU.
    pub cpu_percent: f64,
}

/// The processes of one kind.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct CostOfKind {
    pub kind: &'static str,
    pub count: usize,
    /// Sum of their shares (PSS).
    pub memory_kib: u64,
    pub cpu_seconds: f64,
}

impl Report {
    pub fn of(seen: &Observed) -> Report {
        let nodes = nodes::nodes(seen);
        let pods = seen.objects.as_ref().ok().map(objects::pods);
        let services = seen.objects.as_ref().ok().map(objects::services);
        let last_change = nodes::last_change(&nodes, seen.now);
        let mut problems: Vec<String> = seen
            .objects
            .as_ref()
            .err()
            .map(|why| format!("the API server does not answer: {why}"))
            .into_iter()
            .collect();
        problems.extend(seen.lab.units.iter().filter_map(|unit| waiting(unit, seen)));
        let cut = |(a, b): &(String, String)| {
            format!("nothing passes between {a} and {b}; `portolan lan heal {a} {b}` mends it")
        };
        problems.extend(seen.lab.cuts.iter().map(cut));
        problems.extend(nodes.iter().flat_map(Node::problems));
        problems.extend(pods.iter().flat_map(Pods::problems));
        problems.extend(services.iter().flat_map(Services::problems));
        problems.extend(last_change.iter().flat_map(LastChange::problems));
        Report {
            name: seen.lab.name.clone(),
            kubeconfig: seen.kubeconfig.display().to_string(),
            healthy: problems.is_empty(),
            problems,
            nodes,
            pods,
            services,
            last_change,
            units: seen.lab.units.clone(),
            cost: costs(&seen.processes, seen.up_for),
        }
    }
}

/// A process that should run and does not, unless its node was stopped.
fn waiting(unit: &UnitStatus, seen: &Observed) -> Option<String> {
    let is_stopped = |node: &portolan_lab::NodeStatus| !node.plugged && unit.name == format!("agent-{}", node.name);
    if unit.pid.is_some() || seen.lab.nodes.iter().any(is_stopped) {
        return None;
    }
    let how = unit.last_end.as_deref().map_or(String::new(), |how| format!(" after {how}"));
    Some(format!("{} does not run; it is started again{how}", unit.name))
}

fn costs(processes: &[Cost], up_for: Duration) -> Costs {
    let mut kinds: BTreeMap<(usize, &'static str), Vec<&Cost>> = BTreeMap::new();
    for process in processes {
        kinds.entry(kind(&process.role)).or_default().push(process);
    }
    let sum = |all: &[&Cost]| {
        let cpu: Duration = all.iter().map(|p| p.cpu).sum();
        (all.iter().filter_map(|p| p.pss_kib).sum::<u64>(), cpu.as_secs_f64())
    };
    let row = |((_, kind), all): ((usize, &'static str), Vec<&Cost>)| {
        let (memory_kib, cpu_seconds) = sum(&all);
        CostOfKind { kind, count: all.len(), memory_kib, cpu_seconds }
    };
    let (memory_kib, cpu_seconds) = sum(&processes.iter().collect::<Vec<_>>());
    let up_secs = up_for.as_secs_f64().max(f64::MIN_POSITIVE);
    Costs {
        processes: kinds.into_iter().map(row).collect(),
        memory_kib,
        cpu_seconds,
        up_seconds: up_for.as_secs(),
        cpu_percent: (1000.0 * cpu_seconds / up_secs).round() / 10.0,
    }
}

/// Place in the table, and name.
fn kind(role: &Role) -> (usize, &'static str) {
    match role {
        Role::ApiServer => (0, "API server"),
        Role::Agent(_) => (1, "agents"),
        Role::Guard => (2, "guards of DNS"),
        Role::Keeper => (3, "keeper"),
        Role::Init => (4, "lab init"),
        Role::Upstream => (5, "upstream of outside"),
        Role::Shim => (6, "shims"),
        Role::Sandbox => (7, "sandboxes"),
        Role::Container(_) => (8, "pods' programs"),
        Role::Other(_) => (9, "others"),
    }
}
