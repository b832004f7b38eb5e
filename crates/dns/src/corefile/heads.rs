//! Heads of server blocks: zones with their ports, and that no two blocks want the same queries.

use std::collections::BTreeMap;

use super::config::{Block, Place};
use super::lex::Word;
use super::words::{problem, zone};
use super::{Problem, Told};
use crate::name::Name;

/// DNS over UDP and TCP.
const PORT: u16 = 53;
/// Transports that CoreDNS can listen by and we cannot.
const OTHERS: [&str; 6] = ["tls", "https", "https3", "grpc", "quic", "unix"];

/// Zones and port of one head: `example.org`, `example.org:5353`, `dns://.:53`, `10.0.0.0/17`.
pub(super) fn read(head: &Word) -> Result<(Vec<Name>, u16), Problem> {
    let text = match head.text.split_once("://") {
        Some(("dns", rest)) => rest,
        Some((scheme, _)) if OTHERS.contains(&scheme) => {
            let what =
                format!("`{}`: this DNS listens by UDP and TCP only; take the block out or name it dns://", head.text);
            return Err(problem(head, what));
        }
        Some((scheme, _)) => {
            let what = format!("`{}`: `{scheme}://` is no transport of DNS; write dns:// or nothing", head.text);
            return Err(problem(head, what));
        }
        None => &head.text,
    };
    let (zones, port) = match text.rsplit_once(':') {
        Some((zones, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => match port.parse() {
            Ok(port) if port > 0 => (zones, port),
            _ => return Err(problem(head, format!("`{}`: a port from 1 to 65535 stands behind the colon", head.text))),
        },
        _ => (text, PORT),
    };
    // A head without a zone, `:53`, is the root's.
    let zones = if zones.is_empty() { "." } else { zones };
    Ok((zone(&Word { text: zones.to_owned(), ..head.clone() })?, port))
}

/// One zone at one port (and address) belongs to one block.
pub(super) fn refuse_doubles(blocks: &[Block], told: &mut Told) {
    let mut holders: BTreeMap<(&Name, u16), Vec<&Block>> = BTreeMap::new();
    for block in blocks {
        for zone in &block.zones {
            let others = holders.entry((zone, block.port)).or_default();
            match others.iter().find(|other| meets(other, block)) {
                Some(before) => {
                    let (port, Place { file, line }) = (block.port, &before.place);
                    let what = format!(
                        "zone {zone} at port {port} has a block already, at {file}:{line}; make one of the two"
                    );
                    told.problem(&block.place, what);
                }
                None => others.push(block),
            }
        }
    }
}

/// Whether two blocks of one port listen at one address; a block without `bind` listens at all.
fn meets(one: &Block, other: &Block) -> bool {
    one.bind.is_empty() || other.bind.is_empty() || one.bind.iter().any(|addr| other.bind.contains(addr))
}
