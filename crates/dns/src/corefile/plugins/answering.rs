//! Plugins that answer, or refuse, by the question alone: `acl`, `hosts`, `rrl`, and those that are just switched on.

use std::net::IpAddr;
use std::time::Duration;

use super::super::config::{AclAction, AclRule, Block, HostsConfig, RrlConfig};
use super::super::lex::Word;
use super::super::tree::Entry;
use super::super::words::{net, problem, rtype, zones};
use super::super::{Problem, Told};
use super::each_option;

/// A plugin that is there or not.
pub(super) fn switch(entry: &Entry, is_on: &mut bool) -> Result<(), Problem> {
    entry.none()?;
    entry.plain()?;
    *is_on = true;
    Ok(())
}

pub(super) fn local(entry: &Entry, block: &mut Block, told: &mut Told) -> Result<(), Problem> {
    entry.none()?;
    each_option(entry, told, |option, _| match (option.name(), option.args()) {
        ("localhost_prefix", [word]) if word.text == "on" => Ok(()),
        ("localhost_prefix", [word]) if word.text == "off" => {
            Err(option.not_here("local", "names that begin with localhost. are answered; take it out"))
        }
        ("localhost_prefix", _) => Err(option.wrong("`localhost_prefix` needs on or off")),
        _ => Err(option.unknown("local", "localhost_prefix")),
    });
    block.local = true;
    Ok(())
}

pub(super) fn loadbalance(entry: &Entry, block: &mut Block, told: &mut Told) -> Result<(), Problem> {
    match entry.args() {
        [] => {}
        [policy] if policy.text == "round_robin" => {}
        [policy, ..] if policy.text == "weighted" => {
            let what = "`loadbalance weighted` is not done here: write round_robin; see docs/dns-corefile.md";
            return Err(problem(policy, what));
        }
        [policy, ..] => {
            let what = format!("`loadbalance {}`: what may stand there is round_robin", policy.text);
            return Err(problem(policy, what));
        }
    }
    each_option(entry, told, |option, _| match option.name() {
        "prefer" => Err(option.not_here("loadbalance", "addresses come in turning order; take it out")),
        _ => Err(option.unknown("loadbalance", "none")),
    });
    block.loadbalance = true;
    Ok(())
}

pub(super) fn acl(entry: &Entry, block: &mut Block, told: &mut Told) -> Result<(), Problem> {
    let zones = zones(entry.args())?;
    each_option(entry, told, |option, _| {
        let action = match option.name().to_ascii_lowercase().as_str() {
            "allow" => AclAction::Allow,
            "block" => AclAction::Block,
            "filter" => AclAction::Filter,
            "drop" => AclAction::Drop,
            _ => return Err(option.unknown("acl", "allow, block, filter, drop")),
        };
        let mut rule = AclRule { zones: zones.clone(), action, types: Vec::new(), nets: Vec::new() };
        acl_sections(&mut rule, option.args())?;
        block.acl.push(rule);
        Ok(())
    });
    Ok(())
}

/// `[type TYPES…] [net NETS…]`; `*` is all of them.
fn acl_sections(rule: &mut AclRule, mut words: &[Word]) -> Result<(), Problem> {
    let is_section = |word: &Word| matches!(word.text.to_ascii_lowercase().as_str(), "type" | "net");
    while let Some((section, rest)) = words.split_first() {
        if !is_section(section) {
            let what = format!("`{}`: what may stand there is type TYPES… or net NETWORKS…", section.text);
            return Err(problem(section, what));
        }
        let end = rest.iter().position(is_section).unwrap_or(rest.len());
        let (values, tail) = rest.split_at(end);
        if values.is_empty() {
            return Err(problem(section, format!("`{}` needs something behind it, or *", section.text)));
        }
        let is_all = values.iter().any(|word| word.text == "*");
        match section.text.to_ascii_lowercase().as_str() {
            "type" if is_all => rule.types.clear(),
            "type" => rule.types.extend(values.iter().map(rtype).collect::<Result<Vec<_>, _>>()?),
            _ if is_all => rule.nets.clear(),
            _ => rule.nets.extend(values.iter().map(net).collect::<Result<Vec<_>, _>>()?),
        }
        words = tail;
    }
    Ok(())
}

pub(super) fn hosts(entry: &Entry, block: &mut Block, told: &mut Told) -> Result<(), Problem> {
    let mut config = HostsConfig::default();
    if let Some((file, names)) = entry.args().split_first() {
        config.file = Some(file.text.clone());
        config.zones = zones(names)?;
    }
    let mut falls_through = false;
    each_option(entry, told, |option, _| {
        match option.name() {
            "ttl" => config.ttl_secs = option.number(1..=65535)?,
            "no_reverse" => {
                option.none()?;
                config.no_reverse = true;
            }
            "reload" => config.reload = Some(option.duration()?).filter(|every| *every > Duration::ZERO),
            "fallthrough" => {
                config.fallthrough = option.fallthrough()?;
                falls_through = true;
            }
            "fallthrough_unsupported" => {
                return Err(option.not_here("hosts", "other types of a name that is there are absent"));
            }
            first if first.parse::<IpAddr>().is_ok() && !falls_through => config.inline.push(line(option)?),
            first if first.parse::<IpAddr>().is_ok() => {
                return Err(option.wrong("`hosts`: lines with addresses stand before `fallthrough`; move this one up"));
            }
            _ => {
                let known = "ttl, no_reverse, reload, fallthrough, and lines such as `10.0.0.1 a.example`";
                return Err(option.unknown("hosts", known));
            }
        }
        Ok(())
    });
    if entry.args().is_empty() && !config.inline.is_empty() {
        config.file = None;
    }
    block.hosts = Some(config);
    Ok(())
}

/// A line as in /etc/hosts.
fn line(option: &Entry) -> Result<String, Problem> {
    let names = option.some("a name behind the address")?;
    names.iter().try_for_each(|word| super::super::words::name(word).map(|_| ()))?;
    Ok(option.words.iter().map(|word| word.text.as_str()).collect::<Vec<_>>().join(" "))
}

pub(super) fn rrl(entry: &Entry, block: &mut Block, told: &mut Told) -> Result<(), Problem> {
    let mut config = RrlConfig { zones: zones(entry.args())?, ..RrlConfig::default() };
    let [mut nodata, mut nxdomains, mut errors] = [None, None, None];
    each_option(entry, told, |option, told| {
        let rate = |option: &Entry| option.number(0..=1_000_000_000);
        match option.name() {
            "window" => config.window = Duration::from_secs(option.number(1..=3600)?),
            "ipv4-prefix-length" => config.ipv4_prefix = option.number(1..=32)?,
            "ipv6-prefix-length" => config.ipv6_prefix = option.number(1..=128)?,
            "responses-per-second" => config.responses_per_second = rate(option)?,
            "nodata-per-second" => nodata = Some(rate(option)?),
            "nxdomains-per-second" => nxdomains = Some(rate(option)?),
            "errors-per-second" => errors = Some(rate(option)?),
            "requests-per-second" => config.requests_per_second = rate(option)?,
            "referrals-per-second" => {
                rate(option)?;
                told.note(&option.place(), "`referrals-per-second` has no effect here: there are no referrals");
            }
            "slip-ratio" => config.slip = option.number(0..=10)?,
            "max-table-size" => config.max_accounts = option.number(1..=10_000_000)?,
            "report-only" => {
                option.none()?;
                config.report_only = true;
            }
            _ => {
                let known = "window, ipv4-prefix-length, ipv6-prefix-length, responses-per-second, nodata-per-second, \
                    nxdomains-per-second, errors-per-second, requests-per-second, slip-ratio, max-table-size, report-only";
                return Err(option.unknown("rrl", known));
            }
        }
        Ok(())
    });
    config.nodata_per_second = nodata.unwrap_or(config.responses_per_second);
    config.nxdomains_per_second = nxdomains.unwrap_or(config.responses_per_second);
    config.errors_per_second = errors.unwrap_or(config.responses_per_second);
    block.rrl = Some(config);
    Ok(())
}
