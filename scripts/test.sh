#!/usr/bin/env bash
# Every test, quick ones first. Ends at the first area that fails.
set -euo pipefail
cd "$(dirname "$0")/.."

say() { printf '\n== %s (%ss)\n' "$1" "$SECONDS"; }
tested() { cargo test --locked "$@"; }

say "house rules"
cargo build --locked --workspace --all-targets
tested -p portolan --test tidy

say "lints"
cargo clippy --locked --workspace --all-targets -- -D warnings

say "pure rooms"
tested -p portolan-model -p portolan-ingest -p portolan-dataplane -p portolan-dns -p portolan-bgp -p portolan-cni -p portolan-kinds

say "rooms that act, in namespaces of their own"
tested -p portolan-kernel -p portolan-store -p portolan-apiserver -p portolan-controllers -p portolan-pods -p portolan-agent

say "the lab and the command line"
tested -p portolan-lab
tested -p portolan

say "licences"
scripts/licences.sh

say "all tests passed"
