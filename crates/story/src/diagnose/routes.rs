//! Routes: a node sent the packet nowhere, or another way than to whom it is for.

use std::net::IpAddr;

use ipnet::IpNet;
use portolan_model::{ObjectKind, Text};

use crate::diagnose::Cause;
use crate::evidence::{Fate, ProbeEnd, RouteTold, RouteWay};
use crate::tell::Case;
use crate::tell::hop::{node_object, object};
use crate::tell::route;
use crate::tell::trail::Leg;

/// A packet that vanished or went astray: the last one there, else the last one back.
pub(super) fn cause(case: &Case<'_>) -> Option<Cause> {
    let answer = case.trail.back.last().filter(|leg| leg.passage.fate == Fate::Vanished);
    let leg = answer.or_else(|| case.trail.last())?;
    let is_lost = leg.passage.fate == Fate::Vanished || is_unreachable(case);
    let to = leg.out().dst.ip();
    let cause = match (case.knows.block_of(to), case.knows.home(to)) {
        (Some((owner, block)), None) => nobodys(case, leg, to, &owner, block, is_lost),
        (block, Some(home)) if home != *leg.node => {
            astray(case, leg, to, &home, block.map(|(_, block)| block), is_lost)
        }
        (_, Some(home)) if is_lost => Some(own(leg, to, &home)),
        _ if is_lost => Some(outside(case, leg, to)),
        _ => None,
    };
    let is_answer = answer.is_some();
    cause.map(|cause| match is_answer {
        true => Cause { because: cause.because.map(|why| format!("the answer is lost: {why}")), ..cause },
        false => cause,
    })
}

fn is_unreachable(case: &Case<'_>) -> bool {
    case.probed.is_some_and(|probed| matches!(probed.end, ProbeEnd::Unreachable { .. }))
}

/// An address that no pod has: its node's blackhole takes it.
fn nobodys(case: &Case<'_>, leg: &Leg<'_>, to: IpAddr, owner: &Text, block: IpNet, is_lost: bool) -> Option<Cause> {
    let listed = case.knows.cluster().and_then(|cluster| {
        let ports = cluster.services.values().flat_map(|view| view.ports.iter());
        ports
            .into_iter()
            .find(|port| port.endpoints.iter().any(|endpoint| endpoint.addr == to))
            .map(|port| port.key.service.clone())
    });
    let held = match leg.node == owner && is_lost {
        true => format!("{owner} drops what is for free addresses of its block {block}"),
        false => format!("it is a free address of {owner}'s block {block}"),
    };
    match listed {
        Some(service) => Some(
            Cause::new(format!("no pod has {to}, but an EndpointSlice of Service {service} lists it; {held}"))
                .of(object(ObjectKind::Service, &service))
                .mend(format!(
                    "kubectl -n {} get endpointslices -l kubernetes.io/service-name={} -o yaml tells who wrote it",
                    service.namespace, service.name
                )),
        ),
        None => Some(
            Cause::new(format!("no pod has {to}; {held}"))
                .of(node_object(owner))
                .mend("ask for the pod by its Service, as pods change their addresses: kubectl get pods -A -o wide"),
        ),
    }
}

/// It is for another node, and the route here does not lead there. `None`: the route is right.
fn astray(
    case: &Case<'_>,
    leg: &Leg<'_>,
    to: IpAddr,
    home: &Text,
    block: Option<IpNet>,
    is_lost: bool,
) -> Option<Cause> {
    let route = leg.passage.route.as_ref();
    if !is_lost && route.is_none_or(|route| leads_to(case, route, home)) {
        return None;
    }
    let node = leg.node;
    let wanted = block.map_or_else(|| to.to_string(), |block| format!("{block}, {home}'s block"));
    if let Some(route) = route.filter(|route| is_strangers(route, block)) {
        let because = format!("a foreign route on {node} takes what is for {home}: {}", route::says(route));
        let prefix = route.prefix.map_or_else(|| to.to_string(), |prefix| prefix.to_string());
        let kind = match route.kind {
            RouteWay::Blackhole => "blackhole ",
            RouteWay::Unreachable => "unreachable ",
            RouteWay::Forward | RouteWay::Local => "",
        };
        return Some(Cause::new(because).of(node_object(node)).mend(format!("on {node}: ip route del {kind}{prefix}")));
    }
    if route.is_some_and(|route| leads_to(case, route, home)) {
        return Some(vanished_well(leg));
    }
    let by = route
        .filter(|route| route.kind == RouteWay::Forward)
        .map(|route| format!(", so {} took it", route::says(route)));
    let (session, mend) = session(case, node, home);
    let because = format!("{node} has no route to {wanted}{}; {session}", by.unwrap_or_default());
    Some(Cause::new(because).of(node_object(home)).mend(mend))
}

fn leads_to(case: &Case<'_>, route: &RouteTold, home: &Text) -> bool {
    let by_gateway = route.gateway.and_then(|gateway| case.knows.node_at(gateway));
    let direct = || {
        route.gateway.is_none() && route.link.is_some() && route.prefix.is_some_and(|prefix| prefix.prefix_len() > 0)
    };
    route.kind == RouteWay::Forward && (by_gateway.as_ref() == Some(home) || (by_gateway.is_none() && direct()))
}

/// More of a route than any of ours: within the block, for no object of ours and told by no peer.
fn is_strangers(route: &RouteTold, block: Option<IpNet>) -> bool {
    let within = match (route.prefix, block) {
        (Some(prefix), Some(block)) => block.contains(&prefix),
        (Some(prefix), None) => prefix.prefix_len() > 0,
        (None, _) => false,
    };
    within && route.object.is_none() && route.told_by.is_none()
}

/// How the BGP session stands that should have brought the route, and what to do.
fn session(case: &Case<'_>, node: &Text, home: &Text) -> (String, String) {
    let addresses = case.knows.cluster().and_then(|cluster| cluster.nodes.get(home)).map(|node| node.addresses.clone());
    let addresses = addresses.unwrap_or_default();
    let is_down = case.knows.cluster().and_then(|cluster| cluster.nodes.get(home)).is_some_and(|node| !node.ready);
    let look = format!("portolan node status --node {node} shows its sessions");
    let Some(sessions) = case.knows.sessions.get(node) else {
        let down =
            if is_down { format!("{home} is not Ready") } else { "how its BGP sessions stand is not known".to_owned() };
        return (down, look);
    };
    let found = sessions.iter().find(|session| addresses.contains(&session.peer));
    let mend = if is_down { format!("bring {home} back: kubectl describe node {home}") } else { look };
    match found {
        None => (format!("it has no BGP session with {home}"), mend),
        Some(session) if session.is_up() => (format!("its BGP session with {home} is up, but did not bring it"), mend),
        Some(session) => {
            let why = session.last_error.as_ref().map(|why| format!(": {why}")).unwrap_or_default();
            let state = if is_down { format!("{home} is not Ready, and the") } else { "its".to_owned() };
            (format!("{state} BGP session with {home} is down ({}{why})", session.state), mend)
        }
    }
}

fn vanished_well(leg: &Leg<'_>) -> Cause {
    let route = leg.passage.route.as_ref().map(route::says).unwrap_or_default();
    Cause::new(format!("the kernel of {} dropped it after its rules let it pass; its route is {route}", leg.node))
        .of(node_object(leg.node))
        .mend("a reverse path filter does so: sysctl net.ipv4.conf.all.rp_filter; or nobody answers for the next hop: ip neigh")
}

/// Its own pod or address, and yet it went nowhere.
fn own(leg: &Leg<'_>, to: IpAddr, home: &Text) -> Cause {
    let route = leg.passage.route.as_ref();
    let is_right = route.is_some_and(|route| matches!(route.kind, RouteWay::Forward | RouteWay::Local));
    if is_right {
        return vanished_well(leg);
    }
    let found = route.map_or_else(|| "no route".to_owned(), route::says);
    Cause::new(format!("{home} has no route to its own {to}: it found {found}"))
        .of(node_object(home))
        .mend(format!("portolan why --route {to} --node {home}"))
}

fn outside(case: &Case<'_>, leg: &Leg<'_>, to: IpAddr) -> Cause {
    let said = match case.probed.map(|probed| &probed.end) {
        Some(ProbeEnd::Unreachable { by: Some(by), why }) => Some(format!("{} says: {why}", case.name(*by))),
        _ => None,
    };
    let route = leg.passage.route.as_ref();
    let is_right = route.is_some_and(|route| matches!(route.kind, RouteWay::Forward | RouteWay::Local));
    match (said, is_right) {
        (Some(said), _) => Cause::new(format!("{said}, of {to}"))
            .of(node_object(leg.node))
            .mend(format!("look at the way to {to} from there")),
        (None, true) => vanished_well(leg),
        (None, false) => {
            let found = route.map_or_else(|| "no route".to_owned(), route::says);
            Cause::new(format!("{} has no way to {to}: {found}", leg.node))
                .of(node_object(leg.node))
                .mend(format!("on {}: ip route get {to}", leg.node))
        }
    }
}
