package helloid

import (
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/counterfoil/counterfoil/ingest"
	"github.com/counterfoil/counterfoil/ingest/lenient"
	"github.com/counterfoil/counterfoil/processors/upserts"
	"github.com/counterfoil/counterfoil/schemas"
)

// Members of a record that clear may name, and that a record may name in general, by our names.
const (
	userName       = "user_name"
	productSKU     = "product_sku"
	timeOfApproval = "time_of_approval"
	source         = "source"
	hasProduct     = "has_product"
	quantity       = "quantity"
	increaseBy     = "increase_quantity_by"
)

// malformed says that a body cannot be read at all.
func malformed(format string, args ...any) error {
	return ingest.NewError(ingest.CodeMalformed, "The request body is malformed: "+fmt.Sprintf(format, args...))
}

var errTooMany = &ingest.Error{Code: ingest.CodeTooLarge, Message: fmt.Sprintf("The request has more than %d records", ingest.MaxItems), Index: -1, Cause: "items"}

// parseSingle reads a body with one record.
func parseSingle(body string) ([]ingest.Item, error) {
	r, err := read(body)
	if err != nil {
		return nil, err
	}
	if k := r.Kind(); k != lenient.Object && k != lenient.Invalid {
		return nil, malformed("one object is expected; lists go to batch/")
	}
	items := []ingest.Item{parseRecord(r)}
	if err := r.End(); err != nil {
		return nil, malformed("%v", err)
	}
	return items, nil
}

// parseBatch reads a body with an array of records.
func parseBatch(body string) ([]ingest.Item, error) {
	r, err := read(body)
	if err != nil {
		return nil, err
	}
	if k := r.Kind(); k != lenient.Array && k != lenient.Invalid {
		return nil, malformed("an array of objects is expected")
	}
	items := []ingest.Item{}
	for r.Enter(); r.More(); {
		if len(items) == ingest.MaxItems {
			return nil, errTooMany
		}
		items = append(items, parseRecord(r))
	}
	if err := r.End(); err != nil {
		return nil, malformed("%v", err)
	}
	return items, nil
}

func read(body string) (*lenient.Reader, error) {
	if !utf8.ValidString(body) {
		return nil, malformed("it is not UTF-8")
	}
	return lenient.NewReader(body, lenient.JSONNet), nil
}

// record is one record while it is read.
type record struct {
	schemas.Ownership
	defects []schemas.Reason
}

// parseRecord reads one element. Names are compared without regard to case, of two members with one name the last one counts, what
// is not known is ignored.
func parseRecord(r *lenient.Reader) ingest.Item {
	start := r.Start()
	if r.Kind() != lenient.Object {
		v := r.Value()
		if r.Err() != nil {
			return ingest.Item{}
		}
		rec := record{}
		rec.defect("", v, "must be an object")
		return ingest.Item{Defects: rec.defects, Original: []byte(r.Source(start, r.Pos())), Format: schemas.FormatJSON}
	}
	var seen [7]lenient.Value // by the places in names: the last value of each
	for r.Enter(); r.More(); {
		name := r.Name()
		value := r.Value()
		for i := range names {
			if strings.EqualFold(name, names[i].json) {
				seen[i] = value
			}
		}
	}
	rec := record{}
	for i := range names {
		if seen[i].Kind != lenient.Invalid {
			names[i].read(&rec, seen[i])
		}
	}
	return rec.item(r.Source(start, r.Pos()), schemas.FormatJSON)
}

// names are the members of a record, in the order of the CSV columns, then Quantity, which CSV does not have.
var names = [...]struct {
	json, csv, field string // spelling in JSON and in the list of columns, and ours
	read             func(rec *record, v lenient.Value)
}{
	{"UserName", "UserName", userName, func(rec *record, v lenient.Value) { rec.UserName = rec.text(userName, v) }},
	{"ProductSKU", "ProductSKU", productSKU, func(rec *record, v lenient.Value) { rec.ProductSKU = rec.text(productSKU, v) }},
	{"TimeOfApproval", "DateOfApproval", timeOfApproval, func(rec *record, v lenient.Value) { rec.TimeOfApproval = rec.date(v) }},
	{"Source", "Source", source, func(rec *record, v lenient.Value) { rec.Source = rec.source(v) }},
	{"HasProduct", "HasProduct", hasProduct, func(rec *record, v lenient.Value) { rec.HasProduct = rec.boolean(v) }},
	{"IncreaseQuantityBy", "IncreaseQuantityBy", increaseBy, func(rec *record, v lenient.Value) { rec.IncreaseQuantityBy = rec.integer(increaseBy, v) }},
	{"Quantity", "", quantity, func(rec *record, v lenient.Value) { rec.Quantity = rec.integer(quantity, v) }},
}

// columns is how many of names a CSV line can have.
const columns = 6

// item finishes a record: all of its defects are found here, because a request is taken whole or not at all.
func (rec *record) item(original, format string) ingest.Item {
	for _, reason := range upserts.Check(&rec.Ownership) {
		if !schemas.Covered(rec.defects, reason) { // what could not be read is not to be called missing as well
			rec.defects = append(rec.defects, reason)
		}
	}
	if len(rec.defects) > 0 {
		return ingest.Item{Defects: rec.defects, Original: []byte(original), Format: format}
	}
	value := rec.Ownership
	return ingest.Item{Value: &value, Format: format}
}

// defect notes what is wrong with a member; the message goes on after the member's name, which depends on the format.
func (rec *record) defect(field string, v lenient.Value, message string) {
	reason := schemas.Reason{Code: schemas.CodeInvalid, Field: field, Message: message}
	if v.Kind != lenient.Invalid && len(v.Text) <= 200 && strings.IndexByte(v.Text, 0) < 0 {
		reason.Value = &v.Text
	}
	rec.defects = append(rec.defects, reason)
}

// text reads a text; numbers and booleans become text, as Json.NET has it.
func (rec *record) text(field string, v lenient.Value) *string {
	switch v.Kind {
	case lenient.Null:
		return nil
	case lenient.Array, lenient.Object:
		rec.defect(field, v, "must be a text")
		return nil
	}
	text := strings.Clone(v.Text) // not to keep the whole body
	return &text
}

// source reads Source: null forgets the stored one.
func (rec *record) source(v lenient.Value) *string {
	if v.Kind == lenient.Null {
		rec.Clear = append(rec.Clear, source)
	}
	return rec.text(source, v)
}

// date reads TimeOfApproval: dd-MM-yyyy, or yyyy-MM-dd as a courtesy. null forgets the stored one, and so does an empty text, which
// Json.NET reads as null where a date belongs.
func (rec *record) date(v lenient.Value) *time.Time {
	if v.Kind == lenient.Null || v.Kind == lenient.String && v.Text == "" {
		rec.Clear = append(rec.Clear, timeOfApproval)
		return nil
	}
	if v.Kind == lenient.String && len(v.Text) == len(dateLayout) {
		for _, layout := range [...]string{dateLayout, time.DateOnly} {
			if t, err := time.Parse(layout, v.Text); err == nil {
				return &t // its range is checked with the rest
			}
		}
	}
	rec.defect(timeOfApproval, v, "must be a date formatted dd-MM-yyyy")
	return nil
}

// dateLayout is the partner's spelling of dates.
const dateLayout = "02-01-2006"

// boolean reads HasProduct: a boolean, its word in quotes, or 1 and 0.
func (rec *record) boolean(v lenient.Value) *bool {
	text := strings.TrimSpace(v.Text)
	var is bool
	switch {
	case v.Kind == lenient.Null || v.Kind == lenient.String && text == "":
		return nil
	case v.Kind == lenient.Array || v.Kind == lenient.Object:
		rec.defect(hasProduct, v, "must be true or false")
		return nil
	case strings.EqualFold(text, "true") || v.Kind == lenient.Number && text == "1":
		is = true
	case strings.EqualFold(text, "false") || v.Kind == lenient.Number && text == "0":
	default:
		rec.defect(hasProduct, v, "must be true or false")
		return nil
	}
	return &is
}

// integer reads a whole number, with or without quotes.
func (rec *record) integer(field string, v lenient.Value) *int64 {
	text := strings.TrimSpace(v.Text)
	if v.Kind == lenient.Null || v.Kind == lenient.String && text == "" {
		return nil
	}
	n, err := strconv.ParseInt(text, 10, 64)
	switch {
	case v.Kind != lenient.Number && v.Kind != lenient.String || err != nil && !errors.Is(err, strconv.ErrRange):
		rec.defect(field, v, "must be a whole number")
		return nil
	case err != nil:
		rec.defect(field, v, "is out of range")
		rec.defects[len(rec.defects)-1].Code = schemas.CodeOutOfRange
		return nil
	}
	return &n
}

// parseCSV reads lines of at most six columns, without a header. Blanks around fields and trailing columns may be left out; an empty field
// is not given.
func parseCSV(body string) ([]ingest.Item, error) {
	if !utf8.ValidString(body) {
		return nil, malformed("it is not UTF-8")
	}
	r, err := ingest.NewCSV([]byte(strings.TrimPrefix(body, "\ufeff")), true)
	if err != nil {
		return nil, malformed("%v", err)
	}
	items := []ingest.Item{}
	for {
		fields, _, err := r.Read()
		if errors.Is(err, io.EOF) {
			return items, nil
		}
		if err != nil {
			return nil, malformed("%v", err)
		}
		if len(fields) == 1 && strings.TrimSpace(fields[0]) == "" {
			continue // a line of blanks
		}
		if len(items) == ingest.MaxItems {
			return nil, errTooMany
		}
		items = append(items, parseLine(fields))
	}
}

func parseLine(fields []string) ingest.Item {
	rec := record{}
	for i, field := range fields {
		field = strings.TrimSpace(field)
		if i < columns && field != "" {
			names[i].read(&rec, lenient.Value{Kind: lenient.String, Text: field})
		}
	}
	if len(fields) > columns {
		rec.defect("", lenient.Value{}, fmt.Sprintf("has %d columns, at most %d are allowed", len(fields), columns))
	}
	return rec.item(strings.Join(fields, ","), schemas.FormatCSV)
}
