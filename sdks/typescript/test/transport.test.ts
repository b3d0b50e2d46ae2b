import assert from "node:assert/strict";
import { test } from "./bounded.js";

import * as sdk from "@wrenn/sandbox";
import { FakeServer, ID, INFO, refusal } from "./fake_server.js";

const { Sandbox } = sdk;

test("answer_names_become_camel_case", async () => {
  await using server = await FakeServer.start();
  const sandbox = await server.sandbox();
  assert.equal(sandbox.info.memoryMb, 512);
  assert.deepEqual(sandbox.info.labels, { "a_b/c": "d_e" });
  assert.ok(!("reason" in sandbox.info));
});

test("request_has_key_and_agent", async () => {
  await using server = await FakeServer.start();
  await Sandbox.get(ID, { client: server.client({ headers: { traceparent: "00-1" } }) });
  const { method, path, headers } = server.requests[0]!;
  assert.deepEqual([method, path], ["GET", `/v1/sandboxes/${ID}`]);
  assert.equal(headers["x-api-key"], "wrn_test");
  assert.equal(headers["traceparent"], "00-1");
  assert.match(headers["user-agent"]!, /^wrenn-typescript\/\d/);
});

test("path_segments_are_escaped", async () => {
  await using server = await FakeServer.start();
  await Sandbox.get("a/b?c", { client: server.client() });
  assert.equal(server.requests[0]!.path, "/v1/sandboxes/a%2Fb%3Fc");
  for (const id of ["", ".", ".."]) {
    await assert.rejects(Sandbox.get(id, { client: server.client() }), sdk.WrennError);
  }
  assert.equal(server.requests.length, 1);
});

test("every_code_has_its_class", async () => {
  await using server = await FakeServer.start();
  const classes: Record<string, unknown> = {
    invalid_request: sdk.InvalidRequestError,
    unauthorized: sdk.UnauthorizedError,
    forbidden: sdk.ForbiddenError,
    not_found: sdk.NotFoundError,
    method_not_allowed: sdk.MethodNotAllowedError,
    invalid_state: sdk.InvalidStateError,
    conflict: sdk.ConflictError,
    expired: sdk.ExpiredError,
    too_large: sdk.TooLargeError,
    unsupported_media_type: sdk.UnsupportedMediaTypeError,
    idempotency_mismatch: sdk.IdempotencyMismatchError,
    resource_exhausted: sdk.ResourceExhaustedError,
    internal_error: sdk.InternalServerError,
    agent_error: sdk.AgentError,
    host_unavailable: sdk.HostUnavailableError,
    timeout: sdk.OperationTimeoutError,
    insufficient_storage: sdk.InsufficientStorageError,
    of_a_later_version: sdk.ApiError,
  };
  for (const [code, Class] of Object.entries(classes)) {
    server.replies = [{ ...refusal(418, code), headers: { "x-request-id": "r-1" } }];
    const error = await Sandbox.get(ID, { client: server.client() }).catch((error: unknown) => error);
    assert.ok(error instanceof sdk.ApiError);
    assert.equal(error.constructor, Class);
    assert.deepEqual([error.code, error.status, error.requestId], [code, 418, "r-1"]);
    assert.equal(error.message, `refused with ${code}`);
    assert.ok(error instanceof sdk.WrennError && error.name.endsWith("Error"));
  }
});

test("proxy_page_is_error_by_status", async () => {
  await using server = await FakeServer.start([{ status: 404, text: "<html>" }]);
  await assert.rejects(Sandbox.get(ID, { client: server.client() }), (error: unknown) => {
    assert.ok(error instanceof sdk.NotFoundError);
    assert.match(error.message, /is it a Wrenn server/);
    return true;
  });
});

test("foreign_answer_has_code_of_status", async () => {
  await using server = await FakeServer.start();
  const codes = { 409: "conflict", 410: "expired", 415: "unsupported_media_type", 507: "insufficient_storage" };
  for (const [status, code] of Object.entries(codes)) {
    server.replies = [{ status: Number(status), text: "<html>" }];
    await assert.rejects(Sandbox.get(ID, { client: server.client() }), { code });
  }
});

test("answer_that_is_no_json_is_protocol_error", async () => {
  await using server = await FakeServer.start([{ text: "hello" }]);
  await assert.rejects(Sandbox.get(ID, { client: server.client() }), sdk.ProtocolError);
});

test("redirect_is_not_followed", async () => {
  await using server = await FakeServer.start([{ status: 302, headers: { location: "http://127.0.0.1:1/" } }]);
  await assert.rejects(Sandbox.get(ID, { client: server.client() }), sdk.ProtocolError);
  assert.equal(server.requests.length, 1);
});

test("unavailable_host_is_asked_again", async () => {
  await using server = await FakeServer.start([
    refusal(503, "host_unavailable"),
    refusal(503, "host_unavailable"),
    { status: 201, json: INFO },
  ]);
  await Sandbox.create({ client: server.client(), labels: { aB: "c" }, timeoutMs: 1500, allowInternetAccess: false });
  assert.equal(server.requests.length, 3);
  const keys = new Set(server.requests.map(({ headers }) => headers["idempotency-key"]));
  assert.equal(keys.size, 1);
  assert.deepEqual(JSON.parse(server.requests[2]!.body.toString()), {
    labels: { aB: "c" },
    timeout_sec: 2,
    network: { allow_internet: false },
  });
});

test("retries_end_with_the_last_error", async () => {
  await using server = await FakeServer.start([refusal(503, "host_unavailable")]);
  const client = server.client({ retries: 1 });
  await assert.rejects(Sandbox.get(ID, { client }), sdk.HostUnavailableError);
  assert.equal(server.requests.length, 2);
});

test("retry_after_is_obeyed", async () => {
  await using server = await FakeServer.start([
    { ...refusal(429, "resource_exhausted"), headers: { "retry-after": "1" } },
    { json: INFO },
  ]);
  const began = performance.now();
  await Sandbox.get(ID, { client: server.client() });
  assert.ok(performance.now() - began >= 990);
});

test("retry_after_beyond_the_time_is_an_error", async () => {
  await using server = await FakeServer.start([
    { ...refusal(429, "resource_exhausted"), headers: { "retry-after": "100" } },
  ]);
  const call = Sandbox.get(ID, { client: server.client(), requestTimeoutMs: 5000 });
  await assert.rejects(call, (error: unknown) => {
    assert.ok(error instanceof sdk.ResourceExhaustedError);
    assert.equal(error.retryAfterMs, 100_000);
    return true;
  });
});

test("cut_reads_and_creates_are_repeated", async () => {
  for (const cut of ["before", "after", 3] as const) {
    await using server = await FakeServer.start([{ cut, text: JSON.stringify(INFO) }, { json: INFO }]);
    await Sandbox.get(ID, { client: server.client() });
    server.replies = [{ cut, text: JSON.stringify(INFO) }, { json: INFO }];
    await Sandbox.create({ client: server.client() });
    assert.equal(server.requests.length, 4);
    assert.equal(server.requests[2]!.headers["idempotency-key"], server.requests[3]!.headers["idempotency-key"]);
  }
});

test("cut_change_is_not_repeated", async () => {
  await using server = await FakeServer.start([{ cut: "after" }]);
  const sandbox = await server.sandbox();
  await assert.rejects(sandbox.createSnapshot("a"), sdk.ConnectionBrokenError);
  assert.equal(server.requests.length, 1);
});

test("page_of_proxy_is_asked_again_only_for_reads", async () => {
  await using server = await FakeServer.start([{ status: 502, text: "bad gateway" }, { json: INFO }]);
  await Sandbox.get(ID, { client: server.client() });
  const sandbox = await server.sandbox();
  server.replies = [{ status: 502, text: "bad gateway" }];
  await assert.rejects(sandbox.createSnapshot("a"), sdk.AgentError);
  assert.equal(server.requests.length, 1);
});

test("repeated_delete_that_finds_nothing_is_done", async () => {
  await using server = await FakeServer.start([{ cut: "after" }, refusal(404, "not_found")]);
  const sandbox = await server.sandbox();
  assert.equal(await sandbox.kill(), true);
  assert.equal(await sandbox.kill(), false);
  server.replies = [{ status: 502, text: "of a proxy" }, refusal(404, "not_found")];
  assert.equal(await sandbox.kill(), true);
  // Nothing was done at the first attempt.
  server.replies = [refusal(429, "resource_exhausted"), refusal(404, "not_found")];
  assert.equal(await sandbox.kill(), false);
});

test("silent_server_is_timeout", async () => {
  await using server = await FakeServer.start();
  const sandbox = await server.sandbox();
  server.handle = () => {};
  await assert.rejects(sandbox.ping({ requestTimeoutMs: 50 }), (error: unknown) => {
    assert.ok(error instanceof sdk.OperationTimeoutError);
    assert.deepEqual([error.code, error.status], ["timeout", 0]);
    return true;
  });
});

test("abort_ends_call_and_pause", async () => {
  await using server = await FakeServer.start();
  const sandbox = await server.sandbox();
  const reason = new Error("no longer wanted");
  server.handle = () => {};
  await assert.rejects(sandbox.ping({ signal: AbortSignal.abort(reason) }), reason);
  const controller = new AbortController();
  const call = sandbox.ping({ signal: controller.signal });
  setTimeout(() => controller.abort(reason), 20);
  await assert.rejects(call, reason);

  server.handle = undefined;
  server.replies = [{ ...refusal(429, "resource_exhausted"), headers: { "retry-after": "30" } }];
  const second = new AbortController();
  const paused = sandbox.ping({ signal: second.signal });
  setTimeout(() => second.abort(reason), 50);
  await assert.rejects(paused, reason);
});

test("no_server_is_unreachable", async () => {
  const server = await FakeServer.start();
  const client = server.client({ retries: 1 });
  await server[Symbol.asyncDispose]();
  await assert.rejects(Sandbox.get(ID, { client }), (error: unknown) => {
    assert.ok(error instanceof sdk.UnreachableError);
    assert.match(error.message, /wrenn up/);
    return true;
  });
});

test("reordered_answers_reach_their_calls", async () => {
  await using server = await FakeServer.start();
  const held: (() => void)[] = [];
  server.handle = ({ path }, response) => {
    held.push(() => response.end(JSON.stringify({ ...INFO, id: path.split("/").at(-1) })));
    if (held.length === 3) {
      held.reverse().forEach((answer) => answer());
    }
  };
  const client = server.client();
  const found = await Promise.all(["a", "b", "c"].map((id) => Sandbox.get(id, { client })));
  assert.deepEqual(
    found.map(({ sandboxId }) => sandboxId),
    ["a", "b", "c"],
  );
});

test("fetch_of_the_caller_is_used", async () => {
  const asked: string[] = [];
  const client = new sdk.Client({
    apiUrl: "https://wrenn.example/base/",
    apiKey: "wrn_1",
    fetch: async (url) => {
      asked.push(String(url));
      return Response.json(INFO);
    },
  });
  await Sandbox.get(ID, { client });
  assert.deepEqual(asked, [`https://wrenn.example/base/v1/sandboxes/${ID}`]);
});
