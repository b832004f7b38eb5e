//! The stage of the walk: the lab, the commands shown, the claims checked.

use std::net::IpAddr;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use super::{MANIFESTS, Options, StepError};
use crate::failure::Failure;
use crate::lab::{Lab, Place};
use crate::tools::Kubectl;

/// How long a check waits for the cluster to get there before it counts as failed.
const PATIENCE: Duration = Duration::from_secs(30);
/// How long a sabotaged check waits: the walk is known to fail.
const SABOTAGED_PATIENCE: Duration = Duration::from_secs(6);

/// One HTTP request that prints its status code and nothing else; `url` is the last word.
pub(crate) fn status_of(url: &str) -> [&str; 9] {
    ["curl", "-s", "-o", "/dev/null", "-w", "%{http_code}\\n", "--max-time", "3", url]
}

/// What a shown command printed.
#[derive(Clone, Debug)]
pub(crate) struct Output {
    pub(crate) ok: bool,
    /// Standard output and standard error, in that order.
    pub(crate) text: String,
}

impl Output {
    pub(crate) fn has(&self, needle: &str) -> bool {
        self.text.contains(needle)
    }

    /// Is there one line that contains all of `parts`?
    pub(crate) fn has_line(&self, parts: &[&str]) -> bool {
        self.text.lines().any(|line| parts.iter().all(|part| line.contains(part)))
    }
}

/// A pod as the walk needs it.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct PodSeen {
    pub(crate) name: String,
    pub(crate) ip: String,
    pub(crate) node: String,
    pub(crate) restarts: i64,
}

pub(crate) struct Stage {
    pub(crate) lab: Lab,
    sabotage: Option<u8>,
    examples: PathBuf,
    kubectl: Kubectl,
    step: u8,
    checks: usize,
}

impl Stage {
    pub(crate) fn open(options: &Options) -> Result<Self, Failure> {
        let kubectl = Kubectl::find()?;
        let lab = Lab::up_for_walk(&options.lab)?;
        let examples = match &options.examples {
            Some(folder) => folder.clone(),
            None => unpack(&lab)?,
        };
        Ok(Self { lab, sabotage: options.sabotage, examples, kubectl, step: 0, checks: 0 })
    }

    pub(crate) fn close(&mut self) {
        self.lab.down();
    }

    pub(crate) fn title(&mut self, number: u8, title: &str) {
        self.step = number;
        println!("\n── Step {number}. {title}\n");
    }

    pub(crate) fn finish(&self) {
        println!("\nAll {} checks of the eight steps held.", self.checks);
    }

    pub(crate) fn failed(&self, error: &StepError) {
        println!("  ✘ {error}");
        if std::env::var_os("PORTOLAN_WALK_LOGS").is_some() {
            self.lab.print_logs();
        }
    }

    pub(crate) fn say(&self, text: &str) {
        println!("  {text}");
    }

    pub(crate) fn example(&self, name: &str) -> String {
        self.examples.join(name).to_string_lossy().into_owned()
    }

    /// Is this the step whose check must be made to fail?
    pub(crate) fn sabotaged(&self) -> bool {
        self.sabotage == Some(self.step)
    }

    fn patience(&self) -> Duration {
        if self.sabotaged() { SABOTAGED_PATIENCE } else { PATIENCE }
    }

    /// Ticks `claim` if it holds; ends the step if not.
    pub(crate) fn check(&mut self, claim: &str, holds: bool) -> Result<(), StepError> {
        if !holds {
            return Err(StepError::Claim(format!("not so: {claim}")));
        }
        self.checks += 1;
        println!("  ✔ {claim}");
        Ok(())
    }

    /// Waits until `holds` says yes, then ticks `claim`.
    pub(crate) fn wait(&mut self, claim: &str, mut holds: impl FnMut(&Self) -> bool) -> Result<(), StepError> {
        let until = Instant::now() + self.patience();
        while !holds(self) {
            if Instant::now() > until {
                return self.check(claim, false);
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        self.check(claim, true)
    }

    /// Runs kubectl on the host and shows it.
    pub(crate) fn kubectl(&self, args: &[&str]) -> Result<Output, StepError> {
        self.show(&format!("kubectl {}", quoted(args)), self.run_kubectl(args)?)
    }

    /// Runs kubectl without showing it.
    pub(crate) fn run_kubectl(&self, args: &[&str]) -> Result<Output, StepError> {
        let mut command = self.kubectl.command();
        command.args(args).env("KUBECONFIG", self.lab.kubeconfig());
        capture(command)
    }

    /// Runs a command in a pod's container and shows it.
    pub(crate) fn in_pod(&self, pod: &str, argv: &[&str]) -> Result<Output, StepError> {
        self.kubectl(&[&["exec", pod, "--"], argv].concat())
    }

    /// Runs this same program and shows it.
    pub(crate) fn portolan(&self, args: &[&str]) -> Result<Output, StepError> {
        self.show(&format!("portolan {}", quoted(args)), self.run_portolan(args)?)
    }

    /// Runs this same program without showing it.
    pub(crate) fn run_portolan(&self, args: &[&str]) -> Result<Output, StepError> {
        let exe = std::env::current_exe().map_err(|e| StepError::Run(format!("cannot find this program: {e}")))?;
        let mut command = Command::new(exe);
        command.args(args).env("KUBECONFIG", self.lab.kubeconfig());
        capture(command)
    }

    /// Runs a command inside the lab and shows it.
    pub(crate) fn at(&self, place: &Place, argv: &[&str]) -> Result<Output, StepError> {
        let output = self.run_at(place, argv)?;
        self.show(&format!("[{place}] {}", quoted(argv)), output)
    }

    /// Runs a command inside the lab without showing it.
    pub(crate) fn run_at(&self, place: &Place, argv: &[&str]) -> Result<Output, StepError> {
        self.lab.capture(place, argv).map(|(ok, text)| Output { ok, text }).map_err(|e| StepError::Run(e.to_string()))
    }

    fn show(&self, command: &str, output: Output) -> Result<Output, StepError> {
        println!("  $ {command}");
        for line in output.text.lines() {
            println!("    {line}");
        }
        Ok(output)
    }

    /// `kubectl get ARGS -o json`, without showing it. `Null` if it failed.
    pub(crate) fn get(&self, args: &[&str]) -> Value {
        let args: Vec<&str> = ["get"].iter().chain(args).chain(&["-o", "json"]).copied().collect();
        let output = self.run_kubectl(&args);
        output.ok().and_then(|o| serde_json::from_str(&o.text).ok()).unwrap_or(Value::Null)
    }

    /// The nginx pods that are ready and not on their way out, by name.
    pub(crate) fn nginx_pods(&self) -> Vec<PodSeen> {
        self.ready_pods("app=nginx")
    }

    /// The ready pods that a selector picks, by name.
    pub(crate) fn ready_pods(&self, selector: &str) -> Vec<PodSeen> {
        let list = self.get(&["pods", "-l", selector]);
        let mut pods: Vec<PodSeen> = list["items"].as_array().into_iter().flatten().filter_map(ready_pod).collect();
        pods.sort_by(|a, b| a.name.cmp(&b.name));
        pods
    }

    /// The address of a Service, such as `spec.clusterIP`.
    pub(crate) fn cluster_ip(&self, service: &str) -> String {
        self.get(&["svc", service])["spec"]["clusterIP"].as_str().unwrap_or_default().to_owned()
    }

    /// One HTTP request from `place`; the body, or `None` if there was no answer.
    pub(crate) fn fetch(&self, place: &Place, url: &str) -> Option<String> {
        let output = self.run_at(place, &["curl", "-s", "--max-time", "3", url]).ok()?;
        output.ok.then_some(output.text)
    }

    /// The lines of a pod's log since it started.
    pub(crate) fn log(&self, pod: &str) -> Vec<String> {
        let output = self.run_kubectl(&["logs", pod]);
        output.map(|o| o.text.lines().map(str::to_owned).collect()).unwrap_or_default()
    }
}

/// The manifests where a user finds them: in the current folder's `examples/walk`, or else in the lab's own folder.
fn unpack(lab: &Lab) -> Result<PathBuf, Failure> {
    let beside = PathBuf::from("examples/walk");
    if MANIFESTS.iter().all(|(name, text)| std::fs::read_to_string(beside.join(name)).is_ok_and(|t| t == *text)) {
        return Ok(beside);
    }
    let folder = lab.scratch("examples");
    let written = std::fs::create_dir_all(&folder)
        .and_then(|()| MANIFESTS.iter().try_for_each(|(name, text)| std::fs::write(folder.join(name), text)));
    written.map_err(|e| Failure::no(format!("cannot write the walk's manifests to {}: {e}", folder.display())))?;
    Ok(folder)
}

fn ready_pod(pod: &Value) -> Option<PodSeen> {
    let conditions = pod["status"]["conditions"].as_array()?;
    let ready = conditions.iter().any(|c| c["type"] == "Ready" && c["status"] == "True");
    let leaving = !pod["metadata"]["deletionTimestamp"].is_null();
    let ip = pod["status"]["podIP"].as_str()?;
    ip.parse::<IpAddr>().ok()?;
    (ready && !leaving).then(|| PodSeen {
        name: pod["metadata"]["name"].as_str().unwrap_or_default().to_owned(),
        ip: ip.to_owned(),
        node: pod["spec"]["nodeName"].as_str().unwrap_or_default().to_owned(),
        restarts: pod["status"]["containerStatuses"][0]["restartCount"].as_i64().unwrap_or(0),
    })
}

fn capture(mut command: Command) -> Result<Output, StepError> {
    let name = command.get_program().to_string_lossy().into_owned();
    let out = command
        .stdin(Stdio::null())
        .output()
        .map_err(|e| StepError::Run(format!("cannot run {name}: {e}; is it on PATH?")))?;
    let text = String::from_utf8_lossy(&out.stdout).into_owned() + &String::from_utf8_lossy(&out.stderr);
    Ok(Output { ok: out.status.success(), text })
}

/// As a shell takes it: what is shown can be pasted.
fn quoted(args: &[&str]) -> String {
    let quote = |arg: &&str| match arg.chars().any(|c| c.is_whitespace() || "|&;$*?'\"{}()".contains(c)) {
        true => format!("'{}'", arg.replace('\'', r"'\''")),
        false => (*arg).to_owned(),
    };
    args.iter().map(quote).collect::<Vec<_>>().join(" ")
}
