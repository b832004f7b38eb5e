//! Files that a configuration names: read again and again, compared by their contents.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use portolan_dns::Corefile;
use portolan_dns::corefile::config::{Autopath, AutopathBy};
use tracing::warn;

/// The files as they were read last.
#[derive(Debug)]
pub(crate) struct Files {
    base: PathBuf,
    /// By the name that the configuration has for it; `None`: it cannot be read.
    texts: BTreeMap<String, Option<String>>,
}

impl Files {
    /// Names are relative to `base`.
    pub(crate) fn new(base: PathBuf) -> Self {
        Self { base, texts: BTreeMap::new() }
    }

    /// Reads the files that `config` names, and forgets all others. Gives the names of those that differ from before. A
    /// file that cannot be read any more stays as it was.
    pub(crate) fn look(&mut self, config: &Corefile) -> Vec<String> {
        let names = named(config);
        self.texts.retain(|name, _| names.contains(&name.as_str()));
        let mut changed = Vec::new();
        for name in names {
            let path = self.path(name);
            let is_new = !self.texts.contains_key(name);
            match std::fs::read_to_string(&path) {
                Ok(text) if self.text(name) != Some(&text) => {
                    self.texts.insert(name.to_owned(), Some(text));
                    changed.push(name.to_owned());
                }
                Ok(_) => {}
                Err(error) if is_new => {
                    warn!("cannot read {}: {error}; it counts as empty until it can be read", path.display());
                    self.texts.insert(name.to_owned(), None);
                }
                Err(_) => {}
            }
        }
        changed
    }

    /// The contents of a file.
    pub(crate) fn text(&self, name: &str) -> Option<&String> {
        self.texts.get(name)?.as_ref()
    }

    /// All contents.
    pub(crate) fn texts(&self) -> BTreeMap<String, String> {
        let known = self.texts.iter().filter_map(|(name, text)| Some((name.clone(), text.clone()?)));
        known.collect()
    }

    /// Where a file of this name is.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.base.join(Path::new(name))
    }
}

/// Names of the files, each once.
fn named(config: &Corefile) -> Vec<&str> {
    let hosts = config.blocks.iter().filter_map(|block| block.hosts.as_ref()?.file.as_deref());
    let search = config.blocks.iter().filter_map(|block| match &block.autopath {
        Some(Autopath { by: AutopathBy::File(file), .. }) => Some(file.as_str()),
        _ => None,
    });
    let mut names: Vec<&str> = hosts.chain(search).chain(config.resolv_confs()).collect();
    names.sort_unstable();
    names.dedup();
    names
}
