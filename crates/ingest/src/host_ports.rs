//! Ports of the node that lead to a pod: `ports[].hostPort`.
//!
//! They are no part of the Pod's fact, which every node holds of every pod: only the node that runs the pod asks.

use std::net::IpAddr;

use k8s_openapi::api::core::v1 as core;
use portolan_model::{HostPort, Proto};

/// The host ports of a pod's containers, sorted, each once; those of init containers that go on running count too.
///
/// Empty for a pod in the node's own network, whose ports are the node's already. A `hostIP` of `0.0.0.0` or `::` means
/// every address, as an empty one does. Entries that are out of range are left out: the API takes none.
pub fn host_ports(pod: &core::Pod) -> Vec<HostPort> {
    let Some(spec) = pod.spec.as_ref().filter(|spec| spec.host_network != Some(true)) else {
        return Vec::new();
    };
    let lasting = spec.init_containers.iter().flatten().filter(|c| c.restart_policy.as_deref() == Some("Always"));
    let ports = spec.containers.iter().chain(lasting).flat_map(|container| container.ports.iter().flatten());
    let mut found: Vec<HostPort> = ports.filter_map(host_port).collect();
    found.sort();
    found.dedup();
    found
}

fn host_port(port: &core::ContainerPort) -> Option<HostPort> {
    let number = |number: i32| u16::try_from(number).ok().filter(|number| *number != 0);
    let host_addr = match port.host_ip.as_deref().unwrap_or_default() {
        "" => None,
        text => Some(text.parse::<IpAddr>().ok()?).filter(|addr| !addr.is_unspecified()),
    };
    Some(HostPort {
        proto: Proto::parse(port.protocol.as_deref().unwrap_or("TCP"))?,
        host_addr,
        host_port: number(port.host_port?)?,
        pod_port: number(port.container_port)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn check(spec: Value, expected: &[(Proto, Option<&str>, u16, u16)]) {
        let pod = serde_json::from_value(json!({ "metadata": { "name": "web" }, "spec": spec })).expect("a Pod");
        let row = |(proto, addr, host_port, pod_port): &(Proto, Option<&str>, u16, u16)| HostPort {
            proto: *proto,
            host_addr: addr.map(|text| text.parse().expect("an address")),
            host_port: *host_port,
            pod_port: *pod_port,
        };
        assert_eq!(host_ports(&pod), expected.iter().map(row).collect::<Vec<_>>());
    }

    #[test]
    fn host_ports_are_those_of_all_containers_that_go_on_running() {
        let ports = json!([
            { "containerPort": 80, "hostPort": 8080 },
            { "containerPort": 53, "hostPort": 5353, "protocol": "UDP", "hostIP": "172.18.0.11" },
            { "containerPort": 81 },
            { "containerPort": 82, "hostPort": 0 },
            { "containerPort": 443, "hostPort": 8443, "hostIP": "::" },
        ]);
        let sidecar = |policy: &str, port: u16| {
            json!({
                "name": format!("s{port}"), "restartPolicy": policy, "ports": [{ "containerPort": port, "hostPort": port }],
            })
        };
        check(
            json!({
                "containers": [{ "name": "a", "ports": ports.clone() }, { "name": "b", "ports": [{ "containerPort": 90, "hostPort": 9000 }] }],
                "initContainers": [sidecar("Always", 7000), sidecar("OnFailure", 7001)],
            }),
            &[
                (Proto::Tcp, None, 7000, 7000),
                (Proto::Tcp, None, 8080, 80),
                (Proto::Tcp, None, 8443, 443),
                (Proto::Tcp, None, 9000, 90),
                (Proto::Udp, Some("172.18.0.11"), 5353, 53),
            ],
        );
        check(json!({ "hostNetwork": true, "containers": [{ "name": "a", "ports": ports }] }), &[]);
        check(json!({ "containers": [{ "name": "a" }] }), &[]);
    }

    #[test]
    fn an_address_that_is_none_is_left_out() {
        let ports = json!([{ "containerPort": 80, "hostPort": 8080, "hostIP": "nowhere" }]);
        check(json!({ "containers": [{ "name": "a", "ports": ports }] }), &[]);
    }
}
