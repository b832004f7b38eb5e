#!/bin/sh
# Fetches the programs that the demo and the tests drive (iptables, nginx, curl,
# drill, conntrack, ip, bird, ...) into target/deb, and installs nothing.
#
#   target/deb/apt    an apt state folder of our own: the machine's is not touched
#   target/deb/root   what `dpkg -x` laid out
#   target/deb/trixie, target/deb/bullseye   kubectl of a newer Debian; an older Debian to run in
#   target/deb/bin    one wrapper per program; put it in front of PATH
#
# Works as an ordinary user, with the machine's own apt sources and proxies.
# Quick when there is nothing to do. Exit code 3: the machine lacks something.
set -eu

here=$(CDPATH= cd -- "$(dirname -- "$0")/.." && pwd)
dest=${PORTOLAN_DEB_DIR:-$here/target/deb}
apt=$dest/apt
root=$dest/root
bin=$dest/bin
layout=9 # raise it when the wrappers or the layout change

packages="iptables nftables nginx busybox-static curl ldnsutils conntrack iproute2 bird2 docker-registry uidmap debian-archive-keyring bind9-dnsutils knot-dnsutils dnsperf unbound knot nsd dnsmasq-base frr gobgpd containernetworking-plugins containerd runc"

# This Debian's kubectl is of 2020: its exec knows no WebSocket. The next Debian's runs here as it is.
newer=trixie
newer_packages="kubectl"

# The machine that a copied binary must run on: an older Debian, whole, as a root folder of its own.
older=bullseye
older_packages="libc6 iptables nginx-light busybox-static curl"

# The C library and its closest kin are the machine's: mixing two of them breaks programs.
not_unpacked="libc6 libc-bin libgcc-s1 libcrypt1 gcc-[0-9]*-base"

say() { printf 'fetch-debs: %s\n' "$*" >&2; }
lacks() { say "$*"; exit 3; }

# own_apt FOLDER ARGUMENTS…: apt with state, cache and package status of our own; the empty status makes
# every dependency count as missing, so that the closure is complete.
own_apt() {
    own=$1
    shift
    apt-get -qq -c "$own/apt.conf" \
        -o Dir::State="$own/state" -o Dir::State::lists="$own/state/lists" \
        -o Dir::State::status="$own/status" -o Dir::State::extended_states="$own/state/extended_states" \
        -o Dir::Cache="$own/cache" -o Dir::Cache::archives="$own/cache/archives" \
        -o Dir::Log="$own/log" -o Debug::NoLocking=1 -o APT::Sandbox::User=root \
        -o APT::Install-Recommends=0 -o APT::Get::List-Cleanup=1 \
        -o Acquire::Languages=none -o Acquire::Retries=3 "$@"
}

is_unpacked() {
    for pattern in $not_unpacked; do
        # shellcheck disable=SC2254 # the pattern is meant to be one
        case $1 in $pattern) return 1 ;; esac
    done
}

# An apt folder; with a suite, one that sees that suite of Debian only.
prepare() {
    mkdir -p "$1/state/lists/partial" "$1/cache/archives/partial" "$1/log"
    : >"$1/status"
    # The machine's hooks are about the machine's cache (some images empty it): not ours to run.
    cat >"$1/apt.conf" <<'END'
#clear APT::Update::Pre-Invoke;
#clear APT::Update::Post-Invoke;
#clear APT::Update::Post-Invoke-Success;
#clear DPkg::Pre-Invoke;
#clear DPkg::Post-Invoke;
END
    [ $# -gt 1 ] || return 0
    keyring=$root/usr/share/keyrings/debian-archive-$2-automatic.gpg
    [ -e "$keyring" ] || lacks "the package debian-archive-keyring has no key of $2; is this machine's Debian up to date?"
    site=$(mirror)
    printf 'deb [signed-by=%s] %s %s main\n' "$keyring" "$site" "$2" >"$1/sources.list"
    printf 'Dir::Etc::sourcelist "%s";\nDir::Etc::sourceparts "/dev/null";\n' "$1/sources.list" >>"$1/apt.conf"
}

# Where this machine gets Debian from, as the lists read a moment ago say.
mirror() {
    site=$(own_apt "$apt" indextargets --format '$(ORIGIN) $(LABEL) $(SITE)' 'Created-By: Packages' 2>/dev/null |
        sed -n 's/^Debian Debian //p' | head -n 1)
    [ -n "$site" ] || lacks "apt on this machine knows no source of Debian's packages; $newer and $older come from there"
    printf '%s\n' "$site"
}

# download FOLDER PACKAGES…: them and all they need.
download() {
    from=$1
    shift
    own_apt "$from" update || lacks "apt-get update failed; check the machine's apt sources and its way to them"
    say "downloading: $*"
    own_apt "$from" install -y --download-only "$@" ||
        lacks "apt-get could not download the packages; the sources must offer: $*"
}

# Another Debian's: the suites beside the machine's own.
fetch_others() {
    prepare "$apt-$newer" "$newer"
    own_apt "$apt-$newer" update || lacks "apt-get update failed for Debian $newer"
    say "downloading from $newer: $newer_packages"
    rm -f "$apt-$newer"/*.deb
    # shellcheck disable=SC2086 # a list of words
    (cd "$apt-$newer" && own_apt "$apt-$newer" download $newer_packages) ||
        lacks "Debian $newer must offer: $newer_packages"
    rm -rf "$dest/$newer"
    for deb in "$apt-$newer"/*.deb; do dpkg -x "$deb" "$dest/$newer"; done

    prepare "$apt-$older" "$older"
    # shellcheck disable=SC2086
    download "$apt-$older" $older_packages
    rm -rf "$dest/$older"
    for deb in "$apt-$older"/cache/archives/*.deb; do dpkg -x "$deb" "$dest/$older"; done
    finish_older "$dest/$older"
}

# What an installation does beside unpacking, as far as it is needed: the choice of iptables, a shell, mount points.
finish_older() {
    for family in iptables ip6tables; do
        for tail in '' -save -restore; do ln -s xtables-nft-multi "$1/usr/sbin/$family$tail"; done
    done
    for applet in sh umount; do ln -s busybox "$1/bin/$applet"; done
    for dir in proc sys dev run tmp root before usr/local/bin; do mkdir -p "$1/$dir"; done
}

unpack() {
    rm -rf "$root.new"
    mkdir -p "$root.new"
    for deb in "$apt"/cache/archives/*.deb; do
        name=$(basename "$deb")
        if is_unpacked "${name%%_*}"; then
            dpkg -x "$deb" "$root.new"
        fi
    done
    rm -rf "$root"
    mv "$root.new" "$root"
}

# wrap NAME PROGRAM [FIRST-ARGUMENT]: a script that runs PROGRAM with our libraries.
wrap() {
    [ -e "$root$2" ] || lacks "$2 is not in the packages fetched; remove $dest and try again"
    cat >"$bin.new/$1" <<END
#!/bin/sh
export LD_LIBRARY_PATH="$libraries" XTABLES_LIBDIR="$root/usr/lib/$triplet/xtables"
exec "$root$2"${3:+ $3} "\$@"
END
    chmod 755 "$bin.new/$1"
}

write_wrappers() {
    triplet=$(basename "$(dirname "$(find "$root/usr/lib" -maxdepth 2 -type d -name xtables | head -n 1)")")
    libraries=$root/usr/lib/$triplet:$root/lib/$triplet
    rm -rf "$bin.new"
    mkdir -p "$bin.new"
    for family in iptables ip6tables; do
        for tail in '' -save -restore; do
            wrap "$family$tail" /usr/sbin/xtables-nft-multi "$family$tail"
            wrap "$family-nft$tail" /usr/sbin/xtables-nft-multi "$family$tail"
            wrap "$family-legacy$tail" /usr/sbin/xtables-legacy-multi "$family$tail"
        done
    done
    wrap nginx /usr/sbin/nginx
    wrap nft /usr/sbin/nft
    wrap busybox /bin/busybox
    wrap curl /usr/bin/curl
    wrap drill /usr/bin/drill
    wrap conntrack /usr/sbin/conntrack
    wrap ip /bin/ip
    wrap ss /bin/ss
    wrap bird /usr/sbin/bird
    wrap birdc /usr/sbin/birdc
    wrap docker-registry /usr/bin/docker-registry
    wrap dig /usr/bin/dig
    wrap kdig /usr/bin/kdig
    wrap dnsperf /usr/bin/dnsperf
    wrap unbound /usr/sbin/unbound
    wrap knotd /usr/sbin/knotd
    wrap nsd /usr/sbin/nsd
    wrap dnsmasq /usr/sbin/dnsmasq
    wrap bridge /sbin/bridge
    wrap tc /sbin/tc
    for daemon in zebra bgpd bfdd; do
        wrap "$daemon" "/usr/lib/frr/$daemon"
    done
    wrap vtysh /usr/bin/vtysh
    wrap gobgpd /usr/bin/gobgpd
    wrap gobgp /usr/bin/gobgp
    wrap containerd /usr/bin/containerd
    wrap containerd-shim-runc-v2 /usr/bin/containerd-shim-runc-v2
    wrap ctr /usr/bin/ctr
    wrap runc /usr/sbin/runc
    printf '#!/bin/sh\nexec "%s" "$@"\n' "$dest/$newer/usr/bin/kubectl" >"$bin.new/kubectl"
    chmod 755 "$bin.new/kubectl"
    rm -rf "$bin"
    mv "$bin.new" "$bin"
}

for tool in apt-get dpkg; do
    command -v "$tool" >/dev/null 2>&1 || lacks "$tool is missing: this needs Debian or one of its kin"
done
stamp="layout $layout; $dest; $(dpkg --print-architecture); $packages; $newer $newer_packages; $older $older_packages"
if [ -f "$dest/stamp" ] && [ "$(cat "$dest/stamp")" = "$stamp" ]; then
    exit 0
fi
rm -f "$dest/stamp"
prepare "$apt"
# shellcheck disable=SC2086 # a list of words
download "$apt" $packages
unpack
fetch_others
write_wrappers
printf '%s\n' "$stamp" >"$dest/stamp"
say "ready: $bin"
