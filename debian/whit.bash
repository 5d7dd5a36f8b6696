# bash completion for whit(1).

_whit() {
    local word=${COMP_WORDS[COMP_CWORD]} flag=${COMP_WORDS[COMP_CWORD - 1]} words=
    COMPREPLY=()
    # What is behind `--` is another program's.
    case " ${COMP_WORDS[*]:1:COMP_CWORD-1} " in
        *" -- "*)
            compopt -o filenames 2>/dev/null
            mapfile -t COMPREPLY < <(compgen -c -f -- "$word")
            return
            ;;
    esac
    # Bash splits words at `=`.
    if [ "$word" = = ]; then
        word=
    elif [ "$flag" = = ]; then
        flag=${COMP_WORDS[COMP_CWORD - 2]}
    fi
    case $flag in
        --config | --publish-token-file | --read-token-file)
            compopt -o filenames 2>/dev/null
            mapfile -t COMPREPLY < <(compgen -f -- "$word")
            return
            ;;
        --socket-owner)
            mapfile -t COMPREPLY < <(compgen -u -- "$word")
            return
            ;;
        --grace) words="1s 5s 30s" ;;
        --heartbeat | --ping-interval) words="off 1s 10s 30s 1m" ;;
        --pong-timeout) words="1s 5s 10s 30s" ;;
        --idle-timeout) words="off 1m 10m 1h" ;;
        --chunk) words="4KiB 64KiB" ;;
        --socket-mode) words="600 660 666" ;;
        --allow-origin) words=any ;;
        --trusted-proxy) words="127.0.0.1 ::1 unix" ;;
        --max-connections-per-ip) words=off ;;
        --max-message) words="64KiB 256KiB 1MiB" ;;
        --policy) words="drop-oldest drop-newest latest close" ;;
        --memory) words="8MiB 32MiB 128MiB" ;;
        --listen | --path | --max-connections | --max-processes | --replay | --capacity | --max-topics) return ;;
        *)
            words="--listen --socket-mode --socket-owner --path --config --heartbeat --ping-interval --pong-timeout
                --idle-timeout --allow-origin --max-connections --max-connections-per-ip --trusted-proxy --max-message
                --memory --quiet --verbose --help --version"
            case " ${COMP_WORDS[*]:1:COMP_CWORD-1} " in
                *" run "*) words+=" --binary --shared --grace --max-processes --" ;;
                *" tee "*) words+=" --binary --chunk --length-prefixed --retain --replay --policy --capacity --send-back" ;;
                *" relay "*)
                    words+=" --replay --policy --capacity --max-topics --publish-token-file --read-token-file"
                    ;;
                *" serve "*) ;;
                *) words+=" serve run tee relay" ;;
            esac
            ;;
    esac
    mapfile -t COMPREPLY < <(compgen -W "$words" -- "$word")
} &&
    complete -F _whit whit
