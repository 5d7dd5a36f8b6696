"""Clients of a whit behind nginx: nginx_client.py believed|not-believed URL-OF-NGINX URL-OF-WHIT LOG.

The whit of `believed` trusts unix sockets and 127.0.0.5, that of `not-believed` nobody. Both let in one of each address.
"""

import asyncio
import re
import sys
from pathlib import Path

from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

FOREIGN = "http://foreign.example"


def check(fact, holds, seen=None):
    if not holds:
        sys.exit(f"fail: {fact}" + ("" if seen is None else f": saw {seen!r}"))
    print(f"ok: {fact}", flush=True)


class Client:
    """Someone at one address of this machine, where 127.0.0.2 is as good as 127.0.0.1."""

    def __init__(self, url, ip, *claims, **options):
        # Several fields, if there are several claims.
        claims = [("X-Forwarded-For", claim) for claim in claims]
        self.client = connect(url, proxy=None, local_addr=(ip, 0), additional_headers=claims, **options)

    async def __aenter__(self):
        return await self.client.__aenter__()

    async def __aexit__(self, *end):
        return await self.client.__aexit__(*end)

    async def status(self):
        try:
            async with self:
                return 101
        except InvalidStatus as refused:
            return refused.response.status_code


async def receive(ws):
    while (message := await ws.recv()) == "heartbeat":
        pass
    return message


async def logged(log, pattern):
    """Waits until a line of the log is this."""
    try:
        async with asyncio.timeout(5):
            while not re.search(f"^{pattern}$", Path(log).read_text(), re.MULTILINE):
                await asyncio.sleep(0.02)
    except TimeoutError:
        sys.exit(f"fail: no line of the log is {pattern}\n{Path(log).read_text()}")


async def until_let_in(url, ip):
    """The server learns in its own time that the one before has left."""
    while await Client(url, ip).status() != 101:
        await asyncio.sleep(0.02)


async def talk(url):
    async with Client(url, "127.0.0.1") as ws:
        for message in ["", "grüße", "x" * 65536, bytes(range(256)) * 256]:
            await ws.send(message)
            if await receive(ws) != message:
                sys.exit(f"fail: {type(message).__name__} of {len(message)} came back as another")
        check("text and binary of up to 65536 bytes come back through nginx", True)
        check("so do heartbeats", await ws.recv() == "heartbeat")
        await ws.close(4000, "enough")
        got = ws.protocol.close_rcvd
        check("a close with 4000 is answered with 4000", got is not None and got.code == 4000, got)


async def origins(url):
    host = url.split("/")[2]
    # The second where it is nginx that has the certificate.
    for ip, origin, wanted in (
        ("127.0.0.11", f"http://{host}", 101),
        ("127.0.0.12", f"https://{host}", 101),
        ("127.0.0.13", FOREIGN, 403),
    ):
        status = await Client(url, ip, origin=origin).status()
        check(f"a page of {origin} gets {wanted}", status == wanted, status)


async def believed(url, direct, log):
    async with Client(url, "127.0.0.2"):
        await logged(log, r"#\d+ 127\.0\.0\.2 /ws open")
        check("the log has the address that nginx saw", True)
        status = await Client(url, "127.0.0.2").status()
        check("a second one of this address gets 429", status == 429, status)
        await logged(log, r"127\.0\.0\.2 refused with 429: .*")
        status = await Client(url, "127.0.0.3").status()
        check("one of another gets in", status == 101, status)
    async with asyncio.timeout(5):
        await until_let_in(url, "127.0.0.2")
    check("when the first has left, another of its address gets in", True)

    # What a client claims stands before what nginx saw; 127.0.0.5 is trusted.
    for number, claims in enumerate([["203.0.113.1"], ["203.0.113.1, 127.0.0.5"], ["203.0.113.1", "127.0.0.5"], ["nobody"]]):
        ip = f"127.0.0.{20 + number}"
        async with Client(url, ip, *claims):
            await logged(log, rf"#\d+ {re.escape(ip)} /ws open")
            status = await Client(url, ip, "203.0.113.2").status()
            if status != 429:
                sys.exit(f"fail: {ip} claims {claims} through nginx, and then another: status {status}")
    check("what a client claims in an X-Forwarded-For of its own is not believed", True)

    async with Client(direct, "127.0.0.4", "203.0.113.3"):
        await logged(log, r"#\d+ 127\.0\.0\.4:\d+ /ws open")
        status = await Client(direct, "127.0.0.4", "203.0.113.4").status()
        check("one that comes without nginx is not believed what it claims", status == 429, status)

    async with Client(direct, "127.0.0.5", "203.0.113.5"):
        await logged(log, r"#\d+ 203\.0\.113\.5 /ws open")
        status = await Client(direct, "127.0.0.5", "203.0.113.1, 203.0.113.5").status()
        check("one at the address of a trusted proxy is: the same client gets 429", status == 429, status)
        status = await Client(direct, "127.0.0.5", "203.0.113.6").status()
        check("and another gets in", status == 101, status)

    lies = re.findall(r"203\.0\.113\.[1-4]\b", Path(log).read_text())
    check("the log has no address that was only claimed", not lies, lies)


async def not_believed(url, direct, log):
    async with Client(url, "127.0.0.2"):
        await logged(log, r"#\d+ local /ws open")
        status = await Client(url, "127.0.0.2").status()
        check("where no proxy is trusted clients behind one have no address, and no limit for it", status == 101, status)
    # Not even one that --trusted-proxy named elsewhere.
    async with Client(direct, "127.0.0.5", "203.0.113.5"):
        await logged(log, r"#\d+ 127\.0\.0\.5:\d+ /ws open")
        status = await Client(direct, "127.0.0.5", "203.0.113.6").status()
        check("and who claims another address is not believed", status == 429, status)


async def main(what, url, direct, log):
    async with asyncio.timeout(40):
        if what == "believed":
            await talk(url)
            await origins(url)
            await believed(url, direct, log)
        else:
            await not_believed(url, direct, log)


asyncio.run(main(*sys.argv[1:]))
