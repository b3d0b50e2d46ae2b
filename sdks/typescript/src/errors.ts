/** Errors of calls: a class for each code of the API, and one for each cause that is not the server's. */

import type { Schemas } from "./models.js";

/** Output and exit code of a command that ended. */
export interface CommandResult {
  /** 128 + signal where a signal ended it. */
  exitCode: number;
  stdout: string;
  stderr: string;
  /** The same output as bytes, for what is not UTF-8. */
  stdoutBytes: Uint8Array;
  stderrBytes: Uint8Array;
}

/** Code of an error of the API; the set is closed. */
export type ErrorCode = Schemas["ErrorDetail"]["code"];

/** Error of a call of this package. */
export class WrennError extends Error {
  /** What kind of error it is, for programs: one of docs/errors.md, or of the table in `sdks/README.md`. */
  readonly code: string = "error";

  override get name(): string {
    return this.constructor.name;
  }
}

/** What the answer of the server said beside its message. */
export interface ErrorDetails {
  /** HTTP status; 0 where the refusal came inside a stream that had begun. */
  status: number;
  code: ErrorCode;
  /** Time after which the server wants to be asked again, from `Retry-After`. */
  retryAfterMs?: number;
  /** Whether the answer was one of the API's, not the page of a proxy. */
  isOurs?: boolean;
  /** Id under which the server logged the request. */
  requestId?: string;
  /** Exit code that a shell gives for a program that cannot be started. */
  exitCode?: number;
}

/** The server refused a request, with one of its codes. */
export class ApiError extends WrennError {
  readonly status: number;
  override readonly code: ErrorCode;
  readonly retryAfterMs: number | undefined;
  readonly requestId: string | undefined;
  /** @internal */
  readonly isOurs: boolean;

  constructor(message: string, details: ErrorDetails) {
    super(message);
    this.status = details.status;
    this.code = details.code;
    this.retryAfterMs = details.retryAfterMs;
    this.requestId = details.requestId;
    this.isOurs = details.isOurs ?? true;
  }
}

/** 400: a value is out of range, or a field does not exist. */
export class InvalidRequestError extends ApiError {}
/** 401: no key, or one that is not known. */
export class UnauthorizedError extends ApiError {}
/** 403: the key, or the user in the guest, may not do this. */
export class ForbiddenError extends ApiError {}
/** 404: no such sandbox, template, checkpoint, command or file. */
export class NotFoundError extends ApiError {}
/** 405: the path exists, the method does not. */
export class MethodNotAllowedError extends ApiError {}
/** 409: the sandbox is not in a state in which this can be done. */
export class InvalidStateError extends ApiError {}
/** 409: a name is in use, or another request was first. */
export class ConflictError extends ApiError {}
/** 410: the events behind a cursor are no longer kept. */
export class ExpiredError extends ApiError {}
/** 413: a body, a file or a frame is over its limit. */
export class TooLargeError extends ApiError {}
/** 415: the body is of a type that the route does not read. */
export class UnsupportedMediaTypeError extends ApiError {}
/** 422: an idempotency key came again with another body. */
export class IdempotencyMismatchError extends ApiError {}
/** 429: a rate limit of the key, or a limit of the sandbox or the server. */
export class ResourceExhaustedError extends ApiError {}
/** 500: a fault of the server. */
export class InternalServerError extends ApiError {}
/** 502: the host agent or the guest failed. */
export class AgentError extends ApiError {}
/** 503: no host can take it now. */
export class HostUnavailableError extends ApiError {}
/** 504: it took longer than it was allowed to, by the server's clock or by ours. */
export class OperationTimeoutError extends ApiError {}
/** 507: a disk is full. */
export class InsufficientStorageError extends ApiError {}

/** 400: the program could not be started; nothing ran. */
export class CommandNotStartedError extends InvalidRequestError {
  /** Exit code as a shell has it: 127 where there is no such program, 126 where it cannot be executed. */
  readonly exitCode: number;

  constructor(message: string, details: ErrorDetails & { exitCode: number }) {
    super(message, details);
    this.exitCode = details.exitCode;
  }
}

/** No connection could be made: nothing happened on the server. */
export class UnreachableError extends WrennError {
  override readonly code = "unreachable";
}

/** The connection broke: whether the server did what was asked is not known. */
export class ConnectionBrokenError extends WrennError {
  override readonly code = "connection_broken";
}

/** Output of a background command is no longer kept: this reader was too slow, or came too late. */
export class OutputLostError extends WrennError {
  override readonly code = "output_lost";
  /** Number of bytes that are lost. */
  readonly bytes: number;

  constructor(bytes: number) {
    super(`${bytes} bytes of output are no longer kept: read faster, or write large output to a file`);
    this.bytes = bytes;
  }
}

/** A command ended with another exit code than 0. */
export class CommandExitError extends WrennError {
  override readonly code = "command_exit";
  readonly result: CommandResult;

  constructor(result: CommandResult) {
    const last = result.stderr.trimEnd().split("\n").at(-1);
    super(`the command ended with exit code ${result.exitCode}${last ? `: ${last.slice(0, 500)}` : ""}`);
    this.result = result;
  }

  get exitCode(): number {
    return this.result.exitCode;
  }

  get stdout(): string {
    return this.result.stdout;
  }

  get stderr(): string {
    return this.result.stderr;
  }
}

/** The server answered with something that this version cannot read. */
export class ProtocolError extends WrennError {
  override readonly code = "protocol";
}

/** No key was found, it is one for another server, or the address is none. */
export class CredentialsError extends WrennError {
  override readonly code = "no_credentials";
}
