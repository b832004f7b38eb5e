//! Everything but the rules is a stranger's: nginx serves, curl asks, and the commands by which users look at a service
//! proxy show what they have always shown.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::process::{Child, Command, Stdio};

use serde_json::Value;

use super::case::{As, Backend, POD_RANGES};
use super::ground::{NODE_1, OUTSIDE, deb_bin};
use super::objects::{self, To, service};
use super::run::Field;

/// nginx in a pod; it ends with the test.
struct Nginx(Child);

impl Nginx {
    fn start(field: &Field<'_>, pod: &str) -> Nginx {
        let home = field.home.path().join(format!("nginx-{pod}"));
        std::fs::create_dir(&home).expect("a folder");
        std::fs::set_permissions(&home, Permissions::from_mode(0o755)).expect("a folder of ours");
        let at = home.display();
        let temps: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
            .map(|name| format!("{name}_temp_path {at}/{name}; "))
            .concat();
        let conf = format!(
            "daemon off; master_process off; user root; pid {at}/pid; error_log {at}/error.log;\n\
             events {{}}\nhttp {{ access_log off; {temps}\n\
             server {{ listen 8080; listen [::]:8080; return 200 \"{pod} $remote_addr\\n\"; }} }}\n"
        );
        let path = home.join("nginx.conf");
        std::fs::write(&path, conf).expect("a file");
        let mut command = Command::new(deb_bin().join("nginx"));
        command.arg("-c").arg(&path).arg("-e").arg(home.join("error.log"));
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        Nginx(field.ground.inside(pod, || command.spawn().expect("nginx starts")))
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        // One that has ended by itself was noticed by curl.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// What a program says at a place; `None` if it fails.
fn says(field: &Field<'_>, place: &str, program: &str, args: &str) -> Option<String> {
    let own = field.tools().join(program);
    let mut command = Command::new(if own.exists() { own } else { deb_bin().join(program) });
    command.args(args.split_whitespace());
    let output = field.ground.inside(place, || command.output().expect("it runs"));
    output.status.success().then(|| String::from_utf8(output.stdout).expect("text"))
}

fn curl(field: &Field<'_>, place: &str, url: &str) -> Option<String> {
    says(field, place, "curl", &format!("-s --globoff --max-time 20 {url}")).map(|said| said.trim().to_owned())
}

/// curl from everywhere to nginx in a pod, by every address; then what the node's own tools say of it.
pub fn strangers_understand(field: &Field<'_>) {
    let _servers = ["a1", "b1"].map(|pod| Nginx::start(field, pod));
    for url in ["http://10.244.1.2:8080/", "http://10.244.2.2:8080/"] {
        field.wait("nginx in its pod", || curl(field, NODE_1, url));
    }
    let services = [service(10).everywhere().affinity(600).endpoints("a1, b1"), service(11).everywhere()];
    let objects = objects::nodes(None).into_iter().chain(services.iter().flat_map(objects::Service::objects));
    field.program(&objects.collect::<Vec<_>>(), &["--cluster-cidr", &POD_RANGES.join(",")]);
    for to in [To::ClusterIp(10), To::NodePort(10), To::External(10), To::Balancer(10)] {
        for target in to.targets() {
            let as_node = |place: &str| match (place, to) {
                ("a2", To::ClusterIp(_)) => As::Itself,
                _ => As::Node,
            };
            for place in ["a2", NODE_1, OUTSIDE] {
                let said = curl(field, place, &format!("http://{target}/")).unwrap_or_default();
                let (pod, client) = said.split_once(' ').unwrap_or_default();
                let is_node = client.parse().is_ok_and(super::ground::on_node);
                let is_right = ["a1", "b1"].contains(&pod) && is_node == (as_node(place) == As::Node);
                assert!(is_right, "{:?}: {place} asked {target}: {said:?}", field.backend);
            }
        }
    }
    match field.backend {
        Backend::Nftables => nft_shows(field),
        Backend::IptablesNft | Backend::IptablesLegacy => iptables_shows(field),
    }
    conntrack_shows(field);
}

/// `iptables-save | grep`: the Service by its name, its way from address to pod.
fn iptables_shows(field: &Field<'_>) {
    for (program, target) in [("iptables-save", "10.244.1.2:8080"), ("ip6tables-save", "[fd00:10:244:1::2]:8080")] {
        let saved = says(field, NODE_1, program, "").expect("it lists");
        let grep = |words: &[&str]| saved.lines().any(|line| words.iter().all(|word| line.contains(word)));
        assert!(grep(&["-A KUBE-SERVICES", "default/svc-10:tcp cluster IP", "-j KUBE-SVC-"]), "{saved}");
        assert!(grep(&["-A KUBE-SVC-", &format!("default/svc-10:tcp -> {target}"), "-j KUBE-SEP-"]), "{saved}");
        assert!(grep(&["-A KUBE-SEP-", "-j DNAT", target]), "{saved}");
        assert!(grep(&["default/svc-11:tcp has no endpoints", "-j REJECT"]), "{saved}");
    }
    let listed = says(field, NODE_1, "iptables", "-t nat -nL KUBE-SERVICES").expect("it lists");
    assert!(listed.contains("default/svc-10:tcp cluster IP"), "{listed}");
}

/// `nft list table` and `nft -j list ruleset`: each element bears its Service's name.
fn nft_shows(field: &Field<'_>) {
    let listed = says(field, NODE_1, "nft", "list table ip portolan").expect("it lists");
    let grep = |words: &[&str]| listed.lines().any(|line| words.iter().all(|word| line.contains(word)));
    assert!(grep(&["10.96.0.10 . tcp . 80", "default/svc-10:tcp"]), "{listed}");
    assert!(grep(&["default/svc-10:tcp", "10.244.1.2 . 8080"]), "{listed}");
    let refused = says(field, NODE_1, "nft", "list set ip6 portolan no-endpoints").expect("it lists");
    assert!(refused.contains("fd00:10:96::11 . tcp . 80") && refused.contains("default/svc-11:tcp"), "{refused}");
    let clients = says(field, NODE_1, "nft", "list map ip portolan affinity-clients").expect("it lists");
    assert!(clients.contains("10.244.1.3 . tcp"), "the pod that asked stays: {clients}");
    let json = says(field, NODE_1, "nft", "-j list ruleset").expect("it lists");
    let json: Value = serde_json::from_str(&json).expect("JSON");
    let tables = json["nftables"].as_array().expect("a list").iter().filter_map(|object| object.get("table"));
    let ours: Vec<&Value> = tables.filter(|table| table["name"] == "portolan").map(|table| &table["family"]).collect();
    assert_eq!(ours, ["ip", "ip6"]);
}

/// `conntrack -L`: what was asked, and who answers.
fn conntrack_shows(field: &Field<'_>) {
    for (family, asked, pods) in [
        ("ipv4", "dst=10.96.0.10 ", ["src=10.244.1.2 ", "src=10.244.2.2 "]),
        ("ipv6", "dst=fd00:10:96::10 ", ["src=fd00:10:244:1::2 ", "src=fd00:10:244:2::2 "]),
    ] {
        let listed = says(field, NODE_1, "conntrack", &format!("-L -p tcp -f {family}")).expect("it lists");
        let is_there = |line: &str| line.contains(asked) && pods.iter().any(|pod| line.contains(pod));
        assert!(listed.lines().any(is_there), "{listed}");
    }
}
