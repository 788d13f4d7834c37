"""What a workload does with the Workload API, by py-spiffe and by grpcio; prints JSON, one object a line.

client.py USER SOCKET COMMAND [ARGUMENT...]
"""

import array
import json
import os
import queue
import socket as sockets
import sys
import threading
import time

import grpc
from spiffe import JwtSource, JwtSvid, WorkloadApiClient, X509Source
from spiffe._proto import workload_pb2, workload_pb2_grpc

SOCKET = sys.argv[2]
HEADER = (("workload.spiffe.io", "true"),)


def tell(**what):
    print(json.dumps(what), flush=True)


def ask(stub, method, request, metadata=HEADER, timeout=20):
    """The answer, or the first of a stream; or the refusal."""
    try:
        answer = getattr(stub, method)(request, metadata=metadata, timeout=timeout)
        if hasattr(answer, "__next__"):
            answer = next(answer)
        return answer, None
    except grpc.RpcError as error:
        return None, [error.code().name, error.details()]


def stub(target=None):
    channel = grpc.insecure_channel(target or "unix://" + SOCKET)
    return workload_pb2_grpc.SpiffeWorkloadAPIStub(channel)


def fetch():
    with WorkloadApiClient("unix://" + SOCKET) as client:
        svids = client.fetch_x509_svids()
        bundles = client.fetch_x509_bundles()
        tell(
            ids=[str(svid.spiffe_id) for svid in svids],
            serials=[str(svid.leaf.serial_number) for svid in svids],
            chains=[len(svid.cert_chain) for svid in svids],
            domains=sorted(str(domain) for domain in bundles._bundles),
        )


def hints():
    answer, error = ask(stub(), "FetchX509SVID", workload_pb2.X509SVIDRequest())
    tell(error=error, svids=answer and [[svid.spiffe_id, svid.hint] for svid in answer.svids])


def watch(count):
    """Serials of the SVIDs as they are pushed."""
    seen = queue.Queue()
    with X509Source(socket_path="unix://" + SOCKET, timeout_in_seconds=20) as source:
        seen.put(str(source.svid.leaf.serial_number))
        source.subscribe_for_updates(lambda: seen.put(str(source.svid.leaf.serial_number)))
        for _ in range(int(count)):
            tell(serial=seen.get(timeout=30))


def jwt(audience):
    with WorkloadApiClient("unix://" + SOCKET) as client:
        svid = client.fetch_jwt_svid(audience={audience, "second"})
        valid = client.validate_jwt_svid(token=svid.token, audience=audience)
        bundles = client.fetch_jwt_bundles()
        try:
            client.validate_jwt_svid(token=svid.token, audience="somebody-else")
            other = None
        except Exception as error:
            other = str(error)
        tell(
            id=str(svid.spiffe_id),
            audience=sorted(svid.audience),
            expiry=svid.expiry - int(time.time()),
            valid=str(valid.spiffe_id),
            domains=sorted(str(domain) for domain in bundles._bundles),
            other=other,
        )
    with JwtSource(socket_path="unix://" + SOCKET) as source:
        svid = source.fetch_svid(audience={audience})
        bundle = source.get_bundle_for_trust_domain(svid.spiffe_id.trust_domain)
        own = JwtSvid.parse_and_validate(svid.token, bundle, {audience})
        tell(offline=str(own.spiffe_id))


def raw():
    """What must be refused, each with its code."""
    asked = stub()
    token = ask(asked, "FetchJWTSVID", workload_pb2.JWTSVIDRequest(audience=["a"]))[0].svids[0].svid
    refused = {
        "no header": ask(asked, "FetchX509SVID", workload_pb2.X509SVIDRequest(), metadata=()),
        "false header": ask(
            asked, "FetchX509SVID", workload_pb2.X509SVIDRequest(), metadata=(("workload.spiffe.io", "false"),)
        ),
        "two headers": ask(asked, "FetchX509SVID", workload_pb2.X509SVIDRequest(), metadata=HEADER + HEADER),
        "no header, unary": ask(asked, "FetchJWTSVID", workload_pb2.JWTSVIDRequest(audience=["a"]), metadata=()),
        "no audience": ask(asked, "FetchJWTSVID", workload_pb2.JWTSVIDRequest()),
        "empty audience": ask(asked, "FetchJWTSVID", workload_pb2.JWTSVIDRequest(audience=["a", ""])),
        "many audiences": ask(asked, "FetchJWTSVID", workload_pb2.JWTSVIDRequest(audience=[str(i) for i in range(99)])),
        "long audience": ask(asked, "FetchJWTSVID", workload_pb2.JWTSVIDRequest(audience=["a" * 100_000])),
        "foreign id": ask(
            asked,
            "FetchJWTSVID",
            workload_pb2.JWTSVIDRequest(audience=["a"], spiffe_id="spiffe://cluster.local/ns/default/sa/ratings"),
        ),
        "no id": ask(asked, "FetchJWTSVID", workload_pb2.JWTSVIDRequest(audience=["a"], spiffe_id="reviews")),
        "validate nothing": ask(asked, "ValidateJWTSVID", workload_pb2.ValidateJWTSVIDRequest(audience="a")),
        "validate for nobody": ask(asked, "ValidateJWTSVID", workload_pb2.ValidateJWTSVIDRequest(svid=token)),
        "validate for another": ask(
            asked, "ValidateJWTSVID", workload_pb2.ValidateJWTSVIDRequest(svid=token, audience="b")
        ),
        "validate forged": ask(
            asked, "ValidateJWTSVID", workload_pb2.ValidateJWTSVIDRequest(svid=token[:-8] + "AAAAAAAA", audience="a")
        ),
        "validate noise": ask(asked, "ValidateJWTSVID", workload_pb2.ValidateJWTSVIDRequest(svid="x.y.z", audience="a")),
    }
    answer, error = ask(asked, "ValidateJWTSVID", workload_pb2.ValidateJWTSVIDRequest(svid=token, audience="a"))
    unknown = grpc.insecure_channel("unix://" + SOCKET).unary_unary("/SpiffeWorkloadAPI/Whatever")
    try:
        unknown(b"", metadata=HEADER, timeout=20)
        refused["unknown method"] = ({}, None)
    except grpc.RpcError as failure:
        refused["unknown method"] = (None, [failure.code().name, failure.details()])
    tell(
        refused={name: error for name, (answer, error) in refused.items()},
        error=error,
        claims=answer and {name: value for name, value in answer.claims.items() if name != "aud"},
    )


def denied():
    """Every method, as somebody who is nobody."""
    asked = stub()
    answers = [
        ask(asked, "FetchX509SVID", workload_pb2.X509SVIDRequest()),
        ask(asked, "FetchX509Bundles", workload_pb2.X509BundlesRequest()),
        ask(asked, "FetchJWTSVID", workload_pb2.JWTSVIDRequest(audience=["a"])),
        ask(asked, "FetchJWTBundles", workload_pb2.JWTBundlesRequest()),
        ask(asked, "ValidateJWTSVID", workload_pb2.ValidateJWTSVIDRequest(audience="a", svid="a.b.c")),
    ]
    tell(codes=[error and error[0] for _answer, error in answers], pid=os.getpid())


def streams(count):
    """As many streams as asked for on one connection: how many have an answer, and what the others hear."""
    channel = grpc.insecure_channel("unix://" + SOCKET)
    asked = workload_pb2_grpc.SpiffeWorkloadAPIStub(channel)
    answered, held, lock = [], [], threading.Lock()

    def one():
        stream = asked.FetchX509SVID(workload_pb2.X509SVIDRequest(), metadata=HEADER, timeout=8)
        with lock:
            held.append(stream)
        try:
            next(stream)
            with lock:
                answered.append(True)
            next(stream)
        except grpc.RpcError as error:
            with lock:
                answered.append(error.code().name)

    threads = [threading.Thread(target=one, daemon=True) for _ in range(int(count))]
    for thread in threads:
        thread.start()
    deadline = time.monotonic() + 6
    while time.monotonic() < deadline and answered.count(True) < int(count):
        time.sleep(0.05)
    tell(answered=answered.count(True), errors=sorted({a for a in answered if a is not True}))
    for stream in held:
        stream.cancel()


def requests(count):
    """So many requests, as fast as they go, on connections of their own."""
    codes = {}
    asked = stub()
    for _ in range(int(count)):
        _answer, error = ask(asked, "FetchJWTSVID", workload_pb2.JWTSVIDRequest(audience=["a"]))
        code = error[0] if error else "OK"
        codes[code] = codes.get(code, 0) + 1
    tell(codes=codes)


def connections(count):
    """Connections that say nothing: how many stay open."""
    held = []
    for _ in range(int(count)):
        one = sockets.socket(sockets.AF_UNIX)
        one.connect(SOCKET)
        one.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0\0\0\4\0\0\0\0\0")
        held.append(one)
    open_ones = 0
    for one in held:
        one.settimeout(5)
        try:
            open_ones += bool(one.recv(1))
        except ConnectionError:
            pass
    tell(open=open_ones)
    sys.stdin.read()


def bridge():
    """A connection made here, for others to talk through; it carries bytes until it ends."""
    inner = sockets.socket(sockets.AF_UNIX)
    inner.connect(SOCKET)
    return inner


def relay(listener, inner):
    """Lets one gRPC client talk through `inner`, whoever made it."""
    outer, _ = listener.accept()

    def pump(source, sink):
        while data := source.recv(65536):
            sink.sendall(data)
        for end in (source, sink):
            try:
                end.shutdown(sockets.SHUT_RDWR)
            except OSError:
                pass

    for pair in ((outer, inner), (inner, outer)):
        threading.Thread(target=lambda pair=pair: safely(pump, *pair), daemon=True).start()


def safely(function, *arguments):
    try:
        function(*arguments)
    except OSError:
        pass


def through(inner, times=1):
    """Asks through a connection that may be another's."""
    path = f"/tmp/ringgate-wapi-{os.getpid()}.sock"
    listener = sockets.socket(sockets.AF_UNIX)
    listener.bind(path)
    listener.listen()
    threading.Thread(target=lambda: safely(relay, listener, inner), daemon=True).start()
    asked = stub("unix://" + path)
    try:
        for turn in range(times):
            answer, error = ask(asked, "FetchX509SVID", workload_pb2.X509SVIDRequest(), timeout=8)
            tell(ids=answer and [svid.spiffe_id for svid in answer.svids], error=error)
            if turn + 1 < times:
                sys.stdin.readline()
    finally:
        os.unlink(path)


def pass_on(path):
    """Connects as the user it is, and sends the connection to whoever asks at `path`."""
    inner = bridge()
    listener = sockets.socket(sockets.AF_UNIX)
    listener.bind(path)
    os.chmod(path, 0o666)
    listener.listen()
    tell(ready=True)
    other, _ = listener.accept()
    other.sendmsg([b"x"], [(sockets.SOL_SOCKET, sockets.SCM_RIGHTS, array.array("i", [inner.fileno()]))])
    sys.stdin.readline()


def take(path):
    """Takes a connection from `pass_on` and asks through it, now and once more when told to."""
    other = sockets.socket(sockets.AF_UNIX)
    other.connect(path)
    _data, controls, _flags, _address = other.recvmsg(1, sockets.CMSG_SPACE(4))
    descriptor = array.array("i", controls[0][2])[0]
    through(sockets.socket(fileno=descriptor), times=2)


def change_program(program, *arguments):
    """Connects, hands the connection to a child, and becomes another program; the child asks."""
    inner = bridge()
    # The server speaks first, and it has looked at this process before.
    inner.settimeout(20)
    assert inner.recv(1, sockets.MSG_PEEK)
    inner.settimeout(None)
    through_child = os.fork()
    if through_child == 0:
        sys.stdin.readline()
        through(inner)
        os._exit(0)
    inner.set_inheritable(True)
    tell(pid=os.getpid())
    os.execv(program, [program, *arguments])


def change_user(uid):
    """Connects as root and becomes another user; asks before and after."""
    inner = bridge()
    path = f"/tmp/ringgate-wapi-{os.getpid()}.sock"
    listener = sockets.socket(sockets.AF_UNIX)
    listener.bind(path)
    listener.listen()
    threading.Thread(target=lambda: safely(relay, listener, inner), daemon=True).start()
    asked = stub("unix://" + path)
    for turn in range(2):
        answer, error = ask(asked, "FetchX509SVID", workload_pb2.X509SVIDRequest(), timeout=8)
        tell(ids=answer and [svid.spiffe_id for svid in answer.svids], error=error)
        if turn == 0:
            os.unlink(path)
            os.setresgid(int(uid), int(uid), int(uid))
            os.setresuid(int(uid), int(uid), int(uid))


def outlive():
    """Connects while the server stands still, leaves the connection to a child and ends; the child asks."""
    inner = bridge()
    tell(pid=os.getpid())
    child = os.fork()
    if child != 0:
        os._exit(0)
    sys.stdin.readline()
    through(inner)


def main():
    commands = {
        "fetch": fetch,
        "hints": hints,
        "watch": watch,
        "jwt": jwt,
        "raw": raw,
        "denied": denied,
        "streams": streams,
        "requests": requests,
        "connections": connections,
        "pass_on": pass_on,
        "take": take,
        "change_program": change_program,
        "change_user": change_user,
        "outlive": outlive,
    }
    # Here and not before the start: the interpreter may be closed to other users.
    user = int(sys.argv[1])
    os.setgroups([])
    os.setresgid(user, user, user)
    os.setresuid(user, user, user)
    commands[sys.argv[3]](*sys.argv[4:])


main()
