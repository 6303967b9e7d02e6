package replay

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/counterfoil/counterfoil/schemas"
	"github.com/counterfoil/counterfoil/schemas/plainjson"
	"github.com/counterfoil/counterfoil/sinks/clickhouse"
)

// replayDead works through the selected dead letters. Those of item topics become the next attempt at their item; a dead letter is no outcome, but
// the record was an attempt. Those of reference and fact topics are put back as they were.
func (r *replayer) replayDead(ctx context.Context) error {
	r.Progress("selecting")
	letters, err := r.Conn.DeadRecords(ctx, r.Selection, r.Limit+1)
	if err != nil {
		return err
	}
	if len(letters) > r.Limit {
		return tooMany(r.Limit)
	}
	again, err := r.Conn.DeadReplays(ctx, r.Tenant)
	if err != nil {
		return err
	}
	r.total = len(letters)
	for chunk := range slices.Chunk(letters, chunkItems) {
		r.done += len(chunk)
		all, err := r.openLetters(ctx, chunk, again)
		if err != nil {
			return err
		}
		if err := r.put(ctx, all); err != nil {
			return err
		}
		clear(chunk) // its values
	}
	return nil
}

// openLetters makes the replays of those dead letters that have no successor: no outcome, no later dead letter of the same item, no later record
// of the same own id.
func (r *replayer) openLetters(ctx context.Context, letters []clickhouse.DeadRecord, again map[string]int32) ([]*candidate, error) {
	var values []*clickhouse.DeadRecord
	for i := range letters {
		values = append(values, &letters[i])
	}
	if err := r.Conn.ReadDeadValues(ctx, values); err != nil {
		return nil, err
	}
	var all []*candidate
	for _, d := range values {
		c, err := r.letter(ctx, d)
		if err != nil {
			return nil, err
		}
		if r.Key == "" || c.item.Key == r.Key {
			all = append(all, c)
		}
	}
	var ids []string
	own := map[string][]clickhouse.OwnID{}
	for _, c := range all {
		switch {
		case c.own.ID != "":
			own[c.item.Kind] = append(own[c.item.Kind], c.own)
		case c.item.ID != "":
			ids = append(ids, c.item.ID)
		}
	}
	last, err := r.Conn.LastAttempts(ctx, ids)
	if err != nil {
		return nil, err
	}
	versions := map[string]map[clickhouse.OwnID]int64{}
	for topic, keys := range own {
		if versions[topic], err = r.Conn.Versions(ctx, topic, keys); err != nil {
			return nil, err
		}
	}
	return slices.DeleteFunc(all, func(c *candidate) bool {
		if c.own.ID != "" {
			return versions[c.item.Kind][c.own] > c.version
		}
		return c.item.ID != "" && (last[c.item.ID] >= c.item.Attempt-1 || again[c.item.ID] > c.item.Attempt-1)
	}), nil
}

// letter makes the replay of a dead letter.
func (r *replayer) letter(ctx context.Context, d *clickhouse.DeadRecord) (*candidate, error) {
	l := &d.Source
	headers := l.RecordHeaders()
	env, envErr := schemas.ParseEnvelope(headers)
	c := &candidate{item: &Item{
		Kind: l.Topic, Tenant: d.Tenant, Batch: env.Batch, Index: env.Index, Ref: env.Ref, Was: []schemas.Reason{l.Reason},
		Source: fmt.Sprintf("%s/%d@%d", l.Topic, l.Partition, l.Offset),
	}}
	topic, _ := schemas.TopicNamed(l.Topic)
	keyed := (topic.Role == schemas.RoleReference || topic.Role == schemas.RoleFact) && clickhouse.StateTable(l.Topic) != ""
	switch {
	case topic.Role != schemas.RoleItem && !keyed:
		c.leave(FateNotReplayable, l.Reason.Code, "Records of "+l.Topic+" are not put back.")
	case envErr != nil:
		c.leave(FateNotReplayable, l.Reason.Code, "Its headers are as wrong now as they were: "+envErr.Error()+".")
	case l.Value == nil:
		c.leave(FateNotReplayable, l.Reason.Code, "The dead letter has no value.")
	case keyed:
		return c, r.stored(ctx, c, l, headers)
	}
	if c.item.Fate != "" {
		return c, nil
	}
	c.item.ID, c.item.Attempt = env.ItemID(l.Topic, l.Epoch, l.Partition, l.Offset), env.Attempt+1
	offset := l.Offset
	if env.First == nil {
		env.First = &schemas.First{ID: c.item.ID, Epoch: l.Epoch, AcceptedAt: l.RecordedAt}
	} else {
		offset = env.First.Offset // of the partition that the replay lay in
	}
	env.Attempt, env.Origin = env.Attempt+1, nil
	c.rec = &kgo.Record{Topic: l.Topic, Value: *l.Value}
	return c, r.place(ctx, c, &env, origin{partition: l.Partition, offset: offset})
}

// stored prepares the record of a reference or fact topic to be put back, where it can be read now and its key is that of its value.
func (r *replayer) stored(ctx context.Context, c *candidate, l *schemas.DeadLetter, headers []kgo.RecordHeader) error {
	rec := &kgo.Record{Topic: l.Topic, Value: *l.Value, Headers: headers}
	if l.Key != nil {
		rec.Key = *l.Key
	}
	tenant, own, err := schemas.SplitReference(rec)
	if err == nil {
		c.item.Key = own
		err = r.readable(ctx, l.Topic, own, rec.Value)
	}
	var bad *schemas.BadRecordError
	switch {
	case errors.As(err, &bad):
		c.leave(FateNotReplayable, bad.Code, "Today's code cannot take it either: "+bad.Message+".")
		return nil
	case err != nil:
		return err
	}
	c.own = clickhouse.OwnID{Tenant: tenant, ID: own}
	c.version = schemas.Version(l.Epoch, l.Offset)
	if topic, _ := schemas.TopicNamed(l.Topic); topic.Role == schemas.RoleFact {
		c.version = schemas.FactVersion(l.RecordedAt, l.Offset)
	}
	rec.Partition = schemas.Partition(rec.Key, r.partitions[l.Topic])
	c.rec = rec
	return nil
}

// readable is nil for a value that is one of its topic, with that own id.
func (r *replayer) readable(ctx context.Context, topic, own string, value []byte) error {
	id, _, err := schemas.SchemaID(value)
	if err != nil {
		return err
	}
	var text string
	for {
		if _, text, err = r.Registry.WriterSchema(id); !errors.Is(err, schemas.ErrSchemaPending) {
			break
		}
		r.Progress(fmt.Sprintf("waiting for the registry to answer about schema %d", id))
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(10 * time.Millisecond):
		}
	}
	if err != nil {
		return err
	}
	undecodable := func(err error) error {
		return &schemas.BadRecordError{Code: schemas.CodeUndecodable, Message: err.Error()}
	}
	t, _ := schemas.TopicNamed(topic)
	var ours any
	if err := schemas.NewDecoder[any](r.Registry, t.Schema).Decode(value, &ours); err != nil {
		return err
	}
	codec, err := plainjson.New(int(id), text)
	if err != nil {
		return undecodable(err)
	}
	printed, err := codec.AppendJSON(nil, value)
	if err != nil {
		return undecodable(err)
	}
	o, err := plainjson.Parse(printed)
	if err != nil {
		return undecodable(err)
	}
	if is, _ := plainjson.OwnID(topic, o); is != own {
		return &schemas.BadRecordError{Code: schemas.CodeKeyMismatch, Message: "its key is not <tenant>/<own id> of its value"}
	}
	return nil
}
