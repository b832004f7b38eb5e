//! This node's nameserver as the agent starts it: with the configuration and the cluster that were last known, and with
//! those who keep it told.

use std::net::IpAddr;
use std::sync::{Arc, Mutex};

use portolan_dns::Corefile;
use portolan_pods::resolv::ClusterDns;

use crate::corefile::{self, InForce, Maps};
use crate::dns_pods::DnsPods;
use crate::last_known::{self, Feed, Freshness};
use crate::status::Progress;
use crate::{AgentError, Config, dns};

/// The nameserver and what was found for it.
pub(crate) struct Names {
    pub(crate) handle: dns::Handle,
    pub(crate) feed: Feed,
    pub(crate) freshness: Arc<Freshness>,
    /// It answers from what was last known.
    pub(crate) is_recalled: bool,
    /// The ConfigMaps whose configuration is in force.
    pub(crate) kept: Maps,
    pub(crate) shipped: Corefile,
    pub(crate) in_force: Arc<Mutex<InForce>>,
}

/// Starts it at the node's own addresses; that of the cluster comes later.
pub(crate) async fn start(config: &Config, progress: &Progress) -> Result<Names, AgentError> {
    let settings = Arc::new(config.settings.clone());
    let shipped = dns::shipped(&config.settings, config.dns_ttl_secs, &config.resolv_conf)?;
    let former = match settings.cluster_dns.is_empty() {
        true => None,
        false => corefile::recall(&config.state_dir),
    };
    let in_force = former.as_ref().map_or_else(InForce::default, |_| InForce::recalled());
    let (kept, used) = former.unwrap_or_else(|| (Maps::default(), shipped.clone()));
    let handle = dns::start(options(config, used).await?).await?;
    let recalled = match settings.cluster_dns.is_empty() {
        true => None,
        false => last_known::recall(&config.state_dir, &settings),
    };
    let freshness = Arc::new(Freshness::new(recalled.as_ref().map(|recalled| recalled.confirmed)));
    let feed = Feed::start(handle.clone(), &settings, recalled.as_ref().map(|recalled| &recalled.facts));
    tokio::spawn(last_known::watch_over(freshness.clone(), handle.clone()));
    if !settings.cluster_dns.is_empty() {
        let path = last_known::path(&config.state_dir);
        let (applied, often) = (progress.watch_applied(), last_known::WRITE_EVERY);
        tokio::spawn(last_known::keep(path, settings, applied, freshness.clone(), often));
    }
    let in_force = Arc::new(Mutex::new(in_force));
    Ok(Names { handle, feed, freshness, is_recalled: recalled.is_some(), kept, shipped, in_force })
}

async fn options(config: &Config, mut corefile: Corefile) -> Result<dns::Options, AgentError> {
    let mut listeners = Vec::new();
    if !config.settings.cluster_dns.is_empty() {
        for addr in &config.addresses {
            listeners.push(dns::Listener::bind((*addr, 53).into()).await?);
        }
    }
    let own: Vec<IpAddr> = config.addresses.iter().chain(&config.settings.cluster_dns).copied().collect();
    if listeners.is_empty() {
        // DNS is another's, and so are the pages about it.
        for block in &mut corefile.blocks {
            (block.health, block.ready, block.metrics) = (None, None, None);
        }
    }
    Ok(dns::Options {
        settings: Arc::new(config.settings.clone()),
        pages: config.settings.cluster_dns.clone(),
        own,
        corefile,
        base: corefile::base(&config.state_dir),
        listen: dns::Listen::At(listeners),
        threads: 0,
    })
}

/// Those who ask: pods of this node.
pub(crate) fn pods(config: &Config, handle: dns::Handle) -> DnsPods {
    let settings = &config.settings;
    let cluster = ClusterDns { servers: settings.cluster_dns.clone(), domain: settings.cluster_domain.to_string() };
    DnsPods::new(handle, config.resolv_conf.clone(), cluster)
}
