//! The one task that owns the server of `portolan_dns`: what cannot be answered at once passes through it.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use portolan_dns::forward::{Exchange, ForwardConfig};
use portolan_dns::name::NameError;
use portolan_dns::records::Records;
use portolan_dns::resolvconf;
use portolan_dns::server::{Effect, Server, Token};
use portolan_dns::site::Files;
use portolan_dns::zone::ZoneConfig;
use portolan_dns::{Client, Pods, Setup, Site};
use tokio::sync::mpsc;
use tracing::{debug, info, warn};

use crate::DnsError;
use crate::handle::{Handle, Listen, Options, SiteCell, Told};
use crate::listen::{Listener, Open, Seats, Workers};
use crate::upstream::{ask_tcp, ask_udp};

/// DNS over UDP never exceeds this.
pub(crate) const DATAGRAM_BYTES: usize = 65_535;
/// How often resolv.conf is looked at: new upstreams are asked within 5 s of a change.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// A client that has no answer by now gets none: the forwarder gave up long ago.
const CLIENT_LIFE: Duration = Duration::from_secs(15);

/// Queries that wait for the task; more are not taken, and their clients ask again.
const MOST_WAITING: usize = 8192;

/// TCP clients served at once, in all.
const TCP_CLIENTS: usize = 1024;
/// TCP clients served at once that come from one address.
const TCP_CLIENTS_OF_ONE: usize = 128;

/// A query that a listener could not answer at once.
pub(crate) struct Asked {
    pub(crate) client: Client,
    pub(crate) packet: Vec<u8>,
    /// Sends one message to the client; dropped when there will be no more.
    pub(crate) reply: Box<dyn FnMut(Vec<u8>) + Send>,
}

/// What a listener needs of the rest.
#[derive(Clone)]
pub(crate) struct Doors {
    /// What answers at once.
    pub(crate) site: Arc<SiteCell>,
    /// Where the other queries go.
    pub(crate) later: mpsc::Sender<Asked>,
    /// Who answers datagrams.
    pub(crate) workers: Arc<Workers>,
    /// Room for TCP clients.
    pub(crate) seats: Arc<Seats>,
}

pub(crate) enum Event {
    Upstream { exchange: Exchange, packet: Vec<u8> },
    Failed { exchange: Exchange },
}

/// Opens what the options name and starts the task.
pub(crate) async fn start(options: Options) -> Result<Handle, DnsError> {
    let records = Records::new(zone_config(&options)?);
    let setup = Arc::new(Setup::new(options.corefile, &Files::default()));
    let known = Site::new(setup, records, Pods::default());
    let site = Arc::new(SiteCell::new(known.clone()));
    let (told, from_others) = mpsc::unbounded_channel();
    let (later, asked) = mpsc::channel(MOST_WAITING);
    let (events, from_upstreams) = mpsc::unbounded_channel();
    let workers = Workers::start(options.threads, &site, &later).map_err(DnsError::Threads)?;
    let file = known.config().resolv_confs().first().map(|file| options.base.join(file)).unwrap_or_default();
    let mut task = Task {
        server: Server::new(known, ForwardConfig::default(), Vec::new()),
        clients: BTreeMap::new(),
        exchanges: BTreeMap::new(),
        next_token: 0,
        events,
        resolv_conf: Watched { path: file, own: options.own, text: None },
        open: Vec::new(),
        doors: Doors { site: site.clone(), later, workers, seats: Seats::new(TCP_CLIENTS, TCP_CLIENTS_OF_ONE) },
        replies: Replies::default(),
    };
    match options.listen {
        Listen::At(listeners) => listeners.into_iter().for_each(|listener| task.listen(listener)),
        Listen::AsWritten(addresses) => {
            for addr in task.server.site().config().listen_addresses(&addresses) {
                task.listen(Listener::bind(addr).await?);
            }
        }
    }
    tokio::spawn(task.run(asked, from_upstreams, from_others));
    Ok(Handle::new(told, site))
}

/// The zones' settings, of cluster and configuration.
fn zone_config(options: &Options) -> Result<ZoneConfig, DnsError> {
    let settings = &options.settings;
    let domain = |reason: NameError| DnsError::Domain {
        domain: settings.cluster_domain.to_string(),
        reason: reason.to_string(),
    };
    let mut config = ZoneConfig::from_settings(settings).map_err(domain)?;
    if let Some(kubernetes) = options.corefile.blocks.iter().find_map(|block| block.kubernetes.as_ref()) {
        config.ttl_secs = kubernetes.ttl_secs;
        config.endpoint_pod_names = kubernetes.endpoint_pod_names;
    }
    Ok(config)
}

struct Task {
    server: Server,
    clients: BTreeMap<Token, (Asked, Instant)>,
    exchanges: BTreeMap<Exchange, tokio::task::AbortHandle>,
    next_token: u64,
    events: mpsc::UnboundedSender<Event>,
    resolv_conf: Watched,
    /// Where it answers, UDP and TCP.
    open: Vec<(SocketAddr, Open)>,
    doors: Doors,
    replies: Replies,
}

/// Replies by their RCODE (RFC 1035 §4.1.1).
#[derive(Default)]
struct Replies {
    no_error: u64,
    serv_fail: u64,
    nx_domain: u64,
    other: u64,
}

impl Replies {
    fn count(&mut self, reply: &[u8]) {
        let rcode = reply.get(3).map(|flags| flags & 0xf);
        *match rcode {
            Some(0) => &mut self.no_error,
            Some(2) => &mut self.serv_fail,
            Some(3) => &mut self.nx_domain,
            _ => &mut self.other,
        } += 1;
    }
}

/// A file whose content is compared each time it is looked at.
struct Watched {
    path: PathBuf,
    own: Vec<IpAddr>,
    text: Option<String>,
}

impl Task {
    /// Serves as long as the runtime lives.
    async fn run(
        mut self,
        mut asked: mpsc::Receiver<Asked>,
        mut from_upstreams: mpsc::UnboundedReceiver<Event>,
        mut told: mpsc::UnboundedReceiver<Told>,
    ) {
        let mut look = tokio::time::interval(LOOK_EVERY);
        let mut has_teller = true;
        loop {
            let wait = self.wait();
            tokio::select! {
                Some(asked) = asked.recv() => self.query(asked),
                Some(event) = from_upstreams.recv() => self.event(event),
                message = told.recv(), if has_teller => match message {
                    Some(message) => self.told(message),
                    None => has_teller = false,
                },
                _ = look.tick() => self.look(),
                () = tokio::time::sleep(wait) => {
                    let now = self.now();
                    let effects = self.server.tick(now, &mut random_id);
                    self.carry_out(effects);
                }
            }
        }
    }

    fn now(&self) -> Duration {
        self.doors.site.now()
    }

    fn wait(&self) -> Duration {
        let far = Duration::from_secs(60);
        self.server.next_deadline().map_or(far, |at| at.saturating_sub(self.now()))
    }

    fn told(&mut self, message: Told) {
        // Whoever asked may have gone; then the answer goes nowhere.
        match message {
            Told::Zones(snapshot, delta, whole) => {
                let mut records = self.server.site().records().clone();
                if !records.update(&snapshot, &delta).is_empty() {
                    records.set_serial(serial_now());
                }
                if whole {
                    records.mark_synced();
                }
                self.publish(self.server.site().with_records(records));
            }
            Told::Pods(change) => {
                let mut pods = self.server.site().pods().clone();
                pods.apply(change);
                self.publish(self.server.site().with_pods(pods));
            }
            Told::Source(source) => self.doors.site.set_source(source),
            Told::Listen(listener) => self.listen(listener),
            Told::Configure(corefile, reply) => {
                let setup = Setup::new(*corefile, &Files::default());
                self.publish(self.server.site().with_setup(Arc::new(setup)));
                let _ = reply.send(Ok(()));
            }
            Told::Records(reply) => drop(reply.send(self.server.site().records().clone())),
            Told::Status(reply) => drop(reply.send(self.status())),
            Told::Metrics(reply) => drop(reply.send(String::new())),
        }
    }

    /// Lets all threads answer from what is known now.
    fn publish(&mut self, site: Site) {
        self.server.set_site(site.clone());
        self.doors.site.store(site);
    }

    fn listen(&mut self, listener: Listener) {
        self.open.push((listener.address(), listener.open(&self.doors)));
    }

    fn status(&self) -> serde_json::Value {
        let counts = self.server.counts();
        let seen = self.doors.workers.tallied();
        let at_once: u64 = seen.replied.iter().sum();
        let others: u64 = [1, 4, 5, 6].iter().map(|code| seen.replied[*code]).sum();
        let upstreams: Vec<String> = self.server.upstreams().iter().map(|u| u.addr.to_string()).collect();
        let listening: Vec<IpAddr> = self.open.iter().map(|(addr, _)| addr.ip()).collect();
        serde_json::json!({
            "queries": seen.came, "fromZones": counts.from_zones + at_once, "fromCache": counts.from_cache,
            "forwarded": counts.forwarded, "refused": counts.refused, "unanswered": counts.unanswered,
            "silent": seen.silent, "turnedAway": seen.turned_away, "tooLong": seen.cut, "unsent": seen.unsent,
            "dropped": seen.dropped,
            "upstreams": upstreams, "listening": listening,
            "replies": {
                "NOERROR": self.replies.no_error + seen.replied[0],
                "SERVFAIL": self.replies.serv_fail + seen.replied[2] + seen.turned_away,
                "NXDOMAIN": self.replies.nx_domain + seen.replied[3], "other": self.replies.other + others,
            },
        })
    }

    fn query(&mut self, asked: Asked) {
        let token = Token(self.next_token);
        self.next_token += 1;
        let now = self.now();
        let effects = self.server.handle_query(token, &asked.packet, &asked.client, now, &mut random_id);
        self.clients.insert(token, (asked, Instant::now()));
        self.carry_out(effects);
    }

    fn event(&mut self, event: Event) {
        let now = self.now();
        let effects = match event {
            Event::Upstream { exchange, packet } => self.server.handle_upstream(exchange, &packet, now, &mut random_id),
            Event::Failed { exchange } => {
                self.exchanges.remove(&exchange);
                self.server.handle_failure(exchange, now, &mut random_id)
            }
        };
        self.carry_out(effects);
    }

    /// Forgets clients whose query got silence for an answer, then looks whether the upstreams changed.
    fn look(&mut self) {
        self.clients.retain(|_, (_, since)| since.elapsed() < CLIENT_LIFE);
        let text = match std::fs::read_to_string(&self.resolv_conf.path) {
            Ok(text) => text,
            Err(error) => {
                debug!(%error, "cannot read {}; the upstreams stay", self.resolv_conf.path.display());
                return;
            }
        };
        if self.resolv_conf.text.as_ref() == Some(&text) {
            return;
        }
        let (conf, mut complaints) = resolvconf::parse(&text);
        let (upstreams, loops) = resolvconf::upstreams(&conf, &self.resolv_conf.own);
        complaints.extend(loops);
        complaints.iter().for_each(|complaint| warn!("{complaint}"));
        info!(?upstreams, "upstreams read from {}", self.resolv_conf.path.display());
        self.resolv_conf.text = Some(text);
        let now = self.now();
        let effects = self.server.set_upstreams(upstreams, now, &mut random_id);
        self.carry_out(effects);
    }

    fn carry_out(&mut self, effects: Vec<Effect>) {
        for effect in effects {
            match effect {
                Effect::Reply { token, bytes } => self.reply(token, bytes),
                Effect::SendUdp { exchange, upstream, bytes } => {
                    let asking = ask_udp(exchange, upstream, bytes, self.events.clone());
                    self.exchanges.insert(exchange, tokio::spawn(asking).abort_handle());
                }
                Effect::SendTcp { exchange, upstream, bytes } => {
                    let asking = ask_tcp(exchange, upstream, bytes, self.events.clone());
                    self.exchanges.insert(exchange, tokio::spawn(asking).abort_handle());
                }
                Effect::Close(exchange) => {
                    if let Some(task) = self.exchanges.remove(&exchange) {
                        task.abort();
                    }
                }
            }
        }
    }

    fn reply(&mut self, token: Token, bytes: Vec<u8>) {
        self.replies.count(&bytes);
        if let Some((mut asked, _)) = self.clients.remove(&token) {
            (asked.reply)(bytes);
        }
    }
}

/// The zones' serial: the time of their last change, in seconds since 1970 modulo 2^32 (RFC 1982).
fn serial_now() -> u32 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    u32::try_from(since.as_secs() & u64::from(u32::MAX)).unwrap_or_default()
}

/// A transaction id that nobody can guess.
fn random_id() -> u16 {
    rand::random()
}
