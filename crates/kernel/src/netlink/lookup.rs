//! Which route a packet takes, and by which prefix: `ip route get TO from FROM iif LINK mark MARK fibmatch`.
//!
//! Asked twice: the kernel's plain answer names the next hop that it chose, the one with `RTM_F_FIB_MATCH` the entry of
//! the table. Where it refuses, it gives an errno only; the entry that made it refuse is then looked for in the tables.

use std::net::IpAddr;

use ipnet::IpNet;
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::route::{RouteAttribute, RouteFlags, RouteMessage};

use super::links::family;
use super::{KernelRoute, MAIN_TABLE, Netlink, NetlinkError, RouteKind, explain};

/// A packet, as far as routes look at it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RouteQuestion {
    pub to: IpAddr,
    /// Its source. Of a packet that the node itself sends it must be an address of the node.
    pub from: Option<IpAddr>,
    /// Index of the link that it came in by; `None`: the node itself sends it.
    pub came_by: Option<u32>,
    /// Its mark, for policy rules; 0: none.
    pub mark: u32,
}

/// What the routes do with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RouteFate {
    /// On, out of the link.
    Forward,
    /// To a process here.
    Local,
    /// Dropped without a word.
    Blackhole,
    /// Refused by an `unreachable` or `prohibit` route.
    Unreachable,
    /// No route matches.
    NoRoute,
    /// Not taken in at all: its source cannot be on that link (reverse path, martian), or the link does not forward.
    NotTaken,
}

/// The answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RouteFound {
    pub fate: RouteFate,
    /// The entry's prefix; `None` if there is none, or where the kernel does not say.
    pub prefix: Option<IpNet>,
    /// `RTPROT_*`: who wrote the entry: 2 the kernel, 80 and 186 ours. `None` with no prefix.
    pub protocol: Option<u8>,
    pub gateway: Option<IpAddr>,
    /// Index and name of the link it leaves by; the name is `None` if the link went away meanwhile.
    pub oif: Option<u32>,
    pub link: Option<String>,
    /// Address that the node would send from.
    pub src: Option<IpAddr>,
}

impl RouteQuestion {
    /// What the node itself sends there.
    pub fn to(to: IpAddr) -> RouteQuestion {
        RouteQuestion { to, from: None, came_by: None, mark: 0 }
    }
}

impl Netlink {
    /// The way of one packet. That no route leads there is an answer, not an error.
    pub fn route_lookup(&mut self, question: &RouteQuestion) -> Result<RouteFound, NetlinkError> {
        let chosen = match self.ask_route(question, RouteFlags::empty()) {
            Ok(route) => route,
            Err(error) => match error.errno() {
                Some(errno) if is_verdict(errno) => return self.refusal(question.to, errno),
                _ => return Err(error),
            },
        };
        // A kernel before 4.13 knows no such question, and names the packet's own address as prefix.
        let entry = self.ask_route(question, RouteFlags::FibMatch).ok().filter(|entry| entry.kind == chosen.kind);
        let oif = chosen.oif;
        let link = match oif {
            Some(index) => self.links()?.into_iter().find(|link| link.index == index).map(|link| link.name),
            None => None,
        };
        Ok(RouteFound {
            fate: fate_of(chosen.kind),
            prefix: entry.as_ref().map(|entry| entry.dst),
            protocol: entry.as_ref().map(|entry| entry.protocol),
            gateway: chosen.gateway,
            oif,
            link,
            src: chosen.src,
        })
    }

    fn ask_route(&mut self, question: &RouteQuestion, flags: RouteFlags) -> Result<KernelRoute, NetlinkError> {
        let what = || format!("ask for the route to {}", question.to);
        let length = if question.to.is_ipv4() { 32 } else { 128 };
        let mut request = RouteMessage::default();
        request.header.address_family = family(question.to);
        request.header.destination_prefix_length = length;
        request.header.flags = flags;
        let attributes = &mut request.attributes;
        attributes.push(RouteAttribute::Destination(question.to.into()));
        if let Some(from) = question.from {
            request.header.source_prefix_length = length;
            attributes.push(RouteAttribute::Source(from.into()));
        }
        attributes.extend(question.came_by.map(RouteAttribute::Iif));
        attributes.extend((question.mark != 0).then_some(RouteAttribute::Mark(question.mark)));
        let answer = self.socket.get(RouteNetlinkMessage::GetRoute(request)).map_err(|e| explain(what(), e))?;
        answer.iter().find_map(KernelRoute::parse_any).ok_or_else(|| NetlinkError::Refused {
            what: what(),
            refused: crate::nlsock::Refused { errno: libc::ENETUNREACH, words: String::new() },
        })
    }

    /// Why the kernel refuses: the narrowest entry of the main table that has the address tells.
    fn refusal(&mut self, to: IpAddr, errno: i32) -> Result<RouteFound, NetlinkError> {
        let routes = self.routes(MAIN_TABLE)?;
        let entry =
            routes.into_iter().filter(|route| route.dst.contains(&to)).max_by_key(|route| route.dst.prefix_len());
        let refuses = |route: &KernelRoute| !matches!(route.kind, RouteKind::Unicast | RouteKind::Local);
        let none = RouteFound {
            fate: RouteFate::NoRoute,
            prefix: None,
            protocol: None,
            gateway: None,
            oif: None,
            link: None,
            src: None,
        };
        Ok(match entry {
            Some(route) if refuses(&route) => RouteFound {
                fate: fate_of(route.kind),
                prefix: Some(route.dst),
                protocol: Some(route.protocol),
                ..none
            },
            // A route leads on, or the errno is none that a table gives: what was wrong is the way in.
            Some(_) => RouteFound { fate: RouteFate::NotTaken, ..none },
            None if matches!(errno, libc::EINVAL | libc::EXDEV) => RouteFound { fate: RouteFate::NotTaken, ..none },
            None => none,
        })
    }
}

/// An errno that says what the routes do, not that the question was wrong.
fn is_verdict(errno: i32) -> bool {
    matches!(errno, libc::ENETUNREACH | libc::EHOSTUNREACH | libc::EACCES | libc::EINVAL | libc::EXDEV | libc::EAGAIN)
}

fn fate_of(kind: RouteKind) -> RouteFate {
    /// `RTN_BROADCAST`, `RTN_ANYCAST`, `RTN_MULTICAST`.
    const TAKEN_HERE: [u8; 3] = [3, 4, 5];
    match kind {
        RouteKind::Unicast => RouteFate::Forward,
        RouteKind::Local => RouteFate::Local,
        RouteKind::Blackhole => RouteFate::Blackhole,
        RouteKind::Other(number) if TAKEN_HERE.contains(&number) => RouteFate::Local,
        RouteKind::Unreachable | RouteKind::Other(_) => RouteFate::Unreachable,
    }
}
