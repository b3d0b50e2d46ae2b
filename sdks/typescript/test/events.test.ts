import assert from "node:assert/strict";
import { test } from "./bounded.js";
import type { ServerResponse } from "node:http";

import * as sdk from "@wrenn/sandbox";
import { FakeServer, refusal } from "./fake_server.js";

const event = (cursor: number, type = "sandbox.paused") => ({
  id: `evt-${cursor}`,
  cursor: String(cursor),
  type,
  data: { a_b: 1 },
});

const text = (cursor: number): string =>
  `id: ${cursor}\nevent: sandbox.paused\ndata: ${JSON.stringify(event(cursor))}\n\n`;

test("events_come_in_pages_up_to_limit", async () => {
  await using server = await FakeServer.start();
  const client = server.client();
  const page = (cursors: number[]) => ({
    json: cursors.map((cursor) => event(cursor)),
    headers: { "x-next-cursor": "9" },
  });
  server.replies = [page([1, 2, 3])];
  const seen: sdk.EventInfo[] = [];
  for await (const found of client.events.list({ type: ["sandbox.*", "key.created"], since: new Date(0), limit: 3 })) {
    seen.push(found);
  }
  assert.deepEqual(
    seen.map(({ cursor }) => cursor),
    ["1", "2", "3"],
  );
  assert.deepEqual(seen[0]!.data, { a_b: 1 });
  assert.equal(
    server.requests[0]!.path,
    "/v1/events?type=sandbox.*%2Ckey.created&since=1970-01-01T00%3A00%3A00.000Z&limit=3",
  );
  server.requests.length = 0;
  server.replies = [page(Array.from({ length: 1000 }, (_, index) => index)), page([1])];
  let count = 0;
  for await (const _event of client.events.list()) {
    count += 1;
  }
  assert.equal(count, 1001);
  assert.match(server.requests[1]!.path, /cursor=9/);
});

test("stream_goes_on_where_it_broke", async () => {
  await using server = await FakeServer.start();
  const answers: ((response: ServerResponse) => void)[] = [
    (response) => {
      response.write(`: hello\nid: 4\n\n${text(5)}${text(6).slice(0, 60)}`, () => response.socket!.resetAndDestroy());
    },
    (response) => response.end(text(6)),
    (response) => {
      response.writeHead(503);
      response.end();
    },
    (response) => response.write(`${text(7)}event: error\ndata: ${JSON.stringify(refusal(410, "expired").json)}\n\n`),
  ];
  server.handle = (_request, response) => answers.shift()!(response);
  const stream = await server.client({ retries: 0 }).events.stream({ cursor: "3", sandbox: "sb-1" });
  const seen: string[] = [];
  await assert.rejects(async () => {
    for await (const { cursor } of stream) {
      seen.push(cursor);
    }
  }, sdk.ExpiredError);
  assert.deepEqual(seen, ["5", "6", "7"]);
  assert.equal(stream.cursor, "7");
  assert.deepEqual(
    server.requests.map(({ headers }) => headers["last-event-id"]),
    ["3", "5", "6", "6"],
  );
});

test("quiet_stream_survives_many_breaks", async () => {
  await using server = await FakeServer.start();
  let connections = 0;
  server.handle = (_request, response) => {
    connections += 1;
    const rest = connections === 4 ? text(9) : "";
    response.write(`id: ${connections}\n\n${rest}`, () => response.socket!.resetAndDestroy());
  };
  const stream = await server.impatient().events.stream();
  assert.equal((await stream.read())!.cursor, "9");
  server.handle = undefined;
  server.replies = [refusal(503, "host_unavailable")];
  await assert.rejects(stream.read(), sdk.HostUnavailableError);
});

test("stream_with_aborted_signal_is_not_opened", async () => {
  await using server = await FakeServer.start();
  const signal = AbortSignal.abort(new Error("stop"));
  await assert.rejects(server.client().events.stream({ signal }), /stop/);
  assert.equal(server.requests.length, 0);
});

test("stream_ends_when_it_is_closed", async () => {
  await using server = await FakeServer.start();
  server.handle = (_request, response) => response.write(text(1));
  const stream = await server.client().events.stream();
  assert.equal((await stream.read())!.cursor, "1");
  const reading = stream.read();
  stream.close();
  assert.deepEqual([await reading, await stream.read()], [undefined, undefined]);
  const other = await server.client().events.stream();
  await other[Symbol.asyncDispose]();
});

test("stream_ends_with_its_signal", async () => {
  await using server = await FakeServer.start();
  server.handle = (_request, response) => response.write(text(1));
  const controller = new AbortController();
  const stream = await server.client().events.stream({ signal: controller.signal });
  await stream.read();
  const reading = stream.read();
  controller.abort(new Error("stop"));
  await assert.rejects(reading, /stop/);
});

test("stream_that_is_refused_is_told", async () => {
  await using server = await FakeServer.start([refusal(403, "forbidden")]);
  await assert.rejects(server.client().events.stream(), sdk.ForbiddenError);
});

test("log_is_read_line_by_line", async () => {
  await using server = await FakeServer.start();
  const sandbox = await server.sandbox();
  const entry = { time: "t", source: "agent", line: "é" };
  server.replies = [{ text: `${JSON.stringify(entry)}\n${JSON.stringify(entry)}` }];
  const seen: sdk.LogEntry[] = [];
  for await (const found of sandbox.getLogs({ follow: true })) {
    seen.push(found);
  }
  assert.deepEqual(seen, [entry, entry]);
  assert.match(server.requests[0]!.path, /logs\?follow=true$/);
  server.replies = [{ cut: 5, text: JSON.stringify(entry) }];
  await assert.rejects(async () => {
    for await (const _entry of sandbox.getLogs());
  }, sdk.ConnectionBrokenError);
});
