//! One endpoint changes, or one Service comes, at several sizes of the cluster: until the kernel has it.
//!
//! The sizes take turns, so that a noisy moment meets them all. Ours counts from the Kubernetes object on.

use std::path::Path;
use std::time::{Duration, Instant};

use crate::goals::{Asked, Goals};
use crate::load::{Mine, Theirs};
use crate::netfilter::Netfilter;
use crate::ours::Stages;
use crate::place;
use crate::rivals::nft::{change, new_service};
use crate::rivals::{nft_text, nft_wire};
use crate::stats::{Report, Samples, millis, three_digits};
use crate::world::{Size, fresh_address, service_object, slice_object, thousands};
use crate::{Outcome, progress};

/// One kind of change, of all that were measured at one size.
type Pick = fn(&Sized) -> &Samples;

/// Of one size.
struct Sized {
    size: Size,
    endpoint: Samples,
    service: Samples,
    /// Of the endpoint changes.
    kernel: Samples,
    most_transactions: usize,
}

/// Of one rival's layout.
struct Rival {
    name: String,
    endpoint: [Samples; 2],
    service: [Samples; 2],
}

#[derive(Default)]
pub struct Changes {
    ours: Vec<Sized>,
    rivals: Vec<Rival>,
}

/// A Service that is somewhere in the middle, another one each time.
fn pick(size: Size, number: u32) -> u32 {
    number.wrapping_mul(7919).wrapping_add(13) % size.last()
}

impl Changes {
    /// Changes each of `places` so many times in turn.
    pub fn ours(&mut self, places: &mut [&mut Mine], count: u32) -> Outcome<()> {
        progress(&format!("ours, {count} endpoint changes and {count} new Services at each size"));
        let empty = |mine: &&mut Mine| Sized {
            size: mine.size,
            endpoint: Samples::default(),
            service: Samples::default(),
            kernel: Samples::default(),
            most_transactions: 0,
        };
        let mut all: Vec<Sized> = places.iter().map(empty).collect();
        for number in 0..count {
            for (mine, sized) in places.iter_mut().zip(&mut all) {
                sized.endpoint_change(mine, number)?;
                sized.new_service(mine, number)?;
            }
        }
        self.ours = all;
        Ok(())
    }

    /// The same at a rival's, by `nft -f` and by netlink.
    pub fn rival(&mut self, bin: &Path, theirs: &Theirs, count: u32) -> Outcome<()> {
        let name = format!("kube-proxy {}, {}", theirs.version, theirs.size);
        progress(&format!("{name}: {count} changes"));
        let mut rival = Rival { name, endpoint: Default::default(), service: Default::default() };
        for number in 0..count * 2 {
            let service = pick(theirs.size, number);
            let mut addresses = theirs.size.addresses(service);
            let gone = std::mem::replace(&mut addresses[0], fresh_address(number));
            let items = change(theirs.version, service, &addresses, gone)?;
            let by = (number % 2) as usize;
            rival.endpoint[by].push(theirs.transact(bin, &items, by)?);
            let new = theirs.size.services + number;
            let addresses = [fresh_address((1 << 20) | (number * 2)), fresh_address((1 << 20) | (number * 2 + 1))];
            let items = new_service(theirs.version, new, &addresses)?;
            rival.service[by].push(theirs.transact(bin, &items, by)?);
        }
        self.rivals.push(rival);
        Ok(())
    }

    fn at(&self, services: u32) -> Option<&Sized> {
        self.ours.iter().find(|sized| sized.size.services == services)
    }

    pub fn goals(&self, goals: &mut Goals, few: u32, many: u32) {
        let (Some(few), Some(many)) = (self.at(few), self.at(many)) else { return };
        let kinds: [(&str, Pick); 2] = [("one endpoint change", |s| &s.endpoint), ("one new Service", |s| &s.service)];
        for (what, of) in kinds {
            let at = thousands(many.size.services);
            let p50 = Asked::at_most(" ms", "28 us", 1.0, Some(0.1));
            goals.add(&format!("{what} into the kernel, at {at} Services: p50"), p50, millis(of(many).median()));
            let p99 = Asked::at_most(" ms", "0.6 ms", 5.0, None);
            goals.add(&format!("{what} into the kernel, at {at} Services: p99"), p99, millis(of(many).percentile(99)));
            let ratio = of(many).median().as_secs_f64() / of(few).median().as_secs_f64();
            let asked = Asked::at_most("x", "1.1x", 2.0, Some(1.2));
            goals.add(&format!("{what}: p50 at {at} against at {}", thousands(few.size.services)), asked, ratio);
        }
    }

    pub fn say(&self, report: &mut Report) {
        report.heading("one change into the kernel, ours: from the object to the kernel's acknowledgement");
        let names: Vec<[String; 3]> = self.ours.iter().map(Sized::names).collect();
        let rows: Vec<(&str, &Samples)> = self
            .ours
            .iter()
            .zip(&names)
            .flat_map(|(sized, [a, b, c])| [(a.as_str(), &sized.endpoint), (b, &sized.kernel), (c, &sized.service)])
            .collect();
        report.distributions(&rows);
        let most = self.ours.iter().map(|sized| sized.most_transactions).max().unwrap_or(0);
        report.line(&format!("\nTransactions of one change: {most} at most."));
        report.heading("one change into the kernel, kube-proxy's layouts: the write alone (medians, ms)");
        let header =
            ["layout", "endpoint, `nft -f`", "endpoint, netlink", "new Service, `nft -f`", "new Service, netlink"];
        let cells = |rival: &Rival| {
            let samples = [&rival.endpoint[0], &rival.endpoint[1], &rival.service[0], &rival.service[1]];
            let figures = samples.map(|samples| three_digits(millis(samples.median())));
            std::iter::once(rival.name.clone()).chain(figures).collect()
        };
        report.table(&header, &self.rivals.iter().map(cells).collect::<Vec<_>>());
    }
}

impl Sized {
    fn endpoint_change(&mut self, mine: &mut Mine, number: u32) -> Outcome<()> {
        let service = pick(self.size, number);
        let mut addresses = self.size.addresses(service);
        addresses[0] = fresh_address(number);
        let stages = mine.ours.program(vec![slice_object(service, &addresses)?])?;
        self.endpoint.push(stages.whole);
        self.kernel.push(stages.kernel);
        self.count(&stages)
    }

    fn new_service(&mut self, mine: &mut Mine, number: u32) -> Outcome<()> {
        let new = self.size.services + number;
        let addresses = [fresh_address((1 << 20) | (number * 2)), fresh_address((1 << 20) | (number * 2 + 1))];
        let stages = mine.ours.program(vec![service_object(new)?, slice_object(new, &addresses)?])?;
        self.service.push(stages.whole);
        self.count(&stages)
    }

    fn count(&mut self, stages: &Stages) -> Outcome<()> {
        self.most_transactions = self.most_transactions.max(stages.transactions);
        match stages.transactions {
            0 => Err("a change wrote nothing: what was measured is not what was meant".into()),
            _ => Ok(()),
        }
    }

    fn names(&self) -> [String; 3] {
        let size = self.size;
        [
            format!("**one endpoint, {size}**"),
            format!("of it, inside the kernel's call, {size}"),
            format!("**one new Service, {size}**"),
        ]
    }
}

impl Theirs {
    /// By `nft -f` (0) or by netlink (1).
    fn transact(&self, bin: &Path, items: &[crate::rivals::nft::Item], by: usize) -> Outcome<Duration> {
        if by == 0 {
            let text = nft_text::write(items);
            return Ok(self.place.on_node(|| place::run(&bin.join("nft"), &["-f", "-"], &text))?.wall);
        }
        let batch = nft_wire::write(items);
        self.place.on_node(|| {
            let socket = Netfilter::open()?;
            let start = Instant::now();
            socket.transact(&batch)?;
            Ok(start.elapsed())
        })
    }
}
