#!/usr/bin/env bash
# Measures what the command, and the least that a server on the library is, have in bytes, on each processor that is promised, and
# what the command takes in memory while nobody is connected. Fails where that is more than tests/size/bounds.txt allows.
#
#     tests/size.sh            on this machine
#     tests/size.sh --cross    on aarch64 and armv7
#     tests/size.sh --armv6    the static file for the first Pi and the Pi Zero
. "$(dirname "$0")/toolchain.sh"
cd "$repository"

need_python websockets 17.4
over=()

# measured WHAT BYTES: prints it, beside its bound.
measured() {
    local bound
    bound=$(awk -v what="$1" -F ': *' '$1 == what { print $2 }' tests/size/bounds.txt)
    [ -n "$bound" ] || fail "tests/size/bounds.txt has no bound for $1"
    printf '%-32s %9d bytes, at most %9d\n' "$1" "$2" "$bound"
    [ "$2" -le "$bound" ] || over+=("$1")
}

bytes() { stat --format %s "$1"; }

# A package of its own: its profiles are what a user has.
minimal=(--manifest-path tests/size/Cargo.toml --locked --quiet)
# A standard library of which only what is needed is left, as only a nightly compiler would build it: one word, for all of them.
smallest=(--profile smallest -Zbuild-std=std,panic_abort -Zbuild-std-features=panic_immediate_abort)

# smallest TARGET: measures the command and a minimal server in the smallest profile, of which the latter is at $program then.
smallest() {
    need_target "$1"
    alone add_to_rust "$(dpkg --print-architecture)" rust-web-src
    RUSTC_BOOTSTRAP=1 cross_cargo "$1" build --locked --quiet "${smallest[@]}"
    measured "smallest command $1" "$(bytes "$cross/$triple/smallest/whit")"
    MINIMAL_ADDR=$addr RUSTC_BOOTSTRAP=1 cross_cargo "$1" build "${minimal[@]}" "${smallest[@]}"
    program=$cross/$triple/smallest/minimal
    measured "smallest minimal $1" "$(bytes "$program")"
}

# Where minimal servers listen, which is a part of them.
port=$(free_port)
addr=127.0.0.1:$port

# echoes COMMAND...: whether the minimal server that this runs is one.
echoes() {
    local pid
    "$@" &
    pid=$!
    server_pids+=("$pid")
    timeout 30 "$python" - "$port" "$pid" <<'END' || fail "$* does not echo"
import os, socket, sys, time
from websockets.sync.client import connect

port, pid = map(int, sys.argv[1:])
while socket.socket().connect_ex(("127.0.0.1", port)):
    os.kill(pid, 0)
    time.sleep(0.01)
with connect(f"ws://127.0.0.1:{port}/ws") as websocket:
    websocket.send("hello")
    assert websocket.recv(timeout=10) == "hello"
END
    # The next one listens there, too.
    kill -KILL "$pid"
    wait "$pid" 2>/dev/null || true
}

on_this_machine() {
    local features target=${CARGO_TARGET_DIR:-$repository/target} program
    program=$target/release/minimal
    need_whit
    measured "command x86_64" "$(bytes "$whit")"
    for features in '' signals systemd testing; do
        MINIMAL_ADDR=$addr cargo build "${minimal[@]}" --target-dir "$target" --release --features "$features"
        measured "minimal x86_64${features:+ $features}" "$(bytes "$program")"
        [ -n "$features" ] || echoes "$program"
    done
    smallest x86_64
    echoes "$program"

    # The median of nine: where the system happens to place files decides how much of them is there, too.
    for _ in {1..9}; do
        start_server
        # Whoever answers has begun to wait for what comes.
        no_proxy='*' "$python" -c 'import sys, urllib.request; urllib.request.urlopen(sys.argv[1]).read()' "http://$address/"
        awk '/^VmRSS/ { print $2 * 1024 }' "/proc/$server_pid/status" >>"$temp/resident"
        stop_server
    done
    measured "memory x86_64" "$(sort -n "$temp/resident" | sed -n 5p)"
}

# on TARGET: the same on the processor of a Pi.
on() {
    need_target "$1"
    cross_cargo "$1" build --release --locked --quiet
    measured "command $1" "$(bytes "$cross/$triple/release/whit")"
    MINIMAL_ADDR=$addr cross_cargo "$1" build "${minimal[@]}" --release
    measured "minimal $1" "$(bytes "$cross/$triple/release/minimal")"
    smallest "$1"
    echoes $runner "$program"
}

case ${1-} in
    '') on_this_machine ;;
    --cross)
        on aarch64
        on armv7
        ;;
    --armv6) on armv6 ;;
    *) fail "it is $0 [--cross | --armv6]" ;;
esac
[ ${#over[@]} = 0 ] || fail "too large: $(printf '%s; ' "${over[@]}")"
ok "all are as small as they should be"
