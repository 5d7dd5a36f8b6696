#!/usr/bin/env bash
# whit behind Debian's nginx, by a unix socket and with the configuration that the README shows: who its clients are taken
# for, and whose the socket's file is.
. "$(dirname "$0")/common.sh"

[ "$(id -u)" = 0 ] || fail "only root can give a socket to nginx's user"
need_package nginx nginx -v
need_package curl curl --version
need_python websockets 17.4
need_whit

# nginx's user has to get to the socket.
chmod 755 "$temp"
socket=$temp/whit.sock
unix=(--listen "unix:$socket" --socket-owner root:www-data)

# start_nginx: sets nginx to its host:port.
start_nginx() {
    local readme=$clients/../../README.md folder=$temp/nginx port
    mkdir "$folder"
    port=$(free_port)
    nginx=127.0.0.1:$port
    awk '/^```nginx$/ { inside = 1; next } /^```$/ { inside = 0 } inside' "$readme" >"$folder/readme.conf"
    grep -q "listen 80;" "$folder/readme.conf" && grep -q "unix:/run/whit/whit.sock;" "$folder/readme.conf" ||
        fail "the README shows no configuration that listens on port 80 and knows unix:/run/whit/whit.sock"
    sed -i "s|listen 80;|listen $nginx;|; s|unix:/run/whit/whit.sock;|unix:$socket;|" "$folder/readme.conf"
    cat >"$folder/nginx.conf" <<END
user www-data;
pid $folder/pid;
events {}
http {
    access_log off;
    client_body_temp_path $folder/body;
    proxy_temp_path $folder/proxy;
    fastcgi_temp_path $folder/fastcgi;
    uwsgi_temp_path $folder/uwsgi;
    scgi_temp_path $folder/scgi;
    include $folder/readme.conf;
}
END
    nginx -p "$folder" -c "$folder/nginx.conf" -e "$folder/errors" -g 'daemon off;' &
    nginx_pid=$!
    timeout 20 sh -c 'until curl --silent --noproxy "*" --output /dev/null "http://$0/"; do sleep 0.05; done' "$nginx" ||
        { cat "$folder/errors" >&2; fail "nginx does not start"; }
}

# Its worker, too.
stop_nginx() { [ -z "${nginx_pid:-}" ] || { kill -TERM "$nginx_pid" && wait "$nginx_pid"; }; }
at_end+=(stop_nginx)

# From an address of its own, so that it counts for no other client's.
page() {
    curl --silent --show-error --fail --noproxy '*' --max-time 10 --interface 127.0.0.10 --output "$temp/page" "http://$nginx/" &&
        grep -q '<title>' "$temp/page"
}

start_nginx
start_server "${unix[@]}" --trusted-proxy unix --trusted-proxy 127.0.0.5 --max-connections-per-ip 1
page || fail "there is no page behind nginx"
ok "nginx hands on the page"
timeout 60 "$python" "$clients/nginx_client.py" believed "ws://$nginx/ws" "$url" "$server_log"
[ "$(stat --format '%A %U %G' "$socket")" = "srw-rw---- root www-data" ] || fail "the socket's file: $(ls -l "$socket")"
ok "the socket's file is root's and www-data's, with mode 660"

# whit is started there once more, and must not.
start_in_vain() {
    local status=0 words
    words=$(timeout 10 "$whit" "${unix[@]}" 2>&1) || status=$?
    [ "$status" = 1 ] || fail "a second whit ended with status $status: $words"
    [[ $words == *"$1"* ]] || fail "a second whit says: $words"
}

start_in_vain "in use"
page || fail "the first whit does not answer any more"
ok "a second whit does not take the socket of one that lives: status 1"
stop_server
[ ! -e "$socket" ] || fail "the socket's file is still there"
ok "at the end it removes the socket's file"

start_server "${unix[@]}" --max-connections-per-ip 1
timeout 60 "$python" "$clients/nginx_client.py" not-believed "ws://$nginx/ws" "$url" "$server_log"
# Together, or the shell would report it as killed.
{ kill -KILL "$server_pid" && wait "$server_pid"; } 2>/dev/null || true
unset "server_pids[-1]"
[ -S "$socket" ] || fail "killed, it still removed the socket's file"
start_server "${unix[@]}"
page || fail "there is no page from the socket that replaced one"
stop_server
ok "a socket that one left there which was killed is replaced"

echo "mine" >"$socket"
start_in_vain "in use"
[ "$(cat "$socket")" = mine ] || fail "the file in the socket's place was changed"
rm "$socket"
ok "a file that is no socket is not touched: status 1"

start_server "${unix[@]}" --socket-owner root:root
! page 2>"$temp/refused" || fail "nginx's user gets in without being the socket's group"
grep -q ' 502$' "$temp/refused" || fail "not for that: $(cat "$temp/refused")"
stop_server
ok "who is neither owner nor group does not get in"
