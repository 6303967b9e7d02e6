package checker

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/counterfoil/counterfoil/processors/upserts"
	"github.com/counterfoil/counterfoil/processors/validation"
	"github.com/counterfoil/counterfoil/schemas"
	"github.com/counterfoil/counterfoil/test/harness"
)

// World is what Kafka and ClickHouse hold. Records and rows are in the order of topic, partition, offset.
type World struct {
	Partitions  int32 // of item and result topics
	Batches     []Batch
	Items       []Item
	Outcomes    []Outcome
	State       map[string]schemas.OwnershipState // last values of ownership.state, by key
	DeadLetters []Position                        // records of the topic dead_letters
	Dead        map[Position]bool                 // records that dead letters are about
	Tables      map[string][]Row                  // log tables of ClickHouse, by name
	Ownership   map[string]int64                  // view ownership_current: quantities by key
}

// Position is where a record lies.
type Position struct {
	Topic     string
	Partition int32
	Offset    int64
}

func (p Position) String() string { return fmt.Sprintf("%s/%d@%d", p.Topic, p.Partition, p.Offset) }

// Batch is a record of the topic batches.
type Batch struct {
	Position
	schemas.BatchHeader
}

// Item is a record of an item topic that can be read as an item.
type Item struct {
	Position
	Kind      string
	Tenant    string
	ID        string
	Batch     string // key; empty for a bare record
	Index     int32
	Marker    string // see [Sent]
	Origin    *schemas.Origin
	Misplaced bool // lies in another partition than that of its key: to be forwarded
	Ownership *schemas.Ownership
}

// Outcome is a record of a result topic.
type Outcome struct {
	Position
	schemas.Outcome
	Processed bool
	Ownership *schemas.OwnershipResult
	Event     *schemas.EventResult
	Referral  *schemas.ReferralResult
	Marker    string
}

// Source is where the item lay when it was judged; Offset -1: it was refused at the door.
func (o *Outcome) Source() Position {
	return Position{o.SourceTopic, o.SourcePartition, o.SourceOffset}
}

// Row is a row of a log table.
type Row struct {
	Position
	Tenant string
	ID     string // of the item; of batches the key
}

// tables are the log tables with the topics that feed them.
var tables = map[string][]string{
	"batches":         {schemas.Batches},
	"ownership":       {schemas.ProcessedTopic(schemas.KindOwnership)},
	"customer_events": {schemas.ProcessedTopic(schemas.KindCustomerEvents)},
	"referrals":       {schemas.ProcessedTopic(schemas.KindReferrals)},
	"unprocessed": {
		schemas.UnprocessedTopic(schemas.KindOwnership), schemas.UnprocessedTopic(schemas.KindCustomerEvents),
		schemas.UnprocessedTopic(schemas.KindReferrals),
	},
	"dead_letters": {schemas.DeadLetters},
}

// Read collects the world. Nothing should be on its way any more.
func Read(ctx context.Context, p *harness.Parts) (*World, error) {
	w := &World{
		State: map[string]schemas.OwnershipState{}, Dead: map[Position]bool{}, Tables: map[string][]Row{}, Ownership: map[string]int64{},
	}
	r := newReader(w, p.Registry)
	var err error
	if w.Partitions, err = partitions(ctx, p.Kafka); err != nil {
		return nil, err
	}
	var topics []string
	for _, t := range schemas.Topics() {
		if t.Role != schemas.RoleReference && t.Name != schemas.StateTopic(schemas.KindReferrals) {
			topics = append(topics, t.Name)
		}
	}
	records, err := harness.ReadCommitted(ctx, p.Kafka, topics...)
	if err != nil {
		return nil, err
	}
	for _, rec := range records {
		if err := r.record(ctx, rec); err != nil {
			return nil, fmt.Errorf("%s/%d@%d: %w", rec.Topic, rec.Partition, rec.Offset, err)
		}
	}
	return w, w.readTables(ctx, p.Conn())
}

func partitions(ctx context.Context, kafka []kgo.Opt) (int32, error) {
	client, err := kgo.NewClient(kafka...)
	if err != nil {
		return 0, err
	}
	defer client.Close()
	n, err := harness.Partitions(ctx, client, schemas.KindOwnership)
	return int32(n), err
}

// reader decodes records into a world.
type reader struct {
	w              *World
	headers        *schemas.Decoder[schemas.BatchHeader]
	changes        *schemas.Decoder[schemas.Ownership]
	events         *schemas.Decoder[schemas.CustomerEvent]
	referrals      *schemas.Decoder[schemas.Referral]
	changed        *schemas.Decoder[schemas.OwnershipResult]
	eventsDone     *schemas.Decoder[schemas.EventResult]
	referralsDone  *schemas.Decoder[schemas.ReferralResult]
	unprocessed    *schemas.Decoder[schemas.Unprocessed]
	ownershipState *schemas.Decoder[schemas.OwnershipState]
	deadLetters    *schemas.Decoder[schemas.DeadLetter]
}

func newReader(w *World, r *schemas.Registry) *reader {
	return &reader{
		w:              w,
		headers:        schemas.NewDecoder[schemas.BatchHeader](r, schemas.BatchHeaderSchema),
		changes:        schemas.NewDecoder[schemas.Ownership](r, schemas.OwnershipSchema),
		events:         schemas.NewDecoder[schemas.CustomerEvent](r, schemas.CustomerEventSchema),
		referrals:      schemas.NewDecoder[schemas.Referral](r, schemas.ReferralSchema),
		changed:        schemas.NewHeadDecoder[schemas.OwnershipResult](r, schemas.OwnershipProcessedSchema),
		eventsDone:     schemas.NewHeadDecoder[schemas.EventResult](r, schemas.EventProcessedSchema),
		referralsDone:  schemas.NewHeadDecoder[schemas.ReferralResult](r, schemas.ReferralProcessedSchema),
		unprocessed:    schemas.NewDecoder[schemas.Unprocessed](r, schemas.UnprocessedSchema),
		ownershipState: schemas.NewDecoder[schemas.OwnershipState](r, schemas.OwnershipStateSchema),
		deadLetters:    schemas.NewDecoder[schemas.DeadLetter](r, schemas.DeadLetterSchema),
	}
}

// decode reads a value, waiting for its schema where that is not known yet.
func decode[T any](ctx context.Context, d *schemas.Decoder[T], value []byte, v *T) error {
	for {
		err := d.Decode(value, v)
		if !errors.Is(err, schemas.ErrSchemaPending) {
			return err
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(5 * time.Millisecond):
			*v = *new(T)
		}
	}
}

func (r *reader) record(ctx context.Context, rec *kgo.Record) error {
	t, ok := schemas.TopicNamed(rec.Topic)
	if !ok {
		return errors.New("not a topic of ours")
	}
	at := Position{rec.Topic, rec.Partition, rec.Offset}
	switch t.Role {
	case schemas.RoleBatches:
		b := Batch{Position: at}
		err := decode(ctx, r.headers, rec.Value, &b.BatchHeader)
		r.w.Batches = append(r.w.Batches, b)
		return err
	case schemas.RoleItem:
		return r.item(ctx, at, t.Kind, rec)
	case schemas.RoleProcessed, schemas.RoleUnprocessed:
		return r.outcome(ctx, at, t, rec)
	case schemas.RoleState:
		if rec.Value == nil {
			delete(r.w.State, string(rec.Key))
			return nil
		}
		var s schemas.OwnershipState
		err := decode(ctx, r.ownershipState, rec.Value, &s)
		r.w.State[string(rec.Key)] = s
		return err
	case schemas.RoleDeadLetters:
		var d schemas.DeadLetter
		err := decode(ctx, r.deadLetters, rec.Value, &d)
		r.w.DeadLetters = append(r.w.DeadLetters, at)
		r.w.Dead[Position{d.Topic, d.Partition, d.Offset}] = true
		return err
	default:
		return nil
	}
}

// item reads an item; one that cannot be read is none.
func (r *reader) item(ctx context.Context, at Position, kind string, rec *kgo.Record) error {
	env, err := schemas.ParseEnvelope(rec.Headers)
	if err != nil {
		return nil //nolint:nilerr // to be a dead letter
	}
	it := Item{Position: at, Kind: kind, Tenant: env.Tenant, Batch: env.Batch, Index: env.Index, Origin: env.Origin}
	it.Marker = markerOf(env.Ref)
	var key []byte
	switch kind {
	case schemas.KindOwnership:
		it.Ownership = new(schemas.Ownership)
		err = decode(ctx, r.changes, rec.Value, it.Ownership)
		if err == nil && upserts.Check(it.Ownership) == nil {
			key = upserts.Key(env.Tenant, it.Ownership)
		}
		if it.Marker == "" && err == nil {
			it.Marker = markerOf(it.Ownership.Source)
		}
	case schemas.KindReferrals:
		var v schemas.Referral
		err = decode(ctx, r.referrals, rec.Value, &v)
		if err == nil && validation.CheckReferral(&v) == nil {
			key = []byte(env.Tenant)
		}
	default:
		var v schemas.CustomerEvent
		err = decode(ctx, r.events, rec.Value, &v)
	}
	var bad *schemas.BadRecordError
	if errors.As(err, &bad) {
		return nil
	}
	if err != nil {
		return err
	}
	it.Misplaced = key != nil && schemas.Partition(key, r.w.Partitions) != at.Partition
	switch {
	case env.Batch != "":
		it.ID = schemas.ItemID(env.Tenant, env.Batch, env.Index)
	case env.Origin != nil:
		it.ID = schemas.BareItemID(at.Topic, 0, env.Origin.Partition, env.Origin.Offset)
	default:
		it.ID = schemas.BareItemID(at.Topic, 0, at.Partition, at.Offset)
	}
	r.w.Items = append(r.w.Items, it)
	return nil
}

func (r *reader) outcome(ctx context.Context, at Position, t schemas.Topic, rec *kgo.Record) error {
	o := Outcome{Position: at, Processed: t.Role == schemas.RoleProcessed}
	var err error
	switch {
	case !o.Processed:
		var v schemas.Unprocessed
		err = decode(ctx, r.unprocessed, rec.Value, &v)
		o.Outcome = v.Outcome
	case t.Kind == schemas.KindOwnership:
		o.Ownership = new(schemas.OwnershipResult)
		err = decode(ctx, r.changed, rec.Value, o.Ownership)
		o.Outcome = o.Ownership.Outcome
	case t.Kind == schemas.KindCustomerEvents:
		o.Event = new(schemas.EventResult)
		err = decode(ctx, r.eventsDone, rec.Value, o.Event)
		o.Outcome = o.Event.Outcome
	default:
		o.Referral = new(schemas.ReferralResult)
		err = decode(ctx, r.referralsDone, rec.Value, o.Referral)
		o.Outcome = o.Referral.Outcome
	}
	o.Marker = markerOf(o.Ref)
	r.w.Outcomes = append(r.w.Outcomes, o)
	return err
}

// readTables reads the log tables and the view of current ownership.
func (w *World) readTables(ctx context.Context, conn driver.Conn) error {
	for table := range tables {
		id := "id"
		switch table {
		case "batches":
			id = "key"
		case "dead_letters":
			id = "''"
		}
		rows, err := conn.Query(ctx, "SELECT topic, partition, offset, tenant, "+id+" FROM "+table)
		if err != nil {
			return fmt.Errorf("read table %s: %w", table, err)
		}
		all := []Row{}
		for rows.Next() {
			var r Row
			if err := rows.Scan(&r.Topic, &r.Partition, &r.Offset, &r.Tenant, &r.ID); err != nil {
				return fmt.Errorf("read table %s: %w", table, err)
			}
			all = append(all, r)
		}
		if err := rows.Err(); err != nil {
			return fmt.Errorf("read table %s: %w", table, err)
		}
		slices.SortFunc(all, func(a, b Row) int { return comparePositions(a.Position, b.Position) })
		w.Tables[table] = all
	}
	rows, err := conn.Query(ctx, "SELECT tenant, user_key, sku_key, quantity FROM ownership_current")
	if err != nil {
		return fmt.Errorf("read the view ownership_current: %w", err)
	}
	for rows.Next() {
		var tenant, user, sku string
		var quantity int64
		if err := rows.Scan(&tenant, &user, &sku, &quantity); err != nil {
			return fmt.Errorf("read the view ownership_current: %w", err)
		}
		w.Ownership[tenant+"\x00"+user+"\x00"+sku] = quantity
	}
	return rows.Err()
}

func comparePositions(a, b Position) int {
	return cmp.Or(strings.Compare(a.Topic, b.Topic), cmp.Compare(a.Partition, b.Partition), cmp.Compare(a.Offset, b.Offset))
}
