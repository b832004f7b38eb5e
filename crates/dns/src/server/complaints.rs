//! What `errors` writes of the server's work: who was asked in vain for a client, in CoreDNS's words, alike ones once.
//!
//! ```text
//!  no answer for a query ──► its block's `errors` ──► a line now, or counted ──► due: one line for all
//! ```

use std::time::Duration;

use crate::corefile::Corefile;
use crate::corefile::config::ErrorsConfig;
use crate::forward::step::{Tried, Way};
use crate::name::Name;
use crate::plugin::errors::Errors;
use crate::wire::{Query, Rcode};

/// The blocks' `errors`, by the blocks' place in the configuration.
#[derive(Clone, Debug, Default)]
pub(super) struct Complaints(Vec<Option<Of>>);

/// A block's.
#[derive(Clone, Debug)]
struct Of {
    zones: Vec<Name>,
    config: ErrorsConfig,
    errors: Errors,
}

impl Complaints {
    /// Moves to another configuration. A block that is configured as it was goes on counting.
    pub(super) fn configure(&mut self, config: &Corefile) {
        let mut before = std::mem::take(&mut self.0);
        let mut of = |zones: &[Name], config: &ErrorsConfig| {
            let same = |of: &&mut Option<Of>| of.as_ref().is_some_and(|of| of.zones == zones && of.config == *config);
            let kept = before.iter_mut().find(same).and_then(Option::take);
            kept.unwrap_or_else(|| Of {
                zones: zones.to_vec(),
                config: config.clone(),
                errors: Errors::prepare(config),
            })
        };
        let blocks = config.blocks.iter();
        self.0 = blocks.map(|block| Some(of(&block.zones, block.errors.as_ref()?))).collect();
    }

    /// The line to write now about a query that fell to `block` and gets `rcode`, for this reason.
    pub(super) fn line(
        &mut self,
        block: usize,
        query: &Query<'_>,
        rcode: Rcode,
        why: &str,
        now: Duration,
    ) -> Option<String> {
        let of = self.0.get_mut(block)?.as_mut()?;
        let name = Name::from_wire(query.name)?.to_string().to_ascii_lowercase();
        of.errors.is_written(why, now).then(|| format!("{} {name} {}: {why}", rcode.0, query.rtype))
    }

    /// Lines about what was counted and is due.
    pub(super) fn due(&mut self, now: Duration) -> Vec<String> {
        self.0.iter_mut().flatten().flat_map(|of| of.errors.due(now)).collect()
    }

    /// When something is due next.
    pub(super) fn next_due(&self) -> Option<Duration> {
        self.0.iter().flatten().filter_map(|of| of.errors.next_due()).min()
    }
}

/// Who was asked last and what came of it, as CoreDNS would say it: `read udp 192.0.2.1:53: i/o timeout`.
pub(super) fn in_vain(tried: Option<&Tried>) -> String {
    let Some(Tried { peer, way, failure }) = tried else { return "no upstream answered: i/o timeout".to_owned() };
    let what = match way {
        Way::Udp => "read udp",
        Way::Tcp | Way::Tls => "dial tcp",
        Way::Https => "post",
    };
    let why = failure.as_deref().map_or("i/o timeout".to_owned(), plain);
    format!("{what} {peer}: {why}")
}

/// `192.0.2.1:53/udp: Connection refused (os error 111)` without where and without the number.
fn plain(failure: &str) -> String {
    let why = failure.split_once(": ").map_or(failure, |(_, why)| why);
    let why = why.split_once(" (os error").map_or(why, |(why, _)| why);
    let mut letters = why.chars();
    letters.next().map(|first| first.to_ascii_lowercase()).into_iter().chain(letters).collect()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::corefile::config::{Target, TlsConfig};
    use crate::forward::step::Peer;

    #[test]
    fn who_was_asked_in_vain_is_told_in_coredns_words() {
        let target = Target::Plain(([192, 0, 2, 1], 53).into());
        let peer = Arc::new(Peer { target, tls: TlsConfig::default(), expire: Duration::from_secs(10) });
        let tried = |way, failure: Option<&str>| Tried { peer: peer.clone(), way, failure: failure.map(str::to_owned) };
        let rows = [
            (tried(Way::Udp, None), "read udp 192.0.2.1:53: i/o timeout"),
            (
                tried(Way::Udp, Some("192.0.2.1:53/udp: Connection refused (os error 111)")),
                "read udp 192.0.2.1:53: connection refused",
            ),
            (
                tried(Way::Tcp, Some("192.0.2.1:53/tcp: the server closed the connection")),
                "dial tcp 192.0.2.1:53: the server closed the connection",
            ),
        ];
        for (tried, expected) in rows {
            assert_eq!(in_vain(Some(&tried)), expected);
        }
    }
}
