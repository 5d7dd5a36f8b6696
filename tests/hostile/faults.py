"""Faults of real sockets, and a client beside them that must not notice.

Usage: faults.py descriptors|killed|reset|many HOST:PORT PID
"""

import os
import signal
import socket
import struct
import sys
import time

from wire import HANDSHAKE

TEXT = b"\x81\x85\0\0\0\0hello"
ECHO = b"\x81\x05hello"
# A message of 60,000 bytes of which 1,000 came.
BEGUN = b"\x82\xfe" + struct.pack("!H", 60_000) + bytes(4) + bytes(1000)


def connect(address):
    client = socket.create_connection(address, timeout=20)
    client.sendall(HANDSHAKE)
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        byte = client.recv(1)
        assert byte, f"the connection ended after {head}"
        head += byte
    assert head.startswith(b"HTTP/1.1 101 "), head
    return client


def echo(client):
    client.sendall(TEXT)
    answer = b""
    while len(answer) < len(ECHO):
        more = client.recv(100)
        assert more, "the connection ended"
        answer += more
    assert answer == ECHO, answer


def descriptors(pid):
    return len(os.listdir(f"/proc/{pid}/fd"))


def resident_kib(pid):
    with open(f"/proc/{pid}/status", encoding="ascii") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmRSS:"))


def wait_for_descriptors(pid, count):
    end = time.monotonic() + 20
    while descriptors(pid) > count:
        assert time.monotonic() < end, f"{descriptors(pid)} descriptors, there were {count}"
        time.sleep(0.01)


def test_descriptors(address, pid, good):
    """More clients than descriptors: the rest wait in the kernel until there are some."""
    before = descriptors(pid)
    held = [socket.create_connection(address, timeout=20) for _ in range(60)]
    end = time.monotonic() + 20
    while descriptors(pid) < 40:
        assert time.monotonic() < end, "the descriptors never ran out"
        time.sleep(0.01)
    echo(good)
    # It tries again and again meanwhile.
    time.sleep(1)
    for client in held:
        client.close()
    echo(connect(address))
    wait_for_descriptors(pid, before)
    print("ok: with all descriptors used the others are served, and newcomers when there are some again")


def test_killed(address, pid, good):
    """A client process is killed in mid-message."""
    before = descriptors(pid)
    for _ in range(20):
        child = os.fork()
        if child == 0:
            client = connect(address)
            client.sendall(BEGUN)
            os.kill(os.getpid(), signal.SIGKILL)
        os.waitpid(child, 0)
        echo(good)
    wait_for_descriptors(pid, before)
    print("ok: 20 clients killed in mid-message leave nothing behind")


def test_reset(address, pid, good):
    """Clients reset the connection: in mid-message, with echoes unread, before a word."""
    before = descriptors(pid)
    for i in range(300):
        client = socket.create_connection(address, timeout=20) if i % 3 == 0 else connect(address)
        if i % 3 == 1:
            client.sendall(BEGUN)
        if i % 3 == 2:
            client.sendall(TEXT * 100)
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        client.close()
    echo(good)
    wait_for_descriptors(pid, before)
    print("ok: 300 clients that reset the connection leave nothing behind")


def test_many(address, pid, good):
    """10,000 connects and disconnects: neither memory nor descriptors grow."""
    before = descriptors(pid)
    resident = []
    for i in range(10_000):
        client = connect(address)
        if i % 10 == 0:
            echo(client)
        # So that the client's ports do not run out: a reset leaves none waiting.
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        client.close()
        if i % 1000 == 999:
            resident.append(resident_kib(pid))
    echo(good)
    wait_for_descriptors(pid, before)
    print(f"ok: 10,000 connects: resident {resident[0]} KiB after 1,000, {resident[-1]} KiB after all")
    assert resident[-1] - resident[0] < 512, resident


def main(name, address, pid):
    host, port = address.rsplit(":", 1)
    address = (host, int(port))
    good = connect(address)
    echo(good)
    globals()[f"test_{name}"](address, pid, good)
    echo(good)


main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
