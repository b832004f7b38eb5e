//! `template`: records made from the name that is asked for, by patterns and texts.
//!
//! ```text
//!  name, type, zone ──► the first template that fits ──► texts filled in ──► zone-file lines ──► records
//! ```
//!
//! As CoreDNS: templates of other zones and types are passed over; one whose patterns all miss lets the query go on only if
//! its `fallthrough` says so, else it is SERVFAIL, as is a text that makes no record. An alias asked for by address is
//! resolved on.
//!
//! The texts are Go's, of which single values are read here: `{{ .Name }}`, `{{ .Group.x }}`, `{{ index .Match 1 }}`,
//! `{{ parseInt .Group.x 16 8 }}` and the like, with `-` for white space that is cut.

use std::borrow::Cow;
use std::net::IpAddr;

use super::{Said, Zones};
use crate::answer::Alias;
use crate::build::{Reply, Rr};
use crate::corefile::config::{Fallthrough, Pattern, TemplateConfig};
use crate::master::{RecordError, record};
use crate::message::Record;
use crate::name::{MAX_NAME, Name, key_into};
use crate::rdata::{Rdata, Rtype};
use crate::wire::{CLASS_ANY, Query, Rcode};

/// A block's templates, in order.
#[derive(Clone, Debug)]
pub struct Templates {
    /// Of all of them: a name in none is nobody's business here.
    zones: Zones,
    templates: Vec<Template>,
}

#[derive(Clone, Debug)]
struct Template {
    zones: Zones,
    rtype: Rtype,
    matches: Vec<Pattern>,
    answers: Vec<Text>,
    additional: Vec<Text>,
    authority: Vec<Text>,
    rcode: Rcode,
    fallthrough: Fallthrough,
}

impl Templates {
    /// `None` without templates. Texts that cannot be read were told of by the reader of the file; here they are SERVFAIL.
    pub fn prepare(configs: &[TemplateConfig], zones: &[Name]) -> Option<Self> {
        let templates: Vec<Template> = configs.iter().map(|config| Template::prepare(config, zones)).collect();
        let all: Vec<Name> = configs.iter().flat_map(|config| config.zones.iter().cloned()).collect();
        let blocks = configs.iter().any(|config| config.zones.is_empty()).then_some(zones);
        let all = [all.as_slice(), blocks.unwrap_or_default()].concat();
        (!templates.is_empty()).then(|| Self { zones: Zones::of(&all, &[]), templates })
    }

    /// What the first template that fits says.
    pub fn say(&self, query: &Query<'_>, client: IpAddr) -> Said<'static> {
        let mut buffer = [0; MAX_NAME];
        let key = key_into(query.name, &mut buffer);
        if self.zones.holding(key).is_none() {
            return Said::Next;
        }
        let Some(owner) = Name::from_wire(query.name) else { return Said::Next };
        let name = owner.to_string().to_ascii_lowercase();
        for template in &self.templates {
            let Some(zone) = template.zones.holding(key).filter(|_| template.is_for(query.rtype)) else { continue };
            let Some(values) = template.values(&name, zone, query, client) else {
                match template.fallthrough.lets(query.name) {
                    true => continue,
                    false => return Said::Reply(Reply::new(Rcode::SERVFAIL)),
                }
            };
            return template.answer(&values, query.rtype).unwrap_or(Said::Reply(Reply::new(Rcode::SERVFAIL)));
        }
        Said::Next
    }
}

impl Template {
    fn prepare(config: &TemplateConfig, zones: &[Name]) -> Self {
        let texts = |texts: &[String]| -> Vec<Text> {
            texts.iter().map(|text| Text::read(text).unwrap_or_else(|_| Text(vec![Part::Nothing]))).collect()
        };
        Self {
            zones: Zones::of(&config.zones, zones),
            rtype: config.rtype,
            matches: config.matches.clone(),
            answers: texts(&config.answers),
            additional: texts(&config.additional),
            authority: texts(&config.authority),
            rcode: config.rcode,
            fallthrough: config.fallthrough.clone(),
        }
    }

    fn is_for(&self, rtype: Rtype) -> bool {
        self.rtype == Rtype::ANY || rtype == Rtype::ANY || self.rtype == rtype
    }

    /// What can be filled in; `None` if no pattern fits.
    fn values(&self, name: &str, zone: &Name, query: &Query<'_>, client: IpAddr) -> Option<Values> {
        let groups = match self.matches.is_empty() {
            true => vec![(None, name.to_owned())],
            false => self.matches.iter().find_map(|pattern| groups(pattern, name))?,
        };
        let rtype = if query.rtype == Rtype::ANY { self.rtype } else { query.rtype };
        Some(Values {
            name: name.to_owned(),
            zone: zone.to_string(),
            class: if query.class == CLASS_ANY { "ANY" } else { "IN" },
            rtype: rtype.to_string(),
            remote: client.to_canonical().to_string(),
            groups,
        })
    }

    /// `None`: a text made no record.
    fn answer(&self, values: &Values, rtype: Rtype) -> Option<Said<'static>> {
        if self.rcode == Rcode::SERVFAIL {
            return None;
        }
        let fill = |texts: &[Text]| -> Option<Vec<Record>> {
            texts.iter().map(|text| record(&text.fill(values)?).ok()).collect()
        };
        let answers = fill(&self.answers)?;
        if let Some(links) = links(&answers).filter(|_| matches!(rtype, Rtype::A | Rtype::AAAA)) {
            return Some(Said::Alias(links));
        }
        let rrs = |records: Vec<Record>| -> Vec<Rr<'static>> {
            let rr =
                |record: Record| Rr::internet(&record.owner, record.rtype, record.ttl_secs, Cow::Owned(record.data));
            records.into_iter().map(rr).collect()
        };
        Some(Said::Reply(Reply {
            authoritative: true,
            recursion_available: true,
            answers: rrs(answers),
            additional: rrs(fill(&self.additional)?),
            authority: rrs(fill(&self.authority)?),
            ..Reply::new(self.rcode)
        }))
    }
}

/// The records as a chain of aliases, if that is what they are.
fn links(answers: &[Record]) -> Option<Vec<Alias>> {
    let link = |record: &Record| match &record.data {
        Rdata::Cname(target) => {
            Some(Alias { owner: record.owner.clone(), target: target.clone(), ttl_secs: record.ttl_secs })
        }
        _ => None,
    };
    answers.iter().map(link).collect::<Option<Vec<Alias>>>().filter(|links| !links.is_empty())
}

/// The groups of a pattern in a name, each with its own name if it has one; a group that took no part is empty.
fn groups(pattern: &Pattern, name: &str) -> Option<Vec<(Option<String>, String)>> {
    let found = pattern.regex.captures(name)?;
    let names = pattern.regex.capture_names().map(|name| name.map(str::to_owned));
    let texts = found.iter().map(|group| group.map_or(String::new(), |group| group.as_str().to_owned()));
    Some(names.zip(texts).collect())
}

/// What a text may be filled with.
struct Values {
    name: String,
    zone: String,
    class: &'static str,
    rtype: String,
    remote: String,
    groups: Vec<(Option<String>, String)>,
}

/// A text with places to fill in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Text(Vec<Part>);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    Literal(String),
    Name,
    Zone,
    Class,
    Type,
    Remote,
    /// By number or name.
    Group(String),
    /// `parseInt VALUE BASE BITS`.
    ParseInt(Box<Part>, u32, u32),
    /// Makes no record.
    Nothing,
}

impl Text {
    /// Reads a text; says what in it is not understood.
    pub fn read(text: &str) -> Result<Self, String> {
        let mut parts = Vec::new();
        let mut rest = text;
        let mut cuts_next = false;
        while let Some((before, tail)) = rest.split_once("{{") {
            let (action, after) = tail.split_once("}}").ok_or("`{{` is never closed; close it with }}")?;
            let cuts_before = action.starts_with("- ");
            parts.push(literal(before, cuts_next, cuts_before));
            let bare = action.strip_prefix("- ").unwrap_or(action);
            cuts_next = bare.ends_with(" -");
            parts.push(part(bare.strip_suffix(" -").unwrap_or(bare).trim())?);
            rest = after;
        }
        parts.push(literal(rest, cuts_next, false));
        parts.retain(|part| *part != Part::Literal(String::new()));
        Ok(Self(parts))
    }

    /// Says what is wrong with it, as far as that can be known before a query: groups that no pattern has; a text that is
    /// no record whatever is asked.
    pub fn check(&self, matches: &[Pattern]) -> Result<(), String> {
        let groups = self.0.iter().filter_map(Part::group);
        let mut uses_groups = false;
        for group in groups {
            uses_groups = true;
            let is_known = |pattern: &Pattern| match group.parse::<usize>() {
                Ok(number) => number < pattern.regex.captures_len(),
                Err(_) => pattern.regex.capture_names().flatten().any(|name| name == group),
            };
            let is_whole = matches.is_empty() && group == "0";
            if !is_whole && !matches.iter().any(is_known) {
                return Err(format!("there is no group {group} in any `match` of this template"));
            }
        }
        let sample = Values {
            name: "name.example.".into(),
            zone: "example.".into(),
            class: "IN",
            rtype: "A".into(),
            remote: "192.0.2.1".into(),
            // Groups by name get this text too: see `fill_group`.
            groups: (0..100).map(|_| (None, "1".into())).collect(),
        };
        let Some(line) = self.fill_sample(&sample) else { return Err("it makes no record".into()) };
        match record(&line) {
            Ok(_) => Ok(()),
            // What a group will be is not known: an address, a name, a number.
            Err(RecordError::Data(_)) if uses_groups || self.0.iter().any(Part::is_open) => Ok(()),
            Err(error) => Err(error.to_string()),
        }
    }

    fn fill(&self, values: &Values) -> Option<String> {
        self.0.iter().map(|part| part.fill(values)).collect()
    }

    /// As [`fill`](Self::fill), with each group a `1`.
    fn fill_sample(&self, values: &Values) -> Option<String> {
        let fill = |part: &Part| match part {
            Part::Group(_) | Part::ParseInt(..) => Some("1".to_owned()),
            other => other.fill(values),
        };
        self.0.iter().map(fill).collect()
    }
}

fn literal(text: &str, cuts_start: bool, cuts_end: bool) -> Part {
    let text = if cuts_start { text.trim_start() } else { text };
    Part::Literal(if cuts_end { text.trim_end() } else { text }.to_owned())
}

fn part(action: &str) -> Result<Part, String> {
    let words: Vec<&str> = action.split_whitespace().collect();
    match words.as_slice() {
        ["parseInt", value @ .., base, bits] if !value.is_empty() => {
            let base = base.parse().ok().filter(|base| (2..=36).contains(base));
            let bits = bits.parse().ok().filter(|bits| (1..=64).contains(bits));
            let (Some(base), Some(bits)) = (base, bits) else {
                return Err(format!(
                    "`{{{{ {action} }}}}`: parseInt takes a value, a base from 2 to 36 and 1 to 64 bits"
                ));
            };
            let value = value.join(" ");
            let value = value.strip_prefix('(').and_then(|value| value.strip_suffix(')')).unwrap_or(&value);
            Ok(Part::ParseInt(Box::new(part(value)?), base, bits))
        }
        [".Name"] => Ok(Part::Name),
        [".Zone"] => Ok(Part::Zone),
        [".Class"] => Ok(Part::Class),
        [".Type"] => Ok(Part::Type),
        [".Remote"] => Ok(Part::Remote),
        [one] if one.strip_prefix(".Group.").is_some_and(|name| !name.is_empty()) => {
            Ok(Part::Group(one[".Group.".len()..].to_owned()))
        }
        ["index", ".Match", number] if number.parse::<usize>().is_ok() => Ok(Part::Group((*number).to_owned())),
        ["index", ".Group", name] => Ok(Part::Group(name.trim_matches(['"', '`']).to_owned())),
        _ => Err(format!(
            "`{{{{ {action} }}}}` is not done here: what may stand there is .Name, .Zone, .Class, .Type, .Remote, .Group.x, \
             index .Match 1, parseInt .Group.x 16 8"
        )),
    }
}

impl Part {
    /// The group that it takes.
    fn group(&self) -> Option<&str> {
        match self {
            Self::Group(group) => Some(group),
            Self::ParseInt(value, ..) => value.group(),
            _ => None,
        }
    }

    /// Whether data behind it may be of any form: its type is the query's.
    fn is_open(&self) -> bool {
        matches!(self, Self::Type | Self::Remote)
    }

    fn fill(&self, values: &Values) -> Option<String> {
        Some(match self {
            Self::Literal(text) => text.clone(),
            Self::Name => values.name.clone(),
            Self::Zone => values.zone.clone(),
            Self::Class => values.class.to_owned(),
            Self::Type => values.rtype.clone(),
            Self::Remote => values.remote.clone(),
            Self::Group(group) => fill_group(group, values),
            Self::ParseInt(value, base, bits) => {
                let number = u64::from_str_radix(&value.fill(values)?, *base).ok()?;
                (*bits == 64 || number >> bits == 0).then(|| number.to_string())?
            }
            Self::Nothing => return None,
        })
    }
}

/// A group's text; one that the pattern which fits does not have is empty, as in Go.
fn fill_group(group: &str, values: &Values) -> String {
    let by_number = group.parse().ok().and_then(|number: usize| values.groups.get(number));
    let by_name = || values.groups.iter().find(|(name, _)| name.as_deref() == Some(group));
    by_number.or_else(by_name).map_or(String::new(), |(_, text)| text.clone())
}
