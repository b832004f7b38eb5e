//! The log under the memory: fjall, written in groups, one fsync a group.
//!
//! ```text
//! keyspace "objects":  key -> revision u64 BE | revision_at u32 BE (MAX = none) | value bytes
//! keyspace "meta":     "revision" -> u64 BE, "format" -> u8
//! ```
//! A group is one fjall batch: after a crash it is there whole or not at all.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use fjall::{Database, Keyspace, KeyspaceCreateOptions, PersistMode};

use crate::{Entry, Index, Key};

const FORMAT: u8 = 1;
const HEADER_BYTES: usize = 12;
const NO_OFFSET: u32 = u32::MAX;

#[derive(Debug, thiserror::Error)]
pub enum LogError {
    #[error("cannot open the store in {path}: {source}; is another server using it?")]
    Open { path: PathBuf, source: fjall::Error },
    #[error("cannot read the store in {path}: {source}")]
    Read { path: PathBuf, source: fjall::Error },
    #[error("cannot write the store: {0}")]
    Write(#[from] fjall::Error),
    #[error(
        "the store in {path} has format {found}, this program reads format {FORMAT}; use the program that wrote it"
    )]
    Format { path: PathBuf, found: u8 },
    #[error("the store in {path} holds a broken record under {key}: {problem}")]
    Record { path: PathBuf, key: String, problem: &'static str },
}

pub struct Log {
    database: Database,
    objects: Keyspace,
    meta: Keyspace,
    path: PathBuf,
}

/// What an opened log held.
pub type Loaded<I> = (BTreeMap<Key, Entry<I>>, u64);

impl Log {
    pub fn open(path: &Path) -> Result<Log, LogError> {
        let opened = |source| LogError::Open { path: path.to_owned(), source };
        let database = Database::builder(path).cache_size(8 << 20).worker_threads(1).open().map_err(opened)?;
        let objects = database.keyspace("objects", KeyspaceCreateOptions::default).map_err(opened)?;
        let meta = database.keyspace("meta", KeyspaceCreateOptions::default).map_err(opened)?;
        let log = Log { database, objects, meta, path: path.to_owned() };
        log.check_format()?;
        Ok(log)
    }

    fn check_format(&self) -> Result<(), LogError> {
        match self.meta.get("format").map_err(|source| self.unreadable(source))? {
            None => self.meta.insert("format", [FORMAT]).map_err(LogError::Write),
            Some(found) if found.first() == Some(&FORMAT) => Ok(()),
            Some(found) => {
                Err(LogError::Format { path: self.path.clone(), found: found.first().copied().unwrap_or(0) })
            }
        }
    }

    pub fn load<I: Index>(&self) -> Result<Loaded<I>, LogError> {
        let mut entries = BTreeMap::new();
        for guard in self.objects.iter() {
            let (key, record) = guard.into_inner().map_err(|source| self.unreadable(source))?;
            let entry = self.entry(&key, &record)?;
            entries.insert(entry.key.clone(), entry);
        }
        let stored = self.meta.get("revision").map_err(|source| self.unreadable(source))?;
        let revision = stored.and_then(|bytes| Some(u64::from_be_bytes(bytes.as_ref().try_into().ok()?))).unwrap_or(0);
        Ok((entries, revision))
    }

    fn entry<I: Index>(&self, key: &[u8], record: &[u8]) -> Result<Entry<I>, LogError> {
        let broken = |problem| LogError::Record {
            path: self.path.clone(),
            key: String::from_utf8_lossy(key).into_owned(),
            problem,
        };
        let key = std::str::from_utf8(key).map_err(|_| broken("the key is no text"))?;
        let (header, value) = record.split_at_checked(HEADER_BYTES).ok_or_else(|| broken("it is too short"))?;
        let revision = u64::from_be_bytes(header[..8].try_into().expect("eight of twelve bytes"));
        let at = u32::from_be_bytes(header[8..].try_into().expect("four of twelve bytes"));
        Ok(Entry {
            key: key.into(),
            value: Bytes::copy_from_slice(value),
            revision,
            revision_at: (at != NO_OFFSET).then_some(at),
            index: Arc::new(I::of(key, value)),
        })
    }

    /// Writes a group durably: returns only after fsync.
    pub fn commit<'a, I: 'a>(
        &self,
        revision: u64,
        changes: impl Iterator<Item = (&'a str, Option<&'a Entry<I>>)>,
    ) -> Result<(), LogError> {
        let mut batch = self.database.batch().durability(Some(PersistMode::SyncData));
        for (key, entry) in changes {
            match entry {
                Some(entry) => batch.insert(&self.objects, key, record(entry)),
                None => batch.remove(&self.objects, key),
            }
        }
        batch.insert(&self.meta, "revision", revision.to_be_bytes());
        Ok(batch.commit()?)
    }

    fn unreadable(&self, source: fjall::Error) -> LogError {
        LogError::Read { path: self.path.clone(), source }
    }
}

fn record<I>(entry: &Entry<I>) -> Vec<u8> {
    let mut record = Vec::with_capacity(HEADER_BYTES + entry.value.len());
    record.extend_from_slice(&entry.revision.to_be_bytes());
    record.extend_from_slice(&entry.revision_at.unwrap_or(NO_OFFSET).to_be_bytes());
    record.extend_from_slice(&entry.value);
    record
}
