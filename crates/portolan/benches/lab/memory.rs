//! Memory per process at several moments of a lab's life.

use std::collections::BTreeMap;
use std::time::Duration;

use portolan_lab::Lab;

use crate::stats::{Report, three_digits};
use crate::{Outcome, procs};

/// By role: how many processes, and the sum of their shares in KiB.
type Shares = BTreeMap<String, (u64, u64)>;

/// Before a look: what the lab just did has come to its end.
const REST: Duration = Duration::from_secs(1);

/// Proportional set sizes (PSS), moment by moment.
#[derive(Default)]
pub struct Memory {
    moments: Vec<(String, Shares)>,
}

impl Memory {
    pub fn take(&mut self, moment: &str, lab: &Lab) -> Outcome<()> {
        std::thread::sleep(REST);
        let mut shares = Shares::new();
        for process in procs::of_lab(lab)? {
            // A process that ended meanwhile has no memory.
            let Some(kib) = procs::pss_kib(process.pid) else { continue };
            let share = shares.entry(process.role).or_default();
            *share = (share.0 + 1, share.1 + kib);
        }
        self.moments.push((moment.to_owned(), shares));
        Ok(())
    }

    pub fn say(&self, report: &mut Report) {
        report.heading("memory per process (PSS in MiB; where there are several of a kind: their number x the mean)");
        let mut header = vec!["process"];
        header.extend(self.moments.iter().map(|(moment, _)| moment.as_str()));
        let mut roles: Vec<&String> = self.moments.iter().flat_map(|(_, shares)| shares.keys()).collect();
        roles.sort();
        roles.dedup();
        let cells =
            |role: &String| self.moments.iter().map(|(_, shares)| cell(shares.get(role).copied())).collect::<Vec<_>>();
        let mut rows: Vec<Vec<String>> =
            roles.into_iter().map(|role| [vec![role.clone()], cells(role)].concat()).collect();
        let total = |shares: &Shares| cell(Some((1, shares.values().map(|(_, kib)| kib).sum())));
        rows.push(
            std::iter::once("**all**".to_owned()).chain(self.moments.iter().map(|(_, shares)| total(shares))).collect(),
        );
        report.table(&header, &rows);
    }
}

fn cell(share: Option<(u64, u64)>) -> String {
    match share {
        None => "-".to_owned(),
        Some((1, kib)) => three_digits(kib as f64 / 1024.0),
        Some((count, kib)) => format!("{count} x {}", three_digits(kib as f64 / 1024.0 / count as f64)),
    }
}
