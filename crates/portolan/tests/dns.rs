//! `portolan dns` in network namespaces of their own, with nothing but loopback in them: objects and a Corefile from files,
//! asked with Debian's dig, kdig and drill, pages with curl, names outside with knotd. As root.

mod support;

#[path = "dns/cluster.rs"]
mod cluster;
#[path = "dns/ground.rs"]
mod ground;
#[path = "dns/page.rs"]
mod page;
#[path = "dns/reload.rs"]
mod reload;
#[path = "dns/wrong.rs"]
mod wrong;

use ground::Ground;

/// What kubeadm writes into the ConfigMap `coredns`.
const KUBEADM: &str = ".:53 {
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

/// Question, and a line that the answer must have.
type Row = (&'static str, &'static str);

#[test]
fn kubeadms_corefile_is_served_as_it_is() {
    let ground = Ground::new();
    ground.upstream();
    ground.write("Corefile", KUBEADM);
    let _dns = ground.serve(&["--corefile", "Corefile", "--listen", "127.0.0.1"]);
    let rows: [Row; 10] = [
        ("web.default.svc.cluster.local A", "web.default.svc.cluster.local. 30 IN A 10.96.7.7"),
        ("WEB.default.svc.Cluster.Local A", "WEB.default.svc.Cluster.Local. 30 IN A 10.96.7.7"),
        ("_http._tcp.web.default.svc.cluster.local SRV", "IN SRV 0 100 80 web.default.svc.cluster.local."),
        ("web-pods.default.svc.cluster.local A", "IN A 10.244.0.70"),
        ("10-244-0-5.default.svc.cluster.local A", "status: NXDOMAIN"),
        ("10-244-0-5.default.pod.cluster.local A", "IN A 10.244.0.5"),
        ("-x 10.96.7.7", "IN PTR web.default.svc.cluster.local."),
        // Reverse names that are not the cluster's go on to the upstream.
        ("-x 192.0.2.7", "IN PTR seven.example.org."),
        ("docs.default.svc.cluster.local A", "docs.example.org. 30 IN A 192.0.2.7"),
        // The name of this server itself, at the address that it answers at.
        ("ns.dns.cluster.local A", "IN A 127.0.0.1"),
    ];
    ground.answers(&rows);
    ground.answers(&[("www.example.org A", "IN A 192.0.2.80"), ("+tcp www.example.org A", "IN A 192.0.2.80")]);
    assert!(ground.dig("nobody.default.svc.cluster.local A").contains("status: NXDOMAIN"));
    assert!(ground.dig("web.default.svc.cluster.local AAAA").contains("status: NOERROR"));
    assert_eq!(ground.curl("http://127.0.0.1:8080/health"), "200 OK");
    assert_eq!(ground.curl("http://127.0.0.1:8181/ready"), "200 OK");
    let metrics = ground.curl("http://127.0.0.1:9153/metrics");
    for name in ["coredns_build_info", "coredns_dns_requests_total{", "coredns_dns_responses_total{"] {
        assert!(metrics.contains(name), "{name} is not among the metrics:\n{metrics}");
    }
}

#[test]
fn a_stub_domain_and_the_root_have_servers_of_their_own() {
    let ground = Ground::new();
    ground.upstream();
    ground.write(
        "Corefile",
        "example.org {\n    forward . 127.0.0.2\n    cache 30\n}\n.:5300 {\n    kubernetes cluster.local\n}\n\
         . {\n    kubernetes cluster.local\n}\n",
    );
    let _dns = ground.serve(&["--corefile", "Corefile", "--listen", "127.0.0.1"]);
    ground.answers(&[
        ("www.example.org A", "IN A 192.0.2.80"),
        ("web.default.svc.cluster.local A", "5 IN A 10.96.7.7"),
        ("-p 5300 web.default.svc.cluster.local A", "5 IN A 10.96.7.7"),
        // No forwarder leads there.
        ("www.example.com A", "status: REFUSED"),
        ("-p 5300 www.example.org A", "status: REFUSED"),
    ]);
}

#[test]
fn hosts_rewrites_templates_and_access_lists_act_in_coredns_order() {
    let ground = Ground::new();
    ground.write("etc/hosts", "192.0.2.9 nine.example.net\n2001:db8::9 nine.example.net\n");
    ground.write("etc/more.server", "example.net {\n    hosts hosts {\n        fallthrough\n    }\n}\n");
    ground.write(
        "etc/Corefile",
        "import *.server\n. {\n    acl {\n        filter type AAAA net 127.0.0.0/8\n        block net 127.0.0.9\n    }\n\
         \x20   rewrite name shop.example.com web.default.svc.cluster.local\n\
         \x20   template IN A tpl.example.com {\n        match ^ip-(?P<a>[0-9]+)\\.tpl\\.example\\.com\\.$\n\
         \x20       answer \"{{ .Name }} 60 IN A 192.0.2.{{ .Group.a }}\"\n    }\n\
         \x20   kubernetes {$ZONE} {\n        pods disabled\n    }\n}\n",
    );
    let _dns = ground.serve(&["--corefile", "etc/Corefile"]);
    ground.answers(&[
        ("nine.example.net A", "3600 IN A 192.0.2.9"),
        ("nine.example.net AAAA", "3600 IN AAAA 2001:db8::9"),
        ("shop.example.com A", "shop.example.com. 5 IN A 10.96.7.7"),
        ("ip-44.tpl.example.com A", "ip-44.tpl.example.com. 60 IN A 192.0.2.44"),
        ("web.default.svc.cluster.local AAAA", "ANSWER: 0"),
        ("-b 127.0.0.9 web.default.svc.cluster.local A", "status: REFUSED"),
        ("10-244-0-5.default.pod.cluster.local A", "status: NXDOMAIN"),
    ]);
}

#[test]
fn listen_stands_for_port_53_of_a_corefile_and_for_its_addresses() {
    let ground = Ground::new();
    ground.write(
        "Corefile",
        ". {\n    bind 192.0.2.1\n    kubernetes cluster.local\n}\n.:5300 {\n    kubernetes a.b\n}\n",
    );
    let refused = ground.portolan(&["--check", "--corefile", "Corefile"]);
    refused.done();
    let _dns = ground.serve_at(
        "127.0.0.1",
        "1053",
        &["--corefile", "Corefile", "--listen", "127.0.0.1:1053", "--listen", "127.0.0.5:1053"],
    );
    ground.answers(&[
        ("-p 1053 web.default.svc.cluster.local A", "IN A 10.96.7.7"),
        ("-p 5300 web.default.svc.a.b A", "IN A 10.96.7.7"),
    ]);
    assert!(ground.sh("dig -p 1053 @127.0.0.5 web.default.svc.cluster.local A").contains("10.96.7.7"));
}

#[test]
fn an_address_of_the_nodes_own_is_served_beside_another_server() {
    let ground = Ground::new();
    ground.upstream();
    ground.write("Corefile", KUBEADM);
    ground.sh("ip addr add 169.254.20.10/32 dev lo");
    let _other = ground.inside(|| std::net::UdpSocket::bind("127.0.0.1:53").expect("the namespace is ours"));
    let _dns = ground.serve_at("169.254.20.10", "53", &["--corefile", "Corefile", "--listen", "169.254.20.10"]);
    for (name, answer) in [("web.default.svc.cluster.local", "10.96.7.7"), ("www.example.org", "192.0.2.80")] {
        let said = ground.sh(&format!("dig +short +time=5 @169.254.20.10 {name} A"));
        assert_eq!(said.trim(), answer, "{name}; log: {}", ground.log());
    }
    assert_eq!(ground.curl("http://169.254.20.10:8181/ready"), "200 OK");
}

#[test]
fn pods_of_the_files_are_verified() {
    let ground = Ground::new();
    ground.write("Corefile", ". {\n    kubernetes cluster.local {\n        pods verified\n    }\n}\n");
    let _dns = ground.serve(&["--corefile", "Corefile"]);
    ground.answers(&[
        ("10-244-0-5.default.pod.cluster.local A", "IN A 10.244.0.5"),
        ("10-244-0-6.default.pod.cluster.local A", "status: NXDOMAIN"),
    ]);
}

#[test]
fn a_corefile_that_asks_nothing_of_a_cluster_needs_none() {
    let ground = Ground::new();
    ground.upstream();
    ground.write("Corefile", ". {\n    forward . 127.0.0.2\n}\n");
    let _dns = ground.serve_alone(&["--corefile", "Corefile", "--listen", "127.0.0.1"]);
    ground.answers(&[("www.example.org A", "IN A 192.0.2.80")]);
}

#[test]
fn strangers_read_the_same_answers_by_udp_and_tcp() {
    let ground = Ground::new();
    let _dns = ground.serve(&[]);
    let programs = [
        "dig @127.0.0.1 web-pods.default.svc.cluster.local A",
        "dig +tcp @127.0.0.1 web-pods.default.svc.cluster.local A",
        "kdig @127.0.0.1 web-pods.default.svc.cluster.local A",
        "kdig +tcp @127.0.0.1 web-pods.default.svc.cluster.local A",
        "drill @127.0.0.1 web-pods.default.svc.cluster.local A",
        "drill -t @127.0.0.1 web-pods.default.svc.cluster.local A",
    ];
    for program in programs {
        let said = ground.sh(program);
        for addr in ["10.244.0.5", "10.244.0.70"] {
            assert!(said.contains(addr), "{program}: {said}");
        }
    }
}

#[test]
fn told_to_end_it_answers_until_the_lameduck_time_is_over() {
    let ground = Ground::new();
    ground.write("Corefile", ". {\n    health {\n        lameduck 2s\n    }\n    kubernetes cluster.local\n}\n");
    let dns = ground.serve(&["--corefile", "Corefile"]);
    let began = std::time::Instant::now();
    dns.tell(libc::SIGTERM);
    ground.answers(&[("web.default.svc.cluster.local A", "10.96.7.7")]);
    assert_eq!(dns.ended(), Some(0));
    assert!(began.elapsed() >= std::time::Duration::from_secs(2), "it ended after {:?}", began.elapsed());
}

#[test]
fn zones_of_a_corefile_are_rendered_each_once_and_always_alike() {
    let ground = Ground::new();
    ground.write(
        "Corefile",
        ". {\n    kubernetes cluster.local in-addr.arpa {\n        ttl 30\n    }\n}\n\
         a.b {\n    kubernetes {\n        namespaces nowhere\n    }\n}\n",
    );
    let args = ["render", "dns", "-f", "examples/files", "--corefile"];
    let once = ground.raw(&args, "Corefile").done();
    assert_eq!(ground.raw(&args, "Corefile").done(), once, "it is deterministic");
    for line in [
        "web.default.svc.cluster.local. 30 IN A 10.96.7.7 ; Service default/web",
        "7.7.96.10.in-addr.arpa. 30 IN PTR web.default.svc.cluster.local.",
    ] {
        assert!(once.contains(line), "{line}\n{once}");
    }
    assert!(!once.contains("default.svc.a.b"), "that zone shows another namespace alone:\n{once}");
    let heads: Vec<&str> = once.lines().filter(|line| line.starts_with("; kubernetes of")).collect();
    assert_eq!(heads, ["; kubernetes of .:53 (Corefile:1)", "; kubernetes of a.b.:53 (Corefile:6)"]);
    assert!(once.contains("\na.b. 5 IN SOA ns.dns.a.b."), "{once}");
}

#[test]
fn an_external_zone_is_rendered_beside_the_clusters_own() {
    let ground = Ground::new();
    ground.write(
        "objects.yaml",
        "apiVersion: v1\nkind: Service\nmetadata: {name: shop, namespace: default}\n\
         spec: {clusterIP: 10.96.1.1, externalIPs: [198.51.100.3], ports: [{name: http, port: 80}]}\n---\n\
         apiVersion: v1\nkind: Service\nmetadata: {name: inner, namespace: default}\n\
         spec: {clusterIP: 10.96.1.2, ports: [{port: 80}]}\n",
    );
    ground.write(
        "Corefile",
        ". {\n    kubernetes cluster.local\n    k8s_external example.org 198.51.100.0/24 {\n        ttl 60\n    }\n}\n\
         out.test {\n    kubernetes a.b\n    k8s_external out.test\n}\n",
    );
    let objects = ground.path("objects.yaml");
    let said = ground.raw(&["render", "dns", "-f", &objects.display().to_string(), "--corefile"], "Corefile").done();
    let heads: Vec<&str> = said.lines().filter(|line| line.starts_with("; k")).collect();
    let wanted = [
        "; kubernetes of .:53 (Corefile:1)",
        "; k8s_external of .:53 (Corefile:1)",
        "; kubernetes of out.test.:53 (Corefile:7)",
        "; k8s_external of out.test.:53 (Corefile:7)",
    ];
    assert_eq!(heads, wanted, "{said}");
    for line in [
        "example.org. 60 IN SOA ns1.dns.example.org. hostmaster.dns.example.org.",
        "shop.default.example.org. 60 IN A 198.51.100.3 ; Service default/shop",
        "_http._tcp.shop.default.example.org. 60 IN SRV 0 100 80 shop.default.example.org. ; Service default/shop",
        "3.100.51.198.in-addr.arpa. 60 IN PTR shop.default.example.org.",
        "shop.default.out.test. 5 IN A 198.51.100.3 ; Service default/shop",
    ] {
        assert!(said.contains(line), "{line}\n{said}");
    }
    assert!(!said.contains("inner.default.example.org"), "it has no address outside: {said}");
}

/// What `dns explain` says of a pod's lookup in examples/files.
fn explained(args: &str) -> support::Said {
    let files = support::root().join("examples/files");
    support::portolan_says(&format!("dns explain --from pod/web-0 -f {} {args}", files.display()))
}

#[test]
fn a_lookup_is_told_name_by_name_with_its_objects() {
    let said = explained("web-pods").done();
    for line in [
        "Pod default/web-0 (10.244.0.5) looks up web-pods",
        "search default.svc.cluster.local svc.cluster.local cluster.local, ndots:5",
        "1. web-pods.default.svc.cluster.local.",
        "IN A 10.244.0.70",
        "Service default/web-pods",
        "resolved as web-pods.default.svc.cluster.local.",
    ] {
        assert!(said.contains(line), "{line}\n{said}");
    }
    assert!(!said.contains("in vain"), "{said}");
}

#[test]
fn a_name_outside_tells_its_waste_and_how_to_save_it() {
    let said = explained("www.example.org").done();
    for line in
        ["1. www.example.org.default.svc.cluster.local.", "4. www.example.org.", "6 queries in vain", "final dot"]
    {
        assert!(said.contains(line), "{line}\n{said}");
    }
    for saved in ["www.example.org.", "--ndots 1 www.example.org", "--search a.b --ndots 2 www.example.org"] {
        let said = explained(saved).done();
        assert!(said.contains("1. www.example.org.\n") && !said.contains("in vain"), "{saved}: {said}");
    }
}

#[test]
fn a_service_that_is_elsewhere_or_misspelt_is_named() {
    let ground = Ground::new();
    let pod = "apiVersion: v1\nkind: Pod\nmetadata: {name: shopper, namespace: shop}\nspec: {containers: []}\n\
               status: {phase: Running, podIP: 10.244.0.9}\n";
    ground.write("pod.yaml", pod);
    let files = support::root().join("examples/files");
    let files = files.display();
    let ask = |name: &str| {
        let (pod, from) = (ground.path("pod.yaml"), "--from pod/shop/shopper");
        support::portolan_says(&format!("dns explain {name} {from} -f {files} -f {}", pod.display()))
    };
    let said = ask("web").done();
    assert!(said.contains("namespace shop has no Service web; there is Service default/web"), "{said}");
    assert!(
        said.contains("say web.default") && said.contains("whether web. resolves is the upstream's word"),
        "{said}"
    );
    let said = ask("wbe.default.svc.cluster.local.");
    assert_eq!(said.code, Some(1), "{said:?}");
    assert!(said.out.contains("namespace default has no Service wbe; there is Service default/web"), "{}", said.out);
    assert!(said.out.contains("not resolved, 2 queries in vain"), "{}", said.out);
    ask("web.default").done();
}

#[test]
fn a_pod_that_asks_others_is_told_so() {
    let ground = Ground::new();
    let pod = "apiVersion: v1\nkind: Pod\nmetadata: {name: tool}\nspec: {containers: [], hostNetwork: true}\n\
               status: {phase: Running, podIP: 172.18.0.11}\n";
    ground.write("pod.yaml", pod);
    let said = support::portolan_says(&format!(
        "dns explain web.default --from pod/tool -f {}",
        ground.path("pod.yaml").display()
    ));
    assert!(said.out.contains("Pod default/tool does not ask cluster DNS"), "{}", said.out);
    assert!(said.out.contains("dnsPolicy: ClusterFirstWithHostNet"), "{}", said.out);
}
