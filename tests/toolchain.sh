# Rust of the oldest version that is promised (`rust-version` in Cargo.toml), for this machine and for the processors of
# Raspberry Pis, with what links for them and what emulates them: from Debian 12's packages. Rust is unpacked into a folder
# of its own: the machine's own stays as it is, and it need not know of another architecture.
# Sourced by the scripts beside it, which get what clients/common.sh has too.

. "$(dirname "${BASH_SOURCE[0]}")/clients/common.sh"

repository=$(cd "$clients/../.." && pwd)
rust_version=$(sed -n 's/^rust-version = "\(.*\)"$/\1/p' "$repository/Cargo.toml")
rust=$cache/debian-rust-$rust_version
# Where cross_cargo builds, apart from what the machine's own Rust builds: the command for aarch64 is
# $cross/aarch64-unknown-linux-gnu/release/whit.
cross=$repository/target/cross

# alone FUNCTION...: no other script prepares anything meanwhile.
alone() {
    mkdir -p "$cache"
    (flock 9 && "$@") 9>"$cache/lock"
}

# unpack FOLDER ARCHITECTURE PACKAGE...: Debian's packages, unpacked into a new folder. apt is configured anew for it, with
# nothing but the system's sources.
unpack() {
    local folder=$1 apt=$temp/apt-$2 package
    echo "unpacking ${*:3} ($2)"
    mkdir -p "$apt/lists/partial" "$apt/archives/partial" "$apt/packages"
    : >"$apt/status"
    cat >"$apt/conf" <<EOF
APT { Architecture "$2"; Architectures { "$2"; }; Sandbox::User "root"; };
Dir { State "$apt"; State::status "$apt/status"; Cache "$apt"; };
EOF
    # Of several sources one may be unavailable: what counts is whether the packages are found.
    (cd "$apt/packages" && export APT_CONFIG=$apt/conf && { apt-get -o Acquire::Retries=3 update || true; } &&
        apt-get -o Acquire::Retries=3 download "${@:3}") \
        >"$apt/log" 2>&1 ||
        { tail -n 20 "$apt/log" >&2; fail "there are no packages ${*:3} for $2"; }
    rm -rf "$folder"
    mkdir -p "$folder"
    for package in "$apt"/packages/*.deb; do dpkg -x "$package" "$folder"; done
    rm -r "$apt"
}

unpack_rust() {
    [ -e "$rust" ] && return
    unpack "$rust.new" "$(dpkg --print-architecture)" "rustc-web=$rust_version.*" libllvm19 \
        "libstd-rust-web-$rust_version=$rust_version.*" "libstd-rust-web-dev=$rust_version.*"
    local libraries=$rust/usr/lib/$(uname -m)-linux-gnu
    cat >"$rust.new/rustc" <<EOF
#!/bin/sh
LD_LIBRARY_PATH='$libraries' exec '$rust/usr/bin/rustc' "\$@"
EOF
    # What runs tests of documentation for another processor was promised in 1.89 only, and under another name, which cargo uses.
    cat >"$rust.new/rustdoc" <<EOF
#!/bin/bash
export RUSTC_BOOTSTRAP=1 LD_LIBRARY_PATH='$libraries'
exec '$rust/usr/bin/rustdoc' -Zunstable-options "\${@/#--test-runtool/--runtool}"
EOF
    chmod +x "$rust.new/rustc" "$rust.new/rustdoc"
    mv "$rust.new" "$rust"
}

# add_to_rust ARCHITECTURE PACKAGE: adds what this package has.
add_to_rust() {
    local added=$rust/added-$2-$1
    [ -e "$added" ] && return
    unpack "$rust.new" "$1" "$2=$rust_version.*"
    cp -a "$rust.new/." "$rust"
    rm -r "$rust.new"
    touch "$added"
}

# zig's C compiler brings musl and libunwind, and compiles them for the very processor: Debian's own are for ARMv7.
zig_version=0.17.1
zig=$cache/zig-$zig_version

unpack_zig() {
    [ -e "$zig" ] && return
    echo "unpacking zig $zig_version"
    need_package python3-venv python3 -c 'import ensurepip, venv'
    python3 -m venv "$temp/venv"
    rm -rf "$zig.new"
    "$temp/venv/bin/pip" install --quiet --disable-pip-version-check --target "$zig.new" "ziglang==$zig_version"
    cat >"$zig.new/armv6" <<EOF
#!/bin/sh
ZIG_GLOBAL_CACHE_DIR='$zig/built' exec '$zig/ziglang/zig' cc -target arm-linux-musleabihf -mcpu=arm1176jzf_s "\$@"
EOF
    chmod +x "$zig.new/armv6"
    mv "$zig.new" "$zig"
}

# need_packages PACKAGE...: installs those Debian packages that are not there.
need_packages() {
    local package
    for package in "$@"; do need_package "$package" dpkg -s "$package"; done
}

# need_rust: exports RUSTC and RUSTDOC, which cargo uses.
need_rust() {
    need_packages libedit2 libxml2 libz3-4
    alone unpack_rust
    export RUSTC=$rust/rustc RUSTDOC=$rust/rustdoc
    case $("$RUSTC" --version) in
        "rustc $rust_version."*) ;;
        *) fail "$RUSTC is not Rust $rust_version: $("$RUSTC" --version)" ;;
    esac
}

# need_target aarch64|armv7|armv6: sets $triple, and $runner to what runs its programs; exports the linker that cargo uses for
# it, and the runner. armv6 is of the first Pi and the Pi Zero, and static. x86_64 is only for what Debian's Rust builds there.
need_target() {
    local gnu debian linker name
    need_rust
    case $1 in
        x86_64)
            triple=x86_64-unknown-linux-gnu runner=
            return
            ;;
        aarch64)
            triple=aarch64-unknown-linux-gnu gnu=aarch64-linux-gnu debian=arm64
            runner="qemu-aarch64-static -L /usr/$gnu"
            ;;
        armv7)
            triple=armv7-unknown-linux-gnueabihf gnu=arm-linux-gnueabihf debian=armhf
            runner="qemu-arm-static -L /usr/$gnu"
            ;;
        armv6)
            triple=arm-unknown-linux-musleabihf
            runner="qemu-arm-static -cpu arm1176"
            ;;
        *) fail "there is no target $1" ;;
    esac
    need_packages qemu-user-static
    name=${triple//-/_}
    name=CARGO_TARGET_${name^^}
    if [ "$1" = armv6 ]; then
        alone add_to_rust "$(dpkg --print-architecture)" rust-web-src
        alone unpack_zig
        linker=$zig/armv6
        # zig has the C library and what starts a program.
        export "${name}_RUSTFLAGS=-Clink-self-contained=no"
    else
        need_packages "gcc-$gnu" "libc6-dev-$debian-cross"
        alone add_to_rust "$debian" libstd-rust-web-dev
        linker=$gnu-gcc
    fi
    export "${name}_LINKER=$linker" "${name}_RUNNER=$runner"
}

# cross_cargo TARGET COMMAND [ARGUMENTS]: runs cargo for the target, into $cross unless CARGO_TARGET_DIR or an argument says
# otherwise: cross_cargo armv7 build --release
cross_cargo() (
    need_target "$1"
    export CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-$cross} WHIT_RUNNER=$runner
    # Debian has no standard library for it: it is built along, as only a nightly compiler would.
    [ "$1" != armv6 ] || export RUSTC_BOOTSTRAP=1 CARGO_UNSTABLE_BUILD_STD=std,panic_abort,test
    cargo "$2" --target "$triple" "${@:3}"
)
