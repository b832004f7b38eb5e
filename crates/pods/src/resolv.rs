//! A pod's /etc/resolv.conf by dnsPolicy and dnsConfig.
//!
//! Source: Kubernetes "DNS for Services and Pods", kubelet's dns configurer; resolv.conf(5) for the node's file.

use std::net::IpAddr;

use k8s_openapi::api::core::v1::PodSpec;

/// Limits of a resolv.conf, as kubelet has them since 1.26.
const MAX_NAMESERVERS: usize = 3;
const MAX_SEARCHES: usize = 32;
const MAX_SEARCH_CHARS: usize = 2048;
const MAX_DOMAIN_CHARS: usize = 253;

/// The parts of a resolv.conf, in order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ResolvConf {
    pub nameservers: Vec<String>,
    pub searches: Vec<String>,
    pub options: Vec<String>,
}

/// The cluster's side of it.
#[derive(Clone, Debug, Default)]
pub struct ClusterDns {
    /// Address of the cluster DNS, by family wanted; empty: none.
    pub servers: Vec<IpAddr>,
    /// As `cluster.local`.
    pub domain: String,
}

/// A remark for an event, with its reason.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Complaint {
    pub reason: &'static str,
    pub message: String,
}

/// Computes the file's parts for a pod; `node_file` is the text of the node's resolv.conf.
pub fn resolv_conf(
    spec: &PodSpec,
    namespace: &str,
    node_file: &str,
    cluster: &ClusterDns,
) -> (ResolvConf, Vec<Complaint>) {
    let mut complaints = Vec::new();
    let node = ResolvConf::parse(node_file);
    let host_network = spec.host_network == Some(true);
    let policy = spec.dns_policy.as_deref().unwrap_or("ClusterFirst");
    let mut conf = match policy {
        "None" => ResolvConf::default(),
        "Default" => node,
        "ClusterFirst" if host_network => node,
        _ if cluster.servers.is_empty() => {
            complaints.push(Complaint {
                reason: "MissingClusterDNS",
                message: format!("the node has no cluster DNS address; dnsPolicy {policy} acts as Default"),
            });
            node
        }
        _ => cluster_first(namespace, node, cluster),
    };
    lay_over(&mut conf, spec);
    cut(&mut conf, &mut complaints);
    (conf, complaints)
}

fn cluster_first(namespace: &str, node: ResolvConf, cluster: &ClusterDns) -> ResolvConf {
    let zone = &cluster.domain;
    let mut searches = vec![format!("{namespace}.svc.{zone}"), format!("svc.{zone}"), zone.clone()];
    for search in node.searches.into_iter().filter(|search| search != ".") {
        push_new(&mut searches, search);
    }
    ResolvConf {
        nameservers: cluster.servers.iter().map(IpAddr::to_string).collect(),
        searches,
        options: vec!["ndots:5".to_owned()],
    }
}

/// dnsConfig: servers and searches are appended, options merge by name and the pod's win.
fn lay_over(conf: &mut ResolvConf, spec: &PodSpec) {
    let Some(own) = &spec.dns_config else {
        return;
    };
    for server in own.nameservers.iter().flatten() {
        push_new(&mut conf.nameservers, server.clone());
    }
    for search in own.searches.iter().flatten() {
        push_new(&mut conf.searches, search.clone());
    }
    for option in own.options.iter().flatten() {
        let Some(name) = &option.name else { continue };
        let text = match &option.value {
            Some(value) => format!("{name}:{value}"),
            None => name.clone(),
        };
        let same = |known: &&mut String| known.split(':').next() == Some(name);
        match conf.options.iter_mut().find(same) {
            Some(known) => *known = text,
            None => conf.options.push(text),
        }
    }
}

fn cut(conf: &mut ResolvConf, complaints: &mut Vec<Complaint>) {
    let mut forming = |what: &str| {
        complaints.push(Complaint { reason: "DNSConfigForming", message: format!("{what}; some were left out") });
    };
    if conf.nameservers.len() > MAX_NAMESERVERS {
        conf.nameservers.truncate(MAX_NAMESERVERS);
        forming("more than 3 nameservers");
    }
    let before = conf.searches.len();
    conf.searches.retain(|search| search.len() <= MAX_DOMAIN_CHARS);
    conf.searches.truncate(MAX_SEARCHES);
    while conf.searches.join(" ").len() > MAX_SEARCH_CHARS {
        conf.searches.pop();
    }
    if conf.searches.len() < before {
        forming("more search domains than 32, longer than 253 or together over 2048 characters");
    }
}

fn push_new(list: &mut Vec<String>, item: String) {
    if !list.contains(&item) {
        list.push(item);
    }
}

impl ResolvConf {
    /// Reads a file; of several `search` or `options` lines the last wins. An empty file means the
    /// local host's server and the root domain.
    pub fn parse(text: &str) -> Self {
        let mut conf = Self::default();
        let rows = text.lines().filter(|line| !line.starts_with(['#', ';']));
        for line in rows {
            let mut words = line.split_whitespace();
            let Some(key) = words.next() else { continue };
            let values: Vec<String> = words.map(str::to_owned).collect();
            match key {
                "nameserver" => conf.nameservers.extend(values.into_iter().take(1)),
                "search" => conf.searches = values.into_iter().map(without_dot).collect(),
                "options" => conf.options = values,
                _ => {}
            }
        }
        if text.trim().is_empty() {
            conf.nameservers = vec!["127.0.0.1".to_owned()];
            conf.searches = vec![".".to_owned()];
        }
        conf
    }
}

fn without_dot(search: String) -> String {
    match search.strip_suffix('.') {
        Some(rest) if !rest.is_empty() => rest.to_owned(),
        _ => search,
    }
}

impl std::fmt::Display for ResolvConf {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if !self.searches.is_empty() {
            writeln!(out, "search {}", self.searches.join(" "))?;
        }
        for server in &self.nameservers {
            writeln!(out, "nameserver {server}")?;
        }
        if !self.options.is_empty() {
            writeln!(out, "options {}", self.options.join(" "))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::core::v1::{PodDNSConfig, PodDNSConfigOption};

    const NODE: &str =
        "# made by hand\nnameserver 192.0.2.1\nsearch old.example\nsearch lan.example\noptions ndots:2 rotate\n";

    fn cluster() -> ClusterDns {
        ClusterDns { servers: vec!["10.96.0.10".parse().expect("address")], domain: "cluster.local".to_owned() }
    }

    fn spec(policy: Option<&str>, host_network: bool, config: Option<PodDNSConfig>) -> PodSpec {
        PodSpec {
            dns_policy: policy.map(str::to_owned),
            host_network: host_network.then_some(true),
            dns_config: config,
            ..PodSpec::default()
        }
    }

    #[test]
    fn each_dns_policy_gives_its_file() {
        let inside = "search ns.svc.cluster.local svc.cluster.local cluster.local lan.example\n\
                      nameserver 10.96.0.10\noptions ndots:5\n";
        let outside = "search lan.example\nnameserver 192.0.2.1\noptions ndots:2 rotate\n";
        for (policy, host_network, expected) in [
            (None, false, inside),
            (Some("ClusterFirst"), false, inside),
            (Some("ClusterFirst"), true, outside),
            (Some("ClusterFirstWithHostNet"), true, inside),
            (Some("Default"), false, outside),
            (Some("None"), false, ""),
        ] {
            let (conf, complaints) = resolv_conf(&spec(policy, host_network, None), "ns", NODE, &cluster());
            assert_eq!(conf.to_string(), expected, "{policy:?} hostNetwork={host_network}");
            assert_eq!(complaints, []);
        }
    }

    #[test]
    fn dns_config_adds_servers_and_searches_and_its_options_win() {
        let config = PodDNSConfig {
            nameservers: Some(vec!["1.2.3.4".to_owned(), "10.96.0.10".to_owned()]),
            searches: Some(vec!["my.example".to_owned(), "lan.example".to_owned()]),
            options: Some(vec![
                PodDNSConfigOption { name: Some("ndots".into()), value: Some("2".into()) },
                PodDNSConfigOption { name: Some("edns0".into()), value: None },
            ]),
        };
        let (conf, _) = resolv_conf(&spec(None, false, Some(config)), "ns", NODE, &cluster());
        assert_eq!(
            conf.to_string(),
            "search ns.svc.cluster.local svc.cluster.local cluster.local lan.example my.example\n\
             nameserver 10.96.0.10\nnameserver 1.2.3.4\noptions ndots:2 edns0\n"
        );
    }

    #[test]
    fn too_many_servers_are_cut_with_a_complaint() {
        let config = PodDNSConfig {
            nameservers: Some((1..=4).map(|last| format!("192.0.2.{last}")).collect()),
            ..PodDNSConfig::default()
        };
        let (conf, complaints) = resolv_conf(&spec(Some("None"), false, Some(config)), "ns", "", &cluster());
        assert_eq!(conf.nameservers.len(), 3);
        assert_eq!(complaints[0].reason, "DNSConfigForming");
    }

    #[test]
    fn without_a_cluster_dns_cluster_first_is_default_with_a_complaint() {
        let (conf, complaints) = resolv_conf(&spec(None, false, None), "ns", NODE, &ClusterDns::default());
        assert_eq!(conf.nameservers, ["192.0.2.1"]);
        assert_eq!(complaints[0].reason, "MissingClusterDNS");
    }

    #[test]
    fn an_empty_node_file_means_the_local_host() {
        let (conf, _) = resolv_conf(&spec(Some("Default"), false, None), "ns", "", &cluster());
        assert_eq!(conf.to_string(), "search .\nnameserver 127.0.0.1\n");
    }
}
