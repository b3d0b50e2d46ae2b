import assert from "node:assert/strict";
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { pipeline } from "node:stream/promises";
import { test } from "./bounded.js";

import * as sdk from "@wrenn/sandbox";
import { nodeFetch as platformFetch } from "../dist/esm/platform/node_fetch.js";
import { FakeServer, ID, refusal, send } from "./fake_server.js";

/** Fields and file of a form. */
function formOf(body: Buffer, contentType: string): Promise<FormData> {
  return new Response(Uint8Array.from(body), { headers: { "content-type": contentType } }).formData();
}

async function* pieces(count: number, size: number): AsyncGenerator<Uint8Array> {
  for (let index = 0; index < count; index += 1) {
    yield new Uint8Array(size).fill(index % 251);
  }
}

test("files_of_every_kind_are_written", async () => {
  await using server = await FakeServer.start([{ status: 204 }]);
  const sandbox = await server.sandbox();
  const bytes = Buffer.from("grüße");
  const kinds: sdk.Data[] = [
    "grüße",
    bytes,
    Uint8Array.from(bytes).buffer,
    new Blob([bytes]),
    new Blob([bytes]).stream(),
  ];
  async function* source(): AsyncGenerator<Uint8Array> {
    yield bytes.subarray(0, 3);
    yield bytes.subarray(3);
  }
  for (const data of [...kinds, source()]) {
    server.requests.length = 0;
    await sandbox.files.write("/a", data, { user: "root", mode: 0o755 });
    const { headers, body, path } = server.requests[0]!;
    assert.equal(path, `/v1/sandboxes/${ID}/files/stream/write`);
    const form = await formOf(body, headers["content-type"]!);
    assert.deepEqual([...form.keys()], ["path", "user", "mode", "file"]);
    assert.deepEqual([form.get("path"), form.get("user"), form.get("mode")], ["/a", "root", "0755"]);
    assert.equal(await (form.get("file") as File).text(), "grüße");
  }
  server.requests.length = 0;
  await sandbox.files.writeFiles([
    { path: "a", data: "1" },
    { path: "b", data: "2", mode: "0600" },
  ]);
  assert.equal(server.requests.length, 2);
});

test("bytes_are_sent_again_and_streams_are_not", async () => {
  await using server = await FakeServer.start([refusal(429, "resource_exhausted"), { status: 204 }]);
  const sandbox = await server.sandbox();
  await sandbox.files.write("a", "text");
  assert.equal(server.requests.length, 2);
  assert.equal(server.requests[0]!.body.length, server.requests[1]!.body.length);
  server.replies = [refusal(429, "resource_exhausted"), { status: 204 }];
  await assert.rejects(sandbox.files.write("a", pieces(2, 10)), sdk.ResourceExhaustedError);
  server.replies = [{ cut: "after" }, { status: 204 }];
  await assert.rejects(sandbox.files.write("a", "text"), sdk.ConnectionBrokenError);
  assert.equal(server.requests.length, 4);
});

test("refusal_before_all_was_sent_is_told", async () => {
  await using server = await FakeServer.start();
  const sandbox = await server.sandbox();
  server.early = refusal(403, "forbidden");
  await assert.rejects(sandbox.files.write("a", pieces(5000, 65536)), sdk.ForbiddenError);
});

test("source_that_fails_is_the_error", async () => {
  await using server = await FakeServer.start([{ status: 204 }]);
  const sandbox = await server.sandbox();
  async function* source(): AsyncGenerator<Uint8Array> {
    yield Uint8Array.of(1);
    throw new Error("disk on fire");
  }
  await assert.rejects(sandbox.files.write("a", source()), /^Error: disk on fire$/);
  await assert.rejects(sandbox.files.writeArchive("a", source()), /^Error: disk on fire$/);
});

test("fifty_megabytes_pass_both_ways", async () => {
  await using server = await FakeServer.start();
  const sandbox = await server.sandbox();
  const total = 800 * 65536;
  server.handle = ({ body }, response) => {
    server.handle = (_request, again) => {
      // The form without its head and tail.
      const at = body.indexOf("octet-stream\r\n\r\n") + "octet-stream\r\n\r\n".length;
      again.end(body.subarray(at, at + total));
    };
    send(response, { status: 204 });
  };
  await sandbox.files.write("a", pieces(800, 65536));
  const stream = await sandbox.files.read("a", { format: "stream" });
  let received = 0;
  for await (const part of stream as unknown as AsyncIterable<Uint8Array>) {
    for (let index = 0; index < part.length; index += 1000) {
      assert.equal(part[index], Math.floor((received + index) / 65536) % 251);
    }
    received += part.length;
  }
  assert.equal(received, total);
});

test("read_has_its_formats", async () => {
  await using server = await FakeServer.start([{ text: "\ufeffgrüße" }, { text: "grüße" }]);
  const sandbox = await server.sandbox();
  assert.equal(await sandbox.files.read("a"), "\ufeffgrüße");
  assert.deepEqual(await sandbox.files.read("a", { format: "bytes" }), Uint8Array.from(Buffer.from("grüße")));
  const stream = await sandbox.files.read("a", { format: "stream", user: "root" });
  assert.equal(await new Response(stream).text(), "grüße");
  assert.deepEqual(JSON.parse(server.requests[2]!.body.toString()), { path: "a", user: "root" });
  await (await sandbox.files.read("a", { format: "stream" })).cancel();
});

test("stream_that_breaks_off_is_an_error", async () => {
  await using server = await FakeServer.start([{ cut: 3, text: "abcdef" }]);
  const sandbox = await server.sandbox();
  const stream = await sandbox.files.read("a", { format: "stream" });
  await assert.rejects(new Response(stream).text(), sdk.ConnectionBrokenError);
});

test("answer_that_closes_is_not_taken_for_whole", async () => {
  await using server = await FakeServer.start();
  const sandbox = await server.sandbox({ retries: 0 });
  server.handle = (_request, response) => {
    response.writeHead(200, { connection: "close" });
    response.write("half", () => response.socket!.resetAndDestroy());
  };
  await assert.rejects(sandbox.files.read("a"), sdk.ConnectionBrokenError);
});

test("download_keeps_old_file_until_end", async () => {
  const dir = mkdtempSync(join(tmpdir(), "wrenn-sdk-"));
  try {
    await using server = await FakeServer.start([{ text: "new" }]);
    const sandbox = await server.sandbox();
    const local = join(dir, "file");
    writeFileSync(local, "old");
    server.replies = [{ cut: 2, text: "new" }];
    await assert.rejects(sandbox.files.download("a", local), sdk.ConnectionBrokenError);
    assert.equal(readFileSync(local, "utf8"), "old");
    server.replies = [{ text: "new" }];
    await sandbox.files.download("a", local);
    assert.equal(readFileSync(local, "utf8"), "new");
    assert.deepEqual(readdirSync(dir), ["file"]);
  } finally {
    rmSync(dir, { recursive: true });
    assert.ok(!existsSync(dir));
  }
});

test("archives_are_streams", async () => {
  await using server = await FakeServer.start([{ text: "tar" }]);
  const sandbox = await server.sandbox();
  const archive = await sandbox.files.readArchive("d", { singleFile: true });
  server.replies = [{ status: 204 }];
  await sandbox.files.writeArchive("e", archive);
  await sandbox.files.writeArchive("e", "tar");
  assert.match(server.requests[0]!.path, /archive\?path=d&single_file=true$/);
  for (const { method, body, headers } of server.requests.slice(1)) {
    assert.deepEqual([method, body.toString(), headers["content-type"]], ["PUT", "tar", "application/x-tar"]);
  }
});

test("search_has_matches_and_summary", async () => {
  await using server = await FakeServer.start();
  const sandbox = await server.sandbox();
  const match = { type: "match", path: "/é", kind: "file", line: 2, text: "x" };
  const end = { type: "end", searched: 1, binary: 0, unreadable: 0, incomplete: "limit" };
  server.replies = [{ text: `${JSON.stringify(match)}\n\n${JSON.stringify(end)}\n` }];
  const search = await sandbox.files.search("/", { content: "x", ignoreCase: true, limit: 1 });
  assert.equal(search.summary, undefined);
  for await (const found of search) {
    assert.deepEqual(found, match);
  }
  assert.deepEqual(search.summary, end);
  assert.deepEqual(JSON.parse(server.requests[0]!.body.toString()), {
    path: "/",
    content: "x",
    ignore_case: true,
    limit: 1,
  });
  server.replies = [{ text: JSON.stringify(match) }];
  const broken = await sandbox.files.search("/", { name: "x" });
  await assert.rejects(async () => {
    for await (const _match of broken);
  }, sdk.ConnectionBrokenError);
});

test("watch_gives_changes_until_its_end", async () => {
  await using server = await FakeServer.start();
  const sandbox = await server.sandbox();
  const say = (frames: object[]): void => {
    server.onSocket = (socket) => frames.forEach((frame) => socket.send(JSON.stringify(frame)));
  };
  const change = { type: "create", path: "/a", is_directory: true };
  say([{ type: "started" }, change, { type: "lost", data: "too many" }, { type: "ended", data: "removed" }]);
  const seen: sdk.WatchEvent[] = [];
  for await (const event of await sandbox.files.watchDir("/d", { recursive: true })) {
    seen.push(event);
  }
  assert.deepEqual(seen, [
    { type: "create", path: "/a", isDirectory: true },
    { type: "lost", data: "too many" },
  ]);
  assert.match(server.requests[0]!.path, /watch\?path=%2Fd&recursive=true$/);

  say([{ type: "error", code: "not_found", data: "no directory" }]);
  await assert.rejects(sandbox.files.watchDir("/d"), sdk.NotFoundError);
  say([{ type: "started" }, { type: "error", code: "invalid_state", data: "paused" }]);
  await assert.rejects((await sandbox.files.watchDir("/d")).read(), sdk.InvalidStateError);
  say([{ type: "started" }]);
  const watch = await sandbox.files.watchDir("/d");
  const reading = watch.read();
  await watch[Symbol.asyncDispose]();
  assert.deepEqual([await reading, await watch.read()], [undefined, undefined]);
  server.onSocket = (socket) => {
    socket.send(JSON.stringify({ type: "started" }));
    setTimeout(() => socket.terminate(), 20);
  };
  await assert.rejects((await sandbox.files.watchDir("/d")).read(), sdk.ConnectionBrokenError);
});

/** A server of tus that breaks off `cuts` parts behind so many bytes. */
function serveUploads(server: FakeServer, cuts: number[]): { content: Buffer; metadata: string; deleted: number } {
  const state = { content: Buffer.alloc(0), metadata: "", deleted: 0 };
  server.handle = ({ method, headers, body }, response) => {
    assert.equal(headers["tus-resumable"], "1.0.0");
    if (method === "POST") {
      state.metadata = headers["upload-metadata"] as string;
      send(response, { status: 201, headers: { location: "/v1/somewhere/files/uploads/0a1b" } });
    } else if (method === "DELETE") {
      state.deleted += 1;
      send(response, { status: 204 });
    } else if (method === "HEAD") {
      send(response, { headers: { "upload-offset": String(state.content.length) } });
    } else {
      assert.equal(Number(headers["upload-offset"]), state.content.length);
      const cut = cuts.shift();
      state.content = Buffer.concat([state.content, body.subarray(0, cut)]);
      if (cut === undefined) {
        send(response, { status: 204, headers: { "upload-offset": String(state.content.length) } });
      } else {
        response.socket!.resetAndDestroy();
      }
    }
  };
  return state;
}

test("upload_goes_on_where_it_broke", async () => {
  await using server = await FakeServer.start();
  const sandbox = await server.sandbox();
  const content = Buffer.from(Array.from({ length: 300_000 }, (_, index) => index % 251));
  const dir = mkdtempSync(join(tmpdir(), "wrenn-sdk-"));
  const local = join(dir, "file");
  writeFileSync(local, content);
  try {
    for (const source of [content, new Blob([content]), local]) {
      const state = serveUploads(server, [100_000, 0, 50_000]);
      await sandbox.files.upload(source, "/é", { mode: 0o640, user: "root" });
      assert.ok(state.content.equals(content));
      const base64 = (text: string): string => Buffer.from(text).toString("base64");
      assert.equal(state.metadata, `path ${base64("/é")},user ${base64("root")},mode ${base64("0640")}`);
    }
  } finally {
    rmSync(dir, { recursive: true });
  }
});

test("upload_survives_outage_and_conflict", async () => {
  await using server = await FakeServer.start();
  const sandbox = await server.sandbox({ retries: 0 });
  let outage = 5;
  let hadConflict = false;
  let arrived = "";
  server.handle = ({ method, body }, response) => {
    if (method === "POST") {
      send(response, { status: 201, headers: { location: "/0a1b" } });
    } else if (method === "PATCH" && arrived === "") {
      arrived = body.toString().slice(0, 2);
      response.socket!.resetAndDestroy();
    } else if (method === "PATCH" && !hadConflict) {
      // A byte of the part before arrived late.
      hadConflict = true;
      arrived += body.toString().slice(0, 1);
      send(response, refusal(409, "conflict"));
    } else if (method === "HEAD" && outage > 0) {
      outage -= 1;
      send(response, { status: 503 });
    } else {
      arrived += method === "PATCH" ? body.toString() : "";
      send(response, { status: 204, headers: { "upload-offset": String(arrived.length) } });
    }
  };
  await sandbox.files.upload(Buffer.from("abcdef"), "a");
  assert.deepEqual([arrived, outage], ["abcdef", 0]);
});

test("diff_has_changes_and_summary", async () => {
  await using server = await FakeServer.start();
  const sandbox = await server.sandbox();
  const start = '{"type":"start","from":"a","from_unflushed":true}\n{"type":"change","path":"/a"}\n';
  server.replies = [{ text: `${start}{"type":"end","compared":5,"unreadable":0}\n` }];
  const diff = await sandbox.diff();
  const paths: string[] = [];
  for await (const { path } of diff) {
    paths.push(path);
  }
  assert.deepEqual(paths, ["/a"]);
  assert.deepEqual(diff.summary, { from: "a", fromUnflushed: true, compared: 5, unreadable: 0 });
  server.replies = [{ text: start }];
  await using broken = await sandbox.diff();
  await assert.rejects(async () => {
    for await (const _change of broken);
  }, sdk.ConnectionBrokenError);
  assert.equal(broken.summary, undefined);
});

test("data_has_time_while_it_moves", async () => {
  await using server = await FakeServer.start([{ status: 204 }]);
  let stallMs: number | undefined;
  const impatient = (url: URL, init: { stallMs?: number }): Promise<Response> => {
    stallMs = init.stallMs;
    return platformFetch(url, { ...init, stallMs: init.stallMs && 250 });
  };
  const sandbox = await server.sandbox({ fetch: impatient as typeof fetch, retries: 0 });
  async function* slowly(): AsyncGenerator<Uint8Array> {
    for (let index = 0; index < 20; index += 1) {
      await new Promise((resolve) => setTimeout(resolve, 30));
      yield Uint8Array.of(index);
    }
  }
  await sandbox.files.write("a", slowly());
  assert.equal(stallMs, 300_000);
  server.handle = (_request, response) => void pipeline(slowly(), response).catch(() => {});
  assert.equal((await sandbox.files.read("a", { format: "bytes" })).length, 20);
  server.handle = (_request, response) => void response.write("half");
  await assert.rejects(sandbox.files.read("a"), sdk.ConnectionBrokenError);
  const stream = await sandbox.files.read("a", { format: "stream" });
  await assert.rejects(new Response(stream).text(), sdk.ConnectionBrokenError);
  server.handle = undefined;
  await sandbox.ping();
  assert.equal(stallMs, undefined);
});

test("search_that_is_closed_ends", async () => {
  await using server = await FakeServer.start();
  const sandbox = await server.sandbox();
  const ended = new Promise<void>((resolve) => {
    server.handle = (_request, response) => {
      response.on("close", resolve);
      response.write("{}\n");
    };
  });
  const search = await sandbox.files.search("/", { name: "*" });
  await search.close();
  await ended;
});

test("upload_that_is_refused_is_deleted", async () => {
  await using server = await FakeServer.start();
  const sandbox = await server.sandbox();
  const state = serveUploads(server, []);
  const { handle } = server;
  server.handle = (request, response) =>
    request.method === "PATCH" ? send(response, refusal(507, "insufficient_storage")) : handle!(request, response);
  await assert.rejects(sandbox.files.upload(Buffer.from("abc"), "a"), sdk.InsufficientStorageError);
  assert.equal(state.deleted, 1);
  server.handle = (_request, response) => send(response, { status: 201 });
  await assert.rejects(sandbox.files.upload(Buffer.from("abc"), "a"), sdk.ProtocolError);
});

test("port_ends_each_direction_alone", async () => {
  await using server = await FakeServer.start();
  const sandbox = await server.sandbox();
  const received: Buffer[] = [];
  server.onSocket = (socket) => {
    socket.on("message", (data: Buffer, isBinary) => {
      assert.ok(isBinary);
      received.push(data);
      if (data.length === 0) {
        socket.send(Buffer.concat(received));
        socket.send("ignored");
        socket.send(Buffer.alloc(0));
      }
    });
  };
  const connection = await sandbox.connectPort(80);
  assert.match(server.requests[0]!.path, /tunnel\?port=80$/);
  const writer = connection.writable.getWriter();
  await writer.write(new Uint8Array(100_000).fill(7));
  await writer.close();
  const answer = await new Response(connection.readable).arrayBuffer();
  assert.equal(answer.byteLength, 100_000);
  assert.deepEqual(
    received.map(({ length }) => length),
    [65536, 34464, 0],
  );

  server.onSocket = (socket) => socket.close();
  const broken = await sandbox.connectPort(81);
  await assert.rejects(new Response(broken.readable).text(), sdk.ConnectionBrokenError);
  server.onSocket = () => {};
  const given = await sandbox.connectPort(82);
  const reading = new Response(given.readable).text();
  await given[Symbol.asyncDispose]();
  assert.equal(await reading, "");
  const other = await sandbox.connectPort(83);
  await other.readable.cancel();
  const last = await sandbox.connectPort(84);
  await last.writable.abort();
});
