//! How far a pull is, for whoever shows it.

/// Hears of a pull's parts; called from the task that fetches, so it must be quick.
pub trait Progress: Send + Sync {
    /// A part of so many bytes is to come.
    fn begins(&self, digest: &str, size_bytes: u64);
    /// More of it is here.
    fn arrived(&self, digest: &str, bytes: u64);
    /// All of it is here.
    fn done(&self, digest: &str);
}

/// Shows nothing.
#[derive(Clone, Copy, Debug)]
pub struct Silent;

impl Progress for Silent {
    fn begins(&self, _digest: &str, _size_bytes: u64) {}
    fn arrived(&self, _digest: &str, _bytes: u64) {}
    fn done(&self, _digest: &str) {}
}
