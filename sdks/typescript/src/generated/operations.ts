// Generated from api/openapi.json by `npm run generate`. Do not edit.

import type { components } from "./schemas.js";

type Schemas = components["schemas"];

/** Path, query, body and answer of each operation of the API. */
export interface Operations {
  health: {
    path: Record<never, never>;
    query: Record<never, never>;
    body: never;
    answer: Schemas["Health"];
  };
  openapi_json: {
    path: Record<never, never>;
    query: Record<never, never>;
    body: never;
    answer: Record<string, unknown>;
  };
  openapi_yaml: {
    path: Record<never, never>;
    query: Record<never, never>;
    body: never;
    answer: never;
  };
  ready: {
    path: Record<never, never>;
    query: Record<never, never>;
    body: never;
    answer: Schemas["Health"];
  };
  get_disk_usage: {
    path: Record<never, never>;
    query: Record<never, never>;
    body: never;
    answer: Schemas["DiskUsage"];
  };
  list_events: {
    path: Record<never, never>;
    query: { cursor?: string; type?: string; sandbox?: string; since?: string; limit?: number };
    body: never;
    answer: Schemas["Event"][];
  };
  stream_events: {
    path: Record<never, never>;
    query: { cursor?: string; type?: string; sandbox?: string; since?: string };
    body: never;
    answer: never;
  };
  get_host_metrics: {
    path: Record<never, never>;
    query: { from?: string; to?: string; step?: number };
    body: never;
    answer: Schemas["HostMetrics"][];
  };
  import_image: {
    path: Record<never, never>;
    query: { name: string };
    body: never;
    answer: Schemas["Template"];
  };
  prune_images: {
    path: Record<never, never>;
    query: { dry_run?: boolean };
    body: never;
    answer: Schemas["PrunedImages"];
  };
  get_image: {
    path: { name: string };
    query: Record<never, never>;
    body: never;
    answer: Schemas["Template"];
  };
  delete_image: {
    path: { name: string };
    query: Record<never, never>;
    body: never;
    answer: never;
  };
  pull_image: {
    path: { name: string };
    query: Record<never, never>;
    body: Schemas["PullImage"];
    answer: never;
  };
  list_sandboxes: {
    path: Record<never, never>;
    query: {
      label?: string[];
      status?: Schemas["SandboxStatus"][];
      template?: string;
      name_prefix?: string;
      limit?: number;
      cursor?: string;
    };
    body: never;
    answer: Schemas["Sandbox"][];
  };
  create_sandbox: {
    path: Record<never, never>;
    query: Record<never, never>;
    body: Schemas["CreateSandbox"];
    answer: Schemas["Sandbox"];
  };
  count_sandboxes: {
    path: Record<never, never>;
    query: { label?: string[]; status?: Schemas["SandboxStatus"][]; template?: string; name_prefix?: string };
    body: never;
    answer: Schemas["SandboxCount"];
  };
  get_usage: {
    path: Record<never, never>;
    query: { ids?: string; limit?: number; cursor?: string };
    body: never;
    answer: Schemas["SandboxUsage"][];
  };
  get_sandbox: {
    path: { id: string };
    query: Record<never, never>;
    body: never;
    answer: Schemas["Sandbox"];
  };
  delete_sandbox: {
    path: { id: string };
    query: Record<never, never>;
    body: never;
    answer: never;
  };
  update_sandbox: {
    path: { id: string };
    query: Record<never, never>;
    body: Schemas["UpdateSandbox"];
    answer: Schemas["Sandbox"];
  };
  set_auto_checkpoint: {
    path: { id: string };
    query: Record<never, never>;
    body: Schemas["AutoCheckpoint"];
    answer: never;
  };
  remove_auto_checkpoint: {
    path: { id: string };
    query: Record<never, never>;
    body: never;
    answer: never;
  };
  list_checkpoints: {
    path: { id: string };
    query: Record<never, never>;
    body: never;
    answer: Schemas["Checkpoint"][];
  };
  create_checkpoint: {
    path: { id: string };
    query: Record<never, never>;
    body: Schemas["CreateCheckpoint"];
    answer: Schemas["Checkpoint"];
  };
  delete_checkpoint: {
    path: { id: string; name: string };
    query: Record<never, never>;
    body: never;
    answer: never;
  };
  rollback_sandbox: {
    path: { id: string; name: string };
    query: Record<never, never>;
    body: never;
    answer: Schemas["Sandbox"];
  };
  list_commands: {
    path: { id: string };
    query: Record<never, never>;
    body: never;
    answer: Schemas["CommandList"];
  };
  start_command: {
    path: { id: string };
    query: Record<never, never>;
    body: Schemas["StartCommand"];
    answer: Schemas["Command"];
  };
  get_command: {
    path: { id: string; command: string };
    query: Record<never, never>;
    body: never;
    answer: Schemas["Command"];
  };
  attach_command: {
    path: { id: string; command: string };
    query: { offset?: number; tail_bytes?: number; encoding?: "utf-8" | "base64" };
    body: never;
    answer: never;
  };
  read_command_output: {
    path: { id: string; command: string };
    query: { offset?: number; stream?: "stdout" | "stderr"; wait?: number };
    body: never;
    answer: never;
  };
  resize_command: {
    path: { id: string; command: string };
    query: Record<never, never>;
    body: Schemas["TerminalSize"];
    answer: never;
  };
  signal_command: {
    path: { id: string; command: string };
    query: Record<never, never>;
    body: Schemas["CommandSignal"];
    answer: never;
  };
  write_command_stdin: {
    path: { id: string; command: string };
    query: { close?: boolean };
    body: never;
    answer: never;
  };
  diff_sandbox: {
    path: { id: string };
    query: { from?: string; to?: string; path?: string; patches?: boolean; limit?: number; timeout_sec?: number };
    body: never;
    answer: never;
  };
  get_sandbox_disk_usage: {
    path: { id: string };
    query: Record<never, never>;
    body: never;
    answer: Schemas["SandboxDiskUsage"];
  };
  exec: {
    path: { id: string };
    query: Record<never, never>;
    body: Schemas["ExecRequest"];
    answer: Schemas["ExecResult"] | Schemas["BackgroundExec"];
  };
  signal_exec: {
    path: { id: string };
    query: Record<never, never>;
    body: Schemas["SignalRequest"];
    answer: never;
  };
  exec_stream: {
    path: { id: string };
    query: Record<never, never>;
    body: never;
    answer: never;
  };
  read_archive: {
    path: { id: string };
    query: { path: string; user?: string; single_file?: boolean };
    body: never;
    answer: never;
  };
  write_archive: {
    path: { id: string };
    query: { path: string; user?: string; single_file?: boolean };
    body: never;
    answer: never;
  };
  change_mode: {
    path: { id: string };
    query: Record<never, never>;
    body: Schemas["ChmodRequest"];
    answer: Schemas["FileInfo"];
  };
  change_owner: {
    path: { id: string };
    query: Record<never, never>;
    body: Schemas["ChownRequest"];
    answer: Schemas["FileInfo"];
  };
  list_files: {
    path: { id: string };
    query: Record<never, never>;
    body: Schemas["ListFilesRequest"];
    answer: Schemas["FileInfo"][];
  };
  make_directory: {
    path: { id: string };
    query: Record<never, never>;
    body: Schemas["PathRequest"];
    answer: never;
  };
  move_file: {
    path: { id: string };
    query: Record<never, never>;
    body: Schemas["MoveFileRequest"];
    answer: Schemas["FileInfo"];
  };
  read_file: {
    path: { id: string };
    query: Record<never, never>;
    body: Schemas["PathRequest"];
    answer: never;
  };
  remove_file: {
    path: { id: string };
    query: Record<never, never>;
    body: Schemas["PathRequest"];
    answer: never;
  };
  search_files: {
    path: { id: string };
    query: Record<never, never>;
    body: Schemas["SearchFilesRequest"];
    answer: never;
  };
  stat_file: {
    path: { id: string };
    query: Record<never, never>;
    body: Schemas["PathRequest"];
    answer: Schemas["FileInfo"];
  };
  stream_read_file: {
    path: { id: string };
    query: Record<never, never>;
    body: Schemas["PathRequest"];
    answer: never;
  };
  stream_write_file: {
    path: { id: string };
    query: Record<never, never>;
    body: never;
    answer: never;
  };
  begin_upload: {
    path: { id: string };
    query: Record<never, never>;
    body: never;
    answer: never;
  };
  delete_upload: {
    path: { id: string; upload: string };
    query: Record<never, never>;
    body: never;
    answer: never;
  };
  write_upload: {
    path: { id: string; upload: string };
    query: Record<never, never>;
    body: never;
    answer: never;
  };
  get_upload: {
    path: { id: string; upload: string };
    query: Record<never, never>;
    body: never;
    answer: never;
  };
  watch_files: {
    path: { id: string };
    query: { path: string; recursive?: boolean; user?: string };
    body: never;
    answer: never;
  };
  write_file: {
    path: { id: string };
    query: Record<never, never>;
    body: never;
    answer: never;
  };
  fork_sandbox: {
    path: { id: string };
    query: Record<never, never>;
    body: Schemas["ForkSandbox"];
    answer: Schemas["Sandbox"][];
  };
  keep_sandbox_alive: {
    path: { id: string };
    query: Record<never, never>;
    body: never;
    answer: never;
  };
  logs: {
    path: { id: string };
    query: { follow?: boolean };
    body: never;
    answer: never;
  };
  get_sandbox_metrics: {
    path: { id: string };
    query: { from?: string; to?: string; step?: number };
    body: never;
    answer: Schemas["SandboxMetrics"];
  };
  set_network: {
    path: { id: string };
    query: Record<never, never>;
    body: Schemas["NetworkRules"];
    answer: Schemas["Sandbox"];
  };
  pause_sandbox: {
    path: { id: string };
    query: Record<never, never>;
    body: never;
    answer: Schemas["Sandbox"];
  };
  ping_sandbox: {
    path: { id: string };
    query: Record<never, never>;
    body: never;
    answer: never;
  };
  create_port_link: {
    path: { id: string };
    query: Record<never, never>;
    body: Schemas["PortLinkRequest"];
    answer: Schemas["PortLink"];
  };
  list_processes: {
    path: { id: string };
    query: Record<never, never>;
    body: never;
    answer: Schemas["ProcessList"];
  };
  kill_process: {
    path: { id: string; command: string };
    query: { signal?: "SIGHUP" | "SIGINT" | "SIGQUIT" | "SIGKILL" | "SIGUSR1" | "SIGUSR2" | "SIGTERM" };
    body: never;
    answer: never;
  };
  stream_process: {
    path: { id: string; command: string };
    query: { offset?: number; tail_bytes?: number; encoding?: "utf-8" | "base64" };
    body: never;
    answer: never;
  };
  resume_sandbox: {
    path: { id: string };
    query: Record<never, never>;
    body: never;
    answer: Schemas["Sandbox"];
  };
  tunnel: {
    path: { id: string };
    query: { port: number };
    body: never;
    answer: never;
  };
  get_history: {
    path: { id: string };
    query: Record<never, never>;
    body: never;
    answer: Schemas["History"];
  };
  undo_sandbox: {
    path: { id: string };
    query: Record<never, never>;
    body: Schemas["UndoSandbox"];
    answer: Schemas["Undone"];
  };
  wait_for_sandbox: {
    path: { id: string };
    query: { status?: Schemas["SandboxStatus"][]; deleted?: boolean; timeout_sec?: number };
    body: never;
    answer: Schemas["Sandbox"];
  };
  list_snapshots: {
    path: Record<never, never>;
    query: { type?: Schemas["TemplateKind"] };
    body: never;
    answer: Schemas["Template"][];
  };
  create_snapshot: {
    path: Record<never, never>;
    query: { overwrite?: boolean };
    body: Schemas["CreateSnapshot"];
    answer: Schemas["Template"];
  };
  get_snapshot: {
    path: { name: string };
    query: Record<never, never>;
    body: never;
    answer: Schemas["Template"];
  };
  delete_snapshot: {
    path: { name: string };
    query: Record<never, never>;
    body: never;
    answer: never;
  };
  list_templates: {
    path: Record<never, never>;
    query: Record<never, never>;
    body: never;
    answer: Schemas["Template"][];
  };
  list_webhooks: {
    path: Record<never, never>;
    query: Record<never, never>;
    body: never;
    answer: Schemas["Webhook"][];
  };
  create_webhook: {
    path: Record<never, never>;
    query: Record<never, never>;
    body: Schemas["CreateWebhook"];
    answer: Schemas["Webhook"];
  };
  get_webhook: {
    path: { webhook: string };
    query: Record<never, never>;
    body: never;
    answer: Schemas["Webhook"];
  };
  delete_webhook: {
    path: { webhook: string };
    query: Record<never, never>;
    body: never;
    answer: never;
  };
  update_webhook: {
    path: { webhook: string };
    query: Record<never, never>;
    body: Schemas["UpdateWebhook"];
    answer: Schemas["Webhook"];
  };
  list_webhook_deliveries: {
    path: { webhook: string };
    query: { status?: Schemas["DeliveryStatus"]; cursor?: string; limit?: number };
    body: never;
    answer: Schemas["WebhookDelivery"][];
  };
  get_webhook_delivery: {
    path: { webhook: string; delivery: string };
    query: Record<never, never>;
    body: never;
    answer: Schemas["WebhookDelivery"];
  };
  redeliver_webhook_delivery: {
    path: { webhook: string; delivery: string };
    query: Record<never, never>;
    body: never;
    answer: Schemas["WebhookDelivery"];
  };
  redeliver_dead_letters: {
    path: { webhook: string };
    query: Record<never, never>;
    body: never;
    answer: Schemas["Redelivered"];
  };
  rotate_webhook_secret: {
    path: { webhook: string };
    query: Record<never, never>;
    body: Schemas["RotateSecret"];
    answer: Schemas["Webhook"];
  };
  test_webhook: {
    path: { webhook: string };
    query: Record<never, never>;
    body: never;
    answer: Schemas["WebhookDelivery"];
  };
}

/** Method and path of each operation of the API. */
export const ROUTES: { readonly [name in keyof Operations]: readonly [method: string, path: string] } = {
  health: ["GET", "/health"],
  openapi_json: ["GET", "/openapi.json"],
  openapi_yaml: ["GET", "/openapi.yaml"],
  ready: ["GET", "/ready"],
  get_disk_usage: ["GET", "/v1/disk-usage"],
  list_events: ["GET", "/v1/events"],
  stream_events: ["GET", "/v1/events/stream"],
  get_host_metrics: ["GET", "/v1/hosts/metrics"],
  import_image: ["POST", "/v1/images"],
  prune_images: ["DELETE", "/v1/images"],
  get_image: ["GET", "/v1/images/{name}"],
  delete_image: ["DELETE", "/v1/images/{name}"],
  pull_image: ["POST", "/v1/images/{name}/pull"],
  list_sandboxes: ["GET", "/v1/sandboxes"],
  create_sandbox: ["POST", "/v1/sandboxes"],
  count_sandboxes: ["GET", "/v1/sandboxes/count"],
  get_usage: ["GET", "/v1/sandboxes/metrics"],
  get_sandbox: ["GET", "/v1/sandboxes/{id}"],
  delete_sandbox: ["DELETE", "/v1/sandboxes/{id}"],
  update_sandbox: ["PATCH", "/v1/sandboxes/{id}"],
  set_auto_checkpoint: ["PUT", "/v1/sandboxes/{id}/auto-checkpoint"],
  remove_auto_checkpoint: ["DELETE", "/v1/sandboxes/{id}/auto-checkpoint"],
  list_checkpoints: ["GET", "/v1/sandboxes/{id}/checkpoints"],
  create_checkpoint: ["POST", "/v1/sandboxes/{id}/checkpoints"],
  delete_checkpoint: ["DELETE", "/v1/sandboxes/{id}/checkpoints/{name}"],
  rollback_sandbox: ["POST", "/v1/sandboxes/{id}/checkpoints/{name}/rollback"],
  list_commands: ["GET", "/v1/sandboxes/{id}/commands"],
  start_command: ["POST", "/v1/sandboxes/{id}/commands"],
  get_command: ["GET", "/v1/sandboxes/{id}/commands/{command}"],
  attach_command: ["GET", "/v1/sandboxes/{id}/commands/{command}/attach"],
  read_command_output: ["GET", "/v1/sandboxes/{id}/commands/{command}/output"],
  resize_command: ["POST", "/v1/sandboxes/{id}/commands/{command}/resize"],
  signal_command: ["POST", "/v1/sandboxes/{id}/commands/{command}/signal"],
  write_command_stdin: ["POST", "/v1/sandboxes/{id}/commands/{command}/stdin"],
  diff_sandbox: ["GET", "/v1/sandboxes/{id}/diff"],
  get_sandbox_disk_usage: ["GET", "/v1/sandboxes/{id}/disk-usage"],
  exec: ["POST", "/v1/sandboxes/{id}/exec"],
  signal_exec: ["POST", "/v1/sandboxes/{id}/exec/signal"],
  exec_stream: ["GET", "/v1/sandboxes/{id}/exec/stream"],
  read_archive: ["GET", "/v1/sandboxes/{id}/files/archive"],
  write_archive: ["PUT", "/v1/sandboxes/{id}/files/archive"],
  change_mode: ["POST", "/v1/sandboxes/{id}/files/chmod"],
  change_owner: ["POST", "/v1/sandboxes/{id}/files/chown"],
  list_files: ["POST", "/v1/sandboxes/{id}/files/list"],
  make_directory: ["POST", "/v1/sandboxes/{id}/files/mkdir"],
  move_file: ["POST", "/v1/sandboxes/{id}/files/move"],
  read_file: ["POST", "/v1/sandboxes/{id}/files/read"],
  remove_file: ["POST", "/v1/sandboxes/{id}/files/remove"],
  search_files: ["POST", "/v1/sandboxes/{id}/files/search"],
  stat_file: ["POST", "/v1/sandboxes/{id}/files/stat"],
  stream_read_file: ["POST", "/v1/sandboxes/{id}/files/stream/read"],
  stream_write_file: ["POST", "/v1/sandboxes/{id}/files/stream/write"],
  begin_upload: ["POST", "/v1/sandboxes/{id}/files/uploads"],
  delete_upload: ["DELETE", "/v1/sandboxes/{id}/files/uploads/{upload}"],
  write_upload: ["PATCH", "/v1/sandboxes/{id}/files/uploads/{upload}"],
  get_upload: ["HEAD", "/v1/sandboxes/{id}/files/uploads/{upload}"],
  watch_files: ["GET", "/v1/sandboxes/{id}/files/watch"],
  write_file: ["POST", "/v1/sandboxes/{id}/files/write"],
  fork_sandbox: ["POST", "/v1/sandboxes/{id}/fork"],
  keep_sandbox_alive: ["POST", "/v1/sandboxes/{id}/keep-alive"],
  logs: ["GET", "/v1/sandboxes/{id}/logs"],
  get_sandbox_metrics: ["GET", "/v1/sandboxes/{id}/metrics"],
  set_network: ["PUT", "/v1/sandboxes/{id}/network"],
  pause_sandbox: ["POST", "/v1/sandboxes/{id}/pause"],
  ping_sandbox: ["POST", "/v1/sandboxes/{id}/ping"],
  create_port_link: ["POST", "/v1/sandboxes/{id}/port-links"],
  list_processes: ["GET", "/v1/sandboxes/{id}/processes"],
  kill_process: ["DELETE", "/v1/sandboxes/{id}/processes/{command}"],
  stream_process: ["GET", "/v1/sandboxes/{id}/processes/{command}/stream"],
  resume_sandbox: ["POST", "/v1/sandboxes/{id}/resume"],
  tunnel: ["GET", "/v1/sandboxes/{id}/tunnel"],
  get_history: ["GET", "/v1/sandboxes/{id}/undo"],
  undo_sandbox: ["POST", "/v1/sandboxes/{id}/undo"],
  wait_for_sandbox: ["GET", "/v1/sandboxes/{id}/wait"],
  list_snapshots: ["GET", "/v1/snapshots"],
  create_snapshot: ["POST", "/v1/snapshots"],
  get_snapshot: ["GET", "/v1/snapshots/{name}"],
  delete_snapshot: ["DELETE", "/v1/snapshots/{name}"],
  list_templates: ["GET", "/v1/templates"],
  list_webhooks: ["GET", "/v1/webhooks"],
  create_webhook: ["POST", "/v1/webhooks"],
  get_webhook: ["GET", "/v1/webhooks/{webhook}"],
  delete_webhook: ["DELETE", "/v1/webhooks/{webhook}"],
  update_webhook: ["PATCH", "/v1/webhooks/{webhook}"],
  list_webhook_deliveries: ["GET", "/v1/webhooks/{webhook}/deliveries"],
  get_webhook_delivery: ["GET", "/v1/webhooks/{webhook}/deliveries/{delivery}"],
  redeliver_webhook_delivery: ["POST", "/v1/webhooks/{webhook}/deliveries/{delivery}/redeliver"],
  redeliver_dead_letters: ["POST", "/v1/webhooks/{webhook}/redeliver"],
  rotate_webhook_secret: ["POST", "/v1/webhooks/{webhook}/rotate-secret"],
  test_webhook: ["POST", "/v1/webhooks/{webhook}/test"],
};
