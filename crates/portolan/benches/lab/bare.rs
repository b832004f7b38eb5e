//! The limits beside our figures: the same kernel work with nothing of ours around it, in the same run.

use std::fs;
use std::io::Write;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::Pod;
use portolan_kernel::{Netlink, VethSpec, netns};
use portolan_pods::PodIdent;
use portolan_pods::image::Image;
use portolan_pods::shim::client::{Seed, Shim};
use portolan_pods::shim::protocol::{Request, StartContainer, StdioPlan};
use portolan_pods::spec::{Input, runtime_spec, stop_signal};
use serde_json::json;
use tokio::runtime::Runtime;

use crate::Outcome;
use crate::cluster::first_answer;

/// A process of our own program, from fork to its end: what each of a lab's processes costs at least.
pub fn process(exe: &Path) -> Outcome<Duration> {
    let start = Instant::now();
    let status = Command::new(exe).arg("--version").stdout(Stdio::null()).status()?;
    if !status.success() {
        return Err(format!("{} --version: {status}", exe.display()).into());
    }
    Ok(start.elapsed())
}

/// A small object made durable: what the store's log pays for each write, group commit aside.
pub fn durable_write(dir: &Path) -> Outcome<Duration> {
    let path = dir.join("durable");
    let mut file = fs::File::options().create(true).append(true).open(path)?;
    let start = Instant::now();
    file.write_all(&[b'x'; 1024])?;
    file.sync_data()?;
    Ok(start.elapsed())
}

/// A lab's places and nothing in them: `count` network, mount and UTS namespaces on a bridge by veths, with addresses.
/// They are gone when this returns.
pub fn places(count: u8) -> Outcome<Duration> {
    let start = Instant::now();
    let lan = netns::create()?;
    let hosts = (0..count).map(|_| netns::create()).collect::<Result<Vec<_>, _>>()?;
    netns::run_in(lan.as_fd(), || -> Outcome<()> {
        let mut netlink = Netlink::open()?;
        netlink.create_bridge("lan0")?;
        let bridge = netlink.link("lan0")?.index;
        netlink.set_up(bridge)?;
        for (number, host) in hosts.iter().enumerate() {
            let name = format!("port{number}");
            let peer_netns = Some(host.as_fd());
            netlink.create_veth(&VethSpec {
                name: &name,
                peer_name: "eth0",
                peer_netns,
                mac: None,
                peer_mac: None,
                mtu_bytes: 1500,
            })?;
            let port = netlink.link(&name)?.index;
            netlink.set_master(port, bridge)?;
            netlink.set_up(port)?;
        }
        Ok(())
    })??;
    for (number, host) in (1..).zip(&hosts) {
        netns::run_in(host.as_fd(), || furnish(Ipv4Addr::new(172, 18, 0, number)))??;
    }
    Ok(start.elapsed())
}

fn furnish(address: Ipv4Addr) -> Outcome<()> {
    let flags = rustix::thread::UnshareFlags::NEWNS | rustix::thread::UnshareFlags::NEWUTS;
    // SAFETY: a thread of its own that ends right after.
    unsafe { rustix::thread::unshare_unsafe(flags) }?;
    let mut netlink = Netlink::open()?;
    for (name, address) in [("lo", None), ("eth0", Some(ipnet::Ipv4Net::new(address, 24)?))] {
        let link = netlink.link(name)?.index;
        netlink.set_up(link)?;
        address.map_or(Ok(()), |net| netlink.add_addr(link, net.into()))?;
    }
    Ok(())
}

/// One nginx by shim alone: sandbox, container, until port 80 answers inside; no API, no scheduler, no veth, no rule.
pub fn pod(runtime: &Runtime, exe: &Path, image: &Image, dir: &Path) -> Outcome<Duration> {
    let ident = PodIdent { namespace: "default".into(), name: "bare".into(), uid: "bare".into() };
    let container = container(image, dir)?;
    let start = Instant::now();
    let shim = runtime.block_on(Shim::start(exe, dir, &Seed { pod: ident, runs: Vec::new(), limits: None }))?;
    let answered = run(runtime, &shim, container);
    runtime.block_on(shim.call(&Request::Quit))?;
    Ok(answered?.duration_since(start))
}

fn run(runtime: &Runtime, shim: &Shim, container: StartContainer) -> Outcome<Instant> {
    runtime.block_on(shim.call(&Request::Sandbox { hostname: Some("bare".into()) }))?;
    let sandbox = runtime.block_on(shim.fresh_state())?.sandbox.ok_or("the sandbox ended at once")?;
    let inside = netns::open(format!("/proc/{}/ns/net", sandbox.pid).as_ref())?;
    runtime.block_on(shim.call(&Request::Start(Box::new(container))))?;
    first_answer(&inside, SocketAddr::from((Ipv4Addr::LOCALHOST, 80)))
}

fn container(image: &Image, dir: &Path) -> Outcome<StartContainer> {
    let pod: Pod = serde_json::from_value(json!({
        "metadata": {"name": "bare", "namespace": "default"},
        "spec": {"containers": [{"name": "nginx", "image": image.reference}]},
    }))?;
    let env: Vec<(String, String)> =
        image.config.env.iter().flatten().filter_map(|pair| pair.split_once('=')).map(owned).collect();
    let spec = runtime_spec(&Input {
        pod: &pod,
        container: &pod.spec.as_ref().ok_or("no spec")?.containers[0],
        image: &image.config,
        passwd: &fs::read_to_string(image.rootfs.join("etc/passwd")).unwrap_or_default(),
        group: &fs::read_to_string(image.rootfs.join("etc/group")).unwrap_or_default(),
        env: &env,
        binds: &[],
        available_capabilities: capabilities(),
    })?;
    Ok(StartContainer {
        name: "nginx".into(),
        attempt: 0,
        streak: 0,
        spec,
        lower: image.rootfs.clone(),
        log: log(dir),
        image: image.reference.clone(),
        image_id: image.id.clone(),
        stop_signal: stop_signal(&image.config),
        limits: Default::default(),
        stdio: StdioPlan::default(),
    })
}

fn owned((name, value): (&str, &str)) -> (String, String) {
    (name.to_owned(), value.to_owned())
}

fn log(dir: &Path) -> PathBuf {
    dir.join("logs/nginx/0.log")
}

/// The bounding set of this process.
fn capabilities() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("CapBnd:"));
    line.and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok()).unwrap_or_default()
}
