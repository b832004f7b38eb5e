//! Printing stories, and what they come to when there are several.

use std::collections::BTreeMap;
use std::io::{IsTerminal, Write};

use portolan_story::story::Story;
use portolan_story::text::{Style, render};

use crate::failure::Failure;
use crate::settings::OutputFormat;
use crate::trace::TraceArgs;

/// Prints each story as it comes.
pub struct Printer {
    output: OutputFormat,
    style: Style,
    /// More than one story is to come.
    many: bool,
    /// By what took the packet, how many.
    taken: BTreeMap<String, usize>,
    /// All were delivered, and kernel and oracle agree.
    all_well: bool,
}

impl Printer {
    pub fn new(args: &TraceArgs) -> Self {
        let style = style(args.verbose);
        Self { output: args.output, style, many: args.count > 1, taken: BTreeMap::new(), all_well: true }
    }

    /// # Errors
    /// Never for a story; one that cannot be JSON would be a fault of this program.
    pub fn tell(&mut self, story: &Story) -> Result<(), Failure> {
        self.all_well &= story.verdict.end.is_yes() && story.oracle.differs.is_none();
        *self.taken.entry(taker(story)).or_default() += 1;
        let text = match self.output {
            OutputFormat::Json if self.many => {
                serde_json::to_string(story).map(|text| text + "\n").map_err(Failure::no)?
            }
            OutputFormat::Json => format!("{:#}\n", serde_json::to_value(story).map_err(Failure::no)?),
            OutputFormat::Text if self.many => first_line(&render(story, self.style)),
            OutputFormat::Text => render(story, self.style),
        };
        say(&text);
        Ok(())
    }

    /// The sum, and the answer.
    ///
    /// # Errors
    /// Exit code 1 without a further message, if not all is well.
    pub fn end(self) -> Result<(), Failure> {
        if self.many && self.output == OutputFormat::Text {
            say(&summary(&self.taken));
        }
        if self.all_well { Ok(()) } else { Err(Failure::silent(1)) }
    }
}

/// Colours at a terminal only, and as wide as it is.
pub fn style(verbose: bool) -> Style {
    let stdout = std::io::stdout();
    let set = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
    let is_plain = set("NO_COLOR").is_some() || set("TERM").is_none_or(|term| term == "dumb");
    let columns = rustix::termios::tcgetwinsize(&stdout).ok().map(|size| usize::from(size.ws_col)).filter(|n| *n > 0);
    let width = columns.unwrap_or(Style::default().width);
    Style { width, colours: stdout.is_terminal() && !is_plain, verbose }
}

fn first_line(text: &str) -> String {
    text.lines().next().map(|line| format!("{line}\n")).unwrap_or_default()
}

/// The endpoint that was chosen, or how the packet ended.
fn taker(story: &Story) -> String {
    let mut choices = story.hops.iter().flat_map(|hop| &hop.choices).filter(|choice| choice.taken);
    match choices.next() {
        Some(choice) if story.verdict.end.is_yes() => {
            let pod = choice.pod.as_ref().map(|pod| format!(" (pod {pod})")).unwrap_or_default();
            format!("{}{pod}", choice.endpoint)
        }
        _ => story.verdict.because.clone().unwrap_or_else(|| story.verdict.says.clone()),
    }
}

fn summary(taken: &BTreeMap<String, usize>) -> String {
    let total: usize = taken.values().sum();
    let line = |(who, count): (&String, &usize)| format!("  {count:>4} of {total}  {who}\n");
    taken.iter().map(line).collect()
}

/// A reader that has seen enough (`| head`) closes the pipe; the answer is in the exit code all the same.
fn say(text: &str) {
    let _ = std::io::stdout().write_all(text.as_bytes());
}
