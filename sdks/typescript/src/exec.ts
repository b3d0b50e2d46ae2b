/** Commands that end with their connection: one WebSocket each, over which input goes and output comes. */

import { fromBase64, toBase64 } from "./bytes.js";
import { toWire, type Received } from "./casing.js";
import type { RequestOptions } from "./deadline.js";
import { NotFoundError } from "./errors.js";
import { createApiError } from "./answers.js";
import type { CommandConnection, RawOutput } from "./handle.js";
import type { ProcessSignal, Schemas, TerminalSize } from "./models.js";
import { MessageSocket } from "./socket.js";
import type { Transport } from "./transport.js";

type ServerMessage = Received<Schemas["ExecServerMessage"]>;
type ClientMessage = Schemas["ExecClientMessage"];
type StartMessage = Extract<ClientMessage, { type: "start" }>;

/** Bytes of input in one frame; small enough that no limit of the server is near. */
const MAX_INPUT = 32 * 1024;

/** A command on a connection of its own. */
export class ExecConnection implements CommandConnection {
  private hasExited = false;

  private constructor(
    private readonly transport: Transport,
    private readonly sandboxId: string,
    private readonly socket: MessageSocket,
    readonly pid: number,
  ) {}

  /** Starts a command and waits until it runs. */
  static async start(
    transport: Transport,
    sandboxId: string,
    start: Omit<StartMessage, "type" | "encoding">,
    options: RequestOptions,
  ): Promise<ExecConnection> {
    const socket = await MessageSocket.connect(transport, "exec_stream", { path: { id: sandboxId } }, options);
    const deadline = transport.deadline(options);
    const onAbort = (): void => socket.fail(deadline.signal.reason);
    deadline.signal.addEventListener("abort", onAbort, { once: true });
    try {
      await socket.send(JSON.stringify({ ...start, type: "start", encoding: "base64" } satisfies StartMessage));
      const first = await socket.receiveJson<ServerMessage>();
      if (first.type === "error") {
        throw errorOf(first);
      }
      return new ExecConnection(transport, sandboxId, socket, first.type === "start" ? first.pid : 0);
    } catch (error) {
      socket.terminate();
      throw error;
    } finally {
      deadline.signal.removeEventListener("abort", onAbort);
      deadline.dispose();
    }
  }

  async next(): Promise<RawOutput | number> {
    for (;;) {
      const message = await this.socket.receiveJson<ServerMessage>();
      switch (message.type) {
        case "stdout":
        case "stderr":
          return { stream: message.type, data: fromBase64(message.data) };
        case "exit":
          this.hasExited = true;
          return message.exitCode;
        case "error":
          this.socket.close();
          throw errorOf(message);
        default:
      }
    }
  }

  /** Sends a signal, past all input that the command has not read. */
  async sendSignal(signal: ProcessSignal, options?: RequestOptions): Promise<void> {
    const body = { pid: this.pid, signal };
    await this.transport.json("signal_exec", { path: { id: this.sandboxId }, body }, options);
  }

  async kill(options?: RequestOptions): Promise<boolean> {
    try {
      await this.sendSignal("SIGKILL", options);
      return true;
    } catch (error) {
      if (error instanceof NotFoundError) {
        return false;
      }
      throw error;
    }
  }

  async sendStdin(data: Uint8Array): Promise<void> {
    for (let start = 0; start < data.length; start += MAX_INPUT) {
      await this.send({ type: "stdin", data: toBase64(data.subarray(start, start + MAX_INPUT)), encoding: "base64" });
    }
  }

  closeStdin(): Promise<void> {
    return this.send({ type: "stdin_close" });
  }

  resize(size: TerminalSize): Promise<void> {
    return this.send({ type: "resize", size });
  }

  disconnect(): void {
    if (this.hasExited) {
      this.socket.close();
    } else {
      // A closing frame would wait behind input that the command does not read.
      this.socket.terminate();
    }
  }

  private send(message: ClientMessage): Promise<void> {
    return this.socket.send(JSON.stringify(toWire(message)));
  }
}

function errorOf(message: Extract<ServerMessage, { type: "error" }>): Error {
  const { code, data, exitCode } = message;
  return createApiError(data, { status: 0, code: code as Schemas["ErrorDetail"]["code"], exitCode });
}
