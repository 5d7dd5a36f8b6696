#!/usr/bin/env bash
# Builds and tests with the oldest Rust that is promised (`rust-version` in Cargo.toml), from Debian 12's packages. They
# are unpacked into a folder of their own: the machine's own Rust stays as it is.
set -euo pipefail
cd "$(dirname "$0")/.."

wanted=$(sed -n 's/^rust-version = "\(.*\)"$/\1/p' Cargo.toml)
folder=${XDG_CACHE_HOME:-$HOME/.cache}/whit-tests/rust-$wanted
rustc=$folder/rustc

if [ ! -x "$rustc" ]; then
  need=()
  for package in libedit2 libxml2 libz3-4; do
    dpkg -s "$package" >/dev/null 2>&1 || need+=("$package")
  done
  apt-get update -qq
  [ ${#need[@]} -eq 0 ] || apt-get install -y -qq "${need[@]}"
  mkdir -p "$folder/packages"
  (cd "$folder/packages" && apt-get download -qq \
    "rustc-web=$wanted.*" "libstd-rust-web-$wanted=$wanted.*" "libstd-rust-web-dev=$wanted.*" libllvm19)
  for package in "$folder"/packages/*.deb; do dpkg -x "$package" "$folder/root"; done
  cat > "$rustc.new" <<EOF
#!/bin/sh
LD_LIBRARY_PATH='$folder/root/usr/lib/$(uname -m)-linux-gnu' exec '$folder/root/usr/bin/rustc' "\$@"
EOF
  chmod +x "$rustc.new"
  mv "$rustc.new" "$rustc"
fi

version=$("$rustc" --version)
echo "$version"
case $version in
  "rustc $wanted."*) ;;
  *) echo "this is not Rust $wanted" >&2; exit 1 ;;
esac
RUSTC=$rustc cargo build --locked --all-features --target-dir target/msrv
RUSTC=$rustc cargo test --locked --target-dir target/msrv --lib --bins --tests
