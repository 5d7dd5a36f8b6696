"""A client of the packaged whit, with `websockets`: package.py echo URL [SOCKET], hold URL, origin URL ORIGIN, crowd URL N.
Or in systemd's place, package.py ready SOCKET."""

import contextlib
import socket
import sys
import threading

from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidStatus
from websockets.sync.client import connect, unix_connect

LIMITS = {"open_timeout": 10, "close_timeout": 10, "ping_interval": None}


def client(url, **options):
    return connect(url, proxy=None, **LIMITS, **options)


def echoed(ws, text):
    """Whether the text comes back, maybe after heartbeats."""
    ws.send(text)
    while (answer := ws.recv(timeout=10)) == "heartbeat":
        pass
    return answer == text


def echo(url, path=None):
    with client(url) if path is None else unix_connect(path, url, **LIMITS) as ws:
        if not echoed(ws, "grüße"):
            sys.exit("fail: something else came back")


def hold(url):
    """Stays connected: sends back what comes from standard input through the server, and tells how the connection ends."""
    with client(url) as ws:
        print("connected", flush=True)

        def talk():
            with contextlib.suppress(ConnectionClosed):
                for line in sys.stdin:
                    ws.send(line.strip())

        threading.Thread(target=talk, daemon=True).start()
        try:
            while True:
                message = ws.recv()
                if message != "heartbeat":
                    print(message, flush=True)
        except ConnectionClosed as end:
            print("closed", end.rcvd and end.rcvd.code, flush=True)


def origin(url, name):
    """Prints the status that a web page of this origin gets."""
    try:
        with client(url, origin=name):
            print(101)
    except InvalidStatus as refusal:
        print(refusal.response.status_code)


def crowd(url, size):
    """More clients than the server may have files: those that get in are echoed, and afterwards everyone is again."""
    with contextlib.ExitStack() as clients:
        inside = []
        with contextlib.suppress(TimeoutError, InvalidHandshake, OSError):
            while len(inside) < int(size):
                inside.append(clients.enter_context(connect(url, proxy=None, **{**LIMITS, "open_timeout": 1})))
        if not 0 < len(inside) < int(size):
            sys.exit(f"fail: {len(inside)} of {size} clients got in")
        if not all(echoed(ws, "hello") for ws in inside):
            sys.exit("fail: something else came back")
    echo(url)
    print(len(inside))


def ready(path):
    """Waits for somebody to tell there that it is ready."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as told:
        told.bind(path)
        print("waiting", flush=True)
        while "READY=1" not in told.recv(4096).decode().split("\n"):
            pass


{"echo": echo, "hold": hold, "origin": origin, "crowd": crowd, "ready": ready}[sys.argv[1]](*sys.argv[2:])
