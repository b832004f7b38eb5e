//! What of CoreDNS's Corefile holds here: the table that the reader asks and that docs/dns-corefile.md shows.

use std::fmt;

/// How far a plugin is supported.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Support {
    /// All of its options.
    Full,
    /// Some options are refused, or are read and mean nothing; the note says which.
    Partly,
    /// It is read, and means nothing here.
    NoEffect,
    /// It is a clear error.
    Refused,
}

impl fmt::Display for Support {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Full => "yes",
            Self::Partly => "partly",
            Self::NoEffect => "no effect",
            Self::Refused => "refused",
        })
    }
}

/// One row.
#[derive(Clone, Copy, Debug)]
#[allow(missing_docs)]
pub struct Row {
    pub plugin: &'static str,
    pub support: Support,
    /// What differs from CoreDNS, in a line.
    pub note: &'static str,
}

const fn row(plugin: &'static str, support: Support, note: &'static str) -> Row {
    Row { plugin, support, note }
}

/// All plugins of CoreDNS 1.12 and its external `rrl`, by name.
pub const TABLE: &[Row] = &[
    row("acl", Support::Full, ""),
    row("any", Support::Full, ""),
    row("auto", Support::Refused, "zones are served from the cluster, not from files"),
    row(
        "autopath",
        Support::Full,
        "a pod of this node is known by its link, with its own search list; any other by its address, as CoreDNS does, \
        where pods are watched",
    ),
    row("azure", Support::Refused, ""),
    row("bind", Support::Partly, "addresses; names of interfaces are refused"),
    row("bufsize", Support::Full, ""),
    row(
        "cache",
        Support::Partly,
        "what upstreams say is kept; the cluster's own records are always at hand and never \
        stale. Refused: `serve_stale_policy`, a TTL and a recheck of `serve_stale`",
    ),
    row("cancel", Support::NoEffect, "every query has its time limit"),
    row("chaos", Support::Refused, ""),
    row("clouddns", Support::Refused, ""),
    row("debug", Support::NoEffect, "an error never ends the process"),
    row("dns64", Support::Refused, ""),
    row("dnssec", Support::Refused, "records that upstreams signed pass through as they are"),
    row("dnstap", Support::Refused, ""),
    row("erratic", Support::Refused, ""),
    row(
        "errors",
        Support::Partly,
        "queries that no upstream answered. No effect: \
        `stacktrace`, levels and `show_first`",
    ),
    row("etcd", Support::Refused, ""),
    row(
        "file",
        Support::Refused,
        "zones are served from the cluster, not from files; `hosts` and `template` hold single names",
    ),
    row(
        "forward",
        Support::Partly,
        "servers are addresses or files; up to 15. Refused: names of servers, `next`, \
        `next_on_nodata`, `source_address`, `resolver`, `doh_method GET`. No effect: `max_idle_conns`, \
        `max_connect_attempts`, `max_age`, `no_rec` and `domain` of `health_check`",
    ),
    row("geoip", Support::Refused, ""),
    row("grpc", Support::Refused, ""),
    row("grpc_server", Support::Refused, ""),
    row("header", Support::Refused, ""),
    row("health", Support::Full, ""),
    row(
        "hosts",
        Support::Partly,
        "a block of lines without a file's name is those lines alone, without /etc/hosts. \
        Refused: `fallthrough_unsupported`",
    ),
    row("https", Support::Refused, "clients are answered by UDP and TCP"),
    row("https3", Support::Refused, "clients are answered by UDP and TCP"),
    row("k8s_external", Support::Full, ""),
    row(
        "kubernetes",
        Support::Partly,
        "the agent reads the cluster, so `endpoint`, `tls`, `kubeconfig` and `apiserver_*` \
        have no effect; nor has `startup_timeout`: answers begin at once, and what is not read yet is SERVFAIL. \
        Refused: `labels`, `namespace_labels`, `multicluster`, `zonal`",
    ),
    row("loadbalance", Support::Partly, "`round_robin`. Refused: `weighted`, `prefer`"),
    row("local", Support::Partly, "Refused: `localhost_prefix off`"),
    row("log", Support::Partly, "written among the messages of the process"),
    row("loop", Support::Full, "a loop is told of and cut; the cluster's names are answered all the same"),
    row("metadata", Support::NoEffect, ""),
    row("minimal", Support::Full, ""),
    row("multisocket", Support::NoEffect, "there is a socket for each core"),
    row("nomad", Support::Refused, ""),
    row("nsid", Support::Refused, ""),
    row("on", Support::Refused, ""),
    row("pprof", Support::NoEffect, ""),
    row("prometheus", Support::Partly, "`runtime_metrics` has no effect. Refused: `tls`"),
    row("proxyproto", Support::Refused, ""),
    row("quic", Support::Refused, "clients are answered by UDP and TCP"),
    row(
        "ready",
        Support::Full,
        "waits until the cluster was read in full, if any block has `kubernetes`; no other plugin here has \
        something to wait for",
    ),
    row("reload", Support::Full, "the file is looked at each 5 s at most, whatever is written; jitter has no effect"),
    row(
        "rewrite",
        Support::Partly,
        "`name`, `type`, `ttl`, `rcode`; a reply's owner is the client's name again even \
        without `answer`. Refused: `class`, `edns0`, `cname`",
    ),
    row("root", Support::Refused, "write paths in full"),
    row("route53", Support::Refused, ""),
    row("rrl", Support::Partly, "the external plugin; whole numbers per second. No effect: `referrals-per-second`"),
    row("secondary", Support::Refused, ""),
    row("shed", Support::NoEffect, "queues are bounded"),
    row("sign", Support::Refused, ""),
    row(
        "template",
        Support::Partly,
        "`{{ .Name }}`, `.Zone`, `.Class`, `.Type`, `.Remote`, `.Group.x`, `.Match`, `index`, \
        `parseInt`. Refused: other actions, `var`, `expr`, `ederror`, classes but IN and ANY",
    ),
    row("timeouts", Support::NoEffect, "connections of clients have their time limits"),
    row("tls", Support::Refused, "clients are answered by UDP and TCP"),
    row("trace", Support::Refused, ""),
    row("transfer", Support::Partly, "whole zones to those that ask. Refused: `source`"),
    row("tsig", Support::Refused, ""),
    row("view", Support::Refused, "`acl` tells clients apart"),
    row("whoami", Support::Refused, ""),
];

/// The row of a plugin.
pub fn of(plugin: &str) -> Option<&'static Row> {
    TABLE.iter().find(|row| row.plugin == plugin)
}

/// The table as Markdown.
pub fn markdown() -> String {
    let mut out = String::from("| plugin | read | what differs |\n|---|---|---|\n");
    for Row { plugin, support, note } in TABLE {
        out += &format!("| `{plugin}` | {support} | {note} |\n");
    }
    out
}
