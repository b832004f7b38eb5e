//! Streams into pods as users have them: unmodified kubectl, at a terminal where it matters, against a lab of two nodes.

mod support;

#[path = "streams/client.rs"]
mod client;

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::process::Command;
use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::Duration;

use client::{LONG, Running, Terminal, noise};
use support::{Space, wait_for, with_input};

/// Deaths end everybody's streams, so they come when nobody has any.
static DEATHS: RwLock<()> = RwLock::new(());

fn space(name: &'static str) -> (Space, RwLockReadGuard<'static, ()>) {
    let peace = DEATHS.read().unwrap_or_else(PoisonError::into_inner);
    (support::world("t-streams").space(name), peace)
}

fn deadly_space(name: &'static str) -> (Space, RwLockWriteGuard<'static, ()>) {
    let alone = DEATHS.write().unwrap_or_else(PoisonError::into_inner);
    (support::world("t-streams").space(name), alone)
}

fn kubectl(space: Space, args: &str) -> Command {
    let mut command = space.world.kubectl_command();
    command.args(["-n", space.name]).args(args.split_whitespace());
    command
}

fn phase(space: Space, pod: &str) -> String {
    space.field(&format!("pod/{pod}"), ".status.phase")
}

/// kubectl port-forward to one port, at a local port of its choice.
struct Forward {
    kubectl: Running,
    port: u16,
}

impl Forward {
    #[track_caller]
    fn start(command: Command) -> Forward {
        let kubectl = Running::start(command);
        let port = wait_for("the forward", LONG, || {
            assert_eq!(kubectl.err.text(), "", "kubectl complains");
            let text = kubectl.out.text();
            text.split_once("127.0.0.1:")?.1.split_once(' ')?.0.parse().ok()
        });
        Forward { kubectl, port }
    }

    fn to(space: Space, target: &str) -> Forward {
        Forward::start(kubectl(space, &format!("port-forward {target}")))
    }

    fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(("127.0.0.1", self.port)).expect("kubectl listens");
        stream.set_read_timeout(Some(Duration::from_secs(LONG))).expect("set");
        stream
    }

    /// Asks nginx for its page.
    fn page(&self) -> String {
        let mut stream = self.connect();
        stream.write_all(b"GET / HTTP/1.0\r\nHost: pod\r\n\r\n").expect("sent");
        let mut page = String::new();
        stream.read_to_string(&mut page).expect("answered");
        page
    }
}

/// Sends all, then the end, while reading what comes back.
fn through(stream: &TcpStream, bytes: &[u8]) -> Vec<u8> {
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut stream = stream;
            stream.write_all(bytes).expect("sent");
            stream.shutdown(Shutdown::Write).expect("ended");
        });
        let mut back = Vec::new();
        let mut stream = stream;
        stream.read_to_end(&mut back).expect("read");
        back
    })
}

const WELCOME: &str = "Welcome to nginx!";

#[test]
fn port_forward_carries_connections_after_and_beside_one_another() {
    let (space, _peace) = space("forwarded");
    space.pod("web", "node-2", "", "");
    space.ready("web");
    let forward = Forward::to(space, "pod/web :80");
    for _ in 0..5 {
        assert!(forward.page().contains(WELCOME));
    }
    let pages: Vec<String> = std::thread::scope(|scope| {
        let asked: Vec<_> = (0..8).map(|_| scope.spawn(|| forward.page())).collect();
        asked.into_iter().map(|asked| asked.join().expect("answered")).collect()
    });
    assert!(pages.iter().all(|page| page.contains(WELCOME)), "{pages:?}");
    // It is the pod's own loopback that is spoken to.
    assert!(
        space.kubectl("logs web").done().lines().all(|line| !line.contains("GET") || line.starts_with("127.0.0.1 "))
    );
    // kubectl from before WebSockets.
    let mut command = kubectl(space, "port-forward pod/web :80");
    command.env("KUBECTL_PORT_FORWARD_WEBSOCKETS", "false");
    assert!(Forward::start(command).page().contains(WELCOME));
}

#[test]
fn port_forward_carries_ten_megabytes_both_ways_and_ends_with_kubectl() {
    let (space, _peace) = space("carried");
    space.pod("echo", "node-1", ", command: [nc, -ll, -p, \"9000\", -e, cat]", ", terminationGracePeriodSeconds: 0");
    space.ready("echo");
    let forward = Forward::to(space, "pod/echo :9000");
    let bytes = noise(10 << 20);
    let back = through(&forward.connect(), &bytes);
    assert!(back == bytes, "{} bytes came back", back.len());
    let mut held = forward.connect();
    held.write_all(b"held").expect("sent");
    held.read_exact(&mut [0; 4]).expect("answered");
    let open = || space.exec("echo", &["netstat", "-tn"]).done().matches("ESTABLISHED").count();
    assert_eq!(open(), 2, "both ends of one connection on the pod's loopback");
    let port = forward.port;
    forward.kubectl.kill();
    assert_eq!(held.read(&mut [0; 1]).unwrap_or(0), 0);
    assert!(TcpStream::connect(("127.0.0.1", port)).is_err());
    wait_for("the pod's connection to end", LONG, || (open() == 0).then_some(()));
}

#[test]
fn port_forward_finds_pods_of_services_and_deployments_and_refuses_udp() {
    let (space, _peace) = space("found");
    space.deployment("web", 1);
    space.kubectl("expose deployment web --port=8080 --target-port=80").done();
    assert!(Forward::to(space, "svc/web :8080").page().contains(WELCOME));
    assert!(Forward::to(space, "deployment/web :80").page().contains(WELCOME));
    space.kubectl("create service clusterip names --tcp=1:1").done();
    space.apply(
        "apiVersion: v1\nkind: Service\nmetadata: { name: names }\n\
         spec: { selector: { app: web }, ports: [{ name: dns, port: 53, protocol: UDP }] }\n",
    );
    let refused = space.kubectl("port-forward svc/names :53").refused(1);
    assert!(refused.contains("UDP protocol is not supported for 53"), "{refused}");
}

#[test]
fn port_forward_tells_of_a_port_nobody_listens_on() {
    let (space, _peace) = space("refused");
    space.pod("web", "node-2", "", "");
    space.ready("web");
    let mut forward = Forward::to(space, "pod/web :81");
    let mut stream = forward.connect();
    assert_eq!(stream.read(&mut [0; 1]).unwrap_or(0), 0);
    forward.kubectl.err.until("error forwarding port 81 to pod refused/web: cannot connect to 127.0.0.1:81 in the pod");
    // This kubectl takes such an error for the end of the forward; the node does not.
    assert_eq!(forward.kubectl.end().code(), Some(1));
    let said = forward.kubectl.err.text();
    assert!(said.contains("refused") && said.contains("lost connection to pod"), "{said}");
}

#[test]
fn attach_joins_a_container_that_reads_lines_and_leaving_it_changes_nothing() {
    let (space, _peace) = space("attached");
    let script = "while read line; do echo \\\"out $line\\\"; echo \\\"err $line\\\" >&2; done";
    space.pod("reader", "node-2", &format!(", stdin: true, command: [sh, -c, \"{script}\"]"), "");
    space.ready("reader");
    let attach = || Running::start(kubectl(space, "attach -i reader"));
    let mut first = attach();
    first.say("one\n");
    first.out.until("out one\n");
    first.err.until("err one\n");
    assert!(!first.out.text().contains("err") && !first.err.text().contains("out one"), "each on its own channel");
    first.kill();
    let mut second = attach();
    let watcher = Running::start(kubectl(space, "attach reader"));
    // When the watcher is there is only to be seen from what it hears.
    let mut said = 0;
    wait_for("a line at the watcher", LONG, || {
        said += 1;
        second.say(&format!("two {said}\n"));
        second.out.until(&format!("out two {said}\n"));
        watcher.out.text().contains("out two").then_some(())
    });
    assert!(!second.out.text().contains("one"), "what was before is in the log");
    assert!(space.kubectl("logs reader").done().starts_with("out one\nerr one\nout two 1\n"));
    assert_eq!(space.field("pod/reader", ".status.containerStatuses[0].restartCount"), "0");
    // Closing one's input lets go of a container that keeps it open for others.
    drop(second.stdin.take());
    assert!(second.end().success(), "{}", second.err.text());
    assert_eq!(phase(space, "reader"), "Running");
}

#[test]
fn attach_ends_the_input_of_a_container_that_wants_it_once_and_hears_all_it_says() {
    let (space, _peace) = space("once");
    let once = |name: &str, command: &str| {
        let container = format!(", stdin: true, stdinOnce: true, command: {command}");
        space.pod(name, "node-1", &container, ", restartPolicy: Never");
        space.ready(name);
    };
    once("sorter", "[sort]");
    let sorted = with_input(kubectl(space, "attach -i sorter -q"), "b\nc\na\n");
    assert_eq!(sorted.done(), "a\nb\nc\n");
    wait_for("the pod's end", LONG, || (phase(space, "sorter") == "Succeeded").then_some(()));
    once("copier", "[cat]");
    let bytes = noise(2 << 20);
    let mut copier = Running::start(kubectl(space, "attach -i copier -q"));
    let mut stdin = copier.stdin.take().expect("piped");
    stdin.write_all(&bytes).expect("it reads");
    drop(stdin);
    assert!(copier.end().success(), "{}", copier.err.text());
    copier.out.until_bytes(&bytes);
    let refused = space.kubectl("attach sorter").refused(1);
    assert!(refused.contains("cannot attach a container in a completed pod; current phase is Succeeded"), "{refused}");
}

#[test]
fn attach_at_a_terminal_follows_the_windows_size_and_the_shell_outlives_the_user() {
    let (space, _peace) = space("terminal");
    space.pod("shell", "node-2", ", stdin: true, tty: true, command: [sh]", ", terminationGracePeriodSeconds: 0");
    space.ready("shell");
    let mut terminal = Terminal::start(kubectl(space, "attach -it shell"));
    terminal.say("tty=yes\n");
    // kubectl attach first claims one row and column more, so that a program there draws its screen again.
    let sized = |terminal: &mut Terminal, wanted: &str| {
        wait_for("the size", LONG, || {
            terminal.say("echo size $(busybox stty size) $TERM\n");
            std::thread::sleep(Duration::from_millis(200));
            terminal.heard.text().contains(wanted).then_some(())
        });
    };
    sized(&mut terminal, "size 24 80 xterm");
    terminal.resize(101, 37);
    sized(&mut terminal, "size 37 101 xterm");
    terminal.kill();
    let mut terminal = Terminal::start(kubectl(space, "attach -it shell"));
    terminal.say("echo still $tty\n");
    terminal.heard.until("still yes");
    terminal.say("exit\n");
    assert!(terminal.end().success(), "{}", terminal.heard.text());
    // What was typed and said stands in the log.
    wait_for("the next run", LONG, || {
        (space.field("pod/shell", ".status.containerStatuses[0].restartCount") == "1").then_some(())
    });
    assert!(space.kubectl("logs shell --previous").done().contains("still yes"));
}

#[test]
fn run_gives_a_shell_that_is_gone_when_the_user_leaves_it() {
    let (space, _peace) = space("run");
    let mut terminal = Terminal::start(kubectl(space, "run shell -it --rm --restart=Never --image=nginx:latest -- sh"));
    terminal.heard.until("# ");
    terminal.say("echo $((6*7)) answers\n");
    terminal.heard.until("42 answers");
    terminal.say("exit 3\n");
    assert_eq!(terminal.end().code(), Some(3), "{}", terminal.heard.text());
    assert!(terminal.heard.text().contains("pod \"shell\" deleted"), "{}", terminal.heard.text());
    assert_eq!(space.kubectl("get pods --no-headers").done(), "");
    let piped = kubectl(space, "run calc -i --rm --quiet --restart=Never --image=nginx:latest -- sh");
    let said = with_input(piped, "echo $((6*7))\n").done();
    assert!(said.starts_with("42\n"), "{said}");
}

#[test]
fn exec_at_a_terminal_follows_the_windows_size_and_passes_interrupts_and_codes() {
    let (space, _peace) = space("executed");
    space.shell("shell", "node-1");
    let mut terminal = Terminal::start(kubectl(space, "exec -it shell -- sh"));
    terminal.say("test -t 0 && test -t 2 && echo a $((1)) terminal; echo size $(busybox stty size)\n");
    terminal.heard.until("a 1 terminal");
    terminal.heard.until("size 24 80");
    terminal.say("sleep 1000\n");
    wait_for("the sleep", LONG, || runs(space, "sleep 1000").then_some(()));
    terminal.say("\x03");
    terminal.say("echo code $?\n");
    terminal.heard.until("code 130");
    terminal.say("exit 5\n");
    assert_eq!(terminal.end().code(), Some(5), "{}", terminal.heard.text());
    // A program that is told of a new size, not one that asks. A shell for people would leave that to its foreground job.
    let script = "trap 'echo now $(busybox stty size)' WINCH; echo begun; while :; do sleep 0.1; done";
    let mut command = kubectl(space, "exec -it shell -- sh -c");
    command.arg(script);
    let mut terminal = Terminal::start(command);
    terminal.heard.until("begun");
    terminal.resize(132, 43);
    terminal.heard.until("now 43 132");
    terminal.say("\x03");
    assert_eq!(terminal.end().code(), Some(130), "{}", terminal.heard.text());
}

/// Whether a process of the pod `shell` was started by this.
fn runs(space: Space, command: &str) -> bool {
    space.exec("shell", &["ps"]).done().contains(command)
}

#[test]
fn a_shell_at_a_terminal_ends_with_the_kubectl_it_belongs_to() {
    let (space, _peace) = space("hung-up");
    space.shell("shell", "node-1");
    let mut terminal = Terminal::start(kubectl(space, "exec -it shell -- sh"));
    terminal.say("echo $((2+2)) and; sleep 4242\n");
    terminal.heard.until("4 and");
    wait_for("the sleep", LONG, || runs(space, "sleep 4242").then_some(()));
    terminal.kill();
    wait_for("the shell's end", LONG, || (!runs(space, "sleep 4242")).then_some(()));
}

#[test]
fn exec_carries_five_megabytes_each_way_and_ends_when_the_command_does() {
    let (space, _peace) = space("large");
    space.shell("shell", "node-2");
    let bytes = noise(5 << 20);
    let exec = |script: &[&str]| {
        let mut command = kubectl(space, "exec -i shell -- ");
        command.args(script);
        Running::start(command)
    };
    let mut cat = exec(&["sh", "-c", "cat; echo done >&2; exit 9"]);
    let mut stdin = cat.stdin.take().expect("piped");
    stdin.write_all(&bytes).expect("it reads");
    drop(stdin);
    assert_eq!(cat.end().code(), Some(9), "{}", cat.err.text());
    cat.out.until_bytes(&bytes);
    assert!(cat.err.text().starts_with("done\n"), "{}", cat.err.text());
    // It reads nothing of what is sent; its end is seen all the same.
    let mut deaf = exec(&["sh", "-c", "sleep 1; exit 7"]);
    let mut stdin = deaf.stdin.take().expect("piped");
    let sender = std::thread::spawn(move || drop(stdin.write_all(&bytes)));
    assert_eq!(deaf.end().code(), Some(7), "{}", deaf.err.text());
    drop(deaf);
    sender.join().expect("kubectl's input is closed");
}

#[test]
fn exec_and_logs_choose_containers() {
    let (space, _peace) = space("chosen");
    let container = |name: &str| {
        format!(
            "{{ name: {name}, image: \"nginx:latest\", env: [{{ name: WHO, value: the-{name} }}], \
             command: [sh, -c, \"echo I am $WHO; exec sleep 3600\"] }}"
        )
    };
    space.apply(&format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{ name: two, labels: {{ app: two }} }}\n\
         spec: {{ terminationGracePeriodSeconds: 0, containers: [{}, {}] }}\n",
        container("one"),
        container("other")
    ));
    space.ready("two");
    let who = |flags: &str| {
        let mut command = kubectl(space, &format!("exec two {flags} -- sh -c"));
        command.arg("echo $WHO");
        support::Said::from(command.output().expect("kubectl runs"))
    };
    assert_eq!(who("-c other").done(), "the-other\n");
    let first = who("");
    assert!(first.err.contains("Defaulted container \"one\""), "{first:?}");
    assert_eq!(first.done(), "the-one\n");
    let nobody = who("-c nobody").refused(1);
    assert!(nobody.contains("container nobody is not valid for pod two"), "{nobody}");
    let all = space.kubectl("logs two --all-containers").done();
    let mut lines: Vec<&str> = all.lines().collect();
    lines.sort_unstable();
    assert_eq!(lines, ["I am the-one", "I am the-other"]);
    let mut prefixed: Vec<String> = {
        let text = space.kubectl("logs -l app=two --all-containers --prefix --tail=5").done();
        text.lines().map(str::to_owned).collect()
    };
    prefixed.sort();
    assert_eq!(prefixed, ["[pod/two/one] I am the-one", "[pod/two/other] I am the-other"]);
    let nobody = space.kubectl("logs two -c nobody").refused(1);
    assert!(nobody.contains("container nobody is not valid for pod two"), "{nobody}");
}

#[test]
fn logs_begin_where_they_are_asked_to_and_a_followed_one_ends_with_the_run() {
    let (space, _peace) = space("logged");
    let script = "echo 1; echo 2; echo 3; until [ -e /tmp/end ]; do sleep 0.1; done; echo over; exit 2";
    space.pod("talker", "node-2", &format!(", command: [sh, -c, \"{script}\"]"), "");
    space.ready("talker");
    wait_for("its words", LONG, || (space.kubectl("logs talker").done() == "1\n2\n3\n").then_some(()));
    assert_eq!(space.kubectl("logs talker --tail=2").done(), "2\n3\n");
    assert_eq!(space.kubectl("logs talker --since=1h").done(), "1\n2\n3\n");
    let stamped = space.kubectl("logs talker --timestamps").done();
    let times: Vec<&str> = stamped.lines().map(|line| line.split(' ').next().expect("a time")).collect();
    // kubectl takes whole seconds only: a time before the first line, and one after the last.
    let since = |time: &str| space.kubectl(&format!("logs talker --since-time={time}")).done();
    assert_eq!(since(&format!("{}Z", &times[0][..19])), "1\n2\n3\n");
    assert_eq!(since("2999-01-01T00:00:00Z"), "");
    wait_for("a second without words", LONG, || (space.kubectl("logs talker --since=1s").done() == "").then_some(()));
    let mut follower = Running::start(kubectl(space, "logs -f talker --tail=1"));
    follower.out.until("3\n");
    space.exec("talker", &["touch", "/tmp/end"]).done();
    assert!(follower.end().success(), "{}", follower.err.text());
    assert_eq!(follower.out.text(), "3\nover\n");
    // The next run makes an end at once, for its root is new and the file is not there; it is followed by its own.
    wait_for("the next run", LONG, || {
        (space.field("pod/talker", ".status.containerStatuses[0].restartCount") == "1").then_some(())
    });
    assert_eq!(space.kubectl("logs talker --previous").done(), "1\n2\n3\nover\n");
    wait_for("its words again", LONG, || (space.kubectl("logs talker").done() == "1\n2\n3\n").then_some(()));
}

#[test]
fn cp_carries_files_and_folders_both_ways() {
    let (space, _peace) = space("copied");
    space.shell("shell", "node-1");
    let dir = tempfile::Builder::new().prefix("ptl-t-").tempdir().expect("a folder");
    let path = |name: &str| dir.path().join(name).display().to_string();
    let bytes = noise(5 << 20);
    std::fs::write(path("large"), &bytes).expect("written");
    space.kubectl(&format!("cp {} shell:/tmp/large", path("large"))).done();
    let sum = space.exec("shell", &["wc", "-c", "/tmp/large"]).done();
    assert_eq!(sum.split_whitespace().next(), Some("5242880"));
    space.kubectl(&format!("cp shell:/tmp/large {}", path("back"))).done();
    assert!(std::fs::read(path("back")).expect("there") == bytes);
    std::fs::create_dir_all(dir.path().join("tree/deep")).expect("made");
    std::fs::write(dir.path().join("tree/deep/leaf"), "green").expect("written");
    std::fs::write(dir.path().join("tree/root"), "brown").expect("written");
    space.kubectl(&format!("cp {} shell:/tmp/tree", path("tree"))).done();
    assert_eq!(space.exec("shell", &["cat", "/tmp/tree/deep/leaf", "/tmp/tree/root"]).done(), "greenbrown");
    space.kubectl(&format!("cp shell:/tmp/tree {}", path("tree-back"))).done();
    let read = |name: &str| std::fs::read_to_string(dir.path().join("tree-back").join(name)).expect("there");
    assert_eq!((read("deep/leaf").as_str(), read("root").as_str()), ("green", "brown"));
}

#[test]
fn a_kubectl_that_can_only_do_spdy_is_told_what_it_needs() {
    let (space, _peace) = space("old");
    space.shell("shell", "node-1");
    for args in ["exec shell -- true", "attach shell"] {
        let mut command = kubectl(space, args);
        command.env("KUBECTL_REMOTE_COMMAND_WEBSOCKETS", "false");
        let refused = support::Said::from(command.output().expect("kubectl runs")).refused(1);
        assert!(refused.contains("WebSocket") && refused.contains("use kubectl 1.30 or later"), "{refused}");
    }
}

/// Each kind of stream, open to pods on node-1.
struct Open {
    exec: Running,
    attach: Running,
    logs: Running,
    forward: Forward,
    held: TcpStream,
}

impl Open {
    fn start(space: Space) -> Open {
        let mut exec = Running::start(kubectl(space, "exec -i echo -- cat"));
        exec.say("exec\n");
        exec.out.until("exec\n");
        let mut attach = Running::start(kubectl(space, "attach -i reader"));
        attach.say("attach\n");
        attach.out.until("attach\n");
        let logs = Running::start(kubectl(space, "logs -f reader"));
        logs.out.until("attach\n");
        let forward = Forward::to(space, "pod/echo :9000");
        let mut held = forward.connect();
        held.write_all(b"held").expect("sent");
        held.read_exact(&mut [0; 4]).expect("answered");
        Open { exec, attach, logs, forward, held }
    }

    /// Each kubectl ends by itself and says that something went wrong.
    fn ends(mut self) {
        let all = [("exec", &mut self.exec), ("attach", &mut self.attach), ("port-forward", &mut self.forward.kubectl)];
        for (which, kubectl) in all {
            let (code, said) = (kubectl.end().code(), kubectl.err.text());
            println!("kubectl {which} ended with {code:?}: {}", said.trim_end());
            assert_eq!(code, Some(1), "{which}: {said}");
            assert!(said.contains("error") || said.contains("lost connection"), "{which}: {said}");
        }
        // A log that breaks off ends too; this kubectl makes an error of it or not, by what it was reading.
        println!("kubectl logs -f ended with {:?}: {}", self.logs.end().code(), self.logs.err.text().trim_end());
        assert_eq!(self.held.read(&mut [0; 1]).unwrap_or(0), 0);
    }
}

#[test]
fn streams_end_with_an_error_when_the_api_server_or_the_agent_dies_and_the_pods_go_on() {
    let (space, _alone) = deadly_space("broken");
    space.pod("echo", "node-1", ", command: [nc, -ll, -p, \"9000\", -e, cat]", ", terminationGracePeriodSeconds: 0");
    space.pod("reader", "node-1", ", stdin: true, command: [cat]", ", terminationGracePeriodSeconds: 0");
    space.ready("echo");
    space.ready("reader");
    for unit in ["apiserver", "agent-node-1"] {
        let open = Open::start(space);
        println!("{unit} is killed");
        space.world.lab().signal(unit, libc::SIGKILL).expect("killed");
        open.ends();
        wait_for("the next", LONG, || space.exec("echo", &["true"]).ok().then_some(()));
    }
    assert_eq!(space.field("pods", ".items[*].status.containerStatuses[0].restartCount"), "0 0");
    // The shim kept the container's input open, and says all to the next agent.
    let mut attach = Running::start(kubectl(space, "attach -i reader"));
    attach.say("still\n");
    attach.out.until("still\n");
    assert_eq!(space.kubectl("logs reader").done(), "attach\nattach\nstill\n");
}
