//! From files, without a cluster: what `render` prints is deterministic and what the kernel takes, and `dns` answers a
//! real client.
//!
//! Goldens are in `snapshots/`; `INSTA_UPDATE=always cargo test -p portolan --test files` writes them anew.

mod support;

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use support::{Said, deb_bin, portolan, portolan_says, wait_for};

fn world() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/world.yaml")
}

fn folder() -> tempfile::TempDir {
    tempfile::Builder::new().prefix("ptl-t-").tempdir().expect("a folder")
}

fn render(what: &str, files: &[&Path]) -> String {
    let mut command = portolan();
    command.args(["render", what, "--node", "node-1"]);
    command.args(files.iter().flat_map(|file| [Path::new("-f"), *file]));
    Said::from(command.output().expect("it runs")).done()
}

#[test]
fn rules_records_and_routes_are_as_written_down() {
    let mut settings = insta::Settings::clone_current();
    settings.set_prepend_module_to_snapshot(false);
    settings.set_omit_expression(true);
    settings.bind(|| {
        for what in ["iptables", "nftables", "dns", "routes"] {
            insta::assert_snapshot!(what, render(what, &[&world()]));
        }
    });
}

#[test]
fn the_same_objects_in_any_order_split_or_doubled_give_the_same_bytes() {
    let text = std::fs::read_to_string(world()).expect("the world");
    let documents: Vec<&str> = text.split("---\n").collect();
    let dir = folder();
    let write = |name: &str, documents: &[&str]| {
        let path = dir.path().join(name);
        std::fs::write(&path, documents.join("---\n")).expect("written");
        path
    };
    let reversed = write("reversed.yaml", &documents.iter().rev().copied().collect::<Vec<_>>());
    let (first, second) = documents.split_at(documents.len() / 2);
    let (first, second) = (write("first.yaml", first), write("second.yaml", second));
    for what in ["iptables", "nftables", "dns", "routes"] {
        let once = render(what, &[&world()]);
        assert_eq!(render(what, &[&world()]), once, "{what} twice");
        assert_eq!(render(what, &[&reversed]), once, "{what} of the objects reversed");
        assert_eq!(render(what, &[&second, &first]), once, "{what} of two files");
        assert_eq!(render(what, &[&world(), &first]), once, "{what} with objects doubled");
    }
}

/// Runs a script in a network namespace of its own, with Debian's iptables.
fn in_new_netns(script: &str) -> String {
    let path = format!("{}:{}", deb_bin().display(), std::env::var("PATH").unwrap_or_default());
    let mut command = Command::new("unshare");
    command.args(["-n", "sh", "-ec", script]).env("PATH", path);
    Said::from(command.output().expect("unshare is on PATH")).done()
}

#[test]
fn iptables_restore_takes_the_rules_and_iptables_save_gives_them_back() {
    let dir = folder();
    let (rules, saved) = (dir.path().join("rules"), dir.path().join("saved"));
    std::fs::write(&rules, render("iptables", &[&world()])).expect("written");
    let compare = |saved: &Path| {
        let world = world();
        portolan_says(&format!("render iptables --node node-1 -f {} --compare {}", world.display(), saved.display()))
    };
    let load = format!("iptables-restore < {}", rules.display());
    std::fs::write(&saved, in_new_netns(&format!("{load}; iptables-save"))).expect("written");
    assert!(compare(&saved).done().contains(" rules: the same"));
    // Loaded twice is loaded once.
    std::fs::write(&saved, in_new_netns(&format!("{load}; {load}; iptables-save"))).expect("written");
    compare(&saved).done();
    // Each kind of damage is seen and named.
    let damages = [
        ("iptables -t nat -F KUBE-SERVICES", "KUBE-SERVICES"),
        ("iptables -t nat -D KUBE-MARK-MASQ 1", "KUBE-MARK-MASQ"),
        ("iptables -t nat -A KUBE-SVC-CDGGSHYLG3RE2FKL -j RETURN", "KUBE-SVC-CDGGSHYLG3RE2FKL"),
        ("iptables -D KUBE-SERVICES 1", "KUBE-SERVICES"),
    ];
    for (damage, named) in damages {
        std::fs::write(&saved, in_new_netns(&format!("{load}; {damage}; iptables-save"))).expect("written");
        let said = compare(&saved);
        assert_eq!(said.code, Some(1), "{damage}: {said:?}");
        assert!(said.out.contains(named), "{damage}: {}", said.out);
    }
}

#[test]
fn nft_loads_what_is_rendered_for_it() {
    let dir = folder();
    let rules = dir.path().join("rules");
    std::fs::write(&rules, render("nftables", &[&world()])).expect("written");
    let listed = in_new_netns(&format!("nft -f {}; nft list table ip portolan", rules.display()));
    for part in ["10.96.10.1 . tcp . 80 comment \"default/web:http\"", ": 10.244.0.66 . 80", "type nat hook prerouting"]
    {
        assert!(listed.contains(part), "{part}: {listed}");
    }
}

#[test]
fn a_kube_proxy_configuration_says_how_rules_are_rendered() {
    let dir = folder();
    let config = dir.path().join("config.yaml");
    let text = "apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeProxyConfiguration\n\
                clusterCIDR: 10.244.0.0/16\niptables: {masqueradeAll: true, masqueradeBit: 15}\n";
    std::fs::write(&config, text).expect("written");
    let (world, config) = (world(), config.display().to_string());
    let with = format!("render iptables --node node-1 -f {} --config {config}", world.display());
    let rules = portolan_says(&with).done();
    assert!(rules.contains("--or-mark 0x8000") && !rules.contains("0x4000"), "{rules}");
    assert!(rules.contains("-d 10.96.10.1 --dport 80 -j KUBE-MARK-MASQ"), "whoever sends it: {rules}");
    let refused = portolan_says(&format!("render dns --node node-1 -f {} --config {config}", world.display()));
    assert!(refused.refused(2).contains("--config goes with `render iptables|nftables` only"));
}

#[test]
fn what_is_no_output_of_iptables_save_is_bad_input() {
    let dir = folder();
    let path = dir.path().join("saved");
    std::fs::write(&path, "hello\n").expect("written");
    let world = world();
    let said =
        portolan_says(&format!("render iptables --node node-1 -f {} --compare {}", world.display(), path.display()));
    assert!(said.refused(2).contains("--compare: not the output of iptables-save"));
}

/// `portolan dns` on a loopback port, ended when dropped. Its resolv.conf is empty: nobody else is asked.
struct Dns {
    child: Child,
    port: u16,
    _dir: tempfile::TempDir,
}

impl Dns {
    fn serve(file: &Path) -> Dns {
        let port = support::ports::free();
        let dir = folder();
        let resolv_conf = dir.path().join("resolv.conf");
        std::fs::write(&resolv_conf, "").expect("written");
        let mut command = portolan();
        command
            .args(["dns", "--listen", &format!("127.0.0.1:{port}"), "--resolv-conf"])
            .arg(&resolv_conf)
            .arg("-f")
            .arg(file);
        let child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("it starts");
        let dns = Dns { child, port, _dir: dir };
        wait_for("an answer", 60, || dns.ask("web.default.svc.cluster.local A").contains("NOERROR").then_some(()));
        dns
    }

    /// What Debian's drill prints, blanks made one.
    fn ask(&self, question: &str) -> String {
        let mut command = Command::new(deb_bin().join("drill"));
        command.args(["-p", &self.port.to_string(), "@127.0.0.1"]).args(question.split_whitespace());
        let said = Said::from(command.output().expect("drill runs")).out;
        said.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ") + "\n").collect()
    }
}

impl Drop for Dns {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn dns_from_files_answers_every_kind_of_question() {
    let dns = Dns::serve(&world());
    let rows = [
        ("web.default.svc.cluster.local A", "web.default.svc.cluster.local. 30 IN A 10.96.10.1"),
        ("WEB.default.SVC.cluster.local A", "IN A 10.96.10.1"),
        ("-t web.default.svc.cluster.local A", "IN A 10.96.10.1"),
        ("db.data.svc.cluster.local A", "IN A 10.244.0.3"),
        ("db-0.db.data.svc.cluster.local A", "IN A 10.244.0.3"),
        ("_http._tcp.web.default.svc.cluster.local SRV", "IN SRV 0 100 80 web.default.svc.cluster.local."),
        ("_sql._tcp.db.data.svc.cluster.local SRV", "IN SRV 0 100 5432 db-0.db.data.svc.cluster.local."),
        ("1.10.96.10.in-addr.arpa PTR", "IN PTR web.default.svc.cluster.local."),
        ("3.0.244.10.in-addr.arpa PTR", "IN PTR db-0.db.data.svc.cluster.local."),
        ("away.default.svc.cluster.local CNAME", "IN CNAME ylzhong.top."),
        ("away.default.svc.cluster.local A", "IN CNAME ylzhong.top."),
        ("10-244-0-2.default.pod.cluster.local A", "IN A 10.244.0.2"),
        ("cluster.local SOA", "IN SOA ns.dns.cluster.local."),
    ];
    for (question, expected) in rows {
        let said = dns.ask(question);
        assert!(said.contains(expected), "{question}\nexpected: {expected}\n{said}");
    }
}

#[test]
fn what_is_not_there_is_nxdomain_and_what_has_no_such_record_is_nodata() {
    let dns = Dns::serve(&world());
    let header = |question: &str| {
        let said = dns.ask(question);
        let rcode = said.split("rcode: ").nth(1).and_then(|rest| rest.split(',').next()).unwrap_or_default().to_owned();
        let answers =
            said.split("ANSWER: ").nth(1).and_then(|rest| rest.split(',').next()).unwrap_or_default().to_owned();
        assert!(said.contains(" IN SOA "), "a negative answer carries the SOA (RFC 2308 section 2):\n{said}");
        (rcode, answers)
    };
    let is = |rcode: &str| (rcode.to_owned(), "0".to_owned());
    assert_eq!(header("nobody.default.svc.cluster.local A"), is("NXDOMAIN"));
    assert_eq!(header("web.nowhere.svc.cluster.local A"), is("NXDOMAIN"));
    assert_eq!(header("10-244-0-2.nowhere.pod.cluster.local A"), is("NXDOMAIN"));
    assert_eq!(header("web.default.svc.cluster.local AAAA"), is("NOERROR"));
    assert_eq!(header("web.default.svc.cluster.local MX"), is("NOERROR"));
    // A name that only has names below it is there: RFC 8020.
    assert_eq!(header("default.svc.cluster.local A"), is("NOERROR"));
}

#[test]
fn a_host_port_is_in_the_rules_of_its_pods_node_alone() {
    let dir = folder();
    let pod = dir.path().join("pod.yaml");
    let text = "apiVersion: v1\nkind: Pod\nmetadata: { name: web }\n\
                spec: { nodeName: node-1, containers: [{ name: web, image: nginx, ports: [{ containerPort: 80, hostPort: 8088 }] }] }\n\
                status: { podIP: 10.244.0.7, phase: Running }\n";
    std::fs::write(&pod, text).expect("written");
    let rules = render("iptables", &[&pod]);
    assert!(rules.contains("--dport 8088") && rules.contains("--to-destination 10.244.0.7:80"), "{rules}");
    std::fs::write(&pod, text.replace("node-1", "node-2")).expect("written");
    assert!(!render("iptables", &[&pod]).contains("8088"));
}
