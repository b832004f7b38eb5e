//! Whole labs with a toy server and toy agents (`examples/lab_fixture.rs`), in real namespaces.

use std::collections::BTreeSet;
use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use portolan_lab::{Attachment, Lab, LabConfig, LabError, LabHandle, Place, Ready, find, list, sweep, up};

/// A folder of labs that ends with the test.
struct Ground {
    dir: tempfile::TempDir,
}

impl Ground {
    fn new() -> Ground {
        Ground { dir: tempfile::Builder::new().prefix("ptl-t-").tempdir().unwrap() }
    }

    fn root(&self) -> PathBuf {
        self.dir.path().join("labs")
    }

    fn config(&self, name: &str, nodes: usize) -> LabConfig {
        let fetched = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/deb/bin");
        LabConfig {
            state_dir: self.root().join(name),
            iptables_dir: fetched.canonicalize().ok(),
            ready: Ready::Started,
            ..LabConfig::new(name, nodes, fixture(), self.dir.path().join("images"))
        }
    }

    fn up(&self, name: &str, nodes: usize) -> LabHandle {
        up(&self.config(name, nodes), Attachment::Attached).unwrap()
    }
}

/// Cargo builds examples before it runs tests, beside the folder of the tests.
fn fixture() -> PathBuf {
    let own = std::env::current_exe().unwrap();
    own.parent().unwrap().parent().unwrap().join("examples/lab_fixture")
}

fn said(lab: &Lab, place: &str, argv: &[&str]) -> String {
    let captured = lab.capture(&place.parse().unwrap(), argv).unwrap();
    assert!(captured.status.success(), "{place} {argv:?}: {}", captured.all_text());
    captured.text().trim().to_owned()
}

fn until<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + Duration::from_secs(10);
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < end, "waited in vain for: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn resolve(lab: &Lab, place: &str, server: &str, name: &str) -> String {
    let fixture = fixture();
    said(lab, place, &[fixture.to_str().unwrap(), "resolve", server, name])
}

fn upstream_is_up(lab: &Lab) {
    until("the upstream resolver", || fs::read(lab.upstream_queries()).ok());
}

#[test]
fn places_have_their_names_addresses_and_files_and_see_each_other() {
    let ground = Ground::new();
    let lab = ground.up("places", 2);
    for (place, address) in [("outside", "172.18.0.1"), ("apiserver", "172.18.0.2"), ("node-2", "172.18.0.12")] {
        assert_eq!(said(&lab, place, &["uname", "-n"]), place);
        let addresses = said(&lab, place, &["ip", "-o", "-4", "addr", "show", "eth0"]);
        assert!(addresses.contains(&format!("inet {address}/24")), "{addresses}");
        assert!(said(&lab, place, &["cat", "/etc/hosts"]).contains("172.18.0.11 node-1"));
    }
    assert_eq!(said(&lab, "node-1", &["cat", "/etc/resolv.conf"]), "nameserver 172.18.0.1");
    let routes = said(&lab, "node-1", &["ip", "route"]);
    assert!(routes.contains("default via 172.18.0.1 dev eth0"), "{routes}");
    let routes = said(&lab, "outside", &["ip", "route"]);
    assert!(routes.contains("10.96.0.0/12 via 172.18.0.11") && !routes.contains("default"), "{routes}");
    let forwards = |place| said(&lab, place, &["cat", "/proc/sys/net/ipv4/ip_forward"]);
    assert_eq!([forwards("outside"), forwards("node-1")], ["0", "1"]);
    upstream_is_up(&lab);
    let exe = fixture();
    let seen = said(&lab, "node-2", &[exe.to_str().unwrap(), "fetch", "172.18.0.1:80"]);
    assert!(seen.ends_with("client=172.18.0.12"), "{seen}");
}

#[test]
fn a_node_has_its_own_etc_and_run_and_nobody_elses_change() {
    let ground = Ground::new();
    let before = fs::read_to_string("/etc/resolv.conf").unwrap_or_default();
    let lab = ground.up("own-etc", 2);
    let line = "printf 'nameserver 8.8.8.8\n' > /etc/resolv.conf; touch /run/mine; echo x > /etc/cni/net.d/x; ls /run";
    let run = said(&lab, "node-1", &["sh", "-c", line]);
    assert!(run.contains("mine") && run.contains("portolan"), "{run}");
    assert_eq!(said(&lab, "node-1", &["cat", "/etc/resolv.conf"]), "nameserver 8.8.8.8");
    assert_eq!(said(&lab, "node-2", &["cat", "/etc/resolv.conf"]), "nameserver 172.18.0.1");
    assert!(!said(&lab, "node-2", &["ls", "/run", "/etc/cni/net.d"]).contains("mine"));
    assert_eq!(fs::read_to_string("/etc/resolv.conf").unwrap_or_default(), before);
    assert!(!Path::new("/run/mine").exists() && !Path::new("/etc/cni/net.d/x").exists());
}

#[test]
fn the_machine_reaches_the_servers_listener_also_after_the_server_was_killed() {
    let ground = Ground::new();
    let lab = ground.up("listener", 1);
    let hello = |lab: &Lab| {
        let mut text = String::new();
        TcpStream::connect(("127.0.0.1", lab.api_port())).unwrap().read_to_string(&mut text).unwrap();
        text
    };
    assert_eq!(hello(&lab), "hello from the server");
    let first = until("the server", || lab.pid("apiserver").unwrap());
    lab.signal("apiserver", libc_sigkill()).unwrap();
    // A connection that the dying server had accepted would end with it; what waits in the listener's queue does not.
    until("its end", || (lab.pid("apiserver").unwrap() != Some(first)).then_some(()));
    assert_eq!(hello(&lab), "hello from the server", "the listener outlives the server");
    let second = until("another server", || lab.pid("apiserver").unwrap().filter(|pid| *pid != first));
    let status = lab.status().unwrap();
    let unit = status.units.iter().find(|u| u.name == "apiserver").unwrap();
    assert_eq!((unit.restarts, unit.last_end.as_deref()), (1, Some("signal 9")));
    assert_ne!(first, second);
}

#[test]
fn the_upstream_answers_on_three_addresses_and_logs_which_was_asked() {
    let ground = Ground::new();
    let lab = ground.up("upstream", 1);
    upstream_is_up(&lab);
    for server in ["172.18.0.1", "114.114.114.114", "8.8.8.8"] {
        assert_eq!(resolve(&lab, "node-1", server, "www.ylzhong.top"), "code=0 last=192.168.100.100");
    }
    let log = fs::read_to_string(lab.upstream_queries()).unwrap();
    let asked: Vec<_> = log.lines().map(|line| line.split_once(' ').unwrap().1).collect();
    let line = |server| format!("server={server} from=172.18.0.11 www.ylzhong.top. A");
    assert_eq!(asked, [line("172.18.0.1"), line("114.114.114.114"), line("8.8.8.8")]);
}

#[test]
fn an_agents_death_touches_no_pod_and_another_agent_comes() {
    let ground = Ground::new();
    let lab = ground.up("agents", 1);
    let pod: Place = "pod/toy".parse().unwrap();
    until("the pod", || lab.capture(&pod, &["true"]).ok());
    let netns = |lab: &Lab| said(lab, "pod/toy", &["readlink", "/proc/self/ns/net"]);
    let (before, agent) = (netns(&lab), until("the agent", || lab.pid("agent-node-1").unwrap()));
    lab.signal("agent-node-1", libc_sigkill()).unwrap();
    until("another agent", || lab.pid("agent-node-1").unwrap().filter(|pid| *pid != agent));
    assert_eq!(netns(&lab), before);
}

#[test]
fn a_shell_for_a_pod_has_the_pods_network_and_the_nodes_files() {
    let ground = Ground::new();
    // One node: the toy agent of each makes a pod of that name.
    let lab = ground.up("pod-shell", 1);
    let pod: Place = "pod/default/toy".parse().unwrap();
    until("the pod", || lab.capture(&pod, &["true"]).ok());
    let links = said(&lab, "pod/toy", &["sh", "-c", "ip -o link; cat /etc/hostname"]);
    assert!(!links.contains("eth0") && links.contains("lo:"), "{links}");
    assert!(links.ends_with("node-1"), "{links}");
    let error = lab.capture(&"pod/nobody".parse().unwrap(), &["true"]).unwrap_err().to_string();
    assert!(error.contains("pod/default/nobody"), "{error}");
}

#[test]
fn a_stopped_node_is_off_the_lan_with_all_its_processes_and_comes_back_empty() {
    let ground = Ground::new();
    let lab = ground.up("stop", 2);
    let exe = fixture();
    let pods = "/run/portolan/pods";
    until("the pod", || lab.capture(&Place::Pod { namespace: "default".into(), name: "toy".into() }, &["true"]).ok());
    said(&lab, "node-1", &["touch", "/run/before"]);
    lab.stop_node(1).unwrap();
    assert!(!lab.status().unwrap().nodes[0].plugged);
    assert_eq!(lab.pid("agent-node-1").unwrap(), None);
    let refused = lab.capture(&Place::Node(1), &["true"]).unwrap_err().to_string();
    assert!(refused.contains("node-1"), "{refused}");
    let inside = said(&lab, "init", &["sh", "-c", "cat /proc/[0-9]*/cmdline | tr '\\0' ' '; ip -o link"]);
    assert!(!inside.contains("--node node-1 ") && !inside.contains("lan-node-1"), "{inside}");
    assert!(inside.contains("--node node-2 ") && inside.contains("lan-node-2"), "{inside}");
    lab.start_node(1).unwrap();
    until("its agent", || lab.pid("agent-node-1").unwrap());
    assert!(!said(&lab, "node-1", &["ls", "/run"]).contains("before"));
    upstream_is_up(&lab);
    let seen = said(&lab, "node-1", &[exe.to_str().unwrap(), "fetch", "172.18.0.1:80"]);
    assert!(seen.ends_with("client=172.18.0.11"), "{seen}");
    until("its pod", || {
        lab.capture(&Place::Node(1), &["test", "-e", &format!("{pods}/uid-1/state.json")])
            .ok()
            .filter(|c| c.status.success())
    });
}

#[test]
fn commands_in_the_lab_end_as_they_ended_and_end_when_killed() {
    let ground = Ground::new();
    let lab = ground.up("commands", 1);
    let node = Place::Node(1);
    let run = |argv: &[&str]| lab.capture(&node, argv).unwrap();
    assert_eq!(run(&["sh", "-c", "echo out; echo err >&2; exit 7"]).code(), 7);
    assert_eq!(run(&["sh", "-c", "echo out; echo err >&2"]).all_text(), "out\nerr\n");
    assert_eq!(run(&["sh", "-c", "kill -9 $$"]).status.signal(), Some(9));
    let missing = lab.capture(&node, &["no-such-program"]).unwrap_err().to_string();
    assert!(missing.contains("no-such-program"), "{missing}");
    let mut child = lab.command(&node, "sleep").unwrap().arg("31415").stdout(Stdio::null()).spawn().unwrap();
    let sleeps =
        |lab: &Lab| said(lab, "init", &["sh", "-c", "cat /proc/[0-9]*/cmdline | tr '\\0' ' '"]).contains("sleep 31415");
    assert!(sleeps(&lab));
    child.kill().unwrap();
    child.wait().unwrap();
    until("the end of the killed command", || (!sleeps(&lab)).then_some(()));
}

#[test]
fn a_shell_takes_our_input_and_its_exit_code_is_ours() {
    let ground = Ground::new();
    let lab = ground.up("shell", 1);
    let mut shell = std::process::Command::new(fixture());
    shell.arg("shell").arg(&lab.config().state_dir).args(["node-1", "sh"]);
    let mut child = shell.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(b"uname -n; exit 5\n").unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!((String::from_utf8(output.stdout).unwrap().as_str(), output.status.code()), ("node-1\n", Some(5)));
}

#[test]
fn a_nodes_rules_are_its_own() {
    let ground = Ground::new();
    let lab = ground.up("rules", 2);
    let add = ["iptables", "-w", "-t", "nat", "-A", "POSTROUTING", "-s", "10.244.0.0/16", "-j", "MASQUERADE"];
    let list = ["iptables", "-w", "-t", "nat", "-S"];
    said(&lab, "node-1", &add);
    assert!(said(&lab, "node-1", &list).contains("10.244.0.0/16"));
    assert!(!said(&lab, "node-2", &list).contains("10.244.0.0/16"));
}

#[test]
fn a_name_in_use_is_refused_and_another_name_is_not() {
    let ground = Ground::new();
    let first = ground.up("twice", 1);
    let error = up(&ground.config("twice", 1), Attachment::Attached).unwrap_err();
    assert!(matches!(&error, LabError::NameInUse { name } if name == "twice"), "{error}");
    assert!(first.status().is_ok(), "the first is untouched");
    let other = ground.up("other", 1);
    let names: Vec<_> = list(&ground.root()).iter().map(|lab| lab.config().name.clone()).collect();
    assert_eq!(names, ["other", "twice"]);
    assert_ne!(first.api_port(), other.api_port());
    let root = ground.root();
    assert!(matches!(find(&root, None), Err(LabError::Ambiguous { .. })));
    assert_eq!(find(&root, Some("other")).unwrap().config().name, "other");
    drop(other);
    assert_eq!(find(&root, None).unwrap().config().name, "twice");
    assert!(matches!(find(&root, Some("other")), Err(LabError::NotUp { .. })));
}

#[test]
fn a_server_that_keeps_ending_is_named_with_what_it_said_and_nothing_is_left() {
    let ground = Ground::new();
    let mut config = ground.config("failing", 1);
    config.env.push(("TOY_SERVER_FAILS".into(), "1".into()));
    config.ready = Ready::Nodes(Duration::from_secs(3));
    let error = up(&config, Attachment::Detached).unwrap_err().to_string();
    assert!(error.contains("apiserver") && error.contains("toy server: told to fail"), "{error}");
    assert_eq!(fs::read_dir(ground.root()).unwrap().count(), 0);
}

#[test]
fn a_program_that_is_no_lab_is_an_error_and_nothing_is_left() {
    let ground = Ground::new();
    let config = LabConfig { exe: "/bin/false".into(), ..ground.config("false", 1) };
    let error = up(&config, Attachment::Attached).unwrap_err();
    assert!(matches!(error, LabError::NotStarted { .. }), "{error}");
    assert_eq!(fs::read_dir(ground.root()).unwrap().count(), 0);
}

#[test]
fn a_machine_without_iptables_is_told_how_to_get_it() {
    let ground = Ground::new();
    let config = LabConfig { iptables_dir: Some("/nowhere".into()), ..ground.config("no-iptables", 1) };
    let error = up(&config, Attachment::Attached).unwrap_err().to_string();
    assert!(error.contains("iptables") && error.contains("scripts/fetch-debs.sh"), "{error}");
    assert_eq!(fs::read_dir(ground.root()).unwrap().count(), 0);
}

/// What a lab could leave on the machine.
#[derive(Debug, PartialEq)]
struct Traces {
    mounts: String,
    links: String,
    routes: String,
    cgroups: BTreeSet<PathBuf>,
    processes: Vec<String>,
    forwarding: String,
    own_files: BTreeSet<PathBuf>,
}

impl Traces {
    fn now(root: &Path) -> Traces {
        let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
        let mut links: Vec<_> =
            read("/proc/net/dev").lines().skip(2).map(|l| l.split(':').next().unwrap().trim().to_owned()).collect();
        links.sort();
        let mut cgroups = BTreeSet::new();
        folders(Path::new("/sys/fs/cgroup"), 6, &mut cgroups);
        let mut own_files = BTreeSet::new();
        folders(root, 3, &mut own_files);
        Traces {
            mounts: read("/proc/self/mounts"),
            links: links.join(" "),
            routes: read("/proc/net/route"),
            cgroups,
            processes: processes(root),
            forwarding: read("/proc/sys/net/ipv4/ip_forward"),
            own_files,
        }
    }
}

fn folders(dir: &Path, depth: usize, found: &mut BTreeSet<PathBuf>) {
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|t| t.is_dir()) {
            if depth > 0 {
                folders(&entry.path(), depth - 1, found);
            }
            found.insert(entry.path());
        }
    }
}

/// Processes with the lab's folder in their command line.
fn processes(root: &Path) -> Vec<String> {
    let root = root.to_str().unwrap();
    let mine = std::process::id().to_string();
    let pids = fs::read_dir("/proc").unwrap().flatten().map(|e| e.file_name().to_string_lossy().into_owned());
    let lines = pids.filter(|pid| pid.parse::<u32>().is_ok() && *pid != mine).filter_map(|pid| {
        let line = fs::read_to_string(format!("/proc/{pid}/cmdline")).ok()?.replace('\0', " ");
        line.contains(root).then(|| format!("{pid} {line}"))
    });
    lines.collect()
}

/// All pids below this one, as the machine numbers them.
fn tree(pid: i32) -> Vec<i32> {
    let children = |pid: i32| -> Vec<i32> {
        let entries = fs::read_dir("/proc").unwrap().flatten();
        let pids = entries.filter_map(|e| e.file_name().to_str()?.parse::<i32>().ok());
        pids.filter(|p| {
            let stat = fs::read_to_string(format!("/proc/{p}/stat")).unwrap_or_default();
            let rest = stat.rfind(')').map(|at| stat[at + 2..].to_owned()).unwrap_or_default();
            rest.split(' ').nth(1) == Some(&pid.to_string())
        })
        .collect()
    };
    let mut all = vec![pid];
    for child in children(pid) {
        all.extend(tree(child));
    }
    all
}

fn leaves_nothing(name: &str, end: impl FnOnce(LabHandle)) {
    let ground = Ground::new();
    fs::create_dir_all(ground.root()).unwrap();
    let before = Traces::now(&ground.root());
    let lab = ground.up(name, 2);
    until("the pod", || lab.capture(&"pod/toy".parse().unwrap(), &["true"]).ok());
    let during = Traces::now(&ground.root());
    assert!(!during.processes.is_empty(), "the look sees a lab that is up");
    assert_eq!(
        (&during.mounts, &during.links, &during.forwarding),
        (&before.mounts, &before.links, &before.forwarding)
    );
    let inside = tree(lab.init_pid().unwrap());
    assert!(inside.len() >= 6, "init, server, upstream, two agents, pods: {inside:?}");
    end(lab);
    until("the end of all its processes", || inside.iter().all(|pid| is_gone(*pid)).then_some(()));
    sweep(&ground.root());
    assert_eq!(Traces::now(&ground.root()), before);
}

fn is_gone(pid: i32) -> bool {
    fs::read_to_string(format!("/proc/{pid}/stat")).map_or(true, |stat| stat.contains(") Z "))
}

fn kill(pid: i32) {
    let killed = std::process::Command::new("kill").args(["-9", &pid.to_string()]).status().unwrap();
    assert!(killed.success());
}

fn libc_sigkill() -> i32 {
    9
}

#[test]
fn down_leaves_nothing() {
    leaves_nothing("gone-down", |lab| lab.down().unwrap());
}

#[test]
fn a_dropped_handle_leaves_nothing() {
    leaves_nothing("gone-drop", drop);
}

#[test]
fn sigkill_of_the_labs_init_leaves_nothing() {
    leaves_nothing("gone-init", |lab| {
        kill(lab.init_pid().unwrap());
        lab.wait().unwrap();
    });
}

#[test]
fn sigkill_of_the_keeper_leaves_nothing_but_files_that_sweep_takes() {
    leaves_nothing("gone-keeper", |lab| {
        kill(lab.keeper_pid().unwrap());
        lab.wait().unwrap();
    });
}

#[test]
fn a_lab_whose_up_is_killed_before_it_is_ready_is_gone() {
    let ground = Ground::new();
    let config = ground.config("interrupted", 1);
    let mut up = std::process::Command::new(fixture());
    let tools = config.iptables_dir.clone().unwrap_or_default();
    up.arg("up-detached").arg(&config.state_dir).env("PORTOLAN_IPTABLES_DIR", tools).stderr(Stdio::null());
    let mut child = up.spawn().unwrap();
    until("the lab's start", || Lab::open(&config.state_dir).ok().and_then(|lab| lab.status().ok()));
    kill(child.id() as i32);
    child.wait().unwrap();
    until("its end", || (!config.state_dir.exists() && Lab::open(&config.state_dir).is_err()).then_some(()));
}

#[test]
fn a_detached_lab_outlives_its_handle_and_a_new_one_takes_a_dead_ones_place() {
    let ground = Ground::new();
    let config = ground.config("detached", 1);
    drop(up(&config, Attachment::Detached).unwrap());
    let lab = Lab::open(&config.state_dir).unwrap();
    assert_eq!(said(&lab, "node-1", &["uname", "-n"]), "node-1");
    kill(lab.keeper_pid().unwrap());
    until("the end of the lab", || Lab::open(&config.state_dir).is_err().then_some(()));
    assert!(config.state_dir.exists(), "nobody removed the files");
    let again = up(&config, Attachment::Detached).unwrap();
    assert_eq!(said(&again, "node-1", &["uname", "-n"]), "node-1");
    again.down().unwrap();
    assert!(!config.state_dir.exists());
}
