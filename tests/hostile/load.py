"""A thousand connections that mean no good, one that does, and the server's memory as the system sees it.

Usage: load.py [--seconds N] [--left KIB] [--report] HOST:PORT PID
"""

import argparse
import os
import random
import selectors
import socket
import sys
import time

from wire import HANDSHAKE, frame

BUDGET_KIB = 8 * 1024
SLACK_KIB = 4 * 1024

# Each gives the bytes to begin with, and those to go on with for ever.
KINDS = {
    "slow reader of echoes": (HANDSHAKE, frame(0x82, bytes(60_000))),
    "large messages, never read": (HANDSHAKE, frame(0x82, bytes(65_536))),
    "fragments without end": (HANDSHAKE + frame(0x02, bytes(500)), frame(0x00, bytes(500))),
    "a message never finished": (HANDSHAKE + frame(0x02, bytes(60_000)), b""),
    "empty fragments": (HANDSHAKE + frame(0x01, b""), frame(0x00, b"") * 100),
    "half a head": (b"GET /ws HTTP/1.1\r\nX: ", b"x"),
    "a head of 8 KiB": (b"GET /ws HTTP/1.1\r\nX: " + b"x" * 8000, b""),
    "ping flood": (HANDSHAKE, frame(0x89, bytes(125)) * 50),
    "claims 16 MiB": (HANDSHAKE + frame(0x82, b"x", 16 << 20), b"x" * 1000),
    "claims 2^63 - 1": (HANDSHAKE + frame(0x82, b"x", (1 << 63) - 1), b"x" * 1000),
    "claims 64 KiB, sends little": (HANDSHAKE + frame(0x82, b"x", 65_536), b"x"),
    "connects and holds": (b"", b""),
    "holds a connection": (HANDSHAKE, b""),
}


class Attacker:
    def __init__(self, address, selector, kind):
        self.address, self.selector, self.kind = address, selector, kind
        self.connect()

    def connect(self):
        self.first, self.again = KINDS[self.kind]
        self.pending = memoryview(self.first)
        self.socket = socket.socket()
        self.socket.setblocking(False)
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        self.socket.connect_ex(self.address)
        self.selector.register(self.socket, selectors.EVENT_WRITE, self)

    def act(self):
        """Sends what it has; one that was thrown out comes back."""
        try:
            if not self.pending:
                self.pending = memoryview(self.again)
                if not self.pending:
                    # It holds what it has, and is only asked whether it is still there.
                    self.selector.modify(self.socket, selectors.EVENT_READ, self)
                    return 0
            sent = self.socket.send(self.pending[:16384])
            self.pending = self.pending[sent:]
            return 0
        except BlockingIOError:
            return 0
        except OSError:
            self.leave()
            self.connect()
            return 1

    def heard(self):
        """It does not read, but notices the end."""
        try:
            if self.socket.recv(1):
                return 0
        except BlockingIOError:
            return 0
        except OSError:
            pass
        self.leave()
        self.connect()
        return 1

    def leave(self):
        self.selector.unregister(self.socket)
        self.socket.close()


def resident_kib(pid):
    with open(f"/proc/{pid}/status", encoding="ascii") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmRSS:"))


def kept_waiting(pid):
    """The seconds in which it could have run, but others had the processors."""
    with open(f"/proc/{pid}/schedstat", encoding="ascii") as schedstat:
        return int(schedstat.read().split()[1]) / 1e9


def descriptors(pid):
    return len(os.listdir(f"/proc/{pid}/fd"))


def main(options):
    host, port = options.address.rsplit(":", 1)
    address, pid = (host, int(port)), options.pid
    chance = random.Random(1)

    good = socket.create_connection(address)
    good.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    good.sendall(HANDSHAKE)
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        byte = good.recv(1)
        assert byte, f"the connection ended after {head}"
        head += byte
    assert head.startswith(b"HTTP/1.1 101 "), head
    before, fds = resident_kib(pid), descriptors(pid)

    selector = selectors.DefaultSelector()
    kinds = list(KINDS)
    attackers = [Attacker(address, selector, kinds[i % len(kinds)]) for i in range(1000)]
    chance.shuffle(attackers)

    good.setblocking(False)
    message = frame(0x81, b"are you there?")
    answer = b"\x81\x0eare you there?"
    latencies, received, asked = [], b"", None
    both = (pid, os.getpid())
    kept_then = [0.0, 0.0]

    def latency():
        """Without what is the doing of others on the machine."""
        kept = [kept_waiting(each) - then for each, then in zip(both, kept_then)]
        return max(0.0, time.monotonic() - asked - max(kept))

    highest, came_back, deadline = before, 0, time.monotonic() + options.seconds
    next_look = 0.0
    while (now := time.monotonic()) < deadline:
        if asked is None:
            kept_then[:] = map(kept_waiting, both)
            good.send(message)
            asked = time.monotonic()
        try:
            received += good.recv(100)
            if not received:
                sys.exit("the client that behaves was closed")
        except BlockingIOError:
            pass
        if received == answer:
            latencies.append(latency())
            received, asked = b"", None
        elif not answer.startswith(received):
            sys.exit(f"the client that behaves got {received}")
        for key, events in selector.select(0)[:100]:
            who = key.data
            came_back += who.heard() if events & selectors.EVENT_READ else who.act()
        if now > next_look:
            next_look = now + 0.02
            highest = max(highest, resident_kib(pid))
    if asked is not None:
        latencies.append(latency())

    for attacker in attackers:
        attacker.leave()
    latencies.sort()
    p99, longest = latencies[int(len(latencies) * 0.99)] * 1000, latencies[-1] * 1000

    end = time.monotonic() + 20
    while descriptors(pid) > fds and time.monotonic() < end:
        time.sleep(0.05)
    left_fds = descriptors(pid) - fds
    # The server looks whether the load has passed for good.
    end = time.monotonic() + 5
    while (after := resident_kib(pid)) > before + options.left and time.monotonic() < end:
        time.sleep(0.05)

    if options.report:
        return print(before, highest, after, f"{p99:.1f} {longest:.1f}")
    print(f"ok: {len(latencies)} echoes for the client that behaves, p99 {p99:.1f} ms, the longest {longest:.1f} ms")
    print(f"ok: attackers were thrown out and came back {came_back} times")
    print(f"ok: resident {before} KiB before, {highest} KiB at the most: +{highest - before} KiB")
    assert highest < before + BUDGET_KIB + SLACK_KIB, "more than the budget and 4 MiB"
    assert p99 < 500, "the client that behaves had to wait"
    assert len(latencies) > 100, "too few echoes to judge"
    assert left_fds <= 0, "descriptors were not given back"
    print(f"ok: {after} KiB when all were gone: +{after - before} KiB")
    assert after <= before + options.left, f"more than {options.left} KiB were not given back"


parser = argparse.ArgumentParser()
parser.add_argument("--seconds", type=float, default=20)
parser.add_argument("--left", type=int, default=2048, help="so many KiB need not come back")
parser.add_argument("--report", action="store_true", help="print KiB before, most, after, and ms: p99, longest; judge nothing")
parser.add_argument("address")
parser.add_argument("pid", type=int)
main(parser.parse_args())
