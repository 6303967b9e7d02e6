package processors

import (
	"bytes"
	"cmp"
	"fmt"
	"slices"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/counterfoil/counterfoil/schemas"
)

// requestMemory is how long a request with an idempotency key is remembered, in the time of the records.
const requestMemory = 24 * time.Hour

// requests passes the records of requests with an idempotency key on to where they belong, those of the first request with a key and of no
// other, in one partition of the topic requests. It is that partition's state: what is remembered of each key.
//
// A request is one batch: its header first, then everything else of it, perhaps with other requests' records in between, because several
// producers write here. The header is judged for all, so that the rest only asks whether its batch is the one that is remembered. The number
// of a batch is known when its header lies in the topic batches; so what is remembered and answered is written in a second step of the
// round ([requests.settle]), in the same transaction.
//
// A request that has no effect is answered at its header. The first one is answered with its last record, which may come rounds later and to
// another copy: its caller takes the answer to mean that all of the batch is where it belongs, before whatever is sent afterwards.
type requests struct {
	*stateTable[schemas.Request] // by schemas.RequestKey
	l                            *lane

	// What is remembered, in the order of acceptance, from oldest on; what was replaced since is still in it. It is made when it is first
	// needed, because a changelog that is read back may hold a key many times.
	order   []*schemas.Request
	oldest  int
	ordered bool
	latest  time.Time // of the records so far

	// The round under way.
	fresh   []freshRequest
	answers []requestAnswer
	expired int // of order, from oldest on
}

// freshRequest is a request that was accepted in this round.
type freshRequest struct {
	request *schemas.Request
	header  int // place of its batch header among the lane's records
}

// requestAnswer is what a caller is told. The first request may be one of the same round, whose number comes later.
type requestAnswer struct {
	to      schemas.Envelope // of the request
	verdict string
	first   *schemas.Request
}

func newRequests(l *lane) *requests {
	topic := schemas.StateTopic(l.kind.name)
	decoder := schemas.NewDecoder[schemas.Request](l.s.p.deps.Registry, schemas.RequestSchema)
	return &requests{stateTable: newStateTable(topic, l.partition, l.codecs.state, decoder), l: l}
}

// judge passes a record on, or drops it, or makes it a dead letter.
func (q *requests) judge(rec *kgo.Record) {
	l := q.l
	before, tally := l.out.mark(), l.tally
	defer func() {
		if p := recover(); p != nil {
			l.out.back(before)
			l.tally = tally
			l.report(rec, p)
			l.deadLetter(rec, nil, schemas.CodeInternalError, "the record could not be passed on because of an internal fault")
		}
	}()
	env, err := schemas.ParseEnvelope(rec.Headers)
	if err == nil && env.Batch == "" {
		err = fmt.Errorf("header %s is missing", schemas.HeaderBatch)
	}
	if err != nil {
		l.deadLetter(rec, nil, schemas.CodeBadHeader, err.Error())
		return
	}
	to, headers, err := schemas.ParsePassage(rec.Headers)
	if count := l.s.partitions[to.Topic]; err == nil && to.Partition >= count {
		err = fmt.Errorf("header %s: %s has %d partitions", schemas.HeaderTarget, to.Topic, count)
	}
	if err != nil {
		l.deadLetter(rec, &env.Tenant, schemas.CodeBadHeader, err.Error())
		return
	}
	key := schemas.RequestKey(env.Tenant, to.Route, to.Key)
	known := q.get(key)
	if rec.Timestamp.After(q.latest) {
		q.latest = rec.Timestamp
	}
	passed := kgo.Record{Topic: to.Topic, Partition: to.Partition, Key: rec.Key, Value: rec.Value, Headers: headers}
	if to.Topic != schemas.Batches {
		if known == nil || known.Batch != env.Batch {
			l.tally.dropped++
			return
		}
		l.out.add(passed)
		l.tally.passed++
		if to.Last {
			q.answer(&env, schemas.RequestAccepted, known)
		}
		return
	}
	verdict := judgeRequest(known, to.BodyHash, rec.Timestamp)
	if verdict == schemas.RequestAccepted {
		known = &schemas.Request{
			Tenant: env.Tenant, Route: to.Route, Key: to.Key, BodyHash: to.BodyHash, Batch: env.Batch, At: rec.Timestamp.UTC(),
		}
		q.put(key, known)
		q.fresh = append(q.fresh, freshRequest{known, len(l.out.records)})
		l.out.add(passed)
		l.tally.passed++
	} else {
		l.tally.dropped++
	}
	if verdict != schemas.RequestAccepted || to.Last {
		q.answer(&env, verdict, known)
	}
}

// answer notes what the sender of a request is told when the round is written.
func (q *requests) answer(to *schemas.Envelope, verdict string, first *schemas.Request) {
	q.answers = append(q.answers, requestAnswer{to: *to, verdict: verdict, first: first})
	q.l.tally.verdicts = append(q.l.tally.verdicts, verdict)
}

// judgeRequest decides on a request by what is remembered of its key; nil: nothing.
func judgeRequest(known *schemas.Request, bodyHash []byte, at time.Time) string {
	switch {
	case known == nil || at.Sub(known.At) >= requestMemory:
		return schemas.RequestAccepted
	case bytes.Equal(known.BodyHash, bodyHash):
		return schemas.RequestRepeated
	default:
		return schemas.RequestConflict
	}
}

// settle adds the answers and what is remembered to the lane's records, when all that it had before is acknowledged.
func (q *requests) settle() error {
	l := q.l
	for _, f := range q.fresh {
		f.request.Number = l.s.p.deps.Epochs.BatchNumber(l.out.records[f.header].Offset)
	}
	for i := range q.answers {
		a := &q.answers[i]
		value, err := l.out.encode(l.codecs.answers, &schemas.RequestAnswer{
			Tenant: a.first.Tenant, Batch: a.to.Batch, Verdict: a.verdict, First: a.first.Batch, Number: a.first.Number,
		})
		if err != nil {
			return fmt.Errorf("encode answer: %w", err)
		}
		partition := max(0, a.to.Reply) % l.s.partitions[schemas.RequestAnswers]
		envelope := schemas.Envelope{Tenant: a.to.Tenant, Batch: a.to.Batch, Reply: -1, TraceParent: a.to.TraceParent}
		l.out.add(kgo.Record{Topic: schemas.RequestAnswers, Partition: partition, Value: value, Headers: envelope.Headers(nil)})
	}
	q.expire()
	return q.write(&l.out)
}

// expire forgets what is too old. It looks at a few more keys than the round added, so that the memory shrinks and no round is long; it
// moves with the records, so that a partition without any keeps what it has.
func (q *requests) expire() {
	if !q.ordered {
		for _, r := range q.kept {
			q.order = append(q.order, r)
		}
		slices.SortFunc(q.order, func(a, b *schemas.Request) int {
			return cmp.Or(a.At.Compare(b.At), cmp.Compare(a.Number, b.Number))
		})
		q.ordered = true
	}
	for range 2*len(q.fresh) + 16 {
		at := q.oldest + q.expired
		if at == len(q.order) || q.latest.Sub(q.order[at].At) < requestMemory {
			return
		}
		old := q.order[at]
		// Another request may have taken the key since.
		if key := schemas.RequestKey(old.Tenant, old.Route, old.Key); q.get(key) == old {
			q.put(key, nil)
		}
		q.expired++
	}
}

func (q *requests) keep() {
	q.stateTable.keep()
	clear(q.order[q.oldest : q.oldest+q.expired])
	q.oldest += q.expired
	for _, f := range q.fresh {
		q.order = append(q.order, f.request)
	}
	if q.oldest > len(q.order)/2 {
		q.order = append(q.order[:0:0], q.order[q.oldest:]...)
		q.oldest = 0
	}
}

func (q *requests) drop() {
	q.stateTable.drop()
	clear(q.fresh)
	clear(q.answers)
	q.fresh, q.answers, q.expired = q.fresh[:0], q.answers[:0], 0
}
