/** The only place that turns answers of the server into errors. */

import {
  AgentError,
  ApiError,
  CommandNotStartedError,
  ConflictError,
  ExpiredError,
  ForbiddenError,
  HostUnavailableError,
  IdempotencyMismatchError,
  InsufficientStorageError,
  InternalServerError,
  InvalidRequestError,
  InvalidStateError,
  MethodNotAllowedError,
  NotFoundError,
  OperationTimeoutError,
  ProtocolError,
  ResourceExhaustedError,
  TooLargeError,
  UnauthorizedError,
  UnsupportedMediaTypeError,
  type ErrorCode,
  type ErrorDetails,
} from "./errors.js";
import type { Schemas } from "./models.js";

type ErrorClass = new (message: string, details: ErrorDetails) => ApiError;

const CLASSES: Record<ErrorCode, ErrorClass> = {
  invalid_request: InvalidRequestError,
  unauthorized: UnauthorizedError,
  forbidden: ForbiddenError,
  not_found: NotFoundError,
  method_not_allowed: MethodNotAllowedError,
  invalid_state: InvalidStateError,
  conflict: ConflictError,
  expired: ExpiredError,
  too_large: TooLargeError,
  unsupported_media_type: UnsupportedMediaTypeError,
  idempotency_mismatch: IdempotencyMismatchError,
  resource_exhausted: ResourceExhaustedError,
  internal_error: InternalServerError,
  agent_error: AgentError,
  host_unavailable: HostUnavailableError,
  timeout: OperationTimeoutError,
  insufficient_storage: InsufficientStorageError,
};

/** Codes of answers that are not the API's own, such as the page of a proxy. */
const CODES_BY_STATUS: Record<number, ErrorCode> = {
  400: "invalid_request",
  401: "unauthorized",
  403: "forbidden",
  404: "not_found",
  405: "method_not_allowed",
  409: "conflict",
  410: "expired",
  413: "too_large",
  415: "unsupported_media_type",
  429: "resource_exhausted",
  502: "agent_error",
  503: "host_unavailable",
  504: "timeout",
  507: "insufficient_storage",
};

/** Creates the error of a code. Codes of later versions become an `ApiError`. */
export function createApiError(message: string, details: ErrorDetails): ApiError {
  if (details.exitCode !== undefined) {
    return new CommandNotStartedError(message, { ...details, exitCode: details.exitCode });
  }
  const Class = CLASSES[details.code] ?? ApiError;
  return new Class(message, details);
}

/** Creates the error for an answer, from its body if that is one of the API's. */
export function errorFromAnswer(status: number, body: string, headers?: Headers): ApiError | ProtocolError {
  if (status >= 300 && status < 400) {
    const location = headers?.get("location") ?? "another address";
    return new ProtocolError(`the server redirects to ${location}, which is not followed: it would take the key there`);
  }
  const seconds = Number(headers?.get("retry-after") ?? Number.NaN);
  const shared = {
    status,
    retryAfterMs: Number.isFinite(seconds) ? seconds * 1000 : undefined,
    requestId: headers?.get("x-request-id") ?? undefined,
  };
  try {
    const { code, message, exit_code } = (JSON.parse(body) as Schemas["ErrorBody"]).error;
    return createApiError(message, { ...shared, code, exitCode: exit_code ?? undefined });
  } catch {
    const message = `the server answered with status ${status} and no explanation; is it a Wrenn server?`;
    return createApiError(message, { ...shared, code: CODES_BY_STATUS[status] ?? "internal_error", isOurs: false });
  }
}
