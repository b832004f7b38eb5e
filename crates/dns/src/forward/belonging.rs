//! What of a reply belongs to its question. The rest is dropped before anybody keeps or sees it.
//!
//! ```text
//!  question ──CNAME──► name ──CNAME──► name       the chain, in the answer section
//!                                       │
//!               authority: NS, SOA, DS of a zone above the chain; proofs of absence if DNSSEC was asked for
//!               additional: addresses of names that the records kept so far speak of
//! ```
//!
//! An upstream that was fooled, or that fools, can then at worst lie about what it was asked. Spec: RFC 2181 §5.4.1,
//! RFC 5452 §6, RFC 6672 (DNAME).

use crate::forward::{Question, is_below};
use crate::message::{Message, Record};
use crate::name::Name;
use crate::rdata::{Rdata, Rtype};

const DNAME: Rtype = Rtype(39);
const DS: Rtype = Rtype(43);
const RRSIG: Rtype = Rtype(46);
const NSEC: Rtype = Rtype(47);
const NSEC3: Rtype = Rtype(50);

/// Names that a reply may lead through.
const LONGEST_CHAIN: usize = 16;

/// The message without what does not belong to `question`.
pub fn belonging(question: &Question, mut message: Message) -> Message {
    let chain = chain(question, &message.answers);
    let in_class = |record: &Record| record.class == question.class || question.class == crate::wire::CLASS_ANY;
    message.answers.retain(|record| in_class(record) && is_answer(question, &chain, record));
    message.authority.retain(|record| in_class(record) && is_authority(question, &chain, record));
    let (answers, authority) = (&message.answers, &message.authority);
    message.additional.retain(|record| {
        let is_address = matches!(record.rtype, Rtype::A | Rtype::AAAA) || record.rtype == RRSIG && question.dnssec_ok;
        in_class(record) && is_address && answers.iter().chain(authority).any(|kept| speaks_of(kept, &record.owner))
    });
    message
}

/// The name asked for and those it is an alias of, in order.
fn chain(question: &Question, answers: &[Record]) -> Vec<Name> {
    let mut chain = vec![question.name.clone()];
    while chain.len() < LONGEST_CHAIN {
        let last = chain[chain.len() - 1].clone();
        let next = answers.iter().find_map(|record| match &record.data {
            Rdata::Cname(target) if same(&record.owner, &last) => Some(target),
            _ => None,
        });
        match next {
            Some(next) if !chain.iter().any(|known| same(known, next)) => chain.push(next.clone()),
            _ => break,
        }
    }
    chain
}

fn is_answer(question: &Question, chain: &[Name], record: &Record) -> bool {
    if record.rtype == DNAME {
        return chain.iter().any(|name| is_below(name.as_wire(), record.owner.as_wire()));
    }
    let is_asked = record.rtype == question.rtype || question.rtype == Rtype::ANY;
    let is_link = record.rtype == Rtype::CNAME;
    if record.rtype == RRSIG {
        // A DNAME's signature is at the DNAME's owner, above the chain.
        return chain.iter().any(|name| is_below(name.as_wire(), record.owner.as_wire()));
    }
    (is_asked || is_link) && chain.iter().any(|name| same(name, &record.owner))
}

fn is_authority(question: &Question, chain: &[Name], record: &Record) -> bool {
    match record.rtype {
        Rtype::SOA | Rtype::NS | DS => chain.iter().any(|name| is_below(name.as_wire(), record.owner.as_wire())),
        NSEC | NSEC3 | RRSIG => question.dnssec_ok,
        _ => false,
    }
}

/// `record` is a reason to tell the addresses of `name`.
fn speaks_of(record: &Record, name: &Name) -> bool {
    match &record.data {
        Rdata::Ns(target) | Rdata::Srv { target, .. } => same(target, name),
        // MX, SVCB and others hold their names written out.
        Rdata::Raw(bytes) => bytes.windows(name.as_wire().len()).any(|part| part.eq_ignore_ascii_case(name.as_wire())),
        _ => false,
    }
}

fn same(one: &Name, other: &Name) -> bool {
    one.as_wire().eq_ignore_ascii_case(other.as_wire())
}
