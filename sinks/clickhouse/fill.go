package clickhouse

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
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
	spec    *tableSpec
	cfg     *SinkConfig
	writers Writers
	names   []string // of cols, in the order of the INSERT
	cols    []column
	sources []*reader

	// Columns that the sink fills itself; nil where the table has none.
	topic            *col[string]
	epoch, partition *col[int32]
	offset           *col[int64]
	tenant           *col[string] // of references and facts
	deleted          *col[uint8]
	own              []*col[int64]
	key              []keyColumn // that make up the own id
	ofKey            []keyText   // made of the texts of these

	check func(topic string, value []byte) error // of references and facts: what no column refuses

	owners []*part // of each row
	count  int     // of rows; the columns look at it
	bytes  int     // of the records' values
	wb     []int64 // write_by, made when the block is sent
}

// reader fills the block from the records of one source.
type reader struct {
	topic    string // empty: of all
	schema   *avro.Schema
	bindings []binding
	needs    column             // nil: every record has a row
	programs map[int32]*program // by writer schema id
	own      *program           // for values that the sink encodes itself
}

func newFill(spec *tableSpec, cfg *SinkConfig, writers Writers) (*fill, error) {
	f := &fill{spec: spec, cfg: cfg, writers: writers}
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
	if spec.key != nil {
		f.tenant, f.deleted = &col[string]{rows: &f.count}, &col[uint8]{rows: &f.count}
		add("tenant", f.tenant)
		add("is_deleted", f.deleted)
	}
	for _, o := range spec.own {
		c := &col[int64]{rows: &f.count}
		f.own = append(f.own, c)
		add(o.name, c)
	}
	all, err := spec.resolve()
	if err != nil {
		return nil, err
	}
	byName := map[string]column{}
	for _, t := range all {
		byName[t.name] = newColumn(&f.count, t.kind, t.nullable, t.list)
		add(t.name, byName[t.name])
	}
	for _, name := range spec.key {
		k, ok := byName[name].(keyColumn)
		if !ok {
			return nil, fmt.Errorf("table %s: column %s cannot be part of an own id", spec.name, name)
		}
		f.key = append(f.key, k)
	}
	for _, src := range spec.sources {
		r := &reader{topic: src.topic, schema: src.schema.Avro(), needs: byName[src.needs], programs: map[int32]*program{}}
		schema := newCompiler(r.schema)
		for _, s := range src.columns {
			kind, nullable, _, def, err := schema.resolve(s.path)
			if err != nil {
				return nil, fmt.Errorf("table %s: %w", spec.name, err)
			}
			if i := slices.Index(spec.key, s.path); i >= 0 && s.text != nil {
				f.ofKey = append(f.ofKey, keyText{byName[s.name].(keyColumn), i, s.text})
			}
			r.bindings = append(r.bindings, binding{member: s.path, path: strings.Split(s.path, "."), kind: kind, col: byName[s.name], def: def, needed: !nullable, text: s.text})
		}
		if r.own, err = compile(r.schema, r.bindings); err != nil {
			return nil, fmt.Errorf("table %s: %w", spec.name, err)
		}
		f.sources = append(f.sources, r)
	}
	return f, nil
}

// rows is how many rows the block has.
func (f *fill) rows() int { return f.count }

// add appends the row of a record, or none where the table takes none of it. The errors are [schemas.ErrSchemaPending] and
// *[schemas.BadRecordError]; the block is as before then.
func (f *fill) add(rec *kgo.Record, p *part) (added bool, err error) {
	if f.key != nil && rec.Value == nil {
		return f.addDeletion(rec, p)
	}
	r := f.source(p.topic)
	id, data, err := schemas.SchemaID(rec.Value)
	if err != nil {
		return false, err
	}
	prog, ok := r.programs[id]
	if !ok {
		if prog, err = f.compile(r, id); err != nil {
			return false, err
		}
	}
	if err := prog.fill(data); err != nil {
		f.truncate(f.rows())
		if errors.Is(err, errRange) {
			return false, &schemas.BadRecordError{Code: schemas.CodeOutOfRange, Message: err.Error()}
		}
		if errors.Is(err, errNull) {
			return false, &schemas.BadRecordError{Code: schemas.CodeUndecodable, Message: fmt.Sprintf("the value (schema id %d) cannot be read as ours: %v", id, err)}
		}
		return false, &schemas.BadRecordError{Code: schemas.CodeUndecodable, Message: fmt.Sprintf("the value is not what its schema (id %d) says: %v", id, err)}
	}
	if r.needs != nil && !r.needs.has(f.rows()) {
		f.truncate(f.rows())
		return false, nil
	}
	if f.key != nil {
		tenant, own, err := schemas.SplitReference(rec)
		if id := f.ownID(); err == nil && id != own {
			err = keyMismatch(fmt.Sprintf("the record's key must be <tenant>/%s", id))
		}
		if err == nil && f.check != nil {
			err = f.check(p.topic, rec.Value)
		}
		if err != nil {
			f.truncate(f.rows())
			return false, err
		}
		f.tenant.put(tenant)
		f.deleted.put(0)
	}
	f.position(rec, p)
	return true, nil
}

// source is what reads the records of a topic.
func (f *fill) source(topic string) *reader {
	for _, r := range f.sources {
		if r.topic == topic {
			return r
		}
	}
	return f.sources[0]
}

// keyColumn is a column of an own id: its text is a part of the id.
type keyColumn interface {
	text(row int) string
	setText(s string) bool // appends the value with this text; false where there is none
}

// keyText is a column with what text makes of a part of the own id.
type keyText struct {
	col  keyColumn
	part int
	text func(string) string
}

func (c *col[T]) text(row int) string {
	switch v := any(c.at(row)).(type) {
	case string:
		return v
	case int64:
		return strconv.FormatInt(v, 10)
	}
	panic("no column of an own id")
}

func (c *col[T]) setText(s string) bool {
	switch c := any(c).(type) {
	case *col[string]:
		c.put(s)
		return true
	case *col[int64]:
		n, err := strconv.ParseInt(s, 10, 64)
		c.put(n)
		return err == nil && strconv.FormatInt(n, 10) == s
	}
	panic("no column of an own id")
}

// ownID is the own id of the row that is being written.
func (f *fill) ownID() string {
	id := f.key[0].text(f.rows())
	for _, k := range f.key[1:] {
		id += "/" + k.text(f.rows())
	}
	return id
}

// addDeletion appends the row that hides a reference or fact: its key and what is made of that, and everything else empty.
func (f *fill) addDeletion(rec *kgo.Record, p *part) (added bool, err error) {
	tenant, own, err := schemas.SplitReference(rec)
	if err != nil {
		return false, err
	}
	// Only the last part may hold a slash.
	parts := strings.SplitN(own, "/", len(f.key))
	for i, k := range f.key {
		if i >= len(parts) || !k.setText(parts[i]) {
			f.truncate(f.rows())
			return false, keyMismatch("the record's key is not <tenant>/<own id> of this topic")
		}
	}
	for _, c := range f.ofKey {
		c.col.setText(c.text(parts[c.part]))
	}
	f.tenant.put(tenant)
	f.deleted.put(1)
	f.position(rec, p)
	return true, nil
}

// addOwn appends the row of a value that the sink made itself, encoded with the table's own schema, at the position of rec.
func (f *fill) addOwn(data []byte, rec *kgo.Record, p *part) error {
	if err := f.sources[0].own.fill(data); err != nil {
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
		c.put(f.spec.own[i].value(f.cfg, p.epoch, rec))
	}
	f.owners = append(f.owners, p)
	f.count++
	f.bytes += len(rec.Value)
}

// compile makes the program for a writer's schema, once for each schema id.
func (f *fill) compile(r *reader, id int32) (*program, error) {
	writer, _, err := f.writers.WriterSchema(id)
	if err != nil {
		return nil, err
	}
	var prog *program
	if err = readable(writer, r.schema); err == nil {
		prog, err = compile(writer, r.bindings)
	}
	if err != nil {
		return nil, &schemas.BadRecordError{Code: schemas.CodeUndecodable, Message: fmt.Sprintf("the schema with id %d cannot be read as ours: %v", id, err)}
	}
	r.programs[id] = prog
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
