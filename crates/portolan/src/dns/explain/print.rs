//! A lookup as text. Pure.

use std::fmt::Write;

use portolan_dns::explain::{Ending, Explanation, Step, Told};

use super::Said;

/// The whole answer.
pub(super) fn text(said: &Said) -> String {
    let told = &said.told;
    let mut out = String::new();
    write(&mut out, format_args!("{}\n", head(said)));
    if !told.asker.search.is_empty() {
        write(&mut out, format_args!("  search {}, ndots:{}\n", plain(&told.asker.search), told.asker.ndots));
    }
    if let Some(asked) = told.asker.asked {
        write(&mut out, format_args!("  so far {}, {} in vain\n", counted_long(asked.queries), asked.wasted));
    }
    for (number, step) in told.steps.iter().enumerate() {
        step_text(&mut out, number + 1, step);
    }
    write(&mut out, format_args!("{}\n", foot(told)));
    for advice in &told.advice {
        write(&mut out, format_args!("! {}\n  {}\n", advice.found, advice.mend));
    }
    out
}

fn write(out: &mut String, words: std::fmt::Arguments<'_>) {
    out.write_fmt(words).expect("writing to a String cannot fail");
}

fn head(said: &Said) -> String {
    let asker = &said.told.asker;
    let who = asker.pod.as_ref().map_or("somebody".to_owned(), |pod| format!("Pod {pod}"));
    let address = asker.address.map(|address| format!(" ({address})")).unwrap_or_default();
    let node = said.node.as_ref().map(|node| format!(" on {node}")).unwrap_or_default();
    format!("{who}{address}{node} looks up {}", said.told.name)
}

/// Domains without the final dot, as resolv.conf has them.
fn plain(domains: &[String]) -> String {
    let plain: Vec<&str> = domains.iter().map(|domain| domain.strip_suffix('.').unwrap_or(domain)).collect();
    plain.join(" ")
}

fn step_text(out: &mut String, number: usize, step: &Step) {
    write(out, format_args!("{number}. {}\n", step.name));
    let mut rest: &[Told] = &step.questions;
    while let Some(first) = rest.first() {
        // Types that end alike are told once.
        let alike = 1 + rest[1..].iter().take_while(|told| is_alike(first, told)).count();
        let types: Vec<&str> = rest[..alike].iter().map(|told| told.rtype.as_str()).collect();
        question_text(out, &types.join(", "), first);
        rest = &rest[alike..];
    }
}

fn is_alike(a: &Told, b: &Told) -> bool {
    a.outcome != Ending::Records && Told { rtype: b.rtype.clone(), ..a.clone() } == *b
}

fn question_text(out: &mut String, types: &str, told: &Told) {
    let by = match (told.plugin.is_empty(), told.block.is_empty()) {
        (true, true) => String::new(),
        (true, false) => format!(", by {}", told.block),
        (false, true) => format!(", by {}", told.plugin),
        (false, false) => format!(", by {} of {}", told.plugin, told.block),
    };
    let why = if told.reason.is_empty() { String::new() } else { format!(": {}", told.reason) };
    write(out, format_args!("   {types}  {}{by}{why}\n", ending(told)));
    for record in &told.records {
        let (owner, ttl_secs, rtype) = (&record.owner, record.ttl_secs, &record.rtype);
        write(out, format_args!("     {owner} {ttl_secs} IN {rtype} {}\n", record.data));
    }
    if !told.objects.is_empty() {
        write(out, format_args!("     from {}\n", told.objects.join(", ")));
    }
}

fn ending(told: &Told) -> String {
    match told.outcome {
        Ending::Records => counted(told.records.len(), "record", "records"),
        Ending::NoData => "NODATA".to_owned(),
        Ending::NoSuchName => "NXDOMAIN".to_owned(),
        Ending::Error => told.rcode.clone(),
        Ending::Silence => "no reply".to_owned(),
        Ending::Upstream if told.upstreams.is_empty() => "passed on".to_owned(),
        Ending::Upstream => format!("passed on to {}", told.upstreams.join(", ")),
    }
}

fn foot(told: &Explanation) -> String {
    let last = told.steps.last().map_or(&told.name, |step| &step.name);
    let is_passed_on =
        told.steps.last().is_some_and(|step| step.questions.iter().any(|told| told.outcome == Ending::Upstream));
    let end = match (told.resolved, is_passed_on) {
        (true, _) => format!("resolved as {last}"),
        (false, true) => format!("whether {last} resolves is the upstream's word"),
        (false, false) => "not resolved".to_owned(),
    };
    let waste = match told.wasted_queries {
        0 => String::new(),
        n => format!(", {} in vain", counted(n, "query", "queries")),
    };
    let help = match (told.autopath.saves_queries, told.autopath.acts) {
        (0, _) => String::new(),
        (n, true) => format!("; autopath saves {n} of them"),
        (n, false) => format!("; autopath would save {n} of them"),
    };
    end + &waste + &help
}

fn counted_long(queries: u64) -> String {
    format!("{queries} {}", if queries == 1 { "query" } else { "queries" })
}

fn counted(n: usize, one: &str, many: &str) -> String {
    format!("{n} {}", if n == 1 { one } else { many })
}
