//! Serving: a nameserver, told what files or a cluster say, until the process is told to end.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use portolan_agent::dns::{self, DnsError, Handle, Options, Source};
use portolan_dns::corefile::Corefile;
use portolan_dns::corefile::config::{AutopathBy, PodMode};
use portolan_model::{Settings, Snapshot};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::MissedTickBehavior;
use tracing::{error, info, warn};

use crate::dns::ServeArgs;
use crate::dns::configuration::{Configuration, Read, asks_for_cluster, files_without_effect, lameduck};
use crate::dns::objects::{Changed, Objects};
use crate::failure::Failure;
use crate::process::told_to_end;

/// Between two looks at files: a change is served within a few seconds.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// A cluster is read in less, if it answers at all.
const PATIENCE: Duration = Duration::from_secs(5);
/// One that goes on not to answer is told of again.
const TOLD_EVERY: Duration = Duration::from_secs(60);

/// Serves until the process is told to end, and for the Corefile's lameduck time after.
///
/// # Errors
/// Files that cannot be read or are wrong, an address that cannot be bound.
pub async fn serve(args: &ServeArgs) -> Result<(), Failure> {
    let end = told_to_end();
    let mut asked = Asked::listen();
    let (mut configuration, Read { corefile, notes }) =
        Configuration::open(args.corefile.as_deref(), &args.listen, &args.resolv_conf, &args.cluster)?;
    notes.iter().for_each(|note| eprintln!("Note: {note}"));
    let settings = settings(args, &corefile);
    let (objects, first) = open(args, &corefile, &settings).await?;
    if args.check {
        let notes = files_without_effect(&corefile, &configuration.base());
        notes.iter().for_each(|note| eprintln!("Note: {note}"));
        return Ok(());
    }
    let options = Options {
        settings: Arc::new(settings.clone()),
        own: settings.cluster_dns.clone(),
        corefile: corefile.clone(),
        base: configuration.base(),
        listen: dns::Listen::AsWritten(Vec::new()),
        pages: Vec::new(),
        threads: args.threads,
    };
    let handle = start(options, &objects, first).await.map_err(failure)?;
    info!("cluster DNS answers");
    let waiting = Waiting::since(Instant::now());
    let mut serving = Serving { handle, objects, in_force: corefile, waiting };
    serving.follow(&mut configuration, &mut asked, end).await;
    serving.leave().await;
    Ok(())
}

/// Starts with all that is known by now, so that no query is told that it is not.
async fn start(options: Options, objects: &Objects, first: Option<Changed>) -> Result<Handle, DnsError> {
    let known = match (&first, objects) {
        (Some(Changed { news, .. }), _) if news.whole => Some(news.snapshot.clone()),
        (None, Objects::None) => Some(Arc::new(Snapshot::empty(options.settings.clone()))),
        _ => None,
    };
    let handle = match known {
        Some(snapshot) => dns::start_knowing(options, &snapshot).await?,
        None => dns::start(options).await?,
    };
    // What was known at the start is found to be alike.
    first.into_iter().for_each(|changed| tell(&handle, changed));
    Ok(handle)
}

async fn open(
    args: &ServeArgs,
    corefile: &Corefile,
    settings: &Settings,
) -> Result<(Objects, Option<Changed>), Failure> {
    if let Some(kubeconfig) = &args.kubeconfig {
        return Ok((Objects::of_cluster(kubeconfig, asks_for_pods(corefile), settings).await?, None));
    }
    if args.files.is_empty() && !asks_for_cluster(corefile) {
        return Ok((Objects::None, None));
    }
    if args.files.is_empty() {
        return Err(Failure::input(
            "nothing says which Services there are: give files with -f, or a cluster with --kubeconfig",
        ));
    }
    let (objects, first) = Objects::of_files(&args.files, settings)?;
    Ok((objects, Some(first)))
}

/// Somebody wants to know which pod an address is.
fn asks_for_pods(corefile: &Corefile) -> bool {
    corefile.blocks.iter().any(|block| {
        let verified = block.kubernetes.as_ref().is_some_and(|kubernetes| kubernetes.pods == PodMode::Verified);
        verified || block.autopath.as_ref().is_some_and(|autopath| autopath.by == AutopathBy::Kubernetes)
    })
}

/// The cluster's settings; its DNS is where we answer, if that is known.
fn settings(args: &ServeArgs, corefile: &Corefile) -> Settings {
    let bound = corefile.blocks.iter().flat_map(|block| &block.bind).filter(|ip| !ip.is_unspecified());
    let mut own: Vec<IpAddr> = bound.copied().collect();
    own.sort();
    own.dedup();
    let mut settings = args.cluster.settings("files");
    if !own.is_empty() {
        settings.cluster_dns = own;
    }
    settings
}

fn failure(error: DnsError) -> Failure {
    match error {
        DnsError::Bind { .. } => Failure::machine(error),
        _ => Failure::input(error.to_string().replace('\n', "\nportolan: ")),
    }
}

fn tell(handle: &Handle, changed: Changed) {
    let Changed { news, pods } = changed;
    news.complaints.iter().for_each(|complaint| warn!("{}: {}", complaint.object, complaint.message));
    handle.pods(pods);
    handle.zones(news.snapshot, news.delta, news.whole);
}

/// Signals that ask for a look at every file, reload or not: SIGHUP, and SIGUSR1 as CoreDNS has it.
struct Asked(Vec<Signal>);

impl Asked {
    fn listen() -> Self {
        let kinds = [SignalKind::hangup(), SignalKind::user_defined1()];
        Self(kinds.into_iter().filter_map(|kind| signal(kind).ok()).collect())
    }

    async fn next(&mut self) {
        let waiting = self.0.iter_mut().map(|signal| Box::pin(signal.recv()));
        futures::future::select_all(waiting).await;
    }
}

struct Serving {
    handle: Handle,
    objects: Objects,
    in_force: Corefile,
    waiting: Waiting,
}

/// For a cluster to be told whole, which people are told of if it takes long.
struct Waiting {
    /// Told of next.
    next: Instant,
    was_told: bool,
}

impl Waiting {
    fn since(start: Instant) -> Self {
        Self { next: start + PATIENCE, was_told: false }
    }

    fn look(&mut self, objects: &Objects, now: Instant) {
        match objects.awaited() {
            Some(awaited) if now >= self.next => {
                warn!(
                    "{awaited}; what is not known of the cluster is SERVFAIL until then, and /ready is 503; see that the \
                     API server answers there"
                );
                (self.next, self.was_told) = (now + TOLD_EVERY, true);
            }
            None if self.was_told => {
                info!("the cluster was read in full");
                self.was_told = false;
            }
            _ => {}
        }
    }
}

impl Serving {
    async fn follow(&mut self, configuration: &mut Configuration, asked: &mut Asked, end: impl Future<Output = ()>) {
        let mut look = tokio::time::interval(LOOK_EVERY);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut end = std::pin::pin!(end);
        loop {
            tokio::select! {
                () = &mut end => return,
                _ = look.tick() => self.look(configuration, false).await,
                () = asked.next() => self.look(configuration, true).await,
                changed = self.objects.next() => tell(&self.handle, changed),
            }
        }
    }

    async fn look(&mut self, configuration: &mut Configuration, asked: bool) {
        let (changed, problems) = self.objects.look();
        problems.iter().for_each(|problem| error!("{problem}; what was read before stays"));
        self.waiting.look(&self.objects, Instant::now());
        changed.into_iter().for_each(|changed| tell(&self.handle, changed));
        match configuration.look(asked) {
            None => {}
            Some(Ok(Read { corefile, notes })) => {
                notes.iter().for_each(|note| info!("{note}"));
                self.configure(configuration, corefile).await;
            }
            Some(Err(problems)) => refused(&problems),
        }
    }

    async fn configure(&mut self, configuration: &mut Configuration, corefile: Corefile) {
        if let Err(error) = self.handle.configure(corefile.clone()).await {
            return refused(&error.to_string().lines().map(str::to_owned).collect::<Vec<_>>());
        }
        info!("the configuration was read anew");
        configuration.in_force(&corefile);
        self.in_force = corefile;
    }

    /// Says that it will end, and goes on answering those who have not heard.
    async fn leave(&self) {
        let unready = Some("this DNS is about to end".to_owned());
        self.handle.source(Source { unready, ..Source::default() });
        let lameduck = lameduck(&self.in_force);
        if lameduck > Duration::ZERO {
            info!(?lameduck, "told to end; answering goes on for a while");
        }
        tokio::select! {
            () = tokio::time::sleep(lameduck) => {}
            () = told_to_end() => {}
        }
    }
}

fn refused(problems: &[String]) {
    problems.iter().for_each(|problem| error!("{problem}; the configuration before stays"));
}
