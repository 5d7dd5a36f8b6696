#!/usr/bin/env bash
# Builds and tests with the oldest Rust that is promised.
. "$(dirname "$0")/toolchain.sh"
cd "$repository"

need_rust
"$RUSTC" --version
export CARGO_TARGET_DIR=target/msrv
cargo build --locked --all-features
cargo test --locked --lib --bins --tests
