//! The configuration as files hold it: a Corefile with what it imports, looked at again and again.
//!
//! ```text
//!  Corefile, imports, environment ──► corefile::read ──► where to answer ──► Corefile, or all that is wrong
//! ```

use std::path::{Path, PathBuf};
use std::time::Duration;

use portolan_dns::corefile::{self, Corefile, Place};
use portolan_dns::{Name, resolvconf};

use crate::dns::{Listen, glob, listen};
use crate::failure::Failure;
use crate::settings::{ClusterArgs, DNS_TTL_SECS};

/// A problem a line.
pub type Problems = Vec<String>;

/// A Corefile, and what of it has no effect here, a line each.
#[derive(Clone, Debug, PartialEq)]
pub struct Read {
    pub corefile: Corefile,
    pub notes: Vec<String>,
}

/// Where the configuration comes from, and what it was at the last look.
pub struct Configuration {
    origin: Origin,
    listens: Vec<Listen>,
    last: Result<Read, Problems>,
    /// Whether what is in force follows its file by itself (`reload`).
    follows: bool,
}

enum Origin {
    /// None was given.
    Shipped(Box<Corefile>),
    File(PathBuf),
}

impl Configuration {
    /// Reads it for the first time.
    ///
    /// # Errors
    /// All that is wrong with it.
    pub fn open(
        file: Option<&Path>,
        listens: &[Listen],
        resolv_conf: &Path,
        cluster: &ClusterArgs,
    ) -> Result<(Self, Read), Failure> {
        let (origin, listens) = match file {
            Some(file) => (Origin::File(file.to_owned()), listens.to_vec()),
            None => (Origin::Shipped(Box::new(shipped(cluster, resolv_conf)?)), or_here(listens)),
        };
        let mut opened = Self { origin, listens, last: Err(Vec::new()), follows: true };
        opened.last = opened.read();
        let read = opened.last.clone().map_err(|problems| Failure::input(problems.join("\nportolan: ")))?;
        opened.in_force(&read.corefile);
        Ok((opened, read))
    }

    /// What is new since the last look; `None`: nothing. `asked`: also where the file does not say `reload`.
    pub fn look(&mut self, asked: bool) -> Option<Result<Read, Problems>> {
        if !self.follows && !asked {
            return None;
        }
        let now = self.read();
        let is_new = now != self.last || asked;
        self.last = now;
        is_new.then(|| self.last.clone())
    }

    /// This is served now.
    pub fn in_force(&mut self, corefile: &Corefile) {
        self.follows = corefile.blocks.iter().any(|block| block.reload.is_some());
    }

    /// The folder that file names in it are relative to.
    pub fn base(&self) -> PathBuf {
        match &self.origin {
            Origin::Shipped(_) => PathBuf::from("."),
            Origin::File(file) => folder(file),
        }
    }

    fn read(&self) -> Result<Read, Problems> {
        let mut read = match &self.origin {
            Origin::Shipped(corefile) => Read { corefile: (**corefile).clone(), notes: Vec::new() },
            Origin::File(file) => read_file(file)?,
        };
        read.corefile = listen::placed(&read.corefile, &self.listens);
        Ok(read)
    }
}

/// How long to go on answering after being told to end: as the block that says longest.
pub fn lameduck(corefile: &Corefile) -> Duration {
    let times = corefile.blocks.iter().filter_map(|block| block.health.as_ref()).map(|health| health.lameduck);
    times.max().unwrap_or_default()
}

/// Some block answers from the cluster's objects.
pub fn asks_for_cluster(corefile: &Corefile) -> bool {
    corefile.blocks.iter().any(|block| block.kubernetes.is_some() || block.external.is_some())
}

/// A Corefile by itself, wherever it is served.
///
/// # Errors
/// All that is wrong with it, a line each.
pub fn read_file(file: &Path) -> Result<Read, Problems> {
    let text = std::fs::read_to_string(file).map_err(|e| vec![format!("cannot read {}: {e}", file.display())])?;
    let base = folder(file);
    let import = |pattern: &str| imported(&base, pattern);
    let variable = |name: &str| std::env::var(name).ok();
    let sources = corefile::Sources { files: &import, variables: &variable };
    let told = |problems: Vec<corefile::Problem>| problems.into_iter().map(|problem| placed(problem, file)).collect();
    match corefile::read_with_notes(&text, &sources) {
        Ok((mut corefile, notes)) => {
            corefile.blocks.iter_mut().for_each(|block| called(&mut block.place, file.file_name().map(Path::new)));
            Ok(Read { corefile, notes: told(notes) })
        }
        Err(problems) => Err(told(problems)),
    }
}

/// A problem with the file as the command line has it.
fn placed(mut problem: corefile::Problem, file: &Path) -> String {
    called(&mut problem.place, Some(file));
    problem.to_string()
}

/// A place in the main file is called by the name that people know it by.
fn called(place: &mut Place, file: Option<&Path>) {
    if let Some(file) = file.filter(|_| place.file == corefile::MAIN) {
        place.file = file.display().to_string();
    }
}

/// Files that `corefile` names and that give nothing, a line each: no error, since each is followed and may come.
pub fn files_without_effect(corefile: &Corefile, base: &Path) -> Vec<String> {
    let hosts = corefile.blocks.iter().filter_map(|block| block.hosts.as_ref()?.file.as_deref());
    let read = |file: &str| {
        let path = base.join(file);
        std::fs::read_to_string(&path).map_err(|e| format!("cannot read {}: {e}; it counts as empty", path.display()))
    };
    let upstreams = corefile.resolv_confs().into_iter().filter_map(|file| match read(file) {
        Ok(text) if resolvconf::parse(&text).0.nameservers.is_empty() => Some(format!(
            "{file} names no server: what is not the cluster's is SERVFAIL; write a line nameserver ADDRESS"
        )),
        other => other.err(),
    });
    hosts.filter_map(|file| read(file).err()).chain(upstreams).collect()
}

/// Name and text of each file that a pattern stands for; `None`: it names one file, which cannot be read.
fn imported(base: &Path, pattern: &str) -> Option<Vec<(String, String)>> {
    let is_pattern = pattern.contains(['*', '?']);
    let mut found = Vec::new();
    for path in glob::files(&base.join(pattern)) {
        match std::fs::read_to_string(&path) {
            Ok(text) => found.push((path.strip_prefix(base).unwrap_or(&path).display().to_string(), text)),
            Err(_) if is_pattern => {}
            Err(_) => return None,
        }
    }
    Some(found)
}

fn folder(file: &Path) -> PathBuf {
    file.parent().filter(|folder| *folder != Path::new("")).unwrap_or(Path::new(".")).to_owned()
}

/// What is served without a Corefile: no page takes a port, since nobody asked for one.
fn shipped(cluster: &ClusterArgs, resolv_conf: &Path) -> Result<Corefile, Failure> {
    let domain = &cluster.cluster_domain;
    let zone = Name::parse(domain.trim_end_matches('.'))
        .map_err(|e| Failure::input(format!("--cluster-domain {domain:?} is no DNS name: {e}")))?;
    let resolv_conf = std::path::absolute(resolv_conf).unwrap_or_else(|_| resolv_conf.to_owned());
    let mut shipped = Corefile::shipped(&zone, DNS_TTL_SECS, &resolv_conf.to_string_lossy());
    for block in &mut shipped.blocks {
        (block.health, block.ready, block.metrics) = (None, None, None);
        block.place = Place { file: "(shipped)".to_owned(), line: 1 };
    }
    Ok(shipped)
}

fn or_here(listens: &[Listen]) -> Vec<Listen> {
    match listens.is_empty() {
        true => vec![Listen { ip: [127, 0, 0, 1].into(), port: None }],
        false => listens.to_vec(),
    }
}
