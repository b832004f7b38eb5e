//! The file that nearly every cluster has, and what it means.

use super::super::config::*;
use super::super::*;
use super::{name, without_places};
use crate::name::Name;

/// As kubeadm writes it.
pub const KUBEADM: &str = ".:53 {
    errors
    health {
       lameduck 5s
    }
    ready
    kubernetes cluster.local in-addr.arpa ip6.arpa {
       pods insecure
       fallthrough in-addr.arpa ip6.arpa
       ttl 30
    }
    prometheus :9153
    forward . /etc/resolv.conf {
       max_concurrent 1000
    }
    cache 30 {
       disable success cluster.local
       disable denial cluster.local
    }
    loop
    reload
    loadbalance
}
";

#[test]
fn kubeadms_file_means_what_it_says() {
    let (corefile, notes) = read_with_notes(KUBEADM, &Sources::none()).expect("it is right");
    assert_eq!(notes, [], "all of it has an effect");
    let place = |line| Place { file: "Corefile".into(), line };
    let reverse = [name("in-addr.arpa"), name("ip6.arpa")];
    let secs = std::time::Duration::from_secs;
    let wanted = Block {
        errors: Some(ErrorsConfig { consolidate: vec![] }),
        health: Some(HealthConfig { listen: "[::]:8080".parse().unwrap(), lameduck: secs(5) }),
        ready: Some(ReadyConfig { listen: "[::]:8181".parse().unwrap(), continuously: false }),
        kubernetes: Some(KubernetesConfig {
            pods: PodMode::Insecure,
            fallthrough: Fallthrough::In(reverse.to_vec()),
            ttl_secs: 30,
            ..KubernetesConfig::new([vec![name("cluster.local")], reverse.to_vec()].concat())
        }),
        metrics: Some("[::]:9153".parse().unwrap()),
        forwards: vec![ForwardConfig {
            max_concurrent: 1000,
            ..ForwardConfig::new(place(13), Name::root(), vec![Target::File("/etc/resolv.conf".into())])
        }],
        cache: Some(CacheConfig {
            success: CacheLimits { entries: 9984, max_ttl_secs: 30, min_ttl_secs: 5 },
            denial: CacheLimits { entries: 9984, max_ttl_secs: 30, min_ttl_secs: 5 },
            no_success: vec![name("cluster.local")],
            no_denial: vec![name("cluster.local")],
            ..CacheConfig::default()
        }),
        detects_loops: true,
        reload: Some(secs(30)),
        loadbalance: true,
        ..Block::new(place(1), vec![Name::root()])
    };
    assert_eq!(corefile.blocks, [wanted]);
}

#[test]
fn what_portolan_comes_with_is_kubeadms_file() {
    let mut read = without_places(read(KUBEADM, &Sources::none()).expect("it is right"));
    read.blocks[0].reload = Some(std::time::Duration::from_secs(5));
    assert_eq!(read, without_places(Corefile::shipped(&name("cluster.local"), 30, "/etc/resolv.conf")));
}
