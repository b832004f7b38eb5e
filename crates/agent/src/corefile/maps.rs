//! Two ConfigMaps as a configuration: values in, values out, but for the files that the nameserver opens.

use std::collections::BTreeMap;
use std::path::Path;

use portolan_dns::corefile::{Corefile, Sources, read};
use serde::{Deserialize, Serialize};

/// Where CoreDNS's Deployment mounts ConfigMap `coredns`.
const MOUNTED: &str = "/etc/coredns/";
/// Below it, ConfigMap `coredns-custom`.
const CUSTOM: &str = "custom/";
const COREFILE: &str = "Corefile";

/// `data` of a ConfigMap.
pub(super) type Data = BTreeMap<String, String>;

/// What the cluster says of DNS's configuration.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Maps {
    /// Of `coredns`; `None`: there is no such ConfigMap.
    pub(super) main: Option<Data>,
    /// Of `coredns-custom`.
    pub(super) custom: Option<Data>,
}

impl Maps {
    pub(super) fn is_there(&self) -> bool {
        self.main.is_some()
    }

    /// The configuration; `None` where the cluster has no ConfigMap.
    ///
    /// # Errors
    /// All that is wrong with it, with line and word.
    pub(super) fn read(&self) -> Result<Option<Corefile>, Vec<String>> {
        let Some(main) = &self.main else { return Ok(None) };
        let Some(text) = main.get(COREFILE) else {
            return Err(vec!["it has no key Corefile: add one, or delete the ConfigMap to have ours".to_owned()]);
        };
        let sources = Sources { files: &|name| self.files(name), variables: &|name| std::env::var(name).ok() };
        let mut corefile =
            read(text, &sources).map_err(|all| all.iter().map(ToString::to_string).collect::<Vec<_>>())?;
        for hosts in corefile.blocks.iter_mut().filter_map(|block| block.hosts.as_mut()) {
            let relative = hosts.file.as_deref().and_then(|name| self.relative(name)).map(str::to_owned);
            hosts.file = relative.or(hosts.file.take());
        }
        Ok(Some(corefile))
    }

    /// The files that an `import` of `name` means: keys, of which `*` in a pattern may mean any number.
    fn files(&self, name: &str) -> Option<Vec<(String, String)>> {
        let name = name.strip_prefix(MOUNTED).unwrap_or(name);
        let (folder, data, pattern) = match name.strip_prefix(CUSTOM) {
            Some(rest) => (CUSTOM, &self.custom, rest),
            None => ("", &self.main, name),
        };
        let keys = data.iter().flatten().filter(|(key, _)| fits(pattern, key));
        let found: Vec<_> = keys.map(|(key, text)| (format!("{folder}{key}"), text.clone())).collect();
        (!found.is_empty() || pattern.contains('*')).then_some(found)
    }

    /// The name of a key's file below the base, if `name` means a key.
    fn relative<'n>(&self, name: &'n str) -> Option<&'n str> {
        let name = name.strip_prefix(MOUNTED).unwrap_or(name);
        let has = |data: &Option<Data>, key: &str| data.as_ref().is_some_and(|data| data.contains_key(key));
        let is_key = match name.strip_prefix(CUSTOM) {
            Some(key) => has(&self.custom, key),
            None => has(&self.main, name),
        };
        is_key.then_some(name)
    }

    /// Writes each key as a file below `base`. Keys that are gone stay until then unread.
    pub(super) fn write_files(&self, base: &Path) -> std::io::Result<()> {
        for (folder, data) in [(base.to_owned(), &self.main), (base.join(CUSTOM), &self.custom)] {
            let own = data.iter().flatten().filter(|(key, _)| *key != COREFILE && is_file_name(key));
            for (key, text) in own {
                std::fs::create_dir_all(&folder)?;
                let path = folder.join(key);
                if std::fs::read_to_string(&path).ok().as_ref() != Some(text) {
                    let fresh = folder.join(format!(".{key}.new"));
                    std::fs::write(&fresh, text).and_then(|()| std::fs::rename(&fresh, &path))?;
                }
            }
        }
        Ok(())
    }
}

/// The API server lets no others pass; a folder is no place to find out.
fn is_file_name(key: &str) -> bool {
    !key.is_empty() && !key.starts_with('.') && !key.contains('/')
}

/// `*` stands for any characters; nothing else is special.
pub(super) fn fits(pattern: &str, key: &str) -> bool {
    let Some((head, rest)) = pattern.split_once('*') else { return pattern == key };
    let Some(tail) = key.strip_prefix(head) else { return false };
    (0..=tail.len()).filter(|at| tail.is_char_boundary(*at)).any(|at| fits(rest, &tail[at..]))
}
