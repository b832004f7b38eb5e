//! `rrl`: a client network gets so many equal answers a second and no more, so that nobody can make us flood a victim whose
//! address they forge. Accounts of tokens, as many as were allowed and not one more.
//!
//! ```text
//!  network, kind, name, type ──► account ──► tokens left? ──► Send
//!                                                └── none ──► each n-th: Cut (TC: come by TCP), else Drop
//! ```
//!
//! Each account is one number: the moment up to which it is paid. It gains a second's worth at most and owes a window's at
//! most. Accounts stand in groups of eight; a new one takes the place of the one that was quiet longest, so a flood of new
//! accounts costs time and memory that are bounded.
//!
//! Spec: the page and behaviour of CoreDNS's external plugin rrl. `now` is time since a fixed moment; `seed` keeps others
//! from choosing who shares a group with whom.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::IpAddr;
use std::time::Duration;

use super::Zones;
use crate::build::Reply;
use crate::corefile::config::RrlConfig;
use crate::name::{MAX_NAME, Name, key_into};
use crate::rdata::Rtype;
use crate::wire::{Query, Rcode};

/// Accounts that compete for their places.
const GROUP: usize = 8;
const SECOND: i64 = 1_000_000_000;

/// What happens to a reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It is sent.
    Send,
    /// An empty one with TC is sent: a client that is real comes by TCP.
    Cut,
    /// Nothing is sent.
    Drop,
}

/// Kinds of answers, each with accounts of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs)]
pub enum Kind {
    Response,
    Nodata,
    Nxdomain,
    Error,
    /// Not an answer: the query itself.
    Request,
}

impl Kind {
    /// The kind of a reply.
    pub fn of(reply: &Reply<'_>) -> Self {
        Self::of_parts(reply.rcode, !reply.answers.is_empty())
    }

    /// The kind of a reply of which only this is known.
    pub fn of_parts(rcode: Rcode, has_answers: bool) -> Self {
        match rcode {
            Rcode::NOERROR if has_answers => Self::Response,
            Rcode::NOERROR => Self::Nodata,
            Rcode::NXDOMAIN => Self::Nxdomain,
            _ => Self::Error,
        }
    }
}

#[derive(Clone, Copy, Debug, Default)]
struct Account {
    /// Hash of whose it is; 0: nobody's.
    whose: u64,
    /// Nanoseconds: the moment up to which it is paid.
    paid: i64,
    /// Answers until one goes out cut.
    until_slip: u32,
}

/// A block's accounts, of one thread.
#[derive(Clone, Debug)]
pub struct Rrl {
    config: RrlConfig,
    zones: Zones,
    seed: u64,
    accounts: Vec<Account>,
}

impl Rrl {
    /// No account yet. `seed` is an unpredictable number.
    pub fn prepare(config: &RrlConfig, zones: &[Name], seed: u64) -> Self {
        let groups = config.max_accounts.div_ceil(GROUP).max(1);
        let accounts = vec![Account::default(); groups * GROUP];
        Self { config: config.clone(), zones: Zones::of(&config.zones, zones), seed, accounts }
    }

    /// What happens to a reply of this kind. `zone` is where an NXDOMAIN comes from (the owner of its SOA): names that do
    /// not exist are without number, so they share an account. Only UDP is judged; a client by TCP is who it says.
    pub fn judge(
        &mut self,
        client: IpAddr,
        query: &Query<'_>,
        kind: Kind,
        zone: Option<&Name>,
        now: Duration,
    ) -> Verdict {
        let mut buffer = [0; MAX_NAME];
        let key = key_into(query.name, &mut buffer);
        if self.zones.holding(key).is_none() {
            return Verdict::Send;
        }
        let Some(price) = self.price(kind) else { return Verdict::Send };
        let mut hasher = DefaultHasher::new();
        (self.seed, self.network(client), kind).hash(&mut hasher);
        match kind {
            Kind::Nxdomain => zone.map(Name::key).iter().for_each(|zone| zone.as_bytes().hash(&mut hasher)),
            Kind::Error | Kind::Request => {}
            Kind::Response | Kind::Nodata => (query.rtype.0, key).hash(&mut hasher),
        }
        match self.debit(hasher.finish().max(1), price, now) {
            _ if self.config.report_only => Verdict::Send,
            verdict => verdict,
        }
    }

    /// As [`judge`](Self::judge), of a query before it is answered: over its limit it is dropped, never cut.
    pub fn judge_request(&mut self, client: IpAddr, query: &Query<'_>, now: Duration) -> Verdict {
        match self.judge(client, query, Kind::Request, None, now) {
            Verdict::Send => Verdict::Send,
            Verdict::Cut | Verdict::Drop => Verdict::Drop,
        }
    }

    /// How many accounts there can ever be.
    pub fn capacity(&self) -> usize {
        self.accounts.len()
    }

    /// Nanoseconds that one answer costs; `None`: there is no limit.
    fn price(&self, kind: Kind) -> Option<i64> {
        let per_second = match kind {
            Kind::Response => self.config.responses_per_second,
            Kind::Nodata => self.config.nodata_per_second,
            Kind::Nxdomain => self.config.nxdomains_per_second,
            Kind::Error => self.config.errors_per_second,
            Kind::Request => self.config.requests_per_second,
        };
        (per_second > 0).then(|| SECOND / i64::from(per_second))
    }

    /// The client's network, as a number that no other network has.
    fn network(&self, client: IpAddr) -> (bool, u128) {
        match client.to_canonical() {
            IpAddr::V4(addr) => {
                (false, u128::from(u32::from(addr)) >> (32 - u32::from(self.config.ipv4_prefix.min(32))))
            }
            IpAddr::V6(addr) => {
                (true, u128::from(addr).checked_shr(128 - u32::from(self.config.ipv6_prefix.min(128))).unwrap_or(0))
            }
        }
    }

    fn debit(&mut self, whose: u64, price: i64, now: Duration) -> Verdict {
        let now = i64::try_from(now.as_nanos()).unwrap_or(i64::MAX / 2);
        let groups = self.accounts.len() / GROUP;
        let start = (whose % groups as u64) as usize * GROUP;
        let slip = self.config.slip;
        let group = &mut self.accounts[start..start + GROUP];
        let Some(account) = group.iter_mut().find(|account| account.whose == whose) else {
            let quiet = group.iter_mut().min_by_key(|account| (account.whose != 0, account.paid));
            let quiet = quiet.expect("a group has eight places");
            // A new account begins with a second's worth, of which this takes the first.
            *quiet = Account { whose, paid: now - SECOND + price, until_slip: slip };
            return Verdict::Send;
        };
        let window = i64::try_from(self.config.window.as_nanos()).unwrap_or(i64::MAX / 4);
        let balance = (now - account.paid - price).clamp(-window, SECOND - price);
        account.paid = now - balance;
        match (balance >= 0, slip) {
            (true, _) => Verdict::Send,
            (false, 0) => Verdict::Drop,
            (false, _) if account.until_slip <= 1 => {
                account.until_slip = slip;
                Verdict::Cut
            }
            (false, _) => {
                account.until_slip -= 1;
                Verdict::Drop
            }
        }
    }
}

/// What goes out instead of a reply that is [`Cut`](Verdict::Cut).
pub fn cut_short() -> Reply<'static> {
    Reply { truncated: true, ..Reply::new(Rcode::NOERROR) }
}

/// Whether a query of this type is judged at all: transfers go by TCP and are allowed by name.
pub fn is_judged(rtype: Rtype) -> bool {
    !matches!(rtype, Rtype::AXFR | Rtype::IXFR)
}
