//! What a core remembers of its writes, over a kernel in memory.

use portolan_story::history::{Fragment, Known, Mark, Origin};

use super::*;

fn web() -> Fragment {
    Fragment::Service(NsName::new("default", "web"))
}

fn mark<'a>(agent: &'a Agent, fragment: &Fragment) -> &'a Mark {
    agent.core.history.mark_of(fragment).unwrap_or_else(|| panic!("{fragment:?} is in place"))
}

/// `object` as of this resourceVersion, seen so many seconds after 1970.
fn seen(mut object: Object, version: &str, secs: u64) -> Input {
    match &mut object {
        Object::Service(service) => service.metadata.resource_version = Some(version.into()),
        Object::EndpointSlice(slice) => {
            slice.metadata.resource_version = Some(version.into());
            let trigger = ("endpoints.kubernetes.io/last-change-trigger-time".into(), "1970-01-01T00:00:01Z".into());
            slice.metadata.annotations = Some([trigger].into());
        }
        _ => {}
    }
    Input::Cluster(Event::Value(object), SystemTime::UNIX_EPOCH + Duration::from_secs(secs))
}

fn versions(mark: &Mark) -> Vec<(u64, i64)> {
    let version = |origin: &Origin| match origin {
        Origin::Object { version, .. } => *version,
        _ => 0,
    };
    mark.step.causes.iter().map(|cause| (version(&cause.origin), cause.seen_us)).collect()
}

#[test]
fn a_service_is_as_old_as_the_slice_that_changed_it_last_and_a_route_as_its_pod() {
    let kernel = Kernel::new();
    let mut agent = Agent::start(&kernel);
    agent.take(cluster());
    let started = mark(&agent, &web()).clone();
    assert_eq!(started.written.known, Known::Exactly, "the kernel held nothing");
    agent.take([seen(slice("web", &[1, 3]), "812", 7)]);
    let changed = mark(&agent, &web()).clone();
    assert_eq!(changed.number, started.number + 1);
    assert_eq!(versions(&changed), [(812, 7_000_000)]);
    assert_eq!(changed.step.causes[0].triggered_us, Some(1_000_000));
    assert!(changed.began_us <= changed.written.at_us && started.written.at_us <= changed.began_us);
    let endpoint = |n: u8| changed.endpoint(format!("10.244.0.{n}:80").parse().expect("an address"));
    assert_eq!(endpoint(1), Some(started.written));
    assert_eq!(endpoint(3), Some(changed.written));
    let route = mark(&agent, &Fragment::Route("10.244.0.1/32".parse().expect("a prefix")));
    assert!(matches!(&route.step.causes[0].origin, Origin::Attached { pod } if &*pod.name == "web"));
    // Seen by a watch that began anew, and gone: only its name is told then.
    let gone = object(json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
        "metadata": {"name": "web", "namespace": "default"}, "endpoints": [],
    }));
    agent.take([Input::Cluster(Event::Gone(gone), SystemTime::UNIX_EPOCH)]);
    assert!(matches!(mark(&agent, &web()).step.causes[0].origin, Origin::Object { gone: true, .. }));
}

#[test]
fn what_a_restarted_agent_finds_as_wanted_is_older_and_what_it_has_to_mend_is_not() {
    let kernel = Kernel::new();
    let mut agent = Agent::start(&kernel);
    agent.take(cluster());
    agent.take([value(service("db", 30)), value(slice("db", &[5]))]);
    let both = || cluster().into_iter().chain([value(service("db", 30)), value(slice("db", &[5]))]);
    let db = Fragment::Service(NsName::new("default", "db"));
    let route = Fragment::Route("10.244.0.1/32".parse().expect("a prefix"));

    let mut again = Agent::start(&kernel);
    again.take(both());
    for fragment in [&web(), &db, &route] {
        assert_eq!(mark(&again, fragment).written.known, Known::Older, "{fragment:?}");
    }
    // While nobody looked, another endpoint came to one of them.
    let mut third = Agent::start(&kernel);
    let changed = both().filter(|input| !format!("{input:?}").contains("10.244.0.5"));
    third.take(changed.chain([value(slice("db", &[5, 6]))]));
    assert_eq!(mark(&third, &web()).written.known, Known::Older);
    assert_eq!(mark(&third, &db).written.known, Known::Exactly);
    third.take([value(slice("web", &[1]))]);
    assert_eq!(mark(&third, &web()).written.known, Known::Exactly);
}

#[test]
fn what_the_kernel_did_not_take_has_no_age_until_it_did() {
    let kernel = Kernel::new();
    let mut agent = Agent::start(&kernel);
    agent.take(cluster());
    let before = mark(&agent, &web()).number;
    kernel.rules.refuse_next("Another app is currently holding the xtables lock");
    kernel.network.refuse_next(libc::EBUSY);
    agent.take([learned(3), seen(slice("web", &[1]), "9", 1)]);
    let route = Fragment::Route("10.244.3.0/26".parse().expect("a prefix"));
    assert_eq!(agent.core.history.mark_of(&route), None);
    assert_eq!(mark(&agent, &web()).number, before);
    agent.take([]);
    assert_eq!(versions(mark(&agent, &web())), [(9, 1_000_000)], "with the cause of then");
    assert!(matches!(mark(&agent, &route).step.causes[0].origin, Origin::Learned { .. }));
}
