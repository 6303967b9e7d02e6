package schemas

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/twmb/franz-go/pkg/kgo"
)

// Names of the headers of the envelope. An upstream producer sets tenant, and ref and traceparent if it likes; the others are ours.
const (
	HeaderTenant      = "tenant"
	HeaderBatch       = "batch"
	HeaderIndex       = "index"
	HeaderReply       = "reply"
	HeaderAttempt     = "attempt"
	HeaderRef         = "ref"
	HeaderOrigin      = "origin"
	HeaderTraceParent = "traceparent"
)

// Envelope is what travels beside an item or outcome, in Kafka headers.
type Envelope struct {
	Tenant      string
	Batch       string // key of the batch, 32 hex digits; empty for a bare record
	Index       int32  // place in the batch, from 0
	Reply       int32  // partition of the result topics that the caller reads; -1: the source's own
	Attempt     int32  // from 1; a replay is the next one
	Ref         *string
	Origin      *Origin // set on a record that the engine forwarded to the partition of its key
	TraceParent string
}

// Origin is where a forwarded record was first produced.
type Origin struct {
	Partition int32
	Offset    int64
}

// TenantHeader is the header that every record on an item, reference or fact topic needs.
func TenantHeader(tenant string) kgo.RecordHeader {
	return kgo.RecordHeader{Key: HeaderTenant, Value: []byte(tenant)}
}

// ErrTenantMissing is returned by [ParseEnvelope] for a record without a usable tenant header.
var ErrTenantMissing = errors.New("record has no tenant header")

// Headers appends the envelope to dst.
func (e *Envelope) Headers(dst []kgo.RecordHeader) []kgo.RecordHeader {
	dst = append(dst, TenantHeader(e.Tenant))
	if e.Batch != "" {
		dst = append(dst,
			kgo.RecordHeader{Key: HeaderBatch, Value: []byte(e.Batch)},
			kgo.RecordHeader{Key: HeaderIndex, Value: strconv.AppendInt(nil, int64(e.Index), 10)})
	}
	if e.Reply >= 0 {
		dst = append(dst, kgo.RecordHeader{Key: HeaderReply, Value: strconv.AppendInt(nil, int64(e.Reply), 10)})
	}
	if e.Attempt > 1 {
		dst = append(dst, kgo.RecordHeader{Key: HeaderAttempt, Value: strconv.AppendInt(nil, int64(e.Attempt), 10)})
	}
	if e.Ref != nil {
		dst = append(dst, kgo.RecordHeader{Key: HeaderRef, Value: []byte(*e.Ref)})
	}
	if e.Origin != nil {
		dst = append(dst, kgo.RecordHeader{Key: HeaderOrigin, Value: fmt.Appendf(nil, "%d/%d", e.Origin.Partition, e.Origin.Offset)})
	}
	if e.TraceParent != "" {
		dst = append(dst, kgo.RecordHeader{Key: HeaderTraceParent, Value: []byte(e.TraceParent)})
	}
	return dst
}

// ParseEnvelope reads the envelope. The error is [ErrTenantMissing], or says which header is malformed; what could be read is returned
// beside it. Headers of other names are left alone.
func ParseEnvelope(headers []kgo.RecordHeader) (Envelope, error) {
	e := Envelope{Reply: -1, Attempt: 1}
	var err error
	number := func(h kgo.RecordHeader, lowest int64) int32 {
		n, perr := strconv.ParseInt(string(h.Value), 10, 32)
		if perr != nil || n < lowest {
			err = errors.Join(err, fmt.Errorf("header %s must be a whole number of at least %d", h.Key, lowest))
			return int32(lowest)
		}
		return int32(n)
	}
	for _, h := range headers {
		switch h.Key {
		case HeaderTenant:
			e.Tenant = string(h.Value)
		case HeaderBatch:
			e.Batch = string(h.Value)
			if len(e.Batch) != 32 || strings.Trim(e.Batch, "0123456789abcdef") != "" {
				err = errors.Join(err, fmt.Errorf("header %s must be 32 lower-case hex digits", h.Key))
				e.Batch = ""
			}
		case HeaderIndex:
			e.Index = number(h, 0)
		case HeaderReply:
			e.Reply = number(h, 0)
		case HeaderAttempt:
			e.Attempt = number(h, 1)
		case HeaderRef:
			if !utf8.Valid(h.Value) {
				err = errors.Join(err, fmt.Errorf("header %s must be UTF-8", h.Key))
				continue
			}
			ref := string(h.Value)
			e.Ref = &ref
		case HeaderTraceParent:
			e.TraceParent = string(h.Value)
		case HeaderOrigin:
			p, o, ok := strings.Cut(string(h.Value), "/")
			partition, perr := strconv.ParseInt(p, 10, 32)
			offset, oerr := strconv.ParseInt(o, 10, 64)
			if !ok || perr != nil || oerr != nil || partition < 0 || offset < 0 {
				err = errors.Join(err, fmt.Errorf("header %s must be partition/offset", h.Key))
				continue
			}
			e.Origin = &Origin{Partition: int32(partition), Offset: offset}
		}
	}
	if e.Tenant == "" || !utf8.ValidString(e.Tenant) || strings.ContainsAny(e.Tenant, "/\x00") {
		return e, ErrTenantMissing
	}
	return e, err
}
