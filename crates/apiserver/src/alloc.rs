//! ClusterIPs and NodePorts: chosen and held in the same transaction that writes the Service.
//!
//! ```text
//!  /registry/core/services/default/web     the Service
//!  /claims/clusterip/10.96.31.7            one key per address or port in use,
//!  /claims/nodeport/30080                  written with "must be absent"
//! ```
//! Two writers that choose the same address collide on the claim's key and one of them chooses again,
//! so nothing is ever given twice and no repair loop is needed. Here it is only decided; the caller
//! looks up claims and writes.
//!
//! As kube-apiserver (KEP-3070), dynamic addresses come from above a static band of 16 to 256, so a
//! chosen low address is rarely taken.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ops::RangeInclusive;

use ipnet::IpNet;
use portolan_kinds::validate::{ErrorKind, FieldError};
use serde_json::{Value, json};

use crate::object::{child_mut, text};

/// What may be given out.
#[derive(Debug, Clone)]
pub struct Ranges {
    /// At most one per address family; the first is the default family.
    pub service_cidrs: Vec<IpNet>,
    pub node_ports: RangeInclusive<u16>,
}

/// What the store knows and what chance says.
pub trait Claims {
    fn is_held(&self, key: &str) -> bool;
    /// A number below `bound`.
    fn pick(&mut self, bound: u64) -> u64;
}

/// Claims to make and to give back along with the Service.
#[derive(Debug, Default, PartialEq)]
pub struct Plan {
    pub claim: Vec<String>,
    pub release: Vec<String>,
}

/// What a Service that goes away held.
pub fn held_by(service: &Value) -> Vec<String> {
    keys(service).into_iter().collect()
}

/// Fills in addresses and ports of `new` and says what to claim and release.
pub fn plan(
    ranges: &Ranges,
    old: Option<&Value>,
    new: &mut Value,
    claims: &mut dyn Claims,
) -> Result<Plan, Vec<FieldError>> {
    let mine = old.map(keys).unwrap_or_default();
    let mut planner = Planner { ranges, mine: &mine, claims, chosen: BTreeSet::new() };
    planner.cluster_ips(new).map_err(|error| vec![error])?;
    planner.node_ports(new)?;
    let wanted = keys(new);
    Ok(Plan {
        claim: wanted.difference(&mine).cloned().collect(),
        release: mine.difference(&wanted).cloned().collect(),
    })
}

/// The type that is in force.
pub fn service_type(service: &Value) -> &str {
    match text(service, "/spec/type") {
        "" => "ClusterIP",
        said => said,
    }
}

pub fn is_headless(service: &Value) -> bool {
    text(service, "/spec/clusterIP") == "None"
}

pub fn wants_cluster_ip(service: &Value) -> bool {
    service_type(service) != "ExternalName" && !is_headless(service)
}

pub fn wants_node_ports(service: &Value) -> bool {
    match service_type(service) {
        "NodePort" => true,
        "LoadBalancer" => service.pointer("/spec/allocateLoadBalancerNodePorts") != Some(&Value::Bool(false)),
        _ => false,
    }
}

fn wants_health_check_port(service: &Value) -> bool {
    service_type(service) == "LoadBalancer" && text(service, "/spec/externalTrafficPolicy") == "Local"
}

fn ip_key(ip: IpAddr) -> String {
    format!("/claims/clusterip/{ip}")
}

fn port_key(port: u64) -> String {
    format!("/claims/nodeport/{port}")
}

fn keys(service: &Value) -> BTreeSet<String> {
    let mut keys = BTreeSet::new();
    let ips = service.pointer("/spec/clusterIPs").and_then(Value::as_array);
    let ips = ips.into_iter().flatten().filter_map(|ip| ip.as_str()?.parse().ok());
    keys.extend(ips.map(ip_key));
    let ports = service.pointer("/spec/ports").and_then(Value::as_array);
    let ports = ports.into_iter().flatten().filter_map(|port| port.get("nodePort")?.as_u64());
    let health = service.pointer("/spec/healthCheckNodePort").and_then(Value::as_u64);
    keys.extend(ports.chain(health).filter(|port| *port != 0).map(port_key));
    keys
}

fn invalid(field: impl Into<String>, value: Value, detail: impl Into<String>) -> FieldError {
    FieldError { reason: ErrorKind::Invalid, field: field.into(), value: Some(value), detail: detail.into() }
}

struct Planner<'a> {
    ranges: &'a Ranges,
    /// Keys the Service holds already.
    mine: &'a BTreeSet<String>,
    claims: &'a mut dyn Claims,
    chosen: BTreeSet<String>,
}

impl Planner<'_> {
    fn is_taken(&self, key: &str) -> bool {
        self.chosen.contains(key) || (!self.mine.contains(key) && self.claims.is_held(key))
    }

    fn cluster_ips(&mut self, service: &mut Value) -> Result<(), FieldError> {
        if service_type(service) == "ExternalName" {
            let spec = child_mut(service, "spec");
            ["ipFamilies", "ipFamilyPolicy", "clusterIP", "clusterIPs"]
                .iter()
                .for_each(|member| drop(spec.remove(*member)));
            return Ok(());
        }
        let mut given = given_ips(service);
        let headless = given.first().is_some_and(|ip| ip == "None");
        let families = self.families(service, if headless { &[] } else { &given })?;
        if headless {
            given = vec!["None".into()];
        } else {
            for (at, family) in families.iter().enumerate() {
                match given.get(at) {
                    Some(ip) => self.take(ip, &given)?,
                    None => given.push(self.choose(*family)?.to_string()),
                }
            }
        }
        let spec = child_mut(service, "spec");
        spec.insert("clusterIP".into(), given[0].clone().into());
        spec.insert("clusterIPs".into(), given.into());
        spec.insert("ipFamilies".into(), families.iter().map(|family| Value::from(family.name())).collect());
        Ok(())
    }

    /// Families in order, as many as the policy and the cluster allow.
    fn families(&self, service: &mut Value, given: &[String]) -> Result<Vec<Family>, FieldError> {
        let available: Vec<Family> = self.ranges.service_cidrs.iter().map(Family::of).collect();
        let asked = service.pointer("/spec/ipFamilies").and_then(Value::as_array).cloned().unwrap_or_default();
        let mut families: Vec<Family> = asked.iter().filter_map(|name| Family::named(name.as_str()?)).collect();
        if families.is_empty() {
            families = given.iter().filter_map(|ip| ip.parse::<IpAddr>().ok()).map(Family::of_ip).collect();
        }
        for (at, family) in families.iter().enumerate() {
            if !available.contains(family) {
                let detail = "not configured on this cluster";
                return Err(invalid(format!("spec.ipFamilies[{at}]"), family.name().into(), detail));
            }
        }
        let policy = match text(service, "/spec/ipFamilyPolicy") {
            "" => "SingleStack".to_owned(),
            said => said.to_owned(),
        };
        let count = match policy.as_str() {
            "RequireDualStack" if available.len() < 2 => {
                let detail = "this cluster is not configured for dual-stack services";
                return Err(invalid("spec.ipFamilyPolicy", policy.into(), detail));
            }
            "RequireDualStack" | "PreferDualStack" => available.len().min(2),
            _ => 1,
        };
        let missing: Vec<Family> = available.into_iter().filter(|family| !families.contains(family)).collect();
        families.extend(missing);
        families.truncate(count);
        child_mut(service, "spec").insert("ipFamilyPolicy".into(), policy.into());
        Ok(families)
    }

    /// A named address: in range and free, or an error.
    fn take(&mut self, given: &str, all: &[String]) -> Result<(), FieldError> {
        let refused =
            |why: String| invalid("spec.clusterIPs", json!(all), format!("failed to allocate IP {given}: {why}"));
        let ip: IpAddr = given.parse().map_err(|_| refused("must be a valid IP address".into()))?;
        let family = Family::of_ip(ip);
        let Some(cidr) = self.cidr(family) else {
            return Err(refused(format!("no service range for {} is configured", family.name())));
        };
        if !is_usable(cidr, ip) && !self.mine.contains(&ip_key(ip)) {
            return Err(refused(format!(
                "the provided IP ({ip}) is not in the valid range. The range of valid IPs is {cidr}"
            )));
        }
        if self.is_taken(&ip_key(ip)) {
            return Err(refused("provided IP is already allocated".into()));
        }
        self.chosen.insert(ip_key(ip));
        Ok(())
    }

    /// A free address: above the static band if one is there, else from it.
    fn choose(&mut self, family: Family) -> Result<IpAddr, FieldError> {
        let full = || {
            let detail = "failed to allocate a serviceIP: range is full";
            FieldError {
                reason: ErrorKind::Invalid,
                field: "spec.clusterIPs".into(),
                value: Some(json!([])),
                detail: detail.into(),
            }
        };
        let cidr = self.cidr(family).ok_or_else(full)?;
        let size = size(cidr);
        let band = (size / 16).clamp(16, 256).min(size);
        let found = self.search(band..size, |at| ip_key(nth(cidr, at)));
        let found = found.or_else(|| self.search(1..band, |at| ip_key(nth(cidr, at))));
        let at = found.ok_or_else(full)?;
        self.chosen.insert(ip_key(nth(cidr, at)));
        Ok(nth(cidr, at))
    }

    /// Random tries first, then one walk around from where chance stopped.
    fn search(&mut self, range: std::ops::Range<u64>, key: impl Fn(u64) -> String) -> Option<u64> {
        let bound = range.end.checked_sub(range.start).filter(|bound| *bound > 0)?;
        let mut start = 0;
        for _ in 0..16 {
            start = self.claims.pick(bound) % bound;
            if !self.is_taken(&key(range.start + start)) {
                return Some(range.start + start);
            }
        }
        (0..bound).map(|step| range.start + (start + step) % bound).find(|at| !self.is_taken(&key(*at)))
    }

    fn cidr(&self, family: Family) -> Option<IpNet> {
        self.ranges.service_cidrs.iter().copied().find(|cidr| Family::of(cidr) == family)
    }

    fn node_ports(&mut self, service: &mut Value) -> Result<(), Vec<FieldError>> {
        let wanted = wants_node_ports(service);
        let mut ports = service.pointer("/spec/ports").and_then(Value::as_array).cloned().unwrap_or_default();
        let named = |port: &Value| port.get("nodePort").and_then(Value::as_u64).filter(|number| *number != 0);
        let errors: Vec<FieldError> = ports
            .iter()
            .enumerate()
            .filter_map(|(at, port)| self.take_port(format!("spec.ports[{at}].nodePort"), named(port)?).err())
            .collect();
        if !errors.is_empty() {
            return Err(errors);
        }
        for (at, port) in ports.iter_mut().enumerate().filter(|_| wanted) {
            if named(port).is_none() {
                port["nodePort"] =
                    self.choose_port(&format!("spec.ports[{at}].nodePort")).map_err(|error| vec![error])?.into();
            }
        }
        if !ports.is_empty() {
            child_mut(service, "spec").insert("ports".into(), ports.into());
        }
        self.health_check_port(service).map_err(|error| vec![error])
    }

    fn health_check_port(&mut self, service: &mut Value) -> Result<(), FieldError> {
        let field = "spec.healthCheckNodePort";
        let given = service.pointer("/spec/healthCheckNodePort").and_then(Value::as_u64).filter(|port| *port != 0);
        let port = match (wants_health_check_port(service), given) {
            (false, _) => {
                child_mut(service, "spec").remove("healthCheckNodePort");
                return Ok(());
            }
            (true, Some(port)) => {
                self.take_port(field.into(), port)?;
                port
            }
            (true, None) => self.choose_port(field)?,
        };
        child_mut(service, "spec").insert("healthCheckNodePort".into(), port.into());
        Ok(())
    }

    fn take_port(&mut self, field: String, port: u64) -> Result<(), FieldError> {
        let range = &self.ranges.node_ports;
        let key = port_key(port);
        let in_range = u16::try_from(port).is_ok_and(|port| range.contains(&port));
        if !in_range && !self.mine.contains(&key) {
            let detail = format!(
                "provided port is not in the valid range. The range of valid ports is {}-{}",
                range.start(),
                range.end()
            );
            return Err(invalid(field, port.into(), detail));
        }
        // One Service may use one number for two protocols.
        if !self.chosen.contains(&key) && self.is_taken(&key) {
            return Err(invalid(field, port.into(), "provided port is already allocated"));
        }
        self.chosen.insert(key);
        Ok(())
    }

    fn choose_port(&mut self, field: &str) -> Result<u64, FieldError> {
        let range = u64::from(*self.ranges.node_ports.start())..u64::from(*self.ranges.node_ports.end()) + 1;
        let port = self
            .search(range, port_key)
            .ok_or_else(|| invalid(field, 0.into(), "failed to allocate a nodePort: range is full"))?;
        self.chosen.insert(port_key(port));
        Ok(port)
    }
}

/// `clusterIP` and `clusterIPs` say the same; whichever is set counts.
fn given_ips(service: &Value) -> Vec<String> {
    let list = service.pointer("/spec/clusterIPs").and_then(Value::as_array);
    let mut ips: Vec<String> =
        list.into_iter().flatten().filter_map(Value::as_str).filter(|ip| !ip.is_empty()).map(str::to_owned).collect();
    let single = text(service, "/spec/clusterIP");
    if ips.is_empty() && !single.is_empty() {
        ips.push(single.to_owned());
    }
    ips
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Family {
    V4,
    V6,
}

impl Family {
    fn of(cidr: &IpNet) -> Family {
        Family::of_ip(cidr.addr())
    }

    fn of_ip(ip: IpAddr) -> Family {
        if ip.is_ipv4() { Family::V4 } else { Family::V6 }
    }

    fn named(name: &str) -> Option<Family> {
        match name {
            "IPv4" => Some(Family::V4),
            "IPv6" => Some(Family::V6),
            _ => None,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Family::V4 => "IPv4",
            Family::V6 => "IPv6",
        }
    }
}

/// How many addresses are given out of a range, network and broadcast address left out at the ends;
/// of a wide IPv6 range only the first 65,536.
fn size(cidr: IpNet) -> u64 {
    let bits = u32::from(cidr.max_prefix_len() - cidr.prefix_len());
    let all = 1u64 << bits.min(32);
    match cidr {
        IpNet::V4(_) => all.saturating_sub(1),
        IpNet::V6(_) => all.min(65_536),
    }
}

fn nth(cidr: IpNet, at: u64) -> IpAddr {
    match cidr.network() {
        IpAddr::V4(base) => Ipv4Addr::from(u32::from(base).wrapping_add(at as u32)).into(),
        IpAddr::V6(base) => Ipv6Addr::from(u128::from(base) + u128::from(at)).into(),
    }
}

fn is_usable(cidr: IpNet, ip: IpAddr) -> bool {
    cidr.contains(&ip) && ip != cidr.network() && (ip.is_ipv6() || ip != cidr.broadcast())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Held keys, and chance that counts up.
    #[derive(Default)]
    struct World(BTreeSet<String>, u64);
    impl Claims for World {
        fn is_held(&self, key: &str) -> bool {
            self.0.contains(key)
        }
        fn pick(&mut self, bound: u64) -> u64 {
            self.1 += 1;
            self.1 % bound
        }
    }

    fn ranges(cidrs: &[&str]) -> Ranges {
        let service_cidrs = cidrs.iter().map(|cidr| cidr.parse().expect("a range")).collect();
        Ranges { service_cidrs, node_ports: 30000..=32767 }
    }

    fn cluster() -> Ranges {
        ranges(&["10.96.0.0/12"])
    }

    fn service(spec: Value) -> Value {
        json!({ "kind": "Service", "metadata": { "name": "web" }, "spec": spec })
    }

    fn errors(spec: Value, held: &[&str]) -> Vec<String> {
        let mut world = World(held.iter().map(|key| (*key).to_owned()).collect(), 0);
        let errors = plan(&cluster(), None, &mut service(spec), &mut world).expect_err("refused");
        errors.into_iter().map(|error| format!("{}: {}", error.field, error.detail)).collect()
    }

    #[test]
    fn an_address_is_chosen_above_the_static_band() {
        let mut new = service(json!({ "ports": [{ "port": 80 }] }));
        let made = plan(&cluster(), None, &mut new, &mut World::default()).expect("a plan");
        assert_eq!(new["spec"]["clusterIP"], "10.96.1.1");
        assert_eq!(new["spec"]["clusterIPs"], json!(["10.96.1.1"]));
        assert_eq!(new["spec"]["ipFamilies"], json!(["IPv4"]));
        assert_eq!(made.claim, ["/claims/clusterip/10.96.1.1"]);
    }

    #[test]
    fn choosing_in_a_wide_free_range_looks_up_one_claim() {
        struct Counting(World, std::cell::Cell<usize>);
        impl Claims for Counting {
            fn is_held(&self, key: &str) -> bool {
                self.1.set(self.1.get() + 1);
                self.0.is_held(key)
            }
            fn pick(&mut self, bound: u64) -> u64 {
                self.0.pick(bound)
            }
        }
        let mut world = Counting(World::default(), std::cell::Cell::new(0));
        let mut new = service(json!({ "type": "NodePort", "ports": [{ "port": 80 }] }));
        plan(&cluster(), None, &mut new, &mut world).expect("a plan");
        assert_eq!(world.1.get(), 2, "one for the address, one for the port");
    }

    #[test]
    fn a_full_upper_band_falls_back_to_the_static_one_and_a_full_range_is_an_error() {
        let small = ranges(&["10.0.0.0/27"]);
        let mut world = World::default();
        let mut chosen = BTreeSet::new();
        loop {
            let mut new = service(json!({}));
            match plan(&small, None, &mut new, &mut world) {
                Ok(made) => {
                    chosen.insert(new["spec"]["clusterIP"].to_string());
                    world.0.extend(made.claim);
                }
                Err(errors) => {
                    assert!(errors[0].detail.contains("range is full"), "{}", errors[0].detail);
                    break;
                }
            }
        }
        assert_eq!(chosen.len(), 30, "neither the network's nor the broadcast address");
    }

    #[test]
    fn named_addresses_and_ports_are_refused_in_kubernetes_words() {
        let held = &["/claims/clusterip/10.96.0.10", "/claims/nodeport/30080"];
        for (spec, expected) in [
            (
                json!({ "clusterIP": "10.96.0.10" }),
                "spec.clusterIPs: failed to allocate IP 10.96.0.10: provided IP is already allocated",
            ),
            (
                json!({ "clusterIP": "10.200.0.1" }),
                "spec.clusterIPs: failed to allocate IP 10.200.0.1: the provided IP (10.200.0.1) is not in the valid range. The range of valid IPs is 10.96.0.0/12",
            ),
            (
                json!({ "type": "NodePort", "ports": [{ "port": 80, "nodePort": 80 }] }),
                "spec.ports[0].nodePort: provided port is not in the valid range. The range of valid ports is 30000-32767",
            ),
            (
                json!({ "type": "NodePort", "ports": [{ "port": 80, "nodePort": 30080 }] }),
                "spec.ports[0].nodePort: provided port is already allocated",
            ),
            (
                json!({ "ipFamilyPolicy": "RequireDualStack" }),
                "spec.ipFamilyPolicy: this cluster is not configured for dual-stack services",
            ),
            (json!({ "ipFamilies": ["IPv6"] }), "spec.ipFamilies[0]: not configured on this cluster"),
        ] {
            assert_eq!(errors(spec, held), [expected]);
        }
    }

    #[test]
    fn a_change_of_type_releases_and_claims() {
        let old = service(json!({
            "type": "NodePort", "clusterIP": "10.96.5.5", "clusterIPs": ["10.96.5.5"],
            "ports": [{ "port": 80, "nodePort": 30080 }],
        }));
        let mut world = World(keys(&old), 0);
        let mut name = service(json!({ "type": "ExternalName", "externalName": "a.b" }));
        let made = plan(&cluster(), Some(&old), &mut name, &mut world).expect("a plan");
        assert_eq!(made.release, ["/claims/clusterip/10.96.5.5", "/claims/nodeport/30080"]);
        assert!(made.claim.is_empty());
        let mut same = old.clone();
        assert_eq!(plan(&cluster(), Some(&old), &mut same, &mut world).expect("a plan"), Plan::default());
        assert_eq!(same["spec"]["clusterIP"], "10.96.5.5");
    }

    #[test]
    fn one_number_may_serve_two_protocols_of_one_service() {
        let ports = json!([
            { "port": 53, "protocol": "TCP", "nodePort": 30053 },
            { "port": 53, "protocol": "UDP", "nodePort": 30053 },
        ]);
        let mut new = service(json!({ "type": "NodePort", "ports": ports }));
        let made = plan(&cluster(), None, &mut new, &mut World::default()).expect("a plan");
        assert!(made.claim.contains(&"/claims/nodeport/30053".to_owned()));
    }

    #[test]
    fn headless_claims_nothing_and_both_families_are_given_where_asked() {
        let mut headless = service(json!({ "clusterIP": "None" }));
        assert_eq!(plan(&cluster(), None, &mut headless, &mut World::default()).expect("a plan"), Plan::default());
        assert_eq!(headless["spec"]["clusterIPs"], json!(["None"]));
        let both = ranges(&["10.96.0.0/12", "fd00:96::/108"]);
        let mut dual = service(json!({ "ipFamilyPolicy": "PreferDualStack" }));
        let made = plan(&both, None, &mut dual, &mut World::default()).expect("a plan");
        assert_eq!(dual["spec"]["ipFamilies"], json!(["IPv4", "IPv6"]));
        assert_eq!(made.claim.len(), 2);
        let mut six = service(json!({ "clusterIP": "fd00:96::5" }));
        plan(&both, None, &mut six, &mut World::default()).expect("a plan");
        assert_eq!(six["spec"]["ipFamilies"], json!(["IPv6"]));
    }
}
