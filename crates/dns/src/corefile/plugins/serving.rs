//! Plugins around all answers: where to listen, what is logged, pages, and looking at the file again.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use super::super::config::{Block, Consolidate, ErrorsConfig, HealthConfig, LogClass, LogConfig, ReadyConfig};
use super::super::lex::Word;
use super::super::tree::Entry;
use super::super::words::{duration, listen, number, pattern, problem, zones};
use super::super::{Problem, Told};
use super::each_option;
use crate::name::Name;

/// What `log` writes if nothing else is said.
pub(in super::super) const COMMON: &str = "{common}";

pub(super) fn bind(entry: &Entry, block: &mut Block, told: &mut Told) -> Result<(), Problem> {
    let addrs = entry.some("addresses to listen at")?;
    let mut found: Vec<IpAddr> = addrs.iter().filter_map(|word| told.take(bind_addr(word))).collect();
    each_option(entry, told, |option, _| match option.name() {
        "except" => {
            for word in option.some("addresses not to listen at")? {
                let except = bind_addr(word)?;
                found.retain(|addr| *addr != except);
            }
            Ok(())
        }
        _ => Err(option.unknown("bind", "except")),
    });
    block.bind.extend(found);
    Ok(())
}

fn bind_addr(word: &Word) -> Result<IpAddr, Problem> {
    word.text.parse().map_err(|_| {
        problem(
            word,
            format!("`bind {}`: an IP address may stand there; names of interfaces are not done here", word.text),
        )
    })
}

pub(super) fn bufsize(entry: &Entry, block: &mut Block) -> Result<(), Problem> {
    entry.plain()?;
    match entry.at_most(1, "a number of bytes from 512 to 4096")? {
        [] => block.bufsize_bytes = 1232,
        args => block.bufsize_bytes = number(&args[0], "bufsize", 512..=4096)?,
    }
    Ok(())
}

pub(super) fn errors(entry: &Entry, block: &mut Block, told: &mut Told) -> Result<(), Problem> {
    match entry.at_most(1, "stdout")? {
        [file] if file.text != "stdout" => {
            return Err(problem(file, format!("`errors {}`: what may stand there is stdout", file.text)));
        }
        _ => {}
    }
    let mut config = ErrorsConfig::default();
    each_option(entry, told, |option, told| {
        match option.name() {
            "stacktrace" => told.note(&option.place(), "`stacktrace` of `errors` has no effect here"),
            "consolidate" => config.consolidate.push(consolidate(option, told)?),
            _ => return Err(option.unknown("errors", "consolidate")),
        }
        Ok(())
    });
    block.errors = Some(config);
    Ok(())
}

fn consolidate(option: &Entry, told: &mut Told) -> Result<Consolidate, Problem> {
    let [every, text, more @ ..] = option.at_most(4, "DURATION PATTERN [LEVEL] [show_first]")? else {
        return Err(
            option.wrong("`consolidate` needs a duration and a pattern, such as `consolidate 5m \".* timeout$\"`")
        );
    };
    for word in more {
        match word.text.as_str() {
            "warning" | "error" | "info" | "debug" | "show_first" => {
                told.note(&word.place(), format!("`{}` of `consolidate` has no effect here", word.text));
            }
            _ => return Err(problem(word, format!("`{}`: what may stand there is a level or show_first", word.text))),
        }
    }
    Ok(Consolidate { every: duration(every, "consolidate")?, pattern: pattern(text)? })
}

pub(super) fn log(entry: &Entry, block: &mut Block, told: &mut Told) -> Result<(), Problem> {
    let mut names = entry.args();
    let mut format = COMMON.to_owned();
    // As CoreDNS: the last of several words is the format if there is a brace in it.
    if let Some((last, rest)) = names.split_last().filter(|(last, rest)| last.text.contains('{') && !rest.is_empty()) {
        format = last.text.clone();
        names = rest;
    }
    let zones = match names {
        [] => vec![Name::root()],
        names => zones(names)?,
    };
    let mut classes = Vec::new();
    each_option(entry, told, |option, _| match option.name() {
        "class" => {
            for word in option.some("all, success, denial or error")? {
                classes.push(match word.text.as_str() {
                    "all" => LogClass::All,
                    "success" => LogClass::Success,
                    "denial" => LogClass::Denial,
                    "error" => LogClass::Error,
                    other => {
                        let what = format!("`class {other}`: what may stand there is all, success, denial, error");
                        return Err(problem(word, what));
                    }
                });
            }
            Ok(())
        }
        _ => Err(option.unknown("log", "class")),
    });
    if classes.is_empty() {
        classes.push(LogClass::All);
    }
    block.logs.push(LogConfig { zones, format, classes });
    Ok(())
}

pub(super) fn health(entry: &Entry, block: &mut Block, told: &mut Told) -> Result<(), Problem> {
    let mut config = HealthConfig::default();
    if let [word] = entry.at_most(1, "an address with a port such as :8080")? {
        config.listen = listen(word, "health")?;
    }
    each_option(entry, told, |option, _| match option.name() {
        "lameduck" => option.duration().map(|lameduck| config.lameduck = lameduck),
        _ => Err(option.unknown("health", "lameduck")),
    });
    block.health = Some(config);
    Ok(())
}

pub(super) fn ready(entry: &Entry, block: &mut Block, told: &mut Told) -> Result<(), Problem> {
    let mut config = ReadyConfig::default();
    if let [word] = entry.at_most(1, "an address with a port such as :8181")? {
        config.listen = listen(word, "ready")?;
    }
    each_option(entry, told, |option, _| match option.name() {
        "monitor" => match option.one("until-ready or continuously")? {
            word if word.text == "until-ready" => Ok(()),
            word if word.text == "continuously" => {
                config.continuously = true;
                Ok(())
            }
            word => {
                let what = format!("`monitor {}`: what may stand there is until-ready or continuously", word.text);
                Err(problem(word, what))
            }
        },
        _ => Err(option.unknown("ready", "monitor")),
    });
    block.ready = Some(config);
    Ok(())
}

pub(super) fn prometheus(entry: &Entry, block: &mut Block, told: &mut Told) -> Result<(), Problem> {
    let mut addr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 9153);
    if let [word] = entry.at_most(1, "an address with a port such as :9153")? {
        addr = listen(word, "prometheus")?;
    }
    each_option(entry, told, |option, told| match option.name() {
        "runtime_metrics" => {
            told.note(&option.place(), "`runtime_metrics` of `prometheus` has no effect here");
            Ok(())
        }
        "tls" => Err(option.not_here("prometheus", "the page is plain HTTP; bind it to an address of your own")),
        _ => Err(option.unknown("prometheus", "none")),
    });
    block.metrics = Some(addr);
    Ok(())
}

pub(super) fn reload(entry: &Entry, block: &mut Block) -> Result<(), Problem> {
    entry.plain()?;
    let args = entry.at_most(2, "INTERVAL [JITTER]")?;
    let every = args.first().map_or(Ok(Duration::from_secs(30)), |word| duration(word, "reload"))?;
    if every < Duration::from_secs(2) {
        return Err(problem(&args[0], "`reload`: an interval of 2s or more may stand there"));
    }
    if let Some(word) = args.get(1) {
        let jitter = duration(word, "reload")?;
        if jitter > Duration::ZERO && jitter < Duration::from_secs(1) {
            return Err(problem(word, "`reload`: a jitter of 0 or of 1s or more may stand there"));
        }
    }
    block.reload = Some(every);
    Ok(())
}
