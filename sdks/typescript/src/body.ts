/** Bodies of uploads. Text, bytes and blobs can be sent again; streams cannot, and are never held in memory. */

import { randomId } from "#platform";
import { iterate, toBytes, toStream, type Data } from "./bytes.js";
import type { RawBody } from "./transport.js";

/** Returns true for data that can be read only once. */
function isStream(data: Data): data is ReadableStream<Uint8Array> | AsyncIterable<Uint8Array> {
  return typeof data === "object" && ("getReader" in data || Symbol.asyncIterator in data);
}

function chunksOf(data: ReadableStream<Uint8Array> | AsyncIterable<Uint8Array>): AsyncIterable<Uint8Array> {
  return "getReader" in data ? iterate(data) : data;
}

/** Notes the error of a stream, which is the one to tell. */
async function* noted(source: AsyncIterable<Uint8Array>, body: RawBody): AsyncGenerator<Uint8Array> {
  try {
    yield* source;
  } catch (error) {
    body.failure = { error };
    throw error;
  }
}

function blobOf(data: Exclude<Data, ReadableStream<Uint8Array> | AsyncIterable<Uint8Array>>): Blob {
  return data instanceof Blob ? data : new Blob([toBytes(data) as Uint8Array<ArrayBuffer>]);
}

/** Makes a body of data. */
export function rawBody(data: Data, contentType: string): RawBody {
  if (isStream(data)) {
    const body: RawBody = { make: () => toStream(noted(chunksOf(data), body)), contentType, repeatable: false };
    return body;
  }
  const blob = blobOf(data);
  return { make: () => blob, contentType, repeatable: true };
}

/** Makes the form of an upload: fields, and the file behind them. */
export function uploadForm(fields: Record<string, string | undefined>, data: Data): RawBody {
  const boundary = `wrenn-${randomId()}`;
  const contentType = `multipart/form-data; boundary=${boundary}`;
  const parts = Object.entries(fields)
    .filter(([, value]) => value !== undefined)
    .map(([name, value]) => `--${boundary}\r\nContent-Disposition: form-data; name="${name}"\r\n\r\n${value}\r\n`);
  const file = 'Content-Disposition: form-data; name="file"; filename="file"';
  const head = toBytes(`${parts.join("")}--${boundary}\r\n${file}\r\nContent-Type: application/octet-stream\r\n\r\n`);
  const tail = toBytes(`\r\n--${boundary}--\r\n`);
  if (isStream(data)) {
    async function* whole(): AsyncGenerator<Uint8Array> {
      yield head;
      yield* noted(chunksOf(data as ReadableStream<Uint8Array>), body);
      yield tail;
    }
    const body: RawBody = { make: () => toStream(whole()), contentType, repeatable: false };
    return body;
  }
  const blob = new Blob([head as Uint8Array<ArrayBuffer>, blobOf(data), tail as Uint8Array<ArrayBuffer>]);
  return { make: () => blob, contentType, repeatable: true };
}
