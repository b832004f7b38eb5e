//! A Corefile in its normal form: one block per port, every zone written, options only where they differ from what holds
//! without them. It reads back as the same values.

use std::fmt::{self, Display, Write};
use std::net::SocketAddr;
use std::time::Duration;

use super::config::*;
use super::plugins::COMMON;
use super::words::{print_duration, print_rcode};
use crate::name::Name;

impl Display for Corefile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.blocks.iter().try_for_each(|block| write!(f, "{block}"))
    }
}

impl Display for Block {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let heads: Vec<String> = self.zones.iter().map(|zone| format!("{zone}:{}", self.port)).collect();
        writeln!(f, "{} {{", heads.join(" "))?;
        let mut lines = Lines::default();
        self.around(&mut lines);
        self.answering(&mut lines);
        self.rewriting(&mut lines);
        self.forwarding(&mut lines);
        f.write_str(&lines.0)?;
        writeln!(f, "}}")
    }
}

impl Block {
    fn around(&self, lines: &mut Lines) {
        if !self.bind.is_empty() {
            lines.plugin("bind", self.bind.iter().map(ToString::to_string), |_| {});
        }
        if let Some(errors) = &self.errors {
            lines.plugin("errors", [], |lines| {
                for one in &errors.consolidate {
                    lines.option("consolidate", [print_duration(one.every), one.pattern.text.clone()]);
                }
            });
        }
        for log in &self.logs {
            let format = (log.format != COMMON).then(|| log.format.clone());
            let classes = log.classes.iter().map(|class| class_word(*class).to_owned());
            lines.plugin("log", names(&log.zones).chain(format), |lines| lines.option("class", classes));
        }
        if let Some(health) = &self.health {
            lines.plugin("health", [listen(health.listen)], |lines| {
                lines.duration("lameduck", health.lameduck, Duration::ZERO);
            });
        }
        if let Some(ready) = &self.ready {
            lines.plugin("ready", [listen(ready.listen)], |lines| {
                lines.when(ready.continuously, "monitor", ["continuously".to_owned()]);
            });
        }
        if let Some(addr) = self.metrics {
            lines.plugin("prometheus", [listen(addr)], |_| {});
        }
        if let Some(every) = self.reload {
            lines.plugin("reload", [print_duration(every)], |_| {});
        }
        if self.bufsize_bytes != 1232 {
            lines.plugin("bufsize", [self.bufsize_bytes.to_string()], |_| {});
        }
        let switches = [
            (self.any, "any"),
            (self.local, "local"),
            (self.minimal, "minimal"),
            (self.loadbalance, "loadbalance"),
            (self.detects_loops, "loop"),
        ];
        for (_, switch) in switches.into_iter().filter(|(is_on, _)| *is_on) {
            lines.plugin(switch, [], |_| {});
        }
    }

    fn answering(&self, lines: &mut Lines) {
        for rule in &self.acl {
            lines.plugin("acl", names(&rule.zones), |lines| {
                let types = rule.types.iter().map(ToString::to_string);
                let nets = rule.nets.iter().map(ToString::to_string);
                let types = (!rule.types.is_empty()).then(|| "type".to_owned()).into_iter().chain(types);
                let nets = (!rule.nets.is_empty()).then(|| "net".to_owned()).into_iter().chain(nets);
                lines.option(action_word(rule.action), types.chain(nets));
            });
        }
        if let Some(config) = &self.kubernetes {
            lines.plugin("kubernetes", names(&config.zones), |lines| kubernetes(config, lines));
        }
        if let Some(config) = &self.external {
            lines.plugin("k8s_external", names(&config.zones), |lines| {
                lines.when(config.apex != "dns", "apex", [config.apex.clone()]);
                lines.when(config.ttl_secs != 5, "ttl", [config.ttl_secs.to_string()]);
                lines.when(config.headless, "headless", []);
                lines.fallthrough(&config.fallthrough);
            });
        }
        if let Some(config) = &self.autopath {
            let by = match &config.by {
                AutopathBy::Kubernetes => "@kubernetes".to_owned(),
                AutopathBy::File(file) => file.clone(),
            };
            lines.plugin("autopath", names(&config.zones).chain([by]), |_| {});
        }
        for config in &self.transfers {
            let to = config.to.iter().map(ToString::to_string);
            lines.plugin("transfer", names(&config.zones), |lines| lines.option("to", to));
        }
        if let Some(config) = &self.hosts {
            lines
                .plugin("hosts", config.file.iter().cloned().chain(names(&config.zones)), |lines| hosts(config, lines));
        }
        if let Some(config) = &self.rrl {
            lines.plugin("rrl", names(&config.zones), |lines| rrl(config, lines));
        }
    }

    fn rewriting(&self, lines: &mut Lines) {
        for rule in &self.rewrites {
            let mode = if rule.goes_on { "continue" } else { "stop" };
            let words = [mode.to_owned()].into_iter().chain(rewrite(&rule.change));
            lines.plugin("rewrite", words, |_| {});
        }
        for config in &self.templates {
            let head = ["IN".to_owned(), config.rtype.to_string()].into_iter().chain(names(&config.zones));
            lines.plugin("template", head, |lines| {
                config.matches.iter().for_each(|pattern| lines.option("match", [pattern.text.clone()]));
                let texts =
                    [("answer", &config.answers), ("additional", &config.additional), ("authority", &config.authority)];
                for (section, texts) in texts {
                    texts.iter().for_each(|text| lines.option(section, [text.clone()]));
                }
                lines.when(config.rcode.0 != 0, "rcode", [print_rcode(config.rcode).to_owned()]);
                lines.fallthrough(&config.fallthrough);
            });
        }
    }

    fn forwarding(&self, lines: &mut Lines) {
        if let Some(config) = &self.cache {
            lines.plugin("cache", names(&config.zones), |lines| cache(config, lines));
        }
        for config in &self.forwards {
            let to = config.to.iter().map(target);
            lines.plugin("forward", [config.from.to_string()].into_iter().chain(to), |lines| forward(config, lines));
        }
    }
}

fn kubernetes(config: &KubernetesConfig, lines: &mut Lines) {
    match config.pods {
        PodMode::Disabled => {}
        PodMode::Insecure => lines.option("pods", ["insecure".to_owned()]),
        PodMode::Verified => lines.option("pods", ["verified".to_owned()]),
    }
    lines.when(!config.namespaces.is_empty(), "namespaces", config.namespaces.iter().cloned());
    lines.when(config.endpoint_pod_names, "endpoint_pod_names", []);
    lines.when(config.no_endpoints, "noendpoints", []);
    lines.when(config.ignore_empty_service, "ignore", ["empty_service".to_owned()]);
    lines.when(config.ttl_secs != 5, "ttl", [config.ttl_secs.to_string()]);
    lines.duration("startup_timeout", config.startup_timeout, Duration::from_secs(5));
    lines.fallthrough(&config.fallthrough);
}

fn hosts(config: &HostsConfig, lines: &mut Lines) {
    for line in &config.inline {
        let mut words = line.split_whitespace().map(str::to_owned);
        let addr = words.next().unwrap_or_default();
        lines.option(&addr, words);
    }
    lines.when(config.ttl_secs != 3600, "ttl", [config.ttl_secs.to_string()]);
    lines.when(config.no_reverse, "no_reverse", []);
    lines.duration("reload", config.reload.unwrap_or_default(), Duration::from_secs(5));
    lines.fallthrough(&config.fallthrough);
}

fn rrl(config: &RrlConfig, lines: &mut Lines) {
    let numbers = [
        ("window", config.window.as_secs()),
        ("ipv4-prefix-length", config.ipv4_prefix.into()),
        ("ipv6-prefix-length", config.ipv6_prefix.into()),
        ("responses-per-second", config.responses_per_second.into()),
        ("nodata-per-second", config.nodata_per_second.into()),
        ("nxdomains-per-second", config.nxdomains_per_second.into()),
        ("errors-per-second", config.errors_per_second.into()),
        ("requests-per-second", config.requests_per_second.into()),
        ("max-table-size", config.max_accounts as u64),
        ("slip-ratio", config.slip.into()),
    ];
    numbers.into_iter().for_each(|(name, number)| lines.option(name, [number.to_string()]));
    lines.when(config.report_only, "report-only", []);
}

fn cache(config: &CacheConfig, lines: &mut Lines) {
    let usual = CacheConfig::default();
    let limits = |limits: CacheLimits| {
        [limits.entries.to_string(), limits.max_ttl_secs.to_string(), limits.min_ttl_secs.to_string()]
    };
    lines.when(config.success != usual.success, "success", limits(config.success));
    lines.when(config.denial != usual.denial, "denial", limits(config.denial));
    lines.duration("servfail", config.servfail, usual.servfail);
    if let Some(prefetch) = config.prefetch {
        let percent = format!("{}%", prefetch.percent);
        lines.option("prefetch", [prefetch.amount.to_string(), print_duration(prefetch.within), percent]);
    }
    if let Some(stale) = config.stale {
        let for_ = print_duration(stale.for_);
        match stale.verify {
            None => lines.option("serve_stale", [for_, "immediate".to_owned()]),
            Some(limit) => lines.option("serve_stale", [for_, "verify".to_owned(), print_duration(limit)]),
        }
    }
    for (kind, zones) in [("success", &config.no_success), ("denial", &config.no_denial)] {
        lines.when(!zones.is_empty(), "disable", [kind.to_owned()].into_iter().chain(names(zones)));
    }
    lines.when(config.keep_ttl, "keepttl", []);
}

fn forward(config: &ForwardConfig, lines: &mut Lines) {
    lines.when(!config.except.is_empty(), "except", names(&config.except));
    lines.when(config.force_tcp, "force_tcp", []);
    lines.when(config.prefer_udp, "prefer_udp", []);
    lines.when(config.max_fails != 2, "max_fails", [config.max_fails.to_string()]);
    lines.duration("expire", config.expire, Duration::from_secs(10));
    lines.duration("health_check", config.health_check, Duration::from_millis(500));
    match config.policy {
        Policy::Random => {}
        Policy::RoundRobin => lines.option("policy", ["round_robin".to_owned()]),
        Policy::Sequential => lines.option("policy", ["sequential".to_owned()]),
    }
    lines.when(config.max_concurrent != 0, "max_concurrent", [config.max_concurrent.to_string()]);
    let codes = config.next_on.iter().map(|code| print_rcode(*code).to_owned());
    lines.when(!config.next_on.is_empty(), "failover", codes);
    let TlsConfig { server_name, ca_file, identity } = &config.tls;
    let identity = identity.iter().flat_map(|(cert, key)| [cert.clone(), key.clone()]);
    lines.when(ca_file.is_some() || config.tls.identity.is_some(), "tls", identity.chain(ca_file.clone()));
    lines.when(server_name.is_some(), "tls_servername", server_name.clone());
}

fn target(target: &Target) -> String {
    match target {
        Target::Plain(addr) => addr.to_string(),
        Target::Tls(addr) => format!("tls://{addr}"),
        Target::Https { addr, path } => format!("https://{addr}{path}"),
        Target::File(file) => file.clone(),
    }
}

fn rewrite(change: &Rewrite) -> Vec<String> {
    match change {
        Rewrite::Name { from, to, answers } => {
            let head = ["name".to_owned()].into_iter().chain(name_match(from)).chain([to.clone()]);
            head.chain(answer_rewrite(answers, matches!(from, NameMatch::Exact(_)))).collect()
        }
        Rewrite::Type { from, to } => vec!["type".to_owned(), from.to_string(), to.to_string()],
        Rewrite::Ttl { names, min_secs, max_secs } => {
            let range = format!("{min_secs}-{max_secs}");
            ["ttl".to_owned()].into_iter().chain(name_match(names)).chain([range]).collect()
        }
        Rewrite::Code { names, from, to } => {
            let codes = [*from, *to].map(|code| print_rcode(code).to_owned());
            ["rcode".to_owned()].into_iter().chain(name_match(names)).chain(codes).collect()
        }
    }
}

fn name_match(names: &NameMatch) -> [String; 2] {
    match names {
        NameMatch::Exact(name) => ["exact".to_owned(), name.to_string()],
        NameMatch::Prefix(text) => ["prefix".to_owned(), text.clone()],
        NameMatch::Suffix(text) => ["suffix".to_owned(), text.clone()],
        NameMatch::Substring(text) => ["substring".to_owned(), text.clone()],
        NameMatch::Regex(pattern) => ["regex".to_owned(), pattern.text.clone()],
    }
}

/// Of a whole name, `auto` is what holds without a word.
fn answer_rewrite(answers: &AnswerRewrite, is_exact: bool) -> Vec<String> {
    match answers {
        AnswerRewrite::Back => Vec::new(),
        AnswerRewrite::Auto if is_exact => Vec::new(),
        AnswerRewrite::Auto => vec!["answer".to_owned(), "auto".to_owned()],
        AnswerRewrite::Rules(rules) => {
            let words = |rule: &AnswerRule| {
                let kind = if rule.in_data { "value" } else { "name" };
                ["answer".to_owned(), kind.to_owned(), rule.from.text.clone(), rule.to.clone()]
            };
            rules.iter().flat_map(words).collect()
        }
    }
}

fn class_word(class: LogClass) -> &'static str {
    match class {
        LogClass::Success => "success",
        LogClass::Denial => "denial",
        LogClass::Error => "error",
        LogClass::All => "all",
    }
}

fn action_word(action: AclAction) -> &'static str {
    match action {
        AclAction::Allow => "allow",
        AclAction::Block => "block",
        AclAction::Filter => "filter",
        AclAction::Drop => "drop",
    }
}

fn listen(addr: SocketAddr) -> String {
    match addr {
        SocketAddr::V6(addr) if addr.ip().is_unspecified() => format!(":{}", addr.port()),
        addr => addr.to_string(),
    }
}

fn names(names: &[Name]) -> impl Iterator<Item = String> {
    names.iter().map(ToString::to_string)
}

/// The lines of a block.
#[derive(Default)]
struct Lines(String);

impl Lines {
    /// A plugin's line, and what `options` writes in braces below it.
    fn plugin(&mut self, name: &str, words: impl IntoIterator<Item = String>, options: impl FnOnce(&mut Lines)) {
        let mut inner = Lines::default();
        options(&mut inner);
        self.line("    ", name, words);
        if !inner.0.is_empty() {
            self.0.truncate(self.0.len() - 1);
            self.0 += " {\n";
            self.0 += &inner.0;
            self.0 += "    }\n";
        }
    }

    fn option(&mut self, name: &str, words: impl IntoIterator<Item = String>) {
        self.line("        ", name, words);
    }

    fn when(&mut self, holds: bool, name: &str, words: impl IntoIterator<Item = String>) {
        if holds {
            self.option(name, words);
        }
    }

    fn duration(&mut self, name: &str, duration: Duration, usual: Duration) {
        self.when(duration != usual, name, [print_duration(duration)]);
    }

    fn fallthrough(&mut self, fallthrough: &Fallthrough) {
        match fallthrough {
            Fallthrough::Never => {}
            Fallthrough::Always => self.option("fallthrough", []),
            Fallthrough::In(zones) => self.option("fallthrough", names(zones)),
        }
    }

    fn line(&mut self, indent: &str, name: &str, words: impl IntoIterator<Item = String>) {
        self.0 += indent;
        self.0 += name;
        for word in words {
            let _ = write!(self.0, " {}", quoted(&word));
        }
        self.0.push('\n');
    }
}

/// In quotes, if it is not one word without them.
fn quoted(word: &str) -> String {
    let is_one = !word.is_empty()
        && !word.starts_with('"')
        && !word.contains(|char: char| char.is_whitespace() || char == '#')
        && !["{", "}"].contains(&word);
    if is_one { word.to_owned() } else { format!("\"{}\"", word.replace('"', "\\\"")) }
}
