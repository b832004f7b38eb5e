//! Names that lead nowhere.

use super::*;

fn query(name: &str, answer: &str) -> DnsQuery {
    DnsQuery {
        name: name.to_owned(),
        record: "A".to_owned(),
        server: ip("10.96.0.10"),
        answer: answer.to_owned(),
        aliases: Vec::new(),
        addresses: Vec::new(),
        ttl_secs: None,
        took_us: 200,
    }
}

/// `name` is asked for with the search list of a pod in default.
fn no_name(name: &str, answer: &str) -> Fault {
    let searched = ["default.svc.cluster.local", "svc.cluster.local", "cluster.local"];
    let mut queries: Vec<DnsQuery> = searched.iter().map(|domain| query(&format!("{name}.{domain}"), answer)).collect();
    queries.push(query(name, answer));
    let mut fault = Fault::of(WEB, ProbeEnd::NoName, Vec::new());
    fault.asked.to = name.to_owned();
    let dns = DnsTold { name: name.to_owned(), hosts: false, queries, addresses: Vec::new() };
    fault.probed = Some(Probed { dns: Some(dns), local: None, remote: None, end: ProbeEnd::NoName, took_us: 900 });
    fault
}

#[test]
fn a_slip_in_a_name() {
    let because = "there is no Service default/wbe; did you mean web?";
    let story = no_name("wbe", "NXDOMAIN").says(End::NoSuchName, because, "ask for web");
    assert_eq!(story.hops[0].says, "wbe: NXDOMAIN, 4 queries to 10.96.0.10");
    no_name("database", "NXDOMAIN").says(
        End::NoSuchName,
        "there is no Service default/database",
        "kubectl -n default get services lists what there is",
    );
    no_name("web.shpo", "NXDOMAIN").says(
        End::NoSuchName,
        "there is no Service web in namespace shpo, but one in default",
        "ask for web.default",
    );
    let because = "there is no namespace shpo; did you mean shop?";
    no_name("api.shpo", "NXDOMAIN").says(End::NoSuchName, because, "kubectl get namespaces lists them");
    let because = "10.96.0.10 knows no address for ylzhong.top (NXDOMAIN)";
    no_name("ylzhong.top", "NXDOMAIN").says(End::NoSuchName, because, "look for a slip in the name");
}

#[test]
fn a_service_of_another_namespace() {
    let mut fault = no_name("cart", "NXDOMAIN");
    fault.facts.push(Fact::Service(NsName::new("shop", "cart"), Some(service(20, 0))));
    let because = "there is no Service cart in namespace default, but one in shop";
    fault.says(End::NoSuchName, because, "ask for cart.shop");
}

#[test]
fn a_dns_server_that_is_away() {
    let mut fault = no_name("web", "timeout");
    let because = "DNS server 10.96.0.10 did not answer 4 queries";
    let mend = "trace the way there: portolan trace pod/client 10.96.0.10:53 --proto udp";
    fault.says(End::NoSuchName, because, mend);
    let dns = Service { cluster_ips: vec![ip("10.96.0.10")], ..service(10, 0) };
    fault.facts.push(Fact::Service(NsName::new("kube-system", "kube-dns"), Some(dns)));
    let because = "DNS server 10.96.0.10 (Service kube-system/kube-dns) did not answer 4 queries";
    let mend = "look at its pods: kubectl -n kube-system get pods -l k8s-app=kube-dns -o wide";
    fault.says(End::NoSuchName, because, mend);
    let because = "DNS server 10.96.0.10 (Service kube-system/kube-dns) says SERVFAIL to web";
    let mend = "look at the servers that it forwards to, in the node's /etc/resolv.conf";
    let servfail = Fault { facts: fault.facts, ..no_name("web", "SERVFAIL") };
    servfail.says(End::NoSuchName, because, mend);
}

#[test]
fn a_headless_name_without_ready_pods_and_an_external_name_to_nowhere() {
    let headless = Service { kind: ServiceKind::Headless, cluster_ips: Vec::new(), ..service(11, 0) };
    let mut fault = no_name("web", "NOERROR");
    fault.facts = facts(headless, &[]);
    each_web_pod(&mut fault.notes, |pod| (pod.ready, pod.ready_since) = (false, Some(NOW - 12)));
    fault.notes.pods.remove(&key("b"));
    fault.says(
        End::NoSuchName,
        "Service default/web is headless, and its name leads to ready pods only: its only pod is not Ready: a for 12 s",
        "kubectl -n default describe pod a tells what it waits for",
    );
    let external = Service {
        kind: ServiceKind::ExternalName("nowhere.example".into()),
        cluster_ips: Vec::new(),
        ..service(11, 0)
    };
    fault.facts = facts(external, &[]);
    let queries = &mut fault.probed.as_mut().and_then(|probed| probed.dns.as_mut()).expect("it was asked for").queries;
    queries[0].aliases = vec!["nowhere.example".to_owned()];
    queries[0].answer = "NXDOMAIN".to_owned();
    fault.says(
        End::NoSuchName,
        "Service default/web is an ExternalName for nowhere.example, and that name leads nowhere (NXDOMAIN)",
        "set spec.externalName of Service default/web to a name that exists",
    );
}
