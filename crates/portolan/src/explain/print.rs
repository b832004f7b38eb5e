//! Printing what is foreseen: for people, or as JSON of a schema whose fields are only ever added to.

use std::collections::BTreeSet;
use std::io::Write;

use portolan_model::verdict::Outcome;
use portolan_story::change::differences as differing;
use portolan_story::foresee::Landing;
use portolan_story::story::End;
use portolan_story::text::render;
use serde_json::{Value, json};

use crate::explain::ExplainArgs;
use crate::explain::cluster::Seen;
use crate::explain::question::{Answer, Told};
use crate::failure::Failure;
use crate::settings::OutputFormat;
use crate::trace::style;

/// Version of what `--output json` prints.
const SCHEMA: &str = "portolan.explain/v1";

/// Prints every way of one packet; the story is that of the first way that ends badly, else of the likeliest.
///
/// # Errors
/// Exit code 1 without a further message, unless every way is delivered.
pub fn answer(answer: &Answer, args: &ExplainArgs) -> Result<(), Failure> {
    match args.output {
        OutputFormat::Json => say(&json!({ "schema": SCHEMA, "ways": ways(answer) })),
        OutputFormat::Text => say_text(&text(answer, args)),
    }
    yes_or_no(answer.all_delivered())
}

/// Prints one packet before a change and after it.
///
/// # Errors
/// Exit code 1 without a further message, unless every way after the change is delivered. Or why neither can be known.
pub fn both(
    before: &Result<Answer, Failure>,
    after: &Result<Answer, Failure>,
    notes: &[String],
    args: &ExplainArgs,
) -> Result<(), Failure> {
    if let (Err(then), Err(_)) = (before, after) {
        return Err(Failure::input(then));
    }
    let side = |answer: &Result<Answer, Failure>| match answer {
        Ok(answer) => json!({ "ways": ways(answer) }),
        Err(why) => json!({ "unknown": why.to_string() }),
    };
    let in_words = |answer: &Result<Answer, Failure>| match answer {
        Ok(answer) => text(answer, args),
        Err(why) => format!("{why}\n"),
    };
    match args.output {
        OutputFormat::Json => say(&json!({
            "schema": SCHEMA, "before": side(before), "after": side(after), "changes": changes(before, after), "notes": notes,
        })),
        OutputFormat::Text => {
            let changed = changes(before, after);
            let verdict =
                if changed.is_empty() { "nothing changes for this packet".to_owned() } else { changed.join("\n  ") };
            let notes: String = notes.iter().map(|note| format!("Note: {note}\n")).collect();
            say_text(&format!(
                "now\n{}\nwith the change\n{}\nchanged\n  {verdict}\n{notes}",
                in_words(before),
                in_words(after)
            ));
        }
    }
    yes_or_no(after.as_ref().is_ok_and(Answer::all_delivered))
}

/// Prints every flow class that a change would change.
///
/// # Errors
/// None for the answer: a change may change nothing, or everything.
pub fn differences(before: &Seen, after: &Seen, args: &ExplainArgs) -> Result<(), Failure> {
    let found = differing(&before.world, &after.world);
    let (gone, new) = names(before, after);
    match args.output {
        OutputFormat::Json => say(&json!({
            "schema": SCHEMA, "flows": found, "names": { "gone": gone, "new": new }, "notes": after.notes,
        })),
        OutputFormat::Text => {
            let mut lines: Vec<String> = found.iter().map(|difference| difference.to_string()).collect();
            lines.extend(gone.iter().filter(|record| leads_on(record)).map(|record| format!("name gone  {record}")));
            lines.extend(new.iter().filter(|record| leads_on(record)).map(|record| format!("name new   {record}")));
            if lines.is_empty() {
                lines.push("no flow changes".to_owned());
            }
            lines.extend(after.notes.iter().map(|note| format!("Note: {note}")));
            say_text(&(lines.join("\n") + "\n"));
        }
    }
    Ok(())
}

/// Records of the cluster's zones that would go, and that would come.
fn names(before: &Seen, after: &Seen) -> (Vec<String>, Vec<String>) {
    let records = |seen: &Seen| -> BTreeSet<String> {
        let text = seen.records.dump();
        let record = |line: &str| line.split(';').next().unwrap_or_default().trim().to_owned();
        text.lines().map(record).filter(|line| !line.is_empty() && !line.contains(" SOA ")).collect()
    };
    let (then, now) = (records(before), records(after));
    (then.difference(&now).cloned().collect(), now.difference(&then).cloned().collect())
}

/// What programs ask for; the records that follow from it are for JSON.
fn leads_on(record: &str) -> bool {
    [" A ", " AAAA ", " CNAME "].iter().any(|rtype| record.contains(rtype))
}

/// What differs for one packet, a line each.
fn changes(before: &Result<Answer, Failure>, after: &Result<Answer, Failure>) -> Vec<String> {
    let lines = |answer: &Result<Answer, Failure>| -> BTreeSet<String> {
        let Ok(answer) = answer else { return BTreeSet::from(["it cannot be sent".to_owned()]) };
        answer.ways.iter().map(line).collect()
    };
    let (then, now) = (lines(before), lines(after));
    let gone = then.difference(&now).map(|line| format!("- {line}"));
    gone.chain(now.difference(&then).map(|line| format!("+ {line}"))).collect()
}

fn text(answer: &Answer, args: &ExplainArgs) -> String {
    let shown = answer.ways.iter().find(|told| !told.story.verdict.end.is_yes()).or(answer.ways.first());
    let Some(shown) = shown else { return String::new() };
    let mut text = render(&shown.story, style(args.verbose));
    let ends: BTreeSet<End> = answer.ways.iter().map(|told| told.story.verdict.end).collect();
    if ends.len() > 1 || (args.verbose && answer.ways.len() > 1) {
        text.push_str("ways\n");
        answer.ways.iter().for_each(|told| text.push_str(&format!("  {}\n", line(told))));
    }
    text
}

/// `50 %  delivered to default/web-1 10.244.0.6:8080 on node-1`
fn line(told: &Told) -> String {
    let end = told.story.verdict.end.word();
    let Some(way) = &told.way else { return end.to_owned() };
    let place = match &way.landing {
        Landing::Pod { pod: Some(pod), node, at } => format!(" pod {pod} {at} on {node}"),
        Landing::Pod { pod: None, node, at } | Landing::Node { node, at } => format!(" {at} on {node}"),
        Landing::Outside(at) | Landing::Away(at) => format!(" {at}"),
        Landing::Stopped { node, .. } => format!(" on {node}"),
        Landing::Nowhere { node: Some(node), to } => format!(" to {to} from {node}"),
        Landing::Nowhere { node: None, to } => format!(" to {to}"),
    };
    format!("{:>3.0} %  {end}{place}", way.chance * 100.0)
}

fn ways(answer: &Answer) -> Vec<Value> {
    let one = |told: &Told| {
        let way = told.way.as_ref();
        let outcomes: Vec<Value> = way
            .iter()
            .flat_map(|way| &way.outcomes)
            .map(|(node, outcome): &(_, Outcome)| json!({ "node": node, "outcome": outcome }))
            .collect();
        let (pod, node) = match way.map(|way| &way.landing) {
            Some(Landing::Pod { pod, node, .. }) => (pod.as_ref(), Some(node)),
            Some(Landing::Node { node, .. } | Landing::Stopped { node, .. }) => (None, Some(node)),
            _ => (None, None),
        };
        json!({
            "chance": way.map_or(1.0, |way| way.chance),
            "end": told.story.verdict.end,
            "at": way.and_then(|way| way.landing.at()),
            "pod": pod,
            "node": node,
            "outcomes": outcomes,
            "story": told.story,
        })
    };
    answer.ways.iter().map(one).collect()
}

fn yes_or_no(is_yes: bool) -> Result<(), Failure> {
    if is_yes { Ok(()) } else { Err(Failure::silent(1)) }
}

fn say(value: &Value) {
    say_text(&format!("{value:#}\n"));
}

/// A reader that has seen enough (`| head`) closes the pipe; the answer is in the exit code all the same.
fn say_text(text: &str) {
    let _ = std::io::stdout().write_all(text.as_bytes());
}
