//! A DNS server's answer to a question of ours, followed through its aliases. Trusts nothing.

use std::net::IpAddr;

use portolan_dns::message::{Message, Record};
use portolan_dns::name::Name;
use portolan_dns::rdata::{Rdata, Rtype};

/// What came.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Reading {
    /// No answer to this question: somebody else's, or forged.
    NotOurs,
    /// It did not fit: to be asked again by TCP.
    Truncated,
    /// It is meant as an answer and cannot be read, or its aliases lead in a circle.
    Garbled,
    Told(Told),
}

/// What the answer says.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Told {
    /// `NOERROR`, `NXDOMAIN`, …
    pub(super) answer: String,
    /// No final dots.
    pub(super) aliases: Vec<String>,
    pub(super) addresses: Vec<IpAddr>,
    pub(super) ttl_secs: Option<u32>,
}

/// Reads what a server sent for the question `id`, `name`, `rtype`.
pub(super) fn read(bytes: &[u8], id: u16, name: &Name, rtype: Rtype) -> Reading {
    if bytes.first_chunk() != Some(&id.to_be_bytes()) {
        return Reading::NotOurs;
    }
    let Some(message) = Message::parse(bytes) else { return Reading::Garbled };
    // Some FORMERR repeat no question.
    let is_ours = message.question.as_ref().is_none_or(|(asked, kind, _)| asked.key() == name.key() && *kind == rtype);
    if !is_ours {
        return Reading::NotOurs;
    }
    if message.truncated {
        return Reading::Truncated;
    }
    let Some((aliases, owner)) = follow(&message.answers, name) else { return Reading::Garbled };
    let addresses = message.answers.iter().filter(|record| record.owner.key() == owner.key() && record.rtype == rtype);
    Reading::Told(Told {
        answer: message.rcode.to_string(),
        aliases: aliases.iter().map(text).collect(),
        addresses: addresses.filter_map(address_of).collect(),
        ttl_secs: message.ttl_secs(rtype),
    })
}

/// The names that CNAMEs lead through, and the last; `None`: in a circle.
fn follow(records: &[Record], name: &Name) -> Option<(Vec<Name>, Name)> {
    let mut aliases: Vec<Name> = Vec::new();
    let mut owner = name.clone();
    while let Some(target) = records.iter().find_map(|record| alias_of(record, &owner)) {
        // Each record is an alias of one owner: more steps than records go round.
        if aliases.len() >= records.len() {
            return None;
        }
        aliases.push(target.clone());
        owner = target;
    }
    Some((aliases, owner))
}

fn alias_of(record: &Record, owner: &Name) -> Option<Name> {
    match &record.data {
        Rdata::Cname(target) if record.owner.key() == owner.key() => Some(target.clone()),
        _ => None,
    }
}

fn address_of(record: &Record) -> Option<IpAddr> {
    match record.data {
        Rdata::A(address) => Some(address.into()),
        Rdata::Aaaa(address) => Some(address.into()),
        _ => None,
    }
}

/// As people write it: no final dot.
pub(super) fn text(name: &Name) -> String {
    let text = name.to_string();
    text.strip_suffix('.').filter(|bare| !bare.is_empty()).unwrap_or(&text).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: u16 = 0x1234;

    fn name(text: &str) -> Name {
        Name::parse(text).expect(text)
    }

    /// An answer to `asked` A with records as owner, type, data.
    fn reply(flags: [u8; 2], asked: &str, records: &[(&str, u16, Vec<u8>)]) -> Vec<u8> {
        let mut bytes = ID.to_be_bytes().to_vec();
        bytes.extend(flags);
        bytes.extend([0, 1, 0, records.len() as u8, 0, 0, 0, 0]);
        bytes.extend(name(asked).as_wire());
        bytes.extend([0, 1, 0, 1]);
        for (owner, kind, data) in records {
            bytes.extend(name(owner).as_wire());
            bytes.extend(kind.to_be_bytes());
            bytes.extend([0, 1, 0, 0, 0, 30]);
            bytes.extend((data.len() as u16).to_be_bytes());
            bytes.extend(data);
        }
        bytes
    }

    fn alias(owner: &'static str, target: &str) -> (&'static str, u16, Vec<u8>) {
        (owner, 5, name(target).as_wire().to_vec())
    }

    fn aliased() -> Vec<u8> {
        let records = [
            alias("www.shop", "cdn.example"),
            alias("cdn.EXAMPLE", "edge.example"),
            ("edge.example", 1, vec![192, 0, 2, 9]),
        ];
        reply([0x81, 0x80], "WWW.shop", &records)
    }

    #[test]
    fn aliases_are_followed_to_the_address_whatever_the_case() {
        let told = read(&aliased(), ID, &name("www.shop"), Rtype::A);
        let expected = Told {
            answer: "NOERROR".into(),
            aliases: vec!["cdn.example".into(), "edge.example".into()],
            addresses: vec!["192.0.2.9".parse().unwrap()],
            ttl_secs: Some(30),
        };
        assert_eq!(told, Reading::Told(expected));
    }

    #[test]
    fn answers_to_others_circles_and_what_does_not_fit_are_told_apart() {
        let ours = name("www.shop");
        assert_eq!(read(&aliased(), ID + 1, &ours, Rtype::A), Reading::NotOurs, "another id");
        assert_eq!(read(&aliased(), ID, &name("web.shop"), Rtype::A), Reading::NotOurs, "another name");
        assert_eq!(read(&aliased(), ID, &ours, Rtype::AAAA), Reading::NotOurs, "another type");
        assert_eq!(read(&reply([0x83, 0x80], "www.shop", &[]), ID, &ours, Rtype::A), Reading::Truncated);
        assert_eq!(read(&reply([0x01, 0x80], "www.shop", &[]), ID, &ours, Rtype::A), Reading::Garbled, "a query");
        let circle = [alias("www.shop", "cdn.example"), alias("cdn.example", "www.shop")];
        assert_eq!(read(&reply([0x81, 0x80], "www.shop", &circle), ID, &ours, Rtype::A), Reading::Garbled);
        let own = [alias("www.shop", "www.shop")];
        assert_eq!(read(&reply([0x81, 0x80], "www.shop", &own), ID, &ours, Rtype::A), Reading::Garbled);
        let Reading::Told(none) = read(&reply([0x81, 0x83], "www.shop", &[]), ID, &ours, Rtype::A) else { panic!() };
        assert_eq!((none.answer.as_str(), none.addresses.len()), ("NXDOMAIN", 0));
        let stray = [("other.shop", 1, vec![192, 0, 2, 1])];
        let Reading::Told(none) = read(&reply([0x81, 0x80], "www.shop", &stray), ID, &ours, Rtype::A) else { panic!() };
        assert!(none.addresses.is_empty(), "of a name that nobody asked for");
    }

    #[test]
    fn an_answer_cut_or_bent_anywhere_is_read_without_panic_and_never_misread_as_whole() {
        let (whole, ours) = (aliased(), name("www.shop"));
        for end in 0..whole.len() {
            let expected = if end < 2 { Reading::NotOurs } else { Reading::Garbled };
            assert_eq!(read(&whole[..end], ID, &ours, Rtype::A), expected, "{end}");
        }
        for at in 0..whole.len() {
            for byte in 0..=255 {
                let mut bent = whole.clone();
                bent[at] = byte;
                read(&bent, ID, &ours, Rtype::A);
            }
        }
    }
}
