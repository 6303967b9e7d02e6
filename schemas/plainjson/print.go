package plainjson

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/counterfoil/counterfoil/schemas"
)

// AppendJSON appends a value in the Confluent wire format as plain JSON, members in the schema's order.
func (c *Codec) AppendJSON(dst, value []byte) ([]byte, error) {
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

func (t *node) appendJSON(dst []byte, v any) ([]byte, error) {
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
			dst = append(AppendText(dst, f.name), ':')
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
			dst = append(AppendText(dst, name), ':')
			if dst, err = t.element.appendJSON(dst, members[name]); err != nil {
				return dst, err
			}
		}
		return append(dst, '}'), nil
	}
	return t.appendScalar(dst, v)
}

func (t *node) appendUnion(dst []byte, v any) ([]byte, error) {
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
			dst, err := b.appendJSON(append(AppendText(append(dst, '{'), b.name), ':'), value)
			return append(dst, '}'), err
		}
	}
	return dst, fmt.Errorf("a union holds a branch that it does not have: %v", tagged)
}

func (t *node) appendScalar(dst []byte, v any) ([]byte, error) {
	switch v := v.(type) {
	case bool:
		return strconv.AppendBool(dst, v), nil
	case string:
		if !utf8.ValidString(v) {
			return dst, fmt.Errorf("a string is not UTF-8: %q", v)
		}
		return AppendText(dst, v), nil
	case int32:
		if t.logical == "date" {
			return AppendInstant(dst, time.Unix(int64(v)*86400, 0), time.DateOnly, int64(v)), nil
		}
		return strconv.AppendInt(dst, int64(v), 10), nil
	case int64:
		if units := unitsPerSecond[t.logical]; units != 0 {
			seconds := v / units
			return AppendInstant(dst, time.Unix(seconds, (v-seconds*units)*(1e9/units)), time.RFC3339Nano, v), nil
		}
		return strconv.AppendInt(dst, v, 10), nil
	case float32:
		return appendFloat(dst, float64(v), 32), nil
	case float64:
		return appendFloat(dst, v, 64), nil
	case []byte:
		if t.logical == "decimal" {
			return AppendText(dst, schemas.DecimalFromBytes(v, int32(t.scale)).String()), nil
		}
		return AppendText(dst, base64.StdEncoding.EncodeToString(v)), nil
	}
	return dst, fmt.Errorf("goavro gave a %T for Avro type %s", v, t.kind)
}

// AppendInstant appends an instant or day as a JSON string; one whose year has not four digits as its number.
func AppendInstant(dst []byte, at time.Time, layout string, number int64) []byte {
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

// AppendText appends a JSON string without escaping &, < and >.
func AppendText(dst []byte, s string) []byte {
	if !strings.ContainsFunc(s, func(r rune) bool { return r < ' ' || r == '"' || r == '\\' || r > '~' }) {
		return append(append(append(dst, '"'), s...), '"')
	}
	w := bytes.NewBuffer(dst)
	enc := json.NewEncoder(w)
	enc.SetEscapeHTML(false)
	_ = enc.Encode(s) // a string always encodes, and a Buffer takes everything
	return bytes.TrimSuffix(w.Bytes(), []byte("\n"))
}
