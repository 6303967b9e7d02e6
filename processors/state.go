package processors

import (
	"fmt"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/counterfoil/counterfoil/schemas"
)

// stateError says that a changelog cannot be trusted. Starting afresh would read the same again: a person is needed.
type stateError struct{ cause error }

func (e *stateError) Error() string { return e.cause.Error() }
func (e *stateError) Unwrap() error { return e.cause }

// state is the table of one partition as the engine sees it. Changes lie on an overlay until the round is committed.
type state interface {
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
