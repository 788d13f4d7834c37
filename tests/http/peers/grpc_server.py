"""A gRPC server without generated code: messages are bytes."""

import sys
import time
from concurrent import futures

import grpc


def unary(request, context):
    context.set_trailing_metadata((("x-trailing", "t1"), ("x-trailing-bin", b"\x00\xff")))
    context.send_initial_metadata((("x-initial", dict(context.invocation_metadata()).get("x-asked", "")),))
    return request


def fails(request, context):
    context.set_trailing_metadata((("x-trailing", "of an error"),))
    context.abort(grpc.StatusCode.FAILED_PRECONDITION, "not – now")


# Seconds that each of them had left at its begin, once it is over.
over = []


def slow(request, context):
    left = context.time_remaining()
    if not context.add_callback(lambda: over.append(left)):
        over.append(left)
    while context.is_active():
        time.sleep(0.05)
    return request


def down(request, context):
    for n in range(int(request)):
        yield b"%d" % n


def up(requests, context):
    return b"%d" % sum(len(one) for one in requests)


def both(requests, context):
    yield from requests


cancelled = 0


def hangs(request, context):
    def ended():
        global cancelled
        cancelled += 1

    context.add_callback(ended)
    yield b"first"
    while context.is_active():
        time.sleep(0.05)


def count(request, context):
    return b"%d" % cancelled


def ended(request, context):
    return " ".join(map(str, over)).encode()


HANDLERS = {
    "/api/peer/Unary": grpc.unary_unary_rpc_method_handler(unary),
    "/api/peer/Fails": grpc.unary_unary_rpc_method_handler(fails),
    "/api/peer/Slow": grpc.unary_unary_rpc_method_handler(slow),
    "/api/peer/Ended": grpc.unary_unary_rpc_method_handler(ended),
    "/api/peer/Down": grpc.unary_stream_rpc_method_handler(down),
    "/api/peer/Up": grpc.stream_unary_rpc_method_handler(up),
    "/api/peer/Both": grpc.stream_stream_rpc_method_handler(both),
    "/api/peer/Hangs": grpc.unary_stream_rpc_method_handler(hangs),
    "/api/peer/Cancelled": grpc.unary_unary_rpc_method_handler(count),
}


class Handler(grpc.GenericRpcHandler):
    def service(self, details):
        return HANDLERS.get(details.method)


server = grpc.server(
    futures.ThreadPoolExecutor(max_workers=32),
    options=[("grpc.max_receive_message_length", 8 << 20), ("grpc.max_send_message_length", 8 << 20)],
)
server.add_generic_rpc_handlers((Handler(),))
assert server.add_insecure_port(f"{sys.argv[1]}:{sys.argv[2]}")
server.start()
print("ready", flush=True)
server.wait_for_termination()
