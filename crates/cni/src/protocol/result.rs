//! The result of ADD: one shape inside, one of each version outside.
//!
//! ```text
//!  0.3.1, 0.4.0:  ips[].version "4" or "6"; interfaces[] name, mac, sandbox
//!  1.0.0:         no ips[].version
//!  1.1.0:         interfaces[].mtu, socketPath, pciID; routes[].mtu, advmss, priority, table, scope
//! ```

use std::net::IpAddr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::{Refusal, Version};

/// What a sandbox has after ADD.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AddResult {
    /// Links, on the node and inside.
    pub interfaces: Vec<Interface>,
    /// Addresses.
    pub ips: Vec<IpConfig>,
    /// Routes inside.
    pub routes: Vec<Route>,
    /// `dns`, passed on as it is; ours is empty: kubelet writes resolv.conf.
    pub dns: Option<Value>,
}

/// A link.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Interface {
    /// Its name.
    pub name: String,
    /// Its hardware address; empty if nobody said.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub mac: String,
    /// Since 1.1.0.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mtu: Option<u32>,
    /// `CNI_NETNS` of the sandbox; empty for links of the node.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub sandbox: String,
    /// Since 1.1.0; never ours.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub socket_path: Option<String>,
    /// Since 1.1.0; never ours.
    #[serde(rename = "pciID", skip_serializing_if = "Option::is_none")]
    pub pci_id: Option<String>,
}

/// An address.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct IpConfig {
    /// With its prefix length.
    pub address: IpNet,
    /// The default gateway of its family.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gateway: Option<IpAddr>,
    /// Which of the interfaces has it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interface: Option<usize>,
}

/// A route inside.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Route {
    /// Where to.
    pub dst: IpNet,
    /// Next hop.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gw: Option<IpAddr>,
    /// What 1.1.0 may say besides (`mtu`, `advmss`, `priority`, `table`, `scope`), passed on as it is.
    #[serde(flatten)]
    pub more: Map<String, Value>,
}

/// As it comes from others: any version's shape.
#[derive(Deserialize)]
#[serde(default)]
#[derive(Default)]
struct Raw {
    #[serde(rename = "cniVersion")]
    version: String,
    interfaces: Option<Vec<Interface>>,
    ips: Option<Vec<IpConfig>>,
    routes: Option<Vec<Route>>,
    dns: Option<Value>,
}

/// What routes have had since 1.1.0.
const ROUTE_FIELDS: [&str; 5] = ["mtu", "advmss", "priority", "table", "scope"];

impl AddResult {
    /// Reads `prevResult`, of any version that is spoken; one without a version is of the configuration's.
    pub(super) fn parse(value: &Value) -> Result<Self, Refusal> {
        let raw = Raw::deserialize(value).map_err(|e| Refusal::decode("prevResult", e))?;
        if !raw.version.is_empty() {
            Version::parse(&raw.version)?;
        }
        let interfaces = raw.interfaces.unwrap_or_default();
        let ips = raw.ips.unwrap_or_default();
        if let Some(ip) = ips.iter().find(|ip| ip.interface.is_some_and(|index| index >= interfaces.len())) {
            let why = format!("ips has {} on an interface that is not in interfaces", ip.address);
            return Err(Refusal::decode("prevResult", why));
        }
        Ok(Self { interfaces, ips, routes: raw.routes.unwrap_or_default(), dns: raw.dns })
    }

    /// This result after `before`'s: what other plugins made comes first, as they were called first.
    pub fn after(mut self, before: Option<&Self>) -> Self {
        let Some(before) = before else { return self };
        let shift = before.interfaces.len();
        for ip in &mut self.ips {
            ip.interface = ip.interface.map(|index| index + shift);
        }
        let mut all = before.clone();
        all.interfaces.append(&mut self.interfaces);
        all.ips.append(&mut self.ips);
        all.routes.append(&mut self.routes);
        all.dns = all.dns.or(self.dns);
        all
    }

    /// As a runtime of that version reads it.
    pub fn to_json(&self, version: Version) -> Value {
        let is_new = version >= Version::V1_1_0;
        let interfaces: Vec<Value> = self.interfaces.iter().map(|link| interface(link, is_new)).collect();
        let ips: Vec<Value> = self.ips.iter().map(|ip| ip_config(ip, version < Version::V1_0_0)).collect();
        let routes: Vec<Value> = self.routes.iter().map(|one| route(one, is_new)).collect();
        let mut shown = Map::new();
        shown.insert("cniVersion".to_owned(), version.text().into());
        for (field, list) in [("interfaces", interfaces), ("ips", ips), ("routes", routes)] {
            if !list.is_empty() {
                shown.insert(field.to_owned(), list.into());
            }
        }
        shown.insert("dns".to_owned(), self.dns.clone().unwrap_or_else(|| Value::Object(Map::new())));
        shown.into()
    }
}

fn interface(link: &Interface, is_new: bool) -> Value {
    let mut shown = shown(link);
    if !is_new {
        ["mtu", "socketPath", "pciID"].iter().for_each(|field| drop(shown.remove(*field)));
    }
    shown.into()
}

fn ip_config(ip: &IpConfig, has_version: bool) -> Value {
    let mut shown = shown(ip);
    if has_version {
        let version = if ip.address.addr().is_ipv4() { "4" } else { "6" };
        shown.insert("version".to_owned(), version.into());
    }
    shown.into()
}

fn route(route: &Route, is_new: bool) -> Value {
    let mut shown = shown(route);
    shown.retain(|field, _| {
        matches!(field.as_str(), "dst" | "gw") || (is_new && ROUTE_FIELDS.contains(&field.as_str()))
    });
    shown.into()
}

fn shown(value: &impl Serialize) -> Map<String, Value> {
    match serde_json::to_value(value) {
        Ok(Value::Object(fields)) => fields,
        _ => unreachable!("a struct of texts and numbers is an object of JSON"),
    }
}
