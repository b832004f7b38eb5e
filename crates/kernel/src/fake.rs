//! A kernel in memory: links, addresses, routes and iptables chains for tests of what stands above.
//!
//! The fakes answer as the kernel does where callers depend on it (names taken, links that are not
//! there, routes that go with their link, `--noflush`) and count the writes they were asked for, so
//! that a test can say "nothing was written". They are handles: a clone shows the same kernel.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard};

use ipnet::IpNet;

use crate::iptables::{Family, Flush, IptablesError};
use crate::netlink::{AddressInfo, KernelRoute, LinkInfo, LinkKind, NetlinkError, RouteAnswer, RouteKind, VethSpec};
use crate::nlsock::Refused;
use crate::ops::{Network, Rules};

/// Links, addresses and routes in memory.
#[derive(Debug, Clone, Default)]
pub struct FakeNetwork {
    state: Arc<Mutex<State>>,
}

#[derive(Debug, Default)]
struct State {
    links: Vec<LinkInfo>,
    addrs: Vec<AddressInfo>,
    routes: Vec<KernelRoute>,
    neighbours: BTreeMap<(u32, IpAddr), [u8; 6]>,
    next_index: u32,
    writes: usize,
    refuse_next: Option<i32>,
}

impl FakeNetwork {
    /// A namespace with `lo` as index 1 and nothing else.
    pub fn new() -> FakeNetwork {
        let fake = FakeNetwork::default();
        fake.add_link("lo", LinkKind::Loopback);
        fake
    }

    /// Puts a link there that is up; returns its index.
    pub fn add_link(&self, name: &str, kind: LinkKind) -> u32 {
        let mut state = self.state();
        let index = state.add(name, kind, None, 1500);
        state.links.last_mut().expect("just added").up = true;
        index
    }

    /// How many changes were asked for so far, refused ones too.
    pub fn writes(&self) -> usize {
        self.state().writes
    }

    /// The next change fails with this errno.
    pub fn refuse_next(&self, errno: i32) {
        self.state().refuse_next = Some(errno);
    }

    pub fn neighbours(&self) -> BTreeMap<(u32, IpAddr), [u8; 6]> {
        self.state().neighbours.clone()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no test panics while it holds the fake")
    }
}

impl State {
    fn add(&mut self, name: &str, kind: LinkKind, mac: Option<[u8; 6]>, mtu_bytes: u32) -> u32 {
        self.next_index += 1;
        let index = self.next_index;
        self.links.push(LinkInfo {
            index,
            name: name.to_owned(),
            mac,
            up: false,
            carrier: false,
            mtu_bytes,
            kind,
            peer_index: None,
            peer_netns_id: None,
            master: None,
        });
        index
    }

    fn write(&mut self, what: &str) -> Result<(), NetlinkError> {
        self.writes += 1;
        self.refuse_next.take().map_or(Ok(()), |errno| Err(refused(what, errno)))
    }

    fn link(&mut self, what: &str, index: u32) -> Result<&mut LinkInfo, NetlinkError> {
        self.links.iter_mut().find(|l| l.index == index).ok_or_else(|| refused(what, libc::ENODEV))
    }

    fn replace_route(&mut self, route: &KernelRoute) -> Result<(), NetlinkError> {
        self.write("replace route")?;
        if let Some(oif) = route.oif
            && !self.link("replace route", oif)?.up
        {
            return Err(refused("replace route", libc::ENETDOWN));
        }
        self.routes.retain(|r| key(r) != key(route));
        self.routes.push(route.clone());
        Ok(())
    }
}

/// What makes two routes the same place in a table.
fn key(route: &KernelRoute) -> (IpNet, u32, u32) {
    (route.dst, route.table, route.metric.unwrap_or(0))
}

fn refused(what: &str, errno: i32) -> NetlinkError {
    NetlinkError::Refused { what: what.to_owned(), refused: Refused { errno, words: String::new() } }
}

impl Network for FakeNetwork {
    fn links(&mut self) -> Result<Vec<LinkInfo>, NetlinkError> {
        Ok(self.state().links.clone())
    }

    fn addrs(&mut self) -> Result<Vec<AddressInfo>, NetlinkError> {
        Ok(self.state().addrs.clone())
    }

    fn routes(&mut self) -> Result<Vec<KernelRoute>, NetlinkError> {
        Ok(self.state().routes.clone())
    }

    fn route_get(&mut self, to: IpAddr) -> Result<RouteAnswer, NetlinkError> {
        let state = self.state();
        let covering = state.routes.iter().filter(|r| r.dst.contains(&to)).max_by_key(|r| r.dst.prefix_len());
        let route = covering.ok_or_else(|| refused("route get", libc::ENETUNREACH))?;
        match route.kind {
            RouteKind::Blackhole => Err(refused("route get", libc::EINVAL)),
            RouteKind::Unreachable => Err(refused("route get", libc::EHOSTUNREACH)),
            kind => Ok(RouteAnswer { kind, gateway: route.gateway, oif: route.oif, src: route.src }),
        }
    }

    fn create_veth(&mut self, spec: &VethSpec<'_>) -> Result<(), NetlinkError> {
        let mut state = self.state();
        state.write("create veth")?;
        if state.links.iter().any(|l| l.name == spec.name) {
            return Err(refused("create veth", libc::EEXIST));
        }
        let index = state.add(spec.name, LinkKind::Veth, spec.mac, spec.mtu_bytes);
        let peer = if spec.peer_netns.is_none() {
            state.add(spec.peer_name, LinkKind::Veth, spec.peer_mac, spec.mtu_bytes)
        } else {
            2 // the first link beside lo in the other namespace
        };
        state.link("create veth", index)?.peer_index = Some(peer);
        Ok(())
    }

    fn delete_link(&mut self, index: u32) -> Result<(), NetlinkError> {
        let mut state = self.state();
        state.write("delete link")?;
        state.link("delete link", index)?;
        state.links.retain(|l| l.index != index);
        state.addrs.retain(|a| a.link_index != index);
        state.routes.retain(|r| r.oif != Some(index));
        state.neighbours.retain(|(link, _), _| *link != index);
        Ok(())
    }

    fn set_up(&mut self, index: u32) -> Result<(), NetlinkError> {
        let mut state = self.state();
        state.write("set link up")?;
        state.link("set link up", index)?.up = true;
        Ok(())
    }

    fn add_addr(&mut self, index: u32, address: IpNet) -> Result<(), NetlinkError> {
        let mut state = self.state();
        state.write("add address")?;
        state.link("add address", index)?;
        let info = AddressInfo { link_index: index, net: address, permanent: true, tentative: false };
        if !state.addrs.contains(&info) {
            state.addrs.push(info);
        }
        Ok(())
    }

    fn delete_addr(&mut self, index: u32, address: IpNet) -> Result<(), NetlinkError> {
        let mut state = self.state();
        state.write("delete address")?;
        state.addrs.retain(|a| (a.link_index, a.net) != (index, address));
        Ok(())
    }

    fn add_neigh(&mut self, index: u32, address: IpAddr, mac: [u8; 6]) -> Result<(), NetlinkError> {
        let mut state = self.state();
        state.write("add neighbour")?;
        state.link("add neighbour", index)?;
        state.neighbours.insert((index, address), mac);
        Ok(())
    }

    fn replace_routes(&mut self, routes: &[KernelRoute]) -> Vec<Result<(), NetlinkError>> {
        let mut state = self.state();
        routes.iter().map(|route| state.replace_route(route)).collect()
    }

    fn delete_routes(&mut self, routes: &[KernelRoute]) -> Vec<Result<(), NetlinkError>> {
        let mut state = self.state();
        let mut delete = |route: &KernelRoute| {
            state.write("delete route")?;
            state.routes.retain(|r| key(r) != key(route));
            Ok(())
        };
        routes.iter().map(&mut delete).collect()
    }
}

/// iptables chains in memory, fed with the text that `iptables-restore` would get.
///
/// It knows tables, `:CHAIN` declarations (which empty a chain under `--noflush`), `-A`, `-I CHAIN [1]`
/// (at the front), `-D` (exact), `-F` and `-X`; rules are kept as their text.
#[derive(Debug, Clone, Default)]
pub struct FakeRules {
    state: Arc<Mutex<RulesState>>,
}

type Chains = BTreeMap<String, Vec<String>>;

#[derive(Debug, Default)]
struct RulesState {
    tables: BTreeMap<(Family, String), Chains>,
    restores: Vec<String>,
    refuse_next: Option<String>,
}

impl FakeRules {
    pub fn new() -> FakeRules {
        FakeRules::default()
    }

    /// The texts given so far, refused ones too.
    pub fn restores(&self) -> Vec<String> {
        self.state().restores.clone()
    }

    /// The rules of a chain as text; `None` if there is no such chain.
    pub fn chain(&self, family: Family, table: &str, chain: &str) -> Option<Vec<String>> {
        self.state().tables.get(&(family, table.to_owned()))?.get(chain).cloned()
    }

    /// The next restore fails with these words and changes nothing.
    pub fn refuse_next(&self, stderr: &str) {
        self.state().refuse_next = Some(stderr.to_owned());
    }

    fn state(&self) -> MutexGuard<'_, RulesState> {
        self.state.lock().expect("no test panics while it holds the fake")
    }
}

impl Rules for FakeRules {
    fn restore(&self, family: Family, text: &str, flush: Flush) -> Result<(), IptablesError> {
        let mut state = self.state();
        state.restores.push(text.to_owned());
        if let Some(stderr) = state.refuse_next.take() {
            return Err(refusal(stderr, None, ""));
        }
        let mut open: Option<(String, Chains)> = None;
        for (number, line) in text.lines().enumerate() {
            let line = line.trim();
            if let Some(table) = line.strip_prefix('*') {
                let held = state.tables.get(&(family, table.to_owned())).cloned().unwrap_or_default();
                open = Some((table.to_owned(), if flush == Flush::All { Chains::new() } else { held }));
            } else if line == "COMMIT" {
                let (table, chains) =
                    open.take().ok_or_else(|| refusal("COMMIT outside a table".into(), Some(number + 1), line))?;
                state.tables.insert((family, table), chains);
            } else if !line.is_empty() && !line.starts_with('#') {
                let chains = open.as_mut().map(|(_, chains)| chains);
                chains
                    .and_then(|chains| change_chain(chains, line))
                    .ok_or_else(|| refusal("not possible here".into(), Some(number + 1), line))?;
            }
        }
        Ok(())
    }

    fn save(&self, family: Family, table: &str) -> Result<String, IptablesError> {
        let state = self.state();
        Ok(state.tables.get(&(family, table.to_owned())).map(|c| print(table, c)).unwrap_or_default())
    }

    fn save_all(&self, family: Family) -> Result<String, IptablesError> {
        let state = self.state();
        let of_family = state.tables.iter().filter(|((f, _), _)| *f == family);
        Ok(of_family.map(|((_, table), chains)| print(table, chains)).collect())
    }
}

const BUILT_IN: [&str; 5] = ["PREROUTING", "INPUT", "FORWARD", "OUTPUT", "POSTROUTING"];

fn change_chain(chains: &mut Chains, line: &str) -> Option<()> {
    if let Some(declared) = line.strip_prefix(':') {
        let name = declared.split_whitespace().next()?;
        if BUILT_IN.contains(&name) {
            chains.entry(name.to_owned()).or_default();
        } else {
            chains.insert(name.to_owned(), Vec::new());
        }
        return Some(());
    }
    let mut words = line.splitn(3, ' ');
    let (verb, name, rule) = (words.next()?, words.next()?, words.next().unwrap_or_default());
    if BUILT_IN.contains(&name) {
        chains.entry(name.to_owned()).or_default();
    }
    match verb {
        "-A" => chains.get_mut(name)?.push(rule.to_owned()),
        // A position other than the first is nobody's need yet.
        "-I" => chains.get_mut(name)?.insert(0, rule.strip_prefix("1 ").unwrap_or(rule).to_owned()),
        "-D" => {
            let rules = chains.get_mut(name)?;
            rules.remove(rules.iter().position(|r| r == rule)?);
        }
        "-F" => chains.get_mut(name)?.clear(),
        "-X" => {
            let is_used = chains.values().flatten().any(|r| r.ends_with(&format!("-j {name}")));
            if is_used || !chains.get(name)?.is_empty() {
                return None;
            }
            chains.remove(name);
        }
        _ => return None,
    }
    Some(())
}

fn print(table: &str, chains: &Chains) -> String {
    let mut text = format!("*{table}\n");
    for name in chains.keys() {
        let policy = if BUILT_IN.contains(&name.as_str()) { "ACCEPT" } else { "-" };
        text += &format!(":{name} {policy} [0:0]\n");
    }
    for (name, rules) in chains {
        text.extend(rules.iter().map(|rule| format!("-A {name} {rule}\n")));
    }
    text + "COMMIT\n"
}

fn refusal(stderr: String, line: Option<usize>, text: &str) -> IptablesError {
    IptablesError::Refused { program: "iptables-restore".into(), stderr, line, text: text.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn routes_go_with_their_link_and_every_change_is_counted() {
        let mut net = FakeNetwork::new();
        let link = net.add_link("cali0", LinkKind::Veth);
        let route = KernelRoute::on_link("10.244.0.2/32".parse().unwrap(), link);
        assert!(net.replace_routes(std::slice::from_ref(&route))[0].is_ok());
        assert_eq!(net.route_get("10.244.0.2".parse().unwrap()).unwrap().oif, Some(link));
        net.delete_link(link).unwrap();
        assert!(net.routes().unwrap().is_empty());
        assert_eq!(net.writes(), 2);
    }

    #[test]
    fn a_declared_chain_is_emptied_and_others_stay() {
        let rules = FakeRules::new();
        let first = "*nat\n:A - [0:0]\n:B - [0:0]\n-A A -j B\n-A B -j RETURN\nCOMMIT\n";
        rules.restore(Family::V4, first, Flush::Keep).unwrap();
        rules.restore(Family::V4, "*nat\n:A - [0:0]\n-A A -j ACCEPT\nCOMMIT\n", Flush::Keep).unwrap();
        assert_eq!(rules.chain(Family::V4, "nat", "A").unwrap(), ["-j ACCEPT"]);
        assert_eq!(rules.chain(Family::V4, "nat", "B").unwrap(), ["-j RETURN"]);
    }

    #[test]
    fn a_line_that_cannot_be_done_undoes_its_table() {
        let rules = FakeRules::new();
        let text = "*nat\n:A - [0:0]\n-A MISSING -j A\nCOMMIT\n";
        let error = rules.restore(Family::V4, text, Flush::Keep).unwrap_err();
        assert!(matches!(error, IptablesError::Refused { line: Some(3), .. }), "{error}");
        assert_eq!(rules.chain(Family::V4, "nat", "A"), None);
    }
}
