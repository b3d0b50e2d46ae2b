/** Objects of the API under the names of this package. All of them come from the API document. */

import type { Received, Sent } from "./casing.js";
import type { components } from "./generated/schemas.js";

export type Schemas = components["schemas"];

export type SandboxInfo = Received<Schemas["Sandbox"]>;
export type SandboxStatus = Schemas["SandboxStatus"];
export type StopReason = Schemas["StopReason"];
export type OnTimeout = Schemas["OnTimeout"];
export type NetworkRules = Sent<Schemas["NetworkRules"]>;
export type AutoCheckpoint = Sent<Schemas["AutoCheckpoint"]>;
export type CheckpointInfo = Received<Schemas["Checkpoint"]>;
export type HistoryInfo = Received<Schemas["History"]>;
export type CommandInfo = Received<Schemas["Command"]>;
export type CommandState = Schemas["CommandState"];
export type ProcessSignal = Schemas["ProcessSignal"];
export type TerminalSize = Schemas["TerminalSize"];
export type FileKind = Schemas["FileKind"];
export type EntryInfo = Received<Schemas["FileInfo"]>;
export type SearchMatch = Received<Extract<Schemas["SearchMessage"], { type: "match" }>>;
export type FileDiff = Received<Schemas["FileDiff"]>;
type DiffStart = Received<Extract<Schemas["DiffMessage"], { type: "start" }>>;
type DiffEnd = Received<Extract<Schemas["DiffMessage"], { type: "end" }>>;
/** What was compared, and why there may be more changes. */
export type DiffSummary = Omit<DiffStart, "type"> & Omit<DiffEnd, "type">;
export type SearchSummary = Received<Extract<Schemas["SearchMessage"], { type: "end" }>>;
export type WatchEvent = Received<Exclude<Schemas["WatchServerMessage"], { type: "started" | "ended" | "error" }>>;
export type PortLink = Received<Schemas["PortLink"]>;
export type TemplateInfo = Received<Schemas["Template"]>;
export type TemplateKind = Schemas["TemplateKind"];
export type EventInfo = Received<Schemas["Event"]>;
export type LogEntry = Received<Schemas["LogEntry"]>;
export type SandboxMetrics = Received<Schemas["SandboxMetrics"]>;
export type SandboxUsage = Received<Schemas["SandboxUsage"]>;
export type HostMetrics = Received<Schemas["HostMetrics"]>;
export type DiskUsage = Received<Schemas["DiskUsage"]>;
export type SandboxDiskUsage = Received<Schemas["SandboxDiskUsage"]>;
export type WebhookInfo = Received<Schemas["Webhook"]>;
export type WebhookDelivery = Received<Schemas["WebhookDelivery"]>;
export type Health = Received<Schemas["Health"]>;
