/** Commands of a sandbox. */

import { AttachConnection, closeStdin, killCommand, writeStdin, type OutputStart } from "./attach.js";
import { toBytes } from "./bytes.js";
import type { RequestOptions } from "./deadline.js";
import type { CommandResult } from "./errors.js";
import { ExecConnection } from "./exec.js";
import { CommandHandle, type OutputCallbacks, type WaitOptions } from "./handle.js";
import type { CommandInfo, CommandState, ProcessSignal, TerminalSize } from "./models.js";
import { REQUEST_TIMEOUT_MS, type Transport } from "./transport.js";

/** A command: text for a shell of the sandbox, or a program and its arguments, which are run as they are. */
export type CommandLine = string | readonly [program: string, ...args: string[]];

/** Default time of a command. */
const COMMAND_TIMEOUT_MS = 60_000;

/** Runs a login shell: bash where the sandbox has it. */
const SHELL_SCRIPT = 'if command -v bash >/dev/null 2>&1; then exec bash -l -c "$1"; else exec sh -l -c "$1"; fi';

export interface CommandOptions extends RequestOptions {
  /** Milliseconds until the command is ended; 0: no limit. Default 60 s; of a background command no limit. */
  timeoutMs?: number;
  /** Added to the environment of the sandbox. */
  envs?: Record<string, string>;
  /** Working directory. Default: that of the image's configuration, else the user's home. */
  cwd?: string;
  /** User in the guest. Default: that of the template. */
  user?: string;
}

export interface RunOptions extends CommandOptions, OutputCallbacks, WaitOptions {
  background?: false;
  /** Standard input of the command, sent whole. Default: it reads end of file at once. */
  stdin?: string | Uint8Array;
}

export interface StreamOptions extends CommandOptions, OutputCallbacks {
  /** True to keep standard input open for `sendStdin`. */
  stdin?: boolean;
  /** Runs the command on a terminal of this size, with one stream of output. */
  terminal?: TerminalSize;
}

export interface BackgroundOptions extends StreamOptions {
  background: true;
  /** Name, unique among the commands that run, for `connect`. */
  name?: string;
  /** True if the sandbox counts as used for as long as the command runs. */
  keepAlive?: boolean;
}

export interface ConnectOptions extends RequestOptions, OutputStart, OutputCallbacks {}

/** A part of the output of a background command. */
export interface OutputPart {
  data: Uint8Array;
  /** Offset to go on at. */
  nextOffset: number;
  /** Bytes before this part that are no longer kept. */
  dropped: number;
  /** `exited` once nothing follows. */
  state: CommandState;
}

export interface ReadOutputOptions extends RequestOptions {
  /** Offset of the first byte. Default 0. */
  offset?: number;
  /** Only this stream. */
  stream?: "stdout" | "stderr";
  /** Seconds to wait where nothing is behind the offset; at most 60. */
  wait?: number;
}

/** Id, name or pid of a background command. */
export type CommandId = string | number;

/** Commands of one sandbox: `sandbox.commands`. */
export class Commands {
  /** @internal */
  constructor(
    private readonly transport: Transport,
    private readonly sandboxId: string,
  ) {}

  /** Starts a command in the background and follows it. It runs on when the handle is gone. */
  run(command: CommandLine, options: BackgroundOptions): Promise<CommandHandle>;
  /** Runs a command to its end; `CommandExitError` if its exit code is not 0, unless `check` is false. */
  run(command: CommandLine, options?: RunOptions): Promise<CommandResult>;
  async run(
    command: CommandLine,
    options: RunOptions | BackgroundOptions = {},
  ): Promise<CommandResult | CommandHandle> {
    if (options.background) {
      return this.start(command, options);
    }
    const { stdin: input, check, ...rest } = options;
    const handle = await this.stream(command, {
      timeoutMs: COMMAND_TIMEOUT_MS,
      ...withoutUndefined(rest),
      stdin: input !== undefined,
    });
    try {
      // Both at once: a command that reads nothing does not keep its output back.
      const [result] = await Promise.all([handle.wait({ check: check ?? true }), feed(handle, input)]);
      return result;
    } finally {
      handle.disconnect();
    }
  }

  /** Runs a command as a stream both ways. It is killed when the handle is disconnected. */
  async stream(command: CommandLine, options: StreamOptions = {}): Promise<CommandHandle> {
    const { stdin = false, terminal } = options;
    const start = { ...programOf(command), ...environmentOf(options), stdin, terminal };
    const connection = await ExecConnection.start(this.transport, this.sandboxId, start, options);
    return new CommandHandle(connection, options);
  }

  private async start(command: CommandLine, options: BackgroundOptions): Promise<CommandHandle> {
    const { name, keepAlive, stdin, terminal } = options;
    const body = { ...programOf(command), ...environmentOf(options), name, keepAlive, stdin, terminal };
    const info = await this.transport.json("start_command", { path: { id: this.sandboxId }, body }, options);
    const connection = await AttachConnection.follow(this.transport, this.sandboxId, info, options);
    return new CommandHandle(connection, options);
  }

  /** Follows a background command: its output from an offset on, and then what comes. */
  async connect(command: CommandId, options: ConnectOptions = {}): Promise<CommandHandle> {
    const { offset, tailBytes } = options;
    const start = { offset, tailBytes };
    const { transport, sandboxId } = this;
    const connection = await AttachConnection.connect(transport, sandboxId, String(command), start, options);
    return new CommandHandle(connection, options);
  }

  /** Lists running commands, and ended ones that are kept, oldest first. */
  async list(options?: RequestOptions): Promise<CommandInfo[]> {
    return (await this.transport.json("list_commands", { path: { id: this.sandboxId } }, options)).commands;
  }

  /** Gets a background command. */
  get(command: CommandId, options?: RequestOptions): Promise<CommandInfo> {
    return this.transport.json("get_command", { path: this.path(command) }, options);
  }

  /** Reads a part of the output of a background command, at most 1 MiB. */
  async readOutput(command: CommandId, options: ReadOutputOptions = {}): Promise<OutputPart> {
    const { offset, stream, wait, ...rest } = options;
    const input = { path: this.path(command), query: { offset, stream, wait } };
    // The wait is beside the time of the call.
    const limits = { ...rest, defaultMs: REQUEST_TIMEOUT_MS + (wait ?? 0) * 1000 };
    return this.transport.bytes("read_command_output", input, limits, (data, headers) => ({
      data,
      nextOffset: Number(headers.get("wrenn-next-offset") ?? 0),
      dropped: Number(headers.get("wrenn-dropped") ?? 0),
      state: headers.get("wrenn-command-state") === "exited" ? "exited" : "running",
    }));
  }

  /** Sends a signal to the process group of a background command. */
  async sendSignal(command: CommandId, signal: ProcessSignal, options?: RequestOptions): Promise<void> {
    await this.transport.json("signal_command", { path: this.path(command), body: { signal } }, options);
  }

  /** Kills a background command; false if it is not there, or has ended. */
  kill(command: CommandId, options?: RequestOptions): Promise<boolean> {
    return killCommand(this.transport, this.path(command), options);
  }

  /** Writes to the standard input of a background command. */
  sendStdin(command: CommandId, data: string | Uint8Array, options?: RequestOptions): Promise<void> {
    return writeStdin(this.transport, this.path(command), toBytes(data), options);
  }

  /** Ends the standard input of a background command. */
  closeStdin(command: CommandId, options?: RequestOptions): Promise<void> {
    return closeStdin(this.transport, this.path(command), options);
  }

  private path(command: CommandId): { id: string; command: string } {
    return { id: this.sandboxId, command: String(command) };
  }
}

/** Sends all input. A command that ends before it has read it is no error. */
async function feed(handle: CommandHandle, input: string | Uint8Array | undefined): Promise<void> {
  if (input === undefined) {
    return;
  }
  try {
    await handle.sendStdin(input);
    await handle.closeStdin();
  } catch {
    // What became of the command, `wait` says.
  }
}

function withoutUndefined<T extends object>(object: T): T {
  return Object.fromEntries(Object.entries(object).filter(([, value]) => value !== undefined)) as T;
}

/** Returns program and arguments as the API has them. */
export function programOf(command: CommandLine): { cmd: string; args: string[] } {
  if (typeof command === "string") {
    return { cmd: "/bin/sh", args: ["-c", SHELL_SCRIPT, "sh", command] };
  }
  const [cmd, ...args] = command;
  return { cmd, args };
}

function environmentOf(options: CommandOptions): {
  envs?: Record<string, string>;
  cwd?: string;
  user?: string;
  timeout_sec?: number;
} {
  const { envs, cwd, user, timeoutMs } = options;
  return { envs, cwd, user, timeout_sec: timeoutMs ? Math.ceil(timeoutMs / 1000) : undefined };
}
