//! What another mode left in the kernel goes when this one has its rules there; and with `--cleanup`, everything of ours.

use portolan_dataplane::iptables::{cleanup, parse};
use portolan_kernel::iptables::{Family as ToolFamily, Flush, IptablesError, Tool};
use portolan_kernel::nft::Nft;
use portolan_model::Family;
use tracing::{info, warn};

use crate::proxy::Mode;
use crate::proxy::nft::remove_table;

/// Removes what `mode` left behind, in both families and in the calling thread's network namespace. What cannot be removed
/// is said and given as lines.
pub(crate) fn remove(mode: Mode) -> Vec<String> {
    let removed = Family::BOTH.into_iter().map(|family| match mode {
        Mode::Nftables => of_nftables(family),
        Mode::Iptables => of_iptables(family),
    });
    let problems: Vec<String> = removed.filter_map(Result::err).collect();
    problems.iter().for_each(|problem| warn!("{problem}"));
    problems
}

fn of_nftables(family: Family) -> Result<(), String> {
    let removed = Nft::open().and_then(|mut nft| remove_table(&mut nft, family));
    match removed {
        Ok(true) => info!(?family, "the table of nftables mode is removed"),
        Ok(false) => {}
        Err(error) => return Err(format!("the table of nftables mode is not removed: {error}")),
    }
    Ok(())
}

fn of_iptables(family: Family) -> Result<(), String> {
    let tool = Tool::from_environment();
    let tool_family = match family {
        Family::V4 => ToolFamily::V4,
        Family::V6 => ToolFamily::V6,
    };
    let failed = |error: &dyn std::fmt::Display| format!("the chains of iptables mode are not removed: {error}");
    let text = match tool.save_all(tool_family) {
        Ok(text) => text,
        // Without its programs nobody made such chains here, or nobody can take them away.
        Err(IptablesError::Start { .. }) => return Ok(()),
        Err(error) => return Err(failed(&error)),
    };
    let saved = parse(&text).map_err(|error| failed(&error))?;
    let text = cleanup(&saved);
    if text.is_empty() {
        return Ok(());
    }
    tool.restore(tool_family, &text, Flush::Keep).map_err(|error| failed(&error))?;
    info!(?family, "the chains of iptables mode are removed");
    Ok(())
}
