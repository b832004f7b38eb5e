//! kubeadm's own file, and every field by itself.

use serde_json::json;

use super::*;

/// What kubeadm 1.33 writes into the ConfigMap `kube-proxy`, with a cluster's own values.
const KUBEADM: &str = r#"
apiVersion: kubeproxy.config.k8s.io/v1alpha1
bindAddress: 0.0.0.0
bindAddressHardFail: false
clientConnection:
  acceptContentTypes: ""
  burst: 0
  contentType: ""
  kubeconfig: /var/lib/kube-proxy/kubeconfig.conf
  qps: 0
clusterCIDR: 10.244.0.0/16
configSyncPeriod: 0s
conntrack:
  maxPerCore: null
  min: null
  tcpBeLiberal: false
  tcpCloseWaitTimeout: null
  tcpEstablishedTimeout: null
  udpStreamTimeout: 0s
  udpTimeout: 0s
detectLocal:
  bridgeInterface: ""
  interfaceNamePrefix: ""
detectLocalMode: ""
enableProfiling: false
healthzBindAddress: ""
hostnameOverride: ""
iptables:
  localhostNodePorts: null
  masqueradeAll: false
  masqueradeBit: null
  minSyncPeriod: 0s
  syncPeriod: 0s
ipvs:
  excludeCIDRs: null
  minSyncPeriod: 0s
  scheduler: ""
  strictARP: false
  syncPeriod: 0s
  tcpFinTimeout: 0s
  tcpTimeout: 0s
  udpTimeout: 0s
kind: KubeProxyConfiguration
logging:
  flushFrequency: 0
  options:
    json:
      infoBufferSize: "0"
    text:
      infoBufferSize: "0"
  verbosity: 0
metricsBindAddress: ""
mode: ""
nftables:
  masqueradeAll: false
  masqueradeBit: null
  minSyncPeriod: 0s
  syncPeriod: 0s
nodePortAddresses: null
oomScoreAdj: null
portRange: ""
showHiddenMetricsForVersion: ""
winkernel:
  enableDSR: false
  forwardHealthCheckVip: false
  networkName: ""
  rootHnsEndpointName: ""
  sourceVip: ""
"#;

fn iptables(wanted: WantedMode) -> Mode {
    match wanted {
        WantedMode::Given(mode) => mode,
        WantedMode::Auto => Mode::Iptables,
    }
}

/// A file with these fields.
fn file(mut fields: Value) -> Value {
    fields["apiVersion"] = API_VERSION.into();
    fields["kind"] = KIND.into();
    fields
}

/// A file with one field, by its path.
fn with(path: &str, value: Value) -> Value {
    file(path.rsplit('.').fold(value, |inner, name| json!({ name: inner })))
}

fn taken(path: &str, value: Value) -> Wanted {
    let read = of(&with(path, value), iptables).unwrap_or_else(|problems| panic!("{path}: {problems:?}"));
    assert_eq!(read.unsupported, [""; 0], "{path}");
    read.wanted
}

#[test]
fn kubeadms_file_asks_for_a_kubeconfig_and_a_range_and_is_supported_in_full() {
    let documents = portolan_kinds::yaml::documents(KUBEADM.as_bytes()).expect("well-formed");
    let read = of(&documents[0], iptables).expect("supported");
    assert_eq!(read.unsupported, [""; 0]);
    let expected = Wanted {
        kubeconfig: Some("/var/lib/kube-proxy/kubeconfig.conf".into()),
        cluster_cidrs: vec!["10.244.0.0/16".parse().expect("a range")],
        ..Wanted::default()
    };
    assert_eq!(read.wanted, expected);
}

#[test]
fn what_the_proxy_shows_of_its_configuration_reads_back_as_the_same() {
    let wanted = Wanted {
        mode: WantedMode::Given(Mode::Iptables),
        node: Some("node-1".into()),
        kubeconfig: Some("/k".into()),
        cluster_cidrs: vec!["10.244.0.0/16".parse().expect("a range"), "fd00::/48".parse().expect("a range")],
        detect_local: DetectLocal::InterfaceNamePrefix("cali".into()),
        masquerade_all: true,
        node_ports_on: Some(portolan_model::NodePortAddresses::Primary),
        localhost_node_ports: false,
        service_proxy_name: Some("other".into()),
        masquerade_bit: 0,
        sync_period: Some(Duration::from_secs(10)),
        min_sync_period: Some(Duration::from_millis(250)),
        healthz: Some(([127, 0, 0, 1], 1).into()),
        metrics: Some(([127, 0, 0, 1], 2).into()),
        bind_hard_fail: true,
        oom_score: Some(-500),
        ..Wanted::default()
    };
    let read = of(&wanted.as_config(Mode::Iptables), iptables).expect("supported");
    assert_eq!((read.wanted, read.unsupported), (wanted, Vec::new()));
}

#[test]
fn every_field_is_taken_or_named() {
    // One value for each field that asks for something; fields of one section of a mode count in that mode.
    let value_of = |path: &str| match path.rsplit('.').next().unwrap_or_default() {
        "apiVersion" => json!(API_VERSION),
        "kind" => json!(KIND),
        "mode" => json!("iptables"),
        "kubeconfig" | "hostnameOverride" | "serviceProxyName" | "scheduler" | "contentType" => json!("x"),
        "bindAddress" => json!("0.0.0.0"),
        "healthzBindAddress" | "metricsBindAddress" => json!("127.0.0.1:9"),
        "masqueradeBit" | "maxPerCore" | "min" | "oomScoreAdj" => json!(3),
        "clusterCIDR" => json!("10.0.0.0/8"),
        "nodePortAddresses" => json!(["127.0.0.0/8"]),
        "detectLocalMode" => json!("NodeCIDR"),
        "localhostNodePorts" => json!(false),
        name if name.ends_with("Period") || name.ends_with("Timeout") => json!("7s"),
        name if name.ends_with("All") || name.ends_with("HardFail") || name.ends_with("Liberal") => json!(true),
        _ => json!("something"),
    };
    for (path, support) in FIELDS.iter().filter(|(_, support)| !matches!(support, Section)) {
        let document = with(path, value_of(path));
        let mode = if path.starts_with("nftables") { Mode::Nftables } else { Mode::Iptables };
        let read = of(&document, |_| mode).unwrap_or_else(|problems| panic!("{path}: {problems:?}"));
        let says_nothing =
            ["apiVersion", "kind", "bindAddress", "detectLocal.bridgeInterface", "detectLocal.interfaceNamePrefix"];
        match support {
            Not(_) => {
                let [line] = &read.unsupported[..] else { panic!("{path}: {:?}", read.unsupported) };
                assert!(line.starts_with(&format!("{path} is not supported: ")), "{line}");
                assert_eq!(read.wanted, Wanted::default(), "{path}");
            }
            _ if says_nothing.contains(path) => assert_eq!(read.wanted, Wanted::default(), "{path}"),
            _ => {
                assert_eq!(read.unsupported, [""; 0], "{path}");
                assert_ne!(read.wanted, Wanted::default(), "{path} changes nothing");
            }
        }
    }
}

#[test]
fn fields_mean_what_kube_proxy_takes_them_for() {
    assert_eq!(taken("iptables.masqueradeBit", json!(0)).masquerade_bit, 0);
    assert!(!taken("iptables.localhostNodePorts", json!(false)).localhost_node_ports);
    assert_eq!(taken("conntrack.maxPerCore", json!(0)).conntrack.max_per_core, 0);
    assert_eq!(taken("conntrack.tcpEstablishedTimeout", json!("0s")).conntrack.tcp_established_timeout, Duration::ZERO);
    assert_eq!(taken("conntrack.udpTimeout", json!("10s")).conntrack.udp_timeout, Duration::from_secs(10));
    assert_eq!(taken("healthzBindAddress", json!("127.0.0.1")).healthz, Some(([127, 0, 0, 1], 10256).into()));
    assert_eq!(taken("clusterCIDR", json!("10.0.0.0/8,fd00::/8")).cluster_cidrs.len(), 2);
    let local = |mode: &str, bridge: &str, prefix: &str| {
        let fields =
            json!({"detectLocalMode": mode, "detectLocal": {"bridgeInterface": bridge, "interfaceNamePrefix": prefix}});
        of(&file(fields), iptables).expect("supported").wanted.detect_local
    };
    assert_eq!(local("ClusterCIDR", "br0", "veth"), DetectLocal::ClusterCidr);
    assert_eq!(local("NodeCIDR", "", ""), DetectLocal::NodeCidr);
    assert_eq!(local("BridgeInterface", "br0", ""), DetectLocal::BridgeInterface(IfName("br0".into())));
    assert_eq!(local("InterfaceNamePrefix", "", "veth"), DetectLocal::InterfaceNamePrefix("veth".into()));
    assert_eq!(local("BridgeInterface", "", "veth"), DetectLocal::Nothing, "without its datum a mode detects nothing");
}

#[test]
fn only_the_section_of_the_mode_in_force_counts() {
    let fields = json!({
        "mode": "nftables", "iptables": {"masqueradeAll": true, "masqueradeBit": 9}, "nftables": {"masqueradeBit": 8},
    });
    let read = of(&file(fields), iptables).expect("supported");
    assert_eq!((read.wanted.masquerade_all, read.wanted.masquerade_bit), (false, 8));
}

#[test]
fn what_does_not_exist_or_means_nothing_is_named_with_its_path() {
    let cases = [
        (
            "iptables.masquradeAll",
            json!(true),
            "iptables.masquradeAll: there is no such field; did you mean iptables.masqueradeAll?",
        ),
        ("iptable", json!({}), "iptable: there is no such field; did you mean iptables?"),
        ("metadata.name", json!("x"), "metadata: there is no such field"),
        ("mode", json!("ipvs"), "mode: \"ipvs\" is not supported; write iptables or nftables"),
        ("mode", json!("magic"), "mode: \"magic\" is no mode"),
        ("iptables.syncPeriod", json!("soon"), "iptables.syncPeriod: \"soon\" is no duration"),
        ("iptables.masqueradeBit", json!(32), "iptables.masqueradeBit: 32 is no number from 0 to 31"),
        ("iptables.masqueradeAll", json!("yes"), "iptables.masqueradeAll: \"yes\" is neither true nor false"),
        ("clusterCIDR", json!("10.0.0.0"), "clusterCIDR: \"10.0.0.0\": "),
        ("bindAddress", json!("192.0.2.1"), "bindAddress: only 0.0.0.0 and :: are supported"),
        ("healthzBindAddress", json!("here"), "healthzBindAddress: \"here\" is no address and port"),
        ("nodePortAddresses", json!(["primary", "10.0.0.0/8"]), "nodePortAddresses: `primary` stands alone"),
        ("detectLocalMode", json!("Guess"), "detectLocalMode: \"Guess\" is no mode; write ClusterCIDR,"),
        ("conntrack", json!([1]), "conntrack: [1] is no section of fields"),
    ];
    for (path, value, expected) in cases {
        let problems = of(&with(path, value), iptables).expect_err(path);
        let [problem] = &problems[..] else { panic!("{path}: {problems:?}") };
        assert!(problem.starts_with(expected), "{problem}");
    }
    let mut old = file(json!({}));
    old["apiVersion"] = "kubeproxy.config.k8s.io/v1beta9".into();
    assert!(of(&old, iptables).expect_err("another version")[0].starts_with("apiVersion: "));
}
