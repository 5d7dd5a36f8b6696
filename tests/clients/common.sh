# What the client tests share: find or build whit, start it on a free port, and end it whatever happens.
# Sourced by the scripts beside it.

set -euo pipefail

clients=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
cache=${XDG_CACHE_HOME:-$HOME/.cache}/whit-tests
temp=$(mktemp -d)
server_pids=()
servers_started=0
# Functions of a script's own, to be called at the end whatever happens.
at_end=()

end_everything() {
    local status=$?
    for pid in "${server_pids[@]}"; do
        kill -KILL "$pid" 2>/dev/null || true
        # Or the shell would report it as killed.
        wait "$pid" 2>/dev/null || true
    done
    for function in "${at_end[@]}"; do
        "$function" || true
    done
    # What a process that has only just been told to end still writes there would have the first one fail.
    rm -rf "$temp" 2>/dev/null || { sleep 1 && rm -rf "$temp"; } || true
    [ "$status" = 0 ] || echo "FAILED: ${0##*/}" >&2
}
trap end_everything EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

fail() {
    echo "fail: $*" >&2
    exit 1
}

ok() {
    echo "ok: $*"
}

# need_package PACKAGE CHECK...: installs the Debian package unless the check succeeds.
need_package() {
    local package=$1
    shift
    "$@" >/dev/null 2>&1 && return
    [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null || fail "the package $package is missing"
    echo "installing $package"
    mkdir -p "$cache"
    # Scripts run side by side, and apt-get fails where another one holds its locks.
    # shellcheck disable=SC2016
    DEBIAN_FRONTEND=noninteractive flock --close "$cache/apt-lock" sh -c '
        apt-get -o Acquire::Retries=3 update &&
            apt-get -o Acquire::Retries=3 -o DPkg::Lock::Timeout=120 install -y --no-install-recommends "$0"
    ' "$package" >"$temp/apt" 2>&1 || { tail -n 20 "$temp/apt" >&2; fail "$package cannot be installed"; }
    "$@" >/dev/null 2>&1 || fail "$package is installed but of no use: $* fails"
}

# need_python NAME VERSION: sets $python to one that has this package of PyPI.
need_python() {
    need_package python3-venv python3 -c 'import ensurepip, venv'
    local venv=$cache/python-$1-$2
    python=$venv/bin/python
    # Also fails for a half-made environment, and after an update of the system's Python.
    "$python" -c "import $1" 2>/dev/null && return
    mkdir -p "$cache"
    python3 -m venv --clear "$venv"
    "$python" -m pip install --quiet --disable-pip-version-check "$1==$2"
}

# need_node NAME VERSION: exports NODE_CLIENT, a folder whose node_modules has this package of npm.
need_node() {
    need_package nodejs node --version
    export NODE_CLIENT=$cache/node-$1-$2
    [ -e "$NODE_CLIENT/installed" ] && return
    need_package npm npm --version
    rm -rf "$NODE_CLIENT"
    mkdir -p "$NODE_CLIENT"
    npm install --prefix "$NODE_CLIENT" --no-audit --no-fund --loglevel=error "$1@$2" >"$temp/npm" 2>&1 ||
        { cat "$temp/npm" >&2; fail "$1 cannot be installed"; }
    touch "$NODE_CLIENT/installed"
}

# need_whit: sets $whit to the binary given by WHIT, or else to a fresh release build.
need_whit() {
    whit=${WHIT:-}
    if [ -z "$whit" ]; then
        local root=$clients/../..
        (cd "$root" && cargo build --release --quiet)
        whit=${CARGO_TARGET_DIR:-$root/target}/release/whit
    fi
    [ -x "$whit" ] || fail "there is no program at $whit"
}

# free_port: prints a port that is free, and that the system gives to nobody who asks for any: it stays free until it is used.
free_port() {
    python3 - <<'END'
import random, socket

with open("/proc/sys/net/ipv4/ip_local_port_range", encoding="ascii") as file:
    low, high = map(int, file.read().split())
ports = [port for port in range(10000, 65536) if not low <= port <= high] or range(low, high)
while True:
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", random.choice(ports)))
        except OSError:
            continue
        print(probe.getsockname()[1])
        break
END
}

# start_server [OPTIONS]: starts whit on a free port and waits until it listens.
# Sets server_pid, server_log, address (host:port) and url.
start_server() {
    local line pipe
    servers_started=$((servers_started + 1))
    server_log=$temp/server-$servers_started.log
    # There before anyone looks into it.
    : >"$server_log"
    pipe=$temp/stderr-$servers_started
    mkfifo "$pipe"
    "$whit" --listen 127.0.0.1:0 "$@" 2>"$pipe" &
    server_pid=$!
    server_pids+=("$server_pid")
    exec {stderr}<"$pipe"
    IFS= read -r -t 20 -u "$stderr" line || fail "whit $* says nothing: did it start?"
    [[ $line =~ ^listening\ on\ (ws://(127\.0\.0\.1:[0-9]+)/[^ ]*)$ ]] || fail "whit $* says: $line"
    url=${BASH_REMATCH[1]}
    address=${BASH_REMATCH[2]}
    # Read on, or a full pipe would stop the server.
    cat <&"$stderr" >"$server_log" &
    logger_pid=$!
    exec {stderr}<&-
}

# server_ends SECONDS: waits for the last started server to end by itself, within that time, with status 0.
# Its log is complete then.
server_ends() {
    local status=0
    timeout "$1" tail --pid="$server_pid" -s 0.05 -f /dev/null || fail "whit has not ended within $1 s"
    wait "$server_pid" || status=$?
    [ "$status" = 0 ] || { tail -n 5 "$server_log" >&2; fail "whit ended with status $status"; }
    unset "server_pids[-1]"
    wait "$logger_pid"
}

# stop_server: the last started server gets SIGTERM and must end well.
stop_server() {
    kill -TERM "$server_pid" || fail "whit has ended before it was told to"
    server_ends 15
}
