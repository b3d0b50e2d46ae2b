// What depends on the browser: requests, sockets whose key is a subprotocol, streams. Runs in Chromium, on a page with the
// modules of ./dist that has the same origin as the server of WRENN_API_URL: to pages of others it answers nothing.
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { createServer, request as httpRequest } from "node:http";
import { connect } from "node:net";
import process from "node:process";

import { chromium } from "playwright-core";

const { WRENN_API_URL: url, WRENN_API_KEY: apiKey } = process.env;
const ROOT = "/browser-test/";
const PAGE = `<!doctype html><meta charset="utf-8">
<script type="importmap">{ "imports": { "#platform": "${ROOT}platform/browser.js" } }</script>`;

/** Runs in the page. */
async function exercise({ module, apiKey }) {
  const sdk = await import(module);
  const client = new sdk.Client({ apiUrl: location.origin, apiKey });
  const found = {};
  const sandbox = await sdk.Sandbox.create({ client });
  const codeOf = (action) => action.then(() => "none").catch((error) => error.code);
  try {
    found.stdin = (await sandbox.commands.run("cat; echo end", { stdin: "hi\n" })).stdout;
    found.exit = await codeOf(sandbox.commands.run("exit 3"));
    found.missing = await codeOf(sandbox.files.read("/none"));

    await sandbox.files.write("/tmp/a", "grüße");
    found.text = await sandbox.files.read("/tmp/a");
    const bytes = Uint8Array.from({ length: 3_000_000 }, (_, index) => index % 251);
    await sandbox.files.upload(new Blob([bytes]), "/tmp/b");
    let size = 0;
    let wrong = 0;
    for await (const part of await sandbox.files.read("/tmp/b", { format: "stream" })) {
      wrong += part.some((byte, index) => byte !== (size + index) % 251) ? 1 : 0;
      size += part.length;
    }
    found.upload = [size, wrong];
    const stream = new Blob(["x"]).stream();
    found.streamed = await codeOf(sandbox.files.write("/tmp/c", stream));

    const background = await sandbox.commands.run("for i in 1 2 3; do echo $i; done", { background: true });
    found.background = (await background.wait()).stdout;
    const terminal = await sandbox.pty.create({ cols: 80, rows: 24, command: ["sh", "-c", "stty size"] });
    found.terminal = (await terminal.wait()).stdout.trim();

    const events = await client.events.stream({ sandbox: sandbox.sandboxId });
    const watch = await sandbox.files.watchDir("/home/user");
    await sandbox.update({ labels: { seen: "yes" } });
    await sandbox.files.write("/home/user/new", "");
    found.event = (await events.read()).type;
    found.watched = (await watch.read()).path;
    events.close();
    watch.close();

    const program =
      "import socket; s = socket.create_server(('', 8124)); print('ready', flush=True); c = s.accept()[0]\n" +
      "while d := c.recv(65536): c.sendall(d)\nc.shutdown(socket.SHUT_WR)";
    const echo = await sandbox.commands.stream(["python3", "-c", program]);
    await echo.read();
    const connection = await sandbox.connectPort(8124);
    const writer = connection.writable.getWriter();
    await writer.write(new TextEncoder().encode("ping"));
    await writer.close();
    found.port = await new Response(connection.readable).text();
    found.echo = (await echo.wait()).exitCode;
  } finally {
    found.killed = await sandbox.kill();
  }
  return found;
}

/** Serves the page and its modules, and passes all else on: page and API have one origin. */
async function serve() {
  const upstream = new URL(url);
  const server = createServer((request, response) => {
    const { pathname } = new URL(request.url, url);
    if (pathname === ROOT) {
      response.setHeader("content-type", "text/html").end(PAGE);
    } else if (pathname.startsWith(ROOT)) {
      const file = new URL(`dist/${pathname.slice(ROOT.length)}`, import.meta.url);
      response.setHeader("content-type", "text/javascript").end(readFileSync(file));
    } else {
      const { method, headers } = request;
      const passed = httpRequest(new URL(request.url, url), { method, headers }, (answer) => {
        response.writeHead(answer.statusCode, answer.rawHeaders);
        answer.pipe(response);
      });
      passed.on("error", () => response.destroy());
      request.pipe(passed);
    }
  });
  server.on("upgrade", (request, socket, head) => {
    const passed = connect(Number(upstream.port), upstream.hostname, () => {
      const lines = [`GET ${request.url} HTTP/1.1`];
      for (let index = 0; index < request.rawHeaders.length; index += 2) {
        lines.push(`${request.rawHeaders[index]}: ${request.rawHeaders[index + 1]}`);
      }
      passed.write(`${lines.join("\r\n")}\r\n\r\n`);
      passed.write(head);
      passed.pipe(socket).pipe(passed);
    });
    passed.on("error", () => socket.destroy());
    socket.on("error", () => passed.destroy());
  });
  await new Promise((resolve) => server.listen(0, "127.0.0.1", resolve));
  return server;
}

const server = await serve();
const browser = await chromium.launch({ executablePath: "/usr/bin/chromium", args: ["--no-sandbox"] });
try {
  const page = await browser.newPage();
  page.on("console", (message) => console.log("page:", message.text()));
  await page.goto(`http://127.0.0.1:${server.address().port}${ROOT}`);
  const found = await page.evaluate(exercise, { module: `${ROOT}index.js`, apiKey });
  assert.deepEqual(found, {
    stdin: "hi\nend\n",
    exit: "command_exit",
    missing: "not_found",
    text: "grüße",
    upload: [3_000_000, 0],
    // Browsers send streams over HTTP/2 alone.
    streamed: "connection_broken",
    background: "1\n2\n3\n",
    terminal: "24 80",
    event: "sandbox.updated",
    watched: "/home/user/new",
    port: "ping",
    echo: 0,
    killed: true,
  });
  console.log("all well in Chromium", browser.version());
} finally {
  await browser.close();
  server.closeAllConnections();
  server.close();
}
