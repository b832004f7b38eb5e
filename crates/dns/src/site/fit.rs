//! Names and zones as bytes of a packet, and a query under another name.

use crate::name::Name;
use crate::rdata::Rtype;
use crate::wire::Query;

/// `name` is `zone` or below it; both are uncompressed wire names. Case does not count.
pub(crate) fn is_in(name: &[u8], zone: &[u8]) -> bool {
    let Some(skip) = name.len().checked_sub(zone.len()) else { return false };
    name[skip..].eq_ignore_ascii_case(zone) && is_border(name, skip)
}

/// `name` is below `zone`, and not the zone itself.
pub(crate) fn is_under(name: &[u8], zone: &[u8]) -> bool {
    name.len() > zone.len() && is_in(name, zone)
}

/// `name` is in one of `zones`, or those are none.
pub(crate) fn is_in_any(name: &[u8], zones: &[Name]) -> bool {
    zones.is_empty() || zones.iter().any(|zone| is_in(name, zone.as_wire()))
}

/// A label starts at `at`.
fn is_border(name: &[u8], at: usize) -> bool {
    let mut border = 0;
    while border < at {
        border += usize::from(name[border]) + 1;
    }
    border == at
}

/// A question under another name or type, for a query that is otherwise the same.
#[derive(Debug)]
pub(crate) struct Renamed {
    question: Vec<u8>,
    rtype: Rtype,
}

impl Renamed {
    /// The question of `name` and `rtype`.
    pub(crate) fn new(name: &[u8], rtype: Rtype, class: u16) -> Self {
        let mut question = Vec::with_capacity(name.len() + 4);
        question.extend_from_slice(name);
        question.extend_from_slice(&rtype.0.to_be_bytes());
        question.extend_from_slice(&class.to_be_bytes());
        Self { question, rtype }
    }

    /// `query`, asking this.
    pub(crate) fn of<'a>(&'a self, query: &Query<'a>) -> Query<'a> {
        let name = &self.question[..self.question.len() - 4];
        Query { question: &self.question, name, rtype: self.rtype, ..*query }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_in_a_zone_at_a_label_border_only() {
        let wire = |text: &str| Name::parse(text).expect("a name").as_wire().to_vec();
        let rows = [
            ("a.example.org", "example.org", true, true),
            ("EXAMPLE.org", "example.ORG", true, false),
            ("a.example.org", ".", true, true),
            (".", ".", true, false),
            ("badexample.org", "example.org", false, false),
            ("org", "example.org", false, false),
        ];
        for (name, zone, inside, below) in rows {
            assert_eq!(is_in(&wire(name), &wire(zone)), inside, "{name} in {zone}");
            assert_eq!(is_under(&wire(name), &wire(zone)), below, "{name} under {zone}");
        }
        // The length byte of a label may equal a letter: 7 letters, then what looks like a zone inside a label.
        assert!(!is_in(b"\x0ba\x07exampleorg\x00", b"\x07exampleorg\x00"));
    }
}
