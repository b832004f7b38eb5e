//! Cold loads: everything into an empty namespace.
//!
//! Ours counts from Kubernetes objects in memory to the last acknowledgement. The rivals' clocks start when their text or
//! batch is ready. What was loaded stays for the other measurements.

use std::path::Path;
use std::time::{Duration, Instant};

use crate::goals::{Asked, Goals};
use crate::netfilter::Netfilter;
use crate::ours::{Nftables, Stages};
use crate::place::{self, Place, Ran};
use crate::rivals::nft::{Version, whole};
use crate::rivals::{nft_text, nft_wire};
use crate::stats::{Report, Samples, millis, three_digits};
use crate::world::Size;
use crate::{Outcome, progress};

/// A place that ours has programmed.
pub struct Mine {
    pub size: Size,
    pub place: Place,
    pub ours: Nftables,
}

/// A place that a rival's table was loaded into by `nft -f`.
pub struct Theirs {
    pub version: Version,
    pub size: Size,
    pub place: Place,
}

/// What was measured.
#[derive(Default)]
pub struct Loads {
    ours: Vec<(Size, Vec<Stages>)>,
    rivals: Vec<Rival>,
}

struct Rival {
    version: Version,
    size: Size,
    program: Ran,
    wire: Duration,
    batch_bytes: usize,
}

impl Loads {
    /// Loads ours so many times, each in a namespace of its own; the last stays.
    pub fn ours(&mut self, size: Size, times: usize) -> Outcome<Mine> {
        let mut all = Vec::new();
        let mut last = None;
        for round in 1..=times {
            progress(&format!("ours, {size}, cold load {round} of {times}"));
            let place = Place::new()?;
            let objects = size.objects()?;
            let mut ours = place.on_node(Nftables::open)?;
            all.push(ours.program(objects)?);
            last = Some(Mine { size, place, ours });
        }
        self.ours.push((size, all));
        last.ok_or_else(|| "no load at all".into())
    }

    /// Loads a rival's layout by `nft -f` and by netlink; the first stays.
    pub fn rival(&mut self, bin: &Path, version: Version, size: Size) -> Outcome<Theirs> {
        progress(&format!("kube-proxy {version}'s nftables layout, {size}, by nft -f"));
        let items = whole(version, size)?;
        let text = nft_text::write(&items);
        let place = Place::new()?;
        let program = place.on_node(|| place::run(&bin.join("nft"), &["-f", "-"], &text))?;
        progress(&format!("kube-proxy {version}'s nftables layout, {size}, by netlink"));
        let batch = nft_wire::write(&items);
        let wire = Place::new()?.on_node(|| {
            let socket = Netfilter::open()?;
            let start = Instant::now();
            socket.transact(&batch)?;
            Ok(start.elapsed())
        })?;
        self.rivals.push(Rival { version, size, program, wire, batch_bytes: batch.len() });
        Ok(Theirs { version, size, place })
    }

    fn median(&self, size: Size) -> Option<Duration> {
        let (_, all) = self.ours.iter().find(|(of, _)| *of == size)?;
        Some(all.iter().map(|stages| stages.whole).collect::<Samples>().median())
    }

    pub fn goals(&self, goals: &mut Goals) {
        for rival in self.rivals.iter().filter(|rival| rival.version == Version::V1_35) {
            let Some(ours) = self.median(rival.size) else { continue };
            let asked = Asked::at_least("x", "365-490x", 50.0, Some(200.0));
            let what = format!("cold full sync {}, against `nft -f` of kube-proxy 1.35's layout", rival.size);
            goals.add(&what, asked, rival.program.wall.as_secs_f64() / ours.as_secs_f64());
        }
        let asked = [
            (Size::new(10_000, 10), Asked::at_most(" s", "0.25-0.39 s", 1.5, Some(0.6))),
            (Size::new(30_000, 2), Asked::at_most(" s", "0.17-0.20 s", 1.0, Some(0.4))),
        ];
        for (size, asked) in asked {
            if let Some(ours) = self.median(size) {
                goals.add(
                    &format!("cold full sync {size}, from objects in memory to the kernel"),
                    asked,
                    ours.as_secs_f64(),
                );
            }
        }
    }

    pub fn say(&self, report: &mut Report) {
        report.heading("cold full sync, ours: from objects in memory to the kernel (medians, ms)");
        let header = [
            "Services x endpoints",
            "n",
            "objects to facts",
            "snapshot",
            "plan",
            "encode",
            "kernel",
            "**whole**",
            "slowest",
            "transactions",
            "elements",
            "MiB sent",
        ];
        let rows: Vec<Vec<String>> = self.ours.iter().map(|(size, all)| row(*size, all)).collect();
        report.table(&header, &rows);
        report.heading("cold full sync, kube-proxy's nftables layouts");
        let header = [
            "layout",
            "by `nft -f` (s)",
            "its CPU (s)",
            "its memory (MiB)",
            "by netlink (s)",
            "batch (MiB)",
            "`nft -f` / ours",
            "netlink / ours",
        ];
        let rows: Vec<Vec<String>> = self.rivals.iter().map(|rival| self.rival_row(rival)).collect();
        report.table(&header, &rows);
    }

    fn rival_row(&self, rival: &Rival) -> Vec<String> {
        let ours = self.median(rival.size).unwrap_or_default().as_secs_f64();
        let figures = [
            rival.program.wall.as_secs_f64(),
            rival.program.cpu.as_secs_f64(),
            rival.program.peak_kib as f64 / 1024.0,
            rival.wire.as_secs_f64(),
            rival.batch_bytes as f64 / f64::from(1 << 20),
            rival.program.wall.as_secs_f64() / ours,
            rival.wire.as_secs_f64() / ours,
        ];
        let name = format!("kube-proxy {}, {}", rival.version, rival.size);
        std::iter::once(name).chain(figures.map(three_digits)).collect()
    }
}

fn row(size: Size, all: &[Stages]) -> Vec<String> {
    let median = |stage: fn(&Stages) -> Duration| all.iter().map(stage).collect::<Samples>().median();
    let slowest = all.iter().map(|stages| stages.whole).max().unwrap_or_default();
    let last = all.last().copied().unwrap_or_default();
    let stages: [fn(&Stages) -> Duration; 6] =
        [|s| s.ingested, |s| s.resolved, |s| s.planned, |s| s.encoded, |s| s.kernel, |s| s.whole];
    let mut cells = vec![size.to_string(), all.len().to_string()];
    cells.extend(stages.map(|stage| three_digits(millis(median(stage)))));
    cells.push(three_digits(millis(slowest)));
    cells.push(last.transactions.to_string());
    cells.push(last.elements.to_string());
    cells.push(three_digits(last.bytes as f64 / f64::from(1 << 20)));
    cells
}
