//! Our nameserver by itself, where no built `portolan` is at hand: the same rooms, without reading files.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use portolan_dns::corefile::config::{Block, CacheConfig, CacheLimits, ForwardConfig, Place, Target};
use portolan_dns::{Corefile, Name};
use portolan_model::{
    Delta, Fact, Facts, NsName, Proto, Service, ServiceKind, ServicePortFact, Settings, Snapshot, resolve,
};
use portolan_nameserver::{Listen, Listener, Options, shipped, start};

use crate::zone::Zone;
use crate::{Counts, Outcome};

pub const CHILD: &str = "--own";
pub const FORWARDING: &str = "--own-forwarding";

/// Serves a cluster of so many Services at `addr`.
pub fn serve(addr: SocketAddr, services: usize, namespaces: usize) -> Outcome<()> {
    let settings = settings(addr)?;
    let corefile = shipped(&settings, 30, Path::new("/nonexistent"))?;
    let snapshot = snapshot(&settings, services, namespaces);
    run(addr, settings, corefile, snapshot)
}

/// Forwards everything to `upstream`, with a cache.
pub fn forward(addr: SocketAddr, upstream: SocketAddr) -> Outcome<()> {
    let settings = settings(addr)?;
    let place = Place { file: "Corefile".to_owned(), line: 1 };
    let limits = CacheLimits { entries: 40_000, max_ttl_secs: 3600, min_ttl_secs: 5 };
    let block = Block {
        cache: Some(CacheConfig { success: limits, denial: limits, ..CacheConfig::new(3600) }),
        forwards: vec![ForwardConfig::new(place.clone(), Name::root(), vec![Target::Plain(upstream)])],
        ..Block::new(place, vec![Name::root()])
    };
    let snapshot = Snapshot::empty(settings.clone());
    run(addr, settings, Corefile { blocks: vec![block] }, snapshot)
}

fn settings(addr: SocketAddr) -> Outcome<Arc<Settings>> {
    Ok(Arc::new(Settings {
        node: "node-1".into(),
        cluster_cidrs: vec!["10.244.0.0/16".parse()?],
        service_cidrs: vec!["10.96.0.0/12".parse()?],
        cluster_dns: vec![addr.ip()],
        cluster_domain: crate::zone::DOMAIN.into(),
        proxy: Default::default(),
    }))
}

fn run(addr: SocketAddr, settings: Arc<Settings>, corefile: Corefile, snapshot: Snapshot) -> Outcome<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let options = Options {
            corefile,
            settings,
            own: Vec::new(),
            base: ".".into(),
            listen: Listen::At(vec![Listener::bind(addr).await?]),
            pages: Vec::new(),
            threads: 0,
        };
        let handle = start(options).await?;
        let delta = Delta::all(&snapshot);
        handle.zones(Arc::new(snapshot), delta, true);
        std::future::pending().await
    })
}

fn snapshot(settings: &Arc<Settings>, services: usize, namespaces: usize) -> Snapshot {
    let zone = Zone::new(Counts { services, namespaces: namespaces.max(1), ..crate::QUICK });
    let port = ServicePortFact { name: "http".into(), proto: Proto::Tcp, port: 80, node_port: 0 };
    let of_service = |(name, namespace, ip): (&str, &str, std::net::Ipv4Addr)| {
        let spec = Service {
            kind: ServiceKind::ClusterIp,
            cluster_ips: vec![ip.into()],
            ports: vec![port.clone()],
            ..Service::default()
        };
        Fact::Service(NsName::new(namespace, name), Some(spec))
    };
    let mut facts = Facts::default();
    let namespaces = zone.namespaces().iter().map(|name| Fact::Namespace(name.as_str().into(), Some(())));
    let touched = facts.apply_all(namespaces.chain(zone.services().map(of_service)));
    resolve(&facts, &Snapshot::empty(settings.clone()), &touched).0
}
