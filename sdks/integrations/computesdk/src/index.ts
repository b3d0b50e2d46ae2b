/**
 * Provider of ComputeSDK: `compute.sandbox.create()` makes a sandbox of a Wrenn server.
 *
 * ```ts
 * const compute = wrenn({ template: "minimal" });
 * const sandbox = await compute.sandbox.create();
 * ```
 *
 * @module
 */

import {
  defineProvider,
  TIMEOUT_EXIT_CODE,
  type CommandResult,
  type CreateSandboxOptions,
  type FileEntry,
  type Provider,
  type RunCommandOptions,
  type SandboxInfo,
} from "@computesdk/provider";
import {
  Client,
  NotFoundError,
  OperationTimeoutError,
  Sandbox,
  type ClientOptions,
  type CreateOptions,
  type SandboxStatus,
  type TemplateInfo,
} from "@wrenn/sandbox";

/** Where the server is, and what sandboxes are made of; all of it has a default. */
export interface WrennConfig extends ClientOptions {
  /** Template of sandboxes whose options name none. */
  template?: string;
}

/** A snapshot of ComputeSDK: a template with the memory of the sandbox that it was made of. */
export interface WrennSnapshot {
  id: string;
  provider: string;
  createdAt: Date;
}

const NAME = "wrenn";

/** Milliseconds that a command may take unless told otherwise. */
const COMMAND_TIMEOUT_MS = 300_000;

/** States of a sandbox as ComputeSDK has them; one that is paused goes on when it is asked for. */
const STATUSES: Partial<Record<SandboxStatus, SandboxInfo["status"]>> = {
  paused: "stopped",
  stopped: "stopped",
  error: "error",
};

/** Returns a provider, for `createCompute` or to be used as it is. */
export const wrenn: (config?: WrennConfig) => Provider<Sandbox, never, WrennSnapshot> = (config = {}) => define(config);

const define = defineProvider<Sandbox, WrennConfig, never, WrennSnapshot>({
  name: NAME,
  methods: {
    sandbox: {
      create: async (config, options) =>
        named(await Sandbox.create({ client: clientOf(config), ...createOptions(config, options) })),
      getById: async (config, id) => {
        try {
          return named(await Sandbox.connect(id, { client: clientOf(config) }));
        } catch (error) {
          if (error instanceof NotFoundError) {
            return null;
          }
          throw error;
        }
      },
      list: async (config) => {
        const client = clientOf(config);
        const found: { sandbox: Sandbox; sandboxId: string }[] = [];
        for await (const { id } of Sandbox.list({ client, status: ["running", "paused"] })) {
          found.push(named(await Sandbox.get(id, { client })));
        }
        return found;
      },
      destroy: async (config, id) => {
        await Sandbox.kill(id, { client: clientOf(config) });
      },
      runCommand,
      streamCommand: runCommand,
      getInfo,
      getUrl,
      filesystem: {
        readFile: (sandbox, path) => sandbox.files.read(path),
        writeFile: async (sandbox, path, content) => {
          await sandbox.files.write(path, content);
        },
        mkdir: async (sandbox, path) => {
          await sandbox.files.makeDir(path);
        },
        readdir,
        exists: (sandbox, path) => sandbox.files.exists(path),
        remove: async (sandbox, path) => {
          await sandbox.files.remove(path);
        },
      },
    },
    snapshot: {
      create: async (config, id, options) => {
        const sandbox = await Sandbox.get(id, { client: clientOf(config) });
        return snapshotOf(await sandbox.createSnapshot(options?.name));
      },
      list: async (config, options) => {
        const all = await Sandbox.listSnapshots({ client: clientOf(config) });
        const id = options?.sandboxId;
        const found = id === undefined ? all : all.filter(({ sourceSandboxId }) => sourceSandboxId === id);
        return found.map(snapshotOf).slice(0, options?.limit);
      },
      delete: async (config, name) => {
        await Sandbox.deleteSnapshot(name, { client: clientOf(config) });
      },
    },
  },
});

const clients = new WeakMap<WrennConfig, Client>();

function clientOf(config: WrennConfig): Client {
  let client = clients.get(config);
  if (!client) {
    const { template: _, ...options } = config;
    client = new Client(options);
    clients.set(config, client);
  }
  return client;
}

function named(sandbox: Sandbox): { sandbox: Sandbox; sandboxId: string } {
  return { sandbox, sandboxId: sandbox.sandboxId };
}

/** Returns the options of ComputeSDK that have a meaning here. */
function createOptions(config: WrennConfig, options: CreateSandboxOptions = {}): CreateOptions & { template?: string } {
  const template = options.snapshotId ?? options.templateId ?? options.image ?? config.template;
  const labels = Object.entries(options.metadata ?? {}).map(([key, value]) => [key, String(value)]);
  return {
    ...(template === undefined ? {} : { template }),
    ...(options.timeout === undefined ? {} : { timeoutMs: options.timeout }),
    ...(options.envs === undefined ? {} : { envs: options.envs }),
    ...(options.name === undefined ? {} : { name: options.name }),
    ...(options.signal === undefined ? {} : { signal: options.signal }),
    ...(options.vcpus === undefined ? {} : { vcpus: options.vcpus }),
    ...(options.memoryMb === undefined ? {} : { memoryMb: options.memoryMb }),
    labels: Object.fromEntries(labels) as Record<string, string>,
  };
}

/** Runs a command in a login shell. One that takes too long has the exit code 124, and is ended. */
async function runCommand(sandbox: Sandbox, command: string, options: RunCommandOptions = {}): Promise<CommandResult> {
  const begin = Date.now();
  const timeoutMs = options.timeout ?? COMMAND_TIMEOUT_MS;
  const common = {
    ...(options.cwd === undefined ? {} : { cwd: options.cwd }),
    ...(options.env === undefined ? {} : { envs: options.env }),
  };
  if (options.background) {
    const handle = await sandbox.commands.run(command, { ...common, background: true });
    await handle.disconnect();
    return { stdout: "", stderr: "", exitCode: 0, durationMs: Date.now() - begin };
  }
  const kept = { stdout: "", stderr: "" };
  const onStdout = (text: string) => {
    kept.stdout += text;
    options.onStdout?.(text);
  };
  const onStderr = (text: string) => {
    kept.stderr += text;
    options.onStderr?.(text);
  };
  let exitCode = TIMEOUT_EXIT_CODE;
  try {
    ({ exitCode } = await sandbox.commands.run(command, { ...common, timeoutMs, check: false, onStdout, onStderr }));
  } catch (error) {
    if (!(error instanceof OperationTimeoutError)) {
      throw error;
    }
    onStderr(`The command was ended after ${timeoutMs / 1000} seconds.\n`);
  }
  return { ...kept, exitCode, durationMs: Date.now() - begin };
}

async function getInfo(sandbox: Sandbox): Promise<SandboxInfo> {
  const info = await sandbox.getInfo();
  return {
    id: info.id,
    provider: NAME,
    status: STATUSES[info.status] ?? "running",
    createdAt: new Date(info.createdAt),
    timeout: info.timeoutSec * 1000,
    metadata: info.labels,
  };
}

/** Returns a signed URL. The server says whether it is encrypted; a protocol chooses between HTTP and WebSocket. */
async function getUrl(sandbox: Sandbox, { port, protocol }: { port: number; protocol?: string }): Promise<string> {
  const url = await sandbox.getUrl(port);
  switch (protocol) {
    case undefined:
    case "http":
    case "https":
      return url;
    case "ws":
    case "wss":
      return url.replace(/^http/, "ws");
    default:
      throw new TypeError(`there is no URL with the protocol ${protocol}: use http, https, ws or wss`);
  }
}

async function readdir(sandbox: Sandbox, path: string): Promise<FileEntry[]> {
  const entries = await sandbox.files.list(path);
  return entries.map(({ path, kind, size, modifiedAt }) => ({
    name: path.slice(path.lastIndexOf("/") + 1),
    type: kind === "directory" ? "directory" : "file",
    size,
    modified: new Date(modifiedAt),
  }));
}

function snapshotOf(info: TemplateInfo): WrennSnapshot {
  return { id: info.name, provider: NAME, createdAt: new Date(info.createdAt) };
}
