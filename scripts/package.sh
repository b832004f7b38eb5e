#!/usr/bin/env bash
# Builds the one file that is Portolan: linked statically, so that it asks nothing of a machine but its kernel (and
# iptables). It runs where the C library is older than here, or is another one.
#
#   scripts/package.sh          target/package/portolan-VERSION-linux-ARCH.tar.gz, from the release profile
#   scripts/package.sh --dev    target/package/dev/portolan, from the profile that demo and tests use
set -euo pipefail
cd "$(dirname "$0")/.."
case ${1:-} in
    '') profile=release folder=release ;;
    --dev) profile=dev folder=debug ;;
    *) echo "package: unknown argument $1; there is --dev" >&2; exit 2 ;;
esac
out=target/package
mkdir -p "$out/dev"
# Only the last step differs from any other build: the libraries are shared with it.
cargo rustc --locked --profile "$profile" -p portolan --bin portolan -- -C target-feature=+crt-static -C strip=debuginfo
binary=target/$folder/portolan
if readelf -d "$binary" | grep -q NEEDED; then
    echo "package: $binary still needs shared libraries:" >&2
    readelf -d "$binary" | grep NEEDED >&2
    exit 1
fi
if [ "$profile" = dev ]; then
    cp "$binary" "$out/dev/portolan.new"
    mv "$out/dev/portolan.new" "$out/dev/portolan"
    exit 0
fi
name=portolan-$("$binary" --version | cut -d' ' -f2)-linux-$(uname -m)
rm -rf "${out:?}/$name"
mkdir -p "$out/$name"
cp "$binary" LICENSE NOTICE README.md CHANGELOG.md "$out/$name/"
tar -C "$out" --owner=0 --group=0 --sort=name -czf "$out/$name.tar.gz" "$name"
(cd "$out" && sha256sum "$name.tar.gz" | tee "$name.tar.gz.sha256")
