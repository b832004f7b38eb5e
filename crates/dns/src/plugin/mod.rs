//! Plugins that need only the question: each a room of pure functions, made once from its part of a block and asked by
//! whoever holds the pipeline, in this order.
//!
//! ```text
//!  acl::Acl::say(client, query)            first                 Next = allowed
//!  any::say(query)                         ANY alone
//!  rewrite::Rewrites::forward(name, type)  what the rest sees    Rewritten::back(reply) on the way out
//!  template::Templates::say(query, client)
//!  hosts::Hosts::say(query)
//!  local::say(query)                       where `local` stands, before all that know zones
//!  loadbalance::turn(reply, number)        on the way out
//!  minimal::strip(reply)                   on the way out
//!  rrl::Rrl::judge(…, now)                 last, one per thread
//!  log::Log::line(dealt)                   around all
//!  errors::Errors::is_written(error, now)  around all
//! ```
//!
//! `prepare` takes the configuration and the block's zones, and gives `None` where the block does not name the plugin: then
//! nothing is asked and nothing is paid. Every one of them looks at zones by itself.
//!
//! Must never know: packets (a [`Query`](crate::wire::Query) is read already), files, clocks.

pub mod acl;
pub mod any;
pub mod errors;
pub mod hosts;
pub mod loadbalance;
pub mod local;
pub mod log;
pub mod minimal;
mod named;
pub mod rewrite;
pub mod rrl;
pub mod template;

#[cfg(test)]
mod tests;

pub use named::Plugin;

use crate::answer::Alias;
use crate::build::Reply;
use crate::corefile::config::Fallthrough;
use crate::name::{Key, MAX_NAME, Name, key_into};

/// What a plugin that was asked says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Said<'r> {
    /// This is the reply.
    Reply(Reply<'r>),
    /// The name is an alias, over these links (at least one), of a name that this plugin does not hold. Whoever asked
    /// resolves the last target as if a client had asked for it, and puts the links before what comes.
    Alias(Vec<Alias>),
    /// Send nothing.
    Silence,
    /// Not its business, or it found nothing and lets the query go on: the next plugin is asked.
    Next,
}

/// Zones that a plugin is for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Zones(Vec<(Key, Name)>);

impl Zones {
    /// `own`, or the block's where the plugin names none.
    pub fn of(own: &[Name], blocks: &[Name]) -> Self {
        let zones = if own.is_empty() { blocks } else { own };
        let mut zones: Vec<(Key, Name)> = zones.iter().map(|zone| (zone.key(), zone.clone())).collect();
        // A zone's key is the longer the deeper it lies: the first that holds a name is the nearest.
        zones.sort_by_key(|(key, _)| std::cmp::Reverse(key.as_bytes().len()));
        Self(zones)
    }

    /// The nearest zone that holds the name with this key.
    pub fn holding(&self, key: &[u8]) -> Option<&Name> {
        self.0.iter().find(|(zone, _)| key.starts_with(zone.as_bytes())).map(|(_, zone)| zone)
    }

    /// The nearest zone that holds the wire name `name`.
    pub fn of_name(&self, name: &[u8]) -> Option<&Name> {
        let mut buffer = [0; MAX_NAME];
        self.holding(key_into(name, &mut buffer))
    }
}

impl Fallthrough {
    /// Whether a query for the wire name `name` that nothing was found for goes on.
    pub fn lets(&self, name: &[u8]) -> bool {
        match self {
            Self::Never => false,
            Self::Always => true,
            Self::In(zones) => {
                let mut buffer = [0; MAX_NAME];
                let key = key_into(name, &mut buffer);
                zones.iter().any(|zone| key.starts_with(zone.key().as_bytes()))
            }
        }
    }
}
