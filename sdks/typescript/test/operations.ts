/** Operations of scenarios: one for each name in the table of `sdks/README.md`, and those of the runner. */

import { readFileSync } from "node:fs";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";

import { Sandbox, Template, type Client, type CommandHandle, type DirectoryWatch } from "@wrenn/sandbox";
import type { EventInfo, EventStream, LogEntry, PortConnection, ProcessSignal, TerminalSize } from "@wrenn/sandbox";
import { look, matches, toPlain, type Plain } from "./values.js";

export type Fields = Record<string, never> & { [name: string]: unknown };

/** State of a scenario. */
export interface World {
  client: Client;
  proxyUrl: string;
  temporary: string;
  values: Map<string, unknown>;
  cleanups: (() => Promise<unknown>)[];
}

type Operation = (world: World, on: string, fields: Fields) => unknown;

/** Time of a read that waits. */
const READ_MS = 30_000;

/** Converts inputs to names and units of this SDK. */
function inputs(fields: Fields): Fields {
  const times = new Set(["timeout", "expires_in"]);
  const entries = Object.entries(fields).map(([name, value]) => {
    const camel = name.replace(/_([a-z])/g, (_, letter: string) => letter.toUpperCase());
    return times.has(name) ? [`${camel}Ms`, (value as number) * 1000] : [camel, value];
  });
  return Object.fromEntries(entries) as Fields;
}

async function all<T>(items: AsyncIterable<T>): Promise<T[]> {
  const found: T[] = [];
  for await (const item of items) {
    found.push(item);
  }
  return found;
}

async function bytesOf(stream: ReadableStream<Uint8Array>): Promise<Uint8Array> {
  return Uint8Array.from(Buffer.concat(await all(stream as unknown as AsyncIterable<Uint8Array>)));
}

async function within<T>(call: Promise<T>): Promise<T> {
  const ended = new AbortController();
  const limit = sleep(READ_MS, undefined, { signal: ended.signal }).then(() => {
    throw new Error(`nothing that matches came within ${READ_MS / 1000} s`);
  });
  limit.catch(() => {});
  try {
    return await Promise.race([call, limit]);
  } finally {
    ended.abort();
  }
}

type OfSandbox = (sandbox: Sandbox, fields: Fields, world: World) => unknown;

const onSandbox =
  (call: OfSandbox): Operation =>
  (world, on, fields) =>
    call(look(on, world.values) as Sandbox, inputs(fields), world);

const onHandle =
  (call: (handle: CommandHandle, fields: Fields) => unknown): Operation =>
  (world, on, fields) =>
    call(look(on, world.values) as CommandHandle, inputs(fields));

const onClient =
  (call: (client: Client, fields: Fields, world: World) => unknown): Operation =>
  (world, _on, fields) =>
    call(world.client, inputs(fields), world);

async function created(world: World, call: Promise<Sandbox>): Promise<Sandbox> {
  const sandbox = await call;
  world.cleanups.push(() => sandbox.kill());
  return sandbox;
}

async function opened(world: World, call: Promise<CommandHandle>): Promise<CommandHandle> {
  const handle = await call;
  world.cleanups.push(async () => handle.disconnect());
  return handle;
}

function follow<T>(world: World, items: AsyncIterable<T>): AsyncIterator<T> {
  const iterator = items[Symbol.asyncIterator]();
  world.cleanups.push(async () => void iterator.return?.());
  return iterator;
}

async function nextMatch<T>(iterator: AsyncIterator<T>, wanted: unknown): Promise<T> {
  for (;;) {
    const { done, value } = await within(iterator.next());
    if (done) {
      throw new Error("it ended before what matches");
    }
    if (matches(wanted as Plain, toPlain(value))) {
      return value;
    }
  }
}

async function readUntil(handle: CommandHandle, text: string): Promise<string> {
  let came = "";
  while (!came.includes(text)) {
    const output = await within(handle.read());
    if (!output) {
      throw new Error(`the command ended; its output: ${came}`);
    }
    came += output.text;
  }
  return came;
}

async function exchange(connection: PortConnection, data: string | Uint8Array): Promise<Uint8Array> {
  const writer = connection.writable.getWriter();
  const sending = writer.write(typeof data === "string" ? Buffer.from(data) : data).then(() => writer.close());
  const [received] = await Promise.all([bytesOf(connection.readable), sending]);
  return received;
}

async function getUrl(url: string): Promise<{ status: number; text: string }> {
  for (const end = Date.now() + 20_000; ; await sleep(100)) {
    const response = await fetch(url);
    if (response.status !== 502 || Date.now() > end) {
      return { status: response.status, text: await response.text() };
    }
  }
}

async function faults(world: World, method: string, body?: unknown): Promise<{ requests: Record<string, string>[] }> {
  const response = await fetch(`${world.proxyUrl}/faults`, {
    method,
    body: body && JSON.stringify(body),
  } as RequestInit);
  return (await response.json()) as { requests: Record<string, string>[] };
}

async function search(sandbox: Sandbox, { path, ...fields }: Fields): Promise<unknown> {
  const found = await sandbox.files.search(path!, fields);
  return { matches: await all(found), incomplete: found.summary!.incomplete };
}

async function download(sandbox: Sandbox, fields: Fields, world: World): Promise<Uint8Array> {
  const local = join(world.temporary, "download");
  await sandbox.files.download(fields["path"]!, local);
  return Uint8Array.from(readFileSync(local));
}

function read(sandbox: Sandbox, { path, ...options }: Fields): Promise<unknown> {
  if ((options["format"] as unknown as string) === "stream") {
    return sandbox.files.read(path!, { ...options, format: "stream" }).then(bytesOf);
  }
  return sandbox.files.read(path!, options);
}

async function createSnapshot(sandbox: Sandbox, { name, ...options }: Fields, world: World): Promise<unknown> {
  const template = await sandbox.createSnapshot(name, options);
  const { client } = world;
  // Sandboxes that were made from it are deleted first: they were created later.
  world.cleanups.unshift(() => Sandbox.deleteSnapshot(template.name, { client }));
  return template;
}

async function createWebhook(client: Client, { url, ...options }: Fields, world: World): Promise<unknown> {
  const webhook = await client.webhooks.create(url!, options);
  world.cleanups.push(() => client.webhooks.delete(webhook.id));
  return webhook;
}

const OF_SANDBOX: Record<string, OfSandbox> = {
  get_info: (sandbox) => sandbox.getInfo(),
  is_running: (sandbox) => sandbox.isRunning(),
  update: (sandbox, fields) => sandbox.update(fields),
  set_timeout: (sandbox, { timeoutMs }) => sandbox.setTimeout(timeoutMs!),
  wait: (sandbox, { status, ...options }) => sandbox.wait(status!, options),
  wait_deleted: (sandbox, fields) => sandbox.waitDeleted(fields),
  keep_alive: (sandbox) => sandbox.keepAlive(),
  ping: (sandbox) => sandbox.ping(),
  kill: (sandbox) => sandbox.kill(),
  get_metrics: (sandbox) => sandbox.getMetrics(),
  get_logs: (sandbox, { follow: isFollowed }, world) =>
    isFollowed ? follow<LogEntry>(world, sandbox.getLogs({ follow: true })) : all(sandbox.getLogs()),
  update_network: (sandbox, fields) => sandbox.updateNetwork(fields),
  pause: (sandbox) => sandbox.pause(),
  resume: (sandbox) => sandbox.resume(),
  fork: async (sandbox, fields, world) => {
    const children = await sandbox.fork(fields);
    children.forEach((child) => world.cleanups.push(() => child.kill()));
    return children;
  },
  rollback: (sandbox, { name }) => sandbox.rollback(name!),
  undo: (sandbox, fields) => sandbox.undo(fields),
  get_history: (sandbox) => sandbox.getHistory(),
  diff: async (sandbox, fields) => {
    const found = await sandbox.diff(fields);
    return { changes: await all(found), ...found.summary };
  },
  create_snapshot: createSnapshot,
  get_url: (sandbox, { port, ...options }) => sandbox.getUrl(port!, options),
  create_port_link: (sandbox, { port, ...options }) => sandbox.createPortLink(port!, options),
  "port.exchange": async (sandbox, { port, data }) => exchange(await sandbox.connectPort(port!), data!),
  "checkpoints.create": (sandbox, { name }) => sandbox.checkpoints.create(name),
  "checkpoints.list": (sandbox) => sandbox.checkpoints.list(),
  "checkpoints.delete": (sandbox, { name }) => sandbox.checkpoints.delete(name!),
  "checkpoints.set_auto": (sandbox, fields) => sandbox.checkpoints.setAuto(fields),
  "checkpoints.remove_auto": (sandbox) => sandbox.checkpoints.removeAuto(),
  "commands.run": (sandbox, { cmd, ...options }, world) =>
    options["background"]
      ? opened(world, sandbox.commands.run(cmd!, { ...options, background: true }))
      : sandbox.commands.run(cmd!, options),
  "commands.stream": (sandbox, { cmd, ...options }, world) => opened(world, sandbox.commands.stream(cmd!, options)),
  "commands.list": (sandbox) => sandbox.commands.list(),
  "commands.get": (sandbox, { id }) => sandbox.commands.get(id!),
  "commands.connect": (sandbox, { id, ...options }, world) => opened(world, sandbox.commands.connect(id!, options)),
  "commands.read_output": (sandbox, { id, ...options }) => sandbox.commands.readOutput(id!, options),
  "commands.send_signal": (sandbox, { id, signal }) => sandbox.commands.sendSignal(id!, signal!),
  "commands.kill": (sandbox, { id }) => sandbox.commands.kill(id!),
  "commands.send_stdin": (sandbox, { id, data }) => sandbox.commands.sendStdin(id!, data!),
  "commands.close_stdin": (sandbox, { id }) => sandbox.commands.closeStdin(id!),
  "pty.create": (sandbox, { size, ...options }, world) =>
    opened(world, sandbox.pty.create({ ...(size as unknown as TerminalSize), ...options })),
  "pty.connect": (sandbox, { id, ...options }, world) => opened(world, sandbox.pty.connect(id!, options)),
  "pty.resize": (sandbox, { id, size }) => sandbox.pty.resize(id!, size!),
  "pty.send_stdin": (sandbox, { id, data }) => sandbox.pty.sendInput(id!, data!),
  "pty.kill": (sandbox, { id }) => sandbox.pty.kill(id!),
  "files.read": read,
  "files.write": (sandbox, { path, data, ...options }) => sandbox.files.write(path!, data!, options),
  "files.write_files": (sandbox, { files }) => sandbox.files.writeFiles(files!),
  "files.list": (sandbox, { path, ...options }) => sandbox.files.list(path!, options),
  "files.scan": (sandbox, { path, ...options }) => all(sandbox.files.scan(path!, options)),
  "files.exists": (sandbox, { path }) => sandbox.files.exists(path!),
  "files.get_info": (sandbox, { path }) => sandbox.files.getInfo(path!),
  "files.make_dir": (sandbox, { path }) => sandbox.files.makeDir(path!),
  "files.rename": (sandbox, { oldPath, newPath, ...options }) => sandbox.files.rename(oldPath!, newPath!, options),
  "files.remove": (sandbox, { path }) => sandbox.files.remove(path!),
  "files.chmod": (sandbox, { path, mode, ...options }) => sandbox.files.chmod(path!, mode!, options),
  "files.chown": (sandbox, { path, ...options }) => sandbox.files.chown(path!, options),
  "files.search": search,
  "files.watch_dir": async (sandbox, { path, ...options }, world) => {
    const watch = await sandbox.files.watchDir(path!, options);
    world.cleanups.push(async () => watch.close());
    return watch;
  },
  "files.upload": (sandbox, { data, path, ...options }) => sandbox.files.upload(data!, path!, options),
  "files.download": download,
  "files.read_archive": async (sandbox, { path }) => bytesOf(await sandbox.files.readArchive(path!)),
  "files.write_archive": (sandbox, { path, data }) => sandbox.files.writeArchive(path!, data!),
};

const OF_CLIENT: Record<string, (client: Client, fields: Fields, world: World) => unknown> = {
  "Sandbox.create": (client, fields, world) => created(world, Sandbox.create({ ...fields, client })),
  "Sandbox.get_or_create": (client, { name, ...fields }, world) =>
    created(world, Sandbox.getOrCreate(name!, { ...fields, client })),
  "Sandbox.get": (client, { id }) => Sandbox.get(id!, { client }),
  "Sandbox.connect": (client, { id }) => Sandbox.connect(id!, { client }),
  "Sandbox.list": (client, fields) => all(Sandbox.list({ ...fields, client })),
  "Sandbox.count": (client, fields) => Sandbox.count({ ...fields, client }),
  "Sandbox.get_usage": (client, { ids }) => all(Sandbox.getUsage(ids, { client })),
  "Sandbox.list_snapshots": (client) => Sandbox.listSnapshots({ client }),
  "Sandbox.get_snapshot": (client, { name }) => Sandbox.getSnapshot(name!, { client }),
  "Sandbox.delete_snapshot": (client, { name }) => Sandbox.deleteSnapshot(name!, { client }),
  "Template.list": (client) => Template.list({ client }),
  health: (client) => client.health(),
  openapi: (client) => client.openapi(),
  get_host_metrics: (client) => client.getHostMetrics(),
  "events.list": (client, fields) => all(client.events.list(fields)),
  "events.stream": async (client, fields, world) => {
    const stream = await client.events.stream(fields);
    world.cleanups.push(async () => stream.close());
    return stream;
  },
  "webhooks.create": createWebhook,
  "webhooks.list": (client) => client.webhooks.list(),
  "webhooks.get": (client, { id }) => client.webhooks.get(id!),
  "webhooks.update": (client, { id, ...fields }) => client.webhooks.update(id!, fields),
  "webhooks.delete": (client, { id }) => client.webhooks.delete(id!),
  "webhooks.test": (client, { id }) => client.webhooks.test(id!),
  "webhooks.rotate_secret": (client, { id, ...fields }) => client.webhooks.rotateSecret(id!, fields),
  "webhooks.list_deliveries": (client, { id, ...fields }) => all(client.webhooks.listDeliveries(id!, fields)),
  "webhooks.get_delivery": (client, { id, delivery }) => client.webhooks.getDelivery(id!, delivery!),
  "webhooks.redeliver": (client, { id, delivery }) => client.webhooks.redeliver(id!, delivery!),
  "webhooks.redeliver_dead": (client, { id }) => client.webhooks.redeliverDead(id!),
  "client.close": () => {},
};

function wrap<T>(calls: Record<string, T>, convert: (call: T) => Operation): [string, Operation][] {
  return Object.entries(calls).map(([name, call]) => [name, convert(call)]);
}

const value = <T>(world: World, on: string): T => look(on, world.values) as T;

export const OPERATIONS: Readonly<Record<string, Operation>> = {
  ...Object.fromEntries(wrap(OF_SANDBOX, onSandbox)),
  ...Object.fromEntries(wrap(OF_CLIENT, onClient)),
  get_disk_usage: (world, on) => (on === "client" ? world.client : value<Sandbox>(world, on)).getDiskUsage(),
  "handle.read_until": onHandle((handle, { text }) => readUntil(handle, text!)),
  "handle.wait": onHandle((handle, fields) => within(handle.wait(fields))),
  "handle.kill": onHandle((handle) => handle.kill()),
  "handle.send_stdin": onHandle((handle, { data }) => handle.sendStdin(data!)),
  "handle.close_stdin": onHandle((handle) => handle.closeStdin()),
  "handle.resize": onHandle((handle, { size }) => handle.resize(size!)),
  "handle.send_signal": onHandle((handle, { signal }) => handle.sendSignal(signal as unknown as ProcessSignal)),
  "handle.disconnect": onHandle((handle) => handle.disconnect()),
  "watch.next": (world, on, { match }) => nextMatch(value<DirectoryWatch>(world, on)[Symbol.asyncIterator](), match),
  "watch.close": (world, on) => value<DirectoryWatch>(world, on).close(),
  "stream.next": (world, on, { match }) => {
    const stream = value<EventStream | AsyncIterator<LogEntry>>(world, on);
    const iterator: AsyncIterator<EventInfo | LogEntry> = "read" in stream ? stream[Symbol.asyncIterator]() : stream;
    return nextMatch(iterator, match);
  },
  "stream.close": (world, on) => {
    const stream = value<EventStream | AsyncIterator<LogEntry>>(world, on);
    return "read" in stream ? stream.close() : stream.return?.();
  },
  "http.get": (_world, _on, { url }) => getUrl(url!),
  "faults.set": (world, _on, fields) => faults(world, "PUT", fields),
  "faults.count": async (world, _on, { method, path }) => {
    const { requests } = await faults(world, "GET");
    return requests.filter((request) => request["method"] === method && new RegExp(path!).test(request["path"]!))
      .length;
  },
};
