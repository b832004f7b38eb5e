//! The files of the table: objects, a Corefile, an upstream, and lines `NAME TYPE -> RCODE; records`.
//!
//! ```text
//! == objects        Kubernetes objects, YAML
//! == corefile       absent: the one shipped
//! == upstream       lines as in queries: what a server at 127.0.0.53:53 answers
//! == addresses      more addresses of the machine, for queries that come `from=` them
//! == flags          more flags of the command
//! == file NAME      a file beside the Corefile
//! == ttl 30         TTL of records that say none
//! == queries        NAME TYPE [udp|tcp|edns=N|noedns|do|from=A|serial=N|class=C] -> RCODE; RR; RR; …
//! ```
//!
//! An RR is `[OWNER.] [TTL] TYPE DATA`, of the name that was asked if it has no owner; `+ RR` is additional, `! RR`
//! authority; `soa ZONE [LABELS]` the SOA of an absence; `tc`: cut, what is there is of the list; `noaa`: from elsewhere;
//! `silence`: no reply; `one`: any one record of the list; `more`: others may be there too; `anyttl`; `aa?`: with AA or
//! without; `loose`: only the code is looked at.

use domain::base::iana::Class;

use super::wire::{Question, Rr, undotted};

#[derive(Debug, Default)]
pub struct Group {
    pub objects: String,
    pub corefile: Option<String>,
    pub upstream: Vec<Case>,
    pub addresses: Vec<String>,
    pub flags: Vec<String>,
    pub files: Vec<(String, String)>,
    pub cases: Vec<Case>,
}

/// How a query goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum By {
    /// By UDP with EDNS, and by TCP in mixed case without.
    Both,
    Udp,
    Tcp,
}

#[derive(Clone, Debug)]
pub struct Case {
    /// Line of the file, for messages.
    pub line: usize,
    pub text: String,
    pub question: Question,
    pub by: By,
    pub from: std::net::Ipv4Addr,
    pub want: Want,
}

#[derive(Clone, Debug, Default)]
pub struct Want {
    pub rcode: String,
    pub answers: Vec<Rr>,
    pub authority: Vec<Rr>,
    pub additional: Vec<Rr>,
    /// Zone and mname of the SOA.
    pub soa: Option<(String, String)>,
    pub truncated: bool,
    pub elsewhere: bool,
    pub silence: bool,
    pub any_one: bool,
    pub loose: bool,
    pub more: bool,
    pub any_ttl: bool,
    pub any_aa: bool,
    /// TTL of the SOA and of absence.
    pub ttl: u32,
}

impl Group {
    pub fn parse(text: &str) -> Group {
        let mut group = Group::default();
        let mut ttl = 30;
        for (start, head, body) in sections(text) {
            let mut words = head.split_whitespace();
            match words.next() {
                Some("objects") => group.objects += &body,
                Some("corefile") => group.corefile = Some(body),
                Some("upstream") => group.upstream = cases(start, &body, 300),
                Some("addresses") => group.addresses.extend(body.split_whitespace().map(str::to_owned)),
                Some("flags") => group.flags.extend(body.split_whitespace().map(str::to_owned)),
                Some("file") => group.files.push((words.next().expect("a name").into(), body)),
                Some("ttl") => ttl = words.next().and_then(|n| n.parse().ok()).expect("a number"),
                Some("queries") => group.cases.extend(cases(start, &body, ttl)),
                other => panic!("line {start}: {other:?} is no section"),
            }
        }
        group
    }
}

fn sections(text: &str) -> Vec<(usize, String, String)> {
    let mut sections: Vec<(usize, String, String)> = Vec::new();
    for (at, line) in text.lines().enumerate() {
        match (line.strip_prefix("== "), sections.last_mut()) {
            (Some(head), _) => sections.push((at + 2, head.trim().into(), String::new())),
            (None, Some((_, _, body))) => *body += &format!("{line}\n"),
            (None, None) => assert!(line.trim().is_empty() || line.starts_with('#'), "line {}: outside", at + 1),
        }
    }
    sections
}

/// Cases, one a line; a line that starts with a space goes on with the one above.
fn cases(start: usize, body: &str, ttl: u32) -> Vec<Case> {
    let mut lines: Vec<(usize, String)> = Vec::new();
    for (at, line) in body.lines().enumerate() {
        match line.split_once("# ").map_or(line, |(before, _)| before) {
            line if line.trim().is_empty() || line.starts_with('#') => {}
            line if line.starts_with(' ') => lines.last_mut().expect("a line to go on with").1 += line,
            line => lines.push((start + at, line.into())),
        }
    }
    lines.into_iter().map(|(at, line)| case(at, &line, ttl)).collect()
}

fn case(line: usize, text: &str, ttl: u32) -> Case {
    let (asked, want) = text.split_once(" -> ").unwrap_or_else(|| panic!("line {line}: no ` -> `: {text}"));
    let mut words = asked.split_whitespace();
    let (name, rtype) = (words.next().expect("a name"), words.next().expect("a type"));
    let mut question = Question { edns: Some(1232), ..Question::new(name, rtype) };
    let (mut by, mut from) = (By::Both, std::net::Ipv4Addr::LOCALHOST);
    for word in words {
        match word.split_once('=') {
            None if word == "udp" => by = By::Udp,
            None if word == "tcp" => by = By::Tcp,
            None if word == "noedns" => question.edns = None,
            None if word == "do" => question.dnssec_ok = true,
            Some(("edns", size)) => question.edns = Some(size.parse().expect("a size")),
            Some(("from", addr)) => from = addr.parse().expect("an address"),
            Some(("serial", serial)) => question.serial = Some(serial.parse().expect("a serial")),
            Some(("class", "CH")) => question.class = Class::CH,
            _ => panic!("line {line}: {word:?} is no option"),
        }
    }
    Case { line, text: text.into(), want: want_of(line, want, name, ttl), question, by, from }
}

fn want_of(line: usize, text: &str, asked: &str, ttl: u32) -> Want {
    let mut items = text.split(';').map(str::trim);
    let mut want = Want { rcode: items.next().expect("a code").into(), ttl, ..Want::default() };
    want.silence = want.rcode == "silence";
    for item in items.filter(|item| !item.is_empty()) {
        let words: Vec<&str> = item.split_whitespace().collect();
        match words[..] {
            ["tc"] => want.truncated = true,
            ["noaa"] => want.elsewhere = true,
            ["one"] => want.any_one = true,
            ["loose"] => want.loose = true,
            ["more"] => want.more = true,
            ["anyttl"] => want.any_ttl = true,
            ["aa?"] => want.any_aa = true,
            ["soa", zone] => want.soa = Some((undotted(zone), format!("ns.dns.{}", undotted(zone)))),
            ["soa", zone, labels] => want.soa = Some((undotted(zone), format!("{labels}.{}", undotted(zone)))),
            ["+", ref rest @ ..] => want.additional.push(rr(line, rest, asked, ttl)),
            ["!", ref rest @ ..] => want.authority.push(rr(line, rest, asked, ttl)),
            _ => want.answers.push(rr(line, &words, asked, ttl)),
        }
    }
    want
}

fn rr(line: usize, words: &[&str], asked: &str, ttl: u32) -> Rr {
    let (owner, words) = match words.split_first() {
        Some((owner, rest)) if owner.ends_with('.') => (*owner, rest),
        _ => (asked, words),
    };
    let (ttl, words) = match words.first().and_then(|word| word.parse().ok()) {
        Some(ttl) => (ttl, &words[1..]),
        None => (ttl, words),
    };
    let (rtype, data) = words.split_first().unwrap_or_else(|| panic!("line {line}: a record without a type"));
    let data: Vec<String> = data.iter().map(|word| undotted(word)).collect();
    Rr { owner: undotted(owner), ttl, rtype: (*rtype).into(), data: data.join(" ") }
}
