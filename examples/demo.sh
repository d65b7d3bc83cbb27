#!/usr/bin/env bash
# mcloud's main job on real input, told step by step and timed: `make demo`, or examples/demo.sh [PATH/TO/mcloud].
# Everything it makes lies in one folder of its own and is gone at the end; the daemon listens on free ports of loopback.
set -euo pipefail
cd "$(dirname "$0")/.."
MCLOUD=$(realpath "${1:-target/release/mcloud}")

if [[ -t 1 && -z ${NO_COLOR:-} ]]; then bold=$'\e[1m' dim=$'\e[2m' green=$'\e[32m' red=$'\e[31m' off=$'\e[0m'; else bold='' dim='' green='' red='' off=''; fi
title() { printf '\n%s%s%s\n' "$bold" "$*" "$off"; }
say() { printf '  %s\n' "$*"; }
fail() { printf '  %s%s%s\n' "$red" "$*" "$off"; exit 1; }

# ------------------------------------------------------------------ a folder of our own
room=/var/tmp
if [[ -d /dev/shm ]] && (( $(df --output=avail -k /dev/shm | tail -1) > 7000000 )); then room=/dev/shm; fi
T=$(mktemp -d "$room/mcloud-demo.XXXXXX")
daemon=
cleanup() {
    status=$?
    trap - EXIT INT TERM
    [[ -n $daemon ]] && kill "$daemon" 2>/dev/null && wait "$daemon" 2>/dev/null
    rm -rf "$T"
    exit "$status"
}
trap cleanup EXIT
trap 'exit 130' INT TERM
# What is shown is the way from another machine: a daemon here would read the folder itself.
export MCLOUD_WIRE=always
export MCLOUD_HOME=$T/host MCLOUD_CONFIG_DIR=$T/client MCLOUD_CACHE_DIR=$T/cache
unset MCLOUD_HOST MCLOUD_LOG

# Runs a command as it is shown, and says how long it took. Its output is kept in $T/out.
run() {
    local shown="$*" began=$EPOCHREALTIME
    printf '  %s$ %s%s\n' "$dim" "${shown//$T\//}" "$off"
    if ! "$MCLOUD" "${@:2}" >"$T/out" 2>"$T/err"; then
        cat "$T/out" "$T/err"
        fail "that should have worked"
    fi
    local ms=$(( (${EPOCHREALTIME/./} - ${began/./}) / 1000 ))
    sed "s|$T/||g; s/^/    /" "$T/out"
    printf '    %s%d.%02d s%s\n' "$green" $((ms / 1000)) $((ms % 1000 / 10)) "$off"
}

# No difference in anything: contents, names, owners, modes, times, links, xattrs, ACLs. rsync is the judge.
judge() {
    if command -v rsync >/dev/null; then
        # The judge must not stumble over what this kernel or this rsync cannot look at.
        local options=-aHn can found
        can=$(rsync --version)
        [[ $can == *" ACLs"* && $can != *"no ACLs"* ]] && options+=A
        [[ $can == *" xattrs"* && $can != *"no xattrs"* ]] && options+=X
        found=$(rsync "$options" --checksum --itemize-changes --delete "$1/" "$2/")
        [[ -z $found ]] || fail "rsync sees a difference: ${found:0:500}"
        say "${green}rsync $options --checksum --delete: no difference${off}"
    else
        diff -r --no-dereference "$1" "$2" >/dev/null || fail "diff sees a difference"
        say "${green}diff -r: no difference${off}"
    fi
}

# ------------------------------------------------------------------ real input
title "Input"
kernel() { # Debian's kernel source, kept for the next time
    local keep=target/bench-data deb
    mkdir -p "$keep"
    [[ -s $keep/linux-source.tar ]] && return
    command -v apt-get >/dev/null && command -v dpkg-deb >/dev/null && command -v xz >/dev/null || return 1
    deb=$(find "$keep" -name 'linux-source-*.deb' -print -quit)
    if [[ -z $deb ]]; then
        local name
        name=$(apt-cache search --names-only '^linux-source-[0-9.]+$' 2>/dev/null | awk 'NR == 1 { print $1 }')
        [[ -n $name ]] || return 1
        say "fetching $name (once)"
        (cd "$keep" && timeout 300 apt-get download -qq "$name" >/dev/null 2>&1) || return 1
        deb=$(find "$keep" -name 'linux-source-*.deb' -print -quit)
    fi
    mkdir "$T/deb"
    dpkg-deb -x "$deb" "$T/deb" && xz -dc "$T"/deb/usr/src/linux-source-*.tar.xz >"$keep/linux-source.tar.part" || return 1
    mv "$keep/linux-source.tar.part" "$keep/linux-source.tar"
    rm -rf "$T/deb"
}
mkdir "$T/app"
if kernel; then
    tar -C "$T/app" --strip-components=1 -xf target/bench-data/linux-source.tar
    what="the kernel's source tree"
else
    library=$(rustc --print sysroot 2>/dev/null || true)
    if [[ -n $library && -d $library/lib ]]; then cp -a "$library/." "$T/app/"; what="the Rust toolchain"
    else cp -a /usr/share/. "$T/app/"; what="/usr/share"; fi
fi
cat >"$T/app/mcloud.yml" <<'YML'
redis:
    image: redis
    data: [/data]
web:
    image: python:3.12
    volumes: {.: /usr/src/app}
    web: 5000
YML
say "$what: $(find "$T/app" -type f | wc -l) files, $(du -sm --apparent-size "$T/app" | cut -f1) MB, on $(stat -f -c %T "$T")"

# ------------------------------------------------------------------ a host
title "A daemon, on free ports, with a home of its own"
touch "$T/ready"
say "${dim}\$ mcloud server --home host --listen 127.0.0.1:0 …$off"
"$MCLOUD" server --listen 127.0.0.1:0 --http 127.0.0.1:0 --https 127.0.0.1:0 --admin 127.0.0.1:0 >"$T/ready" 2>"$T/log" &
daemon=$!
for _ in {1..200}; do
    grep -q '^ready ' "$T/ready" && break
    kill -0 "$daemon" 2>/dev/null || { cat "$T/log"; fail "the daemon did not start"; }
    sleep 0.05
done
at=$(sed -n 's/.*listen=\([^ ]*\).*/\1/p' "$T/ready")
say "  $(cat "$T/ready")"

title "Two tenants from one mcloud.yml"
run mcloud -h "$at" init shop "$T/app"
run mcloud -h "$at" init next "$T/app"
shop=$T/host/tenants/shop/root next=$T/host/tenants/next/root

title "The code to the first one, over QUIC, verified and durable"
run mcloud sync "$T/app" "shop@$at" --yes
judge "$T/app" "$shop"

title "Again: nothing changed, nothing is read"
run mcloud sync "$T/app" "shop@$at" --yes

title "A hundred files changed: just they are sent"
find "$T/app" -type f -size +1k -size -64k | sort | awk 'NR % 97 == 0 && n++ < 100' >"$T/changed"
while read -r file; do printf '\n/* changed */\n' >>"$file"; done <"$T/changed"
run mcloud sync "$T/app" "shop@$at" --yes

title "A big folder moved: no content is sent"
big=$(du -sk "$T"/app/*/ | awk '$1 > most { most = $1; name = substr($0, index($0, "\t") + 1) } END { print name }')
big=${big%/}
say "moving ${big#"$T"/} ($(du -sm --apparent-size "$big" | cut -f1) MB) to app/moved-here"
mv "$big" "$T/app/moved-here"
run mcloud sync "$T/app" "shop@$at" --yes
judge "$T/app" "$shop"

title "Live data of a service, to its own volume"
mkdir "$T/data"
head -c 64M /dev/urandom >"$T/data/appendonly.aof"
run mcloud sync "$T/data" "redis.shop@$at:/data" --yes
printf 'one more entry' | dd of="$T/data/appendonly.aof" conv=notrunc bs=1 seek=33000000 status=none
say "fourteen bytes rewritten in the middle of 64 MB:"
run mcloud sync "$T/data" "redis.shop@$at:/data" --yes

title "Everything from one tenant to the other: on one host nothing goes over the network"
run mcloud sync "shop@$at" "next@$at" --code --yes
judge "$shop" "$next"

title "What an empty source would destroy, a halt rule keeps"
mkdir "$T/empty"
say "${dim}\$ mcloud sync empty next@$at$off"
if "$MCLOUD" sync "$T/empty" "next@$at" >"$T/out" 2>&1 </dev/null; then fail "that should have been refused"; fi
sed "s|$T/||g; s/^/    /" "$T/out"

title "Done: the daemon stops, and all is cleaned up"
