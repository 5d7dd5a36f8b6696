#!/usr/bin/env bash
# Talks to whit with the npm package `ws`: echo, ping, close codes, heartbeat.
. "$(dirname "$0")/common.sh"

need_node ws 8.18.3
need_whit

start_server
timeout 60 node "$clients/node_client.mjs" "$url" "$server_pid"
server_ends 15
ok "the server ended with status 0 after SIGTERM"
