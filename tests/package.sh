#!/usr/bin/env bash
# Builds the Debian package, and tries it where it belongs: on a fresh Debian that is booted by its own systemd, in a
# container with a network of its own. Then the packages for Raspberry Pis, on emulated processors.
#
#     SUITE=trixie tests/package.sh    on another Debian than 12
. "$(dirname "$0")/toolchain.sh"

[ "$(id -u)" = 0 ] || fail "only root can boot a container"
cd "$repository"
suite=${SUITE:-bookworm}
cargo_deb=3.8.0
# Of 100: what `systemd-analyze security` may find at most. What is left is mostly that it is a server: the network, and sockets.
exposure=12

need_package debootstrap debootstrap --version
need_package systemd-container systemd-nspawn --version
need_package systemd systemd-analyze --version
need_package dpkg-dev dpkg-parsechangelog --version
need_package binutils readelf --version
need_package iproute2 ss --version
need_package procps pgrep --version
need_package lintian lintian --version
need_package man-db man --version
need_package groff-base groff --version
need_package bash-completion test -e /usr/share/bash-completion/bash_completion
need_package zsh zsh --version
need_package fish fish --version
need_python websockets 17.4

# --- The package itself. ---

if [ ! -x "$cache/cargo-deb-$cargo_deb/bin/cargo-deb" ]; then
    echo "installing cargo-deb"
    cargo install cargo-deb --version "$cargo_deb" --locked --quiet --root "$cache/cargo-deb-$cargo_deb"
fi
PATH=$cache/cargo-deb-$cargo_deb/bin:$PATH

# package FILE [OPTIONS]: builds it, and fails if there is anything to warn of.
package() {
    cargo deb --quiet --locked --output "$temp/$1" "${@:2}" >"$temp/cargo-deb" 2>&1 ||
        { cat "$temp/cargo-deb" >&2; fail "cargo deb"; }
    ! grep -q '^warning' "$temp/cargo-deb" || { cat "$temp/cargo-deb" >&2; fail "cargo deb warns"; }
}

field() { dpkg-deb --field "$temp/$1" "$2"; }

# depends_enough FILE ROOT: what the command is linked to is what the package depends on.
depends_enough() {
    local need newest command=$2/usr/bin/whit
    need=$(readelf --dynamic --wide "$command" | grep -oP 'NEEDED.*\[\K[^]]+' | grep -v '^ld-linux' | sort | xargs)
    [ "$need" = "libc.so.6 libgcc_s.so.1" ] || fail "the command in $1 needs $need"
    newest=$(readelf --version-info --wide "$command" | grep -oP 'Name: GLIBC_\K[\d.]+' | sort --version-sort | tail -n 1)
    [[ $(field "$1" Depends) =~ ^'libc6 (>= '([0-9.]+)'),' ]] && dpkg --compare-versions "$newest" le "${BASH_REMATCH[1]}" ||
        fail "$1 depends on $(field "$1" Depends), and the command in it needs libc6 $newest"
}

# The first builds the command. The other two differ only by their version, which dpkg goes by.
package whit.deb
package newer.deb --no-build --deb-revision 2

version=$(sed -n 's/^version = "\(.*\)"$/\1/p' Cargo.toml)
[ "$(field whit.deb Version)" = "$(dpkg-parsechangelog -l debian/changelog -S Version)" ] ||
    fail "Cargo.toml and debian/changelog are of different versions"
head -n 1 debian/whit.1 | grep -qF "\"whit $version\"" || fail "debian/whit.1 is of another version than Cargo.toml"
[ "$(field whit.deb Architecture)" = "$(dpkg --print-architecture)" ] || fail "the package is for another architecture"
ok "the package, its changelog and its man page are of version $version"

# contents FILE: mode, owner and path of each file in the package.
contents() { dpkg-deb --contents "$temp/$1" | awk '!/\/$/ { print $1, $2, $6 }' | LC_ALL=C sort -k 3; }

diff <(contents whit.deb) - <<'END' || fail "other files are in the package"
-rw-r--r-- 0/0 ./etc/default/whit
-rwxr-xr-x 0/0 ./usr/bin/whit
-rw-r--r-- 0/0 ./usr/lib/systemd/system/whit.service
-rw-r--r-- 0/0 ./usr/lib/systemd/system/whit.socket
-rw-r--r-- 0/0 ./usr/share/bash-completion/completions/whit
-rw-r--r-- 0/0 ./usr/share/doc/whit/README.md
-rw-r--r-- 0/0 ./usr/share/doc/whit/changelog.Debian.gz
-rw-r--r-- 0/0 ./usr/share/doc/whit/changelog.gz
-rw-r--r-- 0/0 ./usr/share/doc/whit/copyright
-rw-r--r-- 0/0 ./usr/share/fish/vendor_completions.d/whit.fish
-rw-r--r-- 0/0 ./usr/share/man/man1/whit.1.gz
-rw-r--r-- 0/0 ./usr/share/zsh/vendor-completions/_whit
END
[ "$(dpkg-deb --ctrl-tarfile "$temp/whit.deb" | tar --extract --to-stdout ./conffiles)" = /etc/default/whit ] ||
    fail "/etc/default/whit is not what is kept on upgrades"
ok "the files are those that are due, with their modes"

# The first version is to close the bug that asks for the package: that is for what goes into Debian itself.
lint() {
    lintian --fail-on error,warning --suppress-tags initial-upload-closes-no-bugs --allow-root "$temp/$1" ||
        fail "lintian finds something in $1"
}
lint whit.deb
ok "lintian finds neither errors nor warnings"

# --- What the flags are said to be. ---

unpacked=$temp/unpacked
dpkg-deb --extract "$temp/whit.deb" "$unpacked"
depends_enough whit.deb "$unpacked"
shares=$unpacked/usr/share
man=$shares/man/man1/whit.1.gz

zcat "$man" | groff -ww -z -man -Tutf8 >"$temp/groff" 2>&1
LC_ALL=C.UTF-8 MANROFFSEQ='' MANWIDTH=80 man --warnings --local-file "$man" >"$temp/man" 2>>"$temp/groff"
[ ! -s "$temp/groff" ] || { cat "$temp/groff" >&2; fail "the man page has faults"; }
ok "the man page renders without a warning"

# same_flags WHERE: reads the flags that are there, and fails unless they are those that the command tells.
same_flags() {
    sort -u >"$temp/flags"
    diff "$temp/told" "$temp/flags" || fail "other flags in $1 (>) than in whit --help (<)"
}

# tell_flags [COMMAND]: those that its help tells.
tell_flags() { "$unpacked/usr/bin/whit" "$@" --help | grep -oP '^ {2,6}(-\w, )?\K--[\w-]+'; }

# complete_SHELL [COMMAND]: what the shell is told for `whit COMMAND --`.
complete_bash() {
    XDG_DATA_DIRS=$shares bash --norc -c '
        . /usr/share/bash-completion/bash_completion
        __load_completion whit
        complete -p whit | grep -qw _whit || exit 1
        COMP_WORDS=(whit "$@" --) COMP_CWORD=$(($# + 1))
        _whit && printf "%s\n" "${COMPREPLY[@]}"
    ' - "$@" | grep -x -e '--.\+'
}
complete_zsh() {
    zsh --no-rcs -c '
        fpath=($1 $fpath)
        autoload -U compinit && compinit -u -d $2
        [[ $_comps[whit] = _whit ]] || exit 1
        # Tells what it is given, in place of completing it.
        _arguments() { print -rl -- $@ }
        words=(whit $@[3,-1] --)
        _whit
    ' - "$shares/zsh/vendor-completions" "$temp/zcompdump" "$@" | grep -oP '^(\*|\([^)]*\))?\K--[\w-]+'
}
complete_fish() {
    # It completes only commands that are there.
    HOME=$temp PATH=$unpacked/usr/bin:$PATH XDG_DATA_DIRS=$shares fish --command "complete --do-complete 'whit $* --'" | cut -f 1
}

# Those of a command come on top of those of all.
for job in "" run tee relay; do
    { tell_flags && tell_flags $job; } | sort -u >"$temp/told"
    [ "$(wc -l <"$temp/told")" -gt 10 ] || fail "whit $job --help tells few flags"
    cat "$temp/told" >>"$temp/all"
    for shell in bash zsh fish; do
        "complete_$shell" $job | same_flags "$shell's completion of whit $job"
    done
done
sort -u -o "$temp/told" "$temp/all"
grep -oP '^#?\K--[\w-]+' "$unpacked/etc/default/whit" | sort -u | comm -13 <(tell_flags | sort -u) - >"$temp/unknown"
[ ! -s "$temp/unknown" ] || fail "/etc/default/whit has flags that there are not: $(<"$temp/unknown")"
sed -n '/^OPTIONS/,/^SIGNALS/p' "$temp/man" | grep -oP '^ {7}(-\w, )?\K--[\w-]+' | same_flags "the man page"
{ sed -n '/^| flag |/,/^$/p' README.md | cut -d '|' -f 2 | grep -oP '`\K--[\w-]+'; printf -- '--help\n--version\n'; } |
    same_flags "the README's table"
ok "the man page, the completions of bash, zsh and fish and the README have the flags that there are, and no other"

# --- A fresh Debian. ---

base=$cache/debian-$suite-$(dpkg --print-architecture).tar
if [ ! -e "$base" ]; then
    echo "making a fresh Debian ($suite)"
    mkdir -p "$cache" "$temp/base"
    debootstrap --variant=minbase --include=systemd-sysv,procps "$suite" "$temp/base" >"$temp/debootstrap" 2>&1 ||
        { tail -n 20 "$temp/debootstrap" >&2; fail "debootstrap"; }
    rm -rf "$temp"/base/var/cache/apt/archives/*.deb "$temp"/base/var/lib/apt/lists/*
    tar --create --file "$base.new-$$" --directory "$temp/base" --numeric-owner --xattrs .
    mv "$base.new-$$" "$base"
    rm -rf "$temp/base"
fi

name=whit-$$
root=$temp/$name
init=
nspawn=
groups=()

# until_true SECONDS COMMAND...: waits for the command to succeed, for so long.
until_true() {
    local end=$((SECONDS + $1))
    shift
    until "$@"; do
        [ "$SECONDS" -lt "$end" ] || return 1
        sleep 0.05
    done
}

container() { nsenter --target "$init" --all -- env --ignore-environment PATH=/usr/sbin:/usr/bin:/sbin:/bin "$@"; }
network() { nsenter --target "$init" --net -- "$@"; }
client() { network timeout 60 "$python" "$repository/tests/package.py" "$@"; }
show() { container systemctl show --value --property "$1" "${2:-whit.service}"; }

# In its own namespaces: all that runs there ends with its first process, and its mounts with that.
end_container() {
    [ -z "$init" ] || kill -KILL "$init" 2>/dev/null || true
    [ -z "$nspawn" ] || wait "$nspawn" 2>/dev/null || true
    # Where the host has no systemd these are left.
    rmdir "/run/systemd/nspawn/propagate/$name" 2>/dev/null || true
    for group in "${groups[@]}"; do
        until_true 5 find "$group" -depth -type d -exec rmdir {} + 2>/dev/null || echo "$group cannot be removed" >&2
    done
    init='' nspawn='' groups=()
}
at_end+=(end_container)

first_process() {
    init=$(pgrep --parent "$nspawn" --newest) && [ -n "$init" ]
}

booted() {
    [[ $(container systemctl is-system-running 2>/dev/null) =~ ^(running|degraded)$ ]]
}

mkdir "$root"
tar --extract --file "$base" --directory "$root" --numeric-owner --xattrs
cp "$temp/whit.deb" "$temp/newer.deb" "$root/root/"
if [ -d /run/systemd/system ]; then
    unit=()
else
    # Nobody gives it a cgroup: it has its own beside this script's.
    unit=(--keep-unit)
    while IFS=: read -r number controllers path; do
        case $number:$controllers in
            *:name=systemd) group=/sys/fs/cgroup/systemd$path ;;
            0:) group=$(findmnt --noheadings --first-only --types cgroup2 --output TARGET)$path ;;
            *) continue ;;
        esac
        groups+=("${group%/}/$name")
        mkdir "${group%/}/$name"
    done </proc/self/cgroup
fi
(
    for group in "${groups[@]}"; do echo "$BASHPID" >"$group/cgroup.procs"; done
    exec systemd-nspawn --quiet --register=no "${unit[@]}" --private-network --machine="$name" --directory="$root" \
        --resolv-conf=off --timezone=off --console=pipe --boot </dev/null >"$temp/console" 2>&1
) &
nspawn=$!
until_true 20 first_process || { cat "$temp/console" >&2; fail "the container does not start"; }
until_true 60 booted || { cat "$temp/console" >&2; fail "systemd does not boot"; }
ok "a fresh Debian ($suite) runs systemd $(container systemctl --version | sed -n '1s/systemd \([0-9]*\).*/\1/p')"

# What is there, but for what dpkg and the journal tell of it.
files() {
    container find / -xdev \( -path /var/lib/dpkg -o -path /var/log -o -path /root \) -prune -o -printf '%p %M %U:%G %l\n' | sort
}

is() {
    local state
    state=$(container systemctl "$1" "$2" 2>/dev/null) || true
    [ "$state" = "$3" ] || { journal; fail "$2 is $state, not $3"; }
}
journal() { container journalctl --unit whit.service --unit whit.socket --no-pager --lines 40 >&2; }
active() { [ "$(show ActiveState)" = active ]; }
url=ws://127.0.0.1:7777/ws

echoes() {
    client echo "$url" "$@" || { journal; fail "there is no echo"; }
}

# settings [LINE...]: puts lines into /etc/default/whit in place of those that the last call put there.
settings() {
    sed -i '/^--/d' "$root/etc/default/whit"
    printf '%s\n' "$@" >>"$root/etc/default/whit"
}

# drop_in UNIT NAME LINE...: what `systemctl edit` makes.
drop_in() {
    mkdir -p "$root/etc/systemd/system/$1.d"
    printf '%s\n' "${@:3}" >"$root/etc/systemd/system/$1.d/$2.conf"
    container systemctl daemon-reload
}

restart() {
    container systemctl restart whit.service || { journal; fail "it does not restart"; }
}

# --- Installed. ---

# What they start may leave files.
container systemctl stop '*.timer'
files >"$temp/before"
container dpkg --install /root/whit.deb >"$temp/dpkg" 2>&1 || { cat "$temp/dpkg" >&2; fail "it cannot be installed"; }
is is-enabled whit.service enabled
is is-active whit.service active
is is-enabled whit.socket disabled
is is-active whit.socket inactive
[[ $(network ss --no-header --listening --tcp --numeric | awk '{ print $4 }') = 127.0.0.1:7777 ]] ||
    fail "it listens elsewhere than at 127.0.0.1:7777"
echoes
ok "the service runs once it is installed, and listens on 127.0.0.1:7777 only"

container systemd-analyze verify --man=no whit.service whit.socket >"$temp/verify" 2>&1 || true
[ ! -s "$temp/verify" ] || { cat "$temp/verify" >&2; fail "systemd-analyze verify finds something"; }
container systemd-analyze security --no-pager --offline=yes --threshold="$exposure" whit.service >"$temp/security" ||
    { cat "$temp/security" >&2; fail "its exposure is over $exposure of 100"; }
ok "the units have no faults; $(sed -n 's/^.*Overall exposure level for whit.service: \([0-9.]*\).*/exposure \1/p' "$temp/security")"

# What has come of the unit's words.
status=$(container cat "/proc/$(show MainPID)/status")
for line in 'CapBnd: 0000000000000000' 'CapEff: 0000000000000000' 'NoNewPrivs: 1' 'Seccomp: 2'; do
    grep -qx "${line/: /:$'\t'}" <<<"$status" || { echo "$status" >&2; fail "it does not run with $line"; }
done
[ "$(awk '/^Uid:/ { print $2 }' <<<"$status")" -ge 61184 ] || fail "it does not run as a user of its own"
# The options of a mount are those of the last one at its place.
container cat "/proc/$(show MainPID)/mountinfo" | awk '{ print $5, $6 }' >"$temp/mounts"
for mount in '/:ro' /dev/shm:noexec /run/whit:noexec /tmp:noexec /var/tmp:noexec; do
    grep "^${mount%:*} " "$temp/mounts" | tail -n 1 | grep -qw "${mount#*:}" || { cat "$temp/mounts" >&2; fail "$mount does not hold"; }
done
ok "it runs as a user of its own, without capabilities; it cannot write into the system, nor run what it wrote"

# --- A denied system call would be seen: from here on it is the end of the process. ---

# Also it is started more often than systemd puts up with.
drop_in whit.service strict '[Service]' SystemCallErrorNumber=kill '[Unit]' StartLimitIntervalSec=0
sed 's|^ExecStart=.*|ExecStart=/usr/bin/chown nobody /etc/passwd|; s/^Type=.*/Type=oneshot/; /^Restart/d; /^WatchdogSec=/d
    s/^SystemCallErrorNumber=.*/SystemCallErrorNumber=kill/' "$root/usr/lib/systemd/system/whit.service" \
    >"$root/etc/systemd/system/probe.service"
container systemctl daemon-reload
! container systemctl start probe.service 2>/dev/null || fail "a system call that is not allowed passes"
[ "$(show ExecMainStatus probe.service)" = 31 ] || fail "a system call that is not allowed is not the end: $(show ExecMainStatus probe.service)"
rm "$root/etc/systemd/system/probe.service"
container systemctl reset-failed probe.service
restart
echoes
ok "it works with the system calls that it is allowed, and another would be its end"

# --- Reload. ---

hold() {
    coproc held { client hold "$url"; }
    held_pid=$!
    # Bash takes its own away when the client has ended.
    exec {words}>&"${held[1]}" {answers}<&"${held[0]}"
    expect connected
}

expect() {
    local line
    read -r -t 15 line <&"$answers" || { journal; fail "the client that stays tells nothing: $1 was due"; }
    [ "$line" = "$1" ] || { journal; fail "the client that stays tells $line: $1 was due"; }
}

admitted() { [ "$(client origin "$url" https://pages.example)" = 101 ]; }

pid=$(show MainPID)
hold
[ "$(client origin "$url" https://pages.example)" = 403 ] || fail "a page of another site may connect"
settings "--allow-origin https://pages.example"
container systemctl reload whit.service || { journal; fail "it does not reload"; }
until_true 10 admitted || { journal; fail "the changed flag does not apply"; }
until_true 10 active || fail "the reload has no end"
echo hello >&"$words"
expect hello
[ "$(show MainPID)" = "$pid" ] || fail "it restarted"
ok "a reload applies a changed flag, and keeps the connections"

# --- An upgrade, with that client. ---

container dpkg --install --force-confold /root/newer.deb >"$temp/dpkg" 2>&1 || { cat "$temp/dpkg" >&2; fail "it cannot be upgraded"; }
expect "closed 1001"
wait "$held_pid"
[ "$(container dpkg-query --show --showformat '${Version}' whit)" = "$version-2" ] || fail "it is not upgraded"
is is-active whit.service active
[ "$(show MainPID)" != "$pid" ] || fail "what runs is the old version"
grep -q '^--allow-origin' "$root/etc/default/whit" || fail "the upgrade lost the settings"
echoes
ok "an upgrade restarts it, tells its clients 1001, and keeps the settings"

# --- The watchdog. ---

told() { [ "$(show WatchdogTimestampMonotonic)" -gt "$1" ]; }
restarted() { [ "$(show NRestarts)" -gt 0 ] && active; }

drop_in whit.service watchdog '[Service]' WatchdogSec=4s RestartSec=100ms
restart
for _ in 1 2 3; do until_true 10 told "$(show WatchdogTimestampMonotonic)" || fail "it does not tell that it is alive"; done
[ "$(show NRestarts)" = 0 ] || fail "the watchdog ends it though it is alive"
container kill -STOP "$(show MainPID)"
until_true 20 restarted || { journal; fail "the watchdog does not restart it"; }
echoes
rm "$root/etc/systemd/system/whit.service.d/watchdog.conf"
ok "the watchdog ends it when it hangs, and it is started again"

# --- No descriptors, unix sockets, mistakes. ---

drop_in whit.service files '[Service]' LimitNOFILE=40
settings "--listen 127.0.0.1:7777" "--listen unix:/run/whit/whit.sock" "--socket-mode 666"
restart
[ "$(container stat --format '%a' /run/whit/whit.sock)" = 666 ] || fail "the unix socket has another mode"
echoes "/proc/$init/root/run/whit/whit.sock"
inside=$(client crowd "$url" 60) || { journal; fail "it does not bear to run out of descriptors"; }
ok "it listens on a unix socket too; without descriptors $inside of 60 clients were served, and all when there were some again"

container journalctl --unit whit.service --boot --output json --output-fields PRIORITY,MESSAGE,_COMM >"$temp/journal"
"$python" - "$temp/journal" <<'END' || fail "the journal does not tell warnings from the rest"
import json, sys
lines = [json.loads(line) for line in open(sys.argv[1])]
mine = [(line["PRIORITY"], line["MESSAGE"]) for line in lines if line.get("_COMM") == "whit"]
warnings = [text for priority, text in mine if priority == "4"]
rest = [text for priority, text in mine if priority == "6"]
sys.exit(not (any("files" in text for text in warnings) and any("listening" in text for text in rest)
              and not any(text.startswith("<") for _, text in mine)))
END
rm "$root/etc/systemd/system/whit.service.d/files.conf"
container systemctl daemon-reload
ok "the journal tells warnings from the rest"

container systemctl stop whit.service
[ "$(show Result)" = success ] && [ "$(show ExecMainStatus)" = 0 ] || { journal; fail "it does not stop in peace"; }
settings "--heartbeat never"
! container systemctl start whit.service 2>/dev/null || fail "it starts with a mistake in its flags"
[ "$(show ExecMainStatus)" = 2 ] && [ "$(show NRestarts)" = 0 ] && [ "$(show ActiveState)" = failed ] ||
    { journal; fail "it is started again in spite of a mistake"; }
container systemctl reset-failed whit.service
settings
ok "it stops with status 0; with a mistake in its flags it is not started again"

# --- Sockets of systemd's. ---

container systemctl disable --quiet --now whit.service
drop_in whit.socket more '[Socket]' ListenStream= ListenStream=127.0.0.1:80 ListenStream=/run/whit.sock SocketMode=0600
container systemctl enable --quiet --now whit.socket
is is-active whit.service inactive
url=ws://127.0.0.1/ws
echoes
is is-active whit.service active
echoes "/proc/$init/root/run/whit.sock"
pid=$(show MainPID)
# It is another version, be it an older one.
container dpkg --install --force-confold /root/whit.deb >"$temp/dpkg" 2>&1 || { cat "$temp/dpkg" >&2; fail "it cannot be installed again"; }
is is-enabled whit.service disabled
is is-enabled whit.socket enabled
echoes
[ "$(show MainPID)" != "$pid" ] || fail "what runs is the old version"
ok "with whit.socket it starts at the first client, on port 80 and a unix socket, and another version keeps that"

! container journalctl --unit whit.service --no-pager | grep -F 'status=31/SYS' >&2 || fail "it used a system call that is not allowed"
ok "in all this it used no system call that is not allowed"

# --- Removed. ---

container dpkg --remove whit >"$temp/dpkg" 2>&1 || { cat "$temp/dpkg" >&2; fail "it cannot be removed"; }
[ -z "$(network ss --no-header --listening --tcp)" ] && ! container pgrep -x whit || fail "it runs on when it is removed"
[ -e "$root/etc/default/whit" ] || fail "its settings are gone before it is purged"
rm -r "$root"/etc/systemd/system/whit.{service,socket}.d
container dpkg --purge whit >"$temp/dpkg" 2>&1 || { cat "$temp/dpkg" >&2; fail "it cannot be purged"; }
files >"$temp/after"
diff "$temp/before" "$temp/after" || fail "it is not all gone"
ok "removed it has stopped, and its settings are kept; purged nothing is left"
end_container

# --- For Raspberry Pis. ---

for target in aarch64:arm64 armv7:armhf; do
    need_target "${target%:*}"
    cross_cargo "${target%:*}" build --release --locked --quiet
    debian=${target#*:}
    CARGO_TARGET_DIR=$cross package "$debian.deb" --no-build --no-strip --target "$triple"
    [ "$(field "$debian.deb" Architecture)" = "$debian" ] || fail "the package for $debian is for another architecture"
    lint "$debian.deb"
    diff <(contents whit.deb) <(contents "$debian.deb") || fail "other files are in the package for $debian"

    # What the unit runs, but for where its files are, on a port of its own.
    unpacked=$temp/$debian
    dpkg-deb --extract "$temp/$debian.deb" "$unpacked"
    depends_enough "$debian.deb" "$unpacked"
    read -ra command < <(sed -n 's/^ExecStart=//p' "$unpacked/usr/lib/systemd/system/whit.service")
    printf '#!/bin/sh\nexec %s %s "$@"\n' "$runner" "${command[*]/#\//$unpacked/}" >"$temp/$debian.sh"
    chmod +x "$temp/$debian.sh"
    whit=$temp/$debian.sh
    coproc systemd { timeout 60 "$python" tests/package.py ready "$temp/$debian.notify"; }
    ready=$!
    read -r -t 10 <&"${systemd[0]}" || fail "there is nobody to tell"
    NOTIFY_SOCKET=$temp/$debian.notify start_server
    wait "$ready" || fail "on $debian it does not tell that it is ready"
    "$python" tests/package.py echo "$url" || fail "on $debian there is no echo"
    stop_server
    ok "the package for $debian has the same files, and what its unit runs works on an emulated processor"
done
