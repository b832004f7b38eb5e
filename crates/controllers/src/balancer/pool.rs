//! A pool of addresses: which it has, and the first that is free.
//!
//! Of an IPv4 range the network's and the broadcast address are nobody's, as on a subnet; of an IPv6 range the first is
//! not, which all routers of a subnet answer to (RFC 4291 §2.6.1). Ranges of two addresses or one are used whole.

use std::collections::BTreeSet;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;

/// An address family, as `spec.ipFamilies` names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Family {
    V4,
    V6,
}

impl Family {
    pub(super) fn of(address: IpAddr) -> Self {
        if address.is_ipv4() { Family::V4 } else { Family::V6 }
    }

    pub(super) fn parse(name: &str) -> Option<Self> {
        match name {
            "IPv4" => Some(Family::V4),
            "IPv6" => Some(Family::V6),
            _ => None,
        }
    }
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Family::V4 => "IPv4",
            Family::V6 => "IPv6",
        })
    }
}

/// Ranges of both families, used in their order.
pub(super) struct Pool<'a>(&'a [IpNet]);

impl<'a> Pool<'a> {
    pub(super) fn new(ranges: &'a [IpNet]) -> Self {
        Pool(ranges)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Has it ranges of this family?
    pub(super) fn serves(&self, family: Family) -> bool {
        self.ranges(family).next().is_some()
    }

    pub(super) fn has(&self, address: IpAddr) -> bool {
        self.ranges(Family::of(address)).any(|range| bounds(range).contains(&number(address)))
    }

    /// Each step goes past one that is taken, so a large range costs no more than a small one.
    pub(super) fn first_free(&self, family: Family, taken: &BTreeSet<IpAddr>) -> Option<IpAddr> {
        let free = |range| bounds(range).map(|number| address(number, family)).find(|one| !taken.contains(one));
        self.ranges(family).find_map(free)
    }

    fn ranges(&self, family: Family) -> impl Iterator<Item = IpNet> {
        self.0.iter().copied().filter(move |range| Family::of(range.addr()) == family)
    }
}

impl fmt::Display for Pool<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ranges: Vec<String> = self.0.iter().map(IpNet::to_string).collect();
        f.write_str(&ranges.join(", "))
    }
}

fn bounds(range: IpNet) -> std::ops::RangeInclusive<u128> {
    let (first, last) = (number(range.network()), number(range.broadcast()));
    match (last - first, range) {
        (..=1, _) => first..=last,
        (_, IpNet::V4(_)) => first + 1..=last - 1,
        (_, IpNet::V6(_)) => first + 1..=last,
    }
}

fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(v4) => u128::from(u32::from(v4)),
        IpAddr::V6(v6) => u128::from(v6),
    }
}

fn address(number: u128, family: Family) -> IpAddr {
    match family {
        Family::V4 => Ipv4Addr::from(number as u32).into(),
        Family::V6 => Ipv6Addr::from(number).into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(ranges: &[&str], taken: &[&str], family: Family, expected: Option<&str>) {
        let parsed: Vec<IpNet> = ranges.iter().map(|text| text.parse().unwrap()).collect();
        let taken = taken.iter().map(|text| text.parse().unwrap()).collect();
        let found = Pool::new(&parsed).first_free(family, &taken);
        assert_eq!(found, expected.map(|text| text.parse().unwrap()), "{ranges:?}");
    }

    #[test]
    fn the_first_free_address_is_given_in_both_families() {
        let both = ["172.18.100.0/30", "fd18::/120"];
        check(&both, &[], Family::V4, Some("172.18.100.1"));
        check(&both, &["172.18.100.1"], Family::V4, Some("172.18.100.2"));
        check(&both, &["172.18.100.1", "172.18.100.2"], Family::V4, None);
        check(&both, &[], Family::V6, Some("fd18::1"));
        check(&["10.0.0.4/31"], &["10.0.0.4"], Family::V4, Some("10.0.0.5"));
        check(&["10.0.0.4/32", "10.0.0.9/32"], &["10.0.0.4"], Family::V4, Some("10.0.0.9"));
        check(&["fd18::/64"], &["fd18::1", "fd18::2"], Family::V6, Some("fd18::3"));
        check(&["::/0"], &[], Family::V6, Some("::1"));
        check(&["172.18.100.0/30"], &[], Family::V6, None);
    }

    #[test]
    fn a_pool_has_no_network_and_no_broadcast_address() {
        let ranges = ["172.18.100.0/28".parse().unwrap(), "fd18::/120".parse().unwrap()];
        let has = |text: &str| Pool::new(&ranges).has(text.parse().unwrap());
        let expected = [("172.18.100.0", false), ("172.18.100.1", true), ("172.18.100.14", true)];
        let more = [("172.18.100.15", false), ("fd18::", false), ("fd18::ff", true), ("fd18::100", false)];
        for (text, there) in expected.into_iter().chain(more) {
            assert_eq!(has(text), there, "{text}");
        }
    }
}
