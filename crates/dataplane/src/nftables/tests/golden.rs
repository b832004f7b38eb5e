//! Golden: the whole table of a small cluster, both families. `PORTOLAN_BLESS=1 cargo test -p portolan-dataplane golden`
//! writes the files anew; read the difference before you keep it.

use portolan_model::Family;

use crate::nftables::render::full;
use crate::nftables::{Desired, DnsPath, Options};
use crate::tests::world::{snapshot, whole};

fn check(family: Family, file: &str, golden: &str) {
    let options = Options { dns: DnsPath::ThisNode, ..Options::default() };
    let text = full(&Desired::of(family, options, &snapshot(&whole())).table());
    if std::env::var_os("PORTOLAN_BLESS").is_some() {
        let path = format!("{}/src/nftables/tests/{file}", env!("CARGO_MANIFEST_DIR"));
        std::fs::write(path, &text).expect("the golden file is writable");
        return;
    }
    assert_eq!(text, golden, "{file} differs; PORTOLAN_BLESS=1 rewrites it");
}

#[test]
fn the_golden_whole_world_in_ipv4() {
    check(Family::V4, "golden-v4.nft", include_str!("golden-v4.nft"));
}

#[test]
fn the_golden_whole_world_in_ipv6() {
    check(Family::V6, "golden-v6.nft", include_str!("golden-v6.nft"));
}
