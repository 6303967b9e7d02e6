package clickhouse

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"strings"
	"time"

	"github.com/twmb/avro"

	"github.com/counterfoil/counterfoil/schemas"
)

// leafKind is what a column holds, seen from Avro.
type leafKind uint8

const (
	leafString     leafKind = iota + 1 // string, bytes, enum, fixed: String
	leafBool                           // Bool
	leafInt32                          // Int32
	leafInt64                          // Int64
	leafFloat64                        // float, double: Float64
	leafMillis                         // timestamp-millis: DateTime64(3)
	leafDate                           // Date32
	leafNanos                          // timestamp-nanos: DateTime64(9)
	leafDecimal                        // Decimal(38, 10)
	leafDecimal256                     // a wider decimal: Decimal(57, 28)
)

// sqlTypes are the column types of the leaves. The migrations say the same; a test compares them.
var sqlTypes = map[leafKind]string{
	leafString: "String", leafBool: "Bool", leafInt32: "Int32", leafInt64: "Int64", leafFloat64: "Float64",
	leafMillis: "DateTime64(3, 'UTC')", leafNanos: "DateTime64(9, 'UTC')", leafDate: "Date32",
	leafDecimal: "Decimal(38, 10)", leafDecimal256: "Decimal(57, 28)",
}

// binding ties a path of Avro members to a column. A path that crosses an array fills an Array column.
type binding struct {
	member string   // its whole path, for messages
	path   []string // what is left of it
	kind   leafKind
	col    column
	def    any                 // of a member that the writer lacks: as the reader's schema has it; nil: null or zero
	needed bool                // by the reader's schema it is never null
	text   func(string) string // of a text, see columnSpec
}

// resolve finds what a path leads to in the schema, which is the reader's.
func (c *compiler) resolve(path string) (kind leafKind, nullable, list bool, def any, err error) {
	node := c.root
	for _, name := range strings.Split(path, ".") {
		for {
			node = c.names.Follow(node)
			if inner, ok := optional(node); ok {
				node, nullable = inner, true
				continue
			}
			if node.Type != "array" {
				break
			}
			// What is null is the array, which a column shows as empty.
			node, list, nullable = node.Items, true, false
		}
		if node.Type != "record" {
			return 0, false, false, nil, fmt.Errorf("path %s: %s is in a %s", path, name, node.Type)
		}
		field := fieldNamed(node, name)
		if field == nil {
			return 0, false, false, nil, fmt.Errorf("path %s: no member %s", path, name)
		}
		node, def = &field.Type, field.Default
	}
	for {
		node = c.names.Follow(node)
		if inner, ok := optional(node); ok {
			node, nullable = inner, true
			continue
		}
		if node.Type != "array" {
			break
		}
		node, list, nullable, def = node.Items, true, false, nil
	}
	if kind = leafOf(node); kind == 0 {
		return 0, false, false, nil, fmt.Errorf("path %s: no column for %s", path, node.Type)
	}
	return kind, nullable, list, def, nil
}

// optional reports a union of null and one other type, and that type.
func optional(n *avro.SchemaNode) (*avro.SchemaNode, bool) {
	if n.Type != "union" || len(n.Branches) != 2 {
		return nil, false
	}
	if n.Branches[0].Type == "null" {
		return &n.Branches[1], true
	}
	return &n.Branches[0], n.Branches[1].Type == "null"
}

func fieldNamed(n *avro.SchemaNode, name string) *avro.SchemaField {
	for i := range n.Fields {
		if n.Fields[i].Name == name {
			return &n.Fields[i]
		}
	}
	return nil
}

func leafOf(n *avro.SchemaNode) leafKind {
	switch {
	case n.LogicalType == "decimal" && n.Scale == schemas.TransactionScale:
		return leafDecimal256
	case n.LogicalType == "decimal":
		return leafDecimal
	case n.LogicalType == "timestamp-millis":
		return leafMillis
	case n.LogicalType == "timestamp-nanos":
		return leafNanos
	case n.LogicalType == "date":
		return leafDate
	}
	switch n.Type {
	case "string", "bytes", "enum", "fixed":
		return leafString
	case "boolean":
		return leafBool
	case "int":
		return leafInt32
	case "long":
		return leafInt64
	case "float", "double":
		return leafFloat64
	}
	return 0
}

// decoder walks one Avro value. The first failure ends it: every later read returns zeros without moving, and err says what it was.
type decoder struct {
	b   []byte
	err error
}

var (
	errShort  = errors.New("it ends early")
	errVarint = errors.New("a number in it is too long")
)

func (d *decoder) fail(err error) {
	if d.err == nil {
		d.err = err
	}
	d.b = nil
}

func (d *decoder) long() int64 {
	if len(d.b) > 0 && d.b[0] < 0x80 { // most lengths, branches and small numbers
		u := d.b[0]
		d.b = d.b[1:]
		return int64(u>>1) ^ -int64(u&1)
	}
	u, n := binary.Uvarint(d.b)
	if n <= 0 {
		if n == 0 {
			d.fail(errShort)
		} else {
			d.fail(errVarint)
		}
		return 0
	}
	d.b = d.b[n:]
	return int64(u>>1) ^ -int64(u&1)
}

func (d *decoder) take(n int64) []byte {
	if n < 0 || n > int64(len(d.b)) {
		d.fail(errShort)
		return nil
	}
	b := d.b[:n:n]
	d.b = d.b[n:]
	return b
}

func (d *decoder) bytes() []byte { return d.take(d.long()) }

// maxItems bounds the lists of one record: items of an empty type take no bytes, so that the length of the value bounds nothing.
const maxItems = 1 << 22

var errItems = errors.New("a list in it is too long")

// errNull is wrapped by the errors of members that are null and must not be, by the reader's schema.
var errNull = errors.New("is null")

// step reads one part of a value and appends it to its columns, or passes over it.
type step func(*decoder)

// program fills the columns of one table from values of one writer schema.
type program struct{ run step }

// fill walks data, which must be used up; columns have one row more afterwards, or on an error an undefined number of values.
func (p *program) fill(data []byte) error {
	d := decoder{b: data}
	p.run(&d)
	if d.err == nil && len(d.b) > 0 {
		return fmt.Errorf("it has %d bytes too many", len(d.b))
	}
	return d.err
}

// readable is nil when a writer's schema is one of the reader's record: of its name, with every member that has no default, and so on below.
// Of what the members hold only this is looked at here. Whether a type fits its column the compiler says, which takes more than Avro does:
// decimals of other scales, and unions.
func readable(writer, reader *avro.Schema) error {
	w, r := newCompiler(writer), newCompiler(reader)
	return w.readable(w.root, r, r.root, 0)
}

func (c *compiler) readable(n *avro.SchemaNode, reader *compiler, as *avro.SchemaNode, depth int) error {
	n, as = c.names.Follow(n), reader.names.Follow(as)
	if inner, ok := optional(as); ok {
		as = reader.names.Follow(inner)
	}
	switch {
	case depth > maxDepth:
		return errors.New("the schema is nested too deep")
	case n.Type == "union":
		for i := range n.Branches {
			if err := c.readable(&n.Branches[i], reader, as, depth+1); err != nil {
				return err
			}
		}
		return nil
	case n.Type == "null":
		return nil // a value that is null where it must not be is refused by itself
	case (n.Type == "record" || n.Type == "array" || as.Type == "record" || as.Type == "array") && n.Type != as.Type:
		return fmt.Errorf("it has a value of type %s for one of type %s", n.Type, as.Type)
	case n.Type == "array":
		return c.readable(n.Items, reader, as.Items, depth+1)
	case n.Type != "record":
		return nil
	case !sameName(n, as):
		return fmt.Errorf("it is the record %s, not %s", n.Name, as.Name)
	}
	for i := range as.Fields {
		want := &as.Fields[i]
		have := fieldNamed(n, want.Name)
		if have == nil {
			if !want.HasDefault {
				return fmt.Errorf("it lacks the member %s", want.Name)
			}
			continue
		}
		if err := c.readable(&have.Type, reader, &want.Type, depth+1); err != nil {
			return fmt.Errorf("%s: %w", want.Name, err)
		}
	}
	return nil
}

// sameName compares the names of two records as Avro does: the namespace does not count. Ours have no aliases.
func sameName(a, b *avro.SchemaNode) bool {
	last := func(name string) string { return name[strings.LastIndexByte(name, '.')+1:] }
	return last(a.Name) == last(b.Name)
}

// compile makes the program for a writer's schema. What the writer lacks gets its default.
func compile(writer *avro.Schema, bindings []binding) (*program, error) {
	c := newCompiler(writer)
	run, err := c.value(c.root, bindings, false, 0)
	if err != nil {
		return nil, err
	}
	return &program{run: run}, nil
}

type compiler struct {
	root  *avro.SchemaNode
	names schemas.NamedTypes
}

func newCompiler(s *avro.Schema) *compiler {
	root := s.Root()
	return &compiler{root: root, names: schemas.NamedTypesOf(root)}
}

// maxDepth ends the compilation of schemas that contain themselves; ours do not.
const maxDepth = 64

// value compiles the node, whose values go to the bindings; their paths start below it. inList is set below an array.
func (c *compiler) value(n *avro.SchemaNode, to []binding, inList bool, depth int) (step, error) {
	n = c.names.Follow(n)
	switch {
	case depth > maxDepth:
		return nil, errors.New("the schema is nested too deep")
	case len(to) == 0:
		return c.skip(n, depth)
	case n.Type == "union":
		branches := make([]step, len(n.Branches))
		for i := range n.Branches {
			var err error
			if branches[i], err = c.value(&n.Branches[i], to, inList, depth+1); err != nil {
				return nil, err
			}
		}
		return func(d *decoder) {
			if i := d.long(); i >= 0 && i < int64(len(branches)) {
				branches[i](d)
			} else {
				d.fail(errors.New("it names a union branch that does not exist"))
			}
		}, nil
	case n.Type == "null":
		for _, b := range to {
			if b.needed && (inList || !b.col.isList()) {
				return func(d *decoder) { d.fail(fmt.Errorf("%s %w", b.member, errNull)) }, nil
			}
		}
		if !inList {
			return func(*decoder) {}, nil
		}
		return absent(to, inList, false), nil
	case n.Type == "record":
		return c.record(n, to, inList, depth)
	case n.Type == "array":
		return c.array(n, to, inList, depth)
	case len(to[0].path) > 0:
		return nil, fmt.Errorf("%s is not a record", strings.Join(to[0].path, "."))
	case to[0].col.isList() && !inList:
		return nil, errors.New("a list is expected")
	}
	steps := make([]step, len(to))
	for i := range to {
		var err error
		if steps[i], err = leaf(n, to[i]); err != nil {
			return nil, err
		}
	}
	if len(steps) == 1 {
		return steps[0], nil
	}
	return func(d *decoder) { // each column reads the member anew
		from := d.b
		for _, s := range steps {
			if d.err == nil {
				d.b = from
				s(d)
			}
		}
	}, nil
}

func (c *compiler) record(n *avro.SchemaNode, to []binding, inList bool, depth int) (step, error) {
	var steps []step
	found := 0
	for i := range n.Fields {
		f := &n.Fields[i]
		var below []binding
		for _, b := range to {
			if len(b.path) > 0 && b.path[0] == f.Name {
				b.path = b.path[1:]
				below = append(below, b)
			}
		}
		found += len(below)
		s, err := c.value(&f.Type, below, inList, depth+1)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", f.Name, err)
		}
		steps = append(steps, s)
	}
	if found < len(to) {
		var missing []binding
		for _, b := range to {
			if len(b.path) == 0 {
				return nil, errors.New("a value is expected, not a record")
			}
			if fieldNamed(n, b.path[0]) == nil {
				missing = append(missing, b)
			}
		}
		steps = append(steps, absent(missing, inList, true))
	}
	return func(d *decoder) {
		for _, s := range steps {
			s(d)
		}
	}, nil
}

func (c *compiler) array(n *avro.SchemaNode, to []binding, inList bool, depth int) (step, error) {
	if inList {
		return nil, errors.New("a list within a list has no column")
	}
	item, err := c.value(n.Items, to, true, depth+1)
	if err != nil {
		return nil, err
	}
	for _, b := range to {
		if !b.col.isList() {
			return nil, errors.New("no list is expected")
		}
	}
	return func(d *decoder) {
		for n := d.long(); n != 0 && d.err == nil; n = d.long() {
			if n < 0 { // a block that says how many bytes it has
				n = -n
				d.long()
			}
			if n < 0 || n > maxItems {
				d.fail(errItems)
			}
			for range n {
				item(d)
				if d.err != nil {
					return
				}
			}
		}
		for _, b := range to {
			b.col.close()
		}
	}, nil
}

// absent fills the columns of a member that is null or, with defaults, that the writer does not have.
func absent(to []binding, inList, defaults bool) step {
	to = append([]binding(nil), to...)
	return func(*decoder) {
		for _, b := range to {
			switch {
			case b.col.isList() && !inList: // the empty list
			case defaults && putDefault(b):
			case inList:
				b.col.null()
			}
		}
	}
}

// putDefault appends the default that the reader's schema declares for a member of its own; below a missing record all is null.
func putDefault(b binding) bool {
	if len(b.path) != 1 {
		return false
	}
	switch v := b.def.(type) {
	case string:
		if c, ok := b.col.(*col[string]); ok {
			c.put(v)
			return true
		}
	case bool:
		if c, ok := b.col.(*col[bool]); ok {
			c.put(v)
			return true
		}
	case int64:
		switch c := b.col.(type) {
		case *col[int64]:
			c.put(v)
			return true
		case *col[int32]:
			c.put(int32(v))
			return true
		}
	}
	return false
}

// Bounds of instants and dates: what lies outside wraps around in ClickHouse's types without an error.
var (
	minInstant = schemas.EarliestInstant
	maxInstant = schemas.BeyondInstant // exclusive
	minMillis  = minInstant.UnixMilli()
	maxMillis  = maxInstant.UnixMilli()
	minDay     = minInstant.Unix() / 86400
	maxDay     = maxInstant.Unix() / 86400
)

// errRange is wrapped by the errors of values that are well-formed and cannot be kept.
var errRange = errors.New("out of range")

// rangeError says which member is out of range, and of what.
type rangeError struct{ member, rule string }

func (e *rangeError) Error() string        { return e.member + " " + e.rule }
func (e *rangeError) Is(target error) bool { return target == errRange }

// leaf compiles a primitive that goes to one column, with Avro's promotions.
func leaf(n *avro.SchemaNode, b binding) (step, error) {
	errTime := &rangeError{b.member, "lies outside 1900-01-01 to 2261-12-31"}
	switch c := b.col.(type) {
	case *col[string]:
		switch n.Type {
		case "string", "bytes":
			if text := b.text; text != nil {
				return func(d *decoder) {
					if s := text(alias(d.bytes())); s != "" {
						c.put(s)
					}
				}, nil
			}
			return func(d *decoder) { c.put(alias(d.bytes())) }, nil
		case "fixed":
			size := int64(n.Size)
			return func(d *decoder) { c.put(alias(d.take(size))) }, nil
		case "enum":
			symbols := n.Symbols
			return func(d *decoder) {
				if i := d.long(); i >= 0 && i < int64(len(symbols)) {
					c.put(symbols[i])
				} else {
					d.fail(errors.New("it names an enum symbol that does not exist"))
				}
			}, nil
		}
	case *col[bool]:
		if n.Type == "boolean" {
			return func(d *decoder) {
				if b := d.take(1); b != nil {
					c.put(b[0] != 0)
				}
			}, nil
		}
	case *col[int32]:
		if n.Type == "int" {
			return func(d *decoder) { c.put(int32(d.long())) }, nil
		}
	case *col[int64]:
		if n.Type != "int" && n.Type != "long" {
			break
		}
		if b.kind == leafInt64 {
			return func(d *decoder) { c.put(d.long()) }, nil
		}
		per := int64(1)
		switch n.LogicalType {
		case "timestamp-micros":
			per = 1e3
		case "timestamp-nanos":
			per = 1e6
		}
		return func(d *decoder) {
			v := d.long() / per
			if v < minMillis || v >= maxMillis {
				d.fail(errTime)
			}
			c.put(v)
		}, nil
	case *col[float64]:
		switch n.Type {
		case "int", "long":
			return func(d *decoder) { c.put(float64(d.long())) }, nil
		case "float":
			return func(d *decoder) {
				if b := d.take(4); b != nil {
					c.put(float64(math.Float32frombits(binary.LittleEndian.Uint32(b))))
				}
			}, nil
		case "double":
			return func(d *decoder) {
				if b := d.take(8); b != nil {
					c.put(math.Float64frombits(binary.LittleEndian.Uint64(b)))
				}
			}, nil
		}
	case *col[time.Time]:
		if b.kind == leafNanos && (n.Type == "int" || n.Type == "long") {
			// In the writer's unit: what is out of range must not wrap around before it is seen.
			per := int64(time.Second)
			switch n.LogicalType {
			case "timestamp-millis":
				per = 1e3
			case "timestamp-micros":
				per = 1e6
			}
			low, high := minInstant.Unix()*per, maxInstant.Unix()*per
			return func(d *decoder) {
				v := d.long()
				if v < low || v >= high {
					d.fail(errTime)
				}
				c.put(time.Unix(v/per, v%per*(int64(time.Second)/per)).UTC())
			}, nil
		}
		if n.Type == "int" {
			return func(d *decoder) {
				v := d.long()
				if v < minDay || v >= maxDay {
					d.fail(errTime)
				}
				c.put(time.Unix(v*86400, 0).UTC())
			}, nil
		}
	case *col[schemas.Decimal]:
		size := int64(-1)
		switch n.Type {
		case "fixed":
			size = int64(n.Size)
		case "bytes":
		default:
			return nil, fmt.Errorf("%s is no decimal", n.Type)
		}
		scale := int32(n.Scale)
		precision, digits := int32(schemas.DecimalPrecision), int32(schemas.DecimalScale)
		if b.kind == leafDecimal256 {
			precision, digits = schemas.TransactionPrecision, schemas.TransactionScale
		}
		errDigits := &rangeError{b.member, fmt.Sprintf("has more than %d digits before the point or %d after it", precision-digits, digits)}
		return func(d *decoder) {
			var b []byte
			if size >= 0 {
				b = d.take(size)
			} else {
				b = d.bytes()
			}
			if d.err != nil {
				return
			}
			v := schemas.DecimalFromBytes(b, scale)
			// Eight bytes are 19 digits: at our own scale they always fit.
			if (len(b) > 8 || scale != digits) && !schemas.FitsDecimalOf(v, precision, digits) {
				d.fail(errDigits)
			}
			c.put(v)
		}, nil
	}
	return nil, fmt.Errorf("an Avro %s does not fit the column", n.Type)
}

// skip compiles passing over a node.
func (c *compiler) skip(n *avro.SchemaNode, depth int) (step, error) {
	n = c.names.Follow(n)
	if depth > maxDepth {
		return nil, errors.New("the schema is nested too deep")
	}
	switch n.Type {
	case "null":
		return func(*decoder) {}, nil
	case "boolean":
		return func(d *decoder) { d.take(1) }, nil
	case "int", "long", "enum":
		return func(d *decoder) { d.long() }, nil
	case "float":
		return func(d *decoder) { d.take(4) }, nil
	case "double":
		return func(d *decoder) { d.take(8) }, nil
	case "string", "bytes":
		return func(d *decoder) { d.bytes() }, nil
	case "fixed":
		size := int64(n.Size)
		return func(d *decoder) { d.take(size) }, nil
	case "record":
		var steps []step
		for i := range n.Fields {
			s, err := c.skip(&n.Fields[i].Type, depth+1)
			if err != nil {
				return nil, err
			}
			steps = append(steps, s)
		}
		return func(d *decoder) {
			for _, s := range steps {
				s(d)
			}
		}, nil
	case "union":
		branches := make([]step, len(n.Branches))
		for i := range n.Branches {
			var err error
			if branches[i], err = c.skip(&n.Branches[i], depth+1); err != nil {
				return nil, err
			}
		}
		return func(d *decoder) {
			if i := d.long(); i >= 0 && i < int64(len(branches)) {
				branches[i](d)
			} else {
				d.fail(errors.New("it names a union branch that does not exist"))
			}
		}, nil
	case "array", "map":
		items, isMap := n.Items, n.Type == "map"
		if isMap {
			items = n.Values
		}
		item, err := c.skip(items, depth+1)
		if err != nil {
			return nil, err
		}
		return func(d *decoder) {
			for n := d.long(); n != 0 && d.err == nil; n = d.long() {
				if n < 0 {
					d.take(d.long())
					continue
				}
				if n > maxItems {
					d.fail(errItems)
				}
				for range n {
					if isMap {
						d.bytes()
					}
					item(d)
					if d.err != nil {
						return
					}
				}
			}
		}, nil
	}
	return nil, fmt.Errorf("unknown Avro type %s", n.Type)
}
