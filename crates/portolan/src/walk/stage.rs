//! The stage of the walk: the lab, the commands shown, the claims checked.

use std::cell::Cell;
use std::io::Write;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use super::needs::Need;
use super::page::Page;
use super::pause::{Wish, wish};
use super::said::{Said, Shown};
use super::{MANIFESTS, Options, StepError};
use crate::failure::Failure;
use crate::lab::{Lab, Place};
use crate::settings::OutputFormat;
use crate::tools::Kubectl;

/// Version of what `--output json` prints.
const FORMAT: u8 = 1;
/// How long a check waits for the cluster to get there before it counts as failed.
const PATIENCE: Duration = Duration::from_secs(60);
/// How long a sabotaged check waits: the walk is known to fail.
const SABOTAGED_PATIENCE: Duration = Duration::from_secs(6);
/// Traces until chance picks one of two endpoints: none of 40 does once in 2^40 walks.
const MOST_TRACES: usize = 40;

/// One HTTP request that prints its status code and nothing else; `url` is the last word.
pub(crate) fn status_of(url: &str) -> [&str; 9] {
    ["curl", "-s", "-m", "3", "-o", "/dev/null", "-w", "%{http_code}\\n", url]
}

/// What a shown command printed.
#[derive(Clone, Debug)]
pub(crate) struct Output {
    /// It ended with exit code 0.
    pub(crate) ok: bool,
    /// `None` if a signal ended it.
    pub(crate) code: Option<i32>,
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

/// Who is told.
enum Voice {
    /// A reader.
    Page(Page),
    /// A program: one JSON object a line.
    Json,
}

pub(crate) struct Stage {
    pub(crate) lab: Lab,
    sabotage: Option<u8>,
    examples: PathBuf,
    kubectl: Kubectl,
    voice: Voice,
    /// Standard output was closed.
    unread: Cell<bool>,
    had: Vec<Need>,
    step: u8,
    /// Checks of this step that held.
    checks: usize,
}

impl Stage {
    pub(crate) fn open(options: &Options, steps: &[u8]) -> Result<Self, Failure> {
        let kubectl = Kubectl::find()?;
        let voice = match options.output {
            OutputFormat::Text => Voice::Page(Page::for_stdout()),
            OutputFormat::Json => Voice::Json,
        };
        let unread = Cell::new(false);
        if let Voice::Page(page) = &voice {
            print(&page.opening(), &unread);
        }
        let lab = Lab::up_for_walk(&options.lab)?;
        let examples = match &options.examples {
            Some(folder) => folder.clone(),
            None => unpack(&lab)?,
        };
        let sabotage = options.sabotage;
        let stage = Self { lab, sabotage, examples, kubectl, voice, unread, had: Vec::new(), step: 0, checks: 0 };
        let (name, nodes, kubeconfig) = (stage.lab.name(), stage.lab.node_count(), stage.lab.kubeconfig());
        let rootless = stage.lab.rootless();
        let rootless = rootless.as_deref();
        stage.tell(&Said::Lab { format: FORMAT, name: &name, nodes, kubeconfig: &kubeconfig, rootless, steps });
        Ok(stage)
    }

    pub(crate) fn close(&mut self) {
        self.lab.down();
    }

    pub(super) fn begin(&mut self, step: u8) {
        (self.step, self.checks) = (step, 0);
    }

    /// Checks of this step that held so far.
    pub(super) fn checks_of_step(&self) -> usize {
        self.checks
    }

    pub(super) fn has(&self, need: Need) -> bool {
        self.had.contains(&need)
    }

    pub(super) fn have(&mut self, needs: &[Need]) {
        self.had.extend(needs);
    }

    pub(super) fn tell(&self, said: &Said) {
        let text = match &self.voice {
            Voice::Page(page) => page.render(said),
            Voice::Json => serde_json::to_string(said).expect("strings, numbers and lists of them") + "\n",
        };
        print(&text, &self.unread);
    }

    /// Asks the reader whether to go on.
    pub(super) fn ask(&self) -> Wish {
        if let Voice::Page(page) = &self.voice {
            print(&page.question(), &self.unread);
        }
        wish(&mut std::io::stdin().lock())
    }

    /// The ends of all logs of the lab, for a walk that failed where nobody can look.
    pub(super) fn print_logs_if_asked(&self) {
        if std::env::var_os("PORTOLAN_WALK_LOGS").is_some() {
            self.lab.print_logs();
        }
    }

    /// Says what the next command shows, what to look for, or why it matters.
    pub(crate) fn say(&self, text: &str) {
        self.tell(&Said::Text { step: self.step, text });
    }

    /// Shows a line of a log.
    pub(crate) fn show_log(&self, from: &str, line: &str) {
        self.tell(&Said::Log { step: self.step, from, line });
    }

    pub(crate) fn example(&self, name: &str) -> String {
        self.examples.join(name).to_string_lossy().into_owned()
    }

    /// Is this the step whose check must be made to fail?
    pub(crate) fn sabotaged(&self) -> bool {
        self.sabotage == Some(self.step)
    }

    /// Puts our rules behind one that accepts everything: what is taken out of our chains the agent puts back at once.
    pub(crate) fn bypass(&mut self, node: &str, chain: &str) -> Result<(), StepError> {
        self.run_at(&Place::node(node), &["iptables", "-w", "-t", "nat", "-I", chain, "-j", "ACCEPT"]).map(drop)
    }

    fn patience(&self) -> Duration {
        if self.sabotaged() { SABOTAGED_PATIENCE } else { PATIENCE }
    }

    /// Ticks `claim` if it holds; ends the step if not. `name` is for programs and stays as it is.
    pub(crate) fn check(&mut self, name: &str, claim: &str, holds: bool) -> Result<(), StepError> {
        self.tell(&Said::Check { step: self.step, name, claim, holds });
        if !holds {
            return Err(StepError::Claim { name: name.to_owned(), claim: claim.to_owned() });
        }
        self.checks += 1;
        self.is_read()
    }

    /// Waits until `holds` says yes, then ticks `claim`.
    pub(crate) fn wait(&mut self, name: &str, claim: &str, holds: impl FnMut(&Self) -> bool) -> Result<(), StepError> {
        let held = self.until(holds);
        self.check(name, claim, held)
    }

    /// Waits until `holds` says yes; no if patience ends first.
    pub(crate) fn until(&self, mut holds: impl FnMut(&Self) -> bool) -> bool {
        let until = Instant::now() + self.patience();
        while !holds(self) {
            if Instant::now() > until {
                return false;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        true
    }

    fn is_read(&self) -> Result<(), StepError> {
        if self.unread.get() { Err(StepError::Unread) } else { Ok(()) }
    }

    /// Runs kubectl on the host and shows it.
    pub(crate) fn kubectl(&self, args: &[&str]) -> Result<Output, StepError> {
        self.kubectl_lines(args, Shown::All)
    }

    /// Runs kubectl on the host and shows some of what it prints.
    pub(crate) fn kubectl_lines(&self, args: &[&str], shown: Shown) -> Result<Output, StepError> {
        self.show("here", &[&["kubectl"], args].concat(), shown, self.run_kubectl(args)?)
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

    /// Asks DNS from the pod `shell`; shows the status, the question and the records.
    pub(crate) fn drill(&self, name: &str, rtype: &str) -> Result<Output, StepError> {
        let wanted = |line: &str| {
            line.contains("rcode: ") || line.contains("ANSWER: ") || !(line.is_empty() || line.starts_with(";;"))
        };
        self.kubectl_lines(&["exec", "shell", "--", "drill", name, rtype], Shown::Lines(&wanted))
    }

    /// Compares what `render` says of a node with its kernel's rules, and shows it with the files' names alone.
    pub(crate) fn render_compare(&self, node: &str, objects: &Path, saved: &Path) -> Result<Output, StepError> {
        let call = |objects: &str, saved: &str| {
            let words = ["render", "iptables", "--node", node, "-f", objects, "--compare", saved];
            words.map(str::to_owned)
        };
        let words = call(&objects.to_string_lossy(), &saved.to_string_lossy());
        let output = self.run_portolan(&words.each_ref().map(String::as_str))?;
        let name = |path: &Path| path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let words = call(&name(objects), &name(saved));
        let shown = [&["portolan"], &words.each_ref().map(String::as_str)[..]].concat();
        self.show("here", &shown, Shown::All, output)
    }

    /// Runs this same program and shows it.
    pub(crate) fn portolan(&self, args: &[&str]) -> Result<Output, StepError> {
        self.show("here", &[&["portolan"], args].concat(), Shown::All, self.run_portolan(args)?)
    }

    /// Traces packets from `from` to `to` until the story of one has `wanted`, or one does not arrive; shows the last.
    pub(crate) fn trace(&self, from: &str, to: &str, wanted: &str) -> Result<Output, StepError> {
        let args = ["trace", from, to];
        let mut told = self.run_portolan(&args)?;
        for _ in 1..MOST_TRACES {
            if !told.ok || told.has(wanted) {
                break;
            }
            told = self.run_portolan(&args)?;
        }
        self.show("here", &["portolan", "trace", from, to], Shown::All, told)
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
        self.at_lines(place, argv, Shown::All)
    }

    /// Runs a command inside the lab and shows some of what it prints.
    pub(crate) fn at_lines(&self, place: &Place, argv: &[&str], shown: Shown) -> Result<Output, StepError> {
        let output = self.run_at(place, argv)?;
        self.show(&place.to_string(), argv, shown, output)
    }

    /// Runs a command inside the lab without showing it.
    pub(crate) fn run_at(&self, place: &Place, argv: &[&str]) -> Result<Output, StepError> {
        let captured = self.lab.capture(place, argv).map_err(|e| StepError::Run(e.to_string()))?;
        let status = captured.status;
        Ok(Output { ok: status.success(), code: status.code(), text: captured.all_text() })
    }

    fn show(&self, place: &str, argv: &[&str], shown: Shown, output: Output) -> Result<Output, StepError> {
        let (step, exit_code) = (self.step, output.code);
        self.tell(&Said::Command { step, place, argv, redirect: "", exit_code, output: &output.text, shown });
        self.is_read()?;
        Ok(output)
    }

    /// Writes what a command printed to a file of the lab's, and shows it as a shell would be told to.
    pub(crate) fn keep(&self, place: &str, argv: &[&str], output: &Output, file: &str) -> Result<PathBuf, StepError> {
        let path = self.lab.scratch(file);
        std::fs::write(&path, &output.text)
            .map_err(|e| StepError::Run(format!("cannot write {}: {e}", path.display())))?;
        let redirect = format!(" >{file}");
        let (step, exit_code) = (self.step, output.code);
        self.tell(&Said::Command { step, place, argv, redirect: &redirect, exit_code, output: "", shown: Shown::All });
        Ok(path)
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

    /// The first nginx pod by name, or the one on a node.
    pub(crate) fn an_nginx_pod(&self, node: Option<&str>) -> Result<PodSeen, StepError> {
        let place = node.map(|node| format!(" on {node}")).unwrap_or_default();
        let pod = self.nginx_pods().into_iter().find(|pod| node.is_none_or(|node| pod.node == node));
        pod.ok_or_else(|| StepError::Run(format!("no nginx pod{place} is ready")))
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

/// Writes to standard output, and remembers if nobody reads it.
fn print(text: &str, unread: &Cell<bool>) {
    let mut stdout = std::io::stdout().lock();
    if stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()).is_err() {
        unread.set(true);
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
    Ok(Output { ok: out.status.success(), code: out.status.code(), text })
}
