//! Kubernetes objects in files, followed when the files change: what a watch is for a live cluster.
//!
//! ```text
//!  files, folders ──stat──► those that changed ──parse──► objects ──diff──► Input::Cluster(Value | Gone)
//!                                                            └─► pods of this node ──► Input::Fact(Attachment)
//! ```
//!
//! A file that does not parse keeps what it held before. Where an object stands twice, the later file counts. What was told is
//! not kept here: Services and slices, of which there are many, are known by a hash of their text, and read again from their file
//! in the rare case that another file's word of them ends.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use portolan_agent::proxy::Input;
use portolan_ingest::{Event, Object, fact, gone, host_ports};
use portolan_model::{Fact, Facts, HostPort, NsName, ObjectKind, ObjectRef, Text};

use crate::failure::Failure;

/// The files and what they held when they were last good.
pub struct Files {
    paths: Vec<PathBuf>,
    node: Text,
    read: BTreeMap<PathBuf, Held>,
    told: BTreeMap<ObjectRef, Entry>,
    facts: Facts,
}

/// What a file says of one object.
#[derive(Clone)]
struct Entry {
    /// Differs, for all that matters, where the object does.
    print: u64,
    /// `None`: it was told, and is at home in its file.
    object: Option<Arc<Object>>,
}

/// What tells one content of a file from another: device, inode, size, and both times. `None`: it is not there.
type Stamp = Option<(u64, u64, u64, (i64, i64), (i64, i64))>;

#[derive(Default)]
struct Held {
    /// When it was read last; `None`: never.
    stamp: Option<Stamp>,
    objects: Vec<(ObjectRef, Entry)>,
}

impl Files {
    /// Reads all of them for the first time.
    ///
    /// # Errors
    /// All that cannot be read or does not parse: at a start nothing older could stand in for it.
    pub fn open(paths: &[PathBuf], node: &str) -> Result<(Self, Vec<Input>), Failure> {
        let mut files = Self {
            paths: paths.to_vec(),
            node: node.into(),
            read: BTreeMap::new(),
            told: BTreeMap::new(),
            facts: Facts::default(),
        };
        let (inputs, problems) = files.look(SystemTime::now());
        let told: Vec<String> = problems.iter().map(ToString::to_string).collect();
        match told.is_empty() {
            true => Ok((files, inputs)),
            false => Err(Failure::input(told.join("\nportolan: "))),
        }
    }

    /// What changed since the last look, and which files cannot be read or do not parse; each is named once per content.
    pub fn look(&mut self, now: SystemTime) -> (Vec<Input>, Vec<Failure>) {
        let mut problems = Vec::new();
        let listed = match crate::apply::files(&self.paths) {
            Ok(listed) => listed,
            Err(problem) => return (Vec::new(), vec![problem]),
        };
        let mut changed = false;
        for path in &listed {
            let stamp = stamp(path);
            let held = self.read.entry(path.clone()).or_default();
            if held.stamp.as_ref() == Some(&stamp) {
                continue;
            }
            held.stamp = Some(stamp);
            match objects_of(path) {
                Ok(objects) => {
                    held.objects = objects;
                    changed = true;
                }
                // It left its folder after the folder was listed: as if it had left before.
                Err(_) if !self.paths.contains(path) && !path.exists() => {
                    held.objects = Vec::new();
                    changed = true;
                }
                Err(problem) => problems.push(problem),
            }
        }
        if self.read.len() != listed.len() {
            let listed: BTreeSet<&PathBuf> = listed.iter().collect();
            self.read.retain(|path, _| listed.contains(path));
            changed = true;
        }
        match changed {
            true => (self.inputs(&listed, now), problems),
            false => (Vec::new(), problems),
        }
    }

    /// The difference between what the files hold and what was told.
    fn inputs(&mut self, listed: &[PathBuf], now: SystemTime) -> Vec<Input> {
        let mut wanted: BTreeMap<ObjectRef, (&Path, Entry)> = BTreeMap::new();
        for (path, held) in listed.iter().filter_map(|path| Some((path, self.read.get(path)?))) {
            wanted.extend(held.objects.iter().map(|(key, entry)| (key.clone(), (path.as_path(), entry.clone()))));
        }
        let mut events = Vec::new();
        for (key, entry) in self.told.iter().filter(|(key, _)| !wanted.contains_key(key)) {
            if let Some(object) = entry.object.as_deref().cloned().or_else(|| Object::named(key)) {
                self.facts.apply(gone(&object));
                events.push(Event::Gone(object));
            }
        }
        let is_new = |key: &ObjectRef, entry: &Entry| self.told.get(key).is_none_or(|known| known.print != entry.print);
        let (mut again, mut owed) = (BTreeMap::new(), BTreeSet::new());
        for (key, (path, entry)) in wanted.iter().filter(|(key, (_, entry))| is_new(key, entry)) {
            let at_home = || again.entry(*path).or_insert_with(|| read_again(path)).get(key).cloned();
            let Some(object) = entry.object.clone().or_else(at_home) else {
                owed.insert(key.clone());
                continue;
            };
            self.facts.apply(fact(&object).0);
            events.push(Event::Value(Arc::unwrap_or_clone(object)));
        }
        // What is owed is told once its file is good again, which is a change of the file.
        let mut before = std::mem::take(&mut self.told);
        let told = wanted.into_iter().filter_map(|(key, (_, entry))| match owed.contains(&key) {
            true => before.remove_entry(&key),
            false => Some((key, entry.told())),
        });
        self.told = told.collect();
        for held in self.read.values_mut() {
            held.objects.iter_mut().for_each(|(_, entry)| *entry = entry.told());
        }
        let attachments = self.attachments().into_iter().map(Input::Fact);
        let events = events.into_iter().map(|event| Input::Cluster(event, now));
        events.chain(attachments).collect()
    }

    fn host_ports(&self, pod: &NsName) -> Vec<HostPort> {
        let key = ObjectRef { kind: ObjectKind::Pod, key: pod.clone() };
        match self.told.get(&key).and_then(|entry| entry.object.as_deref()) {
            Some(Object::Pod(pod)) => host_ports(pod),
            _ => Vec::new(),
        }
    }

    /// Which pods of this node came and went: what a CNI plugin would tell.
    fn attachments(&mut self) -> Vec<Fact> {
        let derived = crate::render::derived(&self.facts, &self.node, |pod| self.host_ports(pod));
        let now: BTreeMap<_, _> = derived
            .into_iter()
            .filter_map(|fact| match fact {
                Fact::Attachment(key, value) => Some((key, value)),
                _ => None,
            })
            .collect();
        let left = self.facts.attachments.keys().filter(|key| !now.contains_key(key));
        let mut facts: Vec<Fact> = left.map(|key| Fact::Attachment(key.clone(), None)).collect();
        facts.extend(now.into_iter().map(|(key, value)| Fact::Attachment(key, value)));
        facts.retain(|fact| !self.facts.apply(fact.clone()).is_empty());
        facts
    }
}

impl Entry {
    /// It without what need not be kept once it was told.
    fn told(&self) -> Self {
        let is_many = matches!(self.object.as_deref(), Some(Object::Service(_) | Object::EndpointSlice(_)));
        Self { print: self.print, object: self.object.clone().filter(|_| !is_many) }
    }
}

/// Objects of a file, some of which were not told because another file's word counted.
fn read_again(path: &Path) -> BTreeMap<ObjectRef, Arc<Object>> {
    let objects = objects_of(path).unwrap_or_default();
    objects.into_iter().filter_map(|(key, entry)| Some((key, entry.object?))).collect()
}

fn stamp(path: &Path) -> Stamp {
    if path == Path::new("-") {
        return Some(Default::default());
    }
    let meta = std::fs::metadata(path).ok()?;
    Some((meta.dev(), meta.ino(), meta.size(), (meta.mtime(), meta.mtime_nsec()), (meta.ctime(), meta.ctime_nsec())))
}

fn objects_of(path: &Path) -> Result<Vec<(ObjectRef, Entry)>, Failure> {
    let mut objects = Vec::new();
    for value in crate::apply::read_file(path)? {
        let mut hasher = DefaultHasher::new();
        value.to_string().hash(&mut hasher);
        let object =
            crate::render::object(value).map_err(|problem| Failure::input(format!("{}: {problem}", path.display())))?;
        let entry =
            |object: Object| (object.reference(), Entry { print: hasher.finish(), object: Some(Arc::new(object)) });
        objects.extend(object.map(entry));
    }
    Ok(objects)
}

#[cfg(test)]
#[path = "files_tests.rs"]
mod tests;
