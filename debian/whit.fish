# fish completion for whit(1).

complete -c whit -f
complete -c whit -n __fish_use_subcommand -a serve
complete -c whit -l listen -x -a '127.0.0.1:7777 0.0.0.0:7777 [::]:7777 unix:' -d 'Listen on this address or unix socket'
complete -c whit -l socket-mode -x -a '600 660 666' -d 'Who may connect to the unix sockets'
complete -c whit -l socket-owner -x -a '(__fish_complete_users)' -d 'Whose the unix sockets are'
complete -c whit -l path -x -d 'The path of the WebSocket'
complete -c whit -l config -r -F -d 'Read flags from a file, too'
complete -c whit -l heartbeat -x -a 'off 1s 10s 30s 1m' -d "How often 'heartbeat' is sent to every client"
complete -c whit -l ping-interval -x -a 'off 1s 10s 30s 1m' -d 'How often every client is pinged'
complete -c whit -l pong-timeout -x -a '1s 5s 10s 30s' -d 'End a connection that is silent for so long after a ping'
complete -c whit -l idle-timeout -x -a 'off 1m 10m 1h' -d 'Close a connection on which no message passes for so long'
complete -c whit -l allow-origin -x -a any -d 'Let web pages of this origin connect'
complete -c whit -l max-connections -x -d 'Answer further clients with 503'
complete -c whit -l max-connections-per-ip -x -a off -d 'Answer further clients of one address with 429'
complete -c whit -l trusted-proxy -x -a '127.0.0.1 ::1 unix' -d 'Believe the X-Forwarded-For of this proxy'
complete -c whit -l max-message -x -a '64KiB 256KiB 1MiB' -d 'Close a connection that sends a longer message'
complete -c whit -l memory -x -a '8MiB 32MiB 128MiB' -d 'Bound what all clients can make it use'
complete -c whit -l quiet -d 'Log warnings and errors only'
complete -c whit -l verbose -d 'Log page loads and other details'
complete -c whit -l help -d 'Print the help'
complete -c whit -l version -d 'Print the version'
