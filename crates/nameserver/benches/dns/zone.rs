//! The cluster that all servers serve: Services in namespaces, as objects, as a zone file, as a hosts file, as questions.

use std::fmt::Write;
use std::net::Ipv4Addr;

use crate::Counts;
use crate::generator::{Question, Wanted};

pub const DOMAIN: &str = "cluster.local";
const A: u16 = 1;
const MX: u16 = 15;
const SRV: u16 = 33;
/// Long enough that nothing runs out of a cache within a run.
const TTL_SECS: u32 = 3600;

pub struct Zone {
    services: Vec<(String, String, Ipv4Addr)>,
    namespaces: Vec<String>,
}

/// What is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Case {
    Hits,
    /// 60 % hits, 20 % names without the type, 20 % absent names.
    Mix,
    Absent,
    Srv,
}

impl Case {
    pub const ALL: [Self; 4] = [Self::Hits, Self::Mix, Self::Absent, Self::Srv];

    pub fn words(self) -> &'static str {
        match self {
            Self::Hits => "A of Services",
            Self::Mix => "60 % A, 20 % NODATA, 20 % NXDOMAIN",
            Self::Absent => "NXDOMAIN",
            Self::Srv => "SRV",
        }
    }
}

impl Zone {
    pub fn new(counts: Counts) -> Self {
        let namespaces: Vec<String> = (0..counts.namespaces).map(|nth| format!("ns-{nth}")).collect();
        let service = |nth: usize| {
            let namespace = namespaces[nth % namespaces.len()].clone();
            (format!("svc-{nth}"), namespace, Ipv4Addr::from(0x0a60_1000 + nth as u32))
        };
        Self { services: (0..counts.services).map(service).collect(), namespaces }
    }

    pub fn services(&self) -> impl Iterator<Item = (&str, &str, Ipv4Addr)> {
        self.services.iter().map(|(name, namespace, ip)| (name.as_str(), namespace.as_str(), *ip))
    }

    pub fn namespaces(&self) -> &[String] {
        &self.namespaces
    }

    /// Kubernetes objects, as a user would have them in files.
    pub fn objects(&self) -> String {
        let mut out = String::new();
        for namespace in &self.namespaces {
            let _ = writeln!(out, "---\napiVersion: v1\nkind: Namespace\nmetadata: {{name: {namespace}}}");
        }
        for (name, namespace, ip) in self.services() {
            let _ = writeln!(
                out,
                "---\napiVersion: v1\nkind: Service\nmetadata: {{name: {name}, namespace: {namespace}}}\n\
                 spec: {{type: ClusterIP, clusterIP: {ip}, clusterIPs: [{ip}], ipFamilies: [IPv4], \
                 ports: [{{name: http, port: 80, protocol: TCP}}]}}"
            );
        }
        out
    }

    /// A zone file of the same names.
    pub fn zone_file(&self) -> String {
        let mut out = format!(
            "$ORIGIN {DOMAIN}.\n$TTL {TTL_SECS}\n@ SOA ns.dns hostmaster 1 7200 1800 86400 {TTL_SECS}\n@ NS ns.dns\nns.dns A 127.0.0.1\n"
        );
        for (name, namespace, ip) in self.services() {
            let _ = writeln!(out, "{name}.{namespace}.svc A {ip}");
            let _ = writeln!(out, "_http._tcp.{name}.{namespace}.svc SRV 0 100 80 {name}.{namespace}.svc");
        }
        out
    }

    pub fn hosts_file(&self) -> String {
        self.services().map(|(name, namespace, ip)| format!("{ip} {name}.{namespace}.svc.{DOMAIN}\n")).collect()
    }

    /// The questions of a case, in an order that is the same for all servers and hops through the names.
    pub fn questions(&self, case: Case) -> Vec<Question> {
        let hop = |nth: usize| &self.services[nth * 7919 % self.services.len()];
        let question = |nth: usize| {
            let (name, namespace, _) = hop(nth);
            let full = format!("{name}.{namespace}.svc.{DOMAIN}");
            let absent = || Question::new(&format!("absent-{nth}.{namespace}.svc.{DOMAIN}"), A, Wanted::Absence);
            match (case, nth % 5) {
                (Case::Hits, _) | (Case::Mix, 0..=2) => Question::new(&full, A, Wanted::Answer),
                (Case::Mix, 3) => Question::new(&full, MX, Wanted::NoData),
                (Case::Mix, _) | (Case::Absent, _) => absent(),
                (Case::Srv, _) => Question::new(&format!("_http._tcp.{full}"), SRV, Wanted::Answer),
            }
        };
        (0..self.services.len()).map(question).collect()
    }

    /// As dnsperf reads them.
    pub fn dnsperf_file(&self) -> String {
        self.services().map(|(name, namespace, _)| format!("{name}.{namespace}.svc.{DOMAIN} A\n")).collect()
    }
}
