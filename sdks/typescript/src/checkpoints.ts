/** Checkpoints of a sandbox: saved states to roll back to. */

import type { RequestOptions } from "./deadline.js";
import { NotFoundError } from "./errors.js";
import type { AutoCheckpoint, CheckpointInfo } from "./models.js";
import { LONG_REQUEST_TIMEOUT_MS, type Transport } from "./transport.js";

/** Checkpoints of one sandbox: `sandbox.checkpoints`. */
export class Checkpoints {
  /** @internal */
  constructor(
    private readonly transport: Transport,
    private readonly sandboxId: string,
  ) {}

  /** Saves the present state. The sandbox goes on as it was. */
  create(name?: string, options?: RequestOptions): Promise<CheckpointInfo> {
    const input = { path: { id: this.sandboxId }, body: { name } };
    return this.transport.json("create_checkpoint", input, { defaultMs: LONG_REQUEST_TIMEOUT_MS, ...options });
  }

  /** Lists them, oldest first. */
  list(options?: RequestOptions): Promise<CheckpointInfo[]> {
    return this.transport.json("list_checkpoints", { path: { id: this.sandboxId } }, options);
  }

  /** Deletes one; false if it is not there. */
  async delete(name: string, options?: RequestOptions): Promise<boolean> {
    const call = this.transport.json("delete_checkpoint", { path: { id: this.sandboxId, name } }, options);
    return falseIfMissing(call);
  }

  /** Has the host make checkpoints by itself. */
  async setAuto(policy: AutoCheckpoint, options?: RequestOptions): Promise<void> {
    await this.transport.json("set_auto_checkpoint", { path: { id: this.sandboxId }, body: policy }, options);
  }

  /** Makes no more of them. Those that there are stay. */
  async removeAuto(options?: RequestOptions): Promise<void> {
    await this.transport.json("remove_auto_checkpoint", { path: { id: this.sandboxId } }, options);
  }
}

/** Returns false if what a call deletes is not there. */
export async function falseIfMissing(call: Promise<unknown>): Promise<boolean> {
  try {
    await call;
    return true;
  } catch (error) {
    if (error instanceof NotFoundError) {
      return false;
    }
    throw error;
  }
}
