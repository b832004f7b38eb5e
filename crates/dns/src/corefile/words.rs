//! What single words mean: numbers, durations, names, zones, addresses, codes, types, patterns; each with what to say if it
//! means nothing.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::ops::RangeInclusive;
use std::time::Duration;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use regex::RegexBuilder;

use super::Problem;
use super::config::{Fallthrough, Pattern};
use super::lex::Word;
use super::tree::Entry;
use crate::name::Name;
use crate::rdata::Rtype;
use crate::wire::Rcode;

/// Longest pattern, in bytes; CoreDNS's.
const LONGEST_PATTERN: usize = 10_000;
/// Most memory that a compiled pattern may take, in bytes.
const LARGEST_REGEX: usize = 1 << 20;

/// Types that `Rtype` has no word for, as CoreDNS writes them.
const MORE_TYPES: &[(&str, u16)] = &[
    ("RP", 17),
    ("AFSDB", 18),
    ("LOC", 29),
    ("NAPTR", 35),
    ("KX", 36),
    ("CERT", 37),
    ("DNAME", 39),
    ("DS", 43),
    ("SSHFP", 44),
    ("RRSIG", 46),
    ("NSEC", 47),
    ("DNSKEY", 48),
    ("NSEC3", 50),
    ("NSEC3PARAM", 51),
    ("TLSA", 52),
    ("SMIMEA", 53),
    ("CDS", 59),
    ("CDNSKEY", 60),
    ("OPENPGPKEY", 61),
    ("CSYNC", 62),
    ("ZONEMD", 63),
    ("SVCB", 64),
    ("SPF", 99),
    ("EUI48", 108),
    ("EUI64", 109),
    ("TKEY", 249),
    ("TSIG", 250),
    ("MAILB", 253),
    ("URI", 256),
    ("CAA", 257),
];

/// Codes, as CoreDNS writes them.
const CODES: &[(&str, u16)] = &[
    ("NOERROR", 0),
    ("FORMERR", 1),
    ("SERVFAIL", 2),
    ("NXDOMAIN", 3),
    ("NOTIMP", 4),
    ("NOTIMPL", 4),
    ("REFUSED", 5),
    ("YXDOMAIN", 6),
    ("YXRRSET", 7),
    ("NXRRSET", 8),
    ("NOTAUTH", 9),
    ("NOTZONE", 10),
];

pub(super) fn problem(word: &Word, what: impl Into<String>) -> Problem {
    Problem { place: word.place(), what: what.into() }
}

impl Entry {
    /// A problem at this line.
    pub fn wrong(&self, what: impl Into<String>) -> Problem {
        Problem { place: self.place(), what: what.into() }
    }

    /// The one argument; `what` says what it is.
    pub fn one(&self, what: &str) -> Result<&Word, Problem> {
        match self.args() {
            [arg] => Ok(arg),
            args => Err(self.wrong(format!(
                "`{}` needs {what}, and nothing else; it has {} words",
                self.name(),
                args.len()
            ))),
        }
    }

    /// At least one argument.
    pub fn some(&self, what: &str) -> Result<&[Word], Problem> {
        match self.args() {
            [] => Err(self.wrong(format!("`{}` needs {what}", self.name()))),
            args => Ok(args),
        }
    }

    /// At most `most` arguments.
    pub fn at_most(&self, most: usize, what: &str) -> Result<&[Word], Problem> {
        match self.args().get(most) {
            Some(extra) => Err(problem(
                extra,
                format!("`{}` behind `{}`: what may stand there is {what}", extra.text, self.name()),
            )),
            None => Ok(self.args()),
        }
    }

    pub fn none(&self) -> Result<(), Problem> {
        self.at_most(0, "nothing").map(|_| ())
    }

    /// Its lines in braces.
    pub fn options(&self) -> &[Entry] {
        self.body.as_deref().unwrap_or_default()
    }

    /// No braces may follow.
    pub fn plain(&self) -> Result<(), Problem> {
        match &self.body {
            Some(_) => Err(self.wrong(format!("`{}` takes no braces; take them out", self.name()))),
            None => Ok(()),
        }
    }

    /// An option that `plugin` does not have; `known` lists those it has.
    pub fn unknown(&self, plugin: &str, known: &str) -> Problem {
        self.wrong(format!("`{}` is no option of `{plugin}`; those are {known}", self.name()))
    }

    /// What CoreDNS has and we do not.
    pub fn not_here(&self, plugin: &str, instead: &str) -> Problem {
        self.wrong(format!("`{}` of `{plugin}` is not done here: {instead}; see docs/dns-corefile.md", self.name()))
    }

    /// `fallthrough [ZONES…]`.
    pub fn fallthrough(&self) -> Result<Fallthrough, Problem> {
        Ok(match self.args() {
            [] => Fallthrough::Always,
            args => Fallthrough::In(zones(args)?),
        })
    }

    /// The one argument, a number in `range`.
    pub fn number<T: TryFrom<u64>>(&self, range: RangeInclusive<u64>) -> Result<T, Problem> {
        let word = self.one(&format!("a number from {} to {}", range.start(), range.end()))?;
        number(word, self.name(), range)
    }

    /// The one argument, a duration.
    pub fn duration(&self) -> Result<Duration, Problem> {
        duration(self.one("a duration such as 5s")?, self.name())
    }
}

/// A whole number in `range`, for the option `of`.
pub(super) fn number<T: TryFrom<u64>>(word: &Word, of: &str, range: RangeInclusive<u64>) -> Result<T, Problem> {
    let found = word.text.parse().ok().filter(|number| range.contains(number));
    found.and_then(|number: u64| T::try_from(number).ok()).ok_or_else(|| {
        let (least, most) = range.into_inner();
        problem(word, format!("`{of} {}`: a whole number from {least} to {most} may stand there", word.text))
    })
}

/// A duration as Go writes it: `5s`, `1h30m`, `0.5s`, `0`.
pub(super) fn duration(word: &Word, of: &str) -> Result<Duration, Problem> {
    go_duration(&word.text).ok_or_else(|| {
        let what = "a duration that is not negative may stand there, such as 500ms, 5s, 1h30m";
        problem(word, format!("`{of} {}`: {what}", word.text))
    })
}

fn go_duration(text: &str) -> Option<Duration> {
    let mut rest = text.strip_prefix('+').unwrap_or(text);
    if rest == "0" {
        return Some(Duration::ZERO);
    }
    let mut sum = Duration::ZERO;
    let mut any = false;
    while !rest.is_empty() {
        let digits = rest.find(|char: char| !char.is_ascii_digit() && char != '.')?;
        let (number, tail) = rest.split_at(digits);
        let unit_len = tail.find(|char: char| char.is_ascii_digit() || char == '.').unwrap_or(tail.len());
        let (unit, tail) = tail.split_at(unit_len);
        let nanos: f64 = match unit {
            "ns" => 1.0,
            "us" | "µs" | "μs" => 1e3,
            "ms" => 1e6,
            "s" => 1e9,
            "m" => 60e9,
            "h" => 3600e9,
            _ => return None,
        };
        let nanos = number.parse::<f64>().ok()? * nanos;
        // Go's own limit: 63 bits of nanoseconds, some 292 years.
        let part = (nanos < 9.2e18).then(|| Duration::from_nanos(nanos.round() as u64))?;
        sum = sum.checked_add(part).filter(|sum| sum.as_nanos() < 1 << 63)?;
        (rest, any) = (tail, true);
    }
    any.then_some(sum)
}

/// A duration as Go writes it, in one form for each.
pub(super) fn print_duration(duration: Duration) -> String {
    let nanos = duration.as_nanos();
    let units = [(1_000_000_000, "s"), (1_000_000, "ms"), (1_000, "us"), (1, "ns")];
    let (size, unit) = units.into_iter().find(|(size, _)| nanos.is_multiple_of(*size)).expect("1 divides all");
    format!("{}{unit}", nanos / size)
}

/// A domain name, in lower case.
pub(super) fn name(word: &Word) -> Result<Name, Problem> {
    let text = word.text.to_ascii_lowercase();
    match Name::parse(&text) {
        Ok(name)
            if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_*.".contains(&byte)) =>
        {
            Ok(name)
        }
        Err(error) => Err(problem(word, error.to_string())),
        _ => Err(problem(word, format!("\"{text}\" is not a domain name; write it as a.b.c, and the root as `.`"))),
    }
}

/// Zones, of which one may be a network that stands for its reverse zones.
pub(super) fn zones(words: &[Word]) -> Result<Vec<Name>, Problem> {
    let mut found = Vec::new();
    let mut seen = BTreeSet::new();
    for word in words {
        found.extend(zone(word)?.into_iter().filter(|name| seen.insert(name.clone())));
    }
    Ok(found)
}

/// One zone, or the reverse zones of a network.
pub(super) fn zone(word: &Word) -> Result<Vec<Name>, Problem> {
    match word.text.contains('/') {
        true => {
            let net = net(word)?;
            Ok(reverse_zones(net))
        }
        false => Ok(vec![name(word)?]),
    }
}

/// The zones that hold the reverse names of a network: whole octets or nibbles, so several where it ends in between.
fn reverse_zones(net: IpNet) -> Vec<Name> {
    let text = |labels: Vec<String>, end: &str| {
        let labels = labels.into_iter().rev().chain([end.to_owned()]).collect::<Vec<_>>().join(".");
        Name::parse(&labels).expect("32 hexadecimal labels and two more at most")
    };
    match net {
        IpNet::V4(net) => {
            let octets = usize::from(net.prefix_len().div_ceil(8)).max(1);
            let parts = net.subnets((octets * 8) as u8).expect("not shorter than the network itself");
            let labels = |part: Ipv4Net| part.addr().octets()[..octets].iter().map(u8::to_string).collect();
            parts.map(|part| text(labels(part), "in-addr.arpa")).collect()
        }
        IpNet::V6(net) => {
            let nibbles = usize::from(net.prefix_len().div_ceil(4)).max(1);
            let parts = net.subnets((nibbles * 4) as u8).expect("not shorter than the network itself");
            let labels = |part: Ipv6Net| {
                let bits = u128::from(part.addr());
                (0..nibbles).map(|at| format!("{:x}", bits >> (124 - 4 * at) & 15)).collect()
            };
            parts.map(|part| text(labels(part), "ip6.arpa")).collect()
        }
    }
}

/// A network; an address alone is one of one address. Bits behind the prefix are dropped.
pub(super) fn net(word: &Word) -> Result<IpNet, Problem> {
    let net = word.text.parse::<IpNet>().ok().map(|net| net.trunc());
    net.or_else(|| word.text.parse().ok().map(|addr: IpAddr| IpNet::from(addr))).ok_or_else(|| {
        problem(word, format!("\"{}\" is no network; write an address or a prefix such as 10.0.0.0/8", word.text))
    })
}

/// An address with a port, which is `port` if none is written: `10.0.0.1`, `10.0.0.1:53`, `[fd00::1]:53`, `fd00::1`.
pub(super) fn socket(text: &str, port: u16) -> Option<SocketAddr> {
    let bare = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(text);
    let addr = bare.parse().ok().map(|addr: IpAddr| SocketAddr::new(addr, port));
    addr.or_else(|| text.parse().ok())
}

/// Where to listen: `:8080`, `localhost:8080`, `10.0.0.1:8080`.
pub(super) fn listen(word: &Word, of: &str) -> Result<SocketAddr, Problem> {
    let (host, port) = word.text.rsplit_once(':').unwrap_or(("", ""));
    let addr = match host {
        "" => Some(IpAddr::V6(Ipv6Addr::UNSPECIFIED)),
        "localhost" => Some(IpAddr::V4(Ipv4Addr::LOCALHOST)),
        host => host.trim_start_matches('[').trim_end_matches(']').parse().ok(),
    };
    let port = port.parse().ok();
    addr.zip(port).map(|(addr, port)| SocketAddr::new(addr, port)).ok_or_else(|| {
        problem(word, format!("`{of} {}`: an address with a port may stand there, such as :8080", word.text))
    })
}

/// A code of a reply.
pub(super) fn rcode(word: &Word) -> Result<Rcode, Problem> {
    let upper = word.text.to_ascii_uppercase();
    let found = CODES.iter().find(|(name, _)| *name == upper).map(|(_, code)| Rcode(*code));
    found.ok_or_else(|| problem(word, format!("`{}` is no code; write one such as NXDOMAIN, SERVFAIL", word.text)))
}

/// A code as [`rcode`] reads it.
pub(super) fn print_rcode(code: Rcode) -> &'static str {
    CODES.iter().find(|(_, number)| *number == code.0).map_or("SERVFAIL", |(name, _)| name)
}

/// A type of records.
pub(super) fn rtype(word: &Word) -> Result<Rtype, Problem> {
    let upper = word.text.to_ascii_uppercase();
    let more = MORE_TYPES.iter().find(|(name, _)| *name == upper).map(|(_, number)| Rtype(*number));
    let found = more.or_else(|| Rtype::parse(&upper)).filter(|rtype| rtype.0 != 0);
    found.ok_or_else(|| problem(word, format!("`{}` is no type of records; write one such as AAAA", word.text)))
}

/// A regular expression.
pub(super) fn pattern(word: &Word) -> Result<Pattern, Problem> {
    if word.text.len() > LONGEST_PATTERN {
        let what = format!("a pattern of {} bytes; the most is {LONGEST_PATTERN}", word.text.len());
        return Err(problem(word, what));
    }
    let built = RegexBuilder::new(&word.text).size_limit(LARGEST_REGEX).dfa_size_limit(LARGEST_REGEX).build();
    built.map(|regex| Pattern { text: word.text.clone(), regex }).map_err(|error| {
        // The library draws its message over several lines; the last of them says what is wrong.
        let why = error.to_string().lines().last().unwrap_or_default().trim_start_matches("error: ").to_owned();
        problem(word, format!("the pattern `{}` cannot be read: {why}", word.text))
    })
}
