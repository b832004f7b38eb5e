//! The walk itself, and that each of its steps can fail.
//!
//! Needs root, and `make deps` for Debian's iptables, nginx, curl, drill and conntrack. Each walk is a lab of its own.

mod support;

use std::process::Output;

/// One lab at a time: two at once on two cores make each other slow, and nothing is learned from it.
fn walk(args: &[&str]) -> Output {
    let _turn = support::turn();
    support::portolan().arg("walk").args(args).env("PORTOLAN_WALK_LOGS", "1").output().expect("the walk runs")
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

#[test]
fn the_walk_holds() {
    let output = walk(&[]);
    let text = text(&output);
    assert!(output.status.success(), "{text}");
    for number in 1..=8 {
        assert!(text.contains(&format!("── Step {number}. ")), "step {number} is missing:\n{text}");
    }
    assert!(text.contains("checks of the eight steps held"), "{text}");
}

fn sabotaged(step: u8) {
    let output = walk(&["--sabotage", &step.to_string()]);
    let text = text(&output);
    assert_eq!(output.status.code(), Some(1), "a walk whose step {step} is sabotaged must fail:\n{text}");
    assert!(text.contains(&format!("step {step} of the walk failed")), "it failed elsewhere:\n{text}");
}

#[test]
fn a_sabotaged_step_1_fails() {
    sabotaged(1);
}

#[test]
fn a_sabotaged_step_2_fails() {
    sabotaged(2);
}

#[test]
fn a_sabotaged_step_3_fails() {
    sabotaged(3);
}

#[test]
fn a_sabotaged_step_4_fails() {
    sabotaged(4);
}

#[test]
fn a_sabotaged_step_5_fails() {
    sabotaged(5);
}

#[test]
fn a_sabotaged_step_6_fails() {
    sabotaged(6);
}

#[test]
fn a_sabotaged_step_7_fails() {
    sabotaged(7);
}

#[test]
fn a_sabotaged_step_8_fails() {
    sabotaged(8);
}
