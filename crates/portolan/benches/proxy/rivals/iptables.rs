//! Input of `iptables-restore --noflush --counters` as kube-proxy writes it: filter and nat, whole and for one change.

use std::fmt::Write;
use std::net::Ipv4Addr;

use portolan_dataplane::iptables::names::{endpoint_chain, service_hash};
use portolan_model::{NsName, Proto, ServicePortKey};

use crate::world::{CLUSTER_CIDR, NAMESPACE, PORT, PORT_NAME, Size, TARGET, cluster_ip, name};

const FILTER: &str = "*filter\n:KUBE-SERVICES - [0:0]\n:KUBE-EXTERNAL-SERVICES - [0:0]\n:KUBE-FORWARD - [0:0]\n\
    :KUBE-NODEPORTS - [0:0]\n:KUBE-PROXY-FIREWALL - [0:0]\n:KUBE-FIREWALL - [0:0]\n\
    -A KUBE-FIREWALL -m comment --comment \"block incoming localnet connections\" -d 127.0.0.0/8 ! -s 127.0.0.0/8 \
    -m conntrack ! --ctstate RELATED,ESTABLISHED,DNAT -j DROP\n\
    -A KUBE-FORWARD -m conntrack --ctstate INVALID -j DROP\n\
    -A KUBE-FORWARD -m comment --comment \"kubernetes forwarding rules\" -m mark --mark 0x4000/0x4000 -j ACCEPT\n\
    -A KUBE-FORWARD -m comment --comment \"kubernetes forwarding conntrack rule\" -m conntrack \
    --ctstate RELATED,ESTABLISHED -j ACCEPT\nCOMMIT\n";
const NAT_HEAD: &str =
    "*nat\n:KUBE-SERVICES - [0:0]\n:KUBE-NODEPORTS - [0:0]\n:KUBE-POSTROUTING - [0:0]\n:KUBE-MARK-MASQ - [0:0]\n";
const NAT_FIXED: &str = "-A KUBE-POSTROUTING -m mark ! --mark 0x4000/0x4000 -j RETURN\n\
    -A KUBE-POSTROUTING -j MARK --xor-mark 0x4000\n\
    -A KUBE-POSTROUTING -m comment --comment \"kubernetes service traffic requiring SNAT\" -j MASQUERADE --random-fully\n\
    -A KUBE-MARK-MASQ -j MARK --or-mark 0x4000\n";
const NAT_TAIL: &str = "-A KUBE-SERVICES -m comment --comment \"kubernetes service nodeports; NOTE: this must be the last \
    rule in this chain\" -m addrtype --dst-type LOCAL -j KUBE-NODEPORTS\n";
/// The jumps into nat's chains, which kube-proxy makes with single calls of `iptables`.
pub const HOOKS: &str = "*nat\n:KUBE-SERVICES - [0:0]\n:KUBE-POSTROUTING - [0:0]\n-A PREROUTING -j KUBE-SERVICES\n\
    -A OUTPUT -j KUBE-SERVICES\n-A POSTROUTING -j KUBE-POSTROUTING\nCOMMIT\n";

/// Everything, as the first sync writes it.
pub fn whole(size: Size) -> String {
    let all = (0..size.services).map(|service| (service, size.addresses(service)));
    input(size, all, None)
}

/// What a partial sync writes when one Service has these endpoints from now on and one of them went.
pub fn change(size: Size, service: u32, addresses: &[Ipv4Addr], gone: Ipv4Addr) -> String {
    input(size, std::iter::once((service, addresses.to_vec())), Some((service, gone)))
}

/// The Services that changed with their chains; the shared chains whole, as always.
fn input(size: Size, changed: impl Iterator<Item = (u32, Vec<Ipv4Addr>)>, gone: Option<(u32, Ipv4Addr)>) -> String {
    let large = size.services * size.endpoints > 1000;
    let (mut chains, mut rules, mut removed) = (String::from(NAT_HEAD), String::from(NAT_FIXED), String::new());
    for (service, addresses) in changed {
        write_service(&mut chains, &mut rules, service, &addresses, large).expect("writing to a String cannot fail");
    }
    if let Some((service, address)) = gone {
        let chain = endpoint_chain(&key(service), &format!("{address}:{TARGET}"));
        chains.push_str(&format!(":{chain} - [0:0]\n"));
        removed.push_str(&format!("-X {chain}\n"));
    }
    for service in 0..size.services {
        write_dispatch(&mut rules, service).expect("writing to a String cannot fail");
    }
    format!("{FILTER}{chains}{rules}{NAT_TAIL}{removed}COMMIT\n")
}

fn write_dispatch(rules: &mut String, service: u32) -> std::fmt::Result {
    let (key, ip) = (key(service), cluster_ip(service));
    writeln!(
        rules,
        "-A KUBE-SERVICES -m comment --comment \"{key} cluster IP\" -m tcp -p tcp -d {ip} --dport {PORT} -j KUBE-SVC-{}",
        service_hash(&key)
    )
}

fn write_service(
    chains: &mut String,
    rules: &mut String,
    service: u32,
    addresses: &[Ipv4Addr],
    large: bool,
) -> std::fmt::Result {
    let (key, ip) = (key(service), cluster_ip(service));
    let chain = format!("KUBE-SVC-{}", service_hash(&key));
    writeln!(chains, ":{chain} - [0:0]")?;
    writeln!(
        rules,
        "-A {chain} -m comment --comment \"{key} cluster IP\" -m tcp -p tcp -d {ip} --dport {PORT} ! -s {CLUSTER_CIDR} \
         -j KUBE-MARK-MASQ"
    )?;
    for (at, address) in addresses.iter().enumerate() {
        let target = format!("{address}:{TARGET}");
        let endpoint = endpoint_chain(&key, &target);
        writeln!(chains, ":{endpoint} - [0:0]")?;
        let comment = if large { String::new() } else { format!(" -m comment --comment \"{key} -> {target}\"") };
        let chance = match addresses.len() - at {
            1 => String::new(),
            left => format!(" -m statistic --mode random --probability {:.10}", 1.0 / left as f64),
        };
        writeln!(rules, "-A {chain}{comment}{chance} -j {endpoint}")?;
        let comment = if large { String::new() } else { format!(" -m comment --comment {key}") };
        writeln!(rules, "-A {endpoint}{comment} -s {address} -j KUBE-MARK-MASQ")?;
        writeln!(rules, "-A {endpoint}{comment} -m tcp -p tcp -j DNAT --to-destination {target}")?;
    }
    Ok(())
}

pub fn key(service: u32) -> ServicePortKey {
    ServicePortKey { service: NsName::new(NAMESPACE, name(service)), port: PORT_NAME.into(), proto: Proto::Tcp }
}
