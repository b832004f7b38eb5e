//! What the walk says, as values: `page` shows them to a reader, JSON lines hand them to a program.
//!
//! ```text
//!  lab ─► (step ─► (text | command | log | check)*)* ─► summary
//! ```
//!
//! The names of types and fields are an interface (`docs/the-walk.md`): they may be added to, not changed.

use std::path::Path;

use serde::Serialize;

/// One thing said, in the order in which it happens.
#[derive(Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub(super) enum Said<'a> {
    /// The walk begins: a lab comes up.
    Lab {
        /// Version of these shapes.
        format: u8,
        name: &'a str,
        nodes: usize,
        kubeconfig: &'a Path,
        /// For a lab that is not root's: as whom it runs.
        #[serde(skip_serializing_if = "Option::is_none")]
        rootless: Option<&'a str>,
        /// The steps that will be shown.
        steps: &'a [u8],
    },
    /// A step begins.
    Step {
        step: u8,
        title: &'a str,
        /// What it is about; an empty line stands between paragraphs.
        about: &'a str,
        /// The Kubernetes documentation's pages on it.
        read_on: &'a [Link],
        /// Objects made without showing it, as a step that is left out would have made them.
        prepared: &'a [&'static str],
    },
    /// What the next command shows, what to look for, or why it matters.
    Text { step: u8, text: &'a str },
    /// A command that was run.
    Command {
        step: u8,
        /// `here`, or the lab's host that it ran on.
        place: &'a str,
        argv: &'a [&'a str],
        /// What a shell adds behind it, such as ` >file`; empty without.
        redirect: &'a str,
        /// `None` if a signal ended it.
        exit_code: Option<i32>,
        /// Standard output and standard error, in that order; all of it.
        output: &'a str,
        /// What of the output a page shows.
        #[serde(skip)]
        shown: Shown<'a>,
    },
    /// A line of a log that no command printed.
    Log { step: u8, from: &'a str, line: &'a str },
    /// Something that must be so.
    Check {
        step: u8,
        /// Stays the same from run to run; a step may use it again, for another pod or node.
        name: &'a str,
        claim: &'a str,
        holds: bool,
    },
    /// The end.
    Summary {
        /// All that was to be shown was shown, and every check held.
        held: bool,
        checks: usize,
        steps: &'a [Done],
        /// The reader ended the walk before its last step.
        ended_early: bool,
        failure: Option<FailedStep<'a>>,
    },
}

/// A page of the Kubernetes documentation.
#[derive(Clone, Copy, Serialize)]
pub(super) struct Link {
    /// The documentation's own word for it.
    pub(super) term: &'static str,
    pub(super) url: &'static str,
}

/// A step that was shown.
#[derive(Serialize)]
pub(super) struct Done {
    pub(super) step: u8,
    pub(super) title: &'static str,
    /// Checks that held.
    pub(super) checks: usize,
    pub(super) held: bool,
    #[serde(skip)]
    pub(super) read_on: &'static [Link],
}

/// Where the walk ended.
#[derive(Serialize)]
pub(super) struct FailedStep<'a> {
    pub(super) step: u8,
    /// The check that did not hold; `None` if a command could not be run at all.
    pub(super) check: Option<&'a str>,
    pub(super) message: &'a str,
}

/// Which lines of a command's output a page shows; what is left out stands there as `…`.
#[derive(Clone, Copy)]
pub(super) enum Shown<'a> {
    All,
    /// The first for which this says yes.
    First(&'a dyn Fn(&str) -> bool),
    /// Those for which this says yes.
    Lines(&'a dyn Fn(&str) -> bool),
}
