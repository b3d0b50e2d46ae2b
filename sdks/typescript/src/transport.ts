/**
 * Requests to the server: addresses, key, retries, and the only place that turns answers into errors.
 *
 * A request is sent again when nothing was done, or when doing it twice is the same as once: `sdks/README.md` has the
 * rules, which are those of all SDKs. A body that is a stream is never sent twice.
 */

import { platformFetch } from "#platform";
import { fromWire, toWire, type Received } from "./casing.js";
import { Deadline, type RequestOptions } from "./deadline.js";
import {
  ApiError,
  ConnectionBrokenError,
  InvalidRequestError,
  NotFoundError,
  ProtocolError,
  UnreachableError,
  WrennError,
} from "./errors.js";
import { errorFromAnswer } from "./answers.js";
import { ROUTES, type Operations } from "./generated/operations.js";
import { loadSettings, type Settings } from "./settings.js";
import { VERSION } from "./version.js";

/** How a client reaches its server. Every option has a default. */
export interface ClientOptions {
  /** Address of the server. Default: `WRENN_API_URL`, else the credentials file, else `http://127.0.0.1:8000`. */
  apiUrl?: string;
  /** Key. Default: `WRENN_API_KEY`, else the credentials file. */
  apiKey?: string;
  /**
   * Milliseconds that a call may take, with its retries, unless the call says otherwise; 0: no limit. Default 60 s, five
   * minutes for calls that save, copy or start a machine, and no limit for those that carry data of any size.
   */
  requestTimeoutMs?: number;
  /** Times that a request is sent again. Default 3. */
  retries?: number;
  /** Header fields that go with each request and WebSocket, such as `traceparent`. Not in browsers' WebSockets. */
  headers?: Record<string, string>;
  /**
   * Address of a proxy for requests and WebSockets. Default: `HTTPS_PROXY` or `HTTP_PROXY`, by the scheme of the server,
   * unless `NO_PROXY` has its host; none for addresses of this machine.
   */
  proxy?: string;
  /** Certificates in PEM that are trusted instead of the known authorities. */
  ca?: string;
  /** Replacement of what sends requests; WebSockets do not use it. */
  fetch?: typeof fetch;
}

/** How connections are made, outside of browsers. */
export type NetworkOptions = Pick<ClientOptions, "proxy" | "ca">;

/** Default time of a call. */
export const REQUEST_TIMEOUT_MS = 60_000;

/** Time without progress after which a call that carries data of any size is given up. */
export const STALL_MS = 300_000;

/** Default time of calls that save, copy or start a machine, unless the client has a time of its own. */
export const LONG_REQUEST_TIMEOUT_MS = 300_000;

/** Pause before the first retry; it doubles with each, and is up to a quarter longer by chance. */
const FIRST_PAUSE_MS = 200;

const DEFAULT_RETRIES = 3;

/** Bytes of an error body that are read; an error of the API is far smaller. */
const MAX_ERROR_BODY = 64 * 1024;

/** Operations by POST and PATCH that change nothing, or the same when they are done twice. */
const REPEATABLE: ReadonlySet<keyof Operations> = new Set<keyof Operations>([
  "change_mode",
  "change_owner",
  "create_port_link",
  "keep_sandbox_alive",
  "list_files",
  "pause_sandbox",
  "ping_sandbox",
  "read_file",
  "resume_sandbox",
  "search_files",
  "stat_file",
  "stream_read_file",
]);

const REPEATABLE_METHODS = new Set(["GET", "HEAD", "PUT", "DELETE"]);

/** Causes of `fetch` in Node, Deno and Bun that say that no connection was made. */
const UNSENT = new Set([
  "ECONNREFUSED",
  "ENOTFOUND",
  "EAI_AGAIN",
  "EHOSTUNREACH",
  "ENETUNREACH",
  "UND_ERR_CONNECT_TIMEOUT",
  "ConnectionRefused",
  "FailedToOpenSocket",
  // Certificates: they are checked before a request is sent.
  "CERT_CHAIN_TOO_LONG",
  "CERT_HAS_EXPIRED",
  "CERT_NOT_YET_VALID",
  "CERT_REJECTED",
  "CERT_REVOKED",
  "CERT_SIGNATURE_FAILURE",
  "CERT_UNTRUSTED",
  "DEPTH_ZERO_SELF_SIGNED_CERT",
  "ERR_SSL_WRONG_VERSION_NUMBER",
  "ERR_TLS_CERT_ALTNAME_INVALID",
  "HOSTNAME_MISMATCH",
  "INVALID_CA",
  "INVALID_PURPOSE",
  "PATH_LENGTH_EXCEEDED",
  "SELF_SIGNED_CERT_IN_CHAIN",
  "UNABLE_TO_GET_ISSUER_CERT",
  "UNABLE_TO_GET_ISSUER_CERT_LOCALLY",
  "UNABLE_TO_VERIFY_LEAF_SIGNATURE",
]);

type Name = keyof Operations;

/** Whatever `fetch` can send, and the length of it where it is known. */
export interface RawBody {
  /** Makes the body anew for each attempt; `undefined` where it can be sent once only. */
  make: () => BodyInit;
  contentType?: string;
  repeatable: boolean;
  /** Error of the stream of the caller that is sent. */
  failure?: { error: unknown };
}

/** An answer whose body is still to come. */
export interface OpenAnswer {
  response: Response;
  /** Address that was asked, for errors. */
  url: URL;
  /** Lets go of the signal of the caller, once the body is read or given up. */
  release: () => void;
  /** Aborted by the caller, or by the time of the call. */
  signal: AbortSignal;
}

/** Parts of a request, with names in the style of this package. */
export interface CallInput<N extends Name> {
  path?: Operations[N]["path"];
  query?: object;
  body?: object;
  raw?: RawBody;
  headers?: Record<string, string>;
  /** True for a request with an idempotency key. */
  repeatable?: boolean;
  /** True for a call that carries data of any size: it may take as long as something moves. */
  isData?: boolean;
  /** Milliseconds without a byte after which the answer is broken. Default: that of `isData`, else no limit. */
  stallMs?: number;
}

/** What this package asks of `fetch` beside the standard; others ignore it. */
export interface FetchInit extends RequestInit {
  duplex?: "half";
  /** Milliseconds without progress after which the request fails. */
  stallMs?: number;
  network?: NetworkOptions;
}

/** Sends requests for all objects of a client. */
export class Transport {
  private settings: Promise<Settings> | undefined;
  /** Milliseconds without an answer after which streams and uploads are given up. */
  readonly patienceMs: number = 60_000;

  constructor(readonly options: ClientOptions) {}

  /** Returns how connections are made. */
  get network(): NetworkOptions {
    const { proxy, ca } = this.options;
    return { proxy, ca };
  }

  /** Returns address and key, which are looked for at the first call. */
  load(): Promise<Settings> {
    this.settings ??= loadSettings(this.options).catch((error: unknown) => {
      this.settings = undefined;
      throw error;
    });
    return this.settings;
  }

  /** Returns the time limit of a call. */
  deadline(options: RequestOptions = {}, defaultMs = REQUEST_TIMEOUT_MS): Deadline {
    return new Deadline(options, this.options.requestTimeoutMs ?? defaultMs);
  }

  /** Sends a request and reads its JSON answer; `undefined` where there is none. */
  async json<N extends Name>(
    name: N,
    input: CallInput<N> = {},
    options: RequestOptions & { defaultMs?: number } = {},
  ): Promise<Received<Operations[N]["answer"]>> {
    return (await this.jsonPage(name, input, options)).value;
  }

  /** Sends a request and reads its JSON answer and header fields. */
  async jsonPage<N extends Name>(
    name: N,
    input: CallInput<N> = {},
    options: RequestOptions & { defaultMs?: number } = {},
  ): Promise<{ value: Received<Operations[N]["answer"]>; headers: Headers; status: number }> {
    const deadline = this.deadline(options, input.isData ? 0 : options.defaultMs);
    try {
      return await this.attempts(name, input, deadline, async (response) => {
        const text = await response.text();
        const value = text === "" ? undefined : parseJson(text);
        const { headers, status } = response;
        return { value: fromWire(value) as Received<Operations[N]["answer"]>, headers, status };
      });
    } finally {
      deadline.dispose();
    }
  }

  /** Sends a request and reads its answer whole, as bytes. */
  async bytes<N extends Name, T>(
    name: N,
    input: CallInput<N>,
    options: RequestOptions & { defaultMs?: number },
    read: (data: Uint8Array, headers: Headers) => T,
  ): Promise<T> {
    const deadline = this.deadline(options, input.isData ? 0 : options.defaultMs);
    try {
      return await this.attempts(name, input, deadline, async (response) =>
        read(new Uint8Array(await response.arrayBuffer()), response.headers),
      );
    } finally {
      deadline.dispose();
    }
  }

  /** Sends a request and returns its answer once the header is there: the caller reads the body, and releases it. */
  async open<N extends Name>(
    name: N,
    input: CallInput<N>,
    options: RequestOptions & { defaultMs?: number } = {},
  ): Promise<OpenAnswer> {
    const deadline = this.deadline(options, input.isData ? 0 : options.defaultMs);
    try {
      const response = await this.attempts(name, input, deadline, async (response) => response);
      deadline.stopTimer();
      const { apiUrl } = await this.load();
      const { signal } = deadline;
      return { response, url: new URL(apiUrl), release: () => deadline.dispose(), signal };
    } catch (error) {
      deadline.dispose();
      throw error;
    }
  }

  /** Returns the URL of an operation. Every segment is escaped, so that no id or name can leave its place. */
  async url<N extends Name>(name: N, input: CallInput<N>): Promise<URL> {
    const { apiUrl } = await this.load();
    const path = ROUTES[name][1].replace(/\{(\w+)\}/g, (_, field: string) => {
      const value = (input.path as Record<string, string> | undefined)?.[field] ?? "";
      if (value === "" || value === "." || value === "..") {
        throw new InvalidRequestError(`${JSON.stringify(value)} is no ${field}`, {
          status: 0,
          code: "invalid_request",
        });
      }
      return encodeURIComponent(value);
    });
    const url = new URL(apiUrl + path);
    for (const [field, value] of Object.entries((toWire(input.query ?? {}) ?? {}) as Record<string, unknown>)) {
      for (const item of Array.isArray(value) ? value : [value]) {
        url.searchParams.append(field, String(item));
      }
    }
    return url;
  }

  private async attempts<N extends Name, T>(
    name: N,
    input: CallInput<N>,
    deadline: Deadline,
    read: (response: Response) => Promise<T>,
  ): Promise<T> {
    const method = ROUTES[name][0];
    const once = input.raw && !input.raw.repeatable;
    const isRepeatable = !once && (input.repeatable || REPEATABLE_METHODS.has(method) || REPEATABLE.has(name));
    const retries = once ? 0 : (this.options.retries ?? DEFAULT_RETRIES);
    const url = await this.url(name, input);
    let mayBeDone = false;
    for (let attempt = 0; ; attempt += 1) {
      try {
        return await read(await this.send(method, url, input, deadline));
      } catch (cause) {
        if (input.raw?.failure) {
          throw input.raw.failure.error;
        }
        const error = deadline.signal.aborted ? deadline.signal.reason : describe(cause, url);
        // What an attempt before this one deleted is no longer there.
        if (mayBeDone && method === "DELETE" && error instanceof NotFoundError) {
          return await read(new Response(null, { status: 204 }));
        }
        mayBeDone ||= isUncertain(error);
        const pause = pauseBefore(error, attempt, isRepeatable);
        if (attempt >= retries || deadline.signal.aborted || pause === undefined || pause >= deadline.remainingMs) {
          throw error;
        }
        await deadline.sleep(pause);
      }
    }
  }

  private async send<N extends Name>(
    method: string,
    url: URL,
    input: CallInput<N>,
    deadline: Deadline,
  ): Promise<Response> {
    const { apiKey } = await this.load();
    const headers: Record<string, string> = {
      ...this.options.headers,
      "user-agent": USER_AGENT,
      "x-api-key": apiKey,
      ...input.headers,
    };
    const init: FetchInit = { method, headers, redirect: "manual", signal: deadline.signal, network: this.network };
    const stallMs = input.stallMs ?? (input.isData ? STALL_MS : undefined);
    if (stallMs !== undefined) {
      init.stallMs = stallMs;
    }
    if (input.raw) {
      init.body = input.raw.make();
      init.duplex = "half";
      if (input.raw.contentType) {
        headers["content-type"] = input.raw.contentType;
      }
    } else if (input.body) {
      init.body = JSON.stringify(toWire(input.body));
      headers["content-type"] = "application/json";
    }
    const response = await (this.options.fetch ?? platformFetch)(url, init);
    if (!response.ok) {
      throw errorFromAnswer(response.status, await boundedText(response), response.headers);
    }
    return response;
  }
}

/** Name and version of this package, for the log of the server. */
export const USER_AGENT = `wrenn-typescript/${VERSION}`;

/** Parses what the server sent. */
export function parseJson(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch (cause) {
    const message = "the server's answer cannot be read; are client and server of the same version?";
    throw new ProtocolError(message, { cause });
  }
}

async function boundedText(response: Response): Promise<string> {
  const reader = response.body?.getReader();
  const decoder = new TextDecoder();
  let text = "";
  try {
    while (reader && text.length < MAX_ERROR_BODY) {
      const { done, value } = await reader.read();
      if (done) {
        break;
      }
      text += decoder.decode(value, { stream: true });
    }
    await reader?.cancel();
  } catch {
    // A refusal whose body breaks off is one all the same: its status says it.
  }
  return text;
}

/** Returns the error of an answer that broke off: the reason of the signal where that ended it. */
export function failureOf(cause: unknown, answer: Pick<OpenAnswer, "signal" | "url">): unknown {
  return answer.signal.aborted ? answer.signal.reason : describe(cause, answer.url);
}

/** Returns true for an error after which it is not known whether the request was carried out. */
function isUncertain(error: unknown): boolean {
  const isOfProxy = error instanceof ApiError && !error.isOurs && [502, 503, 504].includes(error.status);
  return error instanceof ConnectionBrokenError || isOfProxy;
}

/** Converts what `fetch` throws to an error of this package. */
export function describe(cause: unknown, url: URL): unknown {
  if (cause instanceof WrennError) {
    return cause;
  }
  const codes = [cause, (cause as { cause?: unknown })?.cause].map((error) => (error as { code?: unknown })?.code);
  if (codes.some((code) => typeof code === "string" && UNSENT.has(code)) || /Connection refused/.test(String(cause))) {
    const message = `no connection to ${url.origin}; is the server running? Start it with \`wrenn up\``;
    return new UnreachableError(message, { cause });
  }
  const message = `the connection to ${url.origin} broke; ask for the state before the call is repeated`;
  return new ConnectionBrokenError(message, { cause });
}

/** Returns the milliseconds to wait before a request is sent again; `undefined` if it must not be. */
export function pauseBefore(error: unknown, attempt: number, isRepeatable: boolean): number | undefined {
  const pause = FIRST_PAUSE_MS * 2 ** attempt * (1 + Math.random() / 4);
  if (error instanceof UnreachableError) {
    return pause;
  }
  const refusal = error instanceof ApiError ? error : undefined;
  const nothingDone = refusal && (refusal.status === 429 || (refusal.status === 503 && refusal.isOurs));
  if (nothingDone || (isUncertain(error) && isRepeatable)) {
    return refusal?.retryAfterMs ?? pause;
  }
  return undefined;
}
