package plainjson

import (
	"encoding/json"
	"iter"
	"regexp"
	"slices"
	"strings"
)

// Columns says what the columns of a table are. It is safe for concurrent use.
type Columns struct{ members []column }

// column is a member whose value stands in a cell, or one whose members do.
type column struct {
	name    string
	cell    int      // index; unused where there are members
	members []column // of a record, by columns named <member>.<its member>
	typ     *node    // nil: no field of this name
}

// Columns reads the header of a table. A column is named as the field; the members of a record have columns of their own, named by their path,
// such as account.number, or the record stands in one cell as JSON, as arrays and maps always do. Columns that are no field are kept, so that
// their cells become defects.
func (c *Codec) Columns(header []string) *Columns {
	root := column{typ: c.root}
	for i, name := range header {
		root.add(strings.Split(name, "."), name, i)
	}
	return &Columns{root.members}
}

// add adds the column that a path leads to. A path that leads through something that is no record names a member that does not exist.
func (c *column) add(path []string, whole string, cell int) {
	var typ *node
	if f := c.typ.field(path[0]); f != nil {
		typ = plain(f.typ)
	}
	if len(path) == 1 {
		c.members = append(c.members, column{name: path[0], cell: cell, typ: typ})
		return
	}
	if typ == nil || typ.kind != "record" {
		c.members = append(c.members, column{name: whole, cell: cell})
		return
	}
	for i := range c.members {
		if m := &c.members[i]; m.name == path[0] && m.members != nil {
			m.add(path[1:], strings.Join(path[1:], "."), cell)
			return
		}
	}
	record := column{name: path[0], typ: typ}
	record.add(path[1:], strings.Join(path[1:], "."), cell)
	c.members = append(c.members, record)
}

// plain is the type without null.
func plain(t *node) *node {
	if branch, ok := t.nullable(); ok {
		return branch
	}
	return t
}

// Object makes the object of a row, which has as many cells as the header. An empty cell is a member that is left out. What a cell means
// depends on its field; one that cannot mean it is kept as text, which [Codec.Append] refuses by name.
func (c *Columns) Object(cells []string) Object { return object(c.members, cells) }

func object(columns []column, cells []string) Object {
	var o Object
	for i := range columns {
		c := &columns[i]
		if c.members != nil {
			if inner := object(c.members, cells); len(inner) > 0 {
				o = append(o, Member{c.name, inner})
			}
		} else if cells[c.cell] != "" {
			o = append(o, Member{c.name, c.value(cells[c.cell])})
		}
	}
	return o
}

// JSON are those cells of a row that hold a record, an array or a map as JSON. [Columns.Object] keeps what nests too deep as text; a door can
// refuse it first.
func (c *Columns) JSON(cells []string) iter.Seq[string] {
	return func(yield func(string) bool) { eachJSON(c.members, cells, yield) }
}

func eachJSON(columns []column, cells []string, yield func(string) bool) bool {
	for i := range columns {
		c := &columns[i]
		switch {
		case c.members != nil:
			if !eachJSON(c.members, cells, yield) {
				return false
			}
		case c.isJSON() && !yield(cells[c.cell]):
			return false
		}
	}
	return true
}

// isJSON reports whether a cell of the column holds JSON.
func (c *column) isJSON() bool {
	return c.typ != nil && slices.Contains([]string{"record", "array", "map", "union"}, c.typ.kind)
}

var numberForm = regexp.MustCompile(`^-?(0|[1-9]\d*)(\.\d+)?([eE][+-]?\d+)?$`)

// value is what a cell says, as JSON would.
func (c *column) value(text string) any {
	if c.typ == nil {
		return text
	}
	switch c.typ.kind {
	case "boolean":
		switch text {
		case "true":
			return true
		case "false":
			return false
		}
	case "int", "long", "float", "double":
		if numberForm.MatchString(text) {
			return json.Number(text)
		}
	}
	if c.isJSON() {
		if v, err := parseText([]byte(text)); err == nil {
			return v
		}
	}
	return text
}
