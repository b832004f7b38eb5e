//! A cold start: a plan made and sent in portions, so that all its steps never exist at once.
//!
//! ```text
//!  the table without Services ─► cluster DNS, the API server's Service, and some ─► some more ─► …
//! ```

use std::collections::BTreeSet;

use portolan_model::{Delta, NsName, ServiceView, Snapshot};

use crate::nftables::changes::{Changes, is_first};
use crate::nftables::plan::Desired;

impl Desired {
    /// The first update, for a kernel that has nothing of ours: `send` gets it in portions of about `most` endpoints, in
    /// order, each of whole Services. After an error everything is planned all the same and nothing more is sent.
    ///
    /// # Errors
    /// The first of `send`'s.
    pub fn start<E>(
        &mut self,
        snapshot: &Snapshot,
        most: usize,
        mut send: impl FnMut(Changes) -> Result<(), E>,
    ) -> Result<(), E> {
        let bare = Snapshot { services: Default::default(), ..snapshot.clone() };
        let mut result = send(self.update(&bare, &Delta::all(&bare)));
        for services in portions(snapshot, most) {
            let changes = self.update(snapshot, &Delta { services, ..Delta::default() });
            if result.is_ok() {
                result = send(changes);
            }
        }
        result
    }
}

/// Services in the order of writing, cut after about `most` endpoints.
fn portions(snapshot: &Snapshot, most: usize) -> Vec<BTreeSet<NsName>> {
    let (first, others): (Vec<_>, Vec<_>) = snapshot.services.iter().partition(|(key, _)| is_first(key));
    let mut portions = Vec::new();
    let mut portion = BTreeSet::new();
    let mut size = 0;
    for (key, view) in first.into_iter().chain(others) {
        let more = size_of(view);
        if size > 0 && size + more > most && !is_first(key) {
            portions.push(std::mem::take(&mut portion));
            size = 0;
        }
        size += more;
        portion.insert(key.clone());
    }
    portions.push(portion);
    portions
}

/// Endpoints of all its ports, and one for each port itself.
fn size_of(view: &ServiceView) -> usize {
    view.ports.iter().map(|port| port.endpoints.len() + 1).sum()
}
