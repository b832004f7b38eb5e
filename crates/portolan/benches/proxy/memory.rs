//! Peak memory of programming a big cluster: of a process of its own that does nothing else.
//!
//! The child gets its objects one after the other, as a watch brings them, keeps what the node keeps of them (facts,
//! snapshot, plan), and programs an empty namespace. Its peak is the kernel's own count (VmHWM), of all it is: program,
//! libraries, heap. The heap's part is counted by an allocator that the bench brings along.

use std::alloc::{GlobalAlloc, Layout, System};
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use crate::goals::{Asked, Goals};
use crate::ours::Nftables;
use crate::place::Place;
use crate::stats::{Report, three_digits};
use crate::world::Size;
use crate::{Outcome, progress};

/// First argument of the child.
pub const CHILD: &str = "--memory-of";

/// In MiB.
#[derive(Clone, Copy, Debug, Default)]
pub struct Peak {
    size: Option<Size>,
    /// VmHWM before the first object and at the end.
    before: f64,
    whole: f64,
    /// Heap of facts; with snapshot and plan; at the peak of planning, encoding and sending.
    known: f64,
    planned: f64,
    peak: f64,
}

pub fn measure(size: Size) -> Outcome<Peak> {
    progress(&format!("peak memory, {size}"));
    let (services, endpoints) = (size.services.to_string(), size.endpoints.to_string());
    let child = Command::new(std::env::current_exe()?).args([CHILD, &services, &endpoints]).output()?;
    if !child.status.success() {
        return Err(format!("the child: {}", String::from_utf8_lossy(&child.stderr).trim()).into());
    }
    let said = String::from_utf8(child.stdout)?;
    let figures = said.split_whitespace().map(str::parse).collect::<Result<Vec<f64>, _>>()?;
    let [before, whole, known, planned, peak] = figures[..] else {
        return Err(format!("the child said {said:?}").into());
    };
    Ok(Peak { size: Some(size), before, whole, known, planned, peak })
}

/// The child: says its figures on standard output.
pub fn child(services: &str, endpoints: &str) -> Outcome<()> {
    let size = Size::new(services.parse()?, endpoints.parse()?);
    let place = Place::new()?;
    let mut ours = place.on_node(Nftables::open)?;
    let before = high_water()?;
    COUNTING.store(true, Ordering::Relaxed);
    ours.hear(size)?;
    let known = mebibytes(HEAP.load(Ordering::Relaxed));
    PEAK.store(HEAP.load(Ordering::Relaxed), Ordering::Relaxed);
    ours.program_known()?;
    let (planned, peak) = (HEAP.load(Ordering::Relaxed), PEAK.load(Ordering::Relaxed));
    println!("{before} {} {known} {} {}", high_water()?, mebibytes(planned), mebibytes(peak));
    Ok(())
}

impl Peak {
    pub fn goals(&self, goals: &mut Goals) {
        let Some(size) = self.size else { return };
        let asked = Asked::at_most(" MiB", "5 MB for the batch", 80.0, Some(40.0));
        goals.add(&format!("peak memory of the whole process, {size}"), asked, self.whole);
    }

    pub fn say(&self, report: &mut Report) {
        let Some(size) = self.size else { return };
        report.line(&format!(
            "\nMemory, {size} (MiB): {} before the first object, {} at the peak (VmHWM). Of the heap: {} for facts, \
             {} with snapshot and plan, {} while it was planned, encoded and sent.",
            three_digits(self.before),
            three_digits(self.whole),
            three_digits(self.known),
            three_digits(self.planned),
            three_digits(self.peak),
        ));
    }
}

/// VmHWM in MiB. proc(5).
fn high_water() -> Outcome<f64> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).ok_or("no VmHWM in /proc/self/status")?;
    Ok(line.trim().trim_end_matches("kB").trim().parse::<f64>()? / 1024.0)
}

fn mebibytes(bytes: usize) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}

static COUNTING: AtomicBool = AtomicBool::new(false);
static HEAP: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// The system's allocator, counting in the child. What was allocated before counting began and is freed later takes
/// the count down by a few kilobytes at most, and never below zero.
struct Counting;

// SAFETY: every call is passed on as it is to the system's allocator.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if COUNTING.load(Ordering::Relaxed) {
            let now = HEAP.fetch_add(layout.size(), Ordering::Relaxed) + layout.size();
            PEAK.fetch_max(now, Ordering::Relaxed);
        }
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        if COUNTING.load(Ordering::Relaxed) {
            let less = |heap: usize| Some(heap.saturating_sub(layout.size()));
            let _ = HEAP.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less);
        }
        unsafe { System.dealloc(pointer, layout) }
    }
}
