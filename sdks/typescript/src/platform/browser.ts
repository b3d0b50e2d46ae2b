/** What a browser has: no environment, no files, and WebSockets whose key is a subprotocol. */

import { WrennError } from "../errors.js";
import type { SocketFactory } from "../socket.js";

export const runtime: "node" | "browser" = "browser";

export function platformFetch(url: URL, init: RequestInit): Promise<Response> {
  return fetch(url, init);
}

/** Returns text that no other call returns. Pages without TLS have no `randomUUID`. */
export function randomId(): string {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
}

export function environment(_name: string): string | undefined {
  return undefined;
}

export async function readCredentialsFile(): Promise<{ path: string; text?: string }> {
  return { path: "a file, which no browser can read" };
}

export interface FileSource {
  size: number;
  read(offset: number): AsyncIterable<Uint8Array>;
}

export async function openLocalFile(path: string): Promise<FileSource> {
  throw new WrennError(`a page cannot open ${path}: pass a Blob or bytes`);
}

export async function writeLocalFile(path: string, _data: AsyncIterable<Uint8Array>): Promise<void> {
  throw new WrennError(`a page cannot write ${path}: use files.read`);
}

/** Opens a WebSocket with the key as a subprotocol. The page must be one of the server. */
export const openSocket: SocketFactory = (url, key, events) => {
  const socket = new WebSocket(url, ["wrenn.v1", `wrenn.bearer.${key}`]);
  socket.binaryType = "arraybuffer";
  socket.onopen = () => events.opened();
  socket.onmessage = ({ data }: MessageEvent<string | ArrayBuffer>) => {
    events.received(typeof data === "string" ? data : new Uint8Array(data));
  };
  // A browser tells no page why a connection failed.
  socket.onerror = () => events.failed(new Error("the browser could not connect, or lost the connection"));
  socket.onclose = () => events.closed();
  return {
    send: async (data) => {
      socket.send(data as string | Uint8Array<ArrayBuffer>);
      while (socket.bufferedAmount > MAX_BUFFERED && socket.readyState === WebSocket.OPEN) {
        await new Promise((resolve) => setTimeout(resolve, 10));
      }
    },
    pause: () => {},
    resume: () => {},
    close: () => socket.close(),
    terminate: () => socket.close(),
  };
};

/** Bytes that may wait to be sent: a browser tells only how many there are. */
const MAX_BUFFERED = 1024 * 1024;
