//! The node's settings, for a program that plans what this node plans.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use portolan_kernel::iptables::{Family as ToolFamily, Tool};
use portolan_model::{Family, Settings, Text};
use portolan_story::evidence::Backend;
use portolan_story::node::{DnsAnswered, NodeSettings};

use crate::Config;
use crate::api::NodeApi;
use crate::proxy::{Mode, Plan};

/// What does not change while the agent runs.
pub(crate) struct Fixed {
    settings: Settings,
    mode: Mode,
    lan_interface: String,
    addresses: Vec<IpAddr>,
    resolv_conf: PathBuf,
    legacy: OnceLock<bool>,
}

impl Fixed {
    pub(crate) fn of(config: &Config) -> Self {
        Self {
            settings: config.settings.clone(),
            mode: config.proxy_mode,
            lan_interface: config.lan_interface.clone(),
            addresses: config.addresses.clone(),
            resolv_conf: config.resolv_conf.clone(),
            legacy: OnceLock::new(),
        }
    }

    pub(crate) fn node(&self) -> Text {
        self.settings.node.clone()
    }

    /// Where this node's DNS answers beside the cluster's address; `None`: DNS is another's.
    pub(crate) fn own_dns(&self) -> Option<IpAddr> {
        self.addresses.first().copied().filter(|_| !self.settings.cluster_dns.is_empty())
    }

    /// The domain of the cluster's names.
    pub(super) fn cluster_domain(&self) -> &str {
        &self.settings.cluster_domain
    }

    /// The node's own resolv.conf.
    pub(super) fn resolv_conf(&self) -> &Path {
        &self.resolv_conf
    }

    /// How rules are written.
    pub(crate) fn backend(&self) -> Backend {
        match self.mode {
            Mode::Iptables => Backend::Iptables,
            Mode::Nftables => Backend::Nftables,
        }
    }

    /// Rules are written by iptables-legacy. Runs the program once; blocks.
    pub(crate) fn is_legacy(&self) -> bool {
        let ask = || Tool::from_environment().version(ToolFamily::V4).is_ok_and(|version| version.contains("legacy"));
        self.mode == Mode::Iptables && *self.legacy.get_or_init(ask)
    }
}

/// What the planners of one moment are told.
struct Planned {
    families: Vec<Family>,
    dns: DnsAnswered,
    masquerade_mark: u32,
    random_ports: bool,
    drop_invalid: bool,
    comment_limit: usize,
}

impl Planned {
    fn of(plan: Plan<'_>, families: Vec<Family>) -> Self {
        let dns = plan.dns().into();
        match plan {
            Plan::Iptables(desired) => {
                let options = desired.options();
                Self {
                    families,
                    dns,
                    masquerade_mark: options.masquerade_mark,
                    random_ports: options.random_fully,
                    drop_invalid: options.drop_invalid,
                    comment_limit: options.comment_limit,
                }
            }
            Plan::Nftables(desired) => {
                let options = desired.options();
                Self {
                    families,
                    dns,
                    masquerade_mark: options.masquerade_mark,
                    random_ports: options.fully_random,
                    drop_invalid: false,
                    comment_limit: 0,
                }
            }
        }
    }
}

/// `GET /portolan/v1/settings`.
pub(crate) async fn get(State(api): State<Arc<NodeApi>>) -> Result<Json<NodeSettings>, (StatusCode, &'static str)> {
    let planned = api.core.ask(|view| {
        let families: Vec<Family> =
            Family::BOTH.into_iter().filter(|family| view.proxy.plan(*family).is_some()).collect();
        let plan = families.first().and_then(|family| view.proxy.plan(*family))?;
        Some(Planned::of(plan, families))
    });
    let ended = (StatusCode::SERVICE_UNAVAILABLE, "this node plans no rules: its cluster has no pod range\n");
    let planned = planned.await.flatten().ok_or(ended)?;
    let fixed = api.fixed.clone();
    let is_legacy = tokio::task::spawn_blocking(move || fixed.is_legacy()).await.unwrap_or(false);
    Ok(Json(NodeSettings {
        settings: api.fixed.settings.clone(),
        backend: api.fixed.backend(),
        legacy: is_legacy,
        families: planned.families,
        masquerade_mark: planned.masquerade_mark,
        random_ports: planned.random_ports,
        drop_invalid: planned.drop_invalid,
        comment_limit: planned.comment_limit,
        dns: planned.dns,
        lan_interface: api.fixed.lan_interface.as_str().into(),
        addresses: api.fixed.addresses.clone(),
    }))
}
