import assert from "node:assert/strict";
import { test } from "./bounded.js";
import type { WebSocket } from "ws";

import * as sdk from "@wrenn/sandbox";
import { FakeServer, ID, INFO, refusal, send } from "./fake_server.js";

type Frame = Record<string, unknown> & { type: string };

const base64 = (text: string | Uint8Array): string => Buffer.from(text).toString("base64");

function say(socket: WebSocket, ...frames: Frame[]): void {
  frames.forEach((frame) => socket.send(JSON.stringify(frame)));
}

/** Calls with each frame of the client. */
function hear(socket: WebSocket, listener: (frame: Frame) => void): void {
  socket.on("message", (data: Buffer) => listener(JSON.parse(data.toString()) as Frame));
}

const stdout = (text: string | Uint8Array, extra: object = {}): Frame => ({
  type: "stdout",
  data: base64(text),
  ...extra,
});

const COMMAND = { id: "cmd-1", pid: 7, cmd: "x", args: [], state: "running" };

test("run_gives_output_and_exit_code", async () => {
  await using server = await FakeServer.start();
  const sandbox = await server.sandbox();
  let started: Frame | undefined;
  server.onSocket = (socket) =>
    hear(socket, (frame) => {
      started = frame;
      const half = Buffer.from("é");
      say(socket, { type: "start", pid: 5 }, stdout("a\n"), stdout(half.subarray(0, 1)), stdout(half.subarray(1)));
      say(socket, { type: "stderr", data: base64(Uint8Array.of(0xff)) }, { type: "exit", exit_code: 0 });
    });
  const pieces: string[] = [];
  const result = await sandbox.commands.run("echo a", {
    cwd: "/tmp",
    envs: { some_Name: "1" },
    onStdout: (text) => void pieces.push(text),
  });
  assert.deepEqual([result.stdout, result.stderr, result.exitCode], ["a\né", "\ufffd", 0]);
  assert.deepEqual(result.stderrBytes, Uint8Array.of(0xff));
  assert.deepEqual(pieces, ["a\n", "", "é"]);
  assert.deepEqual(started!["envs"], { some_Name: "1" });
  assert.deepEqual([started!["cmd"], started!["timeout_sec"], started!["encoding"]], ["/bin/sh", 60, "base64"]);
  assert.equal((started!["args"] as string[]).at(-1), "echo a");
  assert.match(server.requests[0]!.path, /exec\/stream$/);
  assert.equal(server.requests[0]!.headers["x-api-key"], "wrn_test");
});

test("character_that_breaks_off_is_told", async () => {
  await using server = await FakeServer.start();
  const sandbox = await server.sandbox();
  server.onSocket = (socket) =>
    hear(socket, () => {
      const half = stdout(Buffer.from("é").subarray(0, 1));
      say(socket, { type: "start", pid: 5 }, half, { type: "exit", exit_code: 0 });
    });
  const pieces: string[] = [];
  const result = await sandbox.commands.run("x", { onStdout: (text) => void pieces.push(text) });
  assert.deepEqual([result.stdout, pieces.join("")], ["\ufffd", "\ufffd"]);
});

test("oldest_output_is_dropped_first", async () => {
  await using server = await FakeServer.start();
  const sandbox = await server.sandbox();
  const part = base64(new Uint8Array(1 << 20));
  server.onSocket = (socket) =>
    hear(socket, () => {
      say(socket, { type: "start", pid: 5 }, { type: "stderr", data: part });
      say(socket, ...Array.from({ length: 16 }, () => ({ type: "stdout", data: part })), {
        type: "exit",
        exit_code: 0,
      });
    });
  const handle = await sandbox.commands.stream("x");
  while ((await handle.read()) !== undefined);
  const { stdoutBytes, stderrBytes } = await handle.wait();
  assert.deepEqual([stdoutBytes.length, stderrBytes.length], [16 << 20, 0]);
});

test("nonzero_exit_code_is_an_error", async () => {
  await using server = await FakeServer.start();
  const sandbox = await server.sandbox();
  server.onSocket = (socket) =>
    hear(socket, () => {
      const stderr = { type: "stderr", data: base64("bad thing\n") };
      say(socket, { type: "start", pid: 5 }, stderr, { type: "exit", exit_code: 3 });
    });
  await assert.rejects(sandbox.commands.run("x"), (error: unknown) => {
    assert.ok(error instanceof sdk.CommandExitError);
    assert.deepEqual([error.exitCode, error.stdout, error.stderr], [3, "", "bad thing\n"]);
    assert.match(error.message, /exit code 3: bad thing$/);
    return true;
  });
  assert.equal((await sandbox.commands.run(["x", "y"], { check: false, timeoutMs: 0 })).exitCode, 3);
});

test("program_that_is_missing_is_an_error", async () => {
  await using server = await FakeServer.start();
  const sandbox = await server.sandbox();
  server.onSocket = (socket) =>
    hear(socket, () => say(socket, { type: "error", code: "invalid_request", data: "no such", exit_code: 127 }));
  await assert.rejects(sandbox.commands.run(["nope"]), (error: unknown) => {
    assert.ok(error instanceof sdk.CommandNotStartedError && error instanceof sdk.InvalidRequestError);
    assert.equal(error.exitCode, 127);
    return true;
  });
  server.onSocket = (socket) =>
    hear(socket, () => say(socket, { type: "start", pid: 1 }, { type: "error", code: "timeout", data: "too long" }));
  await assert.rejects(sandbox.commands.run("x"), sdk.OperationTimeoutError);
});

test("input_goes_in_frames_in_order", async () => {
  await using server = await FakeServer.start();
  const sandbox = await server.sandbox();
  const parts: Buffer[] = [];
  server.onSocket = (socket) =>
    hear(socket, (frame) => {
      if (frame.type === "start") {
        say(socket, { type: "start", pid: 5 });
      } else if (frame.type === "stdin") {
        parts.push(Buffer.from(frame["data"] as string, "base64"));
      } else {
        assert.equal(frame.type, "stdin_close");
        say(socket, { type: "exit", exit_code: 0 });
      }
    });
  const input = Uint8Array.from({ length: 100_000 }, (_, index) => index % 251);
  await sandbox.commands.run(["cat"], { stdin: input });
  assert.deepEqual(Uint8Array.from(Buffer.concat(parts)), input);
  assert.ok(parts.length > 2);
});

test("stream_iterates_signals_and_resizes", async () => {
  await using server = await FakeServer.start([{ status: 204 }]);
  const sandbox = await server.sandbox();
  const frames: Frame[] = [];
  server.onSocket = (socket) =>
    hear(socket, (frame) => {
      frames.push(frame);
      if (frame.type === "start") {
        say(socket, { type: "start", pid: 5 }, stdout("1"), stdout(""), stdout("2"));
      } else if (frame.type === "resize") {
        say(socket, { type: "exit", exit_code: 9 });
      }
    });
  const handle = await sandbox.commands.stream(["top"], { terminal: { cols: 80, rows: 24 }, stdin: true });
  assert.deepEqual([handle.pid, handle.id, handle.exitCode], [5, undefined, undefined]);
  assert.equal((await handle.read())?.text, "1");
  await handle.sendSignal("SIGINT");
  assert.equal(await handle.kill(), true);
  await handle.resize({ cols: 100, rows: 30 });
  const rest: string[] = [];
  for await (const { stream, text } of handle) {
    rest.push(stream + text);
  }
  assert.deepEqual(rest, ["stdout2"]);
  assert.equal(handle.exitCode, 9);
  assert.equal(await handle.kill(), false);
  assert.deepEqual(frames[0]!["terminal"], { cols: 80, rows: 24 });
  assert.deepEqual(frames[1]!["size"], { cols: 100, rows: 30 });
  assert.deepEqual(
    server.requests.slice(1).map(({ body }) => JSON.parse(body.toString())),
    [
      { pid: 5, signal: "SIGINT" },
      { pid: 5, signal: "SIGKILL" },
    ],
  );
  server.replies = [refusal(404, "not_found")];
  const other = await sandbox.commands.stream(["top"]);
  assert.equal(await other.kill(), false);
  server.replies = [refusal(403, "forbidden")];
  await assert.rejects(other.kill(), sdk.ForbiddenError);
  await other[Symbol.asyncDispose]();
});

test("broken_stream_is_an_error", async () => {
  await using server = await FakeServer.start();
  const sandbox = await server.sandbox();
  for (const end of [(socket: WebSocket) => socket.terminate(), (socket: WebSocket) => socket.close()]) {
    server.onSocket = (socket) =>
      hear(socket, () => {
        say(socket, { type: "start", pid: 5 }, stdout("1"));
        setTimeout(() => end(socket), 20);
      });
    await assert.rejects(sandbox.commands.run("x"), sdk.ConnectionBrokenError);
  }
  server.onSocket = (socket) => hear(socket, () => socket.send("not json"));
  await assert.rejects(sandbox.commands.run("x"), sdk.ProtocolError);
});

test("refused_socket_is_asked_again_or_told", async () => {
  await using server = await FakeServer.start();
  const sandbox = await server.sandbox();
  server.onSocket = (socket) =>
    hear(socket, () => say(socket, { type: "start", pid: 5 }, { type: "exit", exit_code: 0 }));
  server.refusals = [refusal(503, "host_unavailable"), { cut: "before" }];
  await sandbox.commands.run("x");
  assert.equal(server.requests.length, 3);
  server.refusals = [refusal(409, "invalid_state")];
  await assert.rejects(sandbox.commands.run("x"), sdk.InvalidStateError);
  server.refusals = Array.from({ length: 9 }, () => ({
    ...refusal(429, "resource_exhausted"),
    headers: { "retry-after": "0" },
  }));
  await assert.rejects(sandbox.commands.run("x"), sdk.ResourceExhaustedError);
  assert.equal(server.refusals.length, 5);
  const controller = new AbortController();
  server.onSocket = (socket) => hear(socket, () => say(socket, { type: "start", pid: 5 }));
  server.refusals = [];
  const call = sandbox.commands.run("x", { signal: controller.signal });
  setTimeout(() => controller.abort(new Error("stop")), 50);
  await assert.rejects(call, /stop/);
  server.onSocket = () => {};
  await assert.rejects(sandbox.commands.run("x", { requestTimeoutMs: 50 }), sdk.OperationTimeoutError);
});

test("no_server_is_unreachable_by_socket", async () => {
  const server = await FakeServer.start();
  const sandbox = await server.sandbox({ retries: 0 });
  await server[Symbol.asyncDispose]();
  await assert.rejects(sandbox.commands.run("x"), sdk.UnreachableError);
});

test("background_command_survives_cuts", async () => {
  await using server = await FakeServer.start([{ json: COMMAND }]);
  const sandbox = await server.sandbox();
  const paths: string[] = [];
  server.onSocket = (socket, path) => {
    paths.push(path.split("?")[1]!);
    say(socket, { type: "attached", command: COMMAND });
    if (paths.length === 1) {
      say(socket, stdout("one", { next_offset: 3 }));
      setTimeout(() => socket.terminate(), 20);
    } else {
      say(socket, stdout("two", { next_offset: 6 }), { type: "exit", exit_code: 0 });
    }
  };
  const handle = await sandbox.commands.run("make", { background: true, name: "build", keepAlive: true });
  assert.deepEqual([handle.id, handle.pid], ["cmd-1", 7]);
  assert.equal((await handle.wait()).stdout, "onetwo");
  assert.deepEqual(paths, ["encoding=base64", "encoding=base64&offset=3"]);
  const body = JSON.parse(server.requests[0]!.body.toString()) as Record<string, unknown>;
  assert.deepEqual([body["name"], body["keep_alive"], body["timeout_sec"]], ["build", true, undefined]);
});

test("quiet_follower_survives_many_breaks", async () => {
  await using server = await FakeServer.start([{ json: COMMAND }]);
  const sandbox = await server.sandbox(server.impatient());
  let connections = 0;
  server.onSocket = (socket) => {
    connections += 1;
    say(socket, { type: "attached", command: COMMAND });
    if (connections < 3) {
      socket.close();
    } else {
      say(socket, stdout("late", { next_offset: 4 }), { type: "exit", exit_code: 0 });
    }
  };
  const handle = await sandbox.commands.connect("cmd-1");
  assert.equal((await handle.wait()).stdout, "late");
  assert.equal(connections, 3);
  connections = 0;
  const other = await sandbox.commands.connect("cmd-1");
  server.refusals = Array.from({ length: 5 }, () => refusal(503, "host_unavailable"));
  await assert.rejects(other.wait(), sdk.HostUnavailableError);
});

test("lost_exit_code_is_not_asked_again", async () => {
  await using server = await FakeServer.start([{ json: COMMAND }]);
  const sandbox = await server.sandbox();
  let connections = 0;
  server.onSocket = (socket) => {
    connections += 1;
    if (connections > 1) {
      say(socket, { type: "attached", command: COMMAND });
    }
    say(socket, { type: "error", code: "agent_error", data: "the end is not known" });
  };
  const handle = await sandbox.commands.run("x", { background: true });
  await assert.rejects(handle.wait(), sdk.AgentError);
  assert.equal(connections, 2);
});

test("started_command_keeps_its_id", async () => {
  await using server = await FakeServer.start([{ json: COMMAND }]);
  const sandbox = await server.sandbox({ retries: 0 });
  server.refusals = [refusal(503, "host_unavailable")];
  server.onSocket = (socket) => say(socket, { type: "attached", command: COMMAND }, { type: "exit", exit_code: 0 });
  const handle = await sandbox.commands.run("x", { background: true });
  assert.deepEqual([handle.id, handle.pid], ["cmd-1", 7]);
  assert.equal((await handle.wait()).exitCode, 0);
});

test("disconnect_with_held_input_kills_stream", async () => {
  await using server = await FakeServer.start();
  const sandbox = await server.sandbox();
  const ended = new Promise<void>((resolve) => {
    server.onSocket = (socket) => {
      socket.once("message", () => {
        say(socket, { type: "start", pid: 5 });
        socket.pause();
      });
      // A peer that is gone shows in what is sent to it: the server sends pings.
      const pings = setInterval(() => socket.ping(), 10);
      socket.on("close", () => {
        clearInterval(pings);
        resolve();
      });
      socket.on("error", () => {});
    };
  });
  const handle = await sandbox.commands.stream(["sleep", "3600"], { stdin: true });
  const feeding = assert.rejects(handle.sendStdin(new Uint8Array(50_000_000)), sdk.ConnectionBrokenError);
  // Until the kernel takes no more.
  await new Promise((resolve) => setTimeout(resolve, 200));
  handle.disconnect();
  await feeding;
  await ended;
});

test("lost_output_is_told_and_reading_goes_on", async () => {
  await using server = await FakeServer.start();
  const sandbox = await server.sandbox();
  server.onSocket = (socket) => {
    say(socket, { type: "attached", command: COMMAND }, { type: "dropped", bytes: 10, next_offset: 10 });
    say(socket, stdout("rest", { next_offset: 14 }), { type: "exit", exit_code: 0 });
  };
  const handle = await sandbox.commands.connect("cmd-1", { tailBytes: 100 });
  assert.match(server.requests[0]!.path, /tail_bytes=100/);
  await assert.rejects(handle.wait(), (error: unknown) => {
    assert.ok(error instanceof sdk.OutputLostError);
    assert.equal(error.bytes, 10);
    return true;
  });
  assert.equal((await handle.wait()).stdout, "rest");
});

test("background_handle_has_its_routes", async () => {
  await using server = await FakeServer.start([{ status: 204 }]);
  const sandbox = await server.sandbox();
  server.onSocket = (socket) => say(socket, { type: "attached", command: COMMAND });
  const handle = await sandbox.commands.connect("build");
  await handle.sendStdin("abc");
  await handle.closeStdin();
  await handle.sendSignal("SIGHUP");
  await handle.resize({ cols: 1, rows: 2 });
  assert.equal(await handle.kill(), true);
  const paths = server.requests.slice(1).map(({ path }) => path.split(`${ID}/commands/`)[1]);
  assert.deepEqual(paths, ["cmd-1/stdin", "cmd-1/stdin?close=true", "cmd-1/signal", "cmd-1/resize", "cmd-1/signal"]);
  assert.equal(server.requests[1]!.body.toString(), "abc");
  handle.disconnect();
  await assert.rejects(handle.read(), sdk.ConnectionBrokenError);
});

test("attach_that_is_refused_is_told", async () => {
  await using server = await FakeServer.start();
  const sandbox = await server.sandbox();
  server.onSocket = (socket) => say(socket, { type: "error", code: "not_found", data: "no such command" });
  await assert.rejects(sandbox.commands.connect("x"), sdk.NotFoundError);
  server.onSocket = (socket) =>
    say(socket, { type: "attached", command: COMMAND }, { type: "error", code: "invalid_state", data: "paused" });
  await assert.rejects((await sandbox.commands.connect("x")).wait(), sdk.InvalidStateError);
});

test("terminal_has_size_and_callback", async () => {
  await using server = await FakeServer.start();
  const sandbox = await server.sandbox();
  server.handle = ({ path }, response) => send(response, { json: path.endsWith("/commands") ? COMMAND : INFO });
  server.onSocket = (socket) => {
    say(socket, { type: "attached", command: COMMAND }, stdout("$ ", { next_offset: 2 }), {
      type: "exit",
      exit_code: 1,
    });
  };
  const seen: Uint8Array[] = [];
  const pty = await sandbox.pty.create({
    cols: 80,
    rows: 24,
    envs: { TERM: "dumb" },
    onData: (data) => void seen.push(data),
  });
  assert.equal((await pty.wait({ check: false })).exitCode, 1);
  assert.deepEqual(seen, [Uint8Array.from(Buffer.from("$ "))]);
  const body = JSON.parse(server.requests[0]!.body.toString()) as Record<string, unknown>;
  assert.deepEqual(body["terminal"], { cols: 80, rows: 24 });
  assert.equal((body["envs"] as Record<string, string>)["TERM"], "dumb");
  const again = await sandbox.pty.connect(7, { offset: 1 });
  assert.equal((await again.wait({ check: false })).stdout, "$ ");
  await sandbox.pty.sendInput("cmd-1", "exit\r");
  assert.equal(server.requests.at(-1)!.body.toString(), "exit\r");
});

test("slow_reader_holds_the_sender", async () => {
  await using server = await FakeServer.start();
  const sandbox = await server.sandbox();
  const chunk = Buffer.alloc(30_000, 97).toString();
  const total = 50_000_000;
  let sent = 0;
  let most = 0;
  server.onSocket = (socket) =>
    hear(socket, () => {
      say(socket, { type: "start", pid: 5 });
      const more = (): void => {
        if (sent >= total) {
          say(socket, { type: "exit", exit_code: 0 });
          return;
        }
        sent += chunk.length;
        socket.send(JSON.stringify(stdout(chunk)), () => setImmediate(more));
      };
      more();
    });
  const handle = await sandbox.commands.stream(["x"]);
  let received = 0;
  for await (const { data } of handle) {
    received += data.length;
    most = Math.max(most, sent - received);
    if (received % 1_500_000 === 0) {
      await new Promise((resolve) => setTimeout(resolve, 5));
    }
  }
  assert.equal(received, sent);
  // Our queue of 1 MiB, and what the kernel buffers of a connection.
  assert.ok(most < 16_000_000, `${most} bytes were on their way`);
});
