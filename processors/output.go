package processors

import (
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/counterfoil/counterfoil/schemas"
)

// keepBytes is how much room for values an output keeps from one round to the next.
const keepBytes = 4 << 20

// output collects what a partition writes in a round. Its memory is used again in the next round, so records must have been sent, or
// given up, before reset.
type output struct {
	values  []byte
	headers []kgo.RecordHeader
	records []kgo.Record
}

// mark is a place in an output to go back to.
type mark struct{ values, headers, records int }

func (o *output) mark() mark { return mark{len(o.values), len(o.headers), len(o.records)} }

// back forgets what was added since m.
func (o *output) back(m mark) {
	o.values, o.headers, o.records = o.values[:m.values], o.headers[:m.headers], o.records[:m.records]
}

func (o *output) reset() {
	if cap(o.values) > keepBytes {
		o.values = nil
	}
	clear(o.headers)
	clear(o.records)
	o.back(mark{})
}

func (o *output) add(rec kgo.Record) { o.records = append(o.records, rec) }

// encode returns v in the wire format. Growing moves later values elsewhere; earlier ones stay valid where they are.
func (o *output) encode(e *schemas.Encoder, v any) ([]byte, error) {
	grown, err := e.Append(o.values, v)
	if err != nil {
		return nil, err
	}
	return o.took(grown), nil
}

// encodeOutcome returns a processed outcome: head and the item as it came.
func (o *output) encodeOutcome(e *schemas.Encoder, head any, value []byte, item any) ([]byte, error) {
	grown, err := e.AppendWithItem(o.values, head, value, item)
	if err != nil {
		return nil, err
	}
	return o.took(grown), nil
}

func (o *output) took(grown []byte) []byte {
	value := grown[len(o.values):len(grown):len(grown)]
	o.values = grown
	return value
}

// envelope returns the headers that an outcome takes over from its item, for the reader that waits for the batch.
func (o *output) envelope(item []kgo.RecordHeader) []kgo.RecordHeader {
	begin := len(o.headers)
	for _, h := range item {
		switch h.Key {
		case schemas.HeaderTenant, schemas.HeaderBatch, schemas.HeaderIndex, schemas.HeaderAttempt, schemas.HeaderFirst, schemas.HeaderRef, schemas.HeaderTraceParent:
			o.headers = append(o.headers, h)
		}
	}
	return o.headers[begin:len(o.headers):len(o.headers)]
}
