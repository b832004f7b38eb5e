//! What a cache did, for metrics.

/// Counts since the start, by row where there are two: answers, then absences and failures.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CacheCounts {
    /// Held now (`coredns_cache_entries`).
    pub entries: [u64; 2],
    /// Answered from (`coredns_cache_hits_total`).
    pub hits: [u64; 2],
    /// Asked in vain (`coredns_cache_misses_total`).
    pub misses: u64,
    /// Gone for want of room (`coredns_cache_evictions_total`).
    pub evictions: [u64; 2],
    /// Told to ask anew before the time is over (`coredns_cache_prefetch_total`).
    pub prefetches: u64,
    /// Answered although the time was over (`coredns_cache_served_stale_total`).
    pub stale: u64,
    /// Memory held, in bytes.
    pub bytes: u64,
}

impl CacheCounts {
    pub(super) fn add(&mut self, other: &Self) {
        for row in 0..2 {
            self.entries[row] += other.entries[row];
            self.hits[row] += other.hits[row];
            self.evictions[row] += other.evictions[row];
        }
        self.misses += other.misses;
        self.prefetches += other.prefetches;
        self.stale += other.stale;
        self.bytes += other.bytes;
    }
}
