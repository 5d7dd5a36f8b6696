#!/usr/bin/env bash
# Holds 1,000 connections to one whit: are all served, with how many threads, in how much memory, and do they
# part in peace?
. "$(dirname "$0")/common.sh"

need_python websockets 17.4
need_whit
# For the server and for the client: a descriptor for each connection, and some.
ulimit -n 4096 || fail "more open files are needed: see ulimit -n"

start_server --max-connections-per-ip off
timeout 180 "$python" "$clients/many_client.py" "$url" "$server_pid"
server_ends 10
ok "the server ended with status 0"
