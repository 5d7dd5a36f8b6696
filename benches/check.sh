#!/usr/bin/env bash
# Checks the benches: that they are formatted, lint-free and build, and that the limit and whit answer rightly. It measures
# nothing of use.
set -euo pipefail
cd "$(dirname "$0")"

cargo fmt --check
cargo clippy --locked --all-targets -- -D warnings
./run.sh --servers limit,whit,whit-serve --rounds 1 --seconds 0.2
