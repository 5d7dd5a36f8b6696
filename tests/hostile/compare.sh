#!/usr/bin/env bash
# The hostile mix of load.sh against whit and against a plain async-tungstenite echo server, side by side. It judges nothing.
# Usage: compare.sh [RUNS [SECONDS]]
source "$(dirname "$0")/../clients/common.sh"

runs=${1:-3}
seconds=${2:-8}
here=$(cd "$(dirname "$0")" && pwd)
root=$here/../..
need_whit
ours=$whit
(cd "$root" && cargo build --release --quiet --example plain-server)
theirs=${CARGO_TARGET_DIR:-$root/target}/release/examples/plain-server
ulimit -n 8192
# The plain server has no bound of its own: the machine shall not run out of memory.
ulimit -v $((6 * 1024 * 1024))

# row WORDS: a row of the table.
row() {
    printf '%-6s %12s %12s %12s %8s %8s %6s\n' "$@"
}

# attack NAME OPTIONS: the row of a fresh server.
attack() {
    local name=$1 figures status=0 sheds=-
    shift
    start_server "$@"
    figures=$(python3 "$here/load.py" --seconds "$seconds" --report "$address" "$server_pid" 2>"$temp/why") || figures=
    kill -TERM "$server_pid" 2>/dev/null || true
    wait "$server_pid" 2>/dev/null || status=$?
    wait "$logger_pid"
    [ "$name" = plain ] || sheds=$(grep -c "closed by this side, code 1013" "$server_log" || true)
    if [ -n "$figures" ]; then
        row "$name" $figures "$sheds"
    else
        echo "$name: ended with status $status; $(tail -n 1 "$temp/why"); $(head -n 1 "$server_log")"
    fi
}

row server "before, KiB" "most, KiB" "after, KiB" "p99, ms" "max, ms" sheds
for ((run = 0; run < runs; run++)); do
    whit=$ours
    attack whit --memory 8MiB --max-connections-per-ip off --heartbeat off
    whit=$theirs
    attack plain
done
