//! Packets that are lost on their way: routes, strangers' rules, entries from before, nodes, silence.

use super::*;

fn session(state: &str, last_error: Option<&str>) -> SessionNote {
    let last_error = last_error.map(str::to_owned);
    SessionNote { peer: ip("172.18.0.12"), state: state.into(), up_secs: None, last_error }
}

/// DNAT to b, and then no way to node-2.
fn stranded(found: crate::evidence::RouteTold) -> Vec<NodeEvidence> {
    let way = Way::forth("cali-client", tcp(CLIENT, WEB)).web(Door::ClusterIp, None, B);
    vec![evidence("node-1", vec![way.vanished(found)])]
}

#[test]
fn a_route_that_is_missing() {
    let unreachable =
        || ProbeEnd::Unreachable { by: Some(ip("172.18.0.11")), why: "Network is unreachable".to_owned() };
    let mut fault = Fault::of(WEB, unreachable(), stranded(no_way(RouteWay::Unreachable, None)));
    let wanted = "node-1 has no route to 10.244.1.0/24, node-2's block";
    let look = "portolan node status --node node-1 shows its sessions";
    fault.says(End::Unroutable, &format!("{wanted}; how its BGP sessions stand is not known"), look);
    fault.sessions = vec![session("Established", None)];
    fault.says(End::Unroutable, &format!("{wanted}; its BGP session with node-2 is up, but did not bring it"), look);
    fault.sessions = vec![session("Active", Some("connection refused"))];
    let story = fault.says(
        End::Unroutable,
        &format!("{wanted}; its BGP session with node-2 is down (Active: connection refused)"),
        look,
    );
    assert_eq!(story.verdict.object, Some(of(ObjectKind::Node, "node-2")));
    assert_eq!(story.verdict.says, "client → web: last seen on node-1");
    for fact in &mut fault.facts {
        if let Fact::Node(name, Some(node)) = fact {
            node.ready = &**name != "node-2";
        }
    }
    fault.says(
        End::Unroutable,
        &format!("{wanted}; node-2 is not Ready, and the BGP session with node-2 is down (Active: connection refused)"),
        "bring node-2 back: kubectl describe node node-2",
    );
}

#[test]
fn a_default_route_takes_what_is_for_another_node() {
    let by = route("0.0.0.0/0", Some("172.18.0.1"), "eth0");
    let mut fault = Fault::of(WEB, ProbeEnd::Silence, vec![evidence("node-1", vec![leaves(by)])]);
    fault.sessions = vec![session("Idle", None)];
    fault.says(
        End::Unanswered,
        "node-1 has no route to 10.244.1.0/24, node-2's block, so the default route via 172.18.0.1 dev eth0 took it; its BGP \
         session with node-2 is down (Idle)",
        "portolan node status --node node-1 shows its sessions",
    );
}

#[test]
fn foreign_routes() {
    let black = Fault::of(WEB, ProbeEnd::Silence, stranded(no_way(RouteWay::Blackhole, Some("10.244.1.6/32"))));
    black.says(
        End::Unroutable,
        "a foreign route on node-1 takes what is for node-2: blackhole 10.244.1.6",
        "on node-1: ip route del blackhole 10.244.1.6/32",
    );
    let wrong = leaves(route("10.244.1.6/32", Some("172.18.0.99"), "eth0"));
    let wrong = Fault::of(WEB, ProbeEnd::Silence, vec![evidence("node-1", vec![wrong])]);
    wrong.says(
        End::Unanswered,
        "a foreign route on node-1 takes what is for node-2: 10.244.1.6 via 172.18.0.99 dev eth0",
        "on node-1: ip route del 10.244.1.6/32",
    );
}

#[test]
fn an_address_of_a_pod_that_is_gone() {
    let gone = "10.244.0.77:8080";
    let hole = || no_way(RouteWay::Blackhole, Some("10.244.0.0/24"));
    let direct = Way::forth("cali-client", tcp(CLIENT, gone)).vanished(hole());
    let mut fault = Fault::of(gone, ProbeEnd::Silence, vec![evidence("node-1", vec![direct])]);
    fault.asked = asked("pod/client", gone);
    fault.says(
        End::Unroutable,
        "no pod has 10.244.0.77; node-1 drops what is for free addresses of its block 10.244.0.0/24",
        "ask for the pod by its Service, as pods change their addresses: kubectl get pods -A -o wide",
    );
    // A slice that somebody wrote by hand lists it.
    let by_slice = Way::forth("cali-client", tcp(CLIENT, WEB)).web(Door::ClusterIp, None, gone).vanished(hole());
    let mut fault = Fault::of(WEB, ProbeEnd::Silence, vec![evidence("node-1", vec![by_slice])]);
    fault.facts.push(Fact::Pod(key("ghost"), Some(Pod { addresses: vec![ip("10.244.0.77")], ..Pod::default() })));
    let endpoints = crate::fixture::slices("web", &with_both_families(&fault.facts), &["ghost"]);
    fault.facts.extend(endpoints);
    fault.facts.retain(|fact| !matches!(fact, Fact::Pod(pod, _) if *pod == key("ghost")));
    fault.says(
        End::Unroutable,
        "no pod has 10.244.0.77, but an EndpointSlice of Service default/web lists it; node-1 drops what is for free addresses of its \
         block 10.244.0.0/24",
        "kubectl -n default get endpointslices -l kubernetes.io/service-name=web -o yaml tells who wrote it",
    );
}

fn with_both_families(facts: &[Fact]) -> Vec<Fact> {
    let mut facts = facts.to_vec();
    for fact in &mut facts {
        if let Fact::Pod(name, Some(pod)) = fact
            && *name == key("ghost")
        {
            pod.addresses.push(ip("fd00:10:244:0::77"));
        }
    }
    facts
}

#[test]
fn a_foreign_rule_drops_it() {
    let raw = "-s 10.244.0.5/32 -j DROP";
    let way = Way::forth("cali-client", tcp(CLIENT, WEB)).web(Door::ClusterIp, None, B);
    let way = way.foreign(Hook::Forward, "filter FORWARD", raw, Act::Drop).stopped();
    let both = ["10.244.0.6:8080", B].map(|to| Outcome::Dnat { to: at(to), masquerade: false });
    let fault = Fault::of(WEB, ProbeEnd::Silence, vec![evidence("node-1", vec![allowing(way, &both)])]);
    let story = fault.says(
        End::Dropped,
        "a foreign rule on node-1 says DROP: ip filter FORWARD: -s 10.244.0.5/32 -j DROP",
        "on node-1: iptables -t filter -D FORWARD -s 10.244.0.5/32 -j DROP",
    );
    assert_eq!(
        story.hops.last().map(|hop| hop.says.as_str()),
        Some("DROP by a foreign rule in ip filter FORWARD: -s 10.244.0.5/32 -j DROP")
    );
    let differs = "node-1 drops it (foreign rule: ip filter FORWARD: -s 10.244.0.5/32 -j DROP), but Services promise: sends it to \
                   10.244.0.6:8080 and sends it to 10.244.1.6:8080";
    assert_eq!(story.oracle.differs.as_deref(), Some(differs));
    // A firewall on the other node, and one that says so, by a program that speaks to nf_tables itself.
    let far = arrives().foreign(Hook::Forward, "mine guard", "tcp dport 8080 reject", Act::Drop).stopped();
    let seen = vec![evidence("node-1", vec![leaves(to_node_2())]), evidence("node-2", vec![far])];
    Fault::of(WEB, refused("172.18.0.12"), seen).says(
        End::Refused,
        "a foreign rule on node-2 says REJECT: ip mine guard: tcp dport 8080 reject",
        "on node-2: nft delete rule ip mine guard handle 14",
    );
    let policy = Way::forth("eth0", tcp("172.18.0.1:4444", "172.18.0.11:22"))
        .policy(Hook::Input, "filter INPUT", false)
        .stopped();
    Fault::of("172.18.0.11:22", ProbeEnd::Silence, vec![evidence("node-1", vec![policy])]).says(
        End::Dropped,
        "the policy of chain ip filter INPUT on node-1 is DROP, and no rule there let it pass",
        "let such packets pass in ip filter INPUT on node-1, or ask who set that policy",
    );
}

#[test]
fn a_foreign_rule_drops_the_answer() {
    let mut seen = reaches_b();
    let answer = Way::back("cali-b", tcp(B, CLIENT)).foreign(
        Hook::Forward,
        "filter FORWARD",
        "-p tcp --sport 8080 -j DROP",
        Act::Drop,
    );
    seen[1].passages.push(answer.stopped());
    let story = Fault::of(WEB, ProbeEnd::Silence, seen).says(
        End::Dropped,
        "a foreign rule on node-2 says DROP: ip filter FORWARD: -p tcp --sport 8080 -j DROP",
        "on node-2: iptables -t filter -D FORWARD -p tcp --sport 8080 -j DROP",
    );
    assert_eq!(story.verdict.says, "client → web → b on node-2: the answer, by a rule of node-2");
}

#[test]
fn a_foreign_rule_takes_the_packet_before_the_service_is_asked() {
    let raw = "-d 10.96.0.11/32 -j ACCEPT";
    let away = || route("0.0.0.0/0", Some("172.18.0.1"), "eth0");
    let way = Way::forth("cali-client", tcp(CLIENT, WEB)).foreign(Hook::Prerouting, "nat PREROUTING", raw, Act::Accept);
    let because = "a foreign rule on node-1 took it before Service default/web:http was asked: ip nat PREROUTING: -d 10.96.0.11/32 -j ACCEPT";
    let mend = "on node-1: iptables -t nat -D PREROUTING -d 10.96.0.11/32 -j ACCEPT";
    let seen = vec![evidence("node-1", vec![way.sent("eth0", away())])];
    let story = Fault::of(WEB, ProbeEnd::Silence, seen.clone()).says(End::Unanswered, because, mend);
    let text = render(&story, Style::default());
    assert!(text.contains("foreign: ip nat PREROUTING: -d 10.96.0.11/32 -j ACCEPT"), "{text}");
    assert!(text.contains("web:http has this address and port, but no rule asked for it"), "{text}");
    assert!(text.contains("✘ no answer  client → web: last seen on node-1"), "{text}");
    assert!(!text.contains('↩'), "nothing came back:\n{text}");
    let unreachable = ProbeEnd::Unreachable { by: Some(ip("172.18.0.1")), why: "Host is unreachable".to_owned() };
    Fault::of(WEB, unreachable, seen).says(End::Unroutable, because, mend);
    // From the node itself, and rules that are not there at all.
    let own = Way::forth("", tcp("172.18.0.11:5000", WEB)).foreign(Hook::Output, "nat OUTPUT", raw, Act::Accept);
    let mut fault = Fault::of(WEB, ProbeEnd::Silence, vec![evidence("node-1", vec![own.sent("eth0", away())])]);
    fault.asked = asked("node/node-1", "svc/web");
    fault.says(End::Unanswered, &because.replace("PREROUTING", "OUTPUT"), &mend.replace("PREROUTING", "OUTPUT"));
    let bare = Way::forth("cali-client", tcp(CLIENT, WEB)).forwarded().sent("eth0", away());
    Fault::of(WEB, ProbeEnd::Silence, vec![evidence("node-1", vec![bare])]).says(
        End::Unanswered,
        "no rule of node-1 asked for Service default/web:http: they are not in place there",
        "portolan why svc/default/web --node node-1 tells what is in place",
    );
}

#[test]
fn a_foreign_rule_sends_it_elsewhere_and_somebody_answers() {
    let raw = "-d 10.96.0.11/32 -j DNAT --to-destination 10.244.0.9:80";
    let mut way =
        Way::forth("cali-client", tcp(CLIENT, WEB)).foreign(Hook::Prerouting, "nat PREROUTING", raw, Act::Accept);
    way = way.becomes(tcp(CLIENT, "10.244.0.9:80"));
    let passage =
        allowing(way.sent("cali-x", to_pod("x", "10.244.0.9")), &[Outcome::Dnat { to: at(B), masquerade: false }]);
    let fault = Fault::of(WEB, ProbeEnd::Answered, vec![evidence("node-1", vec![passage])]);
    let story = fault.story();
    assert_eq!(story.verdict.end, End::Delivered);
    assert!(story.oracle.differs.is_some(), "somebody else answered");
    let because = "a foreign rule on node-1 took it before Service default/web:http was asked: ip nat PREROUTING: -d \
                   10.96.0.11/32 -j DNAT --to-destination 10.244.0.9:80";
    assert_eq!(story.verdict.because.as_deref(), Some(because));
}

#[test]
fn a_foreign_rule_keeps_the_source_that_was_marked() {
    let me = "172.18.0.1:44444";
    let node_port = "172.18.0.11:30001";
    let way = Way::forth("eth0", tcp(me, node_port)).web(Door::NodePort, Some(Masqueraded::External), B).forwarded();
    let way = way.foreign(Hook::Postrouting, "nat POSTROUTING", "-j ACCEPT", Act::Accept).sent("eth0", to_node_2());
    let second = Way::forth("eth0", tcp(me, B)).forwarded().sent("cali-b", to_pod("b", "10.244.1.6"));
    let mut fault =
        Fault::of(node_port, ProbeEnd::Silence, vec![evidence("node-1", vec![way]), evidence("node-2", vec![second])]);
    fault.probed = Some(probed(me, node_port, ProbeEnd::Silence));
    fault.asked = asked("outside", "svc/web");
    let story = fault.says(
        End::Unanswered,
        "a foreign rule on node-1 let it leave with the address of 172.18.0.1, so its answer does not come back by node-1: ip nat \
         POSTROUTING: -j ACCEPT",
        "on node-1: iptables -t nat -D POSTROUTING -j ACCEPT",
    );
    let snat = story.hops.iter().find(|hop| hop.stage == Stage::Snat).expect("a hop about the source");
    assert_eq!(snat.says, "no, though it was marked: a foreign rule took it: ip nat POSTROUTING: -j ACCEPT");
}

#[test]
fn a_stale_conntrack_entry() {
    let gone = "10.244.0.77:8080";
    let old = Way::forth("cali-client", tcp(CLIENT, WEB)).becomes(tcp(CLIENT, gone));
    let old = older(old.sent("eth0", no_way(RouteWay::Blackhole, Some("10.244.0.0/24"))));
    let fault = Fault::of(WEB, ProbeEnd::Silence, vec![evidence("node-1", vec![old])]);
    let because = "no rule was asked on node-1: a conntrack entry from before sends it to 10.244.0.77:8080, which is no endpoint of \
                   Service default/web:http any more";
    let mend = "on node-1: conntrack -D -p tcp -d 10.96.0.11 --dport 80";
    let story = fault.says(End::Unanswered, because, mend);
    assert_eq!(story.hops[1].stage, Stage::Conntrack);
    let kept =
        older(Way::forth("cali-client", tcp(CLIENT, WEB)).sent("eth0", route("0.0.0.0/0", Some("172.18.0.1"), "eth0")));
    let because =
        "no rule was asked on node-1: a conntrack entry from before lets it be, as of a time without rules for it";
    Fault::of(WEB, ProbeEnd::Silence, vec![evidence("node-1", vec![kept])]).says(End::Unanswered, because, mend);
}

#[test]
fn a_node_that_is_down() {
    let mut fault = Fault::of(WEB, ProbeEnd::Silence, vec![evidence("node-1", vec![leaves(to_node_2())])]);
    fault.says(
        End::Unanswered,
        "it left node-1 by eth0 for node-2 and never came there: the network between them loses it",
        "look at the network between node-1 and node-2: cables, switches, firewalls of machines between",
    );
    fault.silent = vec![("node-2", "connection timed out")];
    fault.says(
        End::Unanswered,
        "it left node-1 by eth0 for node-2, and node-2 does not say what came: connection timed out",
        "look whether the agent of node-2 runs",
    );
    for fact in &mut fault.facts {
        if let Fact::Node(name, Some(node)) = fact {
            node.ready = &**name != "node-2";
        }
    }
    let story = fault.says(
        End::Unanswered,
        "node-2 is not Ready: it left node-1 by eth0 for node-2, and nothing came back",
        "bring node-2 back: kubectl describe node node-2",
    );
    assert_eq!(story.verdict.object, Some(of(ObjectKind::Node, "node-2")));
}

#[test]
fn silence_inside_a_pod() {
    let story = Fault::of(WEB, ProbeEnd::Silence, reaches_b()).says(
        End::Unanswered,
        "b on node-2 got it by cali-b and nothing came back: what is inside the pod keeps silent",
        "look inside b: a firewall of its own or a sidecar's, a program that hangs, a full queue",
    );
    assert_eq!(story.verdict.object, Some(of(ObjectKind::Pod, "b")));
    Fault::of(WEB, ProbeEnd::Silence, Vec::new()).says(
        End::Unanswered,
        "it was sent, and no node ever saw it: something inside pod/client drops it",
        "look at the rules in the sender's own network namespace, such as a sidecar's",
    );
    let mut seen = reaches_b();
    let answer = Way::back("cali-b", tcp(B, CLIENT)).sent("eth0", route("10.244.0.0/24", Some("172.18.0.11"), "eth0"));
    seen[1].passages.push(answer);
    Fault::of(WEB, ProbeEnd::Silence, seen.clone()).says(
        End::Unanswered,
        "the answer left node-2 for node-1 and was seen nowhere after",
        "look at the way from node-2 for node-1: routes there, and the network between",
    );
    let back =
        Way::back("eth0", tcp(B, CLIENT)).becomes(tcp(WEB, CLIENT)).sent("cali-client", to_pod("client", "10.244.0.5"));
    seen[0].passages.push(back);
    Fault::of(WEB, ProbeEnd::Silence, seen).says(
        End::Unanswered,
        "the answer came to client on node-1, and the sender did not hear it",
        "look inside client: a firewall of its own or a sidecar's",
    );
}

#[test]
fn nobody_listens_on_a_node_and_nothing_is_seen_live() {
    let to = "172.18.0.11:8443";
    let seen = vec![evidence("node-1", vec![Way::forth("cali-client", tcp(CLIENT, to)).taken()])];
    let mut fault = Fault::of(to, refused("172.18.0.11"), seen);
    let open = ServicePortFact { name: "tls".into(), proto: Proto::Tcp, port: 443, node_port: 8443 };
    fault.facts.push(Fact::Service(key("tls"), Some(Service { ports: vec![open], ..service(30, 0) })));
    // A node port of a Service that has endpoints would have been sent on: here it has none of ours, so it is the node's.
    fault.says(End::Refused, "nobody on node-1 listens on 8443/tcp", "start it, or ask for another port");
    fault.probed = None;
    fault.seen.clear();
    fault.asked.live = true;
    fault.silent = vec![("node-2", "connection refused")];
    fault.says(
        End::NotSeen,
        "no such packet came to a node while it was watched for; not watched: node-2 (connection refused)",
        "without --live a packet is sent and followed at once",
    );
}

#[test]
fn a_hairpin_that_is_not_masqueraded_is_seen_beside_the_oracle() {
    let (me, endpoint) = ("10.244.0.6:40000", "10.244.0.6:8080");
    let way =
        Way::forth("cali-a", tcp(me, WEB)).web(Door::ClusterIp, Some(Masqueraded::Hairpin), endpoint).keeps_source();
    let passage = allowing(
        way.sent("cali-a", to_pod("a", "10.244.0.6")),
        &[Outcome::Dnat { to: at(endpoint), masquerade: true }],
    );
    let mut fault = Fault::of(WEB, ProbeEnd::Silence, vec![evidence("node-1", vec![passage])]);
    fault.probed = Some(probed(me, WEB, ProbeEnd::Silence));
    let story = fault.story();
    let differs =
        "node-1 sends it to 10.244.0.6:8080, but Services promise: sends it to 10.244.0.6:8080 with the node's address";
    assert_eq!(story.oracle.differs.as_deref(), Some(differs));
}

#[test]
fn what_cannot_be_sent_says_why() {
    let mut fault =
        Fault::of(WEB, ProbeEnd::NotSent { why: "pod default/client does not run on node-1".to_owned() }, Vec::new());
    let client = fault.notes.pods.get_mut(&key("client")).expect("it is there");
    (client.ready, client.ready_since, client.unready_because) =
        (false, Some(NOW - 9), Some("ErrImagePull".to_owned()));
    let because = "pod default/client does not run on node-1; client is not Ready for 9 s (ErrImagePull)";
    fault.says(End::NotSent, because, "");
    fault.notes.services.insert(key("web"), ServiceNote::default());
}
