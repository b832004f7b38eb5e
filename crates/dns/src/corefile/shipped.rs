//! The configuration that Portolan comes with: what kubeadm writes for a cluster, as values.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use super::config::{
    Block, CacheConfig, CacheLimits, Corefile, ErrorsConfig, Fallthrough, ForwardConfig, HealthConfig,
    KubernetesConfig, Place, PodMode, Policy, ReadyConfig, Target, TlsConfig,
};
use crate::name::Name;

/// How long an answer of an upstream is kept at most, in seconds.
const CACHE_SECS: u32 = 30;

impl Block {
    /// A block for `zones` at port 53 without any plugin.
    pub fn new(place: Place, zones: Vec<Name>) -> Self {
        Self {
            place,
            zones,
            port: 53,
            bind: Vec::new(),
            bufsize_bytes: 1232,
            acl: Vec::new(),
            any: false,
            autopath: None,
            cache: None,
            errors: None,
            external: None,
            forwards: Vec::new(),
            health: None,
            hosts: None,
            kubernetes: None,
            loadbalance: false,
            local: false,
            logs: Vec::new(),
            detects_loops: false,
            minimal: false,
            metrics: None,
            ready: None,
            reload: None,
            rewrites: Vec::new(),
            rrl: None,
            templates: Vec::new(),
            transfers: Vec::new(),
        }
    }
}

impl KubernetesConfig {
    /// The plugin's defaults for `zones`.
    pub fn new(zones: Vec<Name>) -> Self {
        Self {
            zones,
            namespaces: Vec::new(),
            pods: PodMode::Disabled,
            endpoint_pod_names: false,
            ttl_secs: 5,
            no_endpoints: false,
            ignore_empty_service: false,
            startup_timeout: Duration::from_secs(5),
            fallthrough: Fallthrough::Never,
        }
    }
}

impl ForwardConfig {
    /// The plugin's defaults for queries below `from`.
    pub fn new(place: Place, from: Name, to: Vec<Target>) -> Self {
        Self {
            place,
            from,
            to,
            except: Vec::new(),
            force_tcp: false,
            prefer_udp: false,
            max_fails: 2,
            expire: Duration::from_secs(10),
            health_check: Duration::from_millis(500),
            policy: Policy::Random,
            max_concurrent: 0,
            next_on: Vec::new(),
            tls: TlsConfig::default(),
        }
    }
}

impl CacheConfig {
    /// The plugin's defaults, with `max_ttl_secs` as the bound of answers and, if it is the lower one, of absences.
    pub fn new(max_ttl_secs: u32) -> Self {
        let limits = CacheLimits { entries: 9984, max_ttl_secs, min_ttl_secs: 5 };
        Self {
            zones: Vec::new(),
            success: limits,
            denial: CacheLimits { max_ttl_secs: max_ttl_secs.min(1800), ..limits },
            servfail: Duration::from_secs(5),
            prefetch: None,
            stale: None,
            no_success: Vec::new(),
            no_denial: Vec::new(),
            keep_ttl: false,
        }
    }
}

impl Corefile {
    /// kubeadm's Corefile for the cluster domain `zone`: pod records of insecure kind, reverse names that are not ours go
    /// on to the upstreams of `resolv_conf`, which is a file's name.
    pub fn shipped(zone: &Name, ttl_secs: u32, resolv_conf: &str) -> Self {
        let place = Place { file: "Corefile".to_owned(), line: 1 };
        let anywhere = |port| SocketAddr::from((Ipv6Addr::UNSPECIFIED, port));
        let reverse = ["in-addr.arpa", "ip6.arpa"].map(|text| Name::parse(text).expect("two labels"));
        let zones = [zone.clone()].into_iter().chain(reverse.clone()).collect();
        let kubernetes = KubernetesConfig {
            pods: PodMode::Insecure,
            ttl_secs,
            fallthrough: Fallthrough::In(reverse.to_vec()),
            ..KubernetesConfig::new(zones)
        };
        let forward = ForwardConfig {
            max_concurrent: 1000,
            ..ForwardConfig::new(place.clone(), Name::root(), vec![Target::File(resolv_conf.to_owned())])
        };
        let block = Block {
            errors: Some(ErrorsConfig::default()),
            health: Some(HealthConfig { listen: anywhere(8080), lameduck: Duration::from_secs(5) }),
            ready: Some(ReadyConfig { listen: anywhere(8181), continuously: false }),
            kubernetes: Some(kubernetes),
            metrics: Some(anywhere(9153)),
            forwards: vec![forward],
            cache: Some(CacheConfig {
                no_success: vec![zone.clone()],
                no_denial: vec![zone.clone()],
                ..CacheConfig::new(CACHE_SECS)
            }),
            detects_loops: true,
            reload: Some(Duration::from_secs(5)),
            loadbalance: true,
            ..Block::new(place, vec![Name::root()])
        };
        Self { blocks: vec![block] }
    }

    /// Files that the configuration names as resolv.conf(5), each once, in order.
    pub fn resolv_confs(&self) -> Vec<&str> {
        let targets = self.blocks.iter().flat_map(|block| &block.forwards).flat_map(|forward| &forward.to);
        let mut files: Vec<&str> = Vec::new();
        for target in targets {
            if let Target::File(file) = target
                && !files.contains(&file.as_str())
            {
                files.push(file);
            }
        }
        files
    }

    /// Where its blocks are to be listened for, each once: their ports at the addresses that they are bound to or, where
    /// one is bound to none, at `addresses`; those empty too: at every address, of both families.
    pub fn listen_addresses(&self, addresses: &[IpAddr]) -> Vec<SocketAddr> {
        let everywhere = [IpAddr::from(Ipv6Addr::UNSPECIFIED)];
        let default = if addresses.is_empty() { &everywhere } else { addresses };
        let of_block = |block: &Block| {
            let at = if block.bind.is_empty() { default.to_vec() } else { block.bind.clone() };
            let port = block.port;
            at.into_iter().map(move |ip| SocketAddr::new(ip, port))
        };
        let mut all: Vec<SocketAddr> = self.blocks.iter().flat_map(of_block).collect();
        all.sort();
        all.dedup();
        all
    }
}
