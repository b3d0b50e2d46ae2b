/** Time without an answer over broken connections, after which streams and uploads are given up. */

import {
  AgentError,
  ApiError,
  ConnectionBrokenError,
  HostUnavailableError,
  OperationTimeoutError,
  UnreachableError,
} from "./errors.js";
import type { Transport } from "./transport.js";

/** Pause before a connection is made again; it doubles up to `MAX_PAUSE_MS`. */
const PAUSE_MS = 200;
const MAX_PAUSE_MS = 2_000;

/** The time begins at the first failure, not while a connection that is well is quiet. */
export class Patience {
  private since: number | undefined;
  private pauseMs = 0;

  constructor(
    private readonly transport: Transport,
    private readonly signal: AbortSignal | undefined,
  ) {}

  /**
   * Ends the time without an answer. Pauses go on to grow: a server that answers and breaks off is not asked again and
   * again.
   */
  connected(): void {
    this.since = undefined;
  }

  /** Does the same, and makes pauses short again. */
  progressed(): void {
    this.since = undefined;
    this.pauseMs = 0;
  }

  /** Pauses before the next attempt. Throws `failure` once there was no answer for too long. */
  async wait(failure: unknown): Promise<void> {
    const now = performance.now();
    this.since ??= now;
    if (now > this.since && now - this.since > this.transport.patienceMs) {
      throw failure;
    }
    this.pauseMs = Math.min(Math.max(2 * this.pauseMs, PAUSE_MS), MAX_PAUSE_MS);
    const deadline = this.transport.deadline({ signal: this.signal, requestTimeoutMs: 0 });
    try {
      await deadline.sleep(this.pauseMs);
    } finally {
      deadline.dispose();
    }
  }
}

/** Returns true for an error after which a stream may be opened again. */
export function isTransient(error: unknown): boolean {
  return (
    error instanceof ConnectionBrokenError ||
    error instanceof UnreachableError ||
    error instanceof HostUnavailableError ||
    (error instanceof ApiError && !error.isOurs && error.status >= 500)
  );
}

/**
 * Returns true for an error after which a request that changes nothing may be made again: those of `isTransient`, and a
 * host or a guest that did not answer.
 */
export function isTransientAnswer(error: unknown): boolean {
  // Without a status it is the limit of the call itself.
  const isSlow = error instanceof AgentError || (error instanceof OperationTimeoutError && error.status !== 0);
  return isSlow || isTransient(error);
}
