//! A configuration made ready: each block with what its plugins need, found by port and zone.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex};

use ipnet::IpNet;

use crate::cache::AnswerCache;
use crate::client::Client;
use crate::corefile::Corefile;
use crate::corefile::config::{AutopathBy, Block, Target};
use crate::counts::Counts;
use crate::external::External;
use crate::forward::step::GroupConfig;
use crate::kubernetes::View;
use crate::name::Name;
use crate::plugin::acl::Acl;
use crate::plugin::hosts::Hosts;
use crate::plugin::log::Log;
use crate::plugin::rewrite::Rewrites;
use crate::plugin::rrl::Rrl;
use crate::plugin::template::Templates;
use crate::resolvconf;
use crate::site::fit::is_in;

/// The port of blocks that name none.
const DNS_PORT: u16 = 53;

/// A configuration, ready for use.
#[derive(Debug)]
pub struct Setup {
    config: Corefile,
    heads: Vec<Head>,
    blocks: Vec<Prepared>,
    groups: Vec<GroupConfig>,
    /// One for each of the heads, and the last for what falls to none.
    counts: Vec<Arc<Counts>>,
}

/// A zone of a block: what a query falls to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Head {
    /// The zone.
    pub zone: Name,
    /// The block's port.
    pub port: u16,
    /// The block, as an index into the configuration's.
    pub block: usize,
}

impl Head {
    /// As metrics name it: `dns://:53`.
    pub fn server(&self) -> String {
        format!("dns://:{}", self.port)
    }
}

/// What of a block was worked out ahead.
#[derive(Debug)]
pub(crate) struct Prepared {
    pub(crate) acl: Option<Acl>,
    pub(crate) rewrites: Option<Rewrites>,
    pub(crate) templates: Option<Templates>,
    pub(crate) hosts: Option<Hosts>,
    pub(crate) external: Option<External>,
    pub(crate) view: Option<View>,
    /// Groups of its `forward` lines, the longest `from` first.
    pub(crate) forwards: Vec<usize>,
    pub(crate) cache: Option<Arc<AnswerCache>>,
    /// Search list of `autopath FILE`; of `autopath @kubernetes`, what comes after the cluster's own domains.
    pub(crate) search: Vec<Name>,
    /// One for all threads: it is for those who are flooded, and off elsewhere.
    pub(crate) rrl: Option<Mutex<Rrl>>,
    pub(crate) log: Option<Log>,
    /// Nothing in it changes what `kubernetes`, a cache or an upstream says.
    pub(crate) is_plain: bool,
}

/// What a configuration is prepared with.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Surroundings {
    /// Contents of the files that it names, by their names there. What is not here could not be read.
    pub files: BTreeMap<String, String>,
    /// Addresses at which this DNS answers: a Service with one of them is the zones' name server.
    pub own: Vec<IpAddr>,
    /// Pod and Service ranges.
    pub ranges: Vec<IpNet>,
    /// An unpredictable number: clients choose the names that are hashed.
    pub seed: u64,
}

impl Setup {
    /// Prepares `config`.
    pub fn new(config: Corefile, with: &Surroundings) -> Self {
        Self::after(None, config, with)
    }

    /// Prepares `config` in place of `before`: a block that stays keeps its cache, if that is configured as it was.
    pub fn after(before: Option<&Self>, config: Corefile, with: &Surroundings) -> Self {
        let mut heads: Vec<Head> = Vec::new();
        for (block, of) in config.blocks.iter().enumerate() {
            heads.extend(of.zones.iter().map(|zone| Head { zone: zone.clone(), port: of.port, block }));
        }
        // The longest zone first; among equals the file's order stays.
        heads.sort_by_key(|head| std::cmp::Reverse(head.zone.as_wire().len()));
        let mut groups = Vec::new();
        let blocks = config.blocks.iter().map(|block| prepare(before, block, with, &mut groups)).collect();
        let same = |head: &Head| before?.heads.iter().position(|old| old.zone == head.zone && old.port == head.port);
        let kept = |at: usize| before.map(|before| before.counts[at].clone()).unwrap_or_default();
        let mut counts: Vec<Arc<Counts>> = heads.iter().map(|head| same(head).map(kept).unwrap_or_default()).collect();
        counts.push(before.and_then(|before| before.counts.last().cloned()).unwrap_or_default());
        Self { config, heads, blocks, groups, counts }
    }

    /// The configuration as it was read.
    pub fn config(&self) -> &Corefile {
        &self.config
    }

    /// All zones of all blocks, the longest first.
    pub fn heads(&self) -> &[Head] {
        &self.heads
    }

    /// All `forward` lines, in the file's order.
    pub fn groups(&self) -> &[GroupConfig] {
        &self.groups
    }

    /// What was served of each zone; without a zone: of queries that fell to none.
    pub fn counts(&self) -> impl Iterator<Item = (Option<&Head>, &Counts)> {
        let heads = self.heads.iter().map(Some).chain([None]);
        heads.zip(self.counts.iter().map(|counts| &**counts))
    }

    /// The numbers of one zone, by its place among the heads.
    pub(crate) fn counts_of(&self, head: Option<u16>) -> &Counts {
        let at = head.map(usize::from).filter(|at| *at < self.heads.len()).unwrap_or(self.heads.len());
        &self.counts[at]
    }

    /// The caches, each with its block's index.
    pub fn caches(&self) -> impl Iterator<Item = (usize, &Arc<AnswerCache>)> {
        self.blocks.iter().enumerate().filter_map(|(at, block)| Some((at, block.cache.as_ref()?)))
    }

    /// The views of the cluster, each with its block's index.
    pub fn views(&self) -> impl Iterator<Item = (usize, &View)> {
        self.blocks.iter().enumerate().filter_map(|(at, block)| Some((at, block.view.as_ref()?)))
    }

    /// Zones of external addresses, each with its block's index.
    pub fn externals(&self) -> impl Iterator<Item = (usize, &External)> {
        self.blocks.iter().enumerate().filter_map(|(at, block)| Some((at, block.external.as_ref()?)))
    }

    /// Hosts tables, each with its block's index.
    pub fn hosts(&self) -> impl Iterator<Item = (usize, &Hosts)> {
        self.blocks.iter().enumerate().filter_map(|(at, block)| Some((at, block.hosts.as_ref()?)))
    }

    /// The zone and block that a query for `name` falls to: the longest zone above it, at the port where it came in.
    pub(crate) fn head_of(&self, name: &[u8], client: &Client) -> Option<usize> {
        let port = self.port_of(client.local);
        self.heads.iter().position(|head| {
            let bind = &self.config.blocks[head.block].bind;
            head.port == port && (bind.is_empty() || is_at(bind, client.local.ip())) && is_in(name, head.zone.as_wire())
        })
    }

    pub(crate) fn block(&self, at: usize) -> (&Block, &Prepared) {
        (&self.config.blocks[at], &self.blocks[at])
    }

    /// The port whose blocks serve what comes to `local`: its own or, if no block has it, that of DNS; where none has that
    /// either, the first block's.
    fn port_of(&self, local: SocketAddr) -> u16 {
        let ports = || self.config.blocks.iter().map(|block| block.port);
        let wanted = [local.port(), DNS_PORT];
        let known = wanted.into_iter().find(|wanted| ports().any(|port| port == *wanted));
        known.or_else(|| ports().next()).unwrap_or(DNS_PORT)
    }
}

/// A query that came to `local` came to an address of `bind`; where it came to is not known of one that was only thought of.
fn is_at(bind: &[IpAddr], local: IpAddr) -> bool {
    local.is_unspecified() || bind.iter().any(|ip| ip.is_unspecified() || *ip == local)
}

fn prepare(before: Option<&Setup>, block: &Block, with: &Surroundings, groups: &mut Vec<GroupConfig>) -> Prepared {
    let first = groups.len();
    let loop_zone = block.zones.first().filter(|_| block.detects_loops);
    groups.extend(block.forwards.iter().map(|forward| GroupConfig {
        forward: forward.clone(),
        loop_zone: loop_zone.cloned(),
        mixes_case: false,
    }));
    let mut forwards: Vec<usize> = (first..groups.len()).collect();
    forwards.sort_by_key(|group| std::cmp::Reverse(groups[*group].forward.from.as_wire().len()));
    let text = |file: &String| with.files.get(file).map(String::as_str);
    let hosts = block.hosts.as_ref();
    let prepared = Prepared {
        acl: Acl::prepare(&block.acl, &block.zones),
        rewrites: Rewrites::prepare(&block.rewrites),
        templates: Templates::prepare(&block.templates, &block.zones),
        hosts: hosts.map(|config| Hosts::prepare(config, &block.zones, config.file.as_ref().and_then(text))),
        external: block.external.as_ref().map(|config| External::new(config, &with.own)),
        view: block.kubernetes.as_ref().map(|config| View::new(config, &with.own, &with.ranges)),
        forwards,
        cache: cache_of(before, block, with.seed),
        search: search_of_files(block, with),
        rrl: block.rrl.as_ref().map(|config| Mutex::new(Rrl::prepare(config, &block.zones, with.seed))),
        log: Log::prepare(&block.logs),
        is_plain: false,
    };
    let is_plain = prepared.rewrites.is_none()
        && prepared.templates.is_none()
        && prepared.hosts.is_none()
        && prepared.rrl.is_none()
        && !block.minimal
        && block.external.is_none();
    Prepared { is_plain, ..prepared }
}

fn cache_of(before: Option<&Setup>, block: &Block, seed: u64) -> Option<Arc<AnswerCache>> {
    let mut config = block.cache.clone()?;
    if config.zones.is_empty() {
        config.zones.clone_from(&block.zones);
    }
    let same = |(at, cache): &(usize, &Arc<AnswerCache>)| {
        let old = before.map(|before| &before.config.blocks[*at]);
        old.is_some_and(|old| old.zones == block.zones && old.port == block.port && old.forwards == block.forwards)
            && *cache.config() == config
    };
    let kept = before.and_then(|before| before.caches().find(same)).map(|(_, cache)| cache.clone());
    Some(kept.unwrap_or_else(|| Arc::new(AnswerCache::new(config, seed))))
}

fn search_of_files(block: &Block, with: &Surroundings) -> Vec<Name> {
    let targets = block.forwards.iter().flat_map(|forward| &forward.to);
    let mut files = targets.filter_map(|target| if let Target::File(file) = target { Some(file) } else { None });
    let file = match block.autopath.as_ref().map(|autopath| &autopath.by) {
        None => None,
        Some(AutopathBy::File(file)) => Some(file),
        Some(AutopathBy::Kubernetes) => files.next(),
    };
    let text = file.and_then(|file| with.files.get(file)).map(String::as_str).unwrap_or_default();
    resolvconf::parse(text).0.search.iter().filter_map(|domain| Name::parse(domain).ok()).collect()
}
