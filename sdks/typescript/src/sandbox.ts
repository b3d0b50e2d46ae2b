/** Sandboxes. */

import { randomId } from "#platform";
import type { Sent } from "./casing.js";
import { Checkpoints, falseIfMissing } from "./checkpoints.js";
import { splitConnection, timesOf, type Client, type Connection, type MetricsOptions } from "./client.js";
import { Commands } from "./commands.js";
import type { RequestOptions } from "./deadline.js";
import { NotFoundError, OperationTimeoutError } from "./errors.js";
import { Files } from "./files.js";
import type {
  HistoryInfo,
  LogEntry,
  NetworkRules,
  PortLink,
  SandboxDiskUsage,
  SandboxInfo,
  SandboxMetrics,
  SandboxStatus,
  SandboxUsage,
  Schemas,
  TemplateInfo,
  TemplateKind,
} from "./models.js";
import { PortConnection } from "./ports.js";
import { Pty } from "./pty.js";
import { LONG_REQUEST_TIMEOUT_MS, type Transport } from "./transport.js";
import { jsonLines, SandboxDiff } from "./watch.js";

/** Seconds of one request that waits; longer waits are several. */
const WAIT_SEC = 60;

/** Entries of a page. */
const PAGE = 1000;

const LONG = { defaultMs: LONG_REQUEST_TIMEOUT_MS };

type CreateFields = Omit<Sent<Schemas["CreateSandbox"]>, "timeoutSec" | "endsAt">;

export interface CreateOptions extends Connection, CreateFields {
  /** Milliseconds without activity until `onTimeout` is done. Default 300 s. */
  timeoutMs?: number;
  /** Time at which it is stopped, whatever it does. */
  endsAt?: string | Date;
  /** The same as `labels`. */
  metadata?: Record<string, string>;
  /** The same as `allowInternet` of `network`. */
  allowInternetAccess?: boolean;
  /** Key under which a create that comes again makes no second sandbox. Default: a new one. */
  idempotencyKey?: string;
}

type UpdateFields = Omit<Sent<Schemas["UpdateSandbox"]>, "timeoutSec" | "endsAt">;

export interface UpdateOptions extends RequestOptions, UpdateFields {
  timeoutMs?: number;
  endsAt?: string | Date | null;
}

/** What `diff` compares. */
export interface DiffOptions {
  /** Checkpoint before. Default: the newest one. */
  from?: string;
  /** Checkpoint after. Default: the present state. */
  to?: string;
  /** Directory or file. Default: all of the disk. */
  path?: string;
  /** True for unified diffs of texts, and hashes of other files. */
  patches?: boolean;
  /** Number of changes. Default 10000. */
  limit?: number;
  /** Longest time of the comparison. Default 60 s. */
  timeoutMs?: number;
}

export interface SandboxFilter {
  /** All of them hold; `true` stands for any value. */
  labels?: Record<string, string | true>;
  /** One of them holds. */
  status?: SandboxStatus | readonly SandboxStatus[];
  template?: string;
  namePrefix?: string;
}

export interface WaitOptions extends RequestOptions {
  /**
   * Milliseconds until the wait fails with `OperationTimeoutError`. Default: `requestTimeoutMs` of the call or of the
   * client, without both never.
   */
  timeoutMs?: number;
}

/** A sandbox: a virtual machine with commands, files and ports. */
export class Sandbox implements AsyncDisposable {
  readonly commands: Commands;
  readonly files: Files;
  readonly pty: Pty;
  readonly checkpoints: Checkpoints;
  private readonly transport: Transport;
  private known: SandboxInfo;

  private constructor(
    readonly client: Client,
    info: SandboxInfo,
  ) {
    this.transport = client.transport;
    this.known = info;
    this.commands = new Commands(this.transport, info.id);
    this.files = new Files(this.transport, info.id);
    this.pty = new Pty(this.transport, info.id, this.commands);
    this.checkpoints = new Checkpoints(this.transport, info.id);
  }

  /** Creates a sandbox, and waits until it runs. */
  static create(options?: CreateOptions): Promise<Sandbox>;
  static create(template: string, options?: CreateOptions): Promise<Sandbox>;
  static async create(template?: string | CreateOptions, options: CreateOptions = {}): Promise<Sandbox> {
    const given = typeof template === "object" ? template : { ...options, template: template ?? options.template };
    const { client, request, rest } = splitConnection(given);
    const { idempotencyKey = randomId(), ...fields } = rest;
    const headers = { "idempotency-key": idempotencyKey };
    const input = { body: createBody(fields), headers, repeatable: true };
    const info = await client.transport.json("create_sandbox", input, { ...LONG, ...request });
    return new Sandbox(client, info);
  }

  /** Gets the living sandbox of a name, or creates it. */
  static getOrCreate(name: string, options: CreateOptions = {}): Promise<Sandbox> {
    return Sandbox.create({ ...options, name, ifExists: "return" });
  }

  /** Gets a sandbox by id or name. One that is paused stays paused. */
  static async get(id: string, options: Connection = {}): Promise<Sandbox> {
    const { client, request } = splitConnection(options);
    return new Sandbox(client, await client.transport.json("get_sandbox", { path: { id } }, request));
  }

  /** Gets a sandbox by id or name, and resumes it if it is paused. */
  static async connect(id: string, options: Connection = {}): Promise<Sandbox> {
    const sandbox = await Sandbox.get(id, options);
    if (sandbox.known.status === "paused") {
      await sandbox.resume(splitConnection(options).request);
    }
    return sandbox;
  }

  /** Lists sandboxes, newest first, page after page. */
  static async *list(options: Connection & SandboxFilter = {}): AsyncGenerator<SandboxInfo, void, void> {
    const { client, request, rest } = splitConnection(options);
    let cursor: string | undefined;
    do {
      const query = { ...filterQuery(rest), limit: PAGE, cursor };
      const page = await client.transport.jsonPage("list_sandboxes", { query }, request);
      yield* page.value;
      cursor = page.headers.get("x-next-cursor") ?? undefined;
    } while (cursor);
  }

  /** Counts sandboxes. */
  static async count(options: Connection & SandboxFilter = {}): Promise<number> {
    const { client, request, rest } = splitConnection(options);
    return (await client.transport.json("count_sandboxes", { query: filterQuery(rest) }, request)).count;
  }

  /** Gets what sandboxes use now: those of the ids, or all that run or are paused. */
  static async *getUsage(ids?: readonly string[], options: Connection = {}): AsyncGenerator<SandboxUsage, void, void> {
    const { client, request } = splitConnection(options);
    let cursor: string | undefined;
    do {
      const query = ids ? { ids: ids.join(",") } : { limit: PAGE, cursor };
      const page = await client.transport.jsonPage("get_usage", { query }, request);
      yield* page.value;
      cursor = page.headers.get("x-next-cursor") ?? undefined;
    } while (cursor);
  }

  /** Lists the templates that were made of sandboxes. */
  static listSnapshots(options: Connection & { type?: TemplateKind } = {}): Promise<TemplateInfo[]> {
    const { client, request, rest } = splitConnection(options);
    return client.transport.json("list_snapshots", { query: rest }, request);
  }

  /** Gets a snapshot. */
  static getSnapshot(name: string, options: Connection = {}): Promise<TemplateInfo> {
    const { client, request } = splitConnection(options);
    return client.transport.json("get_snapshot", { path: { name } }, request);
  }

  /** Deletes a snapshot; false if it is not there. */
  static deleteSnapshot(name: string, options: Connection = {}): Promise<boolean> {
    const { client, request } = splitConnection(options);
    return falseIfMissing(client.transport.json("delete_snapshot", { path: { name } }, request));
  }

  /** Deletes a sandbox by id or name; false if it is not there. */
  static async kill(id: string, options: Connection = {}): Promise<boolean> {
    const { client, request } = splitConnection(options);
    return falseIfMissing(client.transport.json("delete_sandbox", { path: { id } }, { ...LONG, ...request }));
  }

  get sandboxId(): string {
    return this.known.id;
  }

  /** What was known of the sandbox after the last call whose answer had it. */
  get info(): SandboxInfo {
    return this.known;
  }

  private get path(): { id: string } {
    return { id: this.known.id };
  }

  private async learn(info: Promise<SandboxInfo>): Promise<SandboxInfo> {
    this.known = await info;
    return this.known;
  }

  /** Gets what is known of the sandbox. */
  getInfo(options?: RequestOptions): Promise<SandboxInfo> {
    return this.learn(this.transport.json("get_sandbox", { path: this.path }, options));
  }

  /** Returns true if the sandbox runs; false if it does not, or is not there. */
  async isRunning(options?: RequestOptions): Promise<boolean> {
    try {
      return (await this.getInfo(options)).status === "running";
    } catch (error) {
      if (error instanceof NotFoundError) {
        return false;
      }
      throw error;
    }
  }

  /** Changes name, labels, end and settings about idleness. What is left out stays. */
  update(options: UpdateOptions): Promise<SandboxInfo> {
    const { signal, requestTimeoutMs, timeoutMs, ...fields } = options;
    const body = { ...timesOf(fields), timeoutSec: seconds(timeoutMs) };
    const input = { path: this.path, body };
    return this.learn(this.transport.json("update_sandbox", input, { signal, requestTimeoutMs }));
  }

  /** Changes the milliseconds without activity until `onTimeout` is done. */
  async setTimeout(timeoutMs: number, options: RequestOptions = {}): Promise<void> {
    await this.update({ ...options, timeoutMs });
  }

  /** Waits for a status, or for one of several. */
  async wait(status: SandboxStatus | readonly SandboxStatus[], options: WaitOptions = {}): Promise<SandboxInfo> {
    const wanted = typeof status === "string" ? [status] : status;
    return this.learn(this.waitFor({ status: wanted }, options) as Promise<SandboxInfo>);
  }

  /** Waits until the sandbox is deleted. */
  async waitDeleted(options: WaitOptions = {}): Promise<void> {
    await falseIfMissing(this.waitFor({ deleted: true }, options));
  }

  private async waitFor(query: object, options: WaitOptions): Promise<SandboxInfo | undefined> {
    const { signal } = options;
    const limitMs = options.timeoutMs ?? options.requestTimeoutMs ?? this.transport.options.requestTimeoutMs;
    const isLimited = options.timeoutMs !== undefined || (limitMs ?? 0) > 0;
    const end = isLimited ? Date.now() + limitMs! : Number.POSITIVE_INFINITY;
    for (;;) {
      const left = Math.max(1, Math.min(WAIT_SEC, Math.ceil((end - Date.now()) / 1000)));
      const input = { path: this.path, query: { ...query, timeoutSec: left } };
      try {
        const requestTimeoutMs = options.requestTimeoutMs ?? left * 1000 + LONG_REQUEST_TIMEOUT_MS;
        return await this.transport.json("wait_for_sandbox", input, { signal, requestTimeoutMs });
      } catch (error) {
        if (!(error instanceof OperationTimeoutError) || Date.now() >= end) {
          throw error;
        }
      }
    }
  }

  /** Counts as use: the time until the sandbox is idle begins again. */
  async keepAlive(options?: RequestOptions): Promise<void> {
    await this.transport.json("keep_sandbox_alive", { path: this.path }, options);
  }

  /** Asks its guest whether it answers. */
  async ping(options?: RequestOptions): Promise<void> {
    await this.transport.json("ping_sandbox", { path: this.path }, options);
  }

  /** Deletes the sandbox, with everything in it; false if it is not there. */
  kill(options?: RequestOptions): Promise<boolean> {
    const call = this.transport.json("delete_sandbox", { path: this.path }, { ...LONG, ...options });
    return falseIfMissing(call);
  }

  /** Deletes the sandbox: `await using sandbox = await Sandbox.create()`. */
  async [Symbol.asyncDispose](): Promise<void> {
    await this.kill();
  }

  /** Saves memory and disk; nothing runs until it is resumed. */
  pause(options?: RequestOptions): Promise<SandboxInfo> {
    return this.learn(this.transport.json("pause_sandbox", { path: this.path }, { ...LONG, ...options }));
  }

  /** Goes on where it was paused. */
  resume(options?: RequestOptions): Promise<SandboxInfo> {
    return this.learn(this.transport.json("resume_sandbox", { path: this.path }, { ...LONG, ...options }));
  }

  /** Makes children that go on from its present state: all, or none. */
  async fork(options: RequestOptions & { count?: number; idempotencyKey?: string } = {}): Promise<Sandbox[]> {
    const { count, idempotencyKey = randomId(), ...rest } = options;
    const headers = { "idempotency-key": idempotencyKey };
    const input = { path: this.path, body: { count }, headers, repeatable: true };
    const children = await this.transport.json("fork_sandbox", input, { ...LONG, ...rest });
    return children.map((info) => new Sandbox(this.client, info));
  }

  /** Goes back to a checkpoint, in memory and on disk. */
  rollback(name: string, options?: RequestOptions): Promise<SandboxInfo> {
    const input = { path: { ...this.path, name } };
    return this.learn(this.transport.json("rollback_sandbox", input, { ...LONG, ...options }));
  }

  /** Goes back to before the last command, so many automatic checkpoints, or to any by its name. */
  async undo(
    options: RequestOptions & { steps?: number; checkpoint?: string } = {},
  ): Promise<{ sandbox: SandboxInfo; checkpoint: string; savedAs: string }> {
    const { steps, checkpoint, ...rest } = options;
    const input = { path: this.path, body: { steps, checkpoint } };
    const undone = await this.transport.json("undo_sandbox", input, { ...LONG, ...rest });
    this.known = undone.sandbox;
    return undone;
  }

  /** Says where an undo goes, and what makes its steps. */
  getHistory(options?: RequestOptions): Promise<HistoryInfo> {
    return this.transport.json("get_history", { path: this.path }, options);
  }

  /** Compares the files at two checkpoints, or at one and now. */
  async diff(options: DiffOptions & RequestOptions = {}): Promise<SandboxDiff> {
    const { from, to, path, patches, limit, timeoutMs, ...rest } = options;
    const timeoutSec = timeoutMs === undefined ? undefined : Math.ceil(timeoutMs / 1000);
    const input = { path: this.path, query: { from, to, path, patches, limit, timeoutSec } };
    return new SandboxDiff(await this.transport.open("diff_sandbox", input, { ...LONG, ...rest }));
  }

  /** Makes a template of the sandbox, which goes on as it was. */
  createSnapshot(
    name?: string,
    options: RequestOptions & { memory?: boolean; overwrite?: boolean } = {},
  ): Promise<TemplateInfo> {
    const { memory, overwrite, ...rest } = options;
    const body = { sandboxId: this.sandboxId, name, memory, overwrite };
    return this.transport.json("create_snapshot", { body }, { ...LONG, ...rest });
  }

  /** Replaces all of its network rules. */
  updateNetwork(
    rules: NetworkRules & { allowInternetAccess?: boolean },
    options?: RequestOptions,
  ): Promise<SandboxInfo> {
    const { allowInternetAccess, ...body } = rules;
    const whole = { allowInternet: allowInternetAccess, ...body };
    return this.learn(this.transport.json("set_network", { path: this.path, body: whole }, options));
  }

  /** Gets what it used. */
  getMetrics(options: MetricsOptions = {}): Promise<SandboxMetrics> {
    const { signal, requestTimeoutMs, ...query } = options;
    const input = { path: this.path, query: timesOf(query) };
    return this.transport.json("get_sandbox_metrics", input, { signal, requestTimeoutMs });
  }

  /** Gets what it takes on disk. */
  getDiskUsage(options?: RequestOptions): Promise<SandboxDiskUsage> {
    return this.transport.json("get_sandbox_disk_usage", { path: this.path }, options);
  }

  /** Reads its log, oldest first; with `follow` also what comes, until it is deleted. */
  async *getLogs(options: RequestOptions & { follow?: boolean } = {}): AsyncGenerator<LogEntry, void, void> {
    const { follow, ...rest } = options;
    const answer = await this.transport.open("logs", { path: this.path, query: { follow } }, rest);
    yield* jsonLines<Schemas["LogEntry"]>(answer);
  }

  /** Makes a signed URL of a port, for clients without a key. */
  async getUrl(port: number, options: RequestOptions & { expiresInMs?: number } = {}): Promise<string> {
    return (await this.createPortLink(port, options)).url;
  }

  /** Makes a signed URL of a port, with its token and its end. */
  createPortLink(port: number, options: RequestOptions & { expiresInMs?: number } = {}): Promise<PortLink> {
    const { expiresInMs, ...rest } = options;
    const expiresInSec = seconds(expiresInMs);
    return this.transport.json("create_port_link", { path: this.path, body: { port, expiresInSec } }, rest);
  }

  /** Opens a TCP connection to a port, with any protocol. */
  connectPort(port: number, options: RequestOptions = {}): Promise<PortConnection> {
    return PortConnection.open(this.transport, this.sandboxId, port, options);
  }
}

function seconds(timeoutMs: number | undefined): number | undefined {
  return timeoutMs === undefined ? undefined : Math.ceil(timeoutMs / 1000);
}

function createBody(options: Omit<CreateOptions, keyof Connection | "idempotencyKey">): object {
  const { timeoutMs, metadata, labels = metadata, allowInternetAccess, network, ...rest } = options;
  const access = allowInternetAccess === undefined ? undefined : { allowInternet: allowInternetAccess };
  return {
    ...timesOf(rest),
    labels,
    timeoutSec: seconds(timeoutMs),
    network: network || access ? { ...access, ...network } : undefined,
  };
}

function filterQuery(filter: SandboxFilter): object {
  const { labels = {}, status, template, namePrefix } = filter;
  const label = Object.entries(labels).map(([key, value]) => (value === true ? key : `${key}=${value}`));
  return { label, status, template, namePrefix };
}
