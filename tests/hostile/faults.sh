#!/usr/bin/env bash
# Faults of real sockets: descriptors run out, clients are killed or reset in mid-message, thousands come and go.
source "$(dirname "$0")/../clients/common.sh"

need_whit
ulimit -n 8192

mkdir "$temp/limited"
(
    temp=$temp/limited
    ulimit -Sn 64
    start_server --heartbeat off
    soft=$(awk '/^Max open files/ {print $4}' "/proc/$server_pid/limits")
    [ "$soft" = 1124 ] || fail "it needs 1024 files for its clients and 100 more, and lets itself open $soft"
    stop_server
    ! grep "ulimit" "$server_log" || fail "it warns without a reason"

    ulimit -Hn 64
    start_server --heartbeat off
    stop_server
    grep -q "it open 64 files, too few for 1024 connections: see ulimit -n" "$server_log" ||
        fail "it does not say that it may open too few files"
)
ok "it lets itself have as many descriptors as it needs, and says when it may not"

start_server --max-connections-per-ip off --heartbeat off
prlimit --pid "$server_pid" --nofile=40:40
python3 "$(dirname "$0")/faults.py" descriptors "$address" "$server_pid"
stop_server
# As the clients leave one after the other, what the first of them leave may run out once more.
said=$(grep -oE "cannot accept connections|accepting connections again" "$server_log" |
    uniq -c | awk '{ print $1, $2 }' | sort -u | xargs) || true
[ "$said" = "1 accepting 1 cannot" ] || fail "running out of descriptors is not logged once, and once when it is over: $said"
ok "it was logged once"

start_server --max-connections-per-ip off --heartbeat off --quiet
for fault in killed reset many; do
    python3 "$(dirname "$0")/faults.py" "$fault" "$address" "$server_pid"
done
stop_server
ok "the server ended with status 0 after SIGTERM"
