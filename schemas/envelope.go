package schemas

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"
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
	HeaderFirst       = "first"
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
	First       *First  // set on a replay
	TraceParent string
}

// First is what a replay keeps of the item's first attempt: who it is, its place in the order of its key, and when it was accepted.
type First struct {
	ID         string    // the item's identity, 32 hex digits
	Epoch      int32     // of its topic, when it was accepted
	Offset     int64     // its place in the partition of its key: items of higher offsets came after it; -1: all did
	AcceptedAt time.Time // in milliseconds
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

// RecordHeaders are the headers of the record that the dead letter is about.
func (l *DeadLetter) RecordHeaders() []kgo.RecordHeader {
	headers := make([]kgo.RecordHeader, len(l.Headers))
	for i, h := range l.Headers {
		headers[i] = kgo.RecordHeader{Key: h.Key, Value: h.Value}
	}
	return headers
}

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
	if e.First != nil {
		dst = append(dst, kgo.RecordHeader{Key: HeaderFirst, Value: fmt.Appendf(nil, "%s/%d/%d/%d", e.First.ID, e.First.Epoch, e.First.Offset, e.First.AcceptedAt.UnixMilli())})
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
			if !isIdentity(e.Batch) {
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
		case HeaderFirst:
			var ferr error
			if e.First, ferr = parseFirst(string(h.Value)); ferr != nil {
				err = errors.Join(err, ferr)
			}
		}
	}
	if (e.Attempt > 1) != (e.First != nil) && err == nil {
		err = fmt.Errorf("headers %s and %s belong together, on a replay", HeaderAttempt, HeaderFirst)
	}
	if e.Tenant == "" || !utf8.ValidString(e.Tenant) || strings.ContainsAny(e.Tenant, "/\x00") {
		return e, ErrTenantMissing
	}
	return e, err
}

// Version is the version that the item would have had, see [Version].
func (f *First) Version() int64 { return Version(f.Epoch, 0) + f.Offset }

func parseFirst(text string) (*First, error) {
	parts := strings.Split(text, "/")
	if len(parts) == 4 {
		epoch, eerr := strconv.ParseInt(parts[1], 10, 32)
		offset, oerr := strconv.ParseInt(parts[2], 10, 64)
		accepted, aerr := strconv.ParseInt(parts[3], 10, 64)
		if isIdentity(parts[0]) && eerr == nil && oerr == nil && aerr == nil && epoch >= 0 && offset >= -1 {
			return &First{ID: parts[0], Epoch: int32(epoch), Offset: offset, AcceptedAt: time.UnixMilli(accepted).UTC()}, nil
		}
	}
	return nil, fmt.Errorf("header %s must be identity/epoch/offset/milliseconds", HeaderFirst)
}

// isIdentity reports whether text has the form of a batch's key or an item's identity.
func isIdentity(text string) bool {
	return len(text) == 32 && strings.Trim(text, "0123456789abcdef") == ""
}

// ItemID is the identity of an item with this envelope in a topic of that epoch: that of its first attempt, or its place in its batch, or, of
// a bare record, where its producer put it.
func (e *Envelope) ItemID(topic string, epoch, partition int32, offset int64) string {
	switch {
	case e.First != nil:
		return e.First.ID
	case e.Batch != "":
		return ItemID(e.Tenant, e.Batch, e.Index)
	case e.Origin != nil:
		return BareItemID(topic, epoch, e.Origin.Partition, e.Origin.Offset)
	default:
		return BareItemID(topic, epoch, partition, offset)
	}
}
