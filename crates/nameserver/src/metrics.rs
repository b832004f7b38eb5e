//! Metrics in Prometheus' text format, under the names that CoreDNS has for them, and a few of our own.
//!
//! Counts are of everything that was answered, wherever; a query that got silence is in none of them.

use std::collections::BTreeSet;
use std::fmt::Write;
use std::time::Instant;

use portolan_dns::cache::CacheCounts;
use portolan_dns::corefile::config::Block;
use portolan_dns::counts::{SIZES, Sizes};
use portolan_dns::forward::view::Durations;
use portolan_dns::server::Server;
use portolan_dns::site::Head;
use portolan_dns::{Site, Transport};

use crate::task::Reloads;
use crate::upstream::Reused;

/// What the text is made of.
pub(crate) struct Seen<'a> {
    pub(crate) site: &'a Site,
    pub(crate) server: &'a Server,
    pub(crate) reloads: Reloads,
    /// Datagrams that the kernel threw away.
    pub(crate) dropped: u64,
    /// Since when what we hold is not confirmed.
    pub(crate) silent_since: Option<Instant>,
    /// Connections to upstreams that were there already, or not.
    pub(crate) reused: Vec<Reused>,
}

/// All metrics.
pub(crate) fn text(seen: &Seen<'_>) -> String {
    let mut out = Page(String::new());
    about(&mut out, seen);
    requests(&mut out, seen.site);
    caches(&mut out, seen.site);
    upstreams(&mut out, seen.server);
    connections(&mut out, &seen.reused);
    pods(&mut out, seen.site);
    out.0
}

struct Page(String);

/// A counter's name, what it counts, and where it stands.
type Row<T> = (&'static str, &'static str, fn(&T) -> u64);

impl Page {
    fn head(&mut self, name: &str, kind: &str, help: &str) {
        let _ = writeln!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}");
    }

    fn line(&mut self, name: &str, labels: &[(&str, &str)], value: impl std::fmt::Display) {
        let labels: Vec<String> = labels.iter().map(|(key, text)| format!("{key}=\"{}\"", escaped(text))).collect();
        let _ = match labels.is_empty() {
            true => writeln!(self.0, "{name} {value}"),
            false => writeln!(self.0, "{name}{{{}}} {value}", labels.join(",")),
        };
    }

    fn histogram(&mut self, name: &str, labels: &[(&str, &str)], buckets: &[(String, u64)], count: u64, sum: f64) {
        let mut below = 0;
        for (bound, more) in buckets {
            below += more;
            self.line(&format!("{name}_bucket"), &[labels, &[("le", bound)]].concat(), below);
        }
        self.line(&format!("{name}_bucket"), &[labels, &[("le", "+Inf")]].concat(), count);
        self.line(&format!("{name}_sum"), labels, sum);
        self.line(&format!("{name}_count"), labels, count);
    }
}

fn escaped(text: &str) -> String {
    text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

fn about(out: &mut Page, seen: &Seen<'_>) {
    let version = env!("CARGO_PKG_VERSION");
    out.head("coredns_build_info", "gauge", "What is running.");
    out.line("coredns_build_info", &[("goversion", ""), ("revision", "portolan"), ("version", version)], 1);
    out.head("coredns_panics_total", "counter", "Queries that ended in a panic: none can.");
    out.line("coredns_panics_total", &[], 0);
    out.head("coredns_reload_failed_total", "counter", "Configurations that were not taken over.");
    out.line("coredns_reload_failed_total", &[], seen.reloads.failed);
    out.head("coredns_health_request_failures_total", "counter", "Health checks of itself that failed: none is made.");
    out.line("coredns_health_request_failures_total", &[], 0);
    out.head("coredns_plugin_enabled", "gauge", "Plugins of each zone.");
    let setup = seen.site.setup();
    for head in setup.heads() {
        for plugin in plugins(&setup.config().blocks[head.block]) {
            let (server, zone) = (head.server(), head.zone.to_string());
            let labels = [("server", server.as_str()), ("zone", &zone), ("view", ""), ("name", plugin)];
            out.line("coredns_plugin_enabled", &labels, 1);
        }
    }
    out.head("coredns_hosts_entries", "gauge", "Entries of hosts files and lines.");
    out.line("coredns_hosts_entries", &[], setup.hosts().map(|(_, hosts)| hosts.len()).sum::<usize>());
    out.head("portolan_dns_synced", "gauge", "Whether the cluster was read in full.");
    out.line("portolan_dns_synced", &[], u8::from(seen.site.records().is_synced()));
    out.head("portolan_dns_data_age_seconds", "gauge", "Since when nobody confirmed what is answered from.");
    let age = seen.silent_since.map_or(0.0, |since| since.elapsed().as_secs_f64());
    out.line("portolan_dns_data_age_seconds", &[], age);
    out.head("portolan_dns_udp_dropped_total", "counter", "Datagrams that the kernel threw away unread.");
    out.line("portolan_dns_udp_dropped_total", &[], seen.dropped);
    out.head("portolan_dns_waiting", "gauge", "Clients who wait for an upstream.");
    out.line("portolan_dns_waiting", &[], seen.server.waiting());
    out.head("coredns_autopath_success_total", "counter", "First steps of search lists answered for the whole list.");
    out.line("coredns_autopath_success_total", &[("server", "dns://:53")], seen.server.counts().searches);
}

/// Names of the plugins that a block has.
fn plugins(block: &Block) -> BTreeSet<&'static str> {
    let flags = [
        ("acl", !block.acl.is_empty()),
        ("any", block.any),
        ("autopath", block.autopath.is_some()),
        ("cache", block.cache.is_some()),
        ("errors", block.errors.is_some()),
        ("forward", !block.forwards.is_empty()),
        ("health", block.health.is_some()),
        ("hosts", block.hosts.is_some()),
        ("k8s_external", block.external.is_some()),
        ("kubernetes", block.kubernetes.is_some()),
        ("loadbalance", block.loadbalance),
        ("local", block.local),
        ("log", !block.logs.is_empty()),
        ("loop", block.detects_loops),
        ("minimal", block.minimal),
        ("prometheus", block.metrics.is_some()),
        ("ready", block.ready.is_some()),
        ("reload", block.reload.is_some()),
        ("rewrite", !block.rewrites.is_empty()),
        ("rrl", block.rrl.is_some()),
        ("template", !block.templates.is_empty()),
        ("transfer", !block.transfers.is_empty()),
    ];
    flags.into_iter().filter(|(_, has)| *has).map(|(name, _)| name).collect()
}

/// A zone's labels: server, zone, view.
fn of_head(head: Option<&Head>) -> [(&'static str, String); 3] {
    let (server, zone) = match head {
        Some(head) => (head.server(), head.zone.to_string()),
        None => ("dns://:53".to_owned(), "dropped".to_owned()),
    };
    [("server", server), ("zone", zone), ("view", String::new())]
}

fn requests(out: &mut Page, site: &Site) {
    let all: Vec<_> = site.setup().counts().collect();
    out.head("coredns_dns_requests_total", "counter", "Queries that were answered.");
    for (head, counts) in &all {
        let [server, zone, view] = of_head(*head);
        for (by, is_v6, rtype, count) in counts.requests() {
            let rtype = rtype.map_or_else(|| "other".to_owned(), |rtype| rtype.to_string());
            let family = if is_v6 { "2" } else { "1" };
            let labels = [
                (server.0, server.1.as_str()),
                (zone.0, &zone.1),
                (view.0, &view.1),
                ("proto", proto(by)),
                ("family", family),
                ("type", &rtype),
            ];
            out.line("coredns_dns_requests_total", &labels, count);
        }
    }
    out.head("coredns_dns_responses_total", "counter", "Replies, by the plugin that made them.");
    for (head, counts) in &all {
        let [server, zone, view] = of_head(*head);
        for (rcode, plugin, count) in counts.responses() {
            let rcode = rcode.map_or_else(|| "other".to_owned(), |rcode| rcode.to_string());
            let labels = [
                (server.0, server.1.as_str()),
                (zone.0, &zone.1),
                (view.0, &view.1),
                ("rcode", &rcode),
                ("plugin", plugin.name()),
            ];
            out.line("coredns_dns_responses_total", &labels, count);
        }
    }
    out.head("coredns_dns_do_requests_total", "counter", "Queries of clients who want DNSSEC records.");
    for (head, counts) in &all {
        let [server, zone, view] = of_head(*head);
        let labels = [(server.0, server.1.as_str()), (zone.0, &zone.1), (view.0, &view.1)];
        out.line("coredns_dns_do_requests_total", &labels, counts.dnssec_ok());
    }
    out.head("coredns_dns_request_duration_seconds", "histogram", "From a query's coming to its reply's going.");
    for (head, counts) in &all {
        let (times, [server, zone, view]) = (counts.times(), of_head(*head));
        if times.count > 0 {
            let labels = [(server.0, server.1.as_str()), (zone.0, &zone.1), (view.0, &view.1)];
            duration_lines(out, "coredns_dns_request_duration_seconds", &labels, &times);
        }
    }
    let names = ["coredns_dns_request_size_bytes", "coredns_dns_response_size_bytes"];
    for (at, name) in names.into_iter().enumerate() {
        out.head(name, "histogram", "Sizes of messages in bytes.");
        for (head, counts) in &all {
            for by in [Transport::Udp, Transport::Tcp] {
                let sizes = if at == 0 { counts.request_sizes(by) } else { counts.response_sizes(by) };
                size_lines(out, name, *head, by, &sizes);
            }
        }
    }
}

fn size_lines(out: &mut Page, name: &str, head: Option<&Head>, by: Transport, sizes: &Sizes) {
    if sizes.count == 0 {
        return;
    }
    let [server, zone, view] = of_head(head);
    let labels = [(server.0, server.1.as_str()), (zone.0, &zone.1), (view.0, &view.1), ("proto", proto(by))];
    let buckets: Vec<(String, u64)> = SIZES.iter().map(ToString::to_string).zip(sizes.buckets).collect();
    out.histogram(name, &labels, &buckets, sizes.count, sizes.sum_bytes as f64);
}

fn proto(by: Transport) -> &'static str {
    match by {
        Transport::Udp => "udp",
        Transport::Tcp => "tcp",
    }
}

fn caches(out: &mut Page, site: &Site) {
    let setup = site.setup();
    let heads: Vec<_> = setup
        .caches()
        .map(|(block, cache)| {
            let of_block = &setup.config().blocks[block];
            let zones: Vec<String> = of_block.zones.iter().map(ToString::to_string).collect();
            (format!("dns://:{}", of_block.port), zones.join(","), cache.counts())
        })
        .collect();
    let rows = |counts: [u64; 2]| ["success", "denial"].into_iter().zip(counts);
    out.head("coredns_cache_entries", "gauge", "Answers at hand.");
    for (server, zones, counts) in &heads {
        for (row, count) in rows(counts.entries) {
            out.line(
                "coredns_cache_entries",
                &[("server", server), ("type", row), ("zones", zones), ("view", "")],
                count,
            );
        }
    }
    out.head("coredns_cache_hits_total", "counter", "Queries answered from the cache.");
    for (server, zones, counts) in &heads {
        for (row, count) in rows(counts.hits) {
            let labels = [("server", server.as_str()), ("type", row), ("zones", zones), ("view", "")];
            out.line("coredns_cache_hits_total", &labels, count);
        }
    }
    out.head("coredns_cache_evictions_total", "counter", "Answers that went for want of room.");
    for (server, zones, counts) in &heads {
        for (row, count) in rows(counts.evictions) {
            let labels = [("server", server.as_str()), ("type", row), ("zones", zones), ("view", "")];
            out.line("coredns_cache_evictions_total", &labels, count);
        }
    }
    let totals: [Row<CacheCounts>; 4] = [
        ("coredns_cache_requests_total", "Queries looked for in the cache.", |counts| {
            counts.misses + counts.hits.iter().sum::<u64>()
        }),
        ("coredns_cache_misses_total", "Queries that the cache had no answer to.", |counts| counts.misses),
        ("coredns_cache_prefetch_total", "Answers renewed before their time.", |counts| counts.prefetches),
        ("coredns_cache_served_stale_total", "Answers served after their time.", |counts| counts.stale),
    ];
    for (name, help, of) in totals {
        out.head(name, "counter", help);
        for (server, zones, counts) in &heads {
            out.line(name, &[("server", server), ("zones", zones), ("view", "")], of(counts));
        }
    }
}

fn upstreams(out: &mut Page, server: &Server) {
    let groups = server.upstreams();
    let rejects: u64 = groups.iter().map(|group| group.counts.rejected).sum();
    let broken: u64 = groups.iter().map(|group| group.counts.all_down).sum();
    let hedges: u64 = groups.iter().map(|group| group.counts.hedges).sum();
    let totals = [
        ("coredns_forward_max_concurrent_rejects_total", "Queries refused for too many at once.", rejects),
        ("coredns_forward_healthcheck_broken_total", "Queries asked while every upstream was down.", broken),
        ("portolan_dns_hedges_total", "Queries that went to a second upstream because the first was slow.", hedges),
    ];
    for (name, help, count) in totals {
        out.head(name, "counter", help);
        out.line(name, &[], count);
    }
    let servers: Vec<_> = groups.iter().flat_map(|group| &group.servers).collect();
    out.head("coredns_proxy_healthcheck_failures_total", "counter", "Probes that failed.");
    for server in &servers {
        let to = server.peer.to_string();
        let labels = [("proxy_name", "forward"), ("to", to.as_str())];
        out.line("coredns_proxy_healthcheck_failures_total", &labels, server.counts.probes_failed);
    }
    out.head("coredns_proxy_request_duration_seconds", "histogram", "Times of upstreams' replies.");
    for server in &servers {
        let to = server.peer.to_string();
        for (rcode, durations) in &server.counts.replies {
            let rcode = rcode.to_string();
            let labels = [("proxy_name", "forward"), ("to", to.as_str()), ("rcode", &rcode)];
            duration_lines(out, "coredns_proxy_request_duration_seconds", &labels, durations);
        }
    }
}

fn connections(out: &mut Page, reused: &[Reused]) {
    let counts: [Row<Reused>; 2] = [
        ("coredns_proxy_conn_cache_hits_total", "Queries to upstreams over a connection that was open.", |of| of.hits),
        ("coredns_proxy_conn_cache_misses_total", "Queries to upstreams that had a connection or socket made.", |of| {
            of.misses
        }),
    ];
    for (name, help, count) in counts {
        out.head(name, "counter", help);
        for of in reused {
            let labels = [("proxy_name", "forward"), ("to", of.to.as_str()), ("proto", of.proto)];
            out.line(name, &labels, count(of));
        }
    }
}

fn duration_lines(out: &mut Page, name: &str, labels: &[(&str, &str)], durations: &Durations) {
    let bound = |at: usize| Durations::bound(at).as_secs_f64().to_string();
    let buckets: Vec<(String, u64)> =
        durations.counts.iter().enumerate().map(|(at, count)| (bound(at), *count)).collect();
    out.histogram(name, labels, &buckets, durations.count, durations.sum.as_secs_f64());
}

fn pods(out: &mut Page, site: &Site) {
    let pods: Vec<_> = site.pods().iter().map(|pod| (&pod.key, pod.counts())).collect();
    out.head("portolan_dns_pod_queries_total", "counter", "Queries of this node's pods.");
    for (key, (queries, _)) in &pods {
        out.line("portolan_dns_pod_queries_total", &[("namespace", &key.namespace), ("pod", &key.name)], queries);
    }
    out.head("portolan_dns_search_waste_total", "counter", "Steps of search lists that ended in NXDOMAIN.");
    for (key, (_, wasted)) in &pods {
        out.line("portolan_dns_search_waste_total", &[("namespace", &key.namespace), ("pod", &key.name)], wasted);
    }
}
