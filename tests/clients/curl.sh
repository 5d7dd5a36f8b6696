#!/usr/bin/env bash
# Asks whit with curl what it answers to plain and to wrong requests, and tries the command line's own manners.
. "$(dirname "$0")/common.sh"

need_package curl curl --version
need_whit

# answer STATUS PATH [CURL OPTIONS]: asks the server and fails unless it answers with this status.
# Leaves the head, without carriage returns, in $head and the body in $body.
answer() {
    local wanted=$1 path=$2 status
    shift 2
    head=$temp/head body=$temp/body
    : >"$body"
    status=$(curl --silent --show-error --noproxy '*' --max-time 10 --http1.1 --dump-header "$temp/raw" \
        --output "$body" --write-out '%{http_code}' "$@" "http://$address$path") || fail "curl $* $path: no answer"
    tr -d '\r' <"$temp/raw" >"$head"
    [ "$status" = "$wanted" ] || { cat "$head" "$body" >&2; fail "curl $* $path: $wanted was due, $status came"; }
}

has_header() {
    grep -qixE "$1" "$head" || { cat "$head" >&2; fail "there is no header $1"; }
}

says() {
    grep -qF -- "$1" "$body" || { cat "$body" >&2; fail "the answer does not say: $1"; }
}

upgrade=(-H 'Connection: Upgrade' -H 'Upgrade: websocket')
version=(-H 'Sec-WebSocket-Version: 13')
# The example of RFC 6455 1.3.
key=(-H 'Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==')
accept='Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo='
foreign=(-H 'Origin: http://foreign.example')

# handshake [CURL OPTIONS]: a right handshake; fails unless it gets 101 and the right accept key.
handshake() {
    # curl would go on to read for ever: it ends when the head is read and the next heartbeat finds no reader.
    curl --silent --noproxy '*' --max-time 10 --http1.1 --no-buffer --include \
        "${upgrade[@]}" "${version[@]}" "${key[@]}" "$@" "http://$address/ws" 2>/dev/null |
        sed '/^\r$/q' >"$temp/raw" || true
    head=$temp/head
    tr -d '\r' <"$temp/raw" >"$head"
    [[ $(head -n 1 "$head") == 'HTTP/1.1 101 '* ]] || { cat "$head" >&2; fail "curl $*: 101 was due"; }
    has_header "${accept//+/\\+}"
}

# hold: opens a connection that stays until drop is called, with a handshake that is complete when this returns.
hold() {
    local line
    exec {held}<>"/dev/tcp/${address%:*}/${address#*:}"
    printf '%s\r\n' 'GET /ws HTTP/1.1' "Host: $address" 'Connection: Upgrade' 'Upgrade: websocket' \
        'Sec-WebSocket-Version: 13' 'Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==' '' >&"$held"
    IFS= read -r -t 10 -u "$held" line || fail "a connection that was to be held got no answer"
    [[ $line == 'HTTP/1.1 101 '* ]] || fail "a connection that was to be held got $line"
}

drop() {
    exec {held}>&-
}

# What plain requests get.
start_server

answer 200 /
has_header 'Content-Type: text/html.*'
has_header 'Content-Security-Policy: .*'
has_header 'Content-Length: [1-9][0-9]*'
grep -qi '<!doctype html>' "$body" || fail "the page at / is no page"
grep -qF '"/ws"' "$body" || fail "the page at / does not know the path /ws"
[ "$(wc -c <"$body")" -ge 1000 ] || fail "the page at / is hardly one"
ok "/ is 200, a web page"

length=$(sed -nE 's/^content-length: //Ip' "$head")
# By hand: curl would not look for a body.
exec {raw}<>"/dev/tcp/${address%:*}/${address#*:}"
printf 'HEAD / HTTP/1.1\r\nHost: %s\r\n\r\n' "$address" >&"$raw"
timeout 10 cat <&"$raw" | tr -d '\r' >"$temp/head" || fail "HEAD / does not end"
exec {raw}>&-
head=$temp/head
[[ $(head -n 1 "$head") == 'HTTP/1.1 200 '* ]] || fail "HEAD / is not 200"
has_header "Content-Length: $length"
[ -z "$(sed '1,/^$/d' "$head")" ] || fail "HEAD / has a body"
ok "HEAD / is 200 with the length of the page and no body"

answer 404 /nothing
ok "/nothing is 404"

answer 426 /ws
has_header 'Sec-WebSocket-Version: 13'
has_header 'Upgrade: websocket'
says "ws://$address/ws"
ok "/ws without a handshake is 426 and tells to connect to ws://$address/ws"

answer 405 /ws -X POST -d x
has_header 'Allow: GET'
ok "POST /ws is 405 with Allow: GET"

answer 405 / -X DELETE
has_header 'Allow: GET, HEAD'
ok "DELETE / is 405 with Allow: GET, HEAD"

answer 431 / -H "X-Long: $(printf '%09000d' 0)"
ok "a header of 9000 bytes is 431"

# What handshakes get.
handshake
ok "a handshake is 101 with the accept key of RFC 6455"

handshake -H "Origin: http://$address"
ok "a handshake of a page of the same host is 101"

answer 426 /ws "${upgrade[@]}" "${key[@]}" -H 'Sec-WebSocket-Version: 8'
has_header 'Sec-WebSocket-Version: 13'
ok "a handshake of version 8 is 426 with Sec-WebSocket-Version: 13"

answer 400 /ws "${upgrade[@]}" "${version[@]}"
says Sec-WebSocket-Key
ok "a handshake without a key is 400 and tells so"

answer 400 /ws "${upgrade[@]}" "${version[@]}" -H 'Sec-WebSocket-Key: short'
says Sec-WebSocket-Key
ok "a handshake with a bad key is 400 and tells so"

answer 400 /ws -H 'Upgrade: websocket' "${version[@]}" "${key[@]}" -H 'Connection: keep-alive'
says Connection
ok "a handshake without Connection: Upgrade is 400 and tells so"

answer 403 /ws "${upgrade[@]}" "${version[@]}" "${key[@]}" "${foreign[@]}"
ok "a handshake of a foreign page is 403"

answer 404 /nothing "${upgrade[@]}" "${version[@]}" "${key[@]}"
ok "a handshake at /nothing is 404"

# A port in use; the server that uses it is still running.
status=0
timeout 10 "$whit" --listen "$address" >"$temp/out" 2>"$temp/err" || status=$?
[ "$status" = 1 ] || fail "a port in use: status 1 was due, $status came"
[ ! -s "$temp/out" ] && [ "$(wc -l <"$temp/err")" = 1 ] && grep -qF "$address" "$temp/err" ||
    { cat "$temp/out" "$temp/err" >&2; fail "a port in use: one line with $address was due"; }
ok "a port in use is status 1: $(cat "$temp/err")"

answer 200 /
kill -INT "$server_pid"
server_ends 10
ok "SIGINT ends it with status 0"

# What options change.
start_server --allow-origin any
handshake "${foreign[@]}"
ok "with --allow-origin any a handshake of a foreign page is 101"
stop_server

start_server --allow-origin http://foreign.example
handshake "${foreign[@]}"
answer 403 /ws "${upgrade[@]}" "${version[@]}" "${key[@]}" -H 'Origin: http://other.example'
ok "with --allow-origin http://foreign.example that one is 101 and another 403"
stop_server

start_server --path /a/b
answer 404 /ws
answer 426 /a/b
answer 200 /
grep -qF '"/a/b"' "$body" || fail "the page does not know the path /a/b"
ok "with --path /a/b that is the path, and the page knows it"
stop_server

start_server --max-connections 1
hold
answer 503 /
has_header 'Retry-After: [1-9][0-9]*'
ok "with --max-connections 1 a second client is 503 with Retry-After"
drop
# When a place is free again no client is told, so this asks for a while.
for ((tries = 0; ; tries++)); do
    status=$(curl --silent --noproxy '*' --max-time 10 --output "$temp/body" --write-out '%{http_code}' "http://$address/") || true
    [ "$status" = 200 ] && break
    [ "$tries" -lt 100 ] || fail "the place of a client that left is not free again"
    sleep 0.05
done
ok "the place is free again when the first has left"
stop_server

start_server --max-connections-per-ip 1
hold
answer 429 /
has_header 'Retry-After: [1-9][0-9]*'
ok "with --max-connections-per-ip 1 a second client of that address is 429 with Retry-After"
drop
stop_server

# The command line's own manners.
# prints OPTION PATTERN: status 0, the pattern on standard output, nothing on standard error.
prints() {
    timeout 10 "$whit" "$1" >"$temp/out" 2>"$temp/err" || fail "whit $1: status $?"
    grep -qE -- "$2" "$temp/out" || fail "whit $1 does not print $2"
    [ ! -s "$temp/err" ] || fail "whit $1 writes to standard error"
    ok "whit $1 prints to standard output, status 0"
}

# refuses FLAG VALUE [ARGUMENTS]: status 2, and one line on standard error that has both; VALUE is a pattern.
refuses() {
    local flag=$1 value=$2 status=0
    shift 2
    timeout 10 "$whit" --listen 127.0.0.1:0 "$@" >"$temp/out" 2>"$temp/err" || status=$?
    [ "$status" = 2 ] || { cat "$temp/err" >&2; fail "whit $*: status 2 was due, $status came"; }
    [ ! -s "$temp/out" ] && [ "$(wc -l <"$temp/err")" = 1 ] || { cat "$temp/out" "$temp/err" >&2; fail "whit $*: one line on standard error was due"; }
    grep -qF -- "$flag" "$temp/err" && grep -qwE -- "$value" "$temp/err" || { cat "$temp/err" >&2; fail "whit $*: the line does not name $flag and $value"; }
    ok "status 2: $(cat "$temp/err")"
}

prints --version '^whit [0-9]+\.[0-9]+\.[0-9]+'
prints --help '^ +--listen '
refuses --frobnicate --frobnicate --frobnicate
refuses --max-message 0 --max-message 0
refuses --max-message 64kb --max-message 64kb
refuses --heartbeat banana --heartbeat banana
refuses --heartbeat '0s' --heartbeat 0
refuses --max-connections 0 --max-connections 0
refuses --max-connections many --max-connections many
refuses --max-connections-per-ip 0 --max-connections-per-ip 0
refuses --allow-origin example.com --allow-origin example.com
refuses --path ws --path ws
refuses banana banana banana
refuses --heartbeat --heartbeat --heartbeat
