#!/usr/bin/env bash
# The whole life of whit, as strace sees it: it changes no file, and writes to nothing but sockets, its own bell and standard
# error.
source "$(dirname "$0")/../clients/common.sh"

need_package strace strace --version
need_package curl curl --version
need_whit
export PYTHONPATH=$clients/../hostile

program=$whit
whit=$temp/traced
# -D: the one that is started is the server, and not strace. -y: a descriptor is shown with what it is.
printf '#!/bin/sh\nexec strace -D -f -y -e trace=%%file,%%desc,%%network -o %q %q "$@"\n' "$temp/trace" "$program" >"$whit"
chmod +x "$whit"

page() { curl --silent --show-error --fail --noproxy '*' --max-time 10 --output "$temp/page" "$1"; }

# within SECONDS COMMAND...: waits until it succeeds.
within() { timeout "$1" sh -c 'until "$@" >/dev/null 2>&1; do sleep 0.05; done' sh "${@:2}"; }

printf -- '--memory 8MiB\n--heartbeat 100ms\n--ping-interval 1500ms\n--pong-timeout 1500ms\n' >"$temp/flags"
start_server --verbose --config "$temp/flags"
page "http://$address/"
! page "http://$address/none" 2>/dev/null || fail "there is a page at /none"
timeout 60 python3 "$(dirname "$0")/disk.py" live "$address"
kill -HUP "$server_pid"
within 20 grep -x reloaded "$server_log" || fail "it was not reloaded"
stop_server
# strace ends after it.
within 20 grep -F '+++ exited with 0 +++' "$temp/trace" || fail "the trace has no end"
python3 "$(dirname "$0")/disk.py" judge "$temp/trace"
