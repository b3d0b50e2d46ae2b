/**
 * `fetch` over `node:http`, for Node, Deno and Bun.
 *
 * The `fetch` of Node takes an answer for complete whose connection was reset, if its header says `connection: close`, and gives
 * up a server that is silent for five minutes. This one tells of every body that breaks off, has no limit of time but that of
 * the call, and reads an answer that comes before all of the request was sent.
 */

import { request as httpRequest, type ClientRequest, type IncomingMessage } from "node:http";
import { request as httpsRequest } from "node:https";
import { Readable } from "node:stream";
import { pipeline } from "node:stream/promises";
import type { ReadableStream as NodeReadableStream } from "node:stream/web";

import type { FetchInit } from "../transport.js";
import { agentFor } from "./node_network.js";

/** Statuses whose answers have no body. */
const WITHOUT_BODY = new Set([101, 204, 205, 304]);

/**
 * Sends a request. Of `init` it reads what this package uses: method, headers as an object, body, signal,
 * and what is its own.
 */
export async function nodeFetch(url: URL, init: FetchInit): Promise<Response> {
  const { method, headers, body, signal, stallMs = 0, network = {} } = init;
  signal?.throwIfAborted();
  const isSecure = url.protocol === "https:";
  const fields: Record<string, string> = { ...(headers as Record<string, string>) };
  if (body instanceof Blob) {
    fields["content-length"] = String(body.size);
  } else if (typeof body === "string" || body instanceof Uint8Array) {
    fields["content-length"] = String(Buffer.byteLength(body));
  }
  const request = (isSecure ? httpsRequest : httpRequest)(url, {
    method,
    headers: fields,
    agent: agentFor(url, network),
    ca: network.ca,
    signal: signal ?? undefined,
  });
  if (stallMs > 0) {
    request.setTimeout(stallMs, () => request.destroy(stalled(stallMs)));
  }
  const answer = answerOf(request);
  const sending = sendBody(request, body).catch((error: unknown) => {
    // An answer that is there says more than a connection that takes no more bytes.
    request.destroy(error as Error);
  });
  const response = await answer;
  request.setTimeout(0);
  void sending;
  return responseOf(response, stallMs);
}

function stalled(stallMs: number): Error {
  return new Error(`nothing was sent and nothing came for ${stallMs / 1000} s`);
}

function answerOf(request: ClientRequest): Promise<IncomingMessage> {
  return new Promise((resolve, reject) => {
    request.on("response", resolve);
    request.on("error", reject);
  });
}

async function sendBody(request: ClientRequest, body: RequestInit["body"]): Promise<void> {
  if (body === null || body === undefined) {
    request.end();
  } else if (typeof body === "string" || body instanceof Uint8Array) {
    request.end(body);
  } else {
    const stream = body instanceof Blob ? body.stream() : (body as ReadableStream<Uint8Array>);
    await pipeline(Readable.fromWeb(stream as NodeReadableStream<Uint8Array>), request);
  }
}

function responseOf(response: IncomingMessage, stallMs: number): Response {
  const headers = new Headers();
  for (let index = 0; index < response.rawHeaders.length; index += 2) {
    headers.append(response.rawHeaders[index]!, response.rawHeaders[index + 1]!);
  }
  const status = response.statusCode ?? 0;
  if (WITHOUT_BODY.has(status) || response.headers["content-length"] === "0") {
    response.resume();
    return new Response(null, { status, headers });
  }
  return new Response(bodyOf(response, stallMs), { status, headers });
}

/** Returns the body as a stream that is read as it is asked for, and fails where the answer breaks off. */
function bodyOf(response: IncomingMessage, stallMs: number): ReadableStream<Uint8Array> {
  const parts = response[Symbol.asyncIterator]() as AsyncIterator<Buffer>;
  return new ReadableStream<Uint8Array>(
    {
      async pull(controller) {
        // Not between two reads: that time is the reader's.
        const timer = stallMs > 0 ? setTimeout(() => response.destroy(stalled(stallMs)), stallMs) : undefined;
        const { done, value } = await parts.next().finally(() => clearTimeout(timer));
        if (!done) {
          controller.enqueue(new Uint8Array(value.buffer, value.byteOffset, value.length));
          return;
        }
        if (!response.complete) {
          throw new Error("the answer broke off");
        }
        controller.close();
      },
      cancel() {
        response.destroy();
      },
    },
    { highWaterMark: 0 },
  );
}
