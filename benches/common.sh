# How the servers are built, started and measured. Sourced by run.sh and cost.sh.

set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
target=${CARGO_TARGET_DIR:-$here/target}
temp=$(mktemp -d)
server_pid=
# By server: what starts it.
declare -A commands
left_out=()

fail() {
    echo "fail: $*" >&2
    exit 1
}

end_server() {
    [ -n "$server_pid" ] || return 0
    kill -KILL "$server_pid" 2>/dev/null || true
    # Or the shell would report it as killed.
    wait "$server_pid" 2>/dev/null || true
    server_pid=
}
trap 'end_server; rm -rf "$temp"' EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

# quietly COMMAND...: shows what it says only where it fails.
quietly() {
    "$@" >"$temp/said" 2>&1 || { tail -n 20 "$temp/said" >&2; return 1; }
}

# need_package PACKAGE CHECK...: installs the Debian package unless the check succeeds.
need_package() {
    local package=$1
    shift
    "$@" >/dev/null 2>&1 && return
    [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null || { echo "the package $package is missing" >&2; return 1; }
    # The lock is that of the scripts in tests/, which may run beside.
    local cache=${XDG_CACHE_HOME:-$HOME/.cache}/whit-tests
    mkdir -p "$cache"
    # shellcheck disable=SC2016
    DEBIAN_FRONTEND=noninteractive quietly flock --close "$cache/apt-lock" sh -c '
        apt-get -o Acquire::Retries=3 update &&
            apt-get -o Acquire::Retries=3 -o DPkg::Lock::Timeout=120 install -y --no-install-recommends "$0"
    ' "$package" ||
        { echo "the package $package cannot be installed" >&2; return 1; }
}

# The limit, the load and the whit of this checkout.
build_limit() {
    quietly cargo build --release --locked --manifest-path "$here/Cargo.toml" --target-dir "$target" || fail "the benches cannot be built"
    load=$target/release/load
}

# build SERVER: prints the command that starts it, or fails with the reason in the last line of standard error.
build() {
    case $1 in
    limit) echo "$target/release/limit" ;;
    whit | whit-serve) build_whit "$1" "${WHIT_SOURCE:-}" ;;
    whit@* | whit-serve@*) build_whit "${1%%@*}" "${1#*@}" ;;
    tokio-tungstenite) build_tokio tokio-tungstenite ;;
    tokio-tungstenite-tuned) build_tokio tokio-tungstenite --tuned ;;
    fastwebsockets) build_tokio fastwebsockets ;;
    gorilla | original) build_go "$1" ;;
    ws) build_node ;;
    libwebsockets) build_libwebsockets ;;
    *) echo "there is no such server" >&2; return 1 ;;
    esac
}

# build_whit SERVER [SOURCE]: the echo server on the whit of a checkout, with the versions that its Cargo.lock has.
build_whit() {
    local source=$2 echo=$target/release/whit-echo crate
    if [ -n "$source" ]; then
        source=$(cd "$source" && pwd) || { echo "there is no checkout at $2" >&2; return 1; }
        crate=$target/checkouts/${source//\//-}
        mkdir -p "$crate"
        ln -sfn "$here/src" "$crate/src"
        sed "s|path = \"\.\.\"|path = \"$source\"|" "$here/Cargo.toml" >"$crate/Cargo.toml"
        cp "$source/Cargo.lock" "$crate/Cargo.lock"
        quietly cargo build --release --bin whit-echo --manifest-path "$crate/Cargo.toml" --target-dir "$crate/target" ||
            { echo "the whit at $source cannot be built" >&2; return 1; }
        echo=$crate/target/release/whit-echo
    fi
    [ "$1" = whit ] && echo "$echo" || echo "$echo --serve"
}

build_tokio() {
    quietly cargo build --release --locked --manifest-path "$here/peers/tokio/Cargo.toml" --target-dir "$target/tokio" &&
        echo "$target/tokio/release/$*"
}

# With Debian's Go and its packages, which need no module proxy.
build_go() {
    local packages=/usr/share/gocode
    need_package golang-go go version &&
        need_package golang-github-gorilla-websocket-dev test -d "$packages/src/github.com/gorilla/websocket" &&
        (cd "$here/peers/go/$1" && GO111MODULE=off GOPATH=$packages quietly go build -o "$target/$1") &&
        echo "$target/$1"
}

build_node() {
    need_package nodejs node --version && need_package npm npm --version && mkdir -p "$target/node" || return 1
    cp "$here"/peers/node/* "$target/node"
    (cd "$target/node" && quietly npm ci --no-audit --no-fund --loglevel=error) && echo "node $target/node/server.js"
}

build_libwebsockets() {
    need_package gcc gcc --version && need_package libwebsockets-dev test -e /usr/include/libwebsockets.h &&
        quietly gcc -O2 -Wall -Wextra -Werror "$here/peers/libwebsockets/server.c" -o "$target/libwebsockets" -lwebsockets &&
        echo "$target/libwebsockets"
}

# can SERVER CASE: whether a server has what a case is about.
can() {
    case $2:$1 in
    fan-out:limit | fan-out:whit* | fan-out:ws) ;;
    heartbeats:limit | heartbeats:whit* | heartbeats:original | heartbeats:ws) ;;
    fan-out:* | heartbeats:*) return 1 ;;
    esac
}

# server_url: waits until the server, whose words go to $temp/server, listens. Prints its address, or nothing if it never does.
server_url() {
    local tries url port
    for ((tries = 0; tries < 500; tries++)); do
        url=$(sed -n 's/^listening on //p' "$temp/server")
        if [[ $url =~ :([0-9]+)/ ]]; then
            # Some say so just before they do.
            printf -v port %04X "${BASH_REMATCH[1]}"
            ! grep -qsE "^ *[0-9]+: [0-9A-F]+:$port [0-9A-F]+:0000 0A" /proc/net/tcp /proc/net/tcp6 || { echo "$url"; return; }
        fi
        sleep 0.02
    done
}

# measure SERVER CASE: a line of JSON.
measure() {
    local url status=0 core=$server_core flags=() schedule=()
    case $2 in
    heartbeats) flags=(--heartbeat 1s) ;;
    # See "How it is measured" in README.md.
    handshakes) core=$load_core schedule=(chrt --batch 0) ;;
    esac
    : >"$temp/server"
    # Not quoted: a command and its arguments.
    taskset -c "$core" "${schedule[@]}" ${commands[$1]} "${flags[@]}" >>"$temp/server" 2>&1 &
    server_pid=$!
    url=$(server_url)
    if [ -n "$url" ]; then
        # So that it has started, whatever it does behind that line.
        sleep 0.1
        taskset -c "$load_core" "$load" "$2" --url "$url" --pid "$server_pid" --seconds "$seconds" \
            --tag server="$1" --tag round="$((round + 1))" || status=$?
    else
        echo "fail: $1 does not listen" >&2
        status=1
    fi
    [ "$status" = 0 ] || tail -n 5 "$temp/server" >&2
    end_server
    return "$status"
}
