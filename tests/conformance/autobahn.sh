#!/usr/bin/env bash
# Runs Autobahn's cases for servers, without compression (groups 12 and 13), against an echo server on the library, and
# judges the report.
source "$(dirname "$0")/../clients/common.sh"

need_python kosoku 0.1.0
(cd "$(dirname "$0")/../.." && cargo build --release --quiet --example conformance-server)
server=${CARGO_TARGET_DIR:-$(dirname "$0")/../../target}/release/examples/conformance-server
# shellcheck disable=SC2016
exec {said}< <(exec sh -c 'echo $$ && exec "$0" 2>&1' "$server")
read -r -t 20 -u "$said" pid && server_pids+=("$pid")
read -r -t 20 -u "$said" _ _ address || fail "the server does not start"
"${python%/*}/kosoku" -p 2 -x '12.*' -x '13.*' -o "$temp/report" "$address" >"$temp/log" 2>&1 || tail -n 20 "$temp/log" >&2
[ -e "$temp/report/index.json" ] || fail "there is no report"
"$python" "$(dirname "$0")/judge.py" "$temp/report/index.json" "$(dirname "$0")/cases.txt"
