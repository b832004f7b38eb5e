//! Services that turn a packet away, or that nobody answers for.

use super::*;

/// KUBE-SERVICES in filter turns the client's packet away.
fn turned_away(because: TurnedAway) -> Vec<NodeEvidence> {
    let text = "-d 10.96.0.11/32 -p tcp -m comment --comment \"default/web:http has no endpoints\" -m tcp --dport 80 -j REJECT";
    let meaning = Meaning::Refuses { service: Some(web()), because };
    let way = Way::forth("cali-client", tcp(CLIENT, WEB));
    vec![evidence("node-1", vec![way.step(Hook::Forward, "filter KUBE-SERVICES", text, meaning, Act::Drop).stopped()])]
}

fn without_endpoints(change: impl FnOnce(&mut Objects)) -> Fault {
    let mut fault = Fault::of(WEB, refused("172.18.0.11"), turned_away(TurnedAway::NoEndpoints));
    fault.facts = facts(service(11, 30001), &[]);
    fault.notes.slices.clear();
    change(&mut fault.notes);
    fault
}

#[test]
fn a_wrong_selector() {
    let fault = without_endpoints(|notes| {
        let web = notes.services.get_mut(&key("web")).expect("web is there");
        web.selector.insert("app".to_owned(), "wbe".to_owned());
        // First by name, but its label is not near.
        let client = notes.pods.remove(&key("client")).expect("client is there");
        notes.pods.insert(key("0-client"), client);
    });
    let story = fault.says(
        End::Refused,
        "Service default/web:http has no endpoints: its selector app=wbe matches no pod; pods there have app=web and app=client",
        "kubectl -n default set selector service web app=web, or label pods app=wbe",
    );
    assert_eq!(story.verdict.object, Some(of(ObjectKind::Service, "web")));
    assert_eq!(story.verdict.says, "client → web: by a rule of node-1");
    assert_eq!(story.hops.last().map(|hop| hop.stage), Some(Stage::End));
}

#[test]
fn pods_that_are_not_ready() {
    let fault = without_endpoints(|notes| {
        each_web_pod(notes, |pod| {
            (pod.ready, pod.ready_since) = (false, Some(NOW - 12));
            pod.unready_because = Some("ContainersNotReady: containers with unready status: [nginx]".to_owned());
        });
    });
    let story = fault.says(
        End::Refused,
        "Service default/web:http has no endpoints: none of its 2 pods is Ready: a for 12 s (ContainersNotReady: containers with \
         unready status: [nginx]) and b for 12 s (ContainersNotReady: containers with unready status: [nginx])",
        "kubectl -n default describe pod a tells what it waits for",
    );
    assert_eq!(story.verdict.object, Some(of(ObjectKind::Pod, "a")));
}

#[test]
fn a_pod_that_crashes() {
    let fault = without_endpoints(|notes| {
        notes.pods.remove(&key("b"));
        let a = notes.pods.get_mut(&key("a")).expect("a is there");
        (a.ready, a.ready_since) = (false, Some(NOW - 300));
        a.unready_because = Some("CrashLoopBackOff".to_owned());
    });
    fault.says(
        End::Refused,
        "Service default/web:http has no endpoints: its only pod is not Ready: a is crash-looping for 5 min (CrashLoopBackOff)",
        "kubectl -n default logs a --previous tells why it ends",
    );
}

#[test]
fn pods_that_are_all_going_away() {
    let fault = without_endpoints(|notes| each_web_pod(notes, |pod| pod.deleted_at = Some(NOW - 5)));
    fault.says(
        End::Refused,
        "Service default/web:http has no endpoints: all its pods are terminating: a for 5 s and b for 5 s",
        "run another pod of it: whose pods these are, such as a Deployment, has none to follow",
    );
}

#[test]
fn a_target_port_that_no_pod_names() {
    let fault = without_endpoints(|notes| {
        let web = notes.services.get_mut(&key("web")).expect("web is there");
        web.target_ports.insert("http".into(), "www".to_owned());
    });
    fault.says(
        End::Refused,
        "Service default/web:http has no endpoints: its targetPort www is no port name of a, which declares 8080 (http)",
        "set targetPort of Service default/web to http",
    );
}

#[test]
fn a_service_without_selector_and_slices_that_lag_behind() {
    let no_selector =
        without_endpoints(|notes| notes.services.get_mut(&key("web")).expect("it is there").selector.clear());
    no_selector.says(
        End::Refused,
        "Service default/web:http has no endpoints: it has no selector, and no EndpointSlice of it has a ready address",
        "give Service default/web a selector, or write its EndpointSlice",
    );
    without_endpoints(|_| {}).says(
        End::Refused,
        "Service default/web:http has no endpoints: 2 pods are Ready, but no EndpointSlice lists them",
        "look whether the EndpointSlice controller runs: portolan status",
    );
    let unknown = without_endpoints(|notes| *notes = Objects::default());
    unknown.says(
        End::Refused,
        "Service default/web:http has no endpoint that is Ready",
        "kubectl -n default get endpointslices -l kubernetes.io/service-name=web",
    );
}

#[test]
fn a_target_port_on_which_nobody_listens() {
    let mut fault = Fault::of(WEB, refused("10.96.0.11"), reaches_b());
    let declares_80 = |pod: &mut crate::objects::PodNote| pod.ports = vec![("http".to_owned(), Proto::Tcp, 80)];
    each_web_pod(&mut fault.notes, declares_80);
    let story = fault.says(
        End::Refused,
        "b refused it: nobody listens on 8080/tcp there; its containers declare 80 (http)",
        "set targetPort of port http of Service default/web to 80",
    );
    assert_eq!(story.verdict.says, "client → web → b on node-2: by b");
    fault.notes = objects();
    fault.says(
        End::Refused,
        "b refused it: nobody listens on 8080/tcp there",
        "start a program that listens on 8080, or on all addresses rather than on 127.0.0.1",
    );
    each_web_pod(&mut fault.notes, |pod| {
        (pod.ready, pod.ready_since, pod.unready_because) =
            (false, Some(NOW - 30), Some("CrashLoopBackOff".to_owned()));
    });
    fault.says(
        End::Refused,
        "b is crash-looping for 30 s (CrashLoopBackOff) and does not listen on 8080",
        "kubectl -n default logs b --previous tells why it ends",
    );
}

#[test]
fn external_policy_local_without_a_local_pod() {
    let (me, node_port) = ("172.18.0.1:44444", "172.18.0.11:30001");
    let meaning = Meaning::Drops { service: Some(web()), because: TurnedAway::NoLocalEndpoints };
    let text = "-m comment --comment \"default/web:http has no local endpoints\" -m addrtype --dst-type LOCAL -p tcp --dport 30001 -j DROP";
    let way = Way::forth("eth0", tcp(me, node_port)).step(
        Hook::Input,
        "filter KUBE-EXTERNAL-SERVICES",
        text,
        meaning,
        Act::Drop,
    );
    let mut fault = Fault::of(node_port, ProbeEnd::Silence, vec![evidence("node-1", vec![way.stopped()])]);
    fault.probed = Some(probed(me, node_port, ProbeEnd::Silence));
    fault.asked = asked("outside", "172.18.0.11:30001");
    fault.facts = facts(Service { external_policy: ExternalPolicy::Local, ..service(11, 30001) }, &["b"]);
    let story = fault.says(
        End::Dropped,
        "externalTrafficPolicy of Service default/web is Local, and no pod of it is on node-1, only on node-2",
        "send to node-2, or set externalTrafficPolicy: Cluster, or run a pod of it on node-1",
    );
    let service = story.hops.iter().find(|hop| hop.stage == Stage::Service).expect("the Service is told of");
    let out =
        "web:http by its node port: no endpoint may take it; left out: b on node-2, and externalTrafficPolicy is Local";
    assert_eq!(service.says, out);
    // The pod that is here is not Ready: then it is to blame, not the policy.
    fault.facts = facts(Service { external_policy: ExternalPolicy::Local, ..service_with_unready() }, &["a", "b"]);
    unready(&mut fault.facts, "a");
    let a = fault.notes.pods.get_mut(&key("a")).expect("a is there");
    (a.ready, a.ready_since) = (false, Some(NOW - 12));
    fault.says(
        End::Dropped,
        "externalTrafficPolicy of Service default/web is Local, and its only pod on node-1, a, is not Ready for 12 s",
        "get a Ready, or set externalTrafficPolicy: Cluster",
    );
}

fn service_with_unready() -> Service {
    service(11, 30001)
}

fn unready(facts: &mut [Fact], pod: &str) {
    let slices = facts.iter_mut().filter_map(|fact| match fact {
        Fact::Slice(_, Some(slice)) => Some(slice),
        _ => None,
    });
    let is_it = |endpoint: &&mut EndpointFact| endpoint.pod.as_ref() == Some(&key(pod));
    slices.flat_map(|slice| &mut slice.endpoints).filter(is_it).for_each(|e| (e.ready, e.serving) = (false, false));
}

#[test]
fn internal_policy_local_without_a_local_pod() {
    let meaning = Meaning::Drops { service: Some(web()), because: TurnedAway::NoLocalEndpoints };
    let text = "-d 10.96.0.11/32 -p tcp --dport 80 -j DROP";
    let way = Way::forth("cali-client", tcp(CLIENT, WEB)).step(
        Hook::Forward,
        "filter KUBE-SERVICES",
        text,
        meaning,
        Act::Drop,
    );
    let mut fault = Fault::of(WEB, ProbeEnd::Silence, vec![evidence("node-1", vec![way.stopped()])]);
    fault.facts = facts(Service { internal_local: true, ..service(11, 0) }, &["b"]);
    fault.says(
        End::Dropped,
        "internalTrafficPolicy of Service default/web is Local, and no pod of it is on node-1, only on node-2",
        "set internalTrafficPolicy: Cluster, or run a pod of it on node-1",
    );
}

#[test]
fn a_client_outside_the_source_ranges() {
    let (me, balancer) = ("172.18.0.1:44444", "172.18.0.200:80");
    let meaning = Meaning::Drops { service: Some(web()), because: TurnedAway::SourceRange };
    let text = "-d 172.18.0.200/32 -p tcp --dport 80 -j DROP";
    let way = Way::forth("eth0", tcp(me, balancer)).step(
        Hook::Forward,
        "filter KUBE-PROXY-FIREWALL",
        text,
        meaning,
        Act::Drop,
    );
    let mut fault = Fault::of(balancer, ProbeEnd::Silence, vec![evidence("node-1", vec![way.stopped()])]);
    fault.asked = asked("outside", "svc/web");
    let source_ranges = vec!["192.168.0.0/16".parse().expect("a range")];
    let balanced = Service {
        kind: ServiceKind::LoadBalancer,
        load_balancer_ips: vec![ip("172.18.0.200")],
        source_ranges,
        ..service(11, 30001)
    };
    fault.facts = facts(balanced, &["a", "b"]);
    fault.says(
        End::Dropped,
        "172.18.0.1 is in none of spec.loadBalancerSourceRanges of Service default/web (192.168.0.0/16)",
        "add 172.18.0.1 to the ranges, or ask from one of them",
    );
}

#[test]
fn a_port_that_the_service_does_not_have() {
    let wrong = "10.96.0.11:81";
    // nftables mode refuses it by a rule, iptables mode lets it go where the default route leads.
    let meaning = Meaning::Refuses { service: None, because: TurnedAway::NoSuchPort };
    let rule = Way::forth("cali-client", tcp(CLIENT, wrong)).step(
        Hook::Forward,
        "portolan filter-forward",
        "ct state new ip daddr @cluster-ips reject",
        meaning,
        Act::Drop,
    );
    let away =
        Way::forth("cali-client", tcp(CLIENT, wrong)).sent("eth0", route("0.0.0.0/0", Some("172.18.0.1"), "eth0"));
    let rows = [
        (refused("172.18.0.11"), rule.stopped(), End::Refused),
        (ProbeEnd::Silence, away.clone(), End::Unanswered),
        (refused("172.18.0.1"), away.clone(), End::Refused),
        (
            ProbeEnd::Unreachable { by: Some(ip("172.18.0.1")), why: "No route to host".to_owned() },
            away,
            End::Unroutable,
        ),
    ];
    for (end, passage, expected) in rows {
        let fault = Fault::of(wrong, end, vec![evidence("node-1", vec![passage])]);
        let because = "Service default/web has no port 81/tcp; it has 80 (http)";
        fault.says(expected, because, "ask for port 80, or add 81 to spec.ports");
    }
}

#[test]
fn udp_to_a_tcp_port_and_an_address_that_no_service_has() {
    let away = |to: &str, proto| {
        let way = Way::forth("cali-client", header(CLIENT, to, proto));
        vec![evidence("node-1", vec![way.sent("eth0", route("0.0.0.0/0", Some("172.18.0.1"), "eth0"))])]
    };
    let mut fault = Fault::of(WEB, ProbeEnd::Silence, away(WEB, Proto::Udp));
    fault.asked.proto = Proto::Udp;
    fault.says(End::Unanswered, "port 80 of Service default/web is TCP, not UDP", "ask with --proto tcp");
    let nobody = "10.96.5.5:80";
    Fault::of(nobody, ProbeEnd::Silence, away(nobody, Proto::Tcp)).says(
        End::Unanswered,
        "no Service has address 10.96.5.5, which is of the Services' range",
        "kubectl get services -A lists their addresses",
    );
}

#[test]
fn a_wrong_node_port() {
    let to = "172.18.0.12:10250";
    let lost = Way::forth("cali-client", tcp(CLIENT, to)).sent("eth0", route("172.18.0.0/24", None, "eth0"));
    Fault::of(to, ProbeEnd::Silence, vec![evidence("node-1", vec![lost])]).says(
        End::Unanswered,
        "it left node-1 by eth0 for node-2 and never came there: the network between them loses it",
        "look at the network between node-1 and node-2: cables, switches, firewalls of machines between",
    );
    // A node port of another node is not asked for on this one.
    let to = "172.18.0.12:30001";
    let lost = Way::forth("cali-client", tcp(CLIENT, to)).sent("eth0", route("172.18.0.0/24", None, "eth0"));
    Fault::of(to, ProbeEnd::Silence, vec![evidence("node-1", vec![lost])]).says(
        End::Unanswered,
        "it left node-1 by eth0 for node-2 and never came there: the network between them loses it",
        "look at the network between node-1 and node-2: cables, switches, firewalls of machines between",
    );
    let (me, wrong) = ("172.18.0.1:44444", "172.18.0.11:30009");
    let seen = vec![evidence("node-1", vec![Way::forth("eth0", tcp(me, wrong)).taken()])];
    let mut fault = Fault::of(wrong, refused("172.18.0.11"), seen);
    fault.asked = asked("outside", "node/node-1:30009");
    fault.says(
        End::Refused,
        "no Service has node port 30009, and nobody on node-1 takes it",
        "node ports there are: 30001 (Service default/web:http)",
    );
}
