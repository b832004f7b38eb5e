//! iptables mode beside kube-proxy's own input to `iptables-restore`: whole, and for one endpoint that changes.
//!
//! kube-proxy's text is ready when its clock starts; ours counts from the objects on. Each side has a namespace of its
//! own, loaded by itself, since a chain written over another costs more than one in an empty table.

use std::path::Path;
use std::time::Duration;

use crate::goals::{Asked, Goals};
use crate::ours::Iptables;
use crate::place::{self, Place, Ran};
use crate::rivals::iptables::{HOOKS, change, whole};
use crate::stats::{Report, Samples, millis, three_digits};
use crate::world::{Size, fresh_address, slice_object};
use crate::{Outcome, progress};

const RESTORE: [&str; 2] = ["iptables-nft-restore", "iptables-legacy-restore"];

/// Of one kind of iptables.
pub struct Lists {
    size: Size,
    kinds: Vec<Kind>,
}

struct Kind {
    program: &'static str,
    whole: [Ran; 2],
    /// Ours: until the program is started.
    planned: Duration,
    change: [Samples; 2],
    change_cpu: [Samples; 2],
    /// Theirs against ours, change by change.
    gains: Vec<f64>,
    bytes: [usize; 2],
}

pub fn measure(bin: &Path, size: Size, changes: u32) -> Outcome<Lists> {
    let kinds = RESTORE.iter().map(|program| kind(bin, program, size, changes)).collect::<Outcome<_>>()?;
    Ok(Lists { size, kinds })
}

/// The first loads run side by side, so that neither has the quieter machine.
fn kind(bin: &Path, program: &'static str, size: Size, changes: u32) -> Outcome<Kind> {
    progress(&format!("{program}: {size}, whole, kube-proxy's input and ours at the same time"));
    let restore = bin.join(program);
    let (theirs, mine) = (Place::new()?, Place::new()?);
    let text = whole(size);
    let objects = size.objects()?;
    let mut ours = Iptables::new()?;
    let (first_theirs, first_mine) = std::thread::scope(|scope| {
        let their_load = scope.spawn(|| theirs.on_node(|| load(&restore, &text)));
        let my_load = scope.spawn(|| mine.on_node(|| ours.program(objects, &restore)));
        (joined(their_load), joined(my_load))
    });
    let (first_theirs, first_mine) = (first_theirs?, first_mine?);
    let mut kind = Kind {
        program,
        whole: [first_theirs, Ran { wall: first_mine.whole, ..first_mine.ran }],
        planned: first_mine.planned,
        change: Default::default(),
        change_cpu: Default::default(),
        gains: Vec::new(),
        bytes: [0; 2],
    };
    progress(&format!("{program}: {size}, one endpoint changes"));
    for number in 0..changes {
        kind.one_change(size, number, &restore, [&theirs, &mine], &mut ours)?;
    }
    Ok(kind)
}

fn joined<T>(thread: std::thread::ScopedJoinHandle<'_, Outcome<T>>) -> Outcome<T> {
    thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

fn load(restore: &Path, text: &str) -> Outcome<Ran> {
    place::run(restore, &["-w", "5", "--noflush"], HOOKS)?;
    place::run(restore, &["-w", "5", "--noflush", "--counters"], text)
}

impl Kind {
    fn one_change(
        &mut self,
        size: Size,
        number: u32,
        restore: &Path,
        [theirs, mine]: [&Place; 2],
        ours: &mut Iptables,
    ) -> Outcome<()> {
        let service = (number * 7919 + 13) % size.last();
        let mut addresses = size.addresses(service);
        let gone = std::mem::replace(&mut addresses[0], fresh_address(number));
        let text = change(size, service, &addresses, gone);
        let ran = theirs.on_node(|| place::run(restore, &["-w", "5", "--noflush", "--counters"], &text))?;
        self.change[0].push(ran.wall);
        self.change_cpu[0].push(ran.cpu);
        let objects = vec![slice_object(service, &addresses)?];
        let programmed = mine.on_node(|| ours.program(objects, restore))?;
        self.change[1].push(programmed.whole);
        self.change_cpu[1].push(programmed.ran.cpu + programmed.planned);
        self.gains.push(ran.wall.as_secs_f64() / programmed.whole.as_secs_f64());
        self.bytes = [text.len(), programmed.bytes];
        Ok(())
    }

    fn whole_ratio(&self) -> f64 {
        self.whole[1].cpu.as_secs_f64() / self.whole[0].cpu.as_secs_f64()
    }

    /// Median of the ratios.
    fn change_gain(&self) -> f64 {
        let mut gains = self.gains.clone();
        gains.sort_by(f64::total_cmp);
        gains.get(gains.len() / 2).copied().unwrap_or(f64::NAN)
    }
}

impl Lists {
    pub fn goals(&self, goals: &mut Goals) {
        for (kind, aim) in self.kinds.iter().zip([10.0, 1.2]) {
            let name = kind.program.trim_end_matches("-restore");
            let whole = Asked::at_most("x", "-", 1.0, None);
            let what = format!("{name}: whole, {}, CPU time against kube-proxy's own input", self.size);
            goals.add(&what, whole, kind.whole_ratio());
            let gain = Asked::at_least("x", "-", 1.0, Some(aim));
            let what = format!("{name}: one endpoint changes, {}: quicker than kube-proxy's own input by", self.size);
            goals.add(&what, gain, kind.change_gain());
        }
    }

    pub fn say(&self, report: &mut Report) {
        report
            .heading(&format!("iptables mode, {}: kube-proxy's own input to `iptables-restore`, and ours", self.size));
        let header = [
            "program",
            "whose",
            "whole (s)",
            "its CPU (s)",
            "change p50 (ms)",
            "its CPU",
            "max",
            "input of a change (KiB)",
        ];
        let row = |kind: &Kind, side: usize| {
            let change = &kind.change[side];
            vec![
                kind.program.to_owned(),
                ["kube-proxy's", "**ours**"][side].to_owned(),
                three_digits(kind.whole[side].wall.as_secs_f64()),
                three_digits(kind.whole[side].cpu.as_secs_f64()),
                three_digits(millis(change.median())),
                three_digits(millis(kind.change_cpu[side].median())),
                three_digits(millis(change.percentile(100))),
                three_digits(kind.bytes[side] as f64 / 1024.0),
            ]
        };
        let rows: Vec<Vec<String>> = self.kinds.iter().flat_map(|kind| [row(kind, 0), row(kind, 1)]).collect();
        report.table(&header, &rows);
        let planned = three_digits(self.kinds.iter().map(|k| k.planned.as_secs_f64()).fold(f64::MAX, f64::min));
        report.line(&format!(
            "\nOurs counts from the objects on: {planned} s of a whole load, before the program starts."
        ));
    }
}
