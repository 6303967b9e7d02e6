package ingest

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/counterfoil/counterfoil/schemas"
)

// choose picks n of the partitions 0 to count-1 at random, so that the copies of ingest spread over them. Overlaps are harmless.
func choose(count int32, n int) []int32 {
	all := make([]int32, count)
	for i := range all {
		all[i] = int32(i)
	}
	rand.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
	return slices.Sorted(slices.Values(all[:min(n, len(all))]))
}

// waiter collects the outcomes of one batch, and holds the bytes of the budget that the batch occupies.
type waiter struct {
	done chan struct{} // closed with the last outcome
	// answer receives what became of a request with an idempotency key, once; nil for others.
	answer     chan schemas.RequestAnswer
	submission *submission // that was so answered

	mu        sync.Mutex
	bytes     int64 // of the budget; 0 once they are given back
	seen      []bool
	missing   int
	results   []Result // nil when nobody waits any more
	answered  bool
	committed bool // known to be; until then nothing is said of the batch, however long that takes
	since     time.Time
}

func newWaiter(items int) *waiter {
	w := &waiter{seen: make([]bool, items), missing: items, results: make([]Result, items), done: make(chan struct{})}
	if items == 0 {
		close(w.done)
	}
	return w
}

// open reports whether something of the batch is still to come.
func (w *waiter) open() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.missing > 0 || w.answer != nil && !w.answered
}

// settle notes the outcome of an item and reports whether it was the last one, and how long after the commit. Duplicates change nothing.
func (w *waiter) settle(index int, r Result) (last bool, took time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.seen[index] {
		return false, 0
	}
	w.seen[index] = true
	w.missing--
	if w.results != nil {
		w.results[index] = r
	}
	if w.missing == 0 {
		close(w.done)
		return true, time.Since(w.since)
	}
	return false, 0
}

// release gives the batch's bytes back to the budget, once: a batch can end in several ways at the same time.
func (w *waiter) release(b *budget) {
	w.mu.Lock()
	bytes := w.bytes
	w.bytes = 0
	w.mu.Unlock()
	b.release(bytes)
}

// expired reports whether a committed batch has waited too long for its outcomes.
func (w *waiter) expired(after time.Duration) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.committed && time.Since(w.since) > after
}

// wants says what is to be done with the outcome of an item: nothing, when it is known already; and to decode it, when somebody waits.
func (w *waiter) wants(index int) (open, decode bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return index >= 0 && index < len(w.seen) && !w.seen[index], w.results != nil
}

// told hands the answer about a request with an idempotency key to who waits for it, if anybody does.
func (w *waiter) told(answer schemas.RequestAnswer) (again, waits bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.answered {
		return true, false
	}
	w.answered = true
	w.answer <- answer // it has room for one
	return false, w.results != nil
}

// give hands the results to who waited; what comes later is only counted.
func (w *waiter) give() (results []Result, pending int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	results, w.results = w.results, nil
	return results, w.missing
}

// replies reads some partitions of the result topics and hands the outcomes to the waiters of their batches. It has no consumer group: a
// position that is lost costs an answer in time and no data, because every outcome is in ClickHouse and under the job URL as well.
type replies struct {
	s          *Service
	positioned atomic.Bool
	read       map[string]func(value []byte) (Result, error) // by topic
	answers    *schemas.Decoder[schemas.RequestAnswer]

	mu    sync.Mutex
	batch map[string]*waiter // by batch key
}

func newReplies(s *Service) *replies {
	r := &replies{s: s, batch: map[string]*waiter{}, read: map[string]func([]byte) (Result, error){}}
	registry := s.deps.Registry
	r.answers = schemas.NewDecoder[schemas.RequestAnswer](registry, schemas.RequestAnswerSchema)
	r.read[schemas.ProcessedTopic(schemas.KindOwnership)] = readHead[schemas.OwnershipResult](registry, schemas.OwnershipProcessedSchema)
	r.read[schemas.ProcessedTopic(schemas.KindCustomerEvents)] = readHead[schemas.EventResult](registry, schemas.EventProcessedSchema)
	r.read[schemas.ProcessedTopic(schemas.KindReferrals)] = readHead[schemas.ReferralResult](registry, schemas.ReferralProcessedSchema)
	r.read[schemas.ProcessedTopic(schemas.KindSales)] = readHead[schemas.SaleResult](registry, schemas.SaleProcessedSchema)
	r.read[schemas.ProcessedTopic(schemas.KindTransactions)] = readHead[schemas.TransactionResult](registry, schemas.TransactionProcessedSchema)
	unprocessed := schemas.NewDecoder[schemas.Unprocessed](registry, schemas.UnprocessedSchema)
	for _, k := range itemKinds { // outcomes of records for other topics are written, and known, at the door
		r.read[schemas.UnprocessedTopic(k)] = func(value []byte) (Result, error) {
			var u schemas.Unprocessed
			err := unprocessed.Decode(value, &u)
			return Result{Reasons: u.Reasons}, err
		}
	}
	return r
}

// readHead decodes a processed outcome without its item.
func readHead[T any](registry *schemas.Registry, schema *schemas.Schema) func([]byte) (Result, error) {
	d := schemas.NewHeadDecoder[T](registry, schema)
	return func(value []byte) (Result, error) {
		v := new(T)
		err := d.Decode(value, v)
		return Result{Processed: v}, err
	}
}

// add registers the waiter of a batch. It must happen before the commit: outcomes can be there before the answer to the commit is.
func (r *replies) add(key string, w *waiter) {
	w.mu.Lock()
	w.since = time.Now()
	w.mu.Unlock()
	if w.open() {
		r.mu.Lock()
		r.batch[key] = w
		r.mu.Unlock()
	}
}

// committed notes that a batch is in a committed transaction: its outcomes will come, or are here already.
func (r *replies) committed(w *waiter) {
	w.mu.Lock()
	w.committed, w.since = true, time.Now()
	w.mu.Unlock()
	if !w.open() { // all was decided at the door
		w.release(r.s.budget)
	}
}

// remove forgets a batch: it was not committed, or nothing more is to be known of it here.
func (r *replies) remove(key string, w *waiter) {
	r.forget(key)
	w.release(r.s.budget)
}

// forget is remove for a batch that still occupies its bytes.
func (r *replies) forget(key string) {
	r.mu.Lock()
	delete(r.batch, key)
	r.mu.Unlock()
}

// wait waits until a committed batch has all its outcomes, for no longer than the given time.
func (r *replies) wait(ctx context.Context, w *waiter, most time.Duration) (results []Result, pending int) {
	timeout := time.NewTimer(most)
	defer timeout.Stop()
	select {
	case <-w.done:
	case <-timeout.C:
	case <-ctx.Done():
	}
	return w.give()
}

// count tells requests that wait from batches that are only counted.
func (r *replies) count() (waiting, pending int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, w := range r.batch {
		if _, decode := w.wants(0); decode {
			waiting++
		} else {
			pending++
		}
	}
	return waiting, pending
}

// run tails the partitions.
func (r *replies) run(ctx context.Context, rt *routing) error {
	client, err := r.open(ctx, rt)
	if err != nil {
		if ctx.Err() != nil {
			return nil
		}
		return err
	}
	defer client.Close()
	r.positioned.Store(true)

	sweep := time.NewTicker(time.Second)
	defer sweep.Stop()
	// Outcomes whose schema is not known yet; only of batches that somebody waits for, and so bounded as those are.
	var later []*kgo.Record
	for {
		most := time.Second // so that the sweep comes round
		if len(later) > 0 {
			most = 50 * time.Millisecond
		}
		pctx, cancel := context.WithTimeout(ctx, most)
		fetches := client.PollFetches(pctx)
		cancel()
		if ctx.Err() != nil {
			return nil
		}
		fetches.EachError(func(topic string, partition int32, err error) {
			if !errors.Is(err, context.DeadlineExceeded) {
				r.s.log.Warn("read outcomes", "topic", topic, "partition", partition, "error", err)
			}
		})
		again := later
		later = nil
		for _, rec := range again {
			if !r.handle(rec) {
				later = append(later, rec)
			}
		}
		fetches.EachRecord(func(rec *kgo.Record) {
			if !r.handle(rec) {
				later = append(later, rec)
			}
		})
		select {
		case <-sweep.C:
			r.sweep()
		default:
		}
	}
}

// open makes the client and fixes its positions: at the high watermarks of this moment, so that no outcome of a batch that is accepted from
// now on can be missed.
func (r *replies) open(ctx context.Context, rt *routing) (*kgo.Client, error) {
	topics := append(make([]string, 0, 1+len(r.read)), schemas.RequestAnswers)
	for topic := range r.read {
		topics = append(topics, topic)
	}
	for {
		ends, err := rt.admin.ListEndOffsets(ctx, topics...)
		if err == nil {
			err = ends.Error()
		}
		if err == nil {
			at := map[string]map[int32]kgo.Offset{}
			for _, topic := range topics {
				at[topic] = map[int32]kgo.Offset{}
				for _, p := range rt.reply {
					at[topic][p] = kgo.NewOffset().At(ends[topic][p].Offset)
				}
			}
			return kgo.NewClient(append(slices.Concat(r.s.deps.Kafka, schemas.ConsumeCommitted()),
				kgo.ConsumePartitions(at),
				// Unlike other readers: only a topic that lost records can have less than was there, and then the newest outcomes are what
				// is waited for. What was jumped over is under the job URL.
				kgo.ConsumeResetOffset(kgo.NewOffset().AtEnd()),
			)...)
		}
		r.s.log.Warn("ask for the ends of the result topics", "error", err)
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(time.Second):
		}
	}
}

// handle hands one outcome to its waiter. It is false when the record's schema is not known yet and it must be offered again.
func (r *replies) handle(rec *kgo.Record) bool {
	if rec.Attrs.IsControl() {
		return true
	}
	key, index := batchOf(rec.Headers)
	r.mu.Lock()
	w := r.batch[string(key)]
	r.mu.Unlock()
	if w == nil {
		r.s.metrics.replies.WithLabelValues("foreign").Inc()
		return true
	}
	if rec.Topic == schemas.RequestAnswers {
		return r.handleAnswer(rec, string(key), w)
	}
	open, decode := w.wants(index)
	if !open {
		r.s.metrics.replies.WithLabelValues("duplicate").Inc()
		return true
	}
	var result Result
	if decode {
		var err error
		result, err = r.read[rec.Topic](rec.Value)
		switch {
		case errors.Is(err, schemas.ErrSchemaPending):
			return false
		case err != nil:
			// The item was judged; who waits for it gets the pending answer and finds the outcome under the job URL.
			r.s.metrics.replies.WithLabelValues("unreadable").Inc()
			r.s.log.Error("outcome cannot be read", "topic", rec.Topic, "partition", rec.Partition, "offset", rec.Offset, "error", err)
			return true
		}
	}
	r.s.metrics.replies.WithLabelValues("matched").Inc()
	if last, took := w.settle(index, result); last {
		r.s.metrics.replySeconds.Observe(took.Seconds())
		if !w.open() {
			r.remove(string(key), w)
		}
	}
	return true
}

// handleAnswer notes what became of a request with an idempotency key. It is false as that of handle is.
func (r *replies) handleAnswer(rec *kgo.Record, key string, w *waiter) bool {
	var answer schemas.RequestAnswer
	err := r.answers.Decode(rec.Value, &answer)
	switch {
	case errors.Is(err, schemas.ErrSchemaPending):
		return false
	case err != nil:
		// Who waits for it is told to send the request again.
		r.s.metrics.replies.WithLabelValues("unreadable").Inc()
		r.s.log.Error("answer about a request cannot be read", "topic", rec.Topic, "partition", rec.Partition, "offset", rec.Offset, "error", err)
		return true
	}
	again, waits := w.told(answer)
	if again {
		r.s.metrics.replies.WithLabelValues("duplicate").Inc()
		return true
	}
	r.s.metrics.replies.WithLabelValues("matched").Inc()
	r.s.metrics.requestAnswers.WithLabelValues(answer.Verdict).Inc()
	if answer.Verdict == schemas.RequestAccepted {
		r.s.metrics.accept(w.submission)
	}
	switch {
	case answer.Verdict == schemas.RequestAccepted:
		if !w.open() {
			r.remove(key, w)
		}
	case waits: // the request itself occupies its bytes until it has its answer
		r.forget(key)
	default:
		r.remove(key, w)
	}
	return true
}

// batchOf finds the batch key and the index in the headers, before anything is decoded: most records may be other copies'.
func batchOf(headers []kgo.RecordHeader) (key []byte, index int) {
	index = -1
	for i := range headers {
		switch headers[i].Key {
		case schemas.HeaderBatch:
			key = headers[i].Value
		case schemas.HeaderIndex:
			if n, err := strconv.Atoi(string(headers[i].Value)); err == nil {
				index = n
			}
		}
	}
	return key, index
}

// sweep forgets batches whose outcomes did not all come within the time after which the backlog refuses new ones anyway. Their bytes are
// no longer in flight here. A batch of which it is not known yet whether it was committed stays, however long Kafka is away.
func (r *replies) sweep() {
	most := r.s.cfg.Wait + r.s.cfg.BacklogLimit
	old := map[string]*waiter{}
	r.mu.Lock()
	for key, w := range r.batch {
		if w.expired(most) {
			old[key] = w
		}
	}
	r.mu.Unlock()
	for key, w := range old {
		r.remove(key, w)
	}
	if len(old) > 0 {
		r.s.metrics.expired.Add(float64(len(old)))
		r.s.log.Warn("batches without all outcomes are no longer counted as in flight", "batches", len(old), "after", fmt.Sprint(most))
	}
}
