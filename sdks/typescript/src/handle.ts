/**
 * A running command: its output as an iterator, its input, its end.
 *
 * Output is read as it is asked for, so a reader that stops reading holds the command (`stream`) or loses the connection's
 * place, which it finds again (background). Callbacks, and `wait`, read on by themselves.
 */

import { concat, toBytes } from "./bytes.js";
import type { RequestOptions } from "./deadline.js";
import { CommandExitError, type CommandResult } from "./errors.js";
import type { ProcessSignal, TerminalSize } from "./models.js";

/** Bytes of output that was iterated over that are kept for the result of `wait`. */
const MAX_KEPT = 16 * 1024 * 1024;

/** A piece of output. */
export interface Output {
  stream: "stdout" | "stderr";
  data: Uint8Array;
  /** The same as text; a character that two pieces share stands in the second one. */
  text: string;
}

/** Called with output as it comes. What it returns is waited for. */
export type OutputCallback = (text: string, data: Uint8Array) => void | Promise<void>;

/** A piece as it comes from the server. */
export type RawOutput = Pick<Output, "stream" | "data">;

/** Where output comes from and input goes to. */
export interface CommandConnection {
  readonly pid: number;
  /** Id of a background command. */
  readonly id?: string;
  /** Waits for output; returns the exit code at the end. */
  next(): Promise<RawOutput | number>;
  sendSignal(signal: ProcessSignal, options?: RequestOptions): Promise<void>;
  kill(options?: RequestOptions): Promise<boolean>;
  sendStdin(data: Uint8Array, options?: RequestOptions): Promise<void>;
  closeStdin(options?: RequestOptions): Promise<void>;
  resize(size: TerminalSize, options?: RequestOptions): Promise<void>;
  disconnect(): void;
}

/** Returns a decoder that keeps byte order marks: what is written again is the same. */
function textDecoder(): TextDecoder {
  return new TextDecoder("utf-8", { ignoreBOM: true });
}

export interface WaitOptions {
  /** False to return the result whatever the exit code is. Default true: `CommandExitError` if it is not 0. */
  check?: boolean;
}

export interface OutputCallbacks {
  onStdout?: OutputCallback;
  onStderr?: OutputCallback;
}

/** A command that runs, in the background or as long as its connection. */
export class CommandHandle implements AsyncIterable<Output>, AsyncDisposable {
  private readonly decoders = { stdout: textDecoder(), stderr: textDecoder() };
  /** Output in the order in which it came, so that the oldest goes first. */
  private readonly collected: RawOutput[] = [];
  /** Bytes in `collected`. */
  private kept = 0;
  private isDraining = false;
  private code: number | undefined;
  private draining: Promise<void> | undefined;

  /** @internal */
  constructor(
    private readonly connection: CommandConnection,
    private readonly callbacks: OutputCallbacks = {},
  ) {
    if (callbacks.onStdout || callbacks.onStderr) {
      this.draining = this.drain();
      // Told by `wait`.
      this.draining.catch(() => {});
    }
  }

  /** Id of the process in the sandbox. */
  get pid(): number {
    return this.connection.pid;
  }

  /** Id of a background command, for `commands.connect`; absent of one that ends with its connection. */
  get id(): string | undefined {
    return this.connection.id;
  }

  /** Exit code; absent until the end was read. */
  get exitCode(): number | undefined {
    return this.code;
  }

  /** Waits for the next piece of output; `undefined` at the end. */
  async read(): Promise<Output | undefined> {
    while (this.code === undefined) {
      const next = await this.connection.next();
      if (typeof next === "number") {
        this.code = next;
        this.connection.disconnect();
        break;
      }
      if (next.data.length > 0) {
        const text = this.decoders[next.stream].decode(next.data, { stream: true });
        this.keep(next);
        return { ...next, text };
      }
    }
    return this.flush();
  }

  /** Returns what a character that broke off at the end became. */
  private flush(): Output | undefined {
    for (const stream of ["stdout", "stderr"] as const) {
      const text = this.decoders[stream].decode();
      if (text !== "") {
        return { stream, data: new Uint8Array(0), text };
      }
    }
    return undefined;
  }

  private keep(output: RawOutput): void {
    this.collected.push(output);
    this.kept += output.data.length;
    while (!this.isDraining && this.kept > MAX_KEPT && this.collected.length > 1) {
      this.kept -= this.collected.shift()!.data.length;
    }
  }

  private bytesOf(stream: Output["stream"]): Uint8Array {
    return concat(this.collected.filter((output) => output.stream === stream).map(({ data }) => data));
  }

  async *[Symbol.asyncIterator](): AsyncGenerator<Output, void, void> {
    for (;;) {
      const output = await this.read();
      if (output === undefined) {
        return;
      }
      yield output;
    }
  }

  /** Waits for the end. The result has all output; of more than 16 MiB that was iterated over, the last part. */
  async wait(options: WaitOptions = {}): Promise<CommandResult> {
    this.draining ??= this.drain();
    try {
      await this.draining;
    } catch (error) {
      // So that another call reads on, behind output that was lost.
      this.draining = undefined;
      throw error;
    }
    const stdoutBytes = this.bytesOf("stdout");
    const stderrBytes = this.bytesOf("stderr");
    const text = (bytes: Uint8Array): string => textDecoder().decode(bytes);
    const result = {
      exitCode: this.code!,
      stdout: text(stdoutBytes),
      stderr: text(stderrBytes),
      stdoutBytes,
      stderrBytes,
    };
    if (result.exitCode !== 0 && options.check !== false) {
      throw new CommandExitError(result);
    }
    return result;
  }

  private async drain(): Promise<void> {
    this.isDraining = true;
    for await (const { stream, data, text } of this) {
      await this.callbacks[stream === "stdout" ? "onStdout" : "onStderr"]?.(text, data);
    }
  }

  /** Sends a signal to its process group. */
  sendSignal(signal: ProcessSignal, options?: RequestOptions): Promise<void> {
    return this.connection.sendSignal(signal, options);
  }

  /** Kills its process group; false if it has ended. */
  async kill(options?: RequestOptions): Promise<boolean> {
    return this.code === undefined && this.connection.kill(options);
  }

  /** Writes to its standard input, or types into its terminal. */
  sendStdin(data: string | Uint8Array, options?: RequestOptions): Promise<void> {
    return this.connection.sendStdin(toBytes(data), options);
  }

  /** Ends its standard input. */
  closeStdin(options?: RequestOptions): Promise<void> {
    return this.connection.closeStdin(options);
  }

  /** Resizes its terminal. */
  resize(size: TerminalSize, options?: RequestOptions): Promise<void> {
    return this.connection.resize(size, options);
  }

  /** Hangs up. A background command runs on; one of `stream` is killed. */
  disconnect(): void {
    this.connection.disconnect();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.disconnect();
  }
}
