"""1,000 clients of whit: many_client.py URL PID."""

import asyncio
import os
import select
import signal
import sys
import time
from pathlib import Path

from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

COUNT = 1000
AT_SHUTDOWN = 100
# So loose that only a mistake breaks it: the figures that are printed are what counts.
MAX_KIB_EACH = 40
DRAIN_SECONDS = 10


def check(fact, holds, seen=None):
    if not holds:
        sys.exit(f"fail: {fact}" + ("" if seen is None else f": saw {seen!r}"))
    print(f"ok: {fact}", flush=True)


class Process:
    def __init__(self, pid):
        self.pid = pid
        self.proc = Path(f"/proc/{pid}")

    def rss_kib(self):
        for line in (self.proc / "status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1])
        sys.exit("fail: the server has no VmRSS: it has ended")

    def threads(self):
        return sorted(
            (task / "comm").read_text().strip() for task in (self.proc / "task").iterdir()
        )

    def files(self):
        return len(list((self.proc / "fd").iterdir()))


def client(url):
    # Small read-ahead and no compression keep a thousand clients light.
    return connect(url, proxy=None, ping_interval=None, compression=None, open_timeout=60, max_queue=4)


async def open_many(url, count):
    # The kernel's queue of new connections is shorter than all at once.
    gate = asyncio.Semaphore(100)

    async def open_one():
        async with gate:
            return await client(url)

    return await asyncio.gather(*(open_one() for _ in range(count)))


async def echo(ws, message):
    await ws.send(message)
    while (answer := await ws.recv()) == "heartbeat":
        pass
    return answer == message


async def closed(ws):
    try:
        while True:
            await ws.recv()
    except ConnectionClosed as end:
        return end.rcvd and end.rcvd.code


async def close_all(connections, server, files):
    async with asyncio.timeout(60):
        await asyncio.gather(*(ws.close() for ws in connections))
        codes = {ws.protocol.close_rcvd and ws.protocol.close_rcvd.code for ws in connections}
        if codes != {1000}:
            sys.exit(f"fail: a close with 1000 is answered with 1000: saw {codes}")
        # No client can see when the server lets go of a socket, so it is asked again and again.
        while server.files() > files:
            await asyncio.sleep(0.02)


async def main():
    url, server = sys.argv[1], Process(int(sys.argv[2]))

    # One comes and goes first, so that what is made once and kept does not count.
    async with client(url) as ws:
        if not await echo(ws, "first"):
            sys.exit("fail: the first message did not come back")
        files = server.files() - 1
    threads, before = server.threads(), server.rss_kib()

    async with asyncio.timeout(60):
        started = time.monotonic()
        connections = await open_many(url, COUNT)
        took = time.monotonic() - started
    check(f"{COUNT} connections open at once, after {took:.1f} s", server.files() >= files + COUNT, server.files())
    idle = server.rss_kib()
    while_many = server.threads()
    check(f"threads: {len(threads)} before, {len(while_many)} with {COUNT} connections ({', '.join(while_many)})", while_many == threads, threads)

    async with asyncio.timeout(60):
        right = sum(await asyncio.gather(*(echo(ws, f"message of {i}") for i, ws in enumerate(connections))))
    check(f"each of {COUNT} got its own message back", right == COUNT, right)
    after_echo = server.rss_kib()

    await close_all(connections, server, files)
    check("all closed with 1000, and the server holds no descriptor of them any more", True)
    gone = server.rss_kib()

    connections = await open_many(url, COUNT)
    again = server.rss_kib()
    await close_all(connections, server, files)

    each = (idle - before) / COUNT
    each_after_echo = (after_echo - before) / COUNT
    print(f"RSS: {before} KiB before, {idle} KiB with {COUNT} idle, {after_echo} KiB after a message each, {gone} KiB when they were gone, {again} KiB with {COUNT} others")
    print(f"RSS for each connection: {each:.1f} KiB idle, {each_after_echo:.1f} KiB after a message")
    check(f"under {MAX_KIB_EACH} KiB for each connection", 0 < each < MAX_KIB_EACH and each_after_echo < MAX_KIB_EACH, each)
    # An allocator may keep what was freed, but then the next ones must be made of it.
    check(f"others after them need no more: {again - after_echo:+} KiB", again - after_echo < 1024)

    connections = await open_many(url, AT_SHUTDOWN)
    ended = os.pidfd_open(server.pid)
    started = time.monotonic()
    os.kill(server.pid, signal.SIGTERM)
    async with asyncio.timeout(DRAIN_SECONDS):
        codes = await asyncio.gather(*(closed(ws) for ws in connections))
    check(f"at SIGTERM {AT_SHUTDOWN} connections are closed with 1001", codes == [1001] * AT_SHUTDOWN, set(codes))
    readable, _, _ = select.select([ended], [], [], DRAIN_SECONDS)
    took = time.monotonic() - started
    check(f"the server ended {took:.2f} s after SIGTERM", readable and took < DRAIN_SECONDS, took)


asyncio.run(main())
