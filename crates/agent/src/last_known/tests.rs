//! The file and back, what is left aside, and what DNS is told while a cluster is read anew.

use std::net::IpAddr;
use std::time::Instant;

use portolan_model::{
    Delta, EndpointFact, Fact, Family, NsName, Proto, Service, ServicePortFact, Slice, SlicePort, Snapshot, resolve,
};

use super::file::{self, Unusable};
use super::freshness::{Heard, source};
use super::*;

const OFTEN: Duration = Duration::from_millis(5);

pub(super) fn settings() -> Settings {
    Settings {
        node: "node-1".into(),
        cluster_cidrs: vec!["10.244.0.0/16".parse().expect("a prefix")],
        service_cidrs: vec!["10.96.0.0/12".parse().expect("a prefix")],
        cluster_dns: vec!["10.96.0.10".parse().expect("an address")],
        cluster_domain: "cluster.local".into(),
        proxy: Default::default(),
    }
}

fn service(name: &str, last: u8) -> [Fact; 2] {
    let key = NsName::new("default", name);
    let port = ServicePortFact { name: "http".into(), proto: Proto::Tcp, port: 80, node_port: 0 };
    let spec = Service { cluster_ips: vec![IpAddr::from([10, 96, 0, last])], ports: vec![port], ..Service::default() };
    let slice = Slice {
        service: key.clone(),
        family: Family::V4,
        ports: vec![SlicePort { name: "http".into(), proto: Proto::Tcp, port: 8080 }],
        endpoints: vec![EndpointFact::ready_at(IpAddr::from([10, 244, 0, last]))],
    };
    [Fact::Service(key.clone(), Some(spec)), Fact::Slice(key, Some(slice))]
}

fn facts(services: u8) -> Facts {
    let mut facts = Facts::default();
    facts.apply(Fact::Namespace("default".into(), Some(())));
    facts.apply_all((1..=services).flat_map(|n| service(&format!("s{n}"), n)));
    facts
}

fn written(facts: &Facts) -> Vec<u8> {
    let mut bytes = Vec::new();
    file::write(facts, &settings(), &mut bytes).expect("into memory");
    bytes
}

#[test]
fn what_was_written_is_read_as_it_was() {
    for count in [0, 1, 200] {
        assert_eq!(file::read(&*written(&facts(count)), &settings()).expect("ours"), facts(count));
    }
    let kib = written(&facts(200)).len() / 1024;
    assert!(kib < 20, "200 Services are small: {kib} KiB");
}

#[test]
fn a_file_that_is_cut_or_changed_anywhere_is_left_aside() {
    let whole = written(&facts(3));
    for end in 0..whole.len() {
        assert!(matches!(file::read(&whole[..end], &settings()), Err(Unusable::Damaged(_))), "cut at {end}");
    }
    for at in 10..whole.len() {
        let mut changed = whole.clone();
        changed[at] ^= 0x20;
        let read = file::read(&*changed, &settings());
        assert!(read.as_ref().is_err() || read.is_ok_and(|read| read == facts(3)), "changed at {at}");
    }
}

#[test]
fn a_file_of_another_cluster_or_version_is_left_aside_with_a_word() {
    let other = Settings { cluster_domain: "other.local".into(), ..settings() };
    let error = file::read(&*written(&facts(1)), &other).expect_err("foreign").to_string();
    assert!(error.contains("another cluster: cluster.local 10.244.0.0/16"), "{error}");
    let mut later = Vec::new();
    let mut gzip = flate2::write::GzEncoder::new(&mut later, flate2::Compression::fast());
    std::io::Write::write_all(&mut gzip, b"{\"version\":2,\"anything\":[]}\n").expect("into memory");
    gzip.finish().expect("into memory");
    assert!(matches!(file::read(&*later, &settings()), Err(Unusable::Version(2))));
}

#[test]
fn a_state_that_was_saved_is_recalled_with_its_time_and_nothing_else_is_left() {
    let dir = tempfile::tempdir().expect("a folder");
    assert!(recall(dir.path(), &settings()).is_none(), "a first start");
    save(&path(dir.path()), &facts(2), &settings()).expect("saved");
    let at = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000);
    confirm(&path(dir.path()), at);
    let recalled = recall(dir.path(), &settings()).expect("it is there");
    assert_eq!((recalled.facts, recalled.confirmed), (facts(2), at));
    assert_eq!(std::fs::read_dir(dir.path()).expect("a folder").count(), 1);
    std::fs::write(path(dir.path()), b"not ours").expect("written");
    assert!(recall(dir.path(), &settings()).is_none());
}

#[tokio::test]
async fn a_state_is_written_when_it_differs_and_only_once_it_is_whole() {
    let dir = tempfile::tempdir().expect("a folder");
    let (applied, heard) = watch::channel(Applied { facts: facts(1), slices: 1 });
    let freshness = Arc::new(Freshness::new(None));
    tokio::spawn(keep(path(dir.path()), Arc::new(settings()), heard, freshness.clone(), OFTEN));
    tokio::time::sleep(OFTEN * 20).await;
    assert!(recall(dir.path(), &settings()).is_none(), "a cluster that is half read is no state");
    freshness.told();
    until_recalled(dir.path(), 1).await;
    let inode = || std::os::unix::fs::MetadataExt::ino(&std::fs::metadata(path(dir.path())).expect("it is there"));
    let first = inode();
    applied.send_replace(Applied { facts: facts(1), slices: 2 });
    tokio::time::sleep(OFTEN * 20).await;
    assert_eq!(inode(), first, "nothing that makes names differs");
    applied.send_replace(Applied { facts: facts(2), slices: 3 });
    until_recalled(dir.path(), 2).await;
}

async fn until_recalled(dir: &Path, services: u8) {
    for _ in 0..2000 {
        tokio::time::sleep(OFTEN).await;
        if recall(dir, &settings()).is_some_and(|recalled| recalled.facts == facts(services)) {
            return;
        }
    }
    panic!("{services} Services were never written");
}

#[test]
fn while_a_cluster_is_read_anew_names_stay_as_they_were_and_then_all_are_told() {
    let resolved = |facts: &Facts| resolve(facts, &Snapshot::empty(Arc::new(settings())), &facts.all()).0;
    let mut recalled = Some(resolved(&facts(3)));
    let half = resolved(&facts(1));
    assert_eq!(feed::pass(&mut recalled, &half, &Delta::all(&half), false), None);
    let whole = resolved(&facts(2));
    let told = feed::pass(&mut recalled, &whole, &Delta::default(), true).expect("now");
    let named: Vec<String> = told.services.iter().map(|key| key.name.to_string()).collect();
    assert_eq!(named, ["s1", "s2", "s3"], "s3 has gone meanwhile");
    assert!(told.namespaces.contains("default"));
    // From then on as it comes; and always so where nothing was recalled.
    assert_eq!(feed::pass(&mut recalled, &whole, &Delta::default(), true), Some(Delta::default()));
    assert_eq!(feed::pass(&mut None, &half, &Delta::default(), false), Some(Delta::default()));
}

#[test]
fn readiness_comes_with_the_whole_cluster_and_goes_with_age() {
    let now = Instant::now() + Duration::from_secs(100_000);
    let unready = |last: Option<u64>, told| {
        source(Heard { last: last.map(|age| now - Duration::from_secs(age)), told }, now).unready.unwrap_or_default()
    };
    assert_eq!(unready(None, false), "the cluster was never read");
    assert!(unready(Some(1), false).starts_with("the cluster is being read"));
    assert_eq!(unready(Some(1), true), "");
    assert_eq!(unready(Some(300), true), "");
    assert_eq!(unready(Some(301), true), "what is known of the cluster is 301 s old");
    assert_eq!(unready(Some(301), false), "what is known of the cluster is 301 s old");
    let silent = |age| source(Heard { last: Some(now - Duration::from_secs(age)), told: true }, now).silent_since;
    assert_eq!((silent(20), silent(26)), (None, Some(now - Duration::from_secs(26))));
}
