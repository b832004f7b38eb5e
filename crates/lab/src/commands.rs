//! The command lines of what init starts. Values only.

use std::path::Path;

use crate::config::{Files, LabConfig, ProxyMode};
use crate::topology::{API_PORT, HostSpec, node_name};

/// Where a place sees its own folder of the lab's files.
pub(crate) const PLACE_DIR: &str = "/run/lab";
/// A lab shows a node's death while somebody watches: heartbeats are frequent and patience is short.
const HEARTBEAT_SECS: u32 = 2;
const NODE_GRACE_SECS: u32 = 8;
const BGP_HOLD_SECS: u32 = 9;
/// Where the API server finds the machine's listener.
pub(crate) const LISTEN_FD: i32 = 3;

/// `portolan server …`, in its own network namespace.
pub(crate) fn server(config: &LabConfig, files: &Files, host: &HostSpec) -> Vec<String> {
    let address = host.address.addr();
    let mut line = words(&[
        ("server", String::new()),
        ("--data-dir", text(&files.data())),
        ("--listen-fd", LISTEN_FD.to_string()),
        ("--listen", format!("{address}:{API_PORT}")),
        ("--advertise", address.to_string()),
        ("--service-cidr", list(&config.service_cidrs())),
        ("--cluster-cidr", list(&config.cluster_cidrs())),
        ("--cluster-dns", list(&config.cluster_dns())),
        ("--cluster-domain", config.cluster_domain.clone()),
        ("--pki-dir", text(&files.pki())),
        ("--node-grace-secs", NODE_GRACE_SECS.to_string()),
    ]);
    line.extend(pools(config));
    line
}

/// Which addresses Services of type LoadBalancer get, and nodes answer for.
fn pools(config: &LabConfig) -> Vec<String> {
    config.balancer_pools.iter().flat_map(|pool| ["--lb-pool".to_owned(), pool.to_string()]).collect()
}

/// Where who fetches images finds its listener.
pub(crate) const FETCHER_FD: i32 = 3;

/// `portolan image serve …`, in the machine's own network.
pub(crate) fn fetcher(config: &LabConfig) -> Vec<String> {
    let mut line = vec!["image".to_owned(), "serve".to_owned()];
    line.extend(words(&[("--listen-fd", FETCHER_FD.to_string()), ("--image-store", text(&config.image_store))]));
    line.extend(config.registries.clone());
    line
}

/// Who may be asked for images, and through whom.
fn image_sources(config: &LabConfig) -> Vec<String> {
    if config.registries.is_empty() {
        return Vec::new();
    }
    let mut line = words(&[("--image-broker", text(&Files::new(&config.state_dir).image_socket()))]);
    line.extend(config.registries.clone());
    line
}

/// `portolan agent …`, inside the node.
pub(crate) fn agent(config: &LabConfig, host: &HostSpec) -> Vec<String> {
    let own = |name: &str| format!("{PLACE_DIR}/{name}");
    let mut line = words(&[
        ("agent", String::new()),
        ("--node", host.name.clone()),
        ("--node-ip", list(&host.addresses())),
        ("--kubeconfig", own("kubeconfig")),
        ("--state-dir", "/run/portolan".to_owned()),
        ("--image-store", text(&config.image_store)),
        ("--cluster-cidr", list(&config.cluster_cidrs())),
        ("--service-cidr", list(&config.service_cidrs())),
        ("--cluster-dns", list(&config.cluster_dns())),
        ("--cluster-domain", config.cluster_domain.clone()),
        ("--lan-interface", "eth0".to_owned()),
        ("--tls-cert", own("tls.crt")),
        ("--tls-key", own("tls.key")),
        ("--client-ca", own("ca.crt")),
        ("--heartbeat-secs", HEARTBEAT_SECS.to_string()),
        ("--bgp-hold-secs", BGP_HOLD_SECS.to_string()),
    ]);
    line.extend(proxy_mode(config.proxy_mode));
    line.extend(image_sources(config));
    line.extend(config.limit_flags.clone());
    line.extend(pools(config));
    line
}

/// An agent that is told nothing looks for itself, with the lab's own programs on its PATH.
fn proxy_mode(mode: ProxyMode) -> Vec<String> {
    match mode {
        ProxyMode::Auto => Vec::new(),
        ProxyMode::Iptables => words(&[("--proxy-mode", "iptables".to_owned())]),
        ProxyMode::Nftables => words(&[("--proxy-mode", "nftables".to_owned())]),
    }
}

/// The upstream resolver and web echo on `outside`.
pub(crate) fn upstream(files: &Files) -> Vec<String> {
    words(&[("lab-upstream", text(&files.dir))])
}

pub(crate) fn agent_unit(number: usize) -> String {
    format!("agent-{}", node_name(number))
}

fn list(values: &[impl ToString]) -> String {
    values.iter().map(ToString::to_string).collect::<Vec<_>>().join(",")
}

fn text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

fn words(pairs: &[(&str, String)]) -> Vec<String> {
    let both = pairs.iter().flat_map(|(flag, value)| [(*flag).to_owned(), value.clone()]);
    both.filter(|word| !word.is_empty()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::IpFamily;

    #[test]
    fn an_agents_command_line_names_its_node_and_its_own_files() {
        let config = LabConfig::new("lab", 2, "/exe".into(), "/images".into());
        let line = agent(&config, &config.topology().node(2)).join(" ");
        let expected = "agent --node node-2 --node-ip 172.18.0.12 --kubeconfig /run/lab/kubeconfig \
                        --state-dir /run/portolan --image-store /images --cluster-cidr 10.244.0.0/16 \
                        --service-cidr 10.96.0.0/12 --cluster-dns 10.96.0.10 --cluster-domain cluster.local \
                        --lan-interface eth0 --tls-cert /run/lab/tls.crt --tls-key /run/lab/tls.key \
                        --client-ca /run/lab/ca.crt --heartbeat-secs 2 --bgp-hold-secs 9 --proxy-mode iptables";
        assert_eq!(line, expected);
    }

    #[test]
    fn with_both_families_every_range_has_two() {
        let mut config = LabConfig::new("lab", 2, "/exe".into(), "/images".into());
        config.ip_family = IpFamily::Dual;
        let topology = config.topology();
        let lines = [
            server(&config, &Files::new(Path::new("/state")), &topology.api_server()).join(" "),
            agent(&config, &topology.node(2)).join(" "),
        ];
        for line in &lines {
            for words in [
                "--cluster-cidr 10.244.0.0/16,fd00:10:244::/56 ",
                "--service-cidr 10.96.0.0/12,fd00:10:96::/112 ",
                "--cluster-dns 10.96.0.10,fd00:10:96::a ",
            ] {
                assert!(line.contains(words), "{line}");
            }
        }
        assert!(lines[1].contains("--node-ip 172.18.0.12,fd00:172:18::12 "), "{}", lines[1]);
    }

    #[test]
    fn registries_are_told_to_the_agents_and_to_who_fetches_for_them() {
        let mut config = LabConfig::new("lab", 1, "/exe".into(), "/images".into());
        config.state_dir = "/labs/lab".into();
        config.registries = vec!["--registry".into(), "docker.io".into()];
        let line = agent(&config, &config.topology().node(1)).join(" ");
        assert!(line.ends_with(" --image-broker /labs/lab/images/pull.sock --registry docker.io"), "{line}");
        let line = fetcher(&config).join(" ");
        assert_eq!(line, "image serve --listen-fd 3 --image-store /images --registry docker.io");
    }

    #[test]
    fn pools_are_told_to_the_server_and_to_the_agents() {
        let mut config = LabConfig::new("lab", 1, "/exe".into(), "/images".into());
        config.balancer_pools = vec!["172.18.100.0/28".parse().unwrap(), "172.18.0.224/28".parse().unwrap()];
        let topology = config.topology();
        let lines = [
            server(&config, &Files::new(Path::new("/state")), &topology.api_server()).join(" "),
            agent(&config, &topology.node(1)).join(" "),
        ];
        for line in lines {
            assert!(line.ends_with(" --lb-pool 172.18.100.0/28 --lb-pool 172.18.0.224/28"), "{line}");
        }
    }

    #[test]
    fn the_servers_command_line_names_both_its_listeners() {
        let config = LabConfig::new("lab", 1, "/exe".into(), "/images".into());
        let files = Files::new(Path::new("/state"));
        let line = server(&config, &files, &config.topology().api_server()).join(" ");
        assert!(line.starts_with("server --data-dir /state/data --listen-fd 3 --listen 172.18.0.2:6443"), "{line}");
    }
}
