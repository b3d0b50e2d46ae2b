/**
 * WebSockets as calls that wait: messages are received one by one, and a sender waits while the other side does not read.
 *
 * What comes is queued up to a bound; behind it the connection is not read, so a slow reader slows the sender down. (Browsers
 * cannot stop to read, and queue everything.) The server sends a ping every 15 seconds: a connection on which nothing comes
 * for a minute while a message is waited for is broken.
 */

import { openSocket, runtime } from "#platform";
import { fromWire } from "./casing.js";
import type { RequestOptions } from "./deadline.js";
import { ApiError, ConnectionBrokenError, ProtocolError, UnreachableError } from "./errors.js";
import type { Operations } from "./generated/operations.js";
import { pauseBefore, USER_AGENT, type CallInput, type NetworkOptions, type Transport } from "./transport.js";

/** What happens on a socket. */
export interface SocketEvents {
  opened(): void;
  received(data: string | Uint8Array): void;
  /** A ping or pong came. */
  heard(): void;
  closed(): void;
  failed(error: Error): void;
}

/** A socket of the platform. */
export interface RawSocket {
  /** Resolves when the data is handed to the network. */
  send(data: string | Uint8Array): Promise<void>;
  pause(): void;
  resume(): void;
  close(): void;
  terminate(): void;
}

export type SocketFactory = (
  url: string,
  key: string,
  events: SocketEvents,
  options: { timeoutMs: number; headers: Record<string, string>; network: NetworkOptions },
) => RawSocket;

/** Bytes that are queued before the connection is not read any more. */
const MAX_QUEUED = 1024 * 1024;

/** Time without a frame after which a connection is broken. */
const SILENCE_MS = 60_000;

/** Time that the opening of a connection may take. */
const HANDSHAKE_MS = 30_000;

type Message = string | Uint8Array;

/** A WebSocket to a route of the API. */
export class MessageSocket {
  private readonly queue: Message[] = [];
  private queued = 0;
  private isPaused = false;
  private isOpen = false;
  private hasEnded = false;
  private failure: unknown;
  private wake: (() => void) | undefined;
  private lastHeard = Date.now();
  private raw!: RawSocket;
  private detach = (): void => {};

  private constructor(private readonly url: string) {}

  /** Connects to a route. Nothing is done on the server before the first frame, so a failure is tried again. */
  static async connect<N extends keyof Operations>(
    transport: Transport,
    name: N,
    input: CallInput<N>,
    options: RequestOptions,
  ): Promise<MessageSocket> {
    const deadline = transport.deadline(options);
    try {
      const url = await transport.url(name, input);
      url.protocol = url.protocol === "https:" ? "wss:" : "ws:";
      const { apiKey } = await transport.load();
      for (let attempt = 0; ; attempt += 1) {
        const socket = new MessageSocket(url.href);
        try {
          await socket.open(transport, apiKey, deadline.signal, options.signal);
          return socket;
        } catch (error) {
          const pause = pauseBefore(error, attempt, true);
          const retries = transport.options.retries ?? 3;
          if (pause === undefined || attempt >= retries || pause >= deadline.remainingMs) {
            throw error;
          }
          await deadline.sleep(pause);
        }
      }
    } finally {
      deadline.dispose();
    }
  }

  private async open(
    transport: Transport,
    key: string,
    opening: AbortSignal,
    whole: AbortSignal | undefined,
  ): Promise<void> {
    opening.throwIfAborted();
    this.raw = openSocket(this.url, key, this.events(), {
      timeoutMs: HANDSHAKE_MS,
      headers: { ...transport.options.headers, "user-agent": USER_AGENT },
      network: transport.network,
    });
    const abort = (signal: AbortSignal) => (): void => this.fail(signal.reason);
    const abortOpening = abort(opening);
    opening.addEventListener("abort", abortOpening, { once: true });
    try {
      while (!this.isOpen) {
        await this.changed();
        this.throwFailure();
        if (this.hasEnded) {
          throw new UnreachableError(`no WebSocket to ${new URL(this.url).host}: it was closed at once`);
        }
      }
    } finally {
      opening.removeEventListener("abort", abortOpening);
    }
    if (whole) {
      const abortWhole = abort(whole);
      whole.addEventListener("abort", abortWhole, { once: true });
      this.detach = () => whole.removeEventListener("abort", abortWhole);
    }
  }

  private events(): SocketEvents {
    const changed = (): void => {
      this.lastHeard = Date.now();
      this.wake?.();
    };
    return {
      opened: () => {
        this.isOpen = true;
        changed();
      },
      received: (data) => {
        this.queue.push(data);
        this.queued += data.length;
        if (this.queued > MAX_QUEUED && !this.isPaused) {
          this.isPaused = true;
          this.raw.pause();
        }
        changed();
      },
      heard: changed,
      closed: () => {
        this.hasEnded = true;
        this.detach();
        changed();
      },
      failed: (error) => this.fail(this.describe(error)),
    };
  }

  private describe(cause: Error): Error {
    const host = new URL(this.url).host;
    if (cause instanceof ApiError || cause instanceof ProtocolError) {
      return cause;
    }
    return this.isOpen
      ? new ConnectionBrokenError(`the connection to ${host} broke: ${cause.message}`, { cause })
      : new UnreachableError(`no WebSocket to ${host}: ${cause.message}; is the server running?`, { cause });
  }

  /** Ends the connection with an error, for the call that waits. */
  fail(error: unknown): void {
    this.failure ??= error ?? new ConnectionBrokenError("the connection was given up");
    this.hasEnded = true;
    this.detach();
    this.raw?.terminate();
    this.wake?.();
  }

  private throwFailure(): void {
    if (this.failure !== undefined) {
      throw this.failure;
    }
  }

  private async changed(): Promise<void> {
    await new Promise<void>((resolve) => {
      this.wake = resolve;
    });
    this.wake = undefined;
  }

  /** Waits for the next message; `undefined` when the connection was closed. */
  async receive(): Promise<Message | undefined> {
    while (this.queue.length === 0) {
      this.throwFailure();
      if (this.hasEnded) {
        return undefined;
      }
      await this.changedOrSilent();
    }
    const message = this.queue.shift()!;
    this.queued -= message.length;
    if (this.isPaused && this.queued < MAX_QUEUED / 2) {
      this.isPaused = false;
      this.raw.resume();
    }
    return message;
  }

  private async changedOrSilent(): Promise<void> {
    // Browsers show no pings to a page.
    if (runtime === "browser") {
      return this.changed();
    }
    this.lastHeard = Date.now();
    const look = (): void => {
      if (Date.now() - this.lastHeard >= SILENCE_MS) {
        this.fail(new ConnectionBrokenError(`nothing came from the server for ${SILENCE_MS / 1000} s`));
      }
    };
    const timer = setInterval(look, SILENCE_MS / 4);
    try {
      await this.changed();
    } finally {
      clearInterval(timer);
    }
  }

  /** Waits for the next message, which is a JSON object with a `type`. */
  async receiveJson<T extends { type: string }>(): Promise<T> {
    const message = await this.receive();
    if (message === undefined) {
      throw new ConnectionBrokenError(
        "the stream ended before its last message: the sandbox stopped, or the server did",
      );
    }
    try {
      if (typeof message === "string") {
        return fromWire(JSON.parse(message)) as T;
      }
    } catch {
      // Told below.
    }
    throw new ProtocolError("a message that is no JSON; are client and server of the same version?");
  }

  /** Sends a message. Waits while the other side does not read. */
  async send(message: Message): Promise<void> {
    this.throwFailure();
    if (this.hasEnded) {
      throw new ConnectionBrokenError("the connection is closed");
    }
    try {
      await this.raw.send(message);
    } catch (error) {
      this.throwFailure();
      throw this.describe(error as Error);
    }
  }

  /** Closes the connection in order. */
  close(): void {
    this.hasEnded = true;
    this.detach();
    this.raw.close();
    this.wake?.();
  }

  /** Drops the connection. */
  terminate(): void {
    this.hasEnded = true;
    this.detach();
    this.raw.terminate();
    this.wake?.();
  }
}
