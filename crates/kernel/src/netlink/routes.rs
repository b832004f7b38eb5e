//! Routes, in batches.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use netlink_packet_core::{NLM_F_CREATE, NLM_F_REPLACE};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteFlags, RouteMessage, RouteProtocol, RouteScope, RouteType,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};

use super::links::family;
use super::{MAIN_TABLE, Netlink, NetlinkError, explain, net};

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum RouteKind {
    Unicast,
    /// Drops in silence.
    Blackhole,
    /// Drops and tells the sender by ICMP.
    Unreachable,
    /// The node's own addresses (table local).
    Local,
    /// Broadcast, multicast, prohibit, … : read, never written.
    Other(u8),
}

/// One route as the kernel has it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct KernelRoute {
    pub dst: IpNet,
    pub kind: RouteKind,
    /// `None`: the destination is on the link.
    pub gateway: Option<IpAddr>,
    /// Index of the link; `None` for blackholes.
    pub oif: Option<u32>,
    /// `RTPROT_*`: 2 kernel, 3 boot, 4 static, 80 ours.
    pub protocol: u8,
    /// `RT_SCOPE_*`: 0 universe, 253 link, 254 host.
    pub scope: u8,
    /// Source address the node uses for its own packets.
    pub src: Option<IpAddr>,
    pub metric: Option<u32>,
    /// 254 is main, 255 local.
    pub table: u32,
    /// The gateway need not be covered by a connected route.
    pub onlink: bool,
}

/// What the kernel would do with a packet to an address (`ip route get`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RouteAnswer {
    pub kind: RouteKind,
    pub gateway: Option<IpAddr>,
    pub oif: Option<u32>,
    pub src: Option<IpAddr>,
}

impl KernelRoute {
    /// A route of ours through a gateway on `oif`, table main.
    pub fn via(dst: IpNet, gateway: IpAddr, oif: u32) -> KernelRoute {
        KernelRoute { gateway: Some(gateway), scope: 0, ..KernelRoute::on_link(dst, oif) }
    }

    /// A route of ours to what is on the link `oif` itself, table main.
    pub fn on_link(dst: IpNet, oif: u32) -> KernelRoute {
        KernelRoute {
            dst,
            kind: RouteKind::Unicast,
            gateway: None,
            oif: Some(oif),
            protocol: super::OWN_ROUTE_PROTOCOL,
            scope: if dst.addr().is_ipv4() { 253 } else { 0 }, // IPv6 knows no scopes
            src: None,
            metric: None,
            table: MAIN_TABLE,
            onlink: false,
        }
    }

    /// A route of ours that drops, table main.
    pub fn blackhole(dst: IpNet) -> KernelRoute {
        KernelRoute { kind: RouteKind::Blackhole, oif: None, scope: 0, ..KernelRoute::on_link(dst, 0) }
    }
}

impl Netlink {
    /// Every route of one table, both families, cached clones left out.
    pub fn routes(&mut self, table: u32) -> Result<Vec<KernelRoute>, NetlinkError> {
        let mut routes = Vec::new();
        for family in [AddressFamily::Inet, AddressFamily::Inet6] {
            let mut request = RouteMessage::default();
            request.header.address_family = family;
            let answer = match self.dump("list routes", RouteNetlinkMessage::GetRoute(request)) {
                // A kernel without IPv6 has no IPv6 routes.
                Err(e) if family == AddressFamily::Inet6 && e.errno() == Some(libc::EOPNOTSUPP) => continue,
                other => other?,
            };
            routes.extend(answer.iter().filter_map(KernelRoute::from_message).filter(|r| r.table == table));
        }
        Ok(routes)
    }

    /// The route the kernel takes to `to`; `Err` with `ENETUNREACH` if there is none.
    pub fn route_get(&mut self, to: IpAddr) -> Result<RouteAnswer, NetlinkError> {
        let mut request = RouteMessage::default();
        request.header.address_family = family(to);
        request.header.destination_prefix_length = if to.is_ipv4() { 32 } else { 128 };
        request.attributes.push(RouteAttribute::Destination(to.into()));
        let answer = self
            .socket
            .get(RouteNetlinkMessage::GetRoute(request))
            .map_err(|e| explain(format!("ask for the route to {to}"), e))?;
        let route = answer.iter().find_map(KernelRoute::parse_any).ok_or_else(|| NetlinkError::Refused {
            what: format!("ask for the route to {to}"),
            refused: crate::nlsock::Refused { errno: libc::ENETUNREACH, words: String::new() },
        })?;
        Ok(RouteAnswer { kind: route.kind, gateway: route.gateway, oif: route.oif, src: route.src })
    }

    /// Adds or replaces; one result a route, in their order.
    pub fn replace_routes(&mut self, routes: &[KernelRoute]) -> Vec<Result<(), NetlinkError>> {
        let flags = NLM_F_CREATE | NLM_F_REPLACE;
        let messages = routes.iter().map(|r| (flags, RouteNetlinkMessage::NewRoute(r.to_message()))).collect();
        self.batch("replace", routes, messages)
    }

    /// Deletes; a route that is not there (or whose link is gone) counts as deleted.
    pub fn delete_routes(&mut self, routes: &[KernelRoute]) -> Vec<Result<(), NetlinkError>> {
        let messages = routes.iter().map(|r| (0, RouteNetlinkMessage::DelRoute(r.to_message()))).collect();
        let results = self.batch("delete", routes, messages);
        let absent = [libc::ESRCH, libc::ENODEV];
        results.into_iter().map(|result| super::links::absent_is_success(result, &absent)).collect()
    }

    fn batch(
        &mut self,
        verb: &str,
        routes: &[KernelRoute],
        messages: Vec<(u16, RouteNetlinkMessage)>,
    ) -> Vec<Result<(), NetlinkError>> {
        let what = |route: &KernelRoute| format!("{verb} route {}", route.dst);
        match self.socket.execute(messages) {
            Ok(results) => routes
                .iter()
                .zip(results)
                .map(|(route, result)| result.map_err(|refused| NetlinkError::Refused { what: what(route), refused }))
                .collect(),
            Err(error) => {
                let text = error.to_string();
                let lost = |route| NetlinkError::Socket {
                    what: what(route),
                    source: crate::nlsock::SocketError::Decode(text.clone()),
                };
                routes.iter().map(|route| Err(lost(route))).collect()
            }
        }
    }
}

impl KernelRoute {
    /// Routes as the tables hold them: cached clones (`ip route get`, path MTU) are no such.
    pub(super) fn from_message(message: &RouteNetlinkMessage) -> Option<KernelRoute> {
        match message {
            RouteNetlinkMessage::NewRoute(m) | RouteNetlinkMessage::DelRoute(m)
                if m.header.flags.contains(RouteFlags::Cloned) =>
            {
                None
            }
            other => KernelRoute::parse_any(other),
        }
    }

    pub(super) fn parse_any(message: &RouteNetlinkMessage) -> Option<KernelRoute> {
        let (RouteNetlinkMessage::NewRoute(m) | RouteNetlinkMessage::DelRoute(m)) = message else {
            return None;
        };
        let any = match m.header.address_family {
            AddressFamily::Inet => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            AddressFamily::Inet6 => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
            _ => return None,
        };
        let length = m.header.destination_prefix_length;
        let mut route = KernelRoute {
            dst: net(any, length),
            kind: route_kind(m.header.kind),
            gateway: None,
            oif: None,
            protocol: m.header.protocol.into(),
            scope: m.header.scope.into(),
            src: None,
            metric: None,
            table: u32::from(m.header.table),
            onlink: m.header.flags.contains(RouteFlags::Onlink),
        };
        for attribute in &m.attributes {
            match attribute {
                RouteAttribute::Destination(a) => route.dst = net(ip(a)?, length),
                RouteAttribute::Gateway(a) => route.gateway = ip(a),
                RouteAttribute::PrefSource(a) => route.src = ip(a),
                RouteAttribute::Oif(index) => route.oif = Some(*index),
                RouteAttribute::Priority(metric) => route.metric = Some(*metric),
                RouteAttribute::Table(table) => route.table = *table,
                _ => {}
            }
        }
        Some(route)
    }

    fn to_message(&self) -> RouteMessage {
        let mut message = RouteMessage::default();
        let header = &mut message.header;
        header.address_family = family(self.dst.addr());
        header.destination_prefix_length = self.dst.prefix_len();
        header.table = u8::try_from(self.table).unwrap_or(0);
        header.protocol = RouteProtocol::from(self.protocol);
        header.scope = RouteScope::from(self.scope);
        header.kind = route_type(self.kind);
        if self.onlink {
            header.flags = RouteFlags::Onlink;
        }
        let attributes = &mut message.attributes;
        attributes.push(RouteAttribute::Destination(self.dst.network().into()));
        attributes.push(RouteAttribute::Table(self.table));
        attributes.extend(self.gateway.map(|g| RouteAttribute::Gateway(g.into())));
        attributes.extend(self.src.map(|s| RouteAttribute::PrefSource(s.into())));
        attributes.extend(self.metric.map(RouteAttribute::Priority));
        if self.kind == RouteKind::Unicast || self.kind == RouteKind::Local {
            attributes.extend(self.oif.map(RouteAttribute::Oif));
        }
        message
    }
}

fn ip(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(a) => Some(IpAddr::V4(*a)),
        RouteAddress::Inet6(a) => Some(IpAddr::V6(*a)),
        _ => None,
    }
}

fn route_kind(kind: RouteType) -> RouteKind {
    match kind {
        RouteType::Unicast => RouteKind::Unicast,
        RouteType::BlackHole => RouteKind::Blackhole,
        RouteType::Unreachable => RouteKind::Unreachable,
        RouteType::Local => RouteKind::Local,
        other => RouteKind::Other(other.into()),
    }
}

fn route_type(kind: RouteKind) -> RouteType {
    match kind {
        RouteKind::Unicast => RouteType::Unicast,
        RouteKind::Blackhole => RouteType::BlackHole,
        RouteKind::Unreachable => RouteType::Unreachable,
        RouteKind::Local => RouteType::Local,
        RouteKind::Other(number) => RouteType::from(number),
    }
}
