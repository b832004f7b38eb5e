//! KubeProxyConfiguration (`kubeproxy.config.k8s.io/v1alpha1`), read as it is.
//!
//! Each field is taken, or named as one that is not supported together with what to do; none is ignored in silence, and
//! one that does not exist is an error with its path. A value that asks for nothing (null, "", 0, 0s, false, an empty
//! list) is as good as no value: kubeadm's file is full of them. Source: the type's published documentation, 1.35.

use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::time::Duration;

use portolan_agent::proxy::Mode;
use portolan_model::{DetectLocal, IfName};
use serde_json::Value;

use crate::failure::Failure;
use crate::proxy::flags::{node_ports_on, ranges};
use crate::proxy::wanted::{Wanted, WantedMode, parse_duration};

const API_VERSION: &str = "kubeproxy.config.k8s.io/v1alpha1";
const KIND: &str = "KubeProxyConfiguration";

/// What a file says, and what of it is not supported: a line each.
#[derive(Debug)]
pub struct Read {
    pub wanted: Wanted,
    pub unsupported: Vec<String>,
}

/// Reads the file at `path`; `in_force` says which mode follows from what it wants.
///
/// # Errors
/// It cannot be read, is no KubeProxyConfiguration, or has fields that do not exist or mean nothing; the message names each.
pub fn read(path: &Path, in_force: impl Fn(WantedMode) -> Mode) -> Result<Read, Failure> {
    let name = path.display();
    let failed = |e: &dyn std::fmt::Display| Failure::input(format!("--config {name}: {e}"));
    let bytes = std::fs::read(path).map_err(|e| failed(&e))?;
    let documents = portolan_kinds::yaml::documents(&bytes).map_err(|e| failed(&e))?;
    let is_ours = |value: &&Value| value["kind"] == KIND;
    // kubeadm keeps several kinds in one file.
    match documents.iter().filter(is_ours).collect::<Vec<_>>()[..] {
        [document] => of(document, in_force).map_err(|problems| failed(&problems.join("\n  "))),
        [] => Err(failed(&format!("there is no {KIND} in it; its kind and apiVersion ({API_VERSION}) say so"))),
        _ => Err(failed(&format!("there is more than one {KIND} in it"))),
    }
}

/// Reads the file at `path` for `mode`, whatever mode it asks for, and prints what of it is not supported.
///
/// # Errors
/// As [`read`].
pub fn read_for(path: &Path, mode: Mode) -> Result<Wanted, Failure> {
    let read = read(path, |_| mode)?;
    read.unsupported.iter().for_each(|line| eprintln!("Warning: --config {}: {line}", path.display()));
    Ok(read.wanted)
}

/// What one document says, or all that is wrong with it.
pub fn of(document: &Value, in_force: impl Fn(WantedMode) -> Mode) -> Result<Read, Vec<String>> {
    let wanted = document["mode"].as_str().filter(|text| !text.is_empty()).and_then(|text| mode(text).ok());
    let mut reader = Reader {
        wanted: Wanted::default(),
        mode: in_force(wanted.unwrap_or_default()),
        unsupported: Vec::new(),
        problems: Vec::new(),
    };
    if document["apiVersion"] != API_VERSION {
        reader.problems.push(format!("apiVersion: {} is not supported; write {API_VERSION}", document["apiVersion"]));
    }
    reader.section(document, "");
    reader.detect_local(document);
    match reader.problems.is_empty() {
        true => Ok(Read { wanted: reader.wanted, unsupported: reader.unsupported }),
        false => Err(reader.problems),
    }
}

/// What becomes of a field.
enum Support {
    /// It is taken.
    Taken(fn(&mut Wanted, &Value) -> Result<(), String>),
    /// It belongs to iptables or to nftables mode, whichever is in force.
    OfMode(Mode, fn(&mut Wanted, &Value) -> Result<(), String>),
    /// It is not supported: what to do.
    Not(&'static str),
    /// A section of fields.
    Section,
}

use Support::{Not, OfMode, Section, Taken};

const LOGGING: &str = "set PORTOLAN_LOG (such as PORTOLAN_LOG=debug) instead";
const IPVS: &str = "there is no ipvs mode; use iptables or nftables, and leave it out";
const WINDOWS: &str = "it is for Windows; leave it out";

/// Every field there is.
const FIELDS: &[(&str, Support)] = &[
    ("apiVersion", Taken(|_, _| Ok(()))),
    ("kind", Taken(|_, _| Ok(()))),
    ("featureGates", Not("what it gates is on or not there; leave it out")),
    ("clientConnection", Section),
    ("clientConnection.kubeconfig", Taken(|w, v| text(v).map(|t| w.kubeconfig = Some(t.into())))),
    ("clientConnection.acceptContentTypes", Not("JSON is spoken; leave it out")),
    ("clientConnection.contentType", Not("JSON is spoken; leave it out")),
    ("clientConnection.qps", Not("requests are watches, which need no limit; leave it out")),
    ("clientConnection.burst", Not("requests are watches, which need no limit; leave it out")),
    ("logging", Section),
    ("logging.format", Not(LOGGING)),
    ("logging.flushFrequency", Not(LOGGING)),
    ("logging.verbosity", Not(LOGGING)),
    ("logging.vmodule", Not(LOGGING)),
    ("logging.options", Section),
    ("logging.options.text", Section),
    ("logging.options.text.splitStream", Not(LOGGING)),
    ("logging.options.text.infoBufferSize", Not(LOGGING)),
    ("logging.options.json", Section),
    ("logging.options.json.splitStream", Not(LOGGING)),
    ("logging.options.json.infoBufferSize", Not(LOGGING)),
    ("hostnameOverride", Taken(|w, v| text(v).map(|t| w.node = Some(t)))),
    ("bindAddress", Taken(bind_address)),
    ("healthzBindAddress", Taken(|w, v| address(v, 10256).map(|a| w.healthz = Some(a)))),
    ("metricsBindAddress", Taken(|w, v| address(v, 10249).map(|a| w.metrics = Some(a)))),
    ("bindAddressHardFail", Taken(|w, v| flag(v).map(|b| w.bind_hard_fail = b))),
    ("enableProfiling", Not("there is no /debug/pprof; set it to false")),
    ("showHiddenMetricsForVersion", Not("no metric is hidden; leave it out")),
    ("serviceProxyName", Taken(|w, v| text(v).map(|t| w.service_proxy_name = Some(t)))),
    ("mode", Taken(|w, v| text(v).and_then(|t| mode(&t)).map(|m| w.mode = m))),
    ("iptables", Section),
    ("iptables.masqueradeBit", OfMode(Mode::Iptables, |w, v| bit(v).map(|b| w.masquerade_bit = b))),
    ("iptables.masqueradeAll", OfMode(Mode::Iptables, |w, v| flag(v).map(|b| w.masquerade_all = b))),
    ("iptables.localhostNodePorts", OfMode(Mode::Iptables, |w, v| flag(v).map(|b| w.localhost_node_ports = b))),
    ("iptables.syncPeriod", OfMode(Mode::Iptables, |w, v| duration(v).map(|d| w.sync_period = Some(d)))),
    ("iptables.minSyncPeriod", OfMode(Mode::Iptables, |w, v| duration(v).map(|d| w.min_sync_period = Some(d)))),
    ("nftables", Section),
    ("nftables.masqueradeBit", OfMode(Mode::Nftables, |w, v| bit(v).map(|b| w.masquerade_bit = b))),
    ("nftables.masqueradeAll", OfMode(Mode::Nftables, |w, v| flag(v).map(|b| w.masquerade_all = b))),
    ("nftables.syncPeriod", OfMode(Mode::Nftables, |w, v| duration(v).map(|d| w.sync_period = Some(d)))),
    ("nftables.minSyncPeriod", OfMode(Mode::Nftables, |w, v| duration(v).map(|d| w.min_sync_period = Some(d)))),
    ("ipvs", Section),
    ("ipvs.syncPeriod", Not(IPVS)),
    ("ipvs.minSyncPeriod", Not(IPVS)),
    ("ipvs.scheduler", Not(IPVS)),
    ("ipvs.excludeCIDRs", Not(IPVS)),
    ("ipvs.strictARP", Not(IPVS)),
    ("ipvs.tcpTimeout", Not(IPVS)),
    ("ipvs.tcpFinTimeout", Not(IPVS)),
    ("ipvs.udpTimeout", Not(IPVS)),
    ("winkernel", Section),
    ("winkernel.networkName", Not(WINDOWS)),
    ("winkernel.sourceVip", Not(WINDOWS)),
    ("winkernel.enableDSR", Not(WINDOWS)),
    ("winkernel.rootHnsEndpointName", Not(WINDOWS)),
    ("winkernel.forwardHealthCheckVip", Not(WINDOWS)),
    ("windowsRunAsService", Not(WINDOWS)),
    // Both are read together, see `detect_local`.
    ("detectLocalMode", Taken(|_, v| text(v).map(drop))),
    ("detectLocal", Section),
    ("detectLocal.bridgeInterface", Taken(|_, v| text(v).map(drop))),
    ("detectLocal.interfaceNamePrefix", Taken(|_, v| text(v).map(drop))),
    ("clusterCIDR", Taken(|w, v| text(v).and_then(|t| ranges(t.split(','))).map(|r| w.cluster_cidrs = r))),
    ("nodePortAddresses", Taken(node_port_addresses)),
    ("oomScoreAdj", Taken(|w, v| number(v, -1000, 1000).map(|n| w.oom_score = Some(n as i32)))),
    ("conntrack", Section),
    ("conntrack.maxPerCore", Taken(|w, v| number(v, 0, 1 << 30).map(|n| w.conntrack.max_per_core = n as u32))),
    ("conntrack.min", Taken(|w, v| number(v, 0, 1 << 30).map(|n| w.conntrack.min = n as u32))),
    ("conntrack.tcpEstablishedTimeout", Taken(|w, v| duration(v).map(|d| w.conntrack.tcp_established_timeout = d))),
    ("conntrack.tcpCloseWaitTimeout", Taken(|w, v| duration(v).map(|d| w.conntrack.tcp_close_wait_timeout = d))),
    ("conntrack.tcpBeLiberal", Taken(|w, v| flag(v).map(|b| w.conntrack.tcp_be_liberal = b))),
    ("conntrack.udpTimeout", Taken(|w, v| duration(v).map(|d| w.conntrack.udp_timeout = d))),
    ("conntrack.udpStreamTimeout", Taken(|w, v| duration(v).map(|d| w.conntrack.udp_stream_timeout = d))),
    ("configSyncPeriod", Not("changes come by watch, and nothing is asked for again; leave it out")),
    ("portRange", Not("kube-proxy does not use it either; leave it out")),
];

/// Fields whose zero says something that their default does not.
const ZERO_COUNTS: [&str; 8] = [
    "iptables.masqueradeBit",
    "nftables.masqueradeBit",
    "oomScoreAdj",
    "iptables.localhostNodePorts",
    "conntrack.maxPerCore",
    "conntrack.min",
    "conntrack.tcpEstablishedTimeout",
    "conntrack.tcpCloseWaitTimeout",
];
struct Reader {
    wanted: Wanted,
    /// Settings of this mode count.
    mode: Mode,
    unsupported: Vec<String>,
    problems: Vec<String>,
}

impl Reader {
    fn section(&mut self, value: &Value, path: &str) {
        let Some(fields) = value.as_object() else {
            if !value.is_null() {
                self.problems.push(format!("{path}: {value} is no section of fields"));
            }
            return;
        };
        for (name, value) in fields {
            let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
            self.field(value, &path);
        }
    }

    fn field(&mut self, value: &Value, path: &str) {
        let Some((_, support)) = FIELDS.iter().find(|(known, _)| *known == path) else {
            let near = nearest(path).map(|near| format!("; did you mean {near}?")).unwrap_or_default();
            return self.problems.push(format!("{path}: there is no such field{near}"));
        };
        if asks_for_nothing(value, path) {
            return;
        }
        match support {
            Section => self.section(value, path),
            Not(what_to_do) => self.unsupported.push(format!("{path} is not supported: {what_to_do}")),
            Taken(take) => self.take(*take, value, path),
            OfMode(mode, take) if self.mode == *mode => self.take(*take, value, path),
            // kubeadm's file has both sections; the other mode's is no wish.
            OfMode(..) => {}
        }
    }

    fn take(&mut self, take: fn(&mut Wanted, &Value) -> Result<(), String>, value: &Value, path: &str) {
        if let Err(problem) = take(&mut self.wanted, value) {
            self.problems.push(format!("{path}: {problem}"));
        }
    }

    fn detect_local(&mut self, document: &Value) {
        let text = |pointer: &str| document.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
        let (bridge, prefix) = (text("/detectLocal/bridgeInterface"), text("/detectLocal/interfaceNamePrefix"));
        self.wanted.detect_local = match (text("/detectLocalMode"), bridge, prefix) {
            ("" | "ClusterCIDR", ..) => DetectLocal::ClusterCidr,
            ("NodeCIDR", ..) => DetectLocal::NodeCidr,
            ("BridgeInterface", "", _) | ("InterfaceNamePrefix", _, "") => DetectLocal::Nothing,
            ("BridgeInterface", bridge, _) => DetectLocal::BridgeInterface(IfName(bridge.into())),
            ("InterfaceNamePrefix", _, prefix) => DetectLocal::InterfaceNamePrefix(prefix.into()),
            (other, ..) => {
                let known = "ClusterCIDR, NodeCIDR, BridgeInterface or InterfaceNamePrefix";
                return self.problems.push(format!("detectLocalMode: {other:?} is no mode; write {known}"));
            }
        };
    }
}

/// No value, or one that stands for none.
fn asks_for_nothing(value: &Value, path: &str) -> bool {
    let zero_counts = ZERO_COUNTS.contains(&path);
    match value {
        Value::Null => true,
        Value::String(text) if text.is_empty() => true,
        _ if zero_counts => false,
        Value::Bool(set) => !set,
        Value::Number(number) => number.as_f64() == Some(0.0),
        Value::String(text) => text == "0" || text == "0s",
        Value::Array(list) => list.is_empty(),
        Value::Object(fields) => fields.is_empty(),
    }
}

/// The field whose last name is the most alike: a slip of a letter or two, or of case, or of the section.
fn nearest(path: &str) -> Option<&'static str> {
    let last = |path: &str| path.rsplit('.').next().unwrap_or_default().to_ascii_lowercase();
    let wrong = last(path);
    let distance = |known: &str| {
        let known = last(known);
        let same = wrong.chars().zip(known.chars()).take_while(|(a, b)| a == b).count();
        let rest = |text: &str| text.chars().rev().collect::<String>();
        let tail = rest(&wrong).chars().zip(rest(&known).chars()).take_while(|(a, b)| a == b).count();
        wrong.len().max(known.len()).saturating_sub(same + tail)
    };
    let best = FIELDS.iter().map(|(known, _)| (distance(known), *known)).min()?;
    (best.0 <= 2).then_some(best.1)
}

fn text(value: &Value) -> Result<String, String> {
    value.as_str().map(str::to_owned).ok_or_else(|| format!("{value} is no text"))
}

fn flag(value: &Value) -> Result<bool, String> {
    value.as_bool().ok_or_else(|| format!("{value} is neither true nor false"))
}

fn number(value: &Value, least: i64, most: i64) -> Result<i64, String> {
    let number = value.as_i64().filter(|number| (least..=most).contains(number));
    number.ok_or_else(|| format!("{value} is no number from {least} to {most}"))
}

fn bit(value: &Value) -> Result<u8, String> {
    number(value, 0, 31).map(|bit| bit as u8)
}

fn duration(value: &Value) -> Result<Duration, String> {
    let read = value.as_str().and_then(parse_duration);
    read.ok_or_else(|| format!("{value} is no duration; write one such as 30s, 1h30m or 0s"))
}

/// `IP:PORT`, or an address alone.
fn address(value: &Value, port: u16) -> Result<SocketAddr, String> {
    let written = text(value)?;
    let alone = || written.parse::<IpAddr>().ok().map(|ip| SocketAddr::new(ip, port));
    written
        .parse()
        .ok()
        .or_else(alone)
        .ok_or_else(|| format!("{written:?} is no address and port; write one such as 0.0.0.0:{port}"))
}

/// Nothing is bound to it: it is a hint for the node's own address, which the Node object tells.
fn bind_address(_: &mut Wanted, value: &Value) -> Result<(), String> {
    let written = text(value)?;
    let address: IpAddr = written.parse().map_err(|_| format!("{written:?} is no IP address"))?;
    match address.is_unspecified() {
        true => Ok(()),
        false => Err("only 0.0.0.0 and :: are supported: the node's own address is that of its Node object".to_owned()),
    }
}

fn node_port_addresses(wanted: &mut Wanted, value: &Value) -> Result<(), String> {
    let list = value.as_array().ok_or_else(|| format!("{value} is no list"))?;
    let texts: Vec<String> = list.iter().map(text).collect::<Result<_, _>>()?;
    wanted.node_ports_on = Some(node_ports_on(&texts)?);
    Ok(())
}

fn mode(text: &str) -> Result<WantedMode, String> {
    match text {
        "iptables" => Ok(WantedMode::Given(Mode::Iptables)),
        "nftables" => Ok(WantedMode::Given(Mode::Nftables)),
        "ipvs" | "kernelspace" => Err(format!("{text:?} is not supported; write iptables or nftables")),
        _ => Err(format!("{text:?} is no mode; write iptables or nftables")),
    }
}

#[cfg(test)]
#[path = "config_tests.rs"]
mod tests;
