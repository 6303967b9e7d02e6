package adopt

import (
	"context"
	"fmt"
	"slices"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/counterfoil/counterfoil/cmd/counterfoil/internal/audit"
	"github.com/counterfoil/counterfoil/schemas"
	"github.com/counterfoil/counterfoil/sinks/clickhouse"
)

// life is a topic in one of its epochs.
type life struct {
	topic string
	epoch int32
}

// evidence is what outcomes, dead letters and copies say of the records that they are about. Each log is read once.
type evidence struct {
	*finder
	sources *audit.Sources
	events  *schemas.Decoder[schemas.EventResult]
	refers  *schemas.Decoder[schemas.ReferralResult]
	read    map[string]bool

	handled map[life]map[int32]int64 // the highest offset of each partition that shows that it was handled
	numbers map[string]int64         // the highest number of an outcome by item topic
	bases   map[life]int64           // what the numbers of outcomes begin after
}

func newEvidence(f *finder) *evidence {
	return &evidence{
		finder: f, sources: audit.NewSources(f.Registry), read: map[string]bool{},
		events:  schemas.NewHeadDecoder[schemas.EventResult](f.Registry, schemas.EventProcessedSchema),
		refers:  schemas.NewHeadDecoder[schemas.ReferralResult](f.Registry, schemas.ReferralProcessedSchema),
		handled: map[life]map[int32]int64{}, numbers: map[string]int64{}, bases: map[life]int64{},
	}
}

func (e *evidence) note(topic string, epoch, partition int32, offset int64) {
	l := life{topic, epoch}
	if e.handled[l] == nil {
		e.handled[l] = map[int32]int64{}
	}
	if at, ok := e.handled[l][partition]; !ok || at < offset {
		e.handled[l][partition] = offset
	}
}

// results reads the outcomes of an item topic that ClickHouse does not have, and all such dead letters. It reads them committed and up to
// the high watermark: the last transaction of a processor that died is decided then.
func (e *evidence) results(ctx context.Context, topic string) error {
	for _, result := range []string{schemas.ProcessedTopic(topic), schemas.UnprocessedTopic(topic), schemas.DeadLetters} {
		if err := e.tail(ctx, result); err != nil {
			return err
		}
	}
	return nil
}

func (e *evidence) tail(ctx context.Context, result string) error {
	if e.read[result] || e.ends[result] == nil { // there is none, of requests and of topics that are gone
		return nil
	}
	e.read[result] = true
	// The rows of a partition come in the order of its offsets: below the last one nothing is missing.
	has, err := e.inTables(ctx, result)
	if err != nil {
		return err
	}
	from := slices.Clone(e.starts[result])
	for p := range from {
		if last, ok := has[int32(p)]; ok {
			from[p] = max(from[p], last+1)
		}
	}
	return e.scan(ctx, result, from, func(rec *kgo.Record) error {
		at, ok, err := e.sources.Of(ctx, rec)
		if err != nil || !ok {
			return err
		}
		e.note(at.Topic, at.Epoch, at.Partition, at.Offset)
		return e.number(ctx, rec, at)
	})
}

// number notes the number of an outcome that has one.
func (e *evidence) number(ctx context.Context, rec *kgo.Record, at audit.Source) error {
	var number int64
	var err error
	switch rec.Topic {
	case schemas.ProcessedTopic(schemas.KindCustomerEvents):
		var o schemas.EventResult
		o, err = e.events.Await(ctx, rec.Value)
		number = o.Number
	case schemas.ProcessedTopic(schemas.KindReferrals):
		var o schemas.ReferralResult
		o, err = e.refers.Await(ctx, rec.Value)
		number = o.Number
	default:
		return nil
	}
	if err != nil {
		return err
	}
	e.numbers[at.Topic] = max(e.numbers[at.Topic], number)
	if parts := len(e.ends[at.Topic]); parts > 0 {
		e.bases[life{at.Topic, at.Epoch}] = number - schemas.Number(at.Partition, at.Offset, int32(parts))
	}
	return nil
}

// scan reads a topic from offsets on to where it ended when it was looked at.
func (e *evidence) scan(ctx context.Context, topic string, from []int64, each func(*kgo.Record) error) error {
	var left int64
	for p := range from {
		left += max(0, e.ends[topic][p]-from[p])
	}
	n := int64(0)
	return e.Read(ctx, topic, from, e.ends[topic], func(rec *kgo.Record) (bool, error) {
		if n++; n%1000 == 1 {
			e.Progress(fmt.Sprintf("reading %s: %d of at most %d records", topic, n, left))
		}
		err := each(rec)
		return err == nil, err
	})
}

// judged is the highest offset of each partition of an item topic that a processor has handled, of those that show it.
func (e *evidence) judged(ctx context.Context, topic string, lost []int32) (map[int32]int64, error) {
	epoch := e.epochs.Of(topic)
	if !e.empty() {
		inTables, err := e.Conn.SourceOffsets(ctx, topic, epoch)
		if err != nil {
			return nil, err
		}
		for p, offset := range inTables {
			e.note(topic, epoch, p, offset)
		}
	}
	if err := e.results(ctx, topic); err != nil {
		return nil, err
	}
	// A record that lay in a wrong partition has no outcome of its own, but a copy in the right one.
	err := e.scan(ctx, topic, e.starts[topic], func(rec *kgo.Record) error {
		env, err := schemas.ParseEnvelope(rec.Headers)
		if err == nil && env.Origin != nil && slices.Contains(lost, env.Origin.Partition) {
			e.note(topic, epoch, env.Origin.Partition, env.Origin.Offset)
		}
		return nil // what cannot be read is a dead letter, which was seen
	})
	if err != nil {
		return nil, err
	}
	return e.handled[life{topic, epoch}], e.changed(ctx, topic)
}

// changed notes what the changelog of a kind's state shows: the version of a key is where the record lay that changed it last, in the same
// partition. Outcomes show more; but where their topic was created anew, some are gone that ClickHouse never had.
func (e *evidence) changed(ctx context.Context, topic string) error {
	state := schemas.StateTopic(topic)
	if !e.renewed[schemas.ProcessedTopic(topic)] || e.renewed[state] {
		return nil
	}
	var version func([]byte) (int64, error)
	switch topic {
	case schemas.KindOwnership:
		d := schemas.NewDecoder[schemas.OwnershipState](e.Registry, schemas.OwnershipStateSchema)
		version = func(value []byte) (int64, error) {
			v, err := d.Await(ctx, value)
			return v.Version, err
		}
	case schemas.KindReferrals:
		d := schemas.NewDecoder[schemas.ReferralState](e.Registry, schemas.ReferralStateSchema)
		version = func(value []byte) (int64, error) {
			v, err := d.Await(ctx, value)
			return v.Version, err
		}
	default:
		return nil
	}
	return e.scan(ctx, state, e.starts[state], func(rec *kgo.Record) error {
		if rec.Value == nil {
			return nil
		}
		v, err := version(rec.Value)
		if err != nil {
			return fmt.Errorf("%s/%d@%d: %w", rec.Topic, rec.Partition, rec.Offset, err)
		}
		epoch, offset := schemas.SplitVersion(v)
		e.note(topic, epoch, rec.Partition, offset)
		return nil
	})
}

// recover finds the epoch of a topic, and what its numbers begin after, in Kafka alone: the sink's commits name them, and of item topics the
// outcomes.
func (e *evidence) recover(ctx context.Context, t *Topic) error {
	topic, _ := schemas.TopicNamed(t.Name)
	if topic.Role != schemas.RoleItem && topic.Role != schemas.RoleRequests {
		for _, o := range e.commits[schemas.GroupSink][t.Name] {
			if c := clickhouse.CommittedEpoch(o.Metadata); c.Number >= t.Epoch {
				t.Epoch, t.Base = c.Number, c.Base
			}
		}
		return nil
	}
	if err := e.results(ctx, t.Name); err != nil {
		return err
	}
	for l, handled := range e.handled {
		if l.topic != t.Name || l.epoch < t.Epoch {
			continue
		}
		t.Epoch = l.epoch
		for p, offset := range handled {
			if int(p) >= len(e.ends[t.Name]) || offset >= e.ends[t.Name][p] {
				t.Epoch = l.epoch + 1 // these were in an earlier life, and of the present one nothing was judged
			}
		}
	}
	if base, ok := e.bases[life{t.Name, t.Epoch}]; ok {
		t.Base = base
	} else if highest := e.numbers[t.Name]; highest > 0 {
		t.Base = highest + gap
	}
	return nil
}
