//! The zones of a Corefile as zone files: what each `kubernetes` block shows of the objects in files.

use std::fmt::Write;
use std::path::Path;

use portolan_dns::kubernetes::View;
use portolan_dns::records::Records;
use portolan_dns::zone::ZoneConfig;
use portolan_model::Snapshot;

use crate::dns::configuration::read_file;
use crate::failure::Failure;

/// Zone file text of every `kubernetes` block of `corefile`, in its order, each with the block it is of as a comment.
///
/// # Errors
/// All that is wrong with the Corefile; it has no such block.
pub fn of_corefile(corefile: &Path, snapshot: &Snapshot) -> Result<String, Failure> {
    let read = read_file(corefile).map_err(|problems| Failure::input(problems.join("\nportolan: ")))?;
    let settings = &snapshot.settings;
    let zones = ZoneConfig::from_settings(settings).map_err(|e| Failure::input(format!("--cluster-domain: {e}")))?;
    let (own_addresses, own_ranges) = (zones.own_addresses.clone(), zones.own_ranges.clone());
    let records = Records::from_snapshot(zones, snapshot);
    let mut out = String::new();
    for block in &read.corefile.blocks {
        let Some(kubernetes) = &block.kubernetes else { continue };
        let names: Vec<String> = block.zones.iter().map(|zone| format!("{zone}:{}", block.port)).collect();
        let place = &block.place;
        writeln!(out, "; kubernetes of {} ({}:{})", names.join(" "), place.file, place.line)
            .expect("writing to a String cannot fail");
        out.push_str(&View::new(kubernetes, &own_addresses, &own_ranges).dump(&records));
    }
    match out.is_empty() {
        true => Err(Failure::input(format!("{}: no block has the plugin kubernetes", corefile.display()))),
        false => Ok(out),
    }
}
