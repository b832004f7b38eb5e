//! What a nameserver at work says of itself: its lines of `errors` and `log`, and the numbers that only who carries
//! queries knows.

use std::fmt::Write as _;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, Once};
use std::time::Duration;

use portolan_dns::corefile::{self, Sources};
use portolan_dns::wire::{ask, question};
use portolan_dns::{Name, Rtype};
use portolan_model::{Settings, Snapshot};
use portolan_nameserver::{Handle, Listen, Listener, Options, start, start_knowing};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};
use tracing::field::{Field, Visit};
use tracing::span;

/// Far beyond what a loaded machine needs.
const LIMIT: Duration = Duration::from_secs(60);

/// Every line of the process, with its level.
static LINES: Mutex<Vec<String>> = Mutex::new(Vec::new());

struct Listening;

impl tracing::Subscriber for Listening {
    fn enabled(&self, _: &tracing::Metadata<'_>) -> bool {
        true
    }

    fn new_span(&self, _: &span::Attributes<'_>) -> span::Id {
        span::Id::from_u64(1)
    }

    fn record(&self, _: &span::Id, _: &span::Record<'_>) {}

    fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}

    fn event(&self, event: &tracing::Event<'_>) {
        let mut line = Line(format!("{} ", event.metadata().level()));
        event.record(&mut line);
        LINES.lock().expect("no test panics with it").push(line.0);
    }

    fn enter(&self, _: &span::Id) {}

    fn exit(&self, _: &span::Id) {}
}

struct Line(String);

impl Visit for Line {
    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        if field.name() == "message" {
            write!(self.0, "{value:?}").expect("a String takes all");
        }
    }
}

fn listen() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| tracing::subscriber::set_global_default(Listening).expect("nobody else listens"));
}

/// Lines with these words in them.
fn lines(words: &str) -> Vec<String> {
    LINES.lock().expect("no test panics with it").iter().filter(|line| line.contains(words)).cloned().collect()
}

/// The first line with these words.
async fn line(words: &str) -> String {
    let found = async {
        loop {
            if let Some(line) = lines(words).into_iter().next() {
                return line;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(LIMIT, found).await.unwrap_or_else(|_| panic!("no line has {words:?}: {:?}", lines("")))
}

fn settings() -> Arc<Settings> {
    Arc::new(Settings {
        node: "node-1".into(),
        cluster_cidrs: Vec::new(),
        service_cidrs: Vec::new(),
        cluster_dns: Vec::new(),
        cluster_domain: "cluster.local".into(),
        proxy: Default::default(),
    })
}

async fn options(corefile: &str) -> (Options, SocketAddr) {
    listen();
    let listener = Listener::bind((Ipv4Addr::LOCALHOST, 0).into()).await.expect("loopback");
    let at = listener.address();
    let options = Options {
        settings: settings(),
        own: Vec::new(),
        corefile: corefile::read(corefile, &Sources::none()).expect("a Corefile of a test"),
        base: std::env::temp_dir(),
        listen: Listen::At(vec![listener]),
        pages: Vec::new(),
        threads: 1,
    };
    (options, at)
}

async fn serve(corefile: &str) -> (Handle, SocketAddr) {
    let (options, at) = options(corefile).await;
    (start(options).await.expect("it starts"), at)
}

fn query(id: u16, name: &str) -> Vec<u8> {
    ask(id, &question(&Name::parse(name).expect("a name"), Rtype::A), false, None)
}

/// Asks by UDP: where the query came from, and the reply.
async fn lookup(at: SocketAddr, id: u16, name: &str) -> (SocketAddr, Vec<u8>) {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("loopback");
    socket.send_to(&query(id, name), at).await.expect("loopback");
    let mut reply = vec![0; 512];
    let (length, _) =
        tokio::time::timeout(LIMIT, socket.recv_from(&mut reply)).await.expect("a reply").expect("loopback");
    reply.truncate(length);
    (socket.local_addr().expect("bound"), reply)
}

async fn lookup_tcp(stream: &mut TcpStream, id: u16, name: &str) -> Vec<u8> {
    let query = query(id, name);
    stream.write_all(&[&(query.len() as u16).to_be_bytes()[..], &query].concat()).await.expect("loopback");
    let mut reply = vec![0; usize::from(stream.read_u16().await.expect("a reply"))];
    stream.read_exact(&mut reply).await.expect("a reply");
    reply
}

/// An upstream that says 192.0.2.9 with a TTL of 60 s to everything, and counts.
async fn upstream() -> (SocketAddr, Arc<Mutex<u32>>) {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("loopback");
    let (at, count) = (socket.local_addr().expect("bound"), Arc::new(Mutex::new(0)));
    let counted = count.clone();
    tokio::spawn(async move {
        let mut packet = [0; 512];
        while let Ok((length, from)) = socket.recv_from(&mut packet).await {
            let end = 12 + packet[12..length].iter().position(|byte| *byte == 0).expect("a name") + 5;
            let mut reply = [&packet[..2], &[0x81, 0x80, 0, 1, 0, 1, 0, 0, 0, 0], &packet[12..end]].concat();
            reply.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 192, 0, 2, 9]);
            *counted.lock().expect("whole") += 1;
            socket.send_to(&reply, from).await.expect("loopback");
        }
    });
    (at, count)
}

/// A port of UDP and TCP that nobody listens at.
fn nobody() -> SocketAddr {
    let socket = std::net::UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).expect("loopback");
    socket.local_addr().expect("bound")
}

#[tokio::test(flavor = "multi_thread")]
async fn what_no_upstream_answered_is_a_line_of_errors_and_only_where_the_block_has_them() {
    let (silent, gone) = (std::net::UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).expect("loopback"), nobody());
    let silent_at = silent.local_addr().expect("bound");
    let corefile = format!(
        "silent.example {{\n errors\n forward . {silent_at}\n}}\nrefused.example {{\n errors\n forward . {gone}\n}}\n\
         quiet.example {{\n forward . {gone}\n}}\n"
    );
    let (_handle, at) = serve(&corefile).await;
    let (asked, refused, quiet) = tokio::join!(
        lookup(at, 1, "A.silent.example"),
        lookup(at, 2, "b.refused.example"),
        lookup(at, 3, "c.quiet.example")
    );
    assert_eq!([&asked, &refused, &quiet].map(|(_, reply)| reply[3] & 15), [2, 2, 2]);
    assert_eq!(
        line("a.silent.example").await,
        format!("ERROR plugin/errors: 2 a.silent.example. A: read udp {silent_at}: i/o timeout")
    );
    assert_eq!(
        line("b.refused.example").await,
        format!("ERROR plugin/errors: 2 b.refused.example. A: read udp {gone}: connection refused")
    );
    assert_eq!(lines("c.quiet.example"), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn errors_that_are_alike_are_one_line_when_their_time_is_over() {
    let gone = nobody();
    let (handle, at) =
        serve(&format!(". {{\n errors {{\n consolidate 2s \"^read udp .* refused$\"\n }}\n forward . {gone}\n}}\n"))
            .await;
    for nth in 0..5 {
        assert_eq!(lookup(at, nth, &format!("n{nth}.alike.example")).await.1[3] & 15, 2);
    }
    // A new configuration with the same block goes on counting.
    let more = format!(
        ". {{\n errors {{\n consolidate 2s \"^read udp .* refused$\"\n }}\n forward . {gone}\n}}\nx.example {{\n any\n}}\n"
    );
    handle.configure(corefile::read(&more, &Sources::none()).expect("right")).await.expect("it is taken");
    let told = || -> u32 {
        let lines = lines("errors like '^read udp .* refused$' occurred in last 2s");
        let count = |line: &String| line.strip_prefix("ERROR plugin/errors: ")?.split(' ').next()?.parse::<u32>().ok();
        lines.iter().map(|line| count(line).expect("a count")).sum()
    };
    let all = async {
        while told() < 5 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(LIMIT, all).await.unwrap_or_else(|_| panic!("{:?}", lines("plugin/errors")));
    assert_eq!((told(), lines("alike.example")), (5, Vec::new()), "each is counted once, and has no line of its own");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_query_is_a_line_of_log_in_coredns_form_if_its_reply_is_of_the_class() {
    let hosts = "hosts {\n 192.0.2.7 who.logged.example who.denied.example\n }";
    let corefile = format!(
        "logged.example {{\n log\n {hosts}\n}}\ndenied.example {{\n log . \"{{name}} {{rcode}}\" {{\n class denial\n }}\n template IN A nobody.denied.example {{\n rcode NXDOMAIN\n }}\n {hosts}\n}}\n"
    );
    let (_handle, at) = serve(&corefile).await;
    let (from, reply) = lookup(at, 4711, "Who.logged.example").await;
    let found = line("who.logged.example").await;
    let (head, size) = (format!("INFO 127.0.0.1:{} - 4711 ", from.port()), query(0, "who.logged.example").len());
    let expected = format!("\"A IN who.logged.example. udp {size} false 512\" NOERROR qr,aa,rd,ra {} 0.", reply.len());
    let rest = found.strip_prefix(&head).unwrap_or_else(|| panic!("{found:?} begins with {head:?}"));
    assert!(rest.starts_with(&expected) && rest.ends_with('s'), "{found}");
    lookup(at, 1, "who.denied.example").await;
    lookup(at, 2, "nobody.denied.example").await;
    assert_eq!(line("denied.example").await, "INFO nobody.denied.example. NXDOMAIN", "the first of them has no line");
}

/// The numbers of a metric, by their labels.
fn numbers(text: &str, name: &str) -> Vec<(String, f64)> {
    let of = |line: &str| {
        let (labels, value) = line.strip_prefix(name)?.strip_prefix('{')?.rsplit_once("} ")?;
        Some((labels.to_owned(), value.parse().ok()?))
    };
    text.lines().filter_map(of).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_reply_has_its_time_and_every_query_to_an_upstream_its_connection() {
    let (up, _) = upstream().await;
    let corefile =
        format!("hosts.example {{\n hosts {{\n 192.0.2.7 who.hosts.example\n }}\n}}\n. {{\n forward . {up}\n}}\n");
    let (handle, at) = serve(&corefile).await;
    for id in 0..3 {
        lookup(at, id, "who.hosts.example").await;
        lookup(at, id, &format!("n{id}.example")).await;
    }
    let mut stream = TcpStream::connect(at).await.expect("loopback");
    lookup_tcp(&mut stream, 9, "who.hosts.example").await;
    // A worker counts a batch when it is sent.
    let server = "server=\"dns://:53\"";
    let of = |zone: &str| format!("{server},zone=\"{zone}\",view=\"\"");
    let expected = vec![(of("hosts.example."), 4.0), (of("."), 3.0)];
    let mut text = String::new();
    let counted = async {
        loop {
            text = handle.metrics_text().await;
            if numbers(&text, "coredns_dns_request_duration_seconds_count") == expected {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    let is_counted = tokio::time::timeout(LIMIT, counted).await;
    assert!(is_counted.is_ok(), "{text}");
    let sums = numbers(&text, "coredns_dns_request_duration_seconds_sum");
    assert!(sums.len() == 2 && sums.iter().all(|(_, sum)| *sum > 0.0 && *sum < 60.0), "{sums:?}");
    let up = up.to_string();
    let misses = numbers(&text, "coredns_proxy_conn_cache_misses_total");
    assert_eq!(misses, [(format!("proxy_name=\"forward\",to=\"{up}\",proto=\"udp\""), 3.0)]);
    let hits = numbers(&text, "coredns_proxy_conn_cache_hits_total");
    assert_eq!(hits, [(format!("proxy_name=\"forward\",to=\"{up}\",proto=\"udp\""), 0.0)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_tcp_clients_ask_for_much_is_renewed_before_its_time() {
    let (up, asked) = upstream().await;
    let corefile = format!(". {{\n cache {{\n prefetch 1 1m 90%\n }}\n forward . {up} {{\n prefer_udp\n }}\n}}\n");
    let (_handle, at) = serve(&corefile).await;
    let mut stream = TcpStream::connect(at).await.expect("loopback");
    let renewed = async {
        let mut id = 0;
        while *asked.lock().expect("whole") < 2 {
            id += 1;
            assert_eq!(lookup_tcp(&mut stream, id, "much.example").await[3] & 15, 0);
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let is_renewed = tokio::time::timeout(LIMIT / 2, renewed).await;
    assert!(is_renewed.is_ok(), "half of its time went, and nobody asked again");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_starts_knowing_the_cluster_never_says_that_it_does_not() {
    let (options, at) = options(". {\n kubernetes cluster.local\n}\n").await;
    // The query is there before the first answer can be.
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("loopback");
    socket.send_to(&query(1, "web.default.svc.cluster.local"), at).await.expect("loopback");
    let handle = start_knowing(options, &Snapshot::empty(settings())).await.expect("it starts");
    let mut reply = [0; 512];
    tokio::time::timeout(LIMIT, socket.recv(&mut reply)).await.expect("a reply").expect("loopback");
    assert_eq!(reply[3] & 15, 3, "NXDOMAIN, not SERVFAIL");
    assert!(handle.is_ready());
}
