#!/usr/bin/env bash
# Opens the page that whit serves in headless Chromium and uses it as a person would, and has it plot numbers; a page
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

start_server
timeout 60 node "$clients/browser.mjs" foreign-page "$url" refused
stop_server
grep -q 'refused with 403' "$server_log" || fail "the server did not refuse the foreign page with 403"
ok "it was the server that refused it, with 403"

# The same page does get in where it may: nothing else kept it out.
start_server --allow-origin any
timeout 60 node "$clients/browser.mjs" foreign-page "$url" open
stop_server
