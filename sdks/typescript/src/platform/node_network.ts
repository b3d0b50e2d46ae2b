/** Agents of Node's HTTP for requests and WebSockets: direct, or through a proxy. */

import { Agent as HttpAgent } from "node:http";
import { Agent as HttpsAgent } from "node:https";
import { isIP } from "node:net";
import { HttpsProxyAgent } from "https-proxy-agent";

import type { NetworkOptions } from "../transport.js";

/**
 * Connections that wait for the next request, and milliseconds after which TCP asks whether a peer is there, and after
 * which a connection that waits is closed: the server ends those that were idle for a minute.
 */
const AGENT_OPTIONS = { keepAlive: true, keepAliveMsecs: 30_000, maxFreeSockets: 32, timeout: 30_000 };

const http = new HttpAgent(AGENT_OPTIONS);
const https = new HttpsAgent(AGENT_OPTIONS);

/** Agents by the address of their proxy. */
const proxied = new Map<string, HttpsProxyAgent<string>>();

/** Returns the agent for an address. */
export function agentFor(url: URL, network: NetworkOptions): HttpAgent {
  const proxy = network.proxy ?? environmentProxy(url);
  if (!proxy) {
    return isSecure(url) ? https : http;
  }
  const known = proxied.get(proxy) ?? new HttpsProxyAgent(proxy, AGENT_OPTIONS);
  proxied.set(proxy, known);
  return known;
}

function isSecure(url: URL): boolean {
  return url.protocol === "https:" || url.protocol === "wss:";
}

/**
 * Returns the proxy that the environment names for requests and WebSockets to an address. There is none for addresses of
 * this machine: a key of its own would go there.
 */
export function environmentProxy(url: URL): string | undefined {
  const host = url.hostname.replace(/^\[(.*)\]$/, "$1");
  const isLoopback = host === "localhost" || host === "::1" || (isIP(host) === 4 && host.startsWith("127."));
  if (isLoopback || isExcluded(host, url.port)) {
    return undefined;
  }
  return variable(isSecure(url) ? "https_proxy" : "http_proxy") ?? variable("all_proxy");
}

/** Returns true if `NO_PROXY` has the host, a domain above it, or all of them. */
function isExcluded(host: string, port: string): boolean {
  const entries = (variable("no_proxy") ?? "").split(/[\s,]+/).filter((entry) => entry !== "");
  return entries.some((entry) => {
    const [, name, ofPort] = /^\*?\.?(.*?)(?::(\d+))?$/.exec(entry.toLowerCase())!;
    const isPort = ofPort === undefined || ofPort === port;
    return entry === "*" || (isPort && (host === name || host.endsWith(`.${name}`)));
  });
}

function variable(name: string): string | undefined {
  return process.env[name] || process.env[name.toUpperCase()] || undefined;
}
