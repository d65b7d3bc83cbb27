#!/usr/bin/env bash
# mcloud's main job on real input, told step by step and timed: `make demo`, or examples/demo.sh [PATH/TO/mcloud].
# Everything it makes lies in one folder of its own and is gone at the end; the daemon listens on free ports of loopback.
# Each act is a function in a file of examples/demo/ and finds: the binary, $T (a folder), the daemon's addresses $at and $http.
set -euo pipefail
cd "$(dirname "$0")/.."
MCLOUD=$(realpath "${1:-target/release/mcloud}")
for file in examples/demo/*.sh; do
    . "$file"
done
acts=(act_code act_example act_release act_snapshot)

# ------------------------------------------------------------------ a folder of our own
room=/var/tmp
if [[ -d /dev/shm ]] && (( $(df --output=avail -k /dev/shm | tail -1) > 7000000 )); then room=/dev/shm; fi
T=$(mktemp -d "$room/mcloud-demo.XXXXXX")
daemon=
started=() # tenants with containers
cleanup() {
    status=$?
    trap - EXIT INT TERM
    # Containers outlive the daemon: those that the acts started go first.
    for tenant in "${started[@]}"; do
        "$MCLOUD" destroy "$tenant" >/dev/null 2>&1 || say "containers of $tenant are left: docker ps -a"
    done
    if mountpoint -q "$T/then"; then "$MCLOUD" unmount --force "$T/then"; fi
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
http=$(sed -n 's/.*http=\([^ ]*\).*/\1/p' "$T/ready")
say "  $(cat "$T/ready")"

for act in "${acts[@]}"; do
    "$act"
done

title "Done: the daemon stops, and all is cleaned up"
