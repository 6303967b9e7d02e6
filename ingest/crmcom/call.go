package crmcom

import (
	"fmt"
	"strings"

	"github.com/counterfoil/counterfoil/ingest/lenient"
)

// call is what a bulk method was called with, the rows not read yet: who calls is known only from the member token, and that may stand
// behind the rows.
type call struct {
	token    string // "" when absent
	fields   fields // the members that the caller wants of the answer's rows
	rows     string // the array of rows, as sent
	count    int
	currency string // intended_currency_identifier as sent; "" when absent
}

// parseCall reads everything but the rows, and checks that the rest is well-formed. The error is a *failure of the whole call; where the
// call is nil, the body cannot be read at all.
func parseCall(body string, k *kind) (*call, error) {
	var (
		c     = &call{fields: allFields}
		r     = lenient.NewReader(body, lenient.JSON)
		found string // name of the set
		wrong error  // the first reason to refuse the call
	)
	refuse := func(e exception, format string, args ...any) {
		if wrong == nil {
			wrong = &failure{e, fmt.Sprintf(format, args...)}
		}
	}
	if kind := r.Kind(); kind != lenient.Object {
		r.Value()
		if err := r.End(); err != nil {
			return nil, malformed(err)
		}
		return nil, &failure{invalidValue, "The Request Body Is Not a JSON Object."}
	}
	for r.Enter(); r.More(); {
		name := r.Name()
		isSet := name == k.sets[0] || len(k.sets) > 1 && name == k.sets[1]
		switch {
		case isSet && r.Kind() == lenient.Array:
			rows, count := readRows(r)
			switch {
			case found == name:
				refuse(invalidValue, "%s Was Given Twice.", name)
			case found != "":
				refuse(multipleIdentifiers, "Only One of %s Can Be Given.", strings.Join(k.sets, " and "))
			}
			found, c.rows, c.count = name, rows, count
		case isSet:
			if v := r.Value(); v.Kind != lenient.Null {
				refuse(mandatoryValue, "%s Is Not an Array.", name)
			}
		case name == "token":
			if v := r.Value(); v.Kind == lenient.String || v.Kind == lenient.Number {
				c.token = v.Text
			}
		case name == "fields_set":
			c.fields = readFields(r)
		case name == "intended_currency_identifier" && k.currency:
			start := r.Start()
			if v := r.Value(); v.Kind != lenient.Null {
				c.currency = r.Source(start, r.Pos())
			}
		default:
			r.Value()
		}
	}
	if err := r.End(); err != nil {
		return nil, malformed(err)
	}
	if found == "" {
		refuse(mandatoryValue, "%s Is Mandatory.", k.sets[0])
	}
	if c.count > MaxRows {
		refuse(maximumExceeded, "%d Customer Events Were Given, the Maximum Is %d.", c.count, MaxRows)
	}
	return c, wrong
}

func malformed(err error) *failure {
	return &failure{invalidValue, fmt.Sprintf("The Request Body Is Not Valid JSON (%v).", err)}
}

// readRows passes over the array of rows and counts them.
func readRows(r *lenient.Reader) (rows string, count int) {
	start := r.Start()
	for r.Enter(); r.More(); count++ {
		r.Value()
	}
	return r.Source(start, r.Pos()), count
}

// fields are the members of the answer's rows that the caller asked for. request_unique_identifier is always there.
type fields uint8

const (
	fieldID fields = 1 << iota
	fieldNumber
	fieldErrorCode
	fieldErrorDescription

	allFields = fieldID | fieldNumber | fieldErrorCode | fieldErrorDescription
)

var fieldNames = map[string]fields{
	"id":                fieldID,
	"number":            fieldNumber,
	"error_code":        fieldErrorCode,
	"error_description": fieldErrorDescription,
}

// readFields reads fields_set: one comma separated string, or, as a courtesy, an array of strings. Unknown names are ignored; a list
// without any name, and anything else, asks for all.
func readFields(r *lenient.Reader) fields {
	var f fields
	named := false
	add := func(list string) {
		for name := range strings.SplitSeq(list, ",") {
			name = strings.TrimSpace(name)
			f |= fieldNames[name]
			named = named || name != ""
		}
	}
	if r.Kind() != lenient.Array {
		if v := r.Value(); v.Kind == lenient.String {
			add(v.Text)
		}
	} else {
		for r.Enter(); r.More(); {
			if v := r.Value(); v.Kind == lenient.String {
				add(v.Text)
			}
		}
	}
	if !named {
		return allFields
	}
	return f
}
