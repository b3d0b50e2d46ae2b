/**
 * Uploads that go on after a break, by the protocol tus 1.0.0.
 *
 * The sandbox knows how far it is; after a break it is asked, and the upload goes on there. It is given up when
 * `NO_PROGRESS_MS` pass without a byte that arrived.
 */

import { openLocalFile, type FileSource } from "#platform";
import { iterate, toBase64, toBytes, toStream } from "./bytes.js";
import type { RequestOptions } from "./deadline.js";
import { ApiError, ConnectionBrokenError, HostUnavailableError, ProtocolError, UnreachableError } from "./errors.js";
import type { Transport } from "./transport.js";

const TUS = { "tus-resumable": "1.0.0" };

const NO_PROGRESS_MS = 60_000;

/** Time that the deletion of an upload that failed may take. */
const DELETE_MS = 5_000;

const PAUSE_MS = 200;
const MAX_PAUSE_MS = 2_000;

/** What an upload reads: a local file by its path, a blob, or bytes. */
export type UploadSource = string | Blob | Uint8Array;

async function openSource(source: UploadSource): Promise<FileSource> {
  if (typeof source === "string") {
    return openLocalFile(source);
  }
  if (source instanceof Blob) {
    return { size: source.size, read: (offset) => iterate(source.slice(offset).stream()) };
  }
  async function* rest(offset: number): AsyncGenerator<Uint8Array> {
    yield (source as Uint8Array).subarray(offset);
  }
  return { size: source.length, read: rest };
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
  const upload = await beginUpload(transport, sandboxId, file.size, metadata, options);
  const path = { id: sandboxId, upload };
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
  file: FileSource,
  options: RequestOptions,
): Promise<void> {
  const headers = { ...TUS };
  // A part of any size has no limit of time but its signal.
  const unlimited = { signal: options.signal, requestTimeoutMs: 0 };
  let offset = 0;
  let lastProgress = Date.now();
  for (let attempt = 0; offset < file.size; attempt += 1) {
    try {
      const raw = {
        make: () => toStream(file.read(offset)),
        contentType: "application/offset+octet-stream",
        repeatable: false,
      };
      const input = { path, headers: { ...headers, "upload-offset": String(offset) }, raw };
      const answer = await transport.jsonPage("write_upload", input, unlimited);
      offset = offsetOf(answer.headers);
    } catch (error) {
      if (!isTransient(error)) {
        throw error;
      }
      await sleep(transport, Math.min(PAUSE_MS * 2 ** attempt, MAX_PAUSE_MS), options);
      const answer = await transport.jsonPage("get_upload", { path, headers }, options);
      const arrived = offsetOf(answer.headers);
      if (arrived > offset) {
        attempt = -1;
        lastProgress = Date.now();
      } else if (Date.now() - lastProgress > NO_PROGRESS_MS) {
        throw error;
      }
      offset = arrived;
    }
  }
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

function isTransient(error: unknown): boolean {
  return (
    error instanceof ConnectionBrokenError ||
    error instanceof UnreachableError ||
    error instanceof HostUnavailableError ||
    (error instanceof ApiError && !error.isOurs && error.status >= 500)
  );
}

async function sleep(transport: Transport, ms: number, options: RequestOptions): Promise<void> {
  const deadline = transport.deadline({ signal: options.signal, requestTimeoutMs: 0 });
  try {
    await deadline.sleep(ms);
  } finally {
    deadline.dispose();
  }
}
