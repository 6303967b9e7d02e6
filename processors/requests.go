package processors

import (
	"bytes"
	"fmt"
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
	*memory[schemas.Request] // by schemas.RequestKey
	l                        *lane

	// The round under way.
	accepted []acceptedRequest
	answers  []requestAnswer
}

// acceptedRequest is a request that was accepted in this round.
type acceptedRequest struct {
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
	table := newStateTable(topic, l.partition, l.codecs.state, decoder)
	return &requests{memory: newMemory(table, requestMemory, func(r *schemas.Request) time.Time { return r.At }), l: l}
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
	q.seen(rec.Timestamp)
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
		q.remember(key, known)
		q.accepted = append(q.accepted, acceptedRequest{known, len(l.out.records)})
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
	for _, a := range q.accepted {
		a.request.Number = l.s.p.deps.Epochs.BatchNumber(l.out.records[a.header].Offset)
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
	return q.write(&l.out)
}

func (q *requests) keep() {
	q.memory.keep()
	q.forget()
}

func (q *requests) drop() {
	q.memory.drop()
	q.forget()
}

// forget ends the round.
func (q *requests) forget() {
	clear(q.accepted)
	clear(q.answers)
	q.accepted, q.answers = q.accepted[:0], q.answers[:0]
}
