package wrenn

import (
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"
)

// Error is the error of a call: a refusal of the server, or what no answer of the server says.
type Error struct {
	// Code is one of docs/errors.md, or "unreachable", "connection_broken", "protocol" or "no_credentials".
	Code    string
	Message string
	// Status is the HTTP status; 0 where the error came inside a stream that had begun, or is not the server's.
	Status int
	// RequestID is the id under which the server logged the request.
	RequestID string
	// RetryAfter is the time after which the server wants to be asked again.
	RetryAfter time.Duration
	// Cause is the error below, if there is one.
	Cause error

	isForeign bool
}

func (e *Error) Error() string {
	if e.Cause != nil {
		return fmt.Sprintf("wrenn: %s: %v", e.Message, e.Cause)
	}
	return "wrenn: " + e.Message
}

// Unwrap returns the error below.
func (e *Error) Unwrap() error { return e.Cause }

// Is returns true for an error of the same code, so that errors.Is(err, ErrNotFound) says what it was.
func (e *Error) Is(target error) bool {
	other, ok := target.(*Error)
	return ok && other.Code == e.Code
}

// Errors to compare with, one for each code.
var (
	ErrInvalidRequest       = &Error{Code: "invalid_request"}
	ErrUnauthorized         = &Error{Code: "unauthorized"}
	ErrForbidden            = &Error{Code: "forbidden"}
	ErrNotFound             = &Error{Code: "not_found"}
	ErrMethodNotAllowed     = &Error{Code: "method_not_allowed"}
	ErrInvalidState         = &Error{Code: "invalid_state"}
	ErrConflict             = &Error{Code: "conflict"}
	ErrExpired              = &Error{Code: "expired"}
	ErrTooLarge             = &Error{Code: "too_large"}
	ErrUnsupportedMediaType = &Error{Code: "unsupported_media_type"}
	ErrIdempotencyMismatch  = &Error{Code: "idempotency_mismatch"}
	ErrResourceExhausted    = &Error{Code: "resource_exhausted"}
	ErrInternal             = &Error{Code: "internal_error"}
	ErrAgent                = &Error{Code: "agent_error"}
	ErrHostUnavailable      = &Error{Code: "host_unavailable"}
	ErrTimeout              = &Error{Code: "timeout"}
	ErrInsufficientStorage  = &Error{Code: "insufficient_storage"}

	// ErrUnreachable: no connection could be made, and nothing happened on the server.
	ErrUnreachable = &Error{Code: "unreachable"}
	// ErrConnectionBroken: it broke, and whether the request was carried out is not known.
	ErrConnectionBroken = &Error{Code: "connection_broken"}
	// ErrProtocol: an answer that this version cannot read.
	ErrProtocol = &Error{Code: "protocol"}
	// ErrCredentials: no key was found, or it is one for another server.
	ErrCredentials = &Error{Code: "no_credentials"}
)

// CommandNotStartedError says that a program could not be started; nothing ran.
type CommandNotStartedError struct {
	// Err is the refusal, of the code invalid_request.
	Err *Error
	// ExitCode is that of a shell: 127 where there is no such program, 126 where it cannot be executed.
	ExitCode int
}

func (e *CommandNotStartedError) Error() string { return e.Err.Error() }

// Unwrap returns the refusal.
func (e *CommandNotStartedError) Unwrap() error { return e.Err }

// CommandExitError says that a command ended with another exit code than 0.
type CommandExitError struct {
	Result *Result
}

func (e *CommandExitError) Error() string {
	text := fmt.Sprintf("wrenn: the command ended with exit code %d", e.Result.ExitCode)
	lines := strings.Split(strings.TrimRight(string(e.Result.Stderr), "\n"), "\n")
	if last := lines[len(lines)-1]; last != "" {
		text += ": " + last
	}
	return text
}

// OutputLostError says that output of a background command is no longer kept: this reader was too slow, or came too
// late. Reading goes on behind it.
type OutputLostError struct {
	// Bytes is the number of bytes that are lost.
	Bytes int64
}

func (e *OutputLostError) Error() string {
	return fmt.Sprintf("wrenn: %d bytes of output are no longer kept: read faster, or write large output to a file", e.Bytes)
}

// codesByStatus are for answers that are not the API's own, such as the page of a proxy.
var codesByStatus = map[int]string{
	400: "invalid_request", 401: "unauthorized", 403: "forbidden", 404: "not_found", 405: "method_not_allowed",
	409: "conflict", 410: "expired", 413: "too_large", 415: "unsupported_media_type", 429: "resource_exhausted",
	502: "agent_error", 503: "host_unavailable", 504: "timeout", 507: "insufficient_storage",
}

// errorFromAnswer returns the error of an answer, from its body if that is one of the API's.
func errorFromAnswer(status int, body []byte, header func(string) string) error {
	if status >= 300 && status < 400 {
		message := "the server redirects to " + header("Location") + ", which is not followed: it would take the key there"
		return &Error{Code: "protocol", Message: message, Status: status}
	}
	result := &Error{Status: status, RequestID: header("X-Request-Id")}
	if seconds, err := strconv.Atoi(header("Retry-After")); err == nil {
		result.RetryAfter = time.Duration(seconds) * time.Second
	}
	var parsed ErrorBody
	if json.Unmarshal(body, &parsed) == nil && parsed.Error.Code != "" {
		result.Code = parsed.Error.Code
		result.Message = parsed.Error.Message
		return withExitCode(result, parsed.Error.ExitCode)
	}
	result.isForeign = true
	result.Code = "internal_error"
	if code, ok := codesByStatus[status]; ok {
		result.Code = code
	}
	result.Message = fmt.Sprintf("the server answered with status %d and no explanation; is it a Wrenn server?", status)
	return result
}

// errorFromMessage returns the error that a message of a stream tells.
func errorFromMessage(code, message string, exitCode *int64) error {
	return withExitCode(&Error{Code: code, Message: message}, exitCode)
}

func withExitCode(refusal *Error, exitCode *int64) error {
	if exitCode != nil {
		return &CommandNotStartedError{Err: refusal, ExitCode: int(*exitCode)}
	}
	return refusal
}

func broken(cause error) error {
	message := "the connection to the server broke; ask for the state before the call is repeated"
	return &Error{Code: "connection_broken", Message: message, Cause: cause}
}

func unreadable(cause error) error {
	message := "the server's answer cannot be read; are client and server of the same version?"
	return &Error{Code: "protocol", Message: message, Cause: cause}
}

// falseIfMissing turns the error of what is not there into false.
func falseIfMissing(err error) (bool, error) {
	if errors.Is(err, ErrNotFound) {
		return false, nil
	}
	return err == nil, err
}
