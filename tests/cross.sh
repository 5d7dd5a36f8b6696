#!/usr/bin/env bash
# Builds whit for Raspberry Pis of 64 and of 32 bits, runs all its tests there, and has real clients talk to it: under an emulator,
# on the kernel of this machine. With --armv6 for the first Pi and the Pi Zero instead: one static file, alone in a root of its own.
. "$(dirname "$0")/toolchain.sh"
cd "$repository"

# Under the emulator all seeds of the simulations take three minutes.
export WHIT_SEEDS=${WHIT_SEEDS:-500}

# run_tests TARGET [ARGUMENTS]: runs the tests, and sets $passed to how many passed.
run_tests() {
    # The emulator has a thread of its own in each program.
    cross_cargo "$1" test --locked --all-features "${@:2}" -- --skip it_has_one_thread | tee "$temp/tests"
    passed=$(awk '/^test result: ok/ { passed += $4 } END { print passed + 0 }' "$temp/tests")
    [ "$passed" -gt 0 ] || fail "no test ran on $1"
}

# talk COMMAND...: real clients talk to whit, which this command runs.
talk() {
    printf '#!/bin/sh\nexec %s "$@"\n' "$*" >"$temp/whit"
    chmod +x "$temp/whit"
    WHIT=$temp/whit "$clients/python.sh"
    WHIT=$temp/whit "$clients/curl.sh"
}

# on TARGET: all of it on aarch64 or armv7.
on() {
    local started=$SECONDS
    need_target "$1"
    cross_cargo "$1" build --release --locked
    run_tests "$1"
    talk "$runner" "$cross/$triple/release/whit"
    results+=("$1: $passed tests and two clients, $((SECONDS - started)) s")
}

# on_armv6: the static file.
on_armv6() {
    local started=$SECONDS status=0 file root=$temp/root
    need_target armv6
    need_packages binutils libc6-armhf-cross
    cross_cargo armv6 build --release --locked
    file=$cross/$triple/release/whit

    readelf --program-headers --dynamic --wide "$file" >"$temp/linking"
    ! grep -E 'INTERP|NEEDED' "$temp/linking" || fail "$file is not static"
    grep -q LOAD "$temp/linking" || fail "$file is no program"
    ok "it is static: no interpreter, no library"
    readelf --arch-specific "$file" | grep -xE ' *Tag_CPU_arch: v6(K|KZ)?' || fail "$file is not for ARMv6"
    # Debian's C library is for ARMv7: if that ran, it would say nothing that whit runs.
    $runner /usr/arm-linux-gnueabihf/lib/ld-linux-armhf.so.3 --version >"$temp/out" 2>&1 || status=$?
    [ "$status" = 132 ] || { cat "$temp/out" >&2; fail "the emulator runs what is for ARMv7, or fails otherwise: $status"; }
    ok "the emulator takes what an ARM1176 has, and no more"

    mkdir "$root"
    cp "$file" "$(command -v qemu-arm-static)" "$root"
    talk "chroot $root /${runner} /whit"
    # Among these are handlers that panic: each ends its own connection and no other.
    run_tests armv6 --release --test close
    results+=("armv6: two clients in a root with nothing else, and $passed tests, $((SECONDS - started)) s")
}

results=()
case ${1-} in
    '')
        on aarch64
        on armv7
        ;;
    --armv6) on_armv6 ;;
    *) fail "it is $0 [--armv6]" ;;
esac
for result in "${results[@]}"; do ok "$result"; done
