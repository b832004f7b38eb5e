//! Where there is one uid only: changes of owner and of user succeed, and nothing changes.
//!
//! An image's programs expect several users: nginx gives its folders to `nginx` and runs its workers as that. Where no
//! other uid is mapped the kernel answers EINVAL, and they give up. A seccomp filter answers "done" in the kernel's
//! place. What it costs: a program that drops its rights keeps them, and one that looks afterwards sees uid 0.
//!
//! ```text
//!  arch ours? ──no──► allow        (another architecture's numbers mean other calls)
//!     │yes
//!  number in the table? ──yes──► errno 0: success, and the call is not made
//!     └──no──► allow
//! ```
//!
//! Spec: seccomp(2); classic BPF as in Linux' `filter.h`.

use std::io;

/// An architecture's number for the filter (`AUDIT_ARCH_*`), and its calls that change an owner or a user.
struct Architecture {
    /// As `std::env::consts::ARCH` has it.
    name: &'static str,
    audit: u32,
    calls: &'static [u32],
}

const ARCHITECTURES: [Architecture; 2] = [
    // chown fchown lchown fchownat setuid setgid setreuid setregid setgroups setresuid setresgid setfsuid setfsgid
    Architecture {
        name: "x86_64",
        audit: 0xc000_003e,
        calls: &[92, 93, 94, 260, 105, 106, 113, 114, 116, 117, 119, 122, 123],
    },
    // The same without chown and lchown, which the kernel's generic table does not have.
    Architecture { name: "aarch64", audit: 0xc000_00b7, calls: &[55, 54, 146, 144, 145, 143, 159, 147, 149, 151, 152] },
];

fn own() -> Option<&'static Architecture> {
    ARCHITECTURES.iter().find(|architecture| architecture.name == std::env::consts::ARCH)
}

/// Puts the filter on the calling process and all it starts, for good; it gains no rights by set-uid programs then.
pub fn install() -> io::Result<()> {
    let own = own().ok_or_else(|| io::Error::other("one uid only: no table of system calls for this architecture"))?;
    let mut filter = program(own);
    let whole = libc::sock_fprog { len: filter.len() as libc::c_ushort, filter: filter.as_mut_ptr() };
    // SAFETY: prctl reads the filter, which outlives the call.
    unsafe {
        if libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0
            || libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const whole, 0, 0) != 0
        {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}

/// Offsets in `struct seccomp_data`.
const NUMBER: u32 = 0;
const ARCHITECTURE: u32 = 4;
const LOAD_WORD: u16 = (libc::BPF_LD | libc::BPF_W | libc::BPF_ABS) as u16;
const JUMP_IF_EQUAL: u16 = (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16;
const RETURN: u16 = (libc::BPF_RET | libc::BPF_K) as u16;
/// `SECCOMP_RET_ERRNO` with errno 0.
const DONE: u32 = libc::SECCOMP_RET_ERRNO;

fn program(architecture: &Architecture) -> Vec<libc::sock_filter> {
    let step = |code, k, jt, jf| libc::sock_filter { code, jt, jf, k };
    let calls = architecture.calls;
    // A jump counts the instructions it leaves out.
    let to_allow = calls.len() as u8 + 1;
    let mut steps = vec![
        step(LOAD_WORD, ARCHITECTURE, 0, 0),
        step(JUMP_IF_EQUAL, architecture.audit, 0, to_allow),
        step(LOAD_WORD, NUMBER, 0, 0),
    ];
    let left = |at: usize| (calls.len() - at) as u8;
    steps.extend(calls.iter().enumerate().map(|(at, call)| step(JUMP_IF_EQUAL, *call, left(at), 0)));
    steps.push(step(RETURN, libc::SECCOMP_RET_ALLOW, 0, 0));
    steps.push(step(RETURN, DONE, 0, 0));
    steps
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;
    use std::os::unix::process::CommandExt;
    use std::process::Command;

    use super::*;

    /// What the kernel would do with a call.
    fn verdict(steps: &[libc::sock_filter], audit: u32, number: u32) -> u32 {
        let (mut at, mut word) = (0, 0);
        loop {
            let step = steps[at];
            at += 1;
            match step.code {
                LOAD_WORD => word = if step.k == NUMBER { number } else { audit },
                JUMP_IF_EQUAL => at += usize::from(if word == step.k { step.jt } else { step.jf }),
                RETURN => return step.k,
                other => panic!("no such instruction: {other}"),
            }
        }
    }

    #[test]
    fn the_tables_calls_are_done_all_others_and_those_of_other_architectures_are_the_kernels() {
        let [one, two] = &ARCHITECTURES;
        for (own, other) in [(one, two), (two, one)] {
            let steps = program(own);
            for number in 0..500 {
                let expected = if own.calls.contains(&number) { DONE } else { libc::SECCOMP_RET_ALLOW };
                assert_eq!(verdict(&steps, own.audit, number), expected, "call {number}");
                assert_eq!(verdict(&steps, other.audit, number), libc::SECCOMP_RET_ALLOW, "call {number} of another");
            }
            // x32 numbers its calls from 2^30.
            assert_eq!(verdict(&steps, own.audit, own.calls[0] | 1 << 30), libc::SECCOMP_RET_ALLOW);
        }
    }

    #[test]
    fn this_architectures_table_has_the_c_librarys_numbers() {
        let generic = [
            libc::SYS_fchown,
            libc::SYS_fchownat,
            libc::SYS_setuid,
            libc::SYS_setgid,
            libc::SYS_setreuid,
            libc::SYS_setregid,
            libc::SYS_setgroups,
            libc::SYS_setresuid,
            libc::SYS_setresgid,
            libc::SYS_setfsuid,
            libc::SYS_setfsgid,
        ];
        let calls = own().expect("tests run on an architecture with a table").calls;
        for number in generic {
            assert!(calls.contains(&(number as u32)), "{number}");
        }
        #[cfg(target_arch = "x86_64")]
        for number in [libc::SYS_chown, libc::SYS_lchown] {
            assert!(calls.contains(&(number as u32)), "{number}");
        }
    }

    #[test]
    fn a_user_without_rights_gives_a_file_away_and_it_stays_theirs() {
        const NOBODY: u32 = 65_534;
        let dir = tempfile::Builder::new().prefix("ptl-t-").tempdir().expect("a folder");
        let path = dir.path().join("file");
        std::fs::write(&path, "").expect("written");
        std::os::unix::fs::chown(dir.path(), Some(NOBODY), None).expect("given away");
        std::os::unix::fs::chown(&path, Some(NOBODY), None).expect("given away");
        let chown = |filtered: bool| {
            let mut command = Command::new("chown");
            command.arg("33:33").arg(&path).uid(NOBODY).gid(NOBODY).stderr(std::process::Stdio::null());
            if filtered {
                // SAFETY: prctl and a small allocation, in a child whose parent's other threads hold no lock it needs
                // for longer than they run: musl and glibc both reset malloc's locks at fork.
                unsafe { command.pre_exec(install) };
            }
            command.status().expect("chown runs").success()
        };
        assert!(!chown(false), "the kernel refuses");
        assert!(chown(true), "the filter does not");
        assert_eq!(std::fs::metadata(&path).expect("there").uid(), NOBODY);
    }
}
