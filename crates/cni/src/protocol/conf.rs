//! The network configuration on standard input, as the runtime makes it of a list's entry.

use serde::Deserialize;
use serde_json::{Map, Value};

use super::env::{is_identifier, is_ifname};
use super::runtime::{addresses, mac};
use super::{AddResult, Command, Refusal, RuntimeConfig, Version};

/// Where the agent answers unless the configuration says otherwise.
const SOCKET: &str = "/run/portolan/cni.sock";
/// Smallest MTU that IPv4 can live with (RFC 791); IPv6's is 1280, which the kernel asks for.
const SMALLEST_MTU: u64 = 68;
/// Kinds of address management whose blocks may stand in a configuration that was another's. Addresses are the agent's all the same.
const OTHERS_IPAM: [&str; 3] = ["portolan", "calico-ipam", "host-local"];
/// What only ADD and CHECK look at. A mistake in it must not keep DEL from freeing.
const OF_ATTACHING: [&str; 5] = ["prevResult", "runtimeConfig", "args", "ipam", "mtu"];

/// What a configuration says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NetConf {
    /// `cniVersion`.
    pub version: Version,
    /// `name` of the network.
    pub name: String,
    /// Ours: `socket`, where the agent answers.
    pub socket: String,
    /// Ours: `mtu` of pods' links in bytes; `None`: what the agent says.
    pub mtu_bytes: Option<u32>,
    /// What the runtime asks for this sandbox; `args.cni` (`ips`, `mac`) is read into it.
    pub runtime: RuntimeConfig,
    /// What plugins before this one made, or of CHECK and DEL what ADD gave.
    pub prev_result: Option<AddResult>,
    /// Of GC: `cni.dev/valid-attachments`.
    pub valid: Vec<ValidAttachment>,
}

/// An attachment that GC shall leave alone.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
pub struct ValidAttachment {
    /// As `CNI_CONTAINERID` had it.
    #[serde(rename = "containerID")]
    pub container_id: String,
    /// As `CNI_IFNAME` had it.
    pub ifname: String,
}

/// The version in which to answer VERSION: the one that is asked in, if it is spoken.
pub(super) fn asked_version(stdin: &[u8]) -> Version {
    let asked = serde_json::from_slice::<Value>(stdin).ok();
    let text = asked.as_ref().and_then(|conf| conf.get("cniVersion")).and_then(Value::as_str);
    text.and_then(|text| Version::parse(text).ok()).unwrap_or_default()
}

impl NetConf {
    /// Reads the configuration, as far as `command` needs it.
    ///
    /// # Errors
    /// Not JSON or another shape (code 6), no version of ours (1), a wrong value (7), or what is not there (2).
    pub fn parse(stdin: &[u8], command: Command) -> Result<Self, Refusal> {
        let what = "the network configuration on standard input";
        let mut conf: Map<String, Value> = serde_json::from_slice(stdin).map_err(|e| Refusal::decode(what, e))?;
        let version = Version::parse(text(&conf, "cniVersion")?.unwrap_or_default())?;
        if !matches!(command, Command::Add | Command::Check) {
            OF_ATTACHING.iter().for_each(|field| drop(conf.remove(*field)));
        }
        Self::of(&conf, version).map_err(|refusal| refusal.spoken_in(version))
    }

    fn of(conf: &Map<String, Value>, version: Version) -> Result<Self, Refusal> {
        let name = text(conf, "name")?.unwrap_or_default();
        match name {
            "" => return Err(Refusal::config("missing network name")),
            name if !is_identifier(name) => {
                return Err(Refusal::config(format!("invalid characters found in network name {name:?}")));
            }
            _ => {}
        }
        no_other_ipam(conf)?;
        let mut runtime = RuntimeConfig::parse(conf.get("runtimeConfig"))?;
        take_args(conf, &mut runtime)?;
        Ok(Self {
            version,
            name: name.to_owned(),
            socket: socket(conf)?,
            mtu_bytes: mtu(conf)?,
            runtime,
            prev_result: present(conf, "prevResult").map(AddResult::parse).transpose()?,
            valid: valid(conf)?,
        })
    }
}

fn present<'a>(conf: &'a Map<String, Value>, field: &str) -> Option<&'a Value> {
    conf.get(field).filter(|value| !value.is_null())
}

fn text<'a>(conf: &'a Map<String, Value>, field: &str) -> Result<Option<&'a str>, Refusal> {
    let not_text = || Refusal::decode(format!("{field} of the network configuration"), "it is not a text");
    present(conf, field).map(|value| value.as_str().ok_or_else(not_text)).transpose()
}

fn socket(conf: &Map<String, Value>) -> Result<String, Refusal> {
    match text(conf, "socket")? {
        None => Ok(SOCKET.to_owned()),
        Some(path) if path.starts_with('/') && !path.contains('\0') => Ok(path.to_owned()),
        Some(path) => Err(Refusal::config(format!("socket is {path:?}; write the whole path of the agent's socket"))),
    }
}

fn mtu(conf: &Map<String, Value>) -> Result<Option<u32>, Refusal> {
    let Some(value) = present(conf, "mtu") else { return Ok(None) };
    match value.as_u64() {
        Some(0) => Ok(None),
        Some(bytes @ SMALLEST_MTU..=65535) => Ok(u32::try_from(bytes).ok()),
        _ => Err(Refusal::config(format!("mtu is {value}; it is a number of bytes from {SMALLEST_MTU} to 65535"))),
    }
}

fn no_other_ipam(conf: &Map<String, Value>) -> Result<(), Refusal> {
    let Some(ipam) = present(conf, "ipam") else { return Ok(()) };
    let kind = match ipam.get("type") {
        None if ipam.is_object() => return Ok(()),
        Some(Value::String(kind)) => kind.as_str(),
        _ => return Err(Refusal::decode("ipam of the network configuration", "it is not an object with a type")),
    };
    match OTHERS_IPAM.contains(&kind) || kind.is_empty() {
        true => Ok(()),
        false => Err(Refusal::unsupported(
            format!("ipam.type {kind:?}"),
            "the agent gives addresses out of the cluster's pools; leave ipam out",
        )),
    }
}

/// `args.cni`, by CONVENTIONS.md; what the runtime says by capability goes before it.
fn take_args(conf: &Map<String, Value>, runtime: &mut RuntimeConfig) -> Result<(), Refusal> {
    let Some(args) = present(conf, "args").and_then(|args| args.get("cni")) else { return Ok(()) };
    if let Some(ips) = args.get("ips").filter(|_| runtime.ips.is_empty()) {
        runtime.ips = addresses("args.cni.ips", ips)?;
    }
    if let Some(value) = args.get("mac").filter(|_| runtime.mac.is_none()) {
        runtime.mac = mac("args.cni.mac", value)?;
    }
    Ok(())
}

fn valid(conf: &Map<String, Value>) -> Result<Vec<ValidAttachment>, Refusal> {
    let field = "cni.dev/valid-attachments";
    let Some(value) = present(conf, field) else { return Ok(Vec::new()) };
    let all: Vec<ValidAttachment> = Vec::deserialize(value).map_err(|e| Refusal::decode(field, e))?;
    match all.iter().find(|one| !is_identifier(&one.container_id) || !is_ifname(&one.ifname)) {
        None => Ok(all),
        Some(one) => Err(Refusal::config(format!(
            "{field} has container {:?} with interface {:?}, which no ADD can have made",
            one.container_id, one.ifname
        ))),
    }
}
