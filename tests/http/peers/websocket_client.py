"""A WebSocket client: text, binary, ping, fragments, a megabyte, close codes of either side.

In one thread: the blocking client of the package reads and writes a TLS connection in two, which OpenSSL is not made for.
"""

import asyncio
import os
import ssl
import sys

from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

address, host, identity = sys.argv[1:4]
ip, port = address.rsplit(":", 1)

context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
context.check_hostname = False
context.verify_mode = ssl.CERT_NONE
context.set_alpn_protocols(["http/1.1"])
if identity:
    context.load_cert_chain(f"{identity}/cert-chain.pem", f"{identity}/key.pem")


def open_socket(path):
    return connect(
        f"wss://{host}/api/peer/{path}",
        host=ip,
        port=int(port),
        ssl=context,
        server_hostname=host,
        max_size=8 << 20,
        open_timeout=60,
        subprotocols=["chat"],
    )


async def closed(ws):
    try:
        while True:
            await ws.recv()
    except ConnectionClosed as end:
        return end.rcvd.code, end.rcvd.reason


async def exchange(ws):
    assert ws.subprotocol == "chat", ws.subprotocol
    for text in ["hello", "", "grüße \U0001f44b", "x" * 70_000]:
        await ws.send(text)
        assert await ws.recv() == text
    for size in [0, 1, 125, 126, 65_535, 65_536, 1 << 20]:
        data = os.urandom(size)
        await ws.send(data)
        assert await ws.recv() == data, size
    await (await ws.ping(b"from the client"))
    await ws.send("ping me")
    assert await ws.recv() == "you have answered"
    await ws.send(iter([b"one", b"two", b"three"]))
    assert await ws.recv() == b"onetwothree"
    await ws.send("in pieces")
    pieces = [piece async for piece in ws.recv_streaming()]
    assert "".join(pieces) == "abc" and len(pieces) >= 3, pieces
    await ws.send("close")
    assert await closed(ws) == (4002, "as you wish")


async def main():
    async with open_socket("echo") as ws:
        await exchange(ws)

    async with open_socket("bye") as ws:
        assert await closed(ws) == (4001, "so it goes")

    async with open_socket("echo") as ws:
        await ws.close(4003, "enough")
    assert ws.protocol.close_code == 4003, ws.protocol.close_code

    try:
        await open_socket("../denied/x")
        raise SystemExit("a denied one is let in")
    except InvalidStatus as refused:
        assert refused.response.status_code == 403, refused


# Less than what the test waits for us, so that what waits is told.
asyncio.run(asyncio.wait_for(main(), 240))
print("all is well")
