//! The walk itself, for a reader and for a program, in whole and in part; and that each of its steps can fail.
//!
//! Needs root, and `make deps` for Debian's iptables, nginx, curl, drill, conntrack and kubectl. Each walk is a lab of
//! its own. The whole walk with its output in a pipe is run by `readme`, which compares it with the documentation.

mod support;

#[path = "walk/terminal.rs"]
mod terminal;

use std::io::Read;
use std::process::{Output, Stdio};

use serde_json::Value;

/// One lab at a time: two at once on two cores make each other slow, and nothing is learned from it.
fn walk(args: &str) -> Output {
    let _turn = support::turn();
    let mut command = support::portolan();
    command.arg("walk").args(args.split_whitespace()).env("PORTOLAN_WALK_LOGS", "1");
    command.output().expect("the walk runs")
}

fn both(output: &Output) -> String {
    out(output) + &String::from_utf8_lossy(&output.stderr)
}

fn out(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// The numbers of the steps that a text shows.
fn steps_of(text: &str) -> Vec<&str> {
    text.lines().filter_map(|line| line.strip_prefix("── Step ")).map(|rest| &rest[..1]).collect()
}

/// Lines of a text that are wider than 80 columns.
fn too_wide(text: &str) -> Vec<&str> {
    text.lines().filter(|line| line.chars().count() > 80).collect()
}

#[test]
fn in_a_terminal_of_80_columns_it_waits_at_each_step_and_no_line_is_wider() {
    let _turn = support::turn();
    let mut command = support::portolan();
    command.args(["walk", "--pause"]).env_remove("NO_COLOR");
    let shown = terminal::run(command, "\n");
    let text = shown.plain();
    assert!(shown.status.success(), "{text}");
    assert_eq!(steps_of(&text), ["1", "2", "3", "4", "5", "6", "7", "8"], "{text}");
    assert_eq!(shown.questions(), 8, "{text}");
    assert!(text.contains("checks of the eight steps held"), "{text}");
    assert_eq!(too_wide(&text), Vec::<&str>::new());
    assert!(shown.text.contains("\x1b[32m✔\x1b[0m"), "a terminal gets colours:\n{text}");
}

#[test]
fn q_ends_it_cleanly_and_no_color_is_heeded() {
    let _turn = support::turn();
    let mut command = support::portolan();
    command.args(["walk", "--pause", "--step", "3", "--name", "t-walk-q"]).env("NO_COLOR", "1");
    let shown = terminal::run(command, "q\n");
    let text = &shown.text;
    assert!(shown.status.success(), "{text}");
    assert!(!text.contains('\x1b'), "{text}");
    assert_eq!((shown.questions(), text.matches('✔').count()), (1, 1), "only the sign's own explanation:\n{text}");
    assert!(text.contains("You ended the walk here"), "{text}");
    assert!(support::portolan_says("status --name t-walk-q").refused(1).contains("t-walk-q"), "its lab is gone");
}

#[test]
fn a_part_shows_its_steps_alone_and_makes_what_they_need() {
    let output = walk("--step 8 --step 5-6");
    let text = out(&output);
    assert!(output.status.success(), "{}", both(&output));
    assert_eq!(steps_of(&text), ["5", "6", "8"], "{text}");
    let words = text.split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(words.contains("(Made before, as the steps that are left out do: the Deployment with two nginx pods.)"));
    assert!(text.contains("checks of these 3 steps held"), "{text}");
    assert!(!text.contains('\x1b'), "no colour in a pipe:\n{text}");
    let ours = text.lines().filter(|line| !line.starts_with("    ")).collect::<Vec<_>>().join("\n");
    assert_eq!(too_wide(&ours), Vec::<&str>::new());
}

#[test]
fn a_program_gets_a_line_for_each_thing_that_happens() {
    let output = walk("--output json");
    assert!(output.status.success(), "{}", both(&output));
    let said = objects(&output);
    assert_eq!((&said[0]["type"], &said[0]["format"]), (&"lab".into(), &1.into()), "{}", said[0]);
    assert_eq!(said[0]["steps"], serde_json::json!([1, 2, 3, 4, 5, 6, 7, 8]));
    let steps = of_type(&said, "step");
    assert_eq!(steps[1]["title"], "A Service gives them one address");
    assert!(steps[1]["read_on"][0]["url"].as_str().is_some_and(|url| url.starts_with("https://kubernetes.io/docs/")));
    let get = ["kubectl", "get", "svc", "ngx-svc"];
    let get = of_type(&said, "command").into_iter().find(|c| c["argv"] == serde_json::json!(get));
    let get = get.expect("the command is there");
    assert_eq!((&get["step"], &get["place"], &get["exit_code"]), (&2.into(), &"here".into(), &0.into()));
    assert!(get["output"].as_str().is_some_and(|text| text.contains("ClusterIP")), "{get}");
    let checks = of_type(&said, "check");
    assert!(checks.iter().all(|check| check["holds"] == true && check["claim"].is_string()));
    let summary = said.last().expect("a summary");
    assert_eq!((&summary["type"], &summary["held"]), (&"summary".into(), &true.into()), "{summary}");
    assert_eq!(summary["checks"].as_u64(), Some(checks.len() as u64), "{summary}");
    assert!(summary["failure"].is_null(), "{summary}");
    assert_eq!(names(&checks), include_str!("walk/checks.txt"), "names of checks are an interface");
}

/// The steps and names of checks, a line for each, in the order in which they come first.
fn names(checks: &[&Value]) -> String {
    let mut lines: Vec<String> = Vec::new();
    for check in checks {
        let line = format!("{} {}\n", check["step"], check["name"].as_str().unwrap_or_default());
        if !lines.contains(&line) {
            lines.push(line);
        }
    }
    lines.concat()
}

fn objects(output: &Output) -> Vec<Value> {
    let parsed = |line: &str| serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}"));
    out(output).lines().map(parsed).collect()
}

fn of_type<'a>(said: &'a [Value], kind: &str) -> Vec<&'a Value> {
    said.iter().filter(|one| one["type"] == kind).collect()
}

/// Such as `portolan walk | head`.
#[test]
fn a_reader_who_goes_away_ends_it_and_its_lab() {
    let _turn = support::turn();
    let mut command = support::portolan();
    command.args(["walk", "--step", "5", "--name", "t-walk-head"]);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("it starts");
    let mut first = [0];
    child.stdout.take().expect("it is piped").read_exact(&mut first).expect("it says something");
    let output = child.wait_with_output().expect("it ends");
    assert_eq!(output.status.code(), Some(1), "{}", both(&output));
    assert!(both(&output).contains("nobody reads what it prints"), "{}", both(&output));
    assert!(support::portolan_says("status --name t-walk-head").refused(1).contains("t-walk-head"), "its lab is gone");
}

#[test]
fn what_does_not_go_together_is_refused_in_one_line() {
    for (args, why) in [
        ("--pause", "--pause waits for Enter, and standard input is no terminal"),
        ("--pause --output json", "--pause waits for a reader and --output json is for a program"),
        ("--step 2 --sabotage 3", "--sabotage 3: --step leaves that step out; add --step 3"),
        ("--nodes 3", "--nodes: the walk tells of two nodes"),
        ("--examples /proc", "--examples: /proc has no notes-deployment.yaml"),
    ] {
        let said = support::portolan_says(&format!("walk {args}")).refused(2);
        assert!(said.contains(why) && said.trim_end().lines().count() == 1, "{args}: {said}");
    }
    for (args, why) in
        [("--step 9", "write a step from 1 to 8"), ("--step 6-4", "write 4-6"), ("--sabotage 0", "1..=8")]
    {
        let said = support::portolan_says(&format!("walk {args}")).refused(2);
        assert!(said.contains(why), "{args}: {said}");
    }
}

#[test]
fn a_step_that_fails_among_others_ends_the_walk_there() {
    let output = walk("--step 4-6 --sabotage 5");
    assert_eq!(output.status.code(), Some(1), "{}", both(&output));
    assert_eq!(steps_of(&out(&output)), ["4", "5"], "{}", both(&output));
    assert!(both(&output).contains("portolan: step 5 of the walk failed: not so: "), "{}", both(&output));
    assert!(out(&output).contains("── What was shown"), "{}", both(&output));
}

/// What step `step` relies on is taken away: a check of that step fails, and a program learns which.
fn sabotaged(step: u8, checks: &[&str]) -> Vec<Value> {
    let output = walk(&format!("--step {step} --sabotage {step} --output json"));
    assert_eq!(output.status.code(), Some(1), "step {step} is sabotaged and must fail:\n{}", both(&output));
    let said = objects(&output);
    let failed: Vec<&Value> = of_type(&said, "check").into_iter().filter(|check| check["holds"] == false).collect();
    assert_eq!(failed.len(), 1, "{}", both(&output));
    let summary = said.last().expect("a summary");
    assert_eq!(summary["held"], false, "{summary}");
    assert_eq!((&summary["failure"]["step"], &failed[0]["step"]), (&step.into(), &step.into()), "{summary}");
    let name = summary["failure"]["check"].as_str().expect("the check's name");
    assert_eq!(failed[0]["name"], name);
    assert!(checks.contains(&name), "step {step} failed at {name}, not at one of {checks:?}");
    said
}

/// The last trace says which rule took the packet before the Service was asked, and where.
fn names_the_foreign_rule(said: &[Value], chain: &str, service: &str) {
    let mut traces = of_type(said, "command").into_iter().filter(|command| command["argv"][1] == "trace");
    let told = traces.next_back().and_then(|trace| trace["output"].as_str()).expect("a trace");
    let told = told.split_whitespace().collect::<Vec<_>>().join(" ");
    let words = [
        "because a foreign rule on node-".to_owned(),
        format!("took it before Service default/{service} was asked: ip {chain}: -j ACCEPT"),
        "mend on node-".to_owned(),
    ];
    assert!(words.iter().all(|part| told.contains(part)), "{words:?} in {told}");
}

#[test]
fn a_sabotaged_step_1_fails() {
    sabotaged(1, &["two-pods-run"]);
}

#[test]
fn a_sabotaged_step_2_fails() {
    names_the_foreign_rule(&sabotaged(2, &["trace-arrives"]), "nat OUTPUT", "ngx-svc:http");
}

#[test]
fn a_sabotaged_step_3_fails() {
    sabotaged(3, &["all-requests-answered"]);
}

#[test]
fn a_sabotaged_step_4_fails() {
    sabotaged(4, &["node-answered", "node-is-masqueraded"]);
}

#[test]
fn a_sabotaged_step_5_fails() {
    names_the_foreign_rule(&sabotaged(5, &["node-port-trace"]), "nat PREROUTING", "ngx-nodeport");
}

#[test]
fn a_sabotaged_step_6_fails() {
    sabotaged(6, &["headless-answers-pods"]);
}

#[test]
fn a_sabotaged_step_7_fails() {
    sabotaged(7, &["a-record"]);
}

#[test]
fn a_sabotaged_step_8_fails() {
    sabotaged(8, &["route-to-other-node"]);
}
