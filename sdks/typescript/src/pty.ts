/** Terminals of a sandbox: background commands that outlive their connections. */

import type { RequestOptions } from "./deadline.js";
import type { CommandId, Commands } from "./commands.js";
import type { CommandHandle, OutputCallback } from "./handle.js";
import type { TerminalSize } from "./models.js";
import type { Transport } from "./transport.js";
import type { OutputStart } from "./attach.js";

/** Runs an interactive login shell: bash where the sandbox has it. */
const SHELL_SCRIPT = "if command -v bash >/dev/null 2>&1; then exec bash -i -l; else exec sh -i -l; fi";

export interface PtyOptions extends TerminalSize, RequestOptions {
  /** Program and arguments. Default: a login shell. */
  command?: readonly [program: string, ...args: string[]];
  /** Milliseconds until it is ended. Default: no limit. */
  timeoutMs?: number;
  envs?: Record<string, string>;
  cwd?: string;
  user?: string;
  name?: string;
  /** True if the sandbox counts as used for as long as the command runs. */
  keepAlive?: boolean;
  /** Called with output as it comes. */
  onData?: (data: Uint8Array) => void | Promise<void>;
}

export interface PtyConnectOptions extends RequestOptions, OutputStart {
  onData?: (data: Uint8Array) => void | Promise<void>;
}

/** Terminals of one sandbox: `sandbox.pty`. */
export class Pty {
  /** @internal */
  constructor(
    private readonly transport: Transport,
    private readonly sandboxId: string,
    private readonly commands: Commands,
  ) {}

  /** Starts a shell, or another command, on a terminal. Its output all comes as `stdout`. */
  create(options: PtyOptions): Promise<CommandHandle> {
    const { cols, rows, command, onData, envs, ...rest } = options;
    return this.commands.run(command ?? ["/bin/sh", "-c", SHELL_SCRIPT], {
      ...rest,
      envs: { TERM: "xterm-256color", LANG: "C.UTF-8", LC_ALL: "C.UTF-8", ...envs },
      terminal: { cols, rows },
      background: true,
      onStdout: dataCallback(onData),
    });
  }

  /** Follows a terminal again, from an offset or from so many bytes before its end. */
  connect(id: CommandId, options: PtyConnectOptions = {}): Promise<CommandHandle> {
    const { onData, ...rest } = options;
    return this.commands.connect(id, { ...rest, onStdout: dataCallback(onData) });
  }

  /** Resizes a terminal. */
  async resize(id: CommandId, size: TerminalSize, options?: RequestOptions): Promise<void> {
    const path = { id: this.sandboxId, command: String(id) };
    await this.transport.json("resize_command", { path, body: size }, options);
  }

  /** Types into a terminal. */
  sendInput(id: CommandId, data: string | Uint8Array, options?: RequestOptions): Promise<void> {
    return this.commands.sendStdin(id, data, options);
  }

  /** Kills what runs on a terminal; false if it is not there, or has ended. */
  kill(id: CommandId, options?: RequestOptions): Promise<boolean> {
    return this.commands.kill(id, options);
  }
}

function dataCallback(onData: PtyOptions["onData"]): OutputCallback | undefined {
  return onData && ((_text, data) => onData(data));
}
