//! Names: why a name leads nowhere: a slip, another namespace, a headless Service without ready pods, a server that is away.

use std::net::IpAddr;

use portolan_model::{NsName, ObjectKind, ServiceKind};

use crate::diagnose::{Cause, services};
use crate::evidence::{DnsQuery, DnsTold};
use crate::tell::Case;
use crate::tell::hop::object;
use crate::words;

pub(super) fn cause(case: &Case<'_>) -> Cause {
    let Some(dns) = case.probed.and_then(|probed| probed.dns.as_ref()) else {
        return Cause::new(format!("{} leads to no address", case.asked.to));
    };
    if let Some(cause) = server_away(case, dns) {
        return cause;
    }
    let Some(meant) = meant(case, dns) else { return foreign(dns) };
    let known = case.knows.cluster().and_then(|cluster| cluster.services.get(&meant));
    match known.map(|view| &view.spec.kind) {
        Some(ServiceKind::ExternalName(target)) => external(&meant, target, dns),
        Some(ServiceKind::Headless) => headless(case, &meant),
        Some(_) => {
            let server = server(dns).map_or_else(|| "DNS".to_owned(), |server| server.to_string());
            let because = format!("Service {meant} is there, but {server} does not know it");
            Cause::new(because)
                .of(object(ObjectKind::Service, &meant))
                .mend("portolan status tells whether the node's DNS is up to date")
        }
        None => unknown(case, &meant, dns),
    }
}

/// Nobody answered the last question, whichever name it was for.
fn server_away(case: &Case<'_>, dns: &DnsTold) -> Option<Cause> {
    let is_answer = |query: &&DnsQuery| ["NOERROR", "NXDOMAIN", "hosts"].contains(&query.answer.as_str());
    if dns.queries.is_empty() {
        return Some(
            Cause::new("no DNS server is named in the sender's resolv.conf").mend("look at /etc/resolv.conf there"),
        );
    }
    if dns.queries.iter().any(|query| is_answer(&query)) {
        return None;
    }
    let last = dns.queries.last()?;
    let key = case.knows.service_at(last.server).map(|view| view.key.clone());
    let who = key.as_ref().map(|key| format!(" (Service {key})")).unwrap_or_default();
    let number = dns.queries.len();
    let times = if number == 1 { "one query".to_owned() } else { format!("{number} queries") };
    let because = match last.answer.as_str() {
        "timeout" => format!("DNS server {}{who} did not answer {times}", last.server),
        said => format!("DNS server {}{who} says {said} to {}", last.server, last.name),
    };
    let cause = Cause::new(because).of(key.as_ref().map(|key| object(ObjectKind::Service, key)));
    Some(match (last.answer.as_str(), key) {
        ("timeout", Some(key)) => cause
            .mend(format!("look at its pods: kubectl -n {} get pods -l k8s-app={} -o wide", key.namespace, key.name)),
        ("timeout", None) => cause
            .mend(format!("trace the way there: portolan trace {} {}:53 --proto udp", case.asked.from, last.server)),
        _ => cause.mend("look at the servers that it forwards to, in the node's /etc/resolv.conf"),
    })
}

fn server(dns: &DnsTold) -> Option<IpAddr> {
    dns.queries.last().map(|query| query.server)
}

/// The Service that a name would be, by the first query below `svc.DOMAIN`.
fn meant(case: &Case<'_>, dns: &DnsTold) -> Option<NsName> {
    let domain = case.knows.cluster().map_or("cluster.local", |cluster| &*cluster.settings.cluster_domain);
    let end = format!(".svc.{domain}");
    let in_cluster = dns.queries.iter().filter_map(|query| query.name.strip_suffix(&end));
    let exact =
        in_cluster.filter_map(|name| name.split_once('.')).map(|(name, namespace)| NsName::new(name, namespace));
    let keys: Vec<NsName> = exact.map(|swapped| NsName::new(swapped.name, swapped.namespace)).collect();
    let cluster = case.knows.cluster();
    let exists = |key: &&NsName| cluster.is_some_and(|cluster| cluster.services.contains_key(*key));
    // `web.shop` is tried as `web.shop` in the sender's own namespace first, which is nobody's name.
    let is_plain = |key: &&NsName| !key.namespace.contains('.') && !key.name.contains('.');
    keys.iter().find(exists).or_else(|| keys.iter().find(|key| is_plain(key) && is_asked(dns, key))).cloned()
}

/// What was typed begins with the Service's name, and is no name of the world outside.
fn is_asked(dns: &DnsTold, key: &NsName) -> bool {
    let typed = dns.name.trim_end_matches('.');
    typed == &*key.name || typed == key_with_dot(key) || typed.starts_with(&format!("{}.svc", key_with_dot(key)))
}

fn key_with_dot(key: &NsName) -> String {
    format!("{}.{}", key.name, key.namespace)
}

fn external(meant: &NsName, target: &str, dns: &DnsTold) -> Cause {
    let said =
        dns.queries.iter().rev().find(|query| query.answer != "NOERROR").map_or("no address", |query| &query.answer);
    Cause::new(format!("Service {meant} is an ExternalName for {target}, and that name leads nowhere ({said})"))
        .of(object(ObjectKind::Service, meant))
        .mend(format!("set spec.externalName of Service {meant} to a name that exists"))
}

fn headless(case: &Case<'_>, meant: &NsName) -> Cause {
    let Cause { because, object: at_fault, mend } = services::empty_service(case, meant);
    let because = because.unwrap_or_else(|| "no pod of it is Ready".to_owned());
    Cause {
        because: Some(format!("Service {meant} is headless, and its name leads to ready pods only: {because}")),
        object: at_fault.or_else(|| Some(object(ObjectKind::Service, meant))),
        mend,
    }
}

/// Nothing in the cluster has such a name.
fn foreign(dns: &DnsTold) -> Cause {
    let last = dns.queries.last();
    let said = last.map_or("no answer", |query| &query.answer);
    let server = server(dns).map_or_else(|| "DNS".to_owned(), |server| server.to_string());
    Cause::new(format!("{server} knows no address for {} ({said})", dns.name)).mend("look for a slip in the name")
}

fn unknown(case: &Case<'_>, meant: &NsName, dns: &DnsTold) -> Cause {
    let Some(cluster) = case.knows.cluster() else { return foreign(dns) };
    let elsewhere: Vec<String> = cluster
        .services
        .keys()
        .filter(|key| key.name == meant.name && key.namespace != meant.namespace)
        .map(key_with_dot)
        .collect();
    let here = cluster.services.keys().filter(|key| key.namespace == meant.namespace).map(|key| &*key.name);
    let near = words::nearest(&meant.name, here);
    let no_namespace = !cluster.namespaces.is_empty() && !cluster.namespaces.contains(&meant.namespace);
    let namespaces = cluster.namespaces.iter().map(|name| &**name);
    let near_namespace = words::nearest(&meant.namespace, namespaces);
    // `ylzhong.top` may be a name of the world outside as well as a Service in a namespace.
    let is_outsider = no_namespace && near_namespace.is_empty() && !dns.name.contains(".svc");
    match (&elsewhere[..], &near[..], no_namespace) {
        ([first, ..], _, _) => {
            let because = format!(
                "there is no Service {} in namespace {}, but one in {}",
                meant.name,
                meant.namespace,
                namespaces_of(&elsewhere)
            );
            Cause::new(because).mend(format!("ask for {first}"))
        }
        ([], _, true) if is_outsider => foreign(dns),
        ([], _, true) => {
            let guess = near_namespace.first().map(|name| format!("; did you mean {name}?")).unwrap_or_default();
            Cause::new(format!("there is no namespace {}{guess}", meant.namespace))
                .mend("kubectl get namespaces lists them")
        }
        ([], [first, ..], false) => {
            Cause::new(format!("there is no Service {meant}; did you mean {first}?")).mend(format!("ask for {first}"))
        }
        ([], [], false) => Cause::new(format!("there is no Service {meant}"))
            .mend(format!("kubectl -n {} get services lists what there is", meant.namespace)),
    }
}

fn namespaces_of(names: &[String]) -> String {
    let namespaces: Vec<String> =
        names.iter().filter_map(|name| name.split_once('.')).map(|(_, ns)| ns.to_owned()).collect();
    words::list(&namespaces, 3)
}
