"""Starts each example and is its client. Run by examples.sh with the folder of the programs."""

import asyncio
import contextlib
import os
import pathlib
import signal
import socket
import string
import struct
import sys
import tempfile
import tty
import urllib.request

from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

PROGRAMS = pathlib.Path(sys.argv[1])
SOURCES = pathlib.Path(__file__).parent.parent / "examples"
# Far more than any of it takes: only a hang gets here.
LIMIT_S = 30


class Example:
    """A running example."""

    def __init__(self, process, address):
        self.process = process
        self.address = address

    def connect(self, path="/ws", **options):
        return connect(f"ws://{self.address}{path}", proxy=None, max_size=None, **options)

    async def connect_slow(self, path="/ws"):
        """A client that takes next to nothing from the kernel, and the kernel next to nothing from the server, before it reads."""
        sock = socket.socket()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        sock.setblocking(False)
        host, port = self.address.split(":")
        await asyncio.get_running_loop().sock_connect(sock, (host, int(port)))
        return await self.connect(path, sock=sock, max_queue=1)

    async def page(self):
        # Proxies of the environment are not for loopback.
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        url = f"http://{self.address}/"
        with await asyncio.to_thread(opener.open, url, timeout=LIMIT_S) as answer:
            return answer.headers["Content-Type"], answer.read().decode()


@contextlib.asynccontextmanager
async def running(name, *args, status=None):
    """Starts an example, and ends it whatever happens. If all went well it has this status by then; None: it runs."""
    process = await asyncio.create_subprocess_exec(
        PROGRAMS / name,
        "127.0.0.1:0",
        *map(str, args),
        stdin=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        line = (await process.stderr.readline()).decode()
        start, end = "open http://127.0.0.1:", "/\n"
        assert line.startswith(start) and line.endswith(end), f"it said {line!r}"
        yield Example(process, line.removeprefix("open http://").removesuffix(end))
        assert process.returncode == status, f"it ended with {process.returncode}"
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()
        sys.stderr.write((await process.stderr.read()).decode())


async def fails_to_start(name, address):
    """An example that cannot listen says why in one line, and fails."""
    process = await asyncio.create_subprocess_exec(
        PROGRAMS / name,
        address,
        stdin=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        _, said = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
    lines = said.decode().splitlines()
    assert process.returncode == 1, process.returncode
    assert len(lines) == 1 and lines[0].startswith("Error: cannot listen on "), lines


async def starts_and_serves_its_page(name, example):
    content_type, page = await example.page()
    assert content_type == "text/html; charset=utf-8", content_type
    assert page == (SOURCES / f"{name}.html").read_text("utf-8")
    # A page works where there is no internet, and takes nothing from a client for HTML.
    assert "//" not in page.replace("// ", "") and "innerHTML" not in page
    await fails_to_start(name, example.address)
    await fails_to_start(name, "no address")


async def closed(client):
    """Reads to the end, and gives the code that the server closed with."""
    try:
        while True:
            await client.recv()
    except ConnectionClosed as end:
        return end.rcvd.code if end.rcvd else 1006


async def ends_on_sigint(example, client):
    """It parts from its clients in peace. That it ends with status 0 is for `running` to see."""
    example.process.send_signal(signal.SIGINT)
    assert await closed(client) == 1001
    await example.process.wait()


async def echo():
    async with running("echo") as example:
        await starts_and_serves_its_page("echo", example)
        async with example.connect() as client:
            for message in ["hello", "", "größer\n😀", b"\x00\xff", "x" * 60_000]:
                await client.send(message)
                assert await client.recv() == message


async def heard(client, *lines):
    """Waits for a message of the chat, and lets others pass."""
    wanted = "\n".join(lines)
    while await client.recv() != wanted:
        pass


async def chat():
    async with running("chat", status=0) as example:
        await starts_and_serves_its_page("chat", example)
        room = lambda name: example.connect(f"/rooms/{name}")
        async with room("kitchen") as ann, room("kitchen") as bob, room("attic") as other:
            await ann.send("Ann")
            assert await ann.recv() == "here\nAnn"
            for bad in ["", "x" * 21, "two words", "a\nb", "<b>", b"bytes"]:
                await bob.send(bad)
                assert await bob.recv() == "sorry\na name is 1 to 20 letters or digits"
            await bob.send("Ann")
            assert await bob.recv() == "sorry\nAnn is here already: choose another name"
            await bob.send("Bob")
            assert await bob.recv() == "here\nAnn\nBob"
            assert await ann.recv() == "here\nAnn\nBob"
            # Another room has names of its own.
            await other.send("Ann")
            assert await other.recv() == "here\nAnn"

            await ann.send("hello\n<b>all</b>")
            for client in [ann, bob]:
                assert await client.recv() == "said\nAnn\nhello\n<b>all</b>"
            await bob.send("hello Ann")
            for client in [ann, bob]:
                assert await client.recv() == "said\nBob\nhello Ann"
            await other.send("is nobody here?")
            assert await other.recv() == "said\nAnn\nis nobody here?"

            await bob.close()
            assert await ann.recv() == "here\nAnn"
            # The name is free again; a reset is a leaving, and so is an end without a Close.
            for linger_s in [0, 1]:
                killed = await room("kitchen")
                await killed.send("Bob")
                assert await ann.recv() == "here\nAnn\nBob"
                raw = killed.transport.get_extra_info("socket")
                linger = struct.pack("ii", 1, linger_s)
                raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
                killed.transport.abort()
                assert await ann.recv() == "here\nAnn"

            # The server closes for a broken rule: a leaving, too.
            async with room("kitchen") as loud:
                await loud.send("Bob")
                await heard(ann, "here", "Ann", "Bob")
                await loud.send("x" * 5000)
                assert await closed(loud) == 1009
                await heard(ann, "here", "Ann")
            await ends_on_sigint(example, ann)


async def chat_with_a_slow_reader():
    async with running("chat") as example:
        with contextlib.ExitStack() as stack:
            said = 0

            async def join(name, connecting):
                client = await connecting
                # A goodbye would wait behind all that this client has not read.
                stack.callback(client.transport.abort)
                await client.send(name)
                await heard(client, "here", *sorted([*here, name]))
                here.append(name)
                return client

            async def talk(client, name):
                nonlocal said
                for _ in range(20):
                    said += 1
                    await client.send(name * 4000)
                    await heard(client, "said", name, name * 4000)

            here = []
            slow = await join("Slow", example.connect_slow("/rooms/r"))
            talkers = [(await join(name, example.connect("/rooms/r")), name) for name in string.ascii_letters]
            # It reads nothing, and no one waits for it.
            await asyncio.gather(*(talk(*talker) for talker in talkers))
            # Two come, so that not only the first news of it is told.
            await join("Ann", example.connect("/rooms/r"))
            bob = await join("Bob", example.connect("/rooms/r"))
            await bob.send("end")

            # It is told how many messages it missed, and gets all others; who is here now it cannot miss.
            got = missed = 0
            last_here = []
            while (message := await slow.recv()) != "said\nBob\nend":
                what, *lines = message.split("\n")
                got += what == "said"
                missed += int(lines[0]) if what == "missed" else 0
                last_here = lines if what == "here" else last_here
            assert missed > 0 and got + missed == said, (got, missed, said)
            assert last_here == sorted(here), last_here


async def thermometer():
    with tempfile.TemporaryDirectory() as folder:
        file = pathlib.Path(folder) / "temp"
        missing = f"no sensor: {file}: No such file or directory (os error 2)"
        async with running("thermometer", file) as example:
            await starts_and_serves_its_page("thermometer", example)
            async with example.connect() as one, example.connect() as other:

                async def both_get(wanted):
                    for client in [one, other]:
                        while await client.recv() != wanted:
                            pass

                await both_get(missing)
                said = (await example.process.stderr.readline()).decode()
                assert said == f"thermometer: {missing}\n", said
                for content, wanted in [
                    ("48312\n", "48.3"),
                    ("-1250\n", "-1.2"),
                    ("", f"no sensor: {file}: it has no whole number"),
                    ("51000\n", "51.0"),
                ]:
                    file.write_text(content)
                    await both_get(wanted)
                said = (await example.process.stderr.readline()).decode()
                assert said == f"thermometer: no sensor: {file}: it has no whole number\n", said
                file.unlink()
                await both_get(missing)
            # It stops when no one watches, and goes on for the next who does.
            file.write_text("20000")
            async with example.connect() as late:
                assert await late.recv() == "20.0"


async def dashboard():
    async def values(client, count):
        """So many that come next, by their names."""
        pairs = [(await client.recv()).split(" ") for _ in range(count)]
        return {name: float(number) for name, number in pairs}

    def reads(example):
        """How many the process has done so far."""
        lines = pathlib.Path(f"/proc/{example.process.pid}/io").read_text().splitlines()
        return int(dict(line.split(": ") for line in lines)["syscr"])

    def load():
        return float(pathlib.Path("/proc/loadavg").read_text().split()[0])

    def memory():
        lines = pathlib.Path("/proc/meminfo").read_text().splitlines()
        kib = {name: int(rest.split()[0]) for name, rest in (line.split(":") for line in lines)}
        return (kib["MemTotal"] - kib["MemAvailable"]) / 1024

    names = ["load", "memory", "temperature", "received", "sent"]
    if not os.path.exists("/sys/class/thermal/thermal_zone0/temp"):
        names.remove("temperature")
    count = len(names)

    async with running("dashboard", status=0) as example:
        await starts_and_serves_its_page("dashboard", example)
        async with example.connect() as one:
            # A rate takes two readings.
            first = await values(one, count - 2)
            assert list(first) == names[:-2], first
            second = await values(one, count)
            assert list(second) == names and second["received"] >= 0 <= second["sent"], second
            # Between its look and this one much may have changed, but not each time.
            for left in reversed(range(5)):
                newest = await values(one, count)
                seen = load(), memory()
                if abs(newest["load"] - seen[0]) < 1 and abs(newest["memory"] - seen[1]) < 500:
                    break
                assert left > 0, (newest, seen)

            async def reads_for_a_reading():
                """From when one has come until the next has."""
                clock = asyncio.get_running_loop().time
                while True:
                    # One that comes at once has waited here, and so may the next one.
                    asked = clock()
                    await values(one, count)
                    came, before = clock(), reads(example)
                    assert list(await values(one, count)) == names
                    done, took = reads(example) - before, clock() - came
                    if came - asked > 0.2 and 0.7 < took < 1.3:
                        return done

            for_one = await reads_for_a_reading()
            # A newcomer does not wait for the next reading, unless that is due just now.
            others = []
            newest = greeting = None
            while greeting is None or greeting != newest:
                newest = await values(one, count)
                others.append(await example.connect())
                greeting = await values(others[-1], count)
            others += [await example.connect() for _ in range(5)]
            for_many = await reads_for_a_reading()
            assert 0 < for_many < 2 * for_one, (for_one, for_many)
            await asyncio.gather(*(other.close() for other in others))

        # Nothing is read while no one looks. When the last has left it may be about to.
        while True:
            before = reads(example)
            await asyncio.sleep(1.5)
            if reads(example) == before:
                break
        async with example.connect() as late:
            # What was read before greets nobody: there are no rates yet when it begins anew.
            assert list(await values(late, count)) == names[:-2]
            await ends_on_sigint(example, late)


async def serial():
    with tempfile.TemporaryDirectory() as folder:
        device = pathlib.Path(folder) / "device"

        def plug_in():
            """A device that is a terminal, as serial ports are; gives the other end of the line."""
            ours, theirs = os.openpty()
            tty.setraw(theirs)
            device.symlink_to(os.ttyname(theirs))
            os.close(theirs)
            return ours

        missing = f"{device}: No such file or directory (os error 2)"
        async with running("serial", device, status=0) as example:
            await starts_and_serves_its_page("serial", example)
            assert (await example.process.stderr.readline()).decode() == f"serial: {missing}\n"
            async with example.connect() as one, example.connect() as other:

                async def both_get(*messages):
                    for client in [one, other]:
                        for message in messages:
                            got = await client.recv()
                            assert got == message, (got, message)

                await both_get(f"device\n{missing}")
                await one.send("for nobody")
                got = await one.recv()
                assert got.startswith("device\nthe line was not written: "), got

                line = plug_in()
                await both_get(f"device\n{device} is open")
                os.write(line, b"hello\r\nol\xe1\n" + b"x" * 1500 + b"\n")
                await both_get("line\nhello", "line\nol\ufffd", "line\n" + "x" * 1024, "line\n" + "x" * 476)
                await one.send("AT")
                await other.send("größer")
                written = b""
                while len(written) < len("AT\ngrößer\n".encode()):
                    written += await asyncio.to_thread(os.read, line, 100)
                assert sorted(written.decode().splitlines()) == ["AT", "größer"], written

                # It is unplugged, and plugged in again.
                device.unlink()
                os.close(line)
                await both_get(f"device\n{device}: Input/output error (os error 5)", f"device\n{missing}")
                line = plug_in()
                await both_get(f"device\n{device} is open")
                os.write(line, b"again\n" * 200)
                await both_get(*["line\nagain"] * 200)

                async with example.connect() as late:
                    assert await late.recv() == f"device\n{device} is open"
                    for _ in range(100):
                        assert await late.recv() == "line\nagain"
                    os.write(line, b"new\n")
                    assert await late.recv() == "line\nnew"
                await ends_on_sigint(example, one)
            os.close(line)


def jpeg(number, size=100_000):
    """What has the markers of a JPEG: a comment with what looks like an end, data with all that may be in data, and an end."""
    comment = b"\xff\xd8 %d \xff\xd9" % number
    data = (b"\xff\x00\xff\xd0.\xff\xd7" + b"x" * size)[:size]
    length = struct.pack(">H", 2 + len(comment))
    return b"\xff\xd8\xff\xfe" + length + comment + b"\xff\xda\x00\x02" + data + b"\xff\xff\xd9"


async def camera():
    # Without a command it is a test picture.
    async with running("camera", status=0) as example:
        await starts_and_serves_its_page("camera", example)
        async with example.connect() as client:
            pictures = [await client.recv() for _ in range(3)]
            assert len(set(pictures)) == 3
            for picture in pictures:
                kind, offset, width, height, bits = struct.unpack_from("<2s8xI4xii2xH", picture)
                assert (kind, offset, width, height, bits) == (b"BM", 54, 160, 120, 24)
                assert len(picture) == 54 + 3 * 160 * 120
            await ends_on_sigint(example, client)

    # One that gives no pictures is told of.
    async with running("camera", "echo", "hello") as example, example.connect() as client:
        assert await client.recv() == "echo: its output is not MJPEG"
    async with running("camera", "false") as example, example.connect() as client:
        assert await client.recv() == "false: exit status: 1"


async def camera_with_a_slow_phone():
    with tempfile.TemporaryDirectory() as folder:
        pipe = pathlib.Path(folder) / "pipe"
        os.mkfifo(pipe)

        async def film():
            """The other end of what the command reads, once it does."""
            return await asyncio.to_thread(open, pipe, "wb", buffering=0)

        async with running("camera", "cat", pipe, status=0) as example:
            slow, fast = await example.connect_slow(), await example.connect()
            with await film() as pictures:
                count = 100
                for number in range(count):
                    await asyncio.to_thread(pictures.write, jpeg(number))
                    # Nobody waits for the slow one.
                    assert await fast.recv() == jpeg(number)

                # It gets what was on its way, is told how many it missed each time, and then gets the newest.
                next_one, missed = 0, 0
                while next_one < count:
                    message = await slow.recv()
                    if isinstance(message, str):
                        missed += int(message)
                        next_one += int(message)
                    else:
                        assert message == jpeg(next_one), next_one
                        next_one += 1
                assert missed > count // 2, missed

                # The camera is off when no one looks, and on again for the next.
                await asyncio.gather(slow.close(), fast.close())
                with contextlib.suppress(BrokenPipeError):
                    while True:
                        await asyncio.to_thread(pictures.write, jpeg(0))
            async with example.connect() as late:
                with await film() as pictures:
                    pictures.write(jpeg(1, 1000) + jpeg(2, 1000))
                    assert await late.recv() == jpeg(1, 1000)
                    assert await late.recv() == jpeg(2, 1000)
                    await ends_on_sigint(example, late)


async def embed():
    async with running("embed", status=0) as example:
        await starts_and_serves_its_page("embed", example)
        async with example.connect() as client:
            counts = set()
            while len(counts) < 2:
                await client.send("?")
                counts.add(int(await client.recv()))
            example.process.stdin.close()
            assert await closed(client) == 1001
            await example.process.wait()


async def tried(check):
    try:
        async with asyncio.timeout(LIMIT_S):
            await check()
    except Exception:
        print(f"FAILED {check.__name__}", file=sys.stderr)
        raise
    print(f"ok {check.__name__}")


async def main():
    checks = [
        echo,
        chat,
        chat_with_a_slow_reader,
        thermometer,
        dashboard,
        serial,
        camera,
        camera_with_a_slow_phone,
        embed,
    ]
    # Side by side: most of them mostly wait for the next second.
    async with asyncio.TaskGroup() as group:
        for check in checks:
            group.create_task(tried(check))


asyncio.run(main())
