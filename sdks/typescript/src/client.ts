/** A server and a key. */

import type { RequestOptions } from "./deadline.js";
import { Events } from "./events.js";
import type { DiskUsage, Health, HostMetrics } from "./models.js";
import { Transport, type ClientOptions } from "./transport.js";
import { Webhooks } from "./webhooks.js";

/** Part of a metrics query. */
export interface MetricsOptions extends RequestOptions {
  /** Begin. Default: ten minutes before the end. */
  from?: string | Date;
  /** End. Default: now. */
  to?: string | Date;
  /** Shortest time between two points, in seconds. */
  step?: number;
}

/** Connection to a server with a key. Without one every call finds them as the command line does. */
export class Client {
  readonly events: Events;
  readonly webhooks: Webhooks;
  /** @internal */
  readonly transport: Transport;

  constructor(options: ClientOptions = {}) {
    this.transport = new Transport(options);
    this.events = new Events(this.transport);
    this.webhooks = new Webhooks(this.transport);
  }

  /** Asks whether the server is well. */
  health(options?: RequestOptions): Promise<Health> {
    return this.transport.json("health", {}, options);
  }

  /** Gets the API document of the server. */
  async openapi(options?: RequestOptions): Promise<Record<string, unknown>> {
    const decode = (data: Uint8Array): Record<string, unknown> =>
      JSON.parse(new TextDecoder().decode(data)) as Record<string, unknown>;
    return this.transport.bytes("openapi_json", {}, options ?? {}, decode);
  }

  /** Gets what everything takes on disk. */
  getDiskUsage(options?: RequestOptions): Promise<DiskUsage> {
    return this.transport.json("get_disk_usage", {}, options);
  }

  /** Gets what the hosts used; empty unless the key is an operator's. */
  getHostMetrics(options: MetricsOptions = {}): Promise<HostMetrics[]> {
    const { signal, requestTimeoutMs, ...query } = options;
    return this.transport.json("get_host_metrics", { query: timesOf(query) }, { signal, requestTimeoutMs });
  }
}

/** How a static method finds its server. */
export interface Connection extends ClientOptions, RequestOptions {
  /** Client to use, instead of a new one. */
  client?: Client;
}

/** Splits the options of a static method. */
export function splitConnection<T extends Connection>(
  options: T,
): { client: Client; request: RequestOptions; rest: Omit<T, keyof Connection> } {
  const { client, apiUrl, apiKey, retries, headers, proxy, ca, fetch, signal, requestTimeoutMs, ...rest } = options;
  return {
    client: client ?? new Client({ apiUrl, apiKey, retries, headers, proxy, ca, fetch, requestTimeoutMs }),
    request: { signal, requestTimeoutMs },
    rest,
  };
}

/** Converts times to text. */
export function timesOf<T extends Record<string, unknown>>(fields: T): Record<string, unknown> {
  const entries = Object.entries(fields);
  return Object.fromEntries(
    entries.map(([name, value]) => [name, value instanceof Date ? value.toISOString() : value]),
  );
}
