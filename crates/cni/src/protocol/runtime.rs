//! `runtimeConfig`: what the runtime adds for capabilities that the configuration declares.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::Refusal;

/// Requests for one sandbox.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RuntimeConfig {
    /// Ports of the node that lead to the sandbox.
    pub port_mappings: Vec<PortMapping>,
    /// How quick its link may be.
    pub bandwidth: Bandwidth,
    /// Addresses it shall have.
    pub ips: Vec<IpAddr>,
    /// The hardware address of its end.
    pub mac: Option<[u8; 6]>,
}

/// A port of the node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PortMapping {
    /// `tcp`, `udp` or `sctp`.
    pub protocol: String,
    /// `None`: all addresses of the node.
    pub host_ip: Option<IpAddr>,
    /// Not 0.
    pub host_port: u16,
    /// Not 0.
    pub container_port: u16,
}

/// Limits of both ways, as the pod sees them: ingress is what comes to it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bandwidth {
    /// To the pod; `None`: no limit.
    pub ingress: Option<Rate>,
    /// From the pod.
    pub egress: Option<Rate>,
}

/// A token bucket.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rate {
    /// Bits a second; not 0.
    pub bits_per_sec: u64,
    /// Bits that may go at once; not 0.
    pub burst_bits: u64,
}

/// What one port mapping says before it is judged. containerd and CRI-O send numbers, and nothing for what is not set.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawMapping {
    #[serde(default)]
    host_port: i64,
    #[serde(default)]
    container_port: i64,
    #[serde(default)]
    protocol: String,
    #[serde(default, rename = "hostIP")]
    host_ip: String,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct RawBandwidth {
    ingress_rate: u64,
    ingress_burst: u64,
    egress_rate: u64,
    egress_burst: u64,
}

impl RuntimeConfig {
    /// `value` is the field of the configuration, `None` where there is none.
    pub(super) fn parse(value: Option<&Value>) -> Result<Self, Refusal> {
        let Some(value) = value.filter(|value| !value.is_null()) else { return Ok(Self::default()) };
        let field = |name: &str| value.get(name).filter(|value| !value.is_null());
        let mappings: Vec<RawMapping> = field("portMappings").map_or(Ok(Vec::new()), |v| read("portMappings", v))?;
        let bandwidth: RawBandwidth =
            field("bandwidth").map_or(Ok(RawBandwidth::default()), |v| read("bandwidth", v))?;
        Ok(Self {
            port_mappings: mappings.iter().enumerate().map(|(i, raw)| mapping(i, raw)).collect::<Result<_, _>>()?,
            bandwidth: Bandwidth {
                ingress: rate("ingress", bandwidth.ingress_rate, bandwidth.ingress_burst)?,
                egress: rate("egress", bandwidth.egress_rate, bandwidth.egress_burst)?,
            },
            ips: field("ips").map_or(Ok(Vec::new()), |v| addresses("runtimeConfig.ips", v))?,
            mac: field("mac").map_or(Ok(None), |v| mac("runtimeConfig.mac", v))?,
        })
    }
}

fn read<'a, T: Deserialize<'a>>(field: &str, value: &'a Value) -> Result<T, Refusal> {
    T::deserialize(value).map_err(|e| Refusal::decode(format!("runtimeConfig.{field}"), e))
}

fn mapping(index: usize, raw: &RawMapping) -> Result<PortMapping, Refusal> {
    let at = |name: &str| format!("runtimeConfig.portMappings[{index}].{name}");
    let port = |name: &str, number: i64| match u16::try_from(number) {
        Ok(number) if number != 0 => Ok(number),
        _ => Err(Refusal::config(format!("{} is {number}; a port is 1 to 65535", at(name)))),
    };
    let protocol = match raw.protocol.to_ascii_lowercase().as_str() {
        "" => "tcp".to_owned(),
        known @ ("tcp" | "udp" | "sctp") => known.to_owned(),
        other => return Err(Refusal::config(format!("{} is {other:?}; tcp, udp and sctp are known", at("protocol")))),
    };
    let host_ip = match raw.host_ip.as_str() {
        "" => None,
        text => match text.parse::<IpAddr>() {
            Ok(address) => Some(address).filter(|address| !address.is_unspecified()),
            Err(_) => return Err(Refusal::config(format!("{} is {text:?}, which is no address", at("hostIP")))),
        },
    };
    let (host_port, container_port) = (port("hostPort", raw.host_port)?, port("containerPort", raw.container_port)?);
    Ok(PortMapping { protocol, host_ip, host_port, container_port })
}

/// Both or neither, as the reference plugin `bandwidth` wants it.
fn rate(way: &str, bits_per_sec: u64, burst_bits: u64) -> Result<Option<Rate>, Refusal> {
    match (bits_per_sec, burst_bits) {
        (0, 0) => Ok(None),
        (0, _) => Err(Refusal::config(format!("runtimeConfig.bandwidth has {way}Burst and no {way}Rate; write both"))),
        (_, 0) => Err(Refusal::config(format!("runtimeConfig.bandwidth has {way}Rate and no {way}Burst; write both"))),
        _ => Ok(Some(Rate { bits_per_sec, burst_bits })),
    }
}

/// A list of addresses, each with or without a prefix length, which does not matter: pods have whole-length prefixes.
pub(super) fn addresses(field: &str, value: &Value) -> Result<Vec<IpAddr>, Refusal> {
    let texts: Vec<String> = Vec::deserialize(value).map_err(|e| Refusal::decode(field, e))?;
    let parse = |text: &String| {
        let bare = text.split_once('/').map_or(text.as_str(), |(address, _)| address);
        bare.parse().map_err(|_| Refusal::config(format!("{field} has {text:?}, which is no address")))
    };
    texts.iter().map(parse).collect()
}

pub(super) fn mac(field: &str, value: &Value) -> Result<Option<[u8; 6]>, Refusal> {
    let text = value.as_str().ok_or_else(|| Refusal::decode(field, "not a text"))?;
    if text.is_empty() {
        return Ok(None);
    }
    let wrong = || Refusal::config(format!("{field} is {text:?}, which is no hardware address of a single host"));
    let mut bytes = [0_u8; 6];
    let mut parts = text.split(':');
    for byte in &mut bytes {
        let part = parts.next().filter(|part| part.len() == 2).ok_or_else(wrong)?;
        *byte = u8::from_str_radix(part, 16).map_err(|_| wrong())?;
    }
    // The lowest bit of the first byte means a group.
    match parts.next().is_some() || bytes[0] & 1 == 1 || bytes == [0; 6] {
        true => Err(wrong()),
        false => Ok(Some(bytes)),
    }
}
