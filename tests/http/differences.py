"""Runs the cases of tests/data/http against another proxy and tells what it does otherwise than ringgate.

    python3 tests/http/differences.py --nginx /usr/sbin/nginx --envoy /path/to/envoy

Each proxy is started with a small configuration of its own on loopback: plaintext HTTP/1.1 to a recording backend, with
WebSocket upgrades let through, paths normalised. What ringgate does is what the cases expect, which tests/http holds it to.
A line is printed for each case that ends otherwise: what was answered, and what reached the backend.
"""

import argparse
import os
import pathlib
import re
import socket
import subprocess
import tempfile
import threading
import time
import tomllib

CASES = pathlib.Path(__file__).resolve().parent.parent / "data" / "http"
FILES = ["framing", "chunks", "lines", "fields", "hosts", "hops", "persistence", "upgrades", "answers"]
HOST = "customer-api"
PATIENCE = 1.5
OWN = re.compile(
    rb"^(x-forwarded-\w+|x-request-id|x-envoy-[\w-]+|x-real-ip)$", re.I
)


def unescape(text):
    """Bytes of a text with the escapes of the cases."""
    out, at = bytearray(), 0
    while at < len(text):
        if text[at] != "\\":
            out += text[at].encode()
            at += 1
            continue
        kind = text[at + 1]
        if kind == "x":
            out.append(int(text[at + 2 : at + 4], 16))
            at += 4
        else:
            out.append({"r": 13, "n": 10, "t": 9, "\\": 92}[kind])
            at += 2
    return bytes(out)


class Case:
    def __init__(self, name, own, default):
        self.keys = {**default, **own}
        hint = next((own[k] for k in ("name", "fields", "line", "content") if k in own), "")
        self.name = f"{name}: {self.fill(hint)}"
        self.send = unescape(self.fill(self.keys["send"]))
        self.answers = self.keys["answers"]
        self.reaches = [unescape(self.fill(t)) for t in self.keys.get("reaches", [])]
        self.says = [unescape(self.fill(t)) for t in self.keys.get("says", [])]
        self.ends = self.keys.get("ends", True)

    def fill(self, text):
        def put(found):
            inner = found.group(1)
            if "*" in inner:
                piece, n = inner.rsplit("*", 1)
                return piece * int(n)
            if inner == "host":
                return HOST
            return self.fill(self.keys.get(inner, ""))

        return re.sub(r"\{([^}]*)\}", put, text)


def cases():
    for name in FILES:
        table = tomllib.loads((CASES / f"{name}.toml").read_text())
        for own in table["case"]:
            at = own.get("at")
            if at is None or "waypoint" in at:
                yield Case(name, own, table.get("default", {}))


class Backend:
    """Records every byte of every connection, and answers as a lenient server would."""

    def __init__(self, address):
        self.listener = socket.create_server(address, backlog=200)
        self.lock = threading.Lock()
        self.will([])
        threading.Thread(target=self.accept, daemon=True).start()

    def will(self, script):
        with self.lock:
            self.script, self.log = script, []

    def seen(self):
        with self.lock:
            return list(self.log)

    def accept(self):
        while True:
            conn, _ = self.listener.accept()
            threading.Thread(target=self.serve, args=(conn,), daemon=True).start()

    def serve(self, conn):
        buf = b""
        try:
            conn.settimeout(20)
            while True:
                while b"\r\n\r\n" not in buf:
                    piece = conn.recv(65536)
                    if not piece:
                        return
                    buf += piece
                head, buf = buf.split(b"\r\n\r\n", 1)
                with self.lock:
                    script, log = list(self.script), self.log
                if b"/api/probe" in head.split(b"\r\n")[0]:
                    script = []
                if b"@body" not in script:
                    script.insert(0, b"@body")
                if len(script) == 1:
                    script.append(self.plain(head))
                for step in script:
                    if step == b"@pause":
                        time.sleep(0.15)
                    elif step == b"@close":
                        return
                    elif step == b"@body":
                        body, buf = self.body(conn, head, buf)
                        log.append((head, body))
                        if body is None:
                            return
                    else:
                        conn.sendall(step)
        except OSError:
            pass
        finally:
            conn.close()

    @staticmethod
    def plain(head):
        words = head.split(b"\r\n")[0].split(b" ")
        body = b"%s %s\n" % (words[0], words[1] if len(words) > 1 else b"")
        sent = b"" if words[0] == b"HEAD" else body
        return b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%s" % (len(body), sent)

    @staticmethod
    def body(conn, head, buf):
        """The content and what is left; None if it does not come whole."""

        def more():
            piece = conn.recv(65536)
            if not piece:
                raise OSError("ended")
            return piece

        lower = head.lower()
        try:
            if b"transfer-encoding:" in lower and b"chunked" in lower.split(b"transfer-encoding:", 1)[1].split(b"\r\n")[0]:
                content = b""
                while True:
                    while b"\r\n" not in buf:
                        buf += more()
                    line, buf = buf.split(b"\r\n", 1)
                    n = int(line.split(b";")[0].strip(), 16)
                    if n == 0:
                        while not (buf.startswith(b"\r\n") or b"\r\n\r\n" in buf):
                            buf += more()
                        trailers, buf = (b"", buf[2:]) if buf.startswith(b"\r\n") else buf.split(b"\r\n\r\n", 1)
                        return content + (b"|" + trailers if trailers else b""), buf
                    while len(buf) < n + 2:
                        buf += more()
                    content += buf[:n]
                    buf = buf[n + 2 :]
            length = re.search(rb"\r\ncontent-length:[ \t]*(\d+)[ \t]*(\r\n|$)", head, re.I)
            n = int(length.group(1)) if length else 0
            while len(buf) < n:
                buf += more()
            return buf[:n], buf[n:]
        except (OSError, ValueError):
            return None, b""


def normal(head, body):
    """A message without what any proxy sets: its line, its fields in order, its content."""
    line, *fields = head.split(b"\r\n")
    kept = []
    for field in fields:
        name, _, value = field.partition(b":")
        if not OWN.match(name.strip()) and name.strip().lower() != b"connection":
            kept.append(name.lower() + b": " + value.strip(b" \t"))
    return b"\n".join([line, *sorted(kept)]) + b"\n\n" + (body or b"")


def expected(message):
    head, _, rest = message.partition(b"\r\n\r\n")
    content = rest
    if b"\r\ntransfer-encoding: chunked" in head.lower():
        content = b""
        while True:
            line, _, rest = rest.partition(b"\r\n")
            n = int(line, 16)
            if n == 0:
                break
            content, rest = content + rest[:n], rest[n + 2 :]
    return normal(head, content)


def statuses(data):
    """Statuses of the answers in what came, as a lenient client reads them."""
    found = []
    while True:
        start = re.match(rb"(?s)HTTP/1\.[01] (\d\d\d)[^\r]*\r\n(.*?)\r\n\r\n|HTTP/1\.[01] (\d\d\d)[^\r]*\r\n\r\n", data)
        if not start:
            return found
        status = int(start.group(1) or start.group(3))
        found.append(status)
        head, data = (start.group(2) or b"").lower(), data[start.end() :]
        length = re.search(rb"(?:^|\r\n)content-length: *(\d+)", head)
        if status < 200 or status in (204, 304):
            continue
        if length:
            data = data[int(length.group(1)) :]
        elif b"chunked" in head:
            at = data.find(b"0\r\n\r\n")
            data = data[at + 5 :] if at >= 0 else b""
        else:
            return found


def run(case, address, backend):
    backend.will(case.says)
    with socket.create_connection(address) as conn:
        conn.settimeout(PATIENCE)
        data = case.send
        if case.ends:
            data += b"GET /api/smuggled HTTP/1.1\r\nhost: %s\r\n\r\n" % HOST.encode()
        got = b""
        try:
            conn.sendall(data)
        except OSError:
            pass
        try:
            while piece := conn.recv(65536):
                got += piece
        except OSError:
            pass
    time.sleep(0.02)
    whole = [normal(h, b) for h, b in backend.seen() if b is not None]
    return statuses(got), [m for m in whole if b"/api/probe" not in m.split(b"\n")[0]]


NGINX = """
daemon off; pid {dir}/nginx.pid; error_log {dir}/error.log;
worker_processes 1;
events {{ worker_connections 512; }}
http {{
  access_log off; client_body_temp_path {dir}/b; proxy_temp_path {dir}/p; fastcgi_temp_path {dir}/f;
  uwsgi_temp_path {dir}/u; scgi_temp_path {dir}/s;
  map $http_upgrade $hop {{ default ''; websocket upgrade; }}
  upstream app {{ server {backend}; keepalive 8; }}
  server {{
    listen {listen};
    location = /api/denied {{ return 403; }}
    location /api/denied/ {{ return 403; }}
    location / {{
      proxy_pass http://app; proxy_http_version 1.1; proxy_request_buffering off;
      proxy_set_header host $http_host; proxy_set_header connection $hop; proxy_set_header upgrade $http_upgrade;
    }}
  }}
}}
"""

ENVOY = """
static_resources:
  listeners:
  - address: {{ socket_address: {{ address: {ip}, port_value: {port} }} }}
    filter_chains:
    - filters:
      - name: envoy.filters.network.http_connection_manager
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: x
          normalize_path: true
          merge_slashes: true
          upgrade_configs: [{{ upgrade_type: websocket }}]
          proxy_100_continue: true
          route_config:
            virtual_hosts:
            - name: all
              domains: ["*"]
              routes:
              - match: {{ path: /api/denied }}
                direct_response: {{ status: 403, body: {{ inline_string: "RBAC: access denied" }} }}
              - match: {{ prefix: /api/denied/ }}
                direct_response: {{ status: 403, body: {{ inline_string: "RBAC: access denied" }} }}
              - match: {{ prefix: / }}
                route: {{ cluster: app, timeout: 5s }}
          http_filters:
          - name: envoy.filters.http.router
            typed_config: {{ "@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router }}
  clusters:
  - name: app
    connect_timeout: 2s
    load_assignment:
      cluster_name: app
      endpoints:
      - lb_endpoints:
        - endpoint: {{ address: {{ socket_address: {{ address: {backend_ip}, port_value: {backend_port} }} }} }}
"""


def wait(address):
    for _ in range(200):
        try:
            socket.create_connection(address).close()
            return
        except OSError:
            time.sleep(0.05)
    raise SystemExit(f"nobody listens on {address}")


def compare(name, command, listen, backend):
    proxy = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        wait(listen)
        total, other = 0, []
        for case in cases():
            total += 1
            answers, reached = run(case, listen, backend)
            want = [expected(m) for m in case.reaches]
            if reached != want:
                kind = "forwards" if len(reached) > len(want) else "refuses" if len(reached) < len(want) else "changes"
            elif answers != case.answers:
                kind = "answers"
            else:
                continue
            other.append((kind, case.name, case.answers, answers, [m for m in reached if m not in want]))
        print(f"\n## {name}: {len(other)} of {total} cases end otherwise\n")
        for kind in ("forwards", "changes", "refuses", "answers"):
            for found in other:
                if found[0] == kind:
                    _, case, want, got, extra = found
                    shown = b" | ".join(extra)[:160]
                    print(f"{kind}\t{case[:90]!r}\t{want} -> {got}\t{shown!r}")
    finally:
        proxy.terminate()
        proxy.wait()


def main():
    args = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    args.add_argument("--nginx")
    args.add_argument("--envoy")
    args.add_argument("--ip", default="127.77.31.5")
    args = args.parse_args()
    backend_at = (args.ip, 18080)
    backend = Backend(backend_at)
    with tempfile.TemporaryDirectory() as place:
        if args.nginx:
            config = pathlib.Path(place) / "nginx.conf"
            os.chmod(place, 0o755)
            config.write_text(NGINX.format(dir=place, backend=f"{args.ip}:18080", listen=f"{args.ip}:18081"))
            compare("nginx", [args.nginx, "-c", str(config), "-e", f"{place}/error.log"], (args.ip, 18081), backend)
        if args.envoy:
            config = pathlib.Path(place) / "envoy.yaml"
            config.write_text(
                ENVOY.format(ip=args.ip, port=18082, backend_ip=args.ip, backend_port=18080)
            )
            command = [args.envoy, "-c", str(config), "--use-dynamic-base-id", "--concurrency", "1", "-l", "off"]
            compare("Envoy", command, (args.ip, 18082), backend)


if __name__ == "__main__":
    main()
