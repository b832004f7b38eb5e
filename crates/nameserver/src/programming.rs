//! Counters that only a nameserver's teller can tell: how long changes take to be answerable, which configurations were
//! refused before they came here.
//!
//! Names and buckets are CoreDNS's.

use std::fmt::Write;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// The first bucket ends at 1 ms, each next one at twice that.
const BUCKETS: usize = 20;
const FIRST_MICROS: u64 = 1000;

/// What kind of Service changed, in CoreDNS's words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum ProgrammedKind {
    ClusterIp,
    HeadlessWithSelector,
    HeadlessWithoutSelector,
}

impl ProgrammedKind {
    const ALL: [Self; 3] = [Self::ClusterIp, Self::HeadlessWithSelector, Self::HeadlessWithoutSelector];

    fn label(self) -> &'static str {
        match self {
            Self::ClusterIp => "cluster_ip",
            Self::HeadlessWithSelector => "headless_with_selector",
            Self::HeadlessWithoutSelector => "headless_without_selector",
        }
    }
}

/// Latencies by kind, and refusals.
#[derive(Debug, Default)]
pub(crate) struct Programming {
    kinds: [Histogram; 3],
    refused: AtomicU64,
}

#[derive(Debug, Default)]
struct Histogram {
    /// Not cumulative; the last has no end.
    buckets: [AtomicU64; BUCKETS + 1],
    micros: AtomicU64,
}

impl Programming {
    /// A change became answerable after `took`.
    pub(crate) fn observe(&self, kind: ProgrammedKind, took: Duration) {
        let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        let place = (0..BUCKETS).find(|index| micros <= FIRST_MICROS << index).unwrap_or(BUCKETS);
        let histogram = &self.kinds[kind as usize];
        histogram.buckets[place].fetch_add(1, Ordering::Relaxed);
        histogram.micros.fetch_add(micros, Ordering::Relaxed);
    }

    /// A configuration was refused before it came here.
    pub(crate) fn refuse(&self) {
        self.refused.fetch_add(1, Ordering::Relaxed);
    }

    /// All of it in the Prometheus text format.
    pub(crate) fn text(&self) -> String {
        let name = "coredns_kubernetes_dns_programming_duration_seconds";
        let help = "In-cluster DNS programming latency in seconds, from a change of endpoints until it is answered.";
        let mut text = format!("# HELP {name} {help}\n# TYPE {name} histogram\n");
        for kind in ProgrammedKind::ALL {
            self.write(&mut text, name, kind).expect("writing to a String cannot fail");
        }
        let (name, refused) = ("portolan_dns_corefile_refused_total", self.refused.load(Ordering::Relaxed));
        let help = "Configurations that could not be read; the one before stayed in force.";
        text + &format!("# HELP {name} {help}\n# TYPE {name} counter\n{name} {refused}\n")
    }

    fn write(&self, text: &mut String, name: &str, kind: ProgrammedKind) -> std::fmt::Result {
        let (histogram, label) = (&self.kinds[kind as usize], kind.label());
        let mut sum = 0;
        for (index, bucket) in histogram.buckets.iter().enumerate() {
            sum += bucket.load(Ordering::Relaxed);
            let end = match index {
                BUCKETS => "+Inf".to_owned(),
                _ => ((FIRST_MICROS << index) as f64 / 1e6).to_string(),
            };
            writeln!(text, "{name}_bucket{{service_kind=\"{label}\",le=\"{end}\"}} {sum}")?;
        }
        let secs = histogram.micros.load(Ordering::Relaxed) as f64 / 1e6;
        writeln!(text, "{name}_sum{{service_kind=\"{label}\"}} {secs}\n{name}_count{{service_kind=\"{label}\"}} {sum}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn latencies_are_counted_in_buckets_that_add_up() {
        let programming = Programming::default();
        for micros in [0, 1000, 1001, 4000, 600_000_000] {
            programming.observe(ProgrammedKind::HeadlessWithSelector, Duration::from_micros(micros));
        }
        let text = programming.text();
        let has = |line: &str| assert!(text.lines().any(|found| found == line), "{line} in\n{text}");
        let name = "coredns_kubernetes_dns_programming_duration_seconds";
        for (end, count) in [("0.001", 2), ("0.002", 3), ("0.004", 4), ("524.288", 4), ("+Inf", 5)] {
            has(&format!("{name}_bucket{{service_kind=\"headless_with_selector\",le=\"{end}\"}} {count}"));
        }
        has(&format!("{name}_sum{{service_kind=\"headless_with_selector\"}} 600.006001"));
        has(&format!("{name}_count{{service_kind=\"headless_with_selector\"}} 5"));
        has(&format!("{name}_count{{service_kind=\"cluster_ip\"}} 0"));
        programming.refuse();
        assert!(programming.text().ends_with("\nportolan_dns_corefile_refused_total 1\n"));
    }
}
