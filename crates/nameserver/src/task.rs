//! The one task that owns the server of `portolan_dns`: what cannot be answered at once passes through it, and all that
//! changes: zones, pods, configuration, files.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use portolan_dns::name::NameError;
use portolan_dns::plugin::log::Dealt;
use portolan_dns::records::Records;
use portolan_dns::resolvconf;
use portolan_dns::server::{Effect, Server, Token};
use portolan_dns::site::{Served, Surroundings};
use portolan_dns::wire::{Query, Rcode};
use portolan_dns::zone::ZoneConfig;
use portolan_dns::{Client, Corefile, Pods, Setup, Site};
use portolan_model::{Delta, Snapshot};
use tokio::sync::mpsc;
use tracing::{error, info, warn};

use crate::DnsError;
use crate::files::Files;
use crate::handle::{ConfigError, Handle, Listen, Options, SiteCell, Told};
use crate::listen::{Listener, Open, Seats, Workers};
use crate::metrics;
use crate::pages::Pages;
use crate::upstream::{Dialer, Heard};

/// How often files are looked at: what changes is in force within 5 s.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// A client that has no answer by now gets none: upstreams were given up long ago.
const CLIENT_LIFE: Duration = Duration::from_secs(15);
/// Queries that wait for the task; more are not taken, and their clients ask again.
const MOST_WAITING: usize = 8192;
/// News of upstreams that wait for the task.
const MOST_NEWS: usize = 1024;
/// TCP clients served at once, in all.
const TCP_CLIENTS: usize = 1024;
/// TCP clients served at once that come from one address.
const TCP_CLIENTS_OF_ONE: usize = 128;

/// A query that a listener could not answer at once.
pub(crate) struct Asked {
    pub(crate) client: Client,
    pub(crate) packet: Vec<u8>,
    /// Sends one message to the client; dropped when there will be no more. `None`: the client has its answer, and the
    /// cache shall have a new one.
    pub(crate) reply: Option<Reply>,
}

/// A way back to a client.
pub(crate) type Reply = Box<dyn FnMut(Vec<u8>) + Send>;

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

/// Opens what the options name and starts the task. `known`: the whole cluster, if that is known by now.
pub(crate) async fn start(options: Options, known: Option<&Snapshot>) -> Result<Handle, DnsError> {
    let mut records = Records::new(zone_config(&options)?);
    if let Some(snapshot) = known {
        records.update(snapshot, &Delta::all(snapshot));
        records.set_serial(serial_now());
        records.mark_synced();
    }
    let settings = &options.settings;
    let own_names = if settings.cluster_dns.is_empty() { &options.own } else { &settings.cluster_dns };
    let around = Surroundings {
        files: BTreeMap::new(),
        own: own_names.clone(),
        ranges: settings.cluster_cidrs.iter().chain(&settings.service_cidrs).copied().collect(),
        seed: rand::random(),
    };
    let mut files = Files::new(options.base);
    files.look(&options.corefile);
    let around = Surroundings { files: files.texts(), ..around };
    let known = Site::new(Arc::new(Setup::new(options.corefile, &around)), records, Pods::default());
    let site = Arc::new(SiteCell::new(known.clone()));
    let (told, from_others) = mpsc::unbounded_channel();
    let (later, asked) = mpsc::channel(MOST_WAITING);
    let (heard, from_upstreams) = mpsc::channel(MOST_NEWS);
    let workers = Workers::start(options.threads, &site, &later).map_err(DnsError::Threads)?;
    let handle = Handle::new(told, site.clone());
    let metrics_at = if options.pages.is_empty() { Vec::new() } else { options.own.clone() };
    let mut task = Task {
        server: Server::new(known),
        clients: BTreeMap::new(),
        dialer: Dialer::new(heard),
        next_token: 0,
        files,
        around,
        own: options.own,
        written: None,
        open: Vec::new(),
        doors: Doors { site, later, workers, seats: Seats::new(TCP_CLIENTS, TCP_CLIENTS_OF_ONE) },
        pages: Pages::new(handle.clone(), (options.pages, metrics_at)),
        replies: Replies::default(),
        reloads: Reloads::default(),
    };
    match options.listen {
        Listen::At(listeners) => listeners.into_iter().for_each(|listener| task.listen(listener)),
        Listen::AsWritten(addresses) => {
            for addr in task.server.site().config().listen_addresses(&addresses) {
                task.listen(Listener::bind(addr).await?);
            }
            task.written = Some(addresses);
        }
    }
    task.open_rest();
    tokio::spawn(task.run(asked, from_upstreams, from_others));
    Ok(handle)
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
    dialer: Dialer,
    next_token: u64,
    files: Files,
    /// What configurations are prepared with.
    around: Surroundings,
    /// Addresses at which we answer: an upstream there would be a loop.
    own: Vec<IpAddr>,
    /// Where to answer as the configuration says; `None`: listeners are given.
    written: Option<Vec<IpAddr>>,
    /// Where it answers, UDP and TCP.
    open: Vec<(SocketAddr, Open)>,
    doors: Doors,
    pages: Pages,
    replies: Replies,
    reloads: Reloads,
}

/// Configurations that were taken over, and those that were not.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Reloads {
    pub(crate) done: u64,
    pub(crate) failed: u64,
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

impl Task {
    /// Serves as long as the runtime lives.
    async fn run(
        mut self,
        mut asked: mpsc::Receiver<Asked>,
        mut from_upstreams: mpsc::Receiver<Heard>,
        mut told: mpsc::UnboundedReceiver<Told>,
    ) {
        let mut look = tokio::time::interval(LOOK_EVERY);
        loop {
            let wait = self.wait();
            tokio::select! {
                Some(asked) = asked.recv() => self.query(asked),
                Some(heard) = from_upstreams.recv() => self.hear(heard),
                Some(message) = told.recv() => self.told(message).await,
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

    async fn told(&mut self, message: Told) {
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
            Told::Configure(corefile, reply) => drop(reply.send(self.configure(*corefile).await)),
            Told::Records(reply) => drop(reply.send(self.server.site().records().clone())),
            Told::Status(reply) => drop(reply.send(self.status())),
            Told::Metrics(reply) => drop(reply.send(self.metrics())),
        }
    }

    /// Takes a configuration over: first all that may fail, then all that cannot.
    async fn configure(&mut self, corefile: Corefile) -> Result<(), ConfigError> {
        let listeners = match bound(self.new_addresses(&corefile)).await {
            Ok(listeners) => listeners,
            Err(problem) => {
                self.reloads.failed += 1;
                return Err(ConfigError::Refused(vec![problem]));
            }
        };
        if let Some(written) = &self.written {
            let wanted = corefile.listen_addresses(written);
            self.open.retain(|(addr, _)| wanted.contains(addr));
        }
        self.files.look(&corefile);
        self.prepare(corefile);
        listeners.into_iter().for_each(|listener| self.listen(listener));
        self.open_rest();
        self.reloads.done += 1;
        Ok(())
    }

    /// Where a configuration wants to be listened, and nobody does.
    fn new_addresses(&self, corefile: &Corefile) -> Vec<SocketAddr> {
        let Some(written) = &self.written else { return Vec::new() };
        let mut wanted = corefile.listen_addresses(written);
        wanted.retain(|addr| self.open.iter().all(|(open, _)| open != addr));
        wanted
    }

    /// Answers by `corefile` and the files as they were read last.
    fn prepare(&mut self, corefile: Corefile) {
        self.around.files = self.files.texts();
        let setup = Setup::after(Some(self.server.site().setup()), corefile, &self.around);
        self.publish(self.server.site().with_setup(Arc::new(setup)));
    }

    /// Upstreams and pages of the configuration in force.
    fn open_rest(&mut self) {
        let now = self.now();
        let effects = self.server.configure_upstreams(now, &mut random_id);
        self.carry_out(effects);
        let files: Vec<String> = self.server.site().config().resolv_confs().into_iter().map(str::to_owned).collect();
        files.iter().for_each(|file| self.set_servers(file));
        let site = self.server.site().clone();
        self.pages.configure(site.config());
    }

    /// The servers of a file as resolv.conf(5).
    fn set_servers(&mut self, file: &str) {
        let Some(text) = self.files.text(file) else { return };
        let (conf, mut complaints) = resolvconf::parse(text);
        let (upstreams, loops) = resolvconf::upstreams(&conf, &self.own);
        complaints.extend(loops);
        complaints.iter().for_each(|complaint| warn!("{}: {complaint}", self.files.path(file).display()));
        info!(?upstreams, "upstreams read from {}", self.files.path(file).display());
        let now = self.now();
        let effects = self.server.set_servers(file, &upstreams, now, &mut random_id);
        self.carry_out(effects);
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
        let cached: u64 =
            self.server.site().setup().caches().map(|(_, cache)| cache.counts().hits.iter().sum::<u64>()).sum();
        let groups = self.server.upstreams();
        let servers = groups.iter().flat_map(|group| &group.servers);
        let mut upstreams: Vec<String> = servers.map(|server| server.peer.to_string()).collect();
        upstreams.sort();
        upstreams.dedup();
        let listening: Vec<IpAddr> = self.open.iter().map(|(addr, _)| addr.ip()).collect();
        serde_json::json!({
            "queries": seen.came, "fromZones": (counts.from_zones + counts.from_cache + at_once).saturating_sub(cached),
            "fromCache": cached, "forwarded": counts.forwarded, "refused": counts.refused,
            "unanswered": counts.unanswered, "searches": counts.searches, "waiting": self.server.waiting(),
            "silent": seen.silent, "turnedAway": seen.turned_away, "tooLong": seen.cut, "unsent": seen.unsent,
            "dropped": seen.dropped, "reloads": self.reloads.done, "reloadsFailed": self.reloads.failed,
            "upstreams": upstreams, "listening": listening,
            "replies": {
                "NOERROR": self.replies.no_error + seen.replied[0],
                "SERVFAIL": self.replies.serv_fail + seen.replied[2] + seen.turned_away,
                "NXDOMAIN": self.replies.nx_domain + seen.replied[3], "other": self.replies.other + others,
            },
        })
    }

    fn metrics(&self) -> String {
        metrics::text(&metrics::Seen {
            site: self.server.site(),
            server: &self.server,
            reloads: self.reloads,
            dropped: self.doors.workers.tallied().dropped,
            silent_since: self.doors.site.source().silent_since,
            reused: self.dialer.reused(),
        })
    }

    fn query(&mut self, asked: Asked) {
        let now = self.now();
        if asked.reply.is_none() {
            let effects = self.server.renew(&asked.packet, &asked.client, now, &mut random_id);
            return self.carry_out(effects);
        }
        let token = Token(self.next_token);
        self.next_token += 1;
        let effects = self.server.handle_query(token, &asked.packet, &asked.client, now, &mut random_id);
        self.clients.insert(token, (asked, Instant::now()));
        self.carry_out(effects);
    }

    fn hear(&mut self, heard: Heard) {
        let now = self.now();
        let effects = match heard {
            Heard::Reply { exchange, bytes } => self.server.handle_upstream(exchange, &bytes, now, &mut random_id),
            Heard::Failed { exchange, why } => self.server.handle_failure(exchange, &why, now, &mut random_id),
        };
        self.carry_out(effects);
    }

    /// Looks whether files changed, and forgets clients whom nobody will answer.
    fn look(&mut self) {
        self.clients.retain(|_, (_, since)| since.elapsed() < CLIENT_LIFE);
        self.pages.look();
        let config = self.server.site().config().clone();
        let changed = self.files.look(&config);
        let servers = config.resolv_confs();
        if !changed.is_empty() {
            self.prepare(config.clone());
        }
        changed.iter().filter(|file| servers.contains(&file.as_str())).for_each(|file| self.set_servers(file));
    }

    fn carry_out(&mut self, effects: Vec<Effect>) {
        for effect in effects {
            match effect {
                Effect::Reply { token, bytes, served } => self.reply(token, bytes, &served),
                Effect::Error(line) => error!("plugin/errors: {line}"),
                Effect::Part { token, bytes } => self.send(token, bytes),
                Effect::Forget(token) => {
                    if let Some((asked, since)) = self.clients.remove(&token) {
                        self.log(&asked, &[], Rcode::NOERROR, since);
                    }
                }
                Effect::Send(sending) => self.dialer.send(sending),
                Effect::Close(exchange) => self.dialer.close(exchange),
                Effect::Loop { from, peer, stands: true } => warn!(
                    "the upstream {peer} for {from} brings our own queries back: a loop; it is not asked while that is so; \
                     name an upstream that does not ask us"
                ),
                Effect::Loop { from, peer, stands: false } => {
                    info!("the upstream {peer} for {from} does not bring our queries back any more; it is asked again");
                }
            }
        }
    }

    /// One of several messages.
    fn send(&mut self, token: Token, bytes: Vec<u8>) {
        if let Some((Asked { reply: Some(reply), .. }, _)) = self.clients.get_mut(&token) {
            reply(bytes);
        }
    }

    fn reply(&mut self, token: Token, bytes: Vec<u8>, served: &Served) {
        self.replies.count(&bytes);
        if let Some((mut asked, since)) = self.clients.remove(&token) {
            self.server.site().took(served.head, since.elapsed(), 1);
            self.log(&asked, &bytes, served.rcode, since);
            if let Some(reply) = &mut asked.reply {
                reply(bytes);
            }
        }
    }

    /// Writes the line that the block's `log` has for a query; blocks with one bring all of theirs here.
    fn log(&self, asked: &Asked, reply: &[u8], rcode: Rcode, since: Instant) {
        let Ok(query) = Query::parse(&asked.packet) else { return };
        let (client, query_len) = (&asked.client, asked.packet.len());
        let dealt = Dealt { client, query: &query, query_len, reply, rcode, took: since.elapsed() };
        if let Some(line) = self.server.site().log_line(&dealt) {
            info!("{line}");
        }
    }
}

async fn bound(addresses: Vec<SocketAddr>) -> Result<Vec<Listener>, String> {
    let mut listeners = Vec::new();
    for addr in addresses {
        listeners.push(Listener::bind(addr).await.map_err(|error| error.to_string())?);
    }
    Ok(listeners)
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
