//! `acl`: who may ask what, by the client's network, the type and the zone. The first rule that fits decides; where none
//! fits, the query goes on.

use std::net::IpAddr;

use super::{Said, Zones};
use crate::build::Reply;
use crate::corefile::config::{AclAction, AclRule};
use crate::name::{MAX_NAME, Name, key_into};
use crate::wire::{Query, Rcode};

/// A block's rules, in order.
#[derive(Clone, Debug)]
pub struct Acl(Vec<(Zones, AclRule)>);

impl Acl {
    /// `None` without rules.
    pub fn prepare(rules: &[AclRule], zones: &[Name]) -> Option<Self> {
        let rules = rules.iter().map(|rule| (Zones::of(&rule.zones, zones), rule.clone()));
        Some(Self(rules.collect())).filter(|acl| !acl.0.is_empty())
    }

    /// What the first rule that fits does; `Allow` where none fits.
    pub fn judge(&self, client: IpAddr, query: &Query<'_>) -> AclAction {
        // A client of IPv4 may come by a socket of IPv6.
        let client = client.to_canonical();
        let mut buffer = [0; MAX_NAME];
        let key = key_into(query.name, &mut buffer);
        let fits = |(zones, rule): &&(Zones, AclRule)| {
            (rule.types.is_empty() || rule.types.contains(&query.rtype))
                && (rule.nets.is_empty() || rule.nets.iter().any(|net| net.contains(&client)))
                && zones.holding(key).is_some()
        };
        self.0.iter().find(fits).map_or(AclAction::Allow, |(_, rule)| rule.action)
    }

    /// [`judge`](Self::judge) as what is done.
    pub fn say(&self, client: IpAddr, query: &Query<'_>) -> Said<'static> {
        match self.judge(client, query) {
            AclAction::Allow => Said::Next,
            AclAction::Block => Said::Reply(Reply::new(Rcode::REFUSED)),
            AclAction::Filter => Said::Reply(Reply::new(Rcode::NOERROR)),
            AclAction::Drop => Said::Silence,
        }
    }
}
