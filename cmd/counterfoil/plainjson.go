package main

import (
	"bytes"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"math/big"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/linkedin/goavro/v2"
	"github.com/shopspring/decimal"

	"github.com/counterfoil/counterfoil/schemas"
)

// Plain JSON is the form in which send reads and tail prints records whose schema is known at run time only (decision 15). A value that
// tail prints can be sent again:
//
//	null, boolean, string, enum    as they are
//	int, long                      a whole number
//	float, double                  a number, or one of the strings NaN, Infinity, -Infinity
//	bytes, fixed                   a string in base64
//	decimal                        a string or number, never through a float: its text is its value (printed as a string, which every tool keeps)
//	date                           "2016-06-22"
//	timestamp                      RFC 3339; without a zone it is UTC. A number counts the schema's units (milliseconds) since 1970
//	array, map, record             array, object, object; a member that is left out has its default, or null where it may be null
//	nullable                       the value or null
//	other unions                   {"<name of the branch>": value}, or null
//
// goavro encodes and decodes, without its logical types: they round a decimal that does not fit its schema, where we refuse it by name.

// plainCodec converts the values of one registered schema between plain JSON and the Confluent wire format. It is safe for concurrent use.
type plainCodec struct {
	id   int32
	root *plainType
	avro *goavro.Codec
}

// plainType is a node of a schema.
type plainType struct {
	kind             string // Avro's name of the type; "union" for unions
	name             string // what a union calls this branch: the kind, or the full name of a named type
	logical          string // a logical type that we know for this kind, or empty
	precision, scale int    // of a decimal
	fields           []plainField
	element          *plainType // of arrays and maps
	branches         []*plainType
	symbols          []string
	size             int // of a fixed
}

type plainField struct {
	name       string
	typ        *plainType
	hasDefault bool
}

// nullable returns the one other branch of a union with null.
func (t *plainType) nullable() (*plainType, bool) {
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

func (t *plainType) field(name string) *plainField {
	for i := range t.fields {
		if t.fields[i].name == name {
			return &t.fields[i]
		}
	}
	return nil
}

// newPlainCodec makes the codec of the schema that the registry has under id.
func newPlainCodec(id int, text string) (*plainCodec, error) {
	var tree any
	dec := json.NewDecoder(strings.NewReader(text))
	dec.UseNumber()
	if err := dec.Decode(&tree); err != nil {
		return nil, fmt.Errorf("schema %d is not JSON: %w", id, err)
	}
	b := &schemaReader{named: map[string]*plainType{}}
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
	return &plainCodec{id: int32(id), root: root, avro: codec}, nil
}

// schemaReader turns a schema's JSON into plainTypes.
type schemaReader struct {
	named map[string]*plainType // by full name
}

var primitives = []string{"null", "boolean", "int", "long", "float", "double", "bytes", "string"}

func (r *schemaReader) read(tree any, namespace string) (*plainType, error) {
	switch t := tree.(type) {
	case string:
		if slices.Contains(primitives, t) {
			return &plainType{kind: t, name: t}, nil
		}
		if known := r.named[fullName(t, namespace)]; known != nil {
			return known, nil
		}
		if known := r.named[t]; known != nil {
			return known, nil
		}
		return nil, fmt.Errorf("unknown type %q", t)
	case []any:
		u := &plainType{kind: "union"}
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

func (r *schemaReader) readObject(t map[string]any, namespace string) (*plainType, error) {
	kind, ok := t["type"].(string)
	if !ok {
		return r.read(t["type"], namespace) // {"type": {...}}
	}
	p := &plainType{kind: kind, name: kind}
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
			p.fields = append(p.fields, plainField{name, typ, hasDefault})
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

// ---- JSON in ----

// object is a JSON object with its members in order and none lost: a name that stands twice is seen.
type object []member

type member struct {
	name  string
	value any // nil, bool, string, json.Number, object, []any
}

// take removes the member of that name.
func (o *object) take(name string) (value any, ok bool) {
	i := slices.IndexFunc(*o, func(m member) bool { return m.name == name })
	if i < 0 {
		return nil, false
	}
	value = (*o)[i].value
	*o = slices.Delete(*o, i, i+1)
	return value, true
}

const maxDepth = 64 // of nested JSON; our schemas need 4

// parseObject reads one JSON object and nothing else.
func parseObject(line []byte) (object, error) {
	if !utf8.Valid(line) {
		return nil, errors.New("is not UTF-8")
	}
	dec := json.NewDecoder(bytes.NewReader(line))
	dec.UseNumber()
	v, err := parseValue(dec, 0)
	if err != nil {
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			err = errors.New("it ends too early")
		}
		return nil, fmt.Errorf("is not valid JSON: %w", err)
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return nil, errors.New("has something behind its JSON value: one object a line")
	}
	o, ok := v.(object)
	if !ok {
		return nil, fmt.Errorf("is %s: every line is one JSON object", describe(v))
	}
	return o, nil
}

func parseValue(dec *json.Decoder, depth int) (any, error) {
	if depth > maxDepth {
		return nil, fmt.Errorf("it is nested deeper than %d", maxDepth)
	}
	tok, err := dec.Token()
	if err != nil {
		return nil, err
	}
	switch tok {
	case json.Delim('{'):
		o := object{}
		for dec.More() {
			name, err := dec.Token()
			if err != nil {
				return nil, err
			}
			value, err := parseValue(dec, depth+1)
			if err != nil {
				return nil, err
			}
			o = append(o, member{name.(string), value})
		}
		_, err = dec.Token()
		return o, err
	case json.Delim('['):
		list := []any{}
		for dec.More() {
			value, err := parseValue(dec, depth+1)
			if err != nil {
				return nil, err
			}
			list = append(list, value)
		}
		_, err = dec.Token()
		return list, err
	}
	return tok, nil
}

// describe names a JSON value in an error.
func describe(v any) string {
	switch v := v.(type) {
	case nil:
		return "null"
	case object:
		return "an object"
	case []any:
		return "an array"
	case string:
		if len(v) > 60 {
			v = strings.ToValidUTF8(v[:60], "") + "…"
		}
		return strconv.Quote(v)
	case json.Number:
		if len(v) > 60 {
			v = v[:60] + "…"
		}
		return string(v)
	default:
		return fmt.Sprint(v)
	}
}

// defect is what is wrong with one member of a line.
type defect struct {
	path string // such as products[0].quantity
	rule string
}

func (d defect) String() string { return d.path + ": " + d.rule }

// native converts an object to what goavro encodes. It goes on after a defect, so that a line's defects are all known at once.
func (c *plainCodec) native(o object) (any, []defect) {
	p := plainParser{}
	v := p.value(c.root, o, "")
	return v, p.defects
}

// append encodes what native returned.
func (c *plainCodec) append(dst []byte, native any) ([]byte, error) {
	dst = binary.BigEndian.AppendUint32(append(dst, 0), uint32(c.id))
	return c.avro.BinaryFromNative(dst, native)
}

// plainParser converts JSON values and collects what does not fit.
type plainParser struct{ defects []defect }

func (p *plainParser) fail(path, format string, args ...any) any {
	p.defects = append(p.defects, defect{path, fmt.Sprintf(format, args...)})
	return nil
}

func (p *plainParser) value(t *plainType, v any, path string) any {
	if t.kind == "union" {
		return p.union(t, v, path)
	}
	if v == nil && t.kind != "null" {
		return p.fail(path, "may not be null; expected %s", t.expected())
	}
	switch t.kind {
	case "record":
		return p.record(t, v, path)
	case "array":
		list, ok := v.([]any)
		if !ok {
			break
		}
		out := make([]any, len(list))
		for i := range list {
			out[i] = p.value(t.element, list[i], fmt.Sprintf("%s[%d]", path, i))
		}
		return out
	case "map":
		o, ok := v.(object)
		if !ok {
			break
		}
		out := make(map[string]any, len(o))
		for _, m := range o {
			if _, twice := out[m.name]; twice {
				p.fail(join(path, m.name), "stands there twice")
			}
			out[m.name] = p.value(t.element, m.value, join(path, m.name))
		}
		return out
	default:
		if out, ok := t.scalar(v); ok {
			return out
		}
		if rule := t.rule(v); rule != "" {
			return p.fail(path, "%s", rule)
		}
	}
	return p.fail(path, "is %s; expected %s", describe(v), t.expected())
}

func (p *plainParser) union(t *plainType, v any, path string) any {
	if v == nil && slices.ContainsFunc(t.branches, func(b *plainType) bool { return b.kind == "null" }) {
		return nil
	}
	if branch, ok := t.nullable(); ok {
		return map[string]any{branch.name: p.value(branch, v, path)}
	}
	var names []string
	o, _ := v.(object)
	for _, b := range t.branches {
		if len(o) == 1 && o[0].name == b.name {
			return map[string]any{b.name: p.value(b, o[0].value, path)}
		}
		names = append(names, b.name)
	}
	return p.fail(path, "is %s; expected an object with one member, whose name says the type: %s", describe(v), strings.Join(names, ", "))
}

func (p *plainParser) record(t *plainType, v any, path string) any {
	o, ok := v.(object)
	if !ok {
		return p.fail(path, "is %s; expected an object with members of %s", describe(v), t.name)
	}
	out := make(map[string]any, len(t.fields))
	for _, m := range o {
		f := t.field(m.name)
		if f == nil {
			p.fail(join(path, m.name), "%s has no such field; %s", t.name, t.nearest(m.name))
			continue
		}
		if _, twice := out[m.name]; twice {
			p.fail(join(path, m.name), "stands there twice")
		}
		out[m.name] = p.value(f.typ, m.value, join(path, m.name))
	}
	for _, f := range t.fields {
		if _, ok := out[f.name]; ok || f.hasDefault { // goavro fills defaults in
			continue
		}
		if _, nullable := f.typ.nullable(); nullable {
			out[f.name] = nil
			continue
		}
		p.fail(join(path, f.name), "is missing; expected %s", f.typ.expected())
	}
	return out
}

func join(path, name string) string {
	if path == "" {
		return name
	}
	return path + "." + name
}

// scalar converts a value that fits; rule says what is wrong with one that has the right JSON type and does not fit.
func (t *plainType) scalar(v any) (out any, ok bool) {
	switch t.kind {
	case "null":
		return nil, v == nil
	case "boolean":
		out, ok = v.(bool)
		return out, ok
	case "string":
		out, ok = v.(string)
		return out, ok
	case "enum":
		text, ok := v.(string)
		return text, ok && slices.Contains(t.symbols, text)
	case "bytes", "fixed":
		if t.logical == "decimal" {
			b, rule := t.decimalBytes(v)
			return b, rule == ""
		}
		text, ok := v.(string)
		if !ok {
			return nil, false
		}
		b, err := base64.StdEncoding.DecodeString(text)
		return b, err == nil && (t.kind == "bytes" || len(b) == t.size)
	case "int", "long":
		n, rule := t.integer(v)
		if t.kind == "int" {
			return int32(n), rule == ""
		}
		return n, rule == ""
	case "float", "double":
		return t.float(v)
	}
	return nil, false
}

// rule says why a value is refused, where there is more to say than what was expected.
func (t *plainType) rule(v any) (rule string) {
	switch {
	case t.logical == "decimal":
		_, rule = t.decimalBytes(v)
	case t.kind == "int" || t.kind == "long":
		_, rule = t.integer(v)
	}
	return rule
}

// expected says what a value of this type looks like.
func (t *plainType) expected() string {
	if branch, ok := t.nullable(); ok {
		return branch.expected() + " or null"
	}
	switch {
	case t.logical == "decimal":
		return `a decimal number such as 12.5 or "12.5"`
	case t.logical == "date":
		return `a day such as "2016-06-22"`
	case t.logical != "":
		return `an instant such as "2016-06-22T15:00:00Z", or a count of units since 1970`
	}
	switch t.kind {
	case "record":
		return "an object with members of " + t.name
	case "array":
		return "an array of which each is " + t.element.expected()
	case "map":
		return "an object"
	case "enum":
		return "one of " + strings.Join(t.symbols, ", ")
	case "bytes":
		return "a string in base64"
	case "fixed":
		return fmt.Sprintf("a string in base64 of %d bytes", t.size)
	case "int":
		return "a whole number of 32 bits"
	case "long":
		return "a whole number of 64 bits"
	case "float", "double":
		return `a number, "NaN", "Infinity" or "-Infinity"`
	case "boolean":
		return "true or false"
	case "union":
		return "an object with one member, whose name says the type"
	default:
		return "a " + t.kind
	}
}

func (t *plainType) float(v any) (any, bool) {
	bits := 64
	if t.kind == "float" {
		bits = 32
	}
	var text string
	switch v := v.(type) {
	case json.Number:
		text = string(v)
	case string:
		if !slices.Contains([]string{"NaN", "Infinity", "-Infinity"}, v) {
			return nil, false
		}
		text = v
	default:
		return nil, false
	}
	f, err := strconv.ParseFloat(text, bits)
	if bits == 32 {
		return float32(f), err == nil
	}
	return f, err == nil
}

// Instants and days outside these cannot be kept (decision 24).
var (
	earliest = time.Date(1900, 1, 1, 0, 0, 0, 0, time.UTC)
	beyond   = time.Date(2262, 1, 1, 0, 0, 0, 0, time.UTC)
)

// integer converts whole numbers, days and instants. The rule is empty for a value that fits.
func (t *plainType) integer(v any) (n int64, rule string) {
	if text, ok := v.(string); ok && t.logical != "" {
		return t.instant(text)
	}
	text, ok := v.(json.Number)
	if !ok || t.logical == "date" {
		return 0, fmt.Sprintf("is %s; expected %s", describe(v), t.expected())
	}
	bits := 64
	if t.kind == "int" {
		bits = 32
	}
	n, err := strconv.ParseInt(string(text), 10, bits)
	if err != nil {
		return 0, fmt.Sprintf("is %s; expected %s", describe(v), t.expected())
	}
	if units := unitsPerSecond[t.logical]; units != 0 && (n < earliest.Unix()*units || n >= beyond.Unix()*units) {
		return 0, fmt.Sprintf("is %s, which is outside 1900-01-01 to 2261-12-31: this cannot be kept", text)
	}
	return n, ""
}

func (t *plainType) instant(text string) (n int64, rule string) {
	layouts := []string{time.RFC3339, "2006-01-02T15:04:05"}
	if t.logical == "date" {
		layouts = []string{time.DateOnly}
	}
	for _, layout := range layouts {
		at, err := time.Parse(layout, text)
		if err != nil {
			continue
		}
		if at.Before(earliest) || !at.Before(beyond) {
			return 0, fmt.Sprintf("is %q, which is outside 1900-01-01 to 2261-12-31: this cannot be kept", text)
		}
		if t.logical == "date" {
			return at.Unix() / 86400, "" // a midnight: it divides, before 1970 too
		}
		units := unitsPerSecond[t.logical]
		if digits := len(strconv.FormatInt(units, 10)) - 1; fractionDigits(text) > digits {
			return 0, fmt.Sprintf("is %q: an instant here has at most %d fraction digits, and nothing is rounded", text, digits)
		}
		return at.Unix()*units + int64(at.Nanosecond())/(1e9/units), ""
	}
	return 0, fmt.Sprintf("is %s; expected %s", describe(text), t.expected())
}

// fractionDigits counts the digits of the second's fraction without the zeros at its end. time.Parse would drop those beyond the ninth.
func fractionDigits(text string) int {
	i := strings.IndexAny(text, ".,")
	if i < 0 {
		return 0
	}
	rest := strings.TrimLeft(text[i+1:], "0123456789")
	digits := text[i+1 : len(text)-len(rest)]
	return len(strings.TrimRight(digits, "0"))
}

var decimalForm = regexp.MustCompile(`^[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?$`)

// decimalBytes converts a decimal to Avro's bytes: big-endian two's complement of the value times 10^scale.
func (t *plainType) decimalBytes(v any) (b []byte, rule string) {
	var text string
	switch v := v.(type) {
	case json.Number:
		text = string(v)
	case string:
		text = v
	}
	if len(text) > 1000 || !decimalForm.MatchString(text) {
		return nil, fmt.Sprintf("is %s; expected %s", describe(v), t.expected())
	}
	var unscaled *big.Int
	d, err := decimal.NewFromString(text) // fails for exponents beyond reason
	fits := err == nil
	if fits {
		unscaled, fits = t.unscaled(d)
	}
	if !fits {
		return nil, fmt.Sprintf("is %s, which does not fit: at most %d digits before the point and %d after it, and nothing is rounded",
			describe(v), t.precision-t.scale, t.scale)
	}
	length := unscaled.BitLen()/8 + 1 // with a bit for the sign
	if unscaled.Sign() < 0 {
		length = new(big.Int).Not(unscaled).BitLen()/8 + 1 // -128 is one byte
	}
	if t.kind == "fixed" {
		if length > t.size {
			return nil, fmt.Sprintf("is %s, which does not fit %d bytes", describe(v), t.size)
		}
		length = t.size
	}
	if unscaled.Sign() < 0 {
		unscaled.Add(unscaled, new(big.Int).Lsh(big.NewInt(1), uint(length)*8))
	}
	return unscaled.FillBytes(make([]byte, length)), ""
}

// unscaled is d × 10^scale where that is a whole number of at most precision digits. Exponents are checked before anything is multiplied.
func (t *plainType) unscaled(d decimal.Decimal) (*big.Int, bool) {
	n := d.Coefficient()
	if n.Sign() == 0 {
		return n, true
	}
	shift := int64(d.Exponent()) + int64(t.scale)
	if shift > int64(t.precision) || -shift > int64(len(n.String())) {
		return nil, false
	}
	power := new(big.Int).Exp(big.NewInt(10), big.NewInt(max(shift, -shift)), nil)
	if shift >= 0 {
		n.Mul(n, power)
	} else {
		var rest big.Int
		if n.QuoRem(n, power, &rest); rest.Sign() != 0 {
			return nil, false
		}
	}
	return n, len(new(big.Int).Abs(n).String()) <= t.precision
}

// nearest names the field that a wrong name was probably meant to be, or all of them.
func (t *plainType) nearest(name string) string {
	best, distance := "", math.MaxInt
	var all []string
	for _, f := range t.fields {
		if d := editDistance(strings.ToLower(name), strings.ToLower(f.name)); d < distance {
			best, distance = f.name, d
		}
		all = append(all, f.name)
	}
	if distance <= max(2, len(name)/2) {
		return fmt.Sprintf("did you mean %s?", best)
	}
	return "its fields are " + strings.Join(all, ", ")
}

// editDistance counts the letters to insert, delete or replace (Levenshtein).
func editDistance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		corner := row[0]
		row[0] = i + 1
		for j := range len(b) {
			replace := corner
			if a[i] != b[j] {
				replace++
			}
			corner = row[j+1]
			row[j+1] = min(replace, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}

// ---- JSON out ----

// appendJSON appends a value in the Confluent wire format as plain JSON, members in the schema's order.
func (c *plainCodec) appendJSON(dst, value []byte) ([]byte, error) {
	_, data, err := schemas.SchemaID(value)
	if err != nil {
		return dst, err
	}
	native, rest, err := c.avro.NativeFromBinary(data)
	if err != nil {
		return dst, fmt.Errorf("the value is not what its schema (id %d) says: %w", c.id, err)
	}
	if len(rest) > 0 {
		return dst, fmt.Errorf("the value has %d bytes more than its schema (id %d) says", len(rest), c.id)
	}
	return c.root.appendJSON(dst, native)
}

func (t *plainType) appendJSON(dst []byte, v any) ([]byte, error) {
	var err error
	switch t.kind {
	case "union":
		return t.appendUnion(dst, v)
	case "null":
		return append(dst, "null"...), nil
	case "record":
		members := v.(map[string]any)
		dst = append(dst, '{')
		for i, f := range t.fields {
			if i > 0 {
				dst = append(dst, ',')
			}
			dst = append(appendText(dst, f.name), ':')
			if dst, err = f.typ.appendJSON(dst, members[f.name]); err != nil {
				return dst, err
			}
		}
		return append(dst, '}'), nil
	case "array":
		dst = append(dst, '[')
		for i, e := range v.([]any) {
			if i > 0 {
				dst = append(dst, ',')
			}
			if dst, err = t.element.appendJSON(dst, e); err != nil {
				return dst, err
			}
		}
		return append(dst, ']'), nil
	case "map":
		members := v.(map[string]any)
		names := make([]string, 0, len(members))
		for name := range members {
			names = append(names, name)
		}
		slices.Sort(names)
		dst = append(dst, '{')
		for i, name := range names {
			if i > 0 {
				dst = append(dst, ',')
			}
			dst = append(appendText(dst, name), ':')
			if dst, err = t.element.appendJSON(dst, members[name]); err != nil {
				return dst, err
			}
		}
		return append(dst, '}'), nil
	}
	return t.appendScalar(dst, v)
}

func (t *plainType) appendUnion(dst []byte, v any) ([]byte, error) {
	tagged, ok := v.(map[string]any)
	if !ok {
		return append(dst, "null"...), nil
	}
	_, nullable := t.nullable()
	for _, b := range t.branches {
		value, ok := tagged[b.name]
		switch {
		case !ok:
		case nullable:
			return b.appendJSON(dst, value)
		default:
			dst, err := b.appendJSON(append(appendText(append(dst, '{'), b.name), ':'), value)
			return append(dst, '}'), err
		}
	}
	return dst, fmt.Errorf("a union holds a branch that it does not have: %v", tagged)
}

func (t *plainType) appendScalar(dst []byte, v any) ([]byte, error) {
	switch v := v.(type) {
	case bool:
		return strconv.AppendBool(dst, v), nil
	case string:
		if !utf8.ValidString(v) {
			return dst, fmt.Errorf("a string is not UTF-8: %q", v)
		}
		return appendText(dst, v), nil
	case int32:
		if t.logical == "date" {
			return appendInstant(dst, time.Unix(int64(v)*86400, 0), time.DateOnly, int64(v)), nil
		}
		return strconv.AppendInt(dst, int64(v), 10), nil
	case int64:
		if units := unitsPerSecond[t.logical]; units != 0 {
			seconds := v / units
			return appendInstant(dst, time.Unix(seconds, (v-seconds*units)*(1e9/units)), time.RFC3339Nano, v), nil
		}
		return strconv.AppendInt(dst, v, 10), nil
	case float32:
		return appendFloat(dst, float64(v), 32), nil
	case float64:
		return appendFloat(dst, v, 64), nil
	case []byte:
		if t.logical == "decimal" {
			return appendText(dst, schemas.DecimalFromBytes(v, int32(t.scale)).String()), nil
		}
		return appendText(dst, base64.StdEncoding.EncodeToString(v)), nil
	}
	return dst, fmt.Errorf("goavro gave a %T for Avro type %s", v, t.kind)
}

// appendInstant appends an instant or day; one whose year has not four digits as its number.
func appendInstant(dst []byte, at time.Time, layout string, number int64) []byte {
	at = at.UTC()
	if at.Year() < 0 || at.Year() > 9999 {
		return strconv.AppendInt(dst, number, 10)
	}
	return append(at.AppendFormat(append(dst, '"'), layout), '"')
}

func appendFloat(dst []byte, f float64, bits int) []byte {
	switch {
	case math.IsNaN(f):
		return append(dst, `"NaN"`...)
	case math.IsInf(f, 1):
		return append(dst, `"Infinity"`...)
	case math.IsInf(f, -1):
		return append(dst, `"-Infinity"`...)
	}
	return strconv.AppendFloat(dst, f, 'g', -1, bits)
}

// appendText appends a JSON string without escaping &, < and >.
func appendText(dst []byte, s string) []byte {
	if !strings.ContainsFunc(s, func(r rune) bool { return r < ' ' || r == '"' || r == '\\' || r > '~' }) {
		return append(append(append(dst, '"'), s...), '"')
	}
	w := bytes.NewBuffer(dst)
	enc := json.NewEncoder(w)
	enc.SetEscapeHTML(false)
	_ = enc.Encode(s) // a string always encodes, and a Buffer takes everything
	return bytes.TrimSuffix(w.Bytes(), []byte("\n"))
}
