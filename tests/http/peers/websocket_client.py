"""A WebSocket client: text, binary, ping, fragments, a megabyte, close codes of either side."""

import os
import socket
import ssl
import sys

from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect

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
        sock=socket.create_connection((ip, int(port)), timeout=60),
        ssl=context,
        server_hostname=host,
        max_size=8 << 20,
        open_timeout=60,
        subprotocols=["chat"],
    )


def closed(ws):
    try:
        while True:
            ws.recv(timeout=60)
    except ConnectionClosed as end:
        return end.rcvd.code, end.rcvd.reason


with open_socket("echo") as ws:
    assert ws.subprotocol == "chat", ws.subprotocol
    for text in ["hello", "", "grüße \U0001f44b", "x" * 70_000]:
        ws.send(text)
        assert ws.recv(timeout=60) == text
    for size in [0, 1, 125, 126, 65_535, 65_536, 1 << 20]:
        data = os.urandom(size)
        ws.send(data)
        assert ws.recv(timeout=60) == data, size
    assert ws.ping(b"from the client").wait(60)
    ws.send("ping me")
    assert ws.recv(timeout=60) == "you have answered"
    ws.send(iter([b"one", b"two", b"three"]))
    assert ws.recv(timeout=60) == b"onetwothree"
    ws.send("in pieces")
    pieces = list(ws.recv_streaming())
    assert "".join(pieces) == "abc" and len(pieces) >= 3, pieces
    ws.send("close")
    assert closed(ws) == (4002, "as you wish")

with open_socket("bye") as ws:
    assert closed(ws) == (4001, "so it goes")

with open_socket("echo") as ws:
    ws.close(4003, "enough")
assert ws.protocol.close_code == 4003, ws.protocol.close_code

try:
    open_socket("../denied/x")
    raise SystemExit("a denied one is let in")
except InvalidStatus as refused:
    assert refused.response.status_code == 403, refused

print("all is well")
