#!/usr/bin/env bash
# A clock that jumps by years while clients are connected, as on a machine that has none until its network is up: nothing
# asks for it, and all that is timed goes on as before.
source "$(dirname "$0")/../clients/common.sh"

need_package strace strace --version
need_package libfaketime dpkg --status libfaketime
need_whit

sources=$clients/../../src
! grep -rnE 'SystemTime|UNIX_EPOCH|CLOCK_REALTIME|gettimeofday' "$sources" || fail "the sources ask for the time of day"
ok "the sources do not ask for the time of day"

# Each look at the clock looks into this file. The first time is that of a machine without a clock.
times=$temp/times
echo "-30y" >"$times"
library=$(dpkg --listfiles libfaketime | grep '/libfaketime\.so\.1$')

# wrap NAME COMMAND...: a program that runs another by way of COMMAND.
wrap() {
    { echo '#!/bin/sh'; printf 'exec'; printf ' %q' "${@:2}"; echo ' "$@"'; } >"$temp/$1"
    chmod +x "$temp/$1"
}

wrap all_fake env "LD_PRELOAD=$library" "FAKETIME_TIMESTAMP_FILE=$times" FAKETIME_NO_CACHE=1
wrap fake "$temp/all_fake" env FAKETIME_DONT_FAKE_MONOTONIC=1
wrap control "$temp/all_fake" "$whit"
# -D: the one that is started is the server, and not strace.
wrap traced strace -D -f -qq -e trace=openat -o "$temp/trace" "$temp/fake" "$whit"

options=(--heartbeat 1s --ping-interval 2s --pong-timeout 1s --idle-timeout 12s)
# Its monotonic clock jumps, too: if that harms it, the clock that whit reads is the one that jumps.
whit=$temp/control
start_server "${options[@]}"
control=$address
whit=$temp/traced
start_server "${options[@]}"

# What the library itself looks up when it is loaded is no look at the clock by whit.
looks() { grep -cF "\"$times\"" "$temp/trace" || true; }
before=$(looks)
[ "$before" -gt 0 ] || fail "the server does not run with the clock that jumps"
PYTHONPATH="$clients/../hostile" timeout 120 python3 "$(dirname "$0")/clocks.py" "$address" "$control" "$times" "$temp/fake"
stop_server
after=$(looks)
[ "$after" = "$before" ] || fail "it asked for the time of day $((after - before)) times"
ok "it never asked for the time of day"
