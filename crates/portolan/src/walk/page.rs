//! The walk for a reader: what was said, as lines of text.
//!
//! Words of ours keep within 80 columns, and within a narrower terminal. Others' output is folded in a terminal, where it
//! would wrap, and left as it is in a file or pipe. Colours only in a terminal, and not if `NO_COLOR` is set
//! (no-color.org); there are no cursor movements.

use std::io::IsTerminal;

use super::fold::{command, fold, untabbed, wrap};
use super::said::{Done, FailedStep, Link, Said, Shown};

/// Our own words are never wider, and a terminal is not taken as narrower than this.
const WIDEST: usize = 80;
const NARROWEST: usize = 40;
const MARGIN: &str = "  ";
const OUTPUT: &str = "    ";

/// How a page looks.
#[derive(Clone, Copy, Debug)]
pub(super) struct Page {
    /// Columns for words of ours.
    width: usize,
    /// Columns at which others' output is folded; `None` leaves it as it is.
    folded: Option<usize>,
    colours: bool,
}

/// Colours as SGR parameters (ECMA-48 §8.3.117).
#[derive(Clone, Copy)]
enum Colour {
    Bold,
    Faint,
    Green,
    Red,
}

impl Page {
    /// As standard output needs it.
    pub(super) fn for_stdout() -> Self {
        let stdout = std::io::stdout();
        if !stdout.is_terminal() {
            return Self { width: WIDEST, folded: None, colours: false };
        }
        let columns = rustix::termios::tcgetwinsize(&stdout).map_or(0, |size| usize::from(size.ws_col));
        // A terminal that does not know its width says 0.
        let columns = if columns == 0 { WIDEST } else { columns.max(NARROWEST) };
        let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
        let colours = set("NO_COLOR").is_none() && set("TERM").is_some_and(|term| term != "dumb");
        Self { width: columns.min(WIDEST), folded: Some(columns), colours }
    }

    /// The text for one thing said, with its last newline.
    pub(super) fn render(&self, said: &Said) -> String {
        let lines = match said {
            Said::Lab { kubeconfig, rootless, .. } => {
                let mut lines = rootless.map(|line| self.paragraphs(line)).unwrap_or_default();
                lines.extend([String::new(), format!("{MARGIN}export KUBECONFIG={}", kubeconfig.display())]);
                lines
            }
            Said::Step { step, title, about, prepared, .. } => self.step(*step, title, about, prepared),
            Said::Text { text, .. } => self.paragraphs(text),
            Said::Command { place, argv, redirect, output, shown, .. } => {
                let mut lines = self.command(place, argv, redirect);
                lines.extend(self.output(output, *shown));
                lines
            }
            Said::Log { from, line, .. } => {
                let mut lines = wrap(&format!("{from}:"), MARGIN, self.width);
                lines.extend(self.output(line, Shown::All));
                lines
            }
            Said::Check { claim, holds: true, .. } => self.claim("✔", Colour::Green, claim),
            Said::Check { claim, holds: false, .. } => self.claim("✘", Colour::Red, &format!("not so: {claim}")),
            Said::Summary { held, checks, steps, ended_early, failure } => {
                self.summary(*held, *checks, steps, *ended_early, failure.as_ref())
            }
        };
        lines.join("\n") + "\n"
    }

    /// What stands behind the question whether to go on; without a newline, as Enter brings it.
    pub(super) fn question(&self) -> String {
        format!("\n{MARGIN}{} ", self.coloured(Colour::Faint, "[Enter goes on, q ends the walk]"))
    }

    /// What stands before all, while the lab comes up.
    pub(super) fn opening(&self) -> String {
        self.paragraphs(super::OPENING).join("\n") + "\n"
    }

    fn step(&self, step: u8, title: &str, about: &str, prepared: &[&str]) -> Vec<String> {
        let mut lines = vec![String::new(), self.coloured(Colour::Bold, &format!("── Step {step}. {title}"))];
        lines.extend(self.paragraphs(about));
        if !prepared.is_empty() {
            let made = format!("(Made before, as the steps that are left out do: {}.)", prepared.join(", "));
            lines.extend(self.paragraphs(&made));
        }
        lines
    }

    fn paragraphs(&self, text: &str) -> Vec<String> {
        let paragraph = |text| [String::new()].into_iter().chain(wrap(text, MARGIN, self.width));
        text.split("\n\n").flat_map(paragraph).collect()
    }

    fn command(&self, place: &str, argv: &[&str], redirect: &str) -> Vec<String> {
        let host = if place == "here" { "" } else { place };
        let mut words: Vec<String> = argv.iter().map(|word| quoted(word)).collect();
        words.extend(redirect.split_whitespace().map(str::to_owned));
        let lines = command(&words, &format!("{MARGIN}{host}$ "), self.width);
        lines.iter().map(|line| self.coloured(Colour::Bold, line)).collect()
    }

    fn output(&self, text: &str, shown: Shown) -> Vec<String> {
        let lines = match shown {
            Shown::All => text.lines().collect(),
            Shown::Lines(wanted) => with_gaps(text, wanted),
            Shown::First(wanted) => {
                let seen = std::cell::Cell::new(false);
                with_gaps(text, &|line| wanted(line) && !seen.replace(true))
            }
        };
        let folded = match self.folded {
            Some(columns) => {
                let lines: Vec<String> = lines.into_iter().map(untabbed).collect();
                fold(&lines.iter().map(String::as_str).collect::<Vec<_>>(), columns - OUTPUT.len(), OUTPUT)
            }
            None => lines.into_iter().map(str::to_owned).collect(),
        };
        folded.iter().map(|line| format!("{OUTPUT}{line}").trim_end().to_owned()).collect()
    }

    fn claim(&self, mark: &str, colour: Colour, claim: &str) -> Vec<String> {
        let first = format!("{MARGIN}{mark} ");
        let mut lines = wrap(claim, &first, self.width);
        lines[0] = lines[0].replacen(mark, &self.coloured(colour, mark), 1);
        lines
    }

    fn summary(
        &self,
        held: bool,
        checks: usize,
        steps: &[Done],
        ended_early: bool,
        failure: Option<&FailedStep>,
    ) -> Vec<String> {
        let mut lines = vec![String::new(), self.coloured(Colour::Bold, "── What was shown")];
        lines.extend(steps.iter().flat_map(|step| self.done(step)));
        if let Some(failure) = failure {
            lines.push(String::new());
            lines.extend(self.claim("✘", Colour::Red, &format!("Step {} failed: {}", failure.step, failure.message)));
        }
        if ended_early {
            lines.extend(self.paragraphs("You ended the walk here. `portolan walk --step N` shows a step by itself."));
        }
        if held {
            lines.extend([String::new(), format!("All {checks} checks of {} held.", of_steps(steps.len()))]);
            lines.extend(self.paragraphs(super::CLOSING));
        }
        lines
    }

    fn done(&self, step: &Done) -> Vec<String> {
        let (mark, colour) = if step.held { ("✔", Colour::Green) } else { ("✘", Colour::Red) };
        let mut lines = vec![String::new()];
        lines.extend(self.claim(
            mark,
            colour,
            &format!("Step {}. {}: {}", step.step, step.title, counted(step.checks)),
        ));
        lines.extend(step.read_on.iter().flat_map(|link| self.link(link)));
        lines
    }

    fn link(&self, link: &Link) -> Vec<String> {
        // Without its scheme each address fits on a line.
        let address = link.url.strip_prefix("https://").unwrap_or(link.url);
        wrap(&format!("{}: {address}", link.term), OUTPUT, self.width)
    }

    fn coloured(&self, colour: Colour, text: &str) -> String {
        let parameter = match colour {
            Colour::Bold => "1",
            Colour::Faint => "2",
            Colour::Green => "32",
            Colour::Red => "31",
        };
        if self.colours { format!("\x1b[{parameter}m{text}\x1b[0m") } else { text.to_owned() }
    }
}

/// The lines that are wanted, and `…` for each run of others.
fn with_gaps<'a>(text: &'a str, wanted: &dyn Fn(&str) -> bool) -> Vec<&'a str> {
    let mut lines: Vec<&str> = text.lines().map(|line| if wanted(line) { line } else { "…" }).collect();
    lines.dedup_by(|a, b| *a == "…" && *b == "…");
    lines
}

fn counted(checks: usize) -> String {
    if checks == 1 { "1 check".to_owned() } else { format!("{checks} checks") }
}

fn of_steps(count: usize) -> String {
    match count {
        1 => "this step".to_owned(),
        8 => "the eight steps".to_owned(),
        _ => format!("these {count} steps"),
    }
}

/// As a shell takes it: what is shown can be pasted.
fn quoted(word: &str) -> String {
    // Double quotes read better around single ones, where the shell takes nothing in between for its own.
    if word.contains('\'') && !word.contains(['"', '$', '`', '!']) {
        return format!("\"{word}\"");
    }
    match word.is_empty() || word.chars().any(|c| c.is_whitespace() || "|&;$*?'\"{}()<>\\".contains(c)) {
        true => format!("'{}'", word.replace('\'', r"'\''")),
        false => word.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::super::fold::columns;
    use super::*;

    const TERMINAL: Page = Page { width: 80, folded: Some(80), colours: true };
    const PIPE: Page = Page { width: 80, folded: None, colours: false };

    fn command_said<'a>(output: &'a str, shown: Shown<'a>) -> Said<'a> {
        let argv = &["curl", "-w", "%{http_code}\\n", "http://10.96.0.1/?x"];
        Said::Command { step: 4, place: "node-1", argv, redirect: "", exit_code: Some(0), output, shown }
    }

    #[test]
    fn a_command_can_be_pasted_and_its_output_stands_below() {
        let said = command_said("200\n", Shown::All);
        assert_eq!(PIPE.render(&said), "  node-1$ curl -w '%{http_code}\\n' 'http://10.96.0.1/?x'\n    200\n");
    }

    #[test]
    fn lines_left_out_are_said_to_be() {
        let wanted = |line: &str| line.starts_with('b');
        let said = command_said("a\na\nb\nc\nd\n", Shown::Lines(&wanted));
        let lines: Vec<String> = PIPE.render(&said).lines().skip(1).map(str::to_owned).collect();
        assert_eq!(lines, ["    …", "    b", "    …"]);
    }

    #[test]
    fn a_pipe_gets_no_colour_and_others_lines_whole() {
        let long = "word ".repeat(40);
        let text = PIPE.render(&command_said(&long, Shown::All));
        assert!(!text.contains('\x1b') && text.lines().count() == 2, "{text}");
    }

    #[test]
    fn a_terminal_of_80_columns_wraps_nothing_by_itself() {
        let long = "word ".repeat(40);
        let about = "An explanation of many words, ".repeat(9);
        let step = Said::Step { step: 1, title: "A title", about: &about, read_on: &[], prepared: &["a Service"] };
        let claim = Said::Check { step: 1, name: "n", claim: &long, holds: true };
        let page = Page { colours: false, ..TERMINAL };
        for said in [command_said(&long, Shown::All), step, claim] {
            let text = page.render(&said);
            assert!(text.lines().all(|line| columns(line) <= 80), "{text}");
        }
    }

    #[test]
    fn a_terminal_gets_a_green_tick_and_a_red_cross() {
        let check = |holds| TERMINAL.render(&Said::Check { step: 1, name: "n", claim: "it is so", holds });
        assert_eq!(check(true), "  \x1b[32m✔\x1b[0m it is so\n");
        assert_eq!(check(false), "  \x1b[31m✘\x1b[0m not so: it is so\n");
    }
}
