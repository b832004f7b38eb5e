//! What a Corefile says, as values: one [`Block`] per server block, one field per plugin.
//!
//! A block's plugins act in a fixed order whatever the file's order (see `site`). Fields hold what was written or the
//! plugin's default; a plugin that was not named is `None`, empty or `false`.
//!
//! Spec: the plugins' pages of CoreDNS 1.12, in our words.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use ipnet::IpNet;

use crate::name::Name;
use crate::rdata::Rtype;
use crate::wire::Rcode;

/// A whole file, in its order.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Corefile {
    /// Server blocks; at least one.
    pub blocks: Vec<Block>,
}

/// Where in the file something was written; files that were imported have their own name.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// `Corefile`, or the name of an imported file.
    pub file: String,
    /// From 1 on.
    pub line: usize,
}

/// One server block: zones at a port, and what answers for them.
#[derive(Clone, Debug, PartialEq)]
pub struct Block {
    /// Of its first line.
    pub place: Place,
    /// Zones it answers for; `.` is the root. A query goes to the block with the longest zone above its name.
    pub zones: Vec<Name>,
    /// UDP and TCP port, 53 by default.
    pub port: u16,
    /// `bind`: addresses to listen at; empty: all that the server was given.
    pub bind: Vec<IpAddr>,
    /// `bufsize`: largest UDP reply in bytes, 512 to 4096; 1232 by default.
    pub bufsize_bytes: u16,
    /// `acl`, in order; the first that fits decides.
    pub acl: Vec<AclRule>,
    /// `any`: ANY gets a HINFO (RFC 8482) instead of records.
    pub any: bool,
    /// `autopath`.
    pub autopath: Option<Autopath>,
    /// `cache`.
    pub cache: Option<CacheConfig>,
    /// `errors`: errors are logged; with `consolidate`, by pattern and time.
    pub errors: Option<ErrorsConfig>,
    /// `k8s_external`.
    pub external: Option<ExternalConfig>,
    /// `forward`, in order; a query takes the one with the longest base zone above its name.
    pub forwards: Vec<ForwardConfig>,
    /// `health`.
    pub health: Option<HealthConfig>,
    /// `hosts`.
    pub hosts: Option<HostsConfig>,
    /// `kubernetes`.
    pub kubernetes: Option<KubernetesConfig>,
    /// `loadbalance`: addresses in turning order.
    pub loadbalance: bool,
    /// `local`: names such as `localhost` are answered here.
    pub local: bool,
    /// `log`, in order.
    pub logs: Vec<LogConfig>,
    /// `loop`: a loop of forwarding is looked for and reported.
    pub detects_loops: bool,
    /// `minimal`: no authority and additional records that nobody needs.
    pub minimal: bool,
    /// `prometheus`: where metrics are served; an unspecified address means all of ours.
    pub metrics: Option<SocketAddr>,
    /// `ready`.
    pub ready: Option<ReadyConfig>,
    /// `reload`: how often the file is compared; ours is at most 5 s whatever it says. `None`: never again.
    pub reload: Option<Duration>,
    /// `rewrite`, in order.
    pub rewrites: Vec<RewriteRule>,
    /// `rrl`: limits of equal answers per client network.
    pub rrl: Option<RrlConfig>,
    /// `template`, in order.
    pub templates: Vec<TemplateConfig>,
    /// `transfer`, in order.
    pub transfers: Vec<TransferConfig>,
}

/// For which names a plugin lets a query that it found nothing for go on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Fallthrough {
    /// For none.
    #[default]
    Never,
    /// For all.
    Always,
    /// For names in these zones.
    In(Vec<Name>),
}

/// `kubernetes [ZONES…]`.
#[derive(Clone, Debug, PartialEq)]
pub struct KubernetesConfig {
    /// Forward zones (`cluster.local`) and reverse ones (`in-addr.arpa`), as written or, if none is, the block's.
    pub zones: Vec<Name>,
    /// `namespaces`: those alone are shown; empty: all.
    pub namespaces: Vec<String>,
    /// `pods`.
    pub pods: PodMode,
    /// `endpoint_pod_names`.
    pub endpoint_pod_names: bool,
    /// `ttl`, 0 to 3600 s, 5 by default.
    pub ttl_secs: u32,
    /// `noendpoints`.
    pub no_endpoints: bool,
    /// `ignore empty_service`.
    pub ignore_empty_service: bool,
    /// `startup_timeout`, 5 s. Nothing is waited for: answers begin at once, and what is not read yet is SERVFAIL.
    pub startup_timeout: Duration,
    /// `fallthrough`.
    pub fallthrough: Fallthrough,
}

/// `pods` of `kubernetes`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum PodMode {
    /// No pod records.
    #[default]
    Disabled,
    /// The address in the name, if the namespace exists.
    Insecure,
    /// Only where a pod of the namespace has the address.
    Verified,
}

/// `k8s_external [ZONES…]`.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs)]
pub struct ExternalConfig {
    pub zones: Vec<Name>,
    /// `dns` by default: the SOA's mname is `ns1.dns` below the zone.
    pub apex: String,
    /// 5 s by default.
    pub ttl_secs: u32,
    /// Headless Services too.
    pub headless: bool,
    pub fallthrough: Fallthrough,
}

/// `forward FROM TO…`.
#[derive(Clone, Debug, PartialEq)]
pub struct ForwardConfig {
    /// Where it was written: its identity across reloads is `from` and `to`.
    pub place: Place,
    /// Names below it are forwarded.
    pub from: Name,
    /// Servers, in order; at most 15.
    pub to: Vec<Target>,
    /// Names below these are not.
    pub except: Vec<Name>,
    /// TCP even for queries that came by UDP.
    pub force_tcp: bool,
    /// UDP even for queries that came by TCP.
    pub prefer_udp: bool,
    /// Failures in a row that take a server for dead; 0: never. 2 by default.
    pub max_fails: u32,
    /// How long an idle connection is kept, 10 s.
    pub expire: Duration,
    /// How often a server that failed is probed, 0.5 s.
    pub health_check: Duration,
    /// `policy`.
    pub policy: Policy,
    /// Queries under way at once; more are refused. 0: no limit.
    pub max_concurrent: usize,
    /// Codes that make the next server be asked (`next`, `failover`).
    pub next_on: Vec<Rcode>,
    /// For `tls://` and `https://`.
    pub tls: TlsConfig,
}

/// A server to forward to.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Target {
    /// By UDP and TCP, port 53 if none is written.
    Plain(SocketAddr),
    /// `tls://`: DNS over TLS (RFC 7858), port 853 if none is written.
    Tls(SocketAddr),
    /// `https://`: DNS over HTTPS (RFC 8484).
    Https {
        /// An address, port 443 if none is written; names would need a resolver first.
        addr: SocketAddr,
        /// `/dns-query` if none is written.
        path: String,
    },
    /// A file as resolv.conf(5): the servers named there, looked at again when it changes.
    File(String),
}

/// TLS towards an upstream.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct TlsConfig {
    /// `tls_servername`: the name that its certificate must have.
    pub server_name: Option<String>,
    /// `tls … CA`: file of authorities; `None`: the machine's.
    pub ca_file: Option<String>,
    /// `tls CERT KEY`: our own certificate.
    pub identity: Option<(String, String)>,
}

/// Which server is asked first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Policy {
    #[default]
    Random,
    RoundRobin,
    /// In the file's order.
    Sequential,
}

/// `cache [TTL] [ZONES…]`. Only what an upstream said is kept: our own records are at hand.
#[derive(Clone, Debug, PartialEq)]
pub struct CacheConfig {
    /// Names it is for; empty: the block's zones.
    pub zones: Vec<Name>,
    /// Answers.
    pub success: CacheLimits,
    /// Absences.
    pub denial: CacheLimits,
    /// How long SERVFAIL is kept; 5 s, at most 300 s.
    pub servfail: Duration,
    /// `prefetch AMOUNT DURATION PERCENT%`.
    pub prefetch: Option<Prefetch>,
    /// `serve_stale`.
    pub stale: Option<Stale>,
    /// `disable success|denial ZONES`.
    pub no_success: Vec<Name>,
    /// As `no_success`, of absences.
    pub no_denial: Vec<Name>,
    /// `keepttl`: the TTL is sent as it came.
    pub keep_ttl: bool,
}

/// How many and how long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct CacheLimits {
    /// 9984 by default.
    pub entries: usize,
    /// 3600 s by default; absences 1800 s.
    pub max_ttl_secs: u32,
    /// 5 s by default.
    pub min_ttl_secs: u32,
}

/// An answer asked for `amount` times, with pauses under `within`, is asked for anew when `percent` of its life is left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct Prefetch {
    pub amount: u32,
    /// 1 min by default.
    pub within: Duration,
    /// 10 by default.
    pub percent: u8,
}

/// Answers whose time is over, where no upstream says better (RFC 8767).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stale {
    /// How long after its end, 1 h by default.
    pub for_: Duration,
    /// `verify`: an upstream is asked first, for this long; `None` (`immediate`): the old answer goes out at once.
    pub verify: Option<Duration>,
}

/// `hosts [FILE [ZONES…]]`.
#[derive(Clone, Debug, PartialEq)]
pub struct HostsConfig {
    /// `/etc/hosts` by default; `None` if there are lines in the block and no file is named.
    pub file: Option<String>,
    /// Empty: the block's.
    pub zones: Vec<Name>,
    /// Lines as in /etc/hosts, written in the block.
    pub inline: Vec<String>,
    /// 3600 s by default.
    pub ttl_secs: u32,
    /// No PTR.
    pub no_reverse: bool,
    /// How often the file is looked at, 5 s; `None`: never again.
    pub reload: Option<Duration>,
    /// `fallthrough`.
    pub fallthrough: Fallthrough,
}

/// One line of `acl`.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs)]
pub struct AclRule {
    /// Empty: the block's.
    pub zones: Vec<Name>,
    pub action: AclAction,
    /// Empty: every type.
    pub types: Vec<Rtype>,
    /// Empty: every client.
    pub nets: Vec<IpNet>,
}

/// What an `acl` line does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AclAction {
    /// Goes on.
    Allow,
    /// REFUSED.
    Block,
    /// NOERROR without records.
    Filter,
    /// No answer.
    Drop,
}

/// One line or block of `rewrite`.
#[derive(Clone, Debug, PartialEq)]
pub struct RewriteRule {
    /// `continue`: later rules are tried too; otherwise (`stop`) this is the last that acts.
    pub goes_on: bool,
    /// What it changes.
    pub change: Rewrite,
}

/// What a `rewrite` changes.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs)]
pub enum Rewrite {
    /// The name asked for; the reply carries the client's name again.
    Name { from: NameMatch, to: String, answers: AnswerRewrite },
    /// The type asked for.
    Type { from: Rtype, to: Rtype },
    /// TTLs of replies to names that fit, to at least and at most these.
    Ttl { names: NameMatch, min_secs: u32, max_secs: u32 },
    /// The code of replies to names that fit.
    Code { names: NameMatch, from: Rcode, to: Rcode },
}

/// Which names a rule is for.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs)]
pub enum NameMatch {
    Exact(Name),
    /// Text forms with their final dot, lower case.
    Prefix(String),
    Suffix(String),
    Substring(String),
    Regex(Pattern),
}

/// What happens to names in the answers.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum AnswerRewrite {
    /// The name that was changed is changed back; no other.
    #[default]
    Back,
    /// `answer auto`: in owners and in data.
    Auto,
    /// `answer name FROM TO`, `answer value FROM TO`, in order.
    Rules(Vec<AnswerRule>),
}

/// One `answer` line.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs)]
pub struct AnswerRule {
    /// Names in data (`value`) instead of owners (`name`).
    pub in_data: bool,
    pub from: Pattern,
    /// With `{1}` for groups.
    pub to: String,
}

/// A regular expression (RE2's language) with its text; two are equal if their texts are.
#[derive(Clone, Debug)]
pub struct Pattern {
    /// As written.
    pub text: String,
    /// Compiled, with a limit of size.
    pub regex: regex::Regex,
}

impl PartialEq for Pattern {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

/// `template CLASS TYPE [ZONES…]`.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs)]
pub struct TemplateConfig {
    /// Class IN or ANY; others never come here.
    pub rtype: Rtype,
    /// Empty: the block's.
    pub zones: Vec<Name>,
    /// Empty: every name.
    pub matches: Vec<Pattern>,
    /// Records as zone-file lines with `{{ .Name }}` and the like.
    pub answers: Vec<String>,
    pub additional: Vec<String>,
    pub authority: Vec<String>,
    pub rcode: Rcode,
    pub fallthrough: Fallthrough,
}

/// `transfer [ZONES…] { to ADDRESSES }`.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs)]
pub struct TransferConfig {
    /// Empty: the block's.
    pub zones: Vec<Name>,
    /// Who may; `0.0.0.0/0` and `::/0` for `*`.
    pub to: Vec<IpNet>,
}

/// `autopath [ZONES…] @kubernetes` or a file as resolv.conf(5).
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs)]
pub struct Autopath {
    /// Empty: the block's.
    pub zones: Vec<Name>,
    pub by: AutopathBy,
}

/// Where a client's search list comes from.
#[derive(Clone, Debug, PartialEq)]
pub enum AutopathBy {
    /// The client's pod, known by its link or its address.
    Kubernetes,
    /// The same for every client: a file.
    File(String),
}

/// `errors`.
#[derive(Clone, Debug, Default, PartialEq)]
#[allow(missing_docs)]
pub struct ErrorsConfig {
    pub consolidate: Vec<Consolidate>,
}

/// Errors that fit are counted and written once in a while.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs)]
pub struct Consolidate {
    pub every: Duration,
    pub pattern: Pattern,
}

/// `log [NAMES…] [FORMAT]`.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs)]
pub struct LogConfig {
    pub zones: Vec<Name>,
    /// `{common}`, `{combined}` or placeholders.
    pub format: String,
    pub classes: Vec<LogClass>,
}

/// Which replies are logged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum LogClass {
    Success,
    /// NXDOMAIN and NODATA.
    Denial,
    /// SERVFAIL, NOTIMP, REFUSED and their like.
    Error,
    All,
}

/// `health`.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs)]
pub struct HealthConfig {
    /// `:8080` by default.
    pub listen: SocketAddr,
    /// How long to go on answering after being told to end.
    pub lameduck: Duration,
}

/// `ready`.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs)]
pub struct ReadyConfig {
    /// `:8181` by default.
    pub listen: SocketAddr,
    /// `monitor continuously`: readiness may go back.
    pub continuously: bool,
}

/// `rrl [ZONES…]`: equal answers to one client network per second. 0: no limit.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs)]
pub struct RrlConfig {
    pub zones: Vec<Name>,
    /// Time over which debts are kept, 15 s.
    pub window: Duration,
    /// Client networks: /24 and /56.
    pub ipv4_prefix: u8,
    pub ipv6_prefix: u8,
    pub responses_per_second: u32,
    pub nodata_per_second: u32,
    pub nxdomains_per_second: u32,
    pub errors_per_second: u32,
    /// Queries of a client network, whatever their answers.
    pub requests_per_second: u32,
    /// Most accounts that are kept at once.
    pub max_accounts: usize,
    /// Every n-th answer over the limit goes out cut short (TC), the others not at all; 0: none goes out. 2.
    pub slip: u32,
    /// Only told, not done.
    pub report_only: bool,
}
