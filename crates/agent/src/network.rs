//! Pods' links: the plan of `portolan_cni` carried out in two network namespaces, and the ledger of addresses on disk.
//!
//! ```text
//!  attach ──► ledger (fsync) ──► veth, sysctls, addresses, routes ──► Attachment ──► core: /32 route ──► done
//! ```
//!
//! Attaching twice is attaching once: a restarted agent finds its pods as they are. The ledger is on disk before an
//! address is used.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write;
use std::net::IpAddr;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use futures::FutureExt;
use futures::future::BoxFuture;
use ipnet::IpNet;
use k8s_openapi::api::core::v1::Pod;
use portolan_cni::{AttachmentPlan, Handle, Ledger, Sysctl, Timestamp};
use portolan_kernel::sysctl::{self, Key};
use portolan_kernel::{KernelRoute, Netlink, VethSpec, netns};
use portolan_model::{Attachment, Family, HostPort, NsName, ObjectKind};
use portolan_pods::{PodIdent, PodNetwork};
use tokio::sync::{oneshot, watch};
use tracing::{debug, info, warn};

use crate::core::{Input, ToCore};
use crate::dns_pods::DnsPods;
use crate::drain::{Drain, Selectors};

/// How long an attachment waits for the node's own block to be known.
const BLOCK_PATIENCE: Duration = Duration::from_secs(30);

/// The node's side of pod networking.
pub(crate) struct ClusterNetwork {
    ledger: Arc<Mutex<LedgerFile>>,
    blocks: watch::Receiver<Vec<IpNet>>,
    core: ToCore,
    mtu_bytes: u32,
    drain: Drain,
    dns: DnsPods,
    /// Of the pods that the cluster told of; those without are left out.
    host_ports: Mutex<BTreeMap<PodIdent, Vec<HostPort>>>,
    /// Attachments that a former agent made, until their pods are told of.
    recovered: Mutex<BTreeMap<PodIdent, Attachment>>,
}

struct LedgerFile {
    ledger: Ledger,
    path: PathBuf,
}

impl ClusterNetwork {
    /// Opens the ledger in `state_dir` and tells the core of the pods whose links are still there.
    ///
    /// # Errors
    /// The ledger cannot be read; a person must look, for its addresses may be in use.
    pub(crate) fn open(
        state_dir: &Path,
        blocks: watch::Receiver<Vec<IpNet>>,
        core: ToCore,
        mtu_bytes: u32,
        drain: Drain,
        dns: DnsPods,
    ) -> Result<Self, String> {
        let path = state_dir.join("ipam.json");
        let ledger = match std::fs::read_to_string(&path) {
            Ok(text) => Ledger::from_json(&text).map_err(|e| format!("{}: {e}", path.display()))?,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                Ledger::new(portolan_cni::ipam::COOL_DOWN_SECS)
            }
            Err(error) => return Err(format!("cannot read {}: {error}", path.display())),
        };
        let ledger = Arc::new(Mutex::new(LedgerFile { ledger, path }));
        let (host_ports, recovered) = (Mutex::default(), Mutex::default());
        let network = Self { ledger, blocks, core, mtu_bytes, drain, dns, host_ports, recovered };
        network.recover();
        Ok(network)
    }

    /// Where the watch of Services leaves their selectors.
    pub(crate) fn selectors(&self) -> Arc<Selectors> {
        self.drain.selectors.clone()
    }

    fn recover(&self) {
        let links = Netlink::open().and_then(|mut netlink| netlink.links()).unwrap_or_default();
        let locked = self.ledger.lock().unwrap_or_else(PoisonError::into_inner);
        let handles: std::collections::BTreeSet<Handle> =
            locked.ledger.leases().values().map(|lease| lease.handle.clone()).collect();
        for handle in handles {
            let addresses = locked.ledger.addresses_of(&handle);
            let attachment = AttachmentPlan::new(&handle.pod, &addresses, self.mtu_bytes).attachment();
            if let Some(link) = links.iter().find(|link| link.name == *attachment.link.0) {
                self.dns.attached(&handle.pod, &attachment, link.index);
                debug!(pod = %handle.pod, ?addresses, "the pod's link is still there");
                held(&self.recovered).insert(ident(&handle), attachment.clone());
                self.core.send(Input::Attachment(handle.pod.clone(), Some(attachment), None));
            }
        }
    }

    /// The cluster told of a pod of this node: its host ports are known from now on. The ledger has no word of them, so a
    /// pod that a former agent attached has them only now.
    pub(crate) fn told(&self, pod: &Pod) {
        let ports = portolan_ingest::host_ports(pod);
        let ident = PodIdent::of(pod);
        self.dns.told(pod);
        let recovered = held(&self.recovered).remove(&ident);
        if ports.is_empty() {
            return;
        }
        held(&self.host_ports).insert(ident.clone(), ports.clone());
        if let Some(attachment) = recovered {
            let name = NsName::new(ident.namespace.as_str(), ident.name.as_str());
            let attachment = Attachment { host_ports: ports, ..attachment };
            self.core.send(Input::Attachment(name, Some(attachment), None));
        }
    }

    /// The pod is no more.
    pub(crate) fn forget(&self, pod: &PodIdent) {
        held(&self.host_ports).remove(pod);
        self.dns.forget(&NsName::new(pod.namespace.as_str(), pod.name.as_str()));
    }

    /// Every pod of this node has been told of: from now on the rules may be compared with the kernel's.
    pub(crate) fn told_all(&self, live: &[PodIdent]) {
        self.reclaim(live);
        self.core.send(Input::Synced(ObjectKind::Pod));
    }

    /// Takes back the addresses of pods that are no longer this node's.
    fn reclaim(&self, live: &[PodIdent]) {
        let live = live.iter().map(handle).collect();
        let mut locked = self.ledger.lock().unwrap_or_else(PoisonError::into_inner);
        let freed = locked.ledger.reclaim(&live, now());
        if freed.is_empty() {
            return;
        }
        info!(addresses = freed.len(), "addresses of vanished pods are free again");
        if let Err(error) = locked.save() {
            warn!("{error}");
        }
        for (_, handle) in freed {
            self.dns.detached(&handle.pod);
            self.core.send(Input::Attachment(handle.pod, None, None));
        }
    }

    /// Before the pod runs: its first query finds it known.
    fn tell_dns(&self, name: &NsName, attachment: &Attachment) {
        match Netlink::open().and_then(|mut netlink| netlink.link(&attachment.link.0)) {
            Ok(link) => self.dns.attached(name, attachment, link.index),
            Err(error) => warn!(pod = %name, %error, "cluster DNS does not know this pod by its link"),
        }
    }

    async fn own_blocks(&self) -> Result<Vec<IpNet>, String> {
        let mut blocks = self.blocks.clone();
        let known = tokio::time::timeout(BLOCK_PATIENCE, blocks.wait_for(|blocks| !blocks.is_empty())).await;
        match known {
            Ok(Ok(blocks)) => Ok(blocks.clone()),
            _ => Err("this node has no podCIDR yet; the controllers give it one".to_owned()),
        }
    }
}

impl PodNetwork for ClusterNetwork {
    fn attach(&self, pod: &PodIdent, netns: &Path) -> BoxFuture<'_, Result<Vec<IpAddr>, String>> {
        let (pod, netns) = (pod.clone(), netns.to_owned());
        async move {
            let blocks = self.own_blocks().await?;
            let (ledger, mtu) = (self.ledger.clone(), self.mtu_bytes);
            let host_ports = held(&self.host_ports).get(&pod).cloned().unwrap_or_default();
            let working = tokio::task::spawn_blocking(move || attach(&ledger, &blocks, &pod, &netns, mtu));
            let (name, attachment) = working.await.map_err(|e| format!("attaching broke off: {e}"))??;
            let attachment = Attachment { host_ports, ..attachment };
            self.tell_dns(&name, &attachment);
            let addresses = attachment.addresses.clone();
            let (written, done) = oneshot::channel();
            self.core.send(Input::Attachment(name, Some(attachment), Some(written)));
            // The core answers once the route was tried; if it is ending, so is everything else.
            let _ = done.await;
            Ok(addresses)
        }
        .boxed()
    }

    fn detach(&self, pod: &PodIdent) -> BoxFuture<'_, Result<(), String>> {
        let pod = pod.clone();
        async move {
            let (ledger, name) = (self.ledger.clone(), NsName::new(pod.namespace.as_str(), pod.name.as_str()));
            let working = tokio::task::spawn_blocking(move || detach(&ledger, &pod));
            let freed = working.await.map_err(|e| format!("detaching broke off: {e}"))??;
            if freed {
                self.dns.detached(&name);
                self.core.send(Input::Attachment(name, None, None));
            }
            Ok(())
        }
        .boxed()
    }

    fn wait_spare<'a>(&'a self, pod: &'a Pod) -> BoxFuture<'a, bool> {
        self.drain.wait_spare(pod).boxed()
    }

    fn wait_silent<'a>(&'a self, pod: &'a Pod) -> BoxFuture<'a, ()> {
        self.drain.wait_silent(pod).boxed()
    }
}

fn handle(pod: &PodIdent) -> Handle {
    Handle::new(&pod.namespace, &pod.name, &pod.uid)
}

fn ident(handle: &Handle) -> PodIdent {
    let (namespace, name) = (handle.pod.namespace.to_string(), handle.pod.name.to_string());
    PodIdent { namespace, name, uid: handle.uid.to_string() }
}

/// What is behind a lock that nobody holds for longer than a look.
fn held<T>(lock: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    lock.lock().unwrap_or_else(PoisonError::into_inner)
}

fn now() -> Timestamp {
    Timestamp(SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs()))
}

impl LedgerFile {
    /// Written whole beside the old one, synced, then put in its place.
    fn save(&self) -> Result<(), String> {
        let fresh = self.path.with_extension("json.new");
        let write = || -> std::io::Result<()> {
            let mut file = File::create(&fresh)?;
            file.write_all(self.ledger.to_json().as_bytes())?;
            file.sync_all()?;
            std::fs::rename(&fresh, &self.path)
        };
        write().map_err(|e| format!("cannot write the address ledger {}: {e}", self.path.display()))
    }
}

/// All of an attachment, blocking. An error leaves the lease in place: the next try gets the same address.
fn attach(
    ledger: &Mutex<LedgerFile>,
    blocks: &[IpNet],
    pod: &PodIdent,
    netns: &Path,
    mtu_bytes: u32,
) -> Result<(NsName, Attachment), String> {
    let addresses = lease(ledger, blocks, pod)?;
    let name = NsName::new(pod.namespace.as_str(), pod.name.as_str());
    let plan = AttachmentPlan::new(&name, &addresses, mtu_bytes);
    let namespace = netns::open(netns).map_err(|e| e.to_string())?;
    let mut netlink = Netlink::open().map_err(|e| e.to_string())?;
    if is_attached(&mut netlink, &plan, &namespace)? {
        return Ok((name, plan.attachment()));
    }
    remove_link(&mut netlink, &plan.host.name.0)?;
    let spec = VethSpec {
        name: &plan.host.name.0,
        peer_name: &plan.inside.name.0,
        peer_netns: Some(namespace.as_fd()),
        mac: Some(plan.host.mac.0),
        peer_mac: None,
        mtu_bytes,
    };
    netlink.create_veth(&spec).map_err(|e| e.to_string())?;
    plan.host.sysctls.iter().try_for_each(write)?;
    let host = netlink.link(&plan.host.name.0).map_err(|e| e.to_string())?;
    netlink.set_up(host.index).map_err(|e| e.to_string())?;
    netns::run_in(namespace.as_fd(), || inside(&plan)).map_err(|e| e.to_string())??;
    Ok((name, plan.attachment()))
}

fn lease(ledger: &Mutex<LedgerFile>, blocks: &[IpNet], pod: &PodIdent) -> Result<Vec<IpAddr>, String> {
    let mut locked = ledger.lock().unwrap_or_else(PoisonError::into_inner);
    let strays = locked.ledger.set_blocks(blocks);
    strays.iter().for_each(|(addr, lease)| warn!(%addr, pod = %lease.handle.pod, "leased outside this node's blocks"));
    let mut families: Vec<Family> = blocks.iter().map(|block| Family::of(block.addr())).collect();
    families.sort();
    families.dedup();
    let addresses = locked.ledger.assign(&handle(pod), &families, now()).map_err(|e| e.to_string())?;
    locked.save()?;
    Ok(addresses)
}

/// Is the pod's end there with all its addresses, and the host's end beside it?
fn is_attached(netlink: &mut Netlink, plan: &AttachmentPlan, namespace: &std::os::fd::OwnedFd) -> Result<bool, String> {
    let links = netlink.links().map_err(|e| e.to_string())?;
    if !links.iter().any(|link| link.name == *plan.host.name.0 && link.up) {
        return Ok(false);
    }
    let has_all = || -> Result<bool, String> {
        let mut netlink = Netlink::open().map_err(|e| e.to_string())?;
        let addresses = netlink.addrs().map_err(|e| e.to_string())?;
        Ok(plan.inside.addresses.iter().all(|wanted| addresses.iter().any(|a| a.net == *wanted)))
    };
    netns::run_in(namespace.as_fd(), has_all).map_err(|e| e.to_string())?
}

/// The pod's end; called in the pod's network namespace.
fn inside(plan: &AttachmentPlan) -> Result<(), String> {
    let text = |e: portolan_kernel::NetlinkError| e.to_string();
    let mut netlink = Netlink::open().map_err(text)?;
    let lo = netlink.link("lo").map_err(text)?.index;
    netlink.set_up(lo).map_err(text)?;
    plan.inside.sysctls.iter().try_for_each(write)?;
    let eth0 = netlink.link(&plan.inside.name.0).map_err(text)?.index;
    for address in &plan.inside.addresses {
        netlink.add_addr(eth0, *address).map_err(text)?;
    }
    netlink.set_up(eth0).map_err(text)?;
    for route in &plan.inside.routes {
        let route = match route.via {
            None => KernelRoute::on_link(route.dst, eth0),
            Some(gateway) => KernelRoute::via(route.dst, gateway, eth0),
        };
        netlink.replace_routes(&[route]).into_iter().collect::<Result<Vec<_>, _>>().map_err(text)?;
    }
    Ok(())
}

/// Takes the link away and gives the addresses back. `false` if the pod held none: then its name may be another's now.
fn detach(ledger: &Mutex<LedgerFile>, pod: &PodIdent) -> Result<bool, String> {
    let mut locked = ledger.lock().unwrap_or_else(PoisonError::into_inner);
    if locked.ledger.release(&handle(pod), now()).is_empty() {
        return Ok(false);
    }
    locked.save()?;
    let name = NsName::new(pod.namespace.as_str(), pod.name.as_str());
    let taken = locked.ledger.leases().values().any(|lease| lease.handle.pod == name);
    drop(locked);
    if !taken {
        let mut netlink = Netlink::open().map_err(|e| e.to_string())?;
        remove_link(&mut netlink, &portolan_cni::host_link_name(&name).0)?;
    }
    Ok(!taken)
}

fn remove_link(netlink: &mut Netlink, name: &str) -> Result<(), String> {
    let links = netlink.links().map_err(|e| e.to_string())?;
    match links.iter().find(|link| link.name == name) {
        None => Ok(()),
        // The pod's namespace may take the link along while we look at it.
        Some(link) => match netlink.delete_link(link.index) {
            Err(error) if error.errno() != Some(libc::ENODEV) => Err(error.to_string()),
            _ => Ok(()),
        },
    }
}

fn write(setting: &Sysctl) -> Result<(), String> {
    let key = key(&setting.path)
        .ok_or_else(|| format!("{}: not one of the settings that this agent writes", setting.path))?;
    if matches!(key, Key::RouteLocalnet(_)) && sysctl::get(Key::RouteLocalnet("all")).is_ok_and(|all| all == "0") {
        // Node ports do not answer on 127.0.0.1 here, and no rule closes it to pods.
        return Ok(());
    }
    match sysctl::set(key, setting.value) {
        Ok(()) => Ok(()),
        // A kernel without IPv6 has no such keys, and pods without IPv6 no need of them.
        Err(error) if setting.path.starts_with("net/ipv6/") => {
            debug!(%error, "an IPv6 setting was not written");
            Ok(())
        }
        Err(error) => Err(error.to_string()),
    }
}

/// The kernel room's key for a path of the plan.
fn key(path: &str) -> Option<Key<'_>> {
    let parts: Vec<&str> = path.strip_prefix("net/")?.split('/').collect();
    Some(match parts[..] {
        ["ipv4", "conf", link, "proxy_arp"] => Key::ProxyArp(link),
        ["ipv4", "conf", link, "route_localnet"] => Key::RouteLocalnet(link),
        ["ipv4", "conf", link, "forwarding"] => Key::Ipv4Forwarding(link),
        ["ipv4", "conf", link, "rp_filter"] => Key::RpFilter(link),
        ["ipv4", "neigh", link, "proxy_delay"] => Key::ProxyDelay(link),
        ["ipv4", "ip_forward"] => Key::Ipv4Forward,
        ["ipv6", "conf", link, "forwarding"] => Key::Ipv6Forwarding(link),
        ["ipv6", "conf", link, "proxy_ndp"] => Key::ProxyNdp(link),
        ["ipv6", "conf", link, "disable_ipv6"] => Key::DisableIpv6(link),
        ["ipv6", "conf", link, "accept_dad"] => Key::AcceptDad(link),
        ["ipv6", "conf", link, "accept_ra"] => Key::AcceptRa(link),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_setting_of_a_plan_is_one_that_the_kernel_room_writes() {
        let addresses = ["10.244.0.1".parse().expect("v4"), "fd00::1".parse().expect("v6")];
        let plan = AttachmentPlan::new(&NsName::new("default", "web"), &addresses, 1500);
        for setting in plan.host.sysctls.iter().chain(&plan.inside.sysctls) {
            let key = key(&setting.path).unwrap_or_else(|| panic!("{} has no key", setting.path));
            let path = key.path().expect("a valid link name");
            assert_eq!(path, Path::new("/proc/sys").join(&setting.path));
        }
    }
}
