// Clients of Node.js: `fetch` (undici), `http2` with many streams and a WebSocket by extended CONNECT, `https` with an agent.
import assert from "node:assert/strict";
import dns from "node:dns";
import { once } from "node:events";
import { readFileSync } from "node:fs";
import http2 from "node:http2";
import https from "node:https";
import { setTimeout as sleep } from "node:timers/promises";

const [address, host, identity] = process.argv.slice(2);
const cut = address.lastIndexOf(":");
const [ip, port] = [address.slice(0, cut), Number(address.slice(cut + 1))];
const shown = identity
  ? { cert: readFileSync(`${identity}/cert-chain.pem`), key: readFileSync(`${identity}/key.pem`) }
  : {};
const tls = { ...shown, rejectUnauthorized: false, servername: host };

// Said only when it fails or hangs.
const step = (text) => console.error(`... ${text}`);
const all = async (stream) => {
  const pieces = [];
  for await (const piece of stream) pieces.push(piece);
  return Buffer.concat(pieces);
};
const large = Buffer.alloc(1 << 20, "0123456789abcdef");

// HTTP/1.1 with an agent that keeps connections.
const agent = new https.Agent({ keepAlive: true, maxSockets: 1, ...tls });
const ask = (path, { body, ...options } = {}) =>
  new Promise((resolve, reject) => {
    const request = https.request({ host: ip, port, path, agent, ...options, headers: { host, ...options.headers } });
    const told = [];
    request.on("continue", () => told.push("continue"));
    request.on("error", reject);
    request.on("response", async (response) => {
      const content = await all(response);
      // A body that was refused is not sent.
      if (!request.writableEnded) request.destroy();
      resolve({ status: response.statusCode, content, told, response, reused: request.reusedSocket });
    });
    if (options.headers?.expect) {
      request.flushHeaders();
      request.on("continue", () => request.end(body));
    } else request.end(body);
  });
{
  const first = await ask("/api/peer/json?x=1", { headers: { cookie: "a=1; b=2" } });
  const { method, url, cookie } = JSON.parse(first.content);
  assert.deepEqual([method, url, cookie], ["GET", "/api/peer/json?x=1", "a=1; b=2"]);
  assert.deepEqual(first.response.headers["set-cookie"], ["a=1; Path=/", "b=2; Path=/"]);
  step("echo");
  for (const body of ["", "x", large]) {
    const { status, content, reused } = await ask("/api/peer/echo", { method: "POST", body });
    assert.equal(status, 200);
    assert.ok(reused, "the connection is not kept");
    assert.equal(Buffer.compare(content, Buffer.from(body)), 0);
  }
  step("chunks");
  const chunked = await ask("/api/peer/json", {
    method: "POST",
    body: "hello",
    headers: { "transfer-encoding": "chunked" },
  });
  assert.deepEqual([JSON.parse(chunked.content).text, JSON.parse(chunked.content).framing], ["hello", "chunked"]);
  step("100-continue");
  const asked = await ask("/api/peer/echo", { method: "POST", body: "wanted", headers: { expect: "100-continue" } });
  assert.deepEqual([asked.told, asked.content.toString()], [["continue"], "wanted"]);
  step("417");
  const refused = await ask("/api/peer/echo", {
    method: "POST",
    body: "unwanted",
    headers: { expect: "100-continue", "x-refuse": "1" },
  });
  assert.deepEqual([refused.status, refused.told], [417, []]);
  step("trailers");
  const trailed = await ask("/api/peer/trailers", { headers: { te: "trailers", connection: "te" } });
  assert.equal(trailed.response.trailers["x-sum"], "5");
  assert.equal((await ask("/api/denied")).status, 403);
  assert.equal((await ask("/api/peer/none")).status, 404);
  step("HEAD");
  const head = await ask("/api/peer/echo", { method: "HEAD" });
  assert.deepEqual([head.status, head.content.length], [200, 0]);
}
agent.destroy();
step("http2");

// HTTP/2.
const session = http2.connect(`https://${address}`, tls);
await once(session, "remoteSettings");
const stream = (headers, body) => {
  const request = session.request({ ":authority": host, ...headers }, { endStream: body === undefined });
  if (body !== undefined) request.end(body);
  return request;
};
const answered = async (request) => {
  const [headers] = await once(request, "response");
  return [headers, await all(request)];
};
{
  step("many streams");
  const many = Array.from({ length: 200 }, async (_, n) => {
    const body = large.subarray(0, n * 500);
    const [headers, content] = await answered(
      stream({ ":method": "POST", ":path": "/api/peer/echo", "x-asked": String(n) }, body),
    );
    assert.equal(headers[":status"], 200);
    assert.equal(headers["x-seen"], String(n));
    assert.equal(Buffer.compare(content, body), 0, `stream ${n}`);
  });
  await Promise.all(many);
  step("crumbs, trailers, a denial");
  const crumbs = stream({ ":path": "/api/peer/json", cookie: ["a=1", "b=2", "c=3"] });
  assert.equal(JSON.parse((await answered(crumbs))[1]).cookie, "a=1; b=2; c=3");
  const trailed = stream({ ":path": "/api/peer/trailers", te: "trailers" });
  const trailers = once(trailed, "trailers");
  assert.equal((await answered(trailed))[1].toString(), "hello");
  assert.equal((await trailers)[0]["x-sum"], "5");
  assert.equal((await answered(stream({ ":path": "/api/denied" })))[0][":status"], 403);

  step("events");
  // Server-sent events: each is here before the next one is made.
  const events = stream({ ":path": "/api/peer/events" });
  await once(events, "response");
  let text = "";
  const end = once(events, "end");
  events.on("data", (piece) => (text += piece));
  for (let n = 0; n < 5; n++) {
    while (!text.includes(`data: event ${n}\n\n`)) await sleep(5);
    assert.ok(!text.includes(`event ${n + 1}`));
    await answered(stream({ ":path": n < 4 ? "/api/peer/next" : "/api/peer/end" }));
  }
  await end;

  step("websocket");
  // WebSocket by extended CONNECT.
  assert.equal(session.remoteSettings.enableConnectProtocol, true);
  const socket = session.request(
    {
      ":method": "CONNECT",
      ":protocol": "websocket",
      ":scheme": "https",
      ":authority": host,
      ":path": "/api/peer/ws",
      "sec-websocket-version": "13",
    },
    { endStream: false },
  );
  const [opened] = await once(socket, "response");
  assert.deepEqual([opened[":status"], opened["sec-websocket-accept"]], [200, undefined]);
  socket.end(large);
  assert.equal(Buffer.compare(await all(socket), large), 0);
  const refusedSocket = session.request(
    { ":method": "CONNECT", ":protocol": "websocket", ":scheme": "https", ":authority": host, ":path": "/api/denied" },
    { endStream: false },
  );
  assert.equal((await once(refusedSocket, "response"))[0][":status"], 403);
  refusedSocket.close();
}
session.close();
await once(session, "close");

// What browsers and Node.js call `fetch`; it shows no certificate.
if (!identity) {
  step("fetch");
  dns.lookup = (_name, options, told) => (options.all ? told(null, [{ address: ip, family: 4 }]) : told(null, ip, 4));
  const url = (path) => `https://${host}:${port}${path}`;
  const got = await fetch(url("/api/peer/echo"), { method: "POST", body: large });
  assert.equal(got.status, 200);
  assert.equal(Buffer.compare(Buffer.from(await got.arrayBuffer()), large), 0);
  const upload = new ReadableStream({
    start(controller) {
      for (let n = 0; n < 10; n++) controller.enqueue(new TextEncoder().encode(`piece ${n};`));
      controller.close();
    },
  });
  const streamed = await fetch(url("/api/peer/json"), { method: "POST", body: upload, duplex: "half" });
  assert.equal((await streamed.json()).text, Array.from({ length: 10 }, (_, n) => `piece ${n};`).join(""));
  const left = new AbortController();
  const events = await fetch(url("/api/peer/events"), { signal: left.signal });
  const { value } = await events.body.getReader().read();
  assert.equal(new TextDecoder().decode(value), "id: 0\ndata: event 0\n\n");
  left.abort();
}

console.log("all is well");
