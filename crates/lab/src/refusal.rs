//! Why an ordinary user cannot have a lab here: from what failed and what the machine is set to, one line with the
//! way out. Decides only; [`Settings::read`] is the one place that looks.

use std::fs;

use serde::{Deserialize, Serialize};

/// The first step on the way to a lab's namespaces that did not go.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Step {
    /// A new user namespace and what hangs below it.
    Clone,
    /// The map of its ids.
    Map,
    /// Its first mounts, as root of it.
    Use,
}

/// A step that failed, and what the kernel or a program said.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Refused {
    pub step: Step,
    /// What was tried and what came of it.
    pub detail: String,
    /// The kernel's error number, if it was the kernel.
    pub errno: Option<i32>,
}

/// What on a machine may stand in the way; `None` where there is no such setting.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Settings {
    /// Ubuntu from 23.10 on.
    pub apparmor_restrict_unprivileged_userns: Option<u64>,
    /// Debian's and others' kernels.
    pub unprivileged_userns_clone: Option<u64>,
    pub max_user_namespaces: Option<u64>,
    /// This process has a seccomp filter, as those of container engines do.
    pub has_seccomp_filter: bool,
    /// No program may gain rights by being started, so newuidmap cannot.
    pub no_new_privs: bool,
}

impl Settings {
    pub(crate) fn read() -> Settings {
        let number = |path: &str| fs::read_to_string(path).ok().and_then(|text| text.trim().parse().ok());
        let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
        let field = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
            line.and_then(|value| value.trim().parse::<u64>().ok()).unwrap_or(0)
        };
        Settings {
            apparmor_restrict_unprivileged_userns: number("/proc/sys/kernel/apparmor_restrict_unprivileged_userns"),
            unprivileged_userns_clone: number("/proc/sys/kernel/unprivileged_userns_clone"),
            max_user_namespaces: number("/proc/sys/user/max_user_namespaces"),
            has_seccomp_filter: field("Seccomp") == 2,
            no_new_privs: field("NoNewPrivs") == 1,
        }
    }
}

/// The cause, and what to do about it.
pub(crate) fn why(refused: &Refused, settings: &Settings) -> String {
    let denied = matches!(refused.errno, Some(libc::EPERM | libc::EACCES));
    if settings.max_user_namespaces == Some(0) {
        return "user.max_user_namespaces is 0; `sudo sysctl -w user.max_user_namespaces=15000` allows them".into();
    }
    if settings.unprivileged_userns_clone == Some(0) && refused.step == Step::Clone {
        return "kernel.unprivileged_userns_clone is 0; `sudo sysctl -w kernel.unprivileged_userns_clone=1` allows them"
            .into();
    }
    // There the namespace is made, as a rule, and then may nothing.
    let is_restricted = settings.apparmor_restrict_unprivileged_userns.is_some_and(|value| value != 0);
    if is_restricted && (refused.step != Step::Clone || denied) {
        return "kernel.apparmor_restrict_unprivileged_userns is 1; \
                `sudo sysctl -w kernel.apparmor_restrict_unprivileged_userns=0` lifts it, or give this program an \
                AppArmor profile with the rule `userns,`"
            .into();
    }
    match (refused.step, refused.errno) {
        (Step::Clone, Some(libc::ENOSPC | libc::EUSERS)) => {
            "there are as many user namespaces as user.max_user_namespaces allows, or 32 inside each other; \
             raise it with `sudo sysctl -w user.max_user_namespaces=15000`"
                .into()
        }
        (Step::Clone, Some(libc::EINVAL | libc::ENOSYS)) => {
            "this kernel has no user namespaces; take one with CONFIG_USER_NS, or run as root".into()
        }
        (Step::Clone, _) if denied && settings.has_seccomp_filter => {
            "a seccomp filter on this process forbids it, as container engines set; run it outside the container, or \
             start that with `--security-opt seccomp=unconfined`"
                .into()
        }
        (Step::Clone, _) if denied => {
            "no setting known here forbids it, so a chroot or a security module does; run it outside, or as root".into()
        }
        (Step::Map, _) if settings.no_new_privs => {
            "this process may gain no rights (no_new_privs), so newuidmap cannot; \
             choose `--rootless one-uid`, or start it without that"
                .into()
        }
        (Step::Map, _) => "newuidmap must be setuid root and its lines in /etc/subuid and /etc/subgid valid; \
             choose `--rootless one-uid` to do without it"
            .into(),
        (Step::Use, _) if denied => {
            "mounts in a user namespace are forbidden here, as in a container that hides parts of \
             /proc; start that with `--security-opt systempaths=unconfined`, or run it outside"
                .into()
        }
        _ => "run it as root, or on a kernel of 5.11 or newer".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_cause_is_named_with_its_setting_and_the_way_out() {
        let none = Settings { max_user_namespaces: Some(96_365), ..Settings::default() };
        let apparmor = Settings { apparmor_restrict_unprivileged_userns: Some(1), ..none.clone() };
        let lifted = Settings { apparmor_restrict_unprivileged_userns: Some(0), ..none.clone() };
        let debian = Settings { unprivileged_userns_clone: Some(0), ..none.clone() };
        let zero = Settings { max_user_namespaces: Some(0), ..none.clone() };
        let engine = Settings { has_seccomp_filter: true, ..none.clone() };
        let humble = Settings { no_new_privs: true, ..none.clone() };
        let (clone, map, use_) = (Step::Clone, Step::Map, Step::Use);
        let (perm, full, inval) = (Some(libc::EPERM), Some(libc::ENOSPC), Some(libc::EINVAL));
        let rows = [
            (clone, full, &zero, "user.max_user_namespaces is 0", "sysctl -w user.max_user_namespaces="),
            (clone, full, &none, "as many user namespaces as", "sysctl -w user.max_user_namespaces="),
            (clone, perm, &debian, "kernel.unprivileged_userns_clone is 0", "kernel.unprivileged_userns_clone=1"),
            (clone, perm, &apparmor, "apparmor_restrict_unprivileged_userns is 1", "restrict_unprivileged_userns=0"),
            (map, None, &apparmor, "apparmor_restrict_unprivileged_userns is 1", "restrict_unprivileged_userns=0"),
            (use_, perm, &apparmor, "apparmor_restrict_unprivileged_userns is 1", "rule `userns,`"),
            (clone, perm, &lifted, "no setting known here", "as root"),
            (clone, perm, &engine, "a seccomp filter on this process", "seccomp=unconfined"),
            (clone, perm, &none, "a chroot or a security module", "as root"),
            (clone, inval, &none, "no user namespaces", "CONFIG_USER_NS"),
            (map, None, &humble, "no_new_privs", "--rootless one-uid"),
            (map, None, &none, "newuidmap must be setuid root", "--rootless one-uid"),
            (use_, perm, &engine, "hides parts of /proc", "systempaths=unconfined"),
            (use_, inval, &none, "run it as root", "5.11"),
        ];
        for (step, errno, settings, cause, remedy) in rows {
            let line = why(&Refused { step, detail: String::new(), errno }, settings);
            assert!(line.contains(cause) && line.contains(remedy), "{step:?} {errno:?} {settings:?}: {line}");
            assert_eq!(line.lines().count(), 1);
        }
    }
}
