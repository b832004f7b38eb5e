//! Reach: the cluster to trace in, and the lab that it is, if it is one.

use std::net::IpAddr;
use std::path::{Path, PathBuf};

use ipnet::IpNet;
use kube::Client;
use portolan_lab::Lab;

use crate::failure::Failure;
use crate::lab::LabName;

/// What a trace can reach.
pub struct Reach {
    /// The cluster's API.
    pub client: Client,
    /// The lab, on this machine; `None`: another cluster.
    pub lab: Option<Lab>,
}

impl Reach {
    /// By `--name`, `--kubeconfig`, `$KUBECONFIG`, or the lab that is up.
    ///
    /// # Errors
    /// There is no such cluster, or it is not clear which.
    pub async fn open(name: &LabName, kubeconfig: Option<PathBuf>) -> Result<Self, Failure> {
        if name.is_given() {
            let lab = crate::lab::open(name)?;
            let client = crate::client::connect(Some(lab.kubeconfig())).await?;
            return Ok(Self { client, lab: Some(lab) });
        }
        let path = crate::client::kubeconfig(kubeconfig)?;
        let lab = lab_of(&path);
        Ok(Self { client: crate::client::connect(Some(path)).await?, lab })
    }

    /// Addresses of the host outside; none where the cluster is no lab.
    pub fn outside(&self) -> Vec<IpAddr> {
        let Some(lab) = &self.lab else { return Vec::new() };
        let host = lab.config().topology().outside();
        host.addresses().into_iter().chain(host.own_addresses.iter().map(IpNet::addr)).collect()
    }
}

/// The lab whose kubeconfig this is.
fn lab_of(kubeconfig: &Path) -> Option<Lab> {
    let meant = kubeconfig.canonicalize().ok()?;
    let labs = portolan_lab::list(&portolan_lab::state_root());
    labs.into_iter().find(|lab| lab.kubeconfig().canonicalize().is_ok_and(|path| path == meant))
}
