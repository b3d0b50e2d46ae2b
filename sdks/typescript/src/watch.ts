/** Changes of a directory, matches of a search, and results of a comparison, as they come. */

import { iterate, linesOf } from "./bytes.js";
import { fromWire, type Received } from "./casing.js";
import type { RequestOptions } from "./deadline.js";
import { ConnectionBrokenError } from "./errors.js";
import { createApiError } from "./answers.js";
import type { DiffSummary, FileDiff, Schemas, SearchMatch, SearchSummary, WatchEvent } from "./models.js";
import { MessageSocket } from "./socket.js";
import { failureOf, parseJson, type OpenAnswer, type Transport } from "./transport.js";

type ServerMessage = Received<Schemas["WatchServerMessage"]>;

/** Changes of a directory: every one since `watchDir` returned, in order. */
export class DirectoryWatch implements AsyncIterable<WatchEvent>, AsyncDisposable {
  private hasEnded = false;

  private constructor(private readonly socket: MessageSocket) {}

  /** @internal */
  static async start(
    transport: Transport,
    sandboxId: string,
    query: { path: string; recursive?: boolean; user?: string },
    options: RequestOptions,
  ): Promise<DirectoryWatch> {
    const socket = await MessageSocket.connect(transport, "watch_files", { path: { id: sandboxId }, query }, options);
    try {
      const first = await socket.receiveJson<ServerMessage>();
      if (first.type === "error") {
        throw errorOf(first);
      }
    } catch (error) {
      socket.terminate();
      throw error;
    }
    return new DirectoryWatch(socket);
  }

  /** Waits for the next change; `undefined` when the watch was closed, or the directory is gone. */
  async read(): Promise<WatchEvent | undefined> {
    if (this.hasEnded) {
      return undefined;
    }
    let message: ServerMessage;
    try {
      message = await this.socket.receiveJson<ServerMessage>();
    } catch (error) {
      if (this.hasEnded) {
        return undefined;
      }
      throw error;
    }
    if (message.type === "ended" || message.type === "error") {
      this.close();
      if (message.type === "error") {
        throw errorOf(message);
      }
      return undefined;
    }
    return message.type === "started" ? this.read() : message;
  }

  async *[Symbol.asyncIterator](): AsyncGenerator<WatchEvent, void, void> {
    for (;;) {
      const event = await this.read();
      if (event === undefined) {
        return;
      }
      yield event;
    }
  }

  /** Ends the watch. */
  close(): void {
    this.hasEnded = true;
    this.socket.close();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.close();
  }
}

function errorOf(message: Extract<ServerMessage, { type: "error" }>): Error {
  return createApiError(message.data, { status: 0, code: message.code as Schemas["ErrorDetail"]["code"] });
}

/** Iterates over the JSON lines of an answer. */
export async function* jsonLines<T>(answer: OpenAnswer): AsyncGenerator<Received<T>, void, void> {
  try {
    for await (const line of linesOf(iterate(answer.response.body!))) {
      if (line !== "") {
        yield fromWire(parseJson(line) as T);
      }
    }
  } catch (error) {
    throw failureOf(error, answer);
  } finally {
    answer.release();
  }
}

/** Matches of a search, as they are found. */
export class FileSearch implements AsyncIterable<SearchMatch>, AsyncDisposable {
  private end: SearchSummary | undefined;

  /** @internal */
  constructor(private readonly answer: OpenAnswer) {}

  /** What was searched, and why there may be more matches; absent until all matches were read. */
  get summary(): SearchSummary | undefined {
    return this.end;
  }

  async *[Symbol.asyncIterator](): AsyncGenerator<SearchMatch, void, void> {
    for await (const message of jsonLines<Schemas["SearchMessage"]>(this.answer)) {
      if (message.type === "end") {
        this.end = message;
        return;
      }
      yield message;
    }
    throw new ConnectionBrokenError("the search broke off: there may be more matches");
  }

  /** Ends the search. One that is iterated over to its end needs no call. */
  close(): Promise<void> {
    return closeAnswer(this.answer);
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }
}

/** Files that differ at two moments, in the order of their paths. */
export class SandboxDiff implements AsyncIterable<FileDiff>, AsyncDisposable {
  private found: DiffSummary | undefined;

  /** @internal */
  constructor(private readonly answer: OpenAnswer) {}

  /** What was compared, and why there may be more changes; absent until all changes were read. */
  get summary(): DiffSummary | undefined {
    return this.found;
  }

  async *[Symbol.asyncIterator](): AsyncGenerator<FileDiff, void, void> {
    let start = { from: "" };
    for await (const message of jsonLines<Schemas["DiffMessage"]>(this.answer)) {
      if (message.type === "start") {
        start = message;
      } else if (message.type === "end") {
        const { type: _type, ...summary } = { ...start, ...message };
        this.found = summary;
        return;
      } else {
        const { type: _type, ...change } = message;
        yield change;
      }
    }
    throw new ConnectionBrokenError("the comparison broke off: there may be more changes");
  }

  /** Ends the comparison. One that is iterated over to its end needs no call. */
  close(): Promise<void> {
    return closeAnswer(this.answer);
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }
}

async function closeAnswer(answer: OpenAnswer): Promise<void> {
  answer.release();
  const { body } = answer.response;
  if (body && !body.locked) {
    await body.cancel();
  }
}
