//! Repair: from what the kernel holds to what it must hold. Read at start, after an error, and when another hand was in
//! the rules; a kernel that is as planned needs nothing.

use crate::iptables::hooks::{self, Hook};
use crate::iptables::parse::{self, Saved};
use crate::iptables::plan::Desired;
use crate::iptables::rule::Change;

/// What brings a kernel to the planned state.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Repair {
    /// Chains to write or to remove.
    pub changes: Vec<Change>,
    /// Jumps to put into built-in chains, in this order.
    pub hooks: Vec<Hook>,
}

impl Repair {
    /// What `saved` needs to become `desired`. Chains of others are not looked at.
    pub fn of(desired: &Desired, saved: &Saved) -> Self {
        let changes = parse::changes(&desired.chains(), saved);
        Self { changes, hooks: hooks::missing(saved, desired) }
    }

    /// Nothing to do.
    pub fn is_empty(&self) -> bool {
        self.changes.is_empty() && self.hooks.is_empty()
    }

    /// The input of `iptables-restore --noflush` that does it; empty if nothing is to be done.
    pub fn render(&self) -> String {
        super::render::program(&self.changes, &self.hooks)
    }
}
