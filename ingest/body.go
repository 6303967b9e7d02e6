package ingest

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// ReadBody reads the whole body of a request, unpacked where it is gzipped. What it holds counts against the byte budget until the batch
// that is made of it is judged, or the request ends without one. The error is an *[Error]: CodeTooLarge beyond MaxBodyBytes, CodeBusy when
// the budget has no place, CodeMalformed when the client sends nonsense or breaks off, CodeUnsupported for another content encoding.
func (s *Service) ReadBody(r *http.Request) ([]byte, error) {
	body, err := s.readBody(r)
	if err != nil {
		return nil, s.refuse(AsError(err))
	}
	noteBody(r, body)
	return body, nil
}

func (s *Service) readBody(r *http.Request) ([]byte, error) {
	if r.ContentLength > MaxBodyBytes {
		return nil, tooLargeBody()
	}
	src, size := io.Reader(r.Body), r.ContentLength
	switch encoding := strings.ToLower(r.Header.Get("Content-Encoding")); encoding {
	case "", "identity":
	case "gzip", "x-gzip":
		z, err := gzip.NewReader(r.Body)
		if errors.Is(err, io.EOF) { // there is nothing to unpack
			return []byte{}, nil
		}
		if err != nil {
			return nil, broken(err)
		}
		src, size = z, -1
	default:
		return nil, NewError(CodeUnsupported, "content encoding must be gzip or none")
	}
	// The buffer grows with what has arrived, so that a client that announces much and sends little occupies little.
	capacity := int64(64 << 10)
	if size >= 0 {
		capacity = min(capacity, size+1)
	}
	if err := s.reserve(r, capacity); err != nil {
		return nil, err
	}
	buf := make([]byte, 0, capacity)
	for {
		n, err := src.Read(buf[len(buf):cap(buf)])
		buf = buf[:len(buf)+n]
		switch {
		case len(buf) > MaxBodyBytes:
			return nil, tooLargeBody()
		case err == io.EOF:
			return buf, nil
		case err != nil:
			return nil, broken(err)
		case len(buf) == cap(buf):
			more := int64(cap(buf))
			if size >= 0 {
				more = min(more, size+1-int64(cap(buf)))
			}
			more = max(1, min(more, MaxBodyBytes+1-int64(cap(buf))))
			if err := s.reserve(r, more); err != nil {
				return nil, err
			}
			buf = append(make([]byte, 0, int64(cap(buf))+more), buf...)
		}
	}
}

func tooLargeBody() *Error {
	e := NewError(CodeTooLarge, "the body has more than "+strconv.Itoa(MaxBodyBytes)+" bytes")
	e.Cause = "body_size"
	return e
}

func broken(err error) *Error {
	var limit *http.MaxBytesError
	if errors.As(err, &limit) {
		return tooLargeBody()
	}
	return &Error{Code: CodeMalformed, Message: "the body could not be read", Index: -1, Cause: "body", Err: err}
}

// TooDeep reports whether JSON (strict, or with single-quoted strings) nests deeper than MaxDepth. It needs no valid JSON and takes no
// memory, so it goes before a parser that recurses. It knows no comments: a parser that does counts its depth itself.
func TooDeep(data []byte) bool {
	depth := 0
	var quote byte
	for i := 0; i < len(data); i++ {
		switch c := data[i]; {
		case quote != 0 && c == '\\':
			i++
		case quote != 0:
			if c == quote {
				quote = 0
			}
		case c == '"' || c == '\'':
			quote = c
		case c == '{' || c == '[':
			if depth++; depth > MaxDepth {
				return true
			}
		case c == '}' || c == ']':
			depth--
		}
	}
	return false
}

// EncodeJSON is v, which must be made of texts and numbers, as JSON in one line; <, > and & stay as they are.
func EncodeJSON(v any) []byte {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(v); err != nil {
		panic(err)
	}
	return bytes.TrimSuffix(b.Bytes(), []byte("\n"))
}

// WriteJSON answers with v as JSON; <, > and & stay as they are.
func WriteJSON(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json; charset=utf-8")
	w.WriteHeader(status)
	enc := json.NewEncoder(w)
	enc.SetEscapeHTML(false)
	_ = enc.Encode(v) // the client is gone; the access log shows it by its bytes
}

// JobURL is where the outcomes of a batch are found.
func JobURL(number int64) string { return "/v1/batches/" + strconv.FormatInt(number, 10) }

// SetRetryAfter sets the header where the error has a time, in whole seconds. Adapters call it before they write a refusal.
func (e *Error) SetRetryAfter(w http.ResponseWriter) {
	if e.RetryAfter > 0 {
		seconds := (e.RetryAfter + time.Second - 1) / time.Second
		w.Header().Set("Retry-After", strconv.FormatInt(int64(seconds), 10))
	}
}

// problem is RFC 9457's form of an error.
type problem struct {
	Type   string `json:"type"`
	Title  string `json:"title"`
	Status int    `json:"status"`
	Detail string `json:"detail"`
	Code   Code   `json:"code"`
	Index  *int   `json:"index,omitempty"`
}

// WriteProblem answers an error as application/problem+json, the form of /v1.
func WriteProblem(w http.ResponseWriter, err error) {
	e := AsError(err)
	p := problem{Type: "about:blank", Title: http.StatusText(e.Status()), Status: e.Status(), Detail: e.Message, Code: e.Code}
	if e.Index >= 0 {
		p.Index = &e.Index
	}
	e.SetRetryAfter(w)
	if e.Code == CodeUnauthenticated {
		w.Header().Set("WWW-Authenticate", `Bearer, Basic realm="counterfoil"`)
	}
	w.Header().Set("Content-Type", "application/problem+json")
	w.WriteHeader(e.Status())
	enc := json.NewEncoder(w)
	enc.SetEscapeHTML(false)
	_ = enc.Encode(p)
}
