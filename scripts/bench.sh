#!/usr/bin/env bash
# How long a lab takes for what a user waits for: tables on standard output and in target/bench/lab.md.
# docs/performance.md says what the rows mean. Of root's labs; builds the release profile first.
set -euo pipefail
cd "$(dirname "$0")/.."
export PORTOLAN_DEB_BIN=${PORTOLAN_DEB_BIN:-$PWD/target/deb/bin}
export PORTOLAN_IPTABLES_DIR=${PORTOLAN_IPTABLES_DIR:-$PORTOLAN_DEB_BIN}
export PORTOLAN_IMAGES=${PORTOLAN_IMAGES:-$PWD/target/images}
lacks() { printf 'bench: %s\n' "$*" >&2; exit 3; }

[ "$(id -u)" = 0 ] || lacks "the figures are of labs of root: try sudo make bench"
[ -x "$PORTOLAN_DEB_BIN/iptables" ] || lacks "$PORTOLAN_DEB_BIN/iptables is not there: run scripts/fetch-debs.sh"

mkdir -p target/bench
cargo bench --locked -p portolan --bench lab | tee target/bench/lab.md.new
mv target/bench/lab.md.new target/bench/lab.md
printf 'bench: the tables are in target/bench/lab.md\n' >&2
