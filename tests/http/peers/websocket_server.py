"""A WebSocket server: sends back what it gets, and closes as it is told."""

import asyncio
import sys

from websockets.asyncio.server import serve
from websockets.exceptions import ConnectionClosed


async def talk(socket):
    path = socket.request.path
    if path.endswith("/bye"):
        await socket.close(4001, "so it goes")
        return
    async for message in socket:
        if message == "ping me":
            waiter = await socket.ping(b"from the server")
            await waiter
            await socket.send("you have answered")
        elif message == "in pieces":
            await socket.send(iter(["a", "b", "c"]))
        elif message == "close":
            await socket.close(4002, "as you wish")
        else:
            await socket.send(message)


async def talk_to_the_end(socket):
    try:
        await talk(socket)
    except ConnectionClosed:
        # Closed with a code of the client's own, or of ours.
        pass


async def main():
    host, port = sys.argv[1], int(sys.argv[2])
    limits = {"max_size": 8 << 20, "subprotocols": ["chat"]}
    async with serve(talk_to_the_end, host, port, **limits):
        print("ready", flush=True)
        await asyncio.Future()


asyncio.run(main())
