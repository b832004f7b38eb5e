//! What an answer is found by: a hash of the name, and with it one of the whole question.
//!
//! The hash is keyed, so that clients cannot choose names that fall together; entries are compared in full all the same.

use crate::name::MAX_NAME;
use crate::rdata::Rtype;

const MIX: u64 = 0x9e37_79b9_7f4a_7c15;
const END: u64 = 0xd6e8_feb8_6659_fd93;

/// A question as the cache looks for it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wanted<'a> {
    /// Wire form, any case.
    pub(super) name: &'a [u8],
    pub(super) rtype: Rtype,
    pub(super) class: u16,
    pub(super) dnssec_ok: bool,
    pub(super) checking_disabled: bool,
}

/// Where to look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Hashes {
    /// Of name, class and bits: picks the shard, and finds a name that does not exist.
    pub(super) name: u64,
    /// Of all.
    pub(super) whole: u64,
}

impl Wanted<'_> {
    pub(super) fn hashes(&self, seed: u64) -> Hashes {
        let mut lower = [0; MAX_NAME];
        let len = self.name.len().min(MAX_NAME);
        for (to, from) in lower.iter_mut().zip(&self.name[..len]) {
            // Lengths are below the letters, so the wire form can be lowered as it is.
            *to = from.to_ascii_lowercase();
        }
        let mut state = seed ^ (len as u64).wrapping_mul(MIX);
        for chunk in lower[..len.next_multiple_of(8).min(MAX_NAME)].chunks(8) {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            state = fold(state ^ u64::from_le_bytes(word), MIX);
        }
        let bits = u64::from(self.dnssec_ok) << 1 | u64::from(self.checking_disabled);
        let name = fold(state ^ u64::from(self.class) << 8 ^ bits, END);
        Hashes { name, whole: fold(name ^ (u64::from(self.rtype.0) + 1) << 20, MIX) }
    }
}

fn fold(one: u64, other: u64) -> u64 {
    let wide = u128::from(one) * u128::from(other);
    wide as u64 ^ (wide >> 64) as u64
}
