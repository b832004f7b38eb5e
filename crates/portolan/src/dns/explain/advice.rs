//! Advice that needs the whole cluster: the Service that was meant, and pods that do not ask here at all. Pure.

use portolan_agent::dns::Explanation;
use portolan_dns::explain::Advice;
use portolan_model::NsName;
use portolan_story::place::find::is_near;

use super::World;

/// Most Services that are named.
const MOST: usize = 3;

/// Adds to what the nameserver itself advises; the most telling comes first.
pub(super) fn add(told: &mut Explanation, world: &World) {
    let mut more: Vec<Advice> = not_asked(world).into_iter().collect();
    if !told.resolved {
        more.extend(meant(told, world));
    }
    more.append(&mut told.advice);
    told.advice = more;
}

fn not_asked(world: &World) -> Option<Advice> {
    let asker = &world.asker;
    let asks_here = world.snapshot.settings.cluster_dns.iter().any(|ours| asker.servers.contains(&ours.to_string()));
    if asks_here {
        return None;
    }
    let mend = match asker.host_network {
        true => "set dnsPolicy: ClusterFirstWithHostNet in the pod",
        false => "set dnsPolicy: ClusterFirst in the pod, or name cluster DNS in its dnsConfig.nameservers",
    };
    let servers = if asker.servers.is_empty() { "the node's own servers".to_owned() } else { asker.servers.join(", ") };
    let found = format!("Pod {} does not ask cluster DNS: its resolv.conf names {servers}", asker.key);
    Some(Advice { found, mend: mend.to_owned() })
}

/// A Service of that name elsewhere, or one of nearly that name in the namespace that was meant.
fn meant(told: &Explanation, world: &World) -> Option<Advice> {
    let domain = world.snapshot.settings.cluster_domain.trim_end_matches('.');
    let given = told.name.trim_end_matches('.').to_ascii_lowercase();
    let short = given.strip_suffix(&format!(".svc.{domain}")).or(given.strip_suffix(".svc")).unwrap_or(&given);
    // Labels in front of the Service: a port and protocol, or an endpoint.
    let labels: Vec<&str> = short.split('.').filter(|label| !label.starts_with('_')).collect();
    let (name, namespace) = match labels.as_slice() {
        [name] => (*name, &*world.asker.key.namespace),
        [name, namespace] => (*name, *namespace),
        _ => return None,
    };
    let services = || world.snapshot.services.keys();
    if services().any(|key| *key.name == *name && *key.namespace == *namespace) {
        return None;
    }
    let elsewhere: Vec<&NsName> = services().filter(|key| *key.name == *name).take(MOST).collect();
    if let Some(first) = elsewhere.first() {
        return Some(Advice {
            found: format!("namespace {namespace} has no Service {name}; there is {}", listed(&elsewhere)),
            mend: format!("say {}.{}", first.name, first.namespace),
        });
    }
    let near: Vec<&NsName> =
        services().filter(|key| *key.namespace == *namespace && is_near(&key.name, name)).take(MOST).collect();
    let first = near.first()?;
    Some(Advice {
        found: format!("namespace {namespace} has no Service {name}; there is {}", listed(&near)),
        mend: format!("say {} if that is meant", first.name),
    })
}

fn listed(keys: &[&NsName]) -> String {
    let words: Vec<String> = keys.iter().map(|key| format!("Service {key}")).collect();
    words.join(", ")
}
