//! The file: what DNS answers from, as lines of JSON under gzip. Values to bytes and back; no file is opened here.
//!
//! ```text
//!  head: version, ranges and domain of the cluster
//!  object        a Namespace, a Service or an EndpointSlice, one a line
//!  …
//!  how many there were
//! ```
//!
//! gzip's checksum (RFC 1952) tells damage, the last line tells a file that was cut at a line's end. Lines are written and read one by
//! one: a large cluster is never in memory twice.

use std::io::{BufRead, BufReader, Read, Write};

use flate2::Compression;
use flate2::read::GzDecoder;
use flate2::write::GzEncoder;
use ipnet::IpNet;
use portolan_model::{Fact, Facts, NsName, Service, Settings, Slice, Text};
use serde::{Deserialize, Serialize};

/// Of the form below; another one is not read.
const VERSION: u32 = 1;
/// No cluster comes near it; what does is not ours.
const MOST_BYTES: u64 = 1 << 30;

/// Why a file says nothing.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Unusable {
    #[error("it is damaged: {0}")]
    Damaged(String),
    #[error("it is of version {0}, and this program reads {VERSION}")]
    Version(u32),
    #[error("it is of another cluster: {found}, and this is {own}")]
    Foreign { found: String, own: String },
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Head {
    version: u32,
    cluster: Cluster,
}

/// What tells clusters apart.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Cluster {
    domain: Text,
    ranges: Vec<IpNet>,
}

impl Cluster {
    fn of(settings: &Settings) -> Self {
        let ranges = settings.cluster_cidrs.iter().chain(&settings.service_cidrs).copied().collect();
        Self { domain: settings.cluster_domain.clone(), ranges }
    }
}

impl std::fmt::Display for Cluster {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.domain)?;
        self.ranges.iter().try_for_each(|range| write!(f, " {range}"))
    }
}

#[derive(Debug, Serialize, Deserialize)]
enum Line {
    Namespace(Text),
    Service(NsName, Service),
    Slice(NsName, Slice),
    /// Lines between the head and this one.
    End(usize),
}

/// Writes those of `facts` that make names.
pub(crate) fn write(facts: &Facts, settings: &Settings, out: impl Write) -> std::io::Result<()> {
    let mut out = GzEncoder::new(out, Compression::fast());
    let mut count = 0;
    put(&mut out, &Head { version: VERSION, cluster: Cluster::of(settings) })?;
    for line in of_names(facts) {
        put(&mut out, &line)?;
        count += 1;
    }
    put(&mut out, &Line::End(count))?;
    out.finish()?.flush()
}

fn of_names(facts: &Facts) -> impl Iterator<Item = Line> {
    let namespaces = facts.namespaces.iter().map(|name| Line::Namespace(name.clone()));
    let services = facts.services.iter().map(|(key, value)| Line::Service(key.clone(), (**value).clone()));
    let slices = facts.slices.iter().map(|(key, value)| Line::Slice(key.clone(), (**value).clone()));
    namespaces.chain(services).chain(slices)
}

fn put(out: &mut impl Write, value: &impl Serialize) -> std::io::Result<()> {
    serde_json::to_writer(&mut *out, value)?;
    out.write_all(b"\n")
}

/// Reads what [`write`] wrote for the same cluster.
pub(crate) fn read(input: impl Read, settings: &Settings) -> Result<Facts, Unusable> {
    let damaged = |reason: String| Unusable::Damaged(reason);
    let mut lines = BufReader::new(GzDecoder::new(input).take(MOST_BYTES)).lines();
    let mut next = || match lines.next() {
        Some(line) => line.map_err(|e| damaged(e.to_string())),
        None => Err(damaged("it ends too early".to_owned())),
    };
    let head: serde_json::Value = parsed(&next()?)?;
    let version = head["version"].as_u64().and_then(|number| u32::try_from(number).ok()).unwrap_or_default();
    if version != VERSION {
        return Err(Unusable::Version(version));
    }
    let head: Head = serde_json::from_value(head).map_err(|e| damaged(e.to_string()))?;
    let own = Cluster::of(settings);
    if head.cluster != own {
        return Err(Unusable::Foreign { found: head.cluster.to_string(), own: own.to_string() });
    }
    let (mut facts, mut count) = (Facts::default(), 0);
    loop {
        match parsed(&next()?)? {
            Line::Namespace(name) => drop(facts.apply(Fact::Namespace(name, Some(())))),
            Line::Service(key, value) => drop(facts.apply(Fact::Service(key, Some(value)))),
            Line::Slice(key, value) => drop(facts.apply(Fact::Slice(key, Some(value)))),
            Line::End(all) if all == count => break,
            Line::End(all) => return Err(damaged(format!("it has {count} of its {all} objects"))),
        }
        count += 1;
    }
    // The checksum comes after the last line.
    match lines.next() {
        None => Ok(facts),
        Some(Err(error)) => Err(damaged(error.to_string())),
        Some(Ok(_)) => Err(damaged("it goes on after its end".to_owned())),
    }
}

fn parsed<T: serde::de::DeserializeOwned>(line: &str) -> Result<T, Unusable> {
    serde_json::from_str(line).map_err(|error| Unusable::Damaged(error.to_string()))
}
