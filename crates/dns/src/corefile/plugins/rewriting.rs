//! `rewrite` and `template`: the plugins with patterns.

use super::super::config::{
    AnswerRewrite, AnswerRule, Block, Fallthrough, NameMatch, Pattern, Rewrite, RewriteRule, TemplateConfig,
};
use super::super::lex::Word;
use super::super::tree::Entry;
use super::super::words::{name, pattern, problem, rcode, rtype, zones};
use super::super::{Problem, Told};
use super::each_option;
use crate::plugin::template::Text;
use crate::wire::Rcode;

const MATCHES: &str = "exact, prefix, suffix, substring, regex";

pub(super) fn rewrite(entry: &Entry, block: &mut Block) -> Result<(), Problem> {
    let mut words: Vec<&Word> = entry.args().iter().collect();
    // A rule may stand in braces, over several lines.
    if words.len() < 2 {
        entry.options().iter().try_for_each(Entry::plain)?;
        words.extend(entry.options().iter().flat_map(|option| &option.words));
    } else {
        entry.plain()?;
    }
    let goes_on = words.first().is_some_and(|word| word.text.eq_ignore_ascii_case("continue"));
    if goes_on || words.first().is_some_and(|word| word.text.eq_ignore_ascii_case("stop")) {
        words.remove(0);
    }
    let Some((kind, args)) = words.split_first() else {
        return Err(entry.wrong("`rewrite` needs a rule, such as `rewrite name FROM TO`"));
    };
    let change = match kind.text.to_ascii_lowercase().as_str() {
        "name" => name_rule(kind, args)?,
        "type" => type_rule(kind, args)?,
        "ttl" => ttl_rule(kind, args)?,
        "rcode" => code_rule(kind, args)?,
        "answer" => return Err(problem(kind, "`rewrite answer`: what changes answers stands behind a `name` rule")),
        "class" | "edns0" | "cname" => {
            let what = format!("`rewrite {}` is not done here: take it out; see docs/dns-corefile.md", kind.text);
            return Err(problem(kind, what));
        }
        other => {
            let what = format!("`rewrite {other}`: what may stand there is name, type, ttl, rcode");
            return Err(problem(kind, what));
        }
    };
    block.rewrites.push(RewriteRule { goes_on, change });
    Ok(())
}

fn name_rule(kind: &Word, args: &[&Word]) -> Result<Rewrite, Problem> {
    let (how, from, to, answers) = match args {
        [] | [_] => return Err(problem(kind, "`rewrite name` needs a name and what to ask instead")),
        [from, to] => (None, *from, *to, &[][..]),
        [how, from, to, answers @ ..] => (Some(*how), *from, *to, answers),
    };
    let from_word = from;
    let from = name_match(how, from)?;
    let groups = match &from {
        NameMatch::Regex(pattern) => pattern.regex.captures_len() - 1,
        _ => 0,
    };
    check_groups(to, groups)?;
    let text = fully(&to.text);
    // A name that stands there whole can be judged now; one with groups only when it is asked.
    if matches!(from, NameMatch::Exact(_)) {
        name(&Word { text: text.clone(), ..to.clone() })?;
    }
    let answers = match (answers, &from) {
        // Of a whole name CoreDNS changes back everything, without being told.
        ([], NameMatch::Exact(_)) => AnswerRewrite::Auto,
        ([], _) => AnswerRewrite::Back,
        (words, _) => answer_rules(from_word, words)?,
    };
    Ok(Rewrite::Name { from, to: text, answers })
}

/// In lower case with its final dot, as CoreDNS compares and fills in.
fn fully(text: &str) -> String {
    let lower = text.to_ascii_lowercase();
    if lower.ends_with('.') { lower } else { lower + "." }
}

fn name_match(how: Option<&Word>, from: &Word) -> Result<NameMatch, Problem> {
    let kind = how.map_or("exact".to_owned(), |word| word.text.to_ascii_lowercase());
    Ok(match kind.as_str() {
        "exact" => NameMatch::Exact(name(from)?),
        "prefix" => NameMatch::Prefix(fully(&from.text)),
        "suffix" => NameMatch::Suffix(fully(&from.text)),
        "substring" => NameMatch::Substring(fully(&from.text)),
        "regex" => NameMatch::Regex(pattern(from)?),
        other => return Err(problem(how.unwrap_or(from), format!("`{other}`: what may stand there is {MATCHES}"))),
    })
}

/// `{1}` and the like in `to` must be groups that there are.
fn check_groups(to: &Word, groups: usize) -> Result<(), Problem> {
    match (groups + 1..=100).find(|group| to.text.contains(&format!("{{{group}}}"))) {
        Some(group) => {
            let what = format!("`{}`: there is no group {group}; the pattern has {groups}", to.text);
            Err(problem(to, what))
        }
        None => Ok(()),
    }
}

/// `answer auto`, `answer name FROM TO`, `answer value FROM TO`; the word `answer` may be left out from the second on.
fn answer_rules(rule: &Word, words: &[&Word]) -> Result<AnswerRewrite, Problem> {
    let mut rest = words;
    let mut rules = Vec::new();
    let mut auto = false;
    if rest[0].text != "answer" {
        return Err(problem(
            rest[0],
            format!("`{}`: what may stand there is answer auto, answer name, answer value", rest[0].text),
        ));
    }
    while let Some((first, tail)) = rest.split_first() {
        let (kind, tail) = match (first.text.as_str(), tail.split_first()) {
            ("answer", Some((kind, tail))) => (*kind, tail),
            ("answer", None) => return Err(problem(first, "`answer` needs auto, name or value behind it")),
            _ => (*first, tail),
        };
        rest = match (kind.text.as_str(), tail) {
            ("auto", tail) => {
                auto = true;
                tail
            }
            ("name" | "value", [from, to, tail @ ..]) => {
                let from = pattern(from)?;
                check_groups(to, from.regex.captures_len() - 1)?;
                rules.push(AnswerRule { in_data: kind.text == "value", from, to: fully(&to.text) });
                tail
            }
            ("name" | "value", _) => {
                return Err(problem(kind, format!("`answer {}` needs a pattern and what to put", kind.text)));
            }
            _ => {
                return Err(problem(
                    kind,
                    format!("`answer {}`: what may stand there is auto, name, value", kind.text),
                ));
            }
        };
    }
    match (auto, rules.is_empty()) {
        (true, true) => Ok(AnswerRewrite::Auto),
        (true, false) => Err(problem(rule, "`answer auto` beside other `answer` rules; write one of the two")),
        (false, _) => Ok(AnswerRewrite::Rules(rules)),
    }
}

fn type_rule(kind: &Word, args: &[&Word]) -> Result<Rewrite, Problem> {
    match args {
        [from, to] => Ok(Rewrite::Type { from: rtype(from)?, to: rtype(to)? }),
        _ => Err(problem(kind, "`rewrite type` needs two types, such as `rewrite type ANY HINFO`")),
    }
}

fn ttl_rule(kind: &Word, args: &[&Word]) -> Result<Rewrite, Problem> {
    let (how, from, ttl) = match args {
        [from, ttl] => (None, *from, *ttl),
        [how, from, ttl] => (Some(*how), *from, *ttl),
        _ => {
            return Err(problem(
                kind,
                "`rewrite ttl` needs a name and seconds, such as `rewrite ttl example.com 30-300`",
            ));
        }
    };
    let (min_secs, max_secs) = ttl_range(&ttl.text).ok_or_else(|| {
        problem(ttl, format!("`{}`: seconds may stand there, such as 60, 30-300, 30-, -300", ttl.text))
    })?;
    Ok(Rewrite::Ttl { names: name_match(how, from)?, min_secs, max_secs })
}

/// `60`, `30-300`, `30-`, `-300`.
fn ttl_range(text: &str) -> Option<(u32, u32)> {
    let Some((least, most)) = text.split_once('-') else {
        let exact = text.parse().ok()?;
        return Some((exact, exact));
    };
    if least.is_empty() && most.is_empty() {
        return None;
    }
    let least = if least.is_empty() { 0 } else { least.parse().ok()? };
    let most = if most.is_empty() { 0x7fff_ffff } else { most.parse().ok()? };
    (least <= most).then_some((least, most))
}

fn code_rule(kind: &Word, args: &[&Word]) -> Result<Rewrite, Problem> {
    let (how, from, old, new) = match args {
        [from, old, new] => (None, *from, *old, *new),
        [how, from, old, new] => (Some(*how), *from, *old, *new),
        _ => {
            return Err(problem(
                kind,
                "`rewrite rcode` needs a name and two codes, such as `rewrite rcode example.com NXDOMAIN NOERROR`",
            ));
        }
    };
    Ok(Rewrite::Code { names: name_match(how, from)?, from: code(old)?, to: code(new)? })
}

/// A code by name or by number.
fn code(word: &Word) -> Result<Rcode, Problem> {
    match word.text.parse() {
        Ok(number @ 0..=10) => Ok(Rcode(number)),
        _ => rcode(word),
    }
}

pub(super) fn template(entry: &Entry, block: &mut Block, told: &mut Told) -> Result<(), Problem> {
    let [class, kind, names @ ..] = entry.args() else {
        return Err(entry.wrong("`template` needs a class and a type, such as `template IN AAAA`"));
    };
    if !["IN", "ANY"].contains(&class.text.to_ascii_uppercase().as_str()) {
        return Err(problem(class, format!("`template {}`: what may stand there is IN or ANY", class.text)));
    }
    let mut config = TemplateConfig {
        rtype: rtype(kind)?,
        zones: zones(names)?,
        matches: Vec::new(),
        answers: Vec::new(),
        additional: Vec::new(),
        authority: Vec::new(),
        rcode: Rcode::NOERROR,
        fallthrough: Fallthrough::Never,
    };
    each_option(entry, told, |option, told| template_option(&mut config, option, told));
    check_texts(&config, entry, told);
    block.templates.push(config);
    Ok(())
}

fn template_option(config: &mut TemplateConfig, option: &Entry, told: &mut Told) -> Result<(), Problem> {
    let texts = |option: &Entry| -> Result<Vec<String>, Problem> {
        Ok(option.some("a record as in a zone file, in quotes")?.iter().map(|word| word.text.clone()).collect())
    };
    match option.name() {
        "match" => {
            let patterns = option.some("a pattern")?.iter().map(pattern).collect::<Result<Vec<Pattern>, _>>()?;
            config.matches.extend(patterns);
        }
        "answer" => config.answers.extend(texts(option)?),
        "additional" => config.additional.extend(texts(option)?),
        "authority" => config.authority.extend(texts(option)?),
        "rcode" => config.rcode = rcode(option.one("a code such as NXDOMAIN")?)?,
        "fallthrough" => config.fallthrough = option.fallthrough()?,
        "upstream" => told.note(&option.place(), "`upstream` of `template` is not an option of CoreDNS any more"),
        "ederror" | "var" | "expr" => return Err(option.not_here("template", "take it out")),
        _ => {
            let known = "match, answer, additional, authority, rcode, fallthrough";
            return Err(option.unknown("template", known));
        }
    }
    Ok(())
}

/// Records that can be read now are; those with groups as far as it goes.
fn check_texts(config: &TemplateConfig, entry: &Entry, told: &mut Told) {
    let all = [("answer", &config.answers), ("additional", &config.additional), ("authority", &config.authority)];
    for (section, texts) in all {
        for text in texts {
            if let Err(why) = Text::read(text).and_then(|read| read.check(&config.matches)) {
                // The line of the option that holds it, for those who look for it.
                let holds =
                    |option: &&Entry| option.name() == section && option.args().iter().any(|word| word.text == *text);
                let place = entry.options().iter().find(holds).map_or_else(|| entry.place(), Entry::place);
                told.problem(&place, format!("`{section} \"{text}\"`: {why}"));
            }
        }
    }
}
