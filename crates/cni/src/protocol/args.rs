//! `CNI_ARGS`: `K=V;K=V`, by which runtimes of Kubernetes tell which pod it is.

use std::net::IpAddr;

use super::Refusal;

/// What is read of `CNI_ARGS`; other keys are for others.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Args {
    /// `K8S_POD_NAMESPACE`.
    pub pod_namespace: Option<String>,
    /// `K8S_POD_NAME`.
    pub pod_name: Option<String>,
    /// `K8S_POD_UID`.
    pub pod_uid: Option<String>,
    /// `IP`: addresses that are asked for, one per family.
    pub ips: Vec<IpAddr>,
}

pub(super) fn parse_args(text: &str) -> Result<Args, Refusal> {
    let mut args = Args::default();
    for pair in text.split(';').filter(|pair| !pair.is_empty()) {
        let broken = || Refusal::environment(format!("CNI_ARGS: {pair:?} is no pair of key and value (K=V;K=V)"));
        let (key, value) = pair.split_once('=').ok_or_else(broken)?;
        let value = value.trim();
        match key.trim() {
            "K8S_POD_NAMESPACE" => args.pod_namespace = name("K8S_POD_NAMESPACE", value)?,
            "K8S_POD_NAME" => args.pod_name = name("K8S_POD_NAME", value)?,
            "K8S_POD_UID" => args.pod_uid = name("K8S_POD_UID", value)?,
            "IP" => args.ips.push(address(value)?),
            _ => {}
        }
    }
    if args.pod_name.is_some() != args.pod_namespace.is_some() {
        return Err(Refusal::environment(
            "CNI_ARGS: K8S_POD_NAMESPACE and K8S_POD_NAME belong together; one is missing",
        ));
    }
    Ok(args)
}

/// `None` for nothing; names of objects have no slash.
fn name(key: &str, value: &str) -> Result<Option<String>, Refusal> {
    let is_name = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_' | ':');
    match value {
        "" => Ok(None),
        _ if value.len() <= 253 && value.chars().all(is_name) => Ok(Some(value.to_owned())),
        _ => Err(Refusal::environment(format!("CNI_ARGS: {key}={value:?} cannot be of an object's metadata"))),
    }
}

/// An address, with or without a prefix length.
fn address(value: &str) -> Result<IpAddr, Refusal> {
    let bare = value.split_once('/').map_or(value, |(address, _)| address);
    bare.parse().map_err(|_| Refusal::environment(format!("CNI_ARGS: IP={value:?} is not an address")))
}
