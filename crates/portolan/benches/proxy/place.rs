//! Where rules are tried: a node in a fresh network namespace, a client and a server behind it.
//!
//! ```text
//!  client 10.254.0.1 ── 10.254.0.254 node 10.255.0.254 ── server 10.255.0.1, .2, …
//! ```
//!
//! Nothing here is reachable from the machine's own namespace; all ends with the descriptors.

use std::fs::File;
use std::io::{Seek, Write};
use std::net::Ipv4Addr;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use ipnet::{IpNet, Ipv4Net};
use portolan_kernel::sysctl::{self, Key};
use portolan_kernel::{KernelRoute, Netlink, VethSpec, netns};

use crate::Outcome;
use crate::world::SERVER;

pub const CLIENT: Ipv4Addr = Ipv4Addr::new(10, 254, 0, 1);
const NEAR_CLIENT: Ipv4Addr = Ipv4Addr::new(10, 254, 0, 254);
const NEAR_SERVER: Ipv4Addr = Ipv4Addr::new(10, 255, 0, 254);
/// The server has so many addresses from [`SERVER`] on.
const SERVER_ADDRESSES: u32 = 10;

/// A node with a client and a server.
pub struct Place {
    pub node: OwnedFd,
    pub client: OwnedFd,
    pub server: OwnedFd,
}

impl Place {
    pub fn new() -> Outcome<Self> {
        let place = Self { node: netns::create()?, client: netns::create()?, server: netns::create()? };
        netns::run_in(place.node.as_fd(), || -> Outcome<()> {
            let mut netlink = Netlink::open()?;
            let lo = netlink.link("lo")?.index;
            netlink.set_up(lo)?;
            for (name, peer, address) in
                [("client", &place.client, NEAR_CLIENT), ("server", &place.server, NEAR_SERVER)]
            {
                let peer_netns = Some(peer.as_fd());
                let (mac, peer_mac) = (None, None);
                netlink.create_veth(&VethSpec {
                    name,
                    peer_name: "eth0",
                    peer_netns,
                    mac,
                    peer_mac,
                    mtu_bytes: 1500,
                })?;
                let link = netlink.link(name)?.index;
                netlink.add_addr(link, within_24(address)?)?;
                netlink.set_up(link)?;
            }
            Ok(sysctl::set(Key::Ipv4Forward, 1)?)
        })??;
        let addresses = (0..SERVER_ADDRESSES).map(|n| Ipv4Addr::from(u32::from(SERVER) + n));
        end(&place.client, std::iter::once(CLIENT), NEAR_CLIENT)?;
        end(&place.server, addresses, NEAR_SERVER)?;
        Ok(place)
    }

    /// Runs `work` in the node's namespace.
    pub fn on_node<T: Send>(&self, work: impl FnOnce() -> Outcome<T> + Send) -> Outcome<T> {
        netns::run_in(self.node.as_fd(), work)?
    }
}

/// One end behind the node: its addresses, the node as its gateway.
fn end(netns: &OwnedFd, addresses: impl Iterator<Item = Ipv4Addr> + Send, gateway: Ipv4Addr) -> Outcome<()> {
    netns::run_in(netns.as_fd(), || -> Outcome<()> {
        let mut netlink = Netlink::open()?;
        let link = netlink.link("eth0")?.index;
        for address in addresses {
            netlink.add_addr(link, within_24(address)?)?;
        }
        let lo = netlink.link("lo")?.index;
        netlink.set_up(lo)?;
        netlink.set_up(link)?;
        let everywhere = IpNet::from(Ipv4Net::default());
        netlink.replace_routes(&[KernelRoute::via(everywhere, gateway.into(), link)]).pop().unwrap_or(Ok(()))?;
        Ok(())
    })?
}

fn within_24(address: Ipv4Addr) -> Outcome<IpNet> {
    Ok(IpNet::new(address.into(), 24)?)
}

/// What a program took from its start to its end.
#[derive(Clone, Copy, Debug, Default)]
pub struct Ran {
    pub wall: Duration,
    /// Of its threads and in the kernel for it.
    pub cpu: Duration,
    pub peak_kib: u64,
}

/// Runs a program in the namespace of the calling thread with `input` as its standard input.
pub fn run(program: &Path, args: &[&str], input: &str) -> Outcome<Ran> {
    let mut file = tempfile::tempfile()?;
    file.write_all(input.as_bytes())?;
    file.rewind()?;
    let mut said = tempfile::tempfile()?;
    let start = Instant::now();
    let child = Command::new(program)
        .args(args)
        .stdin(Stdio::from(file))
        .stdout(Stdio::null())
        .stderr(Stdio::from(File::try_clone(&said)?))
        .spawn()
        .map_err(|e| format!("cannot run {}: {e}", program.display()))?;
    let (status, ran) = wait(child.id() as i32, start)?;
    if status != 0 {
        said.rewind()?;
        let words = std::io::read_to_string(said)?;
        return Err(format!("{} ended with {status:#x}: {}", program.display(), words.trim()).into());
    }
    Ok(ran)
}

/// Waits for the child as wait4(2) does, which says what it used.
fn wait(pid: i32, start: Instant) -> Outcome<(i32, Ran)> {
    let mut status = 0;
    // SAFETY: an all-zero rusage is a valid value, and both pointers live for the call.
    let usage = unsafe {
        let mut usage: libc::rusage = std::mem::zeroed();
        if libc::wait4(pid, &mut status, 0, &mut usage) != pid {
            return Err(std::io::Error::last_os_error().into());
        }
        usage
    };
    let time = |t: libc::timeval| Duration::new(t.tv_sec as u64, t.tv_usec as u32 * 1000);
    let cpu = time(usage.ru_utime) + time(usage.ru_stime);
    Ok((status, Ran { wall: start.elapsed(), cpu, peak_kib: usage.ru_maxrss as u64 }))
}
