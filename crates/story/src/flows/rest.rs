//! Names for the rest: addresses of pods that no node which told of them knows, by the list of all pods.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

use portolan_model::{NsName, Pod};

use super::{Flow, Party, Rates, Who};

/// What may have ends without a name.
pub trait Nameless {
    /// All of its ends.
    fn parties(&mut self) -> Vec<&mut Party>;
}

impl Nameless for Vec<Flow> {
    fn parties(&mut self) -> Vec<&mut Party> {
        self.iter_mut().flat_map(|flow| [&mut flow.client, &mut flow.endpoint]).collect()
    }
}

impl Nameless for Rates {
    fn parties(&mut self) -> Vec<&mut Party> {
        let endpoints = self.services.iter_mut().flat_map(|service| &mut service.endpoints);
        endpoints.map(|endpoint| &mut endpoint.endpoint).collect()
    }
}

/// Names ends that are pods' and nameless. Whom these pods do not have either is gone.
pub fn name_rest<'a>(told: &mut impl Nameless, pods: impl IntoIterator<Item = (&'a NsName, &'a Arc<Pod>)>) {
    let mut by_address: HashMap<IpAddr, Who> = HashMap::new();
    for (key, pod) in pods.into_iter().filter(|(_, pod)| !pod.host_network && !pod.finished) {
        let who = Who::Pod { pod: key.clone(), node: pod.node.clone() };
        by_address.extend(pod.addresses.iter().map(|addr| (*addr, who.clone())));
    }
    for party in told.parties().into_iter().filter(|party| party.who == Who::Gone) {
        if let Some(who) = by_address.get(&party.at.ip()) {
            party.who = who.clone();
        }
    }
}
