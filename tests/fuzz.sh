#!/usr/bin/env bash
# Runs each target of fuzz/ for some seconds, 20 unless told: tests/fuzz.sh [SECONDS]. What fuzz/corpus has from earlier runs
# is used and added to.
source "$(dirname "$0")/clients/common.sh"

seconds=${1:-20}
cd "$(dirname "$0")/.."

need_package g++ c++ --version
if ! cargo fuzz --version >/dev/null 2>&1; then
    version=0.13.2
    tool=$cache/cargo-fuzz-$version
    export PATH=$tool/bin:$PATH
    [ -x "$tool/bin/cargo-fuzz" ] || {
        echo "installing cargo-fuzz"
        cargo install --quiet --locked --root "$tool" "cargo-fuzz@$version"
    }
fi

# Sanitizers need a nightly compiler, which nobody has to have.
cargo fuzz build --sanitizer none 2>"$temp/build" || { tail -n 40 "$temp/build" >&2; fail "the targets cannot be built"; }
targets=$(cargo fuzz list)
[ -n "$targets" ] || fail "there are no targets"
for target in $targets; do
    corpus=$PWD/fuzz/corpus/$target
    mkdir -p "$corpus"
    cargo fuzz run --sanitizer none "$target" "$corpus" "$PWD/fuzz/seeds/$target" -- \
        -max_total_time="$seconds" -timeout=10 -print_final_stats=1 >"$temp/$target" 2>&1 ||
        { tail -n 60 "$temp/$target" >&2; fail "$target has a finding"; }
    runs=$(sed -n 's/^stat::number_of_executed_units: *//p' "$temp/$target")
    [ "${runs:-0}" -gt 0 ] || fail "$target did not run"
    ok "$target: $runs executions in $seconds s"
done
