//! What the proxy counts of itself, by the names that kube-proxy has given it (prefix `kubeproxy_`).
//!
//! Written by the thread that programs, read by whoever scrapes. Times are kept in microseconds. Source: the metrics of
//! kube-proxy 1.35; `ip_family` is its label.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use portolan_model::Family;

/// Counters, gauges and histograms of both families.
#[derive(Debug, Default)]
pub(crate) struct Metrics {
    v4: FamilyMetrics,
    v6: FamilyMetrics,
    healthz: Codes,
    livez: Codes,
}

/// The metrics of these families, for whoever shows them.
#[derive(Clone, Debug)]
pub(crate) struct ServiceMetrics {
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) families: Vec<Family>,
}

impl ServiceMetrics {
    /// In the Prometheus text format.
    pub(crate) fn text(&self) -> String {
        self.metrics.text(&self.families)
    }
}

/// Those of one family.
#[derive(Debug, Default)]
pub(crate) struct FamilyMetrics {
    /// Every write.
    pub(crate) sync: Histogram<SyncBuckets>,
    /// Writes that compared everything.
    pub(crate) full_sync: Histogram<SyncBuckets>,
    /// Writes of what changed.
    pub(crate) partial_sync: Histogram<SyncBuckets>,
    /// From the change of a pod or Service until the kernel has it.
    pub(crate) programming: Histogram<ProgrammingBuckets>,
    /// Looks for stale conntrack entries.
    pub(crate) conntrack: Histogram<SyncBuckets>,
    pub(crate) conntrack_deleted: AtomicU64,
    /// When the kernel last took a write, and when a change last came; microseconds since 1970.
    pub(crate) last_sync: AtomicU64,
    pub(crate) last_queued: AtomicU64,
    pub(crate) service_changes: Changes,
    pub(crate) endpoint_changes: Changes,
    /// Service ports with endpoints, none of them here, under policy Local.
    pub(crate) no_local_internal: AtomicU64,
    pub(crate) no_local_external: AtomicU64,
    pub(crate) iptables: IptablesMetrics,
    pub(crate) nftables_failures: AtomicU64,
    pub(crate) nftables_cleanup_failures: AtomicU64,
}

/// Those of iptables mode.
#[derive(Debug, Default)]
pub(crate) struct IptablesMetrics {
    /// Rules that are ours, by table.
    pub(crate) rules: Mutex<BTreeMap<&'static str, u64>>,
    /// Rules of the last write, by table.
    pub(crate) last: Mutex<BTreeMap<&'static str, u64>>,
    pub(crate) restore_failures: AtomicU64,
    pub(crate) partial_restore_failures: AtomicU64,
}

/// Changes that were told, and those of them that are not written yet.
#[derive(Debug, Default)]
pub(crate) struct Changes {
    pub(crate) total: AtomicU64,
    pub(crate) pending: AtomicU64,
}

/// Answers by HTTP status.
#[derive(Debug, Default)]
struct Codes {
    ok: AtomicU64,
    unavailable: AtomicU64,
}

impl Metrics {
    pub(crate) fn of(&self, family: Family) -> &FamilyMetrics {
        match family {
            Family::V4 => &self.v4,
            Family::V6 => &self.v6,
        }
    }

    pub(crate) fn healthz_answered(&self, healthy: bool) {
        self.healthz.count(healthy);
    }

    pub(crate) fn livez_answered(&self, healthy: bool) {
        self.livez.count(healthy);
    }

    /// All of them in the Prometheus text format, for these families.
    pub(crate) fn text(&self, families: &[Family]) -> String {
        let mut page = Page { text: String::new(), families: families.iter().map(|f| (*f, self.of(*f))).collect() };
        page.syncs();
        page.changes();
        page.iptables();
        page.conntrack();
        page.codes("proxy_healthz_total", "Answers of /healthz by HTTP status.", &self.healthz);
        page.codes("proxy_livez_total", "Answers of /livez by HTTP status.", &self.livez);
        page.text
    }
}

impl Changes {
    pub(crate) fn came(&self) {
        self.total.fetch_add(1, Ordering::Relaxed);
        self.pending.fetch_add(1, Ordering::Relaxed);
    }
}

impl Codes {
    fn count(&self, healthy: bool) {
        let counter = if healthy { &self.ok } else { &self.unavailable };
        counter.fetch_add(1, Ordering::Relaxed);
    }
}

/// Microseconds since 1970.
pub(crate) fn micros_of(time: SystemTime) -> u64 {
    micros(time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default())
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

/// Upper ends of a histogram's buckets, in microseconds, ascending.
pub(crate) trait Buckets {
    fn ends() -> &'static [u64];
}

/// 0.001 s × 2^0..14.
#[derive(Debug, Default)]
pub(crate) struct SyncBuckets;

impl Buckets for SyncBuckets {
    fn ends() -> &'static [u64] {
        static ENDS: std::sync::LazyLock<Vec<u64>> = std::sync::LazyLock::new(|| (0..15).map(|n| 1000 << n).collect());
        &ENDS
    }
}

/// 0.25, 0.5, 1 to 59 by 1, 60 to 115 by 5, 120 to 300 by 30 seconds.
#[derive(Debug, Default)]
pub(crate) struct ProgrammingBuckets;

impl Buckets for ProgrammingBuckets {
    fn ends() -> &'static [u64] {
        static ENDS: std::sync::LazyLock<Vec<u64>> = std::sync::LazyLock::new(|| {
            let seconds = (1..60).chain((60..120).step_by(5)).chain((120..=300).step_by(30));
            [250_000, 500_000].into_iter().chain(seconds.map(|secs| secs * 1_000_000)).collect()
        });
        &ENDS
    }
}

/// How often something took how long.
#[derive(Debug)]
pub(crate) struct Histogram<B> {
    /// One more than there are ends: the last has none.
    counts: Vec<AtomicU64>,
    sum_micros: AtomicU64,
    buckets: std::marker::PhantomData<B>,
}

impl<B: Buckets> Default for Histogram<B> {
    fn default() -> Self {
        let counts = (0..=B::ends().len()).map(|_| AtomicU64::new(0)).collect();
        Self { counts, sum_micros: AtomicU64::new(0), buckets: std::marker::PhantomData }
    }
}

impl<B: Buckets> Histogram<B> {
    pub(crate) fn observe(&self, took: Duration) {
        let took = micros(took);
        let bucket = B::ends().partition_point(|end| *end < took);
        self.counts[bucket].fetch_add(1, Ordering::Relaxed);
        self.sum_micros.fetch_add(took, Ordering::Relaxed);
    }

    fn write(&self, text: &mut String, name: &str, labels: &str) -> std::fmt::Result {
        let mut total = 0;
        let ends = B::ends().iter().map(|end| seconds(*end)).chain(["+Inf".to_owned()]);
        for (count, end) in self.counts.iter().zip(ends) {
            total += count.load(Ordering::Relaxed);
            writeln!(text, "{name}_bucket{{{labels},le=\"{end}\"}} {total}")?;
        }
        writeln!(text, "{name}_sum{{{labels}}} {}", seconds(self.sum_micros.load(Ordering::Relaxed)))?;
        writeln!(text, "{name}_count{{{labels}}} {total}")
    }
}

fn seconds(micros: u64) -> String {
    format!("{}", micros as f64 / 1e6)
}

/// The text under way.
struct Page<'a> {
    text: String,
    families: Vec<(Family, &'a FamilyMetrics)>,
}

impl Page<'_> {
    fn syncs(&mut self) {
        self.histogram("sync_proxy_rules_duration_seconds", "How long writes took.", |m| &m.sync);
        self.histogram("sync_full_proxy_rules_duration_seconds", "Those that compared everything.", |m| &m.full_sync);
        self.histogram("sync_partial_proxy_rules_duration_seconds", "Those of what changed.", |m| &m.partial_sync);
        let help = "From the change of a pod or Service until the kernel has it.";
        self.histogram("network_programming_duration_seconds", help, |m| &m.programming);
        let time = |m: &AtomicU64| seconds(m.load(Ordering::Relaxed));
        let help = "When the kernel last took a write.";
        self.gauge("sync_proxy_rules_last_timestamp_seconds", help, |m| time(&m.last_sync));
        let help = "When a change last came.";
        self.gauge("sync_proxy_rules_last_queued_timestamp_seconds", help, |m| time(&m.last_queued));
    }

    fn changes(&mut self) {
        let of = |m: &AtomicU64| m.load(Ordering::Relaxed).to_string();
        let waiting = "Changes that are not written yet.";
        self.gauge("sync_proxy_rules_service_changes_pending", waiting, |m| of(&m.service_changes.pending));
        self.gauge("sync_proxy_rules_endpoint_changes_pending", waiting, |m| of(&m.endpoint_changes.pending));
        self.counter("sync_proxy_rules_service_changes_total", "Changes of Services.", |m| {
            of(&m.service_changes.total)
        });
        let help = "Changes of EndpointSlices.";
        self.counter("sync_proxy_rules_endpoint_changes_total", help, |m| of(&m.endpoint_changes.total));
        let name = "sync_proxy_rules_no_local_endpoints_total";
        self.head(name, "gauge", "Service ports of policy Local with endpoints elsewhere only.");
        self.each(|text, labels, m| {
            for (policy, value) in [("internal", &m.no_local_internal), ("external", &m.no_local_external)] {
                writeln!(text, "kubeproxy_{name}{{{labels},traffic_policy=\"{policy}\"}} {}", of(value))?;
            }
            Ok(())
        });
        let name = "sync_proxy_rules_nftables_sync_failures_total";
        self.counter(name, "Transactions that nf_tables refused.", |m| of(&m.nftables_failures));
        let name = "sync_proxy_rules_nftables_cleanup_failures_total";
        self.counter(name, "Stale things that nf_tables kept.", |m| of(&m.nftables_cleanup_failures));
    }

    fn iptables(&mut self) {
        let of = |m: &AtomicU64| m.load(Ordering::Relaxed).to_string();
        let name = "sync_proxy_rules_iptables_restore_failures_total";
        self.counter(name, "Restores that iptables refused.", |m| of(&m.iptables.restore_failures));
        let name = "sync_proxy_rules_iptables_partial_restore_failures_total";
        self.counter(name, "Those of them that held changes only.", |m| of(&m.iptables.partial_restore_failures));
        type ByTable = fn(&IptablesMetrics) -> &Mutex<BTreeMap<&'static str, u64>>;
        let tables: [(&str, &str, ByTable); 2] = [
            ("sync_proxy_rules_iptables_total", "Rules that are ours.", |m| &m.rules),
            ("sync_proxy_rules_iptables_last", "Rules of the last write.", |m| &m.last),
        ];
        for (name, help, by_table) in tables {
            self.head(name, "gauge", help);
            self.each(|text, labels, m| {
                let rows = by_table(&m.iptables).lock().unwrap_or_else(PoisonError::into_inner);
                rows.iter()
                    .try_for_each(|(table, n)| writeln!(text, "kubeproxy_{name}{{{labels},table=\"{table}\"}} {n}"))
            });
        }
    }

    fn conntrack(&mut self) {
        let help = "How long looks for stale conntrack entries took.";
        self.histogram("conntrack_reconciler_sync_duration_seconds", help, |m| &m.conntrack);
        let help = "Stale conntrack entries that were removed.";
        let deleted = |m: &FamilyMetrics| m.conntrack_deleted.load(Ordering::Relaxed).to_string();
        self.counter("conntrack_reconciler_deleted_entries_total", help, deleted);
    }

    fn histogram<B: Buckets>(&mut self, name: &str, help: &str, of: impl Fn(&FamilyMetrics) -> &Histogram<B>) {
        self.head(name, "histogram", help);
        self.each(|text, labels, m| of(m).write(text, &format!("kubeproxy_{name}"), labels));
    }

    fn gauge(&mut self, name: &str, help: &str, of: impl Fn(&FamilyMetrics) -> String) {
        self.head(name, "gauge", help);
        self.each(|text, labels, m| writeln!(text, "kubeproxy_{name}{{{labels}}} {}", of(m)));
    }

    fn counter(&mut self, name: &str, help: &str, of: impl Fn(&FamilyMetrics) -> String) {
        self.head(name, "counter", help);
        self.each(|text, labels, m| writeln!(text, "kubeproxy_{name}{{{labels}}} {}", of(m)));
    }

    fn codes(&mut self, name: &str, help: &str, codes: &Codes) {
        self.head(name, "counter", help);
        for (code, count) in [(200, &codes.ok), (503, &codes.unavailable)] {
            let count = count.load(Ordering::Relaxed);
            writeln!(self.text, "kubeproxy_{name}{{code=\"{code}\"}} {count}")
                .expect("writing to a String cannot fail");
        }
    }

    fn head(&mut self, name: &str, kind: &str, help: &str) {
        writeln!(self.text, "# HELP kubeproxy_{name} {help}\n# TYPE kubeproxy_{name} {kind}")
            .expect("writing to a String cannot fail");
    }

    fn each(&mut self, write: impl Fn(&mut String, &str, &FamilyMetrics) -> std::fmt::Result) {
        for (family, metrics) in &self.families {
            let labels = match family {
                Family::V4 => "ip_family=\"IPv4\"",
                Family::V6 => "ip_family=\"IPv6\"",
            };
            write(&mut self.text, labels, metrics).expect("writing to a String cannot fail");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_are_those_that_dashboards_know() {
        let secs = |ends: &[u64]| ends.iter().map(|end| seconds(*end)).collect::<Vec<_>>();
        let sync = secs(SyncBuckets::ends());
        assert_eq!((sync.len(), sync[0].as_str(), sync[14].as_str()), (15, "0.001", "16.384"));
        let programming = secs(ProgrammingBuckets::ends());
        assert_eq!(programming.len(), 2 + 59 + 12 + 7);
        assert_eq!((programming[1].as_str(), programming[60].as_str()), ("0.5", "59"));
        assert_eq!(
            programming[61..74],
            ["60", "65", "70", "75", "80", "85", "90", "95", "100", "105", "110", "115", "120"]
        );
        assert_eq!(programming.last().map(String::as_str), Some("300"));
    }

    #[test]
    fn an_observation_counts_in_its_bucket_and_all_above() {
        let metrics = Metrics::default();
        metrics.of(Family::V4).sync.observe(Duration::from_millis(2));
        metrics.of(Family::V4).sync.observe(Duration::from_secs(60));
        let text = metrics.text(&[Family::V4]);
        let line =
            |le: &str| format!("kubeproxy_sync_proxy_rules_duration_seconds_bucket{{ip_family=\"IPv4\",le=\"{le}\"}}");
        for (le, count) in [("0.001", 0), ("0.002", 1), ("16.384", 1), ("+Inf", 2)] {
            assert!(text.contains(&format!("{} {count}\n", line(le))), "{le}: {text}");
        }
        assert!(
            text.contains("kubeproxy_sync_proxy_rules_duration_seconds_sum{ip_family=\"IPv4\"} 60.002\n"),
            "{text}"
        );
        assert!(!text.contains("IPv6"), "a family without rules has no numbers");
    }
}
