#!/usr/bin/env bash
# Clients whose link goes down without a word, and others that are only slow, each in a network namespace of its own.
source "$(dirname "$0")/../clients/common.sh"

[ "$(id -u)" = 0 ] || fail "only root can make network namespaces"
need_package iproute2 sh -c 'ip -V && tc -V && ss -V'
need_whit

net=whit-$$
namespaces=()

new_namespace() {
    ip netns add "$net-$1"
    namespaces+=("$net-$1")
    ip -n "$net-$1" link set lo up
}

# Whatever happened: also ends what still runs in them.
remove_namespaces() {
    local namespace
    for namespace in "${namespaces[@]}"; do
        ip netns pids "$namespace" | xargs --no-run-if-empty kill -KILL
        ip netns del "$namespace"
    done
}
at_end+=(remove_namespaces)

# plug_in NAME [RATE]: a client's namespace, with a cable to the server's switch that carries at most so much to it.
plug_in() {
    new_namespace "$1"
    ip -n "$net-server" link add "$1" type veth peer name cable netns "$net-$1"
    ip -n "$net-server" link set "$1" master switch up
    ip -n "$net-$1" address add "192.0.2.$((100 + ${#namespaces[@]}))/24" dev cable
    ip -n "$net-$1" link set cable up
    [ $# = 1 ] || tc -n "$net-server" qdisc add dev "$1" root tbf rate "$2" burst 16kb latency 400ms
}

# The server's own side is a switch, so that its link stays up when a client's goes down.
new_namespace server
ip -n "$net-server" link add switch type bridge
ip -n "$net-server" address add 192.0.2.1/24 dev switch
ip -n "$net-server" link set switch up
for name in idle halfway; do plug_in "$name"; done
for name in receiving jammed; do plug_in "$name" 1mbit; done
plug_in thin 1mbit
plug_in slow
# The program joins this one to the switch by itself: netem, which could delay and lose, is not in every kernel.
new_namespace lossy

printf '#!/bin/sh\nexec ip netns exec %q %q "$@"\n' "$net-server" "$(realpath "$whit")" >"$temp/whit"
chmod +x "$temp/whit"
whit=$temp/whit
start_server --listen 192.0.2.1:7777 --ping-interval 3s --pong-timeout 2s --heartbeat off --max-message 1MiB
python3 "$(dirname "$0")/dead_peers.py" "$net" "$address" "$server_pid" "$server_log"
stop_server
ok "the server ended with status 0 after SIGTERM"
