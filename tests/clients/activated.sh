#!/usr/bin/env bash
# Connects to sockets that systemd-socket-activate listens on, while no whit runs: the client is served by the one that its
# connection starts.
. "$(dirname "$0")/common.sh"
need_whit
need_package systemd systemd-socket-activate --version
need_python websockets 17.4

# activate: has systemd-socket-activate listen, without a whit.
activate() {
    systemd-socket-activate --listen "127.0.0.1:$port" --listen "$temp/whit.sock" "$whit" --heartbeat off 2>"$temp/log" &
    server_pid=$!
    server_pids+=("$server_pid")
    for _ in {1..200}; do
        [ -S "$temp/whit.sock" ] && return
        sleep 0.05
    done
    cat "$temp/log" >&2
    fail "systemd-socket-activate does not listen"
}

port=$(free_port)
for over in tcp unix; do
    activate
    [ "$(readlink "/proc/$server_pid/exe")" != "$(readlink -f "$whit")" ] || fail "it runs before anyone comes"
    timeout 30 "$python" - "$over" "$port" "$temp/whit.sock" <<'END'
import sys
from websockets.sync.client import connect, unix_connect

over, port, path = sys.argv[1:]
uri = f"ws://127.0.0.1:{port}/ws"
ways = {"tcp": lambda: connect(uri), "unix": lambda: unix_connect(path, uri)}
# The one that the first starts listens on the other socket as well.
for way in sorted(ways, key=lambda way: way != over):
    with ways[way]() as websocket:
        websocket.send("hello")
        assert websocket.recv(timeout=10) == "hello"
END
    [ "$(readlink "/proc/$server_pid/exe")" = "$(readlink -f "$whit")" ] || fail "something else has answered"
    kill -TERM "$server_pid"
    status=0
    wait "$server_pid" || status=$?
    [ "$status" = 0 ] || { cat "$temp/log" >&2; fail "whit ended with status $status"; }
    unset "server_pids[-1]"
    [ -S "$temp/whit.sock" ] || fail "it removed a socket that is systemd's"
    rm "$temp/whit.sock"
    ok "a first client by $over starts it, and is served by both sockets"
done
