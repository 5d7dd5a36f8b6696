#!/usr/bin/env bash
# A hostile mix of a thousand connections against a budget of 8 MiB: the process stays within it, and a client that behaves
# is served all the while.
source "$(dirname "$0")/../clients/common.sh"

need_whit
ulimit -n 8192
start_server --memory 8MiB --max-connections-per-ip off --heartbeat off --quiet
python3 "$(dirname "$0")/load.py" "$address" "$server_pid"
stop_server
ok "the server ended with status 0 after SIGTERM"
