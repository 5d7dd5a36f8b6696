#!/usr/bin/env bash
# Topics of several `whit relay --mqtt` on one broker, Mosquitto, with a plain client of it beside: while all is well, while the broker
# does not answer, and while it is away.
source "$(dirname "$0")/clients/common.sh"

cd "$(dirname "$0")/.."
# So that the broker that is installed is not started as a service.
if ! command -v mosquitto >/dev/null && [ ! -e /usr/sbin/mosquitto ] && [ ! -e /usr/sbin/policy-rc.d ] && [ "$(id -u)" = 0 ]; then
    printf '#!/bin/sh\nexit 101\n' >/usr/sbin/policy-rc.d
    chmod +x /usr/sbin/policy-rc.d
    remove_policy() { rm -f /usr/sbin/policy-rc.d; }
    at_end+=(remove_policy)
fi
PATH=$PATH:/usr/sbin
need_package mosquitto command -v mosquitto
need_package mosquitto-clients command -v mosquitto_pub
need_python websockets 17.4
# As `cargo test --all-features` did.
cargo build --locked --all-features --quiet
whit=${CARGO_TARGET_DIR:-target}/debug/whit

broker_port=$(free_port)
broker_pid=
# end_broker SIGNAL
end_broker() {
    [ -n "$broker_pid" ] || return 0
    kill -s "$1" "$broker_pid"
    wait "$broker_pid" 2>/dev/null || true
    broker_pid=
}
kill_broker() { end_broker KILL; }
at_end+=(kill_broker)
cat >"$temp/mosquitto.conf" <<END
listener $broker_port 127.0.0.1
allow_anonymous true
max_queued_messages 0
persistence true
persistence_location $temp/
user $(id -un)
END

# until_true SECONDS COMMAND...: waits for the command to succeed, for so long.
until_true() {
    local end=$((SECONDS + $1))
    shift
    until "$@"; do
        [ "$SECONDS" -lt "$end" ] || return 1
        sleep 0.05
    done
}

publish() { timeout 10 mosquitto_pub -h 127.0.0.1 -p "$broker_port" -q 1 "$@"; }
client() { timeout 120 "$python" tests/mqtt.py "$@" >"$temp/client"; }

start_broker() {
    mosquitto -c "$temp/mosquitto.conf" >>"$temp/mosquitto.log" 2>&1 &
    broker_pid=$!
    until_true 10 publish -t ready -n 2>/dev/null || { cat "$temp/mosquitto.log" >&2; fail "the broker does not start"; }
}

# says FILE NUMBER WORDS: whether so many lines of the log have these words.
says() { [ "$(grep -cF -e "$3" "$1" 2>/dev/null)" = "$2" ]; }

# expect SECONDS FILE NUMBER WORDS: waits until they have.
expect() { until_true "$@" || { cat "$3" >&2; fail "not $4 lines with '$5' within $1 s"; }; }

# share [OPTIONS]: starts a relay that shares topics, and waits until it does.
share() {
    start_server relay --mqtt "mqtt://127.0.0.1:$broker_port" --mqtt-prefix site/ "$@"
    expect 10 says "$server_log" 1 "mqtt: connected to 127.0.0.1:$broker_port"
    topics=ws://$address/t
}

start_broker
share
a=$topics a_log=$server_log
share
b=$topics b_log=$server_log

client all "$a" "$b" "$broker_port"
ok "every message comes once, in order and with its type, to the clients of two relays and of the broker"

client send "$a/kept" 21.5
publish -t site/plain -m 7 -r
share
client reads "$topics/kept" 21.5
client reads "$topics/plain" 7
client reads "$b/plain" 7
ok "what the broker retains greets newcomers, whoever published it"

client send "$b/kept" ""
share
client reads "$topics/plain" 7
client silent "$topics/kept"
ok "an empty message has the broker retain nothing"

share --replay 0
client send "$topics/unkept" 1
# It has been at the broker.
client reads "$b/unkept" 1
share
client silent "$topics/unkept"
ok "without --replay the broker retains nothing either"

for topic in 'a*' 'b*' "$(printf '%0256d' 0)"; do
    publish -t "site/$topic" -m x
done
publish -t site/plain -m 8
client reads "$a/plain" 8
until_true 10 says "$a_log" 1 "are left out" || { cat "$a_log" >&2; fail "not one warning of topics that are left out"; }
share --mqtt-prefix few/ --max-topics 1
for _ in 1 2 3; do
    publish -t few/a -m 1
    publish -t few/b -m 1
    publish -t few/a -n
done
publish -t few/a -m 2
client reads "$topics/a" 2
until_true 10 says "$server_log" 1 "are left out, 1 so far: --max-topics 1 has room for no more" || { cat "$server_log" >&2; fail "no warning"; }
says "$server_log" 1 "are left out" || { cat "$server_log" >&2; fail "a warning for each that is left out"; }
ok "topics that cannot be here are left out, with one warning"

kill -STOP "$broker_pid"
client local "$a/stopped" "while it is stopped"
kill -CONT "$broker_pid"
client reads "$b/stopped" "while it is stopped"
ok "clients of one relay get its messages while the broker does not answer, others once it does"

# A broker that is told to end has what it retained when it is back.
publish -t site/still -m same -r
client send "$a/changed" old
timeout 120 "$python" tests/mqtt.py reads "$a/changed" old new >"$temp/changed" &
changed=$!
timeout 120 "$python" tests/mqtt.py reads "$b/still" same next >"$temp/still" &
still=$!
expect 10 says "$temp/changed" 1 "read old"
expect 10 says "$temp/still" 1 "read same"
end_broker TERM
expect 10 says "$a_log" 1 "is lost"
expect 10 says "$b_log" 1 "is lost"
client send "$a/changed" new
start_broker
# Longer than a relay waits at most before it tries again.
expect 40 says "$a_log" 2 "mqtt: connected to"
expect 40 says "$b_log" 2 "mqtt: connected to"
publish -t site/still -m next
wait "$still" || fail "what is retained comes again"
wait "$changed" || fail "the newest does not come"
publish -t site/plain -m 9
client reads "$a/plain" 9
client reads "$a/changed" new
client reads "$b/changed" new
ok "what is retained does not come again with each connection, nor in place of what is newer"

end_broker KILL
expect 10 says "$a_log" 2 "is lost"
expect 10 says "$b_log" 2 "is lost"
client flood "$a/away" 1100
start_broker
expect 40 says "$a_log" 3 "mqtt: connected to"
expect 40 says "$b_log" 3 "mqtt: connected to"
until_true 10 says "$a_log" 1 "; 76 messages for it were dropped meanwhile" || { cat "$a_log" >&2; fail "the loss is not told"; }
client until "$b/away" 1099
client all "$a" "$b" "$broker_port"
ok "after a restart of the broker all is as before, and what was lost is counted"
