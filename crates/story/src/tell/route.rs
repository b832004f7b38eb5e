//! Route: a route in words, and who brought it.

use crate::evidence::{RouteTold, RouteWay};
use crate::words;

/// `10.244.0.64/26 via 172.18.0.12 dev eth0, BGP from node-2, 41 s ago`.
pub(crate) fn says(route: &RouteTold) -> String {
    let prefix = match route.prefix {
        Some(net) if net.prefix_len() == 0 => "the default route".to_owned(),
        Some(net) if net.prefix_len() == net.max_prefix_len() => net.addr().to_string(),
        Some(net) => net.to_string(),
        None => "a route".to_owned(),
    };
    match route.kind {
        RouteWay::Unreachable if route.prefix.is_none() => "no route".to_owned(),
        RouteWay::Unreachable => format!("unreachable {prefix}"),
        RouteWay::Blackhole => format!("blackhole {prefix}"),
        RouteWay::Local => format!("{prefix} is this node's own"),
        RouteWay::Forward => format!("{prefix}{}{}", way(route), brought(route)),
    }
}

fn way(route: &RouteTold) -> String {
    let gateway = route.gateway.map(|gateway| format!(" via {gateway}")).unwrap_or_default();
    let link = route.link.as_ref().map(|link| format!(" dev {link}")).unwrap_or_default();
    gateway + &link
}

/// Who told of it, and when it was written.
fn brought(route: &RouteTold) -> String {
    let who = match (&route.told_by, &route.object) {
        (Some((_, Some(node))), _) => format!(", BGP from {node}"),
        (Some((peer, None)), _) => format!(", BGP from {peer}"),
        (None, Some(object)) => format!(", for {object}"),
        (None, None) => String::new(),
    };
    let age = route.age_secs.map(|age| format!(", {} ago", words::seconds(age)));
    who + &age.unwrap_or_default()
}
