//! What differs from one run to the next, masked: two texts with the same mask say the same thing.
//!
//! Masked: addresses of pods and Services, blocks of nodes, the last part of pod names and which node has a pod, hashes made
//! of addresses, times, ages, versions of programs, counters, processes, node ports and ephemeral ports, spaces that align
//! columns. All else must be equal: chain names of Services, node addresses, ports, probabilities, marks, words.

use std::net::Ipv4Addr;

/// The same text with what differs from run to run replaced.
pub fn mask(text: &str) -> String {
    text.lines().map(mask_line).collect::<Vec<_>>().join("\n")
}

fn mask_line(line: &str) -> String {
    // Of a DNS answer: when and how fast it came, and its size, which is that of the names in it.
    if let Some(what) = [";; WHEN:", ";; Query time:", ";; MSG SIZE"].iter().find(|what| line.trim().starts_with(*what))
    {
        return (*what).to_owned();
    }
    if is_of_a_trace(line) {
        return mask_trace(line);
    }
    // Which node has the pod that is left when one goes is chance.
    let line = line.split_once(", which runs ").map_or(line, |(before, _)| before);
    let words: Vec<&str> = line.split_whitespace().collect();
    let counters = words.iter().take_while(|word| is_number(word)).count();
    let masked = words.iter().enumerate().map(|(place, word)| match place {
        // Packets and bytes of `iptables -nvxL` stand first; one number alone is an answer.
        _ if counters > 1 && place < counters => "N".to_owned(),
        // Seconds that a conntrack entry has left: `tcp 6 112 TIME_WAIT`.
        2 if words[0] == "tcp" && is_number(word) => "N".to_owned(),
        // A measurement: `12.8 MiB`.
        _ if is_measured(word, words.get(place + 1)) => "N".to_owned(),
        _ if is_number(word) && place > 0 && COUNTED.contains(&words[place - 1]) => "N".to_owned(),
        _ => mask_word(word),
    });
    let masked: Vec<String> = masked.collect();
    let of_a_pod = masked.iter().any(|word| word.contains("-ID"));
    masked.iter().map(|word| if of_a_pod { any_node(word) } else { word.clone() }).collect::<Vec<_>>().join(" ")
}

/// A line of a packet's story: the verdict, a numbered hop, the way back.
fn is_of_a_trace(line: &str) -> bool {
    let words: Vec<&str> = line.split_whitespace().take(2).collect();
    let is_hop = |word: &str| HOPS.contains(&word) || word.strip_prefix("node-").is_some_and(is_number);
    match words[..] {
        ["✔" | "✘", what] => ["delivered", "refused", "dropped", "no"].contains(&what),
        ["↩", "back"] => true,
        [number, what] => is_number(number) && number.len() < 3 && is_hop(what),
        _ => false,
    }
}

const HOPS: [&str; 11] = ["dns", "pod", "node", "outside", "service", "dnat", "route", "filter", "snat", "flow", "end"];

/// Which node it goes by is chance, and so are ports of clients, how long it took, and how old a route is.
fn mask_trace(line: &str) -> String {
    let words: Vec<&str> = line.split_whitespace().collect();
    let is_unit = |word: &str| ["µs", "ms", "s", "min", "h"].contains(&word.trim_end_matches(','));
    let masked = words.iter().enumerate().filter_map(|(place, word)| {
        let next = words.get(place + 1).copied().unwrap_or_default();
        let is_span = word.bytes().all(|b| b.is_ascii_digit() || b == b'.') && is_unit(next);
        let before = place.checked_sub(1).map_or("", |before| words[before]);
        let is_unit_of_span = is_unit(word) && before.bytes().all(|b| b.is_ascii_digit() || b == b'.');
        if before == "slice" {
            return Some("SLICE".to_owned());
        }
        match (is_span, is_unit_of_span) {
            (true, _) => Some("SPAN".to_owned()),
            (false, true) => None,
            (false, false) => Some(mask_trace_word(word)),
        }
    });
    // How old a route is, a node tells only if it wrote it itself.
    masked.collect::<Vec<_>>().join(" ").replace(", SPAN ago", "")
}

fn mask_trace_word(word: &str) -> String {
    let bare = word.trim_end_matches([',', ':', ';']);
    let end = &word[bare.len()..];
    let address = bare.split_once(':').and_then(|(host, port)| Some((host.parse().ok()?, port.parse::<u16>().ok()?)));
    if let Some((host, port)) = address {
        let port = if port >= 1024 { "PORT".to_owned() } else { port.to_string() };
        return format!("{}:{port}{end}", mask_node(host));
    }
    if let Ok(host) = bare.parse::<Ipv4Addr>() {
        return mask_node(host) + end;
    }
    match bare.strip_prefix("node-").map(|rest| rest.trim_start_matches(|c: char| c.is_ascii_digit())) {
        Some(rest) => format!("node-N{rest}{end}"),
        None => mask_word(word),
    }
}

fn mask_node(host: Ipv4Addr) -> String {
    match host.octets() {
        [172, 18, 0, 11 | 12] => "NODE".to_owned(),
        _ => mask_address(host, "").map_or_else(|| host.to_string(), str::to_owned),
    }
}

/// What stands before a number that differs: a query's id, a killed process, the seconds of a BGP session.
const COUNTED: [&str; 3] = ["id:", "-9", "Established"];

/// `node-1` or `node-2`: which one a pod is on is chance.
fn any_node(word: &str) -> String {
    match word.strip_prefix("node-") {
        Some(number) if is_number(number) => "node-N".to_owned(),
        _ => word.to_owned(),
    }
}

fn is_measured(word: &str, unit: Option<&&str>) -> bool {
    word.split_once('.').is_some_and(|(whole, part)| is_number(whole) && is_number(part))
        && unit.is_some_and(|unit| ["MiB", "ms", "s", "%"].contains(unit))
}

/// A word between spaces, such as `10.244.0.1:80,10.244.0.65:80` or `(10.244.0.1,`.
fn mask_word(word: &str) -> String {
    if word.starts_with("[") && word.contains('/') && word.contains(':') {
        return "[TIME".to_owned();
    }
    // `(ADDRESS, node-1)`: which of two pods is first by name is chance.
    if let Some(node) = word.strip_suffix(')').filter(|node| node.starts_with("node-")) {
        return node.trim_end_matches(|c: char| c.is_ascii_digit()).to_owned() + "N)";
    }
    let mut masked = String::new();
    let mut rest = word;
    while !rest.is_empty() {
        let end = rest.find(is_joint).unwrap_or(rest.len());
        let (atom, after) = rest.split_at(end);
        masked += &mask_atom(atom, &masked, after);
        let joint = after.chars().next();
        masked.extend(joint);
        rest = &after[joint.map_or(0, char::len_utf8)..];
    }
    masked
}

fn is_joint(c: char) -> bool {
    !(c.is_ascii_alphanumeric() || c == '.' || c == '-')
}

/// An address, name or number; `before` and `after` are what stands around it in its word.
fn mask_atom(atom: &str, before: &str, after: &str) -> String {
    if let Ok(address) = atom.parse::<Ipv4Addr>() {
        // Which of two upstream servers is asked is chance.
        if before.ends_with("server=") {
            return "SERVER".to_owned();
        }
        return mask_address(address, after).unwrap_or(atom).to_owned();
    }
    let endpoint_chain = atom.strip_prefix("KUBE-SEP-").is_some_and(|hash| hash.len() == 16);
    let link =
        atom.strip_prefix("cali").is_some_and(|hash| hash.len() == 11 && hash.bytes().all(|b| b.is_ascii_hexdigit()));
    let peer = before.ends_with('@') && atom.strip_prefix("if").is_some_and(is_number);
    let port = before.ends_with("port=") && atom.parse::<u16>().is_ok_and(|port| port >= 1024);
    let node_port = atom.parse::<u16>().is_ok_and(|port| (30000..=32767).contains(&port));
    match () {
        () if node_port && before.ends_with(':') => "NODEPORT".to_owned(),
        () if node_port && before.is_empty() && after.is_empty() => "NODEPORT".to_owned(),
        () if is_time(atom) => "TIME".to_owned(),
        () if endpoint_chain => "KUBE-SEP-HASH".to_owned(),
        () if link => "caliHASH".to_owned(),
        () if peer => "ifN".to_owned(),
        () if port => "PORT".to_owned(),
        () if is_age(atom) => "AGE".to_owned(),
        () if is_version(atom) => "VERSION".to_owned(),
        () => mask_name(atom),
    }
}

/// Pods' and Services' addresses and nodes' blocks are given out; ranges and the well-known addresses are not.
fn mask_address(address: Ipv4Addr, after: &str) -> Option<&'static str> {
    let [a, b, c, d] = address.octets();
    let length = after.strip_prefix('/').and_then(|rest| rest.split(|c: char| !c.is_ascii_digit()).next());
    match (a, b, length.filter(|length| !length.is_empty())) {
        (10, 244, Some("26")) => Some("BLOCK"),
        (_, _, Some(_)) => None,
        (10, 244, None) => Some("POD"),
        (10, 96..=111, None) if (b, c, d) != (96, 0, 1) && (b, c, d) != (96, 0, 10) => Some("CLUSTERIP"),
        _ => None,
    }
}

/// A pod of a Deployment ends in `-HASH-ID`; the walk's lab is named after a process.
fn mask_name(atom: &str) -> String {
    let parts: Vec<&str> = atom.split('-').collect();
    match parts.as_slice() {
        ["walk", number] if number.len() > 1 && is_number(number) => "walk-N".to_owned(),
        ["walk", name] if name.ends_with(".ylzhong.top.") => "walk-N.ylzhong.top.".to_owned(),
        [a, b, c, rest] if [a, b, c].iter().all(|part| is_number(part)) && rest.contains(".default.pod.") => {
            format!("POD{}", rest.trim_start_matches(|c: char| c.is_ascii_digit()))
        }
        [.., "addr.arpa" | "addr.arpa."] => {
            atom.trim_start_matches(|c: char| c.is_ascii_digit() || c == '.').to_owned()
        }
        [.., hash, id] if id.len() == 5 && (8..=10).contains(&hash.len()) && has_digit(hash) => {
            format!("{}-ID", parts[..parts.len() - 1].join("-"))
        }
        _ => atom.to_owned(),
    }
}

fn has_digit(word: &str) -> bool {
    word.bytes().any(|b| b.is_ascii_digit())
}

fn is_number(word: &str) -> bool {
    !word.is_empty() && word.bytes().all(|b| b.is_ascii_digit())
}

/// Seconds since 1970, whole or with milliseconds.
fn is_time(word: &str) -> bool {
    let seconds = word.split_once('.').map_or(word, |(seconds, _)| seconds);
    seconds.len() == 10 && word.bytes().all(|b| b.is_ascii_digit() || b == b'.')
}

/// `2s`, `1m3s`, `4h`.
fn is_age(word: &str) -> bool {
    let mut parts = word.split_inclusive(['s', 'm', 'h', 'd']);
    has_digit(word)
        && parts
            .all(|part| part.split_at_checked(part.len() - 1).is_some_and(|(n, unit)| is_number(n) && !is_number(unit)))
}

/// `1.22.1`.
fn is_version(word: &str) -> bool {
    let parts: Vec<&str> = word.split('.').collect();
    parts.len() == 3 && parts.iter().all(|part| is_number(part))
}

#[test]
fn what_differs_from_run_to_run_is_masked() {
    let table = [
        (
            "  ✔ pod nginx-deployment-74fd5d4865-9hmmg (10.244.0.1, node-2) answered",
            "✔ pod nginx-deployment-74fd5d4865-ID (POD, node-N) answered",
        ),
        ("Endpoints:   10.244.0.1:80,10.244.0.65:80", "Endpoints: POD:80,POD:80"),
        (
            "ngx-svc   ClusterIP   10.108.167.1   <none>   80/TCP   1m2s",
            "ngx-svc ClusterIP CLUSTERIP <none> 80/TCP AGE",
        ),
        ("KUBE-SEP-3XFAOP4SPIFY5HK4  0  -- 10.244.0.2", "KUBE-SEP-HASH 0 -- POD"),
        ("   63   3780 MASQUERADE  0", "N N MASQUERADE 0"),
        (
            "tcp      6 112 TIME_WAIT src=172.18.0.1 sport=44498 dport=80",
            "tcp 6 N TIME_WAIT src=172.18.0.1 sport=PORT dport=80",
        ),
        (
            "10.244.0.3 - - [22/Nov/2026:12:28:26 +0000] \"GET / HTTP/1.1\" 200 615 \"curl/7.88.1\"",
            "POD - - [TIME +0000] \"GET / HTTP/1.1\" 200 615 \"curl/VERSION\"",
        ),
        ("10.244.0.64/26 via 172.18.0.12 dev eth0 proto bgp", "BLOCK/26 via 172.18.0.12 dev eth0 proto bgp"),
        ("agents   2   35.4 MiB   0.10 s", "agents 2 N MiB N s"),
        ("calic1c03f751f5@if2 UP ee:ee:ee:ee:ee:ee", "caliHASH@ifN UP ee:ee:ee:ee:ee:ee"),
        (
            "pod/nginx-deployment-74fd5d4865-mblcx   1/1     10.244.0.1    node-1   <none>",
            "pod/nginx-deployment-74fd5d4865-ID 1/1 POD node-N <none>",
        ),
        (
            ";; ->>HEADER<<- opcode: QUERY, rcode: NOERROR, id: 8408",
            ";; ->>HEADER<<- opcode: QUERY, rcode: NOERROR, id: N",
        ),
        (";; WHEN: Sun Nov 22 14:36:11 2026", ";; WHEN:"),
        (
            "1795359306.054 server=114.114.114.114 from=172.18.0.11 walk-2.ylzhong.top. A",
            "TIME server=SERVER from=172.18.0.11 walk-N.ylzhong.top. A",
        ),
        ("36.96.102.10.in-addr.arpa.\t30\tIN\tPTR", "in-addr.arpa. 30 IN PTR"),
        ("10-244-0-4.default.pod.cluster.local A", "POD.default.pod.cluster.local A"),
        (
            "80:30864/TCP 'http://172.18.0.11:30864/' chosen: 30864",
            "80:NODEPORT/TCP 'http://172.18.0.11:NODEPORT/' chosen: NODEPORT",
        ),
        ("172.18.0.12 64512 Established 32 1 -", "172.18.0.12 64512 Established N 1 -"),
        (
            "✔ delivered  shell → ngx-svc → nginx-deployment-74fd5d4865-9hmmg on node-2, 0.31 ms",
            "✔ delivered shell → ngx-svc → nginx-deployment-74fd5d4865-ID on node-N, SPAN",
        ),
        (
            " 3 dnat    10.108.167.1:80 → 10.244.0.65:80: web, slice web-x8cjv  [KUBE-SEP-KVGIN7NXSJSDU5AG]",
            "3 dnat CLUSTERIP:80 → POD:80: web, slice SLICE [KUBE-SEP-HASH]",
        ),
        (
            " 4 route   10.244.0.64/26 via 172.18.0.12 dev eth0, BGP from node-2, 41 s ago",
            "4 route BLOCK/26 via NODE dev eth0, BGP from node-N",
        ),
        (
            " 5 snat    yes, 172.18.0.1:44444 → 172.18.0.11:6101: its answer must pass   [KUBE-POSTROUTING]",
            "5 snat yes, 172.18.0.1:PORT → NODE:PORT: its answer must pass [KUBE-POSTROUTING]",
        ),
        (
            " ↩ back    10.244.0.65:80 is 10.108.167.1:80 again by node-1's conntrack; no rule asked",
            "↩ back POD:80 is CLUSTERIP:80 again by node-N's conntrack; no rule asked",
        ),
        ("node-1$ kill -9 103", "node-1$ kill -9 N"),
        (
            "'http://10.108.167.1/?walk-2' /run/portolan/labs/walk-8070/x",
            "'http://CLUSTERIP/?walk-2' /run/portolan/labs/walk-N/x",
        ),
    ];
    for (line, masked) in table {
        assert_eq!(mask_line(line), masked);
    }
}

#[test]
fn what_a_reader_relies_on_is_not_masked() {
    for line in [
        "KUBE-SVC-KASVC3VP5K2MBOHI 6 -- 0.0.0.0/0 10.96.0.10 /* kube-system/kube-dns:dns cluster IP */ udp dpt:53",
        "KUBE-MARK-MASQ 6 -- !10.244.0.0/16 172.18.0.11",
        "statistic mode random probability 0.50000000000",
        "MARK or 0x4000",
        "200",
        "node-1 Ready <none> v1.33.0",
        "deployment.apps/web created",
        "nameserver 114.114.114.114",
        "ngx-svc.default.svc.cluster.local. 30 IN SRV 0 100 80 ngx-svc.default.svc.cluster.local.",
        "30000-32767",
        "dns-pod on node-2",
    ] {
        assert_eq!(mask_line(line), line);
    }
}
