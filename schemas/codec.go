package schemas

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/twmb/avro"
)

// The Confluent wire format: a zero byte, the schema's id (4 bytes, big-endian), the Avro binary value.
const (
	wireMagic  = 0
	wireHeader = 5
)

// SchemaID reads the schema id of a value in the Confluent wire format and returns the Avro bytes behind it.
func SchemaID(value []byte) (id int32, data []byte, err error) {
	if len(value) < wireHeader || value[0] != wireMagic {
		return 0, nil, &BadRecordError{Code: CodeUndecodable, Message: "the value is not in the Confluent wire format (a zero byte, a 4-byte schema id, Avro)"}
	}
	return int32(binary.BigEndian.Uint32(value[1:])), value[wireHeader:], nil
}

// ErrSchemaPending is returned by decoders while it is not known whether the registry has the writer's schema: the registry is out of
// reach, or has said no only once. Ask again later; the record is neither good nor bad yet.
var ErrSchemaPending = errors.New("the writer's schema is not known yet")

// BadRecordError says that a record can never be read: the caller makes it a dead letter.
type BadRecordError struct {
	Code    string // CodeUndecodable or CodeUnknownSchema
	Message string
}

func (e *BadRecordError) Error() string { return e.Message }

// Encoder writes values for one topic.
type Encoder struct {
	id     int32
	schema *Schema
	item   *Schema // of the item that an outcome carries; else nil
	itemID int32   // its id: bytes that were written with it are appended as they are
}

// Encoder looks the id of the topic's subject up. The subject must have been registered (by migrate); the error says so.
func (r *Registry) Encoder(ctx context.Context, topic string) (*Encoder, error) {
	t, ok := TopicNamed(topic)
	if !ok {
		return nil, fmt.Errorf("topic %s is not one of ours", topic)
	}
	id, err := r.lookup(ctx, Subject(topic), t.Schema)
	if err != nil {
		return nil, err
	}
	e := &Encoder{id: id, schema: t.Schema}
	if items, ok := TopicNamed(t.Kind); ok && t.Role == RoleProcessed {
		e.item = items.Schema
		if e.itemID, err = r.lookup(ctx, Subject(items.Name), items.Schema); err != nil {
			return nil, err
		}
	}
	return e, nil
}

// Append appends v, a pointer to the topic's Go type, in the Confluent wire format.
func (e *Encoder) Append(dst []byte, v any) ([]byte, error) {
	return e.schema.avro.AppendEncode(e.frame(dst), v)
}

// AppendWithItem appends a processed outcome: head is a pointer to the result type (all fields but the item), value the item's record as
// it came. Its bytes are appended untouched where it was written with the schema compiled in here; otherwise item, the decoded value, is
// encoded.
func (e *Encoder) AppendWithItem(dst []byte, head any, value []byte, item any) ([]byte, error) {
	dst, err := e.schema.head.AppendEncode(e.frame(dst), head)
	if err != nil {
		return nil, err
	}
	if id, data, err := SchemaID(value); err == nil && id == e.itemID {
		return append(dst, data...), nil
	}
	return e.item.avro.AppendEncode(dst, item)
}

func (e *Encoder) frame(dst []byte) []byte {
	return binary.BigEndian.AppendUint32(append(dst, wireMagic), uint32(e.id))
}

// Decoder reads values of T as the schema compiled in here, whatever registered schema they were written with.
type Decoder[T any] struct {
	registry *Registry
	reader   *avro.Schema
	mu       sync.RWMutex
	resolved map[int32]*avro.Schema
}

// NewDecoder reads whole values of a topic with the given schema.
func NewDecoder[T any](r *Registry, schema *Schema) *Decoder[T] {
	return &Decoder[T]{registry: r, reader: schema.avro, resolved: map[int32]*avro.Schema{}}
}

// NewHeadDecoder reads outcomes without their item: T is the result type.
func NewHeadDecoder[T any](r *Registry, schema *Schema) *Decoder[T] {
	return &Decoder[T]{registry: r, reader: schema.head, resolved: map[int32]*avro.Schema{}}
}

// Decode reads value into v, which should be zero. The errors are [ErrSchemaPending] and *[BadRecordError].
func (d *Decoder[T]) Decode(value []byte, v *T) error {
	id, data, err := SchemaID(value)
	if err != nil {
		return err
	}
	d.mu.RLock()
	s := d.resolved[id]
	d.mu.RUnlock()
	if s == nil {
		if s, err = d.resolve(id); err != nil {
			return err
		}
	}
	rest, err := s.Decode(data, v)
	if err != nil {
		return &BadRecordError{Code: CodeUndecodable, Message: fmt.Sprintf("the value is not what its schema (id %d) says: %v", id, err)}
	}
	if len(rest) > 0 {
		return &BadRecordError{Code: CodeUndecodable, Message: fmt.Sprintf("the value has %d bytes more than its schema (id %d) says", len(rest), id)}
	}
	return nil
}

// Await reads a value, and waits for its schema where the registry has not told of it yet. The errors are *[BadRecordError] and the end of ctx.
func (d *Decoder[T]) Await(ctx context.Context, value []byte) (T, error) {
	for {
		var v T
		err := d.Decode(value, &v)
		if !errors.Is(err, ErrSchemaPending) {
			return v, err
		}
		select {
		case <-ctx.Done():
			return v, context.Cause(ctx)
		case <-time.After(10 * time.Millisecond):
		}
	}
}

func (d *Decoder[T]) resolve(id int32) (*avro.Schema, error) {
	writer, _, err := d.registry.WriterSchema(id)
	if err != nil {
		return nil, err
	}
	s, err := avro.Resolve(writer, d.reader)
	if err == nil {
		err = sameUnits(writer, d.reader)
	}
	if err != nil {
		return nil, &BadRecordError{Code: CodeUndecodable, Message: fmt.Sprintf("the schema with id %d cannot be read as ours: %v", id, err)}
	}
	d.mu.Lock()
	d.resolved[id] = s
	d.mu.Unlock()
	return s, nil
}
