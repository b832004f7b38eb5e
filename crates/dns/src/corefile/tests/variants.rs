//! Files as clusters have them: managed ones, with stub domains, custom parts and dropped AAAA.

use super::super::config::*;
use super::super::*;
use super::kubeadm::KUBEADM;
use super::{block, name, told, whole, without_places};
use crate::rdata::Rtype;
use crate::wire::Rcode;

fn plain(addr: &str) -> Target {
    Target::Plain(addr.parse().unwrap())
}

#[test]
fn a_managed_clusters_file_with_several_zones_is_read() {
    let block = block(
        ".:53 {
    errors
    health {
        lameduck 5s
      }
    ready
    kubernetes cluster.local in-addr.arpa ip6.arpa {
      pods insecure
      fallthrough in-addr.arpa ip6.arpa
    }
    prometheus :9153
    forward . /etc/resolv.conf
    cache 30
    loop
    reload
    loadbalance
}",
    );
    assert_eq!(block.kubernetes.unwrap().ttl_secs, 5, "what kubeadm says, this one does not");
    assert_eq!(block.forwards[0].max_concurrent, 0);
    assert_eq!(block.cache.unwrap().no_success, []);
}

#[test]
fn custom_parts_of_a_managed_cluster_stand_in_their_places() {
    let text = ".:53 {
    errors
    ready
    health {
      lameduck 5s
    }
    kubernetes cluster.local in-addr.arpa ip6.arpa {
      pods insecure
      fallthrough in-addr.arpa ip6.arpa
    }
    prometheus :9153
    forward . /etc/resolv.conf
    cache 30
    loop
    reload
    loadbalance
    import custom/*.override
    template ANY ANY internal.cloudapp.net {
      match \"^(?:[^.]+\\.){4,}internal\\.cloudapp\\.net\\.$\"
      rcode NXDOMAIN
      fallthrough
    }
    template ANY ANY reddog.microsoft.com {
      rcode NXDOMAIN
    }
}
import custom/*.server
";
    let custom = |name: &str| match name {
        "custom/*.override" => Some(vec![("custom/log.override".into(), "log\n".into())]),
        "custom/*.server" => Some(vec![(
            "custom/stub.server".into(),
            "corp.example:53 {\n    errors\n    cache 30\n    forward . 10.150.0.1\n}\n".into(),
        )]),
        _ => None,
    };
    let corefile = read(text, &Sources { files: &custom, variables: &|_| None })
        .unwrap_or_else(|found| panic!("{}", told(&found)));
    let [main, stub] = corefile.blocks.as_slice() else { panic!("two blocks: {corefile}") };
    assert_eq!(main.logs.len(), 1);
    let [first, second] = main.templates.as_slice() else { panic!("two templates") };
    assert_eq!((first.rtype, first.rcode, &first.fallthrough), (Rtype::ANY, Rcode::NXDOMAIN, &Fallthrough::Always));
    assert!(first.matches[0].regex.is_match("a.b.c.d.internal.cloudapp.net."));
    assert_eq!(second.zones, [name("reddog.microsoft.com")]);
    assert_eq!((&stub.zones[0], &stub.forwards[0].to[0]), (&name("corp.example"), &plain("10.150.0.1:53")));
}

#[test]
fn a_node_caches_file_is_read() {
    let corefile = whole(
        "cluster.local:53 {
    errors
    cache {
            success 9984 30
            denial 9984 5
    }
    reload
    loop
    bind 169.254.20.10 10.96.0.10
    forward . 10.96.0.10 {
            force_tcp
    }
    prometheus :9253
    health 169.254.20.10:8080
    }
in-addr.arpa:53 {
    errors
    cache 30
    reload
    loop
    bind 169.254.20.10 10.96.0.10
    forward . 10.96.0.10 {
            force_tcp
    }
    prometheus :9253
    }
",
    );
    let first = &corefile.blocks[0];
    let cache = first.cache.as_ref().unwrap();
    assert_eq!((cache.success.max_ttl_secs, cache.denial.max_ttl_secs, cache.denial.min_ttl_secs), (30, 5, 5));
    assert!(first.forwards[0].force_tcp && first.bind.len() == 2);
    assert_eq!(first.health.as_ref().unwrap().listen, "169.254.20.10:8080".parse().unwrap());
}

#[test]
fn each_option_of_each_plugin_reads_to_its_value() {
    let block = block(
        "example.org {
    acl {
        block type ANY AXFR net 10.1.0.0/16 fd00::1
        filter type AAAA
        allow
    }
    acl example.com {
        drop net *
    }
    any
    autopath example.org @kubernetes
    bind 10.0.0.1 10.0.0.2 ::1 {
        except 10.0.0.2
    }
    bufsize 1400
    cache 60 example.org {
        success 1000 120 10
        denial 500
        prefetch 10 30s 20%
        serve_stale 2h verify 100ms
        servfail 0
        disable denial example.com
        keepttl
    }
    errors {
        consolidate 5m \".* i/o timeout$\" warning
    }
    forward example.org 10.0.0.1 10.0.0.2:5353 [fd00::1]:54 fd00::2 tls://9.9.9.9%dns.example https://10.0.0.4/q /run/resolv.conf {
        except a.example.org 10.0.0.0/8
        prefer_udp
        max_fails 3
        expire 20s
        health_check 1s
        policy sequential
        failover SERVFAIL refused
        tls cert key ca
    }
    hosts /run/hosts example.org {
        10.0.0.9 nine.example.org n.example.org
        ttl 60
        no_reverse
        reload 0
        fallthrough example.org
    }
    k8s_external lb.example.org {
        apex ns
        ttl 10
        headless
        fallthrough
    }
    kubernetes cluster.local {
        namespaces a b
        pods verified
        endpoint_pod_names
        ttl 0
        noendpoints
        ignore empty_service
        startup_timeout 1s
        fallthrough
    }
    local
    log a.example b.example \"{name} {rcode}\" {
        class denial error
    }
    minimal
    ready :8282 {
        monitor continuously
    }
    reload 10s 2s
    rrl example.org {
        window 30
        responses-per-second 10
        nxdomains-per-second 5
        slip-ratio 0
        max-table-size 64
    }
    transfer {
        to 10.0.0.1 10.2.0.0/16
    }
}",
    );
    assert_eq!(block.acl.len(), 4);
    assert_eq!(
        (block.acl[0].action, block.acl[0].types.as_slice()),
        (AclAction::Block, &[Rtype::ANY, Rtype::AXFR][..])
    );
    assert_eq!(block.acl[0].nets[1].to_string(), "fd00::1/128");
    assert_eq!((block.acl[3].action, block.acl[3].zones.len(), block.acl[3].nets.len()), (AclAction::Drop, 1, 0));
    assert_eq!(block.autopath.as_ref().unwrap().by, AutopathBy::Kubernetes);
    assert_eq!(block.bind.iter().map(ToString::to_string).collect::<Vec<_>>(), ["10.0.0.1", "::1"]);
    assert_eq!(block.bufsize_bytes, 1400);
    let cache = block.cache.as_ref().unwrap();
    assert_eq!(cache.success, CacheLimits { entries: 1000, max_ttl_secs: 120, min_ttl_secs: 10 });
    assert_eq!(cache.denial, CacheLimits { entries: 500, max_ttl_secs: 60, min_ttl_secs: 5 });
    assert_eq!(cache.stale.unwrap().verify.unwrap().as_millis(), 100);
    assert_eq!((cache.prefetch.unwrap().percent, cache.servfail.as_secs()), (20, 0));
    let forward = &block.forwards[0];
    let servers = [
        plain("10.0.0.1:53"),
        plain("10.0.0.2:5353"),
        plain("[fd00::1]:54"),
        plain("[fd00::2]:53"),
        Target::Tls("9.9.9.9:853".parse().unwrap()),
        Target::Https { addr: "10.0.0.4:443".parse().unwrap(), path: "/q".into() },
        Target::File("/run/resolv.conf".into()),
    ];
    assert_eq!(forward.to, servers);
    assert_eq!(forward.next_on, [Rcode::SERVFAIL, Rcode::REFUSED]);
    assert_eq!(forward.except, [name("a.example.org"), name("10.in-addr.arpa")]);
    assert_eq!(forward.tls.server_name.as_deref(), Some("dns.example"));
    assert_eq!((forward.policy, forward.max_fails, forward.health_check.as_secs()), (Policy::Sequential, 3, 1));
    let hosts = block.hosts.as_ref().unwrap();
    assert_eq!(
        (hosts.inline.as_slice(), hosts.reload),
        (&["10.0.0.9 nine.example.org n.example.org".to_owned()][..], None)
    );
    let external = block.external.as_ref().unwrap();
    assert_eq!((external.apex.as_str(), external.ttl_secs, external.headless), ("ns", 10, true));
    let kubernetes = block.kubernetes.as_ref().unwrap();
    assert_eq!((kubernetes.pods, kubernetes.ttl_secs, kubernetes.no_endpoints), (PodMode::Verified, 0, true));
    assert!(kubernetes.ignore_empty_service && kubernetes.endpoint_pod_names);
    assert_eq!(block.logs[0].format, "{name} {rcode}");
    assert_eq!(block.logs[0].classes, [LogClass::Denial, LogClass::Error]);
    assert!(block.ready.as_ref().unwrap().continuously);
    let rrl = block.rrl.as_ref().unwrap();
    assert_eq!(
        (rrl.responses_per_second, rrl.nodata_per_second, rrl.nxdomains_per_second, rrl.errors_per_second),
        (10, 10, 5, 10)
    );
    assert_eq!((rrl.slip, rrl.window.as_secs(), rrl.max_accounts), (0, 30, 64));
    assert_eq!(block.transfers[0].to.len(), 2);
}

#[test]
fn a_stale_answer_that_is_checked_first_waits_for_the_check() {
    let verify = |words: &str| {
        block(&format!(". {{\ncache {{\nserve_stale {words}\n}}\n}}")).cache.unwrap().stale.unwrap().verify
    };
    assert_eq!(verify(""), None);
    assert_eq!(verify("1h immediate"), None);
    assert_eq!(verify("1h verify 2s").map(|limit| limit.as_secs()), Some(2));
    for unlimited in ["1h verify", "1h verify 0"] {
        assert!(
            verify(unlimited).is_some_and(|limit| limit.as_secs() >= 30),
            "no limit is no limit of nothing: {unlimited}"
        );
    }
}

#[test]
fn kube_dnss_settings_become_a_corefile() {
    let text = kube_dns::corefile("cluster.local", "", "").expect("no settings");
    let plain_one = |text: &str| without_places(whole(text));
    let wanted = KUBEADM.replace(" {\n       max_concurrent 1000\n    }", "").replace(
        "cache 30 {\n       disable success cluster.local\n       disable denial cluster.local\n    }",
        "cache 30",
    );
    assert_eq!(plain_one(&text), plain_one(&wanted));

    let stubs = r#"{"acme.local": ["1.2.3.4", "1.2.3.5:5353"]}"#;
    let corefile = whole(&kube_dns::corefile("cluster.local", stubs, r#"["8.8.8.8", "8.8.4.4"]"#).expect("right"));
    assert_eq!(corefile.blocks[0].forwards[0].to, [plain("8.8.8.8:53"), plain("8.8.4.4:53")]);
    assert_eq!(corefile.blocks[1].zones, [name("acme.local")]);
    assert_eq!(corefile.blocks[1].forwards[0].to, [plain("1.2.3.4:53"), plain("1.2.3.5:5353")]);

    for (stubs, upstreams, wanted) in [
        ("[]", "", "stubDomains: "),
        ("", r#"["dns.example"]"#, "upstreamNameservers: \"dns.example\" is no IP address"),
        (r#"{"a": []}"#, "", "a: there is no server"),
    ] {
        let found = kube_dns::corefile("cluster.local", stubs, upstreams).expect_err("wrong");
        assert!(found.starts_with(wanted), "{found}");
    }
}
