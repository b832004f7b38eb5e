//! Making a place: the namespaces of a node, of `outside` or of the API server, and what is in them.
//!
//! ```text
//!  /run       tmpfs of its own;  /run/lab = the place's folder of the lab's files
//!  /etc       the machine's, with a layer of its own over it: resolv.conf, hostname, hosts, cni/
//!  eth0 ───── lan-NAME ── lan0 (bridge in init's namespace)
//! ```

use std::fs;
use std::io;
use std::net::IpAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use portolan_kernel::netlink::{KernelRoute, Netlink, VethSpec};
use portolan_kernel::netns::{self, Entry};
use portolan_kernel::sysctl::{self, Key};
use rustix::fs::{Mode, OFlags};
use rustix::mount::{MountFlags, MountPropagationFlags, mount, mount_bind_recursive, mount_change};
use rustix::thread::UnshareFlags;

use crate::commands::PLACE_DIR;
use crate::error::{LabError, file, system};
use crate::etc;
use crate::topology::{HostSpec, Topology};

pub(crate) const BRIDGE: &str = "lan0";
const MTU_BYTES: u32 = 1500;
/// `RTPROT_STATIC`: routes of the lab are the administrator's, not an agent's.
const STATIC: u8 = 4;

/// A place's namespaces, which live as long as this.
pub(crate) struct Rooms {
    /// Network, mount, UTS.
    pub entry: Entry,
    /// The place's /run.
    pub run: OwnedFd,
}

/// What a new place is made of.
pub(crate) struct Blueprint<'a> {
    pub host: &'a HostSpec,
    pub topology: &'a Topology,
    /// Becomes /run/lab.
    pub own_dir: &'a Path,
    /// Shown at their own paths, even where the new /run would cover them.
    pub visible: &'a [PathBuf],
}

/// The bridge that is the LAN, in the calling thread's namespace.
pub(crate) fn make_lan() -> Result<(), LabError> {
    let mut netlink = Netlink::open()?;
    let lo = netlink.link("lo")?.index;
    netlink.set_up(lo)?;
    netlink.create_bridge(BRIDGE)?;
    let bridge = netlink.link(BRIDGE)?.index;
    // Frames on the LAN are nobody's packets: they must pass no iptables of init's. The key is there
    // only with br_netfilter loaded.
    let _ = sysctl::set(Key::BridgeNfCallIptables, 0);
    Ok(netlink.set_up(bridge)?)
}

/// Takes the place's cable away; its `eth0` goes with it.
pub(crate) fn unplug(host: &HostSpec) -> Result<(), LabError> {
    let mut netlink = Netlink::open()?;
    let port = netlink.link(&host.port)?.index;
    Ok(netlink.delete_link(port)?)
}

/// Makes a place and plugs it in. The calling thread stays where it is.
pub(crate) fn make(blueprint: &Blueprint<'_>) -> Result<Rooms, LabError> {
    let net = netns::create()?;
    plug(blueprint.host, &net)?;
    let made = netns::run_in(net.as_fd(), || furnish(blueprint))?;
    let (mount, uts, run) = made?;
    Ok(Rooms { entry: Entry { mount: Some(mount), uts: Some(uts), net: Some(net), ..Entry::default() }, run })
}

fn plug(host: &HostSpec, net: &OwnedFd) -> Result<(), LabError> {
    let mut netlink = Netlink::open()?;
    netlink.create_veth(&VethSpec {
        name: &host.port,
        peer_name: "eth0",
        peer_netns: Some(net.as_fd()),
        mac: None,
        peer_mac: Some(host.mac),
        mtu_bytes: MTU_BYTES,
    })?;
    let port = netlink.link(&host.port)?.index;
    let bridge = netlink.link(BRIDGE)?.index;
    netlink.set_master(port, bridge)?;
    Ok(netlink.set_up(port)?)
}

/// On a thread of its own, already in the place's network namespace.
fn furnish(blueprint: &Blueprint<'_>) -> Result<(OwnedFd, OwnedFd, OwnedFd), LabError> {
    // SAFETY: the thread ends after this and shares no state that unsharing could split unseen.
    unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNS | UnshareFlags::NEWUTS) }
        .map_err(system("cannot make a mount namespace"))?;
    // Init made everything private already; a new namespace in the same user namespace keeps that.
    furnish_run(blueprint)?;
    etc::furnish(blueprint.host, blueprint.topology)?;
    rustix::system::sethostname(blueprint.host.name.as_bytes()).map_err(system("cannot set the host name"))?;
    configure_network(blueprint.host)?;
    let run = rustix::fs::open("/run", OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty());
    let run = run.map_err(system("cannot open the place's /run"))?;
    let own = |kind: &str| netns::open(Path::new(&format!("/proc/thread-self/ns/{kind}")));
    Ok((own("mnt")?, own("uts")?, run))
}

fn furnish_run(blueprint: &Blueprint<'_>) -> Result<(), LabError> {
    let covered: Vec<_> = blueprint.visible.iter().filter(|path| path.starts_with("/run")).collect();
    // Opened before the new /run covers them.
    let mut kept = vec![(PathBuf::from(PLACE_DIR), open_path(blueprint.own_dir)?)];
    for path in covered {
        kept.push((path.clone(), open_path(path)?));
    }
    mount_tmpfs("/run")?;
    for dir in ["/run/lock", "/run/portolan", "/run/netns"] {
        fs::create_dir_all(dir).map_err(file("cannot make the folder", dir))?;
    }
    for (path, fd) in kept {
        fs::create_dir_all(&path).map_err(file("cannot make the folder", &path))?;
        let source = format!("/proc/thread-self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&fd));
        mount_bind_recursive(source, &path).map_err(io::Error::from).map_err(file("cannot bind", &path))?;
    }
    Ok(())
}

fn open_path(path: &Path) -> Result<OwnedFd, LabError> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::open(path, flags, Mode::empty()).map_err(|e| file("cannot open the folder", path)(e.into()))
}

fn configure_network(host: &HostSpec) -> Result<(), LabError> {
    let forwards = u8::from(host.forwards);
    sysctl::set(Key::Ipv4Forward, forwards)?;
    for link in ["all", "default", "eth0"] {
        sysctl::set(Key::RpFilter(link), 0)?;
        // A node forwards out of the link a packet came in by. Redirects would use up the allowance for ICMP errors to
        // that host, and a Service's REJECT would never be heard (seen on Linux 6.18).
        sysctl::set(Key::SendRedirects(link), 0)?;
    }
    // A kernel without IPv6 has no such keys.
    for link in ["all", "default", "eth0"] {
        let _ = sysctl::set(Key::AcceptDad(link), 0);
        let _ = sysctl::set(Key::Ipv6Forwarding(link), forwards);
    }
    let mut netlink = Netlink::open()?;
    let lo = netlink.link("lo")?.index;
    let eth0 = netlink.link("eth0")?.index;
    netlink.set_up(lo)?;
    netlink.set_up(eth0)?;
    for address in std::iter::once(host.address).chain(host.address_v6) {
        netlink.add_addr(eth0, address)?;
    }
    for address in &host.own_addresses {
        netlink.add_addr(lo, *address)?;
    }
    let route = |(dst, gateway): &(ipnet::IpNet, IpAddr)| KernelRoute {
        protocol: STATIC,
        ..KernelRoute::via(*dst, *gateway, eth0)
    };
    let on_link = |dst: &ipnet::IpNet| KernelRoute { protocol: STATIC, ..KernelRoute::on_link(*dst, eth0) };
    let routes: Vec<_> = host.routes.iter().map(route).chain(host.on_link.iter().map(on_link)).collect();
    netlink.replace_routes(&routes).into_iter().collect::<Result<Vec<_>, _>>()?;
    Ok(())
}

/// Makes every mount of this namespace private, so that nothing goes back to the machine.
pub(crate) fn make_mounts_private() -> Result<(), LabError> {
    mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)
        .map_err(system("cannot make the mounts private"))
}

/// A fresh /proc, of the PID namespace this process is in.
pub(crate) fn mount_proc() -> Result<(), LabError> {
    let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    mount("proc", "/proc", "proc", flags, None).map_err(system("cannot mount /proc"))
}

pub(crate) fn mount_tmpfs(path: &'static str) -> Result<(), LabError> {
    let flags = MountFlags::NOSUID | MountFlags::NODEV;
    mount("tmpfs", path, "tmpfs", flags, c"mode=755").map_err(|e| file("cannot mount a tmpfs on", path)(e.into()))
}
