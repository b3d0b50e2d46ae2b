/** A server in this process that answers as a test says, and notes what it was asked. */

import { createServer, type IncomingMessage, type Server, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";
import { WebSocketServer, type WebSocket } from "ws";

import { Client, Sandbox, type ClientOptions } from "@wrenn/sandbox";

export interface Request {
  method: string;
  path: string;
  headers: IncomingMessage["headers"];
  body: Buffer;
}

/** What is answered: a status and JSON, a function, or `cut` for a connection that breaks. */
export type Reply =
  | { status?: number; json?: unknown; text?: string; headers?: Record<string, string>; delayMs?: number }
  | { cut: "before" | "after" | number; text?: string };

export const ID = "sb-0123456789abcdefghij";

export const INFO = {
  id: ID,
  status: "running",
  template: "minimal",
  vcpus: 1,
  memory_mb: 512,
  timeout_sec: 300,
  labels: { "a_b/c": "d_e" },
  reason: null,
  created_at: "2026-01-01T00:00:00Z",
  last_updated: "2026-01-01T00:00:00Z",
};

export class FakeServer implements AsyncDisposable {
  readonly requests: Request[] = [];
  /** Replies in the order of requests; the last one stays. */
  replies: Reply[] = [{ json: INFO }];
  /** Instead of `replies`. */
  handle: ((request: Request, response: ServerResponse) => void) | undefined;
  /** Answered before the body of a request is read. */
  early: Exclude<Reply, { cut: unknown }> | undefined;
  /** Sockets are refused with this. */
  refusals: Reply[] = [];
  onSocket: (socket: WebSocket, path: string) => void = (socket) => socket.close();
  readonly sockets = new WebSocketServer({ noServer: true, perMessageDeflate: false });

  private constructor(private readonly server: Server) {}

  static async start(replies?: Reply[]): Promise<FakeServer> {
    const server = createServer();
    const fake = new FakeServer(server);
    if (replies) {
      fake.replies = replies;
    }
    server.on("request", (request, response) => {
      // A client that breaks its request off is no error of the server.
      fake.answer(request, response).catch(() => {});
    });
    server.on("upgrade", (request, socket, head) => {
      fake.note(request, Buffer.alloc(0));
      const refusal = fake.refusals.shift();
      if (refusal && "cut" in refusal) {
        socket.destroy();
      } else if (refusal) {
        const body = refusal.text ?? JSON.stringify(refusal.json);
        const fields = Object.entries(refusal.headers ?? {}).map(([name, value]) => `${name}: ${value}\r\n`);
        socket.end(`HTTP/1.1 ${refusal.status} No\r\n${fields.join("")}content-length: ${body.length}\r\n\r\n${body}`);
      } else {
        fake.sockets.handleUpgrade(request, socket, head, (opened) => fake.onSocket(opened, request.url!));
      }
    });
    await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
    return fake;
  }

  get url(): string {
    return `http://127.0.0.1:${(this.server.address() as AddressInfo).port}`;
  }

  client(options: ClientOptions = {}): Client {
    return new Client({ apiUrl: this.url, apiKey: "wrn_test", ...options });
  }

  /** Returns a client whose streams are given up at the second failure in a row. */
  impatient(): Client {
    const client = this.client({ retries: 0 });
    Object.assign(client.transport, { patienceMs: 0 });
    return client;
  }

  /** Gets a sandbox of this server; the request for it is not noted. */
  async sandbox(options: ClientOptions | Client = {}): Promise<Sandbox> {
    const { replies, handle } = this;
    this.replies = [{ json: INFO }];
    this.handle = undefined;
    const client = options instanceof Client ? options : this.client(options);
    const sandbox = await Sandbox.get(ID, { client });
    this.replies = replies;
    this.handle = handle;
    this.requests.length = 0;
    return sandbox;
  }

  private note(request: IncomingMessage, body: Buffer): Request {
    const noted = { method: request.method!, path: request.url!, headers: request.headers, body };
    this.requests.push(noted);
    return noted;
  }

  private async answer(request: IncomingMessage, response: ServerResponse): Promise<void> {
    const reply = this.replies.length > 1 && !this.handle ? this.replies.shift()! : this.replies[0]!;
    if ("cut" in reply && reply.cut === "before") {
      this.note(request, Buffer.alloc(0));
      request.socket.resetAndDestroy();
      return;
    }
    if (this.early) {
      this.note(request, Buffer.alloc(0));
      send(response, this.early);
      return;
    }
    const parts: Buffer[] = [];
    for await (const part of request) {
      parts.push(part as Buffer);
    }
    const noted = this.note(request, Buffer.concat(parts));
    if (this.handle) {
      this.handle(noted, response);
    } else if (!("cut" in reply)) {
      send(response, reply);
    } else if (reply.cut === "after") {
      request.socket.resetAndDestroy();
    } else {
      response.writeHead(200, { "content-type": "application/json" });
      response.write(reply.text!.slice(0, reply.cut as number), () => request.socket.resetAndDestroy());
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.sockets.clients.forEach((socket) => socket.terminate());
    this.server.closeAllConnections();
    await new Promise((resolve) => this.server.close(resolve));
  }
}

export function send(response: ServerResponse, reply: Exclude<Reply, { cut: unknown }>): void {
  const { status = 200, json, text = json === undefined ? "" : JSON.stringify(json), headers = {}, delayMs } = reply;
  const write = (): void => {
    response.writeHead(status, headers);
    response.end(text);
  };
  if (delayMs) {
    setTimeout(write, delayMs);
  } else {
    write();
  }
}

/** Body of a refusal of the API. */
export function refusal(status: number, code: string, extra: object = {}): Exclude<Reply, { cut: unknown }> {
  return { status, json: { error: { code, message: `refused with ${code}`, ...extra } } };
}
