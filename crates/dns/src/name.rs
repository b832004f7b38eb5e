//! Domain names, and the keys that put them in tree order.
//!
//! ```text
//!  text  web.Default.svc.        Name  3web7Default3svc0        Key  3svc7default3web
//! ```
//!
//! A [`Name`] is the uncompressed wire form and keeps its case. A [`Key`] is the same name with its labels reversed and
//! in lower case: a name stands right before everything below it, so one ordered lookup tells a name that exists from an
//! empty non-terminal (RFC 8020) and from nothing.
//!
//! Spec: RFC 1035 §2.3, §3.1; RFC 4343 for case.

use std::borrow::Borrow;
use std::fmt;
use std::io::Write;
use std::net::IpAddr;
use std::sync::Arc;

use thiserror::Error;

/// Longest name in wire form, terminator included (RFC 1035 §2.3.4).
pub const MAX_NAME: usize = 255;
/// Longest label (RFC 1035 §2.3.4).
pub const MAX_LABEL: usize = 63;

/// A domain name: uncompressed wire form with the final zero, case kept. Cloning copies a pointer.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Name(Arc<[u8]>);

impl Name {
    /// The root.
    pub fn root() -> Self {
        Self(Arc::from([0].as_slice()))
    }

    /// Reads `a.b.c` or `a.b.c.`; `.` is the root. No escapes: Kubernetes names need none.
    pub fn parse(text: &str) -> Result<Self, NameError> {
        let bare = text.strip_suffix('.').unwrap_or(text);
        let mut wire = Vec::with_capacity(bare.len() + 2);
        if !bare.is_empty() {
            for label in bare.split('.') {
                push_label(&mut wire, label.as_bytes()).ok_or_else(|| NameError::Label { name: text.into() })?;
            }
        }
        wire.push(0);
        Self::from_wire(&wire).ok_or_else(|| NameError::Long { name: text.into() })
    }

    /// Takes an uncompressed wire name; `None` if it is malformed or anything follows it.
    pub fn from_wire(wire: &[u8]) -> Option<Self> {
        (wire_len(wire)? == wire.len()).then(|| Self(Arc::from(wire)))
    }

    /// This name with one more label on its left; `None` if the label is empty or over 63 bytes, holds a dot, or the
    /// name gets too long.
    pub fn child(&self, label: &str) -> Option<Self> {
        if label.contains('.') {
            return None;
        }
        let mut wire = Vec::with_capacity(self.0.len() + label.len() + 1);
        push_label(&mut wire, label.as_bytes())?;
        wire.extend_from_slice(&self.0);
        Self::from_wire(&wire)
    }

    /// `self` with several labels added, the leftmost first: `zone.under(["web", "default", "svc"])`.
    pub fn under<const N: usize>(&self, labels: [&str; N]) -> Option<Self> {
        labels.iter().rev().try_fold(self.clone(), |name, label| name.child(label))
    }

    /// The name that asks for `addr` backwards, in `in-addr.arpa` or `ip6.arpa` (RFC 1035 §3.5, RFC 3596 §2.5).
    pub fn reverse(addr: IpAddr) -> Self {
        let text = match addr {
            IpAddr::V4(v4) => {
                let [a, b, c, d] = v4.octets();
                format!("{d}.{c}.{b}.{a}.in-addr.arpa")
            }
            IpAddr::V6(v6) => {
                let nibbles = v6.octets().into_iter().rev().flat_map(|byte| [byte & 15, byte >> 4]);
                nibbles.map(|nibble| format!("{nibble:x}.")).collect::<String>() + "ip6.arpa"
            }
        };
        Self::parse(&text).expect("72 bytes of hexadecimal labels at most")
    }

    /// Wire form.
    pub fn as_wire(&self) -> &[u8] {
        &self.0
    }

    /// Its place in tree order.
    pub fn key(&self) -> Key {
        Key::of(&self.0)
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.len() == 1 {
            return f.write_str(".");
        }
        for label in labels(&self.0) {
            for byte in label {
                match byte {
                    b'.' | b'\\' | b'"' | b';' => write!(f, "\\{}", *byte as char)?,
                    0x21..=0x7e => write!(f, "{}", *byte as char)?,
                    other => write!(f, "\\{other:03}")?,
                }
            }
            f.write_str(".")?;
        }
        Ok(())
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A name's place in tree order: labels from the right, each with its length before it, in lower case.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Key(Arc<[u8]>);

impl Key {
    /// The key of an uncompressed, valid wire name.
    pub fn of(wire: &[u8]) -> Self {
        let mut buffer = [0; MAX_NAME];
        Self(Arc::from(key_into(wire, &mut buffer)))
    }

    /// Its bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl Borrow<[u8]> for Key {
    fn borrow(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let labels: Vec<String> = labels(&self.0).map(|l| String::from_utf8_lossy(l).into_owned()).collect();
        f.write_str(&labels.join("/"))
    }
}

/// Writes the key of the valid wire name `wire` into `buffer`, without allocating: what each query does.
pub fn key_into<'b>(wire: &[u8], buffer: &'b mut [u8; MAX_NAME]) -> &'b [u8] {
    let len = wire.len().saturating_sub(1).min(MAX_NAME);
    let mut end = len;
    for label in labels(wire) {
        let start = end - label.len() - 1;
        buffer[start] = label.len() as u8;
        for (to, from) in buffer[start + 1..end].iter_mut().zip(label) {
            *to = from.to_ascii_lowercase();
        }
        end = start;
    }
    &buffer[..len]
}

/// The labels of a wire name or of a key, left to right; ends at the terminator or at the end of the bytes.
pub fn labels(wire: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = wire;
    std::iter::from_fn(move || {
        let (len, tail) = rest.split_first()?;
        let label = tail.get(..usize::from(*len)).filter(|label| !label.is_empty())?;
        rest = &tail[label.len()..];
        Some(label)
    })
}

/// Length of the uncompressed name at the start of `bytes`, terminator included; `None` if it is cut short, uses
/// compression or breaks a limit.
pub fn wire_len(bytes: &[u8]) -> Option<usize> {
    let mut at = 0;
    loop {
        let len = usize::from(*bytes.get(at)?);
        if len > MAX_LABEL || at + len + 1 > MAX_NAME {
            return None;
        }
        at += len + 1;
        if len == 0 {
            return Some(at);
        }
    }
}

/// The label kube-style endpoint names are made of: `10-244-1-5`, `fd00--5`; one that would end in a dash gets a `0`.
pub fn dashed(addr: IpAddr) -> String {
    let mut label = [0; MAX_LABEL];
    let len = dashed_into(addr, &mut label);
    String::from_utf8_lossy(&label[..len]).into_owned()
}

/// Reads what [`dashed`] wrote; `None` if it is no address.
pub fn undashed(label: &str) -> Option<IpAddr> {
    undashed_bytes(label.as_bytes())
}

/// As [`undashed`], of a label as it stands in a name.
pub fn undashed_bytes(label: &[u8]) -> Option<IpAddr> {
    let mut text = [0; MAX_LABEL];
    let text = text.get_mut(..label.len())?;
    let mut read = |separator: u8| -> Option<IpAddr> {
        for (to, from) in text.iter_mut().zip(label) {
            *to = if *from == b'-' { separator } else { *from };
        }
        std::str::from_utf8(text).ok()?.parse().ok()
    };
    // With dots it is an IPv4 address or nothing, with colons IPv6 or nothing, unless it held some of these before.
    if !label.contains(&b'-') || label.iter().any(|byte| matches!(byte, b'.' | b':')) {
        return None;
    }
    read(b'.').or_else(|| read(b':'))
}

/// Writes the label that [`dashed`] gives into `out` without allocating; gives its length.
pub fn dashed_into(addr: IpAddr, out: &mut [u8; MAX_LABEL]) -> usize {
    match addr {
        IpAddr::V4(v4) => dashed_octets(v4.octets(), out),
        IpAddr::V6(_) => dashed_text(addr, out),
    }
}

/// By hand: each SRV of a headless Service needs it twice an endpoint.
fn dashed_octets(octets: [u8; 4], out: &mut [u8; MAX_LABEL]) -> usize {
    let mut len = 0;
    let mut push = |byte: u8| {
        out[len] = byte;
        len += 1;
    };
    for (place, octet) in octets.into_iter().enumerate() {
        if place > 0 {
            push(b'-');
        }
        if octet >= 100 {
            push(b'0' + octet / 100);
        }
        if octet >= 10 {
            push(b'0' + octet / 10 % 10);
        }
        push(b'0' + octet % 10);
    }
    len
}

fn dashed_text(addr: IpAddr, out: &mut [u8; MAX_LABEL]) -> usize {
    let mut rest = &mut out[..];
    let written = write!(rest, "{addr}");
    debug_assert!(written.is_ok(), "an address has 45 bytes at most");
    let mut len = MAX_LABEL - rest.len();
    out[..len].iter_mut().filter(|byte| matches!(byte, b'.' | b':')).for_each(|byte| *byte = b'-');
    if out[..len].ends_with(b"-") {
        out[len] = b'0';
        len += 1;
    }
    len
}

fn push_label(wire: &mut Vec<u8>, label: &[u8]) -> Option<()> {
    if label.is_empty() || label.len() > MAX_LABEL {
        return None;
    }
    wire.push(label.len() as u8);
    wire.extend_from_slice(label);
    Some(())
}

/// Why a text is no domain name.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum NameError {
    /// A label breaks RFC 1035 §2.3.4.
    #[error("\"{name}\" is not a domain name: each label needs 1 to 63 bytes; write it as a.b.c")]
    Label {
        /// What was given.
        name: String,
    },
    /// The whole breaks RFC 1035 §2.3.4.
    #[error("\"{name}\" is not a domain name: over 255 bytes in wire form; shorten it")]
    Long {
        /// What was given.
        name: String,
    },
}
