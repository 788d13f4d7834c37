"""A WebSocket client: text, binary, ping, fragments, a megabyte, close codes of either side.

On one thread: the library's other client reads and writes one TLS connection from two threads, which OpenSSL does not
allow; when a session ticket comes while it writes its request, one of them waits for ever.
"""

import asyncio
import os
import ssl
import sys

from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

address, host, identity = sys.argv[1:4]
ip, port = address.rsplit(":", 1)

# No step waits for longer.
STEP_SECONDS = 60

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
        open_timeout=STEP_SECONDS,
        subprotocols=["chat"],
        proxy=None,
    )


async def step(waits):
    return await asyncio.wait_for(waits, STEP_SECONDS)


async def closed(ws):
    try:
        while True:
            await step(ws.recv())
    except ConnectionClosed as end:
        return end.rcvd.code, end.rcvd.reason


async def in_pieces(ws):
    return [piece async for piece in ws.recv_streaming()]


async def main():
    async with open_socket("echo") as ws:
        assert ws.subprotocol == "chat", ws.subprotocol
        for text in ["hello", "", "grüße \U0001f44b", "x" * 70_000]:
            await step(ws.send(text))
            assert await step(ws.recv()) == text
        for size in [0, 1, 125, 126, 65_535, 65_536, 1 << 20]:
            data = os.urandom(size)
            await step(ws.send(data))
            assert await step(ws.recv()) == data, size
        await step(await step(ws.ping(b"from the client")))
        await step(ws.send("ping me"))
        assert await step(ws.recv()) == "you have answered"
        await step(ws.send(iter([b"one", b"two", b"three"])))
        assert await step(ws.recv()) == b"onetwothree"
        await step(ws.send("in pieces"))
        pieces = await step(in_pieces(ws))
        assert "".join(pieces) == "abc" and len(pieces) >= 3, pieces
        await step(ws.send("close"))
        assert await closed(ws) == (4002, "as you wish")

    async with open_socket("bye") as ws:
        assert await closed(ws) == (4001, "so it goes")

    async with open_socket("echo") as ws:
        await step(ws.close(4003, "enough"))
    assert ws.protocol.close_code == 4003, ws.protocol.close_code

    try:
        await open_socket("../denied/x")
        raise SystemExit("a denied one is let in")
    except InvalidStatus as refused:
        assert refused.response.status_code == 403, refused


asyncio.run(main())
print("all is well")
