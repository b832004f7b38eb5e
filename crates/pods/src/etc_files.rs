//! /etc/hosts and /etc/hostname of a pod. Source: kubelet's managed hosts file.

use std::fmt::Write as _;
use std::net::IpAddr;

use k8s_openapi::api::core::v1::{Pod, PodSpec};

/// Longest host name the kernel and DNS agree on.
const MAX_HOSTNAME: usize = 63;

/// A pod's host name: `spec.hostname`, else its name, cut to 63 characters.
pub fn hostname(pod: &Pod) -> String {
    let own = pod.spec.as_ref().and_then(|spec| spec.hostname.clone());
    let mut name = own.or_else(|| pod.metadata.name.clone()).unwrap_or_default();
    name.truncate(MAX_HOSTNAME);
    name.trim_end_matches(['-', '.']).to_owned()
}

/// `/etc/hosts` of a pod with its own network.
pub fn hosts(pod: &Pod, ips: &[IpAddr], cluster_domain: &str) -> String {
    let mut text = String::from(
        "# Kubernetes-managed hosts file.\n\
         127.0.0.1\tlocalhost\n\
         ::1\tlocalhost ip6-localhost ip6-loopback\n\
         fe00::0\tip6-localnet\n\
         fe00::0\tip6-mcastprefix\n\
         fe00::1\tip6-allnodes\n\
         fe00::2\tip6-allrouters\n",
    );
    let hostname = hostname(pod);
    let namespace = pod.metadata.namespace.as_deref().unwrap_or("default");
    let subdomain = pod.spec.as_ref().and_then(|spec| spec.subdomain.as_deref());
    let names = match subdomain.filter(|name| !name.is_empty()) {
        Some(subdomain) => format!("{hostname}.{subdomain}.{namespace}.svc.{cluster_domain}\t{hostname}"),
        None => hostname,
    };
    for ip in ips {
        writeln!(text, "{ip}\t{names}").expect("writing to a String cannot fail");
    }
    text + &aliases(pod.spec.as_ref())
}

/// `/etc/hosts` of a hostNetwork pod: the node's own.
pub fn hosts_of_node(pod: &Pod, node_file: &str) -> String {
    format!("# Kubernetes-managed hosts file (host network).\n{node_file}") + &aliases(pod.spec.as_ref())
}

fn aliases(spec: Option<&PodSpec>) -> String {
    let aliases: Vec<_> = spec.and_then(|spec| spec.host_aliases.as_ref()).into_iter().flatten().collect();
    if aliases.is_empty() {
        return String::new();
    }
    let mut text = String::from("\n# Entries added by HostAliases.\n");
    for alias in aliases {
        let names = alias.hostnames.clone().unwrap_or_default().join("\t");
        writeln!(text, "{}\t{names}", alias.ip).expect("writing to a String cannot fail");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(name: &str, spec: PodSpec) -> Pod {
        let mut pod = Pod { spec: Some(spec), ..Pod::default() };
        pod.metadata.name = Some(name.to_owned());
        pod.metadata.namespace = Some("ns".to_owned());
        pod
    }

    #[test]
    fn a_pod_finds_itself_under_its_name_in_both_families() {
        let ips = ["10.244.0.5".parse().expect("address"), "fd00::5".parse().expect("address")];
        let text = hosts(&pod("web-1", PodSpec::default()), &ips, "cluster.local");
        assert!(text.ends_with("10.244.0.5\tweb-1\nfd00::5\tweb-1\n"), "{text}");
        let spec = PodSpec { hostname: Some("h".into()), subdomain: Some("s".into()), ..PodSpec::default() };
        let text = hosts(&pod("web-1", spec), &ips[..1], "cluster.local");
        assert!(text.ends_with("10.244.0.5\th.s.ns.svc.cluster.local\th\n"), "{text}");
    }

    #[test]
    fn a_long_pod_name_is_cut_to_a_host_name() {
        let name = format!("{}-{}", "a".repeat(62), "b".repeat(20));
        assert_eq!(hostname(&pod(&name, PodSpec::default())), "a".repeat(62));
    }
}
