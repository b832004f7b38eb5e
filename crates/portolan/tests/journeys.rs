//! From everyone to everywhere, traced in a lab whose nodes write iptables.

mod matrix;
mod support;

use portolan_lab::ProxyMode;

#[test]
fn every_journey_is_told_as_it_went() {
    let ground = matrix::Ground::new(matrix::world("journeys", ProxyMode::Iptables));
    ground.travel();
    ground.is_refused();
}
