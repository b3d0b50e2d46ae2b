import assert from "node:assert/strict";
import { chmodSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach } from "node:test";
import { test } from "./bounded.js";

import { Client, CredentialsError } from "@wrenn/sandbox";
import { FakeServer, INFO } from "./fake_server.js";

const NAMES = ["WRENN_API_URL", "WRENN_API_KEY", "WRENN_DIR", "HOME"];
let saved: (string | undefined)[];
let dir: string;

beforeEach(() => {
  saved = NAMES.map((name) => process.env[name]);
  NAMES.slice(0, 3).forEach((name) => delete process.env[name]);
  dir = mkdtempSync(join(tmpdir(), "wrenn-sdk-"));
  process.env["WRENN_DIR"] = dir;
});

afterEach(() => {
  rmSync(dir, { recursive: true });
  NAMES.forEach((name, index) => {
    if (saved[index] === undefined) {
      delete process.env[name];
    } else {
      process.env[name] = saved[index];
    }
  });
});

/** Asks a server with what is found, and returns the key that it got. */
async function keySent(server: FakeServer, client: Client): Promise<unknown> {
  server.requests.length = 0;
  await client.health();
  return server.requests[0]!.headers["x-api-key"];
}

test("file_is_read_as_a_shell_would", async () => {
  await using server = await FakeServer.start([{ json: INFO }]);
  const text = `# a comment\n\nexport WRENN_API_URL="${server.url}/"\r\nOTHER=1\nWRENN_API_KEY='wrn_file'\n`;
  writeFileSync(join(dir, "credentials"), text);
  assert.equal(await keySent(server, new Client()), "wrn_file");
  process.env["WRENN_API_KEY"] = "wrn_env";
  assert.equal(await keySent(server, new Client()), "wrn_env");
  assert.equal(await keySent(server, new Client({ apiKey: " wrn_given\n" })), "wrn_given");
  process.env["WRENN_API_KEY"] = "";
  assert.equal(await keySent(server, new Client()), "wrn_file");
});

test("key_of_file_stays_on_this_machine", async () => {
  writeFileSync(join(dir, "credentials"), "WRENN_API_URL=http://127.0.0.1:1\nWRENN_API_KEY=wrn_file\n");
  for (const apiUrl of ["https://wrenn.example", "http://localhost.example", "http://a@127.0.0.1"]) {
    await assert.rejects(new Client({ apiUrl }).health(), /is for this machine only/);
  }
  await using server = await FakeServer.start([{ json: {} }]);
  assert.equal(await keySent(server, new Client({ apiUrl: server.url })), "wrn_file");
});

test("missing_key_says_what_to_do", async () => {
  const client = new Client();
  await assert.rejects(client.health(), (error: unknown) => {
    assert.ok(error instanceof CredentialsError);
    assert.match(error.message, /wrenn up/);
    assert.ok(error.message.includes(join(dir, "credentials")));
    return true;
  });
  // It is looked for again: the server may have started since.
  await using server = await FakeServer.start([{ json: {} }]);
  writeFileSync(join(dir, "credentials"), `WRENN_API_URL=${server.url}\nWRENN_API_KEY=wrn_new\n`);
  assert.equal(await keySent(server, client), "wrn_new");
});

test("wrong_settings_are_refused", async () => {
  writeFileSync(join(dir, "credentials"), "A=b\nwrn_1\n");
  await assert.rejects(new Client().health(), /line 2/);
  await assert.rejects(
    new Client({ apiUrl: "ftp://a", apiKey: "wrn_1" }).health(),
    /not the address of a Wrenn server/,
  );
  await assert.rejects(new Client({ apiUrl: "nonsense", apiKey: "wrn_1" }).health(), CredentialsError);
  await assert.rejects(new Client({ apiUrl: "http://a", apiKey: "wrn 1" }).health(), /characters that no key has/);
});

test("unreadable_file_is_an_error", async () => {
  mkdirSync(join(dir, "credentials"));
  await assert.rejects(new Client().health(), /cannot be read/);
});

test("own_directory_is_for_users", async () => {
  delete process.env["WRENN_DIR"];
  process.env["HOME"] = dir;
  mkdirSync(join(dir, ".wrenn"));
  writeFileSync(join(dir, ".wrenn", "credentials"), "WRENN_API_KEY=wrn_own\nWRENN_API_URL=nonsense\n");
  chmodSync(dir, 0o755);
  const root = process.geteuid;
  process.geteuid = () => 1000;
  try {
    await assert.rejects(new Client().health(), /nonsense is not the address/);
    process.geteuid = () => 0;
    await assert.rejects(new Client().health(), (error: Error) => !error.message.includes("nonsense"));
  } finally {
    process.geteuid = root!;
  }
});

test("address_with_password_is_not_shown", async () => {
  const client = new Client({ apiUrl: "https://me:secret@host", apiKey: "wrn_1" });
  await assert.rejects(client.health(), (error: Error) => {
    assert.match(error.message, /a user or a password/);
    return !error.message.includes("secret");
  });
});
