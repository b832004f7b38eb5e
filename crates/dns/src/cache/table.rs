//! One shard of the cache: entries in two rows (answers, absences), each bounded, found by hash.
//!
//! Who must go when a row is full is found by a hand that goes round: what was asked for since it last passed stays once
//! more. It looks at eight entries at most, so a full cache costs no more than an empty one.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};
use std::time::Duration;

use super::key::Wanted;
use super::stored::Stored;
use super::view::CacheCounts;

/// Entries that the hand looks at before one goes.
const LOOKS: usize = 8;

/// Answers, or absences and failures.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Row {
    Success,
    Denial,
}

/// Where an entry is, until the table changes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place {
    pub(super) row: Row,
    at: usize,
}

#[derive(Debug)]
pub(super) struct Entry {
    pub(super) hash: u64,
    pub(super) stored: Stored,
    /// The name does not exist: an answer to every type.
    pub(super) whole_name: bool,
    pub(super) dnssec_ok: bool,
    pub(super) checking_disabled: bool,
    pub(super) since: Duration,
    pub(super) expires: Duration,
    /// Until then it may be served although its time is over.
    pub(super) gone: Duration,
    /// Asked for since the hand last passed.
    pub(super) used: bool,
    /// Times asked for without a long pause.
    pub(super) hits: u32,
    pub(super) last_hit: Duration,
    /// When somebody was last told to ask anew.
    pub(super) renewed: Option<Duration>,
}

#[derive(Debug, Default)]
pub(super) struct Table {
    places: HashMap<u64, (bool, u32), BuildHasherDefault<AsItIs>>,
    rows: [Vec<Entry>; 2],
    hands: [usize; 2],
    pub(super) bytes: usize,
    pub(super) counts: CacheCounts,
}

/// Keys are hashes already.
#[derive(Clone, Copy, Debug, Default)]
struct AsItIs(u64);

impl Hasher for AsItIs {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for chunk in bytes.chunks(8) {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            self.0 ^= u64::from_le_bytes(word);
        }
    }

    fn write_u64(&mut self, number: u64) {
        self.0 = number;
    }
}

/// Most that a shard may hold.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bounds {
    /// Entries by row.
    pub(super) entries: [usize; 2],
    pub(super) bytes: usize,
}

impl Table {
    pub(super) fn len(&self, row: Row) -> usize {
        self.rows[row as usize].len()
    }

    /// Where the entry of this hash is, if it is for `wanted` and not gone for good.
    pub(super) fn find(&self, hash: u64, wanted: &Wanted<'_>, now: Duration) -> Option<Place> {
        let (is_denial, at) = *self.places.get(&hash)?;
        let place = Place { row: if is_denial { Row::Denial } else { Row::Success }, at: at as usize };
        let entry = self.entry(place);
        (now < entry.gone && entry.is_for(wanted)).then_some(place)
    }

    pub(super) fn entry(&self, place: Place) -> &Entry {
        &self.rows[place.row as usize][place.at]
    }

    pub(super) fn entry_mut(&mut self, place: Place) -> &mut Entry {
        &mut self.rows[place.row as usize][place.at]
    }

    /// Keeps an entry, in place of one with the same hash; what must go for it goes.
    pub(super) fn put(&mut self, row: Row, entry: Entry, bounds: &Bounds, now: Duration) {
        self.remove(entry.hash);
        let weight = entry.weight();
        let limit = bounds.entries[row as usize];
        if limit == 0 || weight > bounds.bytes {
            return;
        }
        while self.len(row) >= limit {
            self.evict(row, now);
        }
        while self.bytes + weight > bounds.bytes {
            let fuller = if self.len(Row::Success) >= self.len(Row::Denial) { Row::Success } else { Row::Denial };
            self.evict(fuller, now);
        }
        let entries = &mut self.rows[row as usize];
        self.places.insert(entry.hash, (row == Row::Denial, entries.len() as u32));
        self.bytes += weight;
        entries.push(entry);
    }

    pub(super) fn remove(&mut self, hash: u64) {
        if let Some((is_denial, at)) = self.places.remove(&hash) {
            self.take_out(if is_denial { Row::Denial } else { Row::Success }, at as usize);
        }
    }

    pub(super) fn clear(&mut self) {
        self.places.clear();
        self.rows.iter_mut().for_each(Vec::clear);
        (self.hands, self.bytes) = ([0; 2], 0);
    }

    fn evict(&mut self, row: Row, now: Duration) {
        let entries = &mut self.rows[row as usize];
        let hand = &mut self.hands[row as usize];
        for _ in 0..LOOKS {
            *hand = (*hand + 1) % entries.len();
            let entry = &mut entries[*hand];
            if entry.gone <= now || !std::mem::replace(&mut entry.used, false) {
                break;
            }
        }
        let (at, hash) = (*hand, entries[*hand].hash);
        self.counts.evictions[row as usize] += 1;
        self.places.remove(&hash);
        self.take_out(row, at);
    }

    /// The last entry of the row takes its place.
    fn take_out(&mut self, row: Row, at: usize) {
        let entries = &mut self.rows[row as usize];
        let entry = entries.swap_remove(at);
        self.bytes -= entry.weight();
        if let Some(moved) = entries.get(at) {
            self.places.insert(moved.hash, (row == Row::Denial, at as u32));
        }
    }
}

impl Entry {
    /// Memory, in bytes, with its share of the table.
    fn weight(&self) -> usize {
        size_of::<Self>() + self.stored.bytes() + 32
    }

    fn is_for(&self, wanted: &Wanted<'_>) -> bool {
        let (rtype, class) = self.stored.rtype_and_class();
        (self.whole_name || rtype == wanted.rtype)
            && class == wanted.class
            && self.dnssec_ok == wanted.dnssec_ok
            && self.checking_disabled == wanted.checking_disabled
            && self.stored.name().eq_ignore_ascii_case(wanted.name)
    }
}
