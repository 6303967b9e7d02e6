package v1

import (
	"bytes"
	"encoding/csv"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"strings"
	"unicode/utf8"

	"github.com/counterfoil/counterfoil/ingest"
	"github.com/counterfoil/counterfoil/ingest/lenient"
	"github.com/counterfoil/counterfoil/schemas"
	"github.com/counterfoil/counterfoil/schemas/plainjson"
)

// Media types of bodies.
const (
	mediaJSON   = "application/json"
	mediaNDJSON = "application/x-ndjson"
	mediaCSV    = "text/csv"
)

// parser reads a body of one media type. The errors refuse the request.
type parser func(k *Kind, tenant string, body []byte) ([]ingest.Item, error)

var parsers = map[string]parser{mediaJSON: parseJSON, mediaNDJSON: parseNDJSON, mediaCSV: parseCSV}

// parserOf finds the parser for a Content-Type; nil: there is none. Bodies are UTF-8.
func parserOf(contentType string) parser {
	media, params, err := mime.ParseMediaType(contentType)
	if err != nil {
		return nil
	}
	switch strings.ToLower(params["charset"]) {
	case "", "utf-8", "utf8", "us-ascii":
		return parsers[media]
	}
	return nil
}

// parse reads a body. The errors are *[ingest.Error] and refuse the request.
func (p parser) parse(k *Kind, tenant string, body []byte) ([]ingest.Item, error) {
	if !utf8.Valid(body) {
		return nil, malformed("it is not UTF-8")
	}
	items, err := p(k, tenant, bytes.TrimPrefix(body, []byte("\ufeff")))
	if err != nil {
		return nil, ingest.AsError(err)
	}
	return items, nil
}

func malformed(why string) *ingest.Error {
	return ingest.NewError(ingest.CodeMalformed, "the body cannot be read: "+why)
}

// parseJSON reads an array of items, alone or as the member items of an object.
func parseJSON(k *Kind, tenant string, body []byte) ([]ingest.Item, error) {
	in := lenient.NewReader(string(body), lenient.JSON)
	items := list{kind: k, tenant: tenant, body: body}
	var err error
	switch in.Kind() {
	case lenient.Array:
		err = items.read(in)
	case lenient.Object:
		err = items.readWrapped(in)
	case lenient.Invalid: // End says why, unless there is nothing at all
		if strings.TrimSpace(string(body)) == "" {
			err = malformed("it is empty")
		} else {
			in.Value()
		}
	default:
		err = malformed(`expected an array of items, or {"items":[…]}`)
	}
	if err == nil {
		if syntax := in.End(); syntax != nil {
			err = malformed(syntax.Error())
		}
	}
	return items.items, err
}

// list collects the items of a body.
type list struct {
	kind   *Kind
	tenant string
	body   []byte // of JSON
	items  []ingest.Item
}

func (l *list) readWrapped(in *lenient.Reader) error {
	found := false
	for in.Enter(); in.More(); {
		switch name := in.Name(); {
		case in.Err() != nil:
		case name != "items":
			return malformed(fmt.Sprintf(`it has a member %.60q; expected {"items":[…]} and nothing else`, name))
		case found:
			return malformed("it has items twice")
		case in.Kind() != lenient.Array:
			return malformed("items is no array")
		default:
			found = true
			if err := l.read(in); err != nil {
				return err
			}
		}
	}
	if !found && in.Err() == nil {
		return malformed(`it has no member items; expected an array of items, or {"items":[…]}`)
	}
	return nil
}

func (l *list) read(in *lenient.Reader) error {
	for in.Enter(); in.More(); {
		start := in.Start()
		v, err := l.value(in)
		if in.Err() != nil {
			break
		}
		if err == nil {
			err = l.addJSON(v, l.body[start:in.Pos()])
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// add makes an item of an object; the error is that there are too many.
func (l *list) add(o plainjson.Object, original []byte, format string) error {
	it := ingest.Item{Original: original, Format: format}
	ref, bad := o.TakeRef("ref")
	if ref != nil && len(*ref) > ingest.MaxRefBytes {
		ref, bad = nil, &schemas.Reason{Code: schemas.CodeOutOfRange, Field: "ref", Message: fmt.Sprintf("ref has %d bytes; at most %d are allowed.", len(*ref), ingest.MaxRefBytes)}
	}
	it.Ref = ref
	value, defects, err := l.kind.codec.Append(nil, o)
	if bad != nil {
		defects = append([]schemas.Reason{*bad}, defects...)
	}
	typed := l.kind.value()
	if err == nil {
		if _, data, bad := schemas.SchemaID(value); bad == nil {
			_, err = l.kind.Schema.Avro().Decode(data, typed)
		}
	}
	if err != nil {
		return fmt.Errorf("item %d of kind %s: %w", len(l.items), l.kind.Name, err)
	}
	if len(defects) > 0 || l.kind.record {
		unfit := defects
		for _, reason := range l.kind.check(typed) {
			if !schemas.Covered(unfit, reason) {
				defects = append(defects, reason)
			}
		}
		if more := len(defects) - schemas.MaxReasons; more > 0 {
			defects = defects[:schemas.MaxReasons]
			defects[schemas.MaxReasons-1] = schemas.Reason{Code: schemas.CodeInvalid, Message: fmt.Sprintf("The item has at least %d more defects, which are not listed.", more+1)}
		}
	}
	if it.Defects = defects; len(defects) == 0 {
		it.Value = typed
		it.Key = l.kind.key(l.tenant, typed)
	}
	return l.append(it)
}

// addJSON makes an item of a JSON value.
func (l *list) addJSON(v any, text []byte) error {
	o, ok := v.(plainjson.Object)
	if !ok {
		return l.append(noItem(text, schemas.FormatJSON, "The item is no JSON object."))
	}
	return l.add(o, text, schemas.FormatJSON)
}

// value reads a JSON value. The error is that it has more values than an item could have bytes: as a tree they would fill the memory.
func (l *list) value(in *lenient.Reader) (any, error) {
	t := tree{in: in, left: schemas.MaxItemBytes}
	v := t.value()
	if t.left < 0 {
		return nil, l.tooLarge()
	}
	return v, nil
}

// tooLarge is the error for the item that would be the next.
func (l *list) tooLarge() error {
	return &ingest.Error{
		Code: ingest.CodeTooLarge, Message: fmt.Sprintf("the item has more than %d bytes when encoded", schemas.MaxItemBytes), Index: len(l.items), Cause: "item_size",
	}
}

// tree reads a value with all that is in it; the reader bounds its depth.
type tree struct {
	in   *lenient.Reader
	left int // values that may still be read; beyond them nothing is kept
}

func (t *tree) value() any {
	if t.left--; t.left < 0 {
		t.in.Value()
		return nil
	}
	switch t.in.Kind() {
	case lenient.Object:
		o := plainjson.Object{}
		for t.in.Enter(); t.in.More(); {
			name := t.in.Name()
			if v := t.value(); t.left >= 0 {
				o = append(o, plainjson.Member{Name: name, Value: v})
			}
		}
		return o
	case lenient.Array:
		list := []any{}
		for t.in.Enter(); t.in.More(); {
			if v := t.value(); t.left >= 0 {
				list = append(list, v)
			}
		}
		return list
	}
	switch v := t.in.Value(); v.Kind {
	case lenient.Bool:
		return v.Text == "true"
	case lenient.Number:
		return json.Number(v.Text)
	case lenient.String:
		return v.Text
	default:
		return nil
	}
}

// noItem is an item that has no fields at all.
func noItem(original []byte, format, message string) ingest.Item {
	return ingest.Item{Original: original, Format: format, Defects: []schemas.Reason{{Code: schemas.CodeInvalid, Message: message}}}
}

func (l *list) append(it ingest.Item) error {
	if len(l.items) == ingest.MaxItems {
		return &ingest.Error{Code: ingest.CodeTooLarge, Message: fmt.Sprintf("a request may have %d items, this one has more", ingest.MaxItems), Index: -1, Cause: "items"}
	}
	l.items = append(l.items, it)
	return nil
}

// parseNDJSON reads an item a line.
func parseNDJSON(k *Kind, tenant string, body []byte) ([]ingest.Item, error) {
	items := list{kind: k, tenant: tenant}
	number := 0
	for line := range bytes.Lines(body) {
		number++
		if line = bytes.TrimSpace(line); len(line) == 0 {
			continue
		}
		if ingest.TooDeep(line) {
			return nil, malformed(fmt.Sprintf("line %d is nested deeper than %d levels", number, ingest.MaxDepth))
		}
		in := lenient.NewReader(string(line), lenient.JSON)
		v, err := items.value(in)
		switch syntax := in.End(); {
		case err != nil:
		case syntax != nil:
			err = items.append(noItem(line, schemas.FormatJSON, "The line is not valid JSON: "+syntax.Error()+"."))
		default:
			err = items.addJSON(v, line)
		}
		if err != nil {
			return nil, err
		}
	}
	return items.items, nil
}

// maxRow is how many bytes a row may have: those of the largest item, if all of them are quotes in JSON in a cell.
const maxRow = 4 * schemas.MaxItemBytes

// parseCSV reads an item a row, below a header that names the fields.
func parseCSV(k *Kind, tenant string, body []byte) ([]ingest.Item, error) {
	in, err := ingest.NewCSV(body, false)
	if err != nil {
		return nil, malformed(badCSV(err))
	}
	header, _, err := in.Read()
	switch {
	case errors.Is(err, io.EOF):
		return nil, malformed("it is empty; the first row has the names of the fields")
	case err != nil:
		return nil, malformed(badCSV(err))
	}
	width := len(header)
	columns := k.codec.Columns(header)
	items := list{kind: k, tenant: tenant}
	for {
		row, original, err := in.Read()
		if errors.Is(err, io.EOF) {
			return items.items, nil
		}
		if err != nil {
			return nil, malformed(badCSV(err))
		}
		if len(original) > maxRow {
			return nil, items.tooLarge()
		}
		if len(row) != width {
			err = items.append(noItem(original, schemas.FormatCSV, fmt.Sprintf("The row has %d cells; the header has %d.", len(row), width)))
		} else {
			for cell := range columns.JSON(row) {
				if ingest.TooDeep([]byte(cell)) {
					return nil, malformed(fmt.Sprintf("the JSON in line %d is nested deeper than %d levels", in.Line(), ingest.MaxDepth))
				}
			}
			err = items.add(columns.Object(row), original, schemas.FormatCSV)
		}
		if err != nil {
			return nil, err
		}
	}
}

func badCSV(err error) string {
	var bad *csv.ParseError
	if errors.As(err, &bad) {
		return fmt.Sprintf("line %d, column %d: %v", bad.Line, bad.Column, bad.Err)
	}
	return "it is not CSV"
}
