package plainjson

import (
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"math"
	"math/big"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/shopspring/decimal"

	"github.com/counterfoil/counterfoil/schemas"
)

// Append appends an object's record in the Confluent wire format. It goes on after a defect, so that all of a record's are known at once; where
// there are any, the record has null or an empty value in their places, so that the rest can be checked. An error is our fault: everything can be
// encoded.
func (c *Codec) Append(dst []byte, o Object) ([]byte, []schemas.Reason, error) {
	native, defects := c.native(o)
	out, err := c.encode(dst, native)
	return out, defects, err
}

// native converts an object to what goavro encodes.
func (c *Codec) native(o Object) (any, []schemas.Reason) {
	p := converter{}
	v := p.value(c.root, o)
	if p.more > 0 {
		p.reasons[schemas.MaxReasons-1] = schemas.Reason{Code: schemas.CodeInvalid, Message: fmt.Sprintf("The item has %d more defects, which are not listed.", p.more+1)}
	}
	return v, p.reasons
}

func (c *Codec) encode(dst []byte, native any) ([]byte, error) {
	dst = binary.BigEndian.AppendUint32(append(dst, 0), uint32(c.id))
	return c.avro.BinaryFromNative(dst, native)
}

// converter converts JSON values and collects what does not fit.
type converter struct {
	path    []step // of the value that is looked at
	reasons []schemas.Reason
	more    int // beyond schemas.MaxReasons
}

// step leads to a member by its name, or to an element by its index.
type step struct {
	name  string // empty: an element
	index int
}

func (p *converter) in(name string, index int) { p.path = append(p.path, step{name, index}) }
func (p *converter) out()                      { p.path = p.path[:len(p.path)-1] }

// at writes the path, such as products[0].quantity.
func (p *converter) at() string {
	var b strings.Builder
	for i, s := range p.path {
		switch {
		case s.name == "":
			fmt.Fprintf(&b, "[%d]", s.index)
		case i == 0:
			b.WriteString(shorten(s.name))
		default:
			b.WriteString("." + shorten(s.name))
		}
	}
	return b.String()
}

// unfit stands for a value that has a defect.
type unfit struct{}

// fail notes a defect of the value v; the rule completes a sentence that begins with the path.
func (p *converter) fail(code string, v any, format string, args ...any) any {
	if len(p.reasons) == schemas.MaxReasons {
		p.more++
		return unfit{}
	}
	path := p.at()
	message := path + " " + fmt.Sprintf(format, args...)
	if !strings.HasSuffix(message, "?") {
		message += "."
	}
	p.reasons = append(p.reasons, schemas.Reason{Code: code, Field: path, Value: sent(v), Message: message})
	return unfit{}
}

// maxValue is how long a value may be that a reason carries whole.
const maxValue = 1000

// sent is a scalar as it was sent; nil where it is long or cannot be shown.
func sent(v any) *string {
	var text string
	switch v := v.(type) {
	case string:
		text = v
	case json.Number:
		text = string(v)
	case bool:
		text = strconv.FormatBool(v)
	default:
		return nil
	}
	if len(text) > maxValue || strings.IndexByte(text, 0) >= 0 {
		return nil
	}
	return &text
}

// fitted is value with null or an empty one for what has a defect.
func (p *converter) fitted(t *node, v any) any {
	if out := p.value(t, v); out != any(unfit{}) {
		return out
	}
	return t.empty()
}

// empty is a value of the type: null where it may be.
func (t *node) empty() any {
	switch t.kind {
	case "boolean":
		return false
	case "int":
		return int32(0)
	case "long":
		return int64(0)
	case "float", "double":
		return 0.0
	case "string":
		return ""
	case "bytes", "fixed":
		return make([]byte, t.size)
	case "enum":
		return t.symbols[0]
	case "array":
		return []any{}
	case "map":
		return map[string]any{}
	case "record":
		out := make(map[string]any, len(t.fields))
		for _, f := range t.fields {
			out[f.name] = f.typ.empty()
		}
		return out
	case "union":
		if b := t.branches[0]; !slices.ContainsFunc(t.branches, func(b *node) bool { return b.kind == "null" }) {
			return map[string]any{b.name: b.empty()}
		}
	}
	return nil
}

// value converts a value of the type; unfit{} where it has a defect itself.
func (p *converter) value(t *node, v any) any {
	if t.kind == "union" {
		return p.union(t, v)
	}
	if v == nil && t.kind != "null" {
		return p.fail(schemas.CodeMissing, nil, "may not be null; expected %s", t.expected())
	}
	switch t.kind {
	case "record":
		return p.record(t, v)
	case "array":
		list, ok := v.([]any)
		if !ok {
			break
		}
		out := make([]any, len(list))
		for i := range list {
			p.in("", i)
			out[i] = p.fitted(t.element, list[i])
			p.out()
		}
		return out
	case "map":
		o, ok := v.(Object)
		if !ok {
			break
		}
		out := make(map[string]any, len(o))
		for _, m := range o {
			p.in(m.Name, 0)
			if _, twice := out[m.Name]; twice {
				p.fail(schemas.CodeInvalid, nil, "stands there twice")
			}
			out[m.Name] = p.fitted(t.element, m.Value)
			p.out()
		}
		return out
	default:
		out, code, rule := t.scalar(v)
		if rule != "" {
			return p.fail(code, v, "is %s%s", describe(v), rule)
		}
		return out
	}
	return p.fail(schemas.CodeInvalid, v, "is %s; expected %s", describe(v), t.expected())
}

func (p *converter) union(t *node, v any) any {
	if v == nil && slices.ContainsFunc(t.branches, func(b *node) bool { return b.kind == "null" }) {
		return nil
	}
	if branch, ok := t.nullable(); ok {
		if out := p.value(branch, v); out != any(unfit{}) {
			return map[string]any{branch.name: out}
		}
		return nil
	}
	var names []string
	o, _ := v.(Object)
	for _, b := range t.branches {
		if len(o) == 1 && o[0].Name == b.name {
			return map[string]any{b.name: p.fitted(b, o[0].Value)}
		}
		names = append(names, b.name)
	}
	return p.fail(schemas.CodeInvalid, v, "is %s; expected an object with one member, whose name says the type: %s", describe(v), strings.Join(names, ", "))
}

func (p *converter) record(t *node, v any) any {
	o, ok := v.(Object)
	if !ok {
		return p.fail(schemas.CodeInvalid, v, "is %s; expected an object with members of %s", describe(v), t.shortName())
	}
	out := make(map[string]any, len(t.fields))
	for _, m := range o {
		p.in(m.Name, 0)
		switch f := t.field(m.Name); {
		case f == nil && len(p.reasons) == schemas.MaxReasons: // what was meant is not looked for without end
			p.more++
		case f == nil:
			p.fail(schemas.CodeInvalid, m.Value, "is not a field of %s; %s", t.shortName(), t.nearest(m.Name))
		default:
			if _, twice := out[m.Name]; twice {
				p.fail(schemas.CodeInvalid, nil, "stands there twice")
			}
			out[m.Name] = p.fitted(f.typ, m.Value)
		}
		p.out()
	}
	for _, f := range t.fields {
		if _, ok := out[f.name]; ok || f.hasDefault { // goavro fills defaults in
			continue
		}
		if _, nullable := f.typ.nullable(); nullable {
			out[f.name] = nil
			continue
		}
		p.in(f.name, 0)
		p.fail(schemas.CodeMissing, nil, "is missing; expected %s", f.typ.expected())
		p.out()
		out[f.name] = f.typ.empty()
	}
	return out
}

// shortName is the name without the namespace.
func (t *node) shortName() string { return t.name[strings.LastIndexByte(t.name, '.')+1:] }

// scalar converts a value. Where it does not fit, rule says why, behind the value; it is empty for one that does.
func (t *node) scalar(v any) (out any, code, rule string) {
	ok := false
	switch t.kind {
	case "null":
		ok = v == nil
	case "boolean":
		out, ok = v.(bool)
	case "string":
		out, ok = v.(string)
	case "enum":
		var text string
		text, ok = v.(string)
		out, ok = text, ok && slices.Contains(t.symbols, text)
	case "bytes", "fixed":
		if t.logical == "decimal" {
			return t.decimal(v)
		}
		var text string
		if text, ok = v.(string); ok {
			b, err := base64.StdEncoding.DecodeString(text)
			out, ok = b, err == nil && (t.kind == "bytes" || len(b) == t.size)
		}
	case "int", "long":
		var n int64
		n, code, rule = t.integer(v)
		if t.kind == "int" {
			return int32(n), code, rule
		}
		return n, code, rule
	case "float", "double":
		out, ok = t.float(v)
	}
	if !ok {
		return nil, schemas.CodeInvalid, "; expected " + t.expected()
	}
	return out, "", ""
}

// expected says what a value of this type looks like.
func (t *node) expected() string {
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
		return "an object with members of " + t.shortName()
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

func (t *node) float(v any) (any, bool) {
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

const outside = ", which is outside 1900-01-01 to 2261-12-31: this cannot be kept"

// integer converts whole numbers, days and instants. The rule is empty for a value that fits.
func (t *node) integer(v any) (n int64, code, rule string) {
	if text, ok := v.(string); ok && t.logical != "" {
		return t.instant(text)
	}
	invalid := "; expected " + t.expected()
	text, ok := v.(json.Number)
	if !ok || t.logical == "date" {
		return 0, schemas.CodeInvalid, invalid
	}
	bits := 64
	if t.kind == "int" {
		bits = 32
	}
	n, err := strconv.ParseInt(string(text), 10, bits)
	if err != nil {
		if strings.Trim(string(text), "-0123456789") == "" {
			return 0, schemas.CodeOutOfRange, invalid
		}
		return 0, schemas.CodeInvalid, invalid
	}
	if units := unitsPerSecond[t.logical]; units != 0 && (n < schemas.EarliestInstant.Unix()*units || n >= schemas.BeyondInstant.Unix()*units) {
		return 0, schemas.CodeOutOfRange, outside
	}
	return n, "", ""
}

func (t *node) instant(text string) (n int64, code, rule string) {
	layouts := []string{time.RFC3339, "2006-01-02T15:04:05"}
	if t.logical == "date" {
		layouts = []string{time.DateOnly}
	}
	for _, layout := range layouts {
		at, err := time.Parse(layout, text)
		if err != nil {
			continue
		}
		if !schemas.InstantFits(at) {
			return 0, schemas.CodeOutOfRange, outside
		}
		if t.logical == "date" {
			return at.Unix() / 86400, "", "" // a midnight: it divides, before 1970 too
		}
		units := unitsPerSecond[t.logical]
		if digits := len(strconv.FormatInt(units, 10)) - 1; fractionDigits(text) > digits {
			return 0, schemas.CodeOutOfRange, fmt.Sprintf(": an instant here has at most %d fraction digits, and nothing is rounded", digits)
		}
		return at.Unix()*units + int64(at.Nanosecond())/(1e9/units), "", ""
	}
	return 0, schemas.CodeInvalid, "; expected " + t.expected()
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

// decimal converts a decimal to Avro's bytes: big-endian two's complement of the value times 10^scale.
func (t *node) decimal(v any) (b any, code, rule string) {
	var text string
	switch v := v.(type) {
	case json.Number:
		text = string(v)
	case string:
		text = v
	}
	if len(text) > 1000 || !decimalForm.MatchString(text) {
		return nil, schemas.CodeInvalid, "; expected " + t.expected()
	}
	var unscaled *big.Int
	d, err := decimal.NewFromString(text) // fails for exponents beyond reason
	fits := err == nil
	if fits {
		unscaled, fits = t.unscaled(d)
	}
	if !fits {
		return nil, schemas.CodeOutOfRange, fmt.Sprintf(", which does not fit: at most %d digits before the point and %d after it, and nothing is rounded",
			t.precision-t.scale, t.scale)
	}
	length := unscaled.BitLen()/8 + 1 // with a bit for the sign
	if unscaled.Sign() < 0 {
		length = new(big.Int).Not(unscaled).BitLen()/8 + 1 // -128 is one byte
	}
	if t.kind == "fixed" {
		if length > t.size {
			return nil, schemas.CodeOutOfRange, fmt.Sprintf(", which does not fit %d bytes", t.size)
		}
		length = t.size
	}
	if unscaled.Sign() < 0 {
		unscaled.Add(unscaled, new(big.Int).Lsh(big.NewInt(1), uint(length)*8))
	}
	return unscaled.FillBytes(make([]byte, length)), "", ""
}

// unscaled is d × 10^scale where that is a whole number of at most precision digits. Exponents are checked before anything is multiplied.
func (t *node) unscaled(d decimal.Decimal) (*big.Int, bool) {
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
func (t *node) nearest(name string) string {
	best, distance := "", math.MaxInt
	var all []string
	for _, f := range t.fields {
		if len(name) <= maxShown { // a longer one is no slip of the pen
			if d := editDistance(strings.ToLower(name), strings.ToLower(f.name)); d < distance {
				best, distance = f.name, d
			}
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
