/** Time and abort of one call, over all of its attempts. */

import { OperationTimeoutError } from "./errors.js";

/** Options that every call has. */
export interface RequestOptions {
  /** Aborts the call. A stream that it returned ends, too. */
  signal?: AbortSignal;
  /** Milliseconds until the call fails with `OperationTimeoutError`, over all attempts; 0: never. */
  requestTimeoutMs?: number;
}

/** Limits a call by its time and by the signal of the caller, in one signal. */
export class Deadline {
  private readonly controller = new AbortController();
  private readonly endsAt: number;
  private readonly outer: AbortSignal | undefined;
  private timer: ReturnType<typeof setTimeout> | undefined;
  private readonly onAbort = (): void => this.controller.abort(this.outer?.reason);

  constructor(options: RequestOptions, defaultMs: number) {
    const timeoutMs = options.requestTimeoutMs ?? defaultMs;
    this.endsAt = timeoutMs > 0 ? Date.now() + timeoutMs : Number.POSITIVE_INFINITY;
    this.outer = options.signal;
    if (this.outer?.aborted) {
      this.onAbort();
      return;
    }
    this.outer?.addEventListener("abort", this.onAbort, { once: true });
    if (timeoutMs > 0) {
      const message = `no answer within ${timeoutMs} ms; ask for the state before the call is repeated`;
      const expire = (): void =>
        this.controller.abort(new OperationTimeoutError(message, { status: 0, code: "timeout" }));
      this.timer = setTimeout(expire, timeoutMs);
    }
  }

  get signal(): AbortSignal {
    return this.controller.signal;
  }

  /** Returns the milliseconds that are left. */
  get remainingMs(): number {
    return Math.max(0, this.endsAt - Date.now());
  }

  /** Ends the time limit and keeps the signal of the caller: the answer is a stream that has begun. */
  stopTimer(): void {
    clearTimeout(this.timer);
  }

  /** Ends both. */
  dispose(): void {
    this.stopTimer();
    this.outer?.removeEventListener("abort", this.onAbort);
  }

  /** Waits so long, or until the call is over; then throws. */
  async sleep(ms: number): Promise<void> {
    this.signal.throwIfAborted();
    await new Promise<void>((resolve, reject) => {
      const onAbort = (): void => {
        clearTimeout(timer);
        reject(this.signal.reason);
      };
      const timer = setTimeout(() => {
        this.signal.removeEventListener("abort", onAbort);
        resolve();
      }, ms);
      this.signal.addEventListener("abort", onAbort, { once: true });
    });
  }
}
