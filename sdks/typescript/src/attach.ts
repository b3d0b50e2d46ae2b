/**
 * Background commands: output from any offset, over as many connections as it takes.
 *
 * A connection that breaks is made again at the offset behind the last frame, until there was no answer for too long. What is no longer kept there is an `OutputLostError`; reading goes on behind it.
 */

import { fromBase64 } from "./bytes.js";
import type { Received } from "./casing.js";
import type { RequestOptions } from "./deadline.js";
import { ConnectionBrokenError, NotFoundError, OutputLostError } from "./errors.js";
import { createApiError } from "./answers.js";
import type { CommandConnection, RawOutput } from "./handle.js";
import type { CommandInfo, ProcessSignal, Schemas, TerminalSize } from "./models.js";
import { isTransient, isTransientAnswer, Patience } from "./patience.js";
import { MessageSocket } from "./socket.js";
import type { Transport } from "./transport.js";

type ServerMessage = Received<Schemas["AttachServerMessage"]>;

/** Bytes of input in one request, of which the server takes 1 MiB. */
const MAX_INPUT = 512 * 1024;

/** Where to begin to read. */
export interface OutputStart {
  /** Offset of the first byte. Default 0: all that is kept. */
  offset?: number;
  /** Instead of `offset`: begin so many bytes before the end. */
  tailBytes?: number;
}

/** A background command that output is read of. */
export class AttachConnection implements CommandConnection {
  private socket: MessageSocket | undefined;
  private hasLeft = false;
  /** Offset behind the last byte that was read; absent before the first frame. */
  private offset: number | undefined;
  private readonly patience: Patience;

  private constructor(
    private readonly transport: Transport,
    private readonly sandboxId: string,
    private readonly start: OutputStart,
    private readonly options: RequestOptions,
    private info: Pick<CommandInfo, "id" | "pid">,
  ) {
    this.patience = new Patience(transport, options.signal);
  }

  /** Attaches to a command, by id, name or pid. */
  static async connect(
    transport: Transport,
    sandboxId: string,
    command: string,
    start: OutputStart,
    options: RequestOptions,
  ): Promise<AttachConnection> {
    const connection = new AttachConnection(transport, sandboxId, start, options, { id: command, pid: 0 });
    await connection.attach();
    return connection;
  }

  /**
   * Attaches to a command that was started. If no connection can be made now, `next` makes one: the command runs, and its
   * id must not be lost.
   */
  static async follow(
    transport: Transport,
    sandboxId: string,
    info: Pick<CommandInfo, "id" | "pid">,
    options: RequestOptions,
  ): Promise<AttachConnection> {
    const connection = new AttachConnection(transport, sandboxId, {}, options, info);
    await connection.attach().catch(() => {});
    return connection;
  }

  get id(): string {
    return this.info.id;
  }

  get pid(): number {
    return this.info.pid;
  }

  private async attach(): Promise<MessageSocket> {
    const from = this.offset === undefined ? this.start : { offset: this.offset };
    const input = {
      path: { id: this.sandboxId, command: this.info.id },
      query: { encoding: "base64" as const, ...from },
    };
    const socket = await MessageSocket.connect(this.transport, "attach_command", input, this.options);
    try {
      const first = await socket.receiveJson<ServerMessage>();
      if (first.type === "error") {
        throw errorOf(first);
      }
      if (first.type === "attached") {
        this.info = { id: first.command.id, pid: first.command.pid };
      }
      if (this.hasLeft) {
        throw new ConnectionBrokenError("the handle was disconnected");
      }
    } catch (error) {
      socket.terminate();
      throw error;
    }
    this.patience.connected();
    this.socket = socket;
    return socket;
  }

  async next(): Promise<RawOutput | number> {
    for (;;) {
      let mayGoOn = isTransientAnswer;
      try {
        const socket = this.socket ?? (await this.attach());
        // A refusal behind the first frame is what became of the command.
        mayGoOn = isTransient;
        const next = await this.nextOf(socket);
        this.patience.progressed();
        return next;
      } catch (error) {
        if (this.hasLeft || !mayGoOn(error)) {
          throw error;
        }
        this.socket?.terminate();
        this.socket = undefined;
        await this.patience.wait(error);
      }
    }
  }

  private async nextOf(socket: MessageSocket): Promise<RawOutput | number> {
    for (;;) {
      const message = await socket.receiveJson<ServerMessage>();
      switch (message.type) {
        case "stdout":
        case "stderr":
          this.offset = message.nextOffset;
          return { stream: message.type, data: fromBase64(message.data) };
        case "dropped":
          this.offset = message.nextOffset;
          this.patience.progressed();
          throw new OutputLostError(message.bytes);
        case "exit":
          return message.exitCode;
        case "error":
          throw errorOf(message);
        default:
      }
    }
  }

  private get path(): { id: string; command: string } {
    return { id: this.sandboxId, command: this.info.id };
  }

  async sendSignal(signal: ProcessSignal, options?: RequestOptions): Promise<void> {
    await this.transport.json("signal_command", { path: this.path, body: { signal } }, options);
  }

  kill(options?: RequestOptions): Promise<boolean> {
    return killCommand(this.transport, this.path, options);
  }

  sendStdin(data: Uint8Array, options?: RequestOptions): Promise<void> {
    return writeStdin(this.transport, this.path, data, options);
  }

  closeStdin(options?: RequestOptions): Promise<void> {
    return closeStdin(this.transport, this.path, options);
  }

  async resize(size: TerminalSize, options?: RequestOptions): Promise<void> {
    await this.transport.json("resize_command", { path: this.path, body: size }, options);
  }

  disconnect(): void {
    this.hasLeft = true;
    this.socket?.close();
  }
}

type CommandPath = { id: string; command: string };

/** Kills a command; false if it is not there, or has ended. */
export async function killCommand(transport: Transport, path: CommandPath, options?: RequestOptions): Promise<boolean> {
  try {
    await transport.json("signal_command", { path, body: { signal: "SIGKILL" } }, options);
    return true;
  } catch (error) {
    if (error instanceof NotFoundError) {
      return false;
    }
    throw error;
  }
}

/** Writes to the standard input or the terminal of a command. */
export async function writeStdin(
  transport: Transport,
  path: CommandPath,
  data: Uint8Array,
  options?: RequestOptions,
): Promise<void> {
  for (let start = 0; start < data.length; start += MAX_INPUT) {
    await sendInput(transport, path, data.subarray(start, start + MAX_INPUT), false, options);
  }
}

/** Ends the standard input of a command. */
export function closeStdin(transport: Transport, path: CommandPath, options?: RequestOptions): Promise<void> {
  return sendInput(transport, path, new Uint8Array(), true, options);
}

async function sendInput(
  transport: Transport,
  path: CommandPath,
  data: Uint8Array,
  close: boolean,
  options?: RequestOptions,
): Promise<void> {
  const raw = {
    make: () => data as Uint8Array<ArrayBuffer>,
    contentType: "application/octet-stream",
    repeatable: true,
  };
  await transport.json("write_command_stdin", { path, query: close ? { close } : {}, raw }, options);
}

function errorOf(message: Extract<ServerMessage, { type: "error" }>): Error {
  return createApiError(message.data, { status: 0, code: message.code as Schemas["ErrorDetail"]["code"] });
}
