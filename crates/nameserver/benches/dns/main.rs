//! `scripts/bench.sh dns`: cluster DNS beside the servers of the field and the bare loop of system calls, in one run.
//!
//! ```text
//!  core 0: bare loop, ours, NSD, Knot, unbound, dnsmasq (one answers at a time)   core 1: the generator, dnsperf
//!  round ─► case ─► server, five times over ─► medians ─► tables (stdout)
//! ```
//!
//! All of it in one network namespace of its own with nothing but a loopback. What answers wrongly is not counted. What the
//! rows mean stands in `docs/performance.md`. Needs root and what `make deps` fetches. `PORTOLAN_BENCH_QUICK=1` takes few
//! names and short rounds, to try the bench itself; `PORTOLAN_BENCH_ONLY=Bare,Ours,Nsd` only those servers.

mod bare;
mod generator;
mod measure;
mod own;
mod report;
mod servers;
mod zone;

use std::path::{Path, PathBuf};
use std::time::Duration;

/// What went wrong, in words; the bench ends at the first error.
pub type Outcome<T> = Result<T, Box<dyn std::error::Error + Send + Sync>>;

/// How much is measured.
#[derive(Clone, Copy)]
pub struct Counts {
    pub services: usize,
    pub namespaces: usize,
    pub rounds: usize,
    pub each: Duration,
}

const WHOLE: Counts = Counts { services: 10_000, namespaces: 100, rounds: 5, each: Duration::from_millis(1500) };
const QUICK: Counts = Counts { services: 1000, namespaces: 10, rounds: 1, each: Duration::from_millis(500) };

fn main() -> Outcome<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    match args.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [bare::CHILD, addr] => bare::serve(addr.parse()?),
        [own::CHILD, addr, services, namespaces] => own::serve(addr.parse()?, services.parse()?, namespaces.parse()?),
        [own::FORWARDING, addr, upstream] => own::forward(addr.parse()?, upstream.parse()?),
        _ => bench(),
    }
}

fn bench() -> Outcome<()> {
    let counts = if std::env::var_os("PORTOLAN_BENCH_QUICK").is_some() { QUICK } else { WHOLE };
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize()?;
    let from =
        |variable: &str, default: &str| std::env::var_os(variable).map_or_else(|| root.join(default), PathBuf::from);
    let programs = servers::Programs {
        deb_bin: from("PORTOLAN_DEB_BIN", "target/deb/bin"),
        portolan: Some(from("PORTOLAN_BENCH_BINARY", "target/release/portolan")).filter(|path| path.is_file()),
    };
    // Before any thread is there: all that follows is inside.
    servers::isolate()?;
    let folder = tempfile::Builder::new().prefix("ptl-t-bench-dns").tempdir()?;
    let zone = zone::Zone::new(counts);
    let measured = measure::run(counts, &programs, &zone, folder.path())?;
    print!("{}", report::text(counts, &programs, &measured));
    Ok(())
}
