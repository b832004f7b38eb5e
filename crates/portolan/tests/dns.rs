//! `portolan dns` in network namespaces of their own, with nothing but loopback in them: objects and a Corefile from files,
//! asked with Debian's dig, kdig and drill, pages with curl, names outside with knotd. As root.

mod support;

#[path = "dns/ground.rs"]
mod ground;
#[path = "dns/reload.rs"]
mod reload;
#[path = "dns/wrong.rs"]
mod wrong;

use ground::Ground;

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

#[test]
fn every_field_of_an_explained_lookup_is_in_the_documentation() {
    fn fields(value: &serde_json::Value, found: &mut std::collections::BTreeSet<String>) {
        match value {
            serde_json::Value::Object(map) => map.iter().for_each(|(field, value)| {
                found.insert(field.clone());
                fields(value, found);
            }),
            serde_json::Value::Array(values) => values.iter().for_each(|value| fields(value, found)),
            _ => {}
        }
    }
    let mut found = std::collections::BTreeSet::new();
    for name in ["web-pods", "www.example.org", "_http._tcp.web"] {
        let said = explained(&format!("{name} --output json")).done();
        let value: serde_json::Value = serde_json::from_str(&said).expect("it is JSON");
        assert_eq!(value["schema"], "portolan.dns/v1");
        fields(&value, &mut found);
    }
    let page = std::fs::read_to_string(support::root().join("docs/dns.md")).expect("the page is there");
    let missing: Vec<&String> = found.iter().filter(|field| !page.contains(&format!("`{field}`"))).collect();
    assert!(missing.is_empty(), "docs/dns.md does not name {missing:?}");
}
