# The second act, where Docker is: the example runs, counts its views, and its live count goes to a second tenant.

A=demoA_flask-redis B=demoB_flask-redis example=examples/flask-redis

# The page of a tenant's web service.
page() {
    local ip
    ip=$(docker inspect --format '{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}' "web.$1")
    exec 3<>"/dev/tcp/$ip/5000"
    printf 'GET / HTTP/1.0\r\n\r\n' >&3
    tail -n 1 <&3
    exec 3<&-
}

look() {
    say "${dim}the page of $1 says:$off $(page "$1")"
}

act_example() {
    title "The example: Flask counts its views in Redis"
    if ! docker version >/dev/null 2>&1; then
        say "Docker does not answer here, so nothing can run: this act is left out (\`make docker\` starts it where it may)"
        return
    fi
    if ! docker image inspect mcloud-example/flask-redis:1 >/dev/null 2>&1; then
        say "its image is made from Debian's own packages (once, about a minute)"
    fi
    if ! "$example/image.sh" >"$T/out" 2>&1; then
        sed 's/^/    /' "$T/out" | tail -5
        say "the example's image cannot be made here: this act is left out"
        return
    fi
    run mcloud init "$A" "$example/mcloud.yml"
    run mcloud sync "$example" "$A@$at" --yes
    started+=("$A")
    run mcloud start "$A"
    look "$A"
    look "$A"
    look "$A"

    title "A second one, with the live count of the first"
    run mcloud init "$B" "$example/mcloud.yml"
    run mcloud sync "$example" "$B@$at" --yes
    started+=("$B")
    run mcloud start "$B"
    look "$B"
    run mcloud sync "$A@$at" "$B@$at" --yes
    say "Redis of the second one was stopped for that and started after:"
    look "$B"
    run mcloud status "$B"
}
