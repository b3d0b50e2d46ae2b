// Generated from api/openapi.json by `npm run generate`. Do not edit.

export type paths = Record<string, never>;
export type webhooks = Record<string, never>;
export interface components {
  schemas: {
    /**
     * @description Text frames to the client on `GET /v1/sandboxes/{id}/commands/{command}/attach`. The first one is
     *     `attached`, the last one `exit` or `error`.
     */
    AttachServerMessage:
      | {
          command: components["schemas"]["Command"];
          /** @enum {string} */
          type: "attached";
        }
      | {
          data: string;
          /**
           * Format: int64
           * @description Offset at which to attach again after this frame.
           */
          next_offset: number;
          /** @enum {string} */
          type: "stdout";
        }
      | {
          data: string;
          /** Format: int64 */
          next_offset: number;
          /** @enum {string} */
          type: "stderr";
        }
      | {
          /** Format: int64 */
          bytes: number;
          /** Format: int64 */
          next_offset: number;
          /** @enum {string} */
          type: "dropped";
        }
      | {
          /** Format: int32 */
          exit_code: number;
          /** Format: int32 */
          signal?: number | null;
          /** @enum {string} */
          type: "exit";
        }
      | {
          code: string;
          data: string;
          /** @enum {string} */
          type: "error";
        };
    /**
     * @description When the host of a sandbox makes checkpoints by itself: before each command, or each so many
     *     seconds, or both.
     */
    AutoCheckpoint: {
      /**
       * @description One before each command. Commands that run at the same time share one.
       * @example true
       */
      before_each_command?: boolean;
      /**
       * Format: int32
       * @description One each so many seconds, while the sandbox is in use.
       */
      every_sec?: number | null;
      /**
       * Format: int32
       * @description How many stay: the oldest go first. Default 10.
       */
      keep?: number;
      /**
       * Format: int64
       * @description Bytes that they may take together, without what others have, too. The newest one stays in
       *     any case. Default: no bound.
       */
      max_bytes?: number | null;
    };
    /** @description Answer to an exec with `background`. */
    BackgroundExec: {
      cmd: string;
      /** Format: int32 */
      pid: number;
      sandbox_id: string;
      /** @description The `tag` of the request; the id of the command where it has none. */
      tag: string;
    };
    /**
     * Format: binary
     * @description Any bytes.
     */
    Binary: string;
    /** @description An instant of a sandbox that it can be put back to. */
    Checkpoint: {
      /** @description Made by the host, which removes it when newer ones need its place. */
      automatic?: boolean;
      /** @description RFC 3339. */
      created_at: string;
      /**
       * Format: int64
       * @description What is free on the host when it is deleted.
       */
      exclusive_bytes?: number;
      name: string;
      /**
       * Format: int64
       * @description What stays, since the sandbox, other checkpoints or templates have it, too.
       */
      shared_bytes?: number;
      /**
       * Format: int64
       * @description Allocated on the host.
       */
      size_bytes: number;
    };
    /** @description Body of `POST /v1/sandboxes/{id}/files/chmod`. */
    ChmodRequest: {
      /**
       * @description As of chmod(1): octal digits, or a symbolic mode such as `u+rwX,go-w`.
       * @example u+x
       */
      mode: string;
      /** @example /home/user/run.sh */
      path: string;
      /** @description Of a directory also all that is below it. */
      recursive?: boolean;
      /** @description User in the guest; the template's default user where absent. Only the owner and root may. */
      user?: string | null;
    };
    /** @description Body of `POST /v1/sandboxes/{id}/files/chown`. */
    ChownRequest: {
      /**
       * @description Name or number of the new group; it stays where absent.
       * @example user
       */
      group?: string | null;
      /**
       * @description Name or number of the new owner; it stays where absent. Owner or group must be there.
       * @example user
       */
      owner?: string | null;
      /** @example /srv/data */
      path: string;
      /** @description Of a directory also all that is below it. */
      recursive?: boolean;
      /**
       * @description User in the guest; the template's default user where absent. Only root may give files away.
       * @example root
       */
      user?: string | null;
    };
    /** @description A background command, running or ended. Ended ones are kept for an hour, and 32 of them at most. */
    Command: {
      /** @description The first arguments, as far as they fit in 4 KiB. */
      args: string[];
      /** @description Not all arguments are in `args`. */
      args_truncated?: boolean;
      cmd: string;
      ended_at?: string | null;
      /**
       * Format: int32
       * @description 128 + signal where a signal ended it. Absent while it runs.
       */
      exit_code?: number | null;
      /** @example cmd-3f9a1c02 */
      id: string;
      keep_alive: boolean;
      name?: string | null;
      output: components["schemas"]["CommandOutput"];
      /**
       * Format: int32
       * @description 0 for a start command that does not run at the moment.
       */
      pid: number;
      /**
       * Format: int32
       * @description Number of the signal that ended it (signal(7)).
       */
      signal?: number | null;
      /** @description By the clock of the sandbox. */
      started_at: string;
      state: components["schemas"]["CommandState"];
      supervision?: components["schemas"]["Supervision"] | null;
      /** @description It runs on a terminal. */
      terminal: boolean;
      /** @description Its `timeout_sec` passed, and it was killed. */
      timed_out?: boolean;
    };
    /** @description Answer to `GET /v1/sandboxes/{id}/commands`, oldest first. */
    CommandList: {
      commands: components["schemas"]["Command"][];
    };
    /**
     * @description Output that is kept, at most the last 32 MiB. Stdout and stderr share one line of offsets, in
     *     bytes.
     */
    CommandOutput: {
      /**
       * Format: int64
       * @description Number of bytes that are not kept any more.
       */
      dropped: number;
      /**
       * Format: int64
       * @description Offset behind the last byte: number of bytes written so far.
       */
      end: number;
      /**
       * Format: int64
       * @description Offset of the first byte that is kept.
       */
      start: number;
    };
    /** @description Body of `POST /v1/sandboxes/{id}/commands/{command}/signal`. */
    CommandSignal: {
      signal: components["schemas"]["ProcessSignal"];
    };
    /**
     * @description State of a background command.
     * @enum {string}
     */
    CommandState: "running" | "restarting" | "exited";
    /** @description Body of `POST /v1/sandboxes/{id}/checkpoints`. */
    CreateCheckpoint: {
      /**
       * @description Default `checkpoint-` and eight hex digits.
       * @example before-upgrade
       */
      name?: string | null;
    };
    /** @description Body of `POST /v1/sandboxes`. Every field has a default. */
    CreateSandbox: {
      auto_checkpoint?: components["schemas"]["AutoCheckpoint"] | null;
      /**
       * @description True if a command in the paused sandbox, a call on its files or a connection to a port
       *     resumes it. Default true.
       */
      auto_resume?: boolean | null;
      /**
       * Format: int32
       * @description MiB of the root disk. Default, and least, is the size of the template's file system; from a
       *     snapshot with memory always the snapshot's.
       */
      disk_mb?: number | null;
      /**
       * Format: date-time
       * @description Time (RFC 3339) at which it is stopped, whatever it does. Default: none.
       */
      ends_at?: string | null;
      /** @description Environment of every process in the sandbox. */
      envs?: {
        [key: string]: string;
      };
      if_exists?: components["schemas"]["IfExists"] | null;
      /**
       * @description Keys and values to find it by.
       * @example {
       *       "env": "test",
       *       "team": "search"
       *     }
       */
      labels?: {
        [key: string]: string;
      };
      /**
       * Format: int32
       * @description MiB. Default 512; from a snapshot with memory always the snapshot's.
       */
      memory_mb?: number | null;
      /**
       * @description Name, which stands for the id wherever one does. Unique among the team's sandboxes that are
       *     neither stopped nor failed.
       * @example web-1
       */
      name?: string | null;
      network?: components["schemas"]["NetworkRules"] | null;
      on_timeout?: components["schemas"]["OnTimeout"] | null;
      /** @description True if the address of a port is enough to use it, without a key or a link. Default false. */
      public_ports?: boolean | null;
      start_command?: components["schemas"]["SupervisedCommand"] | null;
      /**
       * @description Default `minimal`.
       * @example minimal
       */
      template?: string | null;
      /**
       * Format: int32
       * @description Seconds without activity until `on_timeout` is done. 0 and absent mean 300.
       */
      timeout_sec?: number | null;
      /**
       * Format: int32
       * @description Default 1; from a snapshot with memory always the snapshot's.
       */
      vcpus?: number | null;
    };
    /** @description Body of `POST /v1/snapshots`. */
    CreateSnapshot: {
      /**
       * @description With the memory, so that sandboxes go on where this one is, with its vCPUs, memory and disk
       *     size. Without it they boot from its disk. Default true.
       */
      memory?: boolean | null;
      /**
       * @description Name of the template. Default `template-` and eight hex digits.
       * @example my-template
       */
      name?: string | null;
      /** @description Replace a snapshot of that name. Default false. */
      overwrite?: boolean | null;
      /**
       * @description A sandbox that runs or is paused.
       * @example sb-0123456789abcdefghij
       */
      sandbox_id: string;
    };
    /** @description Body of `POST /v1/webhooks`. */
    CreateWebhook: {
      description?: string | null;
      /**
       * @description Types of events, such as `sandbox.*` or `key.created`. Default: all.
       * @example [
       *       "sandbox.*"
       *     ]
       */
      events?: string[] | null;
      /**
       * @description `https`, and at a public address. `CP_WEBHOOK_ALLOW` of the server allows others.
       * @example https://example.com/hooks/wrenn
       */
      url: string;
    };
    /**
     * @description State of a delivery.
     * @enum {string}
     */
    DeliveryStatus: "pending" | "delivered" | "dead";
    /** @description A line of the answer of a comparison. The first one is `start`, the last one `end`. */
    DiffMessage:
      | {
          /** @description Checkpoint before. */
          from: string;
          /**
           * @description The guest did not flush its file system before that moment: what it had in memory alone
           *     is not compared.
           */
          from_unflushed?: boolean;
          /** @description Checkpoint after; absent for the present state. */
          to?: string | null;
          to_unflushed?: boolean;
          /** @enum {string} */
          type: "start";
        }
      | (components["schemas"]["FileDiff"] & {
          /** @enum {string} */
          type: "change";
        })
      | {
          /**
           * Format: int64
           * @description Number of files and directories that were compared.
           */
          compared: number;
          /** @description Reason why there may be more changes; absent where these are all. */
          incomplete?: string | null;
          /** @enum {string} */
          type: "end";
          /**
           * Format: int64
           * @description Number of changes that are unreadable.
           */
          unreadable: number;
        };
    /** @description A root disk on its host. */
    Disk: {
      /**
       * @description What it is made of: `dm`, `reflink`, `qcow2` or `copy`.
       * @example dm
       */
      backend: string;
      /**
       * Format: int64
       * @description Allocated on the host, without what it shares with others.
       */
      used_bytes: number;
    };
    /** @description Space of the team's sandboxes and snapshots, and of whole hosts for operators. */
    DiskUsage: {
      /** @description The team's sandboxes, by id. */
      by_sandbox: components["schemas"]["SandboxDiskUsage"][];
      checkpoints: components["schemas"]["Space"];
      images?: components["schemas"]["Space"] | null;
      /** @description Saved states of paused sandboxes. */
      paused: components["schemas"]["Space"];
      preboot_cache?: components["schemas"]["Space"] | null;
      /** @description Disks, logs, and memory that is in files while they run. */
      sandboxes: components["schemas"]["Space"];
      snapshots: components["schemas"]["Space"];
      /** @description All of it; less than the sum of the kinds where they share blocks. */
      total: components["schemas"]["Sizes"];
    };
    /**
     * @description How the bytes of a stream stand in a JSON string.
     * @enum {string}
     */
    Encoding: "utf-8" | "base64";
    /** @description Body of every answer whose status is 400 or above. */
    ErrorBody: {
      error: components["schemas"]["ErrorDetail"];
    };
    /** @description What went wrong. */
    ErrorDetail: {
      /**
       * @description One of a small closed set; match on this, not on the message.
       * @enum {string}
       */
      code:
        | "invalid_request"
        | "unauthorized"
        | "forbidden"
        | "not_found"
        | "method_not_allowed"
        | "invalid_state"
        | "conflict"
        | "expired"
        | "too_large"
        | "unsupported_media_type"
        | "idempotency_mismatch"
        | "resource_exhausted"
        | "internal_error"
        | "agent_error"
        | "host_unavailable"
        | "timeout"
        | "insufficient_storage";
      /**
       * Format: int32
       * @description Exit code that a shell gives for a program that cannot be started: 127 where there is no
       *     such program, 126 where it cannot be executed. Absent from all other errors.
       */
      exit_code?: number | null;
      /** @description What was wrong and what to do, for a person. */
      message: string;
    };
    /** @description A change of a sandbox, command, template, key or host. */
    Event: {
      actor: components["schemas"]["EventActor"];
      /**
       * @description Place in the order of all events: `cursor` of the request for those that follow.
       * @example 42
       */
      cursor: string;
      /** @description What else there is to tell, by type; fields may be added. */
      data: Record<string, never>;
      /**
       * Format: int64
       * @description Generation of the sandbox after the change. It only grows.
       */
      generation?: number | null;
      /**
       * @description The same wherever the event is sent to, and of no other event.
       * @example evt-19d3c1a2b4f-2a
       */
      id: string;
      /** @description `X-Request-Id` of the request that made the change. */
      request_id?: string | null;
      sandbox_id?: string | null;
      /**
       * @description Id or name of what changed.
       * @example sb-4f2k9d0c3m1x7q8w5zra
       */
      subject: string;
      /** @description Team whose event it is; absent for events of the installation, such as those of hosts. */
      team_id?: string | null;
      /**
       * @description RFC 3339.
       * @example 2026-01-01T00:00:00.123Z
       */
      time: string;
      /**
       * @description What changed and how.
       * @example sandbox.paused
       */
      type: string;
    };
    /** @description Who made a change. */
    EventActor: {
      /**
       * @description Network address of the client.
       * @example 192.0.2.7
       */
      address?: string | null;
      /**
       * @description Id of an API key, `operator` for `wrenn-cp` on the server, or `system`.
       * @example key-00f1e2d3c4b5a697
       */
      id: string;
    };
    /** @description Text frames from the client on `GET /v1/sandboxes/{id}/exec/stream`. The first one is `start`. */
    ExecClientMessage:
      | {
          args?: string[];
          cmd: string;
          cwd?: string | null;
          /** @description Of `stdout` and `stderr` frames. With `utf-8`, bytes that are not UTF-8 are replaced. */
          encoding?: components["schemas"]["Encoding"];
          envs?: {
            [key: string]: string;
          };
          /** @description Whether `stdin` frames will follow; otherwise the process reads end of file at once. */
          stdin?: boolean;
          terminal?: components["schemas"]["TerminalSize"] | null;
          /**
           * Format: int32
           * @description Seconds until the process group gets SIGTERM, and SIGKILL 10 seconds later; the last
           *     frame is `error` with code `timeout` then. Without it the process may run for ever.
           */
          timeout_sec?: number | null;
          /** @enum {string} */
          type: "start";
          user?: string | null;
        }
      | {
          data: string;
          encoding?: components["schemas"]["Encoding"];
          /** @enum {string} */
          type: "stdin";
        }
      | {
          /** @enum {string} */
          type: "stdin_close";
        }
      | {
          size: components["schemas"]["TerminalSize"];
          /** @enum {string} */
          type: "resize";
        }
      | {
          signal: components["schemas"]["ProcessSignal"];
          /** @enum {string} */
          type: "signal";
        }
      | {
          /** @enum {string} */
          type: "stop";
        };
    /**
     * @description Body of `POST /v1/sandboxes/{id}/exec`. The program is run directly, not by a shell. In command,
     *     arguments, variables and working directory a byte that is not UTF-8 is written as U+10FFFD, `x`
     *     and two hexadecimal digits.
     */
    ExecRequest: {
      args?: string[];
      /**
       * @description Starts a background command and returns 202 at once; see `POST commands`, which can do more.
       *     Without `timeout_sec` it may then run for ever.
       */
      background?: boolean;
      /**
       * @description Name or path of the program.
       * @example python3
       */
      cmd: string;
      /** @description Working directory. Where absent, that of the image's configuration, else the user's home. */
      cwd?: string | null;
      /** @description Added to the environment of the sandbox. */
      envs?: {
        [key: string]: string;
      };
      /** @description Name of the background command. */
      tag?: string | null;
      /**
       * Format: int32
       * @description Seconds until the process group gets SIGTERM, and SIGKILL 10 seconds later; the answer is
       *     504 then. Default 30.
       */
      timeout_sec?: number | null;
      /** @description User in the guest; the template's default user where absent. */
      user?: string | null;
    };
    /** @description Answer to an exec. A non-zero exit code is an answer, not an error. */
    ExecResult: {
      cmd: string;
      /** Format: int64 */
      duration_ms: number;
      /** @description Of both streams: `base64` when either is not valid UTF-8. */
      encoding: components["schemas"]["Encoding"];
      /**
       * Format: int32
       * @description 128 + signal where a signal ended the process.
       */
      exit_code: number;
      sandbox_id: string;
      stderr: string;
      stdout: string;
      /**
       * @description The program wrote more than 16 MiB: what came after that is left out, the exit code is its
       *     own.
       */
      truncated?: boolean;
    };
    /** @description Text frames to the client. The last one is `exit` or `error`. */
    ExecServerMessage:
      | {
          /** Format: int32 */
          pid: number;
          /** @enum {string} */
          type: "start";
        }
      | {
          data: string;
          /** @enum {string} */
          type: "stdout";
        }
      | {
          data: string;
          /** @enum {string} */
          type: "stderr";
        }
      | {
          /** Format: int32 */
          exit_code: number;
          /** @enum {string} */
          type: "exit";
        }
      | {
          code: string;
          data: string;
          /**
           * Format: int32
           * @description 127 where there is no such program, 126 where it cannot be executed; absent from all
           *     other errors.
           */
          exit_code?: number | null;
          /** @enum {string} */
          type: "error";
        };
    /**
     * @description A file that is not as it was, or may be not: new without `before`, gone without `after`, unless
     *     it is unreadable.
     */
    FileDiff: {
      after?: components["schemas"]["FileState"] | null;
      /** @description Extended attributes differ, such as capabilities of a program. */
      attributes_changed?: boolean;
      before?: components["schemas"]["FileState"] | null;
      /** @description The bytes of a regular file differ. */
      content_changed?: boolean;
      patch?: components["schemas"]["FilePatch"] | null;
      /** @example /home/user/notes.txt */
      path: string;
      /**
       * @description Not all of it could be read at both moments, or of what is in a directory: it may differ in
       *     more than is told here. A side that could not be read at all is absent.
       */
      unreadable?: boolean;
    };
    /** @description One file, as `stat` shows it. */
    FileInfo: {
      group: string;
      kind: components["schemas"]["FileKind"];
      /**
       * Format: int32
       * @description Permission bits.
       */
      mode: number;
      /** @description RFC 3339. */
      modified_at: string;
      owner: string;
      path: string;
      /**
       * Format: int64
       * @description Bytes.
       */
      size: number;
      symlink_target?: string | null;
    };
    /**
     * @description Type of an entry of a guest's file system.
     * @enum {string}
     */
    FileKind: "file" | "directory" | "symlink" | "other";
    /** @description How a content differs. */
    FilePatch: {
      is_binary?: boolean;
      /** @description Lines are missing at the end, or all of them. */
      is_cut?: boolean;
      /** @description Hunks of a unified diff. Empty where a side is binary, or too long. */
      text: string;
    };
    /** @description A file as it is at one of both moments. */
    FileState: {
      /**
       * @description Major and minor number.
       * @example 7:0
       */
      device?: string | null;
      /** Format: int32 */
      gid: number;
      kind: components["schemas"]["InodeKind"];
      /**
       * Format: int32
       * @description Permission bits.
       */
      mode: number;
      /** @description SHA-256 of the content, of a file without a unified diff. */
      sha256?: string | null;
      /**
       * Format: int64
       * @description Bytes of a regular file.
       */
      size: number;
      symlink_target?: string | null;
      /** Format: int32 */
      uid: number;
    };
    /** @description Body of `POST /v1/sandboxes/{id}/fork`. */
    ForkSandbox: {
      /**
       * Format: int32
       * @description How many. Default 1.
       */
      count?: number | null;
    };
    /** @description What a guest says that it uses. */
    GuestUsage: {
      /** Format: int64 */
      disk_used_bytes: number;
      /** Format: int64 */
      memory_used_bytes: number;
    };
    /** @description Answer to `GET /health`. */
    Health: {
      /**
       * @description `ok`, or `degraded` when no host can be reached.
       * @enum {string}
       */
      status: "ok" | "degraded";
      version: string;
    };
    /** @description Automatic checkpoints of a sandbox. */
    History: {
      auto_checkpoint?: components["schemas"]["AutoCheckpoint"] | null;
      /** @description Why the last automatic checkpoint could not be made. */
      failure?: string | null;
      /** @description Where an undo of 1, 2, … steps goes. */
      steps: components["schemas"]["Checkpoint"][];
    };
    /** @description A host: an entry of `GET /v1/hosts/metrics`. Its network is that of its sandboxes. */
    HostMetrics: components["schemas"]["ResourceSizes"] & {
      id: string;
      /** @description Oldest first. */
      points: components["schemas"]["MetricsPoint"][];
      /**
       * Format: int32
       * @description Sandboxes on it, in any state.
       */
      sandboxes: number;
      /**
       * Format: int32
       * @description Seconds between two points.
       * @example 1
       */
      step_sec: number;
    };
    /**
     * @description Answer to a create whose name a living sandbox has.
     * @enum {string}
     */
    IfExists: "error" | "return";
    /**
     * @description Type of a file, as the file system on a disk has it.
     * @enum {string}
     */
    InodeKind: "file" | "directory" | "symlink" | "block_device" | "character_device" | "fifo" | "socket";
    /** @description Body of `POST /v1/sandboxes/{id}/files/list`. */
    ListFilesRequest: {
      /** @description `X-Next-Cursor` of the page before, unchanged. */
      cursor?: string | null;
      /**
       * Format: int32
       * @description Levels to go down. Default 1.
       */
      depth?: number | null;
      /**
       * Format: int32
       * @description Most entries of a page. Without it all entries come in one list, up to 100,000.
       */
      limit?: number | null;
      path: string;
      user?: string | null;
    };
    /** @description One line of `GET /v1/sandboxes/{id}/logs`, which answers with one such JSON object per line. */
    LogEntry: {
      line: string;
      source: components["schemas"]["LogSource"];
      /** @description RFC 3339. */
      time: string;
    };
    /**
     * @description Writer of a line in the log of a sandbox.
     * @enum {string}
     */
    LogSource: "console" | "agent";
    /**
     * @description Usage at one time, measured by the host. Over a longer step rates are means, and sizes the
     *     highest.
     */
    MetricsPoint: {
      /**
       * Format: double
       * @description Percent of one processor: 200 is two whole ones.
       * @example 12.5
       */
      cpu_percent: number;
      /**
       * Format: int64
       * @description What its disk takes on the host.
       */
      disk_used_bytes: number;
      guest?: components["schemas"]["GuestUsage"] | null;
      /**
       * Format: int64
       * @description What it takes of the host's memory. Memory that the guest has freed still counts.
       */
      memory_used_bytes: number;
      /**
       * Format: int64
       * @description Bytes per second that it receives, and sends.
       */
      network_rx_bytes_per_sec: number;
      /** Format: int64 */
      network_tx_bytes_per_sec: number;
      /**
       * @description Begin of the time that it is about, RFC 3339.
       * @example 2026-01-01T00:00:00.000Z
       */
      time: string;
    };
    /** @description Body of `POST /v1/sandboxes/{id}/files/move`. */
    MoveFileRequest: {
      /**
       * @description The new path itself, also where a directory is there. Missing parents are made.
       * @example /home/user/final.txt
       */
      destination: string;
      /**
       * @description Replaces a file that is there, or an empty directory by a directory. Default true.
       * @default true
       */
      overwrite?: boolean;
      /** @example /home/user/draft.txt */
      source: string;
      /** @description User in the guest; the template's default user where absent. */
      user?: string | null;
    };
    /**
     * @description Where a sandbox may connect to, and how fast. An entry is an IPv4 or IPv6 address, a network as
     *     in `192.0.2.0/24` or `2001:db8::/32`, or a name: `example.com`, `*.example.com` (everything
     *     below it) or `*`. What is in `allow_out` is allowed even where `deny_out` has it, too.
     *     `0.0.0.0/0` in `deny_out` is the whole internet, over IPv6, too; in `allow_out` it is all of
     *     IPv4, and `::/0` all of IPv6. Whatever the rules, no sandbox reaches addresses that are private,
     *     link-local or shared, metadata of clouds, the host or other sandboxes.
     */
    NetworkRules: {
      /** @description Whether what is in neither list is allowed. Default true. */
      allow_internet?: boolean;
      /**
       * @example [
       *       "*.pypi.org",
       *       "files.pythonhosted.org"
       *     ]
       */
      allow_out?: string[];
      /**
       * @description With a name in either list, other addresses can only be reached as those of a name that is
       *     not denied.
       */
      deny_out?: string[];
      /**
       * Format: int32
       * @description How fast it may send, in Mbit/s; without it as fast as its host lets all sandboxes be.
       */
      egress_mbps?: number | null;
      /**
       * Format: int32
       * @description How fast it may receive, in Mbit/s; as `egress_mbps`.
       */
      ingress_mbps?: number | null;
    };
    /**
     * @description Action when a sandbox has been idle for its timeout.
     * @enum {string}
     */
    OnTimeout: "pause" | "kill";
    /**
     * @description Names one path in the guest; relative paths start at the working directory of the image's
     *     configuration, without one at the user's home. A byte that is not UTF-8 is written as U+10FFFD,
     *     `x` and two hexadecimal digits, here and in all answers.
     */
    PathRequest: {
      /** @example /home/user/notes.txt */
      path: string;
      /** @description User in the guest; the template's default user where absent. */
      user?: string | null;
    };
    /** @description A link to a port. */
    PortLink: {
      /** @description RFC 3339; absent where ports are public. */
      expires_at?: string | null;
      /**
       * @description On the server's own name. Pages there live in a browser's sandbox, without cookies and
       *     storage.
       */
      path_url: string;
      /** @description For the header `X-Wrenn-Link` of programs; absent where ports are public. */
      token?: string | null;
      /**
       * @description For a browser. A name of the port's own, where it is known to lead to this server; else the
       *     same as `path_url`.
       */
      url: string;
    };
    /** @description Body of `POST /v1/sandboxes/{id}/port-links`. */
    PortLinkRequest: {
      /**
       * Format: int32
       * @description Seconds until the link opens nothing any more. Default 3600, at most 30 days.
       */
      expires_in_sec?: number | null;
      /**
       * Format: int32
       * @example 3000
       */
      port: number;
    };
    /** @description A background command that runs. */
    Process: {
      args: string[];
      cmd: string;
      /** Format: int32 */
      pid: number;
      tag: string;
    };
    /** @description Answer to `GET /v1/sandboxes/{id}/processes`. */
    ProcessList: {
      processes: components["schemas"]["Process"][];
    };
    /**
     * @description Signal for a running program.
     * @enum {string}
     */
    ProcessSignal: "SIGHUP" | "SIGINT" | "SIGQUIT" | "SIGKILL" | "SIGUSR1" | "SIGUSR2" | "SIGTERM";
    /** @description Answer of `DELETE /v1/images`: images that no sandbox was made from. */
    PrunedImages: {
      /** @description Nothing was deleted. */
      dry_run: boolean;
      /** @description Images that could not be deleted. */
      failed: components["schemas"]["UnprunedImage"][];
      /**
       * Format: int64
       * @description Bytes that are free on hosts when these are deleted.
       */
      freed_bytes: number;
      /** @description Images that were deleted, or would be, by name. */
      images: components["schemas"]["Template"][];
      /**
       * Format: int64
       * @description Bytes of them that stay, since snapshots or other images have them, too.
       */
      shared_bytes: number;
    };
    /** @description Body of `POST /v1/images/{name}/pull`. */
    PullImage: {
      credentials?: components["schemas"]["RegistryCredentials"] | null;
      /**
       * @description Reference of the image; without a registry it is Docker Hub's.
       * @example alpine:3.20
       */
      reference: string;
      /** @description Replace another image that the team has under that name. Default false. */
      replace?: boolean | null;
    };
    /**
     * @description A line of the answer of a pull. The last one is `done` or `error`; without either the answer
     *     broke off, and the image may be there.
     */
    PullMessage:
      | {
          /**
           * Format: int64
           * @description Bytes of layers that have come.
           */
          bytes: number;
          /** Format: int32 */
          layers: number;
          /** Format: int32 */
          layers_done: number;
          phase: components["schemas"]["PullPhase"];
          /**
           * Format: int64
           * @description Bytes of layers that there are.
           */
          total_bytes: number;
          /** @enum {string} */
          type: "progress";
        }
      | {
          image: components["schemas"]["Template"];
          /** @enum {string} */
          type: "done";
        }
      | {
          error: components["schemas"]["ErrorDetail"];
          /** @enum {string} */
          type: "error";
        };
    /**
     * @description Phase of a pull.
     * @enum {string}
     */
    PullPhase: "downloading" | "unpacking";
    /** @description Answer to a request to send dead letters again. */
    Redelivered: {
      /**
       * Format: int64
       * @description Number of deliveries that are sent again.
       */
      count: number;
    };
    /** @description Credentials for a registry: a name with a password or access token, or an identity token alone. */
    RegistryCredentials: {
      /** @description Refresh token of OAuth 2, as `docker login` stores it for some registries. */
      identity_token?: string | null;
      password?: string | null;
      username?: string | null;
    };
    /** @description Sizes that usage is measured against. */
    ResourceSizes: {
      /**
       * Format: int32
       * @example 1
       */
      cpu_count: number;
      /**
       * Format: int64
       * @description 0 where it is not known.
       * @example 4294967296
       */
      disk_total_bytes: number;
      /**
       * Format: int64
       * @example 536870912
       */
      memory_total_bytes: number;
    };
    /**
     * @description End after which a command is started again.
     * @enum {string}
     */
    RestartCondition: "never" | "on_failure" | "always";
    /** @description Body of `POST /v1/webhooks/{webhook}/rotate-secret`. */
    RotateSecret: {
      /**
       * Format: int32
       * @description Seconds for which the secret before signs as well. Default a day.
       */
      overlap_sec?: number | null;
    };
    /** @description A sandbox. Times are RFC 3339. */
    Sandbox: {
      auto_checkpoint?: components["schemas"]["AutoCheckpoint"] | null;
      auto_resume?: boolean;
      created_at: string;
      disk?: components["schemas"]["Disk"] | null;
      /**
       * Format: int32
       * @description MiB of the root disk; known once a host has the sandbox, or where it was asked for.
       */
      disk_mb?: number | null;
      /** @description When it is stopped, whatever it does. */
      ends_at?: string | null;
      guest_ip?: string | null;
      host_ip?: string | null;
      /** @example sb-0123456789abcdefghij */
      id: string;
      labels?: {
        [key: string]: string;
      };
      last_active_at?: string | null;
      last_updated: string;
      /** Format: int32 */
      memory_mb: number;
      name?: string | null;
      network?: components["schemas"]["NetworkRules"];
      on_timeout?: components["schemas"]["OnTimeout"];
      /** @description Whether its ports need no key and no link. */
      public_ports?: boolean;
      /**
       * @description Why it is `stopped` or `error`; or why it is `running` but stands still, as when the host's
       *     disk is full.
       */
      reason?: string | null;
      start_command?: components["schemas"]["SupervisedCommand"] | null;
      started_at?: string | null;
      status: components["schemas"]["SandboxStatus"];
      stop_reason?: components["schemas"]["StopReason"] | null;
      template: string;
      /** Format: int32 */
      timeout_sec: number;
      /** Format: int32 */
      vcpus: number;
    };
    /** @description Answer to `GET /v1/sandboxes/count`. */
    SandboxCount: {
      /** Format: int64 */
      count: number;
    };
    /** @description Space of one sandbox. */
    SandboxDiskUsage: {
      checkpoints: components["schemas"]["Space"];
      /** @example sb-0123456789abcdefghij */
      id: string;
      /** @description Disk, log, and memory that is in files while it runs. */
      own: components["schemas"]["Sizes"];
      /** @description Saved state while it is paused. */
      paused: components["schemas"]["Sizes"];
      /** @description Everything that goes with the sandbox. */
      total: components["schemas"]["Sizes"];
    };
    /** @description Answer to `GET /v1/sandboxes/{id}/metrics`. */
    SandboxMetrics: components["schemas"]["ResourceSizes"] & {
      /** @example sb-0123456789abcdefghij */
      id: string;
      /**
       * @description Oldest first. Times at which nothing was measured, as those in which it was paused, are left
       *     out.
       */
      points: components["schemas"]["MetricsPoint"][];
      /**
       * Format: int32
       * @description Seconds between two points.
       * @example 1
       */
      step_sec: number;
    };
    /**
     * @description State of a sandbox.
     * @enum {string}
     */
    SandboxStatus: "pending" | "running" | "paused" | "stopped" | "error";
    /** @description Present usage of a sandbox: an entry of `GET /v1/sandboxes/metrics`. */
    SandboxUsage: components["schemas"]["ResourceSizes"] & {
      /** @example sb-0123456789abcdefghij */
      id: string;
      latest?: components["schemas"]["MetricsPoint"] | null;
      status: components["schemas"]["SandboxStatus"];
    };
    /** @description Body of `POST /v1/sandboxes/{id}/files/search`. `name`, `content` or both must be there. */
    SearchFilesRequest: {
      /**
       * @description Regular expression that a line of a file has, in the syntax of Rust's `regex`. Files with a
       *     NUL byte are passed over.
       * @example def \w+
       */
      content?: string | null;
      /**
       * Format: int32
       * @description Levels to go down; all where absent.
       */
      depth?: number | null;
      ignore_case?: boolean;
      /**
       * Format: int32
       * @description Most matches. Default 1000.
       */
      limit?: number | null;
      /** @description `content` is text, not a regular expression. */
      literal?: boolean;
      /**
       * @description Glob of the names of files; with a slash, of their paths below `path`.
       * @example *.py
       */
      name?: string | null;
      /**
       * @description Directory below which is searched, or a file.
       * @example /home/user
       */
      path: string;
      /**
       * Format: int32
       * @description Longest time. Default 30.
       */
      timeout_sec?: number | null;
      /** @description User in the guest; the template's default user where absent. */
      user?: string | null;
    };
    /** @description A line of the answer of a search; the last one is `end`. */
    SearchMessage:
      | {
          /** @description The line is longer than `text`. */
          is_cut?: boolean;
          kind: components["schemas"]["FileKind"];
          /**
           * Format: int64
           * @description Number of the line that has `content`, from 1.
           */
          line?: number | null;
          path: string;
          /** @description That line, at most 1024 bytes of it. Bytes that are not UTF-8 are replaced. */
          text?: string | null;
          /** @enum {string} */
          type: "match";
        }
      | {
          /**
           * Format: int64
           * @description Number of files that were passed over because they are binary.
           */
          binary: number;
          /** @description Reason why there may be more matches; absent where these are all. */
          incomplete?: string | null;
          /**
           * Format: int64
           * @description Number of files whose content was searched.
           */
          searched: number;
          /** @enum {string} */
          type: "end";
          /**
           * Format: int64
           * @description Number of files and directories that could not be read.
           */
          unreadable: number;
        };
    /** @description Body of `POST /v1/sandboxes/{id}/exec/signal`. */
    SignalRequest: {
      /**
       * Format: int32
       * @description Process that `start` of an exec stream named. The signal goes to its whole process group.
       */
      pid: number;
      signal: components["schemas"]["ProcessSignal"];
    };
    /** @description Bytes on the hosts' disks. Blocks that several of the things have are counted once. */
    Sizes: {
      /**
       * Format: int64
       * @description What is free when all of it is deleted.
       */
      exclusive_bytes: number;
      /**
       * Format: int64
       * @description What stays, since others have it, too.
       */
      shared_bytes: number;
      /**
       * Format: int64
       * @description Allocated.
       */
      size_bytes: number;
    };
    /** @description All things of one kind. */
    Space: components["schemas"]["Sizes"] & {
      /** Format: int64 */
      count: number;
    };
    /**
     * @description Body of `POST /v1/sandboxes/{id}/commands`. The command is run directly, not by a shell. Bytes
     *     that are not UTF-8 are written as in an exec.
     */
    StartCommand: {
      /**
       * @example [
       *       "run",
       *       "build"
       *     ]
       */
      args?: string[];
      /**
       * @description Name or path of the program.
       * @example npm
       */
      cmd: string;
      /** @description Working directory. Where absent, that of the image's configuration, else the user's home. */
      cwd?: string | null;
      /** @description Added to the environment of the sandbox. */
      envs?: {
        [key: string]: string;
      };
      /** @description Counts as use of the sandbox for as long as the command runs: it is not paused for idleness. */
      keep_alive?: boolean;
      /**
       * @description Name of the command, unique among those that run; it begins with a letter. Without one it
       *     has its id alone.
       * @example build
       */
      name?: string | null;
      /** @description Keeps standard input open for `stdin`; otherwise the command reads end of file at once. */
      stdin?: boolean;
      terminal?: components["schemas"]["TerminalSize"] | null;
      /**
       * Format: int32
       * @description Seconds until the process group gets SIGKILL, without SIGTERM before it. Without it the
       *     command may run for ever.
       */
      timeout_sec?: number | null;
      /** @description User in the guest; the template's default user where absent. */
      user?: string | null;
    };
    /**
     * @description Cause for which a sandbox stopped or failed. The text beside it says more.
     * @enum {string}
     */
    StopReason:
      | "user_request"
      | "idle_timeout"
      | "end_time"
      | "guest_shutdown"
      | "guest_reboot"
      | "guest_crashed"
      | "vmm_exited"
      | "start_failed"
      | "out_of_disk"
      | "host_lost";
    /**
     * @description Command that runs from the start of the sandbox on, and after each boot of its disk. It is run
     *     directly, not by a shell. Of its bytes `cmd`, `args` and `envs` have at most 64 KiB together. It
     *     is a background command named `start`; one that cannot be started has the reason as its output.
     */
    SupervisedCommand: {
      /**
       * @example [
       *       "-m",
       *       "http.server"
       *     ]
       */
      args?: string[];
      /**
       * @description Of lists: not all arguments are in `args`, which has the first of them there, up to 4 KiB.
       *     Refused in requests.
       */
      args_truncated?: boolean;
      /**
       * @description Name or path of the program.
       * @example python3
       */
      cmd: string;
      /** @description Working directory. Where absent, that of the image's configuration, else the user's home. */
      cwd?: string | null;
      /** @description Added to the environment of the sandbox. Left out of answers. */
      envs?: {
        [key: string]: string;
      };
      /**
       * Format: int32
       * @description Most restarts in a row, with `on_failure`. Default: no bound.
       */
      max_retries?: number | null;
      /**
       * @description After which end it is started again: 1 s later, and twice as long each time, up to 60 s,
       *     until a run has lasted for 10 minutes. Default `never`.
       */
      restart?: components["schemas"]["RestartCondition"];
      /** @description User in the guest; the template's default user where absent. */
      user?: string | null;
    };
    /** @description Restarts of the start command. */
    Supervision: {
      /**
       * Format: int32
       * @description Of the last run that ended.
       */
      last_exit_code?: number | null;
      /** Format: int32 */
      max_retries?: number | null;
      /**
       * @description When it is started again, by the clock of the sandbox. A sandbox that is paused waits on after
       *     its resume.
       */
      next_start_at?: string | null;
      restart: components["schemas"]["RestartCondition"];
      /**
       * Format: int64
       * @description How often it was started again.
       */
      restarts: number;
    };
    /** @description Something that sandboxes can be created from. */
    Template: {
      /** @description RFC 3339. */
      created_at: string;
      /**
       * @description Content address of an image that was imported: of its manifest (`oci`), of its configuration
       *     (`docker`), or of the file (`tar`, `ext4`). Absent for others.
       */
      digest?: string | null;
      /**
       * Format: int32
       * @description MiB; as `vcpus`.
       */
      disk_mb?: number | null;
      /**
       * Format: int64
       * @description What is free on the host when it is deleted.
       */
      exclusive_bytes?: number;
      /** @description Form that an image had when it was imported: `docker`, `oci`, `tar` or `ext4`. */
      format?: string | null;
      /**
       * @description Configuration of an image under the names of the OCI image specification: commands in
       *     sandboxes have its `Env`, `User` and `WorkingDir`. Absent where the image has none, and in
       *     lists.
       */
      image_config?: Record<string, never> | null;
      /**
       * Format: int32
       * @description MiB; as `vcpus`.
       */
      memory_mb?: number | null;
      name: string;
      /**
       * Format: int64
       * @description What stays, since sandboxes or other templates have it, too.
       */
      shared_bytes?: number;
      /**
       * Format: int64
       * @description Allocated on the host.
       */
      size_bytes: number;
      /** @description The sandbox that it was made of; absent for `base`, and images that were imported. */
      source_sandbox_id?: string | null;
      type: components["schemas"]["TemplateKind"];
      /**
       * Format: int32
       * @description What sandboxes made from a `snapshot` have; absent for others.
       */
      vcpus?: number | null;
    };
    /**
     * @description Origin of a template, which decides how sandboxes start from it.
     * @enum {string}
     */
    TemplateKind: "base" | "image" | "snapshot";
    /** @description Size of a terminal in characters. */
    TerminalSize: {
      /** Format: int32 */
      cols: number;
      /** Format: int32 */
      rows: number;
    };
    /** @description Body of `POST /v1/sandboxes/{id}/undo`. */
    UndoSandbox: {
      /** @description Name of any checkpoint to go back to, instead of `steps`. */
      checkpoint?: string | null;
      /**
       * Format: int32
       * @description Number of automatic checkpoints to go back. Default 1.
       */
      steps?: number | null;
    };
    /** @description Answer to an undo. */
    Undone: {
      /** @description Checkpoint that it is at now. */
      checkpoint: string;
      sandbox: components["schemas"]["Sandbox"];
      /** @description Checkpoint of the state before: a rollback to it takes the undo back. */
      saved_as: string;
    };
    /** @description An unused image that could not be deleted. */
    UnprunedImage: {
      error: components["schemas"]["ErrorDetail"];
      name: string;
    };
    /** @description Body of `PATCH /v1/sandboxes/{id}`. What is left out stays as it is. */
    UpdateSandbox: {
      auto_resume?: boolean | null;
      /**
       * Format: date-time
       * @description Time (RFC 3339) at which it is stopped; `null`: it does not end by itself.
       */
      ends_at?: string | null;
      /**
       * @description Labels to set; those that are `null` are removed, and all others stay.
       * @example {
       *       "env": "prod"
       *     }
       */
      labels?: {
        [key: string]: string | null;
      };
      /**
       * @description `null` takes the name away.
       * @example web-2
       */
      name?: string | null;
      on_timeout?: components["schemas"]["OnTimeout"] | null;
      /**
       * Format: int32
       * @description Seconds without activity until `on_timeout` is done.
       */
      timeout_sec?: number | null;
    };
    /** @description Body of `PATCH /v1/webhooks/{webhook}`: what is left out stays as it is. */
    UpdateWebhook: {
      description?: string | null;
      /** @description True: what waits is sent at once, and events from now on. */
      enabled?: boolean | null;
      /**
       * @description Empty: all.
       * @example [
       *       "sandbox.*"
       *     ]
       */
      events?: string[] | null;
      /** @example https://example.com/hooks/wrenn */
      url?: string | null;
    };
    /** @description The parts of an upload. */
    UploadForm: {
      /** Format: binary */
      file: string;
      /**
       * @description Permission bits in octal. Default 0644.
       * @example 0755
       */
      mode?: string | null;
      /**
       * @description Relative to the working directory of the image's configuration, without one to the user's
       *     home. Parents are made.
       * @example /home/user/notes.txt
       */
      path: string;
      /** @description User in the guest; the template's default user where absent. */
      user?: string | null;
    };
    /**
     * @description A text frame of a watch. The first one is `started`, the last one `ended` or `error`. Paths are
     *     absolute.
     */
    WatchServerMessage:
      | {
          /** @enum {string} */
          type: "started";
        }
      | {
          is_directory: boolean;
          path: string;
          /** @enum {string} */
          type: "create";
        }
      | {
          path: string;
          /** @enum {string} */
          type: "write";
        }
      | {
          is_directory: boolean;
          path: string;
          /** @enum {string} */
          type: "remove";
        }
      | {
          from: string;
          is_directory: boolean;
          path: string;
          /** @enum {string} */
          type: "rename";
        }
      | {
          is_directory: boolean;
          path: string;
          /** @enum {string} */
          type: "chmod";
        }
      | {
          data: string;
          /** @enum {string} */
          type: "lost";
        }
      | {
          data: string;
          /** @enum {string} */
          type: "ended";
        }
      | {
          code: string;
          data: string;
          /** @enum {string} */
          type: "error";
        };
    /** @description A receiver of events. */
    Webhook: {
      /**
       * @description RFC 3339.
       * @example 2026-01-01T00:00:00.123Z
       */
      created_at: string;
      /** @description Empty if none was given. */
      description: string;
      /** @description Why it was disabled, if not by a request. */
      disabled_reason?: string | null;
      /** @description Nothing is sent while it is false. */
      enabled: boolean;
      /**
       * @description Types of events that it gets, such as `sandbox.*`; empty: all.
       * @example [
       *       "sandbox.*"
       *     ]
       */
      events: string[];
      /** @description RFC 3339; time since which every attempt has failed. */
      failing_since?: string | null;
      /** @example wh-4f2e9d0c3a1b7e8d */
      id: string;
      /** @description RFC 3339; nothing is sent until then, since the last attempt failed. */
      paused_until?: string | null;
      /** @description RFC 3339; until then the secret before signs as well. */
      previous_secret_expires_at?: string | null;
      /**
       * @description The secret that signs; only in the answers that make one.
       * @example whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD
       */
      secret?: string | null;
      /** @example https://example.com/hooks/wrenn */
      url: string;
    };
    /** @description A message to a webhook, and what came of it. */
    WebhookDelivery: {
      /**
       * Format: int64
       * @description Attempts that were made.
       */
      attempts: number;
      /**
       * @description Time of the event (RFC 3339).
       * @example 2026-01-01T00:00:00.123Z
       */
      created_at: string;
      /**
       * @description The header field `webhook-id`, the same at each attempt: the id of the event.
       * @example evt-19d3c1a2b4f-2a
       */
      id: string;
      /** @description RFC 3339. */
      last_attempt_at?: string | null;
      /** @description Why the last attempt failed. */
      last_error?: string | null;
      /**
       * Format: int64
       * @description Status that the receiver answered last.
       * @example 200
       */
      last_status?: number | null;
      /** @description RFC 3339; absent if no attempt is to come. */
      next_attempt_at?: string | null;
      /** @description Body of the request, byte by byte; only of a single delivery. */
      payload?: string | null;
      status: components["schemas"]["DeliveryStatus"];
      /**
       * @description Type of the event.
       * @example sandbox.paused
       */
      type: string;
    };
  };
  responses: never;
  parameters: never;
  requestBodies: never;
  headers: never;
  pathItems: never;
}
export type $defs = Record<string, never>;
export type operations = Record<string, never>;
