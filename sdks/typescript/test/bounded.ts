/** Tests with a limit of time: one that hangs fails by its name, and the others run. */

import { test as unbounded, type TestContext } from "node:test";

/** Milliseconds for a test against a server in this process; those of a real server take up to 20 s. */
const LIMIT_MS = 60_000;

export function test(name: string, body: (context: TestContext) => void | Promise<void>): void {
  void unbounded(name, { timeout: LIMIT_MS }, (context) => body(context));
}
