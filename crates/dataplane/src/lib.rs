//! Service proxy rules and routes as pure plans: values in, values and text out.
//!
//! ```text
//!  let mut desired = iptables::Desired::new(Family::V4, iptables::Options::default());
//!  let changes = desired.update(&snapshot, &delta);          // changed chains only; the first time, all
//!  let text = iptables::render::restore(&changes);           // for iptables-restore --noflush; empty if nothing
//!
//!  let saved = iptables::parse(&dump)?;                      // at start, and when another hand was in the rules
//!  let repair = iptables::Repair::of(&desired, &saved);      // chains and hooks that are missing, stale or wrong
//!  let text = repair.render();                               // empty if the kernel is as planned
//!
//!  let text = iptables::render::full(&desired.with_hooks()); // everything, as `portolan render iptables` prints it
//!  let ways = iptables::trace::walk(&desired.with_hooks(), &world, &packet);
//!
//!  let mut table = routes::Shadow::new();
//!  let changes = table.update(&snapshot, &delta);            // Vec<RouteChange>: replace or remove
//!  table.refused(dst);                                       // the kernel said no: tried again at the next retry()
//! ```
//!
//! Cost follows the change; the same cluster gives the same bytes. Hooks (jumps from built-in chains) come only with
//! [`iptables::Repair`]: an agent starts with a save, a repair and a restore, and goes on with updates.
//!
//! This room must never know netlink, processes, clocks or Kubernetes objects. Sources: kube-proxy's iptables mode as it
//! can be observed; Calico's chain names for egress.

pub mod announce;
mod causes;
pub mod choose;
pub mod claims;
pub mod conntrack;
pub mod dns_left;
pub mod iptables;
pub mod meaning;
pub mod nftables;
pub mod routes;
pub mod way;

#[cfg(test)]
mod tests;
