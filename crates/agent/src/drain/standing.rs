//! How a pod stands with its Services, as the EndpointSlices have it. Pure.

use portolan_model::{EndpointFact, Facts, NsName, Slice};

/// From harmless to in full use; of several Services the greatest counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Standing {
    /// No Service selects it.
    Unlisted,
    /// Listed, and no rule chooses it: it terminates and does not serve. (Those of a Service that publishes unready
    /// addresses do, until the pod is gone: it asked for that.)
    Mute,
    /// It terminates, and another endpoint is ready: chosen only if that one goes too.
    Leaving,
    /// It terminates, and for want of a ready endpoint it is still chosen (KEP-1669).
    Sole,
    /// A Service selects it, and the slices do not have it yet.
    Awaited,
    /// Not yet marked as terminating.
    Listed,
}

/// Where `pod` stands with these Services.
pub(crate) fn of(facts: &Facts, services: &[NsName], pod: &NsName) -> Standing {
    let standings = services.iter().map(|service| with(facts, service, pod));
    standings.max().unwrap_or(Standing::Unlisted)
}

fn with(facts: &Facts, service: &NsName, pod: &NsName) -> Standing {
    if !facts.services.contains_key(service) {
        return Standing::Unlisted;
    }
    let keys = facts.slices_of.get(service).into_iter().flatten();
    let slices: Vec<&Slice> = keys.filter_map(|key| facts.slices.get(key).map(|slice| &**slice)).collect();
    let standings = slices.iter().flat_map(|slice| {
        let own = slice.endpoints.iter().filter(|endpoint| endpoint.pod.as_ref() == Some(pod));
        own.map(|endpoint| of_endpoint(endpoint, slice, &slices))
    });
    standings.max().unwrap_or(Standing::Awaited)
}

fn of_endpoint(own: &EndpointFact, slice: &Slice, slices: &[&Slice]) -> Standing {
    match own {
        EndpointFact { terminating: false, .. } => Standing::Listed,
        EndpointFact { serving: false, .. } => Standing::Mute,
        _ if slice.ports.is_empty() => Standing::Leaving,
        _ if slice.ports.iter().all(|port| has_ready(slices, slice, port)) => Standing::Leaving,
        _ => Standing::Sole,
    }
}

/// A rule is made per port of the Service; another endpoint counts only where it has that port too.
fn has_ready(slices: &[&Slice], own: &Slice, port: &portolan_model::SlicePort) -> bool {
    let same = |other: &portolan_model::SlicePort| (&other.name, other.proto) == (&port.name, port.proto);
    slices.iter().filter(|other| other.family == own.family && other.ports.iter().any(same)).any(|other| {
        // A Service that publishes unready addresses calls those ready that terminate.
        other.endpoints.iter().any(|endpoint| endpoint.ready && !endpoint.terminating)
    })
}

#[cfg(test)]
mod tests {
    use portolan_model::{Fact, Family, Proto, Service, SlicePort};

    use super::*;

    fn name(text: &str) -> NsName {
        NsName::new("default", text)
    }

    fn port(name: &str) -> SlicePort {
        SlicePort { name: name.into(), proto: Proto::Tcp, port: 80 }
    }

    /// `r` ready, `s` serving, `t` terminating.
    fn endpoint(pod: &str, flags: &str) -> EndpointFact {
        EndpointFact {
            ready: flags.contains('r'),
            serving: flags.contains('s'),
            terminating: flags.contains('t'),
            pod: Some(name(pod)),
            ..EndpointFact::ready_at([10, 244, 0, 9].into())
        }
    }

    fn slice(service: &str, ports: &[&str], endpoints: &[(&str, &str)]) -> Slice {
        Slice {
            service: name(service),
            family: Family::V4,
            ports: ports.iter().map(|name| port(name)).collect(),
            endpoints: endpoints.iter().map(|(pod, flags)| endpoint(pod, flags)).collect(),
        }
    }

    fn world(slices: &[Slice]) -> Facts {
        let mut facts = Facts::default();
        for (index, slice) in slices.iter().enumerate() {
            facts.apply(Fact::Service(slice.service.clone(), Some(Service::default())));
            facts.apply(Fact::Slice(name(&format!("slice-{index}")), Some(slice.clone())));
        }
        facts
    }

    fn own(slices: &[Slice], services: &[&str]) -> Standing {
        let services: Vec<NsName> = services.iter().map(|service| name(service)).collect();
        of(&world(slices), &services, &name("own"))
    }

    #[test]
    fn a_pod_stands_as_the_rules_may_choose_it() {
        let rows: &[(&[(&str, &str)], Standing)] = &[
            (&[], Standing::Awaited),
            (&[("other", "rs")], Standing::Awaited),
            (&[("own", "rs"), ("other", "rs")], Standing::Listed),
            (&[("own", ""), ("other", "rs")], Standing::Listed),
            (&[("own", "st"), ("other", "rs")], Standing::Leaving),
            (&[("own", "st"), ("other", "")], Standing::Sole),
            (&[("own", "st"), ("other", "st")], Standing::Sole),
            (&[("own", "st")], Standing::Sole),
            (&[("own", "t"), ("other", "")], Standing::Mute),
            (&[("own", "t"), ("other", "rs")], Standing::Mute),
            // publishNotReadyAddresses: ready whatever happens, and never the other's relief.
            (&[("own", "rst"), ("other", "rst")], Standing::Sole),
            (&[("own", "rst"), ("other", "rs")], Standing::Leaving),
            (&[("own", "rt"), ("other", "rs")], Standing::Mute),
        ];
        for (endpoints, expected) in rows {
            assert_eq!(own(&[slice("web", &["http"], endpoints)], &["web"]), *expected, "{endpoints:?}");
        }
    }

    #[test]
    fn the_service_that_needs_it_most_counts() {
        let easy = slice("easy", &["http"], &[("own", "st"), ("other", "rs")]);
        let needs = slice("needs", &["http"], &[("own", "st")]);
        assert_eq!(own(&[easy.clone(), needs.clone()], &["easy"]), Standing::Leaving);
        assert_eq!(own(&[easy.clone(), needs], &["easy", "needs"]), Standing::Sole);
        assert_eq!(
            own(std::slice::from_ref(&easy), &["easy", "gone"]),
            Standing::Leaving,
            "a Service that is gone needs nobody"
        );
        assert_eq!(own(&[easy], &[]), Standing::Unlisted);
    }

    #[test]
    fn another_endpoint_relieves_only_the_ports_it_has() {
        let both = slice("web", &["http", "admin"], &[("own", "st")]);
        let half = slice("web", &["http"], &[("other", "rs")]);
        assert_eq!(own(&[both.clone(), half], &["web"]), Standing::Sole);
        let whole = slice("web", &["http", "admin"], &[("other", "rs")]);
        assert_eq!(own(&[both, whole], &["web"]), Standing::Leaving);
    }
}
