"""A gRPC client: every kind of call, metadata, status, deadline, cancellation, four megabytes."""

import os
import sys
import time

import grpc

address, host, root = sys.argv[1:4]

with open(root, "rb") as file:
    credentials = grpc.ssl_channel_credentials(file.read())
channel = grpc.secure_channel(
    f"ipv4:{address}",
    credentials,
    options=[
        ("grpc.ssl_target_name_override", host),
        ("grpc.default_authority", host),
        ("grpc.max_receive_message_length", 8 << 20),
        ("grpc.max_send_message_length", 8 << 20),
        ("grpc.enable_http_proxy", 0),
    ],
)
grpc.channel_ready_future(channel).result(timeout=60)

unary = channel.unary_unary("/api/peer/Unary")
answer, call = unary.with_call(b"hello", timeout=60, metadata=(("x-asked", "yes"),))
assert answer == b"hello"
assert dict(call.initial_metadata())["x-initial"] == "yes", call.initial_metadata()
trailing = dict(call.trailing_metadata())
assert (trailing["x-trailing"], trailing["x-trailing-bin"]) == ("t1", b"\x00\xff"), trailing
assert call.code() is grpc.StatusCode.OK

for size in [0, 1, 16_384, 4 << 20]:
    data = os.urandom(size)
    assert unary(data, timeout=120) == data, size


def status(method, timeout=60, request=b""):
    try:
        channel.unary_unary(f"/api/peer/{method}")(request, timeout=timeout)
    except grpc.RpcError as error:
        return error
    raise SystemExit(f"{method} is answered")


failed = status("Fails")
assert failed.code() is grpc.StatusCode.FAILED_PRECONDITION, failed
assert failed.details() == "not – now", failed.details()
assert dict(failed.trailing_metadata())["x-trailing"] == "of an error"
assert status("Slow", timeout=2).code() is grpc.StatusCode.DEADLINE_EXCEEDED
# Which the client's own clock says; the server has heard of the deadline, and that the call is over.
told = channel.unary_unary("/api/peer/Ended")
until = time.monotonic() + 30
while not (slow := told(b"", timeout=60)):
    assert time.monotonic() < until, "the server does not hear of it"
    time.sleep(0.05)
# On its way it is rounded up.
assert float(slow) < 3, slow
assert status("NoSuch").code() is grpc.StatusCode.UNIMPLEMENTED
denied = status("../denied/Unary")
assert denied.code() is grpc.StatusCode.PERMISSION_DENIED, denied

down = channel.unary_stream("/api/peer/Down")
assert [int(n) for n in down(b"1000", timeout=60)] == list(range(1000))
up = channel.stream_unary("/api/peer/Up")
assert up((b"x" * 1000 for _ in range(1000)), timeout=60) == b"1000000"

# Each answer comes before the next request is sent.
both = channel.stream_stream("/api/peer/Both")
sent = []


def requests():
    for n in range(20):
        while len(sent) < n:
            time.sleep(0.001)
        yield b"%d" % n


for answer in both(requests(), timeout=60):
    sent.append(answer)
assert sent == [b"%d" % n for n in range(20)]

hanging = channel.unary_stream("/api/peer/Hangs")(b"", timeout=60)
assert next(hanging) == b"first"
hanging.cancel()
try:
    next(hanging)
    raise SystemExit("it goes on")
except grpc.RpcError as error:
    assert error.code() is grpc.StatusCode.CANCELLED, error
count = channel.unary_unary("/api/peer/Cancelled")
until = time.monotonic() + 30
while count(b"", timeout=60) != b"1":
    assert time.monotonic() < until, "the server does not hear of it"
    time.sleep(0.05)

print("all is well")
