//! Text: a story for people: the verdict, then one line a hop; with `-v` everything.
//!
//! Lines keep within the style's width by words being folded, never cut. Colours are SGR parameters (ECMA-48 §8.3.117);
//! whether there are any, who calls decides.

use portolan_model::ObjectKind;

use crate::evidence::Source;
use crate::story::{Choice, End, Hop, RuleLine, Stage, Story};
use crate::words;

/// How a story is to look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Style {
    /// Columns.
    pub width: usize,
    /// With colours.
    pub colours: bool,
    /// Rules, times, tuples, choices.
    pub verbose: bool,
}

impl Default for Style {
    fn default() -> Self {
        Self { width: 110, colours: false, verbose: false }
    }
}

/// A terminal is not taken as narrower.
const NARROWEST: usize = 40;
/// Foreign rules below one hop, if not all are wanted.
const STRANGERS: usize = 3;
/// Columns of a chain's name that still tell which.
const LEAST: usize = 12;
const MORE: &str = "           ";

#[derive(Clone, Copy)]
enum Colour {
    Bold,
    Faint,
    Green,
    Red,
}

/// A story as text, with its last newline.
pub fn render(story: &Story, style: Style) -> String {
    let page = Page { style: Style { width: style.width.max(NARROWEST), ..style } };
    let mut lines = page.verdict(story);
    let first = usize::from(story.dns.is_none());
    for (number, hop) in (first..).zip(story.hops.iter().filter(|hop| page.shows(hop))) {
        lines.extend(page.hop(&number.to_string(), &label(hop, number == first), hop));
    }
    for hop in page.back(story) {
        lines.extend(page.hop("↩", "back", &hop));
    }
    lines.join("\n") + "\n"
}

/// How a verdict begins that nothing was sent for.
fn foreseen(end: End) -> &'static str {
    match end {
        End::Delivered => "would be delivered",
        End::Refused => "would be refused",
        End::Dropped => "would be dropped",
        End::Unroutable => "would find no route",
        End::Unanswered => "would get no answer",
        End::NoSuchName => "would find no such name",
        End::NotSent => "could not be sent",
        End::NotSeen => "would not be seen",
    }
}

/// Where a line is of: `pod`, `service`, `node-2`.
fn label(hop: &Hop, is_first: bool) -> String {
    let kind = hop.objects.first().map(|object| object.kind);
    match (hop.stage, kind) {
        (Stage::Arrive, Some(ObjectKind::Pod)) | (Stage::Deliver, Some(ObjectKind::Pod)) => "pod",
        (Stage::Arrive, _) if !is_first => hop.node.as_deref().unwrap_or("node"),
        (Stage::Arrive | Stage::Deliver, Some(ObjectKind::Node)) => "node",
        (Stage::Arrive | Stage::Deliver, _) => "outside",
        (Stage::Dns, _) => "dns",
        (Stage::Service, _) => "service",
        (Stage::Dnat, _) => "dnat",
        (Stage::Filter, _) => "filter",
        (Stage::Route, _) => "route",
        (Stage::Snat, _) => "snat",
        (Stage::Conntrack, _) => "flow",
        (Stage::End, _) => "end",
    }
    .to_owned()
}

struct Page {
    style: Style,
}

impl Page {
    fn shows(&self, hop: &Hop) -> bool {
        self.style.verbose || !hop.quiet
    }

    fn verdict(&self, story: &Story) -> Vec<String> {
        let verdict = &story.verdict;
        let is_yes = verdict.end.is_yes();
        let (mark, colour) = if is_yes { ("✔", Colour::Green) } else { ("✘", Colour::Red) };
        let word = match (story.source, verdict.end) {
            (Source::Plan, end) => foreseen(end),
            (_, end) => end.word(),
        };
        let took = verdict.took_us.filter(|_| is_yes).map(|us| format!(", {}", words::micros(us))).unwrap_or_default();
        let head = format!("{mark} {word}");
        let mut lines = self.folded(&format!("{head}  "), &format!("{}{took}", verdict.says), "");
        if let Some(first) = lines.first_mut() {
            *first = first.replacen(&head, &self.coloured(colour, &head), 1);
        }
        if let Some(because) = &verdict.because {
            lines.extend(self.folded("  because  ", because, ""));
        }
        if let Some(mend) = &verdict.mend {
            lines.extend(self.folded("  mend     ", mend, ""));
        }
        if let Some(differs) = &story.oracle.differs {
            let told = self.folded("✘ ", &format!("kernel and oracle differ: {differs}"), "");
            lines.extend(told.iter().map(|line| self.coloured(Colour::Red, line)));
        }
        if story.source == Source::KernelWithoutRules {
            let note = "the kernel does not tell what rules of iptables-legacy did; the rest is the kernel's";
            lines.extend(self.folded("  note     ", note, ""));
        }
        lines
    }

    fn hop(&self, number: &str, label: &str, hop: &Hop) -> Vec<String> {
        let chains = match hop.chains.is_empty() {
            true => String::new(),
            false => format!("[{}]", hop.chains.iter().map(|chain| &**chain).collect::<Vec<_>>().join(" ")),
        };
        let prefix = format!("{number:>2} {label:<8}");
        let mut lines = self.folded(&prefix, &hop.says, &chains);
        if let Some(first) = lines.first_mut() {
            *first = first.replacen(label, &self.coloured(Colour::Bold, label), 1);
        }
        match self.style.verbose {
            true => lines.extend(self.details(hop)),
            false => lines.extend(self.strangers(hop)),
        }
        lines
    }

    /// Foreign rules are never hidden; the one that ended the packet stands in its hop already.
    fn strangers(&self, hop: &Hop) -> Vec<String> {
        let foreign: Vec<&RuleLine> =
            hop.rules.iter().filter(|rule| rule.foreign && !hop.says.contains(&rule.text)).collect();
        let mut lines: Vec<String> = foreign
            .iter()
            .take(STRANGERS)
            .flat_map(|rule| self.folded(MORE, &format!("foreign: {}", rule_words(rule)), ""))
            .collect();
        if foreign.len() > STRANGERS {
            lines.push(format!("{MORE}and {} more foreign rules: -v", foreign.len() - STRANGERS));
        }
        lines
    }

    fn details(&self, hop: &Hop) -> Vec<String> {
        let mut texts: Vec<String> = Vec::new();
        if let Some(at_us) = hop.at_us {
            let node = hop.node.as_ref().map(|node| format!(" on {node}")).unwrap_or_default();
            texts.push(format!("at {}{node}", words::micros(at_us)));
        }
        if let Some((before, after)) = &hop.change {
            texts.push(format!("before {}", words::header(before)));
            texts.push(format!("after  {}", words::header(after)));
        }
        texts.extend(hop.choices.iter().map(choice_words));
        if let Some(flow) = &hop.flow {
            let state = if flow.answered { "answered" } else { "unanswered" };
            texts.push(format!("conntrack original {}", words::header(&flow.original)));
            texts.push(format!(
                "conntrack reply    {}, id {}, {state}, {} s left",
                words::header(&flow.reply),
                flow.id,
                flow.timeout_secs
            ));
        }
        texts.extend(hop.objects.iter().map(|object| format!("of {object}")));
        texts.extend(
            hop.rules.iter().map(|rule| format!("{}{}", if rule.foreign { "foreign: " } else { "" }, rule_words(rule))),
        );
        let lines = texts.iter().flat_map(|text| self.folded(MORE, text, ""));
        lines.map(|line| self.coloured(Colour::Faint, &line)).collect()
    }

    /// By default one line for all of the way back: where NAT was undone first, and where else.
    fn back(&self, story: &Story) -> Vec<Hop> {
        let shown: Vec<&Hop> = story.back.iter().filter(|hop| self.shows(hop)).collect();
        if self.style.verbose {
            return shown.into_iter().cloned().collect();
        }
        let undone: Vec<&&Hop> = shown.iter().filter(|hop| hop.change.is_some()).collect();
        let plain = || {
            let last = story.back.last()?;
            (shown.is_empty() && story.verdict.end == End::Delivered).then(|| {
                let says = match last.flow {
                    Some(_) => "unchanged; later packets meet no rule of a nat table either",
                    None => "unchanged: conntrack does not see it",
                };
                Hop::new(Stage::Conntrack, says)
            })
        };
        let Some(first) = undone.first() else { return shown.iter().copied().cloned().chain(plain()).collect() };
        let mut line = (**first).clone();
        let elsewhere: Vec<String> =
            undone[1..].iter().filter_map(|hop| hop.node.as_ref()).map(ToString::to_string).collect();
        if !elsewhere.is_empty() {
            line.says.push_str(&format!("; then by that of {}", words::list(&elsewhere, 3)));
        }
        let ends = shown.iter().filter(|hop| hop.stage == Stage::End || (hop.change.is_none() && !hop.quiet));
        [line].into_iter().chain(ends.map(|hop| (*hop).clone())).collect()
    }

    /// `text` behind `prefix`, folded at words; `beside` at the right end of the last line where it fits, else below.
    fn folded(&self, prefix: &str, text: &str, beside: &str) -> Vec<String> {
        let indent = " ".repeat(columns(prefix));
        let room = self.style.width.saturating_sub(columns(prefix)).max(10);
        let mut lines: Vec<String> = Vec::new();
        let mut line = String::new();
        for word in text.split_whitespace() {
            if !line.is_empty() && columns(&line) + 1 + columns(word) > room {
                lines.push(std::mem::take(&mut line));
            }
            if !line.is_empty() {
                line.push(' ');
            }
            line.push_str(word);
        }
        lines.push(line);
        let last = lines.last_mut().expect("a line was pushed above");
        let used = columns(last) + columns(prefix);
        let fits = used + 2 + columns(beside) <= self.style.width;
        match (beside.is_empty(), fits) {
            (true, _) => {}
            (false, true) => {
                let gap = self.style.width - used - columns(beside);
                last.push_str(&format!("{}{beside}", " ".repeat(gap)));
            }
            (false, false) => {
                let short = shortened(beside, self.style.width.saturating_sub(used + 2));
                if !short.is_empty() {
                    let gap = self.style.width - used - columns(&short);
                    last.push_str(&format!("{}{short}", " ".repeat(gap)));
                }
            }
        }
        let with_prefix = |(at, line): (usize, String)| format!("{}{line}", if at == 0 { prefix } else { &indent });
        lines.into_iter().enumerate().map(with_prefix).map(|line| line.trim_end().to_owned()).collect()
    }

    fn coloured(&self, colour: Colour, text: &str) -> String {
        let code = match colour {
            Colour::Bold => 1,
            Colour::Faint => 2,
            Colour::Green => 32,
            Colour::Red => 31,
        };
        if self.style.colours { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }
}

/// The last of `[first second third]` that fits into so many columns, the very last cut if need be; all stand below their
/// rules with `-v`.
fn shortened(chains: &str, room: usize) -> String {
    let names: Vec<&str> = chains.trim_matches(['[', ']']).split(' ').collect();
    let fewer = (1..names.len()).map(|from| format!("[… {}]", names[from..].join(" ")));
    if let Some(text) = fewer.into_iter().find(|text| columns(text) <= room) {
        return text;
    }
    let last = names.last().copied().unwrap_or_default();
    match room {
        0..LEAST => String::new(),
        _ => format!("[{}…]", last.chars().take(room - 3).collect::<String>()),
    }
}

fn rule_words(rule: &RuleLine) -> String {
    format!("{} {}: {}", rule.table, rule.chain, rule.text)
}

fn choice_words(choice: &Choice) -> String {
    let pod = choice.pod.as_ref().map(|pod| format!(" {pod}")).unwrap_or_default();
    let node = choice.node.as_ref().map(|node| format!(" on {node}")).unwrap_or_default();
    let mark = if choice.taken { "taken" } else { "other" };
    match &choice.left_out {
        Some(why) => format!("left out {}{pod}{node}: {why}", choice.endpoint),
        None => format!("{mark} {}{pod}{node}, chance {:.0} %", choice.endpoint, choice.chance * 100.0),
    }
}

/// Columns that text takes; every letter of ours takes one.
fn columns(text: &str) -> usize {
    text.chars().count()
}
