#!/usr/bin/env bash
# How often whit wakes up in a minute: without clients, with 1,000 that are silent, and with heartbeats to few and to many.
# A server for each case, side by side, so that all of it takes one minute.
source "$(dirname "$0")/../clients/common.sh"

need_whit
# The client has the connections of all cases.
ulimit -n 8192 || fail "more open files are needed: see ulimit -n"

cases=()

# add NAME CLIENTS [OPTIONS]
add() {
    start_server --max-connections-per-ip off "${@:3}"
    cases+=("$1" "$2" "$address" "$server_pid")
}

# The same by a unix socket, as behind a proxy on the same machine.
add_unix() {
    start_server --listen "unix:$temp/$1.sock" "${@:3}"
    cases+=("$1" "$2" "unix:$temp/$1.sock" "$server_pid")
}

add nobody 0
add silent 1000 --heartbeat off --ping-interval off
add looked_at 1000 --heartbeat off --ping-interval off --idle-timeout 2m
add pinged 1000 --heartbeat off
add beating_to_few 10 --ping-interval off
add beating_to_many 1000 --ping-interval off
# What systemd does: it listens to what the server says of itself.
python3 -c 'import socket, sys
told = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
told.bind(sys.argv[1])
while True: told.recv(4096)' "$temp/systemd" &
server_pids+=("$!")
timeout 20 sh -c 'until [ -S "$0" ]; do sleep 0.05; done' "$temp/systemd" || fail "there is no one to tell"
NOTIFY_SOCKET=$temp/systemd add under_systemd 100 --heartbeat off --ping-interval off
add_unix silent_by_unix 1000 --heartbeat off --ping-interval off
add_unix beating_by_unix 1000 --ping-interval off
PYTHONPATH="$clients/../hostile" timeout 180 python3 "$(dirname "$0")/silence.py" "${cases[@]}"
