//! `forward` and `cache`: what is asked of others, and what is kept of it.

use std::net::SocketAddr;
use std::time::Duration;

use super::super::config::{
    Block, CacheConfig, CacheLimits, ForwardConfig, Policy, Prefetch, Stale, Target, TlsConfig,
};
use super::super::lex::Word;
use super::super::tree::Entry;
use super::super::words::{duration, number, problem, rcode, socket, zone, zones};
use super::super::{Problem, Told};
use super::each_option;
use crate::name::Name;

/// CoreDNS's limit.
const MOST_SERVERS: usize = 15;
const FORWARD: &str = "except, force_tcp, prefer_udp, max_fails, expire, health_check, policy, max_concurrent, failover, \
    tls, tls_servername";
const CACHE: &str = "success, denial, prefetch, serve_stale, servfail, disable, keepttl";

pub(super) fn forward(entry: &Entry, block: &mut Block, told: &mut Told) -> Result<(), Problem> {
    let Some((from, to)) = entry.args().split_first() else {
        return Err(entry.wrong("`forward` needs a zone and servers, such as `forward . /etc/resolv.conf`"));
    };
    let froms = zone(from)?;
    if to.is_empty() {
        return Err(
            entry.wrong(format!("`forward {}` needs servers behind the zone, such as /etc/resolv.conf", from.text))
        );
    }
    if let Some(extra) = to.get(MOST_SERVERS) {
        return Err(problem(
            extra,
            format!("`forward` takes {MOST_SERVERS} servers at most; {} are written", to.len()),
        ));
    }
    let mut config = ForwardConfig::new(entry.place(), Name::root(), Vec::new());
    for word in to {
        let target = target(word, &mut config.tls);
        config.to.extend(told.take(target).filter(|target| !config.to.contains(target)));
    }
    each_option(entry, told, |option, told| forward_option(&mut config, option, told));
    block.forwards.extend(froms.into_iter().map(|from| ForwardConfig { from, ..config.clone() }));
    Ok(())
}

/// One server; a name behind `%` is what its certificate must say.
fn target(word: &Word, tls: &mut TlsConfig) -> Result<Target, Problem> {
    let (scheme, rest) = word.text.split_once("://").unwrap_or(("dns", &word.text));
    let wrong = |what: &str| Err(problem(word, format!("`{}`: {what}", word.text)));
    let addr = |text: &str, port: u16| -> Result<SocketAddr, Problem> {
        let found = socket(text, port).filter(|addr| addr.port() != 0);
        found.ok_or_else(|| {
            problem(word, format!("`{}`: an IP address may stand there, with or without a port", word.text))
        })
    };
    match scheme {
        "dns" if rest.contains('/') => Ok(Target::File(rest.to_owned())),
        "dns" => match socket(rest, 53).filter(|addr| addr.port() != 0) {
            Some(addr) => Ok(Target::Plain(addr)),
            None => wrong(
                "a server is an IP address or a file such as /etc/resolv.conf; a name would need a server to be \
                looked up at, so write its address",
            ),
        },
        "tls" => {
            let (bare, name) = without_server_name(rest);
            if let Some(name) =
                name.filter(|name| tls.server_name.replace(name.clone()).is_some_and(|old| old != *name))
            {
                return wrong(&format!(
                    "a `forward` has one name for certificates, and {name} is a second one; write a \
                    `forward` for each"
                ));
            }
            addr(&bare, 853).map(Target::Tls)
        }
        "https" => {
            let (host, path) = rest.split_once('/').map_or((rest, "dns-query"), |(host, path)| (host, path));
            Ok(Target::Https { addr: addr(host, 443)?, path: format!("/{path}") })
        }
        "grpc" | "quic" | "unix" | "https3" => wrong("servers are asked by UDP, TCP, tls:// and https://"),
        _ => wrong("what may stand before :// is dns, tls or https"),
    }
}

/// `9.9.9.9%dns.quad9.net:853` as `9.9.9.9:853` and the name.
fn without_server_name(text: &str) -> (String, Option<String>) {
    let Some((addr, name)) = text.split_once('%') else { return (text.to_owned(), None) };
    let (name, port) = name.rsplit_once(':').map_or((name, None), |(name, port)| (name, Some(port)));
    let name = name.trim_end_matches(']').to_owned();
    let addr = if addr.starts_with('[') && !addr.ends_with(']') { format!("{addr}]") } else { addr.to_owned() };
    match port {
        Some(port) => (format!("{addr}:{port}"), Some(name)),
        None => (addr, Some(name)),
    }
}

fn forward_option(config: &mut ForwardConfig, option: &Entry, told: &mut Told) -> Result<(), Problem> {
    match option.name() {
        "except" => config.except.extend(zones(option.some("names that are not forwarded")?)?),
        "force_tcp" => {
            option.none()?;
            config.force_tcp = true;
        }
        "prefer_udp" => {
            option.none()?;
            config.prefer_udp = true;
        }
        "max_fails" => config.max_fails = option.number(0..=u64::from(u32::MAX))?,
        "expire" => config.expire = option.duration()?,
        "health_check" => health_check(config, option, told)?,
        "policy" => config.policy = policy(option)?,
        "max_concurrent" => config.max_concurrent = option.number(0..=u64::from(u32::MAX))?,
        "failover" => failover(config, option)?,
        "tls" => tls(&mut config.tls, option)?,
        "tls_servername" => {
            let word = option.one("the name that the servers' certificates say")?;
            if config.tls.server_name.replace(word.text.clone()).is_some_and(|old| old != word.text) {
                return Err(problem(word, "`tls_servername` beside names behind % of servers; write one of the two"));
            }
        }
        "max_idle_conns" | "max_connect_attempts" | "max_age" | "read_timeout" => {
            let what = format!(
                "`{}` of `forward` has no effect here: time and connections have bounds of their own",
                option.name()
            );
            told.note(&option.place(), what);
        }
        "doh_method" if option.one("POST")?.text == "POST" => {}
        "doh_method" => return Err(option.not_here("forward", "queries go by POST")),
        "next" | "next_on_nodata" => {
            return Err(option.not_here("forward", "write all servers in one `forward` with `failover`"));
        }
        "failfast_all_unhealthy_upstreams" => return Err(option.not_here("forward", "some server is always tried")),
        "source_address" => return Err(option.not_here("forward", "the kernel chooses the address by its routes")),
        "resolver" => return Err(option.not_here("forward", "servers are written as addresses")),
        _ => return Err(option.unknown("forward", FORWARD)),
    }
    Ok(())
}

fn health_check(config: &mut ForwardConfig, option: &Entry, told: &mut Told) -> Result<(), Problem> {
    let (first, rest) = option.some("a duration such as 0.5s")?.split_first().expect("at least one");
    config.health_check = duration(first, "health_check")?;
    let mut rest = rest.iter();
    while let Some(word) = rest.next() {
        match (word.text.as_str(), rest.len()) {
            ("no_rec", _) => {}
            ("domain", 1..) => drop(rest.next()),
            _ => {
                return Err(problem(
                    word,
                    format!("`{}` behind `health_check`: what may stand there is no_rec, domain NAME", word.text),
                ));
            }
        }
        told.note(&word.place(), format!("`{}` of `health_check` has no effect here", word.text));
    }
    Ok(())
}

fn policy(option: &Entry) -> Result<Policy, Problem> {
    let word = option.one("random, round_robin or sequential")?;
    match word.text.as_str() {
        "random" => Ok(Policy::Random),
        "round_robin" => Ok(Policy::RoundRobin),
        "sequential" => Ok(Policy::Sequential),
        other => {
            Err(problem(word, format!("`policy {other}`: what may stand there is random, round_robin or sequential")))
        }
    }
}

fn failover(config: &mut ForwardConfig, option: &Entry) -> Result<(), Problem> {
    for word in option.some("codes such as SERVFAIL")? {
        match rcode(word)? {
            crate::wire::Rcode::NOERROR => return Err(problem(word, "`failover NOERROR`: an answer is no failure")),
            code if config.next_on.contains(&code) => {}
            code => config.next_on.push(code),
        }
    }
    Ok(())
}

fn tls(config: &mut TlsConfig, option: &Entry) -> Result<(), Problem> {
    let text = |word: &Word| word.text.clone();
    match option.at_most(3, "up to three files: CA, or CERT KEY, or CERT KEY CA")? {
        [] => {}
        [ca] => config.ca_file = Some(text(ca)),
        [cert, key, rest @ ..] => {
            config.identity = Some((text(cert), text(key)));
            config.ca_file = rest.first().map(text);
        }
    }
    Ok(())
}

pub(super) fn cache(entry: &Entry, block: &mut Block, told: &mut Told) -> Result<(), Problem> {
    let mut config = CacheConfig::default();
    let mut names = entry.args();
    if let Some((first, rest)) = names.split_first().filter(|(first, _)| first.text.parse::<i64>().is_ok()) {
        let ttl = number(first, "cache", 1..=MAX_TTL)?;
        (config.success.max_ttl_secs, config.denial.max_ttl_secs) = (ttl, ttl);
        names = rest;
    }
    config.zones = zones(names)?;
    each_option(entry, told, |option, _| cache_option(&mut config, option));
    block.cache = Some(config);
    Ok(())
}

/// Without a time limit of its own a check has as long as a query to upstreams can take, which is less than this.
const UNLIMITED: Duration = Duration::from_secs(60);
/// RFC 2181 §8.
const MAX_TTL: u64 = 0x7fff_ffff;

fn cache_option(config: &mut CacheConfig, option: &Entry) -> Result<(), Problem> {
    match option.name() {
        "success" => limits(&mut config.success, option)?,
        "denial" => limits(&mut config.denial, option)?,
        "prefetch" => config.prefetch = prefetch(option)?,
        "serve_stale" => config.stale = Some(stale(option)?),
        "servfail" => {
            config.servfail = option.duration()?;
            if config.servfail > Duration::from_secs(300) {
                return Err(option.wrong("`servfail`: a failure is kept for 5m at most (RFC 2308 §7)"));
            }
        }
        "disable" => {
            let (kind, names) = option.some("success or denial")?.split_first().expect("at least one");
            let names = if names.is_empty() { vec![Name::root()] } else { zones(names)? };
            match kind.text.as_str() {
                "success" => config.no_success = names,
                "denial" => config.no_denial = names,
                other => {
                    return Err(problem(kind, format!("`disable {other}`: what may stand there is success or denial")));
                }
            }
        }
        "keepttl" => {
            option.none()?;
            config.keep_ttl = true;
        }
        "serve_stale_policy" => return Err(option.not_here("cache", "take it out")),
        _ => return Err(option.unknown("cache", CACHE)),
    }
    Ok(())
}

/// `CAPACITY [TTL] [MINTTL]`.
fn limits(limits: &mut CacheLimits, option: &Entry) -> Result<(), Problem> {
    option.some("a number of answers, then a TTL, then a least TTL")?;
    let args = option.at_most(3, "CAPACITY [TTL] [MINTTL]")?;
    limits.entries = number(&args[0], option.name(), 0..=100_000_000)?;
    if let Some(ttl) = args.get(1) {
        limits.max_ttl_secs = number(ttl, option.name(), 1..=MAX_TTL)?;
    }
    if let Some(least) = args.get(2) {
        limits.min_ttl_secs = number(least, option.name(), 0..=MAX_TTL)?;
    }
    Ok(())
}

/// `AMOUNT [DURATION] [PERCENT%]`; an amount of 0 is none.
fn prefetch(option: &Entry) -> Result<Option<Prefetch>, Problem> {
    option.some("a number of queries, then a duration, then a percentage")?;
    let args = option.at_most(3, "AMOUNT [DURATION] [PERCENT%]")?;
    let amount = number(&args[0], "prefetch", 0..=u64::from(u32::MAX))?;
    let within = args.get(1).map_or(Ok(Duration::from_secs(60)), |word| duration(word, "prefetch"))?;
    let percent = match args.get(2) {
        None => 10,
        Some(word) => {
            let bare = Word { text: word.text.strip_suffix('%').unwrap_or("").to_owned(), ..word.clone() };
            number(&bare, "prefetch", 10..=90)
                .map_err(|_| problem(word, format!("`prefetch … {}`: 10% to 90% may stand there", word.text)))?
        }
    };
    Ok((amount > 0).then_some(Prefetch { amount, within, percent }))
}

/// `[DURATION] [immediate|verify [TIMEOUT]]`.
fn stale(option: &Entry) -> Result<Stale, Problem> {
    let args = option.at_most(3, "[DURATION] [immediate|verify [TIMEOUT]]")?;
    let for_ = args.first().map_or(Ok(Duration::from_secs(3600)), |word| duration(word, "serve_stale"))?;
    let mode = args.get(1).map_or("immediate".to_owned(), |word| word.text.to_ascii_lowercase());
    let verify = match (mode.as_str(), args.get(2)) {
        ("immediate", None) => None,
        ("immediate", Some(ttl)) => {
            return Err(problem(ttl, format!("`serve_stale … {}`: a TTL of stale answers is not done here", ttl.text)));
        }
        ("verify", timeout) => {
            let limit = timeout.map_or(Ok(Duration::ZERO), |word| duration(word, "serve_stale verify"))?;
            Some(if limit.is_zero() { UNLIMITED } else { limit })
        }
        (other, _) => {
            let what = format!("`serve_stale … {other}`: what may stand there is immediate or verify");
            return Err(problem(&args[1], what));
        }
    };
    Ok(Stale { for_, verify })
}
