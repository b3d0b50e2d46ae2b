/** What Node, Deno and Bun have and browsers do not: the environment, files, and WebSockets with header fields. */

import { randomUUID } from "node:crypto";
import { createReadStream, createWriteStream } from "node:fs";
import { readFile, rename, rm, stat } from "node:fs/promises";
import { homedir } from "node:os";
import { join } from "node:path";
import { pipeline } from "node:stream/promises";
import WebSocket from "ws";

import { CredentialsError } from "../errors.js";
import { errorFromAnswer } from "../answers.js";
import type { SocketEvents, SocketFactory } from "../socket.js";
import { agentFor } from "./node_network.js";

export { nodeFetch as platformFetch } from "./node_fetch.js";

/** Directory of an installation of root, unless `WRENN_DIR` says otherwise. */
const SYSTEM_DIR = "/var/lib/wrenn";

/** Largest frame that is accepted; the server sends far smaller ones. */
const MAX_FRAME = 4 * 1024 * 1024;

/** Bytes of a local file that are read at a time. */
const CHUNK = 64 * 1024;

/** Bytes of the body of a refusal that are read; one of the API is far smaller. */
const MAX_ERROR_BODY = 64 * 1024;

/** Time for the other side to answer that a WebSocket is closed. */
const CLOSE_MS = 3_000;

export const runtime: "node" | "browser" = "node";

/** Returns text that no other call returns. Node 18 has no global `crypto`. */
export const randomId: () => string = randomUUID;

export function environment(name: string): string | undefined {
  return process.env[name] || undefined;
}

/**
 * Reads the credentials file: of `WRENN_DIR`; else of `~/.wrenn` where that is and the user is not root; else of the
 * system's directory.
 */
export async function readCredentialsFile(): Promise<{ path: string; text?: string }> {
  const path = join(await wrennDir(), "credentials");
  try {
    return { path, text: await readFile(path, "utf8") };
  } catch (error) {
    const code = (error as NodeJS.ErrnoException).code;
    if (code === "ENOENT" || code === "ENOTDIR") {
      return { path };
    }
    throw new CredentialsError(
      `${path} cannot be read; run this as the user who runs \`wrenn up\`, or set WRENN_API_KEY`,
      { cause: error },
    );
  }
}

async function wrennDir(): Promise<string> {
  const dir = environment("WRENN_DIR");
  if (dir) {
    return dir;
  }
  const own = join(homedir(), ".wrenn");
  const isRoot = process.geteuid?.() === 0;
  const isDir = await stat(own).then(
    (found) => found.isDirectory(),
    () => false,
  );
  return isDir && !isRoot ? own : SYSTEM_DIR;
}

/** Bytes that can be read from any offset, for uploads that go on after a break. */
export interface FileSource {
  size: number;
  read(offset: number): AsyncIterable<Uint8Array>;
}

/** Opens a local file. */
export async function openLocalFile(path: string): Promise<FileSource> {
  const { size } = await stat(path);
  return { size, read: (start) => createReadStream(path, { start, highWaterMark: CHUNK }) };
}

/** Writes a local file, which has its old content until all of the new one is there. */
export async function writeLocalFile(path: string, data: AsyncIterable<Uint8Array>): Promise<void> {
  // A random name: in a shared directory, a link of a known one could be prepared.
  const part = `${path}.${randomUUID()}.part`;
  try {
    await pipeline(data, createWriteStream(part, { flags: "wx" }));
    await rename(part, path);
  } catch (error) {
    await rm(part, { force: true });
    throw error;
  }
}

/** Opens a WebSocket with the key in a header field. */
export const openSocket: SocketFactory = (url, key, events, options) => {
  const socket = new WebSocket(url, {
    headers: { ...options.headers, "x-api-key": key },
    agent: agentFor(new URL(url), options.network),
    ca: options.network.ca,
    maxPayload: MAX_FRAME,
    perMessageDeflate: false,
    handshakeTimeout: options.timeoutMs,
  });
  connectEvents(socket, events);
  return {
    send: (data) =>
      new Promise((resolve, reject) => {
        socket.send(data, (error) => (error ? reject(error) : resolve()));
      }),
    pause: () => socket.pause(),
    resume: () => socket.resume(),
    close: () => closeSocket(socket),
    terminate: () => socket.terminate(),
  };
};

/** Closes a socket in order, and drops it if the other side does not answer in time. */
function closeSocket(socket: WebSocket): void {
  const timer = setTimeout(() => socket.terminate(), CLOSE_MS).unref();
  socket.once("close", () => clearTimeout(timer));
  socket.close();
  // The answer is not read on a paused connection.
  socket.resume();
}

function connectEvents(socket: WebSocket, events: SocketEvents): void {
  socket.on("open", () => events.opened());
  socket.on("message", (data: Buffer, isBinary) => {
    events.received(isBinary ? new Uint8Array(data.buffer, data.byteOffset, data.length) : data.toString("utf8"));
  });
  socket.on("ping", () => events.heard());
  socket.on("pong", () => events.heard());
  socket.on("close", () => events.closed());
  socket.on("error", (error) => events.failed(error));
  socket.on("unexpected-response", (_request, response) => {
    let body = "";
    response.setEncoding("utf8");
    response.on("data", (part: string) => {
      body = (body + part).slice(0, MAX_ERROR_BODY);
    });
    const refuse = (): void => {
      const headers = new Headers();
      for (const name of ["location", "retry-after", "x-request-id"]) {
        const value = response.headers[name];
        if (typeof value === "string") {
          headers.set(name, value);
        }
      }
      events.failed(errorFromAnswer(response.statusCode ?? 0, body, headers));
      socket.terminate();
    };
    response.on("end", refuse);
    response.on("error", refuse);
  });
}
