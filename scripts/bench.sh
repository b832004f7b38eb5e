#!/usr/bin/env bash
# How long a lab takes for what a user waits for, the service proxy beside kube-proxy's layouts, and what a packet's story
# takes and costs: tables on standard output and in target/bench/lab.md, proxy.md and trace.md. docs/performance.md says what
# the rows mean. Of root's labs and namespaces; builds the release profile first. `scripts/bench.sh lab`, `proxy` or `trace`
# runs one of the three.
set -euo pipefail
cd "$(dirname "$0")/.."
export PORTOLAN_DEB_BIN=${PORTOLAN_DEB_BIN:-$PWD/target/deb/bin}
export PORTOLAN_IPTABLES_DIR=${PORTOLAN_IPTABLES_DIR:-$PORTOLAN_DEB_BIN}
export PORTOLAN_IMAGES=${PORTOLAN_IMAGES:-$PWD/target/images}
lacks() { printf 'bench: %s\n' "$*" >&2; exit 3; }

case "${1:-all}" in
    all) benches=(lab proxy trace) ;;
    lab | proxy | trace) benches=("$1") ;;
    *) printf 'bench: there is no bench %s: lab, proxy or trace, or none for all\n' "$1" >&2; exit 2 ;;
esac
[ "$(id -u)" = 0 ] || lacks "the figures are of labs of root: try sudo make bench"
for program in iptables nft conntrack; do
    [ -x "$PORTOLAN_DEB_BIN/$program" ] || lacks "$PORTOLAN_DEB_BIN/$program is not there: run scripts/fetch-debs.sh"
done

mkdir -p target/bench
for bench in "${benches[@]}"; do
    cargo bench --locked -p portolan --bench "$bench" | tee "target/bench/$bench.md.new"
    mv "target/bench/$bench.md.new" "target/bench/$bench.md"
    printf 'bench: the tables are in target/bench/%s.md\n' "$bench" >&2
done
