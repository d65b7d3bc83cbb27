# What every act is told with: titles, commands as they are shown and timed, and a judge.

if [[ -t 1 && -z ${NO_COLOR:-} ]]; then bold=$'\e[1m' dim=$'\e[2m' green=$'\e[32m' red=$'\e[31m' off=$'\e[0m'; else bold='' dim='' green='' red='' off=''; fi
title() { printf '\n%s%s%s\n' "$bold" "$*" "$off"; }
say() { printf '  %s\n' "$*"; }
fail() { printf '  %s%s%s\n' "$red" "$*" "$off"; exit 1; }


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
