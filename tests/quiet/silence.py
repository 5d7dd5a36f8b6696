"""Counts the wake-ups of servers in a minute: silence.py (CASE CLIENTS ADDRESS PID)...

An ADDRESS is HOST:PORT, or unix:PATH.

A process that sleeps has a voluntary context switch each time that it goes to sleep again: one for each wake-up. The
involuntary ones are the doing of others on the same processors; they are shown, and judged by nobody.
"""

import selectors
import socket
import sys
import time
from pathlib import Path

from wire import HANDSHAKE, frame

MINUTE = 60
PING_INTERVAL = 30
HEARTBEAT, PING, PONG = b"\x81\x09heartbeat", 0x89, 0x8A


def check(fact, holds):
    if not holds:
        sys.exit(f"fail: {fact}")
    print(f"ok: {fact}", flush=True)


class Usage:
    """What a process has used so far, or between two moments."""

    def __init__(self, wakeups, preempted, cpu_ms):
        self.wakeups, self.preempted, self.cpu_ms = wakeups, preempted, cpu_ms

    @classmethod
    def of(cls, pid):
        wakeups = preempted = cpu = 0
        for task in Path(f"/proc/{pid}/task").iterdir():
            status = dict(line.split(":") for line in (task / "status").read_text().splitlines())
            wakeups += int(status["voluntary_ctxt_switches"])
            preempted += int(status["nonvoluntary_ctxt_switches"])
            cpu += int((task / "schedstat").read_text().split()[0])
        return cls(wakeups, preempted, cpu / 1e6)

    def __sub__(self, other):
        return Usage(self.wakeups - other.wakeups, self.preempted - other.preempted, self.cpu_ms - other.cpu_ms)


class Case:
    def __init__(self, name, count, address, pid):
        self.name, self.count, self.address, self.pid = name, int(count), address, int(pid)
        self.heartbeats = self.pings = 0

    def socket(self):
        place, _, end = self.address.rpartition(":")
        if place == "unix":
            client = socket.socket(socket.AF_UNIX)
            client.settimeout(20)
            client.connect(end)
            return client
        return socket.create_connection((place, int(end)), timeout=20)

    def connect(self, selector):
        self.began = time.monotonic()
        for _ in range(self.count):
            client = self.socket()
            client.sendall(HANDSHAKE)
            head = b""
            while not head.endswith(b"\r\n\r\n"):
                byte = client.recv(1)
                assert byte, f"the connection ended after {head}"
                head += byte
            assert head.startswith(b"HTTP/1.1 101 "), head
            client.setblocking(False)
            selector.register(client, selectors.EVENT_READ, self)
            # Or the first would hear nothing until the last has come.
            drain(selector, 0)

    def read(self, client):
        # Frames so small come whole.
        got = client.recv(4096)
        assert got, f"{self.name}: the server has closed a connection"
        while got:
            whole, got = got[: 2 + got[1]], got[2 + got[1] :]
            if whole == HEARTBEAT:
                self.heartbeats += 1
            else:
                assert whole[0] == PING, f"{self.name}: {whole} came"
                self.pings += 1
                client.sendall(frame(PONG, whole[2:]))

    def start(self):
        self.heartbeats = self.pings = 0
        self.before = Usage.of(self.pid)

    def stop(self):
        self.used = Usage.of(self.pid) - self.before
        used = self.used
        figures = f"{used.wakeups:4} wake-ups, {used.preempted:4} times preempted, {used.cpu_ms:7.2f} ms of CPU"
        if self.heartbeats:
            figures += f", {used.cpu_ms * self.count / self.heartbeats:.3f} ms for each heartbeat to all"
        if self.pings:
            figures += f", {self.pings} pings answered"
        print(f"{self.name:16} {self.count:4} clients: {figures}", flush=True)


def drain(selector, seconds):
    """Reads what comes."""
    end = time.monotonic() + seconds
    while True:
        for key, _ in selector.select(max(0, end - time.monotonic())):
            key.data.read(key.fileobj)
        if time.monotonic() >= end:
            return


def settle(cases, selector):
    """Waits until what the handshakes left to be done is done: those that may not wake up have slept for two seconds."""
    end = time.monotonic() + 20
    seen = None
    while time.monotonic() < end:
        was, seen = seen, [Usage.of(case.pid).wakeups for case in cases]
        if was == seen:
            return
        drain(selector, 2)


def main(arguments):
    cases = [Case(*arguments[i : i + 4]) for i in range(0, len(arguments), 4)]
    nobody, silent, looked_at, pinged, few, many, systemd, silent_by_unix, by_unix = cases
    selector = selectors.DefaultSelector()
    for case in cases:
        case.connect(selector)
    settle([nobody, silent, systemd, silent_by_unix], selector)
    # A minute that begins as a ping is due has two or three.
    while not 2 < (time.monotonic() - pinged.began) % PING_INTERVAL < PING_INTERVAL - 2:
        drain(selector, 0.5)
    for case in cases:
        case.start()
    drain(selector, MINUTE)
    for case in cases:
        case.stop()

    # While it sleeps nothing of it runs: whatever wakes it up is its own doing.
    check("no client: it never woke up", nobody.used.wakeups == 0)
    for case in (silent, systemd, silent_by_unix):
        check(f"{case.name}: {case.count} clients that say nothing: it never woke up", case.used.wakeups == 0)
    # A look each 30 s, whatever the number of clients: two in most minutes, three or one if it begins or ends with one.
    looks = looked_at.used.wakeups
    check(f"an idle timeout of 2 m costs a wake-up for each quarter of it: {looks}", 1 <= looks <= 3)
    # Every 30 s a wake-up to ping, one to see who answered, and as many for the pongs as they come apart.
    most = MINUTE // PING_INTERVAL * (2 + pinged.count)
    check(f"pings cost no more wake-ups than there are pongs, and two: {pinged.used.wakeups} of {most}", pinged.pings == 2 * pinged.count and pinged.used.wakeups <= most)
    for case in (few, many, by_unix):
        each = case.heartbeats / case.count
        # One that is held up by others has the next come as much later.
        check(f"{case.name}: {case.count} clients heard {each:.1f} heartbeats each", MINUTE - 6 <= each <= MINUTE + 1)
        check(f"it woke up {case.used.wakeups} times for that, at most twice a second", case.used.wakeups <= 2 * MINUTE)
    check("as often for many as for few", all(abs(case.used.wakeups - few.used.wakeups) <= 8 for case in (many, by_unix)))


main(sys.argv[1:])
