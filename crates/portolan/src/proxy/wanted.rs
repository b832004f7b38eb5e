//! What an operator wants of the service proxy, whether a configuration file or flags said it.
//!
//! ```text
//!  KubeProxyConfiguration ─► config::read ─┐
//!  flags, as kube-proxy's ─► flags ────────┴─► Wanted ─► ProxyConfig, and back into a KubeProxyConfiguration
//! ```

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use ipnet::IpNet;
use portolan_agent::proxy::{Mode, ProxyConfig};
use portolan_dataplane::conntrack::ConntrackSettings;
use portolan_model::{DetectLocal, Family, NodePortAddresses, ProxySettings, Settings};
use serde_json::{Value, json};

/// kube-proxy's `iptables.syncPeriod`.
const SYNC_PERIOD: Duration = Duration::from_secs(30);

/// Which backend.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum WantedMode {
    /// iptables where its programs are at hand, else nftables.
    #[default]
    Auto,
    /// This one.
    Given(Mode),
}

/// Everything that can be asked for. `None`: the default.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    pub mode: WantedMode,
    /// Name of our Node; the machine's own by default.
    pub node: Option<String>,
    pub kubeconfig: Option<PathBuf>,
    pub cluster_cidrs: Vec<IpNet>,
    pub service_cidrs: Vec<IpNet>,
    pub detect_local: DetectLocal,
    pub masquerade_all: bool,
    /// In iptables mode all addresses by default, in nftables mode the Node's own.
    pub node_ports_on: Option<NodePortAddresses>,
    pub localhost_node_ports: bool,
    pub service_proxy_name: Option<String>,
    pub masquerade_bit: u8,
    pub sync_period: Option<Duration>,
    pub min_sync_period: Option<Duration>,
    pub healthz: Option<SocketAddr>,
    pub metrics: Option<SocketAddr>,
    pub bind_hard_fail: bool,
    pub oom_score: Option<i32>,
    pub conntrack: ConntrackSettings,
}

impl Default for Wanted {
    /// kube-proxy's defaults.
    fn default() -> Self {
        Self {
            mode: WantedMode::Auto,
            node: None,
            kubeconfig: None,
            cluster_cidrs: Vec::new(),
            service_cidrs: Vec::new(),
            detect_local: DetectLocal::ClusterCidr,
            masquerade_all: false,
            node_ports_on: None,
            localhost_node_ports: true,
            service_proxy_name: None,
            masquerade_bit: 14,
            sync_period: None,
            min_sync_period: None,
            healthz: Some(([0, 0, 0, 0], 10256).into()),
            metrics: Some(([127, 0, 0, 1], 10249).into()),
            bind_hard_fail: false,
            oom_score: None,
            conntrack: ConntrackSettings::default(),
        }
    }
}

impl Wanted {
    /// The node's name: as told, else the machine's, as kube-proxy takes it.
    pub fn node(&self) -> String {
        let own = || rustix::system::uname().nodename().to_string_lossy().trim().to_ascii_lowercase();
        self.node.clone().unwrap_or_else(own)
    }

    /// The settings that decide what becomes of a packet.
    pub fn settings(&self, mode: Mode) -> Settings {
        Settings {
            node: self.node().as_str().into(),
            cluster_cidrs: self.cluster_cidrs.clone(),
            service_cidrs: self.service_cidrs.clone(),
            // DNS is another's: kube-dns is a Service as any other.
            cluster_dns: Vec::new(),
            cluster_domain: "cluster.local".into(),
            proxy: ProxySettings {
                detect_local: self.detect_local.clone(),
                masquerade_all: self.masquerade_all,
                node_ports_on: self.node_ports_on.clone().unwrap_or_else(|| node_ports_of(mode)),
                localhost_node_ports: self.localhost_node_ports,
                service_proxy_name: self.service_proxy_name.as_deref().map(Into::into),
                egress_snat: false,
            },
        }
    }

    /// As the proxy is told.
    pub fn proxy_config(&self, mode: Mode) -> ProxyConfig {
        ProxyConfig {
            settings: self.settings(mode),
            mode,
            families: families(&self.cluster_cidrs, &self.service_cidrs),
            masquerade_mark: 1 << self.masquerade_bit,
            min_interval: self.min_sync_period,
            sync_period: self.sync_period.unwrap_or(SYNC_PERIOD),
            healthz: self.healthz,
            metrics: self.metrics,
            bind_hard_fail: self.bind_hard_fail,
            conntrack: self.conntrack.clone(),
            shown: json!({"kubeproxy.config.k8s.io": self.as_config(mode)}),
        }
    }

    /// The whole as a KubeProxyConfiguration.
    pub fn as_config(&self, mode: Mode) -> Value {
        let texts = |nets: &[IpNet]| nets.iter().map(ToString::to_string).collect::<Vec<_>>();
        let addr = |addr: &Option<SocketAddr>| addr.map(|a| a.to_string()).unwrap_or_default();
        let (mode_of_local, bridge, prefix) = match &self.detect_local {
            DetectLocal::ClusterCidr | DetectLocal::Nothing => ("ClusterCIDR", String::new(), String::new()),
            DetectLocal::NodeCidr => ("NodeCIDR", String::new(), String::new()),
            DetectLocal::BridgeInterface(name) => ("BridgeInterface", name.to_string(), String::new()),
            DetectLocal::InterfaceNamePrefix(prefix) => ("InterfaceNamePrefix", String::new(), prefix.to_string()),
        };
        let node_ports = match &self.node_ports_on {
            None => Value::Null,
            Some(NodePortAddresses::Primary) => json!(["primary"]),
            Some(NodePortAddresses::Within(ranges)) => json!(texts(ranges)),
            Some(_) => json!([]),
        };
        let rules = json!({
            "masqueradeBit": self.masquerade_bit, "masqueradeAll": self.masquerade_all,
            "syncPeriod": text_of(self.sync_period.unwrap_or(SYNC_PERIOD)),
            "minSyncPeriod": text_of(self.min_sync_period.unwrap_or_default()),
        });
        let mut iptables = rules.clone();
        iptables["localhostNodePorts"] = self.localhost_node_ports.into();
        let conntrack = &self.conntrack;
        json!({
            "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
            "kind": "KubeProxyConfiguration",
            "mode": mode.name(),
            "hostnameOverride": self.node(),
            "clientConnection": {"kubeconfig": self.kubeconfig.as_ref().map(|path| path.display().to_string())},
            "clusterCIDR": texts(&self.cluster_cidrs).join(","),
            "detectLocalMode": mode_of_local,
            "detectLocal": {"bridgeInterface": bridge, "interfaceNamePrefix": prefix},
            "nodePortAddresses": node_ports,
            "serviceProxyName": self.service_proxy_name,
            "iptables": iptables,
            "nftables": rules,
            "healthzBindAddress": addr(&self.healthz),
            "metricsBindAddress": addr(&self.metrics),
            "bindAddressHardFail": self.bind_hard_fail,
            "oomScoreAdj": self.oom_score,
            "conntrack": {
                "maxPerCore": conntrack.max_per_core, "min": conntrack.min,
                "tcpEstablishedTimeout": text_of(conntrack.tcp_established_timeout),
                "tcpCloseWaitTimeout": text_of(conntrack.tcp_close_wait_timeout),
                "tcpBeLiberal": conntrack.tcp_be_liberal,
                "udpTimeout": text_of(conntrack.udp_timeout), "udpStreamTimeout": text_of(conntrack.udp_stream_timeout),
            },
        })
    }
}

/// The same with node ports where `mode` has them by default.
pub fn settings_of(mut settings: Settings, mode: Mode) -> Settings {
    settings.proxy.node_ports_on = node_ports_of(mode);
    settings
}

fn node_ports_of(mode: Mode) -> NodePortAddresses {
    match mode {
        Mode::Iptables => NodePortAddresses::Every,
        Mode::Nftables => NodePortAddresses::Primary,
    }
}

/// Families of the cluster's ranges; both where no range says.
pub fn families(pods: &[IpNet], services: &[IpNet]) -> Vec<Family> {
    let mut families: Vec<Family> = pods.iter().chain(services).map(|net| Family::of(net.addr())).collect();
    families.sort();
    families.dedup();
    match families.is_empty() {
        true => Family::BOTH.to_vec(),
        false => families,
    }
}

/// A duration as Go writes it: `1h30m0s`, `10s`, `0s`, `0.25s` for parts of a second.
fn text_of(duration: Duration) -> String {
    let (secs, millis) = (duration.as_secs(), duration.subsec_millis());
    let (hours, minutes, seconds) = (secs / 3600, secs / 60 % 60, secs % 60);
    let seconds = match millis {
        0 => format!("{seconds}s"),
        _ => format!("{}s", (seconds as f64) + f64::from(millis) / 1000.0),
    };
    match (hours, minutes) {
        (0, 0) => seconds,
        (0, _) => format!("{minutes}m{seconds}"),
        _ => format!("{hours}h{minutes}m{seconds}"),
    }
}

/// Reads a duration as Go writes it. `None`: it is none.
pub fn parse_duration(text: &str) -> Option<Duration> {
    const UNITS: [(&str, f64); 7] =
        [("ns", 1e-9), ("us", 1e-6), ("µs", 1e-6), ("ms", 1e-3), ("h", 3600.0), ("m", 60.0), ("s", 1.0)];
    if text == "0" {
        return Some(Duration::ZERO);
    }
    let (mut rest, mut total) = (text, 0.0);
    while !rest.is_empty() {
        let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let number: f64 = rest[..end].parse().ok()?;
        let (unit, factor) = UNITS.iter().find(|(unit, _)| rest[end..].starts_with(unit))?;
        total += number * factor;
        rest = &rest[end + unit.len()..];
    }
    // 100 years are more than any kernel waits.
    (!text.is_empty() && total <= 3.2e9).then(|| Duration::from_secs_f64(total))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_and_written_as_go_does() {
        for (text, millis) in
            [("0s", 0), ("30s", 30_000), ("1h30m0s", 5_400_000), ("1m0s", 60_000), ("24h0m0s", 86_400_000)]
        {
            let duration = Duration::from_millis(millis);
            assert_eq!(parse_duration(text), Some(duration), "{text}");
            assert_eq!(text_of(duration), text);
        }
        assert_eq!(parse_duration("24h"), Some(Duration::from_secs(86_400)));
        assert_eq!(parse_duration("250ms"), Some(Duration::from_millis(250)));
        assert_eq!(parse_duration("1.5s"), Some(Duration::from_millis(1500)));
        for bad in ["", "5", "s", "-1s", "1 s", "1x", "99999999999h"] {
            assert_eq!(parse_duration(bad), None, "{bad:?}");
        }
    }
}
