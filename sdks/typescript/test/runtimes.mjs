// What depends on the runtime: requests, streams, sockets and files. Runs in Node, Deno and Bun, with the package installed.
import assert from "node:assert/strict";
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import process from "node:process";

import { CommandExitError, NotFoundError, Sandbox } from "@wrenn/sandbox";

const SIZE = 5_000_000;
const pattern = Uint8Array.from({ length: SIZE }, (_, index) => index % 251);

async function bytesOf(stream) {
  const parts = [];
  for (const reader = stream.getReader(); ;) {
    const { done, value } = await reader.read();
    if (done) {
      return Buffer.concat(parts);
    }
    parts.push(value);
  }
}

async function* pieces() {
  for (let at = 0; at < SIZE; at += 100_000) {
    yield pattern.subarray(at, at + 100_000);
  }
}

const dir = mkdtempSync(join(tmpdir(), "wrenn-runtime-"));
const sandbox = await Sandbox.create();
try {
  const { stdout } = await sandbox.commands.run("cat; echo end", { stdin: "hi\n" });
  assert.equal(stdout, "hi\nend\n");
  await assert.rejects(sandbox.commands.run("exit 3"), CommandExitError);
  await assert.rejects(sandbox.files.read("/none"), NotFoundError);
  await assert.rejects(sandbox.commands.connect("none"), NotFoundError);

  await sandbox.files.write("/tmp/a", pieces());
  assert.ok((await bytesOf(await sandbox.files.read("/tmp/a", { format: "stream" }))).equals(pattern));
  await sandbox.files.upload(pattern, "/tmp/b");
  await sandbox.files.download("/tmp/b", join(dir, "b"));
  assert.ok(readFileSync(join(dir, "b")).equals(Buffer.from(pattern)));

  const program =
    "import socket; s = socket.create_server(('', 8124)); print('ready', flush=True); c = s.accept()[0]\n" +
    "while d := c.recv(65536): c.sendall(d)\nc.shutdown(socket.SHUT_WR)";
  const echo = await sandbox.commands.run(["python3", "-c", program], { background: true });
  assert.equal((await echo.read()).text, "ready\n");
  const connection = await sandbox.connectPort(8124);
  const sending = (async () => {
    const writer = connection.writable.getWriter();
    for await (const piece of pieces()) {
      await writer.write(piece);
    }
    await writer.close();
  })();
  assert.ok((await bytesOf(connection.readable)).equals(pattern));
  await sending;
  assert.equal((await echo.wait()).exitCode, 0);
  console.log("all well");
} finally {
  await sandbox.kill();
  rmSync(dir, { recursive: true });
}
process.exit(0);
