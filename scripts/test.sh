#!/usr/bin/env bash
# Every test, quick ones first; ends at the first area that fails. Needs root: the kernel's namespaces are what is tested.
#
# Each call names --workspace and picks targets, never packages: the libraries are then built once, with one set of
# features, and not again for each selection.
set -euo pipefail
cd "$(dirname "$0")/.."
export PORTOLAN_DEB_BIN=${PORTOLAN_DEB_BIN:-$PWD/target/deb/bin}
export PORTOLAN_IPTABLES_DIR=${PORTOLAN_IPTABLES_DIR:-$PORTOLAN_DEB_BIN}
export PORTOLAN_IMAGES=${PORTOLAN_IMAGES:-$PWD/target/images}

# Integration tests by area, and each area's budget on two cores.
acting="law hostile weight soak_dns explain generations packets soak proxy durability bird kernel nft traced kubectl verbs server_side dns_spec dns_strangers nodes dns watch restart cluster pods lab lan"   # 5 minutes
labs="files registry images limits commands many_labs bad_input comfort streams nothing_left traffic witness witness_nftables
    rollout flows dns_explain deaths outages balancer modes why families trace trace_nftables journeys journeys_nft readme walk rootless elsewhere"                                               # 18 minutes

acting="$acting wire upstreams reload told"   # cluster DNS at real sockets
labs="$labs dns_cluster dns_cluster_nft"   # cluster DNS through deaths

say() { printf '\n== %s (after %d s)\n' "$1" "$SECONDS"; }
tested() { cargo test --locked --workspace "$@"; }
named() { for name in "$@"; do printf -- '--test %s ' "$name"; done; }

# shellcheck disable=SC2086 # lines become words
known=" tidy $(echo $acting $labs) "
for file in crates/*/tests/*.rs; do
    name=$(basename "$file" .rs)
    case "$known" in
        *" $name "*) ;;
        *) echo "$file is in no area of scripts/test.sh: nobody would run it" >&2; exit 1 ;;
    esac
done
[ "$(id -u)" = 0 ] || { echo "these tests make namespaces, which need root: try sudo make test" >&2; exit 3; }

say "build (4 minutes)"
tested --no-run
say "house rules"
tested --test tidy
say "rooms by themselves (3 minutes)"
tested --lib --bins
say "rooms that act: namespaces, daemons, kubectl"
# shellcheck disable=SC2046
tested $(named $acting)
say "labs"
scripts/package.sh --dev
# shellcheck disable=SC2046
tested $(named $labs)
say "lints (3 minutes)"
cargo fmt --check
cargo clippy --locked --workspace --all-targets -- -D warnings
say "licences (5 minutes the first time)"
scripts/licences.sh
say "all tests passed"
