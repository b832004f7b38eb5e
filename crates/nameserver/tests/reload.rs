//! A nameserver that is given new configurations while it is asked: no query is lost, and pages and numbers follow.

#[path = "upstreams/ports.rs"]
mod ports;

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use portolan_dns::corefile::{self, Sources};
use portolan_dns::wire::{ask, question};
use portolan_dns::{Corefile, Name, Rtype};
use portolan_model::{Delta, Settings, Snapshot};
use portolan_nameserver::{ConfigError, Handle, Listen, Listener, Options, start};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};

/// Far beyond what a loaded machine needs.
const LIMIT: Duration = Duration::from_secs(30);

fn read(text: &str) -> Corefile {
    corefile::read(text, &Sources::none()).expect("a Corefile of a test")
}

fn settings() -> Settings {
    Settings {
        node: "node-1".into(),
        cluster_cidrs: vec!["10.244.0.0/16".parse().expect("a range")],
        service_cidrs: vec!["10.96.0.0/12".parse().expect("a range")],
        cluster_dns: Vec::new(),
        cluster_domain: "cluster.local".into(),
        proxy: Default::default(),
    }
}

/// A server at a port of its own, with these hosts lines and what else is given.
async fn serve(corefile: &str) -> (Handle, SocketAddr) {
    let listener = Listener::bind((Ipv4Addr::LOCALHOST, 0).into()).await.expect("loopback");
    let at = listener.address();
    let settings = Arc::new(settings());
    let options = Options {
        settings: settings.clone(),
        own: vec![Ipv4Addr::LOCALHOST.into()],
        corefile: read(corefile),
        base: std::env::temp_dir(),
        listen: Listen::At(vec![listener]),
        pages: Vec::new(),
        threads: 2,
    };
    (start(options).await.expect("it starts"), at)
}

fn hosts(last: u8, more: &str) -> String {
    format!(".:53 {{\n hosts {{\n 192.0.2.{last} who.example\n }}\n {more}\n}}\n")
}

async fn address(socket: &UdpSocket, id: u16) -> u8 {
    let name = Name::parse("who.example").expect("a name");
    let query = ask(id, &question(&name, Rtype::A), false, None);
    socket.send(&query).await.expect("loopback");
    let mut reply = [0; 512];
    loop {
        let length =
            tokio::time::timeout(LIMIT, socket.recv(&mut reply)).await.expect("a lost query").expect("loopback");
        if reply[..2] == id.to_be_bytes() {
            return reply[length - 1];
        }
    }
}

async fn page(at: SocketAddr, path: &str) -> Option<String> {
    let mut stream = TcpStream::connect(at).await.ok()?;
    stream.write_all(format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").as_bytes()).await.ok()?;
    let mut text = String::new();
    stream.read_to_string(&mut text).await.ok()?;
    Some(text)
}

/// What the last of twenty configurations answers.
const LAST: u8 = 21;

#[tokio::test(flavor = "multi_thread")]
async fn twenty_reloads_lose_no_query() {
    let (handle, at) = serve(&hosts(1, "")).await;
    let (ended, asked) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let clients: Vec<_> = (0..4)
        .map(|_| {
            let (ended, asked) = (ended.clone(), asked.clone());
            tokio::spawn(async move {
                let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("loopback");
                socket.connect(at).await.expect("loopback");
                let mut seen = BTreeMap::new();
                let mut last = 0;
                // Whoever was not asked for a while asks until it has seen the last one too.
                while !ended.load(Ordering::Relaxed) || last != LAST {
                    let id = asked.fetch_add(1, Ordering::Relaxed) as u16;
                    let now = address(&socket, id).await;
                    assert!(now >= last, "an answer of an older configuration: {now} after {last}");
                    last = now;
                    *seen.entry(now).or_insert(0u64) += 1;
                }
                seen
            })
        })
        .collect();
    for last in 2..=LAST {
        let before = asked.load(Ordering::Relaxed);
        handle.configure(read(&hosts(last, ""))).await.expect("it is taken");
        while asked.load(Ordering::Relaxed) < before + 40 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
    ended.store(true, Ordering::Relaxed);
    for client in clients {
        let seen = client.await.expect("no query was lost");
        assert_eq!(seen.last_key_value().map(|(last, _)| *last), Some(LAST), "{seen:?}");
    }
    assert_eq!(handle.status().await["reloads"], 20);
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_move_with_the_configuration_and_a_taken_port_stops_nothing() {
    let (first, second) = (ports::free(), ports::free());
    let pages = |port: u16| format!("prometheus 127.0.0.1:{port}\n ready 127.0.0.1:{port}\n health 127.0.0.1:{port}");
    let in_cluster = "kubernetes cluster.local";
    let (handle, at) = serve(&hosts(1, &format!("{}\n {in_cluster}", pages(first)))).await;
    let local = |port: u16| SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let ready = page(local(first), "/ready").await.expect("the page is there");
    assert!(ready.starts_with("HTTP/1.1 503") && ready.ends_with("kubernetes"), "{ready}");
    assert!(page(local(first), "/health").await.expect("the page is there").ends_with("OK"));
    let nothing = Snapshot::empty(Arc::new(settings()));
    handle.zones(Arc::new(nothing), Delta::default(), true);
    handle.records().await.expect("it lives");
    assert!(page(local(first), "/ready").await.expect("the page is there").starts_with("HTTP/1.1 200"));

    handle.configure(read(&hosts(2, &pages(second)))).await.expect("it is taken");
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("loopback");
    socket.connect(at).await.expect("loopback");
    assert_eq!(address(&socket, 7).await, 2);
    let metrics = page(local(second), "/metrics").await.expect("the page has moved");
    let count =
        "coredns_dns_requests_total{server=\"dns://:53\",zone=\".\",view=\"\",proto=\"udp\",family=\"1\",type=\"A\"} 1";
    assert!(metrics.contains(count), "{metrics}");
    let response =
        "coredns_dns_responses_total{server=\"dns://:53\",zone=\".\",view=\"\",rcode=\"NOERROR\",plugin=\"hosts\"} 1";
    assert!(metrics.contains(response), "{metrics}");
    assert!(page(local(first), "/health").await.is_none(), "the old page is closed");

    let taken = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("loopback");
    let port = taken.local_addr().expect("it is bound").port();
    handle.configure(read(&hosts(3, &pages(port)))).await.expect("a page is not worth a refusal");
    assert_eq!(address(&socket, 8).await, 3);
    drop(taken);
    let mut found = None;
    while found.is_none() {
        tokio::time::sleep(Duration::from_millis(50)).await;
        found = page(local(port), "/health").await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_configuration_whose_port_is_taken_changes_nothing() {
    let (port, other) = (ports::free(), std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("loopback"));
    let taken = other.local_addr().expect("it is bound").port();
    let text = |port: u16, last: u8| hosts(last, "bind 127.0.0.1").replace(":53", &format!(":{port}"));
    let options = Options {
        settings: Arc::new(settings()),
        own: Vec::new(),
        corefile: read(&text(port, 1)),
        base: std::env::temp_dir(),
        listen: Listen::AsWritten(Vec::new()),
        pages: Vec::new(),
        threads: 1,
    };
    let handle = start(options).await.expect("it starts");
    let refused = handle.configure(read(&text(taken, 2))).await;
    let Err(ConfigError::Refused(problems)) = refused else { panic!("{refused:?}") };
    assert!(
        problems[0].contains(&taken.to_string()) && problems[0].contains("address in use")
            || problems[0].contains("in use"),
        "{problems:?}"
    );
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("loopback");
    socket.connect((Ipv4Addr::LOCALHOST, port)).await.expect("loopback");
    assert_eq!(address(&socket, 9).await, 1, "the old configuration stays");
    assert!(handle.metrics_text().await.contains("coredns_reload_failed_total 1"));
}
