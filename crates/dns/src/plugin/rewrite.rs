//! `rewrite`: what is asked is changed before others see it, and what they say is changed back.
//!
//! ```text
//!  client: shop.example A ──► forward ──► web.shop.svc.cluster.local A ──► the pipeline
//!  client: shop.example A … ◄── back ◄──── web.shop.svc.cluster.local A … ◄───┘
//! ```
//!
//! Rules are tried once each, in order, on what the rules before left; the first that fits ends it unless it says
//! `continue`. So a rewrite cannot loop. The reply carries the client's question; its owners are changed back by what the
//! rule says, and an owner that is the changed name itself always is: a client takes no answer to a name it did not ask
//! for (there CoreDNS sends what most clients throw away).
//!
//! Names are compared as text in lower case with the final dot, as CoreDNS does. Spec: CoreDNS's page `rewrite`.

use std::borrow::Cow;

use crate::build::{Reply, Rr};
use crate::corefile::config::{AnswerRewrite, AnswerRule, NameMatch, Rewrite, RewriteRule};
use crate::master;
use crate::name::{Key, Name};
use crate::rdata::{Rdata, Rtype};
use crate::wire::Rcode;

/// A block's rules, in order.
#[derive(Clone, Debug)]
pub struct Rewrites(Vec<RewriteRule>);

/// What came of a question.
#[derive(Clone, Debug, PartialEq)]
pub enum Forwarded {
    /// No rule fits.
    Same,
    /// This is asked instead.
    Asked(Rewritten),
    /// A rule made what is no name: SERVFAIL.
    Broken,
}

/// What is asked instead, and how a reply is turned back.
#[derive(Clone, Debug, PartialEq)]
pub struct Rewritten {
    /// The name to ask for.
    pub name: Name,
    /// The type to ask for.
    pub rtype: Rtype,
    /// In the order of the rules; undone from the last to the first.
    undo: Vec<Undo>,
}

#[derive(Clone, Debug, PartialEq)]
enum Undo {
    /// Owners that are `from` become `to`.
    Owner {
        from: Key,
        to: Name,
    },
    /// Names at and below `from`, in owners and data, come to lie at and below `to`.
    Below {
        from: Key,
        to: Name,
    },
    /// Names that end so, in owners and data, end otherwise.
    Suffix {
        from: String,
        to: String,
    },
    Answer(AnswerRule),
    Ttl {
        min_secs: u32,
        max_secs: u32,
    },
    Code {
        from: Rcode,
        to: Rcode,
    },
}

impl Rewrites {
    /// `None` without rules.
    pub fn prepare(rules: &[RewriteRule]) -> Option<Self> {
        (!rules.is_empty()).then(|| Self(rules.to_vec()))
    }

    /// What is asked instead of `name` and `rtype`.
    pub fn forward(&self, name: &Name, rtype: Rtype) -> Forwarded {
        let mut asked = Rewritten { name: name.clone(), rtype, undo: Vec::new() };
        let mut text = name.to_string().to_ascii_lowercase();
        let mut any = false;
        for rule in &self.0 {
            let fits = match &rule.change {
                Rewrite::Name { from, to, answers } => match replaced(from, to, &text) {
                    Some(changed) => {
                        let Some(target) = master::name(&changed) else { return Forwarded::Broken };
                        asked.undo.extend(undo_of_name(from, to, answers, name, &target));
                        (asked.name, text) = (target, changed);
                        true
                    }
                    None => false,
                },
                Rewrite::Type { from, to } => {
                    let fits = asked.rtype == *from;
                    asked.rtype = if fits { *to } else { asked.rtype };
                    fits
                }
                Rewrite::Ttl { names, min_secs, max_secs } => {
                    let undo = Undo::Ttl { min_secs: *min_secs, max_secs: *max_secs };
                    asked.undo.extend(fits(names, &text).then_some(undo));
                    fits(names, &text)
                }
                Rewrite::Code { names, from, to } => {
                    asked.undo.extend(fits(names, &text).then_some(Undo::Code { from: *from, to: *to }));
                    fits(names, &text)
                }
            };
            any |= fits;
            if fits && !rule.goes_on {
                break;
            }
        }
        if any { Forwarded::Asked(asked) } else { Forwarded::Same }
    }
}

impl Rewritten {
    /// Turns a reply to what was asked into one to what the client asked.
    pub fn back(&self, reply: &mut Reply<'_>) {
        for undo in self.undo.iter().rev() {
            if let Undo::Code { from, to } = undo
                && reply.rcode == *from
            {
                reply.rcode = *to;
            }
            for section in [&mut reply.answers, &mut reply.authority, &mut reply.additional] {
                section.iter_mut().for_each(|rr| undo.apply(rr));
            }
        }
    }
}

impl Undo {
    fn apply(&self, rr: &mut Rr<'_>) {
        match self {
            Self::Owner { from, to } => {
                if rr.owner.key() == *from {
                    rr.owner = to.clone();
                }
            }
            Self::Below { from, to } => each_name(rr, |name| moved(name, from, to)),
            Self::Suffix { from, to } => each_name(rr, |name| {
                let text = name.to_string();
                let start = text.len().checked_sub(from.len())?;
                let is_end = text.is_char_boundary(start) && text[start..].eq_ignore_ascii_case(from);
                is_end.then(|| master::name(&format!("{}{to}", &text[..start])))?
            }),
            Self::Answer(rule) => {
                let change = |name: &Name| {
                    let text = name.to_string();
                    filled(&rule.from.regex, &rule.to, &text).and_then(|text| master::name(&text))
                };
                match rule.in_data {
                    true => change_data(rr, change),
                    false => rr.owner = change(&rr.owner).unwrap_or_else(|| rr.owner.clone()),
                }
            }
            Self::Ttl { min_secs, max_secs } => rr.ttl_secs = rr.ttl_secs.clamp(*min_secs, *max_secs),
            Self::Code { .. } => {}
        }
    }
}

/// How a name rule's change is undone; `client` asked, `target` is asked instead.
fn undo_of_name(from: &NameMatch, to: &str, answers: &AnswerRewrite, client: &Name, target: &Name) -> Vec<Undo> {
    let below = Undo::Below { from: target.key(), to: client.clone() };
    let mut undo = vec![match (from, answers) {
        // Of a whole name everything is changed back, whatever else is said.
        (NameMatch::Exact(_), _) => below,
        (NameMatch::Suffix(suffix), AnswerRewrite::Auto) => Undo::Suffix { from: to.to_owned(), to: suffix.clone() },
        (_, AnswerRewrite::Auto) => below,
        _ => Undo::Owner { from: target.key(), to: client.clone() },
    }];
    if let AnswerRewrite::Rules(rules) = answers {
        undo.extend(rules.iter().cloned().map(Undo::Answer));
    }
    undo
}

fn fits(names: &NameMatch, text: &str) -> bool {
    match names {
        NameMatch::Exact(name) => name.to_string().eq_ignore_ascii_case(text),
        NameMatch::Prefix(prefix) => text.starts_with(prefix),
        NameMatch::Suffix(suffix) => text.ends_with(suffix),
        NameMatch::Substring(part) => text.contains(part),
        NameMatch::Regex(pattern) => pattern.regex.is_match(text),
    }
}

/// The name `text` with what fits replaced; `None` if nothing fits.
fn replaced(from: &NameMatch, to: &str, text: &str) -> Option<String> {
    match from {
        NameMatch::Regex(pattern) => filled(&pattern.regex, to, text),
        _ if !fits(from, text) => None,
        NameMatch::Exact(_) => Some(to.to_owned()),
        NameMatch::Prefix(prefix) => Some(format!("{to}{}", &text[prefix.len()..])),
        NameMatch::Suffix(suffix) => Some(format!("{}{to}", &text[..text.len() - suffix.len()])),
        NameMatch::Substring(part) => Some(text.replace(part, to)),
    }
}

/// `to` with `{0}`, `{1}` and so on as the groups of the pattern in `text`; `None` if it does not fit.
fn filled(regex: &regex::Regex, to: &str, text: &str) -> Option<String> {
    let groups = regex.captures(text)?;
    let mut out = to.to_owned();
    for (number, group) in groups.iter().enumerate() {
        let place = format!("{{{number}}}");
        if out.contains(&place) {
            out = out.replace(&place, group.map_or("", |group| group.as_str()));
        }
    }
    Some(out)
}

/// `name` moved from below `from` to below `to`; `None` if it is not there, or gets too long.
fn moved(name: &Name, from: &Key, to: &Name) -> Option<Name> {
    let wire = name.as_wire();
    if !name.key().as_bytes().starts_with(from.as_bytes()) {
        return None;
    }
    let above = &wire[..wire.len() - 1 - from.as_bytes().len()];
    Name::from_wire(&[above, to.as_wire()].concat())
}

/// Changes the owner and the name in the data.
fn each_name(rr: &mut Rr<'_>, change: impl Fn(&Name) -> Option<Name>) {
    if let Some(owner) = change(&rr.owner) {
        rr.owner = owner;
    }
    change_data(rr, change);
}

/// Changes the name that the data of a record is about.
fn change_data(rr: &mut Rr<'_>, change: impl Fn(&Name) -> Option<Name>) {
    let changed = match &*rr.data {
        Rdata::Cname(name) => change(name).map(Rdata::Cname),
        Rdata::Ns(name) => change(name).map(Rdata::Ns),
        Rdata::Ptr(name) => change(name).map(Rdata::Ptr),
        Rdata::Srv { priority, weight, port, target } => {
            let [priority, weight, port] = [*priority, *weight, *port];
            change(target).map(|target| Rdata::Srv { priority, weight, port, target })
        }
        Rdata::Soa(soa) => change(&soa.mname).map(|mname| Rdata::Soa(crate::rdata::Soa { mname, ..soa.clone() })),
        Rdata::Raw(bytes) if rr.rtype == Rtype::MX && bytes.len() > 2 => {
            let host = Name::from_wire(&bytes[2..]).and_then(|host| change(&host));
            host.map(|host| Rdata::Raw([&bytes[..2], host.as_wire()].concat().into()))
        }
        _ => None,
    };
    if let Some(data) = changed {
        rr.data = Cow::Owned(data);
    }
}
