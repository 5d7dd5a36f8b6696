#!/usr/bin/env bash
# Opens the page that whit serves in headless Chromium and uses it as a person would, and has it plot numbers,
# also those of whit tee; a page
# of another site must not get in. With SCREENSHOTS=FOLDER it leaves pictures of the page there.
. "$(dirname "$0")/common.sh"

need_package chromium /usr/bin/chromium --version
need_node playwright-core 1.60.0
need_whit
# What the browser leaves behind goes with the folder.
export PROFILE=$temp/profile TMPDIR=$temp

start_server
timeout 120 node "$clients/browser.mjs" page "$url" "$server_pid"
server_ends 15
ok "the server ended with status 0 after SIGTERM"

start_server --heartbeat off
timeout 60 node "$clients/browser.mjs" plots "$url"
stop_server

# A sine and a cosine as the input of whit tee, with their names, which greet whoever comes.
mkfifo "$temp/input"
awk 'BEGIN {
    print "sine cosine"
    for (i = 0; ; i++) {
        printf "%.4f %.4f\n", sin(i * atan2(0, -1) / 10), cos(i * atan2(0, -1) / 10)
        fflush()
        system("sleep 0.06")
    }
}' >"$temp/input" &
server_pids+=("$!")
echo=$whit
whit=$temp/tee
printf '#!/bin/sh\nexec "%s" tee --replay 1000 "$@" <"%s"\n' "$echo" "$temp/input" >"$whit"
chmod +x "$whit"
start_server
timeout 60 node "$clients/browser.mjs" tee "$url"
stop_server
whit=$echo

start_server
timeout 60 node "$clients/browser.mjs" foreign-page "$url" refused
stop_server
grep -q 'refused with 403' "$server_log" || fail "the server did not refuse the foreign page with 403"
ok "it was the server that refused it, with 403"

# The same page does get in where it may: nothing else kept it out.
start_server --allow-origin any
timeout 60 node "$clients/browser.mjs" foreign-page "$url" open
stop_server
