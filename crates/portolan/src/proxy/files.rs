//! Kubernetes objects in files, followed when the files change: what a watch is for a live cluster.
//!
//! ```text
//!  files, folders ──stat──► those that changed ──parse──► objects ──diff──► Input::Cluster(Value | Gone)
//!                                                            └─► pods of this node ──► Input::Fact(Attachment)
//! ```
//!
//! A file that does not parse keeps what it held before. Where an object stands twice, the later file counts.

use std::collections::{BTreeMap, BTreeSet};
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
    objects: BTreeMap<ObjectRef, Arc<Object>>,
    facts: Facts,
}

/// What tells one content of a file from another: device, inode, size, and both times. `None`: it is not there.
type Stamp = Option<(u64, u64, u64, (i64, i64), (i64, i64))>;

#[derive(Default)]
struct Held {
    /// When it was read last; `None`: never.
    stamp: Option<Stamp>,
    objects: Vec<Arc<Object>>,
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
            objects: BTreeMap::new(),
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
        let held = listed.iter().filter_map(|path| self.read.get(path)).flat_map(|held| &held.objects);
        let objects: BTreeMap<ObjectRef, Arc<Object>> =
            held.map(|object| (object.reference(), object.clone())).collect();
        let is_new = |key: &ObjectRef, object: &Arc<Object>| {
            self.objects.get(key).is_none_or(|known| !Arc::ptr_eq(known, object) && known != object)
        };
        let mut events = Vec::new();
        for (_, object) in self.objects.iter().filter(|(key, _)| !objects.contains_key(key)) {
            self.facts.apply(gone(object));
            events.push(Event::Gone(object.as_ref().clone()));
        }
        for (_, object) in objects.iter().filter(|(key, object)| is_new(key, object)) {
            self.facts.apply(fact(object).0);
            events.push(Event::Value(object.as_ref().clone()));
        }
        self.objects = objects;
        let attachments = self.attachments().into_iter().map(Input::Fact);
        let events = events.into_iter().map(|event| Input::Cluster(event, now));
        events.chain(attachments).collect()
    }

    fn host_ports(&self, pod: &NsName) -> Vec<HostPort> {
        let key = ObjectRef { kind: ObjectKind::Pod, key: pod.clone() };
        match self.objects.get(&key).map(|object| &**object) {
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

fn stamp(path: &Path) -> Stamp {
    if path == Path::new("-") {
        return Some(Default::default());
    }
    let meta = std::fs::metadata(path).ok()?;
    Some((meta.dev(), meta.ino(), meta.size(), (meta.mtime(), meta.mtime_nsec()), (meta.ctime(), meta.ctime_nsec())))
}

fn objects_of(path: &Path) -> Result<Vec<Arc<Object>>, Failure> {
    let mut objects = Vec::new();
    for value in crate::apply::read_file(path)? {
        let object =
            crate::render::object(value).map_err(|problem| Failure::input(format!("{}: {problem}", path.display())))?;
        objects.extend(object.map(Arc::new));
    }
    Ok(objects)
}
