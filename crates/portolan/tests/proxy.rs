//! `portolan proxy` in network namespaces of its own: objects in files become rules of a real kernel and follow the files;
//! a restart writes nothing, a foreign hand is mended, a Service that is refused hurts only itself; health checks and
//! metrics answer over real HTTP. As root.

mod support;

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use portolan_kernel::netns;
use portolan_kernel::nft::Nft;
use serde_json::{Value, json};
use support::{Said, deb_bin, portolan, wait_for};

const MODES: [&str; 2] = ["iptables", "nftables"];
/// For what a proxy does after something has changed, on a machine with much else to do.
const PATIENCE_SECS: u64 = 60;

/// A network namespace with a folder of objects; both end with it.
struct Node {
    netns: OwnedFd,
    home: tempfile::TempDir,
    mode: &'static str,
}

/// A proxy that runs.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        // One that has ended by itself is as good.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Running {
    /// Tells it to end; its exit code.
    fn told_to_end(mut self) -> Option<i32> {
        // SAFETY: the process is our child, not yet waited for.
        unsafe { libc::kill(self.0.id() as i32, libc::SIGTERM) };
        self.0.wait().expect("it was started").code()
    }
}

impl Node {
    fn new(mode: &'static str) -> Node {
        let home = tempfile::Builder::new().prefix("ptl-t-").tempdir().expect("a folder");
        fs::create_dir(home.path().join("objects")).expect("a folder");
        let node = Node { netns: netns::create().expect("a network namespace, as root"), home, mode };
        node.sh("ip link set lo up; ip link add lan0 type veth peer name eth0; ip link set eth0 up; ip addr add 172.18.0.11/24 dev eth0");
        node
    }

    fn objects(&self) -> PathBuf {
        self.home.path().join("objects")
    }

    /// Replaces a file at once; `None` takes it away.
    fn write(&self, name: &str, text: Option<&str>) {
        let path = self.objects().join(name);
        match text {
            Some(text) => {
                fs::write(self.home.path().join("next"), text).expect("a file");
                fs::rename(self.home.path().join("next"), path).expect("a file of ours");
            }
            None => fs::remove_file(path).expect("a file of ours"),
        }
    }

    fn put(&self, name: &str, objects: &[Value]) {
        self.write(name, Some(&json!({"apiVersion": "v1", "kind": "List", "items": objects}).to_string()));
    }

    fn inside<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        netns::run_in(self.netns.as_fd(), work).expect("the namespace can be entered")
    }

    fn sh(&self, script: &str) -> String {
        let path = format!("{}:{}", deb_bin().display(), std::env::var("PATH").unwrap_or_default());
        let mut command = Command::new("sh");
        command.args(["-ec", script]).env("PATH", path);
        Said::from(self.inside(|| command.output().expect("sh runs"))).done()
    }

    fn proxy(&self, flags: &[&str]) -> Command {
        let mut command = portolan();
        command.args(["proxy", "--node", "node-1", "--proxy-mode", self.mode, "-f"]).arg(self.objects()).args(flags);
        command.env("PORTOLAN_IPTABLES_DIR", deb_bin());
        command
    }

    #[track_caller]
    fn once(&self) -> String {
        let mut command = self.proxy(&["--once"]);
        let said = Said::from(self.inside(|| command.output().expect("it runs")));
        assert!(said.ok(), "{}: {}", self.mode, said.err);
        said.err
    }

    fn start(&self, flags: &[&str]) -> Running {
        self.spawn(self.proxy(flags))
    }

    fn spawn(&self, mut command: Command) -> Running {
        let log = fs::File::options().create(true).append(true).open(self.home.path().join("log")).expect("a file");
        command.stderr(log).stdout(Stdio::null());
        Running(self.inside(|| command.spawn().expect("it starts")))
    }

    fn log(&self) -> String {
        fs::read_to_string(self.home.path().join("log")).unwrap_or_default()
    }

    /// All rules of this node's mode, as people list them.
    fn rules(&self) -> String {
        match self.mode {
            "iptables" => self.sh("iptables-save"),
            _ => self.sh("nft list tables | grep -q 'table ip portolan' && nft list table ip portolan || true"),
        }
    }

    #[track_caller]
    fn wait_rules(&self, what: &str, is_there: impl Fn(&str) -> bool) {
        wait_for(&format!("{}: {what}; it says {}", self.mode, self.log()), PATIENCE_SECS, || {
            is_there(&self.rules()).then_some(())
        });
    }

    /// How many transactions nf_tables has carried out in this namespace, anybody's.
    fn transactions(&self) -> u32 {
        self.inside(|| Nft::open().and_then(|mut nft| nft.generation()).expect("nf_tables answers"))
    }

    /// A GET: status, headers in lower case, body. `None`: nobody answers.
    fn get(&self, port: u16, path: &str) -> Option<(u16, String, String)> {
        let text = self.inside(|| {
            let mut stream = TcpStream::connect(("127.0.0.1", port)).ok()?;
            write!(stream, "GET {path} HTTP/1.1\r\nHost: node\r\nConnection: close\r\n\r\n").ok()?;
            let mut text = String::new();
            stream.read_to_string(&mut text).ok().map(|_| text)
        })?;
        let (head, body) = text.split_once("\r\n\r\n")?;
        let status = head.split(' ').nth(1)?.parse().ok()?;
        Some((status, head.to_ascii_lowercase(), body.to_owned()))
    }

    #[track_caller]
    fn wait_status(&self, port: u16, path: &str, status: u16) -> (String, String) {
        let what = format!("{}: {status} of :{port}{path}; it says {}", self.mode, self.log());
        wait_for(&what, PATIENCE_SECS, || {
            self.get(port, path).filter(|answer| answer.0 == status).map(|(_, head, body)| (head, body))
        })
    }
}

fn service(name: &str, ip: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": name, "namespace": "default"},
        "spec": {"clusterIP": ip, "clusterIPs": [ip], "ports": [{"name": "http", "port": 80}]},
    })
}

/// Endpoints by address and node.
fn slice(name: &str, endpoints: &[(&str, &str)]) -> Value {
    let rows: Vec<Value> =
        endpoints.iter().map(|(addr, node)| json!({"addresses": [addr], "nodeName": node})).collect();
    json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
        "metadata": {"name": name, "namespace": "default", "labels": {"kubernetes.io/service-name": name}},
        "ports": [{"name": "http", "port": 8080}], "endpoints": rows,
    })
}

fn node_object() -> Value {
    json!({
        "apiVersion": "v1", "kind": "Node", "metadata": {"name": "node-1"},
        "spec": {"podCIDRs": ["10.244.0.0/24"]},
        "status": {"addresses": [{"type": "InternalIP", "address": "172.18.0.11"}]},
    })
}

fn web(ip: &str) -> [Value; 3] {
    [node_object(), service("web", ip), slice("web", &[("10.244.0.5", "node-1")])]
}

#[test]
fn rules_follow_the_files_and_a_file_that_does_not_parse_changes_nothing() {
    for mode in MODES {
        let node = Node::new(mode);
        node.put("web.json", &web("10.96.0.20"));
        let running = node.start(&[]);
        node.wait_rules("the Service's rules", |rules| rules.contains("10.96.0.20") && rules.contains("10.244.0.5"));
        node.put("other.json", &[service("other", "10.96.0.21"), slice("other", &[("10.244.0.6", "node-1")])]);
        node.wait_rules("those of another file", |rules| rules.contains("10.96.0.21") && rules.contains("10.96.0.20"));
        node.put("web.json", &web("10.96.0.22"));
        node.wait_rules("a change", |rules| rules.contains("10.96.0.22") && !rules.contains("10.96.0.20"));
        node.write("web.json", Some("kind: [Service"));
        wait_for("the file's name in the log", PATIENCE_SECS, || node.log().contains("web.json: ").then_some(()));
        node.write("other.json", None);
        node.wait_rules("a file that is gone", |rules| !rules.contains("10.96.0.21"));
        assert!(node.rules().contains("10.96.0.22"), "what was read before stays");
        assert_eq!(running.told_to_end(), Some(0));
        assert!(node.rules().contains("10.96.0.22"), "rules outlive the proxy");
    }
}

#[test]
fn a_restart_over_a_right_kernel_writes_nothing_and_over_a_wrong_one_what_differs() {
    for mode in MODES {
        let node = Node::new(mode);
        node.put("web.json", &web("10.96.0.20"));
        node.once();
        let (rules, transactions) = (node.rules(), node.transactions());
        node.once();
        assert_eq!(node.transactions(), transactions, "{mode}: not one transaction");
        let damage = match mode {
            "iptables" => "iptables -t nat -F KUBE-SERVICES; iptables -D FORWARD 1",
            _ => "nft delete element ip portolan cluster-ips '{ 10.96.0.20 }'; nft add chain ip portolan strange",
        };
        node.sh(damage);
        assert_ne!(without_counters(&node.rules()), without_counters(&rules), "{mode}: the damage is seen");
        node.once();
        assert_eq!(without_counters(&node.rules()), without_counters(&rules), "{mode}");
    }
}

/// iptables-save prints when it ran.
fn without_counters(rules: &str) -> Vec<&str> {
    let mut lines: Vec<&str> = rules.lines().filter(|line| !line.starts_with('#')).collect();
    // Hooks that were put back stand before others of their chain.
    lines.sort_unstable();
    lines
}

#[test]
fn another_hand_in_the_rules_is_mended_while_the_proxy_runs() {
    let damages = [
        ("iptables", "iptables -t nat -F KUBE-SERVICES"),
        ("iptables", "iptables -t nat -F; iptables -t nat -X"),
        ("nftables", "nft flush chain ip portolan services"),
        ("nftables", "nft delete table ip portolan"),
        ("nftables", "nft 'delete element ip portolan endpoints { 10.96.0.20 . tcp . 80 . 0 }'"),
    ];
    for mode in MODES {
        let node = Node::new(mode);
        node.put("web.json", &web("10.96.0.20"));
        let _running = node.start(&[]);
        node.wait_rules("the Service's rules", |rules| rules.contains("10.96.0.20") && rules.contains("10.244.0.5"));
        let before = node.rules();
        for (_, damage) in damages.iter().filter(|(of, _)| *of == mode) {
            node.sh(damage);
            node.wait_rules(damage, |rules| without_counters(rules) == without_counters(&before));
        }
        // Nobody's business: a table of others.
        let compared = node.log().matches("compared").count();
        node.sh("nft add table ip others; nft add chain ip others a");
        node.put("more.json", &[service("more", "10.96.0.30"), slice("more", &[("10.244.0.7", "node-1")])]);
        node.wait_rules("a change after it", |rules| rules.contains("10.96.0.30") && rules.contains("10.244.0.7"));
        assert_eq!(node.log().matches("compared").count(), compared, "{mode}: {}", node.log());
    }
}

/// A folder of iptables programs, as `script` says for each; it gets the real one's path as `$REAL`.
fn tools(node: &Node, script: impl Fn(&str) -> String) -> PathBuf {
    let folder = node.home.path().join("tools");
    fs::create_dir_all(&folder).expect("a folder");
    for name in ["iptables", "iptables-save", "iptables-restore", "ip6tables", "ip6tables-save", "ip6tables-restore"] {
        let path = folder.join(name);
        fs::write(&path, format!("#!/bin/sh\n{}\n", script(name))).expect("a file");
        fs::set_permissions(&path, PermissionsExt::from_mode(0o755)).expect("a file of ours");
    }
    folder
}

#[test]
fn a_flush_of_iptables_legacy_is_noticed_by_its_canaries() {
    let node = Node::new("iptables");
    let legacy = |name: &str| {
        let (family, rest) = name.split_once("tables").expect("a name of iptables");
        format!("exec {}/{family}tables-legacy{rest} \"$@\"", deb_bin().display())
    };
    let folder = tools(&node, legacy);
    node.put("web.json", &web("10.96.0.20"));
    let mut command = node.proxy(&[]);
    command.env("PORTOLAN_IPTABLES_DIR", &folder);
    let _running = node.spawn(command);
    let saved = || node.sh(&format!("{}/iptables-save", folder.display()));
    let has = |text: &str| saved().contains(text);
    wait_for("rules and canaries", PATIENCE_SECS, || {
        (has("-d 10.96.0.20/32") && saved().matches(":KUBE-PROXY-CANARY").count() == 3).then_some(())
    });
    node.sh(&format!("{0}/iptables -t nat -F; {0}/iptables -t nat -X", folder.display()));
    wait_for("the rules again", PATIENCE_SECS, || (has("-d 10.96.0.20/32") && has("KUBE-PROXY-CANARY")).then_some(()));
}

#[test]
fn a_service_that_iptables_refuses_is_left_out_named_once_and_taken_when_it_changes() {
    let node = Node::new("iptables");
    // It refuses one address, in the words of iptables.
    let picky = |name: &str| {
        let real = deb_bin().join(name);
        match name.ends_with("-restore") {
            true => format!(
                "cat > $0.in.$$; line=$(grep -n 10.96.66.66 $0.in.$$ | head -1 | cut -d: -f1)\n\
                 if [ -n \"$line\" ]; then rm $0.in.$$; echo \"{name}: line $line failed\" >&2; exit 1; fi\n\
                 {} \"$@\" < $0.in.$$; code=$?; rm $0.in.$$; exit $code",
                real.display()
            ),
            false => format!("exec {} \"$@\"", real.display()),
        }
    };
    let folder = tools(&node, picky);
    let mut objects = web("10.96.0.20").to_vec();
    objects.extend([service("bad", "10.96.66.66"), slice("bad", &[("10.244.0.8", "node-1")])]);
    node.put("all.json", &objects);
    let mut command = node.proxy(&[]);
    command.env("PORTOLAN_IPTABLES_DIR", &folder);
    let _running = node.spawn(command);
    node.wait_rules("the others' rules", |rules| rules.contains("10.96.0.20") && rules.contains("10.244.0.5"));
    let named = || node.log().lines().filter(|l| l.contains("FailedToProgram") && l.contains("default/bad")).count();
    wait_for("the refusal in the log", PATIENCE_SECS, || (named() == 1).then_some(()));
    node.put("more.json", &[service("more", "10.96.0.30"), slice("more", &[("10.244.0.7", "node-1")])]);
    node.wait_rules("a change of another", |rules| rules.contains("10.96.0.30") && !rules.contains("10.96.66.66"));
    assert_eq!(named(), 1, "{}", node.log());
    objects[3] = service("bad", "10.96.0.66");
    node.put("all.json", &objects);
    node.wait_rules("what it is now", |rules| rules.contains("10.96.0.66") && rules.contains("10.244.0.8"));
}

#[test]
fn balancers_supervisors_and_dashboards_get_their_answers() {
    for mode in MODES {
        let node = Node::new(mode);
        let mut balanced = service("web", "10.96.0.20");
        balanced["spec"]["type"] = "LoadBalancer".into();
        balanced["spec"]["externalTrafficPolicy"] = "Local".into();
        balanced["spec"]["healthCheckNodePort"] = 30999.into();
        balanced["spec"]["ports"][0]["nodePort"] = 30080.into();
        let here = slice("web", &[("10.244.0.5", "node-1"), ("10.244.1.5", "node-2")]);
        node.put("web.json", &[balanced.clone(), here]);
        node.put("node.json", &[node_object()]);
        // Node ports of nftables mode are on the Node's own address only, and so are health checks.
        let _running = node.start(&["--nodeport-addresses", "127.0.0.0/8,172.18.0.0/24"]);
        let (head, body) = node.wait_status(30999, "/any/path", 200);
        for line in
            ["content-type: application/json", "x-content-type-options: nosniff", "x-load-balancing-endpoint-weight: 1"]
        {
            assert!(head.contains(line), "{mode}: {line} in {head}");
        }
        assert!(body.contains("\t\"localEndpoints\": 1,\n\t\"serviceProxyHealthy\": true\n}"), "{mode}: {body}");
        node.put("web.json", &[balanced, slice("web", &[("10.244.1.5", "node-2")])]);
        assert!(node.wait_status(30999, "/", 503).0.contains("x-load-balancing-endpoint-weight: 0"), "{mode}");

        let (_, body) = node.wait_status(10256, "/healthz", 200);
        let body: Value = serde_json::from_str(&body).expect("JSON");
        assert_eq!((&body["healthy"], &body["nodeEligible"]), (&json!(true), &json!(true)), "{mode}");
        assert_eq!(body["status"]["IPv4"]["healthy"], true, "{mode}");
        let mut leaving = node_object();
        leaving["spec"]["taints"] = json!([{"key": "ToBeDeletedByClusterAutoscaler", "effect": "NoSchedule"}]);
        node.put("node.json", &[leaving]);
        node.wait_status(10256, "/healthz", 503);
        node.wait_status(10256, "/livez", 200);

        assert_eq!(node.wait_status(10249, "/proxyMode", 200).1, mode);
        let shown: Value = serde_json::from_str(&node.wait_status(10249, "/configz", 200).1).expect("JSON");
        assert_eq!(shown["kubeproxy.config.k8s.io"]["mode"], mode);
        let metrics = node.wait_status(10249, "/metrics", 200).1;
        let value = |name: &str| -> f64 {
            let line = metrics.lines().find(|line| line.starts_with(&format!("kubeproxy_{name} ")));
            line.and_then(|line| line.rsplit(' ').next()?.parse().ok()).unwrap_or_else(|| panic!("{name} in {metrics}"))
        };
        let v4 = |name: &str| value(&format!("{name}{{ip_family=\"IPv4\"}}"));
        assert!(v4("sync_proxy_rules_duration_seconds_count") >= 2.0);
        assert!(v4("sync_partial_proxy_rules_duration_seconds_count") >= 1.0);
        assert!(v4("sync_proxy_rules_endpoint_changes_total") >= 2.0);
        assert_eq!(v4("sync_proxy_rules_endpoint_changes_pending"), 0.0);
        assert!(v4("sync_proxy_rules_last_timestamp_seconds") > 1.0e9);
        let policy = "sync_proxy_rules_no_local_endpoints_total{ip_family=\"IPv4\",traffic_policy=\"external\"}";
        assert_eq!(value(policy), 1.0);
        assert!(value("proxy_healthz_total{code=\"503\"}") >= 1.0);
        assert!(value("proxy_livez_total{code=\"200\"}") >= 1.0);
        if mode == "iptables" {
            let saved = node.sh("iptables-save -t nat");
            let chains = saved.lines().filter_map(|line| line.strip_prefix("-A ")?.split(' ').next());
            let of_ours =
                chains.filter(|chain| !["PREROUTING", "INPUT", "OUTPUT", "POSTROUTING"].contains(chain)).count();
            let counted = value("sync_proxy_rules_iptables_total{ip_family=\"IPv4\",table=\"nat\"}");
            assert_eq!(counted, of_ours as f64, "{saved}");
        }
    }
}

#[test]
fn a_health_check_port_that_is_taken_is_named_and_answers_when_it_is_free() {
    let node = Node::new("nftables");
    let taken = node.inside(|| std::net::TcpListener::bind("0.0.0.0:30999").expect("a free port"));
    let mut balanced = service("web", "10.96.0.20");
    balanced["spec"]["type"] = "LoadBalancer".into();
    balanced["spec"]["externalTrafficPolicy"] = "Local".into();
    balanced["spec"]["healthCheckNodePort"] = 30999.into();
    node.put("web.json", &[node_object(), balanced, slice("web", &[("10.244.0.5", "node-1")])]);
    let _running = node.start(&["--nodeport-addresses", "127.0.0.0/8"]);
    wait_for("the port in the log", PATIENCE_SECS, || {
        node.log().contains("FailedToStartServiceHealthcheck").then_some(())
    });
    drop(taken);
    node.wait_status(30999, "/", 200);
    assert_eq!(node.log().matches("FailedToStartServiceHealthcheck").count(), 1, "{}", node.log());
}

#[test]
fn a_change_of_mode_leaves_nothing_of_the_other_and_cleanup_nothing_of_either() {
    let mut node = Node::new("iptables");
    node.put("web.json", &web("10.96.0.20"));
    node.sh("iptables -t nat -N OTHERS; iptables -t nat -A POSTROUTING -j OTHERS");
    let is_ours = |rules: &str| rules.contains("KUBE-SVC") || rules.contains("KUBE-SERVICES");
    node.once();
    assert!(is_ours(&node.sh("iptables-save")));
    node.mode = "nftables";
    node.once();
    let left = node.sh("iptables-save; ip6tables-save");
    assert!(!is_ours(&left) && left.contains("-A POSTROUTING -j OTHERS"), "{left}");
    assert!(node.rules().contains("10.96.0.20"));
    node.mode = "iptables";
    node.once();
    assert!(!node.sh("nft list tables").contains("portolan"));
    node.mode = "nftables";
    node.once();
    let mut command = portolan();
    command.args(["proxy", "--cleanup"]).env("PORTOLAN_IPTABLES_DIR", deb_bin());
    Said::from(node.inside(|| command.output().expect("it runs"))).done();
    assert!(!node.sh("nft list tables").contains("portolan"));
    assert!(!is_ours(&node.sh("iptables-save")));
}

#[test]
fn a_configuration_file_is_read_as_it_is_and_what_is_not_supported_is_named() {
    let node = Node::new("nftables");
    node.put("web.json", &web("10.96.0.20"));
    let config = node.home.path().join("config.yaml");
    let with = |path: &Path, text: &str| {
        let text = format!("apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeProxyConfiguration\n{text}");
        fs::write(path, text).expect("a file");
        let mut command = portolan();
        command.args(["proxy", "--once", "--node", "node-1", "--config"]).arg(path).arg("-f").arg(node.objects());
        command.env("PORTOLAN_IPTABLES_DIR", deb_bin());
        Said::from(node.inside(|| command.output().expect("it runs")))
    };
    let said = with(
        &config,
        "mode: nftables\nclusterCIDR: 10.244.0.0/16\nipvs: {scheduler: rr}\nnftables: {masqueradeBit: 15}\n",
    );
    assert!(said.ok(), "{}", said.err);
    assert!(said.err.contains("ipvs.scheduler is not supported: there is no ipvs mode"), "{}", said.err);
    assert!(node.rules().contains("0x00008000"), "bit 15: {}", node.rules());
    let refused = with(&config, "mode: nftables\nnftables: {masqueradeBits: 15}\n").refused(2);
    assert!(refused.contains("nftables.masqueradeBits: there is no such field; did you mean"), "{refused}");
}

#[test]
fn init_only_sets_what_is_this_namespaces_own_and_writes_no_rule() {
    let node = Node::new("iptables");
    let mut command = node.proxy(&["--init-only", "--conntrack-udp-timeout", "7s", "--conntrack-tcp-be-liberal"]);
    let said = Said::from(node.inside(|| command.output().expect("it runs")));
    assert!(
        said.ok() && said.err.contains("nf_conntrack_max is the whole machine's and is not written"),
        "{}",
        said.err
    );
    let settings = node
        .sh("cd /proc/sys/net; cat netfilter/nf_conntrack_udp_timeout netfilter/nf_conntrack_tcp_be_liberal \
         netfilter/nf_conntrack_tcp_timeout_close_wait ipv4/conf/all/route_localnet");
    assert_eq!(settings.split_whitespace().collect::<Vec<_>>(), ["7", "1", "3600", "1"]);
    assert!(!node.rules().contains("KUBE-"), "{}", node.rules());
}

#[test]
fn what_makes_no_sense_is_refused_with_a_way_out() {
    let refused = |args: &[&str]| {
        let mut command = portolan();
        Said::from(command.args(["proxy", "--node", "n"]).args(args).output().expect("it runs")).refused(2)
    };
    let cases: [(&[&str], &str); 7] = [
        (&[], "give files with -f, or a cluster with --kubeconfig"),
        (&["-f", "/nowhere"], "cannot read /nowhere"),
        (&["-f", "/nowhere", "--cluster-cidr", "10.0.0.0"], "--cluster-cidr: \"10.0.0.0\""),
        (&["-f", "/nowhere", "--nodeport-addresses", "here"], "--nodeport-addresses: \"here\""),
        (&["-f", "/nowhere", "--detect-local-mode", "BridgeInterface"], "this mode needs --pod-bridge-interface"),
        (&["-f", "/nowhere", "--iptables-sync-period", "soon"], "write a duration such as 30s"),
        (&["-f", "/nowhere", "--config", "/nowhere", "--masquerade-all"], "--masquerade-all"),
    ];
    for (args, expected) in cases {
        let said = refused(args);
        assert!(said.contains(expected), "{args:?}: {said}");
    }
}

#[test]
fn without_a_mode_it_is_nftables_exactly_where_the_iptables_programs_are_not_at_hand() {
    let empty = tempfile::Builder::new().prefix("ptl-t-").tempdir().expect("a folder");
    for (programs, expected) in [(deb_bin(), "iptables"), (empty.path().to_owned(), "nftables")] {
        let node = Node::new("auto");
        node.put("web.json", &[]);
        let mut command = node.proxy(&["--once"]);
        command.env("PORTOLAN_IPTABLES_DIR", &programs).env("PATH", empty.path());
        let said = Said::from(node.inside(|| command.output().expect("it runs")));
        assert!(said.ok(), "{expected}: {}", said.err);
        let found = match node.sh("nft list tables").contains("table ip portolan") {
            true => "nftables",
            false if node.sh("iptables-save -t nat").contains("KUBE-SERVICES") => "iptables",
            false => "neither",
        };
        assert_eq!(found, expected, "{}", said.err);
    }
}
