import assert from "node:assert/strict";
import { readdirSync, readFileSync } from "node:fs";
import { test } from "./bounded.js";

import { Sandbox, Template, VERSION, type Client, NotFoundError } from "@wrenn/sandbox";
import { FakeServer, ID, INFO, refusal, send, type Reply } from "./fake_server.js";

type Call = (sandbox: Sandbox, client: Client) => Promise<unknown>;

async function all<T>(items: AsyncIterable<T>): Promise<T[]> {
  const found: T[] = [];
  for await (const item of items) {
    found.push(item);
  }
  return found;
}

/** Each call, the request that it must make, and the body of it. */
const CALLS: [Call, string, object?][] = [
  [(_, client) => client.health(), "GET /health"],
  [(_, client) => client.openapi(), "GET /openapi.json"],
  [(_, client) => client.getDiskUsage(), "GET /v1/disk-usage"],
  [
    (_, client) => client.getHostMetrics({ from: new Date(0), step: 5 }),
    "GET /v1/hosts/metrics?from=1970-01-01T00%3A00%3A00.000Z&step=5",
  ],
  [(_, client) => Template.list({ client }), "GET /v1/templates"],
  [
    (_, client) => Sandbox.create("base", { client, name: "n", endsAt: new Date(0), metadata: { a: "b" } }),
    "POST /v1/sandboxes",
    { template: "base", name: "n", ends_at: "1970-01-01T00:00:00.000Z", labels: { a: "b" } },
  ],
  [
    (_, client) => Sandbox.getOrCreate("n", { client, autoCheckpoint: { beforeEachCommand: true } }),
    "POST /v1/sandboxes",
    { name: "n", if_exists: "return", auto_checkpoint: { before_each_command: true } },
  ],
  [(_, client) => Sandbox.connect(ID, { client }), `GET /v1/sandboxes/${ID}`],
  [(_, client) => Sandbox.kill(ID, { client }), `DELETE /v1/sandboxes/${ID}`],
  [
    (_, client) =>
      Sandbox.count({ client, labels: { a: "b=", c: true }, status: ["paused", "error"], namePrefix: "w" }),
    "GET /v1/sandboxes/count?label=a%3Db%3D&label=c&status=paused&status=error&name_prefix=w",
  ],
  [
    (_, client) =>
      Sandbox.getUsage(["a", "b"], { client })
        .next()
        .catch(() => {}),
    "GET /v1/sandboxes/metrics?ids=a%2Cb",
  ],
  [(_, client) => Sandbox.listSnapshots({ client, type: "image" }), "GET /v1/snapshots?type=image"],
  [(_, client) => Sandbox.getSnapshot("s", { client }), "GET /v1/snapshots/s"],
  [(_, client) => Sandbox.deleteSnapshot("s", { client }), "DELETE /v1/snapshots/s"],
  [(sandbox) => sandbox.getInfo(), `GET /v1/sandboxes/${ID}`],
  [(sandbox) => sandbox.isRunning(), `GET /v1/sandboxes/${ID}`],
  [
    (sandbox) => sandbox.update({ name: null, labels: { a: null, b: "c" }, endsAt: null, onTimeout: "kill" }),
    `PATCH /v1/sandboxes/${ID}`,
    { name: null, labels: { a: null, b: "c" }, ends_at: null, on_timeout: "kill" },
  ],
  [(sandbox) => sandbox.setTimeout(1500), `PATCH /v1/sandboxes/${ID}`, { timeout_sec: 2 }],
  [
    (sandbox) => sandbox.wait(["paused", "stopped"], { timeoutMs: 5000 }),
    `GET /v1/sandboxes/${ID}/wait?status=paused&status=stopped&timeout_sec=5`,
  ],
  [(sandbox) => sandbox.waitDeleted(), `GET /v1/sandboxes/${ID}/wait?deleted=true&timeout_sec=60`],
  [(sandbox) => sandbox.keepAlive(), `POST /v1/sandboxes/${ID}/keep-alive`],
  [(sandbox) => sandbox.ping(), `POST /v1/sandboxes/${ID}/ping`],
  [(sandbox) => sandbox.kill(), `DELETE /v1/sandboxes/${ID}`],
  [(sandbox) => sandbox.pause(), `POST /v1/sandboxes/${ID}/pause`],
  [(sandbox) => sandbox.resume(), `POST /v1/sandboxes/${ID}/resume`],
  [(sandbox) => sandbox.rollback("c"), `POST /v1/sandboxes/${ID}/checkpoints/c/rollback`],
  [(sandbox) => sandbox.undo({ steps: 2 }), `POST /v1/sandboxes/${ID}/undo`, { steps: 2 }],
  [(sandbox) => sandbox.getHistory(), `GET /v1/sandboxes/${ID}/undo`],
  [
    (sandbox) => sandbox.diff({ from: "a", to: "b", path: "/c", patches: true, limit: 5, timeoutMs: 1500 }),
    `GET /v1/sandboxes/${ID}/diff?from=a&to=b&path=%2Fc&patches=true&limit=5&timeout_sec=2`,
  ],
  [
    (sandbox) => sandbox.createSnapshot("s", { memory: false }),
    "POST /v1/snapshots",
    { sandbox_id: ID, name: "s", memory: false },
  ],
  [
    (sandbox) => sandbox.updateNetwork({ allowOut: ["a"], allowInternetAccess: false }),
    `PUT /v1/sandboxes/${ID}/network`,
    { allow_out: ["a"], allow_internet: false },
  ],
  [(sandbox) => sandbox.getMetrics({ to: "5" }), `GET /v1/sandboxes/${ID}/metrics?to=5`],
  [(sandbox) => sandbox.getDiskUsage(), `GET /v1/sandboxes/${ID}/disk-usage`],
  [
    (sandbox) => sandbox.getUrl(80, { expiresInMs: 5000 }),
    `POST /v1/sandboxes/${ID}/port-links`,
    { port: 80, expires_in_sec: 5 },
  ],
  [(sandbox) => sandbox.checkpoints.create("c"), `POST /v1/sandboxes/${ID}/checkpoints`, { name: "c" }],
  [(sandbox) => sandbox.checkpoints.list(), `GET /v1/sandboxes/${ID}/checkpoints`],
  [(sandbox) => sandbox.checkpoints.delete("c"), `DELETE /v1/sandboxes/${ID}/checkpoints/c`],
  [
    (sandbox) => sandbox.checkpoints.setAuto({ everySec: 60, keep: 3 }),
    `PUT /v1/sandboxes/${ID}/auto-checkpoint`,
    { every_sec: 60, keep: 3 },
  ],
  [(sandbox) => sandbox.checkpoints.removeAuto(), `DELETE /v1/sandboxes/${ID}/auto-checkpoint`],
  [(sandbox) => sandbox.commands.get("c"), `GET /v1/sandboxes/${ID}/commands/c`],
  [
    (sandbox) => sandbox.commands.readOutput(7, { offset: 5, stream: "stderr", wait: 1 }),
    `GET /v1/sandboxes/${ID}/commands/7/output?offset=5&stream=stderr&wait=1`,
  ],
  [
    (sandbox) => sandbox.commands.sendSignal("c", "SIGINT"),
    `POST /v1/sandboxes/${ID}/commands/c/signal`,
    { signal: "SIGINT" },
  ],
  [(sandbox) => sandbox.commands.kill("c"), `POST /v1/sandboxes/${ID}/commands/c/signal`, { signal: "SIGKILL" }],
  [(sandbox) => sandbox.commands.closeStdin("c"), `POST /v1/sandboxes/${ID}/commands/c/stdin?close=true`],
  [
    (sandbox) => sandbox.pty.resize("c", { cols: 80, rows: 24 }),
    `POST /v1/sandboxes/${ID}/commands/c/resize`,
    { cols: 80, rows: 24 },
  ],
  [(sandbox) => sandbox.pty.kill("c"), `POST /v1/sandboxes/${ID}/commands/c/signal`, { signal: "SIGKILL" }],
  [
    (sandbox) => sandbox.files.getInfo("a", { user: "root" }),
    `POST /v1/sandboxes/${ID}/files/stat`,
    { path: "a", user: "root" },
  ],
  [(sandbox) => sandbox.files.exists("a"), `POST /v1/sandboxes/${ID}/files/stat`, { path: "a" }],
  [(sandbox) => sandbox.files.makeDir("a"), `POST /v1/sandboxes/${ID}/files/mkdir`, { path: "a" }],
  [
    (sandbox) => sandbox.files.rename("a", "b", { overwrite: false }),
    `POST /v1/sandboxes/${ID}/files/move`,
    { source: "a", destination: "b", overwrite: false },
  ],
  [(sandbox) => sandbox.files.remove("a"), `POST /v1/sandboxes/${ID}/files/remove`, { path: "a" }],
  [(sandbox) => sandbox.files.chmod("a", 0o755), `POST /v1/sandboxes/${ID}/files/chmod`, { path: "a", mode: "0755" }],
  [
    (sandbox) => sandbox.files.chown("a", { owner: "user", user: "root", recursive: true }),
    `POST /v1/sandboxes/${ID}/files/chown`,
    { path: "a", owner: "user", user: "root", recursive: true },
  ],
  [
    (_, client) => client.webhooks.create("https://a", { events: ["sandbox.*"] }),
    "POST /v1/webhooks",
    { url: "https://a", events: ["sandbox.*"] },
  ],
  [(_, client) => client.webhooks.list(), "GET /v1/webhooks"],
  [(_, client) => client.webhooks.get("w"), "GET /v1/webhooks/w"],
  [(_, client) => client.webhooks.update("w", { enabled: false }), "PATCH /v1/webhooks/w", { enabled: false }],
  [(_, client) => client.webhooks.delete("w"), "DELETE /v1/webhooks/w"],
  [(_, client) => client.webhooks.test("w"), "POST /v1/webhooks/w/test"],
  [
    (_, client) => client.webhooks.rotateSecret("w", { overlapSec: 5 }),
    "POST /v1/webhooks/w/rotate-secret",
    { overlap_sec: 5 },
  ],
  [(_, client) => client.webhooks.getDelivery("w", "d"), "GET /v1/webhooks/w/deliveries/d"],
  [(_, client) => client.webhooks.redeliver("w", "d"), "POST /v1/webhooks/w/deliveries/d/redeliver"],
  [(_, client) => client.webhooks.redeliverDead("w"), "POST /v1/webhooks/w/redeliver"],
];

test("calls_reach_their_routes", async () => {
  await using server = await FakeServer.start([{ json: { ...INFO, sandbox: INFO } }]);
  for (const [call, request, body] of CALLS) {
    const sandbox = await server.sandbox();
    await call(sandbox, sandbox.client);
    const { method, path, body: sent } = server.requests[0]!;
    assert.equal(`${method} ${path}`, request);
    assert.deepEqual(sent.length ? JSON.parse(sent.toString()) : undefined, body, request);
  }
});

test("lists_turn_all_pages", async () => {
  await using server = await FakeServer.start();
  const sandbox = await server.sandbox();
  const { client } = sandbox;
  const lists: (() => AsyncIterable<unknown> | Promise<unknown[]>)[] = [
    () => Sandbox.list({ client, template: "base" }),
    () => Sandbox.getUsage(undefined, { client }),
    () => sandbox.files.list("/"),
    () => client.webhooks.listDeliveries("w", { status: "dead" }),
  ];
  for (const list of lists) {
    const page = (cursor = ""): Reply => ({ json: [{ a_b: 1 }], headers: { "x-next-cursor": cursor } });
    server.replies = [page("c1"), page("c2"), page()];
    server.requests.length = 0;
    const items = list();
    assert.deepEqual(await ("then" in items ? items : all(items)), [{ aB: 1 }, { aB: 1 }, { aB: 1 }]);
    const asked = server.requests.map(({ path, body }) => path + body.toString());
    assert.deepEqual(
      asked.map((text) => /c[12]/.exec(text)?.[0]),
      [undefined, "c1", "c2"],
    );
  }
});

test("missing_things_are_false", async () => {
  await using server = await FakeServer.start([refusal(404, "not_found")]);
  const sandbox = await server.sandbox();
  const { client } = sandbox;
  const calls = [
    sandbox.kill(),
    sandbox.isRunning(),
    sandbox.commands.kill("c"),
    sandbox.checkpoints.delete("c"),
    Sandbox.deleteSnapshot("s", { client }),
    client.webhooks.delete("w"),
  ];
  assert.deepEqual(
    await Promise.all(calls),
    calls.map(() => false),
  );
  await sandbox.waitDeleted();
});

test("missing_file_is_false_and_missing_sandbox_told", async () => {
  await using server = await FakeServer.start([refusal(404, "not_found"), { json: INFO }]);
  const sandbox = await server.sandbox();
  assert.equal(await sandbox.files.exists("a"), false);
  server.replies = [refusal(404, "not_found")];
  await assert.rejects(sandbox.files.exists("a"), NotFoundError);
});

test("other_errors_are_told", async () => {
  await using server = await FakeServer.start([refusal(403, "forbidden")]);
  const sandbox = await server.sandbox();
  const { client } = sandbox;
  const calls = [
    sandbox.kill(),
    sandbox.isRunning(),
    sandbox.files.exists("a"),
    sandbox.commands.kill("c"),
    client.webhooks.delete("w"),
    sandbox.wait("paused"),
  ];
  for (const result of await Promise.allSettled(calls)) {
    assert.equal(result.status, "rejected");
  }
});

test("wait_asks_again_until_its_end", async () => {
  await using server = await FakeServer.start([refusal(504, "timeout"), refusal(504, "timeout"), { json: INFO }]);
  const sandbox = await server.sandbox();
  assert.equal((await sandbox.wait("running")).id, ID);
  assert.equal(server.requests.length, 3);
  server.replies = [refusal(504, "timeout")];
  await assert.rejects(sandbox.wait("paused", { timeoutMs: 1 }), { code: "timeout" });
});

test("existing_directory_is_false_and_file_an_error", async () => {
  await using server = await FakeServer.start();
  const sandbox = await server.sandbox();
  let kind = "directory";
  server.handle = ({ path }, response) =>
    send(response, path.endsWith("mkdir") ? refusal(409, "conflict") : { json: { kind } });
  assert.equal(await sandbox.files.makeDir("a"), false);
  kind = "file";
  await assert.rejects(sandbox.files.makeDir("a"), { code: "conflict" });
});

test("paused_sandbox_is_resumed_by_connect", async () => {
  await using server = await FakeServer.start([{ json: { ...INFO, status: "paused" } }, { json: INFO }]);
  const sandbox = await Sandbox.connect(ID, { client: server.client() });
  assert.deepEqual(
    server.requests.map(({ method }) => method),
    ["GET", "POST"],
  );
  assert.equal(sandbox.info.status, "running");
});

test("fork_gives_handles_and_disposal_deletes", async () => {
  await using server = await FakeServer.start([
    {
      json: [
        { ...INFO, id: "sb-a" },
        { ...INFO, id: "sb-b" },
      ],
    },
  ]);
  const sandbox = await server.sandbox();
  const children = await sandbox.fork({ count: 2, idempotencyKey: "k" });
  assert.deepEqual(
    children.map(({ sandboxId }) => sandboxId),
    ["sb-a", "sb-b"],
  );
  assert.equal(server.requests[0]!.headers["idempotency-key"], "k");
  server.replies = [{ status: 204 }];
  {
    await using _child = children[0]!;
  }
  assert.equal(server.requests[1]!.method, "DELETE");
});

/** Routes that another one stands for, and those which no SDK has: their rows in `sdks/README.md` are empty. */
const ALIASES = [
  "delete_image",
  "exec",
  "get_image",
  "import_image",
  "kill_process",
  "list_processes",
  "openapi_yaml",
  "prune_images",
  "pull_image",
  "read_file",
  "ready",
  "stream_process",
  "write_file",
];

test("every_operation_is_used", () => {
  const root = new URL("..", import.meta.url);
  const read = (name: string): string => readFileSync(new URL(name, root), "utf8");
  const sources = readdirSync(new URL("src/", root)).filter((name) => name.endsWith(".ts"));
  const text = sources.map((name) => read(`src/${name}`)).join("\n");
  const routes = read("src/generated/operations.ts").split("ROUTES")[1]!;
  const names = [...routes.matchAll(/^ {2}(\w+): \[/gm)].map(([, name]) => name!);
  assert.ok(names.length > 60);
  assert.deepEqual(
    names.filter((name) => !text.includes(`"${name}"`)).sort(),
    ALIASES.filter((name) => names.includes(name) && !text.includes(`"${name}"`)),
  );
  const version = (JSON.parse(read("package.json")) as { version: string }).version;
  assert.equal(version, VERSION);
  assert.ok(!/: any\b|as any\b|<any>/.test(text));
});
