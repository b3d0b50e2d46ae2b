/** Limits of time and signals of calls that are more than one request, and of streams that have begun. */

import assert from "node:assert/strict";
import { test } from "./bounded.js";

import * as sdk from "@wrenn/sandbox";
import { FakeServer, refusal, send } from "./fake_server.js";

test("stream_that_is_aborted_has_reason", async () => {
  await using server = await FakeServer.start();
  const sandbox = await server.sandbox();
  server.handle = (_request, response) => void response.write('{"type":"match"}\n');
  const calls: ((signal: AbortSignal) => Promise<AsyncIterable<unknown>>)[] = [
    (signal) => sandbox.files.read("a", { format: "stream", signal }),
    (signal) => sandbox.files.search("/", { name: "a", signal }),
    async (signal) => sandbox.getLogs({ follow: true, signal }),
  ];
  for (const open of calls) {
    const controller = new AbortController();
    const reading = (async () => {
      for await (const _part of await open(controller.signal)) {
        setTimeout(() => controller.abort(new Error("stop")), 10);
      }
    })();
    await assert.rejects(reading, /^Error: stop$/);
  }
});

test("silent_event_stream_connects_again", async () => {
  await using server = await FakeServer.start();
  server.handle = (_request, response) => {
    const isFirst = server.requests.length === 1;
    response.write(isFirst ? ": hello\n\n" : 'data: {"cursor":"7"}\n\n');
  };
  const stream = await server.client().events.stream();
  // Its first connection has the limit of a minute; it is opened again with a short one.
  Object.assign(stream, { silenceMs: 50 });
  (stream as unknown as { drop(): void }).drop();
  server.requests.length = 0;
  assert.equal((await stream.read())!.cursor, "7");
  assert.equal(server.requests.length, 2);
  stream.close();
});

test("wait_for_output_is_beside_time_of_call", async () => {
  await using server = await FakeServer.start();
  const client = server.client();
  const limits: unknown[] = [];
  const deadline = client.transport.deadline.bind(client.transport);
  Object.assign(client.transport, {
    deadline: (options: sdk.RequestOptions, ms?: number) => {
      limits.push(options.requestTimeoutMs ?? ms);
      return deadline(options, ms);
    },
  });
  const sandbox = await server.sandbox(client);
  limits.length = 0;
  await sandbox.commands.readOutput("c", { wait: 60 });
  await sandbox.commands.readOutput("c", { wait: 60, requestTimeoutMs: 5_000 });
  assert.deepEqual(limits, [120_000, 5_000]);
});

test("wait_ends_with_request_timeout", async () => {
  await using server = await FakeServer.start([refusal(504, "timeout")]);
  const sandbox = await server.sandbox();
  await assert.rejects(sandbox.wait("paused", { requestTimeoutMs: 100 }), sdk.OperationTimeoutError);
  const other = await server.sandbox({ requestTimeoutMs: 2_000 });
  Object.assign(other.client.transport.options, { requestTimeoutMs: 100 });
  server.replies = [refusal(504, "timeout")];
  await assert.rejects(other.waitDeleted(), sdk.OperationTimeoutError);
});

test("upload_ends_with_request_timeout", async () => {
  await using server = await FakeServer.start();
  const sandbox = await server.sandbox();
  server.handle = ({ method }, response) => {
    if (method === "POST") {
      send(response, { status: 201, headers: { location: "/files/uploads/0a1b" } });
    } else if (method === "DELETE") {
      send(response, { status: 204 });
    }
  };
  const upload = sandbox.files.upload(Buffer.from("abc"), "a", { requestTimeoutMs: 200 });
  await assert.rejects(upload, sdk.OperationTimeoutError);
  assert.deepEqual(
    server.requests.map(({ method }) => method),
    ["POST", "PATCH", "DELETE"],
  );
});
