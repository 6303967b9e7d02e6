package ingest

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/http"
	"slices"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/counterfoil/counterfoil/ingest/lenient"
	"github.com/counterfoil/counterfoil/schemas"
)

// What a batch occupies beside its encoded bytes: records, headers, waiter. An estimate, for the byte budget.
const (
	batchOverhead = 1 << 10
	itemOverhead  = 256
)

// maxRecordExtra is what key and headers of a record may have on top of MaxItemBytes; the topics allow a little more.
const maxRecordExtra = 60 << 10

// MaxRefBytes is how many bytes a caller's reference of an item may have: it travels in a header of the item's record.
const MaxRefBytes = 1000

// submission is a batch on its way into a transaction.
type submission struct {
	key        string
	door, kind string
	records    []*kgo.Record // the header first
	items      int
	toJudge    int // items that are not decided at the door
	bytes      int // of all values
	waiter     *waiter
	repeatable *repeatable // nil for a request without an idempotency key
	state      atomic.Int32
	done       chan verdict // receives exactly one, once it is taken
}

// States of a submission. Only one that was not taken can be withdrawn.
const (
	queued int32 = iota
	taken
	withdrawn
)

// verdict says what became of a submission.
type verdict struct {
	number  int64  // 0 for a request with an idempotency key
	err     error  // nothing of it was committed
	unknown string // it is not known, and the caller hears nothing: unknownTime or unknownStop
}

// Why a caller gets no answer; for metrics and the log.
const (
	unknownTime = "time" // the look-up goes on
	unknownStop = "stop"
)

// Submit publishes a batch and waits for its outcomes, for no longer than the configured time; what is missing then is pending in the receipt.
// An error is always an *[Error] and means that nothing was accepted. An accepted batch never ends in an error.
//
// In one case there is no return: where it is not known whether Kafka committed the batch, and the service stops or PublishTimeout and Wait
// have passed since the batch was handed to a producer, Submit panics with http.ErrAbortHandler. Any answer would be a guess, so the
// connection is closed without one. The look-up goes on for as long as the service runs: the batch is whole or not there at all, and one
// that was committed is in the list of batches.
//
// A request with the header Idempotency-Key is published once, however often and wherever it comes in: the receipt is that of the first one,
// and the header Idempotent-Replayed says so. The error is CodeIdempotencyKey where the key cannot be read and CodeIdempotencyConflict where it
// came with another body. CodeBusy leaves open whether the batch was accepted, because with the key it is safe to send it again; so there
// always is a return.
func (s *Service) Submit(ctx context.Context, b *Batch) (*Receipt, error) {
	q := of(ctx)
	rt := s.route.Load()
	if rt == nil || !s.replies.positioned.Load() { // outcomes could be missed that come before the result topics are read
		return nil, s.refuse(busy("starting", "the service is starting; try again later", nil))
	}
	if e := s.backlog.refuse(); e != nil {
		return nil, s.refuse(e)
	}
	repeatable, err := q.repeatable(b)
	if err != nil {
		return nil, s.refuse(AsError(err))
	}
	sub, size, err := s.encode(rt, b, q.trace)
	if err != nil {
		return nil, s.refuse(AsError(err))
	}
	if repeatable != nil {
		size += repeatable.redirect(sub.records, b.Tenant, rt.partitions[schemas.Requests])
		sub.repeatable, sub.waiter.submission, sub.waiter.answer = repeatable, sub, make(chan schemas.RequestAnswer, 1)
	}
	// The bytes of the body become the bytes of the batch, so that a request that has its place never waits for a second one, unless
	// its records are larger than its body.
	handed := min(q.reserved, size)
	if !s.budget.acquire(ctx, size-handed, s.cfg.BudgetWait) {
		return nil, s.refuse(s.full())
	}
	q.reserved -= handed
	sub.waiter.bytes = size

	v := s.publish(ctx, sub)
	switch {
	case v.unknown != "" && repeatable != nil:
		sub.waiter.give() // outcomes are only counted
		return nil, s.refuse(unknownRequest("unknown_commit"))
	case v.unknown != "":
		s.metrics.unanswered.WithLabelValues(v.unknown).Inc()
		q.cause = "unknown_commit"
		sub.waiter.give() // outcomes are only counted
		panic(http.ErrAbortHandler)
	case v.err != nil:
		sub.waiter.release(s.budget) // a producer never had it, or has released it
		return nil, s.refuse(AsError(v.err))
	}
	ctx, cancel := s.patient(ctx)
	defer cancel()
	wait := s.cfg.Wait
	if b.Wait != nil {
		wait = *b.Wait
	}
	if repeatable != nil {
		until := time.Now().Add(wait)
		var receipt *Receipt
		v.number, receipt, err = s.answered(ctx, b, sub, until)
		if q.batch = v.number; receipt != nil || err != nil {
			return receipt, err
		}
		wait = max(0, time.Until(until))
	}
	q.batch = v.number
	results, pending := s.replies.wait(ctx, sub.waiter, wait)
	for i := range results {
		results[i].Index = i
		results[i].ID = schemas.ItemID(b.Tenant, sub.key, int32(i))
	}
	return &Receipt{Number: v.number, Results: results, Pending: pending}, nil
}

// patient is ctx until the service has been stopping for the usual Wait: who may wait for longer than the service takes to end gets what is
// there by then.
func (s *Service) patient(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(ctx)
	stop := context.AfterFunc(s.draining, func() { time.AfterFunc(s.cfg.Wait, cancel) })
	return ctx, func() { stop(); cancel() }
}

// publish hands a submission to the producers and waits for the verdict.
func (s *Service) publish(ctx context.Context, sub *submission) verdict {
	timeout := time.NewTimer(s.cfg.PublishTimeout)
	defer timeout.Stop()
	stalled := verdict{err: busy("publish_queue", "the batch could not be stored in time; nothing was accepted, try again later", nil)}
	select {
	case s.queue <- sub:
	case <-timeout.C:
		return stalled
	case <-s.stopped:
		return stalled
	case <-ctx.Done():
		return verdict{err: busy("client_gone", "the request was given up", ctx.Err())}
	}
	select {
	case v := <-sub.done:
		return v
	case <-timeout.C:
	case <-s.stopped:
	}
	if sub.state.CompareAndSwap(queued, withdrawn) {
		return stalled
	}
	// A producer has it: from here on only its word counts. It comes for certain where the producers have ended.
	patience := time.NewTimer(s.cfg.Wait)
	defer patience.Stop()
	select {
	case v := <-sub.done:
		return v
	case <-patience.C:
	}
	select {
	case v := <-sub.done: // at the last moment
		return v
	default:
		return verdict{unknown: unknownTime}
	}
}

// encode makes the records of a batch. It runs in the request's own goroutine, so that the producers only move bytes. The size is what the
// batch occupies until it is judged.
func (s *Service) encode(rt *routing, b *Batch, trace string) (*submission, int64, error) {
	if b.Operation == "" {
		return nil, 0, fmt.Errorf("a batch of the door %q names no operation", b.Door)
	}
	if len(b.Items) > MaxItems {
		return nil, 0, &Error{Code: CodeTooLarge, Message: fmt.Sprintf("a request may have %d items, this one has %d", MaxItems, len(b.Items)), Index: -1, Cause: "items"}
	}
	records := slices.Contains(recordTopics, b.Kind) // judged here: a record and an outcome each
	if !records && !slices.Contains(itemKinds, b.Kind) {
		return nil, 0, fmt.Errorf("kind %q is not known", b.Kind)
	}
	most := 1 + len(b.Items)
	if records {
		most += len(b.Items)
	}
	e := &encoding{
		rt: rt, b: b, key: schemas.NewBatchKey(), now: time.Now().UTC().Truncate(time.Millisecond), epoch: s.deps.Epochs.Of(b.Kind),
		reply: rt.reply[rand.IntN(len(rt.reply))], resultKind: resultKind(b.Kind), records: make([]kgo.Record, 1, most), ends: make([]int, 0, most),
	}
	e.partition = schemas.Partition([]byte(e.key), rt.partitions[b.Kind])
	if b.ItemKind != "" {
		e.itemKind = &b.ItemKind
	}
	w := newWaiter(len(b.Items))
	err := e.header(trace)
	if err != nil {
		return nil, 0, err
	}
	for i := range b.Items {
		switch defects := b.Items[i].Defects; {
		case len(defects) > 0:
			err = e.refused(i)
			w.settle(i, Result{Reasons: defects})
		case records:
			var outcome *schemas.ReferenceProcessed
			outcome, err = e.record(i)
			w.settle(i, Result{Processed: outcome})
		default:
			err = e.item(i)
		}
		if err != nil {
			return nil, 0, err
		}
	}
	sub := &submission{
		key: e.key, door: b.Door, kind: b.Kind, records: e.finish(), items: len(b.Items), toJudge: w.missing, bytes: len(e.buf), waiter: w,
		done: make(chan verdict, 1),
	}
	return sub, int64(len(e.buf)) + batchOverhead + int64(len(b.Items))*itemOverhead, nil
}

// encoding is a batch while its records are made. All values share one buffer; the records get their parts when it has stopped growing.
type encoding struct {
	rt        *routing
	b         *Batch
	key       string
	now       time.Time
	epoch     int32
	reply     int32
	partition int32 // of items without a key
	itemKind  *string

	resultKind string // whose result topics have the outcomes

	records  []kgo.Record
	buf      []byte
	ends     []int              // of each record's value in buf
	envelope []kgo.RecordHeader // of the batch, shared by all items but for the index
	indexAt  int                // place of the index in it
}

// header makes the record for the topic batches, and the envelope.
func (e *encoding) header(trace string) error {
	h := schemas.BatchHeader{
		Tenant: e.b.Tenant, Key: e.key, Kind: e.b.Kind, ItemKind: e.itemKind, Door: e.b.Door, KeyID: e.b.KeyID, Items: int32(len(e.b.Items)),
		ReplyPartition: e.reply, Ref: e.b.Ref, AcceptedAt: e.now, Lookback: e.b.Lookback,
	}
	var err error
	if e.buf, err = e.rt.encoders[schemas.Batches].Append(e.buf, &h); err != nil {
		return fmt.Errorf("encode batch header: %w", err)
	}
	e.ends = append(e.ends, len(e.buf))
	envelope := schemas.Envelope{Tenant: e.b.Tenant, Batch: e.key, Reply: e.reply, TraceParent: trace}
	e.envelope = envelope.Headers(nil)
	e.indexAt = slices.IndexFunc(e.envelope, func(h kgo.RecordHeader) bool { return h.Key == schemas.HeaderIndex })
	e.records[0] = kgo.Record{Topic: schemas.Batches, Partition: 0, Headers: e.envelope, Timestamp: e.now}
	return nil
}

// item makes the record of an item that processors judge.
func (e *encoding) item(i int) error {
	it := &e.b.Items[i]
	partition := e.partition
	if it.Key != nil {
		partition = schemas.Partition(it.Key, e.rt.partitions[e.b.Kind])
	}
	return e.add(i, e.b.Kind, it.Key, partition, it.Value)
}

// refused makes the outcome of an item that has defects at the door. It shows the item as it was sent, but not what makes only its text large.
func (e *encoding) refused(i int) error {
	it := &e.b.Items[i]
	outcome := &schemas.Unprocessed{
		Outcome: e.outcome(i), Kind: e.b.Kind, ItemKind: e.itemKind, Reasons: it.Defects, Format: it.Format, Original: it.Original,
	}
	if it.Format == schemas.FormatJSON && len(it.Original) > schemas.MaxItemBytes/8*7 {
		outcome.Original = lenient.Shorter(string(it.Original))
	}
	return e.add(i, schemas.UnprocessedTopic(e.resultKind), nil, e.reply, outcome)
}

// record makes the record of a reference or fact topic, and its outcome.
func (e *encoding) record(i int) (*schemas.ReferenceProcessed, error) {
	it := &e.b.Items[i]
	own, ok := it.Value.(interface{ OwnID() string })
	if !ok {
		return nil, fmt.Errorf("item %d for %s is %T, which has no own id", i, e.b.Kind, it.Value)
	}
	outcome := &schemas.ReferenceProcessed{Outcome: e.outcome(i), Kind: e.b.Kind, OwnID: own.OwnID()}
	key := schemas.ReferenceKey(e.b.Tenant, outcome.OwnID)
	// Spellings of one id lie in one partition, so that the last of a batch counts.
	partition := schemas.Partition(schemas.ReferenceKey(e.b.Tenant, schemas.Fold(outcome.OwnID)), e.rt.partitions[e.b.Kind])
	if err := e.add(i, e.b.Kind, key, partition, it.Value); err != nil {
		return nil, err
	}
	return outcome, e.add(i, schemas.ProcessedTopic(e.resultKind), nil, e.reply, outcome)
}

// outcome is what an outcome begins with that is written at the door.
func (e *encoding) outcome(i int) schemas.Outcome {
	return schemas.Outcome{
		Tenant: e.b.Tenant, ID: schemas.ItemID(e.b.Tenant, e.key, int32(i)), Batch: &e.key, Index: int32(i), Attempt: 1, Ref: e.b.Items[i].Ref,
		SourceTopic: e.b.Kind, SourceEpoch: e.epoch, SourcePartition: -1, SourceOffset: -1, AcceptedAt: e.now, JudgedAt: e.now,
	}
}

// add encodes a record of the item with the given index.
func (e *encoding) add(i int, topic string, key []byte, partition int32, value any) error {
	start := len(e.buf)
	var err error
	if e.buf, err = e.rt.encoders[topic].Append(e.buf, value); err != nil {
		return fmt.Errorf("encode item %d for %s: %w", i, topic, err)
	}
	r := kgo.Record{Topic: topic, Partition: partition, Key: key, Timestamp: e.now, Headers: e.envelopeOf(i, e.b.Items[i].Ref)}
	extra := len(r.Key)
	for _, h := range r.Headers {
		extra += len(h.Key) + len(h.Value)
	}
	if len(e.buf)-start > schemas.MaxItemBytes || extra > maxRecordExtra {
		return &Error{Code: CodeTooLarge, Message: fmt.Sprintf("the item has more than %d bytes when encoded", schemas.MaxItemBytes), Index: i, Cause: "item_size"}
	}
	e.ends = append(e.ends, len(e.buf))
	e.records = append(e.records, r)
	return nil
}

// envelopeOf is the batch's envelope with the item's index and reference.
func (e *encoding) envelopeOf(i int, ref *string) []kgo.RecordHeader {
	n := len(e.envelope)
	if ref != nil {
		n++
	}
	h := append(make([]kgo.RecordHeader, 0, n), e.envelope...)
	h[e.indexAt].Value = strconv.AppendInt(nil, int64(i), 10)
	if ref != nil {
		h = append(h, kgo.RecordHeader{Key: schemas.HeaderRef, Value: []byte(*ref)})
	}
	return h
}

// finish gives the records their values.
func (e *encoding) finish() []*kgo.Record {
	out := make([]*kgo.Record, len(e.records))
	start := 0
	for i := range e.records {
		e.records[i].Value = e.buf[start:e.ends[i]:e.ends[i]]
		start = e.ends[i]
		out[i] = &e.records[i]
	}
	return out
}
