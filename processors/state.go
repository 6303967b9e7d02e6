package processors

import (
	"fmt"
	"slices"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/counterfoil/counterfoil/schemas"
)

// stateError says that a changelog cannot be trusted. Starting afresh would read the same again: a person is needed.
type stateError struct{ cause error }

func (e *stateError) Error() string { return e.cause.Error() }
func (e *stateError) Unwrap() error { return e.cause }

// state is a table of one partition as the engine sees it. Changes lie on an overlay until the round is committed.
type state interface {
	// changelog is the topic of the table's changes, in the partition of the same number.
	changelog() string
	// restore takes a changelog record over. The error is schemas.ErrSchemaPending (ask again) or says that the record is unreadable.
	restore(rec *kgo.Record) error
	// write appends the last value of each changed key to out.
	write(out *output) error
	// keep makes the overlay part of the table; drop forgets it.
	keep()
	drop()
	size() int
}

// stateTable maps keys to values of type T.
type stateTable[T any] struct {
	topic     string
	partition int32
	encoder   *schemas.Encoder
	decoder   *schemas.Decoder[T]

	kept    map[string]*T
	changes []change[T]
	changed map[string]int // key → its place in changes
}

// change is what a round made of a key; a nil value removes it.
type change[T any] struct {
	key   string
	value *T
}

func newStateTable[T any](topic string, partition int32, encoder *schemas.Encoder, decoder *schemas.Decoder[T]) *stateTable[T] {
	return &stateTable[T]{
		topic: topic, partition: partition, encoder: encoder, decoder: decoder,
		kept: map[string]*T{}, changed: map[string]int{},
	}
}

func (t *stateTable[T]) changelog() string { return t.topic }

// get returns the value of a key as the items before left it; nil: there is none. It must not be changed.
func (t *stateTable[T]) get(key []byte) *T {
	if i, ok := t.changed[string(key)]; ok {
		return t.changes[i].value
	}
	return t.kept[string(key)]
}

// put notes the new value of a key; nil removes it.
func (t *stateTable[T]) put(key []byte, value *T) {
	if i, ok := t.changed[string(key)]; ok {
		t.changes[i].value = value
		return
	}
	c := change[T]{string(key), value}
	t.changed[c.key] = len(t.changes)
	t.changes = append(t.changes, c)
}

func (t *stateTable[T]) restore(rec *kgo.Record) error {
	if rec.Value == nil {
		delete(t.kept, string(rec.Key))
		return nil
	}
	value := new(T)
	if err := t.decoder.Decode(rec.Value, value); err != nil {
		return err
	}
	t.kept[string(rec.Key)] = value
	return nil
}

func (t *stateTable[T]) write(out *output) error {
	for _, c := range t.changes {
		if c.value == nil {
			if _, had := t.kept[c.key]; had {
				out.add(kgo.Record{Topic: t.topic, Partition: t.partition, Key: []byte(c.key)})
			}
			continue
		}
		value, err := out.encode(t.encoder, c.value)
		if err != nil {
			return fmt.Errorf("encode state: %w", err)
		}
		out.add(kgo.Record{Topic: t.topic, Partition: t.partition, Key: []byte(c.key), Value: value})
	}
	return nil
}

func (t *stateTable[T]) keep() {
	for _, c := range t.changes {
		if c.value == nil {
			delete(t.kept, c.key)
		} else {
			t.kept[c.key] = c.value
		}
	}
	t.drop()
}

func (t *stateTable[T]) drop() {
	clear(t.changes)
	t.changes = t.changes[:0]
	clear(t.changed)
}

func (t *stateTable[T]) size() int { return len(t.kept) }

// memory is a state table that forgets what is too old, by the time of the records: it moves with them, so that a partition without any
// keeps what it has.
type memory[T any] struct {
	*stateTable[T]
	span time.Duration
	at   func(*T) time.Time

	// What is remembered, the oldest first, from oldest on; what was replaced since is still in it. It is made when it is first needed,
	// because a changelog that is read back may hold a key many times.
	order   []remembered[T]
	oldest  int
	ordered bool
	latest  time.Time // of the records so far

	// The round under way.
	fresh   []remembered[T]
	expired int // of order, from oldest on
}

// remembered is a value that a key had.
type remembered[T any] struct {
	key   string
	value *T
}

func newMemory[T any](table *stateTable[T], span time.Duration, at func(*T) time.Time) *memory[T] {
	return &memory[T]{stateTable: table, span: span, at: at}
}

// seen moves the time.
func (m *memory[T]) seen(at time.Time) {
	if at.After(m.latest) {
		m.latest = at
	}
}

// remember puts the value of a key, which is not nil.
func (m *memory[T]) remember(key []byte, value *T) {
	m.put(key, value)
	m.fresh = append(m.fresh, remembered[T]{string(key), value})
}

// write forgets what is too old, and appends the last value of each changed key to out. It looks at a few more keys than the round added, so
// that the memory shrinks and no round is long.
func (m *memory[T]) write(out *output) error {
	if !m.ordered {
		for key, value := range m.kept {
			m.order = append(m.order, remembered[T]{key, value})
		}
		slices.SortFunc(m.order, func(a, b remembered[T]) int { return m.at(a.value).Compare(m.at(b.value)) })
		m.ordered = true
	}
	for range 2*len(m.fresh) + 16 {
		next := m.oldest + m.expired
		if next == len(m.order) || m.latest.Sub(m.at(m.order[next].value)) < m.span {
			break
		}
		// The key may have another value since.
		if old := m.order[next]; m.get([]byte(old.key)) == old.value {
			m.put([]byte(old.key), nil)
		}
		m.expired++
	}
	return m.stateTable.write(out)
}

func (m *memory[T]) keep() {
	m.stateTable.keep()
	clear(m.order[m.oldest : m.oldest+m.expired])
	m.oldest += m.expired
	m.order = append(m.order, m.fresh...)
	if m.oldest > len(m.order)/2 {
		m.order = append(m.order[:0:0], m.order[m.oldest:]...)
		m.oldest = 0
	}
	m.forget()
}

func (m *memory[T]) drop() {
	m.stateTable.drop()
	m.forget()
}

// forget ends the round.
func (m *memory[T]) forget() {
	clear(m.fresh)
	m.fresh, m.expired = m.fresh[:0], 0
}
