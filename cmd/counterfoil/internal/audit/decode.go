package audit

import (
	"context"
	"errors"
	"slices"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/counterfoil/counterfoil/schemas"
	"github.com/counterfoil/counterfoil/sinks/clickhouse"
)

// decoders read what audit looks at.
type decoders struct {
	epochs      schemas.Epochs
	headers     *schemas.Decoder[schemas.BatchHeader]
	unprocessed *schemas.Decoder[schemas.Unprocessed]
	deadLetters *schemas.Decoder[schemas.DeadLetter]
	answers     *schemas.Decoder[schemas.RequestAnswer]
	processed   map[string]func(ctx context.Context, value []byte) (schemas.Outcome, error) // by kind
	tables      map[string][]string                                                         // log tables by topic
}

func newDecoders(r *schemas.Registry, epochs schemas.Epochs) *decoders {
	d := &decoders{
		epochs:      epochs,
		headers:     schemas.NewDecoder[schemas.BatchHeader](r, schemas.BatchHeaderSchema),
		unprocessed: schemas.NewDecoder[schemas.Unprocessed](r, schemas.UnprocessedSchema),
		deadLetters: schemas.NewDecoder[schemas.DeadLetter](r, schemas.DeadLetterSchema),
		answers:     schemas.NewDecoder[schemas.RequestAnswer](r, schemas.RequestAnswerSchema),
		tables:      map[string][]string{},
		processed: map[string]func(context.Context, []byte) (schemas.Outcome, error){
			schemas.KindOwnership:      outcomes(r, schemas.OwnershipProcessedSchema, func(v *schemas.OwnershipResult) *schemas.Outcome { return &v.Outcome }),
			schemas.KindCustomerEvents: outcomes(r, schemas.EventProcessedSchema, func(v *schemas.EventResult) *schemas.Outcome { return &v.Outcome }),
			schemas.KindReferrals:      outcomes(r, schemas.ReferralProcessedSchema, func(v *schemas.ReferralResult) *schemas.Outcome { return &v.Outcome }),
			schemas.KindSales:          outcomes(r, schemas.SaleProcessedSchema, func(v *schemas.SaleResult) *schemas.Outcome { return &v.Outcome }),
			schemas.KindTransactions:   outcomes(r, schemas.TransactionProcessedSchema, func(v *schemas.TransactionResult) *schemas.Outcome { return &v.Outcome }),
		},
	}
	whole := schemas.NewDecoder[schemas.ReferenceProcessed](r, schemas.ReferenceProcessedSchema)
	d.processed[schemas.References] = func(ctx context.Context, value []byte) (schemas.Outcome, error) {
		v, err := whole.Await(ctx, value)
		return v.Outcome, err
	}
	for _, t := range clickhouse.LogTables() {
		for _, topic := range t.Topics {
			d.tables[topic] = append(d.tables[topic], t.Name)
		}
	}
	return d
}

// outcomes reads what all outcomes begin with.
func outcomes[T any](r *schemas.Registry, schema *schemas.Schema, head func(*T) *schemas.Outcome) func(context.Context, []byte) (schemas.Outcome, error) {
	d := schemas.NewHeadDecoder[T](r, schema)
	return func(ctx context.Context, value []byte) (schemas.Outcome, error) {
		v, err := d.Await(ctx, value)
		return *head(&v), err
	}
}

// meaning is what a record of a topic that log tables are made from stands for.
type meaning struct {
	rows    map[string]clickhouse.LogRow // by table
	settles *clickhouse.LogRow           // the item that it is the outcome of, or the dead letter; nil: of none
	epoch   int32                        // of the item's topic
	bad     bool                         // it cannot be read: the sink makes a dead letter of it
}

// itemRow is an item as both sides describe it: where it lies, whose and what it is, and which attempt.
func itemRow(topic string, epoch, partition int32, offset int64, env *schemas.Envelope) *clickhouse.LogRow {
	return &clickhouse.LogRow{
		Topic: topic, Partition: partition, Offset: offset, Tenant: env.Tenant, ID: env.ItemID(topic, epoch, partition, offset), More: attempt(env.Attempt),
	}
}

// read says what a record stands for.
func (d *decoders) read(ctx context.Context, rec *kgo.Record) (meaning, error) {
	t, _ := schemas.TopicNamed(rec.Topic)
	m := meaning{rows: map[string]clickhouse.LogRow{}}
	var err error
	switch t.Role {
	case schemas.RoleBatches:
		var h schemas.BatchHeader
		if h, err = d.headers.Await(ctx, rec.Value); err == nil {
			m.put(d.tables[rec.Topic], clickhouse.BatchRow(rec.Topic, rec.Partition, rec.Offset, &h))
		}
	case schemas.RoleProcessed:
		var o schemas.Outcome
		if o, err = d.processed[t.Kind](ctx, rec.Value); err == nil {
			m.outcome(rec, d.tables[rec.Topic], &o)
		}
	case schemas.RoleUnprocessed:
		var u schemas.Unprocessed
		if u, err = d.unprocessed.Await(ctx, rec.Value); err == nil {
			tables := d.tables[rec.Topic]
			if u.Sale == nil { // only a sale that matches no call is a sale as well
				tables = slices.DeleteFunc(slices.Clone(tables), func(t string) bool { return t == schemas.KindSales })
			}
			m.outcome(rec, tables, &u.Outcome)
		}
	default:
		var l schemas.DeadLetter
		if l, err = d.deadLetters.Await(ctx, rec.Value); err == nil {
			m.put(d.tables[rec.Topic], clickhouse.DeadLetterRow(rec.Topic, rec.Partition, rec.Offset, &l))
			env, _ := schemas.ParseEnvelope(l.RecordHeaders()) // whatever is wrong with them is so on both sides
			m.settles, m.epoch = itemRow(l.Topic, l.Epoch, l.Partition, l.Offset, &env), l.Epoch
		}
	}
	var bad *schemas.BadRecordError
	if !errors.As(err, &bad) {
		return m, err
	}
	if t.Role != schemas.RoleDeadLetters {
		m.bad = true
		return m, nil
	}
	// The dead letter that the sink makes of one has the same position.
	l := schemas.DeadLetter{Topic: rec.Topic, Epoch: d.epochs.Of(rec.Topic), Partition: rec.Partition, Offset: rec.Offset}
	if env, err := schemas.ParseEnvelope(rec.Headers); !errors.Is(err, schemas.ErrTenantMissing) {
		l.Tenant = &env.Tenant
	}
	m.put(d.tables[rec.Topic], clickhouse.DeadLetterRow(rec.Topic, rec.Partition, rec.Offset, &l))
	return m, nil
}

func (m *meaning) put(tables []string, row clickhouse.LogRow) {
	for _, t := range tables {
		m.rows[t] = row
	}
}

func (m *meaning) outcome(rec *kgo.Record, tables []string, o *schemas.Outcome) {
	m.put(tables, clickhouse.OutcomeRow(rec.Topic, rec.Partition, rec.Offset, o))
	if o.SourceOffset >= 0 { // otherwise it was decided at the door
		m.settles, m.epoch = &clickhouse.LogRow{
			Topic: o.SourceTopic, Partition: o.SourcePartition, Offset: o.SourceOffset, Tenant: o.Tenant, ID: o.ID, More: attempt(o.Attempt),
		}, o.SourceEpoch
	}
}

// Source is a record that an outcome or a dead letter is about.
type Source struct {
	Topic            string
	Epoch, Partition int32
	Offset           int64
}

// Sources reads what records of result topics and dead letters are about.
type Sources struct{ d *decoders }

// NewSources makes a reader.
func NewSources(r *schemas.Registry) *Sources { return &Sources{newDecoders(r, nil)} }

// Of says what a record is about; false: nothing, because it was decided at the door, or cannot be read. It waits for a schema that is not
// known yet.
func (s *Sources) Of(ctx context.Context, rec *kgo.Record) (Source, bool, error) {
	m, err := s.d.read(ctx, rec)
	if err != nil || m.settles == nil {
		return Source{}, false, err
	}
	return Source{m.settles.Topic, m.epoch, m.settles.Partition, m.settles.Offset}, true, nil
}
