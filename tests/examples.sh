#!/usr/bin/env bash
# Builds the examples and tries each for real: examples.py starts them and is their client.
# Needs cargo, and python3 with venv, which it installs where it is missing (Debian, as root).
set -euo pipefail
cd "$(dirname "$0")/.."

websockets=15.0.1
venv=${XDG_CACHE_HOME:-$HOME/.cache}/whit-tests/examples

if ! python3 -c 'import ensurepip, venv' 2>/dev/null; then
    apt-get -o Acquire::Retries=3 update -qq
    DEBIAN_FRONTEND=noninteractive apt-get -o Acquire::Retries=3 -o DPkg::Lock::Timeout=120 install -qq --no-install-recommends python3-venv
fi
if ! "$venv/bin/python" -c "import websockets.version as v; assert v.version == '$websockets'" 2>/dev/null; then
    python3 -m venv --clear "$venv"
    "$venv/bin/pip" install --quiet --disable-pip-version-check "websockets==$websockets"
fi

cargo build --examples
target=$(cargo metadata --format-version 1 --no-deps |
    python3 -c 'import json, sys; print(json.load(sys.stdin)["target_directory"])')

# `timeout` leads a process group of its own, so that all that the test started ends with it.
timeout --kill-after=5 120 "$venv/bin/python" tests/examples.py "$target/debug/examples" &
group=$!
trap 'kill -KILL -- "-$group" 2>/dev/null || true' EXIT
trap 'exit 130' INT
trap 'exit 143' TERM
wait "$group"
