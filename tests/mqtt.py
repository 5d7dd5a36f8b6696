"""Clients of relays that share their topics, with `websockets`: all A B PORT, send TOPIC TEXT, reads TOPIC TEXT..., until TOPIC TEXT,
silent TOPIC, local TOPIC TEXT, flood TOPIC N. A and B are where two relays have their topics, PORT is the broker's."""

import asyncio
import contextlib
import sys

from websockets.asyncio.client import connect

# A wait that takes longer has no end.
HANG_GUARD = 50
NUMBER = 100


def client(url):
    # No proxy, whatever the environment says, and no pings but the server's.
    return connect(url, proxy=None, ping_interval=None, close_timeout=1)


def check(fact, holds, seen=None):
    if not holds:
        sys.exit(f"fail: {fact}: saw {seen!r}")


async def heard(ws):
    return await asyncio.wait_for(ws.recv(), HANG_GUARD)


async def send(url, text):
    async with client(f"{url}?publish") as ws:
        await ws.send(text)


async def reads(url, *texts):
    """These come, and nothing between them."""
    async with client(url) as ws:
        for text in texts:
            got = await heard(ws)
            check(f"{text!r} comes at {url}", got == text, got)
            print("read", text, flush=True)


async def until(url, text):
    async with client(url) as ws:
        await collect(ws, text)


async def silent(url):
    """The first message that comes is the client's own."""
    async with client(url) as ws:
        await ws.send("own")
        got = await heard(ws)
        check(f"{url} retains nothing", got == "own", got)
        await ws.send("")


async def local(url, text):
    async with client(url) as reader:
        await send(url, text)
        got = await heard(reader)
        check("it comes to the other client", got == text, got)


async def flood(url, number):
    """Publishes numbers, and reads them all as another client."""
    async with client(url) as reader, client(f"{url}?publish") as ws:
        for sent in range(int(number)):
            await ws.send(str(sent))
            got = await heard(reader)
            check("all come here", got == str(sent), got)


def messages(who):
    """Of both types. Each comes twice in a row: the second is no repetition of the first."""
    for number in range(NUMBER // 2):
        text = f"{who} {number // 2}"
        yield text if number < NUMBER // 4 else text.encode() + b"\xff"


async def plain(kind, port, *args, **streams):
    args = ["-h", "127.0.0.1", "-p", port, "-V", "5", "-q", "1", *args]
    # Lines are written at once.
    return await asyncio.create_subprocess_exec("stdbuf", "-oL", f"mosquitto_{kind}", *args, **streams)


def end(process):
    with contextlib.suppress(ProcessLookupError):
        process.kill()


async def publish_plainly(port, *texts):
    for text in texts:
        publisher = await plain("pub", port, "-t", "site/house", "-m", text)
        status = await asyncio.wait_for(publisher.wait(), HANG_GUARD)
        check("mosquitto_pub publishes", status == 0, status)


async def publish(url, who):
    async with client(f"{url}?publish") as ws:
        for message in messages(who):
            await ws.send(message)


async def collect(ws, last):
    got = []
    while (message := await heard(ws)) != last:
        got.append(message)
    return got


async def all_well(a, b, port):
    from_plain = [f"plain {number // 2}" for number in range(NUMBER // 5)]
    expected = {"a": list(messages("a")), "b": list(messages("b")), "plain": from_plain}
    total = sum(map(len, expected.values()))
    async with contextlib.AsyncExitStack() as stack:
        urls = [f"{side}/house" for side in [a, a, b, b]]
        readers = [await stack.enter_async_context(client(url)) for url in urls]
        everything = await stack.enter_async_context(client(f"{b}/*"))
        # What an earlier run left is not what is counted.
        await publish_plainly(port, "begin")
        for ws in readers:
            await collect(ws, "begin")
        await collect(everything, "house\nbegin")
        hears = ["-t", "site/house", "-R", "-C", str(total + 1), "-F", "%x"]
        subscriber = await plain("sub", port, *hears, "-d", stdout=asyncio.subprocess.PIPE)
        stack.callback(end, subscriber)
        while b"Subscribed" not in await asyncio.wait_for(subscriber.stdout.readline(), HANG_GUARD):
            pass
        publishers = [publish(urls[0], "a"), publish(urls[2], "b"), publish_plainly(port, *from_plain)]
        await asyncio.wait_for(asyncio.gather(*publishers), HANG_GUARD)
        heard_all = [[await heard(ws) for _ in range(total)] for ws in readers]
        # All is there: what came twice would be before this.
        await publish_plainly(port, "last")
        for ws, got in zip(readers, heard_all):
            rest = await collect(ws, "last")
            check("nothing comes twice", rest == [], rest)
            check_order(got, expected)
        named = await collect(everything, "house\nlast")
        check("one of all topics gets each", len(named) == total, len(named))
        output = await asyncio.wait_for(subscriber.stdout.read(), HANG_GUARD)
        lines = [line for line in output.decode().split("\n") if line and not line.startswith(("Client", "Sub"))]
        at_broker = [decode(line) for line in lines]
        check("the broker's client gets each, too", at_broker.pop() == "last", at_broker)
        check_order(at_broker, expected)


def decode(line):
    payload = bytes.fromhex(line)
    try:
        return payload.decode()
    except UnicodeDecodeError:
        return payload


def check_order(got, expected):
    for who, messages in expected.items():
        own = [message for message in got if message.startswith(f"{who} ".encode() if isinstance(message, bytes) else f"{who} ")]
        check(f"what {who} publishes comes once and in order", own == messages, own)


JOBS = {"all": all_well, "send": send, "reads": reads, "until": until, "silent": silent, "local": local, "flood": flood}
asyncio.run(JOBS[sys.argv[1]](*sys.argv[2:]))
