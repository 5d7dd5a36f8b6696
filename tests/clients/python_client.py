"""A client of whit, with `websockets`: python_client.py all URL PID, or any-origin URL."""

import asyncio
import os
import signal
import sys
import time

from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

MAX_MESSAGE = 64 * 1024
FOREIGN = "http://foreign.example"


def check(fact, holds, seen=None):
    if not holds:
        sys.exit(f"fail: {fact}" + ("" if seen is None else f": saw {seen!r}"))
    print(f"ok: {fact}", flush=True)


def client(url, **options):
    # No proxy, whatever the environment says, and no pings but those of a test.
    return connect(url, proxy=None, ping_interval=None, **options)


async def receive(ws):
    """The next message that is not a heartbeat."""
    while True:
        message = await ws.recv()
        if message != "heartbeat":
            return message


async def closed(ws):
    """The code and reason of the Close that the server sends, after any messages before it."""
    try:
        while True:
            await ws.recv()
    except ConnectionClosed as end:
        return end.rcvd and (end.rcvd.code, end.rcvd.reason)


async def echo(url):
    async with client(url) as ws:
        for size in [0, 1, 125, 126, 127, 65535, 65536]:
            for message in ["x" * size, os.urandom(size)]:
                await ws.send(message)
                answer = await receive(ws)
                kind = type(message).__name__
                if type(answer) is not type(message) or answer != message:
                    sys.exit(f"fail: {kind} of {size} bytes: {len(answer)} of {type(answer)} came back")
        check("text and binary of 0, 1, 125, 126, 127, 65535 and 65536 bytes come back identical", True)

        for text in ["grüße, 世界", "\U0001f980 é\u0301", "\x00\x01\x7f", "<b>&amp;</b>\r\n"]:
            await ws.send(text)
            answer = await receive(ws)
            if answer != text:
                sys.exit(f"fail: {text!r} came back as {answer!r}")
        check("unicode and control characters come back identical", True)

        fragments = ["frag", "men", "", "ted é"]
        await ws.send(fragments)
        answer = await receive(ws)
        check("a fragmented text comes back whole", answer == "".join(fragments), answer)

        messages = [f"{i}" if i % 2 else f"{i}".encode() for i in range(500)]
        answers, _ = await asyncio.gather(
            collect(ws, len(messages)), send_all(ws, messages)
        )
        check("500 messages sent without waiting come back once each, in order", answers == messages)


async def collect(ws, count):
    return [await receive(ws) for _ in range(count)]


async def send_all(ws, messages):
    for message in messages:
        await ws.send(message)


async def ping(url):
    async with client(url) as ws:
        # The waiter ends only when a Pong with this very payload comes.
        for payload in [b"", b"whit", os.urandom(125)]:
            await asyncio.wait_for(await ws.ping(payload), 5)
    check("pings with 0, 4 and 125 bytes get their pongs", True)


async def close_codes(url):
    for code, reason in [(1000, ""), (4000, "grüße"), (3000, "x" * 123)]:
        async with client(url) as ws:
            await ws.close(code, reason)
            got = ws.protocol.close_rcvd
            # A Close that the server began would not be an echo of ours.
            is_ours = got is not None and ws.protocol.close_rcvd_then_sent is False
        # The answer has the code (RFC 6455 5.5.1); the reason is for the server's log.
        check(f"a close with {code} and {len(reason)} characters of reason is answered with {code}", is_ours and got.code == code, got)

    async with client(url) as ws:
        await ws.send(b"x" * (MAX_MESSAGE + 1))
        code = await closed(ws)
    check("a message of 65537 bytes is closed with 1009", code is not None and code[0] == 1009, code)

    async with client(url) as ws:
        await ws.send("still here")
        check("the server goes on after that", await receive(ws) == "still here")


async def heartbeat(url):
    async with client(url) as ws:
        times = []
        for _ in range(4):
            message = await asyncio.wait_for(ws.recv(), 5)
            times.append(time.monotonic())
            if message != "heartbeat":
                sys.exit(f"fail: a heartbeat was due, {message!r} came")
    gaps = [later - earlier for earlier, later in zip(times, times[1:])]
    shown = ", ".join(f"{gap:.3f} s" for gap in gaps)
    check(f"heartbeats come a second apart: {shown}", all(0.1 < gap < 1.9 for gap in gaps) and 2.1 < sum(gaps) < 3.9)


async def foreign_origin(url):
    try:
        async with client(url, origin=FOREIGN):
            status = 101
    except InvalidStatus as refused:
        status = refused.response.status_code
    check(f"a page of {FOREIGN} gets 403", status == 403, status)

    own = url.replace("ws://", "http://").rsplit("/", 1)[0]
    async with client(url, origin=own) as ws:
        await ws.send("hello")
        check(f"a page of {own} gets in", await receive(ws) == "hello")


async def any_origin(url):
    async with client(url, origin=FOREIGN) as ws:
        await ws.send("hello")
        check(f"with --allow-origin any a page of {FOREIGN} gets in", await receive(ws) == "hello")


async def many(url):
    count, each = 200, 20
    all_open = asyncio.Barrier(count)

    async def one(number):
        async with client(url, open_timeout=30) as ws:
            await all_open.wait()
            messages = [f"{number} {i}" if i % 2 else f"{number} {i}".encode() for i in range(each)]
            answers, _ = await asyncio.gather(collect(ws, each), send_all(ws, messages))
            return answers == messages

    right = sum(await asyncio.gather(*(one(number) for number in range(count))))
    check(f"{count} connections at once each get their own {each} messages back, in order", right == count, right)


async def going_away(url, pid):
    async with client(url) as idle, client(url) as busy:
        await busy.send("hello")
        await receive(busy)
        os.kill(pid, signal.SIGTERM)
        for ws in (idle, busy):
            code = await closed(ws)
            check(f"at SIGTERM a connection is closed with 1001: {code}", code is not None and code[0] == 1001, code)


async def main():
    if sys.argv[1] == "any-origin":
        return await any_origin(sys.argv[2])
    url, pid = sys.argv[2], int(sys.argv[3])
    for test in (echo, ping, close_codes, heartbeat, foreign_origin, many):
        async with asyncio.timeout(30):
            await test(url)
    async with asyncio.timeout(30):
        await going_away(url, pid)


asyncio.run(main())
