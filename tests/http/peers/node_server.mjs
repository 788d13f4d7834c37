// An ordinary server of Node.js: chunked answers, 100-continue, server-sent events, keep-alive, a WebSocket's handshake.
import { createHash } from "node:crypto";
import { createServer } from "node:http";

const [host, port] = process.argv.slice(2);

const routes = {
  "/api/peer/echo": (request, response) => {
    response.writeHead(200, { "content-type": "application/octet-stream", "x-seen": request.headers["x-asked"] ?? "" });
    request.pipe(response);
  },
  "/api/peer/json": async (request, response) => {
    let text = "";
    for await (const piece of request) text += piece;
    response.setHeader("set-cookie", ["a=1; Path=/", "b=2; Path=/"]);
    const { method, headers, url } = request;
    response.end(JSON.stringify({ method, url, cookie: headers.cookie, framing: headers["transfer-encoding"], text }));
  },
  "/api/peer/events": (request, response) => {
    response.writeHead(200, { "content-type": "text/event-stream", "cache-control": "no-store" });
    let n = 0;
    // The next event is made once the client has said that it has the last one.
    events = { next: () => response.write(`id: ${n}\ndata: event ${n++}\n\n`), end: () => response.end() };
    events.next();
  },
  "/api/peer/next": (request, response) => {
    events.next();
    response.end();
  },
  "/api/peer/end": (request, response) => {
    events.end();
    response.end();
  },
  "/api/peer/trailers": (request, response) => {
    response.writeHead(200, { trailer: "x-sum" });
    response.write("hello");
    response.addTrailers({ "x-sum": "5" });
    response.end();
  },
};
let events;

const serve = (request, response) => {
  const path = new URL(request.url, "http://x").pathname;
  const route = routes[path];
  if (route) return route(request, response);
  response.writeHead(404).end("no such thing");
};
const server = createServer(serve);
server.on("checkContinue", (request, response) => {
  if (request.headers["x-refuse"]) return response.writeHead(417).end();
  response.writeContinue();
  serve(request, response);
});
server.on("upgrade", (request, socket) => {
  const key = request.headers["sec-websocket-key"] + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11";
  const accept = createHash("sha1").update(key).digest("base64");
  socket.write(
    `HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: ${accept}\r\n\r\n`,
  );
  socket.pipe(socket);
});
server.listen(Number(port), host, () => console.log("ready"));
