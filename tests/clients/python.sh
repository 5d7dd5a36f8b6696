#!/usr/bin/env bash
# Talks to whit with the Python package `websockets`: echo, ping, close codes, heartbeat, origins, 200 at once.
. "$(dirname "$0")/common.sh"

need_python websockets 17.4
need_whit

start_server --max-connections-per-ip 1000
timeout 120 "$python" "$clients/python_client.py" all "$url" "$server_pid"
server_ends 15
ok "the server ended with status 0 after SIGTERM"
grep -q 'peer.*4000.*grüße' "$server_log" || fail "the server's log does not tell the client's close code and reason"
ok "the server's log tells the close code and reason that the client gave"

start_server --allow-origin any
timeout 30 "$python" "$clients/python_client.py" any-origin "$url"
stop_server
