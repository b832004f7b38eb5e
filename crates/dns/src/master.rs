//! Zone-file text: names with escapes, and records as lines.
//!
//! ```text
//!  web.example.  60  IN  MX  10 mail.example.
//!  └ owner ───┘ └ ttl, class: either may be left out, in either order
//! ```
//!
//! Names without a final dot are whole all the same: there is no origin here. Types that have no words here can be written
//! by RFC 3597: `TYPE99 \# 2 abcd`.
//!
//! Spec: RFC 1035 §5, RFC 3597 §5, RFC 8659 (CAA), RFC 9460 (HTTPS, SVCB).

use std::net::{Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use thiserror::Error;

use crate::message::Record;
use crate::name::{MAX_LABEL, Name};
use crate::rdata::{Rdata, Rtype, Soa};
use crate::wire::CLASS_IN;

/// TTL of a record that says none.
const DEFAULT_TTL_SECS: u32 = 3600;

/// Why a text is no record.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum RecordError {
    /// Owner, TTL, class or type.
    #[error("{0}; a record is written as: name, seconds, IN, type, data")]
    Head(String),
    /// What stands behind the type.
    #[error("{0}")]
    Data(String),
}

/// Reads a name with escapes (`\.`, `\032`), with or without its final dot; `None` if it is none.
pub fn name(text: &str) -> Option<Name> {
    if text == "." {
        return Some(Name::root());
    }
    let mut wire = vec![0];
    let mut start = 0;
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        let byte = match byte {
            b'.' => {
                start = end_label(&mut wire, start)?;
                continue;
            }
            b'\\' => match bytes.next()? {
                digit @ b'0'..=b'9' => {
                    let digits = [digit, bytes.next()?, bytes.next()?];
                    std::str::from_utf8(&digits).ok()?.parse().ok()?
                }
                other => other,
            },
            other => other,
        };
        wire.push(byte);
    }
    if wire.len() > start + 1 {
        end_label(&mut wire, start)?;
    }
    Name::from_wire(&wire).filter(|_| wire.len() > 1)
}

/// Writes the length of the label that begins at `start`, and opens the next; gives where that one begins.
fn end_label(wire: &mut Vec<u8>, start: usize) -> Option<usize> {
    let len = wire.len() - start - 1;
    if len == 0 || len > MAX_LABEL {
        return None;
    }
    wire[start] = len as u8;
    wire.push(0);
    Some(wire.len() - 1)
}

/// Reads one record.
pub fn record(text: &str) -> Result<Record, RecordError> {
    let words = words(text);
    let mut words = words.iter().map(String::as_str);
    let head = |what: String| RecordError::Head(what);
    let owner = words.next().ok_or_else(|| head("there is nothing".into()))?;
    let owner = name(owner).ok_or_else(|| head(format!("`{owner}` is no name")))?;
    let mut ttl_secs = DEFAULT_TTL_SECS;
    let rtype = loop {
        let word = words.next().ok_or_else(|| head("there is no type".into()))?;
        match (seconds(word), word.to_ascii_uppercase().as_str()) {
            (Some(ttl), _) => ttl_secs = ttl,
            (None, "IN" | "ANY") => {}
            (None, upper) => break rtype(upper).ok_or_else(|| head(format!("`{word}` is no type of records")))?,
        }
    };
    let rest: Vec<&str> = words.collect();
    let data = data(rtype, &rest).ok_or_else(|| {
        RecordError::Data(format!("`{}` is no data of a record of type {rtype}{}", rest.join(" "), usage(rtype)))
    })?;
    Ok(Record { owner, rtype, class: CLASS_IN, ttl_secs, data })
}

/// What stands for which type.
fn usage(rtype: Rtype) -> &'static str {
    match rtype {
        Rtype::A | Rtype::AAAA => "; write one address of that family",
        Rtype::CNAME | Rtype::NS | Rtype::PTR => "; write one name",
        Rtype::MX => "; write a preference and a name",
        Rtype::SRV => "; write priority, weight, port and a name",
        Rtype::SOA => "; write two names and five numbers",
        Rtype::TXT => "; write text in quotes",
        CAA => "; write flags, tag and value",
        SVCB | Rtype::HTTPS => "; write a priority, a name and key=value pairs",
        _ => "; write it as \\# LENGTH HEX (RFC 3597)",
    }
}

const SVCB: Rtype = Rtype(64);
const CAA: Rtype = Rtype(257);

fn rtype(upper: &str) -> Option<Rtype> {
    match upper {
        "SVCB" => Some(SVCB),
        "CAA" => Some(CAA),
        "DNAME" => Some(Rtype(39)),
        other => Rtype::parse(other),
    }
}

/// Words between white space; quoted ones whole; brackets and comments left out.
fn words(text: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut chars = text.chars().peekable();
    while let Some(char) = chars.next() {
        match char {
            ';' => while chars.next_if(|char| *char != '\n').is_some() {},
            '"' => {
                let mut word = String::new();
                while let Some(char) = chars.next().filter(|char| *char != '"') {
                    word.push(if char == '\\' { chars.next().unwrap_or('\\') } else { char });
                }
                words.push(word);
            }
            '(' | ')' => {}
            char if char.is_whitespace() => {}
            char => {
                let mut word = String::from(char);
                while let Some(char) = chars.next_if(|char| !char.is_whitespace() && !"();".contains(*char)) {
                    // `alpn="h2,h3"` is one word.
                    match char {
                        '"' => {
                            while let Some(char) = chars.next_if(|char| *char != '"') {
                                word.push(char)
                            }
                        }
                        char => word.push(char),
                    }
                    if char == '"' {
                        chars.next();
                    }
                }
                words.push(word);
            }
        }
    }
    words
}

/// `60`, `1h30m`.
fn seconds(text: &str) -> Option<u32> {
    let mut sum = 0_u32;
    let mut number: Option<u32> = None;
    for byte in text.bytes() {
        let unit = match byte.to_ascii_lowercase() {
            digit @ b'0'..=b'9' => {
                number = Some(number.unwrap_or(0).checked_mul(10)?.checked_add(u32::from(digit - b'0'))?);
                continue;
            }
            b's' => 1,
            b'm' => 60,
            b'h' => 3600,
            b'd' => 86400,
            b'w' => 604_800,
            _ => return None,
        };
        sum = sum.checked_add(number.take()?.checked_mul(unit)?)?;
    }
    (!text.is_empty()).then(|| sum.checked_add(number.unwrap_or(0)))?
}

fn data(rtype: Rtype, words: &[&str]) -> Option<Rdata> {
    if let ["\\#", len, hex @ ..] = words {
        let bytes = unhex(&hex.concat())?;
        return (len.parse() == Ok(bytes.len())).then(|| Rdata::Raw(bytes.into()));
    }
    match (rtype, words) {
        (Rtype::A, [addr]) => addr.parse().ok().map(Rdata::A),
        (Rtype::AAAA, [addr]) => addr.parse().ok().map(Rdata::Aaaa),
        (Rtype::CNAME, [target]) => name(target).map(Rdata::Cname),
        (Rtype::NS, [host]) => name(host).map(Rdata::Ns),
        (Rtype::PTR, [host]) => name(host).map(Rdata::Ptr),
        (Rtype(39), [target]) => Some(Rdata::Raw(name(target)?.as_wire().into())),
        (Rtype::SRV, [priority, weight, port, target]) => Some(Rdata::Srv {
            priority: number(priority)?,
            weight: number(weight)?,
            port: number(port)?,
            target: name(target)?,
        }),
        (Rtype::SOA, [mname, rname, serial, times @ ..]) => soa(mname, rname, serial, times),
        (Rtype::MX, [preference, host]) => {
            let mut bytes = number::<u16>(preference)?.to_be_bytes().to_vec();
            bytes.extend_from_slice(name(host)?.as_wire());
            Some(Rdata::Raw(bytes.into()))
        }
        (Rtype::TXT, [text]) if text.len() <= 255 => Some(Rdata::Txt((*text).into())),
        (Rtype::TXT, [_, _, ..]) => strings(words),
        (Rtype::HINFO, [_, _]) => strings(words),
        (CAA, [flags, tag, value]) => {
            let mut bytes = vec![number(flags)?, u8::try_from(tag.len()).ok().filter(|len| *len > 0)?];
            bytes.extend(tag.bytes().chain(value.bytes()));
            Some(Rdata::Raw(bytes.into()))
        }
        (SVCB | Rtype::HTTPS, [priority, target, params @ ..]) => svcb(priority, target, params),
        _ => None,
    }
}

fn number<T: FromStr>(text: &str) -> Option<T> {
    text.parse().ok()
}

fn soa(mname: &str, rname: &str, serial: &str, times: &[&str]) -> Option<Rdata> {
    let [refresh, retry, expire, minimum] = times else { return None };
    Some(Rdata::Soa(Soa {
        mname: name(mname)?,
        rname: name(rname)?,
        serial: number(serial)?,
        refresh_secs: seconds(refresh)?,
        retry_secs: seconds(retry)?,
        expire_secs: seconds(expire)?,
        minimum_secs: seconds(minimum)?,
    }))
}

/// Character-strings, each with its length before it.
fn strings(words: &[&str]) -> Option<Rdata> {
    let mut bytes = Vec::new();
    for word in words {
        bytes.push(u8::try_from(word.len()).ok()?);
        bytes.extend_from_slice(word.as_bytes());
    }
    Some(Rdata::Raw(bytes.into()))
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    let digits: Option<Vec<u8>> = text.chars().map(|char| char.to_digit(16).map(|digit| digit as u8)).collect();
    let digits = digits.filter(|digits| digits.len() % 2 == 0)?;
    Some(digits.chunks(2).map(|pair| pair[0] << 4 | pair[1]).collect())
}

/// RFC 9460 §2.1: keys in ascending order, none twice.
fn svcb(priority: &str, target: &str, params: &[&str]) -> Option<Rdata> {
    let mut bytes = number::<u16>(priority)?.to_be_bytes().to_vec();
    bytes.extend_from_slice(name(target)?.as_wire());
    let mut found: Vec<(u16, Vec<u8>)> = Vec::new();
    for param in params {
        let (key, value) = param.split_once('=').unwrap_or((param, ""));
        let value = value.trim_matches('"');
        found.push(match key {
            "alpn" => (1, length_prefixed(value)?),
            "no-default-alpn" => (2, Vec::new()),
            "port" => (3, number::<u16>(value)?.to_be_bytes().to_vec()),
            "ipv4hint" => (4, list(value, |addr: Ipv4Addr| addr.octets().to_vec())?),
            "ipv6hint" => (6, list(value, |addr: Ipv6Addr| addr.octets().to_vec())?),
            _ => return None,
        });
    }
    found.sort();
    if found.windows(2).any(|pair| pair[0].0 == pair[1].0) {
        return None;
    }
    for (key, value) in found {
        bytes.extend_from_slice(&key.to_be_bytes());
        bytes.extend_from_slice(&u16::try_from(value.len()).ok()?.to_be_bytes());
        bytes.extend_from_slice(&value);
    }
    Some(Rdata::Raw(bytes.into()))
}

fn length_prefixed(text: &str) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    for part in text.split(',') {
        bytes.push(u8::try_from(part.len()).ok().filter(|len| *len > 0)?);
        bytes.extend_from_slice(part.as_bytes());
    }
    Some(bytes)
}

fn list<T: FromStr>(text: &str, bytes: impl Fn(T) -> Vec<u8>) -> Option<Vec<u8>> {
    let parts: Option<Vec<Vec<u8>>> = text.split(',').map(|part| part.parse().ok().map(&bytes)).collect();
    parts.map(|parts| parts.concat())
}
