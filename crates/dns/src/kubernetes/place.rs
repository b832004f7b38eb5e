//! Where in a zone a name stands: a question's labels, read once, without allocation.
//!
//! ```text
//!  _http._tcp . web.default . svc . cluster.local
//!  └ port ──┘   └ labels ┘          └ zone ─────┘      Place::Port
//! ```

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::name::{MAX_NAME, undashed_bytes};

/// A name as it was asked for, in lower case, with the starts of its labels.
pub(crate) struct Asked<'q> {
    /// As it came.
    pub wire: &'q [u8],
    lower: [u8; MAX_NAME],
    len: usize,
    starts: [u8; MAX_NAME / 2 + 1],
    labels: usize,
}

/// What a name below a forward zone would be the name of. Slices are of the name in lower case.
#[derive(Debug, PartialEq)]
pub(crate) enum Place<'a> {
    /// The zone itself.
    Apex,
    /// `svc`, `pod` or `dns`: there for what is below.
    Bare,
    /// `dns-version`.
    Version,
    /// `ns.dns`.
    Host,
    /// `<ns>.svc`: the namespace's label with its length.
    Namespace(&'a [u8]),
    /// `<ns>.pod`.
    PodNamespace(&'a [u8]),
    /// `<address>.<ns>.pod`; the first is the text of its label.
    Pod(&'a [u8], &'a [u8]),
    /// A Service's name: its two labels.
    Service(&'a [u8]),
    /// One label below a Service's name: an endpoint, or `_tcp`. The Service's labels, the label's text.
    Below(&'a [u8], &'a [u8]),
    /// Two labels below, the first with an underscore: the texts of the port and of the transport, without underscores.
    Port(&'a [u8], &'a [u8], &'a [u8]),
    /// No such name can be.
    Nowhere,
}

impl<'q> Asked<'q> {
    /// Reads a valid wire name.
    pub(crate) fn new(wire: &'q [u8]) -> Self {
        let len = wire.len().min(MAX_NAME);
        let mut asked = Self { wire, lower: [0; MAX_NAME], len, starts: [0; MAX_NAME / 2 + 1], labels: 0 };
        // Lengths of labels are below the letters, so all bytes can be treated alike.
        for (to, from) in asked.lower.iter_mut().zip(wire) {
            *to = from.to_ascii_lowercase();
        }
        let mut at = 0;
        while let Some(length) = wire.get(at).filter(|length| **length > 0) {
            asked.starts[asked.labels] = at as u8;
            asked.labels += 1;
            at += usize::from(*length) + 1;
        }
        asked.starts[asked.labels] = at as u8;
        asked
    }

    /// The part from the `label`-th label on, to the end.
    fn from(&self, label: usize) -> &[u8] {
        &self.lower[usize::from(self.starts[label])..self.len]
    }

    /// How many labels stand left of `zone`, a wire name in lower case of `labels` labels; `None`: it is not in it.
    pub(crate) fn left_of(&self, zone: &[u8], labels: usize) -> Option<usize> {
        let left = self.labels.checked_sub(labels)?;
        (self.from(left) == zone).then_some(left)
    }

    /// Labels `first` and those up to `end`, with their lengths.
    pub(crate) fn span(&self, first: usize, end: usize) -> &[u8] {
        &self.lower[usize::from(self.starts[first])..usize::from(self.starts[end])]
    }

    /// Texts of the first labels.
    pub(crate) fn texts(&self, count: usize) -> impl Iterator<Item = &[u8]> {
        (0..count).map(|label| self.text(label))
    }

    /// The text of one label.
    fn text(&self, label: usize) -> &[u8] {
        &self.span(label, label + 1)[1..]
    }

    /// What the `left` labels left of a forward zone name.
    pub(crate) fn place(&self, left: usize) -> Place<'_> {
        let Some(last) = left.checked_sub(1) else { return Place::Apex };
        match (self.text(last), left) {
            (b"svc" | b"pod" | b"dns", 1) => Place::Bare,
            (b"dns-version", 1) => Place::Version,
            (b"dns", 2) if self.text(0) == b"ns" => Place::Host,
            (b"svc", 2) => Place::Namespace(self.span(0, 1)),
            (b"pod", 2) => Place::PodNamespace(self.span(0, 1)),
            (b"svc", 3) => Place::Service(self.span(0, 2)),
            (b"pod", 3) => Place::Pod(self.text(0), self.span(1, 2)),
            (b"svc", 4) => Place::Below(self.span(1, 3), self.text(0)),
            (b"svc", 5) => match (self.text(0), self.text(1)) {
                ([b'_', port @ ..], [b'_', transport @ ..]) => Place::Port(self.span(2, 4), port, transport),
                _ => Place::Nowhere,
            },
            _ => Place::Nowhere,
        }
    }

    /// The addresses that the name, in one of the two reverse trees, asks for: one if it is whole, from first to last if
    /// addresses are below it. `None`: no address has it.
    pub(crate) fn reverse(&self) -> Option<(IpAddr, IpAddr)> {
        let left = self.labels.checked_sub(2)?;
        match self.from(left) {
            b"\x07in-addr\x04arpa\0" if left <= 4 => {
                let (mut low, mut high) = ([0; 4], [255; 4]);
                for (place, label) in (0..left).rev().enumerate() {
                    let octet = octet(self.text(label))?;
                    (low[place], high[place]) = (octet, octet);
                }
                Some((Ipv4Addr::from(low).into(), Ipv4Addr::from(high).into()))
            }
            b"\x03ip6\x04arpa\0" if left <= 32 => {
                let (mut low, mut high) = (0u128, u128::MAX);
                for (place, label) in (0..left).rev().enumerate() {
                    let nibble = nibble(self.text(label))?;
                    let shift = 124 - 4 * place;
                    low |= nibble << shift;
                    high &= !(15 << shift) | nibble << shift;
                }
                Some((Ipv6Addr::from(low).into(), Ipv6Addr::from(high).into()))
            }
            _ => None,
        }
    }
}

/// A decimal octet as an address is written backwards: no sign, no leading zero.
fn octet(text: &[u8]) -> Option<u8> {
    match text {
        [b'0', _, ..] | [b'+', ..] => None,
        _ => std::str::from_utf8(text).ok()?.parse().ok(),
    }
}

fn nibble(text: &[u8]) -> Option<u128> {
    match text {
        [digit] => (*digit as char).to_digit(16).map(u128::from),
        _ => None,
    }
}

/// The address that a label such as `10-244-1-5` stands for.
pub(crate) fn address(label: &[u8]) -> Option<IpAddr> {
    undashed_bytes(label)
}
