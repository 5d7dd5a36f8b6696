#!/usr/bin/env bash
# A hostile mix of a thousand connections against a budget of 8 MiB: the process stays within it, a client that behaves
# is served all the while, and the memory comes back.
source "$(dirname "$0")/../clients/common.sh"

need_whit
ulimit -n 8192

# attack SECONDS KIB: so many KiB need not come back.
attack() {
    start_server --memory 8MiB --max-connections-per-ip off --heartbeat off --quiet
    python3 "$(dirname "$0")/load.py" --seconds "$1" --left "$2" "$address" "$server_pid"
    stop_server
    ok "the server ended with status 0 after SIGTERM"
}

# What stays is glibc's cache of small pieces, of which it has one for each of the two threads.
attack 20 2048
# Without that cache there is next to nothing.
export GLIBC_TUNABLES=glibc.malloc.tcache_count=0
attack 8 512
