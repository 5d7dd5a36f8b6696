#!/usr/bin/env bash
# Compares servers, interleaved: in each round, for each case, every server in turn, as a fresh process on a core of its own.
# Prints Markdown tables of ratios to the limit. See README.md.
#
# Usage: run.sh [--cases a,b] [--servers x,y] [--rounds N] [--seconds S] [--out FILE]
#
#   --cases     all unless told: see below
#   --servers   all that can be built unless told: see below. whit@DIR and whit-serve@DIR are of another checkout of whit
#   --rounds    5 unless told
#   --seconds   how long a load is measured, 2 unless told; where little happens 5 times that
#   --out       a file for the raw figures too, a line of JSON for each case, server and round
#
# In the environment, WHIT_SOURCE is the checkout that `whit` and `whit-serve` are of, if not the one around this file.
source "$(dirname "$0")/common.sh"

all_cases=echo-1,echo-1-text,echo-16,echo-16-text,echo-16k,echo-1m,handshakes,fan-out,heartbeats,idle,after-1m,slow-10,silent
all_servers=limit,whit,whit-serve,tokio-tungstenite,tokio-tungstenite-tuned,fastwebsockets,gorilla,original,ws,libwebsockets
cases=$all_cases servers=$all_servers rounds=5 seconds=2 out=
while [ $# -gt 0 ]; do
    [[ $1 =~ ^--(cases|servers|rounds|seconds|out)$ ]] && [ $# -gt 1 ] || { sed -n '/^# Usage/,/^[^#]/s/^# \?//p' "$0"; exit 2; }
    declare "${1#--}=$2"
    shift 2
done
IFS=, read -ra cases <<<"$cases"
IFS=, read -ra servers <<<"$servers"
for case in "${cases[@]}"; do
    [[ ,$all_cases, == *",$case,"* ]] || fail "there is no case $case: the cases are $all_cases"
done

# Thousands of connections.
ulimit -n "$(ulimit -Hn)"
read -r load_core server_core < <(python3 -c 'import os; cores = sorted(os.sched_getaffinity(0)); print(cores[0], cores[-1])')

echo "building" >&2
build_limit
built=()
for server in "${servers[@]}"; do
    if why=$(build "$server" 2>&1 >"$temp/command"); then
        commands[$server]=$(cat "$temp/command")
        built+=("$server")
    else
        left_out+=("$server: ${why##*$'\n'}")
        echo "$why" >&2
    fi
done
[ ${#built[@]} -gt 0 ] || fail "no server could be built"

results=${out:-$temp/results}
: >"$results"
failures=()
for ((round = 0; round < rounds; round++)); do
    for case in "${cases[@]}"; do
        for ((i = 0; i < ${#built[@]}; i++)); do
            # Another one is the first in each round.
            server=${built[(i + round) % ${#built[@]}]}
            can "$server" "$case" || continue
            echo "round $((round + 1)): $case: $server" >&2
            measure "$server" "$case" >>"$results" || failures+=("$case of $server in round $((round + 1))")
        done
    done
done

python3 "$here/report.py" "$results" "$rounds" "$seconds" "${left_out[@]}"
for failure in "${failures[@]}"; do
    echo "FAILED: $failure" >&2
done
[ ${#failures[@]} = 0 ]
