//! What the machine must offer, tried before anything is made; one line and the remedy if it does not.

use std::os::fd::AsFd;

use portolan_kernel::iptables::{Family, Flush, IptablesError, Tool};
use portolan_kernel::netlink::{Netlink, VethSpec};
use portolan_kernel::netns;

use crate::config::LabConfig;
use crate::error::LabError;

/// Tries each feature in namespaces that are gone afterwards.
pub(crate) fn machine(config: &LabConfig) -> Result<(), LabError> {
    if !rustix::process::geteuid().is_root() {
        let detail = "namespaces and their networks are made by it".to_owned();
        return Err(LabError::Missing { feature: "root", detail, remedy: "run it as root, with sudo for instance" });
    }
    let near = netns::create().map_err(|e| LabError::Missing {
        feature: "the right to make network namespaces",
        detail: e.to_string(),
        remedy: "run it outside a restricted container, or give that container CAP_SYS_ADMIN",
    })?;
    let far = netns::create()?;
    netns::run_in(near.as_fd(), || links(far.as_fd()).and_then(|()| nat(config)))?
}

fn links(far: std::os::fd::BorrowedFd<'_>) -> Result<(), LabError> {
    let mut netlink = Netlink::open()?;
    let missing = |feature, remedy| {
        move |e: portolan_kernel::NetlinkError| LabError::Missing { feature, detail: e.to_string(), remedy }
    };
    netlink.create_bridge("ptl-check").map_err(missing(
        "the kernel's bridge device",
        "load it with `modprobe bridge` or take a kernel with CONFIG_BRIDGE",
    ))?;
    let spec = VethSpec {
        name: "ptl-check-a",
        peer_name: "ptl-check-b",
        peer_netns: Some(far),
        mac: None,
        peer_mac: None,
        mtu_bytes: 1500,
    };
    netlink
        .create_veth(&spec)
        .map_err(missing("the kernel's veth device", "load it with `modprobe veth` or take a kernel with CONFIG_VETH"))
}

const NAT_RULE: &str = "*nat\n-A POSTROUTING -m comment --comment portolan-check -j MASQUERADE\nCOMMIT\n";

fn nat(config: &LabConfig) -> Result<(), LabError> {
    let tool = config
        .iptables_dir
        .as_ref()
        .map_or_else(Tool::from_environment, |dir| Tool { dir: Some(dir.clone()), env: Vec::new() });
    tool.restore(Family::V4, NAT_RULE, Flush::Keep).map_err(|e| match e {
        IptablesError::Start { .. } => LabError::Missing {
            feature: "iptables",
            detail: e.to_string(),
            remedy: "`scripts/fetch-debs.sh` brings it without installing anything",
        },
        other => LabError::Missing {
            feature: "iptables' nat table",
            detail: other.to_string(),
            remedy: "load `nf_nat` and `nft_compat`, or take a kernel with CONFIG_NF_NAT",
        },
    })
}
