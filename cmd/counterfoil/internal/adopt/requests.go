package adopt

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/counterfoil/counterfoil/cmd/counterfoil/internal/offsets"
	"github.com/counterfoil/counterfoil/schemas"
)

// skew is how far the clocks of those who write records may lie apart.
const skew = 15 * time.Minute

// keyed is a record of the topic requests.
type keyed struct {
	partition int32
	offset    int64
	at        time.Time
	to        passage
	header    bool // of a batch
	last      bool // of its batch
}

// passage is where a record of the topic requests went, if it was passed on.
type passage struct {
	topic string
	batch string
	index int32 // of a header 0, as of the first item, which goes elsewhere
}

// passed is the highest offset of each partition of requests that was handled: passed on, or answered. What is dropped leaves no trace, and
// dropping it again has no effect.
//
// A request is answered with its last record, or at its header where it has no effect. So what lies behind the last answered record are a few
// requests under way, and of these each record is looked for where it was to go. It looks backwards from the end of the log, further until it
// finds an answer, so that it holds no more than that in memory.
func (e *evidence) passed(ctx context.Context, lost []int32) (map[int32]int64, error) {
	found, err := e.deadRequests(ctx)
	if err != nil {
		return nil, err
	}
	begin := e.starts[schemas.Requests]
	for back := e.opts.Window; ; back *= 8 {
		from, whole := slices.Clone(e.ends[schemas.Requests]), true
		for _, p := range lost {
			from[p] = max(begin[p], from[p]-back)
			whole = whole && from[p] == begin[p]
		}
		records, err := e.requestsFrom(ctx, from)
		if err != nil {
			return nil, err
		}
		verdicts, err := e.verdicts(ctx, records)
		if err != nil {
			return nil, err
		}
		last := map[int32]int64{}
		note := func(in map[int32]int64, r *keyed) {
			if at, ok := in[r.partition]; !ok || at < r.offset {
				in[r.partition] = r.offset
			}
		}
		for i := range records {
			r := &records[i]
			verdict := verdicts[r.to.batch]
			if r.header && verdict != "" && verdict != schemas.RequestAccepted || r.last && verdict == schemas.RequestAccepted {
				note(last, r)
			}
		}
		if len(last) < len(lost) && !whole {
			continue
		}
		candidates := slices.DeleteFunc(records, func(r keyed) bool {
			at, ok := last[r.partition]
			return ok && r.offset <= at
		})
		arrived, err := e.arrived(ctx, candidates)
		if err != nil {
			return nil, err
		}
		for i := range candidates {
			if arrived[candidates[i].to] {
				note(last, &candidates[i])
			}
		}
		for p, offset := range last {
			if at, ok := found[p]; !ok || at < offset {
				found[p] = offset
			}
		}
		return found, nil
	}
}

// deadRequests are the last records of requests that are dead letters.
func (e *evidence) deadRequests(ctx context.Context) (map[int32]int64, error) {
	epoch := e.epochs.Of(schemas.Requests)
	if !e.empty() {
		inTables, err := e.Conn.SourceOffsets(ctx, schemas.Requests, epoch)
		if err != nil {
			return nil, err
		}
		for p, offset := range inTables {
			e.note(schemas.Requests, epoch, p, offset)
		}
	}
	if err := e.tail(ctx, schemas.DeadLetters); err != nil {
		return nil, err
	}
	found := map[int32]int64{}
	for p, offset := range e.handled[life{schemas.Requests, epoch}] {
		found[p] = offset
	}
	return found, nil
}

func (e *evidence) requestsFrom(ctx context.Context, from []int64) (records []keyed, err error) {
	err = e.scan(ctx, schemas.Requests, from, func(rec *kgo.Record) error {
		env, err := schemas.ParseEnvelope(rec.Headers)
		to, _, perr := schemas.ParsePassage(rec.Headers)
		if err != nil || perr != nil || env.Batch == "" {
			return nil //nolint:nilerr // a dead letter
		}
		records = append(records, keyed{
			partition: rec.Partition, offset: rec.Offset, at: rec.Timestamp,
			to: passage{to.Topic, env.Batch, env.Index}, header: to.Topic == schemas.Batches, last: to.Last,
		})
		return nil
	})
	return records, err
}

// verdicts are the answers to those of the records' batches that have one.
func (e *evidence) verdicts(ctx context.Context, records []keyed) (map[string]string, error) {
	verdicts := map[string]string{}
	for i := range records {
		verdicts[records[i].to.batch] = ""
	}
	if len(verdicts) == 0 || e.ends[schemas.RequestAnswers] == nil {
		return verdicts, nil
	}
	from, err := e.since(ctx, schemas.RequestAnswers, records)
	if err != nil {
		return nil, err
	}
	d := schemas.NewDecoder[schemas.RequestAnswer](e.Registry, schemas.RequestAnswerSchema)
	err = e.scan(ctx, schemas.RequestAnswers, from, func(rec *kgo.Record) error {
		a, err := d.Await(ctx, rec.Value)
		var bad *schemas.BadRecordError
		if errors.As(err, &bad) {
			return nil // no answer
		}
		if _, ours := verdicts[a.Batch]; ours && err == nil {
			verdicts[a.Batch] = a.Verdict
		}
		return err
	})
	return verdicts, err
}

// arrived looks for records where they were to go.
func (e *evidence) arrived(ctx context.Context, records []keyed) (map[passage]bool, error) {
	arrived, topics := map[passage]bool{}, map[string]bool{}
	for i := range records {
		arrived[records[i].to] = false
		topics[records[i].to.topic] = true
	}
	for _, topic := range sorted(topics) {
		if e.ends[topic] == nil {
			continue
		}
		from, err := e.since(ctx, topic, records)
		if err != nil {
			return nil, err
		}
		err = e.scan(ctx, topic, from, func(rec *kgo.Record) error {
			env, err := schemas.ParseEnvelope(rec.Headers)
			if err != nil || env.Batch == "" {
				return nil //nolint:nilerr // of no batch
			}
			at := passage{topic, env.Batch, env.Index}
			if _, ours := arrived[at]; ours {
				arrived[at] = true
			}
			return nil
		})
		if err != nil {
			return nil, err
		}
	}
	return arrived, nil
}

// since is where in a topic lies what was written after the first of the records.
func (e *evidence) since(ctx context.Context, topic string, records []keyed) ([]int64, error) {
	first := records[0].at
	for i := range records {
		if records[i].at.Before(first) {
			first = records[i].at
		}
	}
	listed, err := offsets.List(ctx, func(ctx context.Context, topics ...string) (kadm.ListedOffsets, error) {
		return e.Admin.ListOffsetsAfterMilli(ctx, first.Add(-skew).UnixMilli(), topics...)
	}, topic)
	if err != nil {
		return nil, fmt.Errorf("find what was written since %s: %w", first, err)
	}
	from := slices.Clone(e.starts[topic])
	for p := range from {
		if p < len(listed[topic]) {
			from[p] = max(from[p], listed[topic][p])
		}
	}
	return from, nil
}
