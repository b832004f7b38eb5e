use portolan_model::{NsName, Proto, ServicePortKey};

use crate::iptables::names::{ServiceChains, endpoint_chain, endpoint_hash, is_ours, service_hash};

fn key(namespace: &str, name: &str, port: &str, proto: Proto) -> ServicePortKey {
    ServicePortKey { service: NsName::new(namespace, name), port: port.into(), proto }
}

#[test]
fn hashes_are_those_that_kube_proxy_makes() {
    let svc1 = key("ns1", "svc1", "p80", Proto::Tcp);
    assert_eq!(service_hash(&svc1), "XPGD46QRK7WJZT7O");
    assert_eq!(endpoint_hash(&svc1, "10.180.0.1:80"), "SXIVWICOYRO3J4NJ");
    assert_eq!(service_hash(&key("default", "kubernetes", "https", Proto::Tcp)), "NPX46M4PTMTKRN6Y");
    assert_eq!(service_hash(&key("kube-system", "kube-dns", "dns", Proto::Udp)), "TCOU7JCQXEZGVUNU");
}

#[test]
fn chain_names_fit_the_kernels_28_bytes_and_are_known_as_ours() {
    let svc1 = key("ns1", "svc1", "", Proto::Sctp);
    let chains = ServiceChains::of(&svc1);
    let all = [chains.cluster, chains.local, chains.external, chains.firewall, endpoint_chain(&svc1, "[fd00::1]:80")];
    for name in all {
        assert!(name.len() <= 28 && is_ours(&name), "{name}");
    }
    assert!(!is_ours("KUBE-KUBELET-CANARY") && !is_ours("INPUT") && !is_ours("cali-FORWARD"));
}
