#!/usr/bin/env bash
# Clears what a crashed test or lab left. Everything of ours carries a prefix.
set -u
cd "$(dirname "$0")/.."
for name in $(ip netns list 2>/dev/null | awk '/^ptl-t-/ {print $1}'); do
    ip netns delete "$name" && echo "network namespace $name deleted"
done
[ -x target/debug/portolan ] && target/debug/portolan down --all
exit 0
