#!/bin/bash
# Makes the image that the example runs in, where there is none: Debian's own packages, no registry.
#
#     examples/flask-redis/image.sh        needs root, debootstrap and Docker; says the image's name
set -euo pipefail

# Another content is another tag.
image=mcloud-example/flask-redis:1
packages=redis-server,python3-flask,python3-redis,gunicorn

exec 9>"${TMPDIR:-/tmp}/mcloud-example-image.lock"
flock 9
if docker image inspect "$image" >/dev/null 2>&1; then
    echo "$image"
    exit 0
fi

# Where this machine gets its own packages from.
read -r mirror suite < <(apt-get indextargets --format '$(REPO_URI) $(CODENAME) $(COMPONENT) $(ORIGIN)' 'Created-By: Packages' |
    awk '$3 == "main" && $4 == "Debian" && $2 !~ /-/ { print $1, $2; exit }') || true
if [ -z "${suite:-}" ]; then
    echo "no Debian mirror among this machine's apt sources" >&2
    exit 1
fi

# On a disk: a file system in memory may forbid devices.
work=$(mktemp -d -p /var/tmp mcloud-example.XXXXXX)
trap 'rm -rf "$work"' EXIT
debootstrap --variant=minbase --include="$packages" "$suite" "$work/root" "$mirror" >"$work/log" 2>&1 || {
    tail -20 "$work/log" >&2
    exit 1
}
rm -rf "$work"/root/var/cache/apt/archives/*.deb "$work"/root/var/lib/apt/lists/* "$work"/root/usr/share/{doc,man,locale}/*
tar -C "$work/root" --exclude=./dev --exclude=./proc --exclude=./sys -c . |
    docker import --change 'ENV PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin' --change 'CMD ["/bin/sh"]' - "$image" >/dev/null
echo "$image"
