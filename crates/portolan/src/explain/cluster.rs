//! Cluster: objects of the API or of files, as a world that packets can be foreseen in.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;
use portolan_agent::proxy::Mode;
use portolan_dns::{Records, ZoneConfig};
use portolan_model::{Settings, Snapshot, Text};
use portolan_story::evidence::{Backend, NodeEvidence};
use portolan_story::knows::Knows;
use portolan_story::node::NodeSettings;
use portolan_story::world::{Cluster, Outside, World};
use serde_json::Value;

use crate::explain::{ExplainArgs, PlanMode, slices};
use crate::failure::Failure;
use crate::gather::{self, Gathered, agents};
use crate::trace::Reach;

/// A node that takes longer to say how it plans counts as one that does not answer.
const PATIENCE: Duration = Duration::from_secs(2);

/// What there is, and how it is planned.
pub struct Base {
    /// All objects that packets' ways may depend on.
    pub objects: Vec<Value>,
    settings: Settings,
    backend: Backend,
    masquerade_mark: u32,
    lan_link: Text,
    outside: Outside,
}

/// One state of the cluster.
pub struct Seen {
    /// As each node sees it.
    pub world: World,
    /// Its objects.
    pub gathered: Gathered,
    /// What is assumed, or not followed; a line each.
    pub notes: Vec<String>,
    /// Names in its DNS.
    pub records: Records,
}

impl Base {
    /// From files, or from the cluster.
    ///
    /// # Errors
    /// A file or the cluster cannot be read; or no node says how it plans, and no flag does.
    pub async fn open(args: &ExplainArgs) -> Result<Self, Failure> {
        if args.files.is_empty() { Self::of_cluster(args).await } else { Self::of_files(args) }
    }

    fn of_files(args: &ExplainArgs) -> Result<Self, Failure> {
        let mode = args.proxy_mode.unwrap_or(PlanMode::Iptables);
        // Files seldom hold the slices that the cluster makes of Services and Pods.
        let objects = slices::complete(&crate::apply::read(&args.files)?)?;
        let via: Option<Text> = args.via.as_deref().map(Into::into);
        if let Some(node) = &via {
            let is_it = |object: &Value| object["kind"] == "Node" && object["metadata"]["name"] == **node;
            if !objects.iter().any(is_it) {
                return Err(Failure::input(format!("--via {node}: the files have no Node of that name")));
            }
        }
        Ok(Self {
            objects,
            settings: crate::proxy::settings_of(args.ranges.settings(""), of_mode(mode)),
            backend: of_backend(mode),
            masquerade_mark: 1 << crate::proxy::Wanted::default().masquerade_bit,
            lan_link: "eth0".into(),
            outside: Outside { addresses: args.outside.clone(), services_by: via.clone(), all_by: via },
        })
    }

    async fn of_cluster(args: &ExplainArgs) -> Result<Self, Failure> {
        let reach = Reach::open(&args.lab, args.kubeconfig.clone()).await?;
        let client = &reach.client;
        let objects = gather::values_of_cluster(client).await?;
        let nodes: Vec<Text> = objects
            .iter()
            .filter(|object| object["kind"] == "Node")
            .filter_map(|object| object["metadata"]["name"].as_str().map(Text::from))
            .collect();
        let told = agents::ask_all::<NodeSettings>(client, &nodes, "settings", PATIENCE).await;
        let told = told.into_values().find_map(Result::ok);
        let addresses = reach.outside();
        // A lab's host outside reaches Services by the first node, and pods by none.
        let services_by = nodes.iter().min().cloned().filter(|_| !addresses.is_empty());
        let outside = Outside { addresses, services_by, all_by: None };
        let Some(told) = told else {
            let mode = args.proxy_mode.ok_or_else(|| {
                let why = "no node of the cluster says how it plans its rules";
                Failure::no(format!("{why}; `portolan status` shows how they are, or give --proxy-mode and the ranges"))
            })?;
            let settings = crate::proxy::settings_of(args.ranges.settings(""), of_mode(mode));
            let masquerade_mark = 1 << crate::proxy::Wanted::default().masquerade_bit;
            return Ok(Self {
                objects,
                settings,
                backend: of_backend(mode),
                masquerade_mark,
                lan_link: "eth0".into(),
                outside,
            });
        };
        let (settings, backend) = match args.proxy_mode {
            Some(mode) => (crate::proxy::settings_of(told.settings, of_mode(mode)), of_backend(mode)),
            None => (told.settings, told.backend),
        };
        let (masquerade_mark, lan_link) = (told.masquerade_mark, told.lan_interface);
        Ok(Self { objects, settings, backend, masquerade_mark, lan_link, outside })
    }

    /// The Service ranges: where a new Service's address would come from.
    pub fn ranges(&self) -> Vec<IpNet> {
        self.settings.service_cidrs.clone()
    }

    /// The world of these objects.
    ///
    /// # Errors
    /// An object has not the shape of its kind, or the cluster domain is no DNS name.
    pub fn cluster(&self, objects: Vec<Value>, notes: Vec<String>) -> Result<Seen, Failure> {
        let gathered = gather::from_values(objects)?;
        gathered.complaints.iter().for_each(|c| eprintln!("Warning: {}: {}", c.object, c.message));
        let facts = &gathered.facts;
        if facts.nodes.is_empty() {
            return Err(Failure::input(
                "the objects have no Node; without one nothing can be sent: add the Nodes' manifests",
            ));
        }
        let host_ports = |pod: &_| gathered.host_ports.get(pod).cloned().unwrap_or_default();
        let own = |node: &Text| (node.clone(), crate::render::derived(facts, node, host_ports));
        let own: BTreeMap<_, _> = facts.nodes.keys().map(own).collect();
        let cluster = Cluster {
            facts: facts.clone(),
            settings: self.settings.clone(),
            backend: self.backend,
            masquerade_mark: self.masquerade_mark,
            lan_link: self.lan_link.clone(),
            outside: self.outside.clone(),
        };
        let world = World::new(cluster, own);
        let records = self.records(&world)?;
        Ok(Seen { world, gathered, notes, records })
    }

    fn records(&self, world: &World) -> Result<Records, Failure> {
        let zones =
            ZoneConfig::from_settings(&self.settings).map_err(|e| Failure::input(format!("--cluster-domain: {e}")))?;
        let zones = ZoneConfig { ttl_secs: crate::settings::DNS_TTL_SECS, ..zones };
        Ok(Records::from_snapshot(zones, any_view(world)))
    }
}

/// What all nodes see alike, by the first.
fn any_view(world: &World) -> &Snapshot {
    let view = world.nodes().next().and_then(|node| world.view(node));
    &view.expect("a cluster without Nodes is refused, and the world has a view from each").snapshot
}

impl Seen {
    /// What all nodes see alike.
    pub fn any_view(&self) -> &Snapshot {
        any_view(&self.world)
    }

    /// What a teller knows: the view from each node of this evidence, and from one more for what all see alike.
    pub fn knows(&self, evidence: &[NodeEvidence]) -> Knows {
        let named = evidence.iter().map(|node| &node.node).chain(self.world.nodes().next());
        let view = |node: &Text| Some((node.clone(), Arc::new(self.world.view(node)?.snapshot.clone())));
        Knows {
            views: named.filter_map(view).collect(),
            objects: self.gathered.notes.clone(),
            now_secs: self.gathered.now.as_second(),
            ..Knows::default()
        }
    }
}

fn of_mode(mode: PlanMode) -> Mode {
    match mode {
        PlanMode::Iptables => Mode::Iptables,
        PlanMode::Nftables => Mode::Nftables,
    }
}

fn of_backend(mode: PlanMode) -> Backend {
    match mode {
        PlanMode::Iptables => Backend::Iptables,
        PlanMode::Nftables => Backend::Nftables,
    }
}
