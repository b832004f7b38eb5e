//! Which backend: as told, else as the machine has it.

use std::path::Path;

use clap::ValueEnum;
use portolan_agent::proxy::Mode;

use crate::proxy::wanted::WantedMode;

/// `--proxy-mode`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ModeArg {
    /// iptables where its programs are at hand, else nftables
    Auto,
    /// kube-proxy's chains, by the iptables programs
    Iptables,
    /// Our own tables, by netlink alone
    Nftables,
}

impl ModeArg {
    pub fn wanted(self) -> WantedMode {
        match self {
            Self::Auto => WantedMode::Auto,
            Self::Iptables => WantedMode::Given(Mode::Iptables),
            Self::Nftables => WantedMode::Given(Mode::Nftables),
        }
    }
}

impl From<ModeArg> for portolan_lab::ProxyMode {
    fn from(arg: ModeArg) -> Self {
        match arg {
            ModeArg::Auto => Self::Auto,
            ModeArg::Iptables => Self::Iptables,
            ModeArg::Nftables => Self::Nftables,
        }
    }
}

/// iptables where its programs are at hand, else nftables, which needs none.
pub fn at_hand() -> Mode {
    let told = std::env::var_os(portolan_kernel::iptables::DIR_VARIABLE).map(|dir| vec![dir.into()]);
    let on_path = || std::env::var_os("PATH").map(|path| std::env::split_paths(&path).collect()).unwrap_or_default();
    let folders: Vec<std::path::PathBuf> = told.unwrap_or_else(on_path);
    let has = |folder: &Path| ["iptables-restore", "iptables-save"].iter().all(|program| folder.join(program).exists());
    match folders.iter().any(|folder| has(folder)) {
        true => Mode::Iptables,
        false => Mode::Nftables,
    }
}
