package replay

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/counterfoil/counterfoil/cmd/counterfoil/internal/offsets"
	"github.com/counterfoil/counterfoil/schemas"
	"github.com/counterfoil/counterfoil/sinks/clickhouse"
)

// try identifies an attempt at an item.
type try struct {
	id      string
	attempt int32
}

// await waits until what was published is judged and in ClickHouse, and notes what became of it.
func (r *replayer) await(ctx context.Context) error {
	ends := map[string][]int64{}
	open := map[try]*candidate{}
	stored := map[string][]*candidate{} // references and facts, by topic
	for _, c := range r.published {
		if c.own.ID != "" {
			stored[c.rec.Topic] = append(stored[c.rec.Topic], c)
			continue
		}
		if ends[c.rec.Topic] == nil {
			ends[c.rec.Topic] = make([]int64, r.partitions[c.rec.Topic])
		}
		at := &ends[c.rec.Topic][c.rec.Partition]
		*at = max(*at, c.rec.Offset+1)
		open[try{c.item.ID, c.item.Attempt}] = c
	}
	if err := r.waiter.AwaitJudged(ctx, ends); err != nil {
		return err
	}
	if err := r.awaitSink(ctx); err != nil {
		return err
	}
	var topics []string
	for topic := range ends {
		topics = append(topics, schemas.ProcessedTopic(topic), schemas.UnprocessedTopic(topic))
	}
	if len(ends) > 0 {
		topics = append(topics, schemas.DeadLetters)
	}
	for _, topic := range topics {
		if err := r.readOutcomes(ctx, topic, open); err != nil {
			return err
		}
	}
	for try := range open {
		return fmt.Errorf("attempt %d at item %s has no outcome: counterfoil audit tells more", try.attempt, try.id)
	}
	return r.findStored(ctx, stored)
}

// readOutcomes takes those out of open of which a result topic tells the outcome.
func (r *replayer) readOutcomes(ctx context.Context, topic string, open map[try]*candidate) error {
	unprocessed := schemas.NewDecoder[schemas.Unprocessed](r.Registry, schemas.UnprocessedSchema)
	letters := schemas.NewDecoder[schemas.DeadLetter](r.Registry, schemas.DeadLetterSchema)
	t, _ := schemas.TopicNamed(topic)
	to, err := offsets.List(ctx, r.Admin.ListEndOffsets, topic)
	if err != nil {
		return err
	}
	return r.Read(ctx, topic, r.before[topic], to[topic], func(rec *kgo.Record) (bool, error) {
		headers := rec.Headers
		var letter schemas.DeadLetter
		if t.Role == schemas.RoleDeadLetters {
			var err error
			if letter, err = letters.Await(ctx, rec.Value); err != nil {
				return true, notBad(err)
			}
			headers = letter.RecordHeaders()
		}
		env, err := schemas.ParseEnvelope(headers)
		if err != nil || env.First == nil {
			return true, nil //nolint:nilerr // of no replay
		}
		c := open[try{env.First.ID, env.Attempt}]
		if c == nil {
			return true, nil
		}
		switch t.Role {
		case schemas.RoleProcessed:
			c.item.Fate = FateProcessed
		case schemas.RoleDeadLetters:
			c.item.Fate, c.item.Now = FateDeadLetter, []schemas.Reason{letter.Reason}
		default:
			outcome, err := unprocessed.Await(ctx, rec.Value)
			if err != nil {
				return true, notBad(err)
			}
			c.item.Fate, c.item.Now = FateUnprocessed, outcome.Reasons
		}
		delete(open, try{env.First.ID, env.Attempt})
		r.Progress(fmt.Sprintf("reading outcomes: %d are missing", len(open)))
		return len(open) > 0, nil
	})
}

// findStored looks whether references and facts have arrived in their tables.
func (r *replayer) findStored(ctx context.Context, stored map[string][]*candidate) error {
	for topic, all := range stored {
		for chunk := range slices.Chunk(all, 1000) {
			var ids []clickhouse.OwnID
			for _, c := range chunk {
				ids = append(ids, c.own)
			}
			versions, err := r.Conn.Versions(ctx, topic, ids)
			if err != nil {
				return err
			}
			for _, c := range chunk {
				if versions[c.own] > c.version {
					c.item.Fate = FateProcessed
				} else {
					c.item.Fate, c.item.Now = FateDeadLetter, c.item.Was
				}
			}
		}
	}
	return nil
}

// notBad is nil for a record that can never be read: others write it, and it is about no replay of ours.
func notBad(err error) error {
	var bad *schemas.BadRecordError
	if errors.As(err, &bad) {
		return nil
	}
	return err
}
