/** Events: pages of the history, and the stream of what happens. */

import { iterate, linesOf } from "./bytes.js";
import { fromWire } from "./casing.js";
import type { RequestOptions } from "./deadline.js";
import { ConnectionBrokenError } from "./errors.js";
import { createApiError } from "./answers.js";
import type { EventInfo, Schemas } from "./models.js";
import { isTransientAnswer, Patience } from "./patience.js";
import { failureOf, parseJson, type OpenAnswer, type Transport } from "./transport.js";

export interface EventFilter {
  /** `cursor` of an event: what comes behind it. */
  cursor?: string;
  /** Types, such as `sandbox.*`. */
  type?: string | readonly string[];
  /** Id of a sandbox. */
  sandbox?: string;
  /** Time of the oldest one. */
  since?: string | Date;
}

/** Entries of a page. */
const PAGE = 1000;

/** Time without a byte after which a stream is broken: the server sends every 15 seconds. */
const SILENCE_MS = 60_000;

/** Events of the team: `client.events`. */
export class Events {
  /** @internal */
  constructor(private readonly transport: Transport) {}

  /** Lists events, oldest first, page after page. */
  async *list(options: EventFilter & { limit?: number } & RequestOptions = {}): AsyncGenerator<EventInfo, void, void> {
    const { limit = Number.POSITIVE_INFINITY, signal, requestTimeoutMs, ...filter } = options;
    const query = queryOf(filter);
    for (let left = limit; left > 0;) {
      const size = Math.min(PAGE, left);
      const input = { query: { ...query, limit: size } };
      const page = await this.transport.jsonPage("list_events", input, { signal, requestTimeoutMs });
      yield* page.value;
      left -= page.value.length;
      query.cursor = page.headers.get("x-next-cursor") ?? undefined;
      if (page.value.length < size || !query.cursor) {
        return;
      }
    }
  }

  /** Follows events: those behind `cursor`, or all that happen after this call has returned. */
  stream(options: EventFilter & RequestOptions = {}): Promise<EventStream> {
    return EventStream.open(this.transport, options);
  }
}

/** Events as they come, over as many connections as it takes; none is missed. */
export class EventStream implements AsyncIterable<EventInfo>, AsyncDisposable {
  private lines: AsyncGenerator<string, void, void> | undefined;
  private release = (): void => {};
  private last: string | undefined;
  private hasEnded = false;
  private readonly controller = new AbortController();
  private readonly patience: Patience;
  private readonly silenceMs: number = SILENCE_MS;
  private readonly onAbort = (): void => this.controller.abort(this.options.signal?.reason);

  private constructor(
    private readonly transport: Transport,
    private readonly options: EventFilter & RequestOptions,
  ) {
    this.last = options.cursor;
    this.patience = new Patience(transport, this.controller.signal);
    options.signal?.addEventListener("abort", this.onAbort, { once: true });
    if (options.signal?.aborted) {
      this.onAbort();
    }
  }

  /** @internal */
  static async open(transport: Transport, options: EventFilter & RequestOptions): Promise<EventStream> {
    const stream = new EventStream(transport, options);
    try {
      await stream.connect();
    } catch (error) {
      stream.close();
      throw error;
    }
    return stream;
  }

  /** Cursor up to which all has come, for another stream; absent before the first message of the server. */
  get cursor(): string | undefined {
    return this.last;
  }

  private async connect(): Promise<void> {
    const { cursor: _cursor, signal: _signal, requestTimeoutMs, ...filter } = this.options;
    const query = queryOf(filter);
    if (this.last !== undefined) {
      delete query.since;
    }
    const headers: Record<string, string> = this.last === undefined ? {} : { "last-event-id": this.last };
    const options = { signal: this.controller.signal, requestTimeoutMs };
    const { silenceMs: stallMs } = this;
    const answer = await this.transport.open("stream_events", { query, headers, stallMs }, options);
    this.lines = linesWithErrors(answer);
    this.release = answer.release;
  }

  /** Waits for the next event; `undefined` when the stream was closed. */
  async read(): Promise<EventInfo | undefined> {
    while (!this.hasEnded) {
      try {
        if (!this.lines) {
          await this.connect();
        }
        const event = await this.readEvent(this.lines!);
        this.patience.progressed();
        return event;
      } catch (error) {
        this.drop();
        if (!this.hasEnded && !isTransientAnswer(error)) {
          throw error;
        }
        await this.pause(error);
      }
    }
    return undefined;
  }

  private async pause(failure: unknown): Promise<void> {
    try {
      await this.patience.wait(failure);
    } catch (error) {
      if (!this.hasEnded) {
        throw error;
      }
    }
  }

  /** Ends the connection. */
  private drop(): void {
    // Where the answer broke off there is nothing to cancel.
    this.lines?.return().catch(() => {});
    this.lines = undefined;
    this.release();
  }

  /** Reads one event by the rules of server-sent events. */
  private async readEvent(lines: AsyncGenerator<string, void, void>): Promise<EventInfo> {
    let type = "";
    let data = "";
    let id: string | undefined;
    for (;;) {
      const { done, value } = await lines.next();
      if (done) {
        // A server that ends in order: another one goes on.
        throw new ConnectionBrokenError("the stream of events ended");
      }
      this.patience.connected();
      const line = value.replace(/\r$/, "");
      if (line !== "") {
        const [, field, text] = /^([^:]*):? ?(.*)$/.exec(line)!;
        if (field === "event") {
          type = text!;
        } else if (field === "data") {
          data += text;
        } else if (field === "id") {
          id = text;
        }
        continue;
      }
      // Only now: an event that breaks off is asked for again.
      this.last = id ?? this.last;
      if (data !== "" && type === "error") {
        const { code, message } = (parseJson(data) as Schemas["ErrorBody"]).error;
        throw createApiError(message, { status: 0, code });
      } else if (data !== "") {
        return fromWire(parseJson(data) as Schemas["Event"]);
      }
    }
  }

  async *[Symbol.asyncIterator](): AsyncGenerator<EventInfo, void, void> {
    for (;;) {
      const event = await this.read();
      if (event === undefined) {
        return;
      }
      yield event;
    }
  }

  /** Ends the stream. */
  close(): void {
    this.hasEnded = true;
    this.options.signal?.removeEventListener("abort", this.onAbort);
    this.controller.abort();
    this.release();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.close();
  }
}

async function* linesWithErrors(answer: OpenAnswer): AsyncGenerator<string, void, void> {
  try {
    yield* linesOf(iterate(answer.response.body!));
  } catch (error) {
    throw failureOf(error, answer);
  }
}

function queryOf(filter: EventFilter): { cursor?: string; type?: string; sandbox?: string; since?: string } {
  const { cursor, type, sandbox, since } = filter;
  return {
    cursor,
    type: typeof type === "object" ? type.join(",") : type,
    sandbox,
    since: since instanceof Date ? since.toISOString() : since,
  };
}
