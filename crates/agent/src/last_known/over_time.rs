//! What may go wrong between two moments: a file that is read while it is written, an age that stands still, a nameserver
//! that is told only once.

use std::sync::atomic::{AtomicBool, Ordering};

use portolan_model::{Fact, Facts, NsName, Service};

use super::tests::settings;
use super::*;
use crate::dns;

/// Services, none like another.
fn many(seed: u8) -> Facts {
    let mut facts = Facts::default();
    facts.apply(Fact::Namespace("default".into(), Some(())));
    let service = |n: u32| {
        let ip = std::net::IpAddr::from((0x0a60_0000 + n * 7 + u32::from(seed)).to_be_bytes());
        let spec = Service { cluster_ips: vec![ip], ..Service::default() };
        Fact::Service(NsName::new("default", format!("s{seed}-{n}")), Some(spec))
    };
    facts.apply_all((0..150).map(service));
    facts
}

#[test]
fn who_reads_while_another_writes_finds_one_state_or_the_other_whole() {
    let dir = tempfile::tempdir().expect("a folder");
    let states = [many(1), many(2)];
    save(&path(dir.path()), &states[0], &settings()).expect("saved");
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for turn in 0..20 {
                save(&path(dir.path()), &states[turn % 2], &settings()).expect("saved");
            }
            done.store(true, Ordering::Relaxed);
        });
        while !done.load(Ordering::Relaxed) {
            let found = recall(dir.path(), &settings()).expect("it is there, and whole").facts;
            assert!(states.contains(&found), "half of one and half of another");
        }
    });
}

#[test]
fn age_grows_until_somebody_is_heard_and_is_what_metrics_and_status_say() {
    let freshness = Freshness::new(Some(SystemTime::now() - Duration::from_secs(4000)));
    let said = |freshness: &Freshness| {
        let text = freshness.metrics();
        let line = text.lines().find(|line| line.starts_with("portolan_dns_state_age_seconds ")).expect("a sample");
        let secs: f64 = line.split(' ').nth(1).and_then(|number| number.parse().ok()).expect("a number");
        (secs, freshness.json()["ageSecs"].as_f64().expect("a number"))
    };
    let (metric, status) = said(&freshness);
    assert!((4000.0..4600.0).contains(&metric) && (4000.0..4600.0).contains(&status), "{metric} {status}");
    std::thread::sleep(Duration::from_millis(20));
    assert!(said(&freshness).0 >= metric + 0.02, "it grows");
    freshness.heard();
    assert!(said(&freshness).0 < 600.0, "the cluster was heard");
    assert_eq!(freshness.json()["recalled"], true, "it was heard, not told whole");
    freshness.told();
    assert_eq!(freshness.json()["recalled"], false);
    assert_eq!(Freshness::new(None).metrics(), "", "of nothing there is no age");
}

/// A nameserver that listens nowhere, serves no page and sends no packet.
pub(crate) async fn quiet_nameserver() -> dns::Handle {
    let mut corefile = dns::shipped(&settings(), 30, "/nowhere".as_ref()).expect("a name");
    for block in &mut corefile.blocks {
        (block.health, block.ready, block.metrics, block.detects_loops) = (None, None, None, false);
    }
    let options = dns::Options {
        settings: Arc::new(settings()),
        own: Vec::new(),
        corefile,
        base: "/nowhere".into(),
        listen: dns::Listen::At(Vec::new()),
        pages: Vec::new(),
        threads: 1,
    };
    dns::start(options).await.expect("it starts")
}

#[tokio::test]
async fn the_nameserver_is_told_each_time_that_readiness_turns() {
    let handle = quiet_nameserver().await;
    let told =
        |unready: Option<&str>| handle.source(dns::Source { silent_since: None, unready: unready.map(Into::into) });
    told(Some("nobody looks after it yet"));
    let freshness = Arc::new(Freshness::new(None));
    tokio::spawn(watch_over(freshness.clone(), handle.clone()));
    let snapshot = Arc::new(portolan_model::Snapshot::empty(Arc::new(settings())));
    handle.zones(snapshot.clone(), portolan_model::Delta::all(&snapshot), true);
    handle.records().await.expect("it runs");
    assert!(!handle.is_ready(), "the cluster was never read");
    freshness.told();
    until(|| handle.is_ready()).await;
    freshness.lock().last = None;
    until(|| !handle.is_ready()).await;
    freshness.told();
    until(|| handle.is_ready()).await;
}

async fn until(holds: impl Fn() -> bool) {
    for _ in 0..3000 {
        if holds() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("readiness never turned");
}
