//! The goals, each with what it must be, what it aims at, the limit measured before the work began, and what was measured.

use crate::stats::{Report, three_digits};

/// Which side of a goal's figures is good.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    AtMost,
    AtLeast,
}

/// What a goal asks for, in its unit.
#[derive(Clone, Copy, Debug)]
pub struct Asked {
    pub side: Side,
    pub unit: &'static str,
    /// As measured before, in words.
    pub limit: &'static str,
    pub must: f64,
    /// `None`: the must is all there is.
    pub aim: Option<f64>,
}

impl Asked {
    pub const fn at_most(unit: &'static str, limit: &'static str, must: f64, aim: Option<f64>) -> Self {
        Self { side: Side::AtMost, unit, limit, must, aim }
    }

    pub const fn at_least(unit: &'static str, limit: &'static str, must: f64, aim: Option<f64>) -> Self {
        Self { side: Side::AtLeast, unit, limit, must, aim }
    }

    fn holds(&self, value: f64, goal: f64) -> bool {
        match self.side {
            Side::AtMost => value <= goal,
            Side::AtLeast => value >= goal,
        }
    }

    fn verdict(&self, value: f64) -> &'static str {
        match self.aim.is_none_or(|aim| self.holds(value, aim)) && self.holds(value, self.must) {
            true => "aim",
            false if self.holds(value, self.must) => "must",
            false => "**missed**",
        }
    }

    fn figure(&self, value: f64) -> String {
        format!("{}{}", three_digits(value), self.unit)
    }
}

/// The table of goals, row by row.
#[derive(Default)]
pub struct Goals(Vec<Vec<String>>);

impl Goals {
    pub fn add(&mut self, what: &str, asked: Asked, value: f64) {
        let aim = asked.aim.map_or_else(|| "-".to_owned(), |aim| asked.figure(aim));
        self.0.push(vec![
            what.to_owned(),
            asked.limit.to_owned(),
            asked.figure(asked.must),
            aim,
            format!("**{}**", asked.figure(value)),
            asked.verdict(value).to_owned(),
        ]);
    }

    pub fn say(&self, report: &mut Report) {
        report.heading("the goals");
        report.table(&["goal", "limit", "must", "aim", "measured", "reached"], &self.0);
    }
}
