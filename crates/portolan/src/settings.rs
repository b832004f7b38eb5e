//! What several commands take: the cluster's ranges and names, and how to print.

use std::net::IpAddr;

use clap::{Args, ValueEnum};
use ipnet::IpNet;
use portolan_dns::Name;
use portolan_model::{ProxySettings, Settings};

use crate::failure::Failure;

/// How a command prints its answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum OutputFormat {
    /// For a person.
    Text,
    /// For a program.
    Json,
}

/// TTL of cluster records in seconds, as in our shipped Corefile.
pub const DNS_TTL_SECS: u32 = 30;

/// Ranges and names that every part of a cluster must agree on.
#[derive(Args, Clone, Debug)]
pub struct ClusterArgs {
    /// Pods' addresses, one range per family
    #[arg(long, value_name = "CIDR", default_value = "10.244.0.0/16", value_delimiter = ',')]
    pub cluster_cidr: Vec<IpNet>,
    /// Services' addresses, one range per family
    #[arg(long, value_name = "CIDR", default_value = "10.96.0.0/12", value_delimiter = ',')]
    pub service_cidr: Vec<IpNet>,
    /// Addresses of the kube-dns Service, answered on each node; empty leaves DNS to others
    #[arg(long, value_name = "IP", default_value = "10.96.0.10", value_delimiter = ',')]
    pub cluster_dns: Vec<IpAddr>,
    /// The cluster's domain
    #[arg(long, value_name = "NAME", default_value = "cluster.local", value_parser = cluster_domain)]
    pub cluster_domain: String,
}

fn cluster_domain(text: &str) -> Result<String, String> {
    match Name::parse(text.trim_end_matches('.')) {
        Ok(name) if name != Name::root() => Ok(text.to_owned()),
        Ok(_) => Err("it is the root, where no cluster can be; say one such as cluster.local".to_owned()),
        Err(error) => Err(error.to_string()),
    }
}

impl ClusterArgs {
    /// As `node` needs them.
    pub fn settings(&self, node: &str) -> Settings {
        Settings {
            node: node.into(),
            cluster_cidrs: self.cluster_cidr.clone(),
            service_cidrs: self.service_cidr.clone(),
            cluster_dns: self.cluster_dns.clone(),
            cluster_domain: self.cluster_domain.trim_end_matches('.').into(),
            proxy: ProxySettings::default(),
        }
    }
}

/// Addresses of Services of type LoadBalancer.
#[derive(Args, Clone, Debug, Default)]
pub struct BalancerArgs {
    /// Give Services of type LoadBalancer addresses of this range, and answer for them on the LAN; repeats
    #[arg(long, value_name = "CIDR", value_delimiter = ',')]
    pub lb_pool: Vec<IpNet>,
}

impl BalancerArgs {
    /// # Errors
    /// A pool holds addresses that pods or ClusterIPs have.
    pub fn check(&self, cluster: &ClusterArgs) -> Result<(), Failure> {
        let pods = cluster.cluster_cidr.iter().map(|range| ("--cluster-cidr", range));
        let services = cluster.service_cidr.iter().map(|range| ("--service-cidr", range));
        for (flag, range) in pods.chain(services) {
            if let Some(pool) = self.lb_pool.iter().find(|pool| pool.contains(range) || range.contains(*pool)) {
                let why = format!("--lb-pool {pool} overlaps {flag} {range}");
                return Err(Failure::input(format!("{why}; give a range of the nodes' LAN that nobody else uses")));
            }
        }
        Ok(())
    }
}
