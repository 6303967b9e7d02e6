package plainjson

import (
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/linkedin/goavro/v2"
)

// Codec converts the values of one registered schema between plain JSON and the Confluent wire format. It is safe for concurrent use.
type Codec struct {
	id   int32
	root *node
	avro *goavro.Codec
}

// node is a type in a schema.
type node struct {
	kind             string // Avro's name of the type; "union" for unions
	name             string // what a union calls this branch: the kind, or the full name of a named type
	logical          string // a logical type that we know for this kind, or empty
	precision, scale int    // of a decimal
	fields           []field
	element          *node // of arrays and maps
	branches         []*node
	symbols          []string
	size             int // of a fixed
}

type field struct {
	name       string
	typ        *node
	hasDefault bool
}

// nullable returns the one other branch of a union with null.
func (t *node) nullable() (*node, bool) {
	if t.kind != "union" || len(t.branches) != 2 {
		return nil, false
	}
	for i, b := range t.branches {
		if b.kind == "null" {
			return t.branches[1-i], true
		}
	}
	return nil, false
}

func (t *node) field(name string) *field {
	for i := range t.fields {
		if t.fields[i].name == name {
			return &t.fields[i]
		}
	}
	return nil
}

// New makes the codec of a schema, which the registry has under id.
func New(id int, schema string) (*Codec, error) {
	var tree any
	dec := json.NewDecoder(strings.NewReader(schema))
	dec.UseNumber()
	if err := dec.Decode(&tree); err != nil {
		return nil, fmt.Errorf("schema %d is not JSON: %w", id, err)
	}
	b := &schemaReader{named: map[string]*node{}}
	root, err := b.read(tree, "")
	if err != nil {
		return nil, fmt.Errorf("schema %d: %w", id, err)
	}
	bare, err := json.Marshal(tree) // read has taken the logical types out
	if err != nil {
		return nil, fmt.Errorf("schema %d: %w", id, err)
	}
	codec, err := goavro.NewCodec(string(bare))
	if err != nil {
		return nil, fmt.Errorf("schema %d: %w", id, err)
	}
	return &Codec{id: int32(id), root: root, avro: codec}, nil
}

// schemaReader turns a schema's JSON into nodes.
type schemaReader struct {
	named map[string]*node // by full name
}

var primitives = []string{"null", "boolean", "int", "long", "float", "double", "bytes", "string"}

func (r *schemaReader) read(tree any, namespace string) (*node, error) {
	switch t := tree.(type) {
	case string:
		if slices.Contains(primitives, t) {
			return &node{kind: t, name: t}, nil
		}
		if known := r.named[fullName(t, namespace)]; known != nil {
			return known, nil
		}
		if known := r.named[t]; known != nil {
			return known, nil
		}
		return nil, fmt.Errorf("unknown type %q", t)
	case []any:
		u := &node{kind: "union"}
		for _, branch := range t {
			b, err := r.read(branch, namespace)
			if err != nil {
				return nil, err
			}
			u.branches = append(u.branches, b)
		}
		return u, nil
	case map[string]any:
		return r.readObject(t, namespace)
	default:
		return nil, fmt.Errorf("a schema cannot be %T", tree)
	}
}

func (r *schemaReader) readObject(t map[string]any, namespace string) (*node, error) {
	kind, ok := t["type"].(string)
	if !ok {
		return r.read(t["type"], namespace) // {"type": {...}}
	}
	p := &node{kind: kind, name: kind}
	if slices.Contains([]string{"record", "error", "enum", "fixed"}, kind) {
		name, _ := t["name"].(string)
		if ns, ok := t["namespace"].(string); ok {
			namespace = ns
		}
		p.name = fullName(name, namespace)
		if i := strings.LastIndexByte(p.name, '.'); i >= 0 {
			namespace = p.name[:i]
		}
		r.named[p.name] = p
	}
	var err error
	switch kind {
	case "record", "error":
		p.kind = "record"
		fields, _ := t["fields"].([]any)
		for _, f := range fields {
			f, _ := f.(map[string]any)
			name, _ := f["name"].(string)
			typ, err := r.read(f["type"], namespace)
			if err != nil {
				return nil, fmt.Errorf("field %s: %w", name, err)
			}
			_, hasDefault := f["default"]
			p.fields = append(p.fields, field{name, typ, hasDefault})
		}
	case "array":
		p.element, err = r.read(t["items"], namespace)
	case "map":
		p.element, err = r.read(t["values"], namespace)
	case "enum":
		symbols, _ := t["symbols"].([]any)
		for _, s := range symbols {
			text, _ := s.(string)
			p.symbols = append(p.symbols, text)
		}
	case "fixed":
		p.size = wholeNumber(t["size"])
	default:
		if !slices.Contains(primitives, kind) {
			return r.read(kind, namespace) // {"type": "counterfoil.Identifier"}
		}
	}
	p.logical, _ = t["logicalType"].(string)
	delete(t, "logicalType")
	p.precision, p.scale = wholeNumber(t["precision"]), wholeNumber(t["scale"])
	if !logicalTypeOf(p.logical, p.kind) {
		p.logical = ""
	}
	return p, err
}

func fullName(name, namespace string) string {
	if namespace == "" || strings.Contains(name, ".") {
		return name
	}
	return namespace + "." + name
}

func wholeNumber(v any) int {
	text, _ := v.(json.Number)
	n, _ := strconv.Atoi(string(text))
	return n
}

// unitsPerSecond of the timestamps.
var unitsPerSecond = map[string]int64{
	"timestamp-millis": 1e3, "timestamp-micros": 1e6, "timestamp-nanos": 1e9,
	"local-timestamp-millis": 1e3, "local-timestamp-micros": 1e6, "local-timestamp-nanos": 1e9,
}

func logicalTypeOf(logical, kind string) bool {
	switch kind {
	case "bytes", "fixed":
		return logical == "decimal"
	case "int":
		return logical == "date"
	case "long":
		return unitsPerSecond[logical] != 0
	default:
		return false
	}
}
