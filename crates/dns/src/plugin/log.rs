//! `log`: a line per query, in CoreDNS's formats. The first rule whose zone holds the name decides; it writes if the reply's
//! class is one of its own.
//!
//! Spec: CoreDNS's page `log`. What only CoreDNS's metadata knows (`{/…}`) is `-`.

use std::fmt::Write;
use std::net::IpAddr;
use std::time::Duration;

use super::Zones;
use crate::client::Client;
use crate::corefile::config::{LogClass, LogConfig};
use crate::name::Name;
use crate::wire::{CLASS_ANY, CLASS_IN, HEADER, PLAIN_UDP, Query, Rcode, Transport};

/// `{common}`.
const COMMON: &str = "{remote}:{port} - {>id} \"{type} {class} {name} {proto} {size} {>do} {>bufsize}\" {rcode} {>rflags} \
    {rsize} {duration}";

/// A block's rules, in order.
#[derive(Clone, Debug)]
pub struct Log(Vec<Rule>);

#[derive(Clone, Debug)]
struct Rule {
    zones: Zones,
    format: String,
    classes: Vec<LogClass>,
}

/// A query that was dealt with.
#[derive(Clone, Copy, Debug)]
pub struct Dealt<'a> {
    /// Who asked.
    pub client: &'a Client,
    /// What was asked.
    pub query: &'a Query<'a>,
    /// Bytes of the query.
    pub query_len: usize,
    /// The reply; empty: none was sent.
    pub reply: &'a [u8],
    /// The reply's code, extended bits included.
    pub rcode: Rcode,
    /// From the query's coming to the reply's going.
    pub took: Duration,
}

impl Log {
    /// `None` without rules. A rule's zones are its own: the block's play no part.
    pub fn prepare(configs: &[LogConfig]) -> Option<Self> {
        let rule = |config: &LogConfig| Rule {
            zones: Zones::of(&config.zones, &[Name::root()]),
            format: config
                .format
                .replace("{combined}", &format!("{COMMON} \"{{>opcode}}\""))
                .replace("{common}", COMMON),
            classes: config.classes.clone(),
        };
        (!configs.is_empty()).then(|| Self(configs.iter().map(rule).collect()))
    }

    /// The line to write, if one is to be written.
    pub fn line(&self, dealt: &Dealt<'_>) -> Option<String> {
        let rule = self.0.iter().find(|rule| rule.zones.of_name(dealt.query.name).is_some())?;
        let class = class(dealt);
        let is_wanted = rule.classes.iter().any(|wanted| [LogClass::All, class].contains(wanted));
        is_wanted.then(|| fill(&rule.format, dealt))
    }
}

/// Of what class a reply is; none at all is an error.
fn class(dealt: &Dealt<'_>) -> LogClass {
    let count = |at: usize| dealt.reply.get(at..at + 2).map_or(0, |bytes| u16::from_be_bytes([bytes[0], bytes[1]]));
    match dealt.rcode {
        _ if dealt.reply.len() < HEADER => LogClass::Error,
        Rcode::NOERROR if count(6) > 0 => LogClass::Success,
        Rcode::NOERROR | Rcode::NXDOMAIN => LogClass::Denial,
        _ => LogClass::Error,
    }
}

fn fill(format: &str, dealt: &Dealt<'_>) -> String {
    let mut out = String::with_capacity(format.len() * 2);
    let mut rest = format;
    while let Some((before, tail)) = rest.split_once('{') {
        out += before;
        match tail.split_once('}').map(|(name, after)| (value(name, dealt), after)) {
            Some((Some(value), after)) => {
                out += &value;
                rest = after;
            }
            // No placeholder: it stands as it is written.
            _ => {
                out.push('{');
                rest = tail;
            }
        }
    }
    out + rest
}

fn value(name: &str, dealt: &Dealt<'_>) -> Option<String> {
    let query = dealt.query;
    let bracketed = |ip: IpAddr| match ip.to_canonical() {
        IpAddr::V4(ip) => ip.to_string(),
        IpAddr::V6(ip) => format!("[{ip}]"),
    };
    Some(match name {
        "type" => query.rtype.to_string(),
        "class" => match query.class {
            CLASS_IN => "IN".into(),
            CLASS_ANY => "ANY".into(),
            other => format!("CLASS{other}"),
        },
        "name" => Name::from_wire(query.name).map_or("-".into(), |name| name.to_string().to_ascii_lowercase()),
        "proto" => match dealt.client.transport {
            Transport::Udp => "udp".into(),
            Transport::Tcp => "tcp".into(),
        },
        "remote" => bracketed(dealt.client.ip()),
        "port" => dealt.client.addr.port().to_string(),
        "local" => bracketed(dealt.client.local.ip()),
        "size" => dealt.query_len.to_string(),
        ">id" => query.id.to_string(),
        ">opcode" => "0".into(),
        ">do" => query.edns.is_some_and(|edns| edns.dnssec_ok).to_string(),
        ">bufsize" => query.edns.map_or(PLAIN_UDP, |edns| usize::from(edns.udp_size)).to_string(),
        "rcode" => {
            if dealt.reply.is_empty() {
                "-".into()
            } else {
                dealt.rcode.to_string()
            }
        }
        "rsize" => dealt.reply.len().to_string(),
        ">rflags" => flags(dealt.reply),
        "duration" => seconds(dealt.took),
        name if name.starts_with('/') => "-".into(),
        _ => return None,
    })
}

/// `qr,aa,rd,ra`, as the header's bits stand.
fn flags(reply: &[u8]) -> String {
    let (Some(first), Some(second)) = (reply.get(2), reply.get(3)) else { return "-".into() };
    let bits = [(first, 0x80, "qr"), (first, 4, "aa"), (first, 2, "tc"), (first, 1, "rd")];
    let more = [(second, 0x80, "ra"), (second, 0x40, "z"), (second, 0x20, "ad"), (second, 0x10, "cd")];
    let set = bits.into_iter().chain(more).filter(|(byte, bit, _)| **byte & bit != 0).map(|(_, _, name)| name);
    set.collect::<Vec<_>>().join(",")
}

/// Seconds with as many digits as there are: `0.000153s`.
fn seconds(took: Duration) -> String {
    let mut text = String::new();
    let _ = write!(text, "{}.{:09}", took.as_secs(), took.subsec_nanos());
    let text = text.trim_end_matches('0').trim_end_matches('.');
    format!("{text}s")
}
