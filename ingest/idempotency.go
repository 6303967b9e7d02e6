package ingest

import (
	"bytes"
	"context"
	"crypto/sha256"
	"mime"
	"net/http"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/counterfoil/counterfoil/schemas"
)

// Requests with the header Idempotency-Key. No copy of ingest can know whether a request is the first with its key: another
// copy may have the other one at this moment, or had it before it died. So such a batch does not go to its topics but, with all its records
// and in the same kind of transaction, to the partition of the topic requests that its key has. There the processor "requests" passes the
// first one on, drops the others, and says which was which on requests.answers; the number of the batch comes from there, too. For the
// first, outcomes then come as for any other batch. The others are told the outcomes of the first, which ClickHouse has.

// repeatable is what a request's repetitions have in common.
type repeatable struct {
	route    string // door and operation
	key      string
	bodyHash []byte
}

const idempotencyKey = "Idempotency-Key"

// Keyed reports whether a request has an Idempotency-Key. An empty list is a batch then, as any other: its key is remembered with it.
func Keyed(r *http.Request) bool { return len(r.Header.Values(idempotencyKey)) > 0 }

// headerReplayed says that an answer is that of an earlier request.
const headerReplayed = "Idempotent-Replayed"

// noteBody notes what a request says, by which its repetitions are told from others.
func noteBody(r *http.Request, body []byte) {
	q := of(r.Context())
	if q.keys == nil {
		return
	}
	contentType := r.Header.Get("Content-Type")
	media, _, _ := strings.Cut(contentType, ";")
	q.body, q.media = body, strings.ToLower(strings.TrimSpace(media))
	if strings.HasPrefix(q.media, "multipart/") {
		if _, params, err := mime.ParseMediaType(contentType); err == nil && params["boundary"] != "" {
			q.boundary = []byte("--" + params["boundary"])
		}
	}
}

// NoteContent notes what a door reads of a request besides the bytes of its body: the media type that it reads them as, whatever the header says
// and in whatever spelling, and what of the URL's query is data. Where an adapter does not call it, that is the header's media type, and nothing.
func NoteContent(r *http.Request, mediaType, query string) {
	q := of(r.Context())
	q.media, q.query = mediaType, query
}

// noteToken notes the token that a request has in its body: a caller that logs in anew sends the same request with another one.
func noteToken(r *http.Request, token string) { of(r.Context()).token = []byte(token) }

// hash is SHA-256 of what the request says to its door: the same bytes of another media type say something else. Left out is what differs when
// a caller makes the same request anew: the token, and the boundary between the parts of a form.
func (q *request) hash() []byte {
	h := sha256.New()
	mark := []byte{0}
	part := func(b []byte) { h.Write(b); h.Write(mark) }
	part([]byte(q.media))
	part([]byte(q.query))
	switch {
	case len(q.token) > 0:
		for b := range bytes.SplitSeq(q.body, q.token) {
			part(b)
		}
	case len(q.boundary) > 0:
		for line := range bytes.Lines(q.body) {
			if rest, ok := bytes.CutPrefix(line, q.boundary); ok {
				h.Write(mark)
				line = rest
			}
			h.Write(line)
		}
	default:
		h.Write(q.body)
	}
	return h.Sum(nil)
}

// repeatable is nil for a request without the header.
func (q *request) repeatable(b *Batch) (*repeatable, error) {
	if q.keys == nil {
		return nil, nil
	}
	if err := schemas.CheckIdempotencyKey(q.keys); err != nil {
		return nil, &Error{Code: CodeIdempotencyKey, Message: schemas.ErrIdempotencyKey.Error(), Index: -1, Cause: "idempotency_key"}
	}
	p := &repeatable{route: b.Door + " " + b.Operation, key: q.keys[0], bodyHash: q.hash()}
	q.body = nil // not for as long as the request waits
	return p, nil
}

// redirect sends the records of a batch to the topic requests, with what the processor there needs. It returns how many bytes that adds.
func (p *repeatable) redirect(records []*kgo.Record, tenant string, partitions int32) (more int64) {
	at := schemas.Partition(schemas.RequestKey(tenant, p.route, p.key), partitions)
	for i, r := range records {
		to := schemas.Passage{Topic: r.Topic, Partition: r.Partition, Route: p.route, Key: p.key, Last: i == len(records)-1}
		if i == 0 {
			to.BodyHash = p.bodyHash
		}
		r.Headers = to.Headers(r.Headers[:len(r.Headers):len(r.Headers)])
		r.Topic, r.Partition = schemas.Requests, at
	}
	return int64(len(records)) * (itemOverhead + int64(len(p.route)+len(p.key)))
}

// answered waits until it is known what became of a request with an idempotency key whose batch is in a committed transaction. For the first
// one with its key it returns the number of the batch; else the receipt that the first one had, or why there is none.
func (s *Service) answered(ctx context.Context, b *Batch, sub *submission, until time.Time) (number int64, receipt *Receipt, err error) {
	// Without an answer there is no number to give; so that of a batch whose outcomes nobody waits for is waited for all the same.
	timeout := time.NewTimer(max(time.Until(until), s.cfg.Wait))
	defer timeout.Stop()
	select {
	case answer := <-sub.waiter.answer:
		switch answer.Verdict {
		case schemas.RequestAccepted:
			return answer.Number, nil, nil
		case schemas.RequestRepeated:
			defer sub.waiter.release(s.budget)
			sub.records = nil // they lie in requests, where nobody needs them any more
			of(ctx).replayed()
			return answer.Number, s.repeat(ctx, b, &answer, until), nil
		default:
			sub.waiter.release(s.budget)
			return 0, nil, s.refuse(&Error{
				Code: CodeIdempotencyConflict, Message: "the Idempotency-Key was used before, with another body", Index: -1, Cause: "idempotency_conflict",
			})
		}
	case <-timeout.C:
	case <-ctx.Done():
	}
	sub.waiter.give() // outcomes are only counted
	select {
	case answer := <-sub.waiter.answer: // at the last moment
		if answer.Verdict != schemas.RequestAccepted {
			sub.waiter.release(s.budget)
		}
	default:
	}
	return 0, nil, s.refuse(unknownRequest("unanswered_request"))
}

// unknownRequest is the error for a request with an idempotency key that may have been accepted. With the key it is safe to send it again.
func unknownRequest(cause string) *Error {
	return busy(cause, "it is not known yet whether the request was accepted; send it again with the same Idempotency-Key", nil)
}

// replayed says so in the header of the answer.
func (q *request) replayed() {
	if q.answer != nil {
		q.answer.Set(headerReplayed, "true")
	}
}

// How often ClickHouse is asked for the outcomes of another request's batch, at first and at most.
const (
	repeatLook     = 50 * time.Millisecond
	repeatLookMost = 500 * time.Millisecond
)

// repeat makes the receipt of the first request with a key for a later one with the same body. Both have the same items. Outcomes that
// ClickHouse does not have in time are pending, as they are when a caller's wait ends.
func (s *Service) repeat(ctx context.Context, b *Batch, answer *schemas.RequestAnswer, until time.Time) *Receipt {
	// One look is taken whatever the time: who saw a batch complete must not be told that it is pending.
	ctx, cancel := context.WithDeadline(ctx, later(until, time.Now().Add(s.cfg.SinkWait)))
	defer cancel()
	r := &Receipt{Number: answer.Number, Results: make([]Result, len(b.Items))}
	for i := range r.Results {
		r.Results[i].Index, r.Results[i].ID = i, schemas.ItemID(b.Tenant, answer.First, int32(i))
	}
	for pause := repeatLook; ; pause = min(2*pause, repeatLookMost) {
		outcomes, err := s.deps.Reports.BatchOutcomes(ctx, b.Tenant, resultKind(b.Kind), answer.First)
		if err != nil && ctx.Err() == nil {
			s.log.Warn("read the outcomes of a repeated request", "batch", answer.Number, "error", err)
		}
		for _, o := range outcomes { // one that was seen stays
			if o.Index >= 0 && int(o.Index) < len(r.Results) {
				r.Results[o.Index].Processed, r.Results[o.Index].Reasons = o.Processed, o.Reasons
			}
		}
		r.Pending = 0
		for i := range r.Results {
			if r.Results[i].Processed == nil && r.Results[i].Reasons == nil {
				r.Pending++
			}
		}
		left := time.Until(until)
		if r.Pending == 0 || left <= 0 || !sleep(ctx, min(pause, left)) {
			return r
		}
	}
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// sleep is false when ctx ended first.
func sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}
