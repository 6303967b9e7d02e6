package reference

import (
	"fmt"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/counterfoil/counterfoil/schemas"
)

// table holds the live records of one reference topic.
type table interface {
	// apply takes one record over. The error is schemas.ErrSchemaPending (nothing was changed; apply it again later) or says why the record
	// was skipped.
	apply(rec *kgo.Record) error
	// size is the number of live records.
	size() int
}

// index finds the records of type T by each of their identifiers.
//
// Which record an identifier finds depends on nothing but the live records and their offsets: of all records that claim it, the latest.
// So a later record takes an identifier over, and an earlier one that still claims it has it back when the later is deleted or renamed.
// Any other rule would give another answer after a restart, because compaction has removed the records in between.
type index[T any, R interface {
	*T
	schemas.Reference
}] struct {
	decoder *schemas.Decoder[T]
	check   func(value any) []schemas.Reason
	anyCase bool // the member id compares case-insensitively (hex ids)
	global  bool // identifiers are looked up without a tenant (api keys)
	rows    map[string]*row[T]
	claims  map[identifier]*claim[T]
}

// identifier is a member and its value. The tenant is part of it, so that no look-up can cross tenants.
type identifier struct{ tenant, field, value string }

// row is a live record. It is never changed once stored: readers may keep value.
type row[T any] struct {
	value  *T
	offset int64
	claims []identifier
}

// claim is a list of the rows that claim one identifier, latest first; nearly always one.
type claim[T any] struct {
	row  *row[T]
	next *claim[T]
}

func newIndex[T any, R interface {
	*T
	schemas.Reference
}](d Deps, topic schemas.Topic) *index[T, R] {
	return &index[T, R]{
		decoder: schemas.NewDecoder[T](d.Registry, topic.Schema),
		check:   func(value any) []schemas.Reason { return d.Check(topic.Name, value) },
		anyCase: topic.Name != schemas.APIKeys,
		global:  topic.Name == schemas.APIKeys,
		rows:    map[string]*row[T]{},
		claims:  map[identifier]*claim[T]{},
	}
}

func (x *index[T, R]) size() int { return len(x.rows) }

func (x *index[T, R]) apply(rec *kgo.Record) error {
	tenant, id, err := schemas.SplitReference(rec)
	if err != nil {
		return err
	}
	if rec.Value == nil {
		x.remove(string(rec.Key))
		return nil
	}
	value := new(T)
	if err := x.decoder.Decode(rec.Value, value); err != nil {
		return err
	}
	if R(value).OwnID() != id {
		return fmt.Errorf("key %q is not <tenant>/<own id> of the value", rec.Key)
	}
	if reasons := x.check(value); reasons != nil {
		return fmt.Errorf("%s %s", reasons[0].Field, reasons[0].Message)
	}
	x.put(string(rec.Key), tenant, value, rec.Offset)
	return nil
}

func (x *index[T, R]) put(key, tenant string, value *T, offset int64) {
	x.remove(key)
	if x.global {
		tenant = ""
	}
	r := &row[T]{value: value, offset: offset}
	R(value).Identifiers(func(field, text string) {
		if x.anyCase && field == "id" {
			text = schemas.Fold(text)
		}
		id := identifier{tenant, field, text}
		x.claims[id] = x.claims[id].with(r)
		r.claims = append(r.claims, id)
	})
	x.rows[key] = r
}

func (x *index[T, R]) remove(key string) {
	r := x.rows[key]
	if r == nil {
		return
	}
	delete(x.rows, key)
	for _, id := range r.claims {
		if rest := x.claims[id].without(r); rest != nil {
			x.claims[id] = rest
		} else {
			delete(x.claims, id)
		}
	}
}

// with returns the list with r at its place; offsets grow, so that is nearly always the head.
func (c *claim[T]) with(r *row[T]) *claim[T] {
	if c == nil || c.row.offset <= r.offset {
		return &claim[T]{row: r, next: c}
	}
	return &claim[T]{row: c.row, next: c.next.with(r)}
}

func (c *claim[T]) without(r *row[T]) *claim[T] {
	switch {
	case c == nil:
		return nil
	case c.row == r:
		return c.next
	default:
		return &claim[T]{row: c.row, next: c.next.without(r)}
	}
}

// find looks an identifier up; nil: not found. It does not allocate, but for an id with characters outside ASCII.
func (x *index[T, R]) find(tenant, field, value string) *T {
	var c *claim[T]
	if !x.anyCase || field != "id" {
		c = x.claims[identifier{tenant, field, value}]
	} else {
		var room [64]byte
		if folded, ok := foldASCII(room[:0], value); ok {
			c = x.claims[identifier{tenant, field, string(folded)}]
		} else {
			c = x.claims[identifier{tenant, field, schemas.Fold(value)}]
		}
	}
	if c == nil {
		return nil
	}
	return c.row.value
}

// foldASCII is schemas.Fold for ASCII text that fits dst; !ok where it is not.
func foldASCII(dst []byte, s string) (folded []byte, ok bool) {
	if len(s) > cap(dst) {
		return nil, false
	}
	for i := 0; i < len(s); i++ {
		c := s[i]
		if c >= 0x80 {
			return nil, false
		}
		if 'A' <= c && c <= 'Z' {
			c += 'a' - 'A'
		}
		dst = append(dst, c)
	}
	return dst, true
}
