"""Clients whose link goes down without a word, and others that are only slow: who is ended, when, and what stays behind.

Usage: dead_peers.py NET HOST:PORT PID LOG
NET is what the names of the namespaces begin with, HOST:PORT is the server's loopback address within its own.
"""

import collections
import concurrent.futures
import ctypes
import fcntl
import itertools
import os
import random
import select
import socket
import struct
import subprocess
import sys
import threading
import time

from wire import HANDSHAKE, frame

# What the server was started with, and its write_timeout.
PING_INTERVAL, PONG_TIMEOUT, WRITE_TIMEOUT = 3, 2, 10
NOTICED = PING_INTERVAL + PONG_TIMEOUT
# For a machine that is busy with other things. Less than another ping would take.
TOLERANCE = 1
# The kernel looks at its own time limits only when it tries again.
KERNEL_TOLERANCE = 2

SERVER = ("192.0.2.1", 7777)
BINARY, CLOSE, PING, PONG = 0x82, 0x88, 0x89, 0x8A
# A message of 60,000 bytes of which 30,000 came.
BEGUN = b"\x82\xfe" + struct.pack("!H", 60_000) + bytes(4) + bytes(30_000)
# Over a link of 1 Mbit/s two of these take some sixteen seconds.
LARGE = 960 * 1024
FULL = 64 * 1024


def enter(namespace):
    """Moves this thread into a network namespace: what it makes there stays there."""
    libc = ctypes.CDLL(None, use_errno=True)
    with open(f"/run/netns/{namespace}", "rb") as file:
        if libc.setns(file.fileno(), 0x40000000) != 0:
            raise OSError(ctypes.get_errno(), f"cannot enter {namespace}")


def ip(*arguments):
    subprocess.run(["ip", *arguments], check=True)


class Peer:
    def __init__(self, address, receive_buffer=None, read_bytes=65536, pause=0.0):
        self.read_bytes, self.pause = read_bytes, pause
        self.socket = socket.socket()
        self.socket.settimeout(20)
        if receive_buffer:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket.connect(address)
        self.who = "{}:{}".format(*self.socket.getsockname())
        self.pings, self.unread = 0, bytearray()
        self.socket.sendall(HANDSHAKE)
        while b"\r\n\r\n" not in self.unread:
            self.fill()
        head, _, self.unread = self.unread.partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 101 "), head

    def fill(self):
        time.sleep(self.pause)
        more = self.socket.recv(self.read_bytes)
        assert more, "the connection ended"
        self.unread += more

    def take(self, count):
        while len(self.unread) < count:
            self.fill()
        taken = bytes(self.unread[:count])
        del self.unread[:count]
        return taken

    def read(self):
        """The next frame. A Ping is answered."""
        first, length = self.take(2)
        if length == 126:
            (length,) = struct.unpack("!H", self.take(2))
        elif length == 127:
            (length,) = struct.unpack("!Q", self.take(8))
        payload = self.take(length)
        if first == PING:
            self.pings += 1
            self.socket.sendall(frame(PONG, payload))
        return first, payload

    def answer_a_ping(self):
        assert self.read() == (PING, b"")

    def echo(self, messages):
        """Sends them all, then expects them back as they were."""
        self.socket.sendall(b"".join(frame(BINARY, message) for message in messages))
        for message in messages:
            while (answer := self.read())[0] == PING:
                pass
            assert answer == (BINARY, message), "not what was sent"

    def close(self, watch):
        self.socket.sendall(frame(CLOSE, b"\x03\xe8"))
        while (answer := self.read())[0] == PING:
            pass
        assert answer == (CLOSE, b"\x03\xe8"), answer
        self.socket.close()
        end = watch.end_of(self.who, time.monotonic() + 5)
        assert end and end.startswith("closed by the peer, code 1000,"), end


class Watch:
    """What can be seen of the server from beside it."""

    def __init__(self, net, pid, log):
        self.namespace, self.pid, self.log = f"{net}-server", pid, log

    def descriptors(self):
        return len(os.listdir(f"/proc/{self.pid}/fd"))

    def lines(self):
        with open(self.log, encoding="utf-8") as log:
            # The last one may be half written.
            return log.read().split("\n")[:-1]

    def end_of(self, who, until):
        """What the log says of a connection's end, if it has it in time."""
        while True:
            for line in self.lines():
                if f" {who} /ws closed " in line:
                    return line.split(" /ws ")[1]
            if time.monotonic() > until:
                return None
            time.sleep(0.01)

    def sockets(self, who):
        """The kernel's sockets for a peer: state, bytes the server has not read, bytes the peer has not acknowledged."""
        ss = ["ss", "-N", self.namespace, "-Htn", "state", "all", "dst", who]
        lines = subprocess.run(ss, check=True, capture_output=True, text=True).stdout.splitlines()
        return [(state, int(unread), int(unsent)) for state, unread, unsent, *_ in map(str.split, lines)]


# Four ways to be when the link goes down.


def idle(peer, _watch):
    peer.answer_a_ping()


def halfway(peer, _watch):
    """In the middle of a message of its own."""
    peer.answer_a_ping()
    peer.socket.sendall(BEGUN)


def receiving(peer, watch):
    """In the middle of its echoes, which the server has queued."""
    exchange(peer, [bytes(LARGE)] * 2, lambda: watch.sockets(peer.who)[0][2] > FULL)


def jammed(peer, watch):
    """The same, and it sends on, so that the server reads no more: no pong could be heard."""
    exchange(peer, itertools.repeat(bytes(4096)), lambda: min(watch.sockets(peer.who)[0][1:]) > FULL)


def exchange(peer, messages, enough):
    """Sends as much as is taken and reads what comes until it is enough."""
    frames = (frame(BINARY, message) for message in messages)
    pending = memoryview(b"")
    while not enough():
        pending = pending or memoryview(next(frames, b""))
        readable, writable, _ = select.select([peer.socket], [peer.socket] if pending else [], [], 0.05)
        if readable:
            assert peer.socket.recv(65536), "the connection ended"
        if writable:
            pending = pending[peer.socket.send(pending, socket.MSG_DONTWAIT) :]


def vanishes(what, net, watch):
    enter(f"{net}-{what.__name__}")
    peer = Peer(SERVER)
    what(peer, watch)
    down = time.monotonic()
    ip("link", "set", "cable", "down")
    end = watch.end_of(peer.who, down + NOTICED + TOLERANCE)
    noticed = time.monotonic()
    assert end, f"not noticed within {NOTICED + TOLERANCE} s: {watch.sockets(peer.who)}"
    assert end.startswith(f'closed by this side, code 1006, "no pong within {PONG_TIMEOUT}s",'), end
    report(f"{what.__name__}: the link goes down, noticed after {noticed - down:.2f} s (bound {NOTICED + TOLERANCE} s)")

    while sockets := watch.sockets(peer.who):
        kept = time.monotonic() - noticed
        assert kept < WRITE_TIMEOUT + KERNEL_TOLERANCE, f"the kernel still keeps {sockets}"
        time.sleep(0.02)
    kept = time.monotonic() - noticed
    report(f"{what.__name__}: the kernel has no socket of it {kept:.1f} s later (bound {WRITE_TIMEOUT + KERNEL_TOLERANCE} s)")


# Three that are slow, and live.


def lossy(net, watch):
    """A long way, on which packets get lost."""
    enter(f"{net}-lossy")
    relay = Relay(net, delay=0.15, loses_one_of=20)
    # Before any ping: the first may be due right behind the handshake.
    began = time.monotonic()
    peer = Peer(SERVER)
    chance = random.Random(1)
    while peer.pings < 6:
        before = peer.pings
        peer.echo([chance.randbytes(2000) for _ in range(10)])
        while peer.pings == before:
            peer.answer_a_ping()
    took = time.monotonic() - began
    peer.close(watch)
    assert took > 5 * PING_INTERVAL, took
    assert relay.lost > 0, "nothing was lost"
    report(
        f"lossy: kept for {took:.1f} s and {peer.pings} pings with 300 ms there and back, "
        f"{relay.lost} of {relay.passed + relay.lost} packets lost, all echoes intact"
    )


class Relay:
    """A cable from the server's switch to this namespace that delays, and loses one packet of so many in each direction.
    Evenly: by chance it could be all that tell of a peer's life."""

    def __init__(self, net, delay, loses_one_of):
        self.delay, self.loses_one_of = delay, loses_one_of
        self.passed = self.lost = 0
        ends = [self.tap("cable"), self.tap("lossy")]
        ip("link", "set", "lossy", "netns", f"{net}-server")
        ip("-n", f"{net}-server", "link", "set", "lossy", "master", "switch", "up")
        ip("address", "add", "192.0.2.100/24", "dev", "cable")
        ip("link", "set", "cable", "up")
        threading.Thread(target=self.run, args=(ends,), daemon=True).start()

    @staticmethod
    def tap(name):
        end = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
        # TUNSETIFF with IFF_TAP and IFF_NO_PI.
        fcntl.ioctl(end, 0x400454CA, struct.pack("16sH22x", name.encode(), 0x0002 | 0x1000))
        return end

    def run(self, ends):
        others = dict(zip(ends, reversed(ends)))
        seen = dict.fromkeys(ends, 0)
        underway = collections.deque()
        while True:
            wait = max(0, underway[0][0] - time.monotonic()) if underway else None
            for end in select.select(ends, [], [], wait)[0]:
                packet = os.read(end, 65536)
                seen[end] += 1
                if seen[end] % self.loses_one_of == 0:
                    self.lost += 1
                else:
                    underway.append((time.monotonic() + self.delay, others[end], packet))
            while underway and underway[0][0] <= time.monotonic():
                _, end, packet = underway.popleft()
                os.write(end, packet)
                self.passed += 1


def thin(net, watch):
    """Busy receiving large messages over a thin link."""
    enter(f"{net}-thin")
    busy(watch, "thin: over 1 Mbit/s", Peer(SERVER), LARGE)


def slow(net, watch):
    """A program that is slow to read what its own system holds for it."""
    enter(f"{net}-slow")
    peer = Peer(SERVER, receive_buffer=4096, read_bytes=2048, pause=0.2)
    busy(watch, "slow: with 2 KiB read each 0.2 s", peer, 80 * 1024)


def busy(watch, how, peer, size):
    chance = random.Random(1)
    began = time.monotonic()
    peer.echo([chance.randbytes(size) for _ in range(2)])
    took = time.monotonic() - began
    assert took > 3 * NOTICED, f"over too soon to tell, after {took:.1f} s"
    peer.pause = 0
    peer.close(watch)
    report(f"{how} 2 messages of {size // 1024} KiB arrive intact in {took:.1f} s, with {peer.pings} pings answered")


def report(text):
    # In one write, for others report beside it.
    os.write(1, f"ok: {text}\n".encode())


def main(net, loopback, pid, log):
    enter(f"{net}-server")
    watch = Watch(net, pid, log)
    host, port = loopback.rsplit(":", 1)
    bystander = Peer((host, int(port)))
    bystander.echo([b"hello"])
    before = watch.descriptors()

    with concurrent.futures.ThreadPoolExecutor(7) as pool:
        cases = {pool.submit(vanishes, what, net, watch): what for what in (idle, halfway, receiving, jammed)}
        cases |= {pool.submit(what, net, watch): what for what in (lossy, thin, slow)}
        longest, echoes = 0, 0
        while not all(case.done() for case in cases):
            asked = time.monotonic()
            bystander.echo([b"hello"])
            longest, echoes = max(longest, time.monotonic() - asked), echoes + 1
            concurrent.futures.wait(cases, timeout=0.02)
    failed = [f"{what.__name__}: {case.exception()!r}" for case, what in cases.items() if case.exception()]
    if failed:
        sys.exit("\n".join(watch.lines() + [f"fail: {what}" for what in failed]))

    assert longest < PONG_TIMEOUT, f"the bystander waited for {longest:.2f} s"
    report(f"a bystander had {echoes} echoes meanwhile, the longest took {longest * 1000:.0f} ms")
    opened, ended = (sum(f"/ws {word}" in line for line in watch.lines()) for word in ("open", "closed"))
    assert (opened, ended) == (1 + len(cases), len(cases)), watch.lines()
    until = time.monotonic() + 5
    while watch.descriptors() != before:
        assert time.monotonic() < until, f"{watch.descriptors()} descriptors, there were {before}"
        time.sleep(0.01)
    report(f"the server is back at {before} descriptors and 1 connection, {ended} have ended")
    bystander.close(watch)


main(sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4])
