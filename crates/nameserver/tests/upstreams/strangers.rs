//! Debian's servers as upstreams: unbound by UDP, TCP, TLS and HTTPS; knot with a zone that it signs itself.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use portolan_dns::cache::{AnswerCache, Written};
use portolan_dns::corefile::config::{CacheConfig, CacheLimits, Target, TlsConfig};
use portolan_dns::forward::Question;
use portolan_dns::forward::step::{GroupConfig, Outcome};
use portolan_dns::message::{Message, Record};
use portolan_dns::rdata::Rdata;
use portolan_dns::wire::{Edns, Query, ask};
use portolan_dns::{Name, Rtype};

use crate::driver::{Driver, group, plain, question};
use crate::servers::free_port;

/// Until a server answers; the machine may be loaded.
const LIMIT: Duration = Duration::from_secs(60);

struct Daemon {
    child: Child,
    log: PathBuf,
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Daemon {
    fn start(program: &str, arguments: &[&str], folder: &Path) -> Self {
        let bin = std::env::var("PORTOLAN_DEB_BIN").expect("PORTOLAN_DEB_BIN names the folder of fetched programs");
        let log = folder.join(format!("{program}.log"));
        let out = std::fs::File::create(&log).expect("a log file");
        let child = Command::new(Path::new(&bin).join(program))
            .args(arguments)
            .current_dir(folder)
            .stdin(Stdio::null())
            .stdout(out.try_clone().expect("a second handle"))
            .stderr(out)
            .spawn()
            .expect("the program starts");
        Self { child, log }
    }

    /// Waits until it answers `text` by UDP.
    fn answers(mut self, addr: SocketAddr, text: &str) -> Self {
        let socket = std::net::UdpSocket::bind("127.0.0.1:0").expect("a free port");
        socket.set_read_timeout(Some(Duration::from_millis(200))).expect("a timeout");
        let query = ask(1, &portolan_dns::wire::question(&name(text), Rtype::A), false, None);
        let end = Instant::now() + LIMIT;
        loop {
            // Nobody may listen yet.
            let _ = socket.send_to(&query, addr);
            let mut buffer = [0; 4096];
            if let Ok((length, _)) = socket.recv_from(&mut buffer)
                && Message::parse(&buffer[..length]).is_some_and(|message| !message.answers.is_empty())
            {
                return self;
            }
            let log = || std::fs::read_to_string(&self.log).unwrap_or_default();
            assert!(self.child.try_wait().expect("a child").is_none(), "it ended: {}", log());
            assert!(Instant::now() < end, "no answer: {}", log());
        }
    }
}

fn name(text: &str) -> Name {
    Name::parse(text).expect("a name in a test")
}

fn folder() -> tempfile::TempDir {
    tempfile::Builder::new().prefix("ptl-t-").tempdir().expect("a temporary folder")
}

struct Unbound {
    _daemon: Daemon,
    plain: SocketAddr,
    tls: SocketAddr,
    https: SocketAddr,
    ca: String,
}

/// Unbound with names of its own, and a certificate for `dns.test` alone.
fn unbound(folder: &Path) -> Unbound {
    let made = rcgen::generate_simple_self_signed(vec!["dns.test".to_string()]).expect("a certificate");
    let (ca, key) = (folder.join("ca.pem"), folder.join("key.pem"));
    std::fs::write(&ca, made.cert.pem()).expect("a file");
    std::fs::write(&key, made.signing_key.serialize_pem()).expect("a file");
    let (plain, tls, https) = (free_port(), free_port(), free_port());
    let names: String = (0..50).map(|n| format!("  local-data: \"n{n}.example. 300 IN A 192.0.2.{n}\"\n")).collect();
    let text = format!(
        "server:\n  directory: \"{folder}\"\n  chroot: \"\"\n  username: \"\"\n  pidfile: \"{folder}/unbound.pid\"\n  \
         use-syslog: no\n  do-daemonize: no\n  module-config: \"iterator\"\n  num-threads: 1\n  \
         interface: 127.0.0.1@{}\n  interface: 127.0.0.1@{}\n  interface: 127.0.0.1@{}\n  tls-port: {}\n  https-port: {}\n  \
         tls-service-pem: \"{}\"\n  tls-service-key: \"{}\"\n  local-zone: example. static\n{names}remote-control:\n  \
         control-enable: no\n",
        plain.port(),
        tls.port(),
        https.port(),
        tls.port(),
        https.port(),
        ca.display(),
        key.display(),
        folder = folder.display(),
    );
    let config = folder.join("unbound.conf");
    std::fs::write(&config, text).expect("a file");
    let daemon = Daemon::start("unbound", &["-d", "-p", "-c", &config.to_string_lossy()], folder);
    let daemon = daemon.answers(plain, "n1.example");
    Unbound { _daemon: daemon, plain, tls, https, ca: ca.to_string_lossy().into_owned() }
}

fn secured(target: Target, server_name: &str, ca: Option<&str>) -> GroupConfig {
    let mut config = group(vec![target]);
    config.forward.tls =
        TlsConfig { server_name: Some(server_name.into()), ca_file: ca.map(ToOwned::to_owned), identity: None };
    config
}

fn by_https(addr: SocketAddr) -> Target {
    Target::Https { addr, path: "/dns-query".into() }
}

/// Asks for all of unbound's names at once; each must come with its own address.
async fn asks_for_all(config: GroupConfig, by: &str) {
    let mut driver = Driver::new(vec![config]);
    (0..50).for_each(|n| driver.ask(n, &format!("n{n}.example")));
    for done in driver.ended(50).await {
        let Outcome::Answer(given) = done.outcome else { panic!("by {by}: {done:?} {:?}", driver.failures) };
        let expected = Rdata::A([192, 0, 2, done.waiters[0] as u8].into());
        assert_eq!(given.message.answers[0].data, expected, "by {by}");
    }
    assert_eq!(driver.failures, Vec::<String>::new(), "by {by}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unbound_answers_by_udp_tcp_tls_and_https() {
    let folder = folder();
    let unbound = unbound(folder.path());
    let mut by_tcp = group(vec![plain(unbound.plain)]);
    by_tcp.forward.force_tcp = true;
    asks_for_all(group(vec![plain(unbound.plain)]), "UDP").await;
    asks_for_all(by_tcp, "TCP").await;
    asks_for_all(secured(Target::Tls(unbound.tls), "dns.test", Some(&unbound.ca)), "TLS").await;
    asks_for_all(secured(by_https(unbound.https), "dns.test", Some(&unbound.ca)), "HTTPS").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_certificate_of_another_name_or_of_no_known_authority_is_not_believed() {
    let folder = folder();
    let unbound = unbound(folder.path());
    let other_ca = folder.path().join("other.pem");
    let made = rcgen::generate_simple_self_signed(vec!["dns.test".to_string()]).expect("a certificate");
    std::fs::write(&other_ca, made.cert.pem()).expect("a file");
    let (ca, other_ca) = (Some(unbound.ca.as_str()), other_ca.to_string_lossy().into_owned());
    for (why, server_name, ca) in [
        ("other name", "other.test", ca),
        ("unknown authority", "dns.test", Some(other_ca.as_str())),
        ("no such file", "dns.test", Some("/nowhere/ca.pem")),
        ("no name", "not a name", ca),
    ] {
        for target in [Target::Tls(unbound.tls), by_https(unbound.https)] {
            let mut driver = Driver::new(vec![secured(target.clone(), server_name, ca)]);
            driver.ask(1, "n1.example");
            let done = driver.ended(1).await.remove(0);
            assert_eq!(done.outcome, Outcome::Silent, "{why} by {target:?}");
            let said = &driver.failures[0];
            let expected = match why {
                "no such file" => "/nowhere/ca.pem",
                "no name" => "tls_servername",
                _ => "certificate",
            };
            assert!(said.contains(expected), "{why} by {target:?}: {said}");
        }
    }
}

/// Knot with a zone that it signs.
fn knot(folder: &Path) -> (Daemon, SocketAddr) {
    let addr = free_port();
    let zone = "$ORIGIN signed.example.\n$TTL 300\n@ SOA ns hostmaster 1 3600 600 86400 30\n@ NS ns\nns A 192.0.2.53\n\
                www A 192.0.2.80\nalias CNAME www\n@ MX 10 www\n";
    std::fs::write(folder.join("signed.example.zone"), zone).expect("a file");
    let text = format!(
        "server:\n    listen: 127.0.0.1@{}\n    rundir: {dir}\ndatabase:\n    storage: {dir}\nlog:\n  - target: stderr\n    \
         any: info\npolicy:\n  - id: quick\n    algorithm: ECDSAP256SHA256\ntemplate:\n  - id: default\n    storage: {dir}\n\
         zone:\n  - domain: signed.example\n    file: signed.example.zone\n    dnssec-signing: on\n    dnssec-policy: quick\n",
        addr.port(),
        dir = folder.display(),
    );
    let config = folder.join("knot.conf");
    std::fs::write(&config, text).expect("a file");
    let daemon = Daemon::start("knotd", &["-c", &config.to_string_lossy()], folder);
    (daemon.answers(addr, "www.signed.example"), addr)
}

fn cache_config() -> CacheConfig {
    let limits = CacheLimits { entries: 100, max_ttl_secs: 3600, min_ttl_secs: 0 };
    CacheConfig {
        zones: Vec::new(),
        success: limits,
        denial: limits,
        servfail: Duration::ZERO,
        prefetch: None,
        stale: None,
        no_success: Vec::new(),
        no_denial: Vec::new(),
        keep_ttl: false,
    }
}

/// Owner, type and data of each record: what DNSSEC signs.
fn signed(message: &Message) -> Vec<(String, Rtype, Rdata)> {
    let lines = message.answers.iter().chain(&message.authority);
    let mut lines: Vec<_> =
        lines.map(|r: &Record| (r.owner.to_string().to_lowercase(), r.rtype, r.data.clone())).collect();
    lines.sort();
    lines
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn signatures_pass_unchanged_from_the_server_and_from_the_cache() {
    let folder = folder();
    let (_daemon, addr) = knot(folder.path());
    let mut driver = Driver::new(vec![group(vec![plain(addr)])]);
    let cache = AnswerCache::new(cache_config(), rand::random());
    let now = Duration::ZERO;
    let edns = Some(Edns { udp_size: 1232, version: 0, dnssec_ok: true });
    let rows = [("www", Rtype::A), ("alias", Rtype::A), ("no", Rtype::A), ("www", Rtype::MX), ("alias", Rtype(48))];
    for (at, (label, rtype)) in rows.into_iter().enumerate() {
        let text = format!("{label}.signed.example");
        let question = Question { dnssec_ok: true, ..question(&text, rtype) };
        let packet = ask(9, &portolan_dns::wire::question(&question.name, rtype), false, edns);
        let direct = direct(addr, &packet);
        assert!(
            direct.answers.iter().chain(&direct.authority).any(|record| record.rtype == Rtype(46)),
            "{text}: signed"
        );
        driver.put(at as u32, question.clone());
        let Outcome::Answer(given) = driver.ended(1).await.remove(0).outcome else { panic!("{:?}", driver.failures) };
        assert_eq!(signed(&given.message), signed(&direct), "{text}");
        let kept = cache.keep(&question, (*given.message).clone(), now);
        assert_eq!(signed(&kept), signed(&direct));
        let query = Query::parse(&packet).expect("a query");
        let mut out = Vec::new();
        assert!(matches!(cache.write(&query, 65_535, now, 0, &mut out), Written::Hit(_)), "{text}");
        assert_eq!(signed(&Message::parse(&out).expect("a reply")), signed(&direct), "{text} from the cache");
    }
}

/// What the server says to `packet` without us between.
fn direct(addr: SocketAddr, packet: &[u8]) -> Message {
    let socket = std::net::UdpSocket::bind("127.0.0.1:0").expect("a free port");
    socket.set_read_timeout(Some(LIMIT)).expect("a timeout");
    socket.send_to(packet, addr).expect("sent");
    let mut buffer = [0; 4096];
    let (length, _) = socket.recv_from(&mut buffer).expect("a reply");
    Message::parse(&buffer[..length]).expect("a reply that can be read")
}
