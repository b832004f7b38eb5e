#!/usr/bin/env bash
# How long a lab takes for what a user waits for, the service proxy beside kube-proxy's layouts, what a packet's story takes
# and costs, and cluster DNS beside other servers: tables on standard output and in target/bench/lab.md, proxy.md, trace.md
# and dns.md. docs/performance.md says what the rows mean. Of root's labs and namespaces; builds the release profile first.
# `scripts/bench.sh lab`, `proxy`, `trace` or `dns` runs one of the four.
set -euo pipefail
cd "$(dirname "$0")/.."
export PORTOLAN_DEB_BIN=${PORTOLAN_DEB_BIN:-$PWD/target/deb/bin}
export PORTOLAN_IPTABLES_DIR=${PORTOLAN_IPTABLES_DIR:-$PORTOLAN_DEB_BIN}
export PORTOLAN_IMAGES=${PORTOLAN_IMAGES:-$PWD/target/images}
lacks() { printf 'bench: %s\n' "$*" >&2; exit 3; }

case "${1:-all}" in
    all) benches=(lab proxy trace dns) ;;
    lab | proxy | trace | dns) benches=("$1") ;;
    *) printf 'bench: there is no bench %s: lab, proxy, trace or dns, or none for all\n' "$1" >&2; exit 2 ;;
esac
[ "$(id -u)" = 0 ] || lacks "the figures are of labs of root: try sudo make bench"
for program in iptables nft conntrack nsd knotd unbound dnsmasq dnsperf; do
    [ -x "$PORTOLAN_DEB_BIN/$program" ] || lacks "$PORTOLAN_DEB_BIN/$program is not there: run scripts/fetch-debs.sh"
done

mkdir -p target/bench
for bench in "${benches[@]}"; do
    package=portolan
    if [ "$bench" = dns ]; then
        package=portolan-nameserver
        # What is measured is the program itself.
        cargo build --locked --release -p portolan --bin portolan
    fi
    cargo bench --locked -p "$package" --bench "$bench" | tee "target/bench/$bench.md.new"
    mv "target/bench/$bench.md.new" "target/bench/$bench.md"
    printf 'bench: the tables are in target/bench/%s.md\n' "$bench" >&2
done
