#!/usr/bin/env bash
# Counts what a message of 128 bytes costs whit, echoed or published to many: instructions of its program (with callgrind) and system calls (with
# strace). Unlike time they do not jitter, so it fails where one is above its bound in cost.txt. See README.md.
#
# Usage: cost.sh [--print]
#
#   --print   checks nothing, and prints what is to be cost.txt: the figures, with bounds 4 % above them
#
# In the environment, WHIT_SOURCE is the checkout of whit that is measured, if not the one around this file.
source "$(dirname "$0")/common.sh"

cases=(turns-1 turns-16 turns-alone turns-fan)
# A run of this many turns, of 100 messages or 1,600, and one of twice as many: what the second has more is what they cost, without
# start, handshakes and end.
turns=40
print=
case $* in
'') ;;
--print) print=1 ;;
*) sed -n '/^# Usage/,/^[^#]/s/^# \?//p' "$0"; exit 2 ;;
esac

# run INSTRUMENT CASE TURNS: sets $messages. What the instrument counted is in $kept/CASE-TURNS.INSTRUMENT.
run() {
    local count=$kept/$2-$3.$1 command=() instrument url
    # The server has the process number of that shell, also where the instrument is its parent.
    # shellcheck disable=SC2016
    command=(sh -c 'echo $$ >"$0" && exec "$@"' "$temp/pid")
    case $1 in
    callgrind) command+=(valgrind --quiet --tool=callgrind --callgrind-out-file="$count" "$server") ;;
    strace) command=(strace -f -c -o "$count" "${command[@]}" "$server") ;;
    esac
    rm -f "$count" "$temp/pid"
    : >"$temp/server"
    "${command[@]}" >>"$temp/server" 2>&1 &
    instrument=$!
    url=$(server_url)
    server_pid=$(cat "$temp/pid")
    [ -n "$url" ] || { tail -n 5 "$temp/server" >&2; fail "whit does not listen under $1"; }
    # So that it has started, whatever it does behind that line.
    sleep 0.2
    "$load" "$2" --url "$url" --pid "$server_pid" --turns "$3" >"$temp/load" || { tail -n 5 "$temp/server" >&2; fail "$2 under $1"; }
    messages=$(sed -n 's/.*"messages":\([0-9]*\).*/\1/p' "$temp/load")
    # Killed in another way it would not write what it counted.
    kill -TERM "$server_pid"
    wait "$instrument" 2>/dev/null || true
    server_pid=
    [ -s "$count" ] || { tail -n 5 "$temp/server" >&2; fail "$1 counted nothing"; }
}

# counts FILE: lines of a name and a number.
counts() {
    case $1 in
    *.callgrind) sed -n 's/^totals: \([0-9]*\).*/instructions \1/p' "$1" ;;
    # Its columns: share, seconds, microseconds a call, calls, errors if there are any, name.
    *.strace) awk '$1 ~ /^[0-9.]+$/ && $NF != "total" { print $NF, $4 }' "$1" ;;
    esac
}

# a_message INSTRUMENT CASE: lines of a name and how many there are of it a message, the most first, in $temp/INSTRUMENT.
a_message() {
    local once
    run "$1" "$2" "$turns"
    once=$messages
    run "$1" "$2" $((2 * turns))
    { counts "$kept/$2-$turns.$1" | sed 's/^/-/'; counts "$kept/$2-$((2 * turns)).$1"; } |
        awk -v messages=$((messages - once)) '
            { name = $1; sub(/^-/, "", name); sum[name] += $1 == name ? $2 : -$2 }
            END { for (name in sum) if (sum[name] / messages >= 0.0005) print name, sum[name] / messages }' |
        sort -k2,2gr >"$temp/$1"
}

rounded() {
    awk -v number="$1" 'BEGIN { printf(number < 100 ? "%.3f" : "%.0f", number) }'
}

is_less() {
    awk -v one="$1" -v other="$2" 'BEGIN { exit !(one < other) }'
}

need_package valgrind valgrind --version
need_package strace strace --version
echo "building" >&2
build_limit
server=$(build whit)
kept=$target/cost
mkdir -p "$kept"

tools="$("${RUSTC:-rustc}" --version | cut -d' ' -f1,2), $(getconf GNU_LIBC_VERSION), $(valgrind --version), $(uname -m)"
if [ -n "$print" ]; then
    checkout=${WHIT_SOURCE:-$here/..}
    version=$(git -C "$checkout" log -1 --format=%h 2>/dev/null) || version=unknown
    git -C "$checkout" diff --quiet HEAD -- src Cargo.toml Cargo.lock 2>/dev/null || version="$version and changes"
    echo "# What cost.sh counted for a message, and the most that it accepts. Of whit at $version, with:"
    echo "# $tools"
fi
declare -A instruments=([instructions]=callgrind [calls]=strace)
failures=() cheaper=
for case in "${cases[@]}"; do
    echo "$case" >&2
    a_message callgrind "$case"
    a_message strace "$case"
    for what in instructions calls; do
        number=$(rounded "$(awk '{ sum += $2 } END { print sum }' "$temp/${instruments[$what]}")")
        if [ -n "$print" ]; then
            echo "$case $what $number $(rounded "$(awk -v number="$number" 'BEGIN { print number * 1.04 }')")"
            continue
        fi
        read -r was most < <(sed -n "s/^$case $what //p" "$here/cost.txt") || fail "cost.txt has no bound for $what in $case"
        printf '%-12s %-12s %5s a message, was %s, at most %s\n' "$case" "$what" "$number" "$was" "$most"
        ! is_less "$number" "$(awk -v was="$was" 'BEGIN { print was * 0.96 }')" || cheaper=1
        is_less "$most" "$number" || continue
        failures+=("$case: $number $what a message, $most at most")
        case $what in
        instructions) failures+=("  where they are: callgrind_annotate $kept/$case-$((2 * turns)).callgrind") ;;
        calls) failures+=("  they are: $(awk '{ printf "%s%s %.3g", sep, $1, $2; sep = ", " }' "$temp/strace")") ;;
        esac
    done
done
update="benches/cost.sh --print >benches/cost.txt"
[ ${#failures[@]} = 0 ] || {
    grep -qxF "# $tools" "$here/cost.txt" || failures+=("The bounds were set with$(sed -n '2s/^#//p' "$here/cost.txt"); here are $tools: see README.md")
    printf '%s\n' "${failures[@]}" "Make it cheaper or, where it is worth that, raise the bounds: $update" >&2
    fail "a message costs more than it may"
}
[ -z "$cheaper" ] || echo "It has become cheaper. So that it stays so, lower the bounds: $update"
