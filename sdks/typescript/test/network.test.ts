import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { createServer, type Server } from "node:http";
import { createServer as createTlsServer } from "node:https";
import { connect, type AddressInfo, type Socket } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { WebSocketServer } from "ws";

import * as sdk from "@wrenn/sandbox";
import { agentFor, environmentProxy } from "../dist/esm/platform/node_network.js";
import { test } from "./bounded.js";
import { FakeServer, INFO } from "./fake_server.js";

/** A proxy that tunnels, wherever it is asked to, to one server. */
async function startProxy(to: string): Promise<{ url: string; asked: string[]; server: Server }> {
  const asked: string[] = [];
  const server = createServer();
  server.on("connect", (request, socket: Socket) => {
    asked.push(request.url!);
    const upstream = connect(Number(new URL(to).port), "127.0.0.1", () => {
      socket.write("HTTP/1.1 200 OK\r\n\r\n");
      socket.pipe(upstream).pipe(socket);
    });
    socket.on("error", () => upstream.destroy());
    upstream.on("error", () => socket.destroy());
  });
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  return { url: `http://127.0.0.1:${(server.address() as AddressInfo).port}`, asked, server };
}

test("requests_and_sockets_go_through_proxy", async () => {
  await using server = await FakeServer.start([{ json: INFO }]);
  const proxy = await startProxy(server.url);
  try {
    const client = server.client({ apiUrl: "http://far.example", proxy: proxy.url, headers: { "x-more": "1" } });
    const sandbox = await sdk.Sandbox.get("sb-1", { client });
    server.onSocket = (socket) => {
      socket.once("message", () => {
        socket.send('{"type":"start","pid":5}');
        socket.send('{"type":"exit","exit_code":0}');
      });
    };
    assert.equal((await sandbox.commands.run(["true"])).exitCode, 0);
    // The WebSocket may take the connection of the request.
    assert.deepEqual([...new Set(proxy.asked)], ["far.example:80"]);
    assert.deepEqual(
      server.requests.map(({ headers }) => [headers["x-more"], headers["x-api-key"]]),
      [
        ["1", "wrn_test"],
        ["1", "wrn_test"],
      ],
    );
  } finally {
    proxy.server.closeAllConnections();
    proxy.server.close();
  }
});

test("connection_that_waits_has_limit", async () => {
  await using server = await FakeServer.start([{ json: INFO }]);
  // It says nothing of how long it keeps a connection.
  (server as unknown as { server: Server }).server.keepAliveTimeout = 0;
  await sdk.Sandbox.get("sb-1", { client: server.client() });
  const { freeSockets } = agentFor(new URL(server.url), {});
  // It waits again once its answer was read.
  while (!freeSockets[`127.0.0.1:${new URL(server.url).port}:`]) {
    await new Promise((resolve) => setTimeout(resolve, 5));
  }
  const [waiting] = freeSockets[`127.0.0.1:${new URL(server.url).port}:`]!;
  assert.equal(waiting!.timeout, 30_000);
});

test("environment_names_proxy_but_not_for_loopback", () => {
  const names = ["http_proxy", "https_proxy", "no_proxy", "all_proxy"].flatMap((name) => [name, name.toUpperCase()]);
  const before = names.map((name) => [name, process.env[name]] as const);
  try {
    names.forEach((name) => delete process.env[name]);
    assert.equal(environmentProxy(new URL("http://far.example")), undefined);
    process.env["HTTP_PROXY"] = "http://plain";
    process.env["https_proxy"] = "http://secure";
    process.env["NO_PROXY"] = "near.example, .inner:8000";
    const cases: [string, string | undefined][] = [
      ["http://far.example", "http://plain"],
      ["wss://far.example", "http://secure"],
      ["http://near.example", undefined],
      ["http://a.near.example", undefined],
      ["http://notnear.example", "http://plain"],
      ["http://a.inner:8000", undefined],
      ["http://a.inner", "http://plain"],
      ["http://localhost:8000", undefined],
      ["http://127.1.2.3", undefined],
      ["ws://[::1]:8000", undefined],
      ["http://127.example", "http://plain"],
    ];
    for (const [url, proxy] of cases) {
      assert.equal(environmentProxy(new URL(url)), proxy, url);
    }
  } finally {
    for (const [name, value] of before) {
      delete process.env[name];
      if (value !== undefined) {
        process.env[name] = value;
      }
    }
  }
});

test("own_authority_is_trusted", async () => {
  const dir = mkdtempSync(join(tmpdir(), "wrenn-sdk-"));
  const [key, cert] = [join(dir, "key"), join(dir, "cert")];
  const options = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-subj", "/CN=localhost"];
  const names = ["-addext", "subjectAltName=DNS:localhost"];
  execFileSync("openssl", ["req", "-x509", ...options, ...names, "-keyout", key, "-out", cert], { stdio: "ignore" });
  const ca = readFileSync(cert, "utf8");
  const server = createTlsServer({ key: readFileSync(key), cert: ca }, (_request, response) => {
    response.end(JSON.stringify(INFO));
  });
  const sockets = new WebSocketServer({ server });
  sockets.on("connection", (socket) => {
    socket.once("message", () => {
      socket.send('{"type":"start","pid":5}');
      socket.send('{"type":"exit","exit_code":0}');
    });
  });
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  try {
    const apiUrl = `https://localhost:${(server.address() as AddressInfo).port}`;
    const sandbox = await sdk.Sandbox.get("sb-1", { apiUrl, apiKey: "wrn_test", ca });
    assert.equal((await sandbox.commands.run(["true"])).exitCode, 0);
    const untrusting = sdk.Sandbox.get("sb-1", { apiUrl, apiKey: "wrn_test", retries: 0 });
    await assert.rejects(untrusting, sdk.UnreachableError);
  } finally {
    server.closeAllConnections();
    server.close();
    rmSync(dir, { recursive: true });
  }
});
