#!/usr/bin/env bash
# Licences and banned crates, by cargo-deny, which is built below target/tools and never installed.
set -euo pipefail
cd "$(dirname "$0")/.."
version=0.20.2
tool=target/tools/bin/cargo-deny
if ! "$tool" --version 2>/dev/null | grep -qF "$version"; then
    cargo install --locked --debug --root target/tools --target-dir target/tools/build --version "$version" cargo-deny
fi
# Those of other platforms too, which no build here has fetched.
cargo fetch --locked
"$tool" --locked --offline check licenses bans sources
