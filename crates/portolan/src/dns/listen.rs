//! Where to answer: what a Corefile's blocks say, and what `--listen` puts in its place. Pure.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;

use portolan_dns::corefile::{Block, Corefile};

/// DNS's own port: what a block means that names none.
const DNS_PORT: u16 = 53;

/// One `--listen`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Listen {
    pub ip: IpAddr,
    /// In place of port 53; `None`: ports as the Corefile has them.
    pub port: Option<u16>,
}

impl FromStr for Listen {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let with_port = text.parse::<SocketAddr>().map(|addr| Self { ip: addr.ip(), port: Some(addr.port()) });
        let bare = text.trim_start_matches('[').trim_end_matches(']');
        with_port
            .or_else(|_| bare.parse().map(|ip| Self { ip, port: None }))
            .map_err(|_| "write an address with a port or without one, such as 127.0.0.1:10053".to_owned())
    }
}

/// The Corefile with the places where it is served. Without `--listen` it stays as it is; with it, addresses that blocks
/// `bind` do not count, and a port that is given stands for 53. Other ports are the blocks' own.
pub fn placed(corefile: &Corefile, listens: &[Listen]) -> Corefile {
    let blocks = corefile.blocks.iter().flat_map(|block| places(block, listens));
    Corefile { blocks: blocks.collect() }
}

/// The block once for each port that it is served at.
fn places(block: &Block, listens: &[Listen]) -> Vec<Block> {
    if listens.is_empty() {
        return vec![block.clone()];
    }
    let mut by_port: BTreeMap<u16, Vec<IpAddr>> = BTreeMap::new();
    for listen in listens {
        let port = listen.port.filter(|_| block.port == DNS_PORT).unwrap_or(block.port);
        let ips = by_port.entry(port).or_default();
        if !ips.contains(&listen.ip) {
            ips.push(listen.ip);
        }
    }
    let at = |(port, bind): (u16, Vec<IpAddr>)| Block { port, bind, ..block.clone() };
    by_port.into_iter().map(at).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use portolan_dns::Name;
    use portolan_dns::corefile::Place;

    fn block(port: u16, bind: &[&str]) -> Block {
        let bind = bind.iter().map(|ip| ip.parse().expect("an address")).collect();
        Block { port, bind, ..Block::new(Place::default(), vec![Name::root()]) }
    }

    /// Port and addresses of each block that is served.
    fn served(blocks: Vec<Block>, listens: &[&str]) -> Vec<(u16, Vec<String>)> {
        let listens: Vec<Listen> = listens.iter().map(|text| text.parse().expect("it is one")).collect();
        let blocks = placed(&Corefile { blocks }, &listens).blocks;
        blocks.iter().map(|block| (block.port, block.bind.iter().map(IpAddr::to_string).collect())).collect()
    }

    fn at(port: u16, ips: &[&str]) -> (u16, Vec<String>) {
        (port, ips.iter().map(|ip| (*ip).to_owned()).collect())
    }

    #[test]
    fn a_listen_is_an_address_with_a_port_or_without() {
        let read = |text: &str| text.parse::<Listen>().map(|listen| (listen.ip.to_string(), listen.port));
        assert_eq!(read("127.0.0.1:53"), Ok(("127.0.0.1".to_owned(), Some(53))));
        assert_eq!(read("127.0.0.1"), Ok(("127.0.0.1".to_owned(), None)));
        assert_eq!(read("[::1]:53"), Ok(("::1".to_owned(), Some(53))));
        assert_eq!(read("::1"), Ok(("::1".to_owned(), None)));
        assert_eq!(read("[::1]"), Ok(("::1".to_owned(), None)));
        for wrong in ["", "here", ":53", "127.0.0.1:99999", "1.2.3:53"] {
            assert!(read(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn without_listen_a_corefile_is_served_as_it_is_written() {
        let blocks = vec![block(53, &[]), block(5300, &["192.0.2.1"])];
        assert_eq!(served(blocks, &[]), [at(53, &[]), at(5300, &["192.0.2.1"])]);
    }

    #[test]
    fn listen_stands_for_port_53_and_for_every_bind() {
        let blocks = || vec![block(53, &["192.0.2.1"]), block(5300, &[])];
        assert_eq!(served(blocks(), &["127.0.0.1"]), [at(53, &["127.0.0.1"]), at(5300, &["127.0.0.1"])]);
        assert_eq!(served(blocks(), &["127.0.0.1:1053"]), [at(1053, &["127.0.0.1"]), at(5300, &["127.0.0.1"])]);
        let two = ["127.0.0.1:1053", "[::1]:1053", "127.0.0.5:1054"];
        let all = ["127.0.0.1", "::1", "127.0.0.5"];
        assert_eq!(served(blocks(), &two), [at(1053, &["127.0.0.1", "::1"]), at(1054, &["127.0.0.5"]), at(5300, &all)]);
    }
}
