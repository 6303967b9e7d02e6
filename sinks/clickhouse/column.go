package clickhouse

import (
	"encoding/binary"
	"slices"
	"unsafe"

	"github.com/ClickHouse/ch-go/proto"
)

// column is one column of a block under construction. Values are appended while an Avro value is walked: put (on the concrete type), in a
// list null as well, and close at the end of each row's list where the column is an Array.
//
// A row for which nothing was put is null (the type's zero where the column is not Nullable, the empty list of an Array): nobody says so,
// and it takes no memory until a later row has a value. Most members of a customer event are of another kind, so that most columns of its
// table stay empty.
type column interface {
	null()               // appends NULL to a list, or the type's zero where the column is not Nullable
	close()              // ends the row of an Array column
	isList() bool        //
	used() bool          // some row has a value
	settle(rows int)     // appends what rows without a value have
	truncate(rows int)   // drops everything beyond the first rows, half-written rows included
	keep(mask []bool)    // drops the rows whose mask is false
	write(*proto.Writer) // hands the column's bytes over as ClickHouse's native format has them; after settle
}

// col is the only implementation. Its memory is reused from block to block, lies as it goes out, and has no pointers in it for the garbage
// collector to follow.
type col[T any] struct {
	rows     *int     // whole rows of the block: a value that is put belongs to the one behind them
	vals     store[T] // of the rows up to the last that has a value
	nulls    []bool   // parallel to vals, where nullable
	nullable bool
	list     bool
	ends     []uint64 // of an Array column: the end of each row in vals
}

// store is a growing list of values.
type store[T any] interface {
	count() int
	put(T)
	at(i int) T
	zeros(n int)              // appends n zeros
	move(to, from, count int) // moves values towards the front; whoever compacts goes from front to back
	truncate(n int)
	write(*proto.Writer)
}

func (c *col[T]) put(v T) {
	if !c.list && c.vals.count() < *c.rows {
		c.settle(*c.rows)
	}
	c.vals.put(v)
	if c.nullable {
		c.nulls = append(c.nulls, false)
	}
}

// at is the value of a row; zero where none was put.
func (c *col[T]) at(row int) (v T) {
	if row < c.vals.count() {
		v = c.vals.at(row)
	}
	return v
}

func (c *col[T]) null() {
	c.vals.zeros(1)
	if c.nullable {
		c.nulls = append(c.nulls, true)
	}
}

func (c *col[T]) close() {
	if len(c.ends) < *c.rows {
		c.settleEnds(*c.rows)
	}
	c.ends = append(c.ends, uint64(c.vals.count()))
}

func (c *col[T]) isList() bool { return c.list }
func (c *col[T]) used() bool   { return c.vals.count() > 0 }

func (c *col[T]) settle(rows int) {
	if c.list {
		c.settleEnds(rows)
		return
	}
	from := c.vals.count()
	if rows <= from {
		return
	}
	c.vals.zeros(rows - from)
	if c.nullable {
		c.nulls = slices.Grow(c.nulls, rows-from)[:rows]
		for i := from; i < rows; i++ {
			c.nulls[i] = true
		}
	}
}

// settleEnds gives rows without a list an empty one.
func (c *col[T]) settleEnds(rows int) {
	end := uint64(0)
	if len(c.ends) > 0 {
		end = c.ends[len(c.ends)-1]
	}
	for len(c.ends) < rows {
		c.ends = append(c.ends, end)
	}
}

func (c *col[T]) truncate(rows int) {
	if c.list {
		c.ends = c.ends[:min(rows, len(c.ends))]
		rows = 0
		if len(c.ends) > 0 {
			rows = int(c.ends[len(c.ends)-1])
		}
	}
	rows = min(rows, c.vals.count())
	c.vals.truncate(rows)
	if c.nullable {
		c.nulls = c.nulls[:rows]
	}
}

func (c *col[T]) keep(mask []bool) {
	if !c.used() {
		c.truncate(0)
		return
	}
	c.settle(len(mask))
	vals, from, rows := 0, 0, 0
	for row, kept := range mask {
		to := row + 1
		if c.list {
			to = int(c.ends[row])
		}
		if kept {
			c.vals.move(vals, from, to-from)
			if c.nullable {
				copy(c.nulls[vals:], c.nulls[from:to])
			}
			vals += to - from
			if c.list {
				c.ends[rows] = uint64(vals)
			}
			rows++
		}
		from = to
	}
	c.truncate(rows)
}

func (c *col[T]) write(w *proto.Writer) {
	if c.list {
		proto.ColUInt64(c.ends).WriteColumn(w)
	}
	if c.nullable {
		proto.ColBool(c.nulls).WriteColumn(w)
	}
	c.vals.write(w)
}

// fixed are values of one size; native makes a column of them that can be written.
type fixed[T any] struct {
	vals   []T
	native func([]T) proto.ColInput
}

func (f *fixed[T]) count() int               { return len(f.vals) }
func (f *fixed[T]) put(v T)                  { f.vals = append(f.vals, v) }
func (f *fixed[T]) at(i int) T               { return f.vals[i] }
func (f *fixed[T]) move(to, from, count int) { copy(f.vals[to:], f.vals[from:from+count]) }
func (f *fixed[T]) truncate(n int)           { f.vals = f.vals[:n] }
func (f *fixed[T]) write(w *proto.Writer)    { f.native(f.vals).WriteColumn(w) }

func (f *fixed[T]) zeros(n int) {
	from := len(f.vals)
	f.vals = slices.Grow(f.vals, n)[:from+n]
	clear(f.vals[from:])
}

// text are strings in one piece of memory, each behind its length.
type text struct {
	buf  []byte
	ends []int // of each string in buf
}

func (t *text) count() int { return len(t.ends) }

func (t *text) put(v string) {
	t.buf = append(binary.AppendUvarint(t.buf, uint64(len(v))), v...)
	t.ends = append(t.ends, len(t.buf))
}

// start is where a string's length lies.
func (t *text) start(i int) int {
	if i == 0 {
		return 0
	}
	return t.ends[i-1]
}

func (t *text) at(i int) string {
	size, n := binary.Uvarint(t.buf[t.start(i):])
	from := t.start(i) + n
	return string(t.buf[from : from+int(size)])
}

func (t *text) zeros(n int) {
	for range n {
		t.buf = append(t.buf, 0)
		t.ends = append(t.ends, len(t.buf))
	}
}

func (t *text) move(to, from, count int) {
	at, start := t.start(to), t.start(from)
	for i := range count { // in order: start and ends behind are read before they are overwritten
		end := t.ends[from+i]
		at += copy(t.buf[at:], t.buf[start:end])
		t.ends[to+i], start = at, end
	}
}

func (t *text) truncate(n int) {
	t.buf = t.buf[:t.start(n)]
	t.ends = t.ends[:n]
}

func (t *text) write(w *proto.Writer) {
	if len(t.buf) > 0 {
		w.ChainWrite(t.buf)
	}
}

// The columns, by what they hold.
func stringCol(rows *int) *col[string] { return &col[string]{rows: rows, vals: &text{}} }
func boolCol(rows *int) *col[bool] {
	return &col[bool]{rows: rows, vals: &fixed[bool]{native: func(v []bool) proto.ColInput { return proto.ColBool(v) }}}
}
func uint8Col(rows *int) *col[uint8] {
	return &col[uint8]{rows: rows, vals: &fixed[uint8]{native: func(v []uint8) proto.ColInput { return proto.ColUInt8(v) }}}
}
func int32Col(rows *int) *col[int32] {
	return &col[int32]{rows: rows, vals: &fixed[int32]{native: func(v []int32) proto.ColInput { return proto.ColInt32(v) }}}
}
func int64Col(rows *int) *col[int64] {
	return &col[int64]{rows: rows, vals: &fixed[int64]{native: func(v []int64) proto.ColInput { return proto.ColInt64(v) }}}
}
func float64Col(rows *int) *col[float64] {
	return &col[float64]{rows: rows, vals: &fixed[float64]{native: func(v []float64) proto.ColInput { return proto.ColFloat64(v) }}}
}
func decimalCol(rows *int) *col[proto.Decimal128] {
	return &col[proto.Decimal128]{rows: rows, vals: &fixed[proto.Decimal128]{native: func(v []proto.Decimal128) proto.ColInput { return proto.ColDecimal128(v) }}}
}

// shape makes a column nullable or a list.
func (c *col[T]) shape(nullable, list bool) *col[T] {
	c.nullable, c.list = nullable, list
	return c
}

// newColumn makes the column of one leaf in a block whose rows are counted there.
func newColumn(rows *int, kind leafKind, nullable, list bool) column {
	switch kind {
	case leafString:
		return stringCol(rows).shape(nullable, list)
	case leafBool:
		return boolCol(rows).shape(nullable, list)
	case leafInt32, leafDate:
		return int32Col(rows).shape(nullable, list)
	case leafInt64, leafMillis:
		return int64Col(rows).shape(nullable, list)
	case leafFloat64:
		return float64Col(rows).shape(nullable, list)
	case leafDecimal:
		return decimalCol(rows).shape(nullable, list)
	}
	panic("unknown kind of column")
}

// alias is b as a string without a copy, for as long as b does not change.
func alias(b []byte) string { return unsafe.String(unsafe.SliceData(b), len(b)) }
