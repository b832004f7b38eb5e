//! Nothing changed: how many transactions the kernel has counted when the same is asked for again.

use std::time::Duration;

use crate::goals::{Asked, Goals};
use crate::load::Mine;
use crate::stats::{Report, millis, three_digits};
use crate::world::Size;
use crate::{Outcome, progress};

/// Of one size.
pub struct Resync {
    size: Size,
    /// Transactions while all objects were told again, and while a restart compared everything.
    again: u32,
    restart: u32,
    told_again: Duration,
    compared: Duration,
    /// Steps that the restart would have to write.
    steps: usize,
}

impl Resync {
    /// Tells every object again, then reads the kernel back as a restarted process does.
    pub fn of(mine: &mut Mine) -> Outcome<Self> {
        progress(&format!("ours, {}, told again and restarted", mine.size));
        let objects = mine.size.objects()?;
        let first = mine.ours.generation()?;
        let told = mine.ours.program(objects)?;
        let second = mine.ours.generation()?;
        let (repair, compared) = mine.ours.restart()?;
        let third = mine.ours.generation()?;
        Ok(Self {
            size: mine.size,
            again: second - first,
            restart: third - second,
            told_again: told.whole,
            compared,
            steps: repair.transaction.steps().len(),
        })
    }

    pub fn goals(&self, goals: &mut Goals) {
        let none = Asked::at_most("", "0", 0.0, None);
        goals.add(&format!("resync with nothing changed, {}: transactions", self.size), none, f64::from(self.again));
        let written = f64::from(self.restart) + self.steps as f64;
        goals.add(
            &format!("restart over a right kernel, {}: transactions, and steps planned", self.size),
            none,
            written,
        );
    }

    pub fn say(&self, report: &mut Report) {
        report.line(&format!(
            "\nNothing changed, {}: all objects told again took {} ms, a plan from scratch compared with all that the kernel \
             holds {} ms; the kernel counted {} transactions.",
            self.size,
            three_digits(millis(self.told_again)),
            three_digits(millis(self.compared)),
            self.again + self.restart,
        ));
    }
}
