package processors

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/counterfoil/counterfoil/processors/reference"
	"github.com/counterfoil/counterfoil/schemas"
)

// Rehearsal tries out what a processor would make of replays now: it decides on the same path, with the same state, references and calls, and
// writes nothing. It joins no group. It is for one goroutine.
type Rehearsal struct {
	s           *session
	placers     map[string]*lane // by kind; they decode and find keys
	ends        map[place]int64  // where the next record of a partition would lie
	reading     sync.WaitGroup   // of the reference tables
	read        bool             // it has begun
	failed      error            // why it ended
	unprocessed *schemas.Decoder[schemas.Unprocessed]
	deadLetters *schemas.Decoder[schemas.DeadLetter]
}

// Rehearsed is what would become of a record.
type Rehearsed struct {
	Processed bool
	Late      bool             // it would be dropped: its attempt, or a later one, has an outcome
	Dead      bool             // it would be a dead letter; Reasons has one
	Reasons   []schemas.Reason // why it would be unprocessed
}

// NewRehearsal makes one for the processor of that name, one of [Names] but [Requests]. It lasts no longer than ctx, and must be closed.
func NewRehearsal(ctx context.Context, cfg Config, deps Deps, name string) (*Rehearsal, error) {
	p, err := New(cfg, deps, name)
	if err != nil {
		return nil, err
	}
	r := &Rehearsal{
		s: newSession(ctx, p), placers: map[string]*lane{}, ends: map[place]int64{},
		unprocessed: schemas.NewDecoder[schemas.Unprocessed](deps.Registry, schemas.UnprocessedSchema),
		deadLetters: schemas.NewDecoder[schemas.DeadLetter](deps.Registry, schemas.DeadLetterSchema),
	}
	if err := r.s.prepare(ctx); err != nil {
		r.Close()
		return nil, err
	}
	if r.s.cl, err = kgo.NewClient(deps.Kafka...); err != nil {
		r.Close()
		return nil, fmt.Errorf("kafka client: %w", err)
	}
	for _, k := range p.kinds {
		r.placers[k.name] = newLane(r.s, k, 0)
	}
	return r, nil
}

// Close gives everything up.
func (r *Rehearsal) Close() {
	r.s.close()
	if r.s.cl != nil {
		r.s.cl.Close()
	}
	r.reading.Wait()
}

// Place sets the key and the partition of a replay as the engine would have them. It returns the part of the key behind the tenant; nil for an
// item that is judged for itself, or has defects. The error is a *[schemas.BadRecordError] where the record cannot be read, or that of a
// malformed envelope.
func (r *Rehearsal) Place(ctx context.Context, rec *kgo.Record) (key []byte, err error) {
	l := r.placers[rec.Topic]
	if l == nil {
		return nil, fmt.Errorf("%s is no item topic of the processor %s", rec.Topic, r.s.p.name)
	}
	env, err := schemas.ParseEnvelope(rec.Headers)
	if err != nil {
		return nil, err
	}
	if rec.Value == nil {
		return nil, &schemas.BadRecordError{Code: schemas.CodeUndecodable, Message: "the record has no value"}
	}
	for err = l.decode(rec); errors.Is(err, schemas.ErrSchemaPending); err = l.decode(rec) {
		select {
		case <-time.After(waitingPoll):
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
	if err != nil {
		return nil, err
	}
	defective := len(l.judge.check()) > 0
	rec.Partition = l.rightPartition(&env, defective)
	if !defective {
		rec.Key = slices.Clone(l.judge.key(env.Tenant))
	}
	if len(rec.Key) > len(env.Tenant) {
		key = rec.Key[len(env.Tenant)+1:]
	}
	return key, nil
}

// Judge decides on records that Place has placed, in their order, each after those before it. It waits for the barriers as a round does.
func (r *Rehearsal) Judge(ctx context.Context, records []*kgo.Record) ([]Rehearsed, error) {
	if err := r.prepare(records); err != nil {
		return nil, err
	}
	round := r.s.round
	round.work, round.count = nil, len(records)
	index := map[*kgo.Record]int{}
	for i, rec := range records {
		l := r.s.lanes[place{rec.Topic, rec.Partition}]
		at := slices.IndexFunc(round.work, func(w portion) bool { return w.lane == l })
		if at < 0 {
			at = len(round.work)
			round.work = append(round.work, portion{lane: l})
		}
		round.work[at].records = append(round.work[at].records, rec)
		index[rec] = i
	}
	switch err := round.learn(); {
	case ctx.Err() != nil:
		return nil, context.Cause(ctx)
	case r.s.work.Err() != nil:
		r.reading.Wait()
		if r.failed == nil {
			return nil, context.Cause(r.s.work)
		}
		return nil, r.failed
	case err != nil && len(records) > 1: // too much to look up at once
		half := len(records) / 2
		first, err := r.Judge(ctx, records[:half])
		if err != nil {
			return nil, err
		}
		second, err := r.Judge(ctx, records[half:])
		return append(first, second...), err
	case err != nil:
		return nil, err
	}
	var view reference.View
	if r.s.p.tables != nil {
		view = r.s.p.tables.Hold()
		defer view.Release()
	}
	all := make([]Rehearsed, len(records))
	for _, w := range round.work {
		w.lane.view, w.lane.now = view, time.Now().UTC().Truncate(time.Millisecond)
		for i, rec := range w.records {
			at := place{rec.Topic, rec.Partition}
			rec.Offset, rec.Timestamp = r.ends[at], w.lane.now
			r.ends[at]++
			before := len(w.lane.out.records)
			if err := w.lane.judgeOne(rec, i); err != nil {
				return nil, fmt.Errorf("rehearse a record of %s: %w", rec.Topic, err)
			}
			var err error
			if all[index[rec]], err = r.decode(rec, w.lane.out.records[before:]); err != nil {
				return nil, err
			}
		}
		w.lane.keep()
	}
	return all, nil
}

// prepare reads the reference tables, and takes over the partitions that records lie in, as far as that is not done yet.
func (r *Rehearsal) prepare(records []*kgo.Record) error {
	if r.s.p.tables != nil && !r.read {
		r.read = true
		r.reading.Go(func() {
			r.failed = r.s.p.tables.Run(r.s.work)
			r.s.stop()
		})
	}
	var lanes []*lane
	ask := map[string][]int32{}
	for _, rec := range records {
		at := place{rec.Topic, rec.Partition}
		if r.s.lanes[at] == nil {
			l := newLane(r.s, kindNamed(r.s.p.kinds, rec.Topic), rec.Partition)
			r.s.lanes[at] = l
			lanes, ask[at.topic] = append(lanes, l), append(ask[at.topic], at.partition)
		}
	}
	if len(lanes) == 0 {
		return nil
	}
	ends, err := reference.HighWatermarks(r.s.work, r.s.cl, ask)
	if err != nil {
		return err
	}
	for topic, partitions := range ends {
		for partition, end := range partitions {
			r.ends[place{topic, partition}] = end
		}
	}
	return r.s.restore(lanes)
}

// decode says what the engine wrote about a record.
func (r *Rehearsal) decode(rec *kgo.Record, written []kgo.Record) (Rehearsed, error) {
	if len(written) == 0 {
		return Rehearsed{Late: true}, nil
	}
	switch out := &written[0]; out.Topic {
	case schemas.ProcessedTopic(rec.Topic):
		return Rehearsed{Processed: true}, nil
	case schemas.UnprocessedTopic(rec.Topic):
		var outcome schemas.Unprocessed
		err := r.unprocessed.Decode(out.Value, &outcome)
		return Rehearsed{Reasons: outcome.Reasons}, err
	case schemas.DeadLetters:
		var letter schemas.DeadLetter
		err := r.deadLetters.Decode(out.Value, &letter)
		return Rehearsed{Dead: true, Reasons: []schemas.Reason{letter.Reason}}, err
	default:
		return Rehearsed{}, fmt.Errorf("a record for partition %d of %s would be forwarded to partition %d", rec.Partition, rec.Topic, out.Partition)
	}
}
