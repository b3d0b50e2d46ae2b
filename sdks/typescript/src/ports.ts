/** TCP connections to ports of a sandbox. */

import type { RequestOptions } from "./deadline.js";
import { ConnectionBrokenError } from "./errors.js";
import { MessageSocket } from "./socket.js";
import type { Transport } from "./transport.js";

/** Bytes of one frame. */
const MAX_FRAME = 64 * 1024;

/**
 * A TCP connection to a port, as a pair of streams. Closing `writable` ends its direction, as a half-closed connection does;
 * in Node `Duplex.fromWeb(connection)` makes a `Duplex` of it.
 */
export class PortConnection implements AsyncDisposable {
  readonly readable: ReadableStream<Uint8Array>;
  readonly writable: WritableStream<Uint8Array>;
  private ended = 0;
  private isClosed = false;

  private constructor(private readonly socket: MessageSocket) {
    this.readable = new ReadableStream<Uint8Array>(
      { pull: (controller) => this.pull(controller), cancel: () => this.close() },
      { highWaterMark: 0 },
    );
    this.writable = new WritableStream<Uint8Array>({
      write: (data) => this.write(data),
      close: async () => {
        await this.socket.send(new Uint8Array());
        this.endDirection();
      },
      abort: () => this.close(),
    });
  }

  /** @internal */
  static async open(
    transport: Transport,
    sandboxId: string,
    port: number,
    options: RequestOptions,
  ): Promise<PortConnection> {
    const input = { path: { id: sandboxId }, query: { port } };
    return new PortConnection(await MessageSocket.connect(transport, "tunnel", input, options));
  }

  private async pull(controller: ReadableStreamDefaultController<Uint8Array>): Promise<void> {
    for (;;) {
      const message = await this.socket.receive();
      if (typeof message === "string") {
        continue;
      }
      if (message === undefined && !this.isClosed) {
        throw new ConnectionBrokenError(
          "the connection to the port ended before its data: does a program listen there?",
        );
      }
      if (message === undefined || message.length === 0) {
        controller.close();
        this.endDirection();
      } else {
        controller.enqueue(message);
      }
      return;
    }
  }

  private async write(data: Uint8Array): Promise<void> {
    for (let start = 0; start < data.length; start += MAX_FRAME) {
      await this.socket.send(data.subarray(start, start + MAX_FRAME));
    }
  }

  private endDirection(): void {
    this.ended += 1;
    if (this.ended === 2) {
      this.socket.close();
    }
  }

  /** Closes the connection, both directions. */
  close(): void {
    this.isClosed = true;
    this.socket.close();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.close();
  }
}
