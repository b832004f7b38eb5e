//! Packets that do not arrive: what is seen, and what the verdict says of it, as it stands.

use portolan_dataplane::meaning::{Door, Masqueraded, Meaning, TurnedAway};
use portolan_model::verdict::Outcome;
use portolan_model::{
    EndpointFact, ExternalPolicy, Fact, NsName, ObjectKind, Pod, Proto, Service, ServiceKind, ServicePortFact,
};

use super::scene::{
    NOW, Way, allowing, asked, at, evidence, facts, header, knows, no_way, objects, of, older, probed, route,
    to_node_2, to_pod, usual, web,
};
use crate::evidence::{Act, DnsQuery, DnsTold, Hook, NodeEvidence, Passage, ProbeEnd, Probed, RouteWay};
use crate::fixture::{ip, key, service};
use crate::knows::SessionNote;
use crate::objects::{Objects, ServiceNote};
use crate::story::{Asked, End, Stage, Story};
use crate::tell::tell;
use crate::text::{Style, render};

const CLIENT: &str = "10.244.0.5:37266";
const WEB: &str = "10.96.0.11:80";
const B: &str = "10.244.1.6:8080";

/// What is seen of a fault; the usual cluster unless said otherwise.
struct Fault {
    facts: Vec<Fact>,
    notes: Objects,
    asked: Asked,
    probed: Option<Probed>,
    seen: Vec<NodeEvidence>,
    sessions: Vec<SessionNote>,
    silent: Vec<(&'static str, &'static str)>,
}

impl Fault {
    /// A client's packet that ended so.
    fn of(to: &str, end: ProbeEnd, seen: Vec<NodeEvidence>) -> Self {
        Self {
            facts: usual(),
            notes: objects(),
            asked: asked("pod/client", "svc/web"),
            probed: Some(probed(CLIENT, to, end)),
            seen,
            sessions: Vec::new(),
            silent: Vec::new(),
        }
    }

    fn story(&self) -> Story {
        let mut knows = knows(&self.facts, self.notes.clone());
        if !self.sessions.is_empty() {
            knows.sessions.insert("node-1".into(), self.sessions.clone());
        }
        knows.silent.extend(self.silent.iter().map(|(node, why)| ((*node).into(), (*why).to_owned())));
        tell(self.asked.clone(), self.probed.as_ref(), &self.seen, &knows)
    }

    /// The verdict is this, to the letter; and the text says it in its first lines.
    fn says(&self, end: End, because: &str, mend: &str) -> Story {
        let story = self.story();
        let text = render(&story, Style { width: 400, ..Style::default() });
        let verdict = &story.verdict;
        assert_eq!(
            (verdict.end, verdict.because.as_deref().unwrap_or_default(), verdict.mend.as_deref().unwrap_or_default()),
            (end, because, mend),
            "{text}"
        );
        assert!(!end.is_yes() && text.starts_with(&format!("✘ {}", end.word())), "{text}");
        assert_eq!(text.lines().nth(1), Some(format!("  because  {because}").as_str()), "{text}");
        assert!(!verdict.says.is_empty() && !because.contains('\n'), "{text}");
        story
    }
}

fn tcp(from: &str, to: &str) -> crate::evidence::Header {
    header(from, to, Proto::Tcp)
}

fn refused(by: &str) -> ProbeEnd {
    ProbeEnd::Refused { by: Some(ip(by)) }
}

/// KUBE-SERVICES in filter turns the client's packet away.
fn turned_away(because: TurnedAway) -> Vec<NodeEvidence> {
    let text = "-d 10.96.0.11/32 -p tcp -m comment --comment \"default/web:http has no endpoints\" -m tcp --dport 80 -j REJECT";
    let meaning = Meaning::Refuses { service: Some(web()), because };
    let way = Way::forth("cali-client", tcp(CLIENT, WEB));
    vec![evidence("node-1", vec![way.step(Hook::Forward, "filter KUBE-SERVICES", text, meaning, Act::Drop).stopped()])]
}

/// To b on node-2, as far as node-1 sees it.
fn leaves(by: crate::evidence::RouteTold) -> Passage {
    let link = by.link.clone().unwrap_or_else(|| "eth0".into());
    Way::forth("cali-client", tcp(CLIENT, WEB)).web(Door::ClusterIp, None, B).forwarded().keeps_source().sent(&link, by)
}

fn arrives() -> Way {
    Way::forth("eth0", tcp(CLIENT, B)).forwarded().keeps_source()
}

/// There and into b.
fn reaches_b() -> Vec<NodeEvidence> {
    vec![
        evidence("node-1", vec![leaves(to_node_2())]),
        evidence("node-2", vec![arrives().sent("cali-b", to_pod("b", "10.244.1.6"))]),
    ]
}

fn without_endpoints(change: impl FnOnce(&mut Objects)) -> Fault {
    let mut fault = Fault::of(WEB, refused("172.18.0.11"), turned_away(TurnedAway::NoEndpoints));
    fault.facts = facts(service(11, 30001), &[]);
    fault.notes.slices.clear();
    change(&mut fault.notes);
    fault
}

fn each_web_pod(notes: &mut Objects, change: impl Fn(&mut crate::objects::PodNote)) {
    ["a", "b"].iter().for_each(|name| change(notes.pods.get_mut(&key(name)).expect("a pod of web")));
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
