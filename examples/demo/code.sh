# The first act: a whole source tree goes to a tenant, again, changed, moved; live data; one tenant to another.

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

input() {
    title "Input"
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
}

act_code() {
    input
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
}
