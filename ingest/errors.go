package ingest

import (
	"errors"
	"net/http"
	"time"
)

// Code classifies an [Error].
type Code string

// Codes of errors, with their HTTP statuses. A partner's adapter may answer another status.
const (
	CodeMalformed           Code = "malformed"            // 400: the body cannot be read at all
	CodeIdempotencyKey      Code = "idempotency_key"      // 400: the header Idempotency-Key cannot be read
	CodeUnauthenticated     Code = "unauthenticated"      // 401: no key, a wrong one, or a disabled one
	CodeForbidden           Code = "forbidden"            // 403: the key does not open this API, or not from this address
	CodeNotFound            Code = "not_found"            // 404
	CodeMethod              Code = "method"               // 405: the path is known, with other methods (header Allow)
	CodeTooLarge            Code = "too_large"            // 413: body, number of items, or one item (Index)
	CodeUnsupported         Code = "unsupported"          // 415: media type or content encoding
	CodeIdempotencyConflict Code = "idempotency_conflict" // 422: the Idempotency-Key was used before, with another body
	CodeRateLimited         Code = "rate_limited"         // 429: the key's requests a second
	CodeHeaders             Code = "headers"              // 431: too long; never reaches an adapter
	CodeInternal            Code = "internal"             // 500: our fault
	CodeBusy                Code = "busy"                 // 503: Kafka, ClickHouse or memory; sending it again is safe: nothing was done, or the Idempotency-Key sees to it
)

var statuses = map[Code]int{
	CodeMalformed:           http.StatusBadRequest,
	CodeIdempotencyKey:      http.StatusBadRequest,
	CodeIdempotencyConflict: http.StatusUnprocessableEntity,
	CodeUnauthenticated:     http.StatusUnauthorized,
	CodeForbidden:           http.StatusForbidden,
	CodeNotFound:            http.StatusNotFound,
	CodeMethod:              http.StatusMethodNotAllowed,
	CodeTooLarge:            http.StatusRequestEntityTooLarge,
	CodeUnsupported:         http.StatusUnsupportedMediaType,
	CodeRateLimited:         http.StatusTooManyRequests,
	CodeHeaders:             http.StatusRequestHeaderFieldsTooLarge,
	CodeInternal:            http.StatusInternalServerError,
	CodeBusy:                http.StatusServiceUnavailable,
}

// Error is a refusal: nothing of the request was accepted.
type Error struct {
	Code       Code
	Message    string        // one sentence for the caller; no internals
	Index      int           // of the item at fault; -1: the whole request
	RetryAfter time.Duration // for the header Retry-After; 0: none
	Cause      string        // short and constant: which limit or part refused; for metrics
	Err        error         // what happened inside, for the log; never shown to callers
}

func (e *Error) Error() string {
	if e.Err != nil {
		return string(e.Code) + ": " + e.Message + ": " + e.Err.Error()
	}
	return string(e.Code) + ": " + e.Message
}

// Unwrap gives what happened inside.
func (e *Error) Unwrap() error { return e.Err }

// Status is the HTTP status of the code.
func (e *Error) Status() int {
	if s, ok := statuses[e.Code]; ok {
		return s
	}
	return http.StatusInternalServerError
}

// NewError makes an error about the whole request, for adapters.
func NewError(code Code, message string) *Error {
	return &Error{Code: code, Message: message, Index: -1}
}

// AsError makes any error an [*Error]; one that is none is an internal error.
func AsError(err error) *Error {
	var e *Error
	if errors.As(err, &e) {
		return e
	}
	return &Error{Code: CodeInternal, Message: "internal error", Index: -1, Cause: "internal", Err: err}
}

// busy makes the error for a request that is safe to send again later.
func busy(cause, message string, err error) *Error {
	after := time.Second
	if cause == "backlog" {
		after = 5 * time.Second // it takes longer to go away than a full queue does
	}
	return &Error{Code: CodeBusy, Message: message, Index: -1, RetryAfter: after, Cause: cause, Err: err}
}
