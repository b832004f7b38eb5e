//! Ours, from objects in memory to the kernel, by the public interface of the planners.

use std::path::Path;
use std::time::{Duration, Instant};

use portolan_dataplane::nftables::names::TABLE;
use portolan_dataplane::nftables::{parse, wire};
use portolan_dataplane::{iptables, nftables};
use portolan_ingest::Object;
use portolan_kernel::nft::Nft;
use portolan_model::{Delta, Family};

use crate::Outcome;
use crate::place::{self, Ran};
use crate::world::{Known, Size, service_object, slice_object};

/// iptables mode: what is known of the cluster and what was planned from it.
pub struct Iptables {
    known: Known,
    desired: iptables::Desired,
}

impl Iptables {
    pub fn new() -> Outcome<Self> {
        let desired = iptables::Desired::new(Family::V4, iptables::Options::default());
        Ok(Self { known: Known::nothing()?, desired })
    }

    /// From objects to the end of `restore`; how much of it was planning.
    pub fn program(&mut self, objects: Vec<Object>, restore: &Path) -> Outcome<Programmed> {
        let start = Instant::now();
        self.known.take(objects);
        let delta = self.known.resolve();
        let text = match self.desired.chains().is_empty() {
            true => self.first(&delta),
            false => iptables::render::restore(&self.desired.update(&self.known.snapshot, &delta)),
        };
        let planned = start.elapsed();
        let ran = place::run(restore, &["-w", "5", "--noflush"], &text)?;
        Ok(Programmed { planned, ran, whole: start.elapsed(), bytes: text.len() })
    }

    /// Chains and hooks, as an agent that finds an empty kernel writes them.
    fn first(&mut self, delta: &Delta) -> String {
        let changes = self.desired.update(&self.known.snapshot, delta);
        let nothing = iptables::Saved::default();
        let hooks = iptables::hooks::missing(&nothing, &self.desired);
        iptables::render::program(&changes, &hooks)
    }
}

/// What one write took.
#[derive(Clone, Copy, Debug)]
pub struct Programmed {
    pub planned: Duration,
    pub ran: Ran,
    pub whole: Duration,
    pub bytes: usize,
}

/// nftables mode in one namespace: what is known of the cluster, what was planned from it, the socket to the kernel.
pub struct Nftables {
    known: Known,
    desired: nftables::Desired,
    /// Something was written.
    begun: bool,
    kernel: Nft,
}

/// Elements in one transaction of a cold start.
const CHUNK: usize = 1536;

impl Nftables {
    /// In the network namespace of the calling thread.
    pub fn open() -> Outcome<Self> {
        let desired = nftables::Desired::new(Family::V4, nftables::Options::default());
        Ok(Self { known: Known::nothing()?, desired, begun: false, kernel: Nft::open()? })
    }

    /// From objects to the kernel's acknowledgement.
    pub fn program(&mut self, objects: Vec<Object>) -> Outcome<Stages> {
        let start = Instant::now();
        self.known.take(objects);
        self.write(start)
    }

    /// Plans and writes what was heard; `start` is when the first object was taken.
    fn write(&mut self, start: Instant) -> Outcome<Stages> {
        let ingested = start.elapsed();
        let delta = self.known.resolve();
        let resolved = start.elapsed();
        let mut stages = Stages { ingested, resolved: resolved - ingested, ..Stages::default() };
        match std::mem::replace(&mut self.begun, true) {
            true => {
                let changes = self.desired.update(&self.known.snapshot, &delta);
                for chunk in changes.in_chunks(CHUNK) {
                    send(&mut self.kernel, &chunk, &mut stages)?;
                }
            }
            false => self.desired.start(&self.known.snapshot, CHUNK, |changes| {
                send(&mut self.kernel, &changes.transaction, &mut stages)
            })?,
        }
        stages.whole = start.elapsed();
        stages.planned = stages.whole - resolved - stages.encoded - stages.kernel;
        Ok(stages)
    }

    /// Hears of a cluster object by object, as a watch brings them, and keeps what a node keeps.
    pub fn hear(&mut self, size: Size) -> Outcome<()> {
        self.known.take(vec![size.node()?]);
        for service in 0..size.services {
            self.known.take(vec![service_object(service)?]);
            self.known.take(vec![slice_object(service, &size.addresses(service))?]);
        }
        Ok(())
    }

    /// Programs what was heard.
    pub fn program_known(&mut self) -> Outcome<Stages> {
        self.write(Instant::now())
    }

    /// What a restart over this kernel would write: nothing known, everything read back and compared.
    pub fn restart(&mut self) -> Outcome<(nftables::Repair, Duration)> {
        let start = Instant::now();
        let mut desired = nftables::Desired::of(Family::V4, nftables::Options::default(), &self.known.snapshot);
        let dump = self.kernel.dump(portolan_kernel::iptables::Family::V4, TABLE)?;
        let read = parse::table(Family::V4, TABLE, dump.iter().map(Vec::as_slice))?;
        let read = read.ok_or("the kernel has no such table")?;
        if let Some(unread) = read.unread.first() {
            return Err(format!("{} things of the table have no words, such as {unread:?}", read.unread.len()).into());
        }
        desired.adopt(&read.table);
        Ok((nftables::Repair::of(&desired, &read.table), start.elapsed()))
    }

    /// Transactions of the namespace so far.
    pub fn generation(&mut self) -> Outcome<u32> {
        Ok(self.kernel.generation()?)
    }
}

fn send(kernel: &mut Nft, chunk: &nftables::Transaction, stages: &mut Stages) -> Outcome<()> {
    let start = Instant::now();
    let batch = wire::transaction(Family::V4, TABLE, chunk.steps());
    let encoded = start.elapsed();
    kernel.transact(&batch)?;
    stages.encoded += encoded;
    stages.kernel += start.elapsed() - encoded;
    stages.transactions += 1;
    stages.elements += chunk.element_count();
    stages.bytes += batch.len();
    Ok(())
}

/// What one programming took, stage by stage.
#[derive(Clone, Copy, Debug, Default)]
pub struct Stages {
    /// Objects into facts.
    pub ingested: Duration,
    /// Facts into a snapshot.
    pub resolved: Duration,
    /// A snapshot into steps.
    pub planned: Duration,
    pub encoded: Duration,
    /// In the kernel, until its acknowledgement was read.
    pub kernel: Duration,
    pub whole: Duration,
    pub transactions: usize,
    pub elements: usize,
    pub bytes: usize,
}
