//! iptables through its own programs: `iptables-restore --noflush` and `iptables-save`.
//!
//! One run of restore is atomic per table. Programs are looked for in a given folder first (the
//! demo's `target/deb/bin`), else in `PORTOLAN_IPTABLES_DIR`, else on `PATH`; they run in the network
//! namespace of the calling thread.

use std::ffi::OsString;
use std::io::{self, Write};
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

/// Environment variable that names the folder of the iptables programs.
pub const DIR_VARIABLE: &str = "PORTOLAN_IPTABLES_DIR";
/// How long a program waits for the lock of iptables-legacy.
const LOCK_WAIT_SECS: &str = "5";

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Family {
    V4,
    V6,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Flush {
    /// Leaves chains that the text does not declare as they are (`--noflush`).
    Keep,
    /// Empties each table the text names first.
    All,
}

#[derive(Debug, thiserror::Error)]
pub enum IptablesError {
    #[error("cannot run {program}: {source}; install iptables or set {DIR_VARIABLE}")]
    Start { program: String, source: io::Error },
    #[error("{program} could not be given its input: {source}")]
    Input { program: String, source: io::Error },
    #[error("{program} refused{}: {stderr}", at_line(*line, text))]
    Refused {
        program: String,
        /// All the program said, trimmed.
        stderr: String,
        /// The line of the input it names, from 1.
        line: Option<usize>,
        /// That line.
        text: String,
    },
}

fn at_line(line: Option<usize>, text: &str) -> String {
    line.map(|number| format!(" line {number} `{text}`")).unwrap_or_default()
}

/// Where the programs are and what they are told.
#[derive(Debug, Clone, Default)]
pub struct Tool {
    /// Folder of the programs; `None`: see the module.
    pub dir: Option<PathBuf>,
    /// Added to the programs' environment.
    pub env: Vec<(OsString, OsString)>,
}

impl Tool {
    /// The tool as the environment tells it.
    pub fn from_environment() -> Tool {
        Tool { dir: std::env::var_os(DIR_VARIABLE).map(PathBuf::from), env: Vec::new() }
    }

    /// Loads rules in iptables-save's format.
    pub fn restore(&self, family: Family, text: &str, flush: Flush) -> Result<(), IptablesError> {
        let mut args = vec!["-w", LOCK_WAIT_SECS];
        if flush == Flush::Keep {
            args.push("--noflush");
        }
        self.run(program(family, "-restore"), &args, text).map(drop)
    }

    /// All tables that hold something, in iptables-save's format, without counters.
    pub fn save_all(&self, family: Family) -> Result<String, IptablesError> {
        self.run(program(family, "-save"), &[], "").map(text_of)
    }

    pub fn save(&self, family: Family, table: &str) -> Result<String, IptablesError> {
        self.run(program(family, "-save"), &["-t", table], "").map(text_of)
    }

    /// Whether there is a chain of this name, rules or not.
    pub fn has_chain(&self, family: Family, table: &str, chain: &str) -> Result<bool, IptablesError> {
        let args = ["-w", LOCK_WAIT_SECS, "-t", table, "-S", chain, "1"];
        match self.run(program(family, ""), &args, "") {
            Ok(_) => Ok(true),
            Err(IptablesError::Refused { .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// One rule of a chain as `-S` prints it, `-A CHAIN …`; `number` counts from 1. `None` if there is no such rule.
    pub fn rule(
        &self,
        family: Family,
        table: &str,
        chain: &str,
        number: usize,
    ) -> Result<Option<String>, IptablesError> {
        let number = number.to_string();
        match self.run(program(family, ""), &["-w", LOCK_WAIT_SECS, "-t", table, "-S", chain, &number], "") {
            Ok(output) => Ok(text_of(output).lines().find(|line| line.starts_with("-A ")).map(str::to_owned)),
            Err(IptablesError::Refused { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The program's version line: `iptables v1.8.9 (nf_tables)`.
    pub fn version(&self, family: Family) -> Result<String, IptablesError> {
        self.run(program(family, ""), &["--version"], "").map(|o| text_of(o).trim().to_owned())
    }

    fn run(&self, program: String, args: &[&str], input: &str) -> Result<Output, IptablesError> {
        let path = self.dir.as_ref().map_or_else(|| PathBuf::from(&program), |dir| dir.join(&program));
        let mut command = Command::new(path);
        command.args(args).envs(self.env.iter().map(|(k, v)| (k, v)));
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().map_err(|source| IptablesError::Start { program: program.clone(), source })?;
        let mut stdin = child.stdin.take().expect("stdin is piped");
        // The programs read all their input before they write more than a pipe holds.
        let fed = stdin.write_all(input.as_bytes());
        drop(stdin);
        let output =
            child.wait_with_output().map_err(|source| IptablesError::Start { program: program.clone(), source })?;
        if !output.status.success() {
            return Err(refusal(program, &output, input));
        }
        fed.map_err(|source| IptablesError::Input { program, source })?;
        Ok(output)
    }
}

fn program(family: Family, tail: &str) -> String {
    let head = match family {
        Family::V4 => "iptables",
        Family::V6 => "ip6tables",
    };
    format!("{head}{tail}")
}

fn text_of(output: Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn refusal(program: String, output: &Output, input: &str) -> IptablesError {
    let stderr = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    let line = failed_line(&stderr);
    let text = line.and_then(|n| input.lines().nth(n.checked_sub(1)?)).unwrap_or_default().to_owned();
    IptablesError::Refused { program, stderr, line, text }
}

/// The line number in `… line 5 failed`, `Error occurred at line: 5` or `(nf_tables): line 5: …`.
fn failed_line(stderr: &str) -> Option<usize> {
    stderr.match_indices("line").find_map(|(at, word)| {
        let tail = stderr[at + word.len()..].trim_start_matches([':', ' ']);
        let end = tail.find(|c: char| !c.is_ascii_digit()).unwrap_or(tail.len());
        tail[..end].parse().ok()
    })
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;
    use std::path::Path;

    use super::*;
    use crate::netns;

    /// The fetched programs if they are there, else the machine's.
    fn tool() -> Tool {
        let fetched = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/deb/bin");
        if fetched.join("iptables-restore").exists() {
            return Tool { dir: Some(fetched), env: Vec::new() };
        }
        Tool::from_environment()
    }

    fn in_new_namespace<T: Send>(work: impl FnOnce(&Tool) -> T + Send) -> T {
        let made = netns::create().unwrap();
        netns::run_in(made.as_fd(), || work(&tool())).unwrap()
    }

    const RULES: &str =
        "*nat\n:KUBE-SVC-T - [0:0]\n-A KUBE-SVC-T -m comment --comment \"default/a:http\" -j RETURN\nCOMMIT\n";

    #[test]
    fn rules_restored_are_the_rules_saved() {
        for family in [Family::V4, Family::V6] {
            let saved = in_new_namespace(|tool| {
                tool.restore(family, RULES, Flush::Keep).unwrap();
                tool.save(family, "nat").unwrap()
            });
            assert!(saved.contains("-A KUBE-SVC-T -m comment --comment \"default/a:http\" -j RETURN"), "{saved}");
        }
    }

    #[test]
    fn without_flush_other_chains_stay_and_with_it_they_go() {
        let other = "*nat\n:OTHER - [0:0]\n-A OTHER -j RETURN\nCOMMIT\n";
        let (kept, flushed) = in_new_namespace(|tool| {
            tool.restore(Family::V4, other, Flush::Keep).unwrap();
            tool.restore(Family::V4, RULES, Flush::Keep).unwrap();
            let kept = tool.save_all(Family::V4).unwrap();
            tool.restore(Family::V4, RULES, Flush::All).unwrap();
            (kept, tool.save_all(Family::V4).unwrap())
        });
        assert!(kept.contains("OTHER"), "{kept}");
        assert!(!flushed.contains("OTHER"), "{flushed}");
    }

    #[test]
    fn a_refused_line_is_named_with_its_text_and_nothing_of_the_table_is_loaded() {
        let bad = "*nat\n:KUBE-A - [0:0]\n-A KUBE-A --no-such-match 1\nCOMMIT\n";
        let (error, saved) = in_new_namespace(|tool| {
            (tool.restore(Family::V4, bad, Flush::Keep).unwrap_err(), tool.save_all(Family::V4).unwrap())
        });
        match &error {
            IptablesError::Refused { line, text, .. } => {
                assert_eq!((*line, text.as_str()), (Some(3), "-A KUBE-A --no-such-match 1"), "{error}");
            }
            other => panic!("{other}"),
        }
        assert!(!saved.contains("KUBE-A"), "{saved}");
    }

    #[test]
    fn a_missing_program_is_named_with_the_remedy() {
        let tool = Tool { dir: Some("/nowhere".into()), env: Vec::new() };
        let error = tool.restore(Family::V4, RULES, Flush::Keep).unwrap_err().to_string();
        assert!(error.contains("iptables-restore") && error.contains(DIR_VARIABLE), "{error}");
    }

    #[test]
    fn line_numbers_are_found_in_every_form_the_programs_use() {
        let forms = [
            "iptables-restore: line 5 failed",
            "Error occurred at line: 5",
            "iptables-restore v1.8.9 (nf_tables): line 5: CHAIN_ADD failed (No such file)",
        ];
        for form in forms {
            assert_eq!(failed_line(form), Some(5), "{form}");
        }
        assert_eq!(failed_line("online but no number"), None);
    }
}
