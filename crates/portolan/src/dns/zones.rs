//! The zones of a Corefile as zone files: what each `kubernetes` and `k8s_external` shows of the objects in files.

use std::path::Path;

use portolan_dns::corefile::Block;
use portolan_dns::external::External;
use portolan_dns::kubernetes::View;
use portolan_dns::records::Records;
use portolan_dns::zone::ZoneConfig;
use portolan_model::Snapshot;

use crate::dns::configuration::read_file;
use crate::failure::Failure;

/// Zone file text of every `kubernetes` and `k8s_external` of `corefile`, in its order, each with its block as a comment.
///
/// # Errors
/// All that is wrong with the Corefile; no block has either.
pub fn of_corefile(corefile: &Path, snapshot: &Snapshot) -> Result<String, Failure> {
    let read = read_file(corefile).map_err(|problems| Failure::input(problems.join("\nportolan: ")))?;
    let zones = ZoneConfig::from_settings(&snapshot.settings);
    let zones = zones.map_err(|e| Failure::input(format!("--cluster-domain: {e}")))?;
    let (own_addresses, own_ranges) = (zones.own_addresses.clone(), zones.own_ranges.clone());
    let records = Records::from_snapshot(zones, snapshot);
    let mut out = String::new();
    for block in &read.corefile.blocks {
        if let Some(kubernetes) = &block.kubernetes {
            out += &head("kubernetes", block);
            out += &View::new(kubernetes, &own_addresses, &own_ranges).dump(&records);
        }
        if let Some(external) = &block.external {
            out += &head("k8s_external", block);
            out += &External::new(external, &own_addresses).dump(&records);
        }
    }
    match out.is_empty() {
        true => {
            let why = "no block has the plugin kubernetes or k8s_external, so it has no zone of the cluster's";
            Err(Failure::input(format!("{}: {why}", corefile.display())))
        }
        false => Ok(out),
    }
}

fn head(plugin: &str, block: &Block) -> String {
    let names: Vec<String> = block.zones.iter().map(|zone| format!("{zone}:{}", block.port)).collect();
    format!("; {plugin} of {} ({}:{})\n", names.join(" "), block.place.file, block.place.line)
}
