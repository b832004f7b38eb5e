//! A lab whose nodes write nftables, and the service proxy alone following its live cluster from the host outside.

#[path = "why/churn.rs"]
mod churn;
#[path = "modes/elements.rs"]
mod elements;
mod support;

use portolan_lab::ProxyMode;
use support::{Said, root, wait_for};

fn world() -> &'static support::World {
    support::world_with("modes", |config| config.proxy_mode = ProxyMode::Nftables)
}

const TABLE: [&str; 5] = ["nft", "list", "table", "ip", "portolan"];
const PATIENCE_SECS: u64 = 60;

#[test]
fn a_lab_in_nftables_mode_serves_and_has_no_chain_of_iptables() {
    let world = world();
    let space = world.space("serve");
    space.deployment("web", 2);
    space.kubectl("expose deployment web --port=80 --type=NodePort").done();
    let ip = space.field("service web", ".spec.clusterIP");
    let node_port = space.field("service web", ".spec.ports[0].nodePort");
    space.shell("client", "node-1");
    let got = |said: Said| said.out.contains("Welcome to nginx").then_some(());
    let curl = |url: &str| ["curl", "-s", "-m", "5", url].map(str::to_owned);
    for (place, url) in [("node-1", format!("http://{ip}")), ("outside", format!("http://172.18.0.12:{node_port}"))] {
        let words = curl(&url);
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        wait_for(&format!("{url} from {place}"), PATIENCE_SECS, || got(world.at(place, &words)));
    }
    let rules = world.at("node-1", &TABLE).done();
    assert!(rules.contains(&format!("{ip} . tcp . 80 comment \"serve/web\"")), "{rules}");
    assert!(!world.at("node-1", &["iptables-save"]).out.contains("KUBE-"), "no chain of the other mode");
    let loopback = world.at("node-1", &["sh", "-c", "cat /proc/sys/net/ipv4/conf/*/route_localnet"]).done();
    assert!(loopback.lines().all(|link| link == "0"), "nothing closes 127.0.0.0/8 to pods here: {loopback}");
    let health = world
        .at("node-1", &["curl", "-s", "-o", "/dev/null", "-w", "%{http_code}", "http://172.18.0.11:10256/healthz"]);
    assert_eq!(health.out, "200", "{}", health.err);
    let metrics = world.kubectl("get --raw /api/v1/nodes/node-1/proxy/metrics").done();
    assert!(metrics.contains("kubeproxy_sync_proxy_rules_duration_seconds_count{ip_family=\"IPv4\"}"), "{metrics}");
}

#[test]
fn a_health_check_port_that_is_taken_becomes_an_event_of_its_service() {
    let world = world();
    let space = world.space("taken");
    let examples = root().join("examples/files");
    let script = format!(
        "{} dns --listen 172.18.0.11:31999 -f {} >/dev/null 2>&1 & echo started",
        env!("CARGO_BIN_EXE_portolan"),
        examples.display()
    );
    world.at("node-1", &["sh", "-c", &script]).done();
    let taken = || world.at("node-1", &["ss", "-ltn"]).out.contains(":31999").then_some(());
    wait_for("a listener on the port", PATIENCE_SECS, taken);
    space.apply(
        "apiVersion: v1\nkind: Service\nmetadata: { name: balanced }\nspec:\n  type: LoadBalancer\n  \
         externalTrafficPolicy: Local\n  healthCheckNodePort: 31999\n  selector: { app: none }\n  ports: [{ port: 80 }]\n",
    );
    let events = || {
        space
            .kubectl("get events -o custom-columns=R:.reason,T:.type,K:.involvedObject.kind,N:.involvedObject.name")
            .out
    };
    wait_for("the Event", PATIENCE_SECS, || {
        let found = events();
        let mut rows = found.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
        rows.any(|row| row == ["FailedToStartServiceHealthcheck", "Warning", "Service", "balanced"]).then_some(())
    });
}

#[test]
fn the_proxy_alone_follows_a_live_cluster() {
    let world = world();
    let space = world.space("live");
    let home = tempfile::Builder::new().prefix("ptl-t-").tempdir().expect("a folder");
    let kubeconfig = home.path().join("kubeconfig");
    std::fs::write(&kubeconfig, world.at("node-1", &["cat", "/run/lab/kubeconfig"]).done()).expect("a file");
    let log = home.path().join("log");
    let script = format!(
        "{} proxy --kubeconfig {} --node outside --proxy-mode nftables --metrics-bind-address '' >{} 2>&1 & echo $!",
        env!("CARGO_BIN_EXE_portolan"),
        kubeconfig.display(),
        log.display()
    );
    let pid = world.at("outside", &["sh", "-c", &script]).done();
    space.deployment("web", 1);
    space.kubectl("expose deployment web --port=80").done();
    let [endpoint] =
        &wait_for("an endpoint", PATIENCE_SECS, || Some(space.endpoints("web")).filter(|all| all.len() == 1))[..]
    else {
        unreachable!("it has one")
    };
    let said = || std::fs::read_to_string(&log).unwrap_or_default();
    let has = |what: &str| world.at("outside", &TABLE).out.contains(what).then_some(());
    wait_for(&format!("the endpoint in the rules of outside; it says {}", said()), PATIENCE_SECS, || {
        has(&format!("comment \"live/web\" : {endpoint} . 80"))
    });
    space.kubectl("label service web service.kubernetes.io/service-proxy-name=another").done();
    wait_for("another proxy's Service to leave the rules", PATIENCE_SECS, || {
        (!world.at("outside", &TABLE).out.contains("\"live/web\"")).then_some(())
    });
    world.at("outside", &["sh", "-c", &format!("kill {}", pid.trim())]).done();
}

#[test]
fn rules_of_traced_packets_keep_their_names_while_elements_change() {
    churn::every_rule_keeps_its_name(world().space("churn"), 200);
}

#[test]
fn every_element_that_names_a_service_leads_back_to_it() {
    elements::each_leads_back_to_its_service(world().space("elements"));
}
