//! Upstream answers, kept for as long as they say, and never longer than the configuration allows.
//!
//! [`AnswerCache`] is a server block's, for many threads: answers and absences alike, bounded by entries and bytes. Time is
//! a `Duration` since any fixed moment. Spec: RFC 2308 for absence, RFC 8767 for what is stale.

mod answers;
mod key;
mod stored;
mod table;
mod view;
mod worth;

pub use answers::{AnswerCache, Hit, Looked, Written};
pub use view::CacheCounts;

use crate::name::Key;
use crate::rdata::Rtype;

/// What an upstream is asked: the identity of an answer.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[allow(missing_docs)]
pub struct Asked {
    pub key: Key,
    pub rtype: Rtype,
    pub class: u16,
    pub dnssec_ok: bool,
    pub checking_disabled: bool,
}
