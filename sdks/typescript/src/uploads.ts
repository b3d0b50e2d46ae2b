/**
 * Uploads that go on after a break, by the protocol tus 1.0.0.
 *
 * The sandbox knows how far it is; after a break it is asked, and the upload goes on there, until no byte arrived
 * for too long.
 */

import { openLocalFile } from "#platform";
import { toBase64, toBytes, toStream } from "./bytes.js";
import type { RequestOptions } from "./deadline.js";
import { ConflictError, ProtocolError } from "./errors.js";
import { isTransientAnswer, Patience } from "./patience.js";
import type { Transport } from "./transport.js";

const TUS = { "tus-resumable": "1.0.0" };

/** Time that the deletion of an upload that failed may take. */
const DELETE_MS = 5_000;

/** What an upload reads: a local file by its path, a blob, or bytes. */
export type UploadSource = string | Blob | Uint8Array;

/** A source of a known size that can be sent from any offset on. */
interface OpenSource {
  size: number;
  bodyFrom(offset: number): BodyInit;
}

async function openSource(source: UploadSource): Promise<OpenSource> {
  if (typeof source === "string") {
    const file = await openLocalFile(source);
    return { size: file.size, bodyFrom: (offset) => toStream(file.read(offset)) };
  }
  // Not as streams, which browsers send over HTTP/2 alone.
  if (source instanceof Blob) {
    return { size: source.size, bodyFrom: (offset) => source.slice(offset) };
  }
  return { size: source.length, bodyFrom: (offset) => source.subarray(offset) as Uint8Array<ArrayBuffer> };
}

/** Uploads a file, over as many connections as it takes. */
export async function uploadFile(
  transport: Transport,
  sandboxId: string,
  source: UploadSource,
  metadata: Record<string, string | undefined>,
  options: RequestOptions,
): Promise<void> {
  const file = await openSource(source);
  // A time that the caller gives is for all of the upload; each request has its own beside it.
  const deadline = transport.deadline(options, 0);
  const limited = { signal: deadline.signal };
  try {
    const upload = await beginUpload(transport, sandboxId, file.size, metadata, limited);
    await sendOrDelete(transport, { id: sandboxId, upload }, file, limited);
  } finally {
    deadline.dispose();
  }
}

async function sendOrDelete(
  transport: Transport,
  path: { id: string; upload: string },
  file: OpenSource,
  options: RequestOptions,
): Promise<void> {
  try {
    await sendParts(transport, path, file, options);
  } catch (error) {
    // What has arrived takes room in the sandbox for a day otherwise. The first error is the one to tell.
    const call = transport.json("delete_upload", { path, headers: TUS }, { requestTimeoutMs: DELETE_MS });
    await call.catch(() => {});
    throw error;
  }
}

async function sendParts(
  transport: Transport,
  path: { id: string; upload: string },
  file: OpenSource,
  options: RequestOptions,
): Promise<void> {
  // A part of any size has no limit of time but its signal.
  const unlimited = { signal: options.signal, requestTimeoutMs: 0 };
  const patience = new Patience(transport, options.signal);
  for (let offset = 0; offset < file.size;) {
    let arrived: number;
    try {
      const raw = {
        make: () => file.bodyFrom(offset),
        contentType: "application/offset+octet-stream",
        repeatable: false,
      };
      const input = { path, headers: { ...TUS, "upload-offset": String(offset) }, raw, isData: true };
      const answer = await transport.jsonPage("write_upload", input, unlimited);
      arrived = offsetOf(answer.headers);
    } catch (error) {
      arrived = await offsetAfter(transport, path, patience, options, error);
    }
    if (arrived > offset) {
      patience.progressed();
    }
    offset = arrived;
  }
}

/**
 * Returns the offset at which an upload goes on after a failure. Asks until there is an answer, or there was no progress
 * for too long.
 */
async function offsetAfter(
  transport: Transport,
  path: { id: string; upload: string },
  patience: Patience,
  options: RequestOptions,
  failure: unknown,
): Promise<number> {
  // A conflict: bytes of the part that broke off arrived after the offset was asked for.
  while (isTransientAnswer(failure) || failure instanceof ConflictError) {
    await patience.wait(failure);
    try {
      return offsetOf((await transport.jsonPage("get_upload", { path, headers: TUS }, options)).headers);
    } catch (error) {
      failure = error;
    }
  }
  throw failure;
}

async function beginUpload(
  transport: Transport,
  sandboxId: string,
  size: number,
  metadata: Record<string, string | undefined>,
  options: RequestOptions,
): Promise<string> {
  const pairs = Object.entries(metadata)
    .filter(([, value]) => value !== undefined)
    .map(([name, value]) => `${name} ${toBase64(toBytes(value!))}`);
  const headers = { ...TUS, "upload-length": String(size), "upload-metadata": pairs.join(",") };
  const answer = await transport.jsonPage("begin_upload", { path: { id: sandboxId }, headers }, options);
  const upload = answer.headers.get("location")?.split("/").at(-1);
  if (!upload || !/^[0-9a-z]+$/.test(upload)) {
    throw new ProtocolError("an upload without a location; are client and server of the same version?");
  }
  return upload;
}

function offsetOf(headers: Headers): number {
  const offset = Number(headers.get("upload-offset") ?? Number.NaN);
  if (!Number.isSafeInteger(offset)) {
    throw new ProtocolError("an upload without an offset; are client and server of the same version?");
  }
  return offset;
}
