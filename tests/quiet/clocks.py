"""Clients of a server whose clock jumps: clocks.py HOST:PORT CONTROL FILE FAKE.

CONTROL is the address of a server whose monotonic clock jumps, too, FILE is where the time is set, and FAKE runs a command
that is told this time.
"""

import os
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

from wire import HANDSHAKE, frame

# What the server was started with, and its handshake_timeout.
HEARTBEAT, PING_INTERVAL, PONG_TIMEOUT, IDLE_TIMEOUT, HANDSHAKE_TIMEOUT = 1, 2, 1, 12, 5
# For a machine that is busy with other things. Less than a heartbeat, so that one that stays away is missed.
TOLERANCE = 0.9
YEAR = 365 * 24 * 3600
# From now. The first is where it starts.
TIMES = {"-30y": -30 * YEAR, "+0y": 0, "+10y": 10 * YEAR, "-50y": -50 * YEAR, "+5y": 5 * YEAR, "-1h": -3600, "+1h": 3600, "-20y": -20 * YEAR}
PAUSE = 2.2

TEXT, CLOSE, PING, PONG = 0x81, 0x88, 0x89, 0x8A


def check(fact, holds, seen=None):
    if not holds:
        sys.exit(f"fail: {fact}" + ("" if seen is None else f": saw {seen!r}"))
    print(f"ok: {fact}", flush=True)


class Stalls:
    """When all of this machine stood still, as its host may let it: who sleeps for a moment does not wake up in time."""

    def __init__(self):
        self.seen = []
        threading.Thread(target=self.watch, daemon=True).start()

    def watch(self):
        while True:
            began = time.monotonic()
            time.sleep(0.05)
            ended = time.monotonic()
            if ended - began > 0.15:
                self.seen.append((began, ended))

    def between(self, since, until):
        """For how many seconds."""
        return sum(max(0, min(until, ended) - max(since, began)) for began, ended in self.seen)


class Client:
    def __init__(self, address):
        host, port = address.rsplit(":", 1)
        # Before the server can know of it: nothing that it times may seem shorter than it was.
        self.opened = time.monotonic()
        self.socket = socket.create_connection((host, int(port)), timeout=25)
        self.heartbeats = []
        self.unread = b""

    def shake_hands(self):
        self.socket.sendall(HANDSHAKE)
        while b"\r\n\r\n" not in self.unread:
            self.fill()
        head, _, self.unread = self.unread.partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 101 "), head
        return self

    def fill(self):
        more = self.socket.recv(4096)
        self.unread += more
        return bool(more)

    def live(self, *, answers=True, speaks=False):
        """Reads until the Close, or the end without one. Gives the last frame, and how long it lived."""
        whole = b"\0"
        while whole[0] != CLOSE:
            while len(self.unread) < 2 or len(self.unread) < 2 + self.unread[1]:
                try:
                    goes_on = self.fill()
                except OSError:
                    goes_on = False
                if not goes_on:
                    return whole, time.monotonic() - self.opened
            length = 2 + self.unread[1]
            whole, self.unread = self.unread[:length], self.unread[length:]
            if whole[0] == PING and answers:
                self.socket.sendall(frame(PONG, whole[2:]))
            if whole[2:] == b"heartbeat":
                self.heartbeats.append(time.monotonic())
                if speaks:
                    self.socket.sendall(frame(TEXT, b"hello"))
        return whole, time.monotonic() - self.opened

    def refused(self):
        """Says nothing. Gives the answer, and how long that took."""
        self.fill()
        return self.unread, time.monotonic() - self.opened

    def gaps(self, until):
        return [later - earlier for earlier, later in zip(self.heartbeats, [*self.heartbeats[1:], until])]


def told(fake):
    answer = subprocess.run([fake, "date", "+%s"], check=True, capture_output=True, text=True)
    return int(answer.stdout)


def main(address, control, file, fake):
    stalls = Stalls()
    steady = Client(address).shake_hands()
    astray = Client(control).shake_hands()
    for client in (steady, astray):
        threading.Thread(target=client.live, kwargs={"speaks": True}, daemon=True).start()
    with ThreadPoolExecutor(max_workers=2 * len(TIMES) + 1) as others:
        idle = others.submit(Client(address).shake_hands().live)
        mute, silent = [], []
        for jump, seconds in TIMES.items():
            # Those who wait for a timer while the clock jumps.
            mute.append(others.submit(Client(address).shake_hands().live, answers=False))
            silent.append(others.submit(Client(address).refused))
            time.sleep(PAUSE / 2)
            with open(f"{file}.new", "w", encoding="ascii") as new:
                new.write(jump)
            os.rename(new.name, file)
            # The length of years differs.
            off = abs(told(fake) - time.time() - seconds)
            assert off < 20 * 24 * 3600, f"the clock was set to {jump} and is off by {off} s"
            time.sleep(PAUSE / 2)
    ended = time.monotonic()

    print(f"the clock jumped to {', '.join(TIMES)} from now")
    gaps = steady.gaps(ended)[:-1]
    stood = [stalls.between(at, at + gap) for at, gap in zip(steady.heartbeats, gaps)]
    late = TOLERANCE + stalls.between(0, ended)
    print(f"the machine stood still for {late - TOLERANCE:.1f} s")
    check(
        f"{len(gaps) + 1} heartbeats came {min(gaps):.3f} to {max(gaps):.3f} s apart",
        len(gaps) > len(TIMES) * PAUSE - 3 - sum(stood) and all(-TOLERANCE < gap - HEARTBEAT < TOLERANCE + still for gap, still in zip(gaps, stood)),
    )
    rest = ended - steady.heartbeats[-1]
    check(f"the last one {rest:.3f} s before the end", rest < HEARTBEAT + late)
    last, lived = idle.result()
    check(f"who said nothing was closed with 1001 after {lived:.2f} s", last[2:4] == b"\x03\xe9" and IDLE_TIMEOUT <= lived < IDLE_TIMEOUT * 1.25 + late, last)
    lived = [end.result()[1] for end in mute]
    check(f"those who did not answer a ping were ended after {min(lived):.2f} to {max(lived):.2f} s", PONG_TIMEOUT <= min(lived) and max(lived) < PING_INTERVAL + PONG_TIMEOUT + late)
    waited = [end.result()[1] for end in silent]
    check("those who sent no request got 408", all(end.result()[0].startswith(b"HTTP/1.1 408 ") for end in silent))
    check(f"after {min(waited):.2f} to {max(waited):.2f} s", all(0 <= wait - HANDSHAKE_TIMEOUT < late for wait in waited))
    longest = max(astray.gaps(ended))
    check(f"with a monotonic clock that jumps, too, heartbeats stay away, for {longest:.1f} s", longest > 2 * HEARTBEAT)


main(*sys.argv[1:])
