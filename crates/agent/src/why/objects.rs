//! What is in place for an object: a Service, a Pod, a Node.

use portolan_model::{NsName, ObjectKind, ObjectRef, RouteCause, RouteKind, ServiceKind, Text};
use portolan_story::history::Fragment;
use portolan_story::why::{Because, Nothing};

use crate::why::answer::{Asker, Found};
use crate::why::{records, rules};

/// Everything in place here for `object`.
pub(super) fn find(asker: &Asker<'_, '_>, object: &ObjectRef) -> Found {
    let mut found = match object.kind {
        ObjectKind::Service => service(asker, &object.key),
        ObjectKind::Pod => pod(asker, &object.key),
        _ => node(asker, &object.key.name),
    };
    found.in_place.extend(asker.records.into_iter().flat_map(|known| records::of(known, object)));
    found.objects.push(object.clone());
    found
}

fn nothing(because: Because, says: String) -> Option<Nothing> {
    Some(Nothing { because, says, near: Vec::new() })
}

fn service(asker: &Asker<'_, '_>, key: &NsName) -> Found {
    let view = asker.view;
    let Some(service) = view.snapshot.services.get(key) else {
        let nothing = nothing(Because::NoSuchObject, format!("this node knows no Service {key}"));
        // It may have been there a moment ago.
        return Found { nothing, fragments: vec![Fragment::Service(key.clone())], ..Found::default() };
    };
    let why_no_rule = match &service.spec.kind {
        _ if view.proxy.is_left_out(key) => Some((
            Because::Refused,
            "the kernel refuses its rules, and it is left out; an Event FailedToProgram on it says why".to_owned(),
        )),
        ServiceKind::Headless => Some((
            Because::NotProxied,
            "it is headless (clusterIP: None): DNS answers its pods' addresses, and no rule is needed".to_owned(),
        )),
        ServiceKind::ExternalName(to) => Some((
            Because::NotProxied,
            format!("it is an ExternalName: DNS answers a CNAME to {to}, and no rule is needed"),
        )),
        _ if !service.spec.is_proxied(&view.snapshot.settings.proxy) => Some((
            Because::NotProxied,
            "its labels give it to another service proxy, or to none: this node writes no rule for it".to_owned(),
        )),
        _ => None,
    };
    let object = ObjectRef { kind: ObjectKind::Service, key: key.clone() };
    let in_place = if why_no_rule.is_some() { Vec::new() } else { rules::of(view, &object) };
    let nothing = why_no_rule.and_then(|(because, says)| nothing(because, says));
    Found { in_place, nothing, fragments: vec![Fragment::Service(key.clone())], ..Found::default() }
}

/// Its own routes and host ports, if it is here, and of each Service that has it as an endpoint what leads to it.
fn pod(asker: &Asker<'_, '_>, key: &NsName) -> Found {
    let view = asker.view;
    let mut found = Found { only_pod: Some(key.clone()), ..Found::default() };
    let object = ObjectRef { kind: ObjectKind::Pod, key: key.clone() };
    let is_its = |cause: &RouteCause| *cause == RouteCause::Object(object.clone());
    for (dst, route) in view.snapshot.routes.iter().filter(|(_, route)| is_its(&route.cause)) {
        found.in_place.push(asker.route_told(route));
        found.fragments.push(Fragment::Route(*dst));
    }
    let is_here = view.snapshot.attachments.contains_key(key);
    found.fragments.extend(is_here.then(|| Fragment::Link(key.clone())));
    found.in_place.extend(rules::of(view, &object));
    let services = view.snapshot.services.iter().filter(|(_, service)| {
        service.ports.iter().flat_map(|port| &port.endpoints).any(|endpoint| endpoint.pod.as_ref() == Some(key))
    });
    found.fragments.extend(services.map(|(service, _)| Fragment::Service(service.clone())));
    if found.in_place.is_empty() {
        let says = "it is not on this node's pod network, and no Service leads to it".to_owned();
        found.nothing = nothing(Because::Elsewhere, says);
    }
    found
}

/// Routes to its pods: its own block if it is this node, else what BGP told of it.
fn node(asker: &Asker<'_, '_>, name: &Text) -> Found {
    let snapshot = asker.view.snapshot;
    let Some(node) = snapshot.nodes.get(name) else {
        let nothing = nothing(Because::NoSuchObject, format!("this node knows no Node {name}"));
        return Found { nothing, ..Found::default() };
    };
    let routes = snapshot.routes.values().filter(|route| match (&route.cause, &route.kind) {
        (RouteCause::Object(object), _) => object.kind == ObjectKind::Node && object.key.name == *name,
        (_, RouteKind::Via { gateway }) => node.addresses.contains(gateway),
        _ => false,
    });
    let (mut in_place, mut fragments) = (Vec::new(), Vec::new());
    for route in routes {
        in_place.push(asker.route_told(route));
        fragments.push(Fragment::Route(route.dst));
    }
    let object = ObjectRef { kind: ObjectKind::Node, key: NsName::new("", name.clone()) };
    in_place.extend(rules::of(asker.view, &object));
    let says = "no route leads to its pods: it has no pod range, or BGP has told nothing of it".to_owned();
    let nothing = if in_place.is_empty() { nothing(Because::Elsewhere, says) } else { None };
    Found { in_place, fragments, nothing, ..Found::default() }
}
