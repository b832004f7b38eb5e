//! A container as an OCI runtime spec. Pure; the shim fills in root and namespace paths.
//!
//! Spec: OCI runtime-spec 1.2; the defaults are containerd's for Kubernetes.

use std::path::PathBuf;

use k8s_openapi::api::core::v1::{Container, Pod};
use serde_json::{Value, json};

use crate::env::expand;
use crate::image::ImageConfig;

/// What Kubernetes gives a container that asks for nothing.
const DEFAULT_CAPABILITIES: &[&str] = &[
    "AUDIT_WRITE",
    "CHOWN",
    "DAC_OVERRIDE",
    "FOWNER",
    "FSETID",
    "KILL",
    "MKNOD",
    "NET_BIND_SERVICE",
    "NET_RAW",
    "SETFCAP",
    "SETGID",
    "SETPCAP",
    "SETUID",
    "SYS_CHROOT",
];

/// All capabilities by number. capabilities(7).
const CAPABILITIES: &[&str] = &[
    "CHOWN",
    "DAC_OVERRIDE",
    "DAC_READ_SEARCH",
    "FOWNER",
    "FSETID",
    "KILL",
    "SETGID",
    "SETUID",
    "SETPCAP",
    "LINUX_IMMUTABLE",
    "NET_BIND_SERVICE",
    "NET_BROADCAST",
    "NET_ADMIN",
    "NET_RAW",
    "IPC_LOCK",
    "IPC_OWNER",
    "SYS_MODULE",
    "SYS_RAWIO",
    "SYS_CHROOT",
    "SYS_PTRACE",
    "SYS_PACCT",
    "SYS_ADMIN",
    "SYS_BOOT",
    "SYS_NICE",
    "SYS_RESOURCE",
    "SYS_TIME",
    "SYS_TTY_CONFIG",
    "MKNOD",
    "LEASE",
    "AUDIT_WRITE",
    "AUDIT_CONTROL",
    "SETFCAP",
    "MAC_OVERRIDE",
    "MAC_ADMIN",
    "SYSLOG",
    "WAKE_ALARM",
    "BLOCK_SUSPEND",
    "AUDIT_READ",
    "PERFMON",
    "BPF",
    "CHECKPOINT_RESTORE",
];

const MASKED_PATHS: &[&str] = &[
    "/proc/acpi",
    "/proc/asound",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/sys/firmware",
    "/proc/scsi",
];
const READONLY_PATHS: &[&str] = &["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

/// A bind mount from the node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bind {
    pub source: PathBuf,
    pub destination: String,
    pub read_only: bool,
}

/// All a container's spec depends on.
pub struct Input<'a> {
    pub pod: &'a Pod,
    pub container: &'a Container,
    pub image: &'a ImageConfig,
    /// Text of the image's /etc/passwd and /etc/group.
    pub passwd: &'a str,
    pub group: &'a str,
    pub env: &'a [(String, String)],
    pub binds: &'a [Bind],
    /// Bit set of what this process may give away, from /proc/self/status CapBnd.
    pub available_capabilities: u64,
}

/// Builds the spec; an error says what in the pod cannot be.
pub fn runtime_spec(input: &Input<'_>) -> Result<Value, String> {
    let context = input.container.security_context.as_ref();
    let privileged = context.and_then(|context| context.privileged) == Some(true);
    let read_only = context.and_then(|context| context.read_only_root_filesystem) == Some(true);
    let paths = |paths: &[&str]| if privileged { json!([]) } else { json!(paths) };
    Ok(json!({
        "ociVersion": "1.0.2",
        "process": process(input)?,
        "root": {"path": "", "readonly": read_only},
        "mounts": mounts(input, privileged),
        "linux": {
            "namespaces": namespaces(input.pod),
            "maskedPaths": paths(MASKED_PATHS),
            "readonlyPaths": paths(READONLY_PATHS),
        },
    }))
}

/// The process of an exec: the container's own, with another command.
pub fn exec_process(container_spec: &Value, command: &[String], tty: bool) -> Option<Value> {
    let mut process = container_spec.get("process")?.clone();
    process["args"] = json!(command);
    // The terminal is an ordinary file to the runtime; the shim makes it the controlling one.
    process["terminal"] = json!(false);
    if tty {
        let mut env: Vec<String> = serde_json::from_value(process.get("env")?.clone()).ok()?;
        name_terminal(&mut env);
        process["env"] = json!(env);
    }
    Some(process)
}

/// What programs find at a terminal, unless the pod says otherwise.
fn name_terminal(env: &mut Vec<String>) {
    if !env.iter().any(|entry| entry.starts_with("TERM=")) {
        env.push("TERM=xterm".to_owned());
    }
}

/// The signal an image wants to be stopped by.
pub fn stop_signal(image: &ImageConfig) -> i32 {
    let name = image.stop_signal.as_deref().unwrap_or("SIGTERM");
    match name.trim_start_matches("SIG") {
        "HUP" => libc::SIGHUP,
        "INT" => libc::SIGINT,
        "QUIT" => libc::SIGQUIT,
        "KILL" => libc::SIGKILL,
        "USR1" => libc::SIGUSR1,
        "USR2" => libc::SIGUSR2,
        "WINCH" => libc::SIGWINCH,
        other => other.parse().ok().filter(|number| (1..=64).contains(number)).unwrap_or(libc::SIGTERM),
    }
}

fn process(input: &Input<'_>) -> Result<Value, String> {
    let container = input.container;
    let context = container.security_context.as_ref();
    let no_new_privileges = context.and_then(|context| context.allow_privilege_escalation) == Some(false);
    let cwd = container.working_dir.clone().or_else(|| input.image.working_dir.clone());
    let mut env: Vec<String> = input.env.iter().map(|(name, value)| format!("{name}={value}")).collect();
    if container.tty == Some(true) {
        name_terminal(&mut env);
    }
    Ok(json!({
        "terminal": false,
        "user": user(input)?,
        "args": args(input)?,
        "env": env,
        "cwd": cwd.filter(|cwd| !cwd.is_empty()).unwrap_or_else(|| "/".to_owned()),
        "capabilities": capabilities(container, input.available_capabilities),
        "noNewPrivileges": no_new_privileges,
    }))
}

/// Kubernetes' rule: `command` replaces entrypoint and cmd, `args` alone replaces cmd.
fn args(input: &Input<'_>) -> Result<Vec<String>, String> {
    let list = |list: &Option<Vec<String>>| list.clone().unwrap_or_default();
    let command = list(&input.container.command);
    let given = list(&input.container.args);
    let words = if command.is_empty() {
        let tail = if given.is_empty() { list(&input.image.cmd) } else { given };
        [list(&input.image.entrypoint), tail].concat()
    } else {
        [command, given].concat()
    };
    if words.is_empty() {
        return Err("neither the container nor its image names a command".to_owned());
    }
    Ok(words.iter().map(|word| expand(word, input.env)).collect())
}

fn user(input: &Input<'_>) -> Result<Value, String> {
    let pod = input.pod.spec.as_ref().and_then(|spec| spec.security_context.as_ref());
    let own = input.container.security_context.as_ref();
    let as_user = own.and_then(|own| own.run_as_user).or(pod.and_then(|pod| pod.run_as_user));
    let as_group = own.and_then(|own| own.run_as_group).or(pod.and_then(|pod| pod.run_as_group));
    let non_root = own.and_then(|own| own.run_as_non_root).or(pod.and_then(|pod| pod.run_as_non_root));
    let image_user = input.image.user.as_deref().unwrap_or_default();
    let (image_uid, image_gid) = image_ids(image_user, input.passwd, input.group)?;
    let uid = as_user.unwrap_or(image_uid);
    let gid = as_group.unwrap_or(if as_user.is_some() && as_user != Some(image_uid) { 0 } else { image_gid });
    if non_root == Some(true) && uid == 0 {
        return Err("container has runAsNonRoot and image will run as root".to_owned());
    }
    let mut groups: Vec<i64> = pod.and_then(|pod| pod.supplemental_groups.clone()).unwrap_or_default();
    groups.extend(pod.and_then(|pod| pod.fs_group));
    Ok(json!({"uid": uid, "gid": gid, "additionalGids": groups}))
}

/// `user[:group]`, each a number or a name of the image.
fn image_ids(user: &str, passwd: &str, group: &str) -> Result<(i64, i64), String> {
    if user.is_empty() {
        return Ok((0, 0));
    }
    let (user, group_name) = match user.split_once(':') {
        Some((user, group)) => (user, Some(group)),
        None => (user, None),
    };
    let field = |line: &str, at: usize| line.split(':').nth(at).map(str::to_owned);
    let row =
        passwd.lines().find(|line| field(line, 0).as_deref() == Some(user) || field(line, 2).as_deref() == Some(user));
    let uid = match (user.parse(), row) {
        (Ok(number), _) => number,
        (Err(_), Some(row)) => field(row, 2).and_then(|text| text.parse().ok()).unwrap_or(0),
        (Err(_), None) => return Err(format!("the image's user {user:?} is not in its /etc/passwd")),
    };
    let gid = match group_name {
        None => row.and_then(|row| field(row, 3)?.parse().ok()).unwrap_or(0),
        Some(name) => match name.parse() {
            Ok(number) => number,
            Err(_) => group
                .lines()
                .find(|line| field(line, 0).as_deref() == Some(name))
                .and_then(|line| field(line, 2)?.parse().ok())
                .ok_or_else(|| format!("the image's group {name:?} is not in its /etc/group"))?,
        },
    };
    Ok((uid, gid))
}

fn capabilities(container: &Container, available: u64) -> Value {
    let context = container.security_context.as_ref();
    let asked = context.and_then(|context| context.capabilities.as_ref());
    let plain = |name: &String| name.trim_start_matches("CAP_").to_owned();
    let add: Vec<String> = asked.and_then(|asked| asked.add.as_ref()).into_iter().flatten().map(plain).collect();
    let drop: Vec<String> = asked.and_then(|asked| asked.drop.as_ref()).into_iter().flatten().map(plain).collect();
    let holds = |list: &[String], name: &str| list.iter().any(|item| item == name || item == "ALL");
    let privileged = context.and_then(|context| context.privileged) == Some(true);
    let granted = |name: &str| {
        let default = DEFAULT_CAPABILITIES.contains(&name) && !holds(&drop, name);
        privileged || default || holds(&add, name)
    };
    let set: Vec<String> = CAPABILITIES
        .iter()
        .enumerate()
        .filter(|(number, name)| available & (1 << number) != 0 && granted(name))
        .map(|(_, name)| format!("CAP_{name}"))
        .collect();
    json!({"bounding": set, "effective": set, "permitted": set})
}

/// PID and mount are the container's own, the rest the sandbox's (`sandbox/KIND` becomes a path in the shim).
fn namespaces(pod: &Pod) -> Value {
    let spec = pod.spec.as_ref();
    let is_set = |flag: Option<bool>| flag == Some(true);
    let mut list = vec![json!({"type": "mount"})];
    if !is_set(spec.and_then(|spec| spec.host_pid)) {
        list.push(json!({"type": "pid"}));
    }
    if !is_set(spec.and_then(|spec| spec.host_ipc)) {
        list.push(json!({"type": "ipc", "path": "sandbox/ipc"}));
    }
    if !is_set(spec.and_then(|spec| spec.host_network)) {
        list.push(json!({"type": "network", "path": "sandbox/net"}));
        list.push(json!({"type": "uts", "path": "sandbox/uts"}));
    }
    json!(list)
}

fn mounts(input: &Input<'_>, privileged: bool) -> Value {
    let sys_mode = if privileged { "rw" } else { "ro" };
    let quiet = ["nosuid", "noexec", "nodev"];
    let mut list = vec![
        json!({"destination": "/proc", "type": "proc", "source": "proc", "options": quiet}),
        json!({"destination": "/dev", "type": "tmpfs", "source": "tmpfs",
               "options": ["nosuid", "strictatime", "mode=755", "size=65536k"]}),
        json!({"destination": "/dev/pts", "type": "devpts", "source": "devpts",
               "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"]}),
        json!({"destination": "/dev/shm", "type": "tmpfs", "source": "shm",
               "options": ["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"]}),
        json!({"destination": "/dev/mqueue", "type": "mqueue", "source": "mqueue", "options": quiet}),
        json!({"destination": "/sys", "type": "sysfs", "source": "sysfs",
               "options": ["nosuid", "noexec", "nodev", sys_mode]}),
    ];
    let mut binds: Vec<&Bind> = input.binds.iter().collect();
    // A mount below another one comes after it.
    binds.sort_by_key(|bind| bind.destination.matches('/').count());
    for bind in binds {
        let mode = if bind.read_only { "ro" } else { "rw" };
        list.push(json!({"destination": bind.destination, "type": "bind", "source": bind.source,
                         "options": ["rbind", "rprivate", mode]}));
    }
    json!(list)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: u64 = u64::MAX;

    fn spec_of(pod: Value, container: Value, image: ImageConfig) -> Result<Value, String> {
        let pod: Pod = serde_json::from_value(json!({"spec": pod})).expect("a pod");
        let container: Container = serde_json::from_value(container).expect("a container");
        let env = [("PATH".to_owned(), "/bin".to_owned()), ("WHO".to_owned(), "me".to_owned())];
        runtime_spec(&Input {
            pod: &pod,
            container: &container,
            image: &image,
            passwd: "root:x:0:0::/:\nweb:x:33:34::/:\n",
            group: "root:x:0:\nops:x:77:\n",
            env: &env,
            binds: &[],
            available_capabilities: ALL,
        })
    }

    fn image() -> ImageConfig {
        ImageConfig { entrypoint: Some(vec!["/entry".into()]), cmd: Some(vec!["run".into()]), ..ImageConfig::default() }
    }

    #[test]
    fn command_and_args_replace_entrypoint_and_cmd_as_kubernetes_says() {
        for (container, expected) in [
            (json!({"name": "c"}), json!(["/entry", "run"])),
            (json!({"name": "c", "args": ["a"]}), json!(["/entry", "a"])),
            (json!({"name": "c", "command": ["x"]}), json!(["x"])),
            (json!({"name": "c", "command": ["x"], "args": ["$(WHO)"]}), json!(["x", "me"])),
        ] {
            let spec = spec_of(json!({"containers": []}), container, image()).expect("builds");
            assert_eq!(spec["process"]["args"], expected);
        }
    }

    #[test]
    fn the_user_comes_from_container_pod_or_image() {
        let mut named = image();
        named.user = Some("web".into());
        let mut grouped = image();
        grouped.user = Some("web:ops".into());
        for (pod, container, image, uid, gid) in [
            (json!({}), json!({}), image(), 0, 0),
            (json!({}), json!({}), named, 33, 34),
            (json!({}), json!({}), grouped, 33, 77),
            (json!({"runAsUser": 5}), json!({}), image(), 5, 0),
            (json!({"runAsUser": 5}), json!({"runAsUser": 6, "runAsGroup": 7}), image(), 6, 7),
        ] {
            let pod = json!({"containers": [], "securityContext": pod});
            let spec = spec_of(pod, json!({"name": "c", "securityContext": container}), image).expect("builds");
            assert_eq!((&spec["process"]["user"]["uid"], &spec["process"]["user"]["gid"]), (&json!(uid), &json!(gid)));
        }
    }

    #[test]
    fn run_as_non_root_refuses_root() {
        let container = json!({"name": "c", "securityContext": {"runAsNonRoot": true}});
        assert!(spec_of(json!({"containers": []}), container, image()).is_err());
    }

    #[test]
    fn a_host_network_pod_joins_no_network_and_no_uts_of_its_own() {
        let kinds = |host: bool| {
            let pod = json!({"containers": [], "hostNetwork": host});
            let spec = spec_of(pod, json!({"name": "c"}), image()).expect("builds");
            spec["linux"]["namespaces"].to_string()
        };
        assert!(kinds(false).contains("sandbox/net") && kinds(false).contains("sandbox/uts"));
        assert!(!kinds(true).contains("network") && !kinds(true).contains("uts"));
    }

    #[test]
    fn capabilities_are_the_default_set_plus_and_minus() {
        let caps = |context: Value| {
            let container = json!({"name": "c", "securityContext": context});
            let spec = spec_of(json!({"containers": []}), container, image()).expect("builds");
            spec["process"]["capabilities"]["bounding"].as_array().expect("list").clone()
        };
        assert_eq!(caps(json!({})).len(), DEFAULT_CAPABILITIES.len());
        assert_eq!(caps(json!({"capabilities": {"drop": ["ALL"], "add": ["NET_ADMIN"]}})), [json!("CAP_NET_ADMIN")]);
        assert_eq!(caps(json!({"privileged": true})).len(), CAPABILITIES.len());
    }
}
