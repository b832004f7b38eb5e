#!/usr/bin/env bash
# The long form of what `make test` does once: 10,000 random changes of Services with the proxy killed in between
# (10 minutes), a million lookups of cluster DNS under change and millions of hostile packets (5 minutes), then the walk, again and again, and the tests that kill things.
# A failure that shows itself once in many rounds is a bug. ROUNDS sets how many (default 20, about 20 minutes); CHANGES
# and SEED set how many changes and which (default 10,000 and the clock's), LOOKUPS and PACKETS those of DNS.
set -euo pipefail
cd "$(dirname "$0")/.."
rounds=${ROUNDS:-20}
cargo build --locked --workspace --all-targets
changes=${CHANGES:-10000} seed=${SEED:-$(date +%s)}
PORTOLAN_SOAK_CHANGES=$changes PORTOLAN_SOAK_SEED=$seed cargo test --locked -q --workspace --test soak > target/soak-changes.log 2>&1 || { cat target/soak-changes.log; echo "the kernel is not as the objects say; again by SEED=$seed"; exit 1; }
echo "$changes random changes of Services in each mode, seed $seed: the kernel followed (${SECONDS}s)"
lookups=${LOOKUPS:-1000000} packets=${PACKETS:-2000000}
PORTOLAN_DNS_LOOKUPS=$lookups PORTOLAN_DNS_SEED=$seed PORTOLAN_HOSTILE_PACKETS=$packets PORTOLAN_HOSTILE_SEED=$seed cargo test --locked -q --workspace --test soak_dns --test hostile > target/soak-dns.log 2>&1 || { cat target/soak-dns.log; echo "cluster DNS failed; again by SEED=$seed"; exit 1; }
echo "$lookups lookups under change, $packets hostile packets a test, seed $seed: all answered with what was true (${SECONDS}s)"
for round in $(seq "$rounds"); do
    target/debug/portolan walk > target/soak-walk.log || { cat target/soak-walk.log; echo "round $round of $rounds: the walk failed"; exit 1; }
    PORTOLAN_DEATH_ROUNDS=3 PORTOLAN_ROLLOUT_ROUNDS=3 cargo test --locked -q --workspace --test deaths --test outages --test traffic --test rollout > target/soak-deaths.log 2>&1 || { cat target/soak-deaths.log; echo "round $round of $rounds: a test failed"; exit 1; }
    cargo test --locked -q --workspace --test lab --test lan --test pods > target/soak-rooms.log 2>&1 || { cat target/soak-rooms.log; echo "round $round of $rounds: a test failed"; exit 1; }
    echo "round $round of $rounds: all held (${SECONDS}s)"
done
