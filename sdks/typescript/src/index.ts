/**
 * Client of Wrenn Sandbox.
 *
 * ```ts
 * await using sandbox = await Sandbox.create();
 * const { stdout } = await sandbox.commands.run("echo hi");
 * ```
 *
 * @module
 */

export type { OutputStart } from "./attach.js";
export type { Data } from "./bytes.js";
export { Checkpoints } from "./checkpoints.js";
export { Client, type Connection, type MetricsOptions } from "./client.js";
export {
  Commands,
  type BackgroundOptions,
  type CommandId,
  type CommandLine,
  type CommandOptions,
  type ConnectOptions,
  type OutputPart,
  type ReadOutputOptions,
  type RunOptions,
  type StreamOptions,
} from "./commands.js";
export type { RequestOptions } from "./deadline.js";
export * from "./errors.js";
export { Events, EventStream, type EventFilter } from "./events.js";
export {
  Files,
  type ArchiveOptions,
  type FileOptions,
  type ListOptions,
  type SearchOptions,
  type WriteEntry,
  type WriteOptions,
} from "./files.js";
export { CommandHandle, type Output, type OutputCallback, type OutputCallbacks } from "./handle.js";
export type * from "./models.js";
export { PortConnection } from "./ports.js";
export { Pty, type PtyConnectOptions, type PtyOptions } from "./pty.js";
export {
  Sandbox,
  type CreateOptions,
  type DiffOptions,
  type SandboxFilter,
  type UpdateOptions,
  type WaitOptions,
} from "./sandbox.js";
export { Template } from "./template.js";
export type { ClientOptions } from "./transport.js";
export type { UploadSource } from "./uploads.js";
export { DirectoryWatch, FileSearch, SandboxDiff } from "./watch.js";
export { VERSION } from "./version.js";
