use serde_json::{Value, json};

use super::*;

fn environment(pairs: &[(&str, &str)]) -> Environment {
    Environment(pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect())
}

fn whole(command: &str) -> Environment {
    environment(&[
        ("CNI_COMMAND", command),
        ("CNI_CONTAINERID", "c1"),
        ("CNI_NETNS", "/var/run/netns/c1"),
        ("CNI_IFNAME", "eth0"),
        ("CNI_PATH", "/opt/cni/bin"),
    ])
}

fn with(command: &str, name: &str, value: &str) -> Environment {
    let mut environment = whole(command);
    environment.0.insert(name.to_owned(), value.to_owned());
    environment
}

fn conf(version: &str, more: &Value) -> Vec<u8> {
    let mut conf = json!({ "cniVersion": version, "name": "pods", "type": "portolan-cni" });
    for (key, value) in more.as_object().expect("fields") {
        conf[key] = value.clone();
    }
    conf.to_string().into_bytes()
}

#[track_caller]
fn refused(environment: &Environment, stdin: &[u8], code: u32, words: &str) {
    let refusal = Request::parse(environment, stdin).expect_err("it is refused");
    assert_eq!(refusal.code.number(), code, "{refusal}");
    assert!(refusal.to_string().contains(words), "{refusal}");
    assert_eq!(refusal.to_json()["code"], code);
}

#[track_caller]
fn add(version: &str, more: &Value) -> (NetConf, Sandbox) {
    match Request::parse(&whole("ADD"), &conf(version, more)).expect("it is taken") {
        Request::Add(conf, sandbox) => (*conf, sandbox),
        other => panic!("ADD was read as {other:?}"),
    }
}

#[test]
fn what_the_environment_lacks_is_named_by_code_4() {
    let good = conf("1.1.0", &json!({}));
    refused(&environment(&[]), &good, 4, "[CNI_COMMAND]");
    refused(&environment(&[("CNI_COMMAND", "GIVE")]), &good, 4, "GIVE");
    for (command, variables) in [
        ("ADD", &["CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME", "CNI_PATH"][..]),
        ("CHECK", &["CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME", "CNI_PATH"]),
        ("DEL", &["CNI_CONTAINERID", "CNI_IFNAME", "CNI_PATH"]),
        ("GC", &["CNI_PATH"]),
        ("STATUS", &["CNI_PATH"]),
    ] {
        for variable in variables {
            refused(&with(command, variable, ""), &good, 4, &format!("[{variable}]"));
        }
        refused(&environment(&[("CNI_COMMAND", command)]), &good, 4, &format!("[{}]", variables.join(",")));
    }
    for (variable, value) in [
        ("CNI_CONTAINERID", "../../etc"),
        ("CNI_CONTAINERID", "-c"),
        ("CNI_IFNAME", "a/b"),
        ("CNI_IFNAME", "sixteen-bytes-xx"),
        ("CNI_IFNAME", ".."),
        ("CNI_IFNAME", "a b"),
        ("CNI_ARGS", "K8S_POD_NAME"),
        ("CNI_ARGS", "K8S_POD_NAME=a;K8S_POD_NAMESPACE=a/b"),
        ("CNI_ARGS", "K8S_POD_NAME=lonely"),
        ("CNI_ARGS", "IP=ten"),
    ] {
        refused(&with("ADD", variable, value), &good, 4, variable);
    }
}

#[test]
fn a_del_needs_no_namespace_and_minds_nothing_that_only_attaching_needs() {
    let broken = conf("1.0.0", &json!({ "prevResult": 3, "runtimeConfig": [], "ipam": { "type": "dhcp" }, "mtu": -1 }));
    let mut environment = with("DEL", "CNI_ARGS", "nonsense");
    environment.0.remove("CNI_NETNS");
    match Request::parse(&environment, &broken) {
        Ok(Request::Del(conf, sandbox)) => {
            assert_eq!((conf.name.as_str(), sandbox.container_id.as_str(), sandbox.netns), ("pods", "c1", None));
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn each_version_has_its_commands() {
    for (command, since) in [("ADD", 0), ("DEL", 0), ("CHECK", 1), ("STATUS", 3), ("GC", 3)] {
        for (index, version) in Version::ALL.into_iter().enumerate() {
            let stdin = conf(version.text(), &json!({ "prevResult": {} }));
            let parsed = Request::parse(&whole(command), &stdin);
            match index >= since {
                true => drop(parsed.unwrap_or_else(|e| panic!("{command} in {version}: {e}"))),
                false => {
                    let refusal = parsed.expect_err("it came later");
                    assert_eq!((refusal.code, refusal.version), (Code::IncompatibleVersion, version));
                }
            }
        }
    }
    for version in ["", "0.1.0", "0.2.0", "0.3.0", "1.2.0", "2.0.0", "one"] {
        refused(&whole("ADD"), &conf(version, &json!({})), 1, "incompatible CNI versions");
    }
    refused(&whole("CHECK"), &conf("1.0.0", &json!({})), 7, "prevResult");
}

#[test]
fn version_is_answered_in_the_version_asked_for_or_the_newest() {
    for (stdin, expected) in
        [("{\"cniVersion\":\"0.4.0\"}", "0.4.0"), ("{\"cniVersion\":\"9\"}", "1.1.0"), ("", "1.1.0")]
    {
        let asked = Request::parse(&environment(&[("CNI_COMMAND", "VERSION")]), stdin.as_bytes());
        let Ok(Request::Version(version)) = asked else { panic!("{asked:?}") };
        let said = version.supported();
        assert_eq!(said["cniVersion"], expected);
        assert_eq!(said["supportedVersions"], json!(["0.3.1", "0.4.0", "1.0.0", "1.1.0"]));
    }
}

#[test]
fn a_wrong_configuration_is_refused_by_the_field() {
    for (stdin, code, words) in [
        (&b"{"[..], 6, "standard input"),
        (b"", 6, "standard input"),
        (b"[]", 6, "standard input"),
        (b"{\"cniVersion\":1}", 6, "cniVersion"),
        (b"{\"cniVersion\":\"1.0.0\"}", 7, "missing network name"),
        (b"{\"cniVersion\":\"1.0.0\",\"name\":\"a b\"}", 7, "network name"),
    ] {
        refused(&whole("ADD"), stdin, code, words);
    }
    let mapping = |more: Value| json!({ "runtimeConfig": { "portMappings": [more] } });
    for (more, code, words) in [
        (json!({ "socket": "cni.sock" }), 7, "socket"),
        (json!({ "mtu": 12 }), 7, "mtu"),
        (json!({ "ipam": { "type": "dhcp" } }), 2, "ipam.type \"dhcp\""),
        (json!({ "ipam": "host-local" }), 6, "ipam"),
        (json!({ "prevResult": { "ips": [{ "address": "x" }] } }), 6, "prevResult"),
        (json!({ "prevResult": { "ips": [{ "address": "10.0.0.1/32", "interface": 0 }] } }), 6, "10.0.0.1/32"),
        (json!({ "prevResult": { "cniVersion": "0.2.0" } }), 1, "incompatible"),
        (json!({ "runtimeConfig": { "mac": "01:00:5e:00:00:01" } }), 7, "runtimeConfig.mac"),
        (json!({ "runtimeConfig": { "mac": "02:00:5e:00:00" } }), 7, "runtimeConfig.mac"),
        (json!({ "runtimeConfig": { "ips": ["10.0.0.300"] } }), 7, "runtimeConfig.ips"),
        (json!({ "runtimeConfig": { "bandwidth": { "ingressRate": 1000 } } }), 7, "ingressBurst"),
        (json!({ "runtimeConfig": { "bandwidth": { "egressBurst": 1000 } } }), 7, "egressRate"),
        (json!({ "runtimeConfig": { "bandwidth": { "egressRate": -1 } } }), 6, "bandwidth"),
        (mapping(json!({ "hostPort": 0, "containerPort": 80 })), 7, "portMappings[0].hostPort"),
        (mapping(json!({ "hostPort": 80, "containerPort": 70000 })), 7, "portMappings[0].containerPort"),
        (mapping(json!({ "hostPort": 80, "containerPort": 80, "protocol": "icmp" })), 7, "protocol"),
        (mapping(json!({ "hostPort": 80, "containerPort": 80, "hostIP": "here" })), 7, "hostIP"),
        (json!({ "args": { "cni": { "ips": ["nowhere"] } } }), 7, "args.cni.ips"),
    ] {
        refused(&whole("ADD"), &conf("1.0.0", &more), code, words);
    }
}

#[test]
fn what_the_runtime_asks_for_is_read() {
    let (conf, sandbox) = add(
        "1.1.0",
        &json!({ "mtu": 1400, "socket": "/x/cni.sock", "ipam": { "type": "host-local" }, "runtimeConfig": {
            "portMappings": [{ "hostPort": 8080, "containerPort": 80, "protocol": "TCP", "hostIP": "0.0.0.0" },
                             { "hostPort": 53, "containerPort": 5353, "protocol": "udp", "hostIP": "fd00::1" }],
            "bandwidth": { "ingressRate": 8000, "ingressBurst": 16000 },
            "ips": ["10.244.0.9/24"], "mac": "02:00:00:00:00:0a" } }),
    );
    assert_eq!(sandbox.netns.as_deref(), Some("/var/run/netns/c1"));
    assert_eq!((conf.mtu_bytes, conf.socket.as_str()), (Some(1400), "/x/cni.sock"));
    let ports: Vec<_> =
        conf.runtime.port_mappings.iter().map(|p| (p.protocol.as_str(), p.host_ip, p.host_port)).collect();
    assert_eq!(ports, [("tcp", None, 8080), ("udp", Some("fd00::1".parse().expect("IPv6")), 53)]);
    let ingress = Some(Rate { bits_per_sec: 8000, burst_bits: 16000 });
    assert_eq!(conf.runtime.bandwidth, Bandwidth { ingress, egress: None });
    assert_eq!(conf.runtime.ips, ["10.244.0.9".parse::<std::net::IpAddr>().expect("IPv4")]);
    assert_eq!(conf.runtime.mac, Some([2, 0, 0, 0, 0, 10]));
    let args =
        "IgnoreUnknown=1;K8S_POD_NAMESPACE=shop;K8S_POD_NAME=web-0;K8S_POD_INFRA_CONTAINER_ID=c1;K8S_POD_UID=u-1";
    let parsed = Request::parse(&with("ADD", "CNI_ARGS", args), &self::conf("1.0.0", &json!({})));
    let Ok(Request::Add(_, sandbox)) = parsed else { panic!("{parsed:?}") };
    let Args { pod_namespace, pod_name, pod_uid, .. } = sandbox.args;
    assert_eq!((pod_namespace.as_deref(), pod_name.as_deref()), (Some("shop"), Some("web-0")));
    assert_eq!(pod_uid.as_deref(), Some("u-1"));
}

#[test]
fn gc_reads_the_attachments_that_stay() {
    let valid = json!({ "cni.dev/valid-attachments": [{ "containerID": "c1", "ifname": "eth0" }] });
    let parsed = Request::parse(&whole("GC"), &conf("1.1.0", &valid));
    let Ok(Request::Gc(conf)) = parsed else { panic!("{parsed:?}") };
    assert_eq!(conf.valid, [ValidAttachment { container_id: "c1".into(), ifname: "eth0".into() }]);
    let broken = json!({ "cni.dev/valid-attachments": [{ "containerID": "c1" }] });
    refused(&whole("GC"), &self::conf("1.1.0", &broken), 6, "valid-attachments");
}

fn result() -> AddResult {
    let link = |name: &str, sandbox: &str| Interface {
        name: name.into(),
        mac: "ee:ee:ee:ee:ee:ee".into(),
        mtu: Some(1500),
        sandbox: sandbox.into(),
        ..Interface::default()
    };
    AddResult {
        interfaces: vec![link("cali1", ""), link("eth0", "/ns")],
        ips: ["10.0.0.1/32", "fd00::1/128"]
            .iter()
            .map(|net| IpConfig { address: net.parse().expect("an address"), gateway: None, interface: Some(1) })
            .collect(),
        routes: vec![Route { dst: "0.0.0.0/0".parse().expect("a net"), gw: None, more: serde_json::Map::new() }],
        dns: None,
    }
}

#[test]
fn a_result_has_the_shape_of_its_version() {
    for version in Version::ALL {
        let shown = result().to_json(version);
        assert_eq!(shown["cniVersion"], version.text());
        assert_eq!(shown["ips"][1]["address"], "fd00::1/128");
        let old = version < Version::V1_0_0;
        assert_eq!(shown["ips"][1].get("version"), old.then(|| json!("6")).as_ref(), "{version}");
        assert_eq!(shown["interfaces"][1].get("mtu").is_some(), version == Version::V1_1_0, "{version}");
        assert_eq!(AddResult::parse(&shown).expect("read back").ips, result().ips);
    }
}

#[test]
fn what_others_made_before_comes_first() {
    let all = result().after(Some(&result()));
    assert_eq!((all.interfaces.len(), all.ips.len()), (4, 4));
    assert_eq!(all.ips.iter().map(|ip| ip.interface).collect::<Vec<_>>(), [Some(1), Some(1), Some(3), Some(3)]);
    assert_eq!(result().after(None), result());
}

/// Whatever comes: an answer, and a refusal whose JSON has a code that is known.
#[test]
fn bytes_from_outside_never_break_it() {
    let seed = conf(
        "1.1.0",
        &json!({ "mtu": 1400, "prevResult": result().to_json(Version::V1_1_0), "args": { "cni": { "ips": ["10.0.0.1"] } },
                 "cni.dev/valid-attachments": [{ "containerID": "c1", "ifname": "eth0" }],
                 "runtimeConfig": { "mac": "02:00:00:00:00:0a", "bandwidth": { "ingressRate": 8, "ingressBurst": 8 },
                                    "portMappings": [{ "hostPort": 1, "containerPort": 2 }] } }),
    );
    let args = "K8S_POD_NAMESPACE=a;K8S_POD_NAME=b;IP=10.0.0.1";
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut next = move |below: usize| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        usize::try_from(state % below as u64).expect("below a usize")
    };
    let mut taken = 0;
    for round in 0..20_000 {
        let mut stdin = seed.clone();
        for _ in 0..next(4) {
            let at = next(stdin.len());
            match next(4) {
                0 => stdin[at] = u8::try_from(next(256)).expect("a byte"),
                1 if stdin.len() > 1 => drop(stdin.remove(at)),
                1 | 2 => stdin.insert(at, b"\"{}[]:,019-ex\\"[next(14)]),
                _ => stdin.truncate(at.max(1)),
            }
        }
        let command = Command::ALL[next(6)].text();
        let mut told: Vec<u8> = args.as_bytes().to_vec();
        let at = next(told.len());
        told[at] = u8::try_from(next(128)).expect("a byte");
        let told = if round % 2 == 0 { args.to_owned() } else { String::from_utf8_lossy(&told).into_owned() };
        match Request::parse(&with(command, "CNI_ARGS", &told), &stdin) {
            Ok(_) => taken += 1,
            Err(refusal) => assert!((1..=7).contains(&refusal.code.number()), "{refusal}"),
        }
    }
    assert!(taken > 1000, "only {taken} were taken: the mutations are too coarse to reach anything");
}
