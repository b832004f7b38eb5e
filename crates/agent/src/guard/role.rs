//! The guard's own process: reads orders and words from standard input, and acts when that breaks off.
//!
//! One thread, no runtime: it sleeps in one read for days.

use std::ffi::OsString;
use std::fs::{File, TryLockError};
use std::io::BufRead;
use std::net::IpAddr;
use std::process::ExitCode;
use std::time::Duration;

use ipnet::IpNet;
use portolan_kernel::Netlink;
use portolan_kernel::iptables::{Family as ToolFamily, Flush, Tool};
use portolan_kernel::nft::{Nft, NftError};
use portolan_model::Family;

use super::{Orders, ROLE, Word};

/// Runs the guard if `args` say that this process is one. To be called before any thread is started.
pub fn reexec(args: &[OsString]) -> Option<ExitCode> {
    if args.len() != 2 || args[1] != ROLE {
        return None;
    }
    Some(match guard(std::io::stdin().lock()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(reason) => {
            eprintln!("guard of cluster DNS: {reason}");
            ExitCode::FAILURE
        }
    })
}

/// What the pipe said until it broke off.
#[derive(Debug, PartialEq)]
pub(super) struct Heard {
    pub(super) orders: Orders,
    pub(super) last: Word,
}

fn guard(input: impl BufRead) -> Result<(), String> {
    let Heard { orders, last } = hear(input)?;
    if last != Word::Others {
        return Ok(());
    }
    std::thread::sleep(Duration::from_millis(orders.patience_ms));
    let lock = File::options().write(true).open(&orders.lock);
    let lock = lock.map_err(|e| format!("cannot open {}: {e}", orders.lock.display()))?;
    match lock.try_lock() {
        Ok(()) => leave(&orders),
        // A successor.
        Err(TryLockError::WouldBlock) => Ok(()),
        Err(TryLockError::Error(e)) => Err(format!("cannot lock {}: {e}", orders.lock.display())),
    }
}

pub(super) fn hear(input: impl BufRead) -> Result<Heard, String> {
    let mut lines = input.lines();
    let first = lines.next().transpose().map_err(|e| e.to_string())?.unwrap_or_default();
    let orders =
        serde_json::from_str(&first).map_err(|e| format!("these are no orders: {e}; an agent starts guards"))?;
    let mut last = Word::Others;
    // What breaks off within a line says nothing.
    for line in lines.map_while(Result::ok) {
        last = match line.as_str() {
            "alone" => Word::Alone,
            "dismissed" => return Ok(Heard { orders, last: Word::Dismissed }),
            _ => Word::Others,
        };
    }
    Ok(Heard { orders, last })
}

/// Rules first: from then on queries go to other nodes. One step that fails does not keep the others.
fn leave(orders: &Orders) -> Result<(), String> {
    eprintln!("guard of cluster DNS: the agent is gone and no other came; other nodes answer from now on");
    let mut failed = Vec::new();
    let tool = Tool::from_environment();
    for family in &orders.iptables {
        let family = match family {
            Family::V4 => ToolFamily::V4,
            Family::V6 => ToolFamily::V6,
        };
        failed.extend(tool.restore(family, &orders.restore, Flush::Keep).err().map(|e| e.to_string()));
    }
    failed.extend(orders.batches.iter().filter_map(|batch| take_out(batch).err()).map(|e| e.to_string()));
    failed.extend(orders.addresses.iter().filter_map(|address| take_off_lo(*address).err()));
    if failed.is_empty() { Ok(()) } else { Err(failed.join("; ")) }
}

/// A table without our chains has nothing to take out.
fn take_out(batch: &[u8]) -> Result<(), NftError> {
    match Nft::open()?.transact(batch) {
        Err(NftError::Refused(refused)) if refused.errno == libc::ENOENT => Ok(()),
        other => other,
    }
}

fn take_off_lo(address: IpAddr) -> Result<(), String> {
    let failed = |e| format!("cannot take {address} off lo: {e}");
    let mut netlink = Netlink::open().map_err(failed)?;
    let lo = netlink.link("lo").map_err(failed)?.index;
    let wanted = IpNet::from(address);
    let is_there = netlink.addrs().map_err(failed)?.iter().any(|a| a.link_index == lo && a.net == wanted);
    if is_there { netlink.delete_addr(lo, wanted).map_err(failed) } else { Ok(()) }
}
