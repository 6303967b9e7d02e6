package avon

import (
	"strings"

	"github.com/counterfoil/counterfoil/ingest/avon/jsv"
	"github.com/counterfoil/counterfoil/ingest/lenient"
)

// source is a text of objects and arrays, in JSON or JSV. It is walked over as [lenient.Reader] is.
type source interface {
	Kind() kind
	Enter()
	More() bool
	Name() string
	Value() value
	End() error
}

type jsonSource struct{ *lenient.Reader }

func newJSON(body string) source { return jsonSource{lenient.NewReader(body, lenient.ServiceStack)} }

var jsonKinds = [...]kind{
	lenient.Invalid: invalid, lenient.Null: null, lenient.Bool: word, lenient.Number: word, lenient.String: text, lenient.Array: array, lenient.Object: object,
}

func (s jsonSource) Kind() kind { return jsonKinds[s.Reader.Kind()] }

func (s jsonSource) Value() value {
	v := s.Reader.Value()
	return value{jsonKinds[v.Kind], v.Text}
}

type jsvSource struct{ *jsv.Reader }

func newJSV(body string) source { return jsvSource{jsv.NewReader(body)} }

var jsvKinds = [...]kind{jsv.Invalid: invalid, jsv.Empty: null, jsv.Bare: word, jsv.Quoted: text, jsv.List: array, jsv.Object: object}

func (s jsvSource) Kind() kind { return jsvKinds[s.Reader.Kind()] }

func (s jsvSource) Value() value {
	v := s.Reader.Value()
	return value{jsvKinds[v.Kind], v.Text}
}

// isNull reports whether a value in the place of an object or list is none: the word null, which JSV does not know, means no other thing there.
func isNull(v value) bool { return v.kind == null || v.kind == word && v.text == "null" }

// object reads a body that is one DTO. Only in an array of them may it be null.
func (q *request) object(s source) error {
	if s.Kind() == object {
		return ended(s, q.dto(s))
	}
	s.Value()
	if err := ended(s, nil); err != nil {
		return err
	}
	return &malformed{"an object is expected"}
}

// array reads a body that is an array of DTOs.
func (q *request) array(s source) error {
	if s.Kind() != array {
		s.Value()
		if err := ended(s, nil); err != nil {
			return err
		}
		return &malformed{"an array of requests is expected"}
	}
	for s.Enter(); s.More(); {
		q.begin()
		if err := q.dto(s); err != nil {
			return ended(s, err)
		}
		q.end()
	}
	return ended(s, nil)
}

// ended says what is wrong with the text, where nothing else ended the reading.
func ended(s source, err error) error {
	if err != nil {
		return err
	}
	if err := s.End(); err != nil {
		return &malformed{err.Error()}
	}
	return nil
}

// dto reads a request DTO. An error ends the reading.
func (q *request) dto(s source) error {
	if s.Kind() != object {
		if v := s.Value(); !isNull(v) && v.kind != invalid {
			return &malformed{"an object is expected"}
		}
		return nil
	}
	for s.Enter(); s.More(); {
		name := s.Name()
		if !strings.EqualFold(name, list) {
			s.Value() // not of this operation
			continue
		}
		if err := q.list(s); err != nil {
			return err
		}
	}
	return nil
}

// list reads the list of transactions.
func (q *request) list(s source) error {
	if s.Kind() != array {
		if v := s.Value(); !isNull(v) {
			q.fail(list, list, v.text, "")
		}
		return nil
	}
	q.beginList()
	for s.Enter(); s.More(); {
		if err := q.beginTransaction(); err != nil {
			return err
		}
		if s.Kind() == object {
			for s.Enter(); s.More(); {
				place := placeOf(s.Name())
				if v := s.Value(); place >= 0 {
					q.set(place, v)
				}
			}
		} else if v := s.Value(); !isNull(v) {
			q.fail(q.path(), list, v.text, "an object is expected")
		}
		q.endTransaction()
	}
	return nil
}
