//! A configuration made ready: each block with what its plugins need, found by port and zone.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use crate::client::Client;
use crate::corefile::Corefile;
use crate::corefile::config::{Autopath, AutopathBy, Block, ForwardConfig};
use crate::name::Name;
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
    groups: Vec<Group>,
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

/// One `forward` line.
#[derive(Clone, Debug, PartialEq)]
pub struct Group {
    /// The line.
    pub forward: ForwardConfig,
    /// The block that it is in.
    pub block: usize,
}

/// What of a block was worked out ahead.
#[derive(Debug, Default)]
pub(crate) struct Prepared {
    /// Groups of its `forward` lines, the longest `from` first.
    pub(crate) forwards: Vec<usize>,
    /// Search list of `autopath FILE`.
    pub(crate) search: Vec<Name>,
    /// What `kubernetes` says goes out as it is: no plugin comes before it or changes it, but `loadbalance`.
    pub(crate) is_plain: bool,
}

/// Contents of the files that a configuration names, by their names there. What is not here could not be read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Files(pub BTreeMap<String, String>);

impl Setup {
    /// Prepares `config`.
    pub fn new(config: Corefile, files: &Files) -> Self {
        let mut heads: Vec<Head> = Vec::new();
        for (block, of) in config.blocks.iter().enumerate() {
            heads.extend(of.zones.iter().map(|zone| Head { zone: zone.clone(), port: of.port, block }));
        }
        // The longest zone first; among equals the file's order stays.
        heads.sort_by_key(|head| std::cmp::Reverse(head.zone.as_wire().len()));
        let mut groups = Vec::new();
        let blocks =
            config.blocks.iter().enumerate().map(|(at, block)| prepare(at, block, files, &mut groups)).collect();
        Self { config, heads, blocks, groups }
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
    pub fn groups(&self) -> &[Group] {
        &self.groups
    }

    /// The zone and block that a query for `name` falls to: the longest zone above it, at the port where it came in.
    pub(crate) fn head_of(&self, name: &[u8], client: &Client) -> Option<usize> {
        let port = self.port_of(client.local);
        self.heads.iter().position(|head| {
            let bind = &self.config.blocks[head.block].bind;
            head.port == port
                && (bind.is_empty() || bind.contains(&client.local.ip()))
                && is_in(name, head.zone.as_wire())
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

fn prepare(at: usize, block: &Block, files: &Files, groups: &mut Vec<Group>) -> Prepared {
    let first = groups.len();
    groups.extend(block.forwards.iter().map(|forward| Group { forward: forward.clone(), block: at }));
    let mut forwards: Vec<usize> = (first..groups.len()).collect();
    forwards.sort_by_key(|group| std::cmp::Reverse(groups[*group].forward.from.as_wire().len()));
    Prepared { forwards, search: search_of_file(block.autopath.as_ref(), files), is_plain: is_plain(block) }
}

fn is_plain(block: &Block) -> bool {
    let comes_before = block.any
        || block.local
        || block.minimal
        || block.autopath.is_some()
        || block.external.is_some()
        || block.hosts.is_some()
        || block.rrl.is_some();
    !comes_before && block.acl.is_empty() && block.rewrites.is_empty() && block.templates.is_empty()
}

fn search_of_file(autopath: Option<&Autopath>, files: &Files) -> Vec<Name> {
    let Some(Autopath { by: AutopathBy::File(file), .. }) = autopath else { return Vec::new() };
    let text = files.0.get(file).map(String::as_str).unwrap_or_default();
    resolvconf::parse(text).0.search.iter().filter_map(|domain| Name::parse(domain).ok()).collect()
}
