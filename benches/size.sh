#!/usr/bin/env bash
# What other servers take of a disk, and of memory while nobody is connected, beside whit: the least of each that echoes, built for
# release and stripped. What cannot be built is left out. It checks nothing.
source "$(dirname "$0")/common.sh"

# memory COMMAND...: the median of nine of what is resident of it, in bytes, half a second after it listens.
memory() {
    : >"$temp/memory"
    for _ in {1..9}; do
        : >"$temp/server"
        "$@" >>"$temp/server" 2>&1 &
        server_pid=$!
        [ -n "$(server_url)" ] || { tail -n 5 "$temp/server" >&2; fail "$1 does not listen"; }
        # Whatever it does behind that line.
        sleep 0.5
        awk '/^VmRSS/ { print $2 * 1024 }' "/proc/$server_pid/status" >>"$temp/memory"
        end_server
    done
    sort -n "$temp/memory" | sed -n 5p
}

# libraries PROGRAM: what it is linked with beside the C library, which every program here has, and what comes with that.
libraries() {
    ldd "$1" | awk '$3 ~ /^\// { print $3 }' | grep -vE '/lib(c|dl|gcc_s|m|pthread)\.so' || true
}

# row NAME COMMAND...
row() {
    local name=$1 program=$temp/stripped bytes=0 names= library
    shift
    strip -o "$program" "$1"
    for library in $(libraries "$1"); do
        bytes=$((bytes + $(stat --dereference --format %s "$library")))
        names+=" ${library##*/}"
    done
    printf '| %s | %d | %s | %d |\n' "$name" "$(stat --format %s "$program")" "${names:+$bytes (${names# })}" "$(memory "$@")"
}

need_package binutils strip --version
quietly cargo build --release --locked --manifest-path "$here/../Cargo.toml" --target-dir "$target/command" || fail "whit cannot be built"
echo "| | program, bytes | its own libraries | memory, bytes |"
echo "|---|---|---|---|"
row whit "$target/command/release/whit" --listen 127.0.0.1:0
for server in fastwebsockets tokio-tungstenite gorilla libwebsockets; do
    if command=$(build "$server" 2>"$temp/reason"); then
        # Not quoted: a command and its arguments.
        row "$server" $command
    else
        echo "left out: $server: $(tail -n 1 "$temp/reason")" >&2
    fi
done
