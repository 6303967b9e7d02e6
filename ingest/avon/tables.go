package avon

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"mime/multipart"
	"net/url"
	"strings"

	"github.com/counterfoil/counterfoil/ingest"
)

// csv reads a body in CSV, which is the list itself: a line with the members' names, then one line for each transaction.
func (q *request) csv(body string) error {
	r, err := ingest.NewCSV([]byte(body), false)
	if err != nil {
		return &malformed{err.Error()}
	}
	q.beginList()
	header, err := csvLine(r)
	if err != nil {
		return err
	}
	columns := make([]int, len(header)) // place of the member; -1: not known
	known := false
	for i, name := range header {
		columns[i] = placeOf(strings.TrimSpace(name))
		known = known || columns[i] >= 0
	}
	if !known { // another separator or another format: each line would become an empty transaction, or nothing at all
		return &malformed{"the first line names no member of a transaction; names are separated by commas"}
	}
	for {
		line, err := csvLine(r)
		if err != nil || line == nil {
			return err
		}
		if len(line) > len(columns) {
			return &malformed{fmt.Sprintf("line %d has %d fields, the first line has %d", r.Line(), len(line), len(columns))}
		}
		if err := q.beginTransaction(); err != nil {
			return err
		}
		for i, field := range line {
			if place := columns[i]; place >= 0 && field != "" {
				q.set(place, value{text, field})
			}
		}
		q.endTransaction()
	}
}

// csvLine reads a line that is not blank; nil at the end. A field in quotes is one, if an empty one.
func csvLine(r *ingest.CSV) ([]string, error) {
	for {
		line, source, err := r.Read()
		switch {
		case errors.Is(err, io.EOF):
			return nil, nil
		case err != nil:
			return nil, &malformed{err.Error()}
		case len(line) > 1 || len(bytes.TrimSpace(source)) > 0:
			return line, nil
		}
	}
}

// parameters reads the members of a DTO that a form or a URL has: the list, as JSV. Everything else is ignored.
func (q *request) parameters(values url.Values) error {
	q.format = formatJSV
	for _, source := range listsIn(values) {
		s := newJSV(source)
		if err := q.list(s); err != nil {
			return err
		}
		if err := s.End(); err != nil {
			q.fail(list, list, source, err.Error())
		}
	}
	return nil
}

// listsIn are the values of the list that are not empty.
func listsIn(values url.Values) []string {
	var found []string
	for name, all := range values {
		if !strings.EqualFold(name, list) {
			continue
		}
		for _, v := range all {
			if strings.TrimSpace(v) != "" {
				found = append(found, v)
			}
		}
	}
	return found
}

// formValues reads a form, urlencoded or in parts.
func formValues(b body) (url.Values, error) {
	if b.boundary == "" {
		values, err := url.ParseQuery(b.text)
		if err != nil {
			return nil, &malformed{"the form is not well encoded"}
		}
		return values, nil
	}
	values := url.Values{}
	r := multipart.NewReader(strings.NewReader(b.text), b.boundary)
	// The reader takes a form that ends within the headers of a part for a whole one.
	whole := strings.Contains(b.text, "--"+b.boundary+"--")
	for range ingest.MaxItems {
		part, err := r.NextPart()
		if errors.Is(err, io.EOF) && whole {
			return values, nil
		}
		var v bytes.Buffer
		if err == nil {
			_, err = v.ReadFrom(part)
		}
		if err != nil {
			return nil, &malformed{"the form's parts cannot be told apart"}
		}
		values.Add(part.FormName(), v.String())
	}
	return nil, &malformed{"the form has too many parts"}
}
