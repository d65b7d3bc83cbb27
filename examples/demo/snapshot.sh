# The last act: a snapshot is taken, a file destroyed, and read back out of the mounted snapshot.

act_snapshot() {
    title "A snapshot of a tenant"
    run mcloud -h "$at" snapshot create shop
    local lost
    lost=$(cd "$shop" && find . -type f -size +20k | sort | sed -n 1p)
    cp -p "$shop/$lost" "$T/kept"

    title "A file is destroyed: ${lost#./}"
    rm "$shop/$lost"
    if [[ ! -r /dev/fuse ]]; then
        say "this machine has no FUSE: it comes back by a restore"
        mkdir "$T/back"
        run mcloud -h "$at" snapshot restore latest:shop "$T/back" --volume root --yes
        cp -p "$T/back/$lost" "$shop/$lost"
    else
        title "The snapshot as a folder, and the file read back out of it"
        mkdir "$T/then"
        run mcloud mount "latest:shop@$at" "$T/then"
        local from=$T/then
        [[ -e $from/$lost ]] || from=$T/then/root
        cp -p "$from/$lost" "$shop/$lost"
        say "${dim}\$ cp then/… back to where it was$off"
        run mcloud unmount "$T/then"
    fi
    cmp "$T/kept" "$shop/$lost" || fail "the file is another one"
    say "${green}cmp: it is what it was${off}"
}
