//! Labs of an ordinary user: with subordinate ids, with one uid, and where the machine refuses.
//!
//! Run by root, who plays the user (`support/user.rs`). Needs `make deps`; newuidmap is from there too.

mod support;

use std::collections::BTreeSet;
use std::fs;
use std::io::{self, BufRead, BufReader};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

use support::user::{Home, SUBORDINATE, Session, UID, Uidmap, User};
use support::{Said, deb_bin, kubectl, turn, wait_for};

/// One image store for all tests here; a folder of the user's that the last of them leaves to be removed.
fn home() -> &'static Home {
    static HOME: OnceLock<Home> = OnceLock::new();
    extern "C" fn remove() {
        if let Some(home) = HOME.get() {
            let _ = fs::remove_dir_all(home.path().parent().expect("it is in a folder"));
        }
    }
    HOME.get_or_init(|| {
        // SAFETY: the handler makes no use of thread-locals; statics live until the process has ended.
        unsafe { libc::atexit(remove) };
        Home::new()
    })
}

/// Tests of this binary take turns, and among those of the machine.
fn one_at_a_time() -> (MutexGuard<'static, ()>, fs::File) {
    static ONE: Mutex<()> = Mutex::new(());
    (ONE.lock().unwrap_or_else(PoisonError::into_inner), turn())
}

/// A process of the user or of one of their subordinate ids.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Seen {
    name: String,
    uid: u32,
}

fn theirs() -> BTreeSet<Seen> {
    let seen = |entry: fs::DirEntry| {
        let status = fs::read_to_string(entry.path().join("status")).ok()?;
        let field = |name: &str| status.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
        let uid = field("Uid:")?.split_whitespace().next()?.parse().ok()?;
        let is_zombie = field("State:")?.starts_with('Z');
        let is_theirs = uid == UID || (SUBORDINATE..SUBORDINATE + 65_536).contains(&uid);
        (is_theirs && !is_zombie).then(|| Seen { name: field("Name:").unwrap_or_default().to_owned(), uid })
    };
    fs::read_dir("/proc").expect("proc").flatten().filter_map(seen).collect()
}

/// What of the machine's own network a lab could change.
fn network() -> Vec<String> {
    let said = |program: &str, args: &[&str]| {
        let output = Command::new(deb_bin().join(program)).args(args).output().expect("it runs");
        Said::from(output).done()
    };
    let rules = ["iptables-save", "ip6tables-save"].map(|program| said(program, &[]));
    let plain = |text: &String| -> String {
        text.lines().filter(|line| !line.starts_with('#')).map(|line| line.split(" [").next().unwrap_or(line)).collect()
    };
    let mut all = vec![said("ip", &["-o", "address"]), said("ip", &["route", "show", "table", "all"])];
    all.extend(rules.iter().map(plain));
    all.push(fs::read_to_string("/proc/sys/net/ipv4/ip_forward").unwrap_or_default());
    all
}

/// No process, and no file but the image store's.
fn nothing_is_left(user: &User<'_>) {
    wait_for("the end of all their processes", 20, || theirs().is_empty().then_some(()));
    let labs = user.labs();
    let files = user.sh(&format!("find {0} -mindepth 1 2>/dev/null", labs.display())).out;
    assert_eq!(files, "", "in the folder of labs");
    let foreign = user.sh(&format!("find {} ! -user {UID}", home().cache().display())).done();
    assert_eq!(foreign, "", "files in the image store that are not theirs");
}

fn walks(uidmap: Uidmap, session: Session, mark: &str) {
    let _turn = one_at_a_time();
    let before = network();
    let user = User::new(home(), uidmap, session);
    let walk = user.portolan("walk");
    assert!(walk.ok(), "{}{}", walk.out, walk.err);
    let one_line: String = walk.out.split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(one_line.contains(mark), "{}", walk.out);
    assert!(!walk.out.contains('✘') && walk.out.matches('✔').count() > 70, "{}", walk.out);
    nothing_is_left(&user);
    assert_eq!(network(), before);
}

#[test]
fn the_walk_holds_for_a_user_with_subordinate_ids() {
    walks(Uidmap::Whole, Session::Login, "as an ordinary user with uids 200000-265535 of /etc/subuid");
}

#[test]
fn the_walk_holds_for_a_user_with_one_uid() {
    walks(Uidmap::Nothing, Session::Bare, "with one uid: every process of a pod has uid 0");
}

/// A lab that is up, and kubectl for it.
struct Running<'user> {
    user: &'user User<'user>,
    name: &'static str,
    kubeconfig: tempfile::NamedTempFile,
}

impl<'user> Running<'user> {
    fn up(user: &'user User<'user>, name: &'static str) -> Running<'user> {
        let said = user.portolan(&format!("up --detach --lb-pool 172.18.100.0/28 --name {name}")).done();
        let path =
            said.lines().find_map(|line| line.strip_prefix("export KUBECONFIG=")).expect("it says where").to_owned();
        assert!(Path::new(&path).starts_with(user.labs()), "{path}");
        let kubeconfig = tempfile::Builder::new().prefix("ptl-t-").tempfile().expect("a file");
        fs::write(kubeconfig.path(), user.sh(&format!("cat {path}")).done()).expect("written");
        Running { user, name, kubeconfig }
    }

    fn kubectl(&self, args: &str) -> Said {
        let mut command = Command::new(kubectl());
        command.args(args.split_whitespace()).env("KUBECONFIG", self.kubeconfig.path()).env("HOME", home().path());
        command.output().expect("kubectl runs").into()
    }

    fn keeper(&self) -> i32 {
        let path = self.user.labs().join(self.name).join("keeper.pid");
        self.user.sh(&format!("cat {}", path.display())).done().trim().parse().expect("a number")
    }

    fn init(&self) -> i32 {
        let keeper = self.keeper();
        let children = fs::read_to_string(format!("/proc/{keeper}/task/{keeper}/children")).expect("it lives");
        children.trim().parse().expect("one child")
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.user.portolan(&format!("down --name {}", self.name));
    }
}

/// An archive as `docker save` writes it: busybox, and a folder that only user 1234 may enter.
fn owned_image(dir: &Path) -> PathBuf {
    let busybox = deb_bin().with_file_name("root").join("bin/busybox");
    let arch = if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" };
    let script = format!(
        "set -e; cd {dir}; mkdir -p bin data closed/below; cp {busybox} bin/busybox; ln -sf busybox bin/sh; echo x >closed/below/file
         tar -cf layer.tar --owner=0 --group=0 bin
         tar -rf layer.tar --owner=1234 --group=1234 --mode=0700 data
         tar -rf layer.tar --owner=0 --group=0 --mode=0555 closed
         tar -cf owned.tar layer.tar config.json manifest.json; chmod 644 owned.tar",
        dir = dir.display(),
        busybox = busybox.display()
    );
    let config = format!(
        r#"{{"architecture":"{arch}","os":"linux","config":{{"User":"1234:1234","Env":["PATH=/bin"]}},"rootfs":{{"type":"layers","diff_ids":[]}}}}"#
    );
    fs::write(dir.join("config.json"), config).expect("written");
    let manifest = r#"[{"Config":"config.json","RepoTags":["owned:1"],"Layers":["layer.tar"]}]"#;
    fs::write(dir.join("manifest.json"), manifest).expect("written");
    Said::from(Command::new("sh").args(["-c", &script]).output().expect("sh runs")).done();
    dir.join("owned.tar")
}

const PODS: &str = r#"
apiVersion: v1
kind: Pod
metadata: { name: web, labels: { app: web } }
spec: { containers: [{ name: main, image: "nginx:latest" }] }
---
apiVersion: v1
kind: Pod
metadata: { name: owned }
spec:
  containers:
  - name: main
    image: "owned:1"
    command: [sh, -c, "busybox id -u; busybox stat -c '%u:%g %a' /data; busybox touch /data/x && echo touched; busybox sleep 3600"]
"#;

/// A cable is cut and healed, a node's power cut and given back: as in a lab of root's.
fn cables_and_power(lab: &Running<'_>) {
    let (user, name) = (lab.user, lab.name);
    let reaches = || {
        let ask = "curl -sk -o /dev/null --max-time 2 https://172.18.0.12:10250/healthz";
        user.portolan(&format!("shell --name {name} node-1 -- {ask}")).ok()
    };
    assert!(reaches(), "node-2 answers");
    user.portolan(&format!("lan cut node-1 node-2 --name {name}")).done();
    assert!(!reaches(), "nothing passes");
    user.portolan(&format!("lan heal --all --name {name}")).done();
    wait_for("node-2 to be reached again", 30, || reaches().then_some(()));
    user.portolan(&format!("node stop node-2 --name {name}")).done();
    assert!(!reaches(), "it is off");
    user.portolan(&format!("node start node-2 --name {name}")).done();
    wait_for("node-2 to answer again", 30, || reaches().then_some(()));
}

/// A Service's address of the pool is answered for on the lab's LAN: packet sockets are the lab's own to open.
fn balancer(lab: &Running<'_>) {
    lab.kubectl("expose pod web --port=80 --type=LoadBalancer").done();
    let ask = format!("shell --name {} outside -- curl -sf -o /dev/null --max-time 2 http://172.18.100.1/", lab.name);
    wait_for("the balancer's address to answer", 30, || lab.user.portolan(&ask).ok().then_some(()));
}

/// Runs nginx and an image of user 1234, gives back what nginx' processes are and what the image's says; then kills.
fn users_of_pods(user: &User<'_>, name: &'static str, doomed: fn(&Running<'_>) -> i32) -> (BTreeSet<u32>, String) {
    let scratch = tempfile::Builder::new().prefix("ptl-t-").tempdir().expect("a folder");
    let archive = owned_image(scratch.path());
    fs::copy(&archive, home().path().join("owned.tar")).expect("copied");
    user.portolan("image import owned.tar").done();
    let lab = Running::up(user, name);
    cables_and_power(&lab);
    let manifest = scratch.path().join("pods.yaml");
    fs::write(&manifest, PODS).expect("written");
    lab.kubectl(&format!("apply -f {}", manifest.display())).done();
    lab.kubectl("wait --for=condition=Ready pod/web pod/owned --timeout=60s").done();
    balancer(&lab);
    let said = wait_for("what the image's program says", 20, || {
        let said = lab.kubectl("logs owned").out;
        (said.lines().count() >= 3).then_some(said)
    });
    let nginx = theirs().into_iter().filter(|seen| seen.name == "nginx").map(|seen| seen.uid).collect();
    let pid = doomed(&lab);
    // SAFETY: plain numbers.
    assert_eq!(unsafe { libc::kill(pid, libc::SIGKILL) }, 0);
    wait_for("the end of all their processes", 20, || theirs().is_empty().then_some(()));
    drop(lab);
    user.portolan("down --all").done();
    nothing_is_left(user);
    user.portolan("image rm owned:1").done();
    let left = user.sh(&format!("grep -l 1234 -r {}/portolan/images/owners", home().cache().display())).out;
    assert_eq!(left, "", "what was told of the image's owners goes with it");
    (nginx, said)
}

#[test]
fn with_subordinate_ids_users_of_an_image_are_users_and_its_files_are_theirs() {
    let _turn = one_at_a_time();
    let user = User::new(home(), Uidmap::Whole, Session::Login);
    let (nginx, said) = users_of_pods(&user, "t-sub", |lab| lab.keeper());
    // 0 is the user; 1 and up are the range's. nginx' workers are its user, 101 in the image.
    assert_eq!(nginx, BTreeSet::from([UID, SUBORDINATE + 100]));
    assert_eq!(said, "1234\n1234:1234 700\ntouched\n");
}

#[test]
fn with_one_uid_everybody_is_the_user_and_programs_that_change_users_run() {
    let _turn = one_at_a_time();
    let user = User::new(home(), Uidmap::Nothing, Session::Bare);
    let (nginx, said) = users_of_pods(&user, "t-one", |lab| lab.init());
    assert_eq!(nginx, BTreeSet::from([UID]));
    assert_eq!(said, "0\n0:0 700\ntouched\n");
    // All that is left is the image store, and they can remove it without any help.
    user.sh(&format!("rm -rf {}/portolan", home().cache().display())).done();
}

#[test]
fn what_a_wish_for_subordinate_ids_lacks_is_named_with_the_way_out() {
    let _turn = one_at_a_time();
    let rows = [
        (Uidmap::Nothing, "newuidmap is not on PATH; install the package `uidmap`"),
        (Uidmap::NoLines, "/etc/subuid has no line for ptl-t-user; `sudo usermod --add-subuids 100000-165535 "),
        (Uidmap::NotSetuid, "newuidmap must be setuid root"),
    ];
    for (uidmap, expected) in rows {
        let user = User::new(home(), uidmap, Session::Login);
        let said = user.portolan("up --detach --name t-lacks --rootless subuid").refused(3);
        let line = said.lines().last().unwrap_or_default();
        assert!(line.starts_with("portolan: ") && line.contains(expected), "{uidmap:?}: {said}");
        nothing_is_left(&user);
    }
}

#[test]
fn where_newuidmap_is_refused_one_uid_does_and_up_says_why_until_ctrl_c() {
    let _turn = one_at_a_time();
    let user = User::new(home(), Uidmap::NotSetuid, Session::Login);
    let mut command = user.command(env!("CARGO_BIN_EXE_portolan"));
    let mut up = command.args(["up", "--name", "t-instead"]).stdout(Stdio::piped()).spawn().expect("it starts");
    let mut lines = BufReader::new(up.stdout.take().expect("piped")).lines().map_while(Result::ok);
    let line = lines.find(|line| line.contains("with one uid")).expect("it says as whom the lab runs");
    assert!(line.starts_with("# The lab runs as") && line.contains("newuidmap must be setuid root"), "{line}");
    assert!(lines.any(|line| line.starts_with("export KUBECONFIG=")), "the last it says");
    // SAFETY: plain numbers; the process is ours and not reaped yet.
    assert_eq!(unsafe { libc::kill(up.id().cast_signed(), libc::SIGINT) }, 0);
    assert!(up.wait().expect("it ends").success());
    nothing_is_left(&user);
}

#[test]
fn root_is_told_that_rootless_is_not_for_root() {
    let said = support::portolan_says("up --rootless one-uid --name t-root").refused(2);
    assert!(said.contains("--rootless is for ordinary users"), "{said}");
}

/// A container engine's filter: no user namespaces, by clone or unshare; clone3 hides its flags, so it is not there.
fn refuse_user_namespaces() -> io::Result<()> {
    let step = |code: u32, k: u32, jt, jf| libc::sock_filter { code: code as u16, jt, jf, k };
    let load = |offset| step(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, offset, 0, 0);
    let is = |k, jt, jf| step(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, k, jt, jf);
    let end = |k| step(libc::BPF_RET | libc::BPF_K, k, 0, 0);
    let errno = |number: i32| end(libc::SECCOMP_RET_ERRNO | number as u32);
    const FIRST_ARGUMENT: u32 = 16;
    let mut filter = [
        load(0),
        is(libc::SYS_clone3 as u32, 6, 0),
        is(libc::SYS_clone as u32, 1, 0),
        is(libc::SYS_unshare as u32, 0, 2),
        load(FIRST_ARGUMENT),
        step(libc::BPF_JMP | libc::BPF_JSET | libc::BPF_K, libc::CLONE_NEWUSER as u32, 1, 0),
        end(libc::SECCOMP_RET_ALLOW),
        errno(libc::EPERM),
        errno(libc::ENOSYS),
    ];
    let whole = libc::sock_fprog { len: filter.len() as u16, filter: filter.as_mut_ptr() };
    // SAFETY: prctl reads the filter, which outlives the call.
    let refused = unsafe {
        libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0
            || libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const whole, 0, 0) != 0
    };
    if refused { Err(io::Error::last_os_error()) } else { Ok(()) }
}

#[test]
fn a_machine_that_refuses_user_namespaces_is_named_in_one_line() {
    let _turn = one_at_a_time();
    let user = User::new(home(), Uidmap::Nothing, Session::Login);
    let mut command = user.command(env!("CARGO_BIN_EXE_portolan"));
    // SAFETY: system calls only, in a forked process with one thread.
    unsafe { command.args(["up", "--detach", "--name", "t-refused"]).pre_exec(refuse_user_namespaces) };
    let said = Said::from(command.output().expect("it runs")).refused(3);
    let line = said.lines().last().unwrap_or_default();
    assert!(line.starts_with("portolan: an ordinary user cannot have a lab here"), "{said}");
    assert!(line.contains("Operation not permitted") && line.contains("a seccomp filter on this process"), "{said}");
    nothing_is_left(&user);
}

#[test]
fn a_folder_in_tmp_that_is_anothers_is_not_used() {
    let _turn = one_at_a_time();
    let user = User::new(home(), Uidmap::Nothing, Session::Bare);
    let folder = user.labs().parent().expect("labs is in it").to_owned();
    user.sh(&format!("mkdir -m 777 {}", folder.display())).done();
    for args in ["up --detach --name t-own", "shell --name t-own node-1 -- true"] {
        let said = user.portolan(args).refused(1);
        assert!(said.contains("is not this user's alone (its mode is 777)"), "{args}: {said}");
    }
    user.sh(&format!("rmdir {}", folder.display())).done();
    nothing_is_left(&user);
}
