package clickhouse

import (
	"slices"
	"time"
	"unsafe"

	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"

	"github.com/counterfoil/counterfoil/schemas"
)

// column is one column of a block under construction. Values are appended while an Avro value is walked: put (on the concrete type), in a
// list null as well, and close at the end of each row's list where the column is an Array.
//
// A row for which nothing was put is null (the type's zero where the column is not Nullable, the empty list of an Array): nobody says so,
// and it takes no memory until a later row has a value. Most members of a customer event are of another kind, so that most columns of its
// table stay empty.
type column interface {
	null()                         // appends NULL to a list, or the type's zero where the column is not Nullable
	close()                        // ends the row of an Array column
	isList() bool                  //
	used() bool                    // some row has a value
	has(row int) bool              // a value was put for the row, the last
	settle(rows int)               // appends what rows without a value have
	truncate(rows int)             // drops everything beyond the first rows, half-written rows included
	keep(mask []bool)              // drops the rows whose mask is false
	reset()                        //
	send(driver.BatchColumn) error // after settle
}

// col is the only implementation. T is what clickhouse-go takes without conversion: string, bool, int32, int64 (also milliseconds of a
// DateTime64(3)), float64, time.Time (of a Date32 or a DateTime64(9)), uint8 and decimal. Its slices are reused from block to block.
type col[T any] struct {
	rows     *int   // whole rows of the block: a value that is put belongs to the one behind them
	vals     []T    // of the rows up to the last that has a value
	nulls    []bool // parallel to vals, where nullable
	nullable bool
	list     bool
	ends     []int // of an Array column: the end of each row in vals
	ptrs     []*T  // what send hands to the driver for a Nullable
}

func (c *col[T]) put(v T) {
	if !c.list && len(c.vals) < *c.rows {
		c.settle(*c.rows)
	}
	c.vals = append(c.vals, v)
	if c.nullable {
		c.nulls = append(c.nulls, false)
	}
}

// at is the value of a row; zero where none was put.
func (c *col[T]) at(row int) (v T) {
	if row < len(c.vals) {
		v = c.vals[row]
	}
	return v
}

func (c *col[T]) null() {
	var zero T
	c.vals = append(c.vals, zero)
	if c.nullable {
		c.nulls = append(c.nulls, true)
	}
}

func (c *col[T]) close() {
	if len(c.ends) < *c.rows {
		c.settleEnds(*c.rows)
	}
	c.ends = append(c.ends, len(c.vals))
}

func (c *col[T]) isList() bool { return c.list }
func (c *col[T]) used() bool   { return len(c.vals) > 0 }

func (c *col[T]) has(row int) bool { return len(c.vals) > row }

func (c *col[T]) settle(rows int) {
	if c.list {
		c.settleEnds(rows)
		return
	}
	n := rows - len(c.vals)
	if n <= 0 {
		return
	}
	from := len(c.vals)
	c.vals = slices.Grow(c.vals, n)[:rows]
	clear(c.vals[from:])
	if c.nullable {
		c.nulls = slices.Grow(c.nulls, n)[:rows]
		for i := from; i < rows; i++ {
			c.nulls[i] = true
		}
	}
}

// settleEnds gives rows without a list an empty one.
func (c *col[T]) settleEnds(rows int) {
	end := 0
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
			rows = c.ends[len(c.ends)-1]
		}
	}
	rows = min(rows, len(c.vals))
	c.vals = c.vals[:rows]
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
			to = c.ends[row]
		}
		if kept {
			copy(c.vals[vals:], c.vals[from:to])
			if c.nullable {
				copy(c.nulls[vals:], c.nulls[from:to])
			}
			vals += to - from
			if c.list {
				c.ends[rows] = vals
			}
			rows++
		}
		from = to
	}
	c.truncate(rows)
}

// reset also clears what it held, because strings alias the memory of the records that they came from.
func (c *col[T]) reset() {
	clear(c.vals)
	clear(c.ptrs)
	c.truncate(0)
}

func (c *col[T]) send(to driver.BatchColumn) error {
	if c.nullable {
		c.ptrs = slices.Grow(c.ptrs[:0], len(c.vals))
		for i := range c.vals {
			if c.nulls[i] {
				c.ptrs = append(c.ptrs, nil)
			} else {
				c.ptrs = append(c.ptrs, &c.vals[i])
			}
		}
	}
	switch {
	case c.list && c.nullable:
		return sendLists(to, c.ptrs, c.ends)
	case c.list:
		return sendLists(to, c.vals, c.ends)
	case c.nullable:
		return to.Append(c.ptrs)
	default:
		return to.Append(c.vals)
	}
}

// sendLists goes row by row: the driver's Append of a slice of slices takes each through reflection.
func sendLists[T any](to driver.BatchColumn, vals []T, ends []int) error {
	var empty any = []T{}
	start := 0
	for _, end := range ends {
		row := empty
		if end > start {
			row = vals[start:end:end]
		}
		if err := to.AppendRow(row); err != nil {
			return err
		}
		start = end
	}
	return nil
}

// newColumn makes the column of one leaf in a block whose rows are counted there.
func newColumn(rows *int, kind leafKind, nullable, list bool) column {
	switch kind {
	case leafString:
		return &col[string]{rows: rows, nullable: nullable, list: list}
	case leafBool:
		return &col[bool]{rows: rows, nullable: nullable, list: list}
	case leafInt32:
		return &col[int32]{rows: rows, nullable: nullable, list: list}
	case leafInt64, leafMillis:
		return &col[int64]{rows: rows, nullable: nullable, list: list}
	case leafFloat64:
		return &col[float64]{rows: rows, nullable: nullable, list: list}
	case leafDate, leafNanos:
		return &col[time.Time]{rows: rows, nullable: nullable, list: list}
	case leafDecimal, leafDecimal256:
		return &col[schemas.Decimal]{rows: rows, nullable: nullable, list: list}
	}
	panic("unknown kind of column")
}

// alias is b as a string without a copy: it lives as long as the record, which the fill outlives never by more than its flush.
func alias(b []byte) string { return unsafe.String(unsafe.SliceData(b), len(b)) }
