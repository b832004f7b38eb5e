//! A quick hash of short byte strings: labels of names.
//!
//! Eight bytes at a time, each folded into the state by one wide multiplication. No secret: what is hashed into tables is
//! what the cluster holds, which only those who may create objects choose; a query that collides finds nothing more slowly
//! than another by a few steps.

use std::hash::{BuildHasher, Hasher};

/// Makes [`Mixed`] states.
#[derive(Clone, Copy, Debug, Default)]
pub struct Mixer;

impl BuildHasher for Mixer {
    type Hasher = Mixed;

    fn build_hasher(&self) -> Mixed {
        Mixed(0x9e37_79b9_7f4a_7c15)
    }
}

/// A hash on its way.
#[derive(Clone, Copy, Debug)]
pub struct Mixed(u64);

impl Mixed {
    fn fold(&mut self, word: u64) {
        let wide = u128::from(self.0 ^ word) * 0xa076_1d64_78bd_642f_u128;
        self.0 = (wide as u64) ^ ((wide >> 64) as u64);
    }
}

impl Hasher for Mixed {
    fn write(&mut self, bytes: &[u8]) {
        let (words, rest) = bytes.as_chunks::<8>();
        words.iter().for_each(|word| self.fold(u64::from_le_bytes(*word)));
        if !rest.is_empty() {
            let mut last = [0; 8];
            last[..rest.len()].copy_from_slice(rest);
            self.fold(u64::from_le_bytes(last));
        }
    }

    fn write_usize(&mut self, number: usize) {
        self.fold(number as u64);
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn like_names_fall_on_different_places() {
        let names: Vec<String> = (0..10_000).map(|n| format!("\u{5}svc-{n}\u{7}default")).collect();
        let hashes: Vec<u64> = names.iter().map(|name| Mixer.hash_one(name.as_bytes())).collect();
        let whole: BTreeSet<u64> = hashes.iter().copied().collect();
        assert_eq!(whole.len(), names.len());
        for shift in [0, 20, 40, 48] {
            let places: BTreeSet<u64> = hashes.iter().map(|hash| (hash >> shift) & 0xffff).collect();
            assert!(places.len() > 8_800, "{} of 65,536 places at bit {shift}", places.len());
        }
    }
}
