# The third act, where the second one ran: the second tenant takes the first one's place while people look at its page.

# Somebody who looks at the page through the proxy until told to stop; each answer is a line.
looker() {
    local answer
    while [[ ! -e $T/enough ]]; do
        answer=$(curl -s --max-time 60 -H 'Host: demo.example.com' "http://$http/") || answer="no answer"
        echo "$answer" >>"$T/answers.$1"
    done
}

act_release() {
    # The second act says why it was left out.
    [[ " ${started[*]:-} " == *" $B "* ]] || return 0
    title "A release under load: the second one takes the first one's place"
    if ! command -v curl >/dev/null; then
        say "curl is not here, so nobody could look at the page: this act is left out"
        return
    fi
    run mcloud publish "$A" demo.example.com
    local before after answers lookers=() one
    before=$(curl -s -H 'Host: demo.example.com' "http://$http/views")
    rm -f "$T/enough" "$T"/answers.*
    for one in 1 2 3 4; do
        looker "$one" &
        lookers+=($!)
    done
    sleep 1
    run mcloud release "$A" "$B" demo.example.com
    sleep 1
    touch "$T/enough"
    wait "${lookers[@]}"
    cat "$T"/answers.* >"$T/answers"
    answers=$(grep -c ' views$' "$T/answers" || true)
    after=$(curl -s -H 'Host: demo.example.com' "http://$http/views")
    say "four people asked for the page all the while: $answers pages, $(grep -vc ' views$' "$T/answers" || true) errors"
    say "Redis had counted $before views before and has $after now, at another tenant: $((after - before)) more"
    ((after - before == answers)) || fail "a view was lost, or counted twice"
    ! grep -qv ' views$' "$T/answers" || fail "somebody was let down"
    say "and back, with what was counted since:"
    run mcloud rollback demo.example.com --data back
    run mcloud release --history
}
