package clickhouse

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/twmb/avro"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/counterfoil/counterfoil/schemas"
)

// Writers finds writer schemas by their id; [schemas.Registry] does. It never blocks: [schemas.ErrSchemaPending] means ask again later.
type Writers interface {
	WriterSchema(id int32) (*avro.Schema, string, error)
}

// fill is a block of one table under construction: typed column slices, filled straight from Avro and reused from block to block.
type fill struct {
	spec     *tableSpec
	cfg      *SinkConfig
	writers  Writers
	names    []string // of cols, in the order of the INSERT
	cols     []column
	bindings []binding
	programs map[int32]*program // by writer schema id
	ownProg  *program           // for values that the sink encodes itself

	// Columns that the sink fills itself; nil where the table has none.
	topic            *col[string]
	epoch, partition *col[int32]
	offset           *col[int64]
	tenant, id       *col[string] // of references
	deleted          *col[uint8]
	own              []*col[int64]

	owners []*part // of each row
	count  int     // of rows; the columns look at it
	bytes  int     // of the records' values
	wb     []int64 // write_by, made when the block is sent
}

func newFill(spec *tableSpec, cfg *SinkConfig, writers Writers) (*fill, error) {
	f := &fill{spec: spec, cfg: cfg, writers: writers, programs: map[int32]*program{}}
	add := func(name string, c column) {
		f.names = append(f.names, name)
		f.cols = append(f.cols, c)
	}
	if !spec.state {
		n := &f.count
		f.topic, f.epoch, f.partition, f.offset = &col[string]{rows: n}, &col[int32]{rows: n}, &col[int32]{rows: n}, &col[int64]{rows: n}
		add(columnTopic, f.topic)
		add(columnEpoch, f.epoch)
		add(columnPartition, f.partition)
		add(columnOffset, f.offset)
	}
	if spec.reference {
		f.tenant, f.deleted = &col[string]{rows: &f.count}, &col[uint8]{rows: &f.count}
		add("tenant", f.tenant)
		add("is_deleted", f.deleted)
	}
	for _, o := range spec.own {
		c := &col[int64]{rows: &f.count}
		f.own = append(f.own, c)
		add(o.name, c)
	}
	reader := newCompiler(spec.schema.Avro())
	for _, s := range spec.columns {
		kind, nullable, list, def, err := reader.resolve(s.path)
		if err != nil {
			return nil, fmt.Errorf("table %s: %w", spec.name, err)
		}
		c := newColumn(&f.count, kind, nullable && !s.plain, list)
		if spec.reference && s.name == "id" {
			f.id = c.(*col[string])
		}
		f.bindings = append(f.bindings, binding{path: strings.Split(s.path, "."), kind: kind, col: c, def: def})
		add(s.name, c)
	}
	var err error
	if f.ownProg, err = compile(spec.schema.Avro(), f.bindings); err != nil {
		return nil, fmt.Errorf("table %s: %w", spec.name, err)
	}
	return f, nil
}

// rows is how many rows the block has.
func (f *fill) rows() int { return f.count }

// add appends the row of a record. The errors are [schemas.ErrSchemaPending] and *[schemas.BadRecordError]; the block is as before then.
func (f *fill) add(rec *kgo.Record, p *part) error {
	if f.spec.reference && rec.Value == nil {
		return f.addDeletion(rec, p)
	}
	id, data, err := schemas.SchemaID(rec.Value)
	if err != nil {
		return err
	}
	prog, ok := f.programs[id]
	if !ok {
		if prog, err = f.compile(id); err != nil {
			return err
		}
	}
	if err := prog.fill(data); err != nil {
		f.truncate(f.rows())
		return &schemas.BadRecordError{Code: schemas.CodeUndecodable, Message: fmt.Sprintf("the value is not what its schema (id %d) says: %v", id, err)}
	}
	if f.spec.reference {
		tenant, own, err := schemas.SplitReference(rec)
		if id := f.id.at(f.rows()); err == nil && id != own {
			err = keyMismatch(fmt.Sprintf("the record's key must be <tenant>/%s", id))
		}
		if err != nil {
			f.truncate(f.rows())
			return err
		}
		f.tenant.put(tenant)
		f.deleted.put(0)
	}
	f.position(rec, p)
	return nil
}

// addDeletion appends the row that hides a reference: its key, and everything else empty.
func (f *fill) addDeletion(rec *kgo.Record, p *part) error {
	tenant, own, err := schemas.SplitReference(rec)
	if err != nil {
		return err
	}
	f.id.put(own)
	f.tenant.put(tenant)
	f.deleted.put(1)
	f.position(rec, p)
	return nil
}

// addOwn appends the row of a value that the sink made itself, encoded with the table's own schema, at the position of rec.
func (f *fill) addOwn(data []byte, rec *kgo.Record, p *part) error {
	if err := f.ownProg.fill(data); err != nil {
		f.truncate(f.rows())
		return err
	}
	f.position(rec, p)
	return nil
}

// position appends what is known from where the record lies, and with it makes the row count.
func (f *fill) position(rec *kgo.Record, p *part) {
	if f.topic != nil {
		f.topic.put(p.topic)
		f.epoch.put(p.epoch)
		f.partition.put(p.partition)
		f.offset.put(rec.Offset)
	}
	for i, c := range f.own {
		c.put(f.spec.own[i].value(f.cfg, p.epoch, rec.Offset))
	}
	f.owners = append(f.owners, p)
	f.count++
	f.bytes += len(rec.Value)
}

// compile makes the program for a writer's schema, once for each schema id.
func (f *fill) compile(id int32) (*program, error) {
	writer, _, err := f.writers.WriterSchema(id)
	if err != nil {
		return nil, err
	}
	prog, err := compile(writer, f.bindings)
	if err != nil {
		return nil, &schemas.BadRecordError{Code: schemas.CodeUndecodable, Message: fmt.Sprintf("the schema with id %d cannot be read as ours: %v", id, err)}
	}
	f.programs[id] = prog
	return prog, nil
}

// truncate drops all rows beyond the first n, and what a failed record left behind.
func (f *fill) truncate(n int) {
	for _, c := range f.cols {
		c.truncate(n)
	}
	clear(f.owners[n:])
	f.owners = f.owners[:n]
	f.count = n
}

// dropGone drops the rows of partitions that this member no longer owns.
func (f *fill) dropGone() {
	gone := false
	for _, p := range f.owners {
		gone = gone || p.gone
	}
	if !gone {
		return
	}
	mask := make([]bool, f.rows())
	kept := f.owners[:0]
	for i, p := range f.owners {
		if mask[i] = !p.gone; mask[i] {
			kept = append(kept, p)
		}
	}
	f.owners = kept
	for _, c := range f.cols {
		c.keep(mask)
	}
	f.count = len(kept)
}

// reset empties the block for reuse.
func (f *fill) reset() {
	for _, c := range f.cols {
		c.reset()
	}
	clear(f.owners)
	f.owners = f.owners[:0]
	f.count = 0
	f.bytes = 0
}

// filled are the columns that have a value in some row, and their names.
func (f *fill) filled() (names []string, cols []column) {
	for i, c := range f.cols {
		if c.used() {
			names = append(names, f.names[i])
			cols = append(cols, c)
		}
	}
	return names, cols
}

// writeBy is the column write_by: the same limit for every row.
func (f *fill) writeBy(limit time.Time) []int64 {
	f.wb = f.wb[:0]
	ms := limit.UnixMilli()
	for range f.rows() {
		f.wb = append(f.wb, ms)
	}
	return f.wb
}

func keyMismatch(message string) error {
	return &schemas.BadRecordError{Code: schemas.CodeKeyMismatch, Message: message}
}

// deadLetter is the row that a record which cannot be read becomes.
func deadLetter(rec *kgo.Record, epoch int32, bad *schemas.BadRecordError, now time.Time) *schemas.DeadLetter {
	d := &schemas.DeadLetter{
		Topic: rec.Topic, Epoch: epoch, Partition: rec.Partition, Offset: rec.Offset,
		Headers:    []schemas.Header{},
		Reason:     schemas.Reason{Code: bad.Code, Message: bad.Message},
		RecordedAt: within(rec.Timestamp), At: now,
	}
	if rec.Key != nil {
		d.Key = &rec.Key
	}
	if rec.Value != nil {
		d.Value = &rec.Value
	}
	for _, h := range rec.Headers {
		d.Headers = append(d.Headers, schemas.Header{Key: h.Key, Value: h.Value})
	}
	if env, err := schemas.ParseEnvelope(rec.Headers); !errors.Is(err, schemas.ErrTenantMissing) {
		d.Tenant = &env.Tenant
	}
	return d
}

// within moves a producer's timestamp into what the column can hold.
func within(t time.Time) time.Time {
	if t.Before(minInstant) {
		return minInstant
	}
	if !t.Before(maxInstant) {
		return maxInstant.Add(-time.Millisecond)
	}
	return t.UTC()
}
